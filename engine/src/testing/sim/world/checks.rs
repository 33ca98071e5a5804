//! What must hold in the world at any time: rows, room, order and reasons; and at its end.

use super::*;
use crate::core::Transition;
use crate::resource::Resources;
use crate::rows::{run_row, step_row};
use crate::run::StepStatus;
use crate::testing::sim::stages::given;

impl World<'_> {
    /// The rows of a run are the fold of its entries, and say what the ledger says.
    pub(super) fn rows_are_folds(&self, run: &RunId) -> Result<(), String> {
        let logged = &self.log[run];
        let ledger = &logged.ledger;
        let state = logged.state.as_ref().ok_or("a run without entries")?;
        let folded = run_row(state);
        if folded != logged.row {
            return Err(format!("row {:?} is not the fold {folded:?}", logged.row));
        }
        for (ix, step) in state.steps() {
            let name = state.name(ix);
            let folded = step_row(state, ix);
            let untouched = match step.item {
                // Items have rows as soon as they may start.
                Some(_) => folded.status == StepStatus::Pending,
                None => folded.attempts == 0 && folded.since == state.created_at,
            };
            match logged.steps.get(&ix) {
                Some(stored) if *stored == folded => {}
                None if untouched => {}
                stored => return Err(format!("step {name} is stored as {stored:?}, folded {folded:?}")),
            }
            if state.find(&name) != Some(ix) {
                // An item of an earlier list.
                continue;
            }
            let place = ledger.place(ledger.find(&name)?);
            let agrees = match folded.status {
                StepStatus::Ready | StepStatus::Pending => place.status() == "open",
                StepStatus::Cancelled => !place.is_through(),
                other => place.status() == other.as_str(),
            };
            let output = place.done.as_ref().map(|(_, output)| output);
            if !agrees || folded.output.as_ref() != output {
                return Err(format!("step {name} is {folded:?}, but the log says {place:?}"));
            }
            if step.item.is_none() && folded.valid_until != place.valid_until {
                return Err(format!(
                    "step {name} expires at {:?}, but the log says {:?}",
                    folded.valid_until, place.valid_until
                ));
            }
        }
        let paused = ledger.phase == Phase::Paused;
        if paused != logged.row.reason.is_some() || ledger.priority != logged.row.priority {
            return Err(format!("paused: {paused}, but the row is {:?}", logged.row));
        }
        Ok(())
    }

    pub(super) fn nothing_is_held_twice(&self) -> Result<(), String> {
        let held = held(self.log.values().map(|logged| &logged.ledger));
        for spec in executors() {
            let (sum, count) = held.get(spec.name.as_str()).copied().unwrap_or_default();
            let capacity = spec.machine.capacity;
            if sum.cpu > capacity.cpu || sum.memory > capacity.memory || count > spec.slots {
                return Err(format!(
                    "executor {} holds {sum:?} in {count} attempts",
                    spec.name
                ));
            }
        }
        Ok(())
    }

    /// Reads what is to be committed before it is: room is counted rightly at once, and nobody is
    /// overtaken by somebody who is less urgent.
    pub(super) fn foresee(&mut self, transitions: &[Transition]) -> Result<(), String> {
        let mut started: Vec<(RunId, StepName)> = Vec::new();
        for append in transitions.iter().filter_map(|one| one.append.as_ref()) {
            let run = append.row.run.clone();
            if let Some((_, stored)) = &append.graph {
                let graph = Arc::new(Graph::new(stored.data.clone())?);
                self.foreseen.insert(run.clone(), Ledger::new(graph));
            }
            let ledger = self.foreseen.get_mut(&run).ok_or("a run without a graph")?;
            ledger
                .apply(&append.entry)
                .map_err(|why| format!("{run}: {why}"))?;
            for event in &append.entry.events {
                match event {
                    Event::AttemptStarted { step, .. } => started.push((run.clone(), step.clone())),
                    Event::AttemptSucceeded { seconds, .. } => self.longest = self.longest.max(*seconds),
                    _ => {}
                }
            }
        }
        self.nothing_leaks()?;
        self.the_urgent_go_first(&started)
    }

    /// What the core counts as held is what the attempts that have not ended hold.
    fn nothing_leaks(&self) -> Result<(), String> {
        let held = held(self.foreseen.values());
        for view in self.core.executors() {
            let (spec, sum, count) = (view.spec, view.held, view.attempts.len());
            let derived = held.get(spec.name.as_str()).copied().unwrap_or_default();
            if derived != (sum, count) {
                return Err(format!(
                    "executor {} counts {sum:?} in {count} attempts, but {derived:?} are held",
                    spec.name
                ));
            }
        }
        Ok(())
    }

    fn the_urgent_go_first(&mut self, started: &[(RunId, StepName)]) -> Result<(), String> {
        let stage = |ledger: &Ledger, ix: StepIx| {
            let stage = ledger.graph.step(ix).stage.as_ref();
            stage.map(|stage| stage.name.clone())
        };
        let until = |ledger: &Ledger, ix: StepIx| ledger.steps[ix.get()].valid_until.unwrap_or(u64::MAX);
        // By how much what is expected of one step may differ from another's, however it is learned.
        let about = (self.longest * 1000.0).ceil() as u64;
        for (run, step) in started {
            let ledger = &self.foreseen[run];
            let (ix, _) = ledger.find(step)?;
            let expires_later = ledger.expires_behind(ix);
            for (other_run, other) in &self.foreseen {
                for (at, _) in other.graph.steps() {
                    if stage(other, at) != stage(ledger, ix) || !other.could_start(at) {
                        continue;
                    }
                    let sooner = until(other, at).saturating_add(about) < until(ledger, ix) && !expires_later;
                    if other.priority > ledger.priority || (other.priority == ledger.priority && sooner) {
                        return Err(format!("{step} of {run} overtakes step {} of {other_run}", at.0));
                    }
                    if other.priority == ledger.priority && until(other, at) < u64::MAX {
                        self.stats.count("waits although it expires");
                    }
                    self.stats.count("made to wait");
                }
            }
        }
        Ok(())
    }

    /// When nothing is on its way, every open run goes on by itself or says why not.
    pub(super) fn everything_has_a_reason(&self) -> Result<(), String> {
        for (run, logged) in &self.log {
            let ledger = &logged.ledger;
            let goes_on = ledger.phase != Phase::Running
                || ledger.holdings().next().is_some()
                || ledger.places().any(|(_, place)| place.waiting.is_some());
            let says_why = || {
                let why = self.core.explain(run, self.now());
                why.iter().any(|step| !step.conditions.is_empty())
            };
            if !goes_on && !says_why() {
                return Err(format!("{run} neither goes on nor says why: {:?}", logged.row));
            }
        }
        Ok(())
    }

    /// At the end nothing is held, and every output of a run that succeeded follows from what the steps
    /// before it give now.
    pub(super) fn everything_ended_well(&self) -> Result<(), String> {
        if self.core.busy() || self.core.open() > 0 {
            return Err("something is still open at the end".to_owned());
        }
        for run in self.runs.values() {
            let ledger = &self.log[run].ledger;
            for (from, step, output) in &ledger.adopted {
                let given = self.log[from].entries.iter().flat_map(|entry| &entry.events);
                let mut given = given.filter(|event| match event {
                    Event::AttemptSucceeded {
                        step: done,
                        output: gave,
                        ..
                    }
                    | Event::StepOverridden {
                        step: done,
                        output: gave,
                        ..
                    } => done == step && gave == output,
                    Event::StepPassed { step: done } => done == step,
                    _ => false,
                });
                if given.next().is_none() {
                    return Err(format!(
                        "{run} takes over an output of {step} that {from} never gave"
                    ));
                }
            }
            if ledger.phase != Phase::Ended(RunEnd::Succeeded) {
                continue;
            }
            ledger.is_coherent().map_err(|why| format!("{run}: {why}"))?;
            self.outputs_follow(run, ledger)?;
        }
        Ok(())
    }

    fn outputs_follow(&self, run: &RunId, ledger: &Ledger) -> Result<(), String> {
        let plan = self.plan_of(run);
        for (at, place) in ledger.places() {
            let stage = ledger.graph.step(at.0).stage.is_some();
            let own = at.1.is_some() == ledger.graph.step(at.0).foreach.is_some();
            let Some((_, output)) = place.done.as_ref().filter(|_| stage && own && !place.by_person) else {
                continue;
            };
            let name = ledger.name(at);
            let takes = Self::takes(ledger, at)?;
            let wanted = given(&plan.steps[at.0.get()], &name, &takes, 0, 0);
            let (got, wanted) = (&value_of(output)["out"], &wanted["out"]);
            if got != wanted {
                return Err(format!(
                    "{run}: {name} gave {got}, but from what it takes follows {wanted}"
                ));
            }
        }
        Ok(())
    }
}

/// What attempts hold, by executor, and how many they are.
fn held<'l>(ledgers: impl Iterator<Item = &'l Ledger>) -> BTreeMap<String, (Resources, usize)> {
    let mut held: BTreeMap<String, (Resources, usize)> = BTreeMap::new();
    for holding in ledgers.flat_map(Ledger::holdings) {
        let (sum, count) = held.entry(holding.executor.clone()).or_default();
        *sum += holding.held;
        *count += 1;
    }
    held
}
