//! Reading one run, and what belongs to none: everything is one record or a range of records. Reading
//! many runs is in `read_many`.

use std::collections::BTreeMap;

use sealflow_engine::event::Entry;
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::{ArtifactRow, JournalError, StoredGraph};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::site::SiteEntry;
use sealflow_engine::workflow::StepIx;
use surrealdb::types::{Object, SurrealValue};

use super::SurrealJournal;
use super::error::corrupt;
use super::record::{
    Changes, artifacts_of, decode, entries_between, entries_from, id, number, object, of_run, site_between,
    text,
};

/// Records that one query gives at most.
pub(super) const PAGE: usize = 1000;

/// A run's record.
#[derive(SurrealValue)]
pub(super) struct RunRecord {
    pub(super) row: String,
    pub(super) open: bool,
}

/// An entry's record.
#[derive(SurrealValue)]
pub(super) struct EntryRecord {
    pub(super) entry: String,
    pub(super) changes: Option<String>,
}

impl SurrealJournal {
    pub(super) async fn fetch<T: SurrealValue>(
        &self,
        sql: &str,
        params: Object,
    ) -> Result<Vec<T>, JournalError> {
        self.client
            .fetch(sql, params)
            .await
            .map_err(|error| self.client.error("reading", &error))
    }

    /// The newest entries of the installation, in order.
    pub(super) async fn read_site(&self, limit: u32) -> Result<Vec<SiteEntry>, JournalError> {
        // Numbers are dense, so their count is the last one; counting a table reads no records.
        let sql = "SELECT VALUE count FROM (SELECT count() FROM site GROUP ALL)";
        let count = self.fetch::<u64>(sql, Object::new()).await?;
        let last = count.first().copied().unwrap_or_default();
        let first = (last + 1).saturating_sub(limit.into()).max(1);
        self.site_between(first, last).await
    }

    /// Entries of the installation, from one number to another, both included.
    pub(super) async fn site_between(&self, first: u64, last: u64) -> Result<Vec<SiteEntry>, JournalError> {
        let params = object([("range", site_between(first, last))]);
        let records = self
            .fetch::<String>("SELECT VALUE entry FROM $range", params)
            .await?;
        let decoded = records
            .iter()
            .map(|json| decode("an entry of the installation", json));
        decoded.collect()
    }

    pub(super) async fn read_run(&self, run: &RunId) -> Result<Option<RunRow>, JournalError> {
        let params = object([("id", of_run("run", run))]);
        let found = self
            .fetch::<RunRecord>("SELECT row, open FROM $id", params)
            .await?;
        match found.into_iter().next() {
            Some(record) => {
                let row: RunRow = decode("the row of a run", &record.row)?;
                let row = if record.open {
                    self.brought_up(row).await?
                } else {
                    row
                };
                Ok(Some(row))
            }
            None => Ok(None),
        }
    }

    /// The row of an open run as it is now. What of it is not in the run's record follows from the last
    /// entry.
    pub(super) async fn brought_up(&self, row: RunRow) -> Result<RunRow, JournalError> {
        // Ranges are only read forward, but counting one reads no records, and numbers are dense.
        let sql = "LET $more = (SELECT count() FROM $range GROUP ALL)[0].count ?? 0; \
            SELECT entry, changes FROM type::record('entry', [$run, $from + $more - 1])";
        let params = object([
            ("range", entries_from(&row.run, row.seq)),
            ("run", text(row.run.as_str())),
            ("from", number(row.seq)),
        ]);
        let answer = self.client.query(sql, params).await;
        let last: Vec<EntryRecord> = answer
            .and_then(surrealdb::IndexedResults::check)
            .and_then(|mut answer| answer.take(1))
            .map_err(|error| self.client.error("reading", &error))?;
        let Some(last) = last.into_iter().next() else {
            return Err(corrupt(format!(
                "{} lacks an entry: its entries are not numbered without gaps",
                row.run
            )));
        };
        with_last(row, &last)
    }

    pub(super) async fn read_steps(&self, run: &RunId) -> Result<Vec<StepRow>, JournalError> {
        let mut steps: BTreeMap<StepIx, StepRow> = BTreeMap::new();
        let mut from = 1;
        loop {
            let page = self.read_records(run, from, PAGE as u64).await?;
            let full = page.len() == PAGE;
            for record in page {
                from += 1;
                if let Some(changes) = record.changes {
                    let changes: Changes = decode(format_args!("the rows of an entry of {run}"), &changes)?;
                    if changes.renumbered {
                        steps.clear();
                    }
                    steps.extend(changes.steps.into_iter().map(|step| (step.ix, step)));
                }
            }
            if !full {
                return Ok(steps.into_values().collect());
            }
        }
    }

    pub(super) async fn read_records(
        &self,
        run: &RunId,
        from: u64,
        limit: u64,
    ) -> Result<Vec<EntryRecord>, JournalError> {
        let params = object([("range", entries_between(run, from, limit))]);
        self.fetch("SELECT entry, changes FROM $range", params).await
    }

    pub(super) async fn read_entries(
        &self,
        run: &RunId,
        from: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, JournalError> {
        let params = object([("range", entries_between(run, from, u64::from(limit)))]);
        let texts = self
            .fetch::<String>("SELECT VALUE entry FROM $range", params)
            .await?;
        texts
            .iter()
            .map(|text| decode(format_args!("an entry of {run}"), text))
            .collect()
    }

    pub(super) async fn read_graph(&self, hash: &str) -> Result<Option<StoredGraph>, JournalError> {
        let params = object([("id", id("graph", vec![text(hash)]))]);
        let found = self
            .fetch::<String>("SELECT VALUE graph FROM $id", params)
            .await?;
        found
            .first()
            .map(|json| decode(format_args!("graph {hash}"), json))
            .transpose()
    }

    pub(super) async fn read_artifacts(&self, subject: &Subject) -> Result<Vec<ArtifactRow>, JournalError> {
        let params = object([("range", artifacts_of(subject.as_str()))]);
        let found = self
            .fetch::<String>("SELECT VALUE row FROM $range", params)
            .await?;
        found
            .iter()
            .map(|json| decode(format_args!("an artifact of {subject}"), json))
            .collect()
    }

    pub(super) async fn read_key(&self, key: &str) -> Result<Option<RunId>, JournalError> {
        let params = object([("id", id("key", vec![text(key)]))]);
        let found = self.fetch::<String>("SELECT VALUE run FROM $id", params).await?;
        let parse = |run: &String| {
            run.parse()
                .map_err(|error| corrupt(format!("the run of key `{key}`: {error}")))
        };
        found.first().map(parse).transpose()
    }
}

/// The row of an open run after its last entry.
pub(super) fn with_last(mut row: RunRow, last: &EntryRecord) -> Result<RunRow, JournalError> {
    let entry: Entry = decode(format_args!("an entry of {}", row.run), &last.entry)?;
    let changes: Changes = match &last.changes {
        Some(changes) => decode(
            format_args!("the rows of entry {} of {}", entry.seq, row.run),
            changes,
        )?,
        None => return Err(corrupt(format!("entry {} of {} has no rows", entry.seq, row.run))),
    };
    row.seq = entry.seq;
    row.updated_at = entry.at;
    row.discarding = changes.discarding;
    Ok(row)
}
