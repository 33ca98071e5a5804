//! The one task that owns all live run state: it feeds [`Core`], commits what comes out in groups,
//! and only then carries out the effects. Everybody else holds a [`Handle`].

mod payloads;
mod resting;
mod served;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Now};
use crate::core::{
    Core, Delivery, Dispatch, Effect, Eta, ExecutorView, Expected, Explanation, Fire, Fork, Launch, Refused,
    StartRun, Transition, Verb, run_of,
};
use crate::crash;
use crate::durations::Durations;
use crate::event::{By, Entry, Output, Served};
use crate::executor::{Executor, Job, Machine, News, Report, Reports};
use crate::failure::Failure;
use crate::id::{AttemptKey, RunId, StepName, Subject, Token, WorkflowName};
use crate::journal::{Batch, Journal, JournalError, OpenRun};
use crate::run::{InputValue, RunState};
use crate::site::{Enabled, Hold, HoldKind, SiteState};
use crate::stage::{Outcome, Progress, StageRegistry};
use crate::workflow::Graph;
use payloads::Payloads;
use resting::Recalls;

/// Outputs up to this many bytes of JSON are kept in the journal, larger ones in payload files.
pub const INLINE_LIMIT: usize = 16 << 10;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It was refused; nothing was changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The dispatcher has ended; whether the request took effect is in the journal.
    #[error("the daemon is stopping; ask again after it has started")]
    Stopped,
}

/// What is known about a run beside its rows, while it is open. None of it is durable.
#[derive(Debug, Clone, Default)]
pub struct LiveView {
    /// How far running attempts are.
    pub progress: Vec<(StepName, Progress)>,
    /// Why steps are not through.
    pub why: Vec<Explanation>,
    /// How long it will still take.
    pub eta: Option<Eta>,
    /// How long running attempts take in all, as half of the earlier ones did.
    pub expected: Vec<Expected>,
}

/// What executors have and hold, and what is wrong.
#[derive(Debug, Clone, Default)]
pub struct EngineView {
    /// Executors with what their attempts hold.
    pub executors: Vec<ExecutorView>,
    /// What is held back: its kind, its name, by whom and since when.
    pub holds: Vec<(HoldKind, String, Hold)>,
    /// Open runs.
    pub open: usize,
    /// Runs that are set aside, and why.
    pub damaged: BTreeMap<RunId, String>,
    /// The time, by the clock that contact with machines is judged by.
    pub now_mono_ms: u64,
}

enum Request {
    Start(Box<StartRun>, oneshot::Sender<Result<RunId, Refused>>),
    Operate(RunId, Verb, By, oneshot::Sender<Result<(), Refused>>),
    Hold(HoldKind, String, By, oneshot::Sender<Result<(), Refused>>),
    Release(HoldKind, String, By, oneshot::Sender<Result<(), Refused>>),
    Enable(
        Box<(Arc<Graph>, String)>,
        By,
        oneshot::Sender<Result<(), Refused>>,
    ),
    Disable(WorkflowName, By, oneshot::Sender<Result<(), Refused>>),
    Triggers(oneshot::Sender<BTreeMap<WorkflowName, Enabled>>),
    Live(RunId, oneshot::Sender<LiveView>),
    Engine(oneshot::Sender<EngineView>),
    LearnOlder(Durations),
    Durations(oneshot::Sender<Durations>),
    Join(Machine, Vec<Arc<dyn Executor>>, oneshot::Sender<()>),
    Heard(String),
    Leave(String),
    Report(Box<Report>, Ack),
    Counts(Vec<(AttemptKey, Token)>, oneshot::Sender<Vec<bool>>),
}

/// Who waits for what came of a report: whether it counts. Answered when that is durable.
type Ack = oneshot::Sender<bool>;

enum Internal {
    Payload {
        key: AttemptKey,
        token: Token,
        output: Output,
        ack: Option<Ack>,
    },
    /// The input of an attempt is complete.
    Fetched {
        executor: String,
        job: Box<Job>,
    },
    Report(Report, Option<Ack>),
    Reports(Vec<Report>),
    Fired(Box<Fire>, Result<BTreeMap<String, Value>, String>),
    /// A run that rested is read again.
    Recalled(RunId, Box<Result<RunState, String>>),
    /// A run's parameters and what its subject owns are read.
    Launched {
        launch: Box<Launch>,
        params: Result<Value, String>,
        artifacts: BTreeMap<String, Value>,
    },
}

