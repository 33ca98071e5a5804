//! The world around the core: a log that commits after a while, a clock that jumps to the next thing that
//! happens, and crashes. `pretend` holds the executors, `operator` the person, `checks` what must hold.

mod checks;
mod operator;
mod pretend;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::ledger::{At, Ledger, Phase, Stats, value_of};
use super::plan::{Plan, RunPlan};
use super::stages::{executors, params, registry};
use crate::clock::Now;
use crate::core::{Core, Dispatch, Effect, Fork, StartRun, Transition};
use crate::event::{By, Entry, Event, Output, RunEnd};
use crate::executor::{News, Report};
use crate::failure::Failure;
use crate::id::{AttemptKey, RunId, StepName, Token};
use crate::journal::Append;
use crate::rows::{RunRow, StepRow};
use crate::run::RunState;
use crate::stage::{Outcome, StageRegistry};
use crate::workflow::{Graph, StepIx};

/// Where the daemon is stopped, counted in commits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cut {
    /// The commit never happened.
    Before(usize),
    /// It happened, and nothing that follows from it.
    Between(usize),
    /// Its effects were carried out.
    After(usize),
}

/// What outlives the daemon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Attempts {
    /// Nothing: attempts run in its process.
    DieWithIt,
    /// Attempts, and results that were not acknowledged.
    Survive,
}

/// What must be the same however often the daemon was stopped.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    /// The run of the plan that this is, or that it was forked from.
    pub(super) of: usize,
    pub(super) end: RunEnd,
    /// The `out` of each step; of a step with items of each of them.
    pub(super) outputs: Vec<Value>,
    /// Per step or item, how its attempts ended, without those that were lost. Only compared where the
    /// order of independent steps cannot change it.
    pub(super) history: BTreeMap<StepName, Vec<String>>,
    pub(super) rewound: u32,
    /// How often a success of each step or item was accepted.
    pub(super) accepted: BTreeMap<StepName, usize>,
}

struct Logged {
    graph: Arc<Graph>,
    entries: Vec<Entry>,
    /// The fold of the entries.
    state: Option<RunState>,
    row: RunRow,
    steps: BTreeMap<StepIx, StepRow>,
    ledger: Ledger,
}

impl Logged {
    fn fold(&self, run: &RunId) -> Result<RunState, String> {
        let state = RunState::fold(run, std::slice::from_ref(&self.graph), &self.entries);
        state.map_err(|error| error.to_string())
    }
}

struct Job {
    token: Token,
    executor: String,
    ends: Option<(u64, Result<Outcome<Value>, Failure>)>,
    payload: bool,
    talks: Option<u64>,
    stubborn: bool,
}

#[derive(Default)]
struct Group {
    appends: Vec<Append>,
    effects: Vec<Effect>,
}

pub(super) struct World<'p> {
    plan: &'p Plan,
    registry: Arc<StageRegistry>,
    core: Core,
    now: u64,
    log: BTreeMap<RunId, Logged>,
    /// What the log will say when everything that the core gave out is durable.
    foreseen: BTreeMap<RunId, Ledger>,
    /// Runs by their place in the plan; forks come behind them.
    runs: BTreeMap<usize, RunId>,
    /// Runs that were forked: from which, and which step they begin with.
    forks: Vec<(usize, StepName)>,
    jobs: BTreeMap<AttemptKey, Job>,
    /// Ended, but the log does not say so yet.
    unacknowledged: Vec<(AttemptKey, Job)>,
    dispatched: BTreeSet<AttemptKey>,
    pending: Group,
    committing: Option<(Group, u64)>,
    pub(super) commits: usize,
    cuts: Vec<Cut>,
    attempts: Attempts,
    lives: u8,
    asked: usize,
    rests: u32,
    /// The longest that an attempt took that succeeded, in seconds.
    longest: f64,
    /// How often somebody looked at a step that fails again and again.
    looked: BTreeMap<(RunId, StepName), u32>,
    pub(super) stats: Stats,
}

/// The wall clock at the beginning, in milliseconds since 1970.
pub(super) const BEGIN: u64 = 1_790_000_000_000;

