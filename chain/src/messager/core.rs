//! The state machine: what may be sent next, and the batches that say so. It plans; the caller commits, and then
//! applies.

use std::collections::BTreeMap;

use crate::failure::{Failure, FailureClass};
use crate::message::{self, Gas, GasError, SignedMessage};
use crate::node::TipSetKey;
use crate::params::Call;
use crate::types::{Address, ChainEpoch, Message, TokenAmount, Zero};

use super::fees::{FeeBook, FeePolicy, Fees};
use super::record::{Batch, Head, Intent, Key, Record, SenderRow, State, Version};
use super::store::Loaded;

/// How the messager works.
#[derive(Debug, Clone)]
pub struct MessagerConfig {
    /// How many messages of a sender may be on their way at once.
    pub in_flight: usize,
    /// How many epochs deep a message must be to be final.
    pub confidence: ChainEpoch,
    /// How many versions a message may get.
    pub versions: usize,
    /// How many epochs a refused intent waits before it is tried again.
    pub rest: ChainEpoch,
    /// What messages may cost.
    pub fees: FeeBook,
}

impl Default for MessagerConfig {
    fn default() -> Self {
        Self {
            in_flight: 20,
            confidence: 10,
            versions: 16,
            rest: 2,
            fees: FeeBook::default(),
        }
    }
}

/// What a submission is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// The intent is new; it counts once the batch is committed and applied.
    New(Batch),
    /// It was submitted before.
    Known(Box<Record>),
}

/// Why something cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The key belongs to another intent.
    #[error("the key `{0}` was used for another message; a key means one message for ever")]
    KeyReused(Key),
    /// There is no such live intent.
    #[error("there is no open message `{0}`")]
    Unknown(Key),
    /// The intent is in a state that does not allow it.
    #[error("the message `{key}` cannot be {verb}: it is {state}")]
    State {
        /// The intent.
        key: Key,
        /// What was asked.
        verb: &'static str,
        /// Where it is.
        state: &'static str,
    },
    /// What was signed is not what was to be signed.
    #[error("what was signed for `{key}` is not that message: {reason}")]
    NotTheMessage {
        /// The intent.
        key: Key,
        /// How it differs.
        reason: String,
    },
    /// A replacement would cost too much.
    #[error(transparent)]
    Fee(#[from] GasError),
}

/// What the chain says of a sender at a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The nonce of its next message.
    pub nonce: u64,
    /// The head whose state was read. It must be the one that the core has: then the nonce fits exactly to the
    /// messages that were shown.
    pub at: TipSetKey,
}

/// A message that is to be estimated and signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// The intent.
    pub key: Key,
    /// The message, with nonce and without gas.
    pub message: Message,
    /// What it may cost.
    pub fees: Fees,
    /// Whether it does nothing, in the place of the intent.
    pub cancel: bool,
    /// Gas of the version whose place it takes.
    pub replaces: Option<Gas>,
}

impl Prepare {
    /// The message with gas fields that follow from a node's estimate.
    ///
    /// # Errors
    /// It would take another's place and may not cost enough.
    pub fn with_gas(&self, estimated: &Gas) -> Result<Message, GasError> {
        let gas = self.fees.gas(estimated);
        let gas = match &self.replaces {
            Some(old) => old.replacement(&gas, &self.fees.max_fee)?,
            None => gas,
        };
        let mut message = self.message.clone();
        gas.put(&mut message);
        Ok(message)
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    pub(super) config: MessagerConfig,
    pub(super) records: BTreeMap<Key, Record>,
    pub(super) senders: BTreeMap<Address, SenderRow>,
    pub(super) head: Option<Head>,
    last_number: u64,
    /// What the chain says at the head; read again after every head and every start.
    accounts: BTreeMap<Address, u64>,
    base_fee: TokenAmount,
    /// Refused intents, until when they rest. Lost in a restart, after which they are tried at once.
    rests: BTreeMap<Key, ChainEpoch>,
}

impl Core {
    /// Goes on from what a store holds.
    pub fn new(config: MessagerConfig, loaded: Loaded) -> Self {
        let records = loaded.records.into_iter();
        let senders = loaded.senders.into_iter();
        Self {
            config,
            records: records
                .map(|record| (record.intent.key.clone(), record))
                .collect(),
            senders: senders.map(|sender| (sender.address, sender)).collect(),
            head: loaded.head,
            last_number: loaded.last_number,
            accounts: BTreeMap::new(),
            base_fee: TokenAmount::zero(),
            rests: BTreeMap::new(),
        }
    }

