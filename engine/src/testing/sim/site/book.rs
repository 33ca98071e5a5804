//! What must hold of everything that is durable, read from the entries of all runs and of the installation
//! together: what one run says of another, and what happens once only.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Stats;
use super::flows::{EVERY_MS, POISON, works};
use super::machines::slots;
use super::store::Store;
use crate::core::run_of;
use crate::event::{Event, Output, RunEnd};
use crate::id::{AttemptKey, RunId, StepName, WorkflowName};
use crate::run::{InputValue, RunState, RunStatus, StepStatus};
use crate::site::SiteEvent;

#[derive(Default)]
pub(super) struct Book {
    /// How many entries of each run were read, and of the installation.
    read: BTreeMap<RunId, usize>,
    read_site: usize,
    /// The last attempt of each step.
    last: BTreeMap<(RunId, StepName), u32>,
    /// The visit of each attempt.
    visits: BTreeMap<(RunId, StepName, u32), u32>,
    /// Attempts whose success was accepted, by what may succeed once.
    accepted: BTreeSet<(RunId, StepName, u32)>,
    /// Attempts that a run works for, and which.
    served: BTreeMap<AttemptKey, RunId>,
    /// Attempts that say that a run works for them.
    serving: BTreeMap<AttemptKey, RunId>,
    /// When each trigger came last.
    fired: BTreeMap<(WorkflowName, u32), u64>,
    /// The runs that triggers started.
    by_trigger: BTreeSet<RunId>,
}

