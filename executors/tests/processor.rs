//! The parent against a program that misbehaves: whatever it does, each attempt ends once, with a cause, and no
//! process is left.
#![expect(clippy::unwrap_used, reason = "a broken expectation is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use sealflow_engine::artifact::Stores;
use sealflow_engine::executor::{Executor, ExecutorSpec, Job, Machine, News, Report, Reports};
use sealflow_engine::failure::{Failure, FailureClass};
use sealflow_engine::id::{AttemptKey, RunId, StageName, StepName, Subject, Token};
use sealflow_engine::resource::{Need, Resources};
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext, StageRegistry};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use sealflow_executors::ExtProcessor;
use sealflow_executors::log::{attempt_log, executor_log};
use sealflow_executors::processor::{OnMissing, Placement, Restart, Settings};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Task {
    how: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Output {
    said: String,
}

/// A stage whose task tells the program how to behave.
#[derive(Clone)]
struct Behave;

impl Stage for Behave {
    const NAME: &'static str = "behave";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = "//! Behaves.";
    const CLAIM: Claim = Claim::None;
    type Input = Task;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        Need::default()
    }

    async fn run(&self, cx: &StageContext, input: Task) -> Result<Outcome<Output>, Failure> {
        wire::in_process(self, cx, input).await
    }
}

impl WireStage for Behave {
    const DIALECT: Dialect = Dialect::Sealflow;
    type Task = Task;
    type Answer = String;
    type Held = ();

    async fn prepare(&self, _: &StageContext, input: &Arc<Task>, _: Place) -> Result<Next<Self>, Failure> {
        let task = Task {
            how: input.how.clone(),
        };
        Ok(Next::Compute { task, held: () })
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<String, Failure> {
        Ok(task.how)
    }

    fn finish(&self, _: &StageContext, _: &Task, (): (), said: String) -> Result<Next<Self>, Failure> {
        Ok(Next::End(Outcome::Done(Output { said })))
    }
}

struct Bench {
    executor: ExtProcessor,
    logs: tempfile::TempDir,
    sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    next: u32,
}

fn vendor() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/scripted_vendor");
    assert!(
        path.exists(),
        "cargo build --release --workspace --examples makes {}",
        path.display()
    );
    path
}

impl Bench {
    fn new(words: &[&str]) -> Self {
        Self::with(words, |_| {})
    }

    fn with(words: &[&str], change: impl FnOnce(&mut Settings)) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let mut command = vec![vendor().display().to_string(), "{stage}".to_owned()];
        command.extend(words.iter().map(|word| (*word).to_owned()));
        let launcher = vec![vendor().into_os_string(), "--launch".into()];
        let mut settings = Settings::new(command, launcher, logs.path().to_owned());
        settings.ready_timeout = Duration::from_secs(60);
        settings.restart.first = Duration::from_millis(1);
        settings.stop_grace = Duration::from_millis(500);
        change(&mut settings);
        let machine = Machine {
            name: "test".to_owned(),
            capacity: Resources::default(),
        };
        let spec = ExecutorSpec::new("fast", machine, 8);
        let registry = Arc::new(StageRegistry::default().with_wire(Behave));
        let (sender, reports) = mpsc::channel(64);
        Self {
            executor: ExtProcessor::new(spec, settings, registry, Stores::default()),
            logs,
            sender,
            reports,
            next: 0,
        }
    }

    fn start(&mut self, how: &str) -> AttemptKey {
        self.next += 1;
        let key = AttemptKey {
            run: RunId::new(1, &[0; 10]),
            step: StepName::new("behave").unwrap(),
            visit: 1,
            attempt: self.next,
        };
        let job = Job {
            key: key.clone(),
            token: Token::new([1; 16]),
            subject: Subject::new("x").unwrap(),
            stage: StageName::new("behave").unwrap(),
            many: false,
            input: json!({ "how": how }),
            held: Resources::default(),
        };
        self.executor.start(job, Reports::new(self.sender.clone()));
        key
    }

    async fn end(&mut self) -> (AttemptKey, News) {
        let report = tokio::time::timeout(Duration::from_secs(120), self.reports.recv()).await;
        let report = report.expect("an attempt never ended").unwrap();
        (report.key, report.news)
    }

    async fn said(&mut self, how: &str) -> String {
        let key = self.start(how);
        match self.end().await {
            (of, News::Ended(Ok(Outcome::Done(output)))) if of == key => {
                output["said"].as_str().unwrap().to_owned()
            }
            other => panic!("{how}: {other:?}"),
        }
    }

    async fn failure(&mut self, how: &str) -> Failure {
        let key = self.start(how);
        match self.end().await {
            (of, News::Ended(Err(failure))) if of == key => failure,
            other => panic!("{how}: {other:?}"),
        }
    }

    fn log(&self, key: &AttemptKey) -> String {
        std::fs::read_to_string(attempt_log(self.logs.path(), key)).unwrap_or_default()
    }

    fn notes(&self) -> String {
        self.executor.notes().join("\n")
    }

    /// The process of its only child.
    fn pid(&self) -> Option<String> {
        let notes = self.notes();
        let (_, rest) = notes.split_once("pid ")?;
        Some(rest.split_once(',')?.0.to_owned())
    }
}

