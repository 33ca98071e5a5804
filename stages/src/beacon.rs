//! A local source of randomness for rehearsals without a chain. It is deterministic, so nobody can take
//! its tickets and seeds for a chain's: a sector sealed with them cannot be committed to a network.

use sealflow_engine::id::AttemptKey;
use sha2::{Digest, Sha256};

use crate::types::{ActorId, SectorNumber};

/// What outputs say about where randomness came from.
pub(crate) const LOCAL: &str = "local beacon";

/// 32 bytes for a purpose, a sector and a passage through the step: another visit draws other bytes.
pub(crate) fn draw(purpose: &str, miner: ActorId, sector: SectorNumber, key: &AttemptKey) -> [u8; 32] {
    let mut bytes: [u8; 32] = Sha256::new()
        .chain_update(b"sealflow local beacon\0")
        .chain_update(purpose.as_bytes())
        .chain_update(miner.0.to_be_bytes())
        .chain_update(sector.0.to_be_bytes())
        .chain_update(key.visit.to_be_bytes())
        .finalize()
        .into();
    // The library takes randomness for a field element in some places.
    bytes[31] &= 0x3f;
    bytes
}
