//! What nodes answer, by the names of the network. Unknown fields are passed over, and null stands for what Go
//! leaves out.

mod chain;
mod miner;
mod mining;
mod number;
mod state;

pub use chain::{BlockHeader, TipSet, TipSetKey};
pub use miner::{
    Deadline, MinerInfo, MinerPower, Partition, PowerClaim, PrecommitInfo, PrecommitOnChain, ProvingDeadline,
    SectorExpiration, SectorInfo, SectorLocation,
};
pub use mining::{
    BeaconEntry, BlockMessage, BlockTemplate, ChallengedSector, ElectionProof, FullHeader, MiningBase,
    Ticket, WinningProof,
};
pub use state::{
    ActorState, FeeSpec, InvocationResult, MessageLookup, NetworkParams, ParentMessage, Receipt, Version,
};

#[cfg(test)]
mod tests;