    /// Takes a batch that is durable.
    pub fn apply(&mut self, batch: &Batch) {
        for record in &batch.records {
            self.last_number = self.last_number.max(record.number);
            if record.is_live() {
                self.records.insert(record.intent.key.clone(), record.clone());
            } else {
                self.records.remove(&record.intent.key);
                self.rests.remove(&record.intent.key);
            }
        }
        for sender in &batch.senders {
            self.senders.insert(sender.address, sender.clone());
        }
        if let Some(head) = &batch.head {
            self.head = Some(head.clone());
            self.accounts.clear();
        }
    }

    /// The head up to which the chain was read.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub(super) fn height(&self) -> ChainEpoch {
        self.head.as_ref().map_or(0, |head| head.height)
    }

    /// All live intents.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    /// The addresses of live intents.
    pub fn senders(&self) -> Vec<Address> {
        let mut senders: Vec<Address> = self.records.values().map(|record| record.intent.from).collect();
        senders.sort();
        senders.dedup();
        senders
    }

    /// Takes what the chain says of a sender. A nonce that is above ours was used by somebody else. What was read
    /// at another head than the present one is passed over.
    pub fn saw_account(&mut self, address: Address, account: &Account) -> Option<Batch> {
        if self.head.as_ref().is_none_or(|head| head.key != account.at) {
            return None;
        }
        self.accounts.insert(address, account.nonce);
        let row = self.sender(&address);
        (account.nonce > row.next_nonce).then(|| Batch {
            senders: vec![SenderRow {
                next_nonce: account.nonce,
                ..row
            }],
            ..Batch::default()
        })
    }

    /// Messages whose nonce was used on the chain, and that were not shown. They are to be searched for by the
    /// CID of any version (`StateSearchMsg`, which finds what took their place too); see [`Core::found`].
    pub fn to_search(&self) -> Vec<&Record> {
        let open = self
            .records
            .values()
            .filter(|record| record.state == State::Published);
        let used = |record: &&Record| {
            let account = self.accounts.get(&record.intent.from);
            account
                .zip(record.nonce)
                .is_some_and(|(account, nonce)| nonce < *account)
        };
        open.filter(used).collect()
    }

    /// Takes the base fee at the head.
    pub fn saw_base_fee(&mut self, base_fee: TokenAmount) {
        self.base_fee = base_fee;
    }

    pub(super) fn sender(&self, address: &Address) -> SenderRow {
        self.senders.get(address).cloned().unwrap_or(SenderRow {
            address: *address,
            next_nonce: 0,
            forbidden: false,
        })
    }

    /// Takes an intent. `stored` is what the store has under its key, for intents that are not live any more.
    ///
    /// # Errors
    /// The key belongs to another intent.
    pub fn submit(&self, intent: Intent, stored: Option<Record>) -> Result<Submitted, PlanError> {
        let known = self.records.get(&intent.key).cloned().or(stored);
        match known {
            Some(record) if record.intent == intent => Ok(Submitted::Known(Box::new(record))),
            Some(_) => Err(PlanError::KeyReused(intent.key)),
            None => Ok(Submitted::New(Batch {
                records: vec![Record {
                    intent,
                    number: self.last_number + 1,
                    revision: 1,
                    state: State::Queued,
                    nonce: None,
                    versions: Vec::new(),
                    note: String::new(),
                }],
                ..Batch::default()
            })),
        }
    }

