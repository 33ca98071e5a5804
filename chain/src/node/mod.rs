//! The client of a Filecoin node: Lotus v1 JSON-RPC as Lotus, Venus and Forest speak it (chain.md §3), over
//! HTTP, with head changes over WebSocket.
//!
//! [`Client`] has one typed method for each call that sealing, proofs and messages need. It asks one of
//! several nodes and goes to the next where that can help. [`HeadFollower`] turns notifications, however
//! lost, doubled or late, into a gapless sequence of reverts and applies.

mod client;
mod endpoint;
mod error;
mod follow;
mod frames;
mod heads;
mod health;
mod http;
mod methods;
mod subscribe;
mod types;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientConfig};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{AppError, NodeError};
pub use follow::{FollowConfig, HeadFollower};
pub use heads::{HeadEvent, TipSetSource, Tracker};
pub use health::NodeStatus;
pub use types::{
    ActorState, BeaconEntry, BlockHeader, BlockMessage, BlockTemplate, ChallengedSector, Deadline,
    ElectionProof, FeeSpec, FullHeader, InvocationResult, MessageLookup, MinerInfo, MinerPower, MiningBase,
    NetworkParams, ParentMessage, Partition, PowerClaim, PrecommitInfo, PrecommitOnChain, ProvingDeadline,
    Receipt, SectorExpiration, SectorInfo, SectorLocation, Ticket, TipSet, TipSetKey, Version, WinningProof,
};

/// For the fuzz targets alone: reads what a node sends, and tells whether it can be read.
#[cfg(feature = "fuzzing")]
pub fn read_frame(text: &str) -> bool {
    frames::read(text).is_ok()
}
