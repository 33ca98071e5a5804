//! What the messager remembers, beside the runs and under the same fence: intents with all their signed versions, senders,
//! and the head up to which the chain was read.

use std::sync::Arc;

use sealflow_chain::messager::{Batch, Head, Key, Loaded, MessageStore, Record, SenderRow, StoreError};
use sealflow_engine::crash;
use sealflow_engine::journal::JournalError;
use surrealdb::types::{Object, SurrealValue, Value};

use super::SurrealJournal;
use super::read::PAGE;
use super::record::{decode, encode, id, list, number, object, text};
use super::write::Trace;

/// The messages of a journal.
#[derive(Clone, Debug)]
pub struct Messages(Arc<SurrealJournal>);

#[derive(SurrealValue)]
struct Row {
    row: String,
}

/// The record of an intent.
fn message_id(key: &Key) -> Value {
    id("message", vec![text(&key.to_string())])
}

fn head_id() -> Value {
    id("message_head", vec![text("head")])
}

impl SurrealJournal {
    /// The record of an intent, live or not.
    pub(super) async fn read_message(&self, key: &Key) -> Result<Option<Record>, JournalError> {
        let params = object([("id", message_id(key))]);
        let rows = self.fetch::<Row>("SELECT row FROM $id", params).await?;
        rows.first()
            .map(|found| decode(format!("message {key}"), &found.row))
            .transpose()
    }

    /// All messages from one number of submission on, at most a page.
    pub(super) async fn read_messages_from(&self, first: u64) -> Result<Vec<Record>, JournalError> {
        let sql = "SELECT row, number FROM message WHERE number >= $first ORDER BY number LIMIT $limit";
        let params = object([("first", number(first)), ("limit", number(PAGE as u64))]);
        let rows = self.fetch::<Row>(sql, params).await?;
        rows.iter().map(|found| decode("a message", &found.row)).collect()
    }

    /// All senders.
    pub(super) async fn read_senders(&self) -> Result<Vec<SenderRow>, JournalError> {
        let rows = self
            .fetch::<Row>("SELECT row FROM message_sender", Object::new())
            .await?;
        rows.iter().map(|found| decode("a sender", &found.row)).collect()
    }

    /// The head up to which the chain was read.
    pub(super) async fn read_message_head(&self) -> Result<Option<Head>, JournalError> {
        let rows = self
            .fetch::<Row>("SELECT row FROM $id", object([("id", head_id())]))
            .await?;
        rows.first()
            .map(|found| decode("the head of messages", &found.row))
            .transpose()
    }

    /// Stores a batch of the messager under the fence.
    pub(super) async fn write_messages(&self, batch: &Batch) -> Result<(), JournalError> {
        let (mut new, mut changed, mut senders) = (Vec::new(), Vec::new(), Vec::new());
        for record in &batch.records {
            let row = object([
                ("id", message_id(&record.intent.key)),
                ("number", number(record.number)),
                ("live", Value::Bool(record.is_live())),
                ("revision", number(record.revision)),
                ("row", encode("a message", record)?),
            ]);
            let target = if record.revision == 1 {
                &mut new
            } else {
                &mut changed
            };
            target.push(Value::Object(row));
        }
        for sender in &batch.senders {
            senders.push(Value::Object(object([
                (
                    "id",
                    id("message_sender", vec![text(&sender.address.to_string())]),
                ),
                ("row", encode("a sender", sender)?),
            ])));
        }
        let head = match &batch.head {
            Some(head) => vec![Value::Object(object([
                ("id", head_id()),
                ("row", encode("a head", head)?),
            ]))],
            None => Vec::new(),
        };
        // A changed record is taken only on the revision before: an update of another one changes nothing.
        let statements = "
            INSERT INTO message $new RETURN NONE;
            FOR $one IN $changed {
                LET $done = (UPDATE $one.id CONTENT $one WHERE revision = $one.revision - 1 RETURN VALUE revision);
                IF array::len($done) != 1 { THROW 'another revision' };
            };
            FOR $one IN $others { UPSERT $one.id CONTENT $one RETURN NONE };
        ";
        senders.extend(head);
        let params = object([
            ("new", list(new)),
            ("changed", list(changed)),
            ("others", list(senders)),
        ]);
        crash::point("messages.commit.before");
        let done = self.fenced(statements, params, Trace::Messages(batch)).await;
        crash::point("messages.commit.after");
        done
    }

    /// Whether a batch of the messager is stored.
    pub(super) async fn has_messages(&self, batch: &Batch) -> Result<bool, JournalError> {
        for record in &batch.records {
            if self.read_message(&record.intent.key).await?.as_ref() != Some(record) {
                return Ok(false);
            }
        }
        // A batch without records only moves what may be written again.
        Ok(!batch.records.is_empty())
    }

    /// Why a batch did not fit, if a record of it does not.
    async fn stale(&self, batch: &Batch) -> Result<Option<Key>, JournalError> {
        for record in &batch.records {
            let stored = self.read_message(&record.intent.key).await?;
            if stored.map_or(0, |stored| stored.revision) + 1 != record.revision {
                return Ok(Some(record.intent.key.clone()));
            }
        }
        Ok(None)
    }
}

fn failed(error: JournalError) -> StoreError {
    StoreError::Failed(error.to_string())
}

impl Messages {
    /// Those of this journal.
    pub fn of(journal: Arc<SurrealJournal>) -> Self {
        Self(journal)
    }

    /// The newest messages, ended ones too.
    ///
    /// # Errors
    /// The store does not work.
    pub async fn newest(&self, limit: u32) -> Result<Vec<Record>, StoreError> {
        let sql = "SELECT row, number FROM message ORDER BY number DESC LIMIT $limit";
        let params = object([("limit", number(limit.into()))]);
        let rows = self.0.fetch::<Row>(sql, params).await.map_err(failed)?;
        let read = |found: &Row| decode("a message", &found.row).map_err(failed);
        rows.iter().map(read).collect()
    }
}

impl MessageStore for Messages {
    async fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        match self.0.write_messages(batch).await {
            Ok(()) => Ok(()),
            Err(JournalError::Fenced(why)) => Err(match self.0.stale(batch).await.map_err(failed)? {
                Some(key) => StoreError::Conflict(key),
                None => StoreError::Failed(why),
            }),
            Err(error) => Err(failed(error)),
        }
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let live = "SELECT row, number FROM message WHERE live = true ORDER BY number";
        let rows = self.0.fetch::<Row>(live, Object::new()).await.map_err(failed)?;
        let read = |found: &Row| decode("a message", &found.row).map_err(failed);
        let mut loaded = Loaded {
            records: rows.iter().map(read).collect::<Result<_, _>>()?,
            senders: self.0.read_senders().await.map_err(failed)?,
            head: self.0.read_message_head().await.map_err(failed)?,
            last_number: 0,
        };
        let last = self.newest(1).await?;
        loaded.last_number = last.first().map_or(0, |record| record.number);
        Ok(loaded)
    }

    async fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.0.read_message(key).await.map_err(failed)
    }
}
