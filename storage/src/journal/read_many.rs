//! Reading many runs: lists by index, and the open runs at a start. A query costs as much as some thirty
//! records, so the entries of neighbors are read in one scan unless too much lies between them.

use sealflow_engine::event::Entry;
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{JournalError, OpenRun, RunFilter};
use sealflow_engine::rows::RunRow;
use surrealdb::types::{Object, RecordId, SurrealValue};

use super::SurrealJournal;
use super::error::corrupt;
use super::read::{EntryRecord, PAGE, RunRecord, with_last};
use super::record::{decode, entries_of_all, list, number, object, of_run, run_of, text};

/// Runs whose entries one scan covers at most.
const SPAN: usize = 250;
/// Entries for each of its runs that a scan may meet, those of runs between them included.
const ENTRIES_A_RUN: u64 = 40;

#[derive(SurrealValue)]
struct SpanRecord {
    id: RecordId,
    entry: String,
    changes: Option<String>,
}

impl SurrealJournal {
    pub(super) async fn read_runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>, JournalError> {
        let (sql, params) = listing("run", "row, open", filter);
        let records = self.fetch(&sql, params).await?;
        self.rows(records).await
    }

    /// Rows as they are now, of records in any order.
    async fn rows(&self, records: Vec<RunRecord>) -> Result<Vec<RunRow>, JournalError> {
        let mut rows = Vec::with_capacity(records.len());
        let mut open = Vec::new();
        for record in records {
            if record.open {
                open.push(rows.len());
            }
            rows.push(decode::<RunRow>("the row of a run", &record.row)?);
        }
        open.sort_by(|a, b| rows[*a].run.cmp(&rows[*b].run));
        for chunk in open.chunks(SPAN) {
            let wanted: Vec<(&RunId, u64)> = chunk.iter().map(|at| (&rows[*at].run, rows[*at].seq)).collect();
            let spanned = self.span(&wanted).await?;
            for (n, at) in chunk.iter().enumerate() {
                let row = rows[*at].clone();
                rows[*at] = match spanned.as_ref().and_then(|spanned| spanned[n].last()) {
                    Some(last) => with_last(row, last)?,
                    None => self.brought_up(row).await?,
                };
            }
        }
        Ok(rows)
    }

    pub(super) async fn read_open_runs(&self) -> Result<Vec<RunRow>, JournalError> {
        let mut rows: Vec<RunRow> = Vec::new();
        loop {
            let page = self.open_records(rows.last().map(|row| &row.run), PAGE).await?;
            if page.is_empty() {
                return Ok(rows);
            }
            rows.extend(self.rows(page).await?);
        }
    }

    pub(super) async fn read_open_histories(
        &self,
        after: Option<&RunId>,
        limit: u32,
    ) -> Result<Vec<OpenRun>, JournalError> {
        let mut rows = Vec::new();
        for record in self.open_records(after, limit as usize).await? {
            rows.push(decode::<RunRow>("the row of a run", &record.row)?);
        }
        let mut found = Vec::with_capacity(rows.len());
        for chunk in rows.chunks(SPAN) {
            let awake = chunk.iter().filter(|row| row.rest.is_none());
            let wanted: Vec<(&RunId, u64)> = awake.map(|row| (&row.run, 1)).collect();
            let mut spanned = self.span(&wanted).await?.map(Vec::into_iter);
            for row in chunk {
                if row.rest.is_some() {
                    let (row, entries) = (row.clone(), Ok(Vec::new()));
                    found.push(OpenRun { row, entries });
                    continue;
                }
                let records = match spanned.as_mut().and_then(Iterator::next) {
                    Some(records) => records,
                    None => self.all_records(&row.run).await?,
                };
                found.push(history(row.clone(), &records)?);
            }
        }
        // If it is busy, it is not fresh either.
        if let Some(mut writer) = self.writer.as_ref().and_then(|writer| writer.try_lock().ok()) {
            let sound = found.iter().filter(|open| open.entries.is_ok());
            writer.learn(sound.map(|open| &open.row));
        }
        Ok(found)
    }

