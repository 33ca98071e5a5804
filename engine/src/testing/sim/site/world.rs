//! The life of an installation: people start and change runs, times come, machines come and go, and the
//! daemon is stopped anywhere, until everything has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use super::backend::Backend;
use super::book::Book;
use super::flows::{STARTED, edited, graph, registry, triggered};
use super::machines::{Job, Remote, Standing, own};
use super::store::{Group, Store};
use super::{Dice, Stats};
use crate::clock::Now;
use crate::core::{Core, Delivery, Effect, Fire, Launch, Migration, Refused, StartRun, Verb, run_of};
use crate::event::{By, Event, PauseReason};
use crate::executor::{News, Report};
use crate::id::{AttemptKey, RunId, StepName, Token};
use crate::run::{InputValue, RunStatus, StepStatus};
use crate::stage::StageRegistry;
use crate::workflow::Graph;

/// The wall clock at the beginning, in milliseconds since 1970: a full ten seconds.
const BEGIN: u64 = 1_790_000_000_000;

/// A run that somebody wants.
struct Wanted {
    key: String,
    name: &'static str,
    id: u64,
    number: u64,
    at: u64,
    /// Whether the present daemon was told.
    told: bool,
}

/// What is read before the core can go on with it.
enum Later {
    Launch(Box<Launch>),
    Fire(Box<Fire>),
    Deliver(Box<Delivery>),
}

pub(super) struct World {
    pub(super) dice: Dice,
    registry: Arc<StageRegistry>,
    pub(super) core: Core,
    /// Milliseconds since the beginning, without jumps.
    pub(super) now: u64,
    /// By how much the wall clock is before the monotonic one, in milliseconds.
    skew: i64,
    pub(super) store: Store,
    /// A journal that must say what the model says.
    journal: Option<Box<dyn Backend>>,
    pub(super) book: Book,
    wanted: Vec<Wanted>,
    asks: Vec<u64>,
    triggers: Vec<Arc<Graph>>,
    triggers_on: bool,
    later: Vec<(u64, Later)>,
    pub(super) machines: Vec<Remote>,
    pub(super) jobs: BTreeMap<AttemptKey, Job>,
    pending: Group,
    committing: Option<(Group, u64)>,
    lives: u64,
    looked: u64,
    /// What must never happen, and did.
    pub(super) wrong: Vec<String>,
    pub(super) stats: Stats,
}

/// After so long nothing goes wrong any more, and everything must come to an end.
const CALM_MS: u64 = 150_000;
const END_MS: u64 = 40_000_000;

