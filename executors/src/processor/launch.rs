//! Between this process and a child stand two small programs, both this same binary started again: a *guard*,
//! which outlives the child by a moment and lets nothing of it survive, and in the child's own place an *entry*,
//! which confines itself and then becomes the vendor's program. So no code runs between fork and exec, and what
//! is promised holds for every program.
//!
//! The guard is the reaper of everything below it. When the child ends it kills what the child left. When its
//! parent ends, in whatever way, it kills everything: it watches the parent's process, not the thread that made
//! it. Should the guard itself be killed, the child goes with it, because the entry asks the kernel for that.

use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{
    PidfdFlags, Resource, Rlimit, Signal, WaitOptions, getppid, kill_process, pidfd_open,
    set_child_subreaper, set_parent_process_death_signal, setpgid, setrlimit, setsid, wait,
};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};

use super::cgroup;
use super::tree;

/// Exit status of an entry that could not become the program.
pub const NOT_STARTED: u8 = 127;

/// What such a program is told, as JSON in one argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Which of the two it is.
    pub role: Role,
    /// Who must have started it; if that one has ended already, nothing is started.
    pub parent: u32,
    /// The processors that the child may use; any if there are none.
    #[serde(default)]
    pub cpus: Vec<usize>,
    /// The NUMA node whose memory it prefers.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// Control groups that it joins. The guard kills and removes them.
    #[serde(default)]
    pub groups: Vec<PathBuf>,
    /// Its working directory.
    #[serde(default)]
    pub working_dir: Option<PathBuf>,
}

/// Which of the two programs it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It watches the child.
    Guard,
    /// It becomes the child.
    Entry,
}

/// What needs calls that no library offers safely. The binary brings them.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Confines this thread to processors.
    pub affinity: fn(&[usize]) -> io::Result<()>,
    /// Has this thread prefer the memory of a NUMA node.
    pub prefer_node: fn(u32) -> io::Result<()>,
}

/// Plays the role; for a guard it returns the exit status of its child. An entry only returns when it fails.
///
/// # Errors
/// Something could not be done; nothing was started.
pub fn launch(plan: &Plan, command: &[String], hooks: Hooks) -> io::Result<u8> {
    let parent = getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    match plan.role {
        Role::Guard => guard(plan, command),
        Role::Entry => {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before it was watched; now it is, so this comparison is final.
            if parent != Some(plan.parent) {
                return Err(io::Error::other("the guard has ended"));
            }
            entry(plan, command, hooks)
        }
    }
}

/// Becomes the program.
fn entry(plan: &Plan, command: &[String], hooks: Hooks) -> io::Result<u8> {
    let (program, args) = command
        .split_first()
        .ok_or_else(|| io::Error::other("there is no command"))?;
    let said =
        |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    setpgid(None, None)?;
    for group in &plan.groups {
        cgroup::join(group).map_err(said(format!("join {}", group.display())))?;
    }
    if !plan.cpus.is_empty() {
        (hooks.affinity)(&plan.cpus).map_err(said(format!("use the processors {:?}", plan.cpus)))?;
    }
    if let Some(node) = plan.numa_node {
        (hooks.prefer_node)(node).map_err(said(format!("prefer NUMA node {node}")))?;
    }
    let mut command = Command::new(program);
    command.args(args);
    if let Some(dir) = &plan.working_dir {
        std::env::set_current_dir(dir).map_err(said(format!("go to {}", dir.display())))?;
    }
    Err(said(format!("start {program}"))(command.exec()))
}

fn guard(plan: &Plan, command: &[String]) -> io::Result<u8> {
    // Not in the terminal's group: Ctrl-C there stops the parent, and that stops us.
    setsid()?;
    set_child_subreaper(rustix::process::Pid::from_raw(1))?;
    // A child that dies of a signal has dumped its core itself.
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: None,
        },
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(watch(plan, command))
}

async fn watch(plan: &Plan, command: &[String]) -> io::Result<u8> {
    let wrong = || io::Error::other("the parent has ended");
    let parent = i32::try_from(plan.parent)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let parent = parent.ok_or_else(wrong)?;
    #[expect(
        deprecated,
        reason = "its successor is `unsafe` for types that could give away another descriptor; an `OwnedFd` does not"
    )]
    let handle = AsyncFd::new(pidfd_open(parent, PidfdFlags::NONBLOCK)?)?;
    if getppid() != Some(parent) {
        return Err(wrong());
    }
    let mut ended = signal(SignalKind::child())?;
    let mut asked = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let [terminate, interrupt, hangup] = &mut asked;
    let child = start(plan, command)?;
    // The pipes belong to the child alone: when it ends, the other side must see that.
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let status = loop {
        if let Some(status) = reap(child) {
            break Some(status);
        }
        tokio::select! {
            _ = ended.recv() => {}
            _ = handle.readable() => break None,
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => break None,
        }
    };
    let left = kill_all(plan, child);
    let status = status.or(left);
    if getppid() != Some(parent) {
        // A parent that is there looks first whether memory ran out.
        plan.groups.iter().for_each(|group| cgroup::remove(group));
    }
    Ok(tell(status))
}

/// Starts the entry, which becomes the child.
fn start(plan: &Plan, command: &[String]) -> io::Result<i32> {
    let entry = Plan {
        role: Role::Entry,
        parent: std::process::id(),
        ..plan.clone()
    };
    let own: Vec<_> = std::env::args_os().collect();
    // Everything up to the plan is how this binary is told to launch.
    let plan_at = own.iter().position(|arg| arg.to_string_lossy().starts_with('{'));
    let before = &own[1..plan_at.unwrap_or(1).max(1)];
    let child = Command::new(std::env::current_exe()?)
        .args(before)
        .arg(serde_json::to_string(&entry)?)
        .arg("--")
        .args(command)
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .spawn()?;
    // Waited for by `reap`, together with whatever it leaves.
    i32::try_from(child.id()).map_err(io::Error::other)
}

/// Takes note of all that have ended; gives the status of `child` if it is among them.
fn reap(child: i32) -> Option<ExitStatus> {
    let mut found = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == child {
            found = Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
    found
}

/// How long everything below may take to die. What is stuck in the kernel longer than this is nobody's to kill.
const DYING: Duration = Duration::from_secs(30);

/// Kills everything below, until there is nothing.
fn kill_all(plan: &Plan, child: i32) -> Option<ExitStatus> {
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    let (began, mut status) = (Instant::now(), None);
    loop {
        plan.groups.iter().for_each(|group| cgroup::kill(group));
        let left = tree::signal_below(me, Signal::KILL);
        status = status.or(reap(child));
        if left == 0 || began.elapsed() > DYING {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends as the child did, so that the parent sees its status: of a signal, by the same signal.
fn tell(status: Option<ExitStatus>) -> u8 {
    let Some(status) = status else { return 1 };
    if let Some(number) = status.signal()
        && let Some(signal) = Signal::from_named_raw(number)
    {
        let me = rustix::process::getpid();
        // Those that we listen to would only be heard: they are told as the strongest, which cannot be.
        let heard = [Signal::TERM, Signal::INT, Signal::HUP].contains(&signal);
        if heard {
            return 128_u8.saturating_add(u8::try_from(number).unwrap_or(0));
        }
        if kill_process(me, signal).is_ok() {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    status
        .code()
        .map_or(1, |code| u8::try_from(code & 0xff).unwrap_or(1))
}
