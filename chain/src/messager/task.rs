//! The messager at work: one task that owns the state machine, makes its batches durable, and only then lets anything
//! leave the process. Whatever fails is tried again: what is to be done follows from the state.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, FailureClass, bounded};
use crate::message::{Gas, SignedMessage};
use crate::node::{Client, FollowConfig, HeadEvent, HeadFollower, NodeError, TipSet};
use crate::types::{Address, Cid, Message};
use crate::wallet::{Wallet, WalletError};

use super::core::Core;
use super::handle::{Messager, MessagerError, Repair, Request, Status};
use super::observe::Seen;
use super::plan::{Account, MessagerConfig, PlanError, Prepare, Submitted};
use super::record::{Batch, Head, Key, Record};
use super::store::{MessageStore, StoreError};

/// Requests that wait.
const REQUESTS: usize = 256;

/// How long to wait before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(3);

/// The most messages that one round sends for one sender, so that heads are heard between.
const ROUND: usize = 64;

/// Signs messages.
pub trait Signer: Send + Sync + 'static {
    /// Signs a message that it understands and may sign.
    ///
    /// # Errors
    /// The key is not here or locked, or the policy forbids it.
    fn sign(&self, message: &Message) -> Result<SignedMessage, WalletError>;
}

impl Signer for Wallet {
    fn sign(&self, message: &Message) -> Result<SignedMessage, WalletError> {
        Self::sign(self, message)
    }
}

/// A messager that runs.
#[derive(Debug)]
pub struct Running {
    /// What others use.
    pub messager: Messager,
    /// Ends with an error only when the store fails: then the process must start again from what is stored.
    pub task: JoinHandle<Result<(), StoreError>>,
}

/// Starts a messager on what its store has. It ends when `shutdown` is cancelled.
///
/// # Errors
/// The store cannot be read.
pub async fn start<S: MessageStore + 'static>(
    config: MessagerConfig,
    follow: FollowConfig,
    store: S,
    client: Arc<Client>,
    signer: Arc<dyn Signer>,
    shutdown: CancellationToken,
) -> Result<Running, StoreError> {
    let core = Core::new(config, store.load().await?);
    let (to, requests) = mpsc::channel(REQUESTS);
    let (changed, changes) = watch::channel(0);
    let work = Work {
        core,
        store,
        client,
        signer,
        follow,
        events: VecDeque::new(),
        changed,
        trouble: None,
    };
    Ok(Running {
        messager: Messager::new(to, changes),
        task: tokio::spawn(work.run(requests, shutdown)),
    })
}

struct Work<S> {
    core: Core,
    store: S,
    client: Arc<Client>,
    signer: Arc<dyn Signer>,
    follow: FollowConfig,
    /// Changes of the head that were not taken yet.
    events: VecDeque<HeadEvent>,
    changed: watch::Sender<u64>,
    trouble: Option<String>,
}

/// Why a round ended early.
enum Stop {
    /// The store: the end of the task.
    Store(StoreError),
    /// A node: it is tried again.
    Node(NodeError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<NodeError> for Stop {
    fn from(error: NodeError) -> Self {
        Self::Node(error)
    }
}

impl<S: MessageStore> Work<S> {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        shutdown: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut follower: Option<HeadFollower> = None;
        // Whether something may be to do. Questions alone bring nothing.
        let mut due = true;
        let mut open = true;
        loop {
            if follower.is_none() {
                follower = self.follower().await;
            }
            if std::mem::take(&mut due) {
                match self.round().await {
                    Ok(()) => self.trouble = None,
                    Err(Stop::Store(error)) => return Err(error),
                    Err(Stop::Node(error)) => {
                        tracing::warn!(%error, "messages wait");
                        self.trouble = Some(bounded(&error.to_string()));
                    }
                }
            }
            let again = self.trouble.is_some() || follower.is_none();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                request = requests.recv(), if open => match request {
                    Some(request) => {
                        due |= self.answer(request).await?;
                        while let Ok(request) = requests.try_recv() {
                            due |= self.answer(request).await?;
                        }
                    }
                    // Nobody can ask any more; what was taken is still sent.
                    None => open = false,
                },
                event = next(&mut follower) => {
                    self.events.extend(event);
                    due = true;
                }
                () = tokio::time::sleep(AGAIN), if again => due = true,
            }
        }
    }

