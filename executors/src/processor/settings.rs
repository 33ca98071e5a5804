//! What an executor of children is told: the command, how it is confined, and how long is waited for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::placement::Placement;

/// The word in a command that stands for the stage's name.
pub const STAGE: &str = "{stage}";

/// The pseudo-stage of programs that run beside others and get no requests.
pub const SIDE_DAEMON: &str = "EMPTY";

/// How children are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The program and its arguments; `{stage}` in them stands for the stage's name.
    pub command: Vec<String>,
    /// Children for each stage, and for each set of GPUs that attempts hold.
    pub children: usize,
    /// Whether children see this process's environment.
    pub inherit_env: bool,
    /// What they see beside it; goes before everything else.
    pub env: BTreeMap<String, String>,
    /// Their working directory; this process's if nothing is said.
    pub working_dir: Option<PathBuf>,
    /// Where they may run.
    pub placement: Placement,
    /// Whether to run them where this host cannot give all of the placement.
    pub on_missing: OnMissing,
    /// How long a child has until it says that it is ready.
    pub ready_timeout: Duration,
    /// The longest line that is taken, in bytes.
    pub max_line: usize,
    /// Whether a line on stdout that is no answer is a fault.
    pub strict_stdout: bool,
    /// Whether the program's PC1 goes on behind whole layers.
    pub resume_layers: bool,
    /// How long a child with requests may neither compute nor read nor write.
    pub silence: Option<Duration>,
    /// How long a child has to end by itself, and again after SIGTERM.
    pub stop_grace: Duration,
    /// When a child that died is started again.
    pub restart: Restart,
    /// The folder of logs.
    pub logs: PathBuf,
    /// This binary and what makes it [`super::launch`]; the plan follows.
    pub launcher: Vec<OsString>,
    /// The GPUs that children see of which an attempt does not say which it holds.
    pub gpus: Option<Vec<u8>>,
    /// Whether the children are side daemons, which are started at once and get no requests.
    pub side_daemon: bool,
}

/// What to do where the host lacks something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// Run nothing.
    #[default]
    Refuse,
    /// Run without it.
    Degrade,
}

/// When a child that died is started again.
#[derive(Debug, Clone, Copy)]
pub struct Restart {
    /// The first pause; each further one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
    /// After so many deaths without one answer between, the executor refuses.
    pub give_up_after: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            most: Duration::from_secs(300),
            give_up_after: 5,
        }
    }
}

impl Restart {
    /// The pause after so many deaths in a row.
    pub(super) fn pause(&self, deaths: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << deaths.saturating_sub(1).min(20));
        doubled.min(self.most)
    }
}

impl Settings {
    /// The settings of a command, all else at its default.
    pub fn new(command: Vec<String>, launcher: Vec<OsString>, logs: PathBuf) -> Self {
        Self {
            command,
            children: 1,
            inherit_env: true,
            env: BTreeMap::new(),
            working_dir: None,
            placement: Placement::default(),
            on_missing: OnMissing::default(),
            ready_timeout: Duration::from_secs(5),
            max_line: 256 << 20,
            strict_stdout: false,
            resume_layers: false,
            silence: None,
            stop_grace: Duration::from_secs(5),
            restart: Restart::default(),
            logs,
            launcher,
            gpus: None,
            side_daemon: false,
        }
    }

    /// The command for a stage.
    pub(super) fn command_for(&self, stage: &str) -> Vec<String> {
        self.command
            .iter()
            .map(|part| part.replace(STAGE, stage))
            .collect()
    }
}
