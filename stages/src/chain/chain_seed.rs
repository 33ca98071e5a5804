//! Waits until the seed of a pre-committed sector is known, and draws it from the chain: the beacon's randomness of the
//! epoch that comes the network's challenge delay after the pre-commit, as the chain shows it now. A few epochs more are waited
//! for, against reorganisations.
//!
//! **Reads** the chain.
//!
//! **Writes** nothing.
//!
//! **Costs** nothing while it waits.
//!
//! **Fails** with `no_chain`, `number_burned` (permanent: no proof can come in time any more, or the pre-commit expired),
//! `precommit_gone` (transient: nodes put the message of a reverted pre-commit back) if the chain does not know the pre-commit,
//! and with the failures of nodes, such as `node_unreachable` (transient).

use schemars::JsonSchema;
use sealflow_chain::policy::prove_commit_by;
use sealflow_chain::randomness::Tag;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Chain, address, expires_at, node, precommit_gone, too_late, until};
use crate::proofs;
use crate::types::{ActorId, SectorNumber, Seed};

/// How many epochs more are waited for, as Lotus does.
const CONFIDENCE: i64 = 6;

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The epoch of the pre-commit.
    pub precommit_epoch: i64,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The seed.
    pub seed: Seed,
    /// The epoch that it is of.
    pub seed_epoch: i64,
    /// When a proof for it must have come to its end, in milliseconds since 1970: three days after the chain takes it no more,
    /// because a message that was sent in time may not be final yet, and nodes may be away.
    pub expires_at: u64,
}

/// See the module.
pub struct ChainSeed {
    /// The chain.
    pub chain: Chain,
}

impl Stage for ChainSeed {
    const NAME: &'static str = "chain_seed";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("chain_seed.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, _: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let access = self.chain.access()?;
        let client = &access.client;
        let params = client.network_params().await.map_err(node)?;
        let head = client.chain_head().await.map_err(node)?;
        let delay = params.pre_commit_challenge_delay;
        let told = input.precommit_epoch + delay + CONFIDENCE;
        if head.height < told {
            return until(access, &head, told).await;
        }
        let (miner, number) = (address(input.miner), input.sector.0);
        let found = client.precommit(&miner, number, &head.key).await;
        let Some(found) = found.map_err(node)? else {
            let allocated = client.allocated(&miner, &head.key).await.map_err(node)?;
            return Err(precommit_gone(allocated.get(number), number));
        };
        if too_late(&head, found.pre_commit_epoch, delay) {
            return Err(precommit_gone(true, number));
        }
        // A reorganisation may have moved it.
        let epoch = found.pre_commit_epoch + delay;
        if head.height < epoch + CONFIDENCE {
            return until(access, &head, epoch + CONFIDENCE).await;
        }
        let tag = Tag::SealSeed;
        let seed = client
            .randomness(tag, epoch, Some(input.miner.0), &head.key)
            .await
            .map_err(node)?;
        Ok(Outcome::Done(Output {
            seed: Seed(seed),
            seed_epoch: epoch,
            expires_at: expires_at(
                &head,
                prove_commit_by(found.pre_commit_epoch, delay),
                params.block_delay_secs,
            ),
        }))
    }
}
