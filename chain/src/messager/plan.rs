//! What the state machine is asked, and what it answers.

use crate::message::{self, Gas, GasError, SignedMessage};
use crate::node::TipSetKey;
use crate::types::{ChainEpoch, Message};

use super::fees::{FeeBook, Fees};
use super::record::{Batch, Key, Record, State};

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
    /// A node or the wallet does not let it be done now.
    #[error("the message `{key}` is left as it is: {reason}")]
    NotNow {
        /// The intent.
        key: Key,
        /// Who refuses, and why.
        reason: String,
    },
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

pub(super) fn refused(record: &Record, verb: &'static str) -> PlanError {
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
pub(super) fn same(key: &Key, wanted: &Prepare, signed: &SignedMessage) -> Result<(), PlanError> {
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
