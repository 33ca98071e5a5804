//! What the rest of the program has of a messager: it submits, asks and repairs. Cheap to clone.

use tokio::sync::{mpsc, oneshot, watch};

use crate::types::{Address, ChainEpoch};

use super::plan::PlanError;
use super::record::{Intent, Key, Record, SenderRow};
use super::store::StoreError;

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessagerError {
    /// It cannot be done now; nothing was changed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Whether it was done is in the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The messager has ended. Whether the request took effect is in the store.
    #[error("the messager is stopping; ask again after it has started")]
    Stopped,
}

/// What people ask for beside new messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Give it up, if it has no nonce yet.
    Cancel {
        /// The intent.
        key: Key,
        /// Why.
        reason: String,
    },
    /// Pay more now.
    Replace(Key),
    /// Give it a new nonce after somebody else used its own, this many epochs ago at least.
    Recover {
        /// The intent.
        key: Key,
        /// The finality of the network.
        finality: ChainEpoch,
    },
    /// Let a sender send, or not.
    Forbid {
        /// The sender, by its key address.
        address: Address,
        /// Whether it may not.
        forbidden: bool,
    },
}

pub(super) enum Request {
    Submit(Box<Intent>, oneshot::Sender<Result<Record, MessagerError>>),
    Record(Key, oneshot::Sender<Result<Option<Record>, MessagerError>>),
    Live(oneshot::Sender<Status>),
    Repair(Repair, oneshot::Sender<Result<(), MessagerError>>),
}

/// What a messager has under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Live intents, in the order of submission.
    pub records: Vec<Record>,
    /// Senders.
    pub senders: Vec<SenderRow>,
    /// The height up to which the chain was read.
    pub height: Option<ChainEpoch>,
    /// What went wrong last, if it still does.
    pub trouble: Option<String>,
}

/// A messager, from outside.
#[derive(Debug, Clone)]
pub struct Messager {
    requests: mpsc::Sender<Request>,
    changes: watch::Receiver<u64>,
}

impl Messager {
    pub(super) fn new(requests: mpsc::Sender<Request>, changes: watch::Receiver<u64>) -> Self {
        Self { requests, changes }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, MessagerError> {
        let (to, answer) = oneshot::channel();
        let sent = self.requests.send(request(to)).await;
        sent.map_err(|_| MessagerError::Stopped)?;
        answer.await.map_err(|_| MessagerError::Stopped)
    }

    /// Takes an intent: when this returns it is durable, and will be sent once. Submitted again it is the same one.
    ///
    /// # Errors
    /// The key belongs to another intent, or the store does not work.
    pub async fn submit(&self, intent: Intent) -> Result<Record, MessagerError> {
        self.ask(|to| Request::Submit(Box::new(intent), to)).await?
    }

    /// What became of an intent; nothing if there never was one of this key.
    ///
    /// # Errors
    /// The store does not work.
    pub async fn record(&self, key: Key) -> Result<Option<Record>, MessagerError> {
        self.ask(|to| Request::Record(key, to)).await?
    }

    /// What is under way.
    ///
    /// # Errors
    /// The messager has ended.
    pub async fn status(&self) -> Result<Status, MessagerError> {
        self.ask(Request::Live).await
    }

    /// Does what a person asks for.
    ///
    /// # Errors
    /// It cannot be done now.
    pub async fn repair(&self, repair: Repair) -> Result<(), MessagerError> {
        self.ask(|to| Request::Repair(repair, to)).await?
    }

    /// Wakes whenever an intent changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Waits until an intent has an end or, with `landed`, is on the chain.
    ///
    /// # Errors
    /// There is no such intent, or the messager has ended.
    pub async fn wait(&self, key: &Key, landed: bool) -> Result<Record, MessagerError> {
        let mut changes = self.changes();
        loop {
            // Changes from here on wake.
            changes.mark_unchanged();
            let found = self.record(key.clone()).await?;
            let record = found.ok_or_else(|| PlanError::Unknown(key.clone()))?;
            if !record.is_live() || (landed && record.landing().is_some()) {
                return Ok(record);
            }
            changes.changed().await.map_err(|_| MessagerError::Stopped)?;
        }
    }
}
