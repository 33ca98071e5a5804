//! All runs together, without input or output: takes what came in and the time, gives back what to
//! append to the journal and what to do once that is durable. The dispatcher and the simulator both
//! drive it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Now;
use crate::decide::{Command, decide};
use crate::event::{By, Entry, Event, Output, PauseReason, RunEnd, WaitReason};
use crate::executor::{ExecutorSpec, News, Report};
use crate::failure::{Failure, FailureClass};
use crate::id::{AttemptKey, RunId, StageName, StepName, Subject, Token};
use crate::journal::{Append, ArtifactRow, StoredGraph};
use crate::resource::Resources;
use crate::rows::{RunRow, run_row, step_row};
use crate::run::{Current, Discarding, InputValue, RunState, RunStatus, StepStatus};
use crate::stage::{Claim, Outcome, Progress, StageRegistry, Wake};
use crate::workflow::{Graph, Source, StepIx, WaitSpec};

/// A run to start.
#[derive(Debug, Clone)]
pub struct StartRun {
    /// The graph.
    pub graph: Arc<Graph>,
    /// The text it came from.
    pub source: String,
    /// Its parameters as they were given.
    pub params: Value,
    /// The caller's name for it: the same name starts no second run.
    pub key: Option<String>,
    /// Who starts it.
    pub by: By,
    /// What its subject owns, by kind, read from the journal.
    pub artifacts: BTreeMap<String, Value>,
}

/// Something that a person or a program asks of a run.
#[derive(Debug, Clone)]
pub enum Verb {
    /// Start nothing more.
    Pause,
    /// Go on; failed steps get a fresh retry budget.
    Resume,
    /// End it.
    Cancel,
    /// Let a failed or waiting step start again; without a name every failed or backing-off one. A
    /// succeeded step is done again with all that need it, if it is named.
    Retry(Option<StepName>),
    /// Tell it something.
    Signal(String, Value),
}

/// Why a request was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such run, or it has ended.
    #[error("there is no open run {0}; `sealflow run list` shows all")]
    NoRun(RunId),
    /// The parameters do not fit the workflow.
    #[error("{0}")]
    Params(String),
    /// The subject is in use.
    #[error(
        "{subject} is in use by {holder}: one run writes to a subject at a time; cancel it or wait for its end"
    )]
    Busy {
        /// The subject.
        subject: Subject,
        /// The run that has it.
        holder: RunId,
    },
    /// The request makes no sense in this state.
    #[error("{0}")]
    State(String),
    /// The run cannot go on because its journal contradicts itself.
    #[error("run {run} is set aside: {why}; `sealflow store check` says more")]
    Damaged {
        /// The run.
        run: RunId,
        /// What is wrong.
        why: String,
    },
}

/// What to do once the append that it came with is durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Have this executor run an attempt.
    Dispatch(Box<Dispatch>),
    /// Have this executor stop an attempt.
    Stop {
        /// The executor.
        executor: String,
        /// The attempt.
        key: AttemptKey,
    },
    /// Ask this executor whether it still has an attempt from before a restart.
    Attach {
        /// The executor.
        executor: String,
        /// The attempt.
        key: AttemptKey,
        /// Its fence.
        token: Token,
    },
}

/// An attempt to hand to an executor; values that are not at hand are still to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Dispatch {
    /// The executor.
    pub executor: String,
    /// Which attempt.
    pub key: AttemptKey,
    /// Its fence.
    pub token: Token,
    /// What the run is about.
    pub subject: Subject,
    /// The stage.
    pub stage: StageName,
    /// Its input.
    pub input: BTreeMap<String, InputValue>,
    /// What it may hold.
    pub held: Resources,
}

/// An append, and what to do once it is durable.
#[derive(Debug)]
pub struct Transition {
    /// What to commit; nothing when there is no change to remember.
    pub append: Option<Append>,
    /// What to do then.
    pub effects: Vec<Effect>,
}

/// Why a step does not run, with numbers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Blocked {
    /// The reason in one sentence.
    pub reason: String,
}

#[derive(Debug)]
struct Live {
    state: RunState,
    /// Wakes in the timer queue.
    armed: BTreeMap<StepIx, u64>,
    /// Attempts that were asked to stop.
    stopping: BTreeSet<AttemptKey>,
    /// How far running attempts are.
    progress: BTreeMap<StepIx, Progress>,
    /// When running attempts are given up (monotonic), as far as the core's queue has them.
    limits: BTreeMap<StepIx, Vec<(u64, Limit)>>,
    /// Events of the entry that is being made.
    events: Vec<Event>,
    effects: Vec<Effect>,
    graph_source: Option<Arc<StoredGraph>>,
}

/// What makes the core give up an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    /// It runs for too long.
    Run,
    /// It reported no progress for too long.
    Silence,
}

impl Limit {
    fn code(self) -> &'static str {
        match self {
            Self::Run => "ran_too_long",
            Self::Silence => "silent_too_long",
        }
    }
}

/// How an attempt ended.
enum End {
    Done(Output),
    Parked(Wake),
    Failed(Failure),
    Lost(String),
}

/// An attempt of a run that was set aside: nobody wants its result, but until it ends it holds what it
/// holds.
#[derive(Debug)]
struct Orphan {
    token: Token,
    executor: String,
    held: Resources,
}

#[derive(Debug)]
struct Place {
    spec: ExecutorSpec,
    held: Resources,
    attempts: usize,
    /// Not used before this monotonic time: its last attempt failed critically.
    suspended_until: u64,
}

/// How long an executor is left alone after a critical failure.
const SUSPENSION_MS: u64 = 60_000;

