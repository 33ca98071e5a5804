//! Sectors as they lie in stores: the keys of their files, in the layout of Lotus and its kin (`sealed/s-t01000-7`,
//! `cache/s-t01000-7`), and what describes them.

use sealflow_engine::artifact::{ArtifactStore, Stores};
use sealflow_engine::failure::Failure;
use serde::{Deserialize, Serialize};

use crate::remote::patient;
use crate::replica;
use crate::sector_info::{self, SectorInfo, UpdateInfo};
use crate::types::{ActorId, CommR, Place, Replica, SealProof, SectorNumber, UpdateProof};

/// The folders of a store that hold sectors; descriptions are last.
pub const FOLDERS: [&str; 5] = [SEALED, CACHE, UPDATE, UPDATE_CACHE, DESCRIPTIONS];

/// Replicas.
pub const SEALED: &str = "sealed";
/// Last trees and auxiliary files.
pub const CACHE: &str = "cache";
/// Updated replicas.
pub const UPDATE: &str = "update";
/// Their last trees and auxiliary files.
pub const UPDATE_CACHE: &str = "update-cache";
/// Descriptions of sectors and of updates.
pub const DESCRIPTIONS: &str = "sector";

/// What ends the name of a description.
const DESCRIBED: &str = ".json";
/// What ends the name of the description of an update.
const UPDATE_DESCRIBED: &str = ".update.json";

/// A sector's miner and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SectorId {
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub number: SectorNumber,
}

impl SectorId {
    /// The sector's name in stores: `s-t01000-7`.
    pub fn store_name(self) -> String {
        sector_info::store_name(self.miner, self.number)
    }

    /// The sector that a name in a folder of a store belongs to.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix(DESCRIBED).unwrap_or(name);
        let name = name.strip_suffix(".update").unwrap_or(name);
        let (miner, number) = name.strip_prefix("s-t0")?.split_once('-')?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
        if !digits(miner) || !digits(number) {
            return None;
        }
        let (miner, number) = (miner.parse().ok()?, number.parse().ok()?);
        let found = Self {
            miner: ActorId(miner),
            number: SectorNumber(number),
        };
        // One sector has one name: no leading zeros.
        (found.store_name() == name).then_some(found)
    }

    /// Reads what people write: `f01000/7`.
    ///
    /// # Errors
    /// How it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no sector; write it as f01000/7");
        let (miner, number) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            miner: miner.parse().map_err(|_| wrong())?,
            number: SectorNumber(
                number
                    .parse()
                    .ok()
                    .filter(|n| *n <= i64::MAX as u64)
                    .ok_or_else(wrong)?,
            ),
        })
    }

    /// The key of one of its files or folders.
    pub fn key(self, folder: &str) -> String {
        format!("{folder}/{}", self.store_name())
    }

    /// The key of its description.
    pub fn description(self) -> String {
        format!("{}{DESCRIBED}", self.key(DESCRIPTIONS))
    }

    /// The key of the description of its update.
    pub fn update_description(self) -> String {
        format!("{}{UPDATE_DESCRIBED}", self.key(DESCRIPTIONS))
    }

    /// All keys that it can have in a store; descriptions last.
    pub fn keys(self) -> [String; 6] {
        [
            self.key(SEALED),
            self.key(CACHE),
            self.key(UPDATE),
            self.key(UPDATE_CACHE),
            self.description(),
            self.update_description(),
        ]
    }
}

impl std::fmt::Display for SectorId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.miner, self.number.0)
    }
}

/// What a store tells of a sector.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The sector.
    pub info: Option<SectorInfo>,
    /// Its update.
    pub update: Option<UpdateInfo>,
}

impl Described {
    /// The sector's size in bytes.
    pub fn sector_bytes(&self) -> Option<u64> {
        let sealed = self.info.as_ref().map(|info| info.proof_type.sector_bytes());
        sealed.or_else(|| {
            self.update
                .as_ref()
                .map(|update| update.update_proof_type.sector_bytes())
        })
    }

