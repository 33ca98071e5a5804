//! Test support: a chain as simple as can be that keeps to the rules of nonces, and a messager's process that can
//! be killed between any two effects.

use std::collections::BTreeMap;

use k256::ecdsa::SigningKey;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::failure::Failure;
use crate::message::{self, Gas, SignedMessage};
use crate::node::{Receipt, TipSetKey};
use crate::types::{Address, ExitCode, Message, Signature, TokenAmount};

use super::core::Core;
use super::memory::MemoryStore;
use super::observe::Seen;
use super::plan::{Account, MessagerConfig, Prepare, Submitted};
use super::record::{Batch, Head, Intent, Key, State};
use super::store::{MessageStore, StoreError};

/// How deep reverts go; what is deeper is final.
pub(super) const DEPTH: usize = 5;

/// A key pair of the test.
pub(super) struct Signer {
    key: SigningKey,
    pub(super) address: Address,
}

impl Signer {
    pub(super) fn new(seed: u8) -> Self {
        let key = SigningKey::from_slice(&[seed; 32]).unwrap();
        let public = key.verifying_key().to_encoded_point(false);
        let address = Address::new_secp256k1(public.as_bytes()).unwrap();
        Self { key, address }
    }

    pub(super) fn sign(&self, message: Message) -> SignedMessage {
        let hash = message::blake2b_256(&message::signing_bytes(&message).unwrap());
        let (signature, recovery) = self.key.sign_prehash_recoverable(&hash).unwrap();
        let mut bytes = signature.to_bytes().to_vec();
        bytes.push(recovery.to_byte());
        SignedMessage {
            message,
            signature: Signature::new_secp256k1(bytes),
        }
    }
}

/// A tipset and the messages in it.
#[derive(Clone)]
pub(super) struct Tipset {
    pub(super) head: Head,
    pub(super) messages: Vec<Message>,
}

/// The chain, and what its nodes hold.
pub(super) struct Chain {
    pub(super) tipsets: Vec<Tipset>,
    pool: BTreeMap<(Address, u64), SignedMessage>,
    made: u64,
}

impl Chain {
    pub(super) fn new() -> Self {
        let mut chain = Self {
            tipsets: Vec::new(),
            pool: BTreeMap::new(),
            made: 0,
        };
        chain.put(Vec::new());
        chain
    }

    fn put(&mut self, messages: Vec<Message>) {
        self.made += 1;
        let height = self.tipsets.last().map_or(0, |last| last.head.height + 1);
        let cid = message::cid_of(&self.made.to_be_bytes());
        let head = Head {
            key: TipSetKey(vec![cid]),
            height,
        };
        self.tipsets.push(Tipset { head, messages });
    }

    /// The account's nonce in the state that a tipset at `place` shows: after the tipsets below it.
    pub(super) fn nonce(&self, address: &Address, place: usize) -> u64 {
        let below = self.tipsets[..place].iter().flat_map(|tipset| &tipset.messages);
        below.filter(|message| message.from == *address).count() as u64
    }

    /// The account's nonce after all messages.
    fn next_nonce(&self, address: &Address) -> u64 {
        self.nonce(address, self.tipsets.len())
    }

    /// Makes a tipset of messages that wait, each sender's in the order of nonces, with `take` in a hundred taken.
    pub(super) fn mine(&mut self, rng: &mut StdRng, take: u32) {
        let mut messages = Vec::new();
        let senders: Vec<Address> = self.pool.keys().map(|(sender, _)| *sender).collect();
        for sender in senders {
            let mut nonce = self.next_nonce(&sender);
            nonce += messages.iter().filter(|m: &&Message| m.from == sender).count() as u64;
            while let Some(signed) = self.pool.get(&(sender, nonce)) {
                if rng.gen_range(0..100) >= take {
                    break;
                }
                messages.push(signed.message.clone());
                self.pool.remove(&(sender, nonce));
                nonce += 1;
            }
        }
        self.put(messages);
    }

    /// Takes the last tipsets away. Some of their messages go back to the pool, some are forgotten.
    pub(super) fn revert(&mut self, rng: &mut StdRng, depth: usize) {
        for _ in 0..depth.min(self.tipsets.len() - 1) {
            for message in self.tipsets.pop().unwrap().messages {
                if rng.gen_bool(0.5) {
                    let signature = Signature::new_secp256k1(vec![0; 65]);
                    let signed = SignedMessage { message, signature };
                    self.pool
                        .entry((signed.message.from, signed.message.sequence))
                        .or_insert(signed);
                }
            }
        }
        // The other fork is as long at once.
        for _ in 0..=depth {
            self.mine(rng, 30);
        }
    }