/// All open runs.
pub struct Core {
    registry: Arc<StageRegistry>,
    places: Vec<Place>,
    runs: BTreeMap<RunId, Live>,
    /// Runs that contradict themselves; they are left alone, and nobody else is disturbed.
    damaged: BTreeMap<RunId, String>,
    keys: HashMap<String, RunId>,
    claims: HashMap<Subject, BTreeMap<RunId, Claim>>,
    ready: BTreeMap<StageName, BTreeSet<(u64, RunId, StepIx)>>,
    /// Wakes by wall clock.
    timers: BTreeSet<(u64, RunId, StepIx)>,
    /// Attempt limits by monotonic clock.
    limits: BTreeSet<(u64, AttemptKey, Limit)>,
    orphans: BTreeMap<AttemptKey, Orphan>,
    /// Effects that belong to no open run.
    stray: Vec<Effect>,
    seed: [u8; 32],
    drawn: u64,
    dirty: BTreeSet<RunId>,
    /// The time of all events since the last settling: they become entries together.
    at: Option<u64>,
}

impl Core {
    /// No runs yet. `seed` must be unpredictable in production: fences are drawn from it.
    pub fn new(registry: Arc<StageRegistry>, executors: Vec<ExecutorSpec>, seed: [u8; 32]) -> Self {
        let places = executors
            .into_iter()
            .map(|spec| Place {
                spec,
                held: Resources::default(),
                attempts: 0,
                suspended_until: 0,
            })
            .collect();
        Self {
            registry,
            places,
            runs: BTreeMap::new(),
            damaged: BTreeMap::new(),
            keys: HashMap::new(),
            claims: HashMap::new(),
            ready: BTreeMap::new(),
            timers: BTreeSet::new(),
            limits: BTreeSet::new(),
            orphans: BTreeMap::new(),
            stray: Vec::new(),
            seed,
            drawn: 0,
            dirty: BTreeSet::new(),
            at: None,
        }
    }

