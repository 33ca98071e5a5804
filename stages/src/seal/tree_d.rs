//! Builds the binary tree over a sector's data (tree D) and gives its root, the data commitment.
//! Lotus does this in PreCommit1, Curio in TreeD.
//!
//! **Reads** the unsealed sector.
//!
//! **Writes** `sc-02-data-tree-d.dat` into the sector's cache directory, in a temporary folder until
//! it is durable: it is there whole or not at all. Whoever built it, it counts only after its length is
//! right and its root equals what the pieces make; the rows between are not hashed again.
//!
//! **Costs** one core for hashing (all cores help when free); twice the sector's size on disk.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `comm_d_mismatch` (permanent): the data is not what its pieces say. Check the disk, then
//!   `sealflow run retry` from `add_pieces`.
//! - `bad_answer` (transient): another program says that it built the tree, and it has not; tried again.
//! - `no_space` (transient): free space; it is tried again.

use std::path::PathBuf;
use std::sync::Arc;

use filecoin_proofs_api::RegisteredSealProof;
use filecoin_proofs_api::seal::compute_comm_d;
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{CacheDir, TREE_D};
use crate::types::{CommD, PieceInfo, SealProof};
use crate::{progress, proofs, tree};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The data, padded, with the sector's size.
    pub unsealed: Artifact,
    /// The pieces in it.
    pub piece_infos: Vec<PieceInfo>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The data commitment.
    pub comm_d: CommD,
}

/// See the module.
#[derive(Clone)]
pub struct TreeD;

impl Stage for TreeD {
    const NAME: &'static str = "tree_d";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("tree_d.rs");
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
        wire::in_process(self, cx, input).await
    }
}

/// The task as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The seal proof type.
    pub registered_proof: RegisteredSealProof,
    /// The data, padded, with the sector's size.
    pub staged_file: PathBuf,
    /// The folder that gets `sc-02-data-tree-d.dat`.
    pub cache_dir: PathBuf,
}

/// What is kept until the tree is there.
pub struct Held {
    cache: CacheDir,
    /// A folder for this attempt alone, beside the place of the tree.
    folder: PathBuf,
    expected: [u8; 32],
}

impl WireStage for TreeD {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    type Answer = bool;
    type Held = Held;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let staged_file = cx.local_path(&input.unsealed)?;
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let cache = CacheDir::lock(&cx2)?;
            let pieces = proofs::library_pieces(&input.piece_infos, input.proof_type)?;
            let expected = compute_comm_d(input.proof_type.0, &pieces).map_err(|error| {
                Failure::permanent("bad_piece", format!("the pieces do not make a sector: {error:#}"))
            })?;
            let folder = durable::temporary(&cache.tree_d());
            durable::remove(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
            std::fs::create_dir(&folder).map_err(|error| Failure::io("make", &folder, &error))?;
            let task = Task {
                registered_proof: input.proof_type.0,
                staged_file,
                cache_dir: folder.clone(),
            };
            let held = Held {
                cache,
                folder,
                expected,
            };
            Ok(Next::Compute { task, held })
        })
        .await
    }

    fn compute(&self, task: Task, reporter: &Reporter) -> Result<bool, Failure> {
        let sector = u64::from(task.registered_proof.sector_size());
        let done = |bytes| reporter.progress(progress::of_bytes("hashing", bytes, 2 * sector));
        tree::build(&task.staged_file, &task.cache_dir.join(TREE_D), sector, &done)
            .map_err(|error| Failure::io("build the tree of", &task.staged_file, &error))?;
        Ok(true)
    }

    fn finish(&self, cx: &StageContext, input: &Input, held: Held, _: bool) -> Result<Next<Self>, Failure> {
        let made = held.folder.join(TREE_D);
        let sector = input.proof_type.sector_bytes();
        if !tree::ends_with_root(&made, sector, &held.expected) {
            let bytes = std::fs::metadata(&made).map_or(0, |meta| meta.len());
            if bytes != tree::tree_bytes(sector) {
                let wanted = tree::tree_bytes(sector);
                let text = format!("{} has {bytes} bytes instead of {wanted}", made.display());
                return Err(Failure::transient("bad_answer", text));
            }
            let root = tree::root(&made).map_or_else(|error| error.to_string(), hex::encode);
            let text = format!(
                "{} has commitment {root}, but its pieces make {}",
                cx.local_path(&input.unsealed)?.display(),
                hex::encode(held.expected)
            );
            return Err(Failure::permanent("comm_d_mismatch", text));
        }
        let target = held.cache.tree_d();
        durable::publish(&made, &target).map_err(|error| Failure::io("publish", &target, &error))?;
        durable::remove(&held.folder).map_err(|error| Failure::io("remove", &held.folder, &error))?;
        let comm_d = CommD(held.expected);
        Ok(Next::End(Outcome::Done(Output { comm_d })))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        crate::golden::both_ways::<super::TreeD>(
            r#"{"registered_proof":"StackedDrg2KiBV1_1","staged_file":"/mnt/nvme1/store/data/unsealed/s-t01000-7","cache_dir":"/mnt/nvme1/store/data/prepared/s-t01000-7"}"#,
            "true",
        );
    }
}
