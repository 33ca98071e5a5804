//! Draws the ticket that a replica is bound to, from the **local beacon**: this is for rehearsals without a
//! chain. Lotus takes it from the chain 900 epochs back, in PreCommit1.
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

use crate::types::{ActorId, SectorNumber, Ticket as Randomness};
use crate::{beacon, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The ticket.
    pub ticket: Randomness,
    /// Where it came from.
    pub ticket_source: String,
}

/// See the module.
pub struct Ticket;

impl Stage for Ticket {
    const NAME: &'static str = "ticket";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("ticket.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let ticket = Randomness(beacon::draw("ticket", input.miner, input.sector, &cx.key));
        Ok(Outcome::Done(Output {
            ticket,
            ticket_source: beacon::LOCAL.to_owned(),
        }))
    }
}
