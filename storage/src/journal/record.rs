//! Between the engine's types and records: ids, ranges, and JSON in text fields. Text is never dearer to
//! write than nested objects (docs/storage.md), and reads back exactly.

use std::ops::Bound;

use sealflow_engine::id::RunId;
use sealflow_engine::journal::JournalError;
use sealflow_engine::rows::StepRow;
use sealflow_engine::run::Discarding;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use surrealdb::types::{Array, Object, RecordId, RecordIdKey, RecordIdKeyRange, SurrealValue, Value};

use super::error::corrupt;

/// The rows that a transition changed, as they are after it: the second text field of an entry.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Changes {
    /// The steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) steps: Vec<StepRow>,
    /// All superseded attempts of the run that have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) discarding: Vec<Discarding>,
    /// The steps have other places than before: rows of earlier entries count no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) renumbered: bool,
}

/// The fields of a record, or the parameters of a query.
pub(super) fn object<const N: usize>(fields: [(&str, Value); N]) -> Object {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A list of records.
pub(super) fn list(records: Vec<Value>) -> Value {
    Value::Array(Array::from(records))
}

/// A text.
pub(super) fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// A number that fits the store.
pub(super) fn number(n: u64) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into_value()
}

fn array(parts: Vec<Value>) -> RecordIdKey {
    RecordIdKey::Array(Array::from(parts))
}

/// An id of several parts.
pub(super) fn id(table: &str, parts: Vec<Value>) -> Value {
    RecordId::new(table, array(parts)).into_value()
}

/// `entry:[run, seq]`.
pub(super) fn entry_id(run: &RunId, seq: u64) -> Value {
    id("entry", vec![text(run.as_str()), number(seq)])
}

/// The id of a record that a run has one of.
pub(super) fn of_run(table: &str, run: &RunId) -> Value {
    id(table, vec![text(run.as_str())])
}

/// `site:[seq]`.
pub(super) fn site_id(seq: u64) -> Value {
    id("site", vec![number(seq)])
}

/// Entries of the installation, from one number to another, both included.
pub(super) fn site_between(first: u64, last: u64) -> Value {
    let (start, end) = (array(vec![number(first)]), array(vec![number(last)]));
    range("site", Bound::Included(start), Bound::Included(end))
}

/// The entries of a run from number `from` on.
pub(super) fn entries_from(run: &RunId, from: u64) -> Value {
    let start = array(vec![text(run.as_str()), number(from)]);
    let end = array(vec![text(run.as_str()), number(u64::MAX)]);
    range("entry", Bound::Included(start), Bound::Included(end))
}

/// At most `limit` entries of a run from number `from` on. Numbers are dense, so the end is known: a
/// range with a `LIMIT` would be read whole.
pub(super) fn entries_between(run: &RunId, from: u64, limit: u64) -> Value {
    let from = from.max(1);
    let start = array(vec![text(run.as_str()), number(from)]);
    let end = array(vec![text(run.as_str()), number(from.saturating_add(limit))]);
    range("entry", Bound::Included(start), Bound::Excluded(end))
}

/// All entries of these runs and of those between them.
pub(super) fn entries_of_all(first: &RunId, last: &RunId) -> Value {
    let start = array(vec![text(first.as_str())]);
    let end = array(vec![text(last.as_str()), number(u64::MAX)]);
    range("entry", Bound::Included(start), Bound::Included(end))
}

/// The run of an entry's id.
pub(super) fn run_of(id: &RecordId) -> Option<&str> {
    match &id.key {
        RecordIdKey::Array(parts) => match parts.first() {
            Some(Value::String(run)) => Some(run),
            _ => None,
        },
        _ => None,
    }
}

/// The artifacts of a subject: every id that begins with it.
pub(super) fn artifacts_of(subject: &str) -> Value {
    let start = array(vec![text(subject)]);
    // Arrays are ordered part by part, and a text is less than any array.
    let end = array(vec![text(subject), list(Vec::new())]);
    range("artifact", Bound::Included(start), Bound::Excluded(end))
}

fn range(table: &str, start: Bound<RecordIdKey>, end: Bound<RecordIdKey>) -> Value {
    RecordId::new(
        table,
        RecordIdKey::Range(Box::new(RecordIdKeyRange { start, end })),
    )
    .into_value()
}

/// Encodes what the engine gave us.
pub(super) fn encode<T: Serialize>(what: &str, value: &T) -> Result<Value, JournalError> {
    let json = serde_json::to_string(value);
    json.map(Value::String)
        .map_err(|error| corrupt(format!("{what} cannot be encoded: {error}")))
}

/// Decodes what the store has.
pub(super) fn decode<T: DeserializeOwned>(
    what: impl std::fmt::Display,
    json: &str,
) -> Result<T, JournalError> {
    serde_json::from_str(json).map_err(|error| corrupt(format!("{what} cannot be read: {error}")))
}
