//! Builds the binary tree over a sector's data (tree D) and gives its root, the data commitment.
//! Lotus does this in PreCommit1, Curio in TreeD.
//!
//! **Reads** the unsealed sector.
//!
//! **Writes** `sc-02-data-tree-d.dat` into the sector's cache directory, under a temporary name until
//! it is durable: it is there whole or not at all.
//!
//! **Costs** one core for hashing (all cores help when free); twice the sector's size on disk.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `comm_d_mismatch` (permanent): the data is not what its pieces say. Check the disk, then
//!   `sealflow run retry` from `add_pieces`.
//! - `no_space` (transient): free space; it is tried again.

use filecoin_proofs_api::seal::compute_comm_d;
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::CacheDir;
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
pub struct TreeD;

impl Stage for TreeD {
    const NAME: &'static str = "tree_d";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("tree_d.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let unsealed = cx.local_path(&input.unsealed)?;
        let cx2 = cx.clone();
        cx.blocking(move || {
            let cache = CacheDir::lock(&cx2)?;
            let sector = input.proof_type.sector_bytes();
            let target = cache.tree_d();
            let partial = durable::temporary(&target);
            durable::remove(&partial).map_err(|error| Failure::io("remove", &partial, &error))?;
            let pieces = proofs::library_pieces(&input.piece_infos, input.proof_type)?;
            let expected = compute_comm_d(input.proof_type.0, &pieces).map_err(|error| {
                Failure::permanent("bad_piece", format!("the pieces do not make a sector: {error:#}"))
            })?;
            let done = |bytes| progress::bytes(&cx2, "hashing", bytes, 2 * sector);
            let root = tree::build(&unsealed, &partial, sector, &done)
                .map_err(|error| Failure::io("build the tree of", &unsealed, &error))?;
            if root != expected {
                let text = format!(
                    "{} has commitment {}, but its pieces make {}",
                    unsealed.display(),
                    hex::encode(root),
                    hex::encode(expected)
                );
                return Err(Failure::permanent("comm_d_mismatch", text));
            }
            durable::publish(&partial, &target).map_err(|error| Failure::io("publish", &target, &error))?;
            Ok(Outcome::Done(Output { comm_d: CommD(root) }))
        })
        .await
    }
}
