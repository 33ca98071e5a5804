//! What must be known about a sealed sector, and about an update of it, to prove and unseal it: small files
//! that are kept beside it, so that a store alone tells everything.

use schemars::JsonSchema;
use sealflow_engine::artifact::{Artifact, StoreError, Stores};
use sealflow_engine::failure::Failure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::remote;
use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Ticket, UpdateProof};

/// A sealed sector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SectorInfo {
    /// The version of this form: 1, or 2 where the ticket or the data commitment is not known.
    pub version: u32,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The randomness that the replica is bound to; not known of a sector that was sealed elsewhere and taken in
    /// without it. It can be proved, and not be unsealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// The data commitment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm_d: Option<CommD>,
    /// The commitment to the replica.
    pub comm_r: CommR,
    /// The pieces in it.
    #[serde(default)]
    pub piece_infos: Vec<PieceInfo>,
}

impl SectorInfo {
    /// The newest version that is read.
    pub const VERSION: u32 = 2;

    /// The version that this is written with: the oldest that can say it.
    pub fn version_of(ticket: Option<Ticket>, comm_d: Option<CommD>) -> u32 {
        if ticket.is_some() && comm_d.is_some() {
            1
        } else {
            2
        }
    }

    /// Reads a file of any store, if it is there.
    ///
    /// # Errors
    /// It cannot be read, or is of a newer version or no such file.
    pub(crate) async fn read(stores: &Stores, store: &str, key: &str) -> Result<Option<Self>, Failure> {
        read(stores, store, key, Self::VERSION).await
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

    /// Reads a file of any store, if it is there.
    ///
    /// # Errors
    /// It cannot be read, or is of a newer version or no such file.
    pub(crate) async fn read(stores: &Stores, store: &str, key: &str) -> Result<Option<Self>, Failure> {
        read(stores, store, key, Self::VERSION).await
    }
}

/// The failure of an artifact that is not in its store.
pub(crate) fn missing(artifact: &Artifact) -> Failure {
    let (store, key) = (artifact.store.clone(), artifact.key.clone());
    StoreError::Missing { store, key }.into()
}

/// Reads a description, whose version is no newer than this.
async fn read<T: serde::de::DeserializeOwned>(
    stores: &Stores,
    store: &str,
    key: &str,
    known: u32,
) -> Result<Option<T>, Failure> {
    let Some(bytes) = remote::small(stores, store, key).await? else {
        return Ok(None);
    };
    let damaged =
        |why: String| Failure::permanent("artifact_damaged", format!("`{key}` in `{store}`: {why}"));
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let found = value["version"].as_u64().unwrap_or(0);
    if found > u64::from(known) {
        return Err(damaged(format!("version {found} is newer than this sealflow")));
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| damaged(error.to_string()))
}

/// A sector's name in stores, as Lotus and its kin write it: `s-t01000-7`.
pub(crate) fn store_name(miner: ActorId, sector: SectorNumber) -> String {
    format!("s-t0{}-{}", miner.0, sector.0)
}