/// A run that is to be started.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its graph.
    pub graph: Arc<Graph>,
    /// The text that it came from.
    pub source: String,
    /// Its parameters.
    pub params: Value,
    /// The caller's name for it.
    pub key: Option<String>,
    /// Its priority, if it is not the workflow's.
    pub priority: Option<i32>,
    /// Who starts it.
    pub by: By,
}

/// Answers that wait for a commit.
type Replies = Vec<Box<dyn FnOnce() + Send>>;

/// A way to reach the dispatcher. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    journal: Arc<dyn Journal>,
    registry: Arc<StageRegistry>,
    changes: watch::Receiver<u64>,
}

impl Handle {
    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(make(reply))
            .await
            .map_err(|_| RequestError::Stopped)?;
        answer.await.map_err(|_| RequestError::Stopped)
    }

    /// Starts a run. When this returns, the run is durable. The same `key` starts no second run.
    ///
    /// # Errors
    /// Wrong parameters, a subject in use, or no answer.
    pub async fn start_run(&self, start: NewRun) -> Result<RunId, RequestError> {
        if let Some(key) = &start.key
            && let Some(run) = self.journal.find_key(key).await?
        {
            return Ok(run);
        }
        let subject = Core::subject_of(&self.registry, &start.graph, &start.params)?;
        let artifacts = owned(&*self.journal, &subject).await?;
        self.begin(start, artifacts, None).await
    }

    /// Starts a run with the graph and the parameters of another one, which takes over what that one's
    /// steps gave, but for those from `first` on.
    ///
    /// # Errors
    /// No such run or step, a subject in use, or no answer.
    pub async fn fork_run(
        &self,
        run: &RunId,
        first: &StepName,
        key: Option<String>,
        by: By,
    ) -> Result<RunId, RequestError> {
        if let Some(key) = &key
            && let Some(run) = self.journal.find_key(key).await?
        {
            return Ok(run);
        }
        let (state, source) = self.state_of(run).await?;
        let fork = Fork::of(&state, first)?;
        let owned = state.subject_artifacts.as_object().cloned().unwrap_or_default();
        let start = NewRun {
            graph: state.graph.clone(),
            source,
            params: state.params.clone(),
            key,
            priority: Some(state.priority),
            by,
        };
        self.begin(start, owned.into_iter().collect(), Some(fork)).await
    }

    async fn begin(
        &self,
        start: NewRun,
        artifacts: BTreeMap<String, Value>,
        fork: Option<Fork>,
    ) -> Result<RunId, RequestError> {
        let start = StartRun {
            graph: start.graph,
            source: start.source,
            params: start.params,
            key: start.key,
            priority: start.priority,
            by: start.by,
            artifacts,
            fork,
        };
        Ok(self.ask(|reply| Request::Start(Box::new(start), reply)).await??)
    }

    /// The state of any run, open or ended, from its journal, and the text of its workflow file.
    ///
    /// # Errors
    /// No such run, or its journal cannot be read or contradicts itself.
    pub async fn state_of(&self, run: &RunId) -> Result<(RunState, String), RequestError> {
        read_run(&*self.journal, run).await
    }

    /// Asks something of a run. When this returns, the request is durable.
    ///
    /// # Errors
    /// No such open run, the request makes no sense now, or no answer.
    pub async fn operate(&self, run: &RunId, verb: Verb, by: By) -> Result<(), RequestError> {
        Ok(self
            .ask(|reply| Request::Operate(run.clone(), verb, by, reply))
            .await??)
    }

    /// Holds something back, durably: nothing that it covers starts until it is released.
    ///
    /// # Errors
    /// There is no such thing, it is held already, or no answer.
    pub async fn hold(&self, kind: HoldKind, name: String, by: By) -> Result<(), RequestError> {
        Ok(self.ask(|reply| Request::Hold(kind, name, by, reply)).await??)
    }

    /// Ends a hold.
    ///
    /// # Errors
    /// There is none, or no answer.
    pub async fn release(&self, kind: HoldKind, name: String, by: By) -> Result<(), RequestError> {
        Ok(self
            .ask(|reply| Request::Release(kind, name, by, reply))
            .await??)
    }

    /// Switches the triggers of a workflow on, as its file says now.
    ///
    /// # Errors
    /// It has none, it lacks parameters, or no answer.
    pub async fn enable_triggers(
        &self,
        graph: Arc<Graph>,
        source: String,
        by: By,
    ) -> Result<(), RequestError> {
        let what = Box::new((graph, source));
        Ok(self.ask(|reply| Request::Enable(what, by, reply)).await??)
    }

    /// Switches the triggers of a workflow off.
    ///
    /// # Errors
    /// They are not on, or no answer.
    pub async fn disable_triggers(&self, workflow: WorkflowName, by: By) -> Result<(), RequestError> {
        Ok(self.ask(|reply| Request::Disable(workflow, by, reply)).await??)
    }

    /// Workflows whose triggers are switched on, and what these did last.
    ///
    /// # Errors
    /// No answer.
    pub async fn triggers(&self) -> Result<BTreeMap<WorkflowName, Enabled>, RequestError> {
        self.ask(Request::Triggers).await
    }

    /// What is known about an open run beside its rows.
    ///
    /// # Errors
    /// No answer.
    pub async fn live(&self, run: &RunId) -> Result<LiveView, RequestError> {
        self.ask(|reply| Request::Live(run.clone(), reply)).await
    }

    /// What executors have and hold.
    ///
    /// # Errors
    /// No answer.
    pub async fn engine(&self) -> Result<EngineView, RequestError> {
        self.ask(Request::Engine).await
    }

    /// Adds durations that were learned before: from a file, or from the journal.
    ///
    /// # Errors
    /// The dispatcher has ended.
    pub async fn learn_older(&self, older: Durations) -> Result<(), RequestError> {
        let sent = self.requests.send(Request::LearnOlder(older)).await;
        sent.map_err(|_| RequestError::Stopped)
    }

    /// How long work took so far, to be kept on the side.
    ///
    /// # Errors
    /// No answer.
    pub async fn durations(&self) -> Result<Durations, RequestError> {
        self.ask(Request::Durations).await
    }

    /// A machine offers executors: it is new, or back. Attempts that it had are asked for again.
    ///
    /// # Errors
    /// The dispatcher has ended.
    pub async fn join(
        &self,
        machine: Machine,
        executors: Vec<Arc<dyn Executor>>,
    ) -> Result<(), RequestError> {
        self.ask(|reply| Request::Join(machine, executors, reply)).await
    }

    /// A machine gave a sign of life.
    ///
    /// # Errors
    /// The dispatcher has ended.
    pub async fn heard(&self, machine: &str) -> Result<(), RequestError> {
        let sent = self.requests.send(Request::Heard(machine.to_owned())).await;
        sent.map_err(|_| RequestError::Stopped)
    }

    /// A machine said goodbye.
    ///
    /// # Errors
    /// The dispatcher has ended.
    pub async fn leave(&self, machine: &str) -> Result<(), RequestError> {
        let sent = self.requests.send(Request::Leave(machine.to_owned())).await;
        sent.map_err(|_| RequestError::Stopped)
    }

    /// Of these attempts, whether somebody waits for what becomes of each.
    ///
    /// # Errors
    /// The dispatcher has ended.
    pub async fn counts(&self, attempts: Vec<(AttemptKey, Token)>) -> Result<Vec<bool>, RequestError> {
        self.ask(|reply| Request::Counts(attempts, reply)).await
    }

    /// Reports what happened to an attempt, and says whether that counts. When this returns it is durable.
    ///
    /// # Errors
    /// No answer: whether it was taken is not known; report it again.
    pub async fn report(&self, report: Report) -> Result<bool, RequestError> {
        self.ask(|reply| Request::Report(Box::new(report), reply)).await
    }

    /// The journal, for reading.
    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    /// The stages.
    pub fn registry(&self) -> &Arc<StageRegistry> {
        &self.registry
    }

    /// Changes whenever a commit or a progress report changed what there is to see.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