macro_rules! demand {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

impl Book {
    /// Reads what became durable.
    pub(super) fn read(&mut self, store: &Store, changed: &[RunId], stats: &mut Stats) -> Result<(), String> {
        for run in changed {
            let from = self.read.get(run).copied().unwrap_or_default();
            let fresh = store.fresh(run, from);
            for event in fresh.iter().flat_map(|entry| &entry.events) {
                self.event(run, event, stats)?;
            }
            self.read.insert(run.clone(), from + fresh.len());
        }
        demand!(
            self.served == self.serving,
            "a step and the run that does its work are not one commit"
        );
        for entry in &store.site[self.read_site..] {
            for event in &entry.events {
                self.site(store, event, stats)?;
            }
        }
        demand!(
            self.by_trigger.is_empty(),
            "runs of triggers that did not come: {:?}",
            self.by_trigger
        );
        self.read_site = store.site.len();
        self.room(store)
    }

    fn event(&mut self, run: &RunId, event: &Event, stats: &mut Stats) -> Result<(), String> {
        match event {
            Event::RunStarted {
                parent, members, key, ..
            } => {
                for served in parent.iter().chain(members) {
                    let other = self.served.insert(served.key.clone(), run.clone());
                    demand!(other.is_none(), "{run} and {other:?} work for {}", served.key);
                }
                stats.count(match (parent, members.len()) {
                    (Some(_), _) => "a run for a step",
                    (None, 0) => "a run",
                    (None, 1) => "a batch of one",
                    (None, _) => "a batch of many",
                });
                demand!(members.len() <= 3, "a batch of {}", members.len());
                if let Some(parent) = parent
                    && self.served.values().any(|other| *other == parent.key.run)
                {
                    stats.count("a run within a run within a run");
                }
                if key.as_deref().is_some_and(|key| key.starts_with("trigger/")) {
                    self.by_trigger.insert(run.clone());
                }
            }
            Event::AttemptStarted {
                step,
                visit,
                attempt,
                executor,
                ..
            } => {
                let name = (run.clone(), step.clone());
                let before = self.last.insert(name, *attempt).unwrap_or_default();
                demand!(
                    *attempt > before,
                    "{run}: attempt {attempt} of {step} after {before}"
                );
                self.visits.insert((run.clone(), step.clone(), *attempt), *visit);
                if let Some(other) = run_of(executor) {
                    let key = AttemptKey {
                        run: run.clone(),
                        step: step.clone(),
                        visit: *visit,
                        attempt: *attempt,
                    };
                    self.serving.insert(key, other);
                }
            }
            Event::AttemptSucceeded {
                step,
                attempt,
                output,
                ..
            } => {
                let visit = self.visits.get(&(run.clone(), step.clone(), *attempt));
                let visit = *visit.ok_or_else(|| format!("{run}: {step} succeeds without a start"))?;
                let once = self.accepted.insert((run.clone(), step.clone(), visit));
                demand!(once, "{run}: {step} succeeds twice in visit {visit}");
                demand!(
                    !matches!(output, Output::Inline(value) if value["number"] == POISON),
                    "{run}: {step} believes what is not true"
                );
            }
            Event::AttemptLost { why, .. } if why.starts_with("no word") => {
                stats.count("lost with its machine");
            }
            Event::RunMigrated { .. } => stats.count("moved"),
            Event::RunFinished {
                end: RunEnd::Cancelled,
            } => stats.count("cancelled"),
            _ => {}
        }
        Ok(())
    }

    fn site(&mut self, store: &Store, event: &SiteEvent, stats: &mut Stats) -> Result<(), String> {
        match event {
            SiteEvent::TriggersEnabled { workflow, .. } => {
                self.fired.retain(|(known, _), _| known != workflow);
            }
            SiteEvent::TriggerFired {
                workflow,
                index,
                due,
                missed,
                run,
                skipped,
            } => {
                let last = self.fired.insert((workflow.clone(), *index), *due);
                if let Some(last) = last {
                    demand!(*due > last, "{workflow} comes again at {due}");
                    let times = due.div_ceil(EVERY_MS) - last / EVERY_MS;
                    let exact = due.is_multiple_of(EVERY_MS) && last.is_multiple_of(EVERY_MS);
                    demand!(
                        !exact || times == u64::from(*missed) + 1,
                        "{workflow}: {times} times came after {last}, {missed} of them counted as missed"
                    );
                }
                if let Some(run) = run {
                    demand!(
                        store.runs.contains_key(run),
                        "{run} was started by a trigger, and is not there"
                    );
                    demand!(
                        self.by_trigger.remove(run),
                        "{run} was started twice by a trigger"
                    );
                    stats.count("a trigger started a run");
                }
                if skipped.is_some() {
                    stats.count("a time was left out");
                }
                if *missed > 0 {
                    stats.count("times were missed");
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// No executor has more attempts than it has slots.
    fn room(&self, store: &Store) -> Result<(), String> {
        let mut held: BTreeMap<String, usize> = BTreeMap::new();
        for logged in store
            .runs
            .values()
            .filter(|logged| !logged.row().status.is_final())
        {
            let state = logged.fold()?;
            let current = state.steps().filter_map(|(_, step)| step.current.as_ref());
            let current = current.map(|current| current.executor.clone());
            let gone = state.discarding.values().map(|gone| gone.executor.clone());
            for executor in current.chain(gone).filter(|executor| run_of(executor).is_none()) {
                *held.entry(executor).or_default() += 1;
            }
        }
        for (executor, count) in held {
            demand!(count <= slots(&executor), "{executor} has {count} attempts");
        }
        Ok(())
    }

    /// What every step of a run gave follows from what it took, also of those that other runs did.
    pub(super) fn follows(&self, store: &Store, state: &RunState) -> Result<(), String> {
        for (ix, step) in state.steps() {
            let spec = state.spec(ix);
            if step.status != StepStatus::Succeeded || step.items.is_some() {
                continue;
            }
            let name = state.name(ix);
            let Some(Output::Inline(output)) = &step.output else {
                return Err(format!("{}: {name} gave nothing", state.id));
            };
            if spec.stage.as_ref().is_some_and(|stage| stage.many) {
                continue;
            }
            let input = InputValue::Fields(state.input(ix)).at_hand().unwrap_or_default();
            let wanted = match &spec.stage {
                Some(stage) => works(stage.name.as_str(), &input).map(Value::from),
                None => {
                    let attempt = state.attempt_key(ix, step.attempts);
                    let child = self
                        .served
                        .get(&attempt)
                        .ok_or_else(|| format!("nobody did {attempt}"))?;
                    let child = store.runs[child].fold()?;
                    demand!(
                        child.status == RunStatus::Succeeded,
                        "{} gave something",
                        child.id
                    );
                    let given = InputValue::Fields(child.outputs()).at_hand().unwrap_or_default();
                    given.get("number").cloned()
                }
            };
            let got = output.get("number").cloned();
            demand!(
                got.is_some() && got == wanted,
                "{}: {name} gave {got:?}, but from what it took follows {wanted:?}",
                state.id
            );
        }
        Ok(())
    }

    /// At the end no attempt waits for a run that has ended.
    pub(super) fn everybody_was_told(&self, store: &Store) -> Result<(), String> {
        for (key, run) in &self.served {
            let state = store.runs[&key.run].fold()?;
            let waits = state.find(&key.step).and_then(|ix| state.current_key(ix));
            demand!(
                waits.as_ref() != Some(key),
                "{key} waits for {run}, which has ended"
            );
        }
        Ok(())
    }
}
