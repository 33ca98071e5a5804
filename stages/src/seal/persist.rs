//! Copies what must last of a sealed sector from the scratch folder into a store, or into several: the
//! replica, what proofs of spacetime need of the cache, and a description of the sector. Lotus calls it
//! MoveStorage.
//!
//! **Reads** the replica and the cache directory.
//!
//! **Writes** `sealed/s-t0…`, `cache/s-t0…` and `sector/s-t0….json` into the store: under temporary
//! names, checksummed and made durable before they get their own. A copy that was broken off goes on
//! where it stopped, in the same stores.
//!
//! **Costs** one core for checksums; the replica's size in the store.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `unknown_store` (permanent): no store of this name is configured.
//! - `bad_input` (permanent): `store` or `copies` make no sense; the message says how they are written.
//! - `store_refused` (permanent): the store is for reading only, is being drained, or refuses; of several, too few
//!   take it. The message says why and what to do.
//! - `store_unavailable` (transient): the store does not answer or has no room; of several, too few do. Tried again.
//! - `no_space` (transient): free space in the store; it is tried again.
//! - `no_permission` (permanent): let sealflow write to the store, then retry.

use std::path::Path;

use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext, tree_bytes};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{self, CacheDir};
use crate::keep::{Asked, Keep, Kept};
use crate::proofs;
use crate::sector_info::{SectorInfo, store_name};
use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Ticket};

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
    /// The store to copy to; `store` if nothing is said. Of several (`NAME,NAME`, or `any`) those are chosen that
    /// take the sector and have room for it, by weight against what is free.
    #[serde(default)]
    pub store: Option<String>,
    /// In how many stores; one if nothing is said.
    #[serde(default)]
    pub copies: Option<u64>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The replica, in the first of the stores.
    pub sealed: Artifact,
    /// The last tree and the auxiliary files, in the first of the stores.
    pub cache: Artifact,
    /// The description of the sector, in the first of the stores.
    pub sector_info: Artifact,
    /// All stores that keep it, under the same keys, and why these.
    #[serde(default)]
    pub kept: Vec<Kept>,
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
        let name = store_name(input.miner, input.sector);
        let staging = cx.attempt_dir()?;
        // The lock is held to the end: nobody changes the cache while it is copied.
        let lock = CacheDir::lock_shared(cx)?;
        let cache = staging.join("cache");
        cache::stage_kept(lock.path(), &cache)?;
        let info = SectorInfo {
            version: SectorInfo::version_of(Some(input.ticket), Some(input.comm_d)),
            miner: input.miner,
            sector: input.sector,
            proof_type: input.proof_type,
            ticket: Some(input.ticket),
            comm_d: Some(input.comm_d),
            comm_r: input.comm_r,
            piece_infos: input.piece_infos,
        };
        let described = staging.join("sector.json");
        let text = serde_json::to_vec_pretty(&info).unwrap_or_default();
        durable::write(&described, &text).map_err(|error| Failure::io("write", &described, &error))?;
        let sealed = cx.local_path(&input.sealed)?;
        let keys = [
            format!("sealed/{name}"),
            format!("cache/{name}"),
            format!("sector/{name}.json"),
        ];
        let cache_bytes = tree_bytes(&cache).map_err(|error| Failure::io("measure", &cache, &error))?;
        let asked = Asked {
            stores: input.store.as_deref(),
            copies: input.copies,
            bytes: input.sealed.bytes + cache_bytes + text.len() as u64,
            // A sector counts once it is described.
            counts: &keys[2],
            keys: keys.to_vec(),
        };
        let keep = Keep::choose(cx, asked).await?;
        let paths: [&Path; 3] = [&sealed, &cache, &described];
        let what: Vec<(&str, &Path)> = keys.iter().map(String::as_str).zip(paths).collect();
        let [sealed, cache, sector_info] = <[Artifact; 3]>::try_from(keep.put(cx, &what).await?)
            .map_err(|_| Failure::permanent("bad_output", "nothing was kept"))?;
        Ok(Outcome::Done(Output {
            sealed,
            cache,
            sector_info,
            kept: keep.chosen,
        }))
    }
}
