//! The dispatcher against a journal that waits, fails and counts, and an executor that is driven by
//! hand.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;
use crate::clock::SystemClock;
use crate::event::Event;
use crate::executor::{ExecutorSpec, Machine};
use crate::id::{StageName, Subject, WorkflowName};
use crate::journal::{ArtifactRow, JournalFuture, RunFilter, StoredGraph};
use crate::resource::{Need, Resources};
use crate::rows::{RunRow, StepRow, run_row, step_row};
use crate::run::{RunStatus, StepStatus};
use crate::site::SiteEntry;
use crate::stage::{Claim, Stage, StageContext, SubjectKind};
use crate::testing::MemoryJournal;
use crate::workflow::{GraphData, ParamSpec, Retry, Source, StageRef, StepIx, StepSpec, Timeouts};

/// A journal in memory whose commits and payload reads need a permit, and can fail.
struct Doubtful {
    inner: MemoryJournal,
    commits: Semaphore,
    payloads: Semaphore,
    /// Entries of how many runs were read.
    read: AtomicUsize,
    /// Commits that were asked for, and that were done.
    asked: AtomicUsize,
    done: AtomicUsize,
    fails: AtomicBool,
    /// A failing commit takes effect all the same.
    takes_effect: AtomicBool,
    hides_graphs: AtomicBool,
    /// What happened, in order.
    story: Mutex<Vec<String>>,
}

impl Doubtful {
    fn new(inner: MemoryJournal) -> Arc<Self> {
        Arc::new(Self {
            inner,
            commits: Semaphore::new(0),
            payloads: Semaphore::new(Semaphore::MAX_PERMITS),
            read: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            takes_effect: AtomicBool::new(false),
            hides_graphs: AtomicBool::new(false),
            story: Mutex::default(),
        })
    }

    /// A journal that lets everything through.
    fn open() -> Arc<Self> {
        Self::on(MemoryJournal::default())
    }

    fn on(inner: MemoryJournal) -> Arc<Self> {
        let journal = Self::new(inner);
        journal.commits.add_permits(1 << 20);
        journal
    }
}

impl Journal for Doubtful {
    fn commit<'a>(&'a self, batch: &'a Batch) -> JournalFuture<'a, ()> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.commits.acquire().await.unwrap().forget();
            let fails = self.fails.load(Ordering::SeqCst);
            if !fails || self.takes_effect.load(Ordering::SeqCst) {
                self.inner.commit(batch).await?;
                for (_, entry) in &batch.entries {
                    for event in &entry.events {
                        if let Event::AttemptSucceeded {
                            output: Output::Payload { sha256, .. },
                            ..
                        } = event
                        {
                            self.story.lock().unwrap().push(format!("named {sha256}"));
                        }
                    }
                }
            }
            if fails {
                return Err(JournalError::Store("the disk is on fire".to_owned()));
            }
            self.done.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }

    fn site_tail(&self, limit: u32) -> JournalFuture<'_, Vec<SiteEntry>> {
        self.inner.site_tail(limit)
    }

    fn run<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Option<RunRow>> {
        self.inner.run(run)
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> JournalFuture<'a, Vec<RunRow>> {
        self.inner.runs(filter)
    }

    fn open_runs(&self) -> JournalFuture<'_, Vec<RunRow>> {
        self.inner.open_runs()
    }

    fn steps<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Vec<StepRow>> {
        self.inner.steps(run)
    }

    fn entries<'a>(&'a self, run: &'a RunId, from: u64, limit: u32) -> JournalFuture<'a, Vec<Entry>> {
        self.read.fetch_add(1, Ordering::SeqCst);
        self.inner.entries(run, from, limit)
    }

    fn graph<'a>(&'a self, hash: &'a str) -> JournalFuture<'a, Option<StoredGraph>> {
        if self.hides_graphs.swap(false, Ordering::SeqCst) {
            return Box::pin(std::future::ready(Ok(None)));
        }
        self.inner.graph(hash)
    }

    fn artifacts<'a>(&'a self, subject: &'a Subject) -> JournalFuture<'a, Vec<ArtifactRow>> {
        self.inner.artifacts(subject)
    }

    fn find_key<'a>(&'a self, key: &'a str) -> JournalFuture<'a, Option<RunId>> {
        self.inner.find_key(key)
    }

    fn put_payload<'a>(&'a self, bytes: &'a [u8]) -> JournalFuture<'a, String> {
        Box::pin(async move {
            let sha256 = self.inner.put_payload(bytes).await?;
            self.story.lock().unwrap().push(format!("stored {sha256}"));
            Ok(sha256)
        })
    }

    fn payload<'a>(&'a self, sha256: &'a str) -> JournalFuture<'a, Vec<u8>> {
        Box::pin(async move {
            self.payloads.acquire().await.unwrap().forget();
            self.inner.payload(sha256).await
        })
    }
}

