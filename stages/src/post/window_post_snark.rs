//! The second half of `window_post`: proves the vanilla proofs of one partition in zero knowledge (Groth16). It
//! needs no sector, so it can run where the GPU is.
//!
//! **Reads** what `window_post_vanilla` wrote; the Groth16 parameters of the proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`; at 32 GiB an estimated 64 GiB of memory.
//! The first proof of a process loads the parameters, which then stay in memory.
//!
//! **Fails**
//! - `parameters_missing` (permanent): generate or fetch them (the message says how), then retry.
//! - `artifact_damaged` (permanent): the vanilla proofs are not what was written; retry `window_post_vanilla`.
//! - `proofs_library` (transient): the library failed; tried again.

use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::prove;
use crate::params::ParamsDir;
use crate::types::{ActorId, Post, PostPartition, PostProof, PostRandomness};
use crate::{handover, progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The randomness that chose the challenges.
    pub randomness: PostRandomness,
    /// The proof type.
    pub post_proof_type: PostProof,
    /// The sectors to prove.
    pub partition: PostPartition,
    /// The vanilla proofs of them.
    pub post_vanilla: Artifact,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The proof, what it covers, and the faults.
    pub post: Post,
}

/// See the module.
pub struct WindowPostSnark {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for WindowPostSnark {
    const NAME: &'static str = "window_post_snark";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("window_post_snark.rs");
    const CLAIM: Claim = Claim::Read;
    const PREREQUISITES: &'static [&'static str] = &[crate::seal::proof_parameters::MISSING];
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::post(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let params = self.params.clone();
        let cx2 = cx.clone();
        cx.blocking(move || {
            prove::require_parameters(&params, input.post_proof_type)?;
            let vanilla = handover::read(&cx2, &input.post_vanilla, "window_post_vanilla")?;
            progress::phase(&cx2, "Groth16 proof");
            let post = prove::snark(
                input.miner,
                input.randomness,
                input.post_proof_type,
                input.partition.partition,
                vanilla,
            )?;
            Ok(Outcome::Done(Output { post }))
        })
        .await
    }
}