/// What a dispatcher is made of.
pub struct Parts {
    /// The durable history.
    pub journal: Arc<dyn Journal>,
    /// The stages.
    pub registry: Arc<StageRegistry>,
    /// Where attempts run.
    pub executors: Vec<Arc<dyn Executor>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Unpredictable in production: fences are drawn from it.
    pub seed: [u8; 32],
}

/// How many requests and reports may queue: enough that no sender waits in normal work, few enough
/// that memory stays bounded when the journal is slow.
const QUEUE: usize = 4096;
/// Runs that a start reads at once.
const TAKEN_UP: u32 = 1000;

/// How often wall-clock timers are looked at: the wall clock may jump.
const WALL_CHECK: Duration = Duration::from_secs(5);

/// Replays the journal and makes the dispatcher and its handle. Nothing runs before [`Dispatcher::run`].
///
/// # Errors
/// The journal cannot be read.
pub async fn open(parts: Parts) -> Result<(Dispatcher, Handle), JournalError> {
    let specs = parts
        .executors
        .iter()
        .map(|executor| executor.spec().clone())
        .collect();
    let mut core = Core::new(parts.registry.clone(), specs, parts.seed);
    let graphs = restore(&mut core, &*parts.journal, &*parts.clock).await?;
    let (requests_in, requests) = mpsc::channel(QUEUE);
    let (reports_in, reports) = mpsc::channel(QUEUE);
    let (internal_in, internal) = mpsc::channel(QUEUE);
    let (changed, changes) = watch::channel(0);
    let handle = Handle {
        requests: requests_in,
        journal: parts.journal.clone(),
        registry: parts.registry.clone(),
        changes,
    };
    let executors = parts
        .executors
        .into_iter()
        .map(|executor| (executor.spec().name.clone(), executor))
        .collect();
    let dispatcher = Dispatcher {
        core,
        payloads: Payloads::new(parts.journal.clone()),
        journal: parts.journal,
        registry: parts.registry,
        executors,
        clock: parts.clock,
        requests,
        reports,
        reports_in: Reports::new(reports_in),
        internal,
        internal_in,
        changed,
        pending: Group::default(),
        recalls: Recalls::new(graphs),
    };
    Ok((dispatcher, handle))
}

