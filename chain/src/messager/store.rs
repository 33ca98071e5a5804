//! What the messager needs of a store, and the suite that every store passes.

use super::record::{Batch, Head, Intent, Key, Record, SenderRow, State};
use crate::types::{Address, RawBytes, TokenAmount};

/// Why a batch is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process changed a record, or it was created before: this one must start again.
    #[error("the record `{0}` is not the one that was changed; another messager works on this store")]
    Conflict(Key),
    /// The store does not work. Whether the batch is there is not known.
    #[error("the message store failed: {0}")]
    Failed(String),
}

/// All that a messager needs to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Records that are live.
    pub records: Vec<Record>,
    /// All senders.
    pub senders: Vec<SenderRow>,
    /// The head.
    pub head: Option<Head>,
    /// The highest number of any record.
    pub last_number: u64,
}

/// A durable store of intents. One messager works on it at a time.
pub trait MessageStore: Send + Sync {
    /// Stores a batch, whole or not at all, durably when this returns. A record is taken only if its revision is
    /// the one after the stored one (the first is 1).
    ///
    /// # Errors
    /// A revision does not fit, or the store does not work.
    fn commit(&self, batch: &Batch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// All that a messager needs to go on.
    ///
    /// # Errors
    /// The store does not work.
    fn load(&self) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// A record, live or not. Keys are never forgotten.
    ///
    /// # Errors
    /// The store does not work.
    fn record(&self, key: &Key) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send;
}

/// The suite for stores: an implementation calls it with an empty store. It panics where the store is wrong.
pub async fn conformance(store: &impl MessageStore) {
    let loaded = store.load().await.expect("an empty store loads");
    assert_eq!(loaded, Loaded::default(), "the store is not empty");
    let first = sample("one", 1);
    let second = sample("two", 2);
    let sender = SenderRow {
        address: first.intent.from,
        next_nonce: 7,
        forbidden: false,
    };
    let batch = Batch {
        records: vec![first.clone(), second.clone()],
        senders: vec![sender.clone()],
        head: None,
    };
    store.commit(&batch).await.expect("a batch is stored");
    let loaded = store.load().await.expect("the store loads");
    assert_eq!(
        loaded.records,
        [first.clone(), second.clone()],
        "records, in their order"
    );
    assert_eq!((loaded.senders, loaded.last_number), (vec![sender.clone()], 2));

    // A key is created once.
    let again = Batch {
        records: vec![sample("three", 3), first.clone()],
        ..Batch::default()
    };
    let refused = store.commit(&again).await;
    assert_eq!(refused, Err(StoreError::Conflict(first.intent.key.clone())));
    let third = store
        .record(&sample("three", 3).intent.key)
        .await
        .expect("it reads");
    assert_eq!(third, None, "a batch is stored whole or not at all");

    // A change builds on the stored revision.
    let failed = State::Failed {
        code: "expired".into(),
        reason: "it is too late".into(),
    };
    let mut skipped = first.to(failed.clone());
    skipped.revision += 1;
    let skipping = Batch {
        records: vec![skipped],
        senders: vec![SenderRow {
            next_nonce: 99,
            ..sender.clone()
        }],
        ..Batch::default()
    };
    assert!(matches!(
        store.commit(&skipping).await,
        Err(StoreError::Conflict(_))
    ));
    let ended = first.to(failed);
    let ending = Batch {
        records: vec![ended.clone()],
        senders: vec![SenderRow {
            next_nonce: 8,
            ..sender.clone()
        }],
        head: None,
    };
    store.commit(&ending).await.expect("a change is stored");
    let loaded = store.load().await.expect("the store loads");
    assert_eq!(loaded.records, [second], "ended records are not loaded");
    assert_eq!(loaded.senders[0].next_nonce, 8);
    assert_eq!(loaded.last_number, 2, "numbers are not given twice");
    let found = store.record(&ended.intent.key).await.expect("it reads");
    assert_eq!(found, Some(ended), "but their keys are known");
}

/// A record for the suite.
fn sample(key: &str, number: u64) -> Record {
    Record {
        intent: Intent {
            key: Key::try_from(key.to_owned()).expect("a key"),
            from: Address::new_id(100),
            to: Address::new_id(1000),
            value: TokenAmount::from_atto(number),
            method: 28,
            params: RawBytes::new(vec![0x81, 0x80]),
            fees: Default::default(),
            expires: Some(9),
        },
        number,
        revision: 1,
        state: State::Queued,
        nonce: None,
        versions: Vec::new(),
        note: String::new(),
    }
}
