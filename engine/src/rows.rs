//! The current-state rows of a run: what queries read. Each is a projection of [`RunState`], written
//! in the transaction that appends the events, so that folding the journal gives the rows.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Output;
use crate::failure::Failure;
use crate::id::{RunId, StepName, Subject, WorkflowName};
use crate::run::{Current, Discarding, Rest, RunState, RunStatus, StepStatus};
use crate::stage::{Claim, Wake};
use crate::workflow::StepIx;

/// A run, as lists show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// Its identifier.
    pub run: RunId,
    /// Its workflow.
    pub workflow: WorkflowName,
    /// The hash of the graph it keeps.
    pub graph: String,
    /// What it is about.
    pub subject: Subject,
    /// What it does to the subject's artifacts.
    pub claim: Claim,
    /// Where it stands.
    pub status: RunStatus,
    /// Why it is paused, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The caller's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The run whose step's work it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// If it is a batch, how many members it has.
    #[serde(default, skip_serializing_if = "is_none")]
    pub members: u32,
    /// Its parameters.
    pub params: Value,
    /// Its priority.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// Entries in its journal.
    pub seq: u64,
    /// When it started, milliseconds since 1970.
    pub created_at: u64,
    /// When it last changed.
    pub updated_at: u64,
    /// Superseded attempts that have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discarding: Vec<Discarding>,
    /// Nothing is to be done about it for a while. A start reads no entries of such a run. Where this is missing, it is
    /// only not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_none(number: &u32) -> bool {
    *number == 0
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// Its place in the graph.
    pub ix: StepIx,
    /// Its name.
    pub step: StepName,
    /// Where it stands.
    pub status: StepStatus,
    /// Since when, milliseconds since 1970.
    pub since: u64,
    /// The passage.
    pub visit: u32,
    /// Tries so far.
    pub attempts: u32,
    /// Seconds that the last ended attempt ran.
    pub seconds: f64,
    /// The attempt that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Current>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wake: Option<Wake>,
    /// Its output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// Its last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// When its success is worth nothing any more, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<u64>,
    /// How many items it has, once they are known. Items have rows of their own as soon as they may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u32>,
}

/// The row of a run.
pub fn run_row(run: &RunState) -> RunRow {
    RunRow {
        run: run.id.clone(),
        workflow: run.graph.data().name.clone(),
        graph: run.graph.hash().to_string(),
        subject: run.subject.clone(),
        claim: run.graph.data().claim,
        status: run.status,
        reason: run.pause.as_ref().map(crate::event::PauseReason::text),
        key: run.key.clone(),
        parent: run.parent.as_ref().map(|parent| parent.key.run.clone()),
        members: u32::try_from(run.members.len()).unwrap_or(u32::MAX),
        params: run.params.clone(),
        priority: run.priority,
        seq: run.seq,
        created_at: run.created_at,
        updated_at: run.updated_at,
        discarding: run.discarding.values().cloned().collect(),
        rest: run.rest(),
    }
}

/// The row of a step.
pub fn step_row(run: &RunState, ix: StepIx) -> StepRow {
    let step = run.step(ix);
    StepRow {
        ix,
        step: run.name(ix),
        status: step.status,
        since: step.since,
        visit: step.visit,
        attempts: step.attempts,
        seconds: step.seconds,
        current: step.current.clone(),
        wake: step.wake.as_ref().map(|(wake, _)| wake.clone()),
        output: step.output.clone(),
        failure: step.failure.clone(),
        skipped: step.skipped.clone(),
        valid_until: step.valid_until,
        items: step.items.as_ref().map(|items| items.total),
    }
}
