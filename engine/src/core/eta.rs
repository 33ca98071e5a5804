//! How long a run will still take, from how long its work took before: the longest way through what is not
//! done, drawn many times from past durations. It is an estimate, and where there is no ground for one it
//! says so. What it leaves out: waiting for room on an executor, failures, and conditions that will not hold
//! (a step that may be skipped counts as if it were done).

use serde::{Deserialize, Serialize};

use super::*;
use crate::durations::{class_of_run, own_work_of, work_of};

/// How long a run will still take.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Eta {
    /// An *estimate* of the seconds left: half of the draws take longer. Nothing if it is not known.
    pub p50: Option<f64>,
    /// The same: a tenth of the draws takes longer.
    pub p90: Option<f64>,
    /// Why it is not known.
    pub unknown: Vec<String>,
    /// The steps that most of it depends on, in their order.
    pub path: Vec<StepName>,
}

/// How long the present attempt of a step takes in all, as half of the earlier ones did.
pub type Expected = (StepName, f64);

/// How often the run's future is drawn.
const DRAWS: usize = 200;
/// Items that are drawn one by one; of more the mean is taken.
const ITEMS: usize = 256;

/// What is left of a step.
enum Left {
    /// Nothing.
    Done,
    /// It cannot be told.
    Unknown(String),
    /// A time that is known, and then one draw.
    One { wait: f64, samples: Vec<f64> },
    /// Items, some at a time: what is left of those that run, and how many are to come.
    Many {
        running: Vec<Vec<f64>>,
        more: usize,
        lanes: usize,
        samples: Vec<f64>,
    },
}

/// The class of a run's work, for steps whose stage does not say. It is looked for more and more seldom
/// while nobody says anything, so that a step costs the same in runs of any length.
#[derive(Debug, Default)]
pub(super) struct RunClass {
    text: String,
    /// The entry from which on it is looked for again.
    again: u64,
}

impl RunClass {
    fn of(&mut self, registry: &StageRegistry, state: &RunState) -> String {
        if self.text.is_empty() && state.seq >= self.again {
            self.text = class_of_run(registry, state);
            self.again = state.seq.saturating_mul(2).max(1);
        }
        self.text.clone()
    }
}

