//! One child: its processes, its pipes, the requests it works on, and how it ends. Three threads look after it:
//! one reads its answers, one what it says beside them, one waits for its end.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child as Guard, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sealflow_engine::failure::Failure;
use sealflow_engine::wire::failure_of;
use tokio::sync::{oneshot, watch};

use super::cgroup::{Groups, Host};
use super::launch::{NOT_STARTED, Plan, Role};
use super::line::{Line, Lines, Message};
use super::settings::{OnMissing, Settings};
use super::tree;
use crate::log::Log;

/// Lines of stderr that a failure tells.
const LAST_LINES: usize = 8;

/// Bytes of such a line that a failure tells.
const LAST_LINE: usize = 300;

/// How a request ended without an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum End {
    /// It failed.
    Failed(Failure),
    /// Another request in the same child was stopped, which ended the child.
    Lost(String),
}

/// What a request gets.
type Answer = Result<String, End>;

struct Pending {
    to: oneshot::Sender<Answer>,
    log: Arc<Log>,
}

/// Why we end a child.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cause {
    /// This request was stopped.
    Stopped(u64),
    /// It broke the protocol, was silent, and so on: code and text.
    Fault(&'static str, String),
}

/// A child that runs or has ended.
pub(super) struct Child {
    /// What it is, for people: `pc2 of fast`.
    name: String,
    guard: i32,
    stdin: Mutex<Option<ChildStdin>>,
    pending: Mutex<BTreeMap<u64, Pending>>,
    next: AtomicU64,
    cause: Mutex<Option<Cause>>,
    last: Mutex<VecDeque<String>>,
    groups: Groups,
    log: Arc<Log>,
    /// Lines that were no answers, and answers that nobody asked for.
    pub(super) noise: Arc<Counts>,
    strict: bool,
    /// Whether its end has been counted.
    pub(super) counted: AtomicBool,
    ended: watch::Receiver<Option<String>>,
}

/// What is counted of all children of an executor.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) noise: AtomicU64,
    pub(super) unknown_ids: AtomicU64,
    pub(super) deaths: AtomicU64,
    pub(super) answers: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a child is started for.
pub(super) struct Start<'a> {
    pub(super) stage: &'a str,
    pub(super) executor: &'a str,
    pub(super) gpus: Option<&'a [u8]>,
    pub(super) settings: &'a Settings,
    pub(super) host: &'a Host,
    pub(super) log: Arc<Log>,
    pub(super) counts: Arc<Counts>,
    /// Tells the child's control groups from those of others.
    pub(super) serial: u64,
}

impl Child {
    /// Starts a child and waits until it is ready.
    pub(super) async fn start(start: Start<'_>) -> Result<Arc<Self>, Failure> {
        let settings = start.settings;
        let name = format!("{}.{}.{}", start.executor, std::process::id(), start.serial);
        let groups = start.host.make(&name, &settings.placement.wanted());
        // A cpuset holds by affinity too; without the controller a program could only leave it on purpose.
        let lacking = !groups.missing.is_empty() && settings.placement.needs_groups();
        if lacking && settings.on_missing == OnMissing::Refuse {
            groups.dirs.iter().for_each(|dir| super::cgroup::remove(dir));
            let text = format!(
                "this host cannot confine the program: {}; give it that, or set on_missing = \"degrade\"",
                groups.missing.join(", ")
            );
            return Err(Failure::critical("host_lacks", text));
        }
        let ready_line = format!("{} processor ready", start.stage);
        let (child, ready) = Self::spawn(start, groups, ready_line.clone())?;
        let mut ended = child.ended.clone();
        let waited = tokio::select! {
            ready = ready => ready.is_ok(),
            () = tokio::time::sleep(settings.ready_timeout) => false,
        };
        if waited {
            return Ok(child);
        }
        let died = ended.borrow_and_update().clone();
        // The end may be known a moment after the pipe is closed.
        let died = match died {
            Some(text) => Some(text),
            None if child.stdout_closed() => {
                let known = ended.wait_for(Option::is_some);
                let known = tokio::time::timeout(Duration::from_secs(30), known).await;
                known.ok().and_then(|end| end.ok()?.clone())
            }
            None => None,
        };
        if let Some(text) = died {
            return Err(Failure::transient(
                "child_died",
                format!("before it was ready: {text}{}", child.said()),
            ));
        }
        child.kill().await;
        let text = format!(
            "the program did not say `{ready_line}` within {:?}{}",
            settings.ready_timeout,
            child.said()
        );
        Err(Failure::transient("child_not_ready", text))
    }

