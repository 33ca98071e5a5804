//! What a message asks an actor to do: the method and its parameters, made of the published types.
//!
//! [`Call`] is all messages that a storage provider sends. One line in `call.rs` adds another. The builders
//! refuse what the actor would refuse for its form alone, so that a mistake is found before it costs gas.

mod admin;
mod call;
mod declare;
mod error;
mod post;
mod seal;
#[cfg(test)]
mod vectors;

pub use admin::{
    ControlChange, MinerCreation, change_beneficiary, change_multiaddrs, change_owner, change_peer_id,
    change_worker, create_miner, withdraw,
};
pub use call::{Actor, Call, actor_of};
pub use declare::{
    Extension, SectorClaims, SectorSet, compact_partitions, compact_sector_numbers, declare_faults,
    declare_recovered, extend, terminate, upgrade_quality,
};
pub use error::{BuildError, DecodeError};
pub use post::{PartitionPost, WindowPost, dispute, submit_window_post};
pub use seal::{
    Activation, Aggregate, NiAggregate, Precommit, Require, market_notification, piece, precommit,
    prove_commit, prove_commit_aggregate, prove_commit_ni, prove_update,
};
