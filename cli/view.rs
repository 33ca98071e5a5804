//! Runs as people and scripts see them. The daemon's API and the commands that read the store
//! themselves make the same views.

use std::time::{Duration, UNIX_EPOCH};

use sealflow_engine::core::{Condition, Eta, Explanation};
use sealflow_engine::dispatcher::LiveView;
use sealflow_engine::event::{Entry, Output};
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Journal, JournalError, RunFilter, StoredGraph};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::run::StepStatus;
use sealflow_engine::stage::Wake;
use sealflow_engine::timeline;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::timeline::Timeline;

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
    /// Whether it was moved out of the journal into an archive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) archived: bool,
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
    /// How long it will still take, while it is open and a daemon runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eta: Option<EtaView>,
    /// Its steps; a step comes after all that it needs.
    pub(crate) steps: Vec<StepView>,
}

/// How long a run will still take, from how long its work took before: an *estimate*. It leaves out waiting
/// for room, and failures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct EtaView {
    /// Always true: none of this was measured.
    pub(crate) estimate: bool,
    /// Seconds left, as likely more as less. Nothing if it is not known.
    pub(crate) p50_seconds: Option<f64>,
    /// Seconds left, with one chance in ten of more.
    pub(crate) p90_seconds: Option<f64>,
    /// Why it is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unknown: Vec<String>,
    /// The steps that it depends on most, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) path: Vec<String>,
}

/// An estimate as people see it.
pub(crate) fn eta(eta: &Eta) -> EtaView {
    EtaView {
        estimate: true,
        p50_seconds: eta.p50,
        p90_seconds: eta.p90,
        unknown: eta.unknown.clone(),
        path: eta.path.iter().map(ToString::to_string).collect(),
    }
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
    /// Seconds that it was ready and had no room, in all attempts and visits.
    #[serde(default)]
    pub(crate) queue_seconds: f64,
    /// Seconds that it ran, in all attempts and visits; of a step with items while any of them ran.
    #[serde(default)]
    pub(crate) run_seconds: f64,
    /// Seconds that it waited for a time, a signal, an approval or its next attempt.
    #[serde(default)]
    pub(crate) wait_seconds: f64,
    /// Its output.
    pub(crate) output: Option<Value>,
    /// Its last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<FailureView>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) waiting_for: Option<String>,
    /// Where it runs, or ran last.
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
            queue_seconds: 0.0,
            run_seconds: 0.0,
            wait_seconds: 0.0,
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

    /// Adds how long it stood how.
    fn add_spans(&mut self, timeline: &Timeline) {
        let Some(spans) = timeline.of(&self.step) else {
            return;
        };
        let seconds = |status| timeline::seconds(spans, status, timeline.now);
        self.queue_seconds = seconds(StepStatus::Ready);
        self.run_seconds = seconds(StepStatus::Running);
        self.wait_seconds = seconds(StepStatus::Waiting);
        if self.executor.is_none() {
            self.executor = spans.iter().rev().find_map(|span| span.executor.clone());
        }
    }

    /// Adds what only the daemon knows.
    fn add_live(&mut self, live: &LiveView) {
        let expected = live.expected.iter().find(|(name, _)| name.as_str() == self.step);
        self.estimate_seconds = expected.map(|(_, seconds)| *seconds);
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
        archived: false,
    }
}

/// A run that was found in an archive.
pub(crate) fn archived(summary: RunSummary) -> RunSummary {
    RunSummary {
        archived: true,
        ..summary
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
    let timeline = Timeline::read(journal, &row).await?;
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
        view.add_spans(&timeline);
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
            item.add_spans(&timeline);
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
        eta: live.and_then(|live| live.eta.as_ref()).map(eta),
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

/// Why a run does not move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ExplainView {
    /// The run.
    pub(crate) run: String,
    /// Where it stands.
    pub(crate) status: String,
    /// How long it will still take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eta: Option<EtaView>,
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
pub(crate) fn explain(row: &RunRow, live: &LiveView) -> ExplainView {
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
        eta: live.eta.as_ref().map(eta),
        steps: live.why.iter().map(step).collect(),
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
