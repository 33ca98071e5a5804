//! What a block is made of, and blocks as they are handed in (chain.md §3.2).

use serde::{Deserialize, Serialize};

use crate::message::{SignatureJson, SignedMessageJson};
use crate::types::{Address, BigInt, ChainEpoch, Cid, SectorNumber, TokenAmount};

use super::TipSetKey;

/// The proof of a verifiable random function; the smallest of a tipset is its randomness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The worker's BLS signature.
    #[serde(rename = "VRFProof", with = "crate::json")]
    pub vrf_proof: Vec<u8>,
}

/// How often a block won its epoch, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ElectionProof {
    /// How often.
    pub win_count: i64,
    /// The worker's BLS signature.
    #[serde(rename = "VRFProof", with = "crate::json")]
    pub vrf_proof: Vec<u8>,
}

/// An entry of the beacon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BeaconEntry {
    /// Its round.
    pub round: u64,
    /// What randomness is drawn from.
    #[serde(with = "crate::json")]
    pub data: Vec<u8>,
}

/// A winning proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct WinningProof {
    /// Its type, 0 to 4.
    #[serde(rename = "PoStProof")]
    pub post_proof: i64,
    /// Its bytes.
    #[serde(with = "crate::json")]
    pub proof_bytes: Vec<u8>,
}

/// A block's header with all its fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FullHeader {
    /// Who made it.
    #[serde(with = "crate::json")]
    pub miner: Address,
    /// Its ticket.
    pub ticket: Ticket,
    /// Why it may be; nothing for a genesis.
    pub election_proof: Option<ElectionProof>,
    /// The beacon's entries since the parents.
    #[serde(deserialize_with = "crate::json::or_default")]
    pub beacon_entries: Vec<BeaconEntry>,
    /// That the miner holds the sector that was drawn.
    #[serde(rename = "WinPoStProof", deserialize_with = "crate::json::or_default")]
    pub win_post_proof: Vec<WinningProof>,
    /// The tipset that it was made on.
    #[serde(deserialize_with = "crate::json::or_default")]
    pub parents: TipSetKey,
    /// The weight of the chain up to its parents.
    #[serde(with = "super::number")]
    pub parent_weight: BigInt,
    /// Its epoch.
    pub height: ChainEpoch,
    /// The state after its parents' messages.
    #[serde(with = "crate::json")]
    pub parent_state_root: Cid,
    /// What became of its parents' messages.
    #[serde(with = "crate::json")]
    pub parent_message_receipts: Cid,
    /// The lists of its messages.
    #[serde(with = "crate::json")]
    pub messages: Cid,
    /// The signatures of its BLS messages in one.
    #[serde(rename = "BLSAggregate")]
    pub bls_aggregate: Option<SignatureJson>,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// The worker's signature; nothing while it is not signed.
    pub block_sig: Option<SignatureJson>,
    /// Free for marks.
    pub fork_signaling: u64,
    /// The base fee that its messages pay, in attoFIL.
    #[serde(with = "crate::json")]
    pub parent_base_fee: TokenAmount,
}

/// A block as it is handed in: its messages by their CIDs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockMessage {
    /// The header.
    pub header: FullHeader,
    /// Messages whose signatures are in the header's aggregate.
    #[serde(with = "crate::json")]
    pub bls_messages: Vec<Cid>,
    /// Messages with their own signatures.
    #[serde(with = "crate::json")]
    pub secpk_messages: Vec<Cid>,
}

/// What a node makes a block of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockTemplate {
    /// Who makes it.
    #[serde(with = "crate::json")]
    pub miner: Address,
    /// On which tipset. An empty key does not stand for the head here.
    pub parents: TipSetKey,
    /// Its ticket.
    pub ticket: Ticket,
    /// Why it may be.
    pub eproof: ElectionProof,
    /// The beacon's entries since the parents.
    #[serde(deserialize_with = "crate::json::or_default")]
    pub beacon_values: Vec<BeaconEntry>,
    /// Its messages.
    #[serde(deserialize_with = "crate::json::or_default")]
    pub messages: Vec<SignedMessageJson>,
    /// Its epoch.
    pub epoch: ChainEpoch,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// That the miner holds the sector that was drawn.
    #[serde(rename = "WinningPoStProof", deserialize_with = "crate::json::or_default")]
    pub winning_post_proof: Vec<WinningProof>,
}

/// A sector that a winning proof must show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ChallengedSector {
    /// Type of its seal.
    pub seal_proof: i64,
    /// Its number.
    pub sector_number: SectorNumber,
    /// comm_r of the replica before data came into it, if some did.
    #[serde(with = "crate::json", default)]
    pub sector_key: Option<Cid>,
    /// comm_r.
    #[serde(rename = "SealedCID", with = "crate::json")]
    pub sealed_cid: Cid,
}

/// What a miner needs to know to make a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MiningBase {
    /// The miner's quality-adjusted power.
    #[serde(with = "super::number")]
    pub miner_power: BigInt,
    /// That of the network.
    #[serde(with = "super::number")]
    pub network_power: BigInt,
    /// What a winning proof must show.
    #[serde(deserialize_with = "crate::json::or_default")]
    pub sectors: Vec<ChallengedSector>,
    /// The key that signs.
    #[serde(with = "crate::json")]
    pub worker_key: Address,
    /// Bytes of a sector.
    pub sector_size: u64,
    /// The last entry that is in a block.
    pub prev_beacon_entry: BeaconEntry,
    /// Those that the next block must hold.
    #[serde(deserialize_with = "crate::json::or_default")]
    pub beacon_entries: Vec<BeaconEntry>,
    /// Whether it may make a block at all.
    pub eligible_for_mining: bool,
}

impl MiningBase {
    /// The entry from which all randomness of the block is drawn.
    pub fn beacon(&self) -> &BeaconEntry {
        self.beacon_entries.last().unwrap_or(&self.prev_beacon_entry)
    }
}