    fn spawn(
        start: Start<'_>,
        groups: Groups,
        ready_line: String,
    ) -> Result<(Arc<Self>, oneshot::Receiver<()>), Failure> {
        let settings = start.settings;
        let command = settings.command_for(start.stage);
        let mut guard = guard_command(&start, &groups, &command)?;
        start
            .log
            .line("us ", format!("starting {}", command.join(" ")).as_bytes());
        let mut guard = guard.spawn().map_err(|error| {
            Failure::critical(
                "child_not_started",
                format!("cannot start {}: {error}", command.join(" ")),
            )
        })?;
        let (stdin, stdout, stderr) = (guard.stdin.take(), guard.stdout.take(), guard.stderr.take());
        let (tell_end, ended) = watch::channel(None);
        let (tell_ready, ready) = oneshot::channel();
        let child = Arc::new(Self {
            name: format!("{} of {}", start.stage, start.executor),
            guard: i32::try_from(guard.id()).unwrap_or(i32::MAX),
            stdin: Mutex::new(stdin),
            pending: Mutex::default(),
            next: AtomicU64::new(1),
            cause: Mutex::default(),
            last: Mutex::default(),
            groups,
            log: start.log,
            noise: start.counts,
            strict: settings.strict_stdout,
            counted: AtomicBool::new(false),
            ended,
        });
        let (answers, said) = (child.clone(), child.clone());
        let limit = settings.max_line;
        let mut threads = Vec::new();
        if let Some(stdout) = stdout {
            threads.push(std::thread::spawn(move || {
                answers.read_answers(stdout, limit, &ready_line, tell_ready);
            }));
        }
        if let Some(stderr) = stderr {
            threads.push(std::thread::spawn(move || said.read_stderr(stderr)));
        }
        let waits = child.clone();
        std::thread::spawn(move || waits.wait(guard, threads, &tell_end));
        Ok((child, ready))
    }

