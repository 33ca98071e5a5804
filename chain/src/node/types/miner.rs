//! A miner, its deadlines and its sectors.

use serde::{Deserialize, Serialize};

use crate::types::{Address, BigInt, BitField, ChainEpoch, Cid, SectorNumber, TokenAmount};

/// A miner's addresses and constants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerInfo {
    /// Who owns it.
    #[serde(with = "crate::json")]
    pub owner: Address,
    /// Who proves and signs blocks.
    #[serde(with = "crate::json")]
    pub worker: Address,
    /// The worker that comes, if one was proposed.
    #[serde(with = "crate::json", default)]
    pub new_worker: Option<Address>,
    /// Who else may send its messages.
    #[serde(with = "crate::json", default)]
    pub control_addresses: Vec<Address>,
    /// When the new worker becomes effective, or -1.
    pub worker_change_epoch: ChainEpoch,
    /// Type of its window proofs.
    #[serde(rename = "WindowPoStProofType")]
    pub window_post_proof_type: i64,
    /// Bytes of a sector.
    pub sector_size: u64,
    /// Sectors of a partition.
    #[serde(rename = "WindowPoStPartitionSectors")]
    pub window_post_partition_sectors: u64,
    /// Until when it is excluded after a consensus fault, or -1.
    pub consensus_fault_elapsed: ChainEpoch,
    /// The owner that was proposed.
    #[serde(with = "crate::json", default)]
    pub pending_owner_address: Option<Address>,
    /// Who receives its balance.
    #[serde(with = "crate::json", default)]
    pub beneficiary: Option<Address>,
}

/// Where a miner is in its proving period, with the network's windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProvingDeadline {
    /// The epoch of the state that was asked.
    pub current_epoch: ChainEpoch,
    /// The period's first epoch, which may be ahead.
    pub period_start: ChainEpoch,
    /// The deadline, from zero.
    pub index: u64,
    /// Its first epoch.
    pub open: ChainEpoch,
    /// The first epoch after it.
    pub close: ChainEpoch,
    /// The epoch whose randomness its proof answers.
    pub challenge: ChainEpoch,
    /// From here on faults and recoveries count for the next period.
    pub fault_cutoff: ChainEpoch,
    /// Deadlines of a period.
    #[serde(rename = "WPoStPeriodDeadlines")]
    pub period_deadlines: u64,
    /// Epochs of a period.
    #[serde(rename = "WPoStProvingPeriod")]
    pub proving_period: ChainEpoch,
    /// Epochs of a deadline.
    #[serde(rename = "WPoStChallengeWindow")]
    pub challenge_window: ChainEpoch,
    /// Epochs from challenge to opening.
    #[serde(rename = "WPoStChallengeLookback")]
    pub challenge_lookback: ChainEpoch,
    /// Epochs from the cutoff to opening.
    pub fault_declaration_cutoff: ChainEpoch,
}

/// A deadline of a miner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Deadline {
    /// The partitions that were proved in this window.
    #[serde(with = "crate::json")]
    pub post_submissions: BitField,
    /// Proofs that can be disputed.
    #[serde(default)]
    pub disputable_proof_count: u64,
}

/// A partition of a deadline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Partition {
    /// All sectors that ever were in it.
    #[serde(with = "crate::json")]
    pub all_sectors: BitField,
    /// Those that are faulty.
    #[serde(with = "crate::json")]
    pub faulty_sectors: BitField,
    /// Faulty ones that are to be proved again.
    #[serde(with = "crate::json")]
    pub recovering_sectors: BitField,
    /// Those that did not end.
    #[serde(with = "crate::json")]
    pub live_sectors: BitField,
    /// Live ones with power.
    #[serde(with = "crate::json")]
    pub active_sectors: BitField,
}

/// Raw and quality-adjusted power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PowerClaim {
    /// Bytes.
    #[serde(with = "super::number")]
    pub raw_byte_power: BigInt,
    /// Bytes times quality.
    #[serde(with = "super::number")]
    pub quality_adj_power: BigInt,
}

/// A miner's power beside that of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerPower {
    /// The miner's.
    pub miner_power: PowerClaim,
    /// The network's.
    pub total_power: PowerClaim,
    /// Whether it is enough to make blocks.
    pub has_min_power: bool,
}

/// A sector as it was pre-committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PrecommitInfo {
    /// Type of its seal.
    pub seal_proof: i64,
    /// Its number.
    pub sector_number: SectorNumber,
    /// comm_r.
    #[serde(rename = "SealedCID", with = "crate::json")]
    pub sealed_cid: Cid,
    /// Epoch of its ticket.
    pub seal_rand_epoch: ChainEpoch,
    /// Deals, which new sectors do not name here.
    #[serde(rename = "DealIDs", default, deserialize_with = "crate::json::or_default")]
    pub deal_ids: Vec<u64>,
    /// When it ends.
    pub expiration: ChainEpoch,
    /// comm_d, or nothing for committed capacity.
    #[serde(with = "crate::json", default)]
    pub unsealed_cid: Option<Cid>,
}

/// A pre-commit on the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PrecommitOnChain {
    /// What was pre-committed.
    pub info: PrecommitInfo,
    /// What is locked for it.
    #[serde(with = "crate::json")]
    pub pre_commit_deposit: TokenAmount,
    /// When it came onto the chain. The seed's epoch follows from this, never from a receipt.
    pub pre_commit_epoch: ChainEpoch,
}

/// A sector on the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorInfo {
    /// Its number.
    pub sector_number: SectorNumber,
    /// Type of its seal.
    pub seal_proof: i64,
    /// comm_r, of the update once there is one.
    #[serde(rename = "SealedCID", with = "crate::json")]
    pub sealed_cid: Cid,
    /// When it became active.
    pub activation: ChainEpoch,
    /// When it ends.
    pub expiration: ChainEpoch,
    /// Legacy weight of deals.
    #[serde(with = "super::number")]
    pub deal_weight: BigInt,
    /// Space-time of its pieces.
    #[serde(with = "super::number")]
    pub verified_deal_weight: BigInt,
    /// What is locked for it.
    #[serde(with = "crate::json")]
    pub initial_pledge: TokenAmount,
    /// When its power last changed.
    #[serde(default)]
    pub power_base_epoch: ChainEpoch,
    /// comm_r before the update.
    #[serde(rename = "SectorKeyCID", with = "crate::json", default)]
    pub sector_key_cid: Option<Cid>,
    /// 0x1 simple power, 0x2 full quality.
    #[serde(default)]
    pub flags: u64,
}

/// Where a sector is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorLocation {
    /// The deadline, from zero.
    pub deadline: u64,
    /// The partition, from zero.
    pub partition: u64,
}

/// When a sector ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorExpiration {
    /// By its own expiration.
    pub on_time: ChainEpoch,
    /// Before it, because of a fault; or 0.
    pub early: ChainEpoch,
}
