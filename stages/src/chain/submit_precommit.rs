//! Registers a sealed sector on the chain, and waits until that is final. The deposit comes from the miner's available
//! balance; the worker adds what is missing.
//!
//! **Reads** the chain.
//!
//! **Writes** one message to the chain (`PreCommitSectorBatch2`) for one passage of a run, whatever is killed.
//!
//! **Costs** nothing while it waits; gas and a deposit on the chain.
//!
//! **Fails** with `ticket_expired` (rewind: replicate with a new ticket), `no_chain`, `bad_message`, `nonce_conflict`,
//! `signing_denied` (permanent), `insufficient_funds`, the failures of nodes (transient), and with what the miner actor says.

use schemars::JsonSchema;
use sealflow_chain::commitment;
use sealflow_chain::node::PrecommitInfo;
use sealflow_chain::params::{Precommit, precommit};
use sealflow_chain::policy::{LIFETIME_MIN, PROVE_COMMIT_WITHIN, TICKET_LOOKBACK, check_expiration};
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::send::{Sent, Wanted, once};
use super::{Access, Chain, address, node, seal_proof, until};
use crate::proofs;
use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber};

/// Epochs of a day, and how long a sector lives if nobody says.
const DAY: i64 = 2880;
const LIFETIME_DAYS: u64 = 540;

/// Epochs that a message may need to land, for which the expiration leaves room.
const LANDING: i64 = DAY;

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The data commitment.
    pub comm_d: CommD,
    /// The commitment to the replica.
    pub comm_r: CommR,
    /// The epoch of the ticket.
    pub ticket_epoch: i64,
    /// The pieces in the sector; none for committed capacity.
    pub piece_infos: Vec<PieceInfo>,
    /// How many days it lives, from the latest activation on; 540 if nothing is said.
    #[serde(default)]
    pub lifetime_days: Option<u64>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The message.
    pub precommit_cid: String,
    /// The epoch at which the chain registered it.
    pub precommit_epoch: i64,
}

/// See the module.
pub struct SubmitPrecommit {
    /// The chain.
    pub chain: Chain,
}

impl Stage for SubmitPrecommit {
    const NAME: &'static str = "submit_precommit";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("submit_precommit.rs");
    const CLAIM: Claim = Claim::None;
    const EFFECT: bool = true;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let access = self.chain.access()?;
        let head = access.client.chain_head().await.map_err(node)?;
        let sent = once(access, &cx.key, input.miner, async || {
            wanted(access, &input).await
        })
        .await?;
        let Sent::Landed(landing) = sent else {
            return until(&access.client, &head, head.height + 1).await;
        };
        let miner = address(input.miner);
        let found = access
            .client
            .precommit(&miner, input.sector.0, &head.key)
            .await
            .map_err(node)?;
        let Some(found) = found else {
            let text = format!(
                "message {} landed, but the chain has no pre-commit of sector {}",
                landing.cid, input.sector.0
            );
            return Err(Failure::transient("precommit_gone", text));
        };
        Ok(Outcome::Done(Output {
            precommit_cid: landing.cid.to_string(),
            precommit_epoch: found.pre_commit_epoch,
        }))
    }
}

async fn wanted(access: &Access, input: &Input) -> Result<Wanted, Failure> {
    let bad = |why: String| Failure::permanent("bad_message", why);
    let (client, miner) = (&access.client, address(input.miner));
    let head = client.chain_head().await.map_err(node)?;
    let oldest = head.height - TICKET_LOOKBACK;
    if input.ticket_epoch <= oldest {
        let text = format!(
            "the ticket is of epoch {}, and the chain takes none before {oldest}",
            input.ticket_epoch
        );
        return Err(Failure::rewind("ticket_expired", text));
    }
    let days = input.lifetime_days.unwrap_or(LIFETIME_DAYS);
    let lifetime = i64::try_from(days)
        .unwrap_or(i64::MAX)
        .saturating_mul(DAY)
        .max(LIFETIME_MIN);
    let activation = head.height + PROVE_COMMIT_WITHIN + LANDING;
    let expiration = activation.saturating_add(lifetime);
    check_expiration(head.height, activation, expiration).map_err(|error| bad(error.to_string()))?;
    let comm_d = (!input.piece_infos.is_empty()).then_some(input.comm_d.0);
    let sector = Precommit {
        proof: seal_proof(input.proof_type),
        number: input.sector.0,
        comm_r: input.comm_r.0,
        comm_d,
        ticket_epoch: input.ticket_epoch,
        expiration,
    };
    let call = precommit(std::slice::from_ref(&sector)).map_err(|error| bad(error.to_string()))?;
    let cid = |error: commitment::CommitmentError| bad(error.to_string());
    let info = PrecommitInfo {
        seal_proof: i64::from(sector.proof),
        sector_number: sector.number,
        sealed_cid: commitment::sealed_cid(&sector.comm_r).map_err(cid)?,
        seal_rand_epoch: sector.ticket_epoch,
        deal_ids: Vec::new(),
        expiration,
        unsealed_cid: comm_d
            .as_ref()
            .map(commitment::unsealed_cid)
            .transpose()
            .map_err(cid)?,
    };
    let needs = client
        .precommit_deposit(&miner, &info, &head.key)
        .await
        .map_err(node)?;
    Ok(Wanted {
        call,
        needs,
        expires: Some(input.ticket_epoch + TICKET_LOOKBACK),
    })
}
