//! What must be known about a sealed sector to prove and unseal it, as a small file that is kept beside
//! it, so that a store alone tells everything.

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use serde::{Deserialize, Serialize};
use std::path::Path;

use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Ticket};

/// A sealed sector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SectorInfo {
    /// The version of this form: 1.
    pub version: u32,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The randomness that the replica is bound to.
    pub ticket: Ticket,
    /// The data commitment.
    pub comm_d: CommD,
    /// The commitment to the replica.
    pub comm_r: CommR,
    /// The pieces in it.
    pub piece_infos: Vec<PieceInfo>,
}

impl SectorInfo {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is of a newer version or no such file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
        let damaged =
            |why: String| Failure::permanent("artifact_damaged", format!("{}: {why}", path.display()));
        let info: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if info.version > Self::VERSION {
            return Err(damaged(format!(
                "version {} is newer than this sealflow",
                info.version
            )));
        }
        Ok(info)
    }
}

/// A sector's name in stores, as Lotus and its kin write it: `s-t01000-7`.
pub(crate) fn store_name(miner: ActorId, sector: SectorNumber) -> String {
    format!("s-t0{}-{}", miner.0, sector.0)
}