    /// What holds for an intent's fees.
    pub fn fees(&self, intent: &Intent) -> Fees {
        let call = Call::decode(&intent.to, intent.method, intent.params.bytes());
        let method = call.as_ref().map_or("", Call::name);
        self.config.fees.resolve(&intent.from, method, &intent.fees)
    }

    /// The next message of each sender that may get a nonce: one at a time, in the order of submission.
    pub fn next(&self) -> Vec<Prepare> {
        self.senders()
            .iter()
            .filter_map(|sender| self.next_of(sender))
            .collect()
    }

    fn next_of(&self, sender: &Address) -> Option<Prepare> {
        let row = self.sender(sender);
        if row.forbidden {
            return None;
        }
        // Without the chain's word a nonce would be a guess.
        let account = self.accounts.get(sender)?;
        let own = || {
            self.records
                .values()
                .filter(|record| record.intent.from == *sender)
        };
        let on_their_way = own().filter(|record| record.state == State::Published).count();
        if on_their_way >= self.config.in_flight {
            return None;
        }
        let nonce = self.free_nonce(&row, *account);
        let queued = own().filter(|record| record.state == State::Queued);
        let ready = queued
            .filter(|record| self.may_go(record))
            .min_by_key(|record| record.number)?;
        Some(Prepare {
            key: ready.intent.key.clone(),
            message: ready.intent.message(nonce),
            fees: self.fees(&ready.intent),
            cancel: false,
            replaces: None,
        })
    }

    /// The lowest nonce that nobody holds: usually the next one, or one that somebody else used on a chain that
    /// was reverted.
    fn free_nonce(&self, row: &SenderRow, account: u64) -> u64 {
        let held = |nonce: u64| {
            let mut own = self
                .records
                .values()
                .filter(|record| record.intent.from == row.address);
            own.any(|record| record.holds(nonce))
        };
        (account..row.next_nonce)
            .find(|nonce| !held(*nonce))
            .unwrap_or(row.next_nonce.max(account))
    }

    fn may_go(&self, record: &Record) -> bool {
        let intent = &record.intent;
        let height = self.height();
        let rests = self.rests.get(&intent.key).is_some_and(|until| *until > height);
        let late = intent.expires.is_some_and(|expires| height >= expires);
        !rests && !late && self.fees(intent).open_at(&self.base_fee)
    }

    /// Gives an intent its nonce and keeps what was signed. The message may be pushed when the batch is
    /// committed and applied, and not before.
    ///
    /// # Errors
    /// The intent does not wait any more, or what was signed is not what [`Core::next`] asked for now.
    pub fn assign(&self, key: &Key, signed: &SignedMessage) -> Result<Batch, PlanError> {
        let record = self.live(key)?;
        if record.state != State::Queued {
            return Err(refused(record, "given a nonce"));
        }
        let wanted = self
            .next_of(&record.intent.from)
            .filter(|wanted| wanted.key == *key);
        let Some(wanted) = wanted else {
            return Err(PlanError::NotTheMessage {
                key: key.clone(),
                reason: "it is not its turn any more".into(),
            });
        };
        same(key, &wanted, signed)?;
        let nonce = wanted.message.sequence;
        let row = self.sender(&record.intent.from);
        let mut changed = record.to(State::Published);
        changed.nonce = Some(nonce);
        changed.versions.push(self.version(key, signed, false)?);
        Ok(Batch {
            records: vec![changed],
            senders: vec![SenderRow {
                next_nonce: row.next_nonce.max(nonce.saturating_add(1)),
                ..row
            }],
            head: None,
        })
    }

    fn version(&self, key: &Key, signed: &SignedMessage, cancel: bool) -> Result<Version, PlanError> {
        Version::new(signed, cancel, self.height()).map_err(|e| PlanError::NotTheMessage {
            key: key.clone(),
            reason: e.to_string(),
        })
    }

