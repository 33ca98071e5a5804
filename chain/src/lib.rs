//! The Filecoin network, as a storage provider needs it: message parameters, signing, the wallet, the client of
//! a node, and the messager's core.
//!
//! On the ground floor: it imports nothing of ours and owns the traits that it needs from above.
//! Addresses, amounts, CIDs and epochs are the published types of the network ([`types`]), so a network
//! upgrade touches one file.

pub mod address;
pub mod amount;
pub mod commitment;
pub mod control;
pub mod devnet;
pub mod failure;
pub mod funds;
pub mod json;
pub mod message;
pub mod messager;
pub mod node;
pub mod outcome;
pub mod params;
pub mod policy;
pub mod randomness;
pub mod types;
pub mod wallet;