impl Core {
    /// Learns how long an attempt took that succeeded.
    pub(super) fn learn(&mut self, run: &RunId, ix: StepIx, executor: &str, seconds: f64) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        let Some(mut work) = own_work_of(&self.registry, &live.state, ix, executor) else {
            return;
        };
        if work.class.is_empty() {
            work.class = live.class.of(&self.registry, &live.state);
        }
        self.durations.learn(work, seconds);
    }

    /// How long work took so far.
    pub fn durations(&self) -> &Durations {
        &self.durations
    }

    /// Adds durations that were learned before.
    pub fn learn_older(&mut self, older: Durations) {
        self.durations.learn_older(older);
    }

    /// How long an open run will still take, and how long its running attempts take in all.
    pub fn eta(&self, run: &RunId, now: Now) -> (Option<Eta>, Vec<Expected>) {
        let Some(live) = self.runs.get(run) else {
            return (None, Vec::new());
        };
        let state = &live.state;
        let mut left = Vec::new();
        let mut expected = Vec::new();
        for (ix, _) in state.graph.steps() {
            left.push(self.left(state, ix, now));
        }
        for (ix, step) in state.steps().filter(|(_, step)| step.current.is_some()) {
            let mut samples = self.samples(state, ix, step.current.as_ref());
            samples.sort_by(f64::total_cmp);
            if let Some(median) = quantile(&samples, 50) {
                expected.push((state.name(ix), median));
            }
        }
        (Some(estimate(state, &left)), expected)
    }

    /// How long the work of a step took before: where it runs, or else wherever it may run.
    fn samples(&self, state: &RunState, ix: StepIx, current: Option<&Current>) -> Vec<f64> {
        let Some(stage) = &state.spec(ix).stage else {
            return Vec::new();
        };
        let places = self.places.iter().filter(|place| match current {
            Some(current) => current.executor == place.spec.name,
            None => place.spec.accepts(&stage.name),
        });
        let works = places.filter_map(|place| work_of(&self.registry, state, ix, &place.spec.name));
        works
            .flat_map(|work| self.durations.of(&work).collect::<Vec<_>>())
            .collect()
    }

    fn left(&self, state: &RunState, ix: StepIx, now: Now) -> Left {
        let (step, spec, name) = (state.step(ix), state.spec(ix), state.name(ix));
        let mut wait = 0.0;
        match (step.status, &step.wake) {
            (StepStatus::Succeeded | StepStatus::Skipped | StepStatus::Cancelled, _) => return Left::Done,
            (StepStatus::Failed, _) => return Left::Unknown(format!("`{name}` failed")),
            (StepStatus::Waiting, Some((Wake::At(at), _))) => wait = seconds(at.saturating_sub(now.wall_ms)),
            (StepStatus::Waiting, Some((Wake::Signal(signal), _))) => {
                return Left::Unknown(format!("`{name}` waits for the signal `{signal}`"));
            }
            (StepStatus::Waiting, _) => return Left::Unknown(format!("`{name}` waits for somebody")),
            (StepStatus::Running, _) if step.items.is_none() => {
                return match self.rest(state, ix, now) {
                    Ok(samples) => Left::One { wait, samples },
                    Err(why) => Left::Unknown(why),
                };
            }
            _ => {}
        }
        if state.must_wait(ix) && step.status != StepStatus::Waiting {
            match &spec.wait {
                Some(WaitSpec::For(ms)) => wait = seconds(*ms),
                Some(WaitSpec::Signal(signal)) => {
                    return Left::Unknown(format!("`{name}` will wait for the signal `{signal}`"));
                }
                Some(WaitSpec::Approval(_)) => {
                    return Left::Unknown(format!("a person must approve `{name}`"));
                }
                None => {}
            }
        }
        if spec.stage.is_none() {
            let samples = vec![0.0];
            return Left::One { wait, samples };
        }
        if spec.foreach.is_some() && step.items.is_none() {
            return Left::Unknown(format!("how many items `{name}` has is not known yet"));
        }
        let samples = self.samples(state, ix, None);
        if samples.is_empty() {
            return Left::Unknown(format!("`{name}` was not done before with work of this kind"));
        }
        match &spec.foreach {
            Some(foreach) => self.items_left(state, ix, foreach.max_parallel, samples, now),
            None => Left::One { wait, samples },
        }
    }

    /// What is left of an attempt that runs: what was left of those before it that ran for at least as long.
    fn rest(&self, state: &RunState, ix: StepIx, now: Now) -> Result<Vec<f64>, String> {
        let current = state.step(ix).current.as_ref();
        let all = self.samples(state, ix, current);
        let elapsed = seconds(
            now.wall_ms
                .saturating_sub(current.map_or(now.wall_ms, |one| one.started_at)),
        );
        let name = state.name(ix);
        if all.is_empty() {
            return Err(format!("`{name}` was not done before with work of this kind"));
        }
        let longer = all.iter().filter(|one| **one >= elapsed);
        let rest: Vec<f64> = longer.map(|one| one - elapsed).collect();
        if rest.is_empty() {
            let times = all.len();
            return Err(format!(
                "`{name}` takes longer than each of the {times} times before"
            ));
        }
        Ok(rest)
    }

    fn items_left(&self, state: &RunState, ix: StepIx, lanes: u32, samples: Vec<f64>, now: Now) -> Left {
        let left = state
            .step(ix)
            .items
            .as_ref()
            .map_or(0, |items| items.left as usize);
        let mut running = Vec::new();
        for item in state.items(ix).iter().copied() {
            match state.step(item).status {
                StepStatus::Running => match self.rest(state, item, now) {
                    Ok(rest) => running.push(rest),
                    Err(why) => return Left::Unknown(why),
                },
                StepStatus::Failed => return Left::Unknown(format!("`{}` failed", state.name(item))),
                _ => {}
            }
        }
        Left::Many {
            more: left.saturating_sub(running.len()),
            lanes: lanes.max(1) as usize,
            running,
            samples,
        }
    }
}