impl<'p> World<'p> {
    /// Lives the plan to its end, with these cuts in order.
    pub(super) fn live(plan: &'p Plan, cuts: &[Cut], attempts: Attempts) -> Result<Self, String> {
        let registry = registry();
        let mut world = Self {
            plan,
            core: Core::new(registry.clone(), executors(), [0; 32]),
            registry,
            now: 0,
            log: BTreeMap::new(),
            foreseen: BTreeMap::new(),
            runs: BTreeMap::new(),
            forks: Vec::new(),
            jobs: BTreeMap::new(),
            unacknowledged: Vec::new(),
            dispatched: BTreeSet::new(),
            pending: Group::default(),
            committing: None,
            commits: 0,
            cuts: cuts.iter().rev().copied().collect(),
            attempts,
            lives: 0,
            asked: 0,
            rests: 0,
            longest: 0.0,
            looked: BTreeMap::new(),
            stats: Stats::default(),
        };
        world.start_missing()?;
        world.run()?;
        world.everything_ended_well()?;
        for logged in world.log.values() {
            world.stats.add(&logged.ledger.stats);
        }
        Ok(world)
    }

    /// How each run ended, in the order of the plan, and then those that were forked.
    pub(super) fn endings(&self) -> Vec<Ending> {
        let of = |(at, run): (&usize, &RunId)| {
            let ledger = &self.log[run].ledger;
            let Phase::Ended(end) = ledger.phase else {
                unreachable!("checked when the world ended")
            };
            let places = || ledger.places().map(|(at, place)| (ledger.name(at), place));
            Ending {
                of: self.planned(*at),
                end,
                outputs: ledger
                    .graph
                    .steps()
                    .map(|(ix, _)| ledger.field(ix, "out"))
                    .collect(),
                history: places()
                    .map(|(name, place)| (name, place.history.clone()))
                    .collect(),
                rewound: ledger.rewound,
                accepted: places().map(|(name, place)| (name, place.accepted())).collect(),
            }
        };
        self.runs.iter().map(of).collect()
    }

    fn now(&self) -> Now {
        // The monotonic clock begins anew with each process.
        Now {
            wall_ms: BEGIN + self.now,
            mono_ms: self.now,
        }
    }

    /// The place in the plan of a run, or of the one that it was forked from.
    fn planned(&self, at: usize) -> usize {
        match at.checked_sub(self.plan.runs.len()) {
            Some(fork) => self.forks[fork].0,
            None => at,
        }
    }