    fn draw<const N: usize>(&mut self) -> [u8; N] {
        self.drawn += 1;
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.drawn.to_le_bytes())
            .finalize();
        let mut bytes = [0; N];
        bytes.copy_from_slice(&digest[..N]);
        bytes
    }

    /// Takes up a run from its journal: the only way runs are taken up, after a start or a restart.
    /// Attempts that may still run get their full time limits again, because the clock that judged
    /// them is gone.
    pub fn restore(&mut self, state: RunState, now: Now) {
        let run = state.id.clone();
        let mut effects = Vec::new();
        let mut running = Vec::new();
        for (ix, step) in state.steps() {
            if let (Some(current), Some(key)) = (&step.current, state.current_key(ix)) {
                self.occupy(&current.executor, current.held);
                running.push((ix, key.clone()));
                let (executor, token) = (current.executor.clone(), current.token.clone());
                effects.push(Effect::Attach { executor, key, token });
            }
        }
        for gone in state.discarding.values() {
            self.occupy(&gone.executor, gone.held);
            let (executor, key, token) = (gone.executor.clone(), gone.key.clone(), gone.token.clone());
            effects.push(Effect::Attach {
                executor: executor.clone(),
                key: key.clone(),
                token,
            });
            // Whether it was asked to stop before the restart is not known.
            effects.push(Effect::Stop { executor, key });
        }
        self.admit_run(state, effects, None);
        for (ix, key) in running {
            self.limit(&run, ix, &key, now);
        }
    }

    /// Leaves a run aside that cannot be understood. Its subject stays claimed: nobody knows what was
    /// being done to it.
    pub fn set_aside(&mut self, row: &RunRow, why: String) {
        self.claim(&row.subject, &row.run, row.claim, row.status.is_final());
        if let Some(key) = &row.key {
            self.keys.insert(key.clone(), row.run.clone());
        }
        tracing::error!(run = %row.run, why, "run set aside");
        self.damaged.insert(row.run.clone(), why);
    }

    fn claim(&mut self, subject: &Subject, run: &RunId, claim: Claim, is_final: bool) {
        if claim != Claim::None && !is_final {
            self.claims
                .entry(subject.clone())
                .or_default()
                .insert(run.clone(), claim);
        }
    }

    /// Starts the time limits of an attempt.
    fn limit(&mut self, run: &RunId, ix: StepIx, key: &AttemptKey, now: Now) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        let timeout = &live.state.graph.step(ix).timeout;
        let limits = [(timeout.run_ms, Limit::Run), (timeout.silence_ms, Limit::Silence)];
        let limits = limits
            .into_iter()
            .filter_map(|(ms, limit)| Some((now.mono_ms.saturating_add(ms?), limit)));
        let limits: Vec<(u64, Limit)> = limits.collect();
        self.limits
            .extend(limits.iter().map(|(due, limit)| (*due, key.clone(), *limit)));
        if !limits.is_empty() {
            live.limits.insert(ix, limits);
        }
    }

    /// Ends the time limits of a step's attempt.
    fn unlimit(&mut self, ix: StepIx, key: &AttemptKey) {
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        for (due, limit) in live.limits.remove(&ix).unwrap_or_default() {
            self.limits.remove(&(due, key.clone(), limit));
        }
    }

    fn admit_run(&mut self, state: RunState, effects: Vec<Effect>, graph_source: Option<Arc<StoredGraph>>) {
        let run = state.id.clone();
        if let Some(key) = &state.key {
            self.keys.insert(key.clone(), run.clone());
        }
        self.claim(
            &state.subject,
            &run,
            state.graph.data().claim,
            state.status.is_final(),
        );
        let live = Live {
            state,
            armed: BTreeMap::new(),
            stopping: BTreeSet::new(),
            progress: BTreeMap::new(),
            limits: BTreeMap::new(),
            events: Vec::new(),
            effects,
            graph_source,
        };
        self.runs.insert(run.clone(), live);
        self.dirty.insert(run);
    }

    /// Starts a run, or finds the one that was started under the same name.
    ///
    /// # Errors
    /// Wrong parameters, or a subject in use.
    pub fn start(&mut self, start: StartRun, now: Now) -> Result<RunId, Refused> {
        if let Some(run) = start.key.as_ref().and_then(|key| self.keys.get(key)) {
            return Ok(run.clone());
        }
        let data = start.graph.data();
        let (params, subject) = check_params(&self.registry, &start.graph, &start.params)?;
        self.check_claim(&subject, data.claim)?;
        check_artifacts(&start.graph, &subject, &start.artifacts)?;
        let run = RunId::new(now.wall_ms, &self.draw());
        let event = Event::RunStarted {
            workflow: data.name.clone(),
            graph: start.graph.hash().clone(),
            subject,
            params,
            artifacts: Value::Object(start.artifacts.into_iter().collect()),
            key: start.key,
            by: start.by,
        };
        let stored = Arc::new(StoredGraph {
            data: data.clone(),
            source: start.source,
        });
        let at = *self.at.get_or_insert(now.wall_ms);
        let entry = Entry {
            seq: 1,
            at,
            events: vec![event.clone()],
        };
        let mut state = RunState::start(run.clone(), start.graph, &entry)
            .map_err(|error| Refused::State(error.to_string()))?;
        state.seq = 0; // The entry is sealed with everything else that this input causes.
        self.admit_run(state, Vec::new(), Some(stored));
        if let Some(live) = self.runs.get_mut(&run) {
            live.events.push(event);
        }
        Ok(run)
    }

    /// The subject of a run that is to be started.
    ///
    /// # Errors
    /// Wrong parameters.
    pub fn subject_of(registry: &StageRegistry, graph: &Graph, params: &Value) -> Result<Subject, Refused> {
        check_params(registry, graph, params).map(|(_, subject)| subject)
    }

    fn check_claim(&self, subject: &Subject, claim: Claim) -> Result<(), Refused> {
        let Some(holders) = self.claims.get(subject) else {
            return Ok(());
        };
        let conflict = holders.iter().find(|(_, held)| match claim {
            Claim::None => false,
            Claim::Read => **held == Claim::Write,
            Claim::Write => true,
        });
        match conflict {
            Some((holder, _)) => Err(Refused::Busy {
                subject: subject.clone(),
                holder: holder.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Does what an operator asks of a run.
    ///
    /// # Errors
    /// No such open run, or the request makes no sense now.
    pub fn operate(&mut self, run: &RunId, verb: Verb, by: By, now: Now) -> Result<(), Refused> {
        self.at.get_or_insert(now.wall_ms);
        if let Some(why) = self.damaged.get(run) {
            return Err(Refused::Damaged {
                run: run.clone(),
                why: why.clone(),
            });
        }
        let live = self
            .runs
            .get_mut(run)
            .ok_or_else(|| Refused::NoRun(run.clone()))?;
        let state = &live.state;
        let status = state.status;
        if status.is_final() {
            return Err(Refused::NoRun(run.clone()));
        }
        let wrong = |what: &str| {
            Err(Refused::State(format!(
                "run {run} is {}: {what}",
                status.as_str()
            )))
        };
        let mut events = Vec::new();
        let mut redo = None;
        match verb {
            Verb::Pause if status == RunStatus::Running => {
                events.push(Event::RunPaused {
                    reason: PauseReason::Operator(by),
                });
            }
            Verb::Pause => return wrong("only a running run can be paused"),
            Verb::Resume if status == RunStatus::Paused => {
                events.extend(retries(state, None, &by, true));
                events.push(Event::RunResumed { by });
            }
            Verb::Resume => return wrong("only a paused run can be resumed"),
            Verb::Cancel if status == RunStatus::Cancelling => return Ok(()),
            Verb::Cancel => events.push(Event::CancelRequested { by }),
            Verb::Retry(step) => {
                if status == RunStatus::Cancelling {
                    return wrong("it is being cancelled");
                }
                if let Some(step) = &step
                    && state.graph.find(step).is_none()
                {
                    return wrong(&format!("it has no step `{step}`"));
                }
                events.extend(retries(state, step.as_ref(), &by, false));
                let succeeded = step.as_ref().and_then(|step| state.graph.find(step));
                redo = succeeded.filter(|ix| state.step(*ix).status == StepStatus::Succeeded);
                if let (Some(_), Some(step)) = (redo, step) {
                    let by = by.clone();
                    events.push(Event::StepRedone { step, by });
                }
                if events.is_empty() {
                    return wrong("no step has failed or waits for its next attempt");
                }
                if status == RunStatus::Paused {
                    events.push(Event::RunResumed { by });
                }
            }
            Verb::Signal(name, data) => events.push(Event::SignalReceived { name, data, by }),
        }
        if let Some(ix) = redo {
            self.stop_from(run, ix);
        }
        for event in events {
            self.record(run, event);
        }
        match self.damaged.get(run) {
            Some(why) => Err(Refused::Damaged {
                run: run.clone(),
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Takes a report of an executor.
    pub fn report(&mut self, report: Report, now: Now) {
        let Report { key, token, news } = report;
        match news {
            News::Progress(progress) => self.advanced(&key, &token, progress, now),
            News::Ended(Ok(Outcome::Done(value))) => {
                self.ended(&key, &token, End::Done(Output::Inline(value)), now);
            }
            News::Ended(Ok(Outcome::Park(wake))) => self.ended(&key, &token, End::Parked(wake), now),
            News::Ended(Err(failure)) => self.ended(&key, &token, End::Failed(failure), now),
            News::Lost(why) => self.ended(&key, &token, End::Lost(why), now),
        }
    }

    /// Takes the report of an attempt whose output is in a payload file.
    pub fn report_payload(&mut self, key: &AttemptKey, token: &Token, output: Output, now: Now) {
        self.ended(key, token, End::Done(output), now);
    }

    /// The step whose current attempt this is.
    fn current(&self, key: &AttemptKey, token: &Token) -> Option<(StepIx, &Current)> {
        let state = &self.runs.get(&key.run)?.state;
        let ix = state.graph.find(&key.step)?;
        let current = state.step(ix).current.as_ref()?;
        let is_current = current.attempt == key.attempt && current.token == *token;
        is_current.then_some((ix, current))
    }

    /// An attempt that was granted is about to begin; says whether it still may. What is on its way to an
    /// executor may have been superseded, or its run cancelled. Its time limits count from here: how long
    /// the commit took, or the input to arrive, is not the attempt's fault.
    pub fn begin(&mut self, key: &AttemptKey, token: &Token, now: Now) -> bool {
        let stops = self
            .runs
            .get(&key.run)
            .is_none_or(|live| live.stopping.contains(key));
        let Some((ix, _)) = self.current(key, token) else {
            return false;
        };
        if !stops {
            self.unlimit(ix, key);
            self.limit(&key.run, ix, key, now);
        }
        !stops
    }

    fn advanced(&mut self, key: &AttemptKey, token: &Token, progress: Progress, now: Now) {
        let Some((ix, _)) = self.current(key, token) else {
            return;
        };
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        live.progress.insert(ix, progress);
        let silence = live.state.graph.step(ix).timeout.silence_ms;
        let limit = live
            .limits
            .get_mut(&ix)
            .and_then(|all| all.iter_mut().find(|(_, limit)| *limit == Limit::Silence));
        if let (Some(silence), Some((due, limit))) = (silence, limit) {
            self.limits.remove(&(*due, key.clone(), *limit));
            *due = now.mono_ms.saturating_add(silence);
            self.limits.insert((*due, key.clone(), *limit));
        }
    }

    fn ended(&mut self, key: &AttemptKey, token: &Token, end: End, now: Now) {
        self.at.get_or_insert(now.wall_ms);
        if self.orphans.get(key).is_some_and(|orphan| orphan.token == *token) {
            if let Some(orphan) = self.orphans.remove(key) {
                self.vacate(&orphan.executor, orphan.held);
            }
            return;
        }
        let (step, attempt) = (key.step.clone(), key.attempt);
        let discarding = self.runs.get(&key.run).map(|live| &live.state.discarding);
        if let Some(gone) = discarding.and_then(|all| all.get(&(step.clone(), attempt))) {
            if gone.token == *token {
                let (executor, held) = (gone.executor.clone(), gone.held);
                self.vacate(&executor, held);
                self.record(&key.run, Event::AttemptReleased { step, attempt });
            }
            return;
        }
        let Some((ix, current)) = self.current(key, token) else {
            tracing::debug!(%key, "report of a superseded attempt");
            return;
        };
        let current = current.clone();
        let seconds = seconds_since(current.started_at, now);
        self.unlimit(ix, key);
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        live.progress.remove(&ix);
        live.stopping.remove(key);
        let cancelling = live.state.status == RunStatus::Cancelling;
        let event = match end {
            End::Done(output) => Event::AttemptSucceeded {
                step,
                attempt,
                output,
                seconds,
            },
            End::Parked(wake) => Event::StepWaiting {
                step,
                wake,
                reason: WaitReason::Parked,
                attempt: Some(attempt),
            },
            End::Failed(failure) => {
                if failure.class == FailureClass::Critical {
                    self.suspend(&current.executor, now);
                }
                let charged = failure.class != FailureClass::Critical && !cancelling;
                Event::AttemptFailed {
                    step,
                    attempt,
                    failure,
                    charged,
                    seconds,
                    still_running: false,
                }
            }
            End::Lost(why) => Event::AttemptLost { step, attempt, why },
        };
        self.vacate(&current.executor, current.held);
        self.record(&key.run, event);
    }

    /// Wakes what is due and gives up what took too long.
    pub fn tick(&mut self, now: Now) {
        self.at.get_or_insert(now.wall_ms);
        while let Some((due, run, ix)) = self.timers.first().cloned() {
            if due > now.wall_ms {
                break;
            }
            self.timers.pop_first();
            let Some(live) = self.runs.get_mut(&run) else {
                continue;
            };
            live.armed.remove(&ix);
            let waits = matches!(&live.state.step(ix).wake, Some((Wake::At(at), _)) if *at <= now.wall_ms);
            if waits && live.state.step(ix).status == StepStatus::Waiting {
                let step = live.state.graph.step(ix).name.clone();
                self.record(&run, Event::StepWoken { step });
            }
        }
        while let Some((due, key, limit)) = self.limits.first().cloned() {
            if due > now.mono_ms {
                break;
            }
            self.limits.pop_first();
            self.give_up(&key, limit, now);
        }
        for place in &mut self.places {
            if place.suspended_until <= now.mono_ms {
                place.suspended_until = 0;
            }
        }
    }

    fn give_up(&mut self, key: &AttemptKey, limit: Limit, now: Now) {
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        let Some(ix) = live.state.graph.find(&key.step) else {
            return;
        };
        let Some(current) = live.state.step(ix).current.clone() else {
            return;
        };
        if current.attempt != key.attempt {
            return;
        }
        let seconds = seconds_since(current.started_at, now);
        let message = format!(
            "attempt {} ran {seconds:.0} s; the workflow's `timeout` for this step is used up",
            key.attempt
        );
        live.effects.push(Effect::Stop {
            executor: current.executor,
            key: key.clone(),
        });
        live.progress.remove(&ix);
        self.unlimit(ix, key);
        let failure = Failure::transient(limit.code(), message);
        let (step, attempt) = (key.step.clone(), key.attempt);
        self.record(
            &key.run,
            Event::AttemptFailed {
                step,
                attempt,
                failure,
                charged: true,
                seconds,
                still_running: true,
            },
        );
    }

    /// The wall-clock and monotonic times at which [`Core::tick`] has something to do.
    pub fn next_due(&self) -> (Option<u64>, Option<u64>) {
        let limit = self.limits.first().map(|(due, ..)| *due);
        let suspension = self
            .places
            .iter()
            .map(|place| place.suspended_until)
            .filter(|until| *until > 0)
            .min();
        (
            self.timers.first().map(|(due, ..)| *due),
            limit.into_iter().chain(suspension).min(),
        )
    }

    /// How far the running attempts of a run are.
    pub fn progress(&self, run: &RunId) -> Vec<(StepName, Progress)> {
        let Some(live) = self.runs.get(run) else {
            return Vec::new();
        };
        let of = |ix: &StepIx| live.state.graph.step(*ix).name.clone();
        live.progress
            .iter()
            .map(|(ix, progress)| (of(ix), progress.clone()))
            .collect()
    }

    /// Why ready steps of a run have not started, with numbers.
    pub fn blocked(&self, run: &RunId) -> Vec<(StepName, Blocked)> {
        let Some(live) = self.runs.get(run) else {
            return Vec::new();
        };
        let mut blocked = Vec::new();
        for ix in live.state.frontier() {
            let spec = live.state.graph.step(ix);
            if live.state.step(ix).status != StepStatus::Ready {
                continue;
            }
            let reason = if live.state.status == RunStatus::Paused {
                "the run is paused".to_owned()
            } else if live.state.status == RunStatus::Cancelling {
                "the run is being cancelled".to_owned()
            } else if let Some(gone) = live.state.discarding.values().next() {
                format!(
                    "attempt {} was given up but cannot be interrupted; its end is awaited",
                    gone.key
                )
            } else if let Some(stage) = &spec.stage {
                let need = self.costs(&live.state, ix, &stage.name);
                let mut reason = self.why_no_place(&stage.name, need);
                let place = (live.state.step(ix).since, run.clone(), ix);
                let first = self
                    .ready
                    .get(&stage.name)
                    .map_or(0, |queue| queue.range(..place).count());
                if first > 0 {
                    reason.push_str(&format!(
                        "; {first} that wait longer for the same stage come first"
                    ));
                }
                reason
            } else {
                continue;
            };
            blocked.push((spec.name.clone(), Blocked { reason }));
        }
        blocked
    }

    fn why_no_place(&self, stage: &StageName, need: Resources) -> String {
        let mut reasons: Vec<String> = Vec::new();
        for place in self.places.iter().filter(|place| place.spec.accepts(stage)) {
            let Place {
                spec,
                held,
                attempts,
                suspended_until,
            } = place;
            let need = need.clamped(spec.capacity);
            reasons.push(if *suspended_until > 0 {
                format!("executor `{}` is suspended after a critical failure", spec.name)
            } else if *attempts >= spec.slots {
                format!(
                    "executor `{}` runs {attempts} of at most {} attempts",
                    spec.name, spec.slots
                )
            } else {
                format!(
                    "executor `{}`: needs {} cores and {} MiB, free are {} of {} cores and {} of {} MiB",
                    spec.name,
                    need.cpu,
                    need.memory >> 20,
                    spec.capacity.cpu.saturating_sub(held.cpu),
                    spec.capacity.cpu,
                    spec.capacity.memory.saturating_sub(held.memory) >> 20,
                    spec.capacity.memory >> 20
                )
            });
        }
        if reasons.is_empty() {
            format!("no executor runs stage `{stage}`")
        } else {
            reasons.join("; ")
        }
    }

    /// What executors have and hold.
    pub fn executors(&self) -> Vec<(ExecutorSpec, Resources, usize)> {
        self.places
            .iter()
            .map(|place| (place.spec.clone(), place.held, place.attempts))
            .collect()
    }

    /// Open runs.
    pub fn open(&self) -> usize {
        self.runs.len()
    }

    /// Whether an executor still has attempts.
    pub fn busy(&self) -> bool {
        self.places.iter().any(|place| place.attempts > 0)
    }

    /// Runs that are set aside, and why.
    pub fn damaged(&self) -> &BTreeMap<RunId, String> {
        &self.damaged
    }

    fn place(&mut self, name: &str) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.spec.name == name)
    }

    fn occupy(&mut self, executor: &str, held: Resources) {
        if let Some(place) = self.place(executor) {
            place.held += held;
            place.attempts += 1;
        }
    }

    fn vacate(&mut self, executor: &str, held: Resources) {
        if let Some(place) = self.place(executor) {
            place.held -= held;
            place.attempts = place.attempts.saturating_sub(1);
        }
    }

    fn suspend(&mut self, executor: &str, now: Now) {
        if let Some(place) = self.place(executor) {
            place.suspended_until = now.mono_ms + SUSPENSION_MS;
        }
    }

    /// Applies an event and keeps it for the entry that is being made.
    fn record(&mut self, run: &RunId, event: Event) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        let at = self.at.unwrap_or(live.state.updated_at);
        match live.state.apply_event(&event, at) {
            Ok(()) => {
                live.events.push(event);
                self.dirty.insert(run.clone());
            }
            Err(error) => self.damaged_now(run, error.to_string()),
        }
    }

    /// Sets a run aside that contradicts itself while it is open. What was recorded since its last
    /// entry is forgotten; its attempts are stopped, and hold what they hold until they end.
    fn damaged_now(&mut self, run: &RunId, why: String) {
        self.dirty.remove(run);
        let Some(live) = self.runs.remove(run) else { return };
        for (ix, at) in &live.armed {
            self.timers.remove(&(*at, run.clone(), *ix));
        }
        let unsent: BTreeSet<&AttemptKey> = live.effects.iter().filter_map(dispatched).collect();
        let state = &live.state;
        let current = state.steps().filter_map(|(ix, step)| {
            let current = step.current.as_ref()?;
            let Current {
                token,
                executor,
                held,
                ..
            } = current.clone();
            Some((
                state.current_key(ix)?,
                Orphan {
                    token,
                    executor,
                    held,
                },
            ))
        });
        let gone = state.discarding.values().cloned();
        let gone = gone.map(
            |Discarding {
                 key,
                 token,
                 executor,
                 held,
             }| {
                (
                    key,
                    Orphan {
                        token,
                        executor,
                        held,
                    },
                )
            },
        );
        for (key, orphan) in current.chain(gone) {
            if unsent.contains(&key) {
                self.vacate(&orphan.executor, orphan.held);
            } else {
                self.stray.push(Effect::Stop {
                    executor: orphan.executor.clone(),
                    key: key.clone(),
                });
                self.orphans.insert(key, orphan);
            }
        }
        self.set_aside(&run_row(state), why);
    }

    /// Decides about everything that changed since the last call, admits what can start, and gives
    /// the transitions: one for each run that changed.
    pub fn settle(&mut self, now: Now) -> Vec<Transition> {
        let at = *self.at.get_or_insert(now.wall_ms);
        let changed: Vec<RunId> = self.dirty.iter().cloned().collect();
        for run in &changed {
            self.decide_run(run, now);
        }
        self.admit(now);
        let mut transitions = Vec::new();
        for run in std::mem::take(&mut self.dirty) {
            if let Some(transition) = self.seal(&run, at) {
                transitions.push(transition);
            }
        }
        if !self.stray.is_empty() {
            transitions.push(Transition {
                append: None,
                effects: std::mem::take(&mut self.stray),
            });
        }
        self.at = None;
        transitions
    }

    fn decide_run(&mut self, run: &RunId, now: Now) {
        // Every round answers a command with an event, and steps only move on; the bound is a guard
        // against a mistake in the program.
        for _ in 0..10_000 {
            let Some(live) = self.runs.get_mut(run) else {
                return;
            };
            let commands = decide(&live.state);
            let mut events = Vec::new();
            for command in commands {
                if let Some(event) = self.answer(run, &command, now) {
                    let regroups = matches!(
                        event,
                        Event::Rewound { .. } | Event::RunPaused { .. } | Event::RunFinished { .. }
                    );
                    events.push(event);
                    if regroups {
                        break;
                    }
                }
            }
            if events.is_empty() {
                return;
            }
            for event in events {
                self.record(run, event);
            }
        }
        self.damaged_now(run, "its decisions do not come to an end".to_owned());
    }

    /// The event that answers a command at once; what cannot be answered at once is set in motion.
    fn answer(&mut self, run: &RunId, command: &Command, now: Now) -> Option<Event> {
        let live = self.runs.get_mut(run)?;
        let name = |ix: &StepIx| live.state.graph.step(*ix).name.clone();
        match command {
            Command::Start(ix) => {
                let stage = live.state.graph.step(*ix).stage.as_ref()?.name.clone();
                let since = live.state.step(*ix).since;
                self.ready
                    .entry(stage)
                    .or_default()
                    .insert((since, run.clone(), *ix));
                None
            }
            Command::Run(_) => None,
            Command::Stop(ix) => {
                let key = live.state.current_key(*ix)?;
                let executor = live.state.step(*ix).current.as_ref()?.executor.clone();
                if live.stopping.insert(key.clone()) {
                    live.effects.push(Effect::Stop { executor, key });
                }
                None
            }
            Command::Wait(ix, spec) => {
                let wake = match spec {
                    WaitSpec::For(ms) => Wake::At(now.wall_ms.saturating_add(*ms)),
                    WaitSpec::Signal(signal) => Wake::Signal(signal.clone()),
                };
                Some(Event::StepWaiting {
                    step: name(ix),
                    wake,
                    reason: WaitReason::Declared,
                    attempt: None,
                })
            }
            Command::Backoff(ix, failures) => {
                let retry = &live.state.graph.step(*ix).retry;
                let backoff = u64::try_from(retry.backoff(*failures).as_millis()).unwrap_or(u64::MAX);
                let jitter = jitter(run, *ix, *failures, backoff);
                let wake = Wake::At(now.wall_ms.saturating_add(backoff).saturating_add(jitter));
                Some(Event::StepWaiting {
                    step: name(ix),
                    wake,
                    reason: WaitReason::Backoff,
                    attempt: None,
                })
            }
            Command::Arm(ix, wake) => {
                if let Wake::At(at) = wake {
                    let before = live.armed.insert(*ix, *at);
                    if before != Some(*at) {
                        if let Some(before) = before {
                            self.timers.remove(&(before, run.clone(), *ix));
                        }
                        self.timers.insert((*at, run.clone(), *ix));
                    }
                }
                None
            }
            Command::Wake(ix) => Some(Event::StepWoken { step: name(ix) }),
            Command::Pass(ix) => Some(Event::StepPassed { step: name(ix) }),
            Command::Rewind(at) => {
                let edge = live.state.graph.data().rewinds.get(*at)?;
                let event = Event::Rewound {
                    on: edge.on.clone(),
                    from: name(&edge.from),
                    to: name(&edge.to),
                };
                let to = edge.to;
                self.stop_from(run, to);
                Some(event)
            }
            Command::Pause(reason) => Some(Event::RunPaused {
                reason: reason.clone(),
            }),
            Command::Finish(end) => Some(Event::RunFinished { end: *end }),
        }
    }

    /// Stops the running attempts of a step and of all that need it: another visit begins.
    fn stop_from(&mut self, run: &RunId, first: StepIx) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        let mut running = Vec::new();
        for ix in live.state.graph.with_descendants(first) {
            if let (Some(key), Some(current)) = (live.state.current_key(ix), &live.state.step(ix).current) {
                let (executor, key_of_stop) = (current.executor.clone(), key.clone());
                live.effects.push(Effect::Stop {
                    executor,
                    key: key_of_stop,
                });
                live.progress.remove(&ix);
                running.push((ix, key));
            }
        }
        for (ix, key) in running {
            self.unlimit(ix, &key);
        }
    }

    /// What an attempt of a step would hold.
    fn costs(&self, state: &RunState, ix: StepIx, stage: &StageName) -> Resources {
        let Some(stage) = self.registry.stage(stage) else {
            return Resources::default();
        };
        let at_hand = state
            .input(ix)
            .into_iter()
            .filter_map(|(name, value)| match value {
                InputValue::Value(value) => Some((name, value)),
                InputValue::Payload { .. } => None,
            });
        stage.costs(&Value::Object(at_hand.collect()))
    }

    /// Starts ready steps, the longest waiting first, as far as executors have room. A step that waits
    /// for room makes later ones of its stage wait too, so that they cannot starve it; one that no
    /// executor could ever hold makes nobody wait.
    fn admit(&mut self, now: Now) {
        let mut full: BTreeSet<StageName> = BTreeSet::new();
        loop {
            let heads = self.ready.iter().filter(|(stage, _)| !full.contains(*stage));
            let heads =
                heads.filter_map(|(stage, queue)| queue.first().map(|head| (head.clone(), stage.clone())));
            let Some(((since, run, ix), stage)) = heads.min() else {
                return;
            };
            let head = (since, run.clone(), ix);
            let startable = self.runs.get(&run).filter(|live| {
                live.state.step(ix).status == StepStatus::Ready
                    && live.state.status == RunStatus::Running
                    && live.state.discarding.is_empty()
            });
            let Some(live) = startable else {
                self.forget_ready(&stage, &head);
                continue;
            };
            let need = self.costs(&live.state, ix, &stage);
            let nothing = Resources::default();
            let able = |place: &Place| {
                let capacity = place.spec.capacity;
                place.spec.accepts(&stage)
                    && place.spec.slots > 0
                    && need.clamped(capacity).fits(capacity, nothing)
            };
            if !self.places.iter().any(able) {
                self.forget_ready(&stage, &head);
                continue;
            }
            let place = self.places.iter().position(|place| {
                able(place)
                    && place.attempts < place.spec.slots
                    && place.suspended_until <= now.mono_ms
                    && need
                        .clamped(place.spec.capacity)
                        .fits(place.spec.capacity, place.held)
            });
            match place {
                Some(place) => {
                    self.forget_ready(&stage, &head);
                    self.grant(&run, ix, &stage, place, need);
                }
                None => {
                    full.insert(stage);
                }
            }
        }
    }

    fn forget_ready(&mut self, stage: &StageName, head: &(u64, RunId, StepIx)) {
        if let Some(queue) = self.ready.get_mut(stage) {
            queue.remove(head);
            if queue.is_empty() {
                self.ready.remove(stage);
            }
        }
    }

    fn grant(&mut self, run: &RunId, ix: StepIx, stage: &StageName, place: usize, need: Resources) {
        let token = Token::new(self.draw());
        let spec = &self.places[place].spec;
        let held = need.clamped(spec.capacity);
        let executor = spec.name.clone();
        let Some(live) = self.runs.get(run) else { return };
        let state = &live.state;
        let attempt = state.step(ix).attempts + 1;
        let key = state.attempt_key(ix, attempt);
        let dispatch = Dispatch {
            executor: executor.clone(),
            key: key.clone(),
            token: token.clone(),
            subject: state.subject.clone(),
            stage: stage.clone(),
            input: state.input(ix),
            held,
        };
        let (step, visit) = (key.step.clone(), key.visit);
        let started = Event::AttemptStarted {
            step,
            visit,
            attempt,
            token,
            executor: executor.clone(),
            held,
        };
        self.record(run, started);
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        live.effects.push(Effect::Dispatch(Box::new(dispatch)));
        self.occupy(&executor, held);
    }

    /// Ends the entry that a run's changes make.
    fn seal(&mut self, run: &RunId, at: u64) -> Option<Transition> {
        let live = self.runs.get_mut(run)?;
        let effects = std::mem::take(&mut live.effects);
        let events = std::mem::take(&mut live.events);
        if events.is_empty() {
            return if effects.is_empty() {
                None
            } else {
                Some(Transition {
                    append: None,
                    effects,
                })
            };
        }
        let touched = live.state.take_touched();
        live.state.seal(at);
        let state = &live.state;
        let entry = Entry {
            seq: state.seq,
            at,
            events,
        };
        let steps = touched.into_iter().map(|ix| step_row(state, ix)).collect();
        let artifacts = accepted_artifacts(state, &entry);
        let graph = live
            .graph_source
            .take()
            .map(|stored| (state.graph.hash().clone(), stored));
        let append = Append {
            entry,
            row: run_row(state),
            steps,
            artifacts,
            graph,
        };
        if state.status.is_final() {
            let subject = state.subject.clone();
            if let Some(holders) = self.claims.get_mut(&subject) {
                holders.remove(run);
                if holders.is_empty() {
                    self.claims.remove(&subject);
                }
            }
            let done = self.runs.remove(run);
            for (ix, at) in done.map(|live| live.armed).unwrap_or_default() {
                self.timers.remove(&(at, run.clone(), ix));
            }
        }
        Some(Transition {
            append: Some(append),
            effects,
        })
    }
}

/// The artifacts that an entry makes current: those of the successes in it, and after a rewind those
/// that the run still stands by.
pub fn accepted_artifacts(state: &RunState, entry: &Entry) -> Vec<ArtifactRow> {
    let accepted = entry
        .events
        .iter()
        .any(|event| matches!(event, Event::AttemptSucceeded { .. } | Event::Rewound { .. }));
    if !accepted {
        return Vec::new();
    }
    let row = |(kind, artifact)| ArtifactRow {
        subject: state.subject.clone(),
        kind,
        artifact,
        run: state.id.clone(),
    };
    state.artifacts().into_iter().map(row).collect()
}

/// The attempt that an effect hands out.
fn dispatched(effect: &Effect) -> Option<&AttemptKey> {
    match effect {
        Effect::Dispatch(dispatch) => Some(&dispatch.key),
        Effect::Stop { .. } | Effect::Attach { .. } => None,
    }
}

fn seconds_since(started_at: u64, now: Now) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds of an attempt are far below 2^52"
    )]
    let ms = now.wall_ms.saturating_sub(started_at) as f64;
    ms / 1000.0
}