/// Keeps the jobs that it is given until the test says how they end.
struct Manual {
    spec: ExecutorSpec,
    jobs: Mutex<Vec<(Job, Reports)>>,
    stops: Mutex<Vec<AttemptKey>>,
    /// Ends every job at once.
    at_once: bool,
}

impl Manual {
    fn new(at_once: bool) -> Arc<Self> {
        let capacity = Resources {
            cpu: 64,
            memory: 64,
            ..Resources::default()
        };
        let name = "hand".to_owned();
        let spec = ExecutorSpec::new("hand", Machine { name, capacity }, 64);
        Arc::new(Self {
            spec,
            jobs: Mutex::default(),
            stops: Mutex::default(),
            at_once,
        })
    }

    fn started(&self) -> Vec<Job> {
        self.jobs
            .lock()
            .unwrap()
            .iter()
            .map(|(job, _)| job.clone())
            .collect()
    }

    async fn end(&self, key: &AttemptKey, news: News) {
        let (job, reports) = self
            .jobs
            .lock()
            .unwrap()
            .iter()
            .find(|(job, _)| job.key == *key)
            .cloned()
            .unwrap();
        reports
            .send(Report {
                key: job.key,
                token: job.token,
                news,
            })
            .await;
    }
}

impl Executor for Manual {
    fn spec(&self) -> &ExecutorSpec {
        &self.spec
    }

    fn start(&self, job: Job, reports: Reports) {
        self.jobs.lock().unwrap().push((job.clone(), reports.clone()));
        if self.at_once {
            let news = done(json!({"text": "short"}));
            tokio::spawn(async move {
                reports
                    .send(Report {
                        key: job.key,
                        token: job.token,
                        news,
                    })
                    .await
            });
        }
    }

    fn stop(&self, key: &AttemptKey) {
        self.stops.lock().unwrap().push(key.clone());
    }

