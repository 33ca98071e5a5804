//! Draws the one sector that a block winner must show, from the **local beacon**: this is for rehearsals
//! without a chain. Lotus takes the randomness from the chain, once for every block that it may make.
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
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::post::generate_winning_post_sector_challenge;
use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lookup;
use crate::types::{ActorId, PostPartition, PostProof, PostRandomness, Sectors};
use crate::{beacon, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// All sectors of the miner.
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
    /// The sector that was drawn.
    pub partition: PostPartition,
}

/// See the module.
pub struct WinningChallenge;

impl Stage for WinningChallenge {
    const NAME: &'static str = "winning_challenge";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("winning_challenge.rs");
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
            let post_proof_type = PostProof::winning(bytes).ok_or_else(|| {
                Failure::permanent("mixed_sizes", format!("no proof for sectors of {bytes} bytes"))
            })?;
            let drawn = beacon::draw_for_run("winning post", input.miner, 0, &cx2.key);
            let chosen = generate_winning_post_sector_challenge(
                post_proof_type.0,
                &drawn,
                replicas.len() as u64,
                proofs::prover_id(input.miner),
            )
            .map_err(|error| proofs::library_failure("draw a sector", &error))?;
            let replicas = chosen
                .into_iter()
                .filter_map(|at| replicas.get(usize::try_from(at).unwrap_or(usize::MAX)).cloned())
                .collect();
            Ok(Outcome::Done(Output {
                randomness: PostRandomness(drawn),
                randomness_source: beacon::LOCAL.to_owned(),
                post_proof_type,
                partition: PostPartition {
                    partition: 0,
                    replicas,
                },
            }))
        })
        .await
    }
}
