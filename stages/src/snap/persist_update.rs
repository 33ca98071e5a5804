//! Copies what must last of an update from the scratch folder into a store, or into several: the updated replica, what
//! proofs of spacetime need of its trees, and a description. From then on proofs of spacetime and unsealing take the
//! update. The replica that it was made from stays: the data cannot be had without it.
//!
//! **Reads** the updated replica and its trees.
//!
//! **Writes** `update/s-t0…`, `update-cache/s-t0…` and then `sector/s-t0….update.json` into the store: under
//! temporary names, checksummed and made durable before they get their own. A copy that was broken off goes on
//! where it stopped, in the same stores.
//!
//! **Costs** one core for checksums; the replica's size in the store.
//!
//! **Fails**
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

use crate::cache;
use crate::keep::{Asked, Keep, Kept};
use crate::proofs;
use crate::sector_info::{UpdateInfo, store_name};
use crate::types::{ActorId, CommD, CommR, PieceInfo, SectorNumber, UpdateProof};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The update proof type.
    pub update_proof_type: UpdateProof,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The commitment to the replica that the update was made from.
    pub comm_r_old: CommR,
    /// The commitment to the updated replica.
    pub comm_r_new: CommR,
    /// The commitment to the data in it.
    pub comm_d_new: CommD,
    /// The pieces in it.
    pub piece_infos: Vec<PieceInfo>,
    /// The updated replica.
    pub update: Artifact,
    /// Its trees and auxiliary files.
    pub update_cache: Artifact,
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
    /// The updated replica, in the first of the stores.
    pub update: Artifact,
    /// Its last tree and auxiliary files, in the first of the stores.
    pub update_cache: Artifact,
    /// The description of the update, in the first of the stores.
    pub update_info: Artifact,
    /// All stores that keep it, under the same keys, and why these.
    #[serde(default)]
    pub update_kept: Vec<Kept>,
}

/// See the module.
pub struct PersistUpdate;

impl Stage for PersistUpdate {
    const NAME: &'static str = "persist_update";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("persist_update.rs");
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
        let kept = staging.join("update_cache");
        cache::stage_kept(&cx.local_path(&input.update_cache)?, &kept)?;
        let info = UpdateInfo {
            version: UpdateInfo::VERSION,
            miner: input.miner,
            sector: input.sector,
            update_proof_type: input.update_proof_type,
            comm_r_old: input.comm_r_old,
            comm_r_new: input.comm_r_new,
            comm_d_new: input.comm_d_new,
            piece_infos: input.piece_infos,
        };
        let described = staging.join("update.json");
        let text = serde_json::to_vec_pretty(&info).unwrap_or_default();
        durable::write(&described, &text).map_err(|error| Failure::io("write", &described, &error))?;
        let update = cx.local_path(&input.update)?;
        let keys = [
            format!("update/{name}"),
            format!("update-cache/{name}"),
            format!("sector/{name}.update.json"),
        ];
        let kept_bytes = tree_bytes(&kept).map_err(|error| Failure::io("measure", &kept, &error))?;
        let asked = Asked {
            stores: input.store.as_deref(),
            copies: input.copies,
            bytes: input.update.bytes + kept_bytes + text.len() as u64,
            // An update counts once it is described.
            counts: &keys[2],
            keys: keys.to_vec(),
        };
        let keep = Keep::choose(cx, asked).await?;
        let paths: [&Path; 3] = [&update, &kept, &described];
        let what: Vec<(&str, &Path)> = keys.iter().map(String::as_str).zip(paths).collect();
        let [update, update_cache, update_info] = <[Artifact; 3]>::try_from(keep.put(cx, &what).await?)
            .map_err(|_| Failure::permanent("bad_output", "nothing was kept"))?;
        Ok(Outcome::Done(Output {
            update,
            update_cache,
            update_info,
            update_kept: keep.chosen,
        }))
    }
}