/// Brings a new core to where the journal is. Gives the graphs that it read.
pub(crate) async fn restore(
    core: &mut Core,
    journal: &dyn Journal,
    clock: &dyn Clock,
) -> Result<Graphs, JournalError> {
    let site = journal.site_tail(SiteState::TAIL).await?;
    core.restore_site(&site).map_err(JournalError::Corrupt)?;
    let mut graphs = Graphs::default();
    let mut last = None;
    loop {
        let page = journal.open_histories(last.as_ref(), TAKEN_UP).await?;
        let Some(open) = page.last() else { break };
        last = Some(open.row.run.clone());
        for OpenRun { row, entries } in page {
            if let Some(rest) = row.rest {
                core.restore_resting(&row, rest);
                continue;
            }
            match replay(journal, &row.run, entries, &mut graphs).await? {
                Ok(state) => core.restore(state, clock.now()),
                Err(why) => core.set_aside(&row, why),
            }
        }
    }
    Ok(graphs)
}

/// Folds the journal of one run. What is wrong with this run alone is no error of the whole.
async fn replay(
    journal: &dyn Journal,
    run: &RunId,
    entries: Result<Vec<Entry>, String>,
    graphs: &mut Graphs,
) -> Result<Result<RunState, String>, JournalError> {
    let entries = match entries {
        Ok(entries) => entries,
        Err(why) => return Ok(Err(why)),
    };
    let graphs = match graphs.of(journal, &entries).await {
        Ok(graphs) => graphs,
        Err(JournalError::Corrupt(why)) => return Ok(Err(why)),
        Err(error) => return Err(error),
    };
    Ok(RunState::fold(run, &graphs, &entries).map_err(|error| error.to_string()))
}

/// Graphs that were read from the journal, by hash.
#[derive(Default)]
pub struct Graphs(HashMap<String, Arc<Graph>>);

