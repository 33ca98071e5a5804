//! The world around the core: a log that commits after a while, executors that do what the plan says, a
//! clock that jumps to the next thing that happens, an operator, and crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::ledger::{Ledger, Phase, Stats};
use super::plan::{Ask, Plan, Turn, executors, params, registry};
use crate::clock::Now;
use crate::core::{Core, Dispatch, Effect, StartRun, Transition, Verb};
use crate::event::{By, Entry, Output, RunEnd};
use crate::executor::{News, Report};
use crate::failure::Failure;
use crate::id::{AttemptKey, RunId, StepName, Token};
use crate::journal::Append;
use crate::resource::Resources;
use crate::rows::{RunRow, StepRow, run_row, step_row};
use crate::run::{InputValue, RunState};
use crate::stage::{Outcome, Progress, StageRegistry, Wake};
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
    pub(super) end: RunEnd,
    /// The `out` of each step.
    pub(super) outputs: Vec<Value>,
    /// Per step, how its attempts ended, without those that were lost. Only compared where the order of
    /// independent steps cannot change it.
    pub(super) history: Vec<Vec<String>>,
    pub(super) rewound: u32,
}

struct Logged {
    graph: Arc<Graph>,
    entries: Vec<Entry>,
    row: RunRow,
    steps: BTreeMap<StepIx, StepRow>,
    ledger: Ledger,
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
    /// Runs by their place in the plan.
    runs: BTreeMap<usize, RunId>,
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
    pub(super) stats: Stats,
}

