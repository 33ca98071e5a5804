//! The messager: every intent becomes at most one message on the chain, however often anything stops.
//!
//! [`Core`] is a pure state machine. It plans a [`Batch`] of changes; the caller makes it durable in a
//! [`MessageStore`]; only then it is applied, and only then anything leaves the process. What is to be done
//! (estimate, sign, push, replace) is derived from the state again and again until the chain shows the result,
//! so a stop at any moment loses nothing and doubles nothing:
//!
//! - one intent has one key, and one key one intent;
//! - a sender's messages get their nonces one after the other, each in the same batch as the signed bytes;
//! - a nonce is used again only for versions of the same intent, all of which are remembered, and whichever
//!   of them lands is the message;
//! - what a reverted tipset showed is taken back, and the message is pushed again.
//!
//! [`start`] runs it: one task owns the core, a store, a client of nodes and a signer; others have a [`Messager`].

mod core;
mod fees;
mod handle;
mod memory;
mod observe;
mod plan;
mod record;
mod repair;
mod replace;
mod store;
mod task;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use self::core::Core;
pub use fees::{FeeBook, FeePolicy, Fees};
pub use handle::{Messager, MessagerError, Repair, Status};
pub use memory::MemoryStore;
pub use observe::Seen;
pub use plan::{Account, MessagerConfig, PlanError, Prepare, Submitted};
pub use record::{Batch, Head, Intent, Key, KeyError, Landing, Record, SenderRow, State, Version};
pub use store::{Loaded, MessageStore, StoreError, conformance};
pub use task::{Running, Signer, start};
