//! The first half of `window_post`: opens the replicas of one partition at the places that the randomness
//! chooses. It needs the sectors, but no parameters and little memory, so it can run where the disks are.
//!
//! **Reads** of each sector the auxiliary files, the last tree, and some leaves of the replica; of a store without
//! local paths only the ranges that the challenges need.
//!
//! **Writes** `post_vanilla.json` into the attempt's own folder, beside the ranges that come from such stores.
//!
//! **Costs** one core while it waits for disks; at 32 GiB and a full partition an output of some 100 MiB.
//!
//! **Fails**
//! - `empty_partition`, `partition_too_large` (permanent): the partition cannot be proved as it is.
//! - `unknown_store` (permanent): no store of this name is configured.
//! - `no_space` (transient): free space; it is tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::prove::{self, Job};
use crate::remote::RemoteReads;
use crate::types::{ActorId, Fault, PostPartition, PostProof, PostRandomness};
use crate::{handover, proofs};

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
    /// The vanilla proofs of the sectors that can be proved.
    pub post_vanilla: Artifact,
    /// The sectors that cannot be proved.
    pub faults: Vec<Fault>,
    /// What was read of stores without local paths, if anything was.
    #[serde(default)]
    pub post_reads: Option<RemoteReads>,
}

/// See the module.
pub struct WindowPostVanilla;

impl Stage for WindowPostVanilla {
    const NAME: &'static str = "window_post_vanilla";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("window_post_vanilla.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let cx2 = cx.clone();
        cx.blocking(move || {
            let vanilla = prove::vanilla(
                &cx2,
                &Job {
                    miner: input.miner,
                    randomness: input.randomness,
                    proof_type: input.post_proof_type,
                    partition: &input.partition,
                },
            )?;
            let target = cx2.attempt_dir()?.join("post_vanilla.json");
            let post_vanilla = handover::write(&cx2, &target, &vanilla)?;
            Ok(Outcome::Done(Output {
                post_vanilla,
                faults: vanilla.faults,
                post_reads: vanilla.reads,
            }))
        })
        .await
    }
}
