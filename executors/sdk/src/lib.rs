//! Everything that is needed to be an executor of a sealflow daemon from another machine: implement
//! [`Handler`] for your stages, and [`run`] does the rest. It registers, takes orders, gives signs of life from a
//! thread of its own, keeps results on disk until the daemon has them, and comes back after every loss of contact.
//!
//! The same [`Handler`] is an ext-processor child by [`run_child`].
//!
//! This crate imports nothing of sealflow: the contract is `proto/sealflow/executor/v1/executor.proto`. A program that
//! speaks the line protocol of Damocles' ext-processors by itself needs no crate at all (docs/vendors.md).

mod attempts;
mod child;
mod connection;
mod outbox;
mod session;

pub use attempts::{Context, End, Failure, Handler, Job};
pub use child::{request_id, run_child};
pub use connection::{Connection, Identity};
pub use outbox::OutboxError;
pub use session::{Error, Profile, run};

/// The contract, generated from its file.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::all,
    missing_docs,
    reason = "generated; the comments are in the .proto"
)]
pub mod v1 {
    tonic::include_proto!("sealflow.executor.v1");
    /// The compiled contract, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/executor.bin"));
}

/// The version of the contract that this crate speaks.
pub const CONTRACT: u32 = 1;

/// The largest message in bytes: an input or an output as JSON.
pub const MAX_MESSAGE: usize = 256 << 20;
