//! Where the history of a run is: in the journal, or in its archive.

use std::sync::Arc;

use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Journal, JournalError};
use sealflow_storage::journal::SurrealJournal;

/// What holds a run, and whether that is an archive; nothing if there is no such run.
pub(crate) async fn holder(
    journal: &Arc<SurrealJournal>,
    run: &RunId,
) -> Result<Option<(Arc<dyn Journal>, bool)>, JournalError> {
    if journal.run(run).await?.is_some() {
        return Ok(Some((journal.clone(), false)));
    }
    let archived = journal.archived(run).await?;
    Ok(archived.map(|run| (Arc::new(run) as Arc<dyn Journal>, true)))
}