/// The wall clock at the beginning, in milliseconds since 1970.
const BEGIN: u64 = 1_790_000_000_000;
const TALK_MS: u64 = 400;

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
            runs: BTreeMap::new(),
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
            stats: Stats::default(),
        };
        world.start_missing();
        world.run()?;
        for logged in world.log.values() {
            world.stats.add(&logged.ledger.stats);
        }
        Ok(world)
    }

    /// How each run ended, in the order of the plan.
    pub(super) fn endings(&self) -> Vec<Ending> {
        let of = |run: &RunId| {
            let ledger = &self.log[run].ledger;
            let Phase::Ended(end) = ledger.phase else {
                unreachable!("checked when the world ended")
            };
            let out = |step: &super::ledger::StepLedger| {
                step.done
                    .as_ref()
                    .map_or(Value::Null, |(_, output)| field(output, "out"))
            };
            Ending {
                end,
                outputs: ledger.steps.iter().map(out).collect(),
                history: ledger.steps.iter().map(|step| step.history.clone()).collect(),
                rewound: ledger.rewound,
            }
        };
        self.runs.values().map(of).collect()
    }

    fn now(&self) -> Now {
        // The monotonic clock begins anew with each process.
        Now {
            wall_ms: BEGIN + self.now,
            mono_ms: self.now,
        }
    }

    /// Starts what is not in the log, as callers do that got no answer.
    fn start_missing(&mut self) {
        for (at, plan) in self.plan.runs.iter().enumerate() {
            if self.runs.contains_key(&at) {
                continue;
            }
            let start = StartRun {
                graph: plan.graph(),
                source: String::new(),
                params: params(at),
                key: Some(format!("run {at}")),
                by: By::default(),
                artifacts: BTreeMap::new(),
                priority: None,
                fork: None,
            };
            let now = self.now();
            let run = self.core.start(start.clone(), now).unwrap();
            assert_eq!(
                self.core.start(start, now).unwrap(),
                run,
                "the same key starts no second run"
            );
            self.runs.insert(at, run);
        }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..200_000 {
            let now = self.now();
            self.core.tick(now);
            for Transition { append, effects } in self.core.settle(now) {
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
            if self.ask() || self.end_jobs() {
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
        self.log.len() == self.plan.runs.len()
            && self
                .log
                .values()
                .all(|logged| matches!(logged.ledger.phase, Phase::Ended(_)))
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
        logged.entries.push(append.entry);
        logged.row = append.row;
        for step in append.steps {
            logged.steps.insert(step.ix, step);
        }
        let state =
            RunState::fold(&run, &logged.graph, &logged.entries).map_err(|error| error.to_string())?;
        if run_row(&state) != logged.row {
            return Err(format!(
                "row {:?} is not the fold {:?}",
                logged.row,
                run_row(&state)
            ));
        }
        for (ix, spec) in logged.graph.steps() {
            let folded = step_row(&state, ix);
            let untouched = folded.attempts == 0 && folded.since == state.created_at;
            match logged.steps.get(&ix) {
                Some(stored) if *stored == folded => {}
                None if untouched => {}
                stored => {
                    return Err(format!(
                        "step {} is stored as {stored:?}, folded {folded:?}",
                        spec.name
                    ));
                }
            }
            let counts = matches!(folded.status, crate::run::StepStatus::Succeeded);
            if folded.output.is_some() != counts || logged.ledger.steps[ix.get()].done.is_some() != counts {
                return Err(format!(
                    "the output of {} is {:?} while it is {:?}",
                    spec.name, folded.output, folded.status
                ));
            }
        }
        let paused = logged.ledger.phase == Phase::Paused;
        if paused != logged.row.reason.is_some() {
            return Err(format!(
                "paused: {paused}, for the reason {:?}",
                logged.row.reason
            ));
        }
        Ok(())
    }

    fn nothing_is_held_twice(&self) -> Result<(), String> {
        let mut held: BTreeMap<&str, (Resources, usize)> = BTreeMap::new();
        for holding in self.log.values().flat_map(|logged| logged.ledger.holdings()) {
            let (sum, count) = held.entry(&holding.executor).or_default();
            *sum += holding.held;
            *count += 1;
        }
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

    /// When nothing is on its way, every open run goes on by itself or says why not.
    fn everything_has_a_reason(&self) -> Result<(), String> {
        for (run, logged) in &self.log {
            let ledger = &logged.ledger;
            let goes_on = ledger.phase != Phase::Running
                || ledger.holdings().next().is_some()
                || ledger.steps.iter().any(|step| step.waiting.is_some());
            let why = self.core.explain(run, self.now());
            if !goes_on && why.iter().all(|step| step.conditions.is_empty()) {
                return Err(format!("{run} neither goes on nor says why: {:?}", logged.row));
            }
        }
        Ok(())
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
        for (run, logged) in &self.log {
            if !matches!(logged.ledger.phase, Phase::Ended(_)) {
                let state =
                    RunState::fold(run, &logged.graph, &logged.entries).map_err(|error| error.to_string())?;
                self.core.restore(
                    state,
                    Now {
                        wall_ms: BEGIN + self.now,
                        mono_ms: self.now,
                    },
                );
            }
        }
        let log = &self.log;
        self.runs.retain(|_, run| log.contains_key(run));
        self.start_missing();
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), String> {
        let now = self.now();
        match effect {
            Effect::Launch(_) | Effect::Deliver(_) | Effect::Fire(_) => {
                return Err("no run here works for another".to_owned());
            }
            Effect::Dispatch(dispatch) => {
                let Dispatch { key, token, .. } = &*dispatch;
                let ledger = &self
                    .log
                    .get(&key.run)
                    .ok_or("dispatched before its run is in the log")?
                    .ledger;
                let step = &ledger.steps[ledger.find(&key.step).get()];
                if step.started.get(&key.attempt) != Some(token) {
                    return Err(format!(
                        "{key} is dispatched, but the log does not say that it starts"
                    ));
                }
                if step.done.is_some() {
                    return Err(format!("{key} is dispatched although the step has succeeded"));
                }
                if !self.dispatched.insert(key.clone()) {
                    return Err(format!("{key} is dispatched twice"));
                }
                if self.core.begin(key, token, now) {
                    self.begin(*dispatch)?;
                } else {
                    let news = News::Lost("not wanted any more".to_owned());
                    self.core.report(
                        Report {
                            key: key.clone(),
                            token: token.clone(),
                            news,
                        },
                        now,
                    );
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
                    self.core.report(
                        Report {
                            key,
                            token,
                            news: News::Lost("gone".to_owned()),
                        },
                        now,
                    );
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, dispatch: Dispatch) -> Result<(), String> {
        let Dispatch {
            executor,
            key,
            token,
            input,
            ..
        } = dispatch;
        let (_, plan) = self.place(&key.run);
        let ledger = &self.log[&key.run].ledger;
        let ix = ledger.find(&key.step);
        let mut outs = Sha256::new().chain_update(key.step.as_str());
        for (name, given) in &input {
            let given = match given {
                InputValue::Value(value) => value.clone(),
                InputValue::Payload { sha256, pointer } => {
                    let file: Value = serde_json::from_str(sha256).unwrap();
                    file.pointer(pointer).cloned().unwrap_or(Value::Null)
                }
                InputValue::List(_) | InputValue::Fields(_) => {
                    return Err(format!("{key} gets a list as {name}"));
                }
            };
            let (what, need) = name.split_once('_').unwrap();
            let (_, output) = ledger.steps[need.parse::<usize>().unwrap()]
                .done
                .as_ref()
                .ok_or("a need is undone")?;
            let due = field(output, what);
            if due != given {
                return Err(format!("{key} gets {given} as {name}, but the log says {due}"));
            }
            if what == "out" {
                outs.update(given.to_string());
            }
        }
        let ended = ledger.steps[ix.get()].ended.get(&key.visit).copied().unwrap_or(0);
        let turn = plan.turn(&ledger.graph, ix, key.visit, ended);
        let step = &plan.steps[ix.get()];
        let done = json!({ "out": hex::encode(&outs.finalize()[..8]), "visit": key.visit });
        let at = self.now + u64::from(step.ms);
        let mut job = Job {
            token,
            executor,
            ends: None,
            payload: false,
            talks: None,
            stubborn: step.stubborn,
        };
        match turn {
            None => {
                job.payload = step.payload;
                job.ends = Some((at, Ok(Outcome::Done(done))));
            }
            Some(Turn::Talk) => {
                job.talks = Some(self.now + TALK_MS);
                job.ends = Some((self.now + 2500, Ok(Outcome::Done(done))));
            }
            Some(Turn::ParkFor(ms)) => {
                job.ends = Some((at, Ok(Outcome::Park(Wake::At(BEGIN + at + u64::from(ms))))));
            }
            Some(Turn::ParkSignal) => {
                job.ends = Some((at, Ok(Outcome::Park(Wake::Signal("word".to_owned())))))
            }
            Some(Turn::Hang) => {}
            Some(Turn::HangTalking) => job.talks = Some(self.now + TALK_MS),
            Some(other) => job.ends = other.failure().map(|failure| (at, Err(failure))),
        }
        self.jobs.insert(key, job);
        Ok(())
    }

    fn place(&self, run: &RunId) -> (usize, &'p super::plan::RunPlan) {
        let (at, _) = self.runs.iter().find(|(_, other)| *other == run).unwrap();
        (*at, &self.plan.runs[*at])
    }

    fn stop(&mut self, key: &AttemptKey) {
        let at = self.now + 10;
        if let Some(job) = self.jobs.get_mut(key) {
            job.talks = None;
            let poison = json!({ "out": "poison" });
            let late = match (job.stubborn, &job.ends) {
                // What is given up may still report success; nobody may believe it.
                (true, None) => Some((at + 3000, Ok(Outcome::Done(poison)))),
                (true, Some(_)) => return,
                (false, _) => Some((at, Err(Failure::transient("stopped", "as asked")))),
            };
            job.ends = late;
        }
    }

    /// Lets attempts end, or report, whose time has come.
    fn end_jobs(&mut self) -> bool {
        let now = self.now();
        let mut moved = false;
        let talking: Vec<AttemptKey> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.talks.is_some_and(|at| at <= self.now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in talking {
            let Some(job) = self.jobs.get_mut(&key) else {
                continue;
            };
            job.talks = Some(self.now + TALK_MS);
            let news = News::Progress(Progress::default());
            self.core.report(
                Report {
                    key,
                    token: job.token.clone(),
                    news,
                },
                now,
            );
            moved = true;
        }
        let due = |job: &Job| job.ends.as_ref().is_some_and(|(at, _)| *at <= self.now);
        let ended: Vec<AttemptKey> = self
            .jobs
            .iter()
            .filter(|(_, job)| due(job))
            .map(|(key, _)| key.clone())
            .collect();
        for key in ended {
            let Some(job) = self.jobs.remove(&key) else {
                continue;
            };
            let Some((_, result)) = job.ends.clone() else {
                continue;
            };
            let token = job.token.clone();
            self.forge(&key, &token);
            match result {
                Ok(Outcome::Done(value)) if job.payload => {
                    let bytes = value.to_string().len() as u64;
                    let output = Output::Payload {
                        sha256: value.to_string(),
                        bytes,
                        artifacts: json!({}),
                        known: serde_json::Value::Null,
                        lengths: std::collections::BTreeMap::new(),
                    };
                    self.core.report_payload(&key, &token, output, now);
                }
                result => {
                    let news = News::Ended(result);
                    self.core.report(
                        Report {
                            key: key.clone(),
                            token: token.clone(),
                            news,
                        },
                        now,
                    );
                }
            }
            // The same news again, from a sender that got no answer.
            let again = News::Ended(Ok(Outcome::Done(json!({ "out": "poison, repeated" }))));
            self.core.report(
                Report {
                    key: key.clone(),
                    token,
                    news: again,
                },
                now,
            );
            self.unacknowledged.push((key, job));
            moved = true;
        }
        moved
    }

    /// Reports that nobody may believe: a wrong fence, an attempt that is over, another run's.
    fn forge(&mut self, key: &AttemptKey, token: &Token) {
        let now = self.now();
        let news = News::Ended(Ok(Outcome::Done(json!({ "out": "poison, forged" }))));
        let wrong = Token::new([0xab; 16]);
        self.core.report(
            Report {
                key: key.clone(),
                token: wrong,
                news: news.clone(),
            },
            now,
        );
        let earlier = AttemptKey {
            attempt: key.attempt.wrapping_sub(1),
            ..key.clone()
        };
        self.core.report(
            Report {
                key: earlier,
                token: token.clone(),
                news: news.clone(),
            },
            now,
        );
        let nobody = AttemptKey {
            run: RunId::new(1, &[7; 10]),
            ..key.clone()
        };
        self.core.report(
            Report {
                key: nobody,
                token: token.clone(),
                news,
            },
            now,
        );
    }

    /// What the plan's operator asks; refusals are answers too.
    fn ask(&mut self) -> bool {
        let plan = self.plan;
        let Some((after, run, ask)) = plan.asks.get(self.asked) else {
            return false;
        };
        if usize::from(*after) > self.commits {
            return false;
        }
        self.asked += 1;
        let at = usize::from(*run) % plan.runs.len();
        let run = self.runs[&at].clone();
        let steps = plan.runs[at].steps.len();
        let verb = match ask {
            Ask::Pause => Verb::Pause,
            Ask::Resume => Verb::Resume,
            Ask::Cancel => Verb::Cancel,
            Ask::RetryAll => Verb::Retry(None),
            Ask::Retry(step) => Verb::Retry(Some(
                StepName::new(&format!("s{}", usize::from(*step) % steps)).unwrap(),
            )),
            Ask::Signal(n) => Verb::Signal(["go0", "go1", "word"][usize::from(*n) % 3].to_owned(), json!(n)),
        };
        let now = self.now();
        if self.core.operate(&run, verb, By::default(), now).is_ok() {
            self.stats.count("asked");
        }
        true
    }

    /// Nothing moves any more: somebody looks, resumes what is paused and gives the signals.
    fn rest(&mut self) -> Result<(), String> {
        self.rests += 1;
        if self.rests > 2000 {
            return Err("somebody has to look again and again".to_owned());
        }
        let now = self.now();
        let mut helped = false;
        for (run, logged) in &self.log {
            let ledger = &logged.ledger;
            if matches!(ledger.phase, Phase::Ended(_)) {
                continue;
            }
            if ledger.phase == Phase::Paused {
                self.core
                    .operate(run, Verb::Resume, By::default(), now)
                    .map_err(|refused| refused.to_string())?;
                helped = true;
            }
            let signals: BTreeSet<String> = ledger
                .steps
                .iter()
                .filter_map(|step| match &step.waiting {
                    Some((Wake::Signal(name), _)) => Some(name.clone()),
                    _ => None,
                })
                .collect();
            for name in signals {
                let verb = Verb::Signal(name, Value::Null);
                self.core
                    .operate(run, verb, By::default(), now)
                    .map_err(|refused| refused.to_string())?;
                helped = true;
            }
        }
        if helped {
            Ok(())
        } else {
            let rows: Vec<_> = self
                .log
                .values()
                .map(|logged| (&logged.row, &logged.steps))
                .collect();
            Err(format!("it is stuck: {rows:?}"))
        }
    }
}

/// Whether the log says that an attempt still holds something.
fn holds(log: &BTreeMap<RunId, Logged>, key: &AttemptKey) -> bool {
    let Some(logged) = log.get(&key.run) else {
        return false;
    };
    let step = &logged.ledger.steps[logged.ledger.find(&key.step).get()];
    step.current
        .as_ref()
        .is_some_and(|holding| holding.attempt == key.attempt)
        || logged
            .ledger
            .discarding
            .contains_key(&(key.step.clone(), key.attempt))
}

/// A field of an output; pretend payload files hold themselves in their hash.
fn field(output: &Output, name: &str) -> Value {
    match output {
        Output::Inline(value) => value[name].clone(),
        Output::Payload { sha256, .. } => serde_json::from_str::<Value>(sha256).unwrap()[name].clone(),
    }
}