fn alive(pid: &str) -> bool {
    // One that has ended and waits for its parent is not alive.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Processes that a command line matches.
fn running(command: &str) -> Vec<String> {
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let line = std::fs::read(path.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.trim() == command).then(|| path.display().to_string())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(of).collect()
}

async fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_it_writes_the_answer_is_found() {
    for words in [&[][..], &["crlf"], &["noise-first"]] {
        let mut bench = Bench::new(words);
        for how in ["well", "crlf", "noise", "twice", "other"] {
            assert_eq!(bench.said(how).await, "done", "{how}");
        }
        assert_eq!(bench.said("large").await.len(), 3 << 20);
        let notes = bench.notes();
        assert!(notes.contains("6 answers, 0 children ended"), "{notes}");
        assert!(notes.contains("2 answers that nobody asked for"), "{notes}");
        let log = std::fs::read_to_string(executor_log(bench.logs.path(), "fast")).unwrap();
        assert!(
            log.contains("out| INFO {\"progress\": 3}") && log.contains("err| vendor"),
            "{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_come_with_the_ready_line_are_not_lost() {
    let mut bench = Bench::new(&["early"]);
    // It is counted, so it was not lost in a buffer.
    assert_eq!(bench.said("well").await, "done");
    assert!(
        bench.notes().contains("1 answers that nobody asked for"),
        "{}",
        bench.notes()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_line_fails_its_request_only() {
    let mut bench = Bench::new(&[]);
    bench.start("slow 3000");
    for (how, code) in [
        ("garbage", "bad_answer"),
        ("not utf-8", "bad_answer"),
        ("neither", "bad_answer"),
        ("wrong type", "bad_answer"),
        ("error", "program_failed"),
    ] {
        let failure = bench.failure(how).await;
        assert_eq!(
            (failure.code.as_ref(), failure.class),
            (code, FailureClass::Transient),
            "{how}"
        );
    }
    let told = bench.failure("told").await;
    assert_eq!(
        (told.code.as_ref(), told.class),
        ("no_licence", FailureClass::Permanent)
    );
    assert_eq!(told.message, "buy one");
    let (_, slow) = bench.end().await;
    assert!(matches!(slow, News::Ended(Ok(_))), "{slow:?}");
    assert!(bench.notes().contains("0 children ended"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_have_a_limit_and_strictness_is_a_choice() {
    let mut bench = Bench::with(&[], |settings| settings.max_line = 1 << 20);
    assert_eq!(bench.failure("large").await.code, "bad_answer");
    assert_eq!(bench.said("well").await, "done");
    let mut strict = Bench::with(&[], |settings| settings.strict_stdout = true);
    let failure = strict.failure("noise").await;
    assert_eq!(failure.code, "protocol_fault", "{failure}");
    assert_eq!(strict.said("well").await, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_child_fails_its_attempts_and_is_started_again() {
    let mut bench = Bench::new(&[]);
    for (how, cause) in [
        ("die", "exit status 42"),
        ("abort", "signal 6"),
        ("half", "exit status 0"),
    ] {
        let failure = bench.failure(how).await;
        assert_eq!(
            (failure.code.as_ref(), failure.class),
            ("child_died", FailureClass::Transient)
        );
        assert!(failure.message.contains(cause), "{failure}");
        assert_eq!(bench.said("well").await, "done");
    }
    let key = bench.start("die");
    let (_, News::Ended(Err(failure))) = bench.end().await else {
        panic!()
    };
    assert!(
        failure.message.contains("its last words: ") && failure.message.contains("I am dying"),
        "{failure}"
    );
    let log = bench.log(&key);
    assert!(
        log.contains("err| I am dying") && log.contains("child_died"),
        "{log}"
    );
    // Killed from outside in the middle of its work.
    bench.start("idle");
    wait_for("the child", || bench.pid().is_some()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let pid = rustix::process::Pid::from_raw(bench.pid().unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let (_, News::Ended(Err(failure))) = bench.end().await else {
        panic!()
    };
    assert!(failure.message.contains("signal 9"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_never_ready_or_not_there() {
    let mut bench = Bench::with(&["never-ready"], |settings| {
        settings.ready_timeout = Duration::from_millis(300);
    });
    let failure = bench.failure("well").await;
    assert_eq!(failure.code, "child_not_ready");
    assert!(failure.message.contains("behave processor ready"), "{failure}");
    let never = format!("{} behave never-ready", vendor().display());
    assert!(running(&never).is_empty(), "it still runs");
    let mut bench = Bench::with(&[], |settings| {
        settings.command = vec!["/no/such/program".to_owned()]
    });
    let failure = bench.failure("well").await;
    assert!(
        failure.message.contains("start /no/such/program: No such file"),
        "{failure}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_ends_in_a_refusal_until_resumed() {
    let mut bench = Bench::with(&["dies-at-start"], |settings| {
        settings.restart = Restart {
            first: Duration::from_millis(20),
            most: Duration::from_millis(100),
            give_up_after: 3,
        };
    });
    let began = Instant::now();
    for _ in 0..3 {
        let failure = bench.failure("well").await;
        assert_eq!(
            (failure.code.as_ref(), failure.class),
            ("child_died", FailureClass::Transient)
        );
        assert!(
            failure.message.contains("exit status 3") && failure.message.contains("no licence"),
            "{failure}"
        );
    }
    assert!(
        began.elapsed() >= Duration::from_millis(60),
        "there was no pause between"
    );
    for _ in 0..2 {
        let failure = bench.failure("well").await;
        assert_eq!(
            (failure.code.as_ref(), failure.class),
            ("executor_broken", FailureClass::Critical)
        );
        assert!(failure.message.contains("executor resume fast"), "{failure}");
    }
    assert!(bench.notes().contains("refuses"));
    assert!(bench.executor.resume() && !bench.executor.resume());
    assert_eq!(bench.failure("well").await.code, "child_died");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_are_in_flight_in_one_child_or_in_several() {
    for children in [1, 3] {
        let mut bench = Bench::with(&[], |settings| settings.children = children);
        let began = Instant::now();
        for _ in 0..8 {
            bench.start("slow 1000");
        }
        for _ in 0..8 {
            assert!(matches!(bench.end().await.1, News::Ended(Ok(_))));
        }
        assert!(
            began.elapsed() < Duration::from_secs(7),
            "they waited for each other"
        );
        let seen = bench.notes().matches("child for behave: pid").count();
        assert_eq!(seen, children, "{}", bench.notes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_attempt_ends_its_child_and_others_in_it_are_lost() {
    for words in [&[][..], &["stubborn"]] {
        let mut bench = Bench::new(words);
        let key = bench.start("idle");
        wait_for("the child", || bench.notes().contains(", 1 open")).await;
        let pid = bench.pid().unwrap();
        bench.executor.stop(&key);
        let (of, news) = bench.end().await;
        let News::Ended(Err(failure)) = news else {
            panic!("{news:?}")
        };
        assert_eq!((of, failure.code.as_ref()), (key.clone(), "stopped"));
        assert!(!alive(&pid), "{pid} lives");
        let asked = bench.log(&key);
        assert!(asked.contains("stopped"), "{asked}");

        let (first, second) = (bench.start("idle"), bench.start("idle"));
        wait_for("both", || bench.notes().contains(", 2 open")).await;
        bench.executor.stop(&first);
        let mut ends = [bench.end().await, bench.end().await];
        ends.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(
            matches!(&ends[0], (of, News::Ended(Err(failure))) if *of == first && failure.code == "stopped")
        );
        assert!(
            matches!(&ends[1], (of, News::Lost(_)) if *of == second),
            "{ends:?}"
        );
        assert_eq!(bench.said("well").await, "done");
        // Starting and stopping what is not there changes nothing.
        bench.executor.stop(&first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_told_from_work() {
    let limit = Duration::from_millis(600);
    let mut bench = Bench::with(&[], |settings| settings.silence = Some(limit));
    let failure = bench.failure("idle").await;
    assert_eq!(failure.code, "child_silent", "{failure}");
    let busy = bench.start("busy");
    tokio::time::sleep(limit * 4).await;
    assert!(
        bench.reports.try_recv().is_err(),
        "a busy child was called silent"
    );
    bench.executor.stop(&busy);
    bench.end().await;
}

fn hidden(seconds: &str) -> Vec<String> {
    [
        running(&format!("sleep {seconds}")),
        running(&format!("sleep {seconds}.5")),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_child_starts_ends_with_it() {
    let mut bench = Bench::new(&["orphans-3333"]);
    assert_eq!(bench.said("well").await, "done");
    wait_for("the hidden processes", || hidden("3333").len() == 2).await;
    assert_eq!(bench.failure("die").await.code, "child_died");
    let left = hidden("3333");
    assert!(left.is_empty(), "{left:?}");
}

/// The parent is killed, so it can do nothing: the guard does it.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_when_the_parent_is_killed() {
    let mut parent = std::process::Command::new(vendor())
        .args(["--parent", "behave", "orphans-4444", "stubborn"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the hidden processes", || hidden("4444").len() == 2).await;
    let child = format!("{} behave orphans-4444 stubborn", vendor().display());
    assert_eq!(
        running(&child).len(),
        1,
        "the thread that started it has ended, and nobody minds"
    );
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for("the end of all", || {
        hidden("4444").is_empty() && running(&child).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_and_the_folder_are_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench::with(&[], |settings| {
        settings.inherit_env = false;
        settings.env.insert("FIL_PROOFS_TEST".to_owned(), "1".to_owned());
        settings.gpus = Some(vec![0, 2]);
        settings.working_dir = Some(folder.path().to_owned());
    });
    let env: Value = serde_json::from_str(&bench.said("env").await).unwrap();
    assert_eq!(
        (&env["FIL_PROOFS_TEST"], &env["CUDA_VISIBLE_DEVICES"]),
        (&json!("1"), &json!("0,2"))
    );
    assert!(env["PATH"].is_null(), "{env}");
    let log = std::fs::read_to_string(executor_log(bench.logs.path(), "fast")).unwrap();
    assert!(
        log.contains(&format!("in {:?}", folder.path().canonicalize().unwrap())),
        "{log}"
    );
    let mut inherits = Bench::new(&[]);
    let env: Value = serde_json::from_str(&inherits.said("env").await).unwrap();
    assert!(env["PATH"].is_string() && env["CUDA_VISIBLE_DEVICES"].is_null());
}

/// Where the host can limit memory, running out of it is told as that; where it cannot, that is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_holds_or_is_refused() {
    let limited = |on_missing| {
        Bench::with(&[], move |settings| {
            settings.on_missing = on_missing;
            settings.placement = Placement {
                memory_limit: Some(64 << 20),
                ..Placement::default()
            };
        })
    };
    let mut bench = limited(OnMissing::Refuse);
    let failure = bench.failure("eat").await;
    match failure.code.as_ref() {
        "out_of_memory" => assert_eq!(bench.said("well").await, "done"),
        "host_lacks" => {
            assert_eq!(failure.class, FailureClass::Critical);
            assert!(failure.message.contains("cgroup controller memory"), "{failure}");
            let mut bench = limited(OnMissing::Degrade);
            assert_eq!(bench.said("well").await, "done");
            assert!(
                bench.notes().contains("not confined by cgroup controller memory"),
                "{}",
                bench.notes()
            );
        }
        other => panic!("{other}: {failure}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn side_daemons_are_kept() {
    let bench = Bench::with(&[], |settings| settings.side_daemon = true);
    wait_for("the side daemon", || bench.pid().is_some()).await;
    let first = bench.pid().unwrap();
    let pid = rustix::process::Pid::from_raw(first.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for("the next one", || bench.pid().is_some_and(|pid| pid != first)).await;
    let log = std::fs::read_to_string(executor_log(bench.logs.path(), "fast")).unwrap();
    assert!(log.contains("scripted_vendor EMPTY"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_without_wire_form_is_refused() {
    let mut bench = Bench::new(&[]);
    let key = bench.start("well");
    bench.end().await;
    let job = Job {
        key: AttemptKey { attempt: 9, ..key },
        token: Token::new([1; 16]),
        subject: Subject::new("x").unwrap(),
        stage: StageName::new("other").unwrap(),
        many: false,
        input: json!({}),
        held: Resources::default(),
    };
    bench.executor.start(job, Reports::new(bench.sender.clone()));
    let (_, News::Ended(Err(failure))) = bench.end().await else {
        panic!()
    };
    assert_eq!(failure.code, "no_wire_form");
    assert!(Path::new(&vendor()).exists());
}
