//! Proof parameters.
pub(crate) mod comb;
pub(crate) mod key;
pub(crate) mod progress;
pub(crate) mod qap;
