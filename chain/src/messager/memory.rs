//! A store in memory, for a devnet and for tests. It obeys the law of stores.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::types::Address;

use super::record::{Batch, Head, Key, Record, SenderRow};
use super::store::{Loaded, MessageStore, StoreError};

/// A store that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    records: BTreeMap<Key, Record>,
    senders: BTreeMap<Address, SenderRow>,
    head: Option<Head>,
}

impl MessageStore for MemoryStore {
    async fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for record in &batch.records {
            let stored = rows
                .records
                .get(&record.intent.key)
                .map_or(0, |stored| stored.revision);
            if record.revision != stored + 1 {
                return Err(StoreError::Conflict(record.intent.key.clone()));
            }
        }
        for record in &batch.records {
            rows.records.insert(record.intent.key.clone(), record.clone());
        }
        for sender in &batch.senders {
            rows.senders.insert(sender.address, sender.clone());
        }
        if let Some(head) = &batch.head {
            rows.head = Some(head.clone());
        }
        Ok(())
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let mut records: Vec<Record> = rows
            .records
            .values()
            .filter(|record| record.is_live())
            .cloned()
            .collect();
        records.sort_by_key(|record| record.number);
        Ok(Loaded {
            records,
            senders: rows.senders.values().cloned().collect(),
            head: rows.head.clone(),
            last_number: rows
                .records
                .values()
                .map(|record| record.number)
                .max()
                .unwrap_or(0),
        })
    }

    async fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(rows.records.get(key).cloned())
    }
}