impl Graphs {
    /// The graphs that the entries of a run name.
    ///
    /// # Errors
    /// One is missing or cannot be read.
    pub async fn of(
        &mut self,
        journal: &dyn Journal,
        entries: &[Entry],
    ) -> Result<Vec<Arc<Graph>>, JournalError> {
        let mut graphs = Vec::new();
        for hash in entries.iter().flat_map(Entry::graphs) {
            if let Some(known) = self.0.get(&**hash) {
                graphs.push(known.clone());
                continue;
            }
            let stored = journal.graph(hash).await?;
            let stored = stored
                .ok_or_else(|| JournalError::Corrupt(format!("the graph {hash} is not in the journal")))?;
            let graph = Graph::new(stored.data)
                .map_err(|why| JournalError::Corrupt(format!("the graph {hash} cannot be read: {why}")))?;
            let graph = Arc::new(graph);
            self.0.insert(hash.to_string(), graph.clone());
            graphs.push(graph);
        }
        Ok(graphs)
    }
}

/// What a subject owns, by kind.
async fn owned(journal: &dyn Journal, subject: &Subject) -> Result<BTreeMap<String, Value>, JournalError> {
    let rows = journal.artifacts(subject).await?.into_iter();
    let rows = rows.filter(|row| !row.artifact.is_null());
    Ok(rows.map(|row| (row.kind, row.artifact)).collect())
}

/// The state of a run, folded from its journal, and the text of its workflow file.
async fn read_run(journal: &dyn Journal, run: &RunId) -> Result<(RunState, String), RequestError> {
    let none = || RequestError::Refused(Refused::NoRun(run.clone()));
    let row = journal.run(run).await?.ok_or_else(none)?;
    let damaged = |why: String| {
        let run = run.clone();
        RequestError::Refused(Refused::Damaged { run, why })
    };
    let stored = journal.graph(&row.graph).await?;
    let stored = stored.ok_or_else(|| damaged("its graph is missing".to_owned()))?;
    let entries = all_entries(journal, run).await?;
    let graphs = Graphs::default().of(journal, &entries).await?;
    let state = RunState::fold(run, &graphs, &entries);
    Ok((state.map_err(|error| damaged(error.to_string()))?, stored.source))
}

/// All entries of a run, read in pieces.
///
/// # Errors
/// What the journal says.
pub async fn all_entries(journal: &dyn Journal, run: &RunId) -> Result<Vec<Entry>, JournalError> {
    const PIECE: u32 = 1000;
    let mut entries = Vec::new();
    loop {
        let from = entries.len() as u64 + 1;
        let piece = journal.entries(run, from, PIECE).await?;
        let last = piece.len() < PIECE as usize;
        entries.extend(piece);
        if last {
            return Ok(entries);
        }
    }
}

/// What goes into the next commit, and what follows it.
#[derive(Default)]
struct Group {
    batch: Batch,
    effects: Vec<Effect>,
    replies: Replies,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.effects.is_empty() && self.replies.is_empty()
    }
}

/// The task that owns all live run state.
pub struct Dispatcher {
    core: Core,
    journal: Arc<dyn Journal>,
    payloads: Payloads,
    registry: Arc<StageRegistry>,
    executors: BTreeMap<String, Arc<dyn Executor>>,
    clock: Arc<dyn Clock>,
    requests: mpsc::Receiver<Request>,
    reports: mpsc::Receiver<Report>,
    reports_in: Reports,
    internal: mpsc::Receiver<Internal>,
    internal_in: mpsc::Sender<Internal>,
    changed: watch::Sender<u64>,
    pending: Group,
    recalls: Recalls,
}

