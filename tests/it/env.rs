//! What the tests share: a home of their own, the binary, and the daemon.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A data directory that ends with the test.
pub(crate) struct Home {
    path: PathBuf,
    /// Removed with the last of those that are in it.
    _dir: Arc<tempfile::TempDir>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            path: dir.path().to_owned(),
            _dir: Arc::new(dir),
        }
    }

    /// The home that `sealflow demo` makes in this one.
    pub(crate) fn demo(&self) -> Self {
        Self {
            path: self.path.join("demo"),
            _dir: self._dir.clone(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file of `bytes` bytes that differ from place to place.
    pub(crate) fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.path().join(name);
        let data: Vec<u8> = (0..bytes)
            .map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        std::fs::write(&path, data).unwrap();
        path
    }

    /// The binary on this home.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealflow"));
        command.arg("--home").arg(self.path()).args(args);
        command
            .env_remove("SEALFLOW_CRASH_AT")
            .env_remove("SEALFLOW_HOME")
            .env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.command(args).output().unwrap())
    }

    /// The output of a command that must succeed, as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {outcome:?}");
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {outcome:?}"))
    }

    /// The output of a command that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {outcome:?}");
        outcome.stdout
    }

    /// Every invariant that can be seen in the store holds.
    pub(crate) fn check_store(&self) {
        let outcome = self.run(&["store", "check"]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
    }

    /// The store is whole but for files that the test damaged, which the check names.
    pub(crate) fn check_store_finds(&self, damage: &[&str]) {
        let outcome = self.run(&["store", "check"]);
        assert_eq!(outcome.code, 7, "{outcome:?}");
        let problems: Vec<&str> = outcome.stdout.lines().skip(1).collect();
        assert_eq!(problems.len(), damage.len(), "{outcome:?}");
        for part in damage {
            assert!(
                problems.iter().any(|problem| problem.contains(part)),
                "{part}: {outcome:?}"
            );
        }
    }

    pub(crate) fn daemon(&self) -> Daemon {
        self.daemon_with(&[])
    }

    /// A daemon with variables set, once it answers.
    pub(crate) fn daemon_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let (daemon, ended) = self.daemon_or_death(variables);
        assert!(!ended, "the daemon ended: {}", self.daemon_log());
        daemon
    }

    /// A daemon, once it answers or has ended, and whether it has.
    pub(crate) fn daemon_or_death(&self, variables: &[(&str, &str)]) -> (Daemon, bool) {
        let mut command = self.command(&["daemon"]);
        command.envs(variables.iter().copied()).stdout(Stdio::null());
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("daemon.log"))
            .unwrap();
        let mut child = command.stderr(log).spawn().unwrap();
        let listening = self.path().join("daemon.json");
        let mut ended = false;
        wait_for("the daemon", || {
            ended = child.try_wait().unwrap().is_some();
            let answers = || {
                let text = std::fs::read(&listening).ok()?;
                let file: Value = serde_json::from_slice(&text).ok()?;
                (file["pid"] == child.id()).then_some(())
            };
            ended || answers().is_some()
        });
        (Daemon { child }, ended)
    }

    pub(crate) fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.path().join("daemon.log")).unwrap_or_default()
    }

    /// Watches a run until it has succeeded, and shows it.
    pub(crate) fn succeeds(&self, run: &str) -> Value {
        let watched = self.run(&["run", "watch", run]);
        assert_eq!(watched.code, 0, "{watched:?}\n{}", self.daemon_log());
        self.json(&["run", "show", run, "--json"])
    }

    /// Where a run stands.
    pub(crate) fn status(&self, run: &str) -> String {
        self.json(&["run", "show", run, "--json"])["status"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Starts a run and gives its name.
    pub(crate) fn start(&self, workflow: &str, params: &[String]) -> String {
        let mut args = vec!["run", "start", workflow, "--json"];
        for param in params {
            args.extend(["-p", param]);
        }
        self.json(&args)["run"].as_str().unwrap().to_owned()
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            // A signal has no code.
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A daemon that ends with the test.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// As `kill -9` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As Ctrl-C does; the daemon must end well.
    pub(crate) fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn wait(mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Waits for something that must come; the limit only keeps a broken test from hanging.
pub(crate) fn wait_for(what: &str, there: impl FnMut() -> bool) {
    wait_at_most(Duration::from_secs(600), what, there);
}

/// The same for what takes long on a busy machine.
pub(crate) fn wait_hours_for(what: &str, there: impl FnMut() -> bool) {
    wait_at_most(Duration::from_secs(6 * 3600), what, there);
}

fn wait_at_most(limit: Duration, what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < limit, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The step of a run's JSON.
pub(crate) fn step<'a>(run: &'a Value, name: &str) -> &'a Value {
    let steps = run["steps"].as_array().unwrap();
    steps
        .iter()
        .find(|step| step["step"] == name)
        .unwrap_or_else(|| panic!("no step {name} in {run}"))
}
