//! Executors on other machines, over real connections: whatever happens to the daemon, the worker or the network
//! between them, an attempt's work counts once, and nothing is done again that need not be.
#![expect(clippy::unwrap_used, reason = "a broken expectation is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemars::JsonSchema;
use sealflow_engine::artifact::Stores;
use sealflow_engine::clock::SystemClock;
use sealflow_engine::dispatcher::{self, Handle, NewRun, Parts};
use sealflow_engine::event::{By, Event};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::Journal;
use sealflow_engine::resource::Need;
use sealflow_engine::run::{RunState, RunStatus};
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext, StageRegistry, SubjectKind};
use sealflow_engine::testing::MemoryJournal;
use sealflow_engine::workflow::Graph;
use sealflow_executor::v1;
use sealflow_executor::v1::executors_client::ExecutorsClient;
use sealflow_executor::{Connection, Context, End, Handler, Job, Profile};
use sealflow_executors::log::attempt_logs;
use sealflow_executors::remote::{Access, Caller, Service};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Input {
    how: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Output {
    /// What was said.
    said: String,
}

/// A stage that only other machines run.
struct Nap;

impl Stage for Nap {
    const NAME: &'static str = "nap";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = "//! Naps.";
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        Need::default()
    }

    async fn run(&self, _: &StageContext, _: Input) -> Result<Outcome<Output>, Failure> {
        Err(Failure::permanent("here", "it is not to run here"))
    }
}

fn registry() -> Arc<StageRegistry> {
    let subject = |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
    let kind = SubjectKind {
        name: "thing",
        params: &[("id", "uint64")],
        subject,
    };
    let registry = StageRegistry::default().with_subject(kind).with_type::<u64>();
    Arc::new(registry.with_type::<String>().with(Nap))
}

fn graph(lost: &str) -> Arc<Graph> {
    let text = format!(
        "[workflow]\nname = \"naps\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\nhow = \"string\"\n[steps.nap]\n\
         with = {{ how = \"params.how\" }}\ntimeout = {{ {lost} }}\nretry = {{ max_attempts = 2, backoff = \"10ms\" }}\n"
    );
    let (graph, complaints) = sealflow_engine::workflow::load(&text, &registry());
    Arc::new(graph.unwrap_or_else(|| panic!("{complaints:?}")))
}

/// Who shows the name of a worker may speak for it.
struct ByName;

impl Access for ByName {
    fn admit(&self, token: Option<&str>, _: &[Vec<u8>]) -> Result<Caller, String> {
        let worker = token.ok_or("show a token")?.to_owned();
        Ok(Caller { worker: Some(worker) })
    }
}

struct Daemon {
    handle: Handle,
    tasks: Vec<JoinHandle<()>>,
    service: Service,
    logs: tempfile::TempDir,
}

impl Daemon {
    /// A daemon on this journal, which workers reach at this address.
    async fn on(journal: &Arc<MemoryJournal>, address: SocketAddr) -> Self {
        let parts = Parts {
            journal: journal.clone(),
            registry: registry(),
            executors: Vec::new(),
            clock: Arc::new(SystemClock::default()),
            seed: rand::random(),
        };
        let (dispatcher, handle) = dispatcher::open(parts).await.unwrap();
        let engine = tokio::spawn(async move { dispatcher.run(CancellationToken::new()).await.unwrap() });
        let logs = tempfile::tempdir().unwrap();
        let folder = logs.path().to_owned();
        let service = Service::new(handle.clone(), Arc::new(ByName), Stores::default(), folder);
        let listener = loop {
            // The port of a daemon that was killed a moment ago.
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let server = tonic::transport::Server::builder().add_service(service.server());
        let served = server.serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { served.await.unwrap() });
        Self {
            handle,
            tasks: vec![engine, server],
            service,
            logs,
        }
    }

