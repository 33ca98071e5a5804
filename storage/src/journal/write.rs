//! One commit: one transaction that writes, per transition, one create-only entry with the rows that
//! changed, and of the run's own row only what lists show.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sealflow_engine::crash;
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Batch, JournalError};
use sealflow_engine::rows::RunRow;
use sealflow_engine::run::Rest;
use surrealdb::types::{Object, Value};
use tokio::sync::Mutex;

use super::SurrealJournal;
use super::archive::ArchivedRow;
use super::record::{Changes, encode, entry_id, id, list, object, of_run, site_id, text};

/// How often a transaction that another one got in the way of is tried again. It took no effect, and
/// tried again it meets the fence.
const TRIES: usize = 10;

/// What the only writer of a journal remembers.
pub(super) struct Writer {
    epoch: u64,
    /// Open runs that were written to, or read at the start, and do not rest: how far they are and what of them is in their
    /// row. An open run that is not here is looked up once.
    heads: HashMap<RunId, Head>,
    /// Nothing was written yet.
    fresh: bool,
    /// Graphs that are stored.
    graphs: HashSet<Arc<str>>,
    /// The number of the installation's last entry, once it was looked up.
    site: Option<u64>,
    /// Why nothing may be written any more: it is not known what the last commit did.
    broken: Option<String>,
}

impl Writer {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            epoch,
            heads: HashMap::new(),
            fresh: true,
            graphs: HashSet::new(),
            site: None,
            broken: None,
        }
    }

    /// Takes note of open runs that were read. What was read before the first commit is still so: nobody else may write. It
    /// spares that commit a query for each run that was in flight, which may be a thousand.
    pub(super) fn learn<'a>(&mut self, read: impl IntoIterator<Item = &'a RunRow>) {
        if self.fresh {
            let awake = read.into_iter().filter(|row| row.rest.is_none());
            self.heads
                .extend(awake.map(|row| (row.run.clone(), Head::of(row))));
        }
    }

    /// Writes nothing from now on.
    pub(super) fn stop(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }
}

/// What of a run's row lists show. It is written when it changes; the rest follows from the last entry.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Head {
    seq: u64,
    shown: (&'static str, Option<String>, String, i32, bool, Option<Rest>),
}

impl Head {
    pub(super) fn of(row: &RunRow) -> Self {
        Self {
            seq: row.seq,
            shown: (
                row.status.as_str(),
                row.reason.clone(),
                row.graph.clone(),
                row.priority,
                is_open(row),
                row.rest,
            ),
        }
    }
}

/// Whether anything can still be appended to the run.
pub(super) fn is_open(row: &RunRow) -> bool {
    !row.status.is_final() || !row.discarding.is_empty()
}

