//! The person: asks what the plan says, and looks after what rests.

use super::*;
use crate::core::{Refused, Verb};
use crate::event::PauseReason;
use crate::stage::Wake;
use crate::testing::sim::plan::Ask;
use crate::testing::sim::stages::given;

impl World<'_> {
    /// What the plan's operator asks; refusals are answers too, and change nothing.
    pub(super) fn ask(&mut self) -> Result<bool, String> {
        let plan = self.plan;
        let Some((after, at, ask)) = plan.asks.get(self.asked) else {
            return Ok(false);
        };
        if usize::from(*after) > self.commits {
            return Ok(false);
        }
        let at = usize::from(*at) % plan.runs.len();
        let run = self.runs[&at].clone();
        if !self.here(&run)? {
            return Ok(false);
        }
        self.asked += 1;
        let Some(verb) = self.verb(at, &run, *ask)? else {
            return Ok(true);
        };
        let now = self.now();
        match self.core.operate(&run, verb.clone(), By::default(), now) {
            Ok(()) => self.stats.count("asked"),
            Err(Refused::Damaged { why, .. }) => return Err(why),
            Err(_) => {
                self.stats.count("refused");
                let settled = self.core.settle(now);
                if settled.iter().any(|transition| transition.append.is_some()) {
                    return Err(format!("{verb:?} was refused and changed something"));
                }
                let effects = settled.into_iter().flat_map(|transition| transition.effects);
                self.pending.effects.extend(effects);
            }
        }
        Ok(true)
    }

    fn verb(&mut self, at: usize, run: &RunId, ask: Ask) -> Result<Option<Verb>, String> {
        let plan = &self.plan.runs[at];
        let graph = plan.graph();
        let named = |target| plan.named(&graph, target);
        Ok(Some(match ask {
            Ask::Pause => Verb::Pause,
            Ask::Resume => Verb::Resume,
            Ask::Cancel => Verb::Cancel,
            Ask::RetryAll => Verb::Retry(None),
            Ask::Retry(target) => Verb::Retry(Some(named(target))),
            Ask::Signal(n) => Verb::Signal(["go0", "go1", "word"][usize::from(n) % 3].to_owned(), json!(n)),
            Ask::Approve(target) => Verb::Approve(named(target)),
            Ask::Prioritize(priority) => Verb::Prioritize(priority),
            Ask::Rewind(target) => Verb::Rewind(named(target)),
            Ask::Skip(target) => Verb::Skip(named(target)),
            Ask::Confirm(target) => match self.truth(at, run, &named(target)) {
                Some(output) => Verb::Override(named(target), output),
                None => return Ok(None),
            },
            Ask::Override(target) => {
                let until = BEGIN + self.now + 1500;
                let n = self.asked as u64;
                let list: Vec<u64> = (0..n % 4).collect();
                let out = format!("by hand {n}");
                let output = json!({"out": out, "visit": n, "flag": n.is_multiple_of(2), "until": until, "list": list});
                Verb::Override(named(target), output)
            }
            Ask::Fork(first) => {
                let first = usize::from(first) % plan.steps.len();
                let first = StepName::new(&format!("s{first}")).unwrap();
                if self.log.contains_key(run) {
                    self.forks.push((at, first));
                    self.start_missing()?;
                    self.stats.count("forked");
                }
                return Ok(None);
            }
        }))
    }

    /// What a step that runs, or did, gives anyway.
    fn truth(&self, at: usize, run: &RunId, step: &StepName) -> Option<Value> {
        let ledger = &self.log.get(run)?.ledger;
        let place = ledger.find(step).ok()?;
        let state = ledger.place(place);
        if ledger.graph.step(place.0).stage.is_none() || (state.current.is_none() && state.done.is_none()) {
            return None;
        }
        let takes = Self::takes(ledger, place).ok()?;
        let plan = &self.plan.runs[at].steps[place.0.get()];
        Some(given(plan, step, &takes, 0, BEGIN + self.now))
    }

    /// Whether this is an item that can never be done.
    fn is_poisoned(&self, run: &RunId, step: &StepName) -> bool {
        // Its step may have given up its items since.
        let at = self.log[run].ledger.find(step).ok();
        at.is_some_and(|(ix, item)| item.is_some() && self.plan_of(run).steps[ix.get()].poisoned == item)
    }

    /// Nothing moves any more: somebody looks, resumes what is paused, and gives signals and approvals.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        self.rests += 1;
        if self.rests > 2000 {
            return Err("somebody has to look again and again".to_owned());
        }
        let now = self.now();
        let mut wanted = Vec::new();
        for (run, logged) in &self.log {
            let ledger = &logged.ledger;
            if matches!(ledger.phase, Phase::Ended(_)) {
                continue;
            }
            if ledger.phase == Phase::Paused {
                let hopeless = match &ledger.pause {
                    Some(PauseReason::Expression { step, .. }) => Some(step.clone()),
                    Some(PauseReason::Failed { step, .. }) => {
                        let looked = self.looked.entry((run.clone(), step.clone())).or_default();
                        *looked += 1;
                        let looked = *looked;
                        let poisoned = self.is_poisoned(run, step);
                        (poisoned && looked > 2).then(|| step.clone())
                    }
                    _ => None,
                };
                // Somebody may have left it out already.
                let open = |step: &StepName| ledger.find(step).is_ok_and(|at| !ledger.place(at).is_through());
                let hopeless = hopeless.filter(open);
                wanted.extend(hopeless.map(|step| (run.clone(), Verb::Skip(step))));
                wanted.push((run.clone(), Verb::Resume));
            }
            let mut signals = BTreeSet::new();
            for (at, place) in ledger.places() {
                match &place.waiting {
                    Some((Wake::Signal(name), _)) => {
                        signals.insert(name.clone());
                    }
                    Some((Wake::Approval(_), _)) => {
                        wanted.push((run.clone(), Verb::Approve(ledger.name(at))));
                    }
                    _ => {}
                }
            }
            wanted.extend(
                signals
                    .into_iter()
                    .map(|name| (run.clone(), Verb::Signal(name, Value::Null))),
            );
        }
        if wanted.is_empty() {
            let rows: Vec<_> = self
                .log
                .values()
                .map(|logged| (&logged.row, &logged.steps))
                .collect();
            return Err(format!("it is stuck: {rows:?}"));
        }
        for (run, verb) in wanted {
            if !self.here(&run)? {
                return Err(format!("{run} rests, and is not in the log"));
            }
            self.core
                .operate(&run, verb, By::default(), now)
                .map_err(|refused| refused.to_string())?;
        }
        Ok(())
    }
}