    /// As `kill -9` does: nothing is said, nothing is finished.
    async fn kill(self) {
        for task in self.tasks {
            task.abort();
            drop(task.await);
        }
    }

    async fn start(&self, id: u64, how: &str, lost: &str) -> RunId {
        let new = NewRun {
            graph: graph(lost),
            source: String::new(),
            params: json!({ "id": id, "how": how }),
            key: None,
            priority: None,
            by: By::default(),
        };
        self.handle.start_run(new).await.unwrap()
    }

    async fn state(&self, run: &RunId) -> RunState {
        self.handle.state_of(run).await.unwrap().0
    }

    async fn ends(&self, run: &RunId, status: RunStatus) -> RunState {
        for _ in 0..1200 {
            let state = self.state(run).await;
            if state.status == status {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.state(run).await)
    }
}

/// How many times each event happened to a run.
async fn events(journal: &MemoryJournal, run: &RunId) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for entry in journal.entries(run, 1, 1000).await.unwrap() {
        for event in entry.events {
            let tag = serde_json::to_value(&event).unwrap()["event"]
                .as_str()
                .unwrap()
                .to_owned();
            *count.entry(tag).or_default() += 1;
            if let Event::AttemptFailed { failure, .. } = event {
                *count.entry(failure.code.into_owned()).or_default() += 1;
            }
        }
    }
    count
}

/// A worker's work: it does what the input says, and counts.
#[derive(Default)]
struct Naps {
    begun: AtomicUsize,
    ended: AtomicUsize,
    cancelled: AtomicUsize,
    /// Attempts go on when this is set.
    go: AtomicBool,
    tokens: Mutex<Vec<v1::Attempt>>,
    /// What its programs said.
    log: Mutex<Option<PathBuf>>,
}

impl Naps {
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        for _ in 0..1200 {
            if what(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("it did not come to that")
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
}

impl Handler for Naps {
    async fn run(&self, job: Job, cx: Context) -> End {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.tokens.lock().unwrap().push(job.attempt.clone());
        let input: Input = serde_json::from_slice(&job.input).unwrap();
        cx.progress(v1::Progress {
            phase: "napping".to_owned(),
            ..v1::Progress::default()
        });
        cx.log(b"begun\n");
        if input.how == "wait" {
            while !self.go.load(Ordering::SeqCst) && !cx.cancelled().is_cancelled() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        cx.log(b"ended\n");
        if cx.cancelled().is_cancelled() {
            self.cancelled.fetch_add(1, Ordering::SeqCst);
        }
        self.ended.fetch_add(1, Ordering::SeqCst);
        match input.how.as_str() {
            "garbage" => End::Done(b"nonsense".to_vec()),
            "other fields" => End::Done(br#"{"heard":"x"}"#.to_vec()),
            "panic" => panic!("it broke"),
            "large" => End::Done(serde_json::to_vec(&json!({ "said": "x".repeat(1 << 20) })).unwrap()),
            "odd failure" => End::Failed(sealflow_executor::Failure {
                class: "permanent",
                code: "Not A Slug".to_owned(),
                message: "odd".to_owned(),
            }),
            how => End::Done(serde_json::to_vec(&json!({ "said": how })).unwrap()),
        }
    }

    fn open(&self, artifact: &v1::Artifact) -> Result<PathBuf, String> {
        let log = self.log.lock().unwrap().clone();
        let known = artifact.store == "logs" && artifact.key == "executors/naps.log";
        log.filter(|_| known).ok_or("there is no such log".to_owned())
    }
}

struct Worker {
    task: JoinHandle<Result<(), sealflow_executor::Error>>,
    shutdown: CancellationToken,
    naps: Arc<Naps>,
}

fn offer(stage: &str) -> v1::Offer {
    v1::Offer {
        name: "naps".to_owned(),
        stages: vec![v1::StageVersion {
            stage: stage.to_owned(),
            version: 1,
        }],
        concurrency: 8,
        killable: true,
        ..v1::Offer::default()
    }
}

impl Worker {
    fn new(name: &str, address: SocketAddr, outbox: Option<PathBuf>) -> Self {
        let connection = Connection {
            url: format!("http://{address}"),
            token: Some(name.to_owned()),
            ca: None,
            identity: None,
        };
        let profile = Profile {
            worker: name.to_owned(),
            program: "test".to_owned(),
            capacity: v1::Resources {
                cpu: 8,
                memory: 1 << 30,
                ..v1::Resources::default()
            },
            offers: vec![offer("nap")],
            outbox,
            ..Profile::default()
        };
        let (naps, shutdown) = (Arc::new(Naps::default()), CancellationToken::new());
        let work = sealflow_executor::run(connection, profile, naps.clone(), shutdown.clone());
        Self {
            task: tokio::spawn(work),
            shutdown,
            naps,
        }
    }
}

/// A network between workers and the daemon that can be cut, and frozen.
struct Network {
    address: SocketAddr,
    /// Bytes are passed on.
    open: tokio::sync::watch::Sender<bool>,
    /// Connections are made.
    up: Arc<AtomicBool>,
    cut: Arc<Mutex<CancellationToken>>,
}

impl Network {
    async fn to(daemon: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, watch) = tokio::sync::watch::channel(true);
        let up = Arc::new(AtomicBool::new(true));
        let cut = Arc::new(Mutex::new(CancellationToken::new()));
        let (is_up, cuts) = (up.clone(), cut.clone());
        drop(tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                if !is_up.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(to) = TcpStream::connect(daemon).await else {
                    continue;
                };
                let cut = cuts.lock().unwrap().clone();
                let (from_read, from_write) = from.into_split();
                let (to_read, to_write) = to.into_split();
                drop(tokio::spawn(pass(
                    from_read,
                    to_write,
                    watch.clone(),
                    cut.clone(),
                )));
                drop(tokio::spawn(pass(to_read, from_write, watch.clone(), cut)));
            }
        }));
        Self {
            address,
            open,
            up,
            cut,
        }
    }

