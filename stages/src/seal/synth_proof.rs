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
//! - `bad_answer` (transient): another program says that it made them, but they are not there. The proofs
//!   themselves are looked at by C1.
//! - `proofs_library` (transient): the library failed; tried again.

use std::path::PathBuf;
use std::sync::Arc;

use filecoin_proofs_api::seal::{SealPreCommitPhase2Output, generate_synth_proofs};
use filecoin_proofs_api::{PieceInfo as PieceInfoOfLibrary, ProverId, SectorId};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
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
#[derive(Clone)]
pub struct SynthProof;

impl Stage for SynthProof {
    const NAME: &'static str = "synth_proof";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("synth_proof.rs");
    const BOUND: bool = true;
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::pc2(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        wire::in_process(self, cx, input).await
    }
}

/// The task. Damocles has none for this stage: this one is ours, in the same style.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The folder with layers, trees and auxiliary files, which gets the synthetic proofs.
    pub cache_dir: PathBuf,
    /// The replica.
    pub sealed_file: PathBuf,
    /// The miner, as the proofs library names it.
    pub prover_id: ProverId,
    /// The sector.
    pub sector_id: SectorId,
    /// The randomness that the replica is bound to.
    pub ticket: [u8; 32],
    /// What PC2 gave.
    pub pc2out: SealPreCommitPhase2Output,
    /// The pieces, which fill the sector.
    pub piece_infos: Vec<PieceInfoOfLibrary>,
}

impl WireStage for SynthProof {
    const DIALECT: Dialect = Dialect::Sealflow;
    type Task = Task;
    type Answer = bool;
    type Held = CacheDir;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        if !input.proof_type.is_synthetic() {
            return Ok(Next::End(Outcome::Done(Output { synthetic: false })));
        }
        let sealed_file = cx.local_path(&input.sealed)?;
        let cache = CacheDir::lock(cx)?;
        cache.remove_synthetic()?;
        progress::phase(cx, "synthetic proofs");
        let task = Task {
            cache_dir: cache.path().to_owned(),
            sealed_file,
            prover_id: proofs::prover_id(input.miner),
            sector_id: proofs::sector_id(input.sector),
            ticket: input.ticket.0,
            pc2out: SealPreCommitPhase2Output {
                registered_proof: input.proof_type.0,
                comm_r: input.comm_r.0,
                comm_d: input.comm_d.0,
            },
            piece_infos: proofs::library_pieces(&input.piece_infos, input.proof_type)?,
        };
        Ok(Next::Compute { task, held: cache })
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<bool, Failure> {
        generate_synth_proofs(
            task.cache_dir,
            task.sealed_file,
            task.prover_id,
            task.sector_id,
            task.ticket,
            task.pc2out,
            &task.piece_infos,
        )
        .map_err(|error| proofs::library_failure("synthetic proofs", &error))?;
        Ok(true)
    }

    fn finish(&self, _: &StageContext, _: &Input, cache: CacheDir, _: bool) -> Result<Next<Self>, Failure> {
        if !cache.has_synthetic() {
            let text = format!("{} got no synthetic proofs", cache.path().display());
            return Err(Failure::transient("bad_answer", text));
        }
        cache.sync_synthetic()?;
        Ok(Next::End(Outcome::Done(Output { synthetic: true })))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let task = format!(
            r#"{{"cache_dir":"/cache","sealed_file":"/sealed","prover_id":{p},"sector_id":7,"ticket":{t},"pc2out":{{"registered_proof":"StackedDrg2KiBV1_1_Feat_SyntheticPoRep","comm_r":{r},"comm_d":{d}}},"piece_infos":[{{"commitment":{p},"size":1016}}]}}"#,
            p = ints(1),
            t = ints(2),
            r = ints(4),
            d = ints(5)
        );
        crate::golden::both_ways::<super::SynthProof>(&task, "true");
    }
}
