//! Executors on other machines. They connect to us ([`Service`]), offer what they can, and each offer becomes an
//! executor of the engine. What connects them is a link, one for each machine, which survives losses of contact.

mod convert;
mod link;
mod service;
mod works;

pub use service::{Access, Caller, Service, connections};
pub use works::{Works, capacity};

/// The store that artifacts in the daemon's own scratch space are said to be in to other machines.
pub const DAEMON_SCRATCH: &str = "scratch@";

/// The store that logs of a machine are said to be in.
const LOGS: &str = "logs";

/// The store that artifacts in a machine's own scratch space are said to be in.
pub fn scratch_of(machine: &str) -> String {
    format!("{}@{machine}", sealflow_engine::artifact::SCRATCH)
}