    fn down(&self) {
        self.up.store(false, Ordering::SeqCst);
        let cut = std::mem::take(&mut *self.cut.lock().unwrap());
        cut.cancel();
    }

    fn restore(&self) {
        self.up.store(true, Ordering::SeqCst);
    }

    /// Nothing is passed on, and nobody is told: as when a machine stands still.
    fn freeze(&self, frozen: bool) {
        self.open.send(!frozen).unwrap();
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut open: tokio::sync::watch::Receiver<bool>,
    cut: CancellationToken,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = tokio::select! {
            () = cut.cancelled() => return,
            read = from.read(&mut bytes) => read.unwrap_or(0),
        };
        tokio::select! {
            () = cut.cancelled() => return,
            waited = open.wait_for(|open| *open) => drop(waited.unwrap()),
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn work_is_done_elsewhere_and_answers_are_checked() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let daemon = Daemon::on(&journal, address).await;
    let worker = Worker::new("a", address, None);
    let runs = futures::future::join_all((0..20).map(|id| daemon.start(id, "well", ""))).await;
    for run in &runs {
        let state = daemon.ends(run, RunStatus::Succeeded).await;
        let (_, step) = state.steps().next().unwrap();
        assert_eq!(step.ran_on.as_deref(), Some("naps@a"));
    }
    let large = daemon.start(100, "large", "").await;
    daemon.ends(&large, RunStatus::Succeeded).await;
    assert_eq!(worker.naps.begun(), 21);
    for (id, how, code) in [
        (101, "garbage", "bad_output"),
        (102, "other fields", "bad_output"),
        (103, "panic", "panicked"),
        (104, "odd failure", "bad_report"),
    ] {
        let run = daemon.start(id, how, "").await;
        daemon.ends(&run, RunStatus::Paused).await;
        assert_eq!(events(&journal, &run).await.get(code), Some(&1), "{how}");
    }
    worker.shutdown.cancel();
    worker.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_daemon_that_was_killed_adopts_what_runs() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let daemon = Daemon::on(&journal, address).await;
    let worker = Worker::new("a", address, None);
    let run = daemon.start(1, "wait", "").await;
    worker.naps.until(|naps| naps.begun() == 1).await;
    daemon.kill().await;
    // It ends while nobody is there to be told.
    worker.naps.go.store(true, Ordering::SeqCst);
    worker
        .naps
        .until(|naps| naps.ended.load(Ordering::SeqCst) == 1)
        .await;
    let daemon = Daemon::on(&journal, address).await;
    daemon.ends(&run, RunStatus::Succeeded).await;
    let events = events(&journal, &run).await;
    assert_eq!(
        (events["attempt_started"], events["attempt_succeeded"]),
        (1, 1),
        "{events:?}"
    );
    assert_eq!(worker.naps.begun(), 1, "nothing was done twice");
}

#[tokio::test]
async fn a_network_that_was_cut_costs_nothing() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let daemon = Daemon::on(&journal, address).await;
    let network = Network::to(address).await;
    let worker = Worker::new("a", network.address, None);
    let run = daemon.start(1, "wait", "").await;
    worker.naps.until(|naps| naps.begun() == 1).await;
    network.down();
    worker.naps.go.store(true, Ordering::SeqCst);
    // Orders that are given meanwhile arrive later.
    let other = daemon.start(2, "well", "").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    network.restore();
    daemon.ends(&run, RunStatus::Succeeded).await;
    daemon.ends(&other, RunStatus::Succeeded).await;
    for run in [&run, &other] {
        let events = events(&journal, run).await;
        assert_eq!(
            (events["attempt_started"], events["attempt_succeeded"]),
            (1, 1),
            "{events:?}"
        );
    }
    assert_eq!(worker.naps.begun(), 2);
    // What attempts said is here before their ends, once.
    for run in [&run, &other] {
        let logs = attempt_logs(daemon.logs.path(), run, "nap");
        assert_eq!(logs.len(), 1, "{logs:?}");
        let text = std::fs::read_to_string(&logs[0].2).unwrap();
        assert_eq!(text, "begun\nended\n");
    }
}

#[tokio::test]
async fn what_programs_on_other_machines_said_can_be_read() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let daemon = Daemon::on(&journal, address).await;
    let worker = Worker::new("a", address, None);
    let run = daemon.start(1, "well", "").await;
    daemon.ends(&run, RunStatus::Succeeded).await;
    let asked = daemon.service.log_of("naps", "a", 0).await;
    assert_eq!(asked.unwrap_err(), "there is no such log");
    let file = daemon.logs.path().join("programs.log");
    std::fs::write(&file, "first\nsecond\n").unwrap();
    *worker.naps.log.lock().unwrap() = Some(file);
    assert_eq!(
        daemon.service.log_of("naps", "a", 0).await.unwrap(),
        b"first\nsecond\n"
    );
    assert_eq!(daemon.service.log_of("naps", "a", 6).await.unwrap(), b"second\n");
    let asked = daemon.service.log_of("naps", "b", 0).await;
    assert!(asked.unwrap_err().contains("not connected"));
}

