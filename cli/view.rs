//! Runs as people and scripts see them. The daemon's API and the commands that read the store
//! themselves make the same views.

use std::time::{Duration, UNIX_EPOCH};

use sealflow_engine::core::{Condition, Explanation};
use sealflow_engine::dispatcher::LiveView;
use sealflow_engine::event::{Entry, Output};
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Journal, JournalError, RunFilter, StoredGraph};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::run::{RunStatus, StepStatus};
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
    /// The run whose step's work it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// If it is a batch, how many members it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) members: Option<u32>,
    /// Runs of higher priority start their steps first.
    #[serde(default)]
    pub(crate) priority: i32,
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
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
    /// When its success is worth nothing any more (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) valid_until: Option<String>,
    /// How many items a step with `foreach` has, once they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) item_count: Option<u32>,
    /// Its items, as far as they have been let go, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub(crate) items: Vec<StepView>,
}

impl StepView {
    /// A step or an item that has no row: it is as it was at the start.
    fn untouched(step: String, stage: Option<String>, needs: Vec<String>, since: u64) -> Self {
        Self {
            step,
            stage,
            status: if needs.is_empty() { "ready" } else { "pending" }.to_owned(),
            needs,
            since: time(since),
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
            skipped: None,
            valid_until: None,
            item_count: None,
            items: Vec::new(),
        }
    }

    /// Adds what only the daemon knows.
    fn add_live(&mut self, live: &LiveView) {
        let progress = live.progress.iter().find(|(name, _)| name.as_str() == self.step);
        self.progress = progress.and_then(|(_, progress)| serde_json::to_value(progress).ok());
        let why = live.why.iter().find(|why| why.step.as_str() == self.step);
        let ready = why.filter(|why| why.status == StepStatus::Ready);
        self.blocked = ready.map(|why| {
            let texts: Vec<&str> = why.conditions.iter().map(|one| one.text.as_str()).collect();
            texts.join("; ")
        });
    }
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
        parent: row.parent.as_ref().map(ToString::to_string),
        members: Some(row.members).filter(|members| *members > 0),
        priority: row.priority,
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
        let stage = spec.stage.as_ref().map(|stage| stage.name.to_string());
        let needs = spec.needs.iter().map(|need| specs[need.get()].name.to_string());
        let mut view = StepView::untouched(
            spec.name.to_string(),
            stage.clone(),
            needs.collect(),
            row.created_at,
        );
        if let Some(step) = rows.iter().find(|step| step.ix.get() == at) {
            fill(&mut view, step, journal).await?;
        }
        if view.status == "running" {
            view.estimate_seconds = estimates
                .iter()
                .find(|(name, _)| *name == view.step)
                .map(|(_, seconds)| *seconds);
        }
        // Rows of items of earlier visits stay; those beyond the present number are gone.
        let count = view.item_count.unwrap_or(0);
        let mut items: Vec<(u32, &StepRow)> = Vec::new();
        for step in rows.iter().filter(|step| step.ix.get() >= specs.len()) {
            if let (base, Some(index)) = step.step.split()
                && base == view.step
                && index < count
            {
                items.push((index, step));
            }
        }
        items.sort_by_key(|(index, _)| *index);
        for (_, step) in items {
            let mut item = StepView::untouched(step.step.to_string(), stage.clone(), Vec::new(), step.since);
            fill(&mut item, step, journal).await?;
            if let Some(live) = live {
                item.add_live(live);
            }
            view.items.push(item);
        }
        if let Some(live) = live {
            view.add_live(live);
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
        Wake::Approval(text) => format!("an approval: {text}"),
    });
    view.skipped = step.skipped.clone();
    view.valid_until = step.valid_until.map(time);
    view.item_count = step.items;
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

/// Why a run does not move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ExplainView {
    /// The run.
    pub(crate) run: String,
    /// Where it stands.
    pub(crate) status: String,
    /// Each step and item that is not through, needs first.
    pub(crate) steps: Vec<StepWhy>,
}

/// Why a step is not through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StepWhy {
    /// The step or item.
    pub(crate) step: String,
    /// Where it stands.
    pub(crate) status: String,
    /// Every condition that is not met; none while it runs.
    pub(crate) conditions: Vec<ConditionView>,
}

/// A condition that is not met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConditionView {
    /// A stable slug: `upstream`, `backoff`, `cpu`, `memory`, `approval`, …
    pub(crate) kind: String,
    /// The condition in one sentence.
    pub(crate) text: String,
    /// Since when (RFC 3339).
    pub(crate) since: String,
    /// The numbers behind the sentence, by name.
    pub(crate) numbers: std::collections::BTreeMap<String, u64>,
}

/// Why a run does not move, from what the daemon knows.
pub(crate) fn explain(row: &RunRow, why: &[Explanation]) -> ExplainView {
    let condition = |one: &Condition| ConditionView {
        kind: one.kind.clone(),
        text: one.text.clone(),
        since: time(one.since),
        numbers: one.numbers.clone(),
    };
    let step = |why: &Explanation| StepWhy {
        step: why.step.to_string(),
        status: why.status.as_str().to_owned(),
        conditions: why.conditions.iter().map(condition).collect(),
    };
    ExplainView {
        run: row.run.to_string(),
        status: row.status.as_str().to_owned(),
        steps: why.iter().map(step).collect(),
    }
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