    /// What a node does with a message that is pushed.
    pub(super) fn push(&mut self, signed: &SignedMessage) -> Result<(), &'static str> {
        let id = (signed.message.from, signed.message.sequence);
        if id.1 < self.next_nonce(&id.0) {
            return Err("message nonce too low");
        }
        match self.pool.get(&id) {
            Some(known) if known.message == signed.message => Err("already in mpool"),
            Some(known) if signed.message.gas_premium < Gas::of(&known.message).replacing_premium() => {
                Err("minimum gas premium")
            }
            _ => {
                self.pool.insert(id, signed.clone());
                Ok(())
            }
        }
    }

    /// All messages on the chain.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.tipsets.iter().flat_map(|tipset| &tipset.messages)
    }

    pub(super) fn place(&self, head: &Head) -> Option<usize> {
        self.tipsets.iter().position(|tipset| tipset.head == *head)
    }

    /// What the tipset at `place` shows: the messages of the one below.
    pub(super) fn shows(&self, place: usize) -> Vec<Seen> {
        let below = place.checked_sub(1).map(|below| &self.tipsets[below].messages);
        let seen = below.into_iter().flatten().map(|message| Seen {
            from: message.from,
            nonce: message.sequence,
            cid: message::cid(message).unwrap(),
            receipt: Receipt {
                exit_code: ExitCode::OK,
                returned: Vec::new(),
                gas_used: 1,
            },
        });
        seen.collect()
    }
}

/// The process was killed.
#[derive(Debug)]
pub(super) struct Killed;

/// The world around a process.
pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) chain: Chain,
    pub(super) store: MemoryStore,
    pub(super) accounts: Vec<Signer>,
    pub(super) config: MessagerConfig,
    /// What the follower reported: heads in order, so that a process can go back along them.
    pub(super) path: Vec<Head>,
    /// Out of a hundred effects, how many kill the process, and how many go wrong.
    pub(super) kills: u32,
    pub(super) faults: u32,
    pub(super) killed: u64,
    /// Pushes that nodes refused.
    pub(super) refused: u64,
}