#[tokio::test]
async fn a_result_outlives_the_worker_and_unfinished_work_is_done_again() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let outbox = tempfile::tempdir().unwrap();
    let daemon = Daemon::on(&journal, address).await;
    let worker = Worker::new("a", address, Some(outbox.path().to_owned()));
    let finished = daemon.start(1, "wait", "").await;
    worker.naps.until(|naps| naps.begun() == 1).await;
    daemon.kill().await;
    worker.naps.go.store(true, Ordering::SeqCst);
    for _ in 0..200 {
        if std::fs::read_dir(outbox.path()).unwrap().count() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    worker.task.abort();
    let daemon = Daemon::on(&journal, address).await;
    let worker = Worker::new("a", address, Some(outbox.path().to_owned()));
    daemon.ends(&finished, RunStatus::Succeeded).await;
    assert_eq!(worker.naps.begun(), 0, "the result was kept");
    assert_eq!(events(&journal, &finished).await["attempt_started"], 1);
    for _ in 0..200 {
        if std::fs::read_dir(outbox.path()).unwrap().count() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        std::fs::read_dir(outbox.path()).unwrap().count(),
        0,
        "acknowledged"
    );
    // A worker that dies in the middle of its work comes back with nothing: it is noticed at once.
    let unfinished = daemon.start(2, "wait", "").await;
    worker.naps.until(|naps| naps.begun() == 1).await;
    worker.task.abort();
    let worker = Worker::new("a", address, Some(outbox.path().to_owned()));
    worker.naps.go.store(true, Ordering::SeqCst);
    let state = daemon.ends(&unfinished, RunStatus::Succeeded).await;
    let events = events(&journal, &unfinished).await;
    assert_eq!(
        (events["attempt_started"], events["attempt_lost"]),
        (2, 1),
        "{events:?}"
    );
    assert_eq!(state.steps().next().unwrap().1.charged, 0, "not the run's fault");
}