impl Dispatcher {
    /// Runs until `shutdown` is cancelled or the journal fails. Attempts that run then are not
    /// waited for: the replay at the next start takes them up.
    ///
    /// # Errors
    /// The journal failed: whether the last commit took effect is not known, so the process must
    /// end. The replay at the next start decides.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), JournalError> {
        let mut committing: Option<Committing> = None;
        self.settle();
        loop {
            if committing.is_none() && !self.pending.is_empty() {
                let group = std::mem::take(&mut self.pending);
                committing = Some(Committing::new(self.journal.clone(), group));
            }
            let wake = self.sleep();
            tokio::select! {
                biased;
                done = async { match &mut committing { Some(commit) => commit.wait().await, None => std::future::pending().await } } => {
                    committing = None;
                    let (effects, replies) = done?;
                    crash::point("commit.after");
                    for reply in replies {
                        reply();
                    }
                    for effect in effects {
                        self.carry_out(effect);
                    }
                    self.note_change();
                    crash::point("effects.after");
                }
                () = shutdown.cancelled(), if committing.is_none() => {
                    // Requests that were taken are answered; nothing new is begun.
                    if self.pending.is_empty() {
                        return Ok(());
                    }
                }
                Some(internal) = self.internal.recv() => self.take_internal(internal),
                Some(report) = self.reports.recv() => self.take_reports(report),
                Some(request) = self.requests.recv(), if !shutdown.is_cancelled() => self.take_request(request),
                () = tokio::time::sleep(wake) => self.core.tick(self.clock.now()),
            }
            self.settle();
        }
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn note_change(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Moves what the core has decided into the next group.
    fn settle(&mut self) {
        let now = self.now();
        let transitions = self.core.settle(now);
        self.pending.batch.site.extend(self.core.take_site());
        for Transition { append, effects } in transitions {
            if let Some(append) = append {
                self.pending.batch.push(append);
            }
            self.pending.effects.extend(effects);
        }
    }

    /// How long until there is something to do even if nothing comes in.
    fn sleep(&self) -> Duration {
        let now = self.now();
        let (wall, mono) = self.core.next_due();
        let wall = wall.map(|due| Duration::from_millis(due.saturating_sub(now.wall_ms)).min(WALL_CHECK));
        let mono = mono.map(|due| Duration::from_millis(due.saturating_sub(now.mono_ms)));
        wall.into_iter()
            .chain(mono)
            .min()
            .unwrap_or(Duration::from_secs(3600))
    }

    fn take_request(&mut self, request: Request) {
        let Some(request) = self.wait_for_recall(request) else {
            return;
        };
        let now = self.now();
        match request {
            Request::Start(start, reply) => {
                let answer = self.core.start(*start, now);
                self.answer(answer, reply);
            }
            Request::Operate(run, verb, by, reply) => {
                let answer = self.core.operate(&run, verb, by, now);
                self.answer(answer, reply);
            }
            Request::Hold(kind, name, by, reply) => {
                let answer = self.core.hold(kind, name, by, now);
                self.answer(answer, reply);
            }
            Request::Release(kind, name, by, reply) => {
                let answer = self.core.release(kind, name, by, now);
                self.answer(answer, reply);
            }
            Request::Enable(what, by, reply) => {
                let (graph, source) = *what;
                let answer = self.core.enable_triggers(graph, source, by, now);
                self.answer(answer, reply);
            }
            Request::Disable(workflow, by, reply) => {
                let answer = self.core.disable_triggers(workflow, by, now);
                self.answer(answer, reply);
            }
            Request::Triggers(reply) => {
                discard(reply.send(self.core.site().all_triggers().clone()));
            }
            Request::Live(run, reply) => {
                let (eta, expected) = self.core.eta(&run, now);
                let view = LiveView {
                    progress: self.core.progress(&run),
                    why: self.core.explain(&run, now),
                    eta,
                    expected,
                };
                discard(reply.send(view));
            }
            Request::Engine(reply) => {
                let view = EngineView {
                    executors: self.core.executors(),
                    holds: {
                        let holds = self.core.site().holds();
                        let owned = holds.map(|(kind, name, hold)| (kind, name.to_owned(), hold.clone()));
                        owned.collect()
                    },
                    open: self.core.open(),
                    damaged: self.core.damaged().clone(),
                    now_mono_ms: now.mono_ms,
                };
                discard(reply.send(view));
            }
            Request::Join(machine, executors, reply) => {
                let specs = executors.iter().map(|one| one.spec().clone()).collect();
                for executor in executors {
                    self.executors.insert(executor.spec().name.clone(), executor);
                }
                self.core.join(machine, specs, now);
                discard(reply.send(()));
            }
            Request::Heard(machine) => self.core.heard(&machine, now),
            Request::Leave(machine) => self.core.leave(&machine, now),
            Request::Counts(attempts, reply) => {
                let counts = attempts.iter().map(|(key, token)| self.core.counts(key, token));
                discard(reply.send(counts.collect()));
            }
            Request::Report(report, ack) => self.take_report(*report, Some(ack)),
            Request::LearnOlder(older) => self.core.learn_older(older),
            Request::Durations(reply) => discard(reply.send(self.core.durations().clone())),
        }
    }

    /// A refusal is answered at once, a success when it is durable.
    fn answer<T: Send + 'static>(
        &mut self,
        answer: Result<T, Refused>,
        reply: oneshot::Sender<Result<T, Refused>>,
    ) {
        if answer.is_err() {
            discard(reply.send(answer));
        } else {
            self.pending
                .replies
                .push(Box::new(move || discard(reply.send(answer))));
        }
    }