    /// The replica that proofs of spacetime take: the update, if there is one.
    pub fn replica(&self, id: SectorId, store: &str) -> Option<Replica> {
        let place = |folder: &str| Place {
            store: store.to_owned(),
            key: id.key(folder),
        };
        let (comm_r, sealed, cache) = match (&self.update, &self.info) {
            (Some(update), _) => (update.comm_r_new, UPDATE, UPDATE_CACHE),
            (None, Some(info)) => (info.comm_r, SEALED, CACHE),
            (None, None) => return None,
        };
        Some(Replica {
            sector: id.number,
            comm_r,
            sealed: place(sealed),
            cache: place(cache),
        })
    }
}

/// What a store tells of a sector.
///
/// # Errors
/// It cannot be read, or a description is damaged.
pub async fn described(stores: &Stores, store: &str, id: SectorId) -> Result<Described, Failure> {
    Ok(Described {
        info: SectorInfo::read(stores, store, &id.description()).await?,
        update: UpdateInfo::read(stores, store, &id.update_description()).await?,
    })
}

/// A sector that lies in a store without a description, as Lotus and Damocles leave it.
#[derive(Debug, Clone, PartialEq)]
pub struct Undescribed {
    /// The proof type, by the size of its replica.
    pub proof_type: SealProof,
    /// The commitment that its auxiliary file stands for.
    pub comm_r: CommR,
    /// The same of its update, if it has one.
    pub update: Option<(UpdateProof, CommR)>,
}

/// Looks at a sector that has no description.
///
/// # Errors
/// In words: what is missing, or has no size that a sector has.
pub async fn look(store: &dyn ArtifactStore, id: SectorId) -> Result<Undescribed, String> {
    let sealed = size(store, &id.key(SEALED)).await?;
    let sealed = sealed.ok_or_else(|| format!("there is no `{}`", id.key(SEALED)))?;
    let proof_type = SealProof::for_size(sealed)
        .ok_or_else(|| format!("`{}` has {sealed} bytes, which no sector has", id.key(SEALED)))?;
    let comm_r = comm_r(store, &id.key(CACHE)).await?;
    let update = match size(store, &id.key(UPDATE)).await? {
        None => None,
        Some(bytes) if bytes == sealed => {
            let proof = UpdateProof::for_size(bytes).ok_or("no update has this size")?;
            Some((proof, self::comm_r(store, &id.key(UPDATE_CACHE)).await?))
        }
        Some(bytes) => return Err(format!("`{}` has {bytes} bytes, not {sealed}", id.key(UPDATE))),
    };
    Ok(Undescribed {
        proof_type,
        comm_r,
        update,
    })
}

async fn size(store: &dyn ArtifactStore, key: &str) -> Result<Option<u64>, String> {
    let found = patient(store, store.stat(key))
        .await
        .map_err(|error| error.to_string())?;
    Ok(found.map(|found| found.bytes()))
}

async fn comm_r(store: &dyn ArtifactStore, cache: &str) -> Result<CommR, String> {
    let read = patient(store, store.read(cache, replica::P_AUX, 0..64)).await;
    let bytes = read.map_err(|error| format!("`{cache}/{}`: {error}", replica::P_AUX))?;
    replica::comm_r_of_aux(&bytes).ok_or_else(|| format!("`{cache}/{}` is damaged", replica::P_AUX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_lotus() {
        let id = SectorId::parse("t01000/7").unwrap();
        assert_eq!(id.to_string(), "f01000/7");
        assert_eq!(id.keys()[0], "sealed/s-t01000-7");
        assert_eq!(id.keys()[5], "sector/s-t01000-7.update.json");
        for name in ["s-t01000-7", "s-t01000-7.json", "s-t01000-7.update.json"] {
            assert_eq!(SectorId::of_name(name), Some(id), "{name}");
        }
        for name in [
            "s-t01000-07",
            "s-t0-7",
            "s-f01000-7",
            "s-t01000-7.tmp",
            "s-t01000-",
            "../s-t01000-7",
        ] {
            assert_eq!(SectorId::of_name(name), None, "{name}");
        }
        for text in ["7", "f01000/", "f01000/-1", "f01000/9223372036854775808", "x/7"] {
            assert!(SectorId::parse(text).is_err(), "{text}");
        }
    }
}
