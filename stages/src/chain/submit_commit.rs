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
//! **Fails** with `proof_invalid` (rewind: prove again), `seed_changed` (rewind: the chain has another seed now, draw it again
//! and prove again), `precommit_gone` (transient), `number_burned` (no proof can come in time any more), `no_chain`, `bad_message`, `nonce_conflict`, `message_failed` (permanent), `left_out`, the failures of nodes (transient), and
//! with what the miner actor says.

use schemars::JsonSchema;
use sealflow_chain::control::Purpose;
use sealflow_chain::funds;
use sealflow_chain::messager::Landing;
use sealflow_chain::params::{
    Activation, BuildError, Call, Require, market_notification, piece, prove_commit,
};
use sealflow_chain::policy::prove_commit_by;
use sealflow_chain::randomness::Tag;
use sealflow_chain::types::{
    ChainEpoch, ExitCode, PaddedPieceSize, TokenAmount,
    miner::{PieceActivationManifest, SectorActivationManifest},
};
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{BatchStage, Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::together::{Sectors, Verdicts, View, alone, bad, not_shown, together};
use super::{Chain, node, precommit_gone, too_late};
use crate::proofs;
use crate::types::{ActorId, PieceInfo, Pieces, SealProof, SectorNumber, Seed};

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
    /// Where the pieces come from, which says what deals of the built-in market they are for; none if nothing is said.
    #[serde(default)]
    pub pieces: Option<Pieces>,
    /// Whether the sector is to stay inactive if the market does not take a piece for its deal; no if nothing is said.
    #[serde(default)]
    pub require_deals: bool,
    /// The seed that the proof was made for, which is compared with the chain's; not compared if nothing is said.
    #[serde(default)]
    pub seed: Option<Seed>,
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
    /// Whether all of it fails if the market does not take a piece.
    require_deals: bool,
    /// The last epoch at which the chain takes it.
    by: ChainEpoch,
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
        let Some(found) = view.precommit(number).await? else {
            return Err(precommit_gone(view.allocated.get(number), number));
        };
        let delay = client
            .network_params()
            .await
            .map_err(node)?
            .pre_commit_challenge_delay;
        if too_late(&view.head, found.pre_commit_epoch, delay) {
            return Err(precommit_gone(true, number));
        }
        check_seed(view, input, found.pre_commit_epoch + delay).await?;
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
                    pieces: manifests(input)?,
                },
                proof,
            },
            proof_type: found.info.seal_proof,
            needs: funds::prove_commit_needs([(&pledge, &found.pre_commit_deposit)]),
            require_deals: input.require_deals,
            by: prove_commit_by(found.pre_commit_epoch, delay),
        })
    }

    fn alike(one: &Part, other: &Part) -> bool {
        one.proof_type == other.proof_type && one.require_deals == other.require_deals
    }

    /// One that is bad does not take the others with it; one alone says why.
    fn call(parts: Vec<Part>) -> Result<Call, BuildError> {
        let require = Require {
            activation: parts.len() == 1,
            notification: parts.first().is_some_and(|part| part.require_deals),
        };
        prove_commit(parts.into_iter().map(|part| part.activation).collect(), require)
    }

    fn needs(part: &Part) -> TokenAmount {
        part.needs.clone()
    }

    fn expires(part: &Part) -> Option<ChainEpoch> {
        Some(part.by)
    }

    fn verdicts(returned: &[u8], sectors: usize) -> Result<Vec<Option<ExitCode>>, Failure> {
        sealflow_chain::outcome::batch_return(returned, sectors)
            .map_err(|error| Failure::permanent("bad_return", error.to_string()))
    }

    async fn landed(view: &View<'_>, input: &Input, landing: &Landing) -> Result<Output, Failure> {
        let shown = shown(view, input.sector.0, Some(landing)).await?;
        let what = format!("sector {}", input.sector.0);
        shown.ok_or_else(|| not_shown("sector_not_shown", landing, &what))
    }
}

/// The pieces, in their order in the sector, with whom the chain tells of them.
fn manifests(input: &Input) -> Result<Vec<PieceActivationManifest>, Failure> {
    let deals = deals(input)?;
    let pieces = input.piece_infos.iter().zip(deals);
    let made = pieces.map(|(info, deal)| {
        let notify = deal.map(market_notification).transpose().map_err(bad)?;
        let size = PaddedPieceSize(info.padded_bytes);
        piece(&info.comm_p.0, size, notify.into_iter().collect()).map_err(bad)
    });
    made.collect()
}

/// The deal of each piece, if it is for one.
fn deals(input: &Input) -> Result<Vec<Option<u64>>, Failure> {
    let sources = input.pieces.iter().flat_map(|pieces| &pieces.0);
    let deals: Vec<Option<u64>> = sources
        .filter(|source| !source.pledge)
        .map(|source| source.deal)
        .collect();
    if deals.iter().all(Option::is_none) {
        return Ok(vec![None; input.piece_infos.len()]);
    }
    if deals.len() != input.piece_infos.len() {
        let text = format!(
            "{} pieces are in sector {}, and {} were asked for: which deal is whose cannot be told",
            input.piece_infos.len(),
            input.sector.0,
            deals.len()
        );
        return Err(Failure::permanent("bad_message", text));
    }
    Ok(deals)
}

/// A reorganisation that moved the pre-commit gave the sector another seed, for which the proof does not hold.
async fn check_seed(view: &View<'_>, input: &Input, epoch: ChainEpoch) -> Result<(), Failure> {
    let Some(proved) = &input.seed else {
        return Ok(());
    };
    let changed = |why: &str| {
        let text = format!(
            "the proof of sector {} was made for another seed: {why}",
            input.sector.0
        );
        Err(Failure::rewind("seed_changed", text))
    };
    if view.head.height < epoch {
        return changed("the chain has none yet");
    }
    let drawn = view
        .client
        .randomness(Tag::SealSeed, epoch, Some(input.miner.0), &view.head.key)
        .await
        .map_err(node)?;
    if drawn == proved.0 {
        return Ok(());
    }
    changed(&format!("the chain's is of epoch {epoch}"))
}

/// The sector as the chain shows it.
async fn shown(view: &View<'_>, sector: u64, landing: Option<&Landing>) -> Result<Option<Output>, Failure> {
    let Some(found) = view.sector(sector).await? else {
        return Ok(None);
    };
    let place = view.client.sector_location(&view.miner, sector, &view.head.key);
    let place = place.await.map_err(node)?;
    Ok(Some(Output {
        commit_cid: landing.map(|landing| landing.cid.to_string()),
        activation_epoch: found.activation,
        expiration_epoch: found.expiration,
        deadline: place.deadline,
        partition: place.partition,
    }))
}
