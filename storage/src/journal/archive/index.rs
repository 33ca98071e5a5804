//! The index of archived runs: rows in the journal's store, one a run, and the list of files that are
//! being removed.

use sealflow_engine::id::RunId;
use sealflow_engine::journal::{JournalError, RunFilter};
use surrealdb::types::{Object, SurrealValue, Value};

use super::super::SurrealJournal;
use super::super::read::PAGE;
use super::super::read_many::listing;
use super::super::record::{decode, encode, id, list, number, object, of_run, text};
use super::ArchivedRow;

/// What of a record is read.
#[derive(SurrealValue)]
struct Stored {
    row: String,
}

/// The record of an archived run.
pub(super) fn record(row: &ArchivedRow) -> Result<Value, JournalError> {
    let run = &row.row;
    Ok(Value::Object(object([
        ("id", of_run("archive", &run.run)),
        ("run", text(run.run.as_str())),
        ("workflow", text(run.workflow.as_str())),
        ("status", text(run.status.as_str())),
        ("subject", text(run.subject.as_str())),
        ("ended", number(run.updated_at)),
        ("row", encode("the row of an archived run", row)?),
    ])))
}

impl SurrealJournal {
    /// An archived run; nothing if it is not archived.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn archived_row(&self, run: &RunId) -> Result<Option<ArchivedRow>, JournalError> {
        let params = object([("id", of_run("archive", run))]);
        let found = self.fetch::<Stored>("SELECT row FROM $id", params).await?;
        Ok(decoded(&found)?.into_iter().next())
    }

    /// Archived runs that a filter accepts, the newest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn archived_runs(&self, filter: &RunFilter) -> Result<Vec<ArchivedRow>, JournalError> {
        let (sql, params) = listing("archive", "row", filter);
        decoded(&self.fetch(&sql, params).await?)
    }

    /// All archived runs, the oldest first.
    pub(in super::super) async fn all_archived(&self) -> Result<Vec<ArchivedRow>, JournalError> {
        let mut rows = Vec::new();
        for page in self.names("archive", "run").await?.chunks(PAGE) {
            let ids = page.iter().map(|run| id("archive", vec![text(run)]));
            let params = object([("ids", list(ids.collect()))]);
            rows.extend(decoded(&self.fetch("SELECT row FROM $ids", params).await?)?);
        }
        Ok(rows)
    }

    /// At most `limit` archived runs that started after `after` and ended before `before`.
    pub(super) async fn archived_before(
        &self,
        after: Option<&RunId>,
        before: u64,
        limit: usize,
    ) -> Result<Vec<ArchivedRow>, JournalError> {
        let sql = "SELECT row, run FROM archive WITH INDEX archive_run \
            WHERE run > $after AND ended < $before ORDER BY run LIMIT $limit";
        let params = object([
            ("after", text(after.map_or("", RunId::as_str))),
            ("before", number(before)),
            ("limit", number(limit as u64)),
        ]);
        decoded(&self.fetch(sql, params).await?)
    }

    /// Archived runs that are no more, but whose files may still be there.
    pub(in super::super) async fn removals(&self) -> Result<Vec<ArchivedRow>, JournalError> {
        decoded(&self.fetch("SELECT row FROM removal", Object::new()).await?)
    }
}

fn decoded(found: &[Stored]) -> Result<Vec<ArchivedRow>, JournalError> {
    let row = |stored: &Stored| decode("an archived run", &stored.row);
    found.iter().map(row).collect()
}
