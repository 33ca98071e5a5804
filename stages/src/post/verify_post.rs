//! Verifies proofs of spacetime, as the network would, and gathers the faults of all partitions.
//!
//! **Reads** the verifying key of the proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** milliseconds.
//!
//! **Fails**
//! - `proof_invalid` (rewind): the proof does not verify; a workflow sends the run back to the step
//!   that can make it right, else the run pauses.
//! - `proofs_library` (transient): the library failed; tried again.

use std::collections::BTreeMap;

use filecoin_proofs_api::PublicReplicaInfo;
use filecoin_proofs_api::post::{verify_window_post, verify_winning_post};
use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::proofs;
use crate::types::{ActorId, Fault, Post, PostProof, PostRandomness, Posts};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The randomness that chose the challenges.
    pub randomness: PostRandomness,
    /// The proof type.
    pub post_proof_type: PostProof,
    /// The proof and what it covers; or a list of them, one for each partition.
    pub post: Posts,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// False only if every sector is faulty, so that there is no proof; what does not verify fails.
    pub verified: bool,
    /// How many sectors are proved.
    pub sectors_proved: u64,
    /// The sectors that are not.
    pub faults: Vec<Fault>,
}

/// See the module.
pub struct VerifyPost;

impl Stage for VerifyPost {
    const NAME: &'static str = "verify_post";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("verify_post.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        cx.blocking(move || {
            let mut output = Output {
                verified: false,
                sectors_proved: 0,
                faults: Vec::new(),
            };
            for post in &input.post.0 {
                output.faults.extend_from_slice(&post.faults);
                if post.proved.is_empty() {
                    continue;
                }
                if !verifies(input.post_proof_type, input.miner, input.randomness, post)? {
                    let text = format!(
                        "the proof of partition {} over {} sectors does not verify",
                        post.partition,
                        post.proved.len()
                    );
                    return Err(Failure::rewind("proof_invalid", text));
                }
                output.verified = true;
                output.sectors_proved += post.proved.len() as u64;
            }
            Ok(Outcome::Done(output))
        })
        .await
    }
}

/// Whether the proof is one of the sectors that it says it covers.
pub(super) fn verifies(
    proof_type: PostProof,
    miner: ActorId,
    randomness: PostRandomness,
    post: &Post,
) -> Result<bool, Failure> {
    let proof = hex::decode(&post.proof)
        .map_err(|_| Failure::permanent("bad_input", "the proof is not hexadecimal"))?;
    let replicas: BTreeMap<_, _> = post
        .proved
        .iter()
        .map(|one| {
            let replica = PublicReplicaInfo::new(proof_type.0, one.comm_r.0);
            (proofs::sector_id(one.sector), replica)
        })
        .collect();
    let prover = proofs::prover_id(miner);
    let verified = if proof_type.is_winning() {
        verify_winning_post(&randomness.0, &proof, &replicas, prover)
    } else {
        let proofs = [(proof_type.0, proof.as_slice())];
        verify_window_post(&randomness.0, &proofs, &replicas, prover)
    };
    verified.map_err(|error| proofs::library_failure("verify the proof of spacetime", &error))
}
