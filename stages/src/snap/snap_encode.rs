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
//! - `bad_answer` (transient): another program encoded, and comm_d, the sizes or the commitment that the new
//!   `p_aux` makes are not right; `snap_partition_proofs` looks deeper. Tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use filecoin_proofs_api::update::empty_sector_update_encode_into;
use filecoin_proofs_api::{PieceInfo as PieceInfoOfLibrary, RegisteredUpdateProof};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
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
#[derive(Clone)]
pub struct SnapEncode;

impl Stage for SnapEncode {
    const NAME: &'static str = "snap_encode";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("snap_encode.rs");
    const BOUND: bool = true;
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::pc2(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        wire::in_process(self, cx, input).await
    }
}

/// The task as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The update proof type.
    pub registered_proof: RegisteredUpdateProof,
    /// The updated replica: a file of the sector's size.
    pub new_replica_path: PathBuf,
    /// The folder for its trees, with tree D in it.
    pub new_cache_path: PathBuf,
    /// The replica.
    pub sector_path: PathBuf,
    /// Its last tree and auxiliary files.
    pub sector_cache_path: PathBuf,
    /// The data, padded, with the sector's size.
    pub staged_data_path: PathBuf,
    /// The pieces, which fill the sector.
    pub piece_infos: Vec<PieceInfoOfLibrary>,
}

/// The answer as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The commitment to the updated replica.
    pub comm_r_new: [u8; 32],
    /// The root of its last tree.
    pub comm_r_last_new: [u8; 32],
    /// The commitment to the data in it.
    pub comm_d_new: [u8; 32],
}

/// Where the files are.
pub struct Paths {
    key: PathBuf,
    key_cache: PathBuf,
    unsealed: PathBuf,
    update: PathBuf,
    update_cache: PathBuf,
}

/// What is kept until the update is there.
pub struct Held {
    _cache: CacheDir,
    paths: Paths,
}

impl WireStage for SnapEncode {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    type Answer = Answer;
    type Held = Held;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let paths = Paths {
            key: cx.local_path(&input.sealed)?,
            key_cache: cx.local_path(&input.cache)?,
            unsealed: cx.local_path(&input.unsealed)?,
            update: cx.attempt_dir()?.join("update"),
            update_cache: cx.attempt_dir()?.join("update_cache"),
        };
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let cache = checked(&cx2, &paths, &input)?;
            prepare(&paths, &cache, input.update_proof_type.sector_bytes())?;
            progress::phase(&cx2, "encoding and trees");
            let task = Task {
                registered_proof: input.update_proof_type.0,
                new_replica_path: paths.update.clone(),
                new_cache_path: paths.update_cache.clone(),
                sector_path: paths.key.clone(),
                sector_cache_path: paths.key_cache.clone(),
                staged_data_path: paths.unsealed.clone(),
                piece_infos: proofs::library_pieces(&input.piece_infos, input.proof_type)?,
            };
            let held = Held { _cache: cache, paths };
            Ok(Next::Compute { task, held })
        })
        .await
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<Answer, Failure> {
        let encoded = empty_sector_update_encode_into(
            task.registered_proof,
            &task.new_replica_path,
            &task.new_cache_path,
            &task.sector_path,
            &task.sector_cache_path,
            &task.staged_data_path,
            &task.piece_infos,
        )
        .map_err(|error| proofs::library_failure("encode the update", &error))?;
        Ok(Answer {
            comm_r_new: encoded.comm_r_new,
            comm_r_last_new: encoded.comm_r_last_new,
            comm_d_new: encoded.comm_d_new,
        })
    }

    fn finish(
        &self,
        cx: &StageContext,
        input: &Input,
        held: Held,
        answer: Answer,
    ) -> Result<Next<Self>, Failure> {
        let paths = held.paths;
        let (comm_r_new, comm_d_new) = (CommR(answer.comm_r_new), CommD(answer.comm_d_new));
        let bytes = input.update_proof_type.sector_bytes();
        let wrong = if comm_d_new == input.comm_d {
            replica::wrong(&paths.update, &paths.update_cache, comm_r_new, bytes)
        } else {
            Some(format!("it has the data {comm_d_new}, not {}", input.comm_d))
        };
        if let Some(why) = wrong {
            return Err(Failure::transient("bad_answer", format!("the update: {why}")));
        }
        sync(&paths)?;
        Ok(Next::End(Outcome::Done(Output {
            update: cx.scratch_artifact(&paths.update, Some(format!("comm_r:{comm_r_new}")))?,
            update_cache: cx.scratch_artifact(&paths.update_cache, None)?,
            comm_r_new,
            comm_d_new,
        })))
    }
}

/// Takes the cache directory, and looks whether tree D and the replica are what they should be.
fn checked(cx: &StageContext, paths: &Paths, input: &Input) -> Result<CacheDir, Failure> {
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
    match replica::wrong(&paths.key, &paths.key_cache, input.comm_r_old, bytes) {
        Some(why) => Err(Failure::permanent("replica_damaged", why)),
        None => Ok(cache),
    }
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let task = format!(
            r#"{{"registered_proof":"StackedDrg2KiBV1","new_replica_path":"/mnt/nvme1/store/data/update/s-t01000-7","new_cache_path":"/mnt/nvme1/store/data/update-cache/s-t01000-7","sector_path":"/mnt/nvme1/store/data/sealed/s-t01000-7","sector_cache_path":"/mnt/nvme1/store/data/cache/s-t01000-7","staged_data_path":"/mnt/nvme1/store/data/unsealed/s-t01000-7","piece_infos":[{{"commitment":{},"size":1016}},{{"commitment":{},"size":1016}}]}}"#,
            ints(171),
            ints(172)
        );
        let answer = format!(
            r#"{{"comm_r_new":{},"comm_r_last_new":{},"comm_d_new":{}}}"#,
            ints(51),
            ints(52),
            ints(53)
        );
        crate::golden::both_ways::<super::SnapEncode>(&task, &answer);
    }
}
