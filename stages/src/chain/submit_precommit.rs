//! Registers a sealed sector on the chain, and waits until that is final. The deposit comes from the miner's available
//! balance; the worker adds what is missing.
//!
//! **Reads** the chain.
//!
//! **Writes** one message to the chain (`PreCommitSectorBatch2`) for one batch, or for one passage of a run, whatever is
//! killed. A sector that the chain would refuse is left out, and fails alone.
//!
//! **Costs** nothing while it waits; gas and a deposit on the chain.
//!
//! **Fails** with `ticket_expired`, `message_expired` (rewind: replicate with a new ticket), `number_burned`, `no_chain`,
//! `bad_message`, `nonce_conflict`, `message_failed` (permanent), `left_out`, the failures of nodes (transient), and with what
//! the miner actor says.

use schemars::JsonSchema;
use sealflow_chain::commitment::{self, CommitmentError};
use sealflow_chain::control::Purpose;
use sealflow_chain::messager::Landing;
use sealflow_chain::node::PrecommitInfo;
use sealflow_chain::params::{BuildError, Call, Precommit, precommit};
use sealflow_chain::policy::{LIFETIME_MIN, PROVE_COMMIT_WITHIN, TICKET_LOOKBACK, check_expiration};
use sealflow_chain::types::{ChainEpoch, ExitCode, TokenAmount};
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{BatchStage, Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::together::{Sectors, Verdicts, View, alone, not_shown, together};
use super::{Chain, node, precommit_gone, seal_proof};
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
    /// The message; nothing if the chain had the pre-commit without one that is known.
    pub precommit_cid: Option<String>,
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
        alone::<Precommits>(self.chain.access()?, cx, input).await
    }
}

impl BatchStage for SubmitPrecommit {
    async fn run_many(
        &self,
        cx: &StageContext,
        inputs: Vec<Input>,
    ) -> Result<Outcome<Verdicts<Output>>, Failure> {
        together::<Precommits>(self.chain.access()?, cx, &inputs).await
    }
}

/// The message that registers sectors.
struct Precommits;

/// A sector in it.
#[derive(Clone)]
struct Part {
    sector: Precommit,
    deposit: TokenAmount,
}

impl Sectors for Precommits {
    type Input = Input;
    type Output = Output;
    type Part = Part;
    const METHOD: u64 = 28;
    const PURPOSE: Purpose = Purpose::Precommit;

    fn of(input: &Input) -> (ActorId, u64) {
        (input.miner, input.sector.0)
    }

    async fn there(view: &View<'_>, input: &Input) -> Result<Option<Output>, Failure> {
        let found = view.precommit(input.sector.0).await?;
        let sealed = commitment::sealed_cid(&input.comm_r.0).map_err(bad_cid)?;
        let ours = found.filter(|found| found.info.sealed_cid == sealed);
        Ok(ours.map(|found| Output {
            precommit_cid: None,
            precommit_epoch: found.pre_commit_epoch,
        }))
    }

    async fn part(view: &View<'_>, input: &Input) -> Result<Part, Failure> {
        let number = input.sector.0;
        let oldest = view.head.height - TICKET_LOOKBACK;
        if input.ticket_epoch <= oldest {
            let text = format!(
                "the ticket is of epoch {}, and the chain takes none before {oldest}",
                input.ticket_epoch
            );
            return Err(Failure::rewind("ticket_expired", text));
        }
        if view.allocated.get(number) {
            if view.precommit(number).await?.is_some() || view.sector(number).await?.is_some() {
                let text = format!("another sector has the number {number}");
                return Err(Failure::permanent("sector_number_taken", text));
            }
            return Err(precommit_gone(true, number));
        }
        let expiration = expiration(view.head.height, input.lifetime_days)?;
        let comm_d = (!input.piece_infos.is_empty()).then_some(input.comm_d.0);
        let sector = Precommit {
            proof: seal_proof(input.proof_type),
            number,
            comm_r: input.comm_r.0,
            comm_d,
            ticket_epoch: input.ticket_epoch,
            expiration,
        };
        let info = PrecommitInfo {
            seal_proof: i64::from(sector.proof),
            sector_number: number,
            sealed_cid: commitment::sealed_cid(&sector.comm_r).map_err(bad_cid)?,
            seal_rand_epoch: sector.ticket_epoch,
            deal_ids: Vec::new(),
            expiration,
            unsealed_cid: comm_d
                .as_ref()
                .map(commitment::unsealed_cid)
                .transpose()
                .map_err(bad_cid)?,
        };
        let deposit = view
            .client
            .precommit_deposit(&view.miner, &info, &view.head.key)
            .await
            .map_err(node)?;
        Ok(Part { sector, deposit })
    }

    fn call(parts: Vec<Part>) -> Result<Call, BuildError> {
        let sectors: Vec<Precommit> = parts.into_iter().map(|part| part.sector).collect();
        precommit(&sectors)
    }

    fn needs(part: &Part) -> TokenAmount {
        part.deposit.clone()
    }

    fn expires(part: &Part) -> Option<ChainEpoch> {
        Some(part.sector.ticket_epoch + TICKET_LOOKBACK)
    }

    /// The actor takes all of them, or none.
    fn verdicts(_: &[u8], sectors: usize) -> Result<Vec<Option<ExitCode>>, Failure> {
        Ok(vec![None; sectors])
    }

    async fn landed(view: &View<'_>, input: &Input, landing: &Landing) -> Result<Output, Failure> {
        let found = view.precommit(input.sector.0).await?;
        let Some(found) = found else {
            let what = format!("the pre-commit of sector {}", input.sector.0);
            return Err(not_shown("precommit_gone", landing, &what));
        };
        Ok(Output {
            precommit_cid: Some(landing.cid.to_string()),
            precommit_epoch: found.pre_commit_epoch,
        })
    }
}

fn bad_cid(error: CommitmentError) -> Failure {
    Failure::permanent("bad_message", error.to_string())
}

/// When a sector ends that is activated as late as it may be.
fn expiration(height: ChainEpoch, days: Option<u64>) -> Result<ChainEpoch, Failure> {
    let days = days.unwrap_or(LIFETIME_DAYS);
    let lifetime = i64::try_from(days)
        .unwrap_or(i64::MAX)
        .saturating_mul(DAY)
        .max(LIFETIME_MIN);
    let activation = height + PROVE_COMMIT_WITHIN + LANDING;
    let expiration = activation.saturating_add(lifetime);
    check_expiration(height, activation, expiration)
        .map_err(|error| Failure::permanent("bad_message", error.to_string()))?;
    Ok(expiration)
}
