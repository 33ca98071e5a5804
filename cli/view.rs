//! Runs as people and scripts see them. The daemon's API and the commands that read the store
//! themselves make the same views.

use std::time::{Duration, UNIX_EPOCH};

use sealflow_engine::dispatcher::LiveView;
use sealflow_engine::event::{Entry, Output};
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Journal, JournalError, RunFilter, StoredGraph};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::run::RunStatus;
use sealflow_engine::stage::Wake;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A run, in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct RunSummary {
    /// Its identifier.
    pub(crate) run: String,
    /// Its workflow.
    pub(crate) workflow: String,
    /// What it is about.
    pub(crate) subject: String,
    /// `running`, `paused`, `cancelling`, `succeeded` or `cancelled`.
    pub(crate) status: String,
    /// Why it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The caller's name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// When it started (RFC 3339).
    pub(crate) created_at: String,
    /// When it last changed (RFC 3339).
    pub(crate) updated_at: String,
}

/// A run with its steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct RunDetail {
    #[serde(flatten)]
    pub(crate) summary: RunSummary,
    /// SHA-256 of the graph it keeps.
    pub(crate) graph: String,
    /// Its parameters.
    pub(crate) params: Value,
    /// Entries in its journal.
    pub(crate) entries: u64,
    /// Its steps; a step comes after all that it needs.
    pub(crate) steps: Vec<StepView>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StepView {
    /// Its name.
    pub(crate) step: String,
    /// Its stage; a step that only waits has none.
    pub(crate) stage: Option<String>,
    /// The steps it needs.
    pub(crate) needs: Vec<String>,
    /// `pending`, `ready`, `running`, `waiting`, `succeeded`, `failed`, `skipped` or `cancelled`.
    pub(crate) status: String,
    /// Since when (RFC 3339).
    pub(crate) since: String,
    /// The passage of the run through the step; a rewind starts another.
    pub(crate) visit: u32,
    /// Tries so far.
    pub(crate) attempts: u32,
    /// Seconds that the last ended attempt ran.
    pub(crate) seconds: f64,
    /// Its output.
    pub(crate) output: Option<Value>,
    /// Its last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<FailureView>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_for: Option<String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) executor: Option<String>,
    /// How far it is. What is not known is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<Value>,
    /// Seconds that earlier successes of this step took, as an *estimate* for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) estimate_seconds: Option<f64>,
    /// Why it has not started although it could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blocked: Option<String>,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct FailureView {
    /// `transient`, `permanent`, `rewind` or `critical`.
    pub(crate) class: String,
    /// A stable slug.
    pub(crate) code: String,
    /// What happened and what to do.
    pub(crate) message: String,
}

