//! What the messager remembers: intents, what became of them, and where each sender is.

use serde::{Deserialize, Serialize};

use crate::message::{self, MessageError, SignedMessage};
use crate::node::{Receipt, TipSet, TipSetKey};
use crate::types::{Address, ChainEpoch, Cid, Message, MethodNum, RawBytes, TokenAmount, Zero};

use super::fees::FeePolicy;

/// The most bytes of a key.
const KEY_BYTES: usize = 256;

/// What makes an intent the same intent when it is submitted again: of the run, step, item and visit, or of the
/// batch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// A text that cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to {KEY_BYTES} printable ASCII characters")]
pub struct KeyError;

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        let fits = (1..=KEY_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(KeyError) }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is to happen on the chain, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Its identity.
    pub key: Key,
    /// The sender, by its key address.
    #[serde(with = "crate::json")]
    pub from: Address,
    /// The destination.
    #[serde(with = "crate::json")]
    pub to: Address,
    /// What it is paid.
    #[serde(with = "crate::json")]
    pub value: TokenAmount,
    /// The method.
    pub method: MethodNum,
    /// Its parameters.
    #[serde(with = "crate::json")]
    pub params: RawBytes,
    /// What it may cost.
    #[serde(default)]
    pub fees: FeePolicy,
    /// From this epoch on it must not land. If it was pushed by then, its nonce is given to a payment of nothing
    /// to the sender itself, and whichever lands decides.
    #[serde(default)]
    pub expires: Option<ChainEpoch>,
}

impl Intent {
    /// The message with this nonce, without gas.
    pub fn message(&self, nonce: u64) -> Message {
        Message {
            version: 0,
            from: self.from,
            to: self.to,
            sequence: nonce,
            value: self.value.clone(),
            method_num: self.method,
            params: self.params.clone(),
            gas_limit: 0,
            gas_fee_cap: TokenAmount::zero(),
            gas_premium: TokenAmount::zero(),
        }
    }

    /// The message that takes this nonce and does nothing.
    pub fn nothing(&self, nonce: u64) -> Message {
        Message {
            to: self.from,
            value: TokenAmount::zero(),
            method_num: 0,
            params: RawBytes::default(),
            ..self.message(nonce)
        }
    }
}

/// A signed form of an intent that left the process, or may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The CID of the message.
    #[serde(with = "crate::json")]
    pub cid: Cid,
    /// The CID of message and signature, under which nodes know a secp256k1 sender's.
    #[serde(with = "crate::json")]
    pub signed_cid: Cid,
    /// The signed message's CBOR: what is pushed, byte by byte.
    #[serde(with = "crate::json")]
    pub bytes: Vec<u8>,
    /// Whether it does nothing, in the place of the intent.
    pub cancel: bool,
    /// When it was made.
    pub at: ChainEpoch,
}

impl Version {
    pub(super) fn new(signed: &SignedMessage, cancel: bool, at: ChainEpoch) -> Result<Self, MessageError> {
        Ok(Self {
            cid: message::cid(&signed.message)?,
            signed_cid: signed.cid()?,
            bytes: signed.encode()?,
            cancel,
            at,
        })
    }

    /// The signed message.
    ///
    /// # Errors
    /// The bytes are no signed message: the store is damaged.
    pub fn signed(&self) -> Result<SignedMessage, MessageError> {
        SignedMessage::decode(&self.bytes)
    }
}

/// Where a message landed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landing {
    /// The message that landed.
    #[serde(with = "crate::json")]
    pub cid: Cid,
    /// The tipset that shows its receipt.
    pub tipset: TipSetKey,
    /// That tipset's epoch.
    pub height: ChainEpoch,
    /// What became of it.
    pub receipt: Receipt,
}

/// How far an intent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a nonce. Nothing left the process.
    Queued,
    /// Has a nonce and signed versions, which are pushed until one lands.
    Published,
    /// On the chain; a revert takes it back to published.
    Landed(Landing),
    /// On the chain, deep enough. The end.
    Final(Landing),
    /// A message that is none of its versions took its nonce; a revert takes it back.
    Conflict(Landing),
    /// Given up. The end.
    Failed {
        /// A stable slug: `expired`, `cancelled`, or the code of a refusal.
        code: String,
        /// What happened.
        reason: String,
    },
}

/// An intent and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The intent.
    pub intent: Intent,
    /// Its place in the order of submission.
    pub number: u64,
    /// Grows with every change; a store takes only the next one.
    pub revision: u64,
    /// How far it is.
    pub state: State,
    /// Its nonce, once it has one.
    pub nonce: Option<u64>,
    /// All signed versions, oldest first. None is ever removed.
    pub versions: Vec<Version>,
    /// Why it waits.
    #[serde(default)]
    pub note: String,
}

impl Record {
    /// Whether it can still change by itself.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Final(_) | State::Failed { .. })
    }

    /// Where it is on the chain, if it is.
    pub fn landing(&self) -> Option<&Landing> {
        match &self.state {
            State::Landed(landing) | State::Final(landing) => Some(landing),
            _ => None,
        }
    }

    /// Whether it holds its nonce.
    pub(super) fn holds(&self, nonce: u64) -> bool {
        self.nonce == Some(nonce) && !matches!(self.state, State::Queued)
    }

    /// The version that a node names by either CID.
    pub(super) fn version(&self, cid: &Cid) -> Option<&Version> {
        self.versions
            .iter()
            .find(|version| version.cid == *cid || version.signed_cid == *cid)
    }

    /// The same, changed.
    pub(super) fn to(&self, state: State) -> Self {
        Self {
            revision: self.revision + 1,
            state,
            note: String::new(),
            ..self.clone()
        }
    }
}

/// Where a sender is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderRow {
    /// Its key address.
    #[serde(with = "crate::json")]
    pub address: Address,
    /// Above every nonce that was ever given or seen.
    pub next_nonce: u64,
    /// Whether it may send. Intents are still taken, and wait.
    pub forbidden: bool,
}

/// The head up to which the chain was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The tipset.
    pub key: TipSetKey,
    /// Its epoch.
    pub height: ChainEpoch,
}

impl From<&TipSet> for Head {
    fn from(tipset: &TipSet) -> Self {
        Self {
            key: tipset.key.clone(),
            height: tipset.height,
        }
    }
}

/// Changes that become durable together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Records that are new or changed.
    pub records: Vec<Record>,
    /// Senders that are new or changed.
    pub senders: Vec<SenderRow>,
    /// The head, if it moved.
    pub head: Option<Head>,
}

impl Batch {
    /// Whether it changes anything.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.senders.is_empty() && self.head.is_none()
    }
}