    /// What a refusal before the nonce means: a permanent one ends the intent, another lets it rest.
    ///
    /// # Errors
    /// The intent does not wait any more.
    pub fn refuse(&mut self, key: &Key, failure: &Failure) -> Result<Batch, PlanError> {
        let record = self.live(key)?;
        if record.state != State::Queued {
            return Err(refused(record, "refused"));
        }
        let changed = match failure.class {
            FailureClass::Permanent | FailureClass::Rewind => record.to(State::Failed {
                code: failure.code.to_owned(),
                reason: failure.message.clone(),
            }),
            FailureClass::Transient | FailureClass::Critical => {
                let mut waiting = record.to(State::Queued);
                waiting.note = failure.to_string();
                waiting
            }
        };
        self.rests.insert(key.clone(), self.height() + self.config.rest);
        Ok(Batch {
            records: vec![changed],
            ..Batch::default()
        })
    }

    /// What is to be pushed: of every message that has not landed all versions, oldest first, in the order of
    /// nonces. Pushing them again does no harm.
    pub fn to_push(&self) -> Vec<(&Key, &Version)> {
        let mut open: Vec<&Record> = self
            .records
            .values()
            .filter(|r| r.state == State::Published)
            .collect();
        open.sort_by_key(|record| (record.intent.from, record.nonce));
        let versions = open.into_iter().flat_map(|record| {
            record
                .versions
                .iter()
                .map(move |version| (&record.intent.key, version))
        });
        versions.collect()
    }

    /// Messages that are to be replaced: those that expired on their way, by nothing, and those that wait longer
    /// than their policy says, by one that pays more.
    pub fn to_replace(&self) -> Vec<Prepare> {
        let open = self
            .records
            .values()
            .filter(|record| record.state == State::Published);
        open.filter_map(|record| self.replacement(record, false))
            .collect()
    }

    /// A replacement that a person asks for.
    ///
    /// # Errors
    /// The message is not on its way, or has too many versions.
    pub fn replace_now(&self, key: &Key) -> Result<Prepare, PlanError> {
        let record = self.live(key)?;
        let open = (record.state == State::Published)
            .then(|| self.replacement(record, true))
            .flatten();
        open.ok_or_else(|| refused(record, "replaced"))
    }

    fn replacement(&self, record: &Record, now: bool) -> Option<Prepare> {
        let (last, nonce) = (record.versions.last()?, record.nonce?);
        if record.versions.len() >= self.config.versions {
            return None;
        }
        let intent = &record.intent;
        let fees = self.fees(intent);
        let height = self.height();
        // Once it was given up it stays given up.
        let cancel = last.cancel || intent.expires.is_some_and(|expires| height >= expires);
        let waits = fees.replace_after.is_some_and(|after| height - last.at >= after);
        if !now && !waits && (!cancel || last.cancel) {
            return None;
        }
        // The premium must beat that of any version, which may still be the one that nodes hold.
        let signed = record.versions.iter().filter_map(|version| version.signed().ok());
        let best = signed
            .map(|signed| Gas::of(&signed.message))
            .max_by(|a, b| a.premium.cmp(&b.premium))?;
        Some(Prepare {
            key: intent.key.clone(),
            message: if cancel {
                intent.nothing(nonce)
            } else {
                intent.message(nonce)
            },
            fees,
            cancel,
            replaces: Some(best),
        })
    }

    /// Keeps a replacement that was signed. It may be pushed when the batch is committed and applied.
    ///
    /// # Errors
    /// The message landed in the meantime, or what was signed is not that replacement.
    pub fn replace(&self, prepared: &Prepare, signed: &SignedMessage) -> Result<Batch, PlanError> {
        let key = &prepared.key;
        let record = self.live(key)?;
        if record.state != State::Published || record.nonce != Some(prepared.message.sequence) {
            return Err(refused(record, "replaced"));
        }
        same(key, prepared, signed)?;
        let version = self.version(key, signed, prepared.cancel)?;
        let mut changed = record.to(State::Published);
        if changed.version(&version.cid).is_none() {
            changed.versions.push(version);
        }
        Ok(Batch {
            records: vec![changed],
            ..Batch::default()
        })
    }

