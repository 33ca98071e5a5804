//! When each step of a run stood how: what a fold of its entries shows on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::Entry;
use crate::id::{RunId, StepName};
use crate::run::{Illegal, RunState, StepStatus};
use crate::workflow::{Graph, StepIx};

/// A time during which a step stood the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// How it stood.
    pub status: StepStatus,
    /// From when, milliseconds since 1970.
    pub from: u64,
    /// Until when; nothing if it still stands so.
    pub to: Option<u64>,
    /// The passage.
    pub visit: u32,
    /// The try, if one ran.
    pub attempt: Option<u32>,
    /// Where it ran.
    pub executor: Option<String>,
}

/// The spans of a step or an item, in their order, without gaps.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The step or the item.
    pub step: StepName,
    /// Its spans.
    pub spans: Vec<Span>,
}

/// The spans of all steps, needs first, and then of all items. The numbers of entries are the finest that
/// is seen: what happened within one took no time.
///
/// # Errors
/// The entries cannot have happened, or there are none.
pub fn timeline(id: &RunId, graphs: &[Arc<Graph>], entries: &[Entry]) -> Result<Vec<Row>, Illegal> {
    let mut rows: BTreeMap<StepName, Row> = BTreeMap::new();
    let mut state: Option<RunState> = None;
    for entry in entries {
        let state = match &mut state {
            Some(state) => {
                state.apply(entry)?;
                let touched = state.take_touched();
                for ix in touched {
                    note(&mut rows, state, ix, entry.at);
                }
                continue;
            }
            None => state.insert(RunState::begin(id, graphs, entry)?),
        };
        state.take_touched();
        let all: Vec<StepIx> = state.steps().map(|(ix, _)| ix).collect();
        for ix in all {
            note(&mut rows, state, ix, entry.at);
        }
    }
    let Some(state) = state else {
        return RunState::fold(id, graphs, entries).map(|_| Vec::new());
    };
    let mut rows: Vec<Row> = rows.into_values().collect();
    // Steps that the present graph lacks come last.
    rows.sort_by_key(|row| state.find(&row.step).unwrap_or(StepIx(u32::MAX)));
    Ok(rows)
}

fn note(rows: &mut BTreeMap<StepName, Row>, state: &RunState, ix: StepIx, at: u64) {
    let step = state.step(ix);
    let span = Span {
        status: step.status,
        from: at,
        to: None,
        visit: step.visit,
        attempt: step.current.as_ref().map(|current| current.attempt),
        executor: step.current.as_ref().map(|current| current.executor.clone()),
    };
    let name = state.name(ix);
    let row = rows.entry(name.clone()).or_insert_with(|| Row {
        step: name,
        spans: Vec::new(),
    });
    if let Some(last) = row.spans.last_mut() {
        let from = last.from;
        if (Span { from, ..span.clone() }) == *last {
            return;
        }
        // A clock that was set back makes no span end before it begins.
        last.to = Some(at.max(from));
    }
    row.spans.push(span);
}

/// How long a step stood so in all, in seconds; what has not ended counts until `now`.
pub fn seconds(spans: &[Span], status: StepStatus, now: u64) -> f64 {
    let of = spans.iter().filter(|span| span.status == status);
    let ms: u64 = of
        .map(|span| span.to.unwrap_or(now.max(span.from)) - span.from)
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds are far below 2^52")]
    let ms = ms as f64;
    ms / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SampleRun;

    #[test]
    fn spans_follow_each_other() {
        let (mut run, start) = SampleRun::start(1, None);
        let begin = start.entry.at;
        let appends = [
            start,
            run.one_done(),
            run.rewound(),
            run.one_done(),
            run.finished(),
        ];
        let entries: Vec<Entry> = appends.into_iter().map(|append| append.entry).collect();
        let (graph, _) = SampleRun::graph();
        let rows = timeline(&run.id(), std::slice::from_ref(&graph), &entries).unwrap();
        type Shown = (StepStatus, u64, Option<u64>, u32);
        let shown: Vec<Vec<Shown>> = rows
            .iter()
            .map(|row| {
                let span = |span: &Span| {
                    (
                        span.status,
                        span.from - begin,
                        span.to.map(|to| to - begin),
                        span.visit,
                    )
                };
                row.spans.iter().map(span).collect()
            })
            .collect();
        use StepStatus::{Pending, Running, Succeeded};
        assert_eq!(
            shown,
            [
                vec![
                    (Running, 0, Some(7), 1),
                    (Succeeded, 7, Some(14), 1),
                    (Running, 14, Some(21), 2),
                    (Succeeded, 21, None, 2),
                ],
                vec![
                    (Pending, 0, Some(7), 1),
                    (Running, 7, Some(14), 1),
                    (Pending, 14, Some(21), 2),
                    (Running, 21, Some(28), 2),
                    (Succeeded, 28, None, 2),
                ],
            ]
        );
        assert_eq!(rows[1].spans[1].executor.as_deref(), Some("local"));
        assert_eq!(seconds(&rows[1].spans, Running, begin + 100), 0.014);
        assert_eq!(seconds(&rows[1].spans, Succeeded, begin + 1028), 1.0);
        assert!(timeline(&run.id(), std::slice::from_ref(&graph), &[]).is_err());
        assert!(timeline(&run.id(), std::slice::from_ref(&graph), &entries[1..]).is_err());
    }
}
