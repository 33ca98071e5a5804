//! The state machine: what may be sent next, and the batches that say so. It plans; the caller commits, and then
//! applies.

use std::collections::BTreeMap;

use crate::failure::{Failure, FailureClass};
use crate::message::SignedMessage;
use crate::params::Call;
use crate::types::{Address, ChainEpoch, TokenAmount, Zero};

use super::fees::Fees;
use super::plan::{Account, MessagerConfig, PlanError, Prepare, Submitted, refused, same};
use super::record::{Batch, Head, Intent, Key, Record, SenderRow, State, Version};
use super::store::Loaded;

/// The state machine.
#[derive(Debug)]
pub struct Core {
    pub(super) config: MessagerConfig,
    pub(super) records: BTreeMap<Key, Record>,
    pub(super) senders: BTreeMap<Address, SenderRow>,
    pub(super) head: Option<Head>,
    pub(super) last_number: u64,
    /// What the chain says at the head; read again after every head and every start.
    pub(super) accounts: BTreeMap<Address, u64>,
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

    /// Whether the account of a sender was read at the present head.
    pub(super) fn knows(&self, address: &Address) -> bool {
        self.accounts.contains_key(address)
    }

    /// All senders that were ever given a nonce, or forbidden.
    pub(super) fn sender_rows(&self) -> impl Iterator<Item = &SenderRow> {
        self.senders.values()
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
    pub(super) fn free_nonce(&self, row: &SenderRow, account: u64) -> u64 {
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

    /// A record as people see it: one that waits says for what. What holds it back now goes before why it was refused when it was
    /// tried last.
    pub fn told(&self, record: &Record) -> Record {
        let mut told = record.clone();
        if record.state == State::Queued {
            if let Some(held) = self.held_back(record) {
                told.note = held;
            } else if record.note.is_empty() {
                told.note = self.waits_for(record);
            }
        }
        told
    }

    /// Why it is not even tried.
    fn held_back(&self, record: &Record) -> Option<String> {
        let (intent, sender) = (&record.intent, &record.intent.from);
        if self.sender(sender).forbidden {
            let text = format!("nothing is sent from {sender}; `sealflow message allow {sender}` ends that");
            return Some(text);
        }
        let fees = self.fees(intent);
        let most = fees.base_fee_max.as_ref();
        let most = most.filter(|_| !fees.open_at(&self.base_fee))?;
        Some(format!(
            "the base fee is {} FIL, and messages wait while it is above {most} FIL",
            self.base_fee
        ))
    }

    fn waits_for(&self, record: &Record) -> String {
        let sender = &record.intent.from;
        if !self.accounts.contains_key(sender) {
            return "no node has told yet what the sender's next nonce is".to_owned();
        }
        let own = self.records.values().filter(|other| other.intent.from == *sender);
        let on_their_way = own.filter(|other| other.state == State::Published).count();
        if on_their_way >= self.config.in_flight {
            return format!("{on_their_way} messages of the sender are on their way, and no more may be");
        }
        String::new()
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

    pub(super) fn version(
        &self,
        key: &Key,
        signed: &SignedMessage,
        cancel: bool,
    ) -> Result<Version, PlanError> {
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

    pub(super) fn live(&self, key: &Key) -> Result<&Record, PlanError> {
        self.records
            .get(key)
            .ok_or_else(|| PlanError::Unknown(key.clone()))
    }
}
