//! What must be known about a sealed sector, and about an update of it, to prove and unseal it: small files
//! that are kept beside it, so that a store alone tells everything.

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use serde::{Deserialize, Serialize};
use std::path::Path;

use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Ticket, UpdateProof};

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
        let info: Self = read(path)?;
        check_version(path, info.version, Self::VERSION)?;
        Ok(info)
    }
}

/// An update: data that a committed-capacity sector took (snap-up). The replica that it was made from stays
/// as it is and where it is: without it the data cannot be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateInfo {
    /// The version of this form: 1.
    pub version: u32,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The update proof type.
    pub update_proof_type: UpdateProof,
    /// The commitment to the replica that it was made from.
    pub comm_r_old: CommR,
    /// The commitment to the updated replica.
    pub comm_r_new: CommR,
    /// The commitment to the data.
    pub comm_d_new: CommD,
    /// The pieces in it.
    pub piece_infos: Vec<PieceInfo>,
}

impl UpdateInfo {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is of a newer version or no such file.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let info: Self = read(path)?;
        check_version(path, info.version, Self::VERSION)?;
        Ok(info)
    }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::permanent("artifact_damaged", format!("{}: {why}", path.display()))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure::io("read", path, &error))?;
    serde_json::from_slice(&bytes).map_err(|error| damaged(path, error))
}

fn check_version(path: &Path, found: u32, known: u32) -> Result<(), Failure> {
    if found > known {
        return Err(damaged(
            path,
            format!("version {found} is newer than this sealflow"),
        ));
    }
    Ok(())
}

/// A sector's name in stores, as Lotus and its kin write it: `s-t01000-7`.
pub(crate) fn store_name(miner: ActorId, sector: SectorNumber) -> String {
    format!("s-t0{}-{}", miner.0, sector.0)
}