    fn attach(&self, _: &AttemptKey, _: &Token, _: &Reports) -> bool {
        false
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Nothing {}

struct Work;

impl Stage for Work {
    const NAME: &'static str = "work";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = "//! Works.";
    type Input = Nothing;
    type Output = Nothing;
    fn costs(&self, _: &Value) -> Need {
        Need {
            cpu: 1,
            memory: 0,
            ..Need::default()
        }
    }
    async fn run(&self, _: &StageContext, _: Nothing) -> Result<Outcome<Nothing>, Failure> {
        Ok(Outcome::Done(Nothing {}))
    }
}

/// Two steps; the second takes `text` and `maybe` of the first.
fn new_run(id: u64, key: Option<String>) -> NewRun {
    NewRun {
        graph: graph(),
        source: String::new(),
        params: json!({"id": id}),
        key,
        priority: None,
        by: By::default(),
    }
}

fn graph() -> Arc<Graph> {
    let output = |field: &str| Source::Output {
        step: StepIx(0),
        field: field.to_owned(),
        optional: false,
    };
    let step = |name: &str, needs: Vec<StepIx>| StepSpec {
        name: StepName::new(name).unwrap(),
        stage: Some(StageRef {
            name: StageName::new("work").unwrap(),
            version: 1,
            artifacts: Vec::new(),
            effect: false,
            many: false,
        }),
        inputs: if needs.is_empty() {
            BTreeMap::new()
        } else {
            BTreeMap::from(["text", "maybe"].map(|field| (field.to_owned(), output(field))))
        },
        needs,
        retry: Retry::default(),
        timeout: Timeouts::default(),
        wait: None,
        when: None,
        foreach: None,
        valid_until: None,
        workflow: None,
        batch: None,
        on_failure: Vec::new(),
        finally: false,
    };
    let data = GraphData {
        name: WorkflowName::new("two").unwrap(),
        description: String::new(),
        subject: "thing".to_owned(),
        claim: Claim::Write,
        priority: 0,
        params: vec![ParamSpec {
            name: "id".to_owned(),
            ty: "uint64".to_owned(),
            default: None,
            doc: String::new(),
        }],
        steps: vec![step("first", Vec::new()), step("second", vec![StepIx(0)])],
        rewinds: Vec::new(),
        children: Vec::new(),
        outputs: BTreeMap::new(),
        triggers: Vec::new(),
    };
    Arc::new(Graph::new(data).unwrap())
}

struct Daemon {
    handle: Handle,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), JournalError>>,
}

impl Daemon {
    async fn on(journal: &Arc<Doubtful>, executor: &Arc<Manual>, seed: u8) -> Self {
        let subject =
            |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
        let kind = SubjectKind {
            name: "thing",
            params: &[("id", "uint64")],
            subject,
        };
        let registry = StageRegistry::default()
            .with_subject(kind)
            .with_type::<u64>()
            .with(Work);
        let parts = Parts {
            journal: journal.clone(),
            registry: Arc::new(registry),
            executors: vec![executor.clone()],
            clock: Arc::new(SystemClock::default()),
            seed: [seed; 32],
        };
        let (dispatcher, handle) = open(parts).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(dispatcher.run(shutdown.clone()));
        Self {
            handle,
            shutdown,
            task,
        }
    }

    fn start(&self, id: u64) -> JoinHandle<Result<RunId, RequestError>> {
        let handle = self.handle.clone();
        let key = Some(format!("run {id}"));
        tokio::spawn(async move { handle.start_run(new_run(id, key)).await })
    }

