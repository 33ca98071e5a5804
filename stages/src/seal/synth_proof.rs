//! Makes the synthetic proofs from which the chain later draws (proof types with `SyntheticPoRep`);
//! for other proof types there is nothing to do. Afterwards the layers are not needed any more.
//!
//! **Reads** the replica; the layers, trees and auxiliary files in the cache directory.
//!
//! **Writes** `syn-porep-vanilla-proofs` into the cache directory, where that of an earlier attempt is
//! removed first.
//!
//! **Costs** all cores for a short time.
//!
//! **Fails**
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::seal::{SealPreCommitPhase2Output, generate_synth_proofs};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::CacheDir;
use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Ticket};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The randomness that the replica is bound to.
    pub ticket: Ticket,
    /// The pieces in the sector.
    pub piece_infos: Vec<PieceInfo>,
    /// The data commitment.
    pub comm_d: CommD,
    /// The commitment to the replica.
    pub comm_r: CommR,
    /// The replica.
    pub sealed: Artifact,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Whether the proof type has synthetic proofs.
    pub synthetic: bool,
}

/// See the module.
pub struct SynthProof;

impl Stage for SynthProof {
    const NAME: &'static str = "synth_proof";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("synth_proof.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::pc2(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let synthetic = input.proof_type.is_synthetic();
        if !synthetic {
            return Ok(Outcome::Done(Output { synthetic }));
        }
        let sealed = cx.local_path(&input.sealed)?;
        let cx2 = cx.clone();
        cx.blocking(move || {
            let cache = CacheDir::lock(&cx2)?;
            cache.remove_synthetic()?;
            progress::phase(&cx2, "synthetic proofs");
            let phase2 = SealPreCommitPhase2Output {
                registered_proof: input.proof_type.0,
                comm_r: input.comm_r.0,
                comm_d: input.comm_d.0,
            };
            generate_synth_proofs(
                cache.path(),
                &sealed,
                proofs::prover_id(input.miner),
                proofs::sector_id(input.sector),
                input.ticket.0,
                phase2,
                &proofs::library_pieces(&input.piece_infos, input.proof_type)?,
            )
            .map_err(|error| proofs::library_failure("synthetic proofs", &error))?;
            cache.sync_synthetic()?;
            Ok(Outcome::Done(Output { synthetic }))
        })
        .await
    }
}
