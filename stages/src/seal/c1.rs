//! Commit1: opens the replica and its trees at the places that the seed chooses (the vanilla proof).
//!
//! **Reads** the replica; the layers (or synthetic proofs), trees and auxiliary files in the cache
//! directory.
//!
//! **Writes** `c1_output.json` into the attempt's own folder.
//!
//! **Costs** one core for seconds; at 32 GiB an output of some 100 MiB.
//!
//! **Fails**
//! - `cache_locked` (transient): another process changes the cache directory.
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::seal::{SealPreCommitPhase2Output, seal_commit_phase1};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::CacheDir;
use crate::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Seed, Ticket};
use crate::{handover, progress, proofs};

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
    /// The randomness that chooses the challenges.
    pub seed: Seed,
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
    /// The vanilla proofs, in the proofs library's own JSON form.
    pub c1_output: Artifact,
}

/// See the module.
pub struct C1;

impl Stage for C1 {
    const NAME: &'static str = "c1";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("c1.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        Need {
            cpu: 1,
            memory: 1 << 30,
            ..Need::default()
        }
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let sealed = cx.local_path(&input.sealed)?;
        let target = cx.attempt_dir()?.join("c1_output.json");
        let cx2 = cx.clone();
        cx.blocking(move || {
            let cache = CacheDir::lock_shared(&cx2)?;
            progress::phase(&cx2, "vanilla proofs");
            let phase2 = SealPreCommitPhase2Output {
                registered_proof: input.proof_type.0,
                comm_r: input.comm_r.0,
                comm_d: input.comm_d.0,
            };
            let output = seal_commit_phase1(
                cache.path(),
                &sealed,
                proofs::prover_id(input.miner),
                proofs::sector_id(input.sector),
                input.ticket.0,
                input.seed.0,
                phase2,
                &proofs::library_pieces(&input.piece_infos, input.proof_type)?,
            )
            .map_err(|error| proofs::library_failure("C1", &error))?;
            let c1_output = handover::write(&cx2, &target, &output)?;
            Ok(Outcome::Done(Output { c1_output }))
        })
        .await
    }
}
