//! When the steps of a run stood how, for people and programs.

use std::collections::HashMap;

use sealflow_engine::dispatcher::{Graphs, all_entries};
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Journal, JournalError};
use sealflow_engine::rows::RunRow;
use sealflow_engine::timeline::{Row, Span, timeline};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::span::now_ms;
use crate::view::time;

/// When each step of a run stood how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct TimelineView {
    /// The run.
    pub(crate) run: String,
    /// When it started (RFC 3339).
    pub(crate) from: String,
    /// When it ended, or now (RFC 3339).
    pub(crate) to: String,
    /// Its steps, needs first, and then all items.
    pub(crate) steps: Vec<StepSpans>,
}

/// When a step stood how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct StepSpans {
    /// The step, or the item.
    pub(crate) step: String,
    /// One after the other, without gaps.
    pub(crate) spans: Vec<SpanView>,
}

/// A time during which a step stood the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct SpanView {
    /// `pending`, `ready` (queued), `running`, `waiting`, `succeeded`, `failed`, `skipped` or `cancelled`.
    pub(crate) status: String,
    /// From when (RFC 3339).
    pub(crate) from: String,
    /// Until when (RFC 3339); nothing if it still stands so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<String>,
    /// The passage.
    pub(crate) visit: u32,
    /// The try, if one ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attempt: Option<u32>,
    /// Where it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) executor: Option<String>,
}

/// The spans of a run's steps, by name.
pub(crate) struct Timeline {
    spans: HashMap<String, Vec<Span>>,
    /// The time until which what has not ended counts.
    pub(crate) now: u64,
}

impl Timeline {
    /// Reads it from the run's entries. A run that contradicts itself has none, and is shown all the same.
    pub(crate) async fn read(journal: &dyn Journal, row: &RunRow) -> Result<Self, JournalError> {
        let rows = match rows(journal, row).await {
            Err(JournalError::Corrupt(_)) => Vec::new(),
            rows => rows?,
        };
        let spans = rows.into_iter().map(|row| (row.step.to_string(), row.spans));
        Ok(Self {
            spans: spans.collect(),
            now: end(row),
        })
    }

    /// The spans of a step or an item.
    pub(crate) fn of(&self, step: &str) -> Option<&[Span]> {
        self.spans.get(step).map(Vec::as_slice)
    }
}

fn end(row: &RunRow) -> u64 {
    if row.status.is_final() {
        row.updated_at
    } else {
        now_ms().max(row.updated_at)
    }
}

async fn rows(journal: &dyn Journal, row: &RunRow) -> Result<Vec<Row>, JournalError> {
    let entries = all_entries(journal, &row.run).await?;
    let graphs = Graphs::default().of(journal, &entries).await?;
    timeline(&row.run, &graphs, &entries).map_err(|error| JournalError::Corrupt(error.to_string()))
}

/// When each step of a run stood how; nothing if there is no such run.
pub(crate) async fn view(journal: &dyn Journal, run: &RunId) -> Result<Option<TimelineView>, JournalError> {
    let Some(row) = journal.run(run).await? else {
        return Ok(None);
    };
    let rows = rows(journal, &row).await?;
    let span = |span: Span| SpanView {
        status: span.status.as_str().to_owned(),
        from: time(span.from),
        to: span.to.map(time),
        visit: span.visit,
        attempt: span.attempt,
        executor: span.executor,
    };
    let steps = rows.into_iter().map(|row| StepSpans {
        step: row.step.to_string(),
        spans: row.spans.into_iter().map(span).collect(),
    });
    Ok(Some(TimelineView {
        run: row.run.to_string(),
        from: time(row.created_at),
        to: time(end(&row)),
        steps: steps.collect(),
    }))
}
