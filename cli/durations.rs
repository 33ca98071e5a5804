//! How long work took, kept in the home on the side of the journal: read at the start, learned anew from
//! the journal if it is not there, written now and then and at the end. Losing it loses only estimates.

use std::path::PathBuf;
use std::time::Duration;

use sealflow_engine::dispatcher::{Graphs, Handle, RequestError, all_entries};
use sealflow_engine::durable;
use sealflow_engine::durations::Durations;
use sealflow_engine::journal::{Journal, JournalError, RunFilter};
use sealflow_engine::run::RunStatus;
use tokio::task::JoinHandle;

/// How often it is written, if it changed.
const EVERY: Duration = Duration::from_secs(600);
/// Ended runs that are learned from where there is no file.
const RUNS: u32 = 200;

/// Keeps the durations of an engine.
pub(crate) struct Keeper {
    handle: Handle,
    file: PathBuf,
    task: JoinHandle<()>,
}

impl Keeper {
    /// Gives the engine what is kept, and goes on keeping.
    pub(crate) fn start(handle: Handle, file: PathBuf) -> Self {
        let (engine, path) = (handle.clone(), file.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = teach(&engine, &path).await {
                tracing::warn!(%error, "no estimates until work has been done again");
            }
            let mut written = None;
            loop {
                tokio::time::sleep(EVERY).await;
                let Ok(durations) = engine.durations().await else {
                    return;
                };
                if written.as_ref() != Some(&durations) {
                    write(&path, &durations);
                    written = Some(durations);
                }
            }
        });
        Self { handle, file, task }
    }

    /// Writes what is known now. The engine must still run.
    pub(crate) async fn end(self) {
        self.task.abort();
        if let Ok(durations) = self.handle.durations().await {
            write(&self.file, &durations);
        }
    }
}

fn write(file: &std::path::Path, durations: &Durations) {
    let written = serde_json::to_vec(durations).map_err(std::io::Error::from);
    if let Err(error) = written.and_then(|text| durable::write(file, &text)) {
        tracing::warn!(file = %file.display(), %error, "how long work took was not written; estimates start anew");
    }
}

async fn teach(handle: &Handle, file: &std::path::Path) -> Result<(), RequestError> {
    let kept = std::fs::read(file)
        .ok()
        .and_then(|text| serde_json::from_slice::<Durations>(&text).ok());
    let durations = match kept {
        Some(durations) => durations,
        None => from_history(handle).await?,
    };
    handle.learn_older(durations).await
}

/// What the journal tells: its newest runs that succeeded, the oldest of them first.
async fn from_history(handle: &Handle) -> Result<Durations, RequestError> {
    let filter = RunFilter {
        status: Some(RunStatus::Succeeded),
        limit: Some(RUNS),
        ..RunFilter::default()
    };
    let journal: &dyn Journal = &**handle.journal();
    let (mut durations, mut graphs) = (Durations::default(), Graphs::default());
    for row in journal.runs(&filter).await?.into_iter().rev() {
        let entries = all_entries(journal, &row.run).await?;
        let graphs = match graphs.of(journal, &entries).await {
            Err(JournalError::Corrupt(_)) => continue,
            graphs => graphs?,
        };
        // A damaged run teaches what it can.
        if let Err(error) = durations.learn_run(handle.registry(), &row.run, &graphs, &entries) {
            tracing::warn!(%error, "learning how long work took");
        }
    }
    Ok(durations)
}