    /// Takes a report and those that are queued behind it, so that they share a commit.
    fn take_reports(&mut self, first: Report) {
        let mut next = Some(first);
        for _ in 0..QUEUE {
            let Some(report) = next else { break };
            self.take_report(report, None);
            next = self.reports.try_recv().ok();
        }
    }

    fn take_report(&mut self, report: Report, ack: Option<Ack>) {
        let now = self.now();
        if matches!(report.news, News::Progress(_)) {
            let counts = self.core.report(report, now);
            self.note_change();
            return self.acknowledge(counts, ack);
        }
        if let News::Ended(Ok(Outcome::Done(value))) = &report.news {
            match serde_json::to_vec(value) {
                // What does not count is not stored.
                Ok(bytes) if bytes.len() > INLINE_LIMIT && self.core.counts(&report.key, &report.token) => {
                    let Report { key, token, .. } = &report;
                    return self.store_payload(key.clone(), token.clone(), value.clone(), bytes, ack);
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "an output cannot be encoded"),
            }
        }
        let counts = self.core.report(report, now);
        self.acknowledge(counts, ack);
    }

    /// Says whether a report counts, once that is durable.
    fn acknowledge(&mut self, counts: bool, ack: Option<Ack>) {
        if let Some(ack) = ack {
            self.pending
                .replies
                .push(Box::new(move || discard(ack.send(counts))));
        }
    }

    /// A large output becomes durable before the event that names it.
    fn store_payload(&self, key: AttemptKey, token: Token, value: Value, bytes: Vec<u8>, ack: Option<Ack>) {
        let (payloads, back) = (self.payloads.clone(), self.internal_in.clone());
        let task = async move {
            let internal = match payloads.put(value, bytes).await {
                Ok(output) => Internal::Payload {
                    key,
                    token,
                    output,
                    ack,
                },
                Err(error) => {
                    let failure = Failure::transient("payload_not_stored", error.to_string());
                    let news = News::Ended(Err(failure));
                    Internal::Report(Report { key, token, news }, ack)
                }
            };
            discard(back.send(internal).await);
        };
        drop(tokio::spawn(task));
    }

    fn take_internal(&mut self, internal: Internal) {
        let now = self.now();
        match internal {
            Internal::Payload {
                key,
                token,
                output,
                ack,
            } => {
                let counts = self.core.report_payload(&key, &token, output, now);
                self.acknowledge(counts, ack);
            }
            Internal::Report(report, ack) => {
                let counts = self.core.report(report, now);
                self.acknowledge(counts, ack);
            }
            Internal::Fetched { executor, job } => self.start(&executor, *job),
            Internal::Fired(fire, owned) => self.core.fire(&fire, owned, now),
            Internal::Reports(reports) => {
                for report in reports {
                    self.take_report(report, None);
                }
            }
            Internal::Recalled(run, state) => self.recalled(&run, *state),
            Internal::Launched {
                launch,
                params,
                artifacts,
            } => self.core.launch(&launch, params, artifacts, now),
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Dispatch(dispatch) => self.dispatch(*dispatch),
            Effect::Launch(launch) => self.launch(*launch),
            Effect::Recall(run) => self.recall(run),
            Effect::Fire(fire) => self.fire(*fire),
            Effect::Deliver(delivery) => self.deliver(*delivery),
            Effect::Stop { executor, key } if run_of(&executor).is_some() => {
                self.core.stop_served(&executor, &key, self.clock.now());
            }
            Effect::Attach { executor, key, token } if run_of(&executor).is_some() => {
                self.attach_run(&executor, Served { key, token });
            }
            Effect::Stop { executor, key } => {
                if let Some(executor) = self.executors.get(&executor) {
                    executor.stop(&key);
                }
            }
            Effect::Attach { executor, key, token } => {
                let place = self.executors.get(&executor);
                if !place.is_some_and(|place| place.attach(&key, &token, &self.reports_in)) {
                    let why =
                        format!("executor `{executor}` does not have it any more after the daemon's restart");
                    self.core.report(
                        Report {
                            key,
                            token,
                            news: News::Lost(why),
                        },
                        self.clock.now(),
                    );
                }
            }
        }
    }

