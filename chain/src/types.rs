//! The published types of the network, named in one place, so that an upgrade of the network touches
//! one file.
//!
//! The wire form of all messages that a storage provider sends is the same in actors v18 and v19, so one
//! module of types serves both.

pub use cid::Cid;
pub use fvm_ipld_bitfield::BitField;
pub use fvm_ipld_encoding::{BytesDe, RawBytes};
pub use fvm_shared::address::{Address, Protocol};
pub use fvm_shared::bigint::{BigInt, Zero};
pub use fvm_shared::clock::ChainEpoch;
pub use fvm_shared::crypto::signature::{Signature, SignatureType};
pub use fvm_shared::econ::TokenAmount;
pub use fvm_shared::error::ExitCode;
pub use fvm_shared::message::Message;
pub use fvm_shared::piece::PaddedPieceSize;
pub use fvm_shared::randomness::Randomness;
pub use fvm_shared::sector::{
    PoStProof, RegisteredAggregateProof, RegisteredPoStProof, RegisteredSealProof, RegisteredUpdateProof,
    SectorNumber, SectorSize,
};
pub use fvm_shared::{ActorID, MethodNum};

/// Parameters, results and state of the built-in market.
pub use fil_actor_market_state::v19 as market;
/// Parameters, results and state of the miner actor.
pub use fil_actor_miner_state::v19 as miner;
/// Parameters, results and state of the power actor.
pub use fil_actor_power_state::v19 as power;

/// What a batch message returns: which of its inputs failed, and how.
pub use fil_actors_shared::v19::BatchReturn;

/// What the state of the network is kept in, for the devnet.
pub mod state {
    pub use fil_actors_shared::v19::reward::FilterEstimate;
    pub use fil_actors_shared::v19::runtime::Policy;
    pub use fil_actors_shared::v19::{ActorDowncast, ActorError};
    pub use fvm_ipld_amt::Amtv0;
    pub use fvm_ipld_blockstore::Blockstore;
    pub use fvm_ipld_encoding::CborStore;
}
