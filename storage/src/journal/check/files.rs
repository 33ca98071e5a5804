//! The files of artifacts: what the journal says that a subject owns is in the store, as it was recorded.

use sealflow_engine::artifact::{Artifact, SCRATCH, StoreError, Stores};
use sealflow_engine::journal::{ArtifactRow, JournalError};
use surrealdb::types::Object;

use super::super::SurrealJournal;
use super::super::record::decode;
use super::{CheckReport, Problem};

/// Looks at the files of all artifacts outside the scratch folder, which is emptied when it pleases the
/// stages: whether they are there and have their size; with `deep` also at every byte of them.
///
/// # Errors
/// The journal cannot be read. What is wrong with a file is no error but in the report.
pub async fn check_files(
    journal: &SurrealJournal,
    stores: &Stores,
    deep: bool,
    report: &mut CheckReport,
) -> Result<(), JournalError> {
    let rows = journal
        .fetch::<String>("SELECT VALUE row FROM artifact", Object::new())
        .await?;
    // Rows and artifacts that cannot be read are found by the check of the journal itself.
    for row in rows
        .iter()
        .filter_map(|json| decode::<ArtifactRow>("an artifact", json).ok())
    {
        let Ok(artifact) = serde_json::from_value::<Artifact>(row.artifact.clone()) else {
            continue;
        };
        if artifact.store == SCRATCH {
            continue;
        }
        report.checked.files += 1;
        if let Err(error) = look(stores, &artifact, deep).await {
            report.problems.push(Problem {
                invariant: "artifacts are in their stores",
                run: Some(row.run.clone()),
                what: format!("`{}` of {}: {error}", row.kind, row.subject),
            });
        }
    }
    Ok(())
}

async fn look(stores: &Stores, artifact: &Artifact, deep: bool) -> Result<(), StoreError> {
    // It may have been moved to another store since.
    let found = stores.find(artifact).await?;
    if deep {
        stores.get(&found.store)?.verify(&found).await?;
    }
    Ok(())
}