    /// Has a task computed.
    pub(super) async fn compute(
        self: &Arc<Self>,
        task: String,
        log: Arc<Log>,
    ) -> (u64, oneshot::Receiver<Answer>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (to, answer) = oneshot::channel();
        locked(&self.pending).insert(id, Pending { to, log });
        let child = self.clone();
        let write = move || {
            let mut stdin = locked(&child.stdin);
            let written = match stdin.as_mut() {
                Some(pipe) => send(pipe, id, &task),
                None => Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)),
            };
            drop(stdin);
            if let Err(error) = written {
                // It is dead or dying, and its end tells more than this.
                child
                    .log
                    .line("us ", format!("request {id} not written: {error}").as_bytes());
                child.end_late(id);
            }
        };
        drop(tokio::task::spawn_blocking(write));
        (id, answer)
    }

    /// A request that came when the child had ended already.
    fn end_late(&self, id: u64) {
        let end = self.ended.borrow().clone();
        if let Some(text) = end
            && let Some(pending) = locked(&self.pending).remove(&id)
        {
            drop(pending.to.send(Err(self.verdict(id, &text))));
        }
    }

    /// Whether it takes requests.
    pub(super) fn is_alive(&self) -> bool {
        self.ended.borrow().is_none() && locked(&self.cause).is_none() && !self.stdout_closed()
    }

    fn stdout_closed(&self) -> bool {
        locked(&self.stdin).is_none()
    }

    /// Requests that it works on.
    pub(super) fn load(&self) -> usize {
        locked(&self.pending).len()
    }

    /// Its program's process, if it is there.
    pub(super) fn pid(&self) -> Option<i32> {
        tree::below(self.guard).first().map(|process| process.pid)
    }

    /// What the host lacks of what was wanted for it.
    pub(super) fn missing(&self) -> &[String] {
        &self.groups.missing
    }

    /// Waits until it has ended.
    pub(super) async fn wait_end(&self) -> String {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).unwrap_or_default()
    }

    /// Something that grows while it works: CPU time, and bytes read and written.
    pub(super) fn activity(&self) -> u64 {
        let found = tree::below(self.guard);
        found.iter().map(|process| process.cpu + process.io()).sum()
    }

    /// Ends it in stages: its stdin is closed, if nobody else is served; then SIGTERM; then all is killed.
    pub(super) async fn stop(&self, cause: Cause, grace: Duration) {
        let alone = self.load() <= 1 && matches!(cause, Cause::Stopped(_));
        locked(&self.cause).get_or_insert(cause);
        if alone {
            self.log.line("us ", b"asked to end: stdin is closed");
            self.close_stdin();
            if tokio::time::timeout(grace, self.wait_end()).await.is_ok() {
                return;
            }
        }
        self.log.line("us ", b"SIGTERM");
        let guard = self.guard;
        drop(tokio::task::spawn_blocking(move || tree::signal_below(guard, Signal::TERM)).await);
        if tokio::time::timeout(grace, self.wait_end()).await.is_ok() {
            return;
        }
        self.kill().await;
    }

    /// A thread that writes a large task to a child that does not read holds the pipe; then it is left to it.
    fn close_stdin(&self) {
        if let Ok(mut stdin) = self.stdin.try_lock() {
            *stdin = None;
        }
    }

    /// Kills all of it at once, and waits for its end.
    pub(super) async fn kill(&self) {
        self.log.line("us ", b"SIGKILL");
        for _ in 0..200 {
            let (guard, dirs) = (self.guard, self.groups.dirs.clone());
            let kill = move || {
                dirs.iter().for_each(|dir| super::cgroup::kill(dir));
                tree::signal_below(guard, Signal::KILL)
            };
            drop(tokio::task::spawn_blocking(kill).await);
            if tokio::time::timeout(Duration::from_millis(50), self.wait_end())
                .await
                .is_ok()
            {
                return;
            }
        }
        // Its guard does not do its part. The kernel kills the program with it.
        if let Some(pid) = Pid::from_raw(self.guard)
            && let Err(error) = kill_process(pid, Signal::KILL)
        {
            tracing::warn!(guard = self.guard, %error, "a guard was not killed");
        }
        self.wait_end().await;
    }

    fn read_answers(&self, stdout: ChildStdout, limit: usize, ready_line: &str, ready: oneshot::Sender<()>) {
        let mut lines = Lines::new(stdout, limit);
        let mut ready = Some(ready);
        loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    self.log
                        .line("us ", format!("reading stdout: {error}").as_bytes());
                    break;
                }
            };
            if ready.is_some() && line.bytes.trim_ascii() == ready_line.as_bytes() {
                if ready.take().is_some_and(|ready| ready.send(()).is_err()) {
                    self.log.line("us ", b"it was ready too late");
                }
                continue;
            }
            if self.take(&line) == Taken::Fault && ready.is_none() && self.strict {
                // What it says after that does not count.
                let text = format!(
                    "it wrote `{}` to stdout, which is no answer (strict_stdout)",
                    head(&line)
                );
                locked(&self.cause).get_or_insert(Cause::Fault("protocol_fault", text));
                tree::signal_below(self.guard, Signal::KILL);
                break;
            }
        }
        self.close_stdin();
    }

    fn take(&self, line: &Line) -> Taken {
        match Message::of(line) {
            Message::Answer { id, result } => {
                let Some(pending) = locked(&self.pending).remove(&id) else {
                    self.noise.unknown_ids.fetch_add(1, Ordering::Relaxed);
                    self.log.line(
                        "out",
                        format!("an answer to request {id}, which is not open").as_bytes(),
                    );
                    return Taken::Answer;
                };
                self.noise.answers.fetch_add(1, Ordering::Relaxed);
                let result = result.map_err(|err_msg| End::Failed(failure_of(&err_msg)));
                drop(pending.to.send(result));
                Taken::Answer
            }
            Message::Broken { id, why } => {
                self.beside("out", &line.bytes);
                let Some(pending) = locked(&self.pending).remove(&id) else {
                    self.noise.noise.fetch_add(1, Ordering::Relaxed);
                    return Taken::Fault;
                };
                let text = format!(
                    "the program's answer cannot be read: {why}; it begins with `{}`",
                    head(line)
                );
                drop(
                    pending
                        .to
                        .send(Err(End::Failed(Failure::transient("bad_answer", text)))),
                );
                Taken::Answer
            }
            Message::Noise => {
                self.noise.noise.fetch_add(1, Ordering::Relaxed);
                self.beside("out", &line.bytes);
                Taken::Fault
            }
        }
    }

    fn read_stderr(&self, stderr: ChildStderr) {
        let mut lines = Lines::new(stderr, 64 << 10);
        while let Ok(Some(line)) = lines.next() {
            self.beside("err", &line.bytes);
            let text = String::from_utf8_lossy(&line.bytes[..line.bytes.len().min(LAST_LINE)]).into_owned();
            let mut last = locked(&self.last);
            last.push_back(text);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
    }

    /// Writes what it says to its log and to those of all attempts that it works on.
    fn beside(&self, source: &str, text: &[u8]) {
        self.log.line(source, text);
        let logs: Vec<_> = locked(&self.pending)
            .values()
            .map(|pending| pending.log.clone())
            .collect();
        logs.iter().for_each(|log| log.line(source, text));
    }

    fn wait(
        &self,
        mut guard: Guard,
        threads: Vec<std::thread::JoinHandle<()>>,
        tell_end: &watch::Sender<Option<String>>,
    ) {
        let status = guard.wait();
        // The guard left nothing that could hold the pipes, so what was written has been read when they end.
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(child = self.name, "a thread that reads from a child panicked");
            }
        }
        self.close_stdin();
        let killed_for_memory = self.groups.out_of_memory() > 0;
        self.groups.dirs.iter().for_each(|dir| super::cgroup::remove(dir));
        let text = match status {
            Ok(status) => describe(status, killed_for_memory),
            Err(error) => error.to_string(),
        };
        self.noise.deaths.fetch_add(1, Ordering::Relaxed);
        self.log.line("us ", format!("ended: {text}").as_bytes());
        // First, so that whoever comes later finds it.
        tell_end.send_replace(Some(text.clone()));
        let pending = std::mem::take(&mut *locked(&self.pending));
        for (id, pending) in pending {
            drop(pending.to.send(Err(self.verdict(id, &text))));
        }
    }

    /// What the end of the child means for a request.
    fn verdict(&self, id: u64, text: &str) -> End {
        let name = &self.name;
        match &*locked(&self.cause) {
            Some(Cause::Stopped(stopped)) if *stopped == id => End::Failed(Failure::transient(
                "stopped",
                format!("asked to stop; {name} was ended: {text}"),
            )),
            Some(Cause::Stopped(_)) => End::Lost(format!("{name} was ended to stop another attempt in it")),
            Some(Cause::Fault(code, what)) => {
                End::Failed(Failure::transient(code, format!("{name}: {what}{}", self.said())))
            }
            None if text.contains(OUT_OF_MEMORY) => End::Failed(Failure::transient(
                "out_of_memory",
                format!("{name} {text}{}", self.said()),
            )),
            None => End::Failed(Failure::transient(
                "child_died",
                format!("{name}: {text}{}", self.said()),
            )),
        }
    }

    /// The last lines of stderr, for a message.
    fn said(&self) -> String {
        let last = locked(&self.last);
        if last.is_empty() {
            return format!("; see {}", self.log.path().display());
        }
        let lines: Vec<&str> = last.iter().map(String::as_str).collect();
        format!("; its last words: {}", lines.join("\n"))
    }
}

