//! An independent reading of one run's log that knows the invariants of the design (§11) and nothing of
//! `RunState`: every committed entry passes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::event::{Entry, Event, Output, PauseReason, RunEnd, WaitReason};
use crate::failure::{Failure, FailureClass};
use crate::id::{StepName, Token};
use crate::resource::Resources;
use crate::stage::Wake;
use crate::workflow::{Graph, StepIx, WaitSpec};

/// How often things happened, over all runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Stats(pub(super) BTreeMap<&'static str, u32>);

impl Stats {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    Running,
    Paused,
    Cancelling,
    Ended(RunEnd),
}

#[derive(Debug, Clone)]
pub(super) struct Holding {
    pub(super) attempt: u32,
    pub(super) executor: String,
    pub(super) held: Resources,
    pub(super) started_at: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct StepLedger {
    /// The output that counts, with the visit that made it.
    pub(super) done: Option<(u32, Output)>,
    pub(super) current: Option<Holding>,
    pub(super) waiting: Option<(Wake, WaitReason)>,
    failed: Option<Failure>,
    /// The visit of the last start.
    pub(super) visit: u32,
    /// No start may be of an earlier visit.
    least_visit: u32,
    last_attempt: u32,
    /// The fence of every attempt that ever started.
    pub(super) started: BTreeMap<u32, Token>,
    waited: bool,
    charged: u32,
    failures: u32,
    successes: BTreeSet<u32>,
    /// Attempts of each visit that ended otherwise than by being lost.
    pub(super) ended: BTreeMap<u32, u32>,
    /// What those were.
    pub(super) history: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Ledger {
    pub(super) graph: Arc<Graph>,
    pub(super) phase: Phase,
    pub(super) steps: Vec<StepLedger>,
    pub(super) discarding: BTreeMap<(StepName, u32), Holding>,
    signals: BTreeSet<String>,
    taken: Vec<u32>,
    pub(super) rewound: u32,
    seq: u64,
    pub(super) stats: Stats,
}

macro_rules! demand {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

impl Ledger {
    pub(super) fn new(graph: Arc<Graph>) -> Self {
        let steps = graph
            .steps()
            .map(|_| StepLedger {
                least_visit: 1,
                ..StepLedger::default()
            })
            .collect();
        let taken = vec![0; graph.data().rewinds.len()];
        Self {
            graph,
            phase: Phase::Running,
            steps,
            discarding: BTreeMap::new(),
            signals: BTreeSet::new(),
            taken,
            rewound: 0,
            seq: 0,
            stats: Stats::default(),
        }
    }

    pub(super) fn find(&self, step: &StepName) -> StepIx {
        self.graph.find(step).unwrap()
    }

    /// What is held now, by executor, with the number of attempts.
    pub(super) fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.steps
            .iter()
            .filter_map(|step| step.current.as_ref())
            .chain(self.discarding.values())
    }

    pub(super) fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        demand!(
            entry.seq == self.seq + 1,
            "entry {} follows {}",
            entry.seq,
            self.seq
        );
        demand!(!entry.events.is_empty(), "entry {} is empty", entry.seq);
        self.seq = entry.seq;
        for event in &entry.events {
            self.event(event, entry.at)
                .map_err(|why| format!("entry {}, {event:?}: {why}", entry.seq))?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, at: u64) -> Result<(), String> {
        demand!(!matches!(self.phase, Phase::Ended(_)), "the run has ended");
        match event {
            Event::RunStarted { .. } => demand!(self.seq == 1, "a second start"),
            Event::AttemptStarted {
                step,
                visit,
                attempt,
                token,
                executor,
                held,
            } => {
                self.started(step, *visit, *attempt)?;
                let ix = self.find(step);
                let holding = Holding {
                    attempt: *attempt,
                    executor: executor.clone(),
                    held: *held,
                    started_at: at,
                };
                self.steps[ix.get()].started.insert(*attempt, token.clone());
                self.steps[ix.get()].current = Some(holding);
            }
            Event::AttemptSucceeded {
                step,
                attempt,
                output,
                ..
            } => {
                let (ix, _) = self.end(step, *attempt)?;
                let text = serde_json::to_string(output).unwrap();
                // While a run is cancelled its attempts are asked to stop, but are still the current ones:
                // one that ends its work all the same has done it.
                let stopped = self.phase == Phase::Cancelling && text.contains("\"poison\"");
                demand!(
                    stopped || !text.contains("poison"),
                    "the success of a superseded or forged attempt counts"
                );
                if matches!(output, Output::Payload { .. }) {
                    self.stats.count("payload");
                }
                let state = &mut self.steps[ix.get()];
                demand!(
                    state.successes.insert(state.visit),
                    "visit {} succeeds twice",
                    state.visit
                );
                state.done = Some((state.visit, output.clone()));
                state.history.push(format!("{}:done", state.visit));
            }
            Event::AttemptFailed {
                step,
                attempt,
                failure,
                charged,
                still_running,
                ..
            } => {
                let (ix, holding) = self.end(step, *attempt)?;
                let late = at.saturating_sub(holding.started_at);
                let timeout = &self.graph.step(ix).timeout;
                match failure.code.as_ref() {
                    "ran_too_long" => {
                        self.stats.count("ran too long");
                        demand!(late >= timeout.run_ms.unwrap(), "given up after {late} ms");
                    }
                    "silent_too_long" => {
                        self.stats.count("silent too long");
                        demand!(late >= timeout.silence_ms.unwrap(), "given up after {late} ms");
                    }
                    _ => demand!(!still_running, "given up without a limit"),
                }
                if *still_running {
                    self.discarding.insert((step.clone(), *attempt), holding);
                }
                let cancelling = self.phase == Phase::Cancelling;
                let critical = failure.class == FailureClass::Critical;
                demand!(*charged != critical || cancelling, "charged: {charged}");
                if critical {
                    self.stats.count("critical");
                }
                let state = &mut self.steps[ix.get()];
                state.charged += u32::from(*charged);
                state.failures += 1;
                state.failed = Some(failure.clone());
                *state.ended.entry(state.visit).or_default() += 1;
                state.history.push(format!("{}:{}", state.visit, failure.code));
            }
            Event::AttemptLost { step, attempt, .. } => {
                self.end(step, *attempt)?;
                self.stats.count("lost");
            }
            Event::StepGivenUp { .. } | Event::RunClosing => {
                return Err("no step here handles failures or ends".to_owned());
            }
            Event::AttemptPreempted { .. } => return Err("no executor here can stop attempts".to_owned()),
            Event::AttemptReleased { step, attempt } => {
                demand!(
                    self.discarding.remove(&(step.clone(), *attempt)).is_some(),
                    "nothing to release"
                );
                self.stats.count("released");
            }
            Event::StepWaiting {
                step,
                wake,
                reason,
                attempt,
            } => self.waits(step, wake, *reason, *attempt, at)?,
            Event::StepWoken { step } => {
                let ix = self.find(step);
                let Some((wake, reason)) = self.steps[ix.get()].waiting.take() else {
                    return Err("it did not wait".to_owned());
                };
                match &wake {
                    Wake::At(due) => demand!(at >= *due, "woken {} ms early", due - at),
                    Wake::Signal(name) => demand!(self.signals.contains(name), "no such signal came"),
                    Wake::Approval(_) => return Err("woken without an approval".to_owned()),
                }
                self.steps[ix.get()].waited |= reason == WaitReason::Declared;
            }
            Event::StepPassed { step } => {
                let ix = self.find(step);
                self.may_begin(ix)?;
                demand!(
                    self.phase == Phase::Running,
                    "a step passes while the run is {:?}",
                    self.phase
                );
                demand!(self.graph.step(ix).stage.is_none(), "a step with a stage passes");
                let state = &mut self.steps[ix.get()];
                state.visit = state.visit.max(state.least_visit);
                state.done = Some((state.visit, Output::Inline(serde_json::json!({}))));
                self.stats.count("passed");
            }
            Event::Rewound { on, from, to } => self.rewinds(on, from, to)?,
            Event::SignalReceived { name, .. } => {
                self.signals.insert(name.clone());
            }
            Event::RunPaused { reason } => {
                demand!(self.phase == Phase::Running, "paused while {:?}", self.phase);
                self.phase = Phase::Paused;
                self.pauses(reason)?;
            }
            Event::RunResumed { .. } => {
                demand!(self.phase == Phase::Paused, "resumed while {:?}", self.phase);
                self.phase = Phase::Running;
                self.stats.count("resumed");
            }
            Event::StepRetried { step, .. } => {
                let ix = self.find(step);
                let backs_off = matches!(self.steps[ix.get()].waiting, Some((_, WaitReason::Backoff)));
                let state = &mut self.steps[ix.get()];
                demand!(
                    state.failed.is_some() || backs_off,
                    "neither failed nor backing off"
                );
                (state.charged, state.failures, state.failed, state.waiting) = (0, 0, None, None);
                for (edge, taken) in self.graph.data().rewinds.iter().zip(&mut self.taken) {
                    if edge.from == ix {
                        *taken = 0;
                    }
                }
                self.stats.count("retried");
            }
            Event::StepRedone { step, .. } => {
                let ix = self.find(step);
                demand!(self.steps[ix.get()].done.is_some(), "redone before it was done");
                self.again(ix);
                self.rewound += 1;
                self.stats.count("redone");
            }
            Event::StepJudged { .. }
            | Event::ItemsListed { .. }
            | Event::StepExpired { .. }
            | Event::StepSkipped { .. }
            | Event::StepOverridden { .. }
            | Event::StepAdopted { .. }
            | Event::StepApproved { .. } => return Err("no such thing is in the plan".to_owned()),
            Event::RunPrioritized { .. } => {}
            Event::CancelRequested { .. } => {
                demand!(self.phase != Phase::Cancelling, "cancelled twice");
                self.phase = Phase::Cancelling;
                self.stats.count("cancelled");
            }
            Event::RunFinished { end } => {
                demand!(
                    self.holdings().next().is_none(),
                    "an attempt still holds something"
                );
                match end {
                    RunEnd::Succeeded => {
                        demand!(self.phase == Phase::Running, "succeeds while {:?}", self.phase);
                        demand!(
                            self.steps.iter().all(|step| step.done.is_some()),
                            "a step is undone"
                        );
                    }
                    RunEnd::Cancelled => demand!(self.phase == Phase::Cancelling, "cancelled unasked"),
                }
                self.phase = Phase::Ended(*end);
            }
        }
        Ok(())
    }

    /// Whether what comes before the work of a step is behind it.
    fn may_begin(&self, ix: StepIx) -> Result<(), String> {
        let spec = self.graph.step(ix);
        let state = &self.steps[ix.get()];
        for need in &spec.needs {
            demand!(
                self.steps[need.get()].done.is_some(),
                "step {} that it needs has not succeeded",
                need.0
            );
        }
        demand!(state.done.is_none(), "it has succeeded already");
        demand!(state.current.is_none(), "it runs already");
        demand!(state.waiting.is_none(), "it waits");
        demand!(
            state.failed.is_none(),
            "it has failed and nobody asked for another attempt"
        );
        demand!(
            spec.wait.is_none() || state.waited,
            "its declared wait is not over"
        );
        Ok(())
    }

    fn started(&mut self, step: &StepName, visit: u32, attempt: u32) -> Result<(), String> {
        let ix = self.find(step);
        demand!(
            self.phase == Phase::Running,
            "starts while the run is {:?}",
            self.phase
        );
        self.may_begin(ix)?;
        demand!(
            self.discarding.is_empty(),
            "starts beside an attempt that was given up"
        );
        let state = &mut self.steps[ix.get()];
        demand!(
            attempt == state.last_attempt + 1,
            "attempt {attempt} follows {}",
            state.last_attempt
        );
        demand!(
            visit == state.least_visit,
            "visit {visit} instead of {}",
            state.least_visit
        );
        state.last_attempt = attempt;
        state.visit = visit;
        Ok(())
    }

    fn end(&mut self, step: &StepName, attempt: u32) -> Result<(StepIx, Holding), String> {
        let ix = self.find(step);
        match self.steps[ix.get()].current.take() {
            Some(holding) if holding.attempt == attempt => Ok((ix, holding)),
            other => Err(format!("the current attempt is {other:?}")),
        }
    }

    fn waits(
        &mut self,
        step: &StepName,
        wake: &Wake,
        reason: WaitReason,
        attempt: Option<u32>,
        at: u64,
    ) -> Result<(), String> {
        let ix = self.find(step);
        let spec = self.graph.clone();
        let spec = spec.step(ix);
        match reason {
            WaitReason::Declared => {
                self.may_begin(ix).or_else(|why| {
                    if why.contains("declared") {
                        Ok(())
                    } else {
                        Err(why)
                    }
                })?;
                demand!(!self.steps[ix.get()].waited, "it has waited");
                match (spec.wait.as_ref().unwrap(), wake) {
                    (WaitSpec::For(ms), Wake::At(due)) => demand!(at + ms == *due, "waits until {due}"),
                    (WaitSpec::Signal(name), Wake::Signal(other)) => {
                        demand!(name == other, "waits for {other}")
                    }
                    _ => return Err("another kind of wait than declared".to_owned()),
                }
                self.stats.count(if matches!(wake, Wake::At(_)) {
                    "wait for"
                } else {
                    "wait signal"
                });
            }
            WaitReason::Parked => {
                self.end(step, attempt.unwrap())?;
                let state = &mut self.steps[ix.get()];
                *state.ended.entry(state.visit).or_default() += 1;
                state.history.push(format!("{}:parked", state.visit));
                self.stats.count(if matches!(wake, Wake::At(_)) {
                    "park for"
                } else {
                    "park signal"
                });
            }
            WaitReason::Backoff => {
                let state = &mut self.steps[ix.get()];
                let failure = state.failed.take().ok_or("it has not failed")?;
                demand!(
                    spec.retry.on.contains(&failure.class),
                    "a {:?} failure is retried",
                    failure.class
                );
                demand!(
                    state.charged < spec.retry.max_attempts,
                    "retried after {} charged attempts",
                    state.charged
                );
                let least = u64::try_from(spec.retry.backoff(state.failures).as_millis()).unwrap();
                let Wake::At(due) = wake else {
                    return Err("backs off until a signal".to_owned());
                };
                demand!(*due >= at + least, "backs off {} ms instead of {least}", due - at);
                self.stats.count("backoff");
            }
        }
        self.steps[ix.get()].waiting = Some((wake.clone(), reason));
        Ok(())
    }

    fn rewinds(&mut self, on: &str, from: &StepName, to: &StepName) -> Result<(), String> {
        let (from, to) = (self.find(from), self.find(to));
        let failure = self.steps[from.get()].failed.clone().ok_or("it has not failed")?;
        demand!(
            failure.class == FailureClass::Rewind && failure.code == on,
            "it failed with {failure}"
        );
        let edges = &self.graph.data().rewinds;
        let edge = edges
            .iter()
            .position(|edge| edge.on == on && edge.from == from && edge.to == to);
        let edge = edge.ok_or("no such edge")?;
        self.taken[edge] += 1;
        demand!(
            self.taken[edge] <= edges[edge].max,
            "taken {} times",
            self.taken[edge]
        );
        self.again(to);
        self.rewound += 1;
        self.stats.count("rewound");
        Ok(())
    }

    /// Another visit of the steps from `to` on, found by their needs.
    fn again(&mut self, to: StepIx) {
        let mut again = BTreeSet::from([to]);
        for (ix, spec) in self.graph.steps() {
            if spec.needs.iter().any(|need| again.contains(need)) {
                again.insert(ix);
            }
        }
        // A step whose needs were met has begun its visit.
        let begun = |ix: &StepIx| {
            self.graph
                .step(*ix)
                .needs
                .iter()
                .all(|need| self.steps[need.get()].done.is_some())
        };
        let begun: BTreeSet<StepIx> = again.iter().copied().filter(begun).collect();
        for ix in again {
            let name = self.graph.step(ix).name.clone();
            let state = &mut self.steps[ix.get()];
            if let Some(holding) = state.current.take() {
                self.discarding.insert((name, holding.attempt), holding);
                self.stats.count("superseded by rewind");
            }
            state.least_visit += u32::from(begun.contains(&ix));
            if let Some(WaitSpec::Signal(signal)) = &self.graph.step(ix).wait {
                self.signals.remove(signal);
            }
            (state.done, state.waiting, state.failed) = (None, None, None);
            (state.charged, state.failures, state.waited) = (0, 0, false);
        }
    }

    fn pauses(&mut self, reason: &PauseReason) -> Result<(), String> {
        let failed = |step: &StepName| self.steps[self.find(step).get()].failed.is_some();
        match reason {
            PauseReason::Expression { .. } => return Err("the plan has no expressions".to_owned()),
            PauseReason::Operator(_) => self.stats.count("paused by operator"),
            PauseReason::Failed { step, failure } => {
                demand!(failed(step), "paused for a step that has not failed");
                let spec = self.graph.step(self.find(step));
                demand!(
                    !spec.retry.on.contains(&failure.class),
                    "a failure that is retried pauses the run"
                );
                self.stats.count("paused by failure");
            }
            PauseReason::RetriesUsedUp { step, attempts, .. } => {
                demand!(failed(step), "paused for a step that has not failed");
                let ix = self.find(step);
                let (charged, most) = (
                    self.steps[ix.get()].charged,
                    self.graph.step(ix).retry.max_attempts,
                );
                demand!(
                    charged == *attempts && charged == most,
                    "{charged} of {most} attempts are charged"
                );
                self.stats.count("paused by retries");
            }
            PauseReason::RewindsUsedUp { step, taken, failure } => {
                demand!(failed(step), "paused for a step that has not failed");
                let ix = self.find(step);
                let edges = self.graph.data().rewinds.iter().zip(&self.taken);
                let mut edges = edges.filter(|(edge, _)| edge.from == ix && edge.on == failure.code);
                let fits = edges.any(|(edge, count)| *count == *taken && *count == edge.max);
                demand!(fits, "the way back was not taken {taken} times");
                self.stats.count("paused by rewinds");
            }
        }
        Ok(())
    }
}
