//! Encodes data into a copy of a committed-capacity replica: the updated replica, and its trees. Lotus calls it
//! ReplicaUpdate, Curio UpdateEncode.
//!
//! **Reads** the replica and its cache where they are stored, and leaves them as they are; the unsealed sector;
//! tree D in the sector's cache directory.
//!
//! **Writes** a new file `update` and a new folder `update_cache` into the attempt's own folder.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`; a copy of the sector and its trees on disk,
//! and for the time it takes one more in the system's folder for temporary files.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `tree_d_missing` (permanent): the tree is not there or not that of comm_d; retry `tree_d`.
//! - `replica_damaged` (permanent): a file of the replica is missing, has another size, or belongs to another
//!   replica than comm_r_old.
//! - `no_space` (transient): free space; it is tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use std::fs::File;
use std::path::PathBuf;

use filecoin_proofs_api::update::empty_sector_update_encode_into;
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{self, CacheDir, TREE_D};
use crate::types::{CommD, CommR, PieceInfo, SealProof, UpdateProof};
use crate::{progress, proofs, replica, tree};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type of the replica.
    pub proof_type: SealProof,
    /// The update proof type.
    pub update_proof_type: UpdateProof,
    /// The commitment to the replica.
    pub comm_r_old: CommR,
    /// The replica.
    pub sealed: Artifact,
    /// Its last tree and auxiliary files.
    pub cache: Artifact,
    /// The data, padded, with the sector's size.
    pub unsealed: Artifact,
    /// The pieces in it.
    pub piece_infos: Vec<PieceInfo>,
    /// The commitment to the data.
    pub comm_d: CommD,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The updated replica.
    pub update: Artifact,
    /// Its trees and auxiliary files.
    pub update_cache: Artifact,
    /// The commitment to the updated replica.
    pub comm_r_new: CommR,
    /// The commitment to the data in it.
    pub comm_d_new: CommD,
}

/// See the module.
pub struct SnapEncode;

impl Stage for SnapEncode {
    const NAME: &'static str = "snap_encode";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("snap_encode.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::pc2(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let paths = Paths {
            key: cx.local_path(&input.sealed)?,
            key_cache: cx.local_path(&input.cache)?,
            unsealed: cx.local_path(&input.unsealed)?,
            update: cx.attempt_dir()?.join("update"),
            update_cache: cx.attempt_dir()?.join("update_cache"),
        };
        let cx2 = cx.clone();
        cx.blocking(move || encode(&cx2, &paths, &input)).await
    }
}

struct Paths {
    key: PathBuf,
    key_cache: PathBuf,
    unsealed: PathBuf,
    update: PathBuf,
    update_cache: PathBuf,
}

fn encode(cx: &StageContext, paths: &Paths, input: &Input) -> Result<Outcome<Output>, Failure> {
    let bytes = input.update_proof_type.sector_bytes();
    let cache = CacheDir::lock_shared(cx)?;
    if !tree::ends_with_root(&cache.tree_d(), bytes, &input.comm_d.0) {
        let text = format!(
            "{} is not the tree of {}; retry step tree_d",
            cache.tree_d().display(),
            input.comm_d
        );
        return Err(Failure::permanent("tree_d_missing", text));
    }
    if let Some(why) = replica::wrong(&paths.key, &paths.key_cache, input.comm_r_old, bytes) {
        return Err(Failure::permanent("replica_damaged", why));
    }
    prepare(paths, &cache, bytes)?;
    progress::phase(cx, "encoding and trees");
    let encoded = empty_sector_update_encode_into(
        input.update_proof_type.0,
        &paths.update,
        &paths.update_cache,
        &paths.key,
        &paths.key_cache,
        &paths.unsealed,
        &proofs::library_pieces(&input.piece_infos, input.proof_type)?,
    )
    .map_err(|error| proofs::library_failure("encode the update", &error))?;
    sync(paths)?;
    let (comm_r_new, comm_d_new) = (CommR(encoded.comm_r_new), CommD(encoded.comm_d_new));
    Ok(Outcome::Done(Output {
        update: cx.scratch_artifact(&paths.update, Some(format!("comm_r:{comm_r_new}")))?,
        update_cache: cx.scratch_artifact(&paths.update_cache, None)?,
        comm_r_new,
        comm_d_new,
    }))
}

/// The library wants a file of the right size, and a folder; it takes the tree over the data that it finds
/// there.
fn prepare(paths: &Paths, cache: &CacheDir, bytes: u64) -> Result<(), Failure> {
    for path in [&paths.update, &paths.update_cache] {
        durable::remove(path).map_err(|error| Failure::io("remove", path, &error))?;
    }
    let failure = |error| Failure::io("make", &paths.update, &error);
    let update = File::create(&paths.update).map_err(failure)?;
    update.set_len(bytes).map_err(failure)?;
    let folder = &paths.update_cache;
    std::fs::create_dir(folder).map_err(|error| Failure::io("make", folder, &error))?;
    cache::link(&cache.tree_d(), &folder.join(TREE_D))
}

fn sync(paths: &Paths) -> Result<(), Failure> {
    let failure = |error| Failure::io("make durable", &paths.update, &error);
    durable::sync_file(&paths.update).map_err(failure)?;
    for entry in std::fs::read_dir(&paths.update_cache).map_err(failure)? {
        durable::sync_file(&entry.map_err(failure)?.path()).map_err(failure)?;
    }
    durable::sync_dir(&paths.update_cache).map_err(failure)?;
    let folder = paths.update.parent().unwrap_or(&paths.update);
    durable::sync_dir(folder).map_err(failure)
}