/// Whether a line belonged to the protocol.
#[derive(PartialEq, Eq)]
enum Taken {
    Answer,
    Fault,
}

/// The beginning of a line, for a message.
fn head(line: &Line) -> String {
    String::from_utf8_lossy(&line.bytes[..line.bytes.len().min(100)]).into_owned()
}

const OUT_OF_MEMORY: &str = "out of memory";

fn describe(status: ExitStatus, killed_for_memory: bool) -> String {
    if killed_for_memory {
        return format!("ran {OUT_OF_MEMORY}: the kernel killed a process of its control group");
    }
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (_, Some(code)) if code == i32::from(NOT_STARTED) => {
            "it could not be started (exit status 127)".to_owned()
        }
        (_, code) => format!("it ended with exit status {}", code.unwrap_or(-1)),
    }
}

fn send(pipe: &mut ChildStdin, id: u64, task: &str) -> std::io::Result<()> {
    // Written by hand: a task of a hundred megabytes is not copied once more.
    write!(pipe, "{{\"id\":{id},\"task\":")?;
    pipe.write_all(task.as_bytes())?;
    pipe.write_all(b"}\n")?;
    pipe.flush()
}

fn guard_command(start: &Start<'_>, groups: &Groups, command: &[String]) -> Result<Command, Failure> {
    let settings = start.settings;
    let plan = Plan {
        role: Role::Guard,
        parent: std::process::id(),
        cpus: settings.placement.cpus(),
        numa_node: settings.placement.numa_node,
        groups: groups.dirs.clone(),
        working_dir: settings.working_dir.clone(),
    };
    let plan = serde_json::to_string(&plan)
        .map_err(|error| Failure::permanent("child_not_started", error.to_string()))?;
    let (program, args) = settings
        .launcher
        .split_first()
        .ok_or_else(|| Failure::permanent("child_not_started", "there is no launcher"))?;
    let mut guard = Command::new(program);
    guard.args(args).arg(plan).arg("--").args(command);
    guard
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Points at which a test stops this process are none of the child's.
    guard.env_remove("SEALFLOW_CRASH_AT");
    if !settings.inherit_env {
        guard.env_clear();
    }
    if let Some(node) = settings.placement.numa_node {
        guard.env("VENUS_WORKER_NUMA_PREFERRED", node.to_string());
    }
    if let Some(gpus) = start.gpus {
        let list: Vec<String> = gpus.iter().map(u8::to_string).collect();
        // Numbered as `nvidia-smi` numbers them.
        guard.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        for variable in ["CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"] {
            guard.env(variable, list.join(","));
        }
    }
    guard.envs(&settings.env);
    Ok(guard)
}