impl World {
    /// Lives one life.
    pub(super) fn live(seed: u64, journal: Option<Box<dyn Backend>>) -> Result<Stats, String> {
        let mut world = Self::new(seed);
        world.journal = journal;
        world
            .run()
            .map_err(|why| format!("{why}\n  after {} ms, seed {seed}", world.now))?;
        Ok(world.stats)
    }

    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let registry = registry();
        let core = Core::new(registry.clone(), own(), [0; 32]);
        let wanted = (0..2 + dice.below(7)).map(|n| {
            let (name, _) = *dice.pick(&STARTED).unwrap();
            Wanted {
                key: format!("run {n}"),
                name,
                // Some are about the same thing, and must wait for each other.
                id: dice.below(6),
                number: dice.below(1000),
                at: dice.below(60_000),
                told: false,
            }
        });
        let wanted = wanted.collect();
        let asks = (0..dice.below(10)).map(|_| dice.below(CALM_MS)).collect();
        let overlap = *dice.pick(&["skip", "wait", "allow"]).unwrap();
        let catch_up = *dice.pick(&["none", "one", "all"]).unwrap();
        let machines = (0..dice.below(3)).map(|n| Remote {
            name: format!("m{n}"),
            standing: Standing::Returns(dice.below(5000)),
            heard: None,
        });
        let machines = machines.collect();
        Self {
            dice,
            core,
            registry,
            now: 0,
            skew: 0,
            store: Store::default(),
            journal: None,
            book: Book::default(),
            wanted,
            asks,
            triggers: vec![triggered(overlap, catch_up)],
            triggers_on: false,
            later: Vec::new(),
            machines,
            jobs: BTreeMap::new(),
            pending: Group::default(),
            committing: None,
            lives: 0,
            looked: 0,
            wrong: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// The monotonic clock never jumps.
    pub(super) fn now(&self) -> Now {
        Now {
            wall_ms: (BEGIN + self.now).saturating_add_signed(self.skew),
            mono_ms: self.now,
        }
    }

    pub(super) fn is_calm(&self) -> bool {
        self.now >= CALM_MS
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..400_000 {
            if self.now > END_MS {
                break;
            }
            if !self.is_calm() && self.dice.one_in(300) {
                self.stats.count("stopped anywhere");
                let unsynced = self.committing.take().is_some();
                self.restart(unsynced)?;
            }
            if !self.is_calm() && self.dice.one_in(400) {
                let jump = self.dice.below(120_000).cast_signed();
                if self.dice.one_in(3) {
                    self.stats.count("the clock went back");
                    self.skew -= jump;
                } else {
                    self.stats.count("the clock jumped");
                    self.skew += jump;
                }
            }
            let now = self.now();
            self.core.tick(now);
            self.settle()?;
            if let Some(damaged) = self.core.damaged().iter().next() {
                return Err(format!("damaged: {damaged:?}"));
            }
            if let Some(wrong) = self.wrong.pop() {
                return Err(wrong);
            }
            if self.committing.as_ref().is_some_and(|(_, due)| *due <= self.now) {
                self.committed()?;
                continue;
            }
            if self.comes_later()? || self.people()? || self.machines_move() || self.end_jobs() {
                continue;
            }
            if self.all_ended()? {
                return self.ended_well();
            }
            let due = self
                .next()
                .ok_or("nothing is due any more, and something is open")?;
            self.now = self.now.max(due);
        }
        let open = self
            .store
            .runs
            .values()
            .filter(|logged| !logged.row().status.is_final());
        let open: Vec<_> = open.map(|logged| (logged.row(), logged.entries.last())).collect();
        Err(format!("it does not come to an end: {open:?}"))
    }

    fn next(&self) -> Option<u64> {
        let (wall, mono) = self.core.next_due();
        let wall = wall.map(|at| at.saturating_sub(BEGIN.saturating_add_signed(self.skew)));
        let wanted = self.wanted.iter().filter(|one| !one.told).map(|one| one.at);
        let times = wall.into_iter().chain(mono).chain(self.next_word());
        let times = times.chain(wanted).chain(self.asks.iter().copied());
        let times = times.chain(self.later.iter().map(|(at, _)| *at));
        let times = times.chain(self.committing.as_ref().map(|(_, due)| *due));
        // Somebody looks every half a minute.
        times
            .chain(
                [self.looked + 30_000, CALM_MS]
                    .into_iter()
                    .filter(|at| *at > self.now),
            )
            .min()
    }

    fn settle(&mut self) -> Result<(), String> {
        let now = self.now();
        let transitions = self.core.settle(now);
        for transition in &transitions {
            let events = transition.append.iter().flat_map(|append| &append.entry.events);
            for event in events {
                self.starts_where_somebody_is(event)?;
            }
        }
        self.pending.site.extend(self.core.take_site());
        for transition in transitions {
            self.pending.appends.extend(transition.append);
            self.pending.effects.extend(transition.effects);
        }
        if self.committing.is_none() && !self.pending.is_empty() {
            let group = std::mem::take(&mut self.pending);
            self.store.write(&group)?;
            self.committing = Some((group, self.now + self.dice.below(40)));
        }
        Ok(())
    }

    /// Nothing starts on a machine that has been silent for too long.
    fn starts_where_somebody_is(&self, event: &Event) -> Result<(), String> {
        let Event::AttemptStarted { executor, step, .. } = event else {
            return Ok(());
        };
        let Some(name) = crate::executor::machine_of(executor) else {
            return Ok(());
        };
        let found = self.machines.iter().find(|machine| machine.name == name);
        let heard = found.and_then(|machine| machine.heard);
        let silent = heard.map(|heard| self.now - heard);
        match silent {
            Some(ms) if ms < crate::executor::SUSPECT_AFTER_MS => Ok(()),
            _ => Err(format!("{step} starts on {executor}, silent for {silent:?} ms")),
        }
    }

    /// The answer to a commit: it is durable, or nobody knows, or another daemon has the lease.
    fn committed(&mut self) -> Result<(), String> {
        let Some((group, _)) = self.committing.take() else {
            return Ok(());
        };
        let writes = !group.appends.is_empty() || !group.site.is_empty();
        if writes && !self.is_calm() && self.dice.one_in(40) {
            // Whatever it was, the daemon ends, and what is in the store decides.
            let unsynced = match self.dice.below(3) {
                0 => {
                    self.stats.count("unknown outcome, landed");
                    self.durable()?;
                    false
                }
                1 => {
                    self.stats.count("unknown outcome");
                    true
                }
                _ => {
                    self.stats.count("fenced");
                    let late = self.store.lose();
                    if let Some(journal) = &mut self.journal {
                        journal.fence(&late)?;
                    }
                    false
                }
            };
            return self.restart(unsynced);
        }
        self.durable()?;
        for effect in group.effects {
            self.carry_out(effect)?;
        }
        self.acknowledge()
    }

    fn durable(&mut self) -> Result<(), String> {
        let (changed, batch) = self.store.sync()?;
        if let Some(journal) = &mut self.journal
            && !batch.is_empty()
        {
            journal.commit(&batch)?;
        }
        self.book.read(&self.store, &changed, &mut self.stats)
    }

    /// The daemon is stopped, and started again. What was visible and not durable is there, or not.
    fn restart(&mut self, unsynced: bool) -> Result<(), String> {
        if unsynced {
            if self.dice.one_in(2) {
                if !self.store.lose().is_empty() {
                    self.stats.count("an unsynced suffix was lost");
                }
            } else {
                self.stats.count("what was visible survived");
            }
        }
        // What is read at the start is synced first.
        self.durable()?;
        self.lives += 1;
        self.committing = None;
        self.pending = Group::default();
        self.later.clear();
        self.jobs
            .retain(|_, job| crate::executor::machine_of(&job.executor).is_some());
        self.now += [10, 2000, 100_000][usize::try_from(self.dice.below(3)).unwrap()];
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.lives.to_le_bytes());
        self.core = Core::new(self.registry.clone(), own(), seed);
        self.restore()?;
        for machine in &mut self.machines {
            machine.heard = None;
            if let Standing::Here(_) = machine.standing {
                machine.standing = Standing::Returns(self.now + self.dice.below(3000));
            }
        }
        let keys: BTreeSet<&str> = self
            .store
            .runs
            .values()
            .filter_map(|one| one.row().key.as_deref())
            .collect();
        for wanted in &mut self.wanted {
            wanted.told = keys.contains(wanted.key.as_str());
        }
        self.triggers_on = self.core.site().all_triggers().len() == self.triggers.len();
        Ok(())
    }

