//! Proves that the winner of a block holds the sector that was drawn (WinningPoSt).
//!
//! **Reads** the sector's auxiliary files, its last tree, and some leaves of the replica; the Groth16 parameters of
//! the proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`, for seconds: a block cannot wait. The first
//! proof of a process loads the parameters, which then stay in memory.
//!
//! **Fails**
//! - `sector_faulty` (permanent): the sector that was drawn cannot be proved; the message says why.
//! - `parameters_missing` (permanent): generate or fetch them (the message says how), then retry.
//! - `empty_partition`, `partition_too_large` (permanent): not one sector is to be proved.
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
    /// The sector to prove.
    pub partition: PostPartition,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The proof and what it covers.
    pub post: Post,
}

/// See the module.
pub struct WinningPost {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for WinningPost {
    const NAME: &'static str = "winning_post";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("winning_post.rs");
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
            if let Some(fault) = vanilla.faults.first() {
                let text = format!("sector {}: {}", fault.sector.0, fault.reason);
                return Err(Failure::permanent("sector_faulty", text));
            }
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
