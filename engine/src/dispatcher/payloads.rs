//! Outputs that are too large for the journal: made durable before the event that names them, and read
//! again for the steps that take them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::event::Output;
use crate::journal::{Journal, JournalError};
use crate::run::InputValue;

/// Fields of at most this many bytes stay known to the journal, so that expressions can see them.
const KNOWN_LIMIT: usize = 256;
/// Files kept in memory: the items of a fan-out all read the same one.
const KEPT: usize = 4;

/// Files that were read last, by their hash.
type Kept = VecDeque<(String, Arc<Value>)>;

/// The payload files of a journal.
#[derive(Clone)]
pub(super) struct Payloads {
    journal: Arc<dyn Journal>,
    kept: Arc<Mutex<Kept>>,
}

impl Payloads {
    pub(super) fn new(journal: Arc<dyn Journal>) -> Self {
        Self {
            journal,
            kept: Arc::default(),
        }
    }

    /// Stores an output, given as its value and its text.
    pub(super) async fn put(&self, value: Value, text: Vec<u8>) -> Result<Output, JournalError> {
        let sha256 = self.journal.put_payload(&text).await?;
        let mut artifacts = Map::new();
        let mut known = Map::new();
        let mut lengths = BTreeMap::new();
        if let Value::Object(fields) = value {
            for (name, value) in fields {
                if let Value::Array(items) = &value {
                    lengths.insert(name.clone(), items.len() as u64);
                }
                // Null says that the step did away with an artifact.
                let is_artifact =
                    value.is_null() || value.get("store").is_some() && value.get("key").is_some();
                if is_artifact {
                    artifacts.insert(name, value);
                } else if value.to_string().len() <= KNOWN_LIMIT {
                    known.insert(name, value);
                }
            }
        }
        Ok(Output::Payload {
            sha256,
            bytes: text.len() as u64,
            artifacts: Value::Object(artifacts),
            known: if known.is_empty() {
                Value::Null
            } else {
                Value::Object(known)
            },
            lengths,
        })
    }

    /// The values of an input; fields that are absent are left out.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub(super) async fn fill(
        &self,
        input: BTreeMap<String, InputValue>,
    ) -> Result<Map<String, Value>, String> {
        let mut values = Map::new();
        for (name, value) in input {
            let value = Box::pin(self.value(value)).await?;
            if !value.is_null() {
                values.insert(name, value);
            }
        }
        Ok(values)
    }

    async fn value(&self, value: InputValue) -> Result<Value, String> {
        match value {
            InputValue::Value(value) => Ok(value),
            InputValue::Payload { sha256, pointer } => {
                let file = self.read(&sha256).await?;
                Ok(file.pointer(&pointer).cloned().unwrap_or(Value::Null))
            }
            InputValue::List(items) => {
                let mut values = Vec::with_capacity(items.len());
                for item in items {
                    values.push(Box::pin(self.value(item)).await?);
                }
                Ok(Value::Array(values))
            }
            InputValue::Fields(fields) => Ok(Value::Object(Box::pin(self.fill(fields)).await?)),
        }
    }

    async fn read(&self, sha256: &str) -> Result<Arc<Value>, String> {
        let kept = |kept: &Kept| {
            let found = kept.iter().find(|(name, _)| name == sha256);
            found.map(|(_, file)| file.clone())
        };
        if let Some(file) = kept(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(file);
        }
        let bytes = self
            .journal
            .payload(sha256)
            .await
            .map_err(|error| error.to_string())?;
        let file: Arc<Value> = Arc::new(serde_json::from_slice(&bytes).map_err(|error| error.to_string())?);
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        all.push_back((sha256.to_owned(), file.clone()));
        if all.len() > KEPT {
            all.pop_front();
        }
        Ok(file)
    }
}
