//! Waits until the seed of a pre-committed sector is known, and draws it from the chain: the beacon's randomness of the
//! epoch that comes the network's challenge delay after the pre-commit. A few epochs more are waited for, against
//! reorganisations.
//!
//! **Reads** the chain.
//!
//! **Writes** nothing.
//!
//! **Costs** nothing while it waits.
//!
//! **Fails** with `no_chain`, `number_burned` (permanent: the pre-commit expired), `precommit_gone` (rewind) if the chain does
//! not know the pre-commit any more, and with the failures of nodes, such as `node_unreachable` (transient).

use schemars::JsonSchema;
use sealflow_chain::randomness::Tag;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Chain, address, node, precommit_gone, until};
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
        let epoch = input.precommit_epoch + params.pre_commit_challenge_delay;
        if head.height < epoch + CONFIDENCE {
            return until(access, &head, epoch + CONFIDENCE).await;
        }
        let miner = address(input.miner);
        let found = client.precommit(&miner, input.sector.0, &head.key).await;
        let found = found.map_err(node)?;
        if found.is_none_or(|found| found.pre_commit_epoch != input.precommit_epoch) {
            let allocated = client.allocated(&miner, &head.key).await.map_err(node)?;
            return Err(precommit_gone(allocated.get(input.sector.0), input.sector.0));
        }
        let tag = Tag::SealSeed;
        let seed = client
            .randomness(tag, epoch, Some(input.miner.0), &head.key)
            .await
            .map_err(node)?;
        Ok(Outcome::Done(Output {
            seed: Seed(seed),
            seed_epoch: epoch,
        }))
    }
}