    /// Brings the core to where the store is: by the model, or as the dispatcher does it by the journal.
    fn restore(&mut self) -> Result<(), String> {
        let now = self.now();
        if let Some(journal) = &mut self.journal {
            journal.restore(&mut self.core, now)?;
            return journal.compare(&self.store);
        }
        self.core.restore_site(&self.store.site)?;
        for logged in self.store.runs.values() {
            let row = logged.row();
            match row.rest {
                _ if row.status.is_final() && row.discarding.is_empty() => {}
                Some(rest) => self.core.restore_resting(row, rest),
                None => self.core.restore(logged.fold()?, now),
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), String> {
        let now = self.now();
        let soon = self.now + self.dice.below(200);
        match effect {
            Effect::Dispatch(dispatch) => self.begin(*dispatch),
            Effect::Launch(launch) => self.later.push((soon, Later::Launch(launch))),
            Effect::Fire(fire) => self.later.push((soon, Later::Fire(fire))),
            Effect::Deliver(delivery) => {
                self.core.end_told(&delivery.run);
                self.later.push((soon, Later::Deliver(delivery)));
            }
            Effect::Recall(run) => {
                self.stats.count("recalled");
                let state = self.store.runs[&run].fold()?;
                if self.core.rests(&run) {
                    self.core.restore(state, now);
                }
            }
            Effect::Stop { executor, key } if run_of(&executor).is_some() => {
                self.stats.count("a run for others was stopped");
                self.core.stop_served(&executor, &key, now);
            }
            Effect::Stop { key, .. } => self.stop(&key),
            Effect::Attach { executor, key, token } if run_of(&executor).is_some() => {
                self.attach_run(&executor, &key, &token)?;
            }
            Effect::Attach { executor, key, token } => self.attach(&executor, &key, &token),
        }
        Ok(())
    }

    /// After a restart: the run behind the executor is open, or has ended untold.
    fn attach_run(&mut self, executor: &str, key: &AttemptKey, token: &Token) -> Result<(), String> {
        if self.core.serves(executor) {
            return Ok(());
        }
        let run = run_of(executor).ok_or("no run")?;
        let told = match self.store.runs.get(&run) {
            Some(logged) => Delivery::of(&logged.fold()?),
            None => None,
        };
        let mut reports = match told {
            Some(delivery) => {
                self.stats.count("an end was told after a restart");
                reports(delivery)
            }
            None => return Err(format!("{key} is done by {run}, which is not there")),
        };
        reports.retain(|report| report.key == *key && report.token == *token);
        let now = self.now();
        for report in reports {
            self.core.report(report, now);
        }
        Ok(())
    }

    /// What was read is there.
    fn comes_later(&mut self) -> Result<bool, String> {
        let Some(at) = self.later.iter().position(|(due, _)| *due <= self.now) else {
            return Ok(false);
        };
        let now = self.now();
        match self.later.remove(at).1 {
            Later::Launch(launch) => {
                let params = InputValue::Fields(launch.input.clone()).at_hand();
                let params = params.ok_or("inputs of a part are at hand")?;
                self.core.launch(&launch, Ok(params), BTreeMap::new(), now);
            }
            Later::Fire(fire) => self.core.fire(&fire, Ok(BTreeMap::new()), now),
            Later::Deliver(delivery) => {
                for report in reports(*delivery) {
                    if self.core.report(report, now) {
                        self.stats.count("delivered");
                    }
                }
            }
        }
        Ok(true)
    }

    /// What people do: they start runs, change them, and look at what is paused.
    fn people(&mut self) -> Result<bool, String> {
        let now = self.now();
        if self.now >= self.looked + 30_000 {
            self.looked = self.now;
            self.look()?;
            return Ok(true);
        }
        if !self.triggers_on && !self.is_calm() {
            for graph in &self.triggers {
                let by = By::default();
                self.core
                    .enable_triggers(graph.clone(), String::new(), by, now)
                    .map_err(|refused| refused.to_string())?;
            }
            self.triggers_on = true;
            return Ok(true);
        }
        if self.triggers_on && self.is_calm() {
            for graph in &self.triggers {
                let name = graph.data().name.clone();
                if self.core.site().triggers(&name).is_some() {
                    self.core
                        .disable_triggers(name, By::default(), now)
                        .map_err(|refused| refused.to_string())?;
                }
            }
            self.triggers_on = false;
            return Ok(true);
        }
        let due = self.wanted.iter().position(|one| !one.told && one.at <= self.now);
        if let Some(at) = due {
            let wanted = &mut self.wanted[at];
            let start = StartRun {
                graph: graph(wanted.name),
                source: String::new(),
                params: json!({ "id": wanted.id, "number": wanted.number }),
                key: Some(wanted.key.clone()),
                by: By::default(),
                artifacts: BTreeMap::new(),
                priority: None,
                fork: None,
            };
            match self.core.start(start, now) {
                Ok(_) => wanted.told = true,
                Err(Refused::Busy { .. }) => {
                    self.stats.count("subject in use");
                    wanted.at = self.now + 10_000;
                }
                Err(refused) => return Err(refused.to_string()),
            }
            return Ok(true);
        }
        if let Some(at) = self.asks.iter().position(|at| *at <= self.now) {
            self.asks.remove(at);
            self.ask()?;
            return Ok(true);
        }
        Ok(false)
    }

    fn open(&self) -> Vec<RunId> {
        let open = self
            .store
            .runs
            .iter()
            .filter(|(_, logged)| !logged.row().status.is_final());
        open.map(|(run, _)| run.clone()).collect()
    }

    fn ask(&mut self) -> Result<(), String> {
        let open = self.open();
        let Some(run) = self.dice.pick(&open).cloned() else {
            return Ok(());
        };
        let (state, now) = (self.store.runs[&run].fold()?, self.now());
        let steps: Vec<StepName> = state.steps().map(|(ix, _)| state.name(ix)).collect();
        let step = self.dice.pick(&steps).cloned().ok_or("a run without steps")?;
        let verb = match self.dice.below(12) {
            0 => Verb::Pause,
            1 => Verb::Resume,
            2 => Verb::Cancel,
            3 => Verb::Retry(None),
            4 => Verb::Retry(Some(step)),
            5 | 6 => Verb::Rewind(step),
            7 => Verb::Prioritize(i32::try_from(self.dice.below(5)).unwrap_or_default() - 2),
            _ => {
                let name = state.graph.data().name.to_string();
                let Some((name, _)) = STARTED.iter().find(|(known, _)| *known == name) else {
                    return Ok(());
                };
                let graph = if self.dice.one_in(3) {
                    graph(name)
                } else {
                    edited(name)
                };
                let (source, redo) = (String::new(), self.dice.one_in(2));
                Verb::Migrate(Box::new(Migration { graph, source, redo }))
            }
        };
        if !self.take_up(&run)? {
            self.asks.push(self.now + 100);
            return Ok(());
        }
        let moves = matches!(verb, Verb::Migrate(_));
        match self.core.operate(&run, verb, By::default(), now) {
            Ok(()) => self
                .stats
                .count(if moves { "moved to another graph" } else { "asked" }),
            Err(Refused::Damaged { why, .. }) => return Err(why),
            Err(_) => self
                .stats
                .count(if moves { "a move was refused" } else { "refused" }),
        }
        Ok(())
    }

    /// Takes up a run that rests, to be asked at once. Not while a commit is under way: the log may lack its end.
    fn take_up(&mut self, run: &RunId) -> Result<bool, String> {
        if !self.core.rests(run) {
            return Ok(true);
        }
        if self.committing.is_some() || !self.pending.is_empty() {
            return Ok(false);
        }
        self.stats.count("recalled to be asked");
        let (state, now) = (self.store.runs[run].fold()?, self.now());
        self.core.restore(state, now);
        Ok(true)
    }

    /// Somebody resumes what is paused.
    fn look(&mut self) -> Result<(), String> {
        for run in self.open() {
            let state = self.store.runs[&run].fold()?;
            if state.status != RunStatus::Paused {
                continue;
            }
            if !matches!(state.pause, Some(PauseReason::Operator(_))) {
                self.stats.count("paused by a failure");
            }
            if !self.take_up(&run)? {
                self.looked = self.now.saturating_sub(29_000);
                continue;
            }
            let now = self.now();
            match self.core.operate(&run, Verb::Resume, By::default(), now) {
                Ok(()) => self.stats.count("resumed"),
                Err(Refused::Damaged { why, .. }) => return Err(why),
                // It is not paused any more, only the log does not say so yet.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn all_ended(&self) -> Result<bool, String> {
        let started = self.wanted.iter().all(|one| one.told) && self.asks.is_empty();
        let quiet = self.committing.is_none() && self.pending.is_empty() && self.later.is_empty();
        Ok(started && quiet && self.is_calm() && !self.triggers_on && self.open().is_empty())
    }

    fn ended_well(&mut self) -> Result<(), String> {
        if self.core.open() > 0 || self.core.busy() {
            return Err("something is open or held at the end".to_owned());
        }
        for logged in self.store.runs.values() {
            let state = logged.fold()?;
            if state.status == RunStatus::Succeeded {
                self.stats.count("run succeeded");
                self.book.follows(&self.store, &state)?;
            } else {
                self.stats.count("run cancelled");
                let running = state.steps().any(|(_, step)| step.status == StepStatus::Running);
                if running {
                    return Err(format!("{} has ended, and works", state.id));
                }
            }
        }
        if let Some(journal) = &self.journal {
            journal.compare(&self.store)?;
        }
        self.book.everybody_was_told(&self.store)
    }
}

/// The reports of those that a run worked for.
fn reports(delivery: Delivery) -> Vec<Report> {
    let values = delivery.result.clone().unwrap_or_default();
    let values = InputValue::Fields(values).at_hand();
    let reports = delivery.reports(values.ok_or_else(|| "values are at hand".to_owned()));
    debug_assert!(
        reports
            .iter()
            .all(|report| !matches!(report.news, News::Progress(_)))
    );
    reports
}
