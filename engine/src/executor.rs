//! What the engine asks of places where attempts run.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::id::{AttemptKey, StageName, Subject, Token};
use crate::resource::{Gpus, Need, Resources};
use crate::stage::{Outcome, Progress};

/// A machine: executors on it share what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// What attempts on it may hold together.
    pub capacity: Resources,
}

/// Without a sign of life for so many milliseconds a machine is suspect.
pub const SUSPECT_AFTER_MS: u64 = 12_000;

/// After so many milliseconds of silence an attempt is lost, unless its step says otherwise. Work with a
/// deadline is lost as soon as its machine is suspect.
pub const LOST_AFTER_MS: u64 = 45_000;

/// The machine that an executor is on, if that is not ours: executors of other machines are called
/// `NAME@MACHINE`.
pub fn machine_of(executor: &str) -> Option<&str> {
    match executor.rsplit_once('@') {
        Some((name, machine)) if !name.is_empty() => Some(machine),
        _ => None,
    }
}

/// What an attempt takes, instead of what its stage says it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Claims {
    /// Cores.
    pub cpu: Option<u32>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of scratch space.
    pub disk: Option<u64>,
    /// GPUs.
    pub gpus: Option<u32>,
}

impl Claims {
    /// What an attempt takes whose stage needs `need`.
    pub fn over(self, need: Need) -> Need {
        Need {
            cpu: self.cpu.unwrap_or(need.cpu),
            memory: self.memory.unwrap_or(need.memory),
            disk: self.disk.unwrap_or(need.disk),
            gpus: self.gpus.unwrap_or(need.gpus),
        }
    }
}

/// What an executor is and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// Its name.
    pub name: String,
    /// The machine that it is on. Of several descriptions of one machine the first counts.
    pub machine: Machine,
    /// The stages it runs; nothing means all.
    pub stages: Option<Vec<StageName>>,
    /// The versions of stages it runs, where they are not those of this program.
    pub versions: BTreeMap<StageName, u32>,
    /// How many attempts it runs at a time, whatever they need.
    pub slots: usize,
    /// What each attempt takes, where the machine profile says so.
    pub claims: Claims,
    /// The GPUs of the machine that it may use.
    pub gpus: Gpus,
    /// Names of which only one attempt on the machine holds each at a time.
    pub locks: Vec<String>,
    /// Milliseconds from the start of one attempt to that of the next.
    pub stagger_ms: u64,
    /// Whether an attempt can be stopped at any time, so that more urgent work may take its place.
    pub killable: bool,
    /// The stores that it reaches; nothing means all.
    pub stores: Option<Vec<String>>,
}

impl ExecutorSpec {
    /// An executor that runs everything, with all that its machine has.
    pub fn new(name: impl Into<String>, machine: Machine, slots: usize) -> Self {
        Self {
            name: name.into(),
            machine,
            stages: None,
            versions: BTreeMap::new(),
            slots,
            claims: Claims::default(),
            gpus: (0..Gpus::MAX).collect(),
            locks: Vec::new(),
            stagger_ms: 0,
            killable: false,
            stores: None,
        }
    }

    /// Whether it runs this stage.
    pub fn accepts(&self, stage: &StageName) -> bool {
        self.stages.as_ref().is_none_or(|stages| stages.contains(stage))
    }
}

/// An attempt to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Which.
    pub key: AttemptKey,
    /// Its fence; every report carries it.
    pub token: Token,
    /// What the run is about.
    pub subject: Subject,
    /// The stage.
    pub stage: StageName,
    /// Whether the input is that of many members of a batch: see [`crate::stage::BatchStage`].
    pub many: bool,
    /// Its input.
    pub input: Value,
    /// What it may hold.
    pub held: Resources,
}

/// What an executor says about an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Which.
    pub key: AttemptKey,
    /// Its fence.
    pub token: Token,
    /// What happened.
    pub news: News,
}

/// What happened to an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// It is so far.
    Progress(Progress),
    /// It ended, and holds nothing any more.
    Ended(Result<Outcome<Value>, Failure>),
    /// It ended without a result, through no fault of the work.
    Lost(String),
}

/// Where executors send their reports.
#[derive(Debug, Clone)]
pub struct Reports(mpsc::Sender<Report>);

impl Reports {
    /// Reports go into this channel.
    pub fn new(sender: mpsc::Sender<Report>) -> Self {
        Self(sender)
    }

    /// Sends news that must arrive; waits while the dispatcher is busy. After the dispatcher has
    /// ended nobody is interested, and the journal's replay takes the attempt up again.
    pub async fn send(&self, report: Report) {
        if self.0.send(report).await.is_err() {
            tracing::debug!("report after the dispatcher ended");
        }
    }

    /// Sends news that later news replace; drops it while the dispatcher is busy.
    pub fn offer(&self, report: Report) {
        if self.0.try_send(report).is_err() {
            tracing::trace!("progress report dropped");
        }
    }
}

/// A place where attempts run.
pub trait Executor: Send + Sync + 'static {
    /// What it is and has.
    fn spec(&self) -> &ExecutorSpec;

    /// Runs an attempt; returns at once. Every started attempt ends with exactly one
    /// [`News::Ended`] or [`News::Lost`]. Starting the same attempt again changes nothing.
    fn start(&self, job: Job, reports: Reports);

    /// Asks an attempt to stop. It still ends with one report, when it really has ended.
    fn stop(&self, key: &AttemptKey);

    /// After a restart of the daemon: whether this attempt is still here and goes on reporting.
    fn attach(&self, key: &AttemptKey, token: &Token, reports: &Reports) -> bool;

    /// What people should know of it beside its description, a line each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// A person says that it may be used again after it refused by itself. Whether it had.
    fn resume(&self) -> bool {
        false
    }
}
