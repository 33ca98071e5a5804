//! Who may wait, and for how long: the time at which a ready step must have started for everything behind it
//! that expires to be done in time, by what that took before. Of equal priority, who must start first goes
//! first. A step that nothing behind expires may wait for ever.

use super::eta::quantile;
use super::*;
use crate::durations::{class_of_run, own_work_of};

/// How deep runs work for each other, and one more.
const DEEP: u32 = 9;

/// When a ready step must start. It is worked out once, when the step becomes ready: a turn in a queue must not
/// change while work is learned about.
#[derive(Debug)]
pub(super) struct Latest {
    /// Which readiness of the step it is about: its visit, since when, and its own expiry.
    of: (u32, u64, Option<u64>),
    pub(super) start: Option<Start>,
}

/// By when, for which step's sake, and how long it is expected to take until that one is done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start {
    /// Milliseconds since 1970; 0 if it is too late by any measure.
    pub(super) by: u64,
    /// How much work is expected, in milliseconds.
    pub(super) expected: u64,
    /// The step that expires, and its run if that is another one.
    pub(super) sake: String,
}

impl Core {
    /// Works out when a ready step must start, if that is not known yet.
    pub(super) fn look_ahead(&mut self, run: &RunId, ix: StepIx) {
        let Some(live) = self.runs.get(run) else { return };
        let state = &live.state;
        if state.graph.deadlines().is_empty() && state.parent.is_none() && state.members.is_empty() {
            return;
        }
        let step = state.step(ix);
        let of = (step.visit, step.since, step.valid_until);
        if live.latest.get(&ix).is_some_and(|known| known.of == of) {
            return;
        }
        let start = self.must_start(run, ix, DEEP);
        if let Some(live) = self.runs.get_mut(run) {
            live.latest.insert(ix, Latest { of, start });
        }
    }

    /// When a step must start at the latest. Costs the number of steps behind it.
    fn must_start(&self, run: &RunId, ix: StepIx, deep: u32) -> Option<Start> {
        let state = &self.runs.get(run)?.state;
        let graph = &state.graph;
        let first = state.base(ix);
        let class = class_of_run(&self.registry, state);
        // How long it takes from the start of `first` until each step behind it is done.
        let mut takes: Vec<Option<u64>> = vec![None; graph.len()];
        let mut all = 0;
        let mut latest: Option<Start> = None;
        for (at, spec) in graph.steps().skip(first.get()) {
            let before = spec.needs.iter().filter_map(|need| takes[need.get()]).max();
            let before = if at == first { Some(0) } else { before };
            let Some(before) = before else { continue };
            let expected = before.saturating_add(self.expected(state, at, &class));
            takes[at.get()] = Some(expected);
            all = all.max(expected);
            let Some(until) = state.expires(at) else { continue };
            let slack = match &spec.batch {
                Some(batch) if at != first => batch.slack_ms,
                _ => 0,
            };
            let start = Start {
                by: until.saturating_sub(slack).saturating_sub(expected),
                expected,
                sake: format!("`{}`", spec.name),
            };
            latest = latest.into_iter().chain([start]).min();
        }
        let served = state.parent.iter().chain(&state.members);
        let served = served.filter(|_| deep > 0);
        // Whose work this run does must be done when they must be.
        let outer = served.filter_map(|served| {
            let other = &self.runs.get(&served.key.run)?.state;
            let ix = other.find(&served.key.step)?;
            let start = self.must_start(&served.key.run, ix, deep - 1)?;
            let class = class_of_run(&self.registry, other);
            let own = self.expected(other, other.base(ix), &class);
            Some(Start {
                by: start.by.saturating_add(own).saturating_sub(all),
                expected: start.expected.saturating_sub(own).saturating_add(all),
                sake: format!("{} of {}", start.sake, served.key.run),
            })
        });
        latest.into_iter().chain(outer).min()
    }

    /// How long a step is expected to take from its turn to its end, in milliseconds: half of its past durations
    /// were longer. What was never measured counts as nothing.
    fn expected(&self, state: &RunState, ix: StepIx, class: &str) -> u64 {
        let (step, spec) = (state.step(ix), state.spec(ix));
        if step.is_through() {
            return 0;
        }
        let wait = match &spec.wait {
            Some(WaitSpec::For(ms)) if state.must_wait(ix) => *ms,
            _ => 0,
        };
        let Some(stage) = &spec.stage else { return wait };
        let places = self.places.iter().filter(|place| place.spec.accepts(&stage.name));
        let places = places.map(|place| place.spec.name.as_str());
        // What is done by other runs is learned under one name.
        let places = places.filter(|_| spec.batch.is_none());
        let places = places.chain(spec.batch.as_ref().map(|_| "@"));
        let works = places.filter_map(|place| {
            let mut work = own_work_of(&self.registry, state, ix, place)?;
            if work.class.is_empty() {
                class.clone_into(&mut work.class);
            }
            Some(work)
        });
        let mut samples: Vec<f64> = works
            .flat_map(|work| self.durations.of(&work).collect::<Vec<_>>())
            .collect();
        samples.sort_by(f64::total_cmp);
        let rounds = match (&spec.foreach, &step.items) {
            (Some(foreach), Some(items)) => items.left.div_ceil(foreach.max_parallel.max(1)),
            _ => 1,
        };
        let one = quantile(&samples, 50).map_or(0, milliseconds);
        wait.saturating_add(one.saturating_mul(rounds.into()))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "durations are finite and not negative; far beyond a lifetime they are cut off"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}