/// Draws the run's future.
fn estimate(state: &RunState, left: &[Left]) -> Eta {
    let mut unknown: Vec<String> = left
        .iter()
        .filter_map(|one| match one {
            Left::Unknown(why) => Some(why.clone()),
            _ => None,
        })
        .collect();
    match state.status {
        RunStatus::Paused => unknown.insert(0, "the run is paused".to_owned()),
        RunStatus::Cancelling => unknown.insert(0, "the run is being cancelled".to_owned()),
        _ => {}
    }
    if !unknown.is_empty() {
        return Eta {
            unknown,
            ..Eta::default()
        };
    }
    // The same history gives the same estimate.
    let mut dice = Dice(0x5ea1_f10a);
    let mut totals = Vec::with_capacity(DRAWS);
    let mut on_path = vec![0_usize; left.len()];
    for _ in 0..DRAWS {
        let mut ends = vec![0.0_f64; left.len()];
        let mut after: Vec<Option<usize>> = vec![None; left.len()];
        for (ix, spec) in state.graph.steps() {
            let needs = spec.needs.iter().map(|need| need.get());
            let last = needs.max_by(|a, b| ends[*a].total_cmp(&ends[*b]));
            after[ix.get()] = last;
            ends[ix.get()] = last.map_or(0.0, |last| ends[last]) + draw(&left[ix.get()], &mut dice);
        }
        let last = (0..ends.len()).max_by(|a, b| ends[*a].total_cmp(&ends[*b]));
        totals.push(last.map_or(0.0, |last| ends[last]));
        let mut at = last;
        while let Some(step) = at {
            on_path[step] += 1;
            at = after[step];
        }
    }
    totals.sort_by(f64::total_cmp);
    let steps = state.graph.steps();
    let path = steps.filter(|(ix, _)| on_path[ix.get()] * 2 > DRAWS && !matches!(left[ix.get()], Left::Done));
    Eta {
        p50: quantile(&totals, 50),
        p90: quantile(&totals, 90),
        unknown,
        path: path.map(|(_, spec)| spec.name.clone()).collect(),
    }
}

/// One future of a step.
fn draw(left: &Left, dice: &mut Dice) -> f64 {
    match left {
        Left::Done | Left::Unknown(_) => 0.0,
        Left::One { wait, samples } => wait + dice.pick(samples),
        Left::Many {
            running,
            more,
            lanes,
            samples,
        } => {
            let mut busy: Vec<f64> = running.iter().map(|rest| dice.pick(rest)).collect();
            busy.resize(busy.len().max(*lanes), 0.0);
            if *more > ITEMS {
                #[expect(clippy::cast_precision_loss, reason = "at most 10,000 items")]
                let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
                #[expect(clippy::cast_precision_loss, reason = "at most 10,000 items")]
                let rounds = *more as f64 / busy.len() as f64;
                return busy.iter().copied().fold(0.0, f64::max) + mean * rounds;
            }
            for _ in 0..*more {
                let first = (0..busy.len()).min_by(|a, b| busy[*a].total_cmp(&busy[*b]));
                if let Some(first) = first {
                    busy[first] += dice.pick(samples);
                }
            }
            busy.into_iter().fold(0.0, f64::max)
        }
    }
}

/// Numbers that look random (SplitMix64); nothing secret hangs on them.
struct Dice(u64);

impl Dice {
    fn pick(&mut self, samples: &[f64]) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^= n >> 31;
        let at = usize::try_from(n % samples.len().max(1) as u64).unwrap_or_default();
        samples.get(at).copied().unwrap_or_default()
    }
}

/// The value that so many hundredths of sorted ones do not exceed.
pub(super) fn quantile(sorted: &[f64], percent: usize) -> Option<f64> {
    let at = (sorted.len() * percent).div_ceil(100);
    sorted.get(at.saturating_sub(1)).copied()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds are far below 2^52")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
