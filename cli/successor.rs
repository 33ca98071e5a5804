//! Sectors whose number is burned: their pre-commit expired, and no sector can have the number again. The run ends, and a new
//! one takes its pieces, with the next number. The new run's key is made of the old one's name, so that it is one, whatever
//! is killed.

use std::sync::Arc;
use std::time::Duration;

use sealflow_engine::core::Verb;
use sealflow_engine::dispatcher::{Handle, NewRun};
use sealflow_engine::event::By;
use sealflow_engine::id::RunId;
use sealflow_engine::journal::RunFilter;
use sealflow_engine::run::RunStatus;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::numbers::Numbers;

/// The failure that no step of the run can mend.
const BURNED: &str = "number_burned";

/// How often paused runs are looked at, when something changed.
const EVERY: Duration = Duration::from_secs(5);

/// Looks after such runs until it is told to stop.
pub(crate) fn start(handle: Handle, numbers: Arc<Numbers>, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut changes = handle.changes();
        // What was paused before the start counts too.
        changes.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            if let Err(error) = look(&handle, &numbers).await {
                tracing::warn!(%error, "a sector whose number is burned waits for its successor");
                changes.mark_changed();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    })
}

async fn look(handle: &Handle, numbers: &Numbers) -> anyhow::Result<()> {
    let filter = RunFilter {
        status: Some(RunStatus::Paused),
        ..RunFilter::default()
    };
    for row in handle.journal().runs(&filter).await? {
        let steps = handle.journal().steps(&row.run).await?;
        let burned = |failure: &sealflow_engine::failure::Failure| failure.code == BURNED;
        if steps.iter().any(|step| step.failure.as_ref().is_some_and(burned)) {
            succeed(handle, numbers, &row.run).await?;
        }
    }
    Ok(())
}

/// Starts the successor, and only then ends the run.
async fn succeed(handle: &Handle, numbers: &Numbers, run: &RunId) -> anyhow::Result<()> {
    let (state, source) = handle.state_of(run).await?;
    let mut params = state.params.clone();
    if let Some(params) = params.as_object_mut() {
        params.remove("sector");
    }
    let by = |why: String| By {
        who: "sealflow".to_owned(),
        why,
    };
    let successor = numbers
        .start(NewRun {
            graph: state.graph.clone(),
            source,
            params,
            key: Some(format!("{BURNED}/{run}")),
            priority: Some(state.priority),
            by: by(format!("{BURNED}: takes the pieces of {run}")),
        })
        .await?;
    let why = format!("{BURNED}: its pieces are sealed again by {successor}");
    handle.operate(run, Verb::Cancel, by(why)).await?;
    tracing::info!(%run, %successor, "the number of a sector is burned; its pieces are sealed again");
    Ok(())
}
