//! Proves a pre-committed sector on the chain and activates its data, and waits until that is final. The pledge comes from
//! the miner's available balance; the worker adds what is missing.
//!
//! **Reads** the chain.
//!
//! **Writes** one message to the chain (`ProveCommitSectors3`) for one passage of a run, whatever is killed.
//!
//! **Costs** nothing while it waits; gas and a pledge on the chain.
//!
//! **Fails** with `proof_invalid` (rewind: prove again), `precommit_gone` (rewind), `no_chain`, `bad_message`, `nonce_conflict`,
//! `signing_denied` (permanent), `insufficient_funds`, the failures of nodes (transient), and with what the miner actor says.

use schemars::JsonSchema;
use sealflow_chain::funds;
use sealflow_chain::params::{Activation, Require, piece, prove_commit};
use sealflow_chain::types::{ExitCode, PaddedPieceSize, miner::SectorActivationManifest};
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::send::{Sent, Wanted, once};
use super::{Access, Chain, address, failed, node, until};
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
    /// The message.
    pub commit_cid: String,
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
        let access = self.chain.access()?;
        let client = &access.client;
        let head = client.chain_head().await.map_err(node)?;
        let sent = once(access, &cx.key, input.miner, async || {
            wanted(access, &input).await
        })
        .await?;
        let Sent::Landed(landing) = sent else {
            return until(client, &head, head.height + 1).await;
        };
        let verdicts = sealflow_chain::outcome::batch_return(&landing.receipt.returned, 1)
            .map_err(|error| Failure::permanent("bad_return", error.to_string()))?;
        if let Some(exit) = verdicts.first().copied().flatten() {
            return Err(refused(exit));
        }
        let (miner, sector) = (address(input.miner), input.sector.0);
        let found = client.sector(&miner, sector, &head.key).await.map_err(node)?;
        let place = client.sector_location(&miner, sector, &head.key).await;
        let (Some(found), Ok(place)) = (found, place) else {
            let text = format!(
                "message {} landed, but the chain does not show sector {sector}",
                landing.cid
            );
            return Err(Failure::transient("sector_not_shown", text));
        };
        Ok(Outcome::Done(Output {
            commit_cid: landing.cid.to_string(),
            activation_epoch: found.activation,
            expiration_epoch: found.expiration,
            deadline: place.deadline,
            partition: place.partition,
        }))
    }
}

/// The actor took the message, and refused the sector in it.
fn refused(exit: ExitCode) -> Failure {
    match sealflow_chain::outcome::failure("ProveCommitSectors3", exit, None) {
        Some(failure) => failed(failure),
        None => Failure::permanent("sector_refused", format!("the chain refused the sector ({exit})")),
    }
}

async fn wanted(access: &Access, input: &Input) -> Result<Wanted, Failure> {
    let bad = |why: String| Failure::permanent("bad_message", why);
    let (client, miner) = (&access.client, address(input.miner));
    let head = client.chain_head().await.map_err(node)?;
    let found = client
        .precommit(&miner, input.sector.0, &head.key)
        .await
        .map_err(node)?;
    let Some(found) = found else {
        let text = format!("the chain has no pre-commit of sector {}", input.sector.0);
        return Err(Failure::rewind("precommit_gone", text));
    };
    let mut pieces = Vec::new();
    for info in &input.piece_infos {
        let made = piece(&info.comm_p.0, PaddedPieceSize(info.padded_bytes), Vec::new());
        pieces.push(made.map_err(|error| bad(error.to_string()))?);
    }
    let activation = Activation {
        manifest: SectorActivationManifest {
            sector_number: input.sector.0,
            pieces,
        },
        proof: hex::decode(&input.proof)
            .map_err(|error| bad(format!("the proof is no hexadecimal: {error}")))?,
    };
    let require = Require {
        activation: true,
        notification: false,
    };
    let call = prove_commit(vec![activation], require).map_err(|error| bad(error.to_string()))?;
    let duration = found.info.expiration - head.height;
    let size = input.proof_type.sector_bytes();
    let pledge = client
        .initial_pledge(duration, size, 0, &head.key)
        .await
        .map_err(node)?;
    Ok(Wanted {
        call,
        needs: funds::prove_commit_needs([(&pledge, &found.pre_commit_deposit)]),
        expires: None,
    })
}