    fn plan_of(&self, run: &RunId) -> &'p RunPlan {
        let (at, _) = self.runs.iter().find(|(_, other)| *other == run).unwrap();
        &self.plan.runs[self.planned(*at)]
    }

    /// Starts what is not in the log, as callers do that got no answer.
    fn start_missing(&mut self) -> Result<(), String> {
        for at in 0..self.plan.runs.len() + self.forks.len() {
            if self.runs.contains_key(&at) {
                continue;
            }
            let plan = &self.plan.runs[self.planned(at)];
            let graph = plan.graph();
            let fork = at.checked_sub(self.plan.runs.len());
            let fork = fork.map(|fork| self.fork(fork)).transpose()?;
            let start = StartRun {
                graph,
                source: String::new(),
                params: params(at),
                key: Some(format!("run {at}")),
                by: By::default(),
                artifacts: BTreeMap::new(),
                priority: plan.priority,
                fork,
            };
            let now = self.now();
            let run = self
                .core
                .start(start.clone(), now)
                .map_err(|error| error.to_string())?;
            assert_eq!(
                self.core.start(start, now).unwrap(),
                run,
                "the same key starts no second run"
            );
            self.runs.insert(at, run);
        }
        Ok(())
    }

    /// What a forked run takes over, read from the log.
    fn fork(&self, fork: usize) -> Result<Fork, String> {
        let (from, first) = &self.forks[fork];
        let run = &self.runs[from];
        let state = self.log[run].fold(run)?;
        Fork::of(&state, first).map_err(|error| error.to_string())
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..200_000 {
            let now = self.now();
            self.core.tick(now);
            let transitions = self.core.settle(now);
            self.foresee(&transitions)?;
            for Transition { append, effects } in transitions {
                self.pending.appends.extend(append);
                self.pending.effects.extend(effects);
            }
            if self.committing.is_none()
                && (!self.pending.appends.is_empty() || !self.pending.effects.is_empty())
            {
                let group = std::mem::take(&mut self.pending);
                let latency = u64::from(self.plan.latency) * (self.commits as u64 % 3) / 2;
                self.committing = Some((group, self.now + latency));
            }
            if self.committing.as_ref().is_some_and(|(_, due)| *due <= self.now) {
                self.commit()?;
                continue;
            }
            if !self.core.damaged().is_empty() {
                return Err(format!("damaged: {:?}", self.core.damaged()));
            }
            if self.committing.is_none() {
                self.everything_has_a_reason()?;
            }
            if self.ask()? || self.end_jobs() {
                continue;
            }
            let (wall, mono) = self.core.next_due();
            let ends = self
                .jobs
                .values()
                .flat_map(|job| job.ends.as_ref().map(|(at, _)| *at).into_iter().chain(job.talks));
            let commit = self.committing.as_ref().map(|(_, due)| *due);
            let due = ends
                .chain(wall.map(|at| at.saturating_sub(BEGIN)))
                .chain(mono)
                .chain(commit)
                .min();
            match due {
                Some(due) => self.now = self.now.max(due),
                None if self.all_ended() => return Ok(()),
                None => self.rest()?,
            }
        }
        Err("it does not come to an end".to_owned())
    }

    fn all_ended(&self) -> bool {
        let ended = |logged: &Logged| matches!(logged.ledger.phase, Phase::Ended(_));
        self.log.len() == self.plan.runs.len() + self.forks.len() && self.log.values().all(ended)
    }

    /// Commits the group under way, or is stopped around it.
    fn commit(&mut self) -> Result<(), String> {
        let Some((group, _)) = self.committing.take() else {
            return Ok(());
        };
        let durable = !group.appends.is_empty();
        self.commits += usize::from(durable);
        if durable && self.cuts.last() == Some(&Cut::Before(self.commits)) {
            self.commits -= 1;
            return self.restart();
        }
        for append in group.appends {
            self.append(append)?;
        }
        self.nothing_is_held_twice()?;
        if durable && self.cuts.last() == Some(&Cut::Between(self.commits)) {
            return self.restart();
        }
        for effect in group.effects {
            self.carry_out(effect)?;
        }
        let log = &self.log;
        self.unacknowledged.retain(|(key, _)| holds(log, key));
        if durable && self.cuts.last() == Some(&Cut::After(self.commits)) {
            return self.restart();
        }
        Ok(())
    }

    fn append(&mut self, append: Append) -> Result<(), String> {
        let run = append.row.run.clone();
        if let Some((hash, stored)) = &append.graph {
            let graph = Arc::new(Graph::new(stored.data.clone())?);
            if hash != graph.hash() || append.entry.seq != 1 {
                return Err("a graph comes with the first entry, under its hash".to_owned());
            }
            let ledger = Ledger::new(graph.clone());
            let logged = Logged {
                graph,
                entries: Vec::new(),
                state: None,
                row: append.row.clone(),
                steps: BTreeMap::new(),
                ledger,
            };
            self.log.insert(run.clone(), logged);
        }
        let logged = self.log.get_mut(&run).ok_or("the first entry has no graph")?;
        logged
            .ledger
            .apply(&append.entry)
            .map_err(|why| format!("{run}: {why}"))?;
        let illegal = |error: crate::run::Illegal| error.to_string();
        match &mut logged.state {
            Some(state) => state.apply(&append.entry).map_err(illegal)?,
            None => {
                let state = RunState::start(run.clone(), logged.graph.clone(), &append.entry);
                logged.state = Some(state.map_err(illegal)?);
            }
        }
        logged.entries.push(append.entry);
        logged.row = append.row;
        for step in append.steps {
            logged.steps.insert(step.ix, step);
        }
        self.rows_are_folds(&run)
    }

    fn restart(&mut self) -> Result<(), String> {
        self.cuts.pop();
        self.lives += 1;
        self.stats.count("restart");
        self.pending = Group::default();
        self.committing = None;
        self.now += u64::from(self.plan.away);
        match self.attempts {
            Attempts::DieWithIt => self.jobs.clear(),
            Attempts::Survive => self.jobs.extend(std::mem::take(&mut self.unacknowledged)),
        }
        self.unacknowledged.clear();
        self.core = Core::new(self.registry.clone(), executors(), [self.lives; 32]);
        self.foreseen.clear();
        let now = self.now();
        for (run, logged) in &self.log {
            if !matches!(logged.ledger.phase, Phase::Ended(_)) {
                match logged.row.rest {
                    Some(rest) => self.core.restore_resting(&logged.row, rest),
                    None => self.core.restore(logged.fold(run)?, now),
                }
                self.foreseen.insert(run.clone(), logged.ledger.clone());
            }
        }
        let log = &self.log;
        self.runs.retain(|_, run| log.contains_key(run));
        self.start_missing()
    }

    /// Reads a run that rests from the log, and takes it up.
    fn take_up(&mut self, run: &RunId, why: &'static str) -> Result<(), String> {
        if self.core.rests(run) {
            self.stats.count(why);
            let state = self.log[run].fold(run)?;
            self.core.restore(state, self.now());
        }
        Ok(())
    }

    /// Whether a run can be asked something. One that rests is taken up for it as soon as the log has all of it.
    fn here(&mut self, run: &RunId) -> Result<bool, String> {
        if !self.core.recall(run) {
            return Ok(true);
        }
        let mut under_way = self.committing.iter().flat_map(|(group, _)| &group.appends);
        let of_it = |append: &Append| append.row.run == *run;
        if under_way.any(of_it) || self.pending.appends.iter().any(of_it) {
            return Ok(false);
        }
        self.take_up(run, "recalled to be asked")?;
        Ok(true)
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), String> {
        let now = self.now();
        match effect {
            Effect::Recall(run) => self.take_up(&run, "recalled when due")?,
            Effect::Launch(_) | Effect::Deliver(_) | Effect::Fire(_) => {
                return Err("no run here works for another, and none starts by itself".to_owned());
            }
            Effect::Dispatch(dispatch) => {
                let Dispatch { key, token, .. } = &*dispatch;
                let ledger = &self
                    .log
                    .get(&key.run)
                    .ok_or("dispatched before its run is in the log")?
                    .ledger;
                if ledger.started.get(&(key.step.clone(), key.attempt)) != Some(token) {
                    return Err(format!(
                        "{key} is dispatched, but the log does not say that it starts"
                    ));
                }
                if !self.dispatched.insert(key.clone()) {
                    return Err(format!("{key} is dispatched twice"));
                }
                if self.core.begin(key, token, now) {
                    let place = ledger.place(ledger.find(&key.step)?);
                    if place.is_through() {
                        return Err(format!("{key} is dispatched although the step is through"));
                    }
                    self.begin(*dispatch)?;
                } else {
                    self.stats.count("not wanted any more");
                    let news = News::Lost("not wanted any more".to_owned());
                    let (key, token) = (key.clone(), token.clone());
                    self.core.report(Report { key, token, news }, now);
                }
            }
            Effect::Stop { key, .. } => self.stop(&key),
            Effect::Attach { executor, key, token } => {
                let here = self
                    .jobs
                    .get(&key)
                    .is_some_and(|job| job.token == token && job.executor == executor);
                if here {
                    self.stats.count("attached");
                } else {
                    let news = News::Lost("gone".to_owned());
                    self.core.report(Report { key, token, news }, now);
                }
            }
        }
        Ok(())
    }
}

/// Whether the log says that an attempt still holds something.
fn holds(log: &BTreeMap<RunId, Logged>, key: &AttemptKey) -> bool {
    let Some(logged) = log.get(&key.run) else {
        return false;
    };
    let ledger = &logged.ledger;
    let current = ledger
        .find(&key.step)
        .is_ok_and(|at| matches!(&ledger.place(at).current, Some(held) if held.attempt == key.attempt));
    current || ledger.discarding.contains_key(&(key.step.clone(), key.attempt))
}
