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
//! - `bad_answer` (transient): another program made the replica, and its commitments or files are not
//!   right. Looked at are comm_d, the sizes, and that `p_aux` makes comm_r; tried again.
//! - `layers_missing` (permanent): PC1's layers are not there; retry `pc1`.
//! - `no_space` (transient): free space; it is tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use std::path::PathBuf;
use std::sync::Arc;

use filecoin_proofs_api::seal::{
    SealPreCommitPhase1Output, SealPreCommitPhase2Output, seal_pre_commit_phase2,
};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::CacheDir;
use crate::types::{CommD, CommR, SealProof};
use crate::{progress, proofs, replica};

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
#[derive(Clone)]
pub struct Pc2;

impl Stage for Pc2 {
    const NAME: &'static str = "pc2";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("pc2.rs");
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
    /// What PC1 gave.
    pub pc1out: SealPreCommitPhase1Output,
    /// The folder with the layers and tree D, which gets the trees.
    pub cache_dir: PathBuf,
    /// The data, which is encoded in place.
    pub sealed_file: PathBuf,
}

/// What is kept until the replica is there.
pub struct Held {
    cache: CacheDir,
    sealed: PathBuf,
    comm_d: [u8; 32],
}

impl WireStage for Pc2 {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    type Answer = SealPreCommitPhase2Output;
    type Held = Held;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let unsealed = cx.local_path(&input.unsealed)?;
        let sealed = cx.attempt_dir()?.join("sealed");
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let cache = CacheDir::lock(&cx2)?;
            let phase1: SealPreCommitPhase1Output = serde_json::from_value(input.pc1_output.clone())
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
            let comm_d = phase1.comm_d;
            let task = Task {
                pc1out: phase1,
                cache_dir: cache.path().to_owned(),
                sealed_file: sealed.clone(),
            };
            let held = Held {
                cache,
                sealed,
                comm_d,
            };
            Ok(Next::Compute { task, held })
        })
        .await
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<SealPreCommitPhase2Output, Failure> {
        seal_pre_commit_phase2(task.pc1out, task.cache_dir, task.sealed_file)
            .map_err(|error| proofs::library_failure("PC2", &error))
    }

    fn finish(
        &self,
        cx: &StageContext,
        input: &Input,
        held: Held,
        output: SealPreCommitPhase2Output,
    ) -> Result<Next<Self>, Failure> {
        let Held {
            cache,
            sealed,
            comm_d,
        } = held;
        let comm_r = CommR(output.comm_r);
        if output.comm_d != comm_d || output.registered_proof != input.proof_type.0 {
            let text = format!(
                "PC2 answers for comm_d {} and {:?}, not for {} and {}",
                CommD(output.comm_d),
                output.registered_proof,
                CommD(comm_d),
                input.proof_type
            );
            return Err(Failure::transient("bad_answer", text));
        }
        if let Some(why) = replica::wrong(&sealed, cache.path(), comm_r, input.proof_type.sector_bytes()) {
            return Err(Failure::transient("bad_answer", format!("PC2's files: {why}")));
        }
        durable::sync_file(&sealed).map_err(|error| Failure::io("make durable", &sealed, &error))?;
        let folder = sealed.parent().unwrap_or(&sealed);
        durable::sync_dir(folder).map_err(|error| Failure::io("make durable", folder, &error))?;
        cache.sync_pc2()?;
        tracing::debug!(comm_d = %CommD(comm_d), %comm_r, "replica made");
        let sealed = cx.scratch_artifact(&sealed, Some(format!("comm_r:{comm_r}")))?;
        Ok(Next::End(Outcome::Done(Output { sealed, comm_r })))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let layer = |n: u8| {
            format!(
                r#"{{"path":"/mnt/nvme1/store/data/cache/s-t01000-7","id":"layer-{n}","size":64,"rows_to_discard":0}}"#
            )
        };
        let task = format!(
            r#"{{"pc1out":{{"registered_proof":"StackedDrg2KiBV1_1","labels":{{"StackedDrg2KiBV1":{{"labels":[{},{}],"_h":null}}}},"config":{{"path":"/mnt/nvme1/store/data/cache/s-t01000-7","id":"tree-d","size":127,"rows_to_discard":0}},"comm_d":{}}},"cache_dir":"/mnt/nvme1/store/data/cache/s-t01000-7","sealed_file":"/mnt/nvme1/store/data/sealed/s-t01000-7"}}"#,
            layer(1),
            layer(2),
            ints(21)
        );
        let answer = format!(
            r#"{{"registered_proof":"StackedDrg2KiBV1_1","comm_r":{},"comm_d":{}}}"#,
            ints(31),
            ints(21)
        );
        crate::golden::both_ways::<super::Pc2>(&task, &answer);
    }
}
