//! The stages of snap-up (a committed-capacity sector takes data), in the order in which
//! `snap_up_offline.toml` runs them.

pub(crate) mod decode;
pub mod persist_update;
pub mod sector_key;
pub mod snap_encode;
pub mod snap_partition_proofs;
pub mod snap_prove;
pub mod verify_snap;