#[tokio::test]
async fn a_frozen_worker_is_replaced_and_its_late_result_refused() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let daemon = Daemon::on(&journal, address).await;
    let network = Network::to(address).await;
    let frozen = Worker::new("a", network.address, None);
    let run = daemon.start(1, "wait", "lost = \"13s\"").await;
    frozen.naps.until(|naps| naps.begun() == 1).await;
    let other = Worker::new("b", address, None);
    other.naps.go.store(true, Ordering::SeqCst);
    network.freeze(true);
    let state = daemon.ends(&run, RunStatus::Succeeded).await;
    assert_eq!(state.steps().next().unwrap().1.ran_on.as_deref(), Some("naps@b"));
    // It wakes, and has done the work too.
    frozen.naps.go.store(true, Ordering::SeqCst);
    frozen
        .naps
        .until(|naps| naps.ended.load(Ordering::SeqCst) == 1)
        .await;
    network.freeze(false);
    let more = daemon.start(2, "well", "").await;
    daemon.ends(&more, RunStatus::Succeeded).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let events = events(&journal, &run).await;
    let told = (
        events["attempt_started"],
        events["attempt_lost"],
        events["attempt_succeeded"],
    );
    assert_eq!(told, (2, 1, 1), "{events:?}");
}

#[tokio::test]
async fn what_a_machine_claims_is_not_believed() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let daemon = Daemon::on(&journal, address).await;
    let worker = Worker::new("a", address, None);
    let run = daemon.start(1, "wait", "").await;
    worker.naps.until(|naps| naps.begun() == 1).await;
    let attempt = worker.naps.tokens.lock().unwrap()[0].clone();

    let mut client = ExecutorsClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    fn with<T>(token: Option<&str>, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(token) = token {
            let header = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        request
    }
    let registration = |worker: &str, offers: Vec<v1::Offer>| v1::RegisterRequest {
        contract: 1,
        worker: worker.to_owned(),
        offers,
        incarnation: "x".to_owned(),
        ..v1::RegisterRequest::default()
    };
    for (token, request, part) in [
        (None, registration("b", vec![offer("nap")]), "show a token"),
        (
            Some("b"),
            registration("a", vec![offer("nap")]),
            "not those of worker `a`",
        ),
        (
            Some("b"),
            registration("b", vec![offer("pc9")]),
            "offers stage `pc9`, which this daemon does not have",
        ),
        (Some("b/c"), registration("b/c", vec![]), "a name has"),
        (
            Some("b"),
            registration(
                "b",
                vec![v1::Offer {
                    concurrency: 0,
                    ..offer("nap")
                }],
            ),
            "concurrency of 0",
        ),
        (
            Some("b"),
            v1::RegisterRequest {
                contract: 0,
                ..registration("b", vec![])
            },
            "contract 0 is too old",
        ),
    ] {
        let refused = client.register(with(token, request)).await.unwrap_err();
        assert!(refused.message().contains(part), "{refused}");
    }
    let offers = vec![v1::Offer {
        concurrency: 1,
        ..offer("nap")
    }];
    let mine = client
        .register(with(Some("b"), registration("b", offers)))
        .await
        .unwrap()
        .into_inner();
    // Another's attempt with a guessed token is worthless, also when it is listed.
    let end = |attempt: v1::Attempt, session: &str| v1::ReportRequest {
        session: session.to_owned(),
        items: vec![v1::Item {
            attempt: Some(attempt),
            news: Some(v1::item::News::Output(br#"{"said":"lie"}"#.to_vec().into())),
        }],
    };
    let guessed = v1::Attempt {
        token: "0".repeat(32),
        ..attempt.clone()
    };
    let answer = client
        .report(with(Some("b"), end(guessed.clone(), &mine.session)))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().verdicts, [v1::Verdict::Superseded as i32]);
    let listing = v1::RegisterRequest {
        attempts: vec![guessed.clone()],
        ..registration("b", vec![offer("nap")])
    };
    let again = client
        .register(with(Some("b"), listing))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(again.superseded, [guessed]);
    // A session that was replaced is over, and one of another machine is not mine.
    let old = client
        .beat(with(
            Some("b"),
            v1::BeatRequest {
                session: mine.session,
            },
        ))
        .await
        .unwrap_err();
    assert!(old.message().contains("register again"), "{old}");
    let stolen = client
        .beat(with(
            Some("c"),
            v1::BeatRequest {
                session: again.session,
            },
        ))
        .await
        .unwrap_err();
    assert!(stolen.message().contains("another machine's"), "{stolen}");

    worker.naps.go.store(true, Ordering::SeqCst);
    daemon.ends(&run, RunStatus::Succeeded).await;
    // The same end told again, as after an answer that was lost.
    let mut late = Worker::new("a", address, None);
    worker.task.abort();
    tokio::time::sleep(Duration::from_millis(500)).await;
    late.shutdown.cancel();
    late.task = tokio::spawn(async { Ok(()) });
    let mine = client
        .register(with(Some("a"), registration("a", vec![offer("nap")])))
        .await
        .unwrap()
        .into_inner();
    let answer = client
        .report(with(Some("a"), end(attempt, &mine.session)))
        .await
        .unwrap();
    assert_eq!(answer.into_inner().verdicts, [v1::Verdict::Superseded as i32]);
    assert_eq!(events(&journal, &run).await["attempt_succeeded"], 1);
}

#[tokio::test]
async fn a_cancelled_attempt_ends_and_a_drained_worker_goes_home() {
    let (journal, address) = (Arc::new(MemoryJournal::default()), free_address().await);
    let daemon = Daemon::on(&journal, address).await;
    let worker = Worker::new("a", address, None);
    let run = daemon.start(1, "wait", "").await;
    worker.naps.until(|naps| naps.begun() == 1).await;
    let cancel = sealflow_engine::core::Verb::Cancel;
    daemon.handle.operate(&run, cancel, By::default()).await.unwrap();
    daemon.ends(&run, RunStatus::Cancelled).await;
    assert_eq!(worker.naps.cancelled.load(Ordering::SeqCst), 1);
    assert!(daemon.service.drain("a") && !daemon.service.drain("nobody"));
    let ended = tokio::time::timeout(Duration::from_secs(10), worker.task).await;
    ended.unwrap().unwrap().unwrap();
    let engine = daemon.handle.engine().await.unwrap();
    assert!(engine.executors.is_empty(), "{:?}", engine.executors);
}