    fn dispatch(&mut self, dispatch: Dispatch) {
        let Dispatch {
            executor,
            key,
            token,
            subject,
            stage,
            many,
            input,
            held,
        } = dispatch;
        let job = move |values| Job {
            key,
            token,
            subject,
            stage,
            many,
            input: Value::Object(values),
            held,
        };
        // Nearly every input is at hand, and starts at once.
        let at_hand = |value: &InputValue| value.clone().at_hand();
        if let Some(values) = input.values().map(at_hand).collect::<Option<Vec<_>>>() {
            let named = input.keys().cloned().zip(values);
            let values = named.filter(|(_, value)| !value.is_null()).collect();
            self.start(&executor, job(values));
            return;
        }
        let (payloads, back) = (self.payloads.clone(), self.internal_in.clone());
        let task = async move {
            let internal = match payloads.fill(input).await {
                Ok(values) => Internal::Fetched {
                    executor,
                    job: Box::new(job(values)),
                },
                Err(why) => {
                    let Job { key, token, .. } = job(serde_json::Map::new());
                    let failure = Failure::permanent("payload_missing", why);
                    let news = News::Ended(Err(failure));
                    Internal::Report(Report { key, token, news }, None)
                }
            };
            discard(back.send(internal).await);
        };
        drop(tokio::spawn(task));
    }

    /// Hands an attempt to its executor, unless it was stopped while its input was being fetched: the
    /// executor, which did not know it then, would run it to its end.
    fn start(&mut self, executor: &str, job: Job) {
        let Job { key, token, .. } = &job;
        let now = self.clock.now();
        let why = match self.executors.get(executor) {
            Some(place) if self.core.begin(key, token, now) => {
                return place.start(job, self.reports_in.clone());
            }
            Some(_) => "it was stopped before it started".to_owned(),
            None => format!("there is no executor `{executor}`"),
        };
        let report = Report {
            key: key.clone(),
            token: token.clone(),
            news: News::Lost(why),
        };
        self.core.report(report, now);
    }

    /// The stages.
    pub fn registry(&self) -> &Arc<StageRegistry> {
        &self.registry
    }
}

/// A commit under way.
struct Committing {
    task: tokio::task::JoinHandle<Result<(), JournalError>>,
    after: Option<(Vec<Effect>, Replies)>,
}

impl Committing {
    fn new(journal: Arc<dyn Journal>, group: Group) -> Self {
        let Group {
            batch,
            effects,
            replies,
        } = group;
        let task = tokio::spawn(async move {
            if batch.is_empty() {
                return Ok(());
            }
            crash::point("commit.before");
            journal.commit(&batch).await
        });
        Self {
            task,
            after: Some((effects, replies)),
        }
    }

    async fn wait(&mut self) -> Result<(Vec<Effect>, Replies), JournalError> {
        match (&mut self.task).await {
            Ok(Ok(())) => Ok(self.after.take().unwrap_or_default()),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(JournalError::Store(format!("the commit task failed: {error}"))),
        }
    }
}

/// For results whose failure only means that nobody waits for the answer any more.
fn discard<T, E>(result: Result<T, E>) {
    drop(result);
}
