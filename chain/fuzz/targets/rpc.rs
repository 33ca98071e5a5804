//! What nodes answer: frames of JSON-RPC and of channels, and the results in them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealflow_chain::node::{
    ActorState, BlockMessage, BlockTemplate, InvocationResult, MessageLookup, MinerInfo, MinerPower,
    MiningBase, Partition, PrecommitOnChain, ProvingDeadline, SectorInfo, TipSet, read_frame,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    drop(read_frame(text));
    drop(serde_json::from_str::<TipSet>(text));
    drop(serde_json::from_str::<MinerInfo>(text));
    drop(serde_json::from_str::<InvocationResult>(text));
    drop(serde_json::from_str::<MinerPower>(text));
    drop(serde_json::from_str::<Partition>(text));
    drop(serde_json::from_str::<ActorState>(text));
    drop(serde_json::from_str::<SectorInfo>(text));
    drop(serde_json::from_str::<PrecommitOnChain>(text));
    drop(serde_json::from_str::<ProvingDeadline>(text));
    drop(serde_json::from_str::<MessageLookup>(text));
    drop(serde_json::from_str::<MiningBase>(text));
    drop(serde_json::from_str::<BlockTemplate>(text));
    drop(serde_json::from_str::<BlockMessage>(text));
});