    async fn started(&self, id: u64) -> RunId {
        self.start(id).await.unwrap().unwrap()
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn done(value: Value) -> News {
    News::Ended(Ok(Outcome::Done(value)))
}

/// Waits until something holds. The limit only keeps a failing test from hanging.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..60_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came to this: {what}");
}

async fn ended(journal: &Arc<Doubtful>, run: &RunId) -> RunStatus {
    let status = async || journal.run(run).await.unwrap().map(|row| row.status);
    until("the run ends", async || {
        status().await.is_some_and(RunStatus::is_final)
    })
    .await;
    status().await.unwrap()
}

/// The rows of every run are what its entries say.
async fn rows_are_folds(journal: &Arc<Doubtful>) {
    for row in journal.runs(&RunFilter::default()).await.unwrap() {
        let entries = all_entries(&**journal, &row.run).await.unwrap();
        let state = RunState::fold(&row.run, std::slice::from_ref(&graph()), &entries).unwrap();
        assert_eq!(run_row(&state), row);
        for step in journal.steps(&row.run).await.unwrap() {
            assert_eq!(step_row(&state, step.ix), step);
        }
    }
}

#[tokio::test]
async fn what_comes_in_during_a_commit_shares_the_next_one() {
    let (journal, executor) = (Doubtful::new(MemoryJournal::default()), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let first = daemon.start(0);
    until("a commit is under way", async || {
        journal.asked.load(Ordering::SeqCst) == 1
    })
    .await;
    let others: Vec<_> = (1..20).map(|id| daemon.start(id)).collect();
    until("all are taken", async || {
        daemon.handle.engine().await.unwrap().open == 20
    })
    .await;
    assert!(!first.is_finished() && executor.started().is_empty());
    journal.commits.add_permits(1);
    first.await.unwrap().unwrap();
    until("the next commit is under way", async || {
        journal.asked.load(Ordering::SeqCst) == 2
    })
    .await;
    assert!(others.iter().all(|other| !other.is_finished()));
    assert_eq!(executor.started().len(), 1);
    journal.commits.add_permits(1);
    for other in others {
        other.await.unwrap().unwrap();
    }
    until("all are dispatched", async || executor.started().len() == 20).await;
    assert_eq!(journal.done.load(Ordering::SeqCst), 2);
    daemon.end().await;
}

#[tokio::test]
async fn a_failed_commit_releases_nothing_and_ends_the_daemon() {
    for takes_effect in [false, true] {
        let (journal, executor) = (Doubtful::open(), Manual::new(false));
        journal.fails.store(true, Ordering::SeqCst);
        journal.takes_effect.store(takes_effect, Ordering::SeqCst);
        let daemon = Daemon::on(&journal, &executor, 1).await;
        let answer = daemon.start(1).await.unwrap();
        assert!(matches!(answer, Err(RequestError::Stopped)), "{answer:?}");
        let end = daemon.task.await.unwrap();
        assert!(matches!(end, Err(JournalError::Store(_))), "{end:?}");
        assert_eq!(executor.started(), []);
        // The next start decides by what is in the journal; asking again is safe either way.
        let (journal, executor) = (Doubtful::on(journal.inner.successor()), Manual::new(true));
        let daemon = Daemon::on(&journal, &executor, 2).await;
        let run = daemon.started(1).await;
        assert_eq!(ended(&journal, &run).await, RunStatus::Succeeded);
        assert_eq!(journal.runs(&RunFilter::default()).await.unwrap().len(), 1);
        let entries = all_entries(&*journal, &run).await.unwrap();
        let lost = entries
            .iter()
            .flat_map(|entry| &entry.events)
            .filter(|event| matches!(event, Event::AttemptLost { .. }));
        assert_eq!(lost.count(), usize::from(takes_effect));
        rows_are_folds(&journal).await;
        daemon.end().await;
    }
}

#[tokio::test]
async fn large_outputs_are_stored_before_they_are_named_and_fetched_again() {
    let (journal, executor) = (Doubtful::open(), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let run = daemon.started(1).await;
    until("the first step runs", async || executor.started().len() == 1).await;
    let text = "x".repeat(INLINE_LIMIT);
    executor
        .end(
            &executor.started()[0].key,
            done(json!({"text": text, "maybe": null})),
        )
        .await;
    until("the second step runs", async || executor.started().len() == 2).await;
    let second = executor.started().remove(1);
    assert_eq!(
        second.input,
        json!({ "text": text }),
        "what is absent is left out"
    );
    let story = journal.story.lock().unwrap().clone();
    let [stored, named] = story.as_slice() else {
        panic!("{story:?}")
    };
    assert_eq!(stored.strip_prefix("stored "), named.strip_prefix("named "));
    let steps = journal.steps(&run).await.unwrap();
    assert!(
        matches!(&steps[0].output, Some(Output::Payload { .. })),
        "{:?}",
        steps[0].output
    );
    executor.end(&second.key, done(json!({}))).await;
    assert_eq!(ended(&journal, &run).await, RunStatus::Succeeded);
    rows_are_folds(&journal).await;
    daemon.end().await;
}

#[tokio::test]
async fn outputs_at_the_limit_stay_in_the_journal() {
    let (journal, executor) = (Doubtful::open(), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let run = daemon.started(1).await;
    until("the first step runs", async || executor.started().len() == 1).await;
    let frame = json!({"text": ""}).to_string().len();
    let value = json!({ "text": "x".repeat(INLINE_LIMIT - frame) });
    executor
        .end(&executor.started()[0].key, done(value.clone()))
        .await;
    until("the second step runs", async || executor.started().len() == 2).await;
    assert_eq!(
        journal.steps(&run).await.unwrap()[0].output,
        Some(Output::Inline(value))
    );
    assert!(journal.story.lock().unwrap().is_empty());
    daemon.end().await;
}

#[tokio::test]
async fn what_is_cancelled_while_its_input_is_fetched_never_starts() {
    let (journal, executor) = (Doubtful::open(), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let run = daemon.started(1).await;
    until("the first step runs", async || executor.started().len() == 1).await;
    journal.payloads.forget_permits(Semaphore::MAX_PERMITS);
    executor
        .end(
            &executor.started()[0].key,
            done(json!({"text": "x".repeat(INLINE_LIMIT)})),
        )
        .await;
    let running = async || {
        journal
            .steps(&run)
            .await
            .unwrap()
            .get(1)
            .is_some_and(|step| step.status == StepStatus::Running)
    };
    until("the second step is granted", running).await;
    daemon
        .handle
        .operate(&run, Verb::Cancel, By::default())
        .await
        .unwrap();
    until("the stop is carried out", async || {
        executor.stops.lock().unwrap().len() == 1
    })
    .await;
    journal.payloads.add_permits(1);
    assert_eq!(ended(&journal, &run).await, RunStatus::Cancelled);
    assert_eq!(executor.started().len(), 1);
    daemon.end().await;
}

#[tokio::test]
async fn reports_without_the_current_token_change_nothing() {
    let (journal, executor) = (Doubtful::open(), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let run = daemon.started(1).await;
    until("the first step runs", async || executor.started().len() == 1).await;
    let (job, reports) = executor.jobs.lock().unwrap()[0].clone();
    let wrong = Token::new([9; 16]);
    for text in ["small".to_owned(), "x".repeat(INLINE_LIMIT)] {
        let news = done(json!({ "text": text }));
        reports
            .send(Report {
                key: job.key.clone(),
                token: wrong.clone(),
                news,
            })
            .await;
    }
    executor.end(&job.key, done(json!({"text": "right"}))).await;
    executor.end(&job.key, done(json!({"text": "again"}))).await;
    until("the second step runs", async || executor.started().len() == 2).await;
    assert_eq!(executor.started()[1].input, json!({"text": "right"}));
    let entries = all_entries(&*journal, &run).await.unwrap();
    let ended = entries
        .iter()
        .flat_map(|entry| &entry.events)
        .filter(|event| matches!(event, Event::AttemptSucceeded { .. }));
    assert_eq!(ended.count(), 1);
    assert!(
        journal.story.lock().unwrap().is_empty(),
        "what does not count is not stored"
    );
    daemon.end().await;
}

#[tokio::test]
async fn a_shutdown_leaves_what_the_next_start_finishes() {
    let mut journal = Doubtful::open();
    let mut runs = BTreeSet::new();
    for life in 0..6_u8 {
        // Lives that end in the middle of things, then one that finishes.
        let executor = Manual::new(life % 2 == 1);
        let daemon = Daemon::on(&journal, &executor, life).await;
        for id in 0..5 {
            runs.insert(daemon.started(u64::from(life) * 5 + id).await);
        }
        daemon.end().await;
        rows_are_folds(&journal).await;
        journal = Doubtful::on(journal.inner.successor());
    }
    let executor = Manual::new(true);
    let daemon = Daemon::on(&journal, &executor, 100).await;
    for run in &runs {
        assert_eq!(ended(&journal, run).await, RunStatus::Succeeded);
    }
    assert_eq!(runs.len(), 30);
    rows_are_folds(&journal).await;
    daemon.end().await;
}

#[tokio::test]
async fn a_run_that_cannot_be_read_is_set_aside_alone() {
    let (journal, executor) = (Doubtful::open(), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let (bad, good) = (daemon.started(1).await, daemon.started(2).await);
    daemon.end().await;
    let (journal, executor) = (Doubtful::on(journal.inner.successor()), Manual::new(true));
    journal.hides_graphs.store(true, Ordering::SeqCst);
    let daemon = Daemon::on(&journal, &executor, 2).await;
    assert_eq!(ended(&journal, &good).await, RunStatus::Succeeded);
    assert_eq!(
        daemon
            .handle
            .engine()
            .await
            .unwrap()
            .damaged
            .keys()
            .collect::<Vec<_>>(),
        [&bad]
    );
    let refused = daemon.handle.operate(&bad, Verb::Pause, By::default()).await;
    assert!(
        matches!(refused, Err(RequestError::Refused(Refused::Damaged { .. }))),
        "{refused:?}"
    );
    daemon.end().await;
}

#[tokio::test]
async fn a_run_that_rests_is_read_when_it_is_asked_about() {
    let (journal, executor) = (Doubtful::open(), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let run = daemon.started(1).await;
    until("it starts", async || executor.started().len() == 1).await;
    let key = executor.started()[0].key.clone();
    let failure = Failure::permanent("broken", "a person must look");
    executor.end(&key, News::Ended(Err(failure))).await;
    let paused = async || journal.run(&run).await.unwrap().unwrap();
    until("it rests", async || paused().await.rest.is_some()).await;
    daemon.end().await;

    let (journal, executor) = (Doubtful::on(journal.inner.successor()), Manual::new(true));
    let daemon = Daemon::on(&journal, &executor, 2).await;
    let engine = daemon.handle.engine().await.unwrap();
    assert_eq!(
        (engine.open, journal.read.load(Ordering::SeqCst)),
        (1, 0),
        "only its row is read"
    );
    // Its subject is taken all the same.
    let busy = daemon.handle.start_run(new_run(1, None)).await;
    assert!(
        matches!(busy, Err(RequestError::Refused(Refused::Busy { .. }))),
        "{busy:?}"
    );
    for _ in 0..2 {
        let live = daemon.handle.live(&run).await.unwrap();
        assert!(
            format!("{:?}", live.why).contains("a person must look"),
            "{:?}",
            live.why
        );
    }
    assert_eq!(
        journal.read.load(Ordering::SeqCst),
        2,
        "between the questions it rested"
    );
    let asked = (0..3).map(|_| {
        let (handle, run) = (daemon.handle.clone(), run.clone());
        tokio::spawn(async move { handle.operate(&run, Verb::Retry(None), By::default()).await })
    });
    let mut answers = Vec::new();
    for asked in asked.collect::<Vec<_>>() {
        answers.push(asked.await.unwrap().is_ok());
    }
    assert!(answers.contains(&true), "{answers:?}");
    assert_eq!(ended(&journal, &run).await, RunStatus::Succeeded);
    rows_are_folds(&journal).await;
    assert_eq!(daemon.handle.engine().await.unwrap().open, 0);
    daemon.end().await;
}

#[tokio::test]
async fn refusals_do_not_wait_for_a_commit() {
    let (journal, executor) = (Doubtful::new(MemoryJournal::default()), Manual::new(false));
    let daemon = Daemon::on(&journal, &executor, 1).await;
    let first = daemon.start(1);
    until("a commit is under way", async || {
        journal.asked.load(Ordering::SeqCst) == 1
    })
    .await;
    let nobody = RunId::new(1, &[1; 10]);
    let refused = daemon.handle.operate(&nobody, Verb::Pause, By::default()).await;
    assert!(
        matches!(refused, Err(RequestError::Refused(Refused::NoRun(_)))),
        "{refused:?}"
    );
    let handle = daemon.handle.clone();
    let busy = handle.start_run(new_run(1, None)).await;
    assert!(
        matches!(busy, Err(RequestError::Refused(Refused::Busy { .. }))),
        "{busy:?}"
    );
    assert!(!first.is_finished());
    journal.commits.add_permits(1);
    first.await.unwrap().unwrap();
    daemon.end().await;
}