    async fn open_records(
        &self,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<RunRecord>, JournalError> {
        let sql = "SELECT row, open, run FROM run WITH INDEX run_open \
            WHERE open = true AND run > $after ORDER BY run LIMIT $limit";
        let after = after.map_or("", RunId::as_str);
        let params = object([("after", text(after)), ("limit", number(limit as u64))]);
        self.fetch(sql, params).await
    }

    async fn all_records(&self, run: &RunId) -> Result<Vec<EntryRecord>, JournalError> {
        let mut records = Vec::new();
        loop {
            let page = self
                .read_records(run, records.len() as u64 + 1, PAGE as u64)
                .await?;
            let last = page.len() < PAGE;
            records.extend(page);
            if last {
                return Ok(records);
            }
        }
    }

    /// The entries of runs that are in order, each from a number on, in one scan; nothing if it would
    /// meet too many.
    async fn span(&self, runs: &[(&RunId, u64)]) -> Result<Option<Vec<Vec<EntryRecord>>>, JournalError> {
        let (Some((first, _)), Some((last, _)), 2..) = (runs.first(), runs.last(), runs.len()) else {
            return Ok(None);
        };
        let params = object([("range", entries_of_all(first, last))]);
        let sql = "SELECT VALUE count FROM (SELECT count() FROM $range GROUP ALL)";
        let count = self.fetch::<u64>(sql, params.clone()).await?;
        if count
            .first()
            .is_some_and(|count| *count > runs.len() as u64 * ENTRIES_A_RUN)
        {
            return Ok(None);
        }
        let sql = "SELECT id, entry, changes FROM $range";
        let mut found: Vec<Vec<EntryRecord>> = runs.iter().map(|_| Vec::new()).collect();
        let mut skipped = vec![1; runs.len()];
        let mut at = 0;
        for SpanRecord { id, entry, changes } in self.fetch(sql, params).await? {
            let run = run_of(&id).unwrap_or_default();
            while runs.get(at).is_some_and(|(known, _)| known.as_str() < run) {
                at += 1;
            }
            match runs.get(at) {
                Some((known, from)) if known.as_str() == run => {
                    if skipped[at] < *from {
                        skipped[at] += 1;
                    } else {
                        found[at].push(EntryRecord { entry, changes });
                    }
                }
                _ => {}
            }
        }
        Ok(Some(found))
    }

    /// All runs, oldest first, as they are now.
    pub(super) async fn all_runs(&self) -> Result<Vec<RunRow>, JournalError> {
        let mut rows = Vec::new();
        for page in self.names("run", "run").await?.chunks(PAGE) {
            let mut ids = Vec::with_capacity(page.len());
            for name in page {
                ids.push(of_run("run", &name.parse().map_err(corrupt)?));
            }
            let params = object([("ids", list(ids))]);
            rows.extend(
                self.rows(self.fetch("SELECT row, open FROM $ids", params).await?)
                    .await?,
            );
        }
        Ok(rows)
    }

    /// A field of every record of a table, in the order of their ids. There are no pages: a range with a
    /// `LIMIT` is read to its end, so each page would cost as much as all that follow it.
    pub(super) async fn names(&self, table: &str, field: &str) -> Result<Vec<String>, JournalError> {
        let sql = format!("SELECT VALUE {field} FROM {table} ORDER BY id");
        self.fetch(&sql, Object::new()).await
    }
}

/// The query for the records of runs that a filter accepts, the newest first.
pub(super) fn listing(table: &str, fields: &str, filter: &RunFilter) -> (String, Object) {
    // The index that lets the fewest through is used; the other conditions are looked at in the records.
    let mut conditions = Vec::new();
    let mut params = Object::new();
    let mut index = None;
    for (name, value) in [
        ("subject", filter.subject.as_ref().map(|subject| subject.as_str())),
        ("status", filter.status.map(|status| status.as_str())),
        ("workflow", filter.workflow.as_ref().map(|name| name.as_str())),
    ] {
        if let Some(value) = value {
            index.get_or_insert(name);
            conditions.push(format!("{name} = ${name}"));
            params.insert(name.to_owned(), text(value));
        }
    }
    let mut sql = match index {
        Some(name) => format!(
            "SELECT {fields}, run FROM {table} WITH INDEX {table}_{name} WHERE {} ORDER BY run DESC",
            conditions.join(" AND ")
        ),
        None => format!("SELECT {fields}, id FROM {table} ORDER BY id DESC"),
    };
    if let Some(limit) = filter.limit {
        sql.push_str(" LIMIT $limit");
        params.insert("limit".to_owned(), number(u64::from(limit)));
    }
    (sql, params)
}

/// A run with its entries decoded.
fn history(row: RunRow, records: &[EntryRecord]) -> Result<OpenRun, JournalError> {
    let read = || {
        let decoded = records
            .iter()
            .map(|record| decode::<Entry>(format_args!("an entry of {}", row.run), &record.entry));
        let entries = decoded.collect::<Result<Vec<_>, _>>()?;
        match records.last() {
            Some(last) => Ok((with_last(row.clone(), last)?, entries)),
            None => Err(corrupt(format!("{} has no entries", row.run))),
        }
    };
    match read() {
        Ok((row, entries)) => {
            let entries = Ok(entries);
            Ok(OpenRun { row, entries })
        }
        Err(JournalError::Corrupt(why)) => {
            let entries = Err(why);
            Ok(OpenRun { row, entries })
        }
        Err(error) => Err(error),
    }
}