    /// Gives up an intent that has no nonce yet.
    ///
    /// # Errors
    /// It has a nonce: then only its expiry, or a replacement, can stop it.
    pub fn cancel(&self, key: &Key, reason: &str) -> Result<Batch, PlanError> {
        let record = self.live(key)?;
        if record.state != State::Queued {
            return Err(refused(record, "cancelled"));
        }
        let failed = State::Failed {
            code: "cancelled".into(),
            reason: reason.into(),
        };
        Ok(Batch {
            records: vec![record.to(failed)],
            ..Batch::default()
        })
    }

    /// Puts an intent whose nonce somebody else used back into the queue, under a new nonce.
    ///
    /// # Errors
    /// It has no conflict, or the conflict could still be reverted, after which both could land.
    pub fn recover(&self, key: &Key, finality: ChainEpoch) -> Result<Batch, PlanError> {
        let record = self.live(key)?;
        match &record.state {
            State::Conflict(landing) if self.height() - landing.height >= finality => Ok(Batch {
                records: vec![Record {
                    nonce: None,
                    ..record.to(State::Queued)
                }],
                ..Batch::default()
            }),
            _ => Err(refused(record, "recovered")),
        }
    }

    /// Lets a sender send, or not.
    pub fn forbid(&self, address: Address, forbidden: bool) -> Batch {
        Batch {
            senders: vec![SenderRow {
                forbidden,
                ..self.sender(&address)
            }],
            ..Batch::default()
        }
    }

    /// An intent that closes a gap before messages that are on their way, if there is one and nothing waits that
    /// could close it.
    pub fn filler(&self, address: &Address) -> Option<Intent> {
        let account = self.accounts.get(address)?;
        let row = self.sender(address);
        let nonce = self.free_nonce(&row, *account);
        let own = || {
            self.records
                .values()
                .filter(|record| record.intent.from == *address)
        };
        let waits = own().any(|record| record.state == State::Queued);
        let above = own().any(|r| r.state == State::Published && r.nonce.is_some_and(|n| n > nonce));
        if waits || !above {
            return None;
        }
        let key = Key::try_from(format!("gap/{address}/{nonce}/{}", self.last_number)).ok()?;
        let plain = Intent {
            key,
            from: *address,
            to: *address,
            value: TokenAmount::zero(),
            method: 0,
            params: Default::default(),
            fees: FeePolicy::default(),
            expires: None,
        };
        Some(plain)
    }

    fn live(&self, key: &Key) -> Result<&Record, PlanError> {
        self.records
            .get(key)
            .ok_or_else(|| PlanError::Unknown(key.clone()))
    }
}

fn refused(record: &Record, verb: &'static str) -> PlanError {
    PlanError::State {
        key: record.intent.key.clone(),
        verb,
        state: match record.state {
            State::Queued => "queued",
            State::Published => "published",
            State::Landed(_) => "on the chain",
            State::Final(_) => "final",
            State::Conflict(_) => "in conflict with another message of its nonce",
            State::Failed { .. } => "given up",
        },
    }
}

/// Checks that what was signed is the message that was prepared, with gas that it may have.
fn same(key: &Key, wanted: &Prepare, signed: &SignedMessage) -> Result<(), PlanError> {
    let differs = |reason: String| PlanError::NotTheMessage {
        key: key.clone(),
        reason,
    };
    let gas = Gas::of(&signed.message);
    let mut expected = wanted.message.clone();
    gas.put(&mut expected);
    if expected != signed.message {
        return Err(differs(
            "nonce, destination, value, method or parameters differ".into(),
        ));
    }
    if gas.max_fee() > wanted.fees.max_fee {
        return Err(differs(format!(
            "it can cost {} FIL, and {} FIL are allowed",
            gas.max_fee(),
            wanted.fees.max_fee
        )));
    }
    if wanted
        .replaces
        .as_ref()
        .is_some_and(|old| gas.premium < old.replacing_premium())
    {
        return Err(differs("its premium is too low to take another's place".into()));
    }
    message::check(&signed.message).map_err(|e| differs(e.to_string()))?;
    message::verify(signed).map_err(|e| differs(e.to_string()))
}
