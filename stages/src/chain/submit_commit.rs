//! Proves a pre-committed sector on the chain and activates its data, and waits until that is final. The pledge comes from
//! the miner's available balance; the worker adds what is missing.
//!
//! **Reads** the chain.
//!
//! **Writes** one message to the chain (`ProveCommitSectors3`) for one batch, or for one passage of a run, whatever is killed.
//! A sector that the chain would refuse is left out, and fails alone.
//!
//! **Costs** nothing while it waits; gas and a pledge on the chain.
//!
//! **Fails** with `proof_invalid` (rewind: prove again), `precommit_gone` (rewind), `number_burned` (the pre-commit expired),
//! `no_chain`, `bad_message`, `nonce_conflict`, `message_failed` (permanent), `left_out`, the failures of nodes (transient), and
//! with what the miner actor says.

use schemars::JsonSchema;
use sealflow_chain::control::Purpose;
use sealflow_chain::funds;
use sealflow_chain::messager::Landing;
use sealflow_chain::params::{Activation, BuildError, Call, Require, piece, prove_commit};
use sealflow_chain::policy::PROVE_COMMIT_WITHIN;
use sealflow_chain::types::{
    ChainEpoch, ExitCode, PaddedPieceSize, TokenAmount, miner::SectorActivationManifest,
};
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{BatchStage, Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::together::{Sectors, Verdicts, View, alone, bad, together};
use super::{Chain, node, precommit_gone};
use crate::proofs;
use crate::types::{ActorId, PieceInfo, SealProof, SectorNumber};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The proof, in hexadecimal.
    pub proof: String,
    /// The pieces in the sector; none for committed capacity.
    pub piece_infos: Vec<PieceInfo>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The message; nothing if the chain had the sector without one that is known.
    pub commit_cid: Option<String>,
    /// When the chain activated the sector.
    pub activation_epoch: i64,
    /// When it ends.
    pub expiration_epoch: i64,
    /// The deadline at which it is proved, from 0.
    pub deadline: u64,
    /// The partition of that deadline, from 0.
    pub partition: u64,
}

/// See the module.
pub struct SubmitCommit {
    /// The chain.
    pub chain: Chain,
}

impl Stage for SubmitCommit {
    const NAME: &'static str = "submit_commit";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("submit_commit.rs");
    const CLAIM: Claim = Claim::None;
    const EFFECT: bool = true;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::light()
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        alone::<Commits>(self.chain.access()?, cx, input).await
    }
}

impl BatchStage for SubmitCommit {
    async fn run_many(
        &self,
        cx: &StageContext,
        inputs: Vec<Input>,
    ) -> Result<Outcome<Verdicts<Output>>, Failure> {
        together::<Commits>(self.chain.access()?, cx, &inputs).await
    }
}

/// The message that proves sectors.
struct Commits;

/// A sector in it.
#[derive(Clone)]
struct Part {
    activation: Activation<SectorActivationManifest>,
    proof_type: i64,
    needs: TokenAmount,
}

impl Sectors for Commits {
    type Input = Input;
    type Output = Output;
    type Part = Part;
    const METHOD: u64 = 34;
    const PURPOSE: Purpose = Purpose::Commit;

    fn of(input: &Input) -> (ActorId, u64) {
        (input.miner, input.sector.0)
    }

    async fn there(view: &View<'_>, input: &Input) -> Result<Option<Output>, Failure> {
        shown(view, input.sector.0, None).await
    }

    async fn part(view: &View<'_>, input: &Input) -> Result<Part, Failure> {
        let (client, number) = (view.client, input.sector.0);
        let found = client
            .precommit(&view.miner, number, &view.head.key)
            .await
            .map_err(node)?;
        let Some(found) = found else {
            return Err(precommit_gone(view.allocated.get(number), number));
        };
        if view.head.height > found.pre_commit_epoch + PROVE_COMMIT_WITHIN {
            return Err(precommit_gone(true, number));
        }
        let mut pieces = Vec::new();
        for info in &input.piece_infos {
            let made = piece(&info.comm_p.0, PaddedPieceSize(info.padded_bytes), Vec::new());
            pieces.push(made.map_err(bad)?);
        }
        let proof = hex::decode(&input.proof).map_err(|error| {
            Failure::permanent("bad_message", format!("the proof is no hexadecimal: {error}"))
        })?;
        let duration = found.info.expiration - view.head.height;
        let size = input.proof_type.sector_bytes();
        let pledge = client
            .initial_pledge(duration, size, 0, &view.head.key)
            .await
            .map_err(node)?;
        Ok(Part {
            activation: Activation {
                manifest: SectorActivationManifest {
                    sector_number: number,
                    pieces,
                },
                proof,
            },
            proof_type: found.info.seal_proof,
            needs: funds::prove_commit_needs([(&pledge, &found.pre_commit_deposit)]),
        })
    }

    fn alike(one: &Part, other: &Part) -> bool {
        one.proof_type == other.proof_type
    }

    /// One that is bad does not take the others with it; one alone says why.
    fn call(parts: Vec<Part>) -> Result<Call, BuildError> {
        let require = Require {
            activation: parts.len() == 1,
            notification: false,
        };
        prove_commit(parts.into_iter().map(|part| part.activation).collect(), require)
    }

    fn needs(part: &Part) -> TokenAmount {
        part.needs.clone()
    }

    fn expires(_: &Part) -> Option<ChainEpoch> {
        None
    }

    fn verdicts(returned: &[u8], sectors: usize) -> Result<Vec<Option<ExitCode>>, Failure> {
        sealflow_chain::outcome::batch_return(returned, sectors)
            .map_err(|error| Failure::permanent("bad_return", error.to_string()))
    }

    async fn landed(view: &View<'_>, input: &Input, landing: &Landing) -> Result<Output, Failure> {
        let shown = shown(view, input.sector.0, Some(landing)).await?;
        shown.ok_or_else(|| {
            let text = format!(
                "message {} landed, but the chain does not show sector {}",
                landing.cid, input.sector.0
            );
            Failure::transient("sector_not_shown", text)
        })
    }
}

/// The sector as the chain shows it.
async fn shown(view: &View<'_>, sector: u64, landing: Option<&Landing>) -> Result<Option<Output>, Failure> {
    let (client, miner, at) = (view.client, &view.miner, &view.head.key);
    let Some(found) = client.sector(miner, sector, at).await.map_err(node)? else {
        return Ok(None);
    };
    let place = client.sector_location(miner, sector, at).await.map_err(node)?;
    Ok(Some(Output {
        commit_cid: landing.map(|landing| landing.cid.to_string()),
        activation_epoch: found.activation,
        expiration_epoch: found.expiration,
        deadline: place.deadline,
        partition: place.partition,
    }))
}
