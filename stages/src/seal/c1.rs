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
//! - `bad_answer` (transient): another program made the proofs, of another replica or challenge. The proofs
//!   themselves are looked at by C2, which fails with bad ones.
//! - `proofs_library` (transient): the library failed; tried again.

use std::path::PathBuf;
use std::sync::Arc;

use filecoin_proofs_api::seal::{SealCommitPhase1Output, SealPreCommitPhase2Output, seal_commit_phase1};
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
#[derive(Clone)]
pub struct C1;

impl Stage for C1 {
    const NAME: &'static str = "c1";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("c1.rs");
    const BOUND: bool = true;
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
        wire::in_process(self, cx, input).await
    }
}

/// The task. Damocles has none for this stage: this one is ours, in the same style.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The folder with layers (or synthetic proofs), trees and auxiliary files.
    pub cache_dir: PathBuf,
    /// The replica.
    pub sealed_file: PathBuf,
    /// The miner, as the proofs library names it.
    pub prover_id: ProverId,
    /// The sector.
    pub sector_id: SectorId,
    /// The randomness that the replica is bound to.
    pub ticket: [u8; 32],
    /// The randomness that chooses the challenges.
    pub seed: [u8; 32],
    /// What PC2 gave.
    pub pc2out: SealPreCommitPhase2Output,
    /// The pieces, which fill the sector.
    pub piece_infos: Vec<PieceInfoOfLibrary>,
}

impl WireStage for C1 {
    const DIALECT: Dialect = Dialect::Sealflow;
    type Task = Task;
    type Answer = SealCommitPhase1Output;
    type Held = CacheDir;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let sealed_file = cx.local_path(&input.sealed)?;
        let cache = CacheDir::lock_shared(cx)?;
        progress::phase(cx, "vanilla proofs");
        let task = Task {
            cache_dir: cache.path().to_owned(),
            sealed_file,
            prover_id: proofs::prover_id(input.miner),
            sector_id: proofs::sector_id(input.sector),
            ticket: input.ticket.0,
            seed: input.seed.0,
            pc2out: SealPreCommitPhase2Output {
                registered_proof: input.proof_type.0,
                comm_r: input.comm_r.0,
                comm_d: input.comm_d.0,
            },
            piece_infos: proofs::library_pieces(&input.piece_infos, input.proof_type)?,
        };
        Ok(Next::Compute { task, held: cache })
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<SealCommitPhase1Output, Failure> {
        seal_commit_phase1(
            task.cache_dir,
            task.sealed_file,
            task.prover_id,
            task.sector_id,
            task.ticket,
            task.seed,
            task.pc2out,
            &task.piece_infos,
        )
        .map_err(|error| proofs::library_failure("C1", &error))
    }

    fn finish(
        &self,
        cx: &StageContext,
        input: &Input,
        _: CacheDir,
        output: SealCommitPhase1Output,
    ) -> Result<Next<Self>, Failure> {
        let told = (output.comm_r, output.comm_d, output.ticket, output.seed);
        let asked = (input.comm_r.0, input.comm_d.0, input.ticket.0, input.seed.0);
        if told != asked || output.registered_proof != input.proof_type.0 {
            let text = "the vanilla proofs are not of this replica, ticket and seed";
            return Err(Failure::transient("bad_answer", text));
        }
        let target = cx.attempt_dir()?.join("c1_output.json");
        let c1_output = handover::write(cx, &target, &output)?;
        Ok(Next::End(Outcome::Done(Output { c1_output })))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let task = format!(
            r#"{{"cache_dir":"/cache","sealed_file":"/sealed","prover_id":{p},"sector_id":7,"ticket":{t},"seed":{s},"pc2out":{{"registered_proof":"StackedDrg2KiBV1_1","comm_r":{r},"comm_d":{d}}},"piece_infos":[{{"commitment":{p},"size":1016}}]}}"#,
            p = ints(1),
            t = ints(2),
            s = ints(3),
            r = ints(4),
            d = ints(5)
        );
        // Its answer is `c1out` in the task of C2: see there.
        crate::golden::task::<super::C1>(&task);
    }
}
