//! Draws the seed that chooses what the seal proof must show, from the **local beacon**: this is for rehearsals without a
//! chain. Lotus waits 150 epochs after the pre-commit for it.
//!
//! **Reads** nothing.
//!
//! **Writes** nothing.
//!
//! **Costs** nothing.
//!
//! **Fails** never.

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::{ActorId, CommR, SectorNumber, Seed as Randomness};
use crate::{beacon, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The replica, which must exist before its challenges are known.
    pub comm_r: CommR,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The seed.
    pub seed: Randomness,
    /// Where it came from.
    pub seed_source: String,
}

/// See the module.
pub struct Seed;

impl Stage for Seed {
    const NAME: &'static str = "seed";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("seed.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let seed = Randomness(beacon::draw("seed", input.miner, input.sector, &cx.key));
        Ok(Outcome::Done(Output {
            seed,
            seed_source: beacon::LOCAL.to_owned(),
        }))
    }
}
