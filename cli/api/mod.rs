//! The daemon's JSON over HTTP, described by OpenAPI, and its client. People and programs use the same.

mod artifacts;
mod backup;
mod client;
mod events;
mod extract;
mod logs;
mod messages;
mod migrate;
mod server;
mod stream;
mod wallet;
mod workers;

pub(crate) use artifacts::ArtifactView;
pub(crate) use client::{Client, Source};
pub(crate) use events::StreamedEntry;
pub(crate) use logs::{LogPiece, LogView};
pub(crate) use messages::{MessageView, MessagerView, PushRequest, RepairRequest};
pub(crate) use migrate::{MigrateRequest, MigrationView};
pub(crate) use server::{Api, serve};
pub(crate) use stream::{Events, Said};
pub(crate) use wallet::{WalletRequest, WalletView};
pub(crate) use workers::WorkerView;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A run to start.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartRequest {
    /// A name in the daemon's home, or an embedded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workflow: Option<String>,
    /// The text of a workflow file, instead of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Its parameters, by name.
    #[serde(default)]
    pub(crate) params: Value,
    /// The caller's name for the run: starting it again under the same key gives the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// Runs of higher priority start their steps first; the workflow's own if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<i32>,
    /// Who asks, and why.
    #[serde(default)]
    pub(crate) by: ByRequest,
}

/// Who asks for something, and why. It goes into the journal.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByRequest {
    /// A person or program.
    #[serde(default)]
    pub(crate) who: String,
    /// The reason.
    #[serde(default)]
    pub(crate) why: String,
}

/// A run that was started.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Started {
    /// Its identifier.
    pub(crate) run: String,
}

/// Triggers to switch on or off.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TriggerRequest {
    /// The text of the workflow file; without it that of the workflow's name in the daemon's home, or the
    /// embedded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Who asks, and why.
    #[serde(default)]
    pub(crate) by: ByRequest,
}

/// A trigger that is switched on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct TriggerView {
    /// The workflow.
    pub(crate) workflow: String,
    /// Which of its triggers, from 0.
    pub(crate) index: u32,
    /// When, as a cron expression (UTC).
    pub(crate) cron: String,
    /// What happens at times that it cannot keep.
    pub(crate) policy: String,
    /// The parameters of its runs.
    pub(crate) params: Value,
    /// The next time.
    pub(crate) next: Option<String>,
    /// The last time that came.
    pub(crate) last: Option<String>,
    /// The last run that it started.
    pub(crate) run: Option<String>,
    /// Why the last time was left out, if it was.
    pub(crate) skipped: Option<String>,
    /// How many times were left out so far.
    pub(crate) missed: u64,
    /// Who switched it on.
    pub(crate) who: String,
    /// Since when it is on.
    pub(crate) since: String,
}

/// Something asked of a run.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerbRequest {
    /// The step, or the item as in `window_post[3]`. `retry` without one is about all failed steps; `fork`
    /// does this step and all that need it anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    /// The name, for `signal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<String>,
    /// The new priority, for `prioritize`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<i32>,
    /// The caller's name for the new run, for `fork`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// What comes with a signal; for `override` the output.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) data: Value,
    /// Who asks, and why.
    #[serde(default)]
    pub(crate) by: ByRequest,
}

/// What went wrong.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    /// `not_found`, `refused`, `bad_request`, `bad_workflow`, `unauthorized` or `internal`.
    pub(crate) code: String,
    /// What happened and what to do.
    pub(crate) message: String,
}

/// The daemon's state.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Health {
    /// Its version.
    pub(crate) version: String,
    /// Open runs.
    pub(crate) open_runs: usize,
    /// Runs that contradict themselves and are left alone.
    pub(crate) set_aside: Vec<String>,
    /// Executors.
    pub(crate) executors: Vec<ExecutorView>,
    /// Scheduled backups, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backup: Option<BackupView>,
}

/// How scheduled backups go.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct BackupView {
    /// When the last one that succeeded was taken (RFC 3339).
    pub(crate) taken_at: Option<String>,
    /// Its file.
    pub(crate) file: Option<String>,
    /// Why the last one failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// An amount of each resource.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Amounts {
    /// Cores.
    pub(crate) cpu: u32,
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Bytes of scratch space; nothing where the machine profile sets no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk: Option<u64>,
    /// GPUs, by index.
    pub(crate) gpus: Vec<u8>,
}

/// What an attempt holds.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct HoldingView {
    /// The run.
    pub(crate) run: String,
    /// The step.
    pub(crate) step: String,
    /// The try.
    pub(crate) attempt: u32,
    /// What it holds.
    pub(crate) held: Amounts,
    /// Since when.
    pub(crate) since: String,
    /// Whether its result is not wanted any more, and its end is awaited.
    pub(crate) given_up: bool,
}

/// Something that is held back.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct HoldView {
    /// `workflow`, `stage` or `executor`.
    pub(crate) kind: String,
    /// Its name.
    pub(crate) name: String,
    /// Who asked for it.
    pub(crate) who: String,
    /// And why.
    pub(crate) why: String,
    /// Since when.
    pub(crate) since: String,
}

/// An executor, and who holds what of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ExecutorDetail {
    /// Its name.
    pub(crate) name: String,
    /// The machine that it is on.
    pub(crate) machine: String,
    /// The stages it runs; nothing means all.
    pub(crate) stages: Option<Vec<String>>,
    /// How many attempts it runs at a time.
    pub(crate) concurrency: usize,
    /// What its machine has.
    pub(crate) capacity: Amounts,
    /// What attempts of all executors hold of the machine.
    pub(crate) machine_held: Amounts,
    /// What its own attempts hold.
    pub(crate) held: Amounts,
    /// Locks that each of its attempts holds.
    pub(crate) locks: Vec<String>,
    /// Seconds from one start to the next.
    pub(crate) stagger_seconds: f64,
    /// Its attempts.
    pub(crate) attempts: Vec<HoldingView>,
    /// Who drains it, if somebody does.
    pub(crate) drained: Option<HoldView>,
    /// What it says of itself, for people: its children, what the host lacks, that it refuses.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

/// An executor.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ExecutorView {
    /// Its name.
    pub(crate) name: String,
    /// Attempts that it runs now.
    pub(crate) attempts: usize,
    /// Cores it has.
    pub(crate) cpu: u32,
    /// Cores that attempts hold.
    pub(crate) cpu_held: u32,
    /// Bytes of memory it has.
    pub(crate) memory: u64,
    /// Bytes of memory that attempts hold.
    pub(crate) memory_held: u64,
}
