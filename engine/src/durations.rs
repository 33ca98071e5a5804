//! How long work took: the last few durations of each stage, executor and class of work. They are learned
//! as attempts succeed and cost no commit; whoever runs the engine keeps them on the side, and can learn
//! them anew from the journal.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Entry, Event};
use crate::id::{RunId, StageName};
use crate::run::{Illegal, RunState};
use crate::stage::StageRegistry;
use crate::workflow::{Graph, StepIx};

/// Durations that are kept of each kind of work.
pub const KEPT: usize = 32;
/// Kinds of work that are kept; beyond them nothing new is learned.
const KINDS: usize = 4096;
/// The most bytes of a class.
const CLASS: usize = 64;

/// A kind of work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Work {
    /// What is done.
    pub stage: StageName,
    /// Where.
    pub executor: String,
    /// What makes it longer or shorter, as the stage says; where it says nothing, as the first step of the
    /// run says that says anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub class: String,
}

/// The last durations of each kind of work.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Known>", into = "Vec<Known>")]
pub struct Durations {
    known: BTreeMap<Work, VecDeque<f64>>,
}

#[derive(Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    work: Work,
    seconds: VecDeque<f64>,
}

impl From<Vec<Known>> for Durations {
    fn from(all: Vec<Known>) -> Self {
        let mut durations = Self::default();
        for Known { work, seconds } in all {
            for one in seconds {
                durations.learn(work.clone(), one);
            }
        }
        durations
    }
}

impl From<Durations> for Vec<Known> {
    fn from(durations: Durations) -> Self {
        let known = durations.known.into_iter();
        known.map(|(work, seconds)| Known { work, seconds }).collect()
    }
}

impl Durations {
    /// Learns how long an attempt took that succeeded.
    pub fn learn(&mut self, mut work: Work, seconds: f64) {
        if work.executor.starts_with('@') {
            // Done by another run, each time by another one.
            "@".clone_into(&mut work.executor);
        }
        if !seconds.is_finite() || seconds < 0.0 {
            return;
        }
        if self.known.len() >= KINDS && !self.known.contains_key(&work) {
            return;
        }
        let known = self.known.entry(work).or_default();
        known.push_back(seconds);
        while known.len() > KEPT {
            known.pop_front();
        }
    }

    /// Adds what another one knows: it counts as older.
    pub fn learn_older(&mut self, older: Self) {
        let newer = std::mem::replace(self, older);
        for (work, seconds) in newer.known {
            for one in seconds {
                self.learn(work.clone(), one);
            }
        }
    }

    /// Learns from the whole history of a run.
    ///
    /// # Errors
    /// The history cannot have happened.
    pub fn learn_run(
        &mut self,
        registry: &StageRegistry,
        id: &RunId,
        graphs: &[Arc<Graph>],
        entries: &[Entry],
    ) -> Result<(), Illegal> {
        let mut state: Option<RunState> = None;
        for entry in entries {
            let Some(state) = &mut state else {
                state = Some(RunState::begin(id, graphs, entry)?);
                continue;
            };
            for event in &entry.events {
                if let Event::AttemptSucceeded {
                    step,
                    attempt,
                    seconds,
                    ..
                } = event
                    && let Some(ix) = state.find(step)
                    && let Some(current) = &state.step(ix).current
                    && current.attempt == *attempt
                    && let Some(work) = work_of(registry, state, ix, &current.executor)
                {
                    self.learn(work, *seconds);
                }
            }
            state.apply(entry)?;
        }
        Ok(())
    }

    /// How long work took, the oldest first.
    pub fn of(&self, work: &Work) -> impl Iterator<Item = f64> + '_ {
        self.known.get(work).into_iter().flatten().copied()
    }

    /// How many kinds of work are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// The kind of work that a step, or an item of it, is on an executor; a step without a stage is none.
pub(crate) fn work_of(
    registry: &StageRegistry,
    state: &RunState,
    ix: StepIx,
    executor: &str,
) -> Option<Work> {
    let mut work = own_work_of(registry, state, ix, executor)?;
    if work.class.is_empty() {
        work.class = class_of_run(registry, state);
    }
    Some(work)
}

/// The same, with an empty class where the stage itself does not say.
pub(crate) fn own_work_of(
    registry: &StageRegistry,
    state: &RunState,
    ix: StepIx,
    executor: &str,
) -> Option<Work> {
    Some(Work {
        stage: state.spec(ix).stage.as_ref()?.name.clone(),
        executor: executor.to_owned(),
        class: class_of(registry, state, ix),
    })
}

/// What the first step of a run says that says anything; it costs a look at every step.
pub(crate) fn class_of_run(registry: &StageRegistry, state: &RunState) -> String {
    let mut steps = state.graph.steps().map(|(ix, _)| class_of(registry, state, ix));
    steps.find(|class| !class.is_empty()).unwrap_or_default()
}

/// What the stage of a step says of its input, as far as that is at hand.
fn class_of(registry: &StageRegistry, state: &RunState, ix: StepIx) -> String {
    let stage = state.spec(ix).stage.as_ref();
    let Some(stage) = stage.and_then(|stage| registry.stage(&stage.name)) else {
        return String::new();
    };
    let input = state.input(ix).into_iter();
    let at_hand = input.filter_map(|(name, value)| Some((name, value.at_hand()?)));
    let mut class = stage.class(&Value::Object(at_hand.collect()));
    if let Some((end, _)) = class.char_indices().find(|(at, _)| *at >= CLASS) {
        class.truncate(end);
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(class: &str) -> Work {
        Work {
            stage: StageName::new("pc1").unwrap(),
            executor: "local".to_owned(),
            class: class.to_owned(),
        }
    }

    #[test]
    fn the_last_ones_are_kept_and_survive_being_stored() {
        let mut durations = Durations::default();
        for n in 0..100 {
            durations.learn(work("32GiB"), f64::from(n));
        }
        durations.learn(work("2KiB"), 0.5);
        durations.learn(work("2KiB"), f64::NAN);
        durations.learn(work("2KiB"), -1.0);
        assert_eq!(durations.of(&work("32GiB")).count(), KEPT);
        assert_eq!(durations.of(&work("32GiB")).next(), Some(68.0));
        assert_eq!(durations.of(&work("2KiB")).collect::<Vec<_>>(), [0.5]);
        assert_eq!(durations.of(&work("")).count(), 0);
        let text = serde_json::to_string(&durations).unwrap();
        assert_eq!(serde_json::from_str::<Durations>(&text).unwrap(), durations);
    }

    #[test]
    fn what_was_learned_before_counts_as_older() {
        let (mut now, mut before) = (Durations::default(), Durations::default());
        for _ in 0..20 {
            now.learn(work("a"), 2.0);
            before.learn(work("a"), 1.0);
        }
        now.learn_older(before);
        let all: Vec<f64> = now.of(&work("a")).collect();
        assert_eq!((all.len(), all[0], all[11], all[12]), (KEPT, 1.0, 1.0, 2.0));
    }

    #[test]
    fn kinds_are_bounded() {
        let mut durations = Durations::default();
        for n in 0..KINDS + 10 {
            durations.learn(work(&n.to_string()), 1.0);
        }
        assert_eq!(durations.len(), KINDS);
        durations.learn(work("0"), 2.0);
        assert_eq!(durations.of(&work("0")).count(), 2);
    }
}