    /// Follows the chain from the head that is stored. Nothing while no node answers.
    async fn follower(&mut self) -> Option<HeadFollower> {
        let mut config = self.follow.clone();
        if let Some(head) = self.core.head() {
            match self.client.tipset(&head.key).await {
                Ok(tipset) => config.known = Some(tipset),
                // The node has forgotten it: what came meanwhile is not known.
                Err(error) if error.app().is_some() => {}
                Err(error) => {
                    self.trouble = Some(bounded(&error.to_string()));
                    return None;
                }
            }
        }
        Some(HeadFollower::start(self.client.clone(), config))
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.store.commit(&batch).await?;
        self.core.apply(&batch);
        if !batch.records.is_empty() {
            self.changed.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// The chain first, then what is to be done.
    async fn round(&mut self) -> Result<(), Stop> {
        while let Some(event) = self.events.front().cloned() {
            let head = event.head().cloned();
            match (self.take(event).await, head) {
                // The node has thrown away what lies between: all that is not final is looked for again.
                (Err(Stop::Node(error)), Some(head)) if error.app().is_some() => {
                    tracing::warn!(%error, "a change of the head cannot be followed step by step");
                    let batch = self.core.lost(&Head::from(&head));
                    self.commit(batch).await?;
                }
                (taken, _) => taken?,
            }
            self.events.pop_front();
        }
        let Some(head) = self.core.head().cloned() else {
            return Ok(());
        };
        self.accounts(&head).await?;
        self.search().await?;
        self.send(&head).await?;
        self.replace(&head).await?;
        self.push().await;
        Ok(())
    }

    /// Takes a change of the head. Done again after a failure it goes on where it was.
    async fn take(&mut self, event: HeadEvent) -> Result<(), Stop> {
        match event {
            HeadEvent::Lost { head } => {
                let batch = self.core.lost(&Head::from(&head));
                Ok(self.commit(batch).await?)
            }
            HeadEvent::Changed { reverted, applied } => {
                for (at, tipset) in reverted.iter().enumerate() {
                    if self.core.head() != Some(&Head::from(tipset)) {
                        continue;
                    }
                    let below = match reverted.get(at + 1) {
                        Some(below) => Head::from(below),
                        None => Head::from(&self.client.tipset(tipset.parents()).await?),
                    };
                    let batch = self.core.reverted(&Head::from(tipset), &below);
                    self.commit(batch).await?;
                }
                for tipset in &applied {
                    self.applied(tipset).await?;
                }
                Ok(())
            }
        }
    }

    async fn applied(&mut self, tipset: &TipSet) -> Result<(), Stop> {
        let head = Head::from(tipset);
        let follows = self
            .core
            .head()
            .is_some_and(|known| known.key == *tipset.parents());
        if !follows {
            if self.core.head().is_some_and(|known| known.height >= head.height) {
                // Taken before the failure that made us come again.
                return Ok(());
            }
            // The first head, or one behind a gap: what is not final is searched for.
            let batch = self.core.lost(&head);
            return Ok(self.commit(batch).await?);
        }
        let seen = self.seen(tipset).await?;
        let batch = self.core.applied(&head, &seen);
        Ok(self.commit(batch).await?)
    }

    /// The messages that a tipset shows: those of its parents, with receipts.
    async fn seen(&self, tipset: &TipSet) -> Result<Vec<Seen>, NodeError> {
        let Some(block) = tipset.key.0.first() else {
            return Ok(Vec::new());
        };
        let messages = self.client.parent_messages(block).await?;
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let receipts = self.client.parent_receipts(block).await?;
        if receipts.len() != messages.len() {
            return Err(NodeError::Malformed {
                node: "the node".to_owned(),
                method: "ChainGetParentReceipts",
                reason: format!("{} receipts of {} messages", receipts.len(), messages.len()),
            });
        }
        let seen = messages.into_iter().zip(receipts).map(|(shown, receipt)| Seen {
            from: shown.message.from,
            nonce: shown.message.nonce,
            cid: shown.cid,
            receipt,
        });
        Ok(seen.collect())
    }

    /// What the chain says of senders at the head, and gaps before what is on its way.
    async fn accounts(&mut self, head: &Head) -> Result<(), Stop> {
        let tipset = self.client.tipset(&head.key).await?;
        self.core.saw_base_fee(tipset.base_fee().clone());
        for sender in self.core.senders() {
            if self.core.knows(&sender) {
                continue;
            }
            let actor = self.client.actor(&sender, &head.key).await?;
            let account = Account {
                nonce: actor.map_or(0, |actor| actor.nonce),
                at: head.key.clone(),
            };
            if let Some(batch) = self.core.saw_account(sender, &account) {
                self.commit(batch).await?;
            }
            if let Some(intent) = self.core.filler(&sender)
                && let Ok(Submitted::New(batch)) = self.core.submit(intent, None)
            {
                self.commit(batch).await?;
            }
        }
        Ok(())
    }

    /// Looks for messages whose nonce was used where we did not see it.
    async fn search(&mut self) -> Result<(), Stop> {
        let lost: Vec<(Address, u64, Cid)> = self
            .core
            .to_search()
            .into_iter()
            .filter_map(|record| Some((record.intent.from, record.nonce?, record.versions.last()?.cid)))
            .collect();
        for (from, nonce, cid) in lost {
            let Some(found) = self.client.search_message(&cid).await? else {
                continue;
            };
            let seen = Seen {
                from,
                nonce,
                cid: found.message,
                receipt: found.receipt,
            };
            let at = Head {
                key: found.tip_set,
                height: found.height,
            };
            if let Some(batch) = self.core.found(&seen, &at) {
                self.commit(batch).await?;
            }
        }
        Ok(())
    }

    /// Gives nonces, one after the other, and pushes each as soon as it is kept.
    async fn send(&mut self, head: &Head) -> Result<(), Stop> {
        for _ in 0..ROUND {
            let next = self.core.next();
            if next.is_empty() {
                return Ok(());
            }
            for prepare in next {
                let batch = match self.signed(&prepare, head).await? {
                    Ok(signed) => self.core.assign(&prepare.key, &signed),
                    Err(failure) => self.core.refuse(&prepare.key, &failure),
                };
                match batch {
                    Ok(batch) => self.commit(batch).await?,
                    Err(error) => tracing::warn!(%error, "a message is not sent now"),
                }
            }
        }
        Ok(())
    }

    async fn replace(&mut self, head: &Head) -> Result<(), Stop> {
        for prepare in self.core.to_replace() {
            self.replace_one(&prepare, head).await?;
        }
        Ok(())
    }

    async fn replace_one(&mut self, prepare: &Prepare, head: &Head) -> Result<(), Stop> {
        match self.signed(prepare, head).await? {
            Ok(signed) => match self.core.replace(prepare, &signed) {
                Ok(batch) => Ok(self.commit(batch).await?),
                Err(error) => {
                    tracing::warn!(%error, "a message is not replaced now");
                    Ok(())
                }
            },
            Err(failure) => {
                tracing::warn!(key = %prepare.key, %failure, "a message is not replaced now");
                Ok(())
            }
        }
    }

    /// Estimates and signs. A node that does not work is no refusal.
    async fn signed(
        &self,
        prepare: &Prepare,
        head: &Head,
    ) -> Result<Result<SignedMessage, Failure>, NodeError> {
        let estimated = self
            .client
            .estimate_gas(&prepare.message, &prepare.fees.max_fee, &head.key)
            .await;
        let estimated = match estimated {
            Ok(message) => Gas::of(&message),
            Err(error) if error.is_node_trouble() => return Err(error),
            Err(error) => return Ok(Err(error.failure())),
        };
        let message = match prepare.with_gas(&estimated) {
            Ok(message) => message,
            Err(error) => return Ok(Err(waits("fee_too_high", &error.to_string()))),
        };
        Ok(self.signer.sign(&message).map_err(|error| unsigned(&error)))
    }

    /// Pushes whatever has not landed. What nodes say is only told: the chain decides.
    async fn push(&self) {
        for (key, version) in self.core.to_push() {
            let signed = match version.signed() {
                Ok(signed) => signed,
                Err(error) => {
                    tracing::error!(%key, %error, "a stored message cannot be read");
                    continue;
                }
            };
            if let Err(error) = self.client.push(&signed).await {
                tracing::debug!(%key, %error, "a push");
            }
        }
    }

    /// Answers, and says whether something may be to do now.
    async fn answer(&mut self, request: Request) -> Result<bool, StoreError> {
        // Whoever asked may be gone.
        match request {
            Request::Submit(intent, to) => {
                let stored = self.store.record(&intent.key).await;
                let submitted = stored
                    .map_err(MessagerError::from)
                    .and_then(|stored| Ok(self.core.submit(*intent, stored)?));
                match submitted {
                    Ok(Submitted::Known(record)) => drop(to.send(Ok(*record))),
                    Ok(Submitted::New(batch)) => {
                        let record = batch.records.first().cloned();
                        self.commit(batch).await?;
                        if let Some(record) = record {
                            drop(to.send(Ok(record)));
                        }
                        return Ok(true);
                    }
                    Err(error) => drop(to.send(Err(error))),
                }
            }
            Request::Record(key, to) => drop(to.send(self.record(&key).await)),
            Request::Live(to) => {
                let mut records: Vec<Record> =
                    self.core.records().map(|record| self.core.told(record)).collect();
                records.sort_by_key(|record| record.number);
                drop(to.send(Status {
                    records,
                    senders: self.core.sender_rows().cloned().collect(),
                    height: self.core.head().map(|head| head.height),
                    trouble: self.trouble.clone(),
                }));
            }
            Request::Repair(repair, to) => {
                self.repair(repair, to).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn record(&self, key: &Key) -> Result<Option<Record>, MessagerError> {
        let live = self.core.records().find(|record| record.intent.key == *key);
        match live {
            Some(record) => Ok(Some(self.core.told(record))),
            None => Ok(self.store.record(key).await?),
        }
    }

    async fn repair(
        &mut self,
        repair: Repair,
        to: oneshot::Sender<Result<(), MessagerError>>,
    ) -> Result<(), StoreError> {
        let batch = match repair {
            Repair::Cancel { key, reason } => self.core.cancel(&key, &reason),
            Repair::Recover { key, finality } => self.core.recover(&key, finality),
            Repair::Forbid { address, forbidden } => Ok(self.core.forbid(address, forbidden)),
            Repair::Replace(key) => {
                let head = self.core.head().cloned();
                match (self.core.replace_now(&key), head) {
                    (Ok(prepare), Some(head)) => match self.signed(&prepare, &head).await {
                        Ok(Ok(signed)) => self.core.replace(&prepare, &signed),
                        Ok(Err(failure)) => Err(not_now(key, failure.to_string())),
                        Err(error) => Err(not_now(key, error.to_string())),
                    },
                    (Err(error), _) => Err(error),
                    (Ok(_), None) => Err(not_now(key, "no node was reached yet".to_owned())),
                }
            }
        };
        let done = match batch {
            Ok(batch) => {
                self.commit(batch).await?;
                Ok(())
            }
            Err(error) => Err(MessagerError::from(error)),
        };
        drop(to.send(done));
        Ok(())
    }
}

/// The next change of the head; waits for ever where nothing follows.
async fn next(follower: &mut Option<HeadFollower>) -> Option<HeadEvent> {
    match follower {
        Some(live) => {
            let event = live.next().await;
            if event.is_none() {
                // Its task broke: another begins from the stored head.
                *follower = None;
            }
            event
        }
        None => std::future::pending().await,
    }
}

fn not_now(key: Key, reason: String) -> PlanError {
    PlanError::NotNow { key, reason }
}

fn waits(code: &'static str, message: &str) -> Failure {
    Failure {
        class: FailureClass::Transient,
        code,
        message: bounded(message),
    }
}

/// What it means that a message was not signed: a locked key waits for a person, a refusal is the end.
fn unsigned(error: &WalletError) -> Failure {
    let (class, code) = match error {
        WalletError::Locked { .. } => (FailureClass::Transient, "wallet_locked"),
        WalletError::NoKey { .. } => (FailureClass::Transient, "no_key"),
        WalletError::Denied(_) => (FailureClass::Permanent, "signing_denied"),
        WalletError::NotUnderstood(_) | WalletError::NotWellFormed(_) => {
            (FailureClass::Permanent, "not_understood")
        }
        _ => (FailureClass::Transient, "wallet_failed"),
    };
    Failure {
        class,
        code,
        message: bounded(&error.to_string()),
    }
}