impl World {
    pub(super) fn new(seed: u64, config: MessagerConfig) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            chain: Chain::new(),
            store: MemoryStore::default(),
            accounts: vec![Signer::new(1), Signer::new(2)],
            config,
            path: Vec::new(),
            kills: 0,
            faults: 0,
            killed: 0,
            refused: 0,
        }
    }

    fn chance(&mut self, of_hundred: u32) -> bool {
        self.rng.gen_range(0..100) < of_hundred
    }

    /// A place between two effects, at which the process may die.
    fn point(&mut self) -> Result<(), Killed> {
        if self.chance(self.kills) {
            self.killed += 1;
            return Err(Killed);
        }
        Ok(())
    }

    pub(super) fn intent(&self, account: usize, name: u64) -> Intent {
        Intent {
            key: Key::try_from(format!("run/{name}")).unwrap(),
            from: self.accounts[account].address,
            to: Address::new_id(1000),
            // By this it is known on the chain.
            value: TokenAmount::from_atto(name),
            method: 0,
            params: Default::default(),
            fees: Default::default(),
            expires: None,
        }
    }

    pub(super) async fn start(&self) -> Core {
        Core::new(self.config.clone(), self.store.load().await.unwrap())
    }

    /// Commits and applies; the process may die before, between and after.
    async fn commit(&mut self, core: &mut Core, batch: Batch) -> Result<(), Killed> {
        if batch.is_empty() {
            return Ok(());
        }
        self.point()?;
        match self.store.commit(&batch).await {
            Ok(()) => {}
            Err(StoreError::Conflict(key)) => {
                panic!("a change of {key} that was not planned on the stored state")
            }
            Err(StoreError::Failed(reason)) => panic!("{reason}"),
        }
        self.point()?;
        core.apply(&batch);
        Ok(())
    }

    pub(super) async fn submit(&mut self, core: &mut Core, intent: Intent) -> Result<State, Killed> {
        let stored = self.store.record(&intent.key).await.unwrap();
        match core.submit(intent, stored).unwrap() {
            Submitted::Known(record) => Ok(record.state),
            Submitted::New(batch) => {
                self.commit(core, batch).await?;
                Ok(State::Queued)
            }
        }
    }

    /// Brings a process to the head of the chain, tipset by tipset.
    pub(super) async fn follow(&mut self, core: &mut Core) -> Result<(), Killed> {
        // What the process knows may be on another fork: it goes back along the way that was reported.
        while let Some(head) = core.head().cloned() {
            if self.chain.place(&head).is_some() {
                break;
            }
            let at = self.path.iter().rposition(|known| *known == head).unwrap();
            let below = self.path[at - 1].clone();
            self.commit(core, core.reverted(&head, &below)).await?;
        }
        let from = core.head().map_or(0, |head| self.chain.place(head).unwrap() + 1);
        for place in from..self.chain.tipsets.len() {
            let head = self.chain.tipsets[place].head.clone();
            let at = core
                .head()
                .and_then(|below| self.path.iter().rposition(|known| known == below));
            self.path.truncate(at.map_or(0, |at| at + 1));
            self.path.push(head.clone());
            let shows = self.chain.shows(place);
            self.commit(core, core.applied(&head, &shows)).await?;
        }
        Ok(())
    }

    /// One round of a process: the chain, then what is to be done.
    pub(super) async fn round(&mut self, core: &mut Core) -> Result<(), Killed> {
        self.follow(core).await?;
        for sender in core.senders() {
            let head = core.head().unwrap().clone();
            let place = self.chain.place(&head).unwrap();
            let account = Account {
                nonce: self.chain.nonce(&sender, place),
                at: head.key,
            };
            if let Some(batch) = core.saw_account(sender, &account) {
                self.commit(core, batch).await?;
            }
            if let Some(intent) = core.filler(&sender) {
                self.submit(core, intent).await?;
            }
        }
        for _ in 0..4 {
            for prepare in core.next() {
                self.send(core, &prepare).await?;
            }
        }
        for prepare in core.to_replace() {
            let Some(signed) = self.signed(&prepare)? else {
                continue;
            };
            let Ok(batch) = core.replace(&prepare, &signed) else {
                continue;
            };
            self.commit(core, batch).await?;
        }
        self.push(core)
    }

    async fn send(&mut self, core: &mut Core, prepare: &Prepare) -> Result<(), Killed> {
        if self.chance(self.faults) {
            let failure = Failure {
                class: crate::failure::FailureClass::Transient,
                code: "node_timeout",
                message: "no estimate".into(),
            };
            let batch = core.refuse(&prepare.key, &failure).unwrap();
            return self.commit(core, batch).await;
        }
        let Some(signed) = self.signed(prepare)? else {
            return Ok(());
        };
        let batch = core.assign(&prepare.key, &signed).unwrap();
        self.commit(core, batch).await?;
        self.push(core)
    }

    /// Estimates and signs.
    fn signed(&mut self, prepare: &Prepare) -> Result<Option<SignedMessage>, Killed> {
        self.point()?;
        let premium = self.rng.gen_range(100..200);
        let estimated = Gas {
            limit: 1_000_000,
            fee_cap: TokenAmount::from_atto(10_000),
            premium: TokenAmount::from_atto(premium),
        };
        let Ok(message) = prepare.with_gas(&estimated) else {
            return Ok(None);
        };
        self.point()?;
        let account = self
            .accounts
            .iter()
            .find(|account| account.address == message.from)
            .unwrap();
        Ok(Some(account.sign(message)))
    }

    /// Pushes all that is to be pushed; nodes drop it, or take it and do not say so, or get it twice.
    fn push(&mut self, core: &Core) -> Result<(), Killed> {
        let pushes: Vec<SignedMessage> = core
            .to_push()
            .into_iter()
            .map(|(_, version)| version.signed().unwrap())
            .collect();
        for signed in pushes {
            self.point()?;
            if self.chance(self.faults) {
                continue;
            }
            let times = if self.chance(self.faults) { 2 } else { 1 };
            for _ in 0..times {
                // Whatever the node says, the chain will show.
                self.refused += u64::from(self.chain.push(&signed).is_err());
            }
        }
        self.point()
    }
}
