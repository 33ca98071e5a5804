//! PreCommit2: hashes the layers into trees and encodes the data into the replica. Lotus calls it
//! PreCommit2, Curio TreeRC.
//!
//! **Reads** the unsealed sector; the layers and tree D in the cache directory.
//!
//! **Writes** a new `sealed` file into the attempt's own folder, made from `unsealed` every time
//! because the library encodes in place; the column trees, the last tree and the auxiliary files into
//! the cache directory, where those of an earlier attempt are removed first.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`; a batch of columns in memory.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `layers_missing` (permanent): PC1's layers are not there; retry `pc1`.
//! - `no_space` (transient): free space; it is tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::seal::{SealPreCommitPhase1Output, seal_pre_commit_phase2};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::CacheDir;
use crate::types::{CommD, CommR, SealProof};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The data, padded, with the sector's size.
    pub unsealed: Artifact,
    /// What PC1 gave.
    pub pc1_output: Value,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The replica.
    pub sealed: Artifact,
    /// The commitment to the replica.
    pub comm_r: CommR,
}

/// See the module.
pub struct Pc2;

impl Stage for Pc2 {
    const NAME: &'static str = "pc2";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("pc2.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::pc2(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let unsealed = cx.local_path(&input.unsealed)?;
        let sealed = cx.attempt_dir()?.join("sealed");
        let cx2 = cx.clone();
        cx.blocking(move || {
            let cache = CacheDir::lock(&cx2)?;
            let phase1: SealPreCommitPhase1Output = serde_json::from_value(input.pc1_output)
                .map_err(|error| Failure::permanent("bad_input", format!("PC1 output: {error}")))?;
            for layer in 1..=input.proof_type.layers() {
                if !cache.layer(layer).exists() {
                    let text = format!("{} is missing; retry step pc1", cache.layer(layer).display());
                    return Err(Failure::permanent("layers_missing", text));
                }
            }
            cache.remove_pc2()?;
            progress::phase(&cx2, "copying the data");
            std::fs::copy(&unsealed, &sealed).map_err(|error| Failure::io("copy to", &sealed, &error))?;
            progress::phase(&cx2, "trees and replica");
            let output = seal_pre_commit_phase2(phase1, cache.path(), &sealed)
                .map_err(|error| proofs::library_failure("PC2", &error))?;
            durable::sync_file(&sealed).map_err(|error| Failure::io("make durable", &sealed, &error))?;
            let folder = sealed.parent().unwrap_or(&sealed);
            durable::sync_dir(folder).map_err(|error| Failure::io("make durable", folder, &error))?;
            cache.sync_pc2()?;
            let comm_r = CommR(output.comm_r);
            tracing::debug!(comm_d = %CommD(output.comm_d), %comm_r, "replica made");
            let sealed = cx2.scratch_artifact(&sealed, Some(format!("comm_r:{comm_r}")))?;
            Ok(Outcome::Done(Output { sealed, comm_r }))
        })
        .await
    }
}
