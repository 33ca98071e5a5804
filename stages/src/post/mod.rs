//! The stages of proofs of spacetime: for a deadline (window), in the order in which
//! `window_post_offline.toml` runs them, and for a block (winning).

pub mod check;
mod copies;
mod fetch;
mod lookup;
pub mod post_challenge;
pub(crate) mod prove;
mod ranges;
pub mod verify_post;
pub mod window_post;
pub mod window_post_snark;
pub mod window_post_vanilla;
pub mod winning_challenge;
pub mod winning_post;