/// Up to a quarter more, the same for the same failure, so that many runs do not retry in step.
fn jitter(run: &RunId, ix: StepIx, failures: u32, backoff: u64) -> u64 {
    let digest = Sha256::new()
        .chain_update(run.as_str())
        .chain_update(ix.0.to_le_bytes())
        .chain_update(failures.to_le_bytes())
        .finalize();
    let part = u64::from(digest[0]);
    (backoff / 4).saturating_mul(part) / 256
}

/// Retries of one step, or of every failed (and, asked for by hand, backing-off) step.
fn retries(state: &RunState, only: Option<&StepName>, by: &By, only_failed: bool) -> Vec<Event> {
    let mut events = Vec::new();
    for ix in state.frontier() {
        let step = state.step(ix);
        let name = &state.graph.step(ix).name;
        let backing_off = matches!(step.wake, Some((_, WaitReason::Backoff)));
        let eligible = step.status == StepStatus::Failed || (backing_off && !only_failed);
        if eligible && only.is_none_or(|only| only == name) {
            events.push(Event::StepRetried {
                step: name.clone(),
                by: by.clone(),
            });
        }
    }
    events
}

fn check_params(registry: &StageRegistry, graph: &Graph, given: &Value) -> Result<(Value, Subject), Refused> {
    let data = graph.data();
    let empty = serde_json::Map::new();
    let given = match given {
        Value::Object(given) => given,
        Value::Null => &empty,
        _ => {
            return Err(Refused::Params(
                "parameters are an object of names and values".to_owned(),
            ));
        }
    };
    let known = || {
        data.params
            .iter()
            .map(|param| param.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(unknown) = given
        .keys()
        .find(|name| data.params.iter().all(|param| param.name != **name))
    {
        let message = format!(
            "workflow `{}` has no parameter `{unknown}`; it has: {}",
            data.name,
            known()
        );
        return Err(Refused::Params(message));
    }
    let mut checked = serde_json::Map::new();
    let mut problems = Vec::new();
    for param in &data.params {
        let value = match given.get(&param.name).or(param.default.as_ref()) {
            Some(value) => value.clone(),
            None if param.ty.ends_with('?') => continue,
            None => {
                problems.push(format!("parameter `{}` ({}) is missing", param.name, param.ty));
                continue;
            }
        };
        match registry.param_type(&param.ty).map(|ty| ty.normalise(value)) {
            Some(Ok(value)) => {
                checked.insert(param.name.clone(), value);
            }
            Some(Err(why)) => {
                problems.push(format!("parameter `{}` is not a {}: {why}", param.name, param.ty))
            }
            None => problems.push(format!("there is no type `{}` any more", param.ty)),
        }
    }
    if !problems.is_empty() {
        return Err(Refused::Params(problems.join("; ")));
    }
    let params = Value::Object(checked);
    let kind = registry
        .subject_kind(&data.subject)
        .ok_or_else(|| Refused::Params(format!("there is no subject `{}` any more", data.subject)))?;
    let subject = (kind.subject)(&params).map_err(Refused::Params)?;
    Ok((params, subject))
}

fn check_artifacts(graph: &Graph, subject: &Subject, owned: &BTreeMap<String, Value>) -> Result<(), Refused> {
    for (_, step) in graph.steps() {
        for source in step.inputs.values() {
            if let Source::Subject {
                kind,
                optional: false,
            } = source
                && !owned.contains_key(kind)
            {
                let message = format!(
                    "{subject} has no `{kind}` file, which step `{}` reads; was it sealed here?",
                    step.name
                );
                return Err(Refused::Params(message));
            }
        }
    }
    Ok(())
}

/// How a run ended, for callers that wait for it.
pub fn end_of(state: &RunState) -> Option<RunEnd> {
    match state.status {
        RunStatus::Succeeded => Some(RunEnd::Succeeded),
        RunStatus::Cancelled => Some(RunEnd::Cancelled),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