/// By what one sees that a transaction took effect.
pub(super) enum Trace<'a> {
    /// The entries of the batch are stored exactly as they are in it.
    Batch(&'a Batch),
    /// The index of archives has the row.
    Archived(&'a ArchivedRow),
    /// The index of archives does not have the run.
    NotArchived(&'a RunId),
    /// The messager's records are stored exactly as they are in it.
    Messages(&'a sealflow_chain::messager::Batch),
    /// By nothing: it may be done again.
    None,
}

/// A transaction: statements with parameters.
#[derive(Default)]
struct Transaction {
    sql: String,
    params: Object,
}

impl Transaction {
    /// Adds a statement over a list, unless the list is empty.
    fn add(&mut self, statement: &str, name: &str, records: Vec<Value>) {
        if !records.is_empty() {
            self.sql.push_str(statement);
            self.params.insert(name.to_owned(), list(records));
        }
    }
}

impl SurrealJournal {
    /// The writer, or why there is none.
    pub(super) fn writer(&self) -> Result<&Mutex<Writer>, JournalError> {
        self.writer.as_ref().ok_or_else(|| {
            JournalError::Store(format!(
                "the journal at {} was opened only to be read",
                self.place()
            ))
        })
    }

    pub(super) async fn write(&self, batch: &Batch) -> Result<(), JournalError> {
        let mut writer = self.writer()?.lock().await;
        if let Some(why) = &writer.broken {
            return Err(JournalError::Store(why.clone()));
        }
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        writer.fresh = false;
        let shown = self.check_before(&writer, batch).await?;
        if let Some(first) = batch.site.first() {
            let last = match writer.site {
                Some(last) => last,
                None => self.read_site(1).await?.last().map_or(0, |entry| entry.seq),
            };
            if first.seq != last + 1 {
                return Err(JournalError::Fenced(format!(
                    "entry {} of the installation comes after entry {last}",
                    first.seq
                )));
            }
        }
        let transaction = transaction(&writer, batch, &shown)?;
        crash::point("journal.commit.before");
        let done = self.execute(&transaction, &writer, Trace::Batch(batch)).await;
        crash::point("journal.commit.after");
        if let Err(JournalError::Store(why)) = &done {
            writer.broken = Some(why.clone());
        }
        done?;
        for (run, (_, row)) in &batch.runs {
            // Runs that rest are many; they are looked up once when they go on.
            if is_open(row) && row.rest.is_none() {
                writer.heads.insert(run.clone(), Head::of(row));
            } else {
                writer.heads.remove(run);
            }
        }
        writer.graphs.extend(batch.graphs.keys().cloned());
        if let Some(last) = batch.site.last() {
            writer.site = Some(last.seq);
        }
        self.feed.push(batch);
        Ok(())
    }

    /// Checks that every run is where the batch takes it to be. Gives the heads that are stored.
    async fn check_before(
        &self,
        writer: &Writer,
        batch: &Batch,
    ) -> Result<BTreeMap<RunId, Head>, JournalError> {
        let mut stored = BTreeMap::new();
        for (run, (before, _)) in &batch.runs {
            let head = match writer.heads.get(run) {
                Some(head) => Some(head.clone()),
                // A new run: its records are created, which fails if they are there.
                None if *before == 0 => continue,
                None => self.read_run(run).await?.as_ref().map(Head::of),
            };
            let seq = head.as_ref().map_or(0, |head| head.seq);
            if seq != *before {
                return Err(JournalError::Fenced(format!(
                    "{run} is at entry {seq}, not {before}"
                )));
            }
            stored.extend(head.map(|head| (run.clone(), head)));
        }
        Ok(stored)
    }

    /// Runs a transaction. Where its answer was lost, the trace tells whether it took effect.
    async fn execute(
        &self,
        transaction: &Transaction,
        writer: &Writer,
        trace: Trace<'_>,
    ) -> Result<(), JournalError> {
        let mut lost = false;
        for attempt in 1..=TRIES {
            let answer = self
                .client
                .transact(writer.epoch, &transaction.sql, transaction.params.clone())
                .await;
            let Err(error) = answer.and_then(first_error) else {
                return self.client.changed().await;
            };
            if error.is_thrown() {
                let why = format!("it was epoch {}, and is so no more", writer.epoch);
                return Err(JournalError::Fenced(why));
            }
            if error.is_already_exists() {
                // Our own transaction, whose answer was lost, may have arrived after all.
                if lost && self.is_written(&trace).await? {
                    return Ok(());
                }
                return Err(JournalError::Fenced(error.message().to_owned()));
            }
            let conflict = matches!(
                error.query_details(),
                Some(surrealdb::types::QueryError::TransactionConflict)
            ) || error.message().contains("can be retried");
            if conflict && attempt < TRIES {
                tokio::time::sleep(std::time::Duration::from_millis(5 * attempt as u64)).await;
                continue;
            }
            if !self.client.is_remote() || attempt == TRIES {
                // Embedded: what was committed is visible before it is flushed, so it is not known.
                return Err(self.client.error("committing", &error));
            }
            tracing::warn!(%error, "the store's answer to a commit was lost; reading back");
            lost = true;
            tokio::time::sleep(std::time::Duration::from_millis(200 * attempt as u64)).await;
            if matches!(self.is_written(&trace).await, Ok(true)) {
                return Ok(());
            }
        }
        Err(JournalError::Store(format!(
            "a commit at {} did not come to an end",
            self.place()
        )))
    }

    /// Runs statements in a transaction that the fence lets through: what archives need beside commits.
    pub(super) async fn fenced(
        &self,
        statements: &str,
        params: Object,
        trace: Trace<'_>,
    ) -> Result<(), JournalError> {
        let mut writer = self.writer()?.lock().await;
        if let Some(why) = &writer.broken {
            return Err(JournalError::Store(why.clone()));
        }
        let transaction = Transaction {
            sql: statements.to_owned(),
            params,
        };
        let done = self.execute(&transaction, &writer, trace).await;
        if let Err(JournalError::Store(why)) = &done {
            writer.broken = Some(why.clone());
        }
        done
    }

    /// Whether a transaction took effect. It is stored as a whole, so a part of it tells.
    async fn is_written(&self, trace: &Trace<'_>) -> Result<bool, JournalError> {
        match trace {
            Trace::Batch(batch) => {
                for (run, entry) in &batch.entries {
                    if self.read_entries(run, entry.seq, 1).await?.first() != Some(entry) {
                        return Ok(false);
                    }
                }
                if let (Some(first), Some(last)) = (batch.site.first(), batch.site.last()) {
                    return Ok(self.site_between(first.seq, last.seq).await? == batch.site);
                }
                Ok(true)
            }
            Trace::Archived(row) => Ok(self.archived_row(&row.row.run).await?.as_ref() == Some(*row)),
            Trace::NotArchived(run) => Ok(self.archived_row(run).await?.is_none()),
            Trace::Messages(batch) => self.has_messages(batch).await,
            Trace::None => Ok(false),
        }
    }
}

/// The error that made a transaction fail, rather than those of the statements it took with it.
fn first_error(mut answer: surrealdb::IndexedResults) -> surrealdb::Result<()> {
    let mut errors: Vec<_> = answer.take_errors().into_iter().collect();
    errors.sort_by_key(|(at, error)| {
        // Of a commit that failed, the last row tells why; the statements before it only that it did.
        let bystander = matches!(
            error.query_details(),
            Some(surrealdb::types::QueryError::NotExecuted)
        );
        (bystander, if bystander { usize::MAX - at } else { *at })
    });
    errors.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
}

fn transaction(
    writer: &Writer,
    batch: &Batch,
    stored: &BTreeMap<RunId, Head>,
) -> Result<Transaction, JournalError> {
    let mut transaction = Transaction::default();
    transaction.add(
        "INSERT INTO entry $entries RETURN NONE;",
        "entries",
        entries(batch)?,
    );
    let mut site = Vec::with_capacity(batch.site.len());
    for entry in &batch.site {
        site.push(Value::Object(object([
            ("id", site_id(entry.seq)),
            ("entry", encode("an entry of the installation", entry)?),
        ])));
    }
    transaction.add("INSERT INTO site $site RETURN NONE;", "site", site);
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for (run, (before, row)) in &batch.runs {
        let head = stored.get(run);
        if head.is_some_and(|head| head.shown == Head::of(row).shown) {
            continue;
        }
        let record = object([
            ("id", of_run("run", run)),
            ("run", text(run.as_str())),
            ("workflow", text(row.workflow.as_str())),
            ("status", text(row.status.as_str())),
            ("subject", text(row.subject.as_str())),
            ("open", Value::Bool(is_open(row))),
            ("row", encode("the row of a run", row)?),
        ]);
        let target = if *before == 0 { &mut new } else { &mut changed };
        target.push(Value::Object(record));
    }
    transaction.add("INSERT INTO run $new RETURN NONE;", "new", new);
    // They are there; an UPSERT would try to create them first, and fail inside.
    transaction.add(
        "FOR $one IN $changed { UPDATE $one.id CONTENT $one RETURN NONE };",
        "changed",
        changed,
    );
    let mut keys = Vec::with_capacity(batch.keys.len());
    for (key, run) in &batch.keys {
        let record = object([
            ("id", id("key", vec![text(key)])),
            ("key", text(key)),
            ("run", text(run.as_str())),
        ]);
        keys.push(Value::Object(record));
    }
    transaction.add("INSERT INTO key $keys RETURN NONE;", "keys", keys);
    let mut graphs = Vec::new();
    for (hash, graph) in batch
        .graphs
        .iter()
        .filter(|(hash, _)| !writer.graphs.contains(*hash))
    {
        let record = object([
            ("id", id("graph", vec![text(hash)])),
            ("graph", encode("a graph", &**graph)?),
        ]);
        graphs.push(Value::Object(record));
    }
    transaction.add("INSERT IGNORE INTO graph $graphs RETURN NONE;", "graphs", graphs);
    let mut artifacts = Vec::new();
    for ((subject, kind), row) in &batch.artifacts {
        let key = id("artifact", vec![text(subject.as_str()), text(kind)]);
        artifacts.push(Value::Object(object([
            ("id", key),
            ("row", encode("an artifact", row)?),
        ])));
    }
    transaction.add(
        "FOR $one IN $artifacts { UPSERT $one.id CONTENT $one RETURN NONE };",
        "artifacts",
        artifacts,
    );
    Ok(transaction)
}

/// The entries, the last one of each run with the rows as they are after the batch.
fn entries(batch: &Batch) -> Result<Vec<Value>, JournalError> {
    let mut steps: HashMap<&RunId, Vec<_>> = HashMap::new();
    for ((run, _), step) in &batch.steps {
        steps.entry(run).or_default().push(step.clone());
    }
    let mut records = Vec::with_capacity(batch.entries.len());
    for (run, entry) in &batch.entries {
        let mut record = object([
            ("id", entry_id(run, entry.seq)),
            ("entry", encode("an entry", entry)?),
        ]);
        if let Some((_, row)) = batch.runs.get(run).filter(|(_, row)| row.seq == entry.seq) {
            let steps = steps.remove(run).unwrap_or_default();
            let changes = Changes {
                steps,
                discarding: row.discarding.clone(),
                renumbered: batch.renumbered.contains(run),
            };
            record.insert("changes".to_owned(), encode("the rows of an entry", &changes)?);
        }
        records.push(Value::Object(record));
    }
    Ok(records)
}
