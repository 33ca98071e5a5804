//! Draws what a deadline's proofs must show, from the **local beacon**: this is for rehearsals without a
//! chain. Finds the sectors and puts them into partitions, each of which is proved by itself. Lotus takes the
//! randomness from the chain, and the partitions from the miner's state.
//!
//! **Reads** the descriptions of the sectors in the store.
//!
//! **Writes** nothing.
//!
//! **Costs** nothing.
//!
//! **Fails**
//! - `unknown_sector` (permanent): the store does not describe such a sector; the message says what to do.
//! - `no_sectors`, `sector_twice`, `mixed_sizes` (permanent): start again with other `sectors`.
//! - `unknown_store`, `store_refused` (permanent): no store of this name is configured, or it refuses to be read.
//! - `store_unavailable` (transient): the store does not answer; tried again.
//! - `artifact_damaged` (permanent): a description is not whole.

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lookup;
use crate::types::{ActorId, Deadline, PostPartition, PostProof, PostRandomness, Sectors};
use crate::{beacon, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The deadline.
    pub deadline: Deadline,
    /// The sectors of the deadline.
    pub sectors: Sectors,
    /// The store that has them; `store` if nothing is said.
    #[serde(default)]
    pub store: Option<String>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The randomness.
    pub randomness: PostRandomness,
    /// Where it came from.
    pub randomness_source: String,
    /// The proof type for sectors of this size.
    pub post_proof_type: PostProof,
    /// The sectors, by number, in partitions.
    pub partitions: Vec<PostPartition>,
}

/// See the module.
pub struct PostChallenge;

impl Stage for PostChallenge {
    const NAME: &'static str = "post_challenge";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("post_challenge.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let store = input.store.as_deref().unwrap_or("store");
        let (bytes, replicas) = lookup::replicas(&cx.stores, input.miner, &input.sectors, store).await?;
        let cx2 = cx.clone();
        cx.blocking(move || {
            let post_proof_type = PostProof::window(bytes).ok_or_else(|| {
                Failure::permanent("mixed_sizes", format!("no proof for sectors of {bytes} bytes"))
            })?;
            let partitions = (0..)
                .zip(replicas.chunks(post_proof_type.sectors()))
                .map(|(partition, replicas)| PostPartition {
                    partition,
                    replicas: replicas.to_vec(),
                })
                .collect();
            let drawn = beacon::draw_for_run("window post", input.miner, input.deadline.0, &cx2.key);
            Ok(Outcome::Done(Output {
                randomness: PostRandomness(drawn),
                randomness_source: beacon::LOCAL.to_owned(),
                post_proof_type,
                partitions,
            }))
        })
        .await
    }
}
