//! Actors, receipts, results of dry runs, and the network's parameters.

use serde::{Deserialize, Serialize};

use crate::message::MessageJson;
use crate::types::{Address, ChainEpoch, Cid, ExitCode, TokenAmount};

use super::chain::TipSetKey;

/// The node's software.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    /// As text, with the network.
    pub version: String,
    /// Of the API: major, minor and patch in a byte each.
    #[serde(rename = "APIVersion", default)]
    pub api_version: u64,
    /// Seconds of an epoch.
    #[serde(default)]
    pub block_delay: u64,
}

/// What the node knows of its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkParams {
    /// The name.
    pub network_name: String,
    /// Seconds of an epoch.
    pub block_delay_secs: u64,
    /// Epochs from a pre-commit to its seed.
    pub pre_commit_challenge_delay: ChainEpoch,
    /// When it began, in seconds since 1970. Older nodes do not say.
    #[serde(default)]
    pub genesis_timestamp: Option<u64>,
}

/// An actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ActorState {
    /// Its code.
    #[serde(with = "crate::json")]
    pub code: Cid,
    /// Its state.
    #[serde(with = "crate::json")]
    pub head: Cid,
    /// The nonce of its next message.
    pub nonce: u64,
    /// What it has.
    #[serde(with = "crate::json")]
    pub balance: TokenAmount,
    /// Its f4 address.
    #[serde(with = "crate::json", default)]
    pub delegated_address: Option<Address>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Receipt {
    /// Zero for success.
    pub exit_code: ExitCode,
    /// What the actor returned.
    #[serde(rename = "Return", with = "crate::json", default)]
    pub returned: Vec<u8>,
    /// Gas that was used.
    pub gas_used: u64,
}

/// A message of a block's parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ParentMessage {
    /// The CID under which nodes know it: with the signature, for secp256k1.
    #[serde(with = "crate::json")]
    pub cid: Cid,
    /// The message.
    pub message: MessageJson,
}

/// Where a message is on the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MessageLookup {
    /// The message that was found; another than was asked for if it was replaced.
    #[serde(with = "crate::json")]
    pub message: Cid,
    /// What became of it.
    pub receipt: Receipt,
    /// The tipset that holds the receipt: a child of the one that holds the message.
    pub tip_set: TipSetKey,
    /// That tipset's epoch.
    pub height: ChainEpoch,
}

/// The result of a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InvocationResult {
    /// The message.
    #[serde(default)]
    pub msg: Option<MessageJson>,
    /// What would become of it.
    pub msg_rct: Receipt,
    /// What the actor says, empty for success.
    #[serde(default, deserialize_with = "crate::json::or_default")]
    pub error: String,
}

/// What a message may cost, for gas estimation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FeeSpec {
    /// The most that it may cost in all; zero for the node's own limit.
    #[serde(with = "crate::json")]
    pub max_fee: TokenAmount,
}
