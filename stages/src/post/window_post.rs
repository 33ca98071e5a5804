//! Proves that the sectors of one partition are still there (WindowPoSt). A sector that cannot be proved becomes
//! a fault with its reason, and the others are proved without it.
//!
//! **Reads** of each sector the auxiliary files, the last tree, and some leaves of the replica; the Groth16
//! parameters of the proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`; at 32 GiB an estimated 64 GiB of memory.
//! The first proof of a process loads the parameters, which then stay in memory.
//!
//! **Fails**
//! - `parameters_missing` (permanent): generate or fetch them (the message says how), then retry.
//! - `empty_partition`, `partition_too_large` (permanent): the partition cannot be proved as it is.
//! - `unknown_store`, `no_local_path` (permanent): no store of this name is configured, or its files cannot be
//!   read in place.
//! - `proofs_library` (transient): the library failed; tried again.

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::prove::{self, Job};
use crate::params::ParamsDir;
use crate::types::{ActorId, Post, PostPartition, PostProof, PostRandomness};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The randomness that chooses the challenges.
    pub randomness: PostRandomness,
    /// The proof type.
    pub post_proof_type: PostProof,
    /// The sectors to prove.
    pub partition: PostPartition,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The proof, what it covers, and the faults.
    pub post: Post,
}

/// See the module.
pub struct WindowPost {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for WindowPost {
    const NAME: &'static str = "window_post";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("window_post.rs");
    const CLAIM: Claim = Claim::None;
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
            let vanilla = prove::vanilla(
                &cx2,
                &Job {
                    miner: input.miner,
                    randomness: input.randomness,
                    proof_type: input.post_proof_type,
                    partition: &input.partition,
                },
            )?;
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
