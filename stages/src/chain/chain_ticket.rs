//! Draws the ticket that a replica is bound to, from the chain: the randomness of an epoch that is one finality old, so
//! that no reorganisation takes it away.
//!
//! **Reads** the chain.
//!
//! **Writes** nothing.
//!
//! **Costs** nothing.
//!
//! **Fails** with `no_chain` (permanent) without a node in the configuration, and with the failures of nodes, such as
//! `node_unreachable` (transient).

use schemars::JsonSchema;
use sealflow_chain::policy::{FINALITY, TICKET_LOOKBACK};
use sealflow_chain::randomness::Tag;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Chain, expires_at, node, until};
use crate::proofs;
use crate::types::{ActorId, Ticket};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// How many epochs back; one finality (900) if nothing is said.
    #[serde(default)]
    pub ticket_lookback: Option<u64>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The ticket.
    pub ticket: Ticket,
    /// The epoch that it is of.
    pub ticket_epoch: i64,
    /// When a pre-commit with it must have come to its end, in milliseconds since 1970: three days after the chain takes it no
    /// more, because a message that was sent in time may not be final yet, and nodes may be away.
    pub expires_at: u64,
}

/// See the module.
pub struct ChainTicket {
    /// The chain.
    pub chain: Chain,
}

impl Stage for ChainTicket {
    const NAME: &'static str = "chain_ticket";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("chain_ticket.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, _: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let access = self.chain.access()?;
        let client = &access.client;
        let head = client.chain_head().await.map_err(node)?;
        let back = input
            .ticket_lookback
            .map_or(FINALITY, |back| i64::try_from(back).unwrap_or(FINALITY));
        // A young network has nothing that old; its genesis must be left behind all the same.
        let epoch = (head.height - back).max(0);
        if head.height <= epoch {
            return until(access, &head, epoch + 1).await;
        }
        let ticket = client
            .randomness(Tag::SealTicket, epoch, Some(input.miner.0), &head.key)
            .await
            .map_err(node)?;
        let block_secs = client.network_params().await.map_err(node)?.block_delay_secs;
        Ok(Outcome::Done(Output {
            ticket: Ticket(ticket),
            ticket_epoch: epoch,
            expires_at: expires_at(&head, epoch + TICKET_LOOKBACK, block_secs),
        }))
    }
}
