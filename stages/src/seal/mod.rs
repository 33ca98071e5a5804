//! The stages of sealing, in the order in which `seal_offline.toml` runs them.

pub mod add_pieces;
pub mod c1;
pub mod c2;
pub mod finalize;
pub mod pc1;
pub mod pc2;
pub mod persist;
pub mod proof_parameters;
pub mod seed;
pub mod synth_proof;
pub mod ticket;
pub mod transfer;
pub mod tree_d;
pub mod verify_seal;
