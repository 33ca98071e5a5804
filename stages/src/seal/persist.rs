//! Copies what must last of a sealed sector from the scratch folder into a store: the replica, what
//! proofs of spacetime need of the cache, and a description of the sector. Lotus calls it MoveStorage.
//!
//! **Reads** the replica and the cache directory.
//!
//! **Writes** `sealed/s-t0…`, `cache/s-t0…` and `sector/s-t0….json` into the store: under temporary
//! names, checksummed and made durable before they get their own. A copy that was broken off goes on
//! where it stopped.
//!
//! **Costs** one core for checksums; the replica's size in the store.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `unknown_store` (permanent): no store of this name is configured.
//! - `store_refused` (permanent): the store is for reading only, or refuses; the message says why and what to do.
//! - `store_unavailable` (transient): the store does not answer or has no room; tried again.
//! - `no_space` (transient): free space in the store; it is tried again.
//! - `no_permission` (permanent): let sealflow write to the store, then retry.

use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{self, CacheDir};
use crate::sector_info::{SectorInfo, store_name};
use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Ticket};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The randomness that the replica is bound to.
    pub ticket: Ticket,
    /// The data commitment.
    pub comm_d: CommD,
    /// The commitment to the replica.
    pub comm_r: CommR,
    /// The pieces in the sector.
    pub piece_infos: Vec<PieceInfo>,
    /// The replica.
    pub sealed: Artifact,
    /// The store to copy to; `store` if nothing is said.
    #[serde(default)]
    pub store: Option<String>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The replica, in the store.
    pub sealed: Artifact,
    /// The last tree and the auxiliary files, in the store.
    pub cache: Artifact,
    /// The description of the sector, in the store.
    pub sector_info: Artifact,
}

/// See the module.
pub struct Persist;

impl Stage for Persist {
    const NAME: &'static str = "persist";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("persist.rs");
    const BOUND: bool = true;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let store = cx.stores.get(input.store.as_deref().unwrap_or("store"))?.clone();
        if !store.policy().admits(input.miner.0) {
            let text = format!(
                "store `{}` takes no sectors of {} (`allow_miners` and `deny_miners` in the configuration)",
                store.name(),
                input.miner
            );
            return Err(Failure::permanent("store_refused", text));
        }
        let name = store_name(input.miner, input.sector);
        let staging = cx.attempt_dir()?;
        // The lock is held to the end: nobody changes the cache while it is copied.
        let lock = CacheDir::lock_shared(cx)?;
        let cache = staging.join("cache");
        cache::stage_kept(lock.path(), &cache)?;
        let info = SectorInfo {
            version: SectorInfo::VERSION,
            miner: input.miner,
            sector: input.sector,
            proof_type: input.proof_type,
            ticket: input.ticket,
            comm_d: input.comm_d,
            comm_r: input.comm_r,
            piece_infos: input.piece_infos,
        };
        let described = staging.join("sector.json");
        let text = serde_json::to_vec_pretty(&info).unwrap_or_default();
        durable::write(&described, &text).map_err(|error| Failure::io("write", &described, &error))?;
        let sealed_path = cx.local_path(&input.sealed)?;
        let size = input.sealed.bytes;
        let done =
            |phase: &'static str, total: u64| move |bytes: u64| progress::bytes(cx, phase, bytes, total);
        let sealed_done = done("copying the replica", size);
        let sealed = store
            .put(&format!("sealed/{name}"), &sealed_path, &sealed_done)
            .await?;
        let cache = store.put(&format!("cache/{name}"), &cache, &|_| {}).await?;
        let sector_info = store
            .put(&format!("sector/{name}.json"), &described, &|_| {})
            .await?;
        Ok(Outcome::Done(Output {
            sealed,
            cache,
            sector_info,
        }))
    }
}