/// Milliseconds since 1970 as RFC 3339.
pub(crate) fn time(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// A run for a list.
pub(crate) fn summary(row: &RunRow) -> RunSummary {
    RunSummary {
        run: row.run.to_string(),
        workflow: row.workflow.to_string(),
        subject: row.subject.to_string(),
        status: row.status.as_str().to_owned(),
        reason: row.reason.clone(),
        key: row.key.clone(),
        created_at: time(row.created_at),
        updated_at: time(row.updated_at),
    }
}

/// Runs that a filter accepts.
pub(crate) async fn list(journal: &dyn Journal, filter: &RunFilter) -> Result<Vec<RunSummary>, JournalError> {
    Ok(journal.runs(filter).await?.iter().map(summary).collect())
}

/// The graph of a run.
pub(crate) async fn graph(journal: &dyn Journal, row: &RunRow) -> Result<StoredGraph, JournalError> {
    let graph = journal.graph(&row.graph).await?;
    graph.ok_or_else(|| JournalError::Corrupt(format!("graph {} of {} is missing", row.graph, row.run)))
}

/// A run with its steps. `live` is what only the daemon knows.
pub(crate) async fn detail(
    journal: &dyn Journal,
    run: &RunId,
    live: Option<&LiveView>,
) -> Result<Option<RunDetail>, JournalError> {
    let Some(row) = journal.run(run).await? else {
        return Ok(None);
    };
    let stored = graph(journal, &row).await?;
    let rows = journal.steps(run).await?;
    let estimates = estimates(journal, &row).await?;
    let specs = &stored.data.steps;
    let mut steps = Vec::with_capacity(specs.len());
    for (at, spec) in specs.iter().enumerate() {
        let step = rows.iter().find(|step| step.ix.get() == at);
        let mut view = StepView {
            step: spec.name.to_string(),
            stage: spec.stage.as_ref().map(|stage| stage.name.to_string()),
            needs: spec
                .needs
                .iter()
                .map(|need| specs[need.get()].name.to_string())
                .collect(),
            // A step that never changed has no row: it is as it was at the start.
            status: if spec.needs.is_empty() { "ready" } else { "pending" }.to_owned(),
            since: time(row.created_at),
            visit: 1,
            attempts: 0,
            seconds: 0.0,
            output: None,
            failure: None,
            waiting_for: None,
            executor: None,
            progress: None,
            estimate_seconds: None,
            blocked: None,
        };
        if let Some(step) = step {
            fill(&mut view, step, journal).await?;
        }
        if view.status == "running" {
            view.estimate_seconds = estimates
                .iter()
                .find(|(name, _)| *name == view.step)
                .map(|(_, seconds)| *seconds);
        }
        if let Some(live) = live {
            let progress = live.progress.iter().find(|(name, _)| *name == spec.name);
            view.progress = progress.and_then(|(_, progress)| serde_json::to_value(progress).ok());
            let blocked = live.blocked.iter().find(|(name, _)| *name == spec.name);
            view.blocked = blocked.map(|(_, blocked)| blocked.reason.clone());
        }
        steps.push(view);
    }
    let summary = summary(&row);
    Ok(Some(RunDetail {
        summary,
        graph: row.graph,
        params: row.params,
        entries: row.seq,
        steps,
    }))
}

async fn fill(view: &mut StepView, step: &StepRow, journal: &dyn Journal) -> Result<(), JournalError> {
    view.status = step.status.as_str().to_owned();
    view.since = time(step.since);
    view.visit = step.visit;
    view.attempts = step.attempts;
    view.seconds = step.seconds;
    view.output = match &step.output {
        None => None,
        Some(Output::Inline(value)) => Some(value.clone()),
        Some(Output::Payload { sha256, .. }) => {
            let bytes = journal.payload(sha256).await?;
            let value = serde_json::from_slice(&bytes);
            Some(value.map_err(|error| JournalError::Corrupt(format!("payload {sha256}: {error}")))?)
        }
    };
    view.failure = step.failure.as_ref().map(|failure| FailureView {
        class: failure.class.as_str().to_owned(),
        code: failure.code.to_string(),
        message: failure.message.clone(),
    });
    view.waiting_for = step.wake.as_ref().map(|wake| match wake {
        Wake::At(at) => format!("the time {}", time(*at)),
        Wake::Signal(name) => format!("the signal `{name}`"),
    });
    view.executor = step.current.as_ref().map(|current| current.executor.clone());
    Ok(())
}

/// How many earlier runs an estimate looks at.
const HISTORY: u32 = 10;

/// The median time of each step in earlier runs of the same workflow with the same proof type.
async fn estimates(journal: &dyn Journal, row: &RunRow) -> Result<Vec<(String, f64)>, JournalError> {
    if row.status.is_final() {
        return Ok(Vec::new());
    }
    let filter = RunFilter {
        workflow: Some(row.workflow.clone()),
        status: Some(RunStatus::Succeeded),
        subject: None,
        limit: Some(HISTORY),
    };
    let mut seconds: std::collections::BTreeMap<String, Vec<f64>> = std::collections::BTreeMap::new();
    for earlier in journal.runs(&filter).await? {
        if earlier.params["proof_type"] != row.params["proof_type"] {
            continue;
        }
        for step in journal.steps(&earlier.run).await? {
            seconds
                .entry(step.step.to_string())
                .or_default()
                .push(step.seconds);
        }
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    Ok(seconds
        .into_iter()
        .map(|(name, all)| (name, median(all)))
        .collect())
}

/// An entry of a run's journal, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct EntryView {
    /// 1, 2, 3, …
    pub(crate) seq: u64,
    /// When (RFC 3339).
    pub(crate) at: String,
    /// What happened.
    pub(crate) events: Vec<Value>,
}

/// An entry as people see it.
pub(crate) fn entry(entry: &Entry) -> EntryView {
    let events = entry
        .events
        .iter()
        .filter_map(|event| serde_json::to_value(event).ok())
        .collect();
    EntryView {
        seq: entry.seq,
        at: time(entry.at),
        events,
    }
}
