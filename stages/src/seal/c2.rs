//! Commit2: proves the vanilla proofs in zero knowledge (Groth16). The second-longest stage.
//!
//! **Reads** C1's output; the Groth16 parameters of the proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`; at 32 GiB some 190 GiB of memory.
//! The first proof of a process loads the parameters, which then stay in memory.
//!
//! **Fails**
//! - `parameters_missing` (permanent): generate or fetch them (the message says how), then retry.
//! - `artifact_damaged` (permanent): C1's output is not what C1 wrote; retry `c1`.
//! - `proof_rejected` (transient): the proof does not verify; tried again. It is verified here where the
//!   verifying key is in the parameter folder; where it is not, the workflow's `verify_seal` finds out.
//! - `proofs_library` (transient): the library failed; tried again.

use std::sync::Arc;

use filecoin_proofs_api::seal::{
    SealCommitPhase1Output, SealCommitPhase2Output, seal_commit_phase2, verify_seal,
};
use filecoin_proofs_api::{ProverId, SectorId};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::proof_parameters;
use crate::params::{ParamKind, ParamSet, ParamsDir};
use crate::types::{ActorId, SealProof, SectorNumber};
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
    /// The vanilla proofs.
    pub c1_output: Artifact,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The proof, in hexadecimal: 192 bytes a partition.
    pub proof: String,
}

/// See the module.
#[derive(Clone)]
pub struct C2 {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for C2 {
    const NAME: &'static str = "c2";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("c2.rs");
    const CLAIM: Claim = Claim::Read;
    const PREREQUISITES: &'static [&'static str] = &[proof_parameters::MISSING];
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::groth(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        wire::in_process(self, cx, input).await
    }
}

/// The task as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// What C1 gave.
    pub c1out: SealCommitPhase1Output,
    /// The miner, as the proofs library names it.
    pub prover_id: ProverId,
    /// The sector.
    pub sector_id: SectorId,
    /// The miner's number.
    pub miner_id: u64,
}

/// What a proof proves.
pub struct Held {
    comm_r: [u8; 32],
    comm_d: [u8; 32],
    ticket: [u8; 32],
    seed: [u8; 32],
}

impl WireStage for C2 {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    type Answer = SealCommitPhase2Output;
    type Held = Held;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let c1out: SealCommitPhase1Output = handover::read(&cx2, &input.c1_output, "c1")?;
            progress::phase(&cx2, "Groth16 proof");
            let held = Held {
                comm_r: c1out.comm_r,
                comm_d: c1out.comm_d,
                ticket: c1out.ticket,
                seed: c1out.seed,
            };
            let task = Task {
                c1out,
                prover_id: proofs::prover_id(input.miner),
                sector_id: proofs::sector_id(input.sector),
                miner_id: input.miner.0,
            };
            Ok(Next::Compute { task, held })
        })
        .await
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<SealCommitPhase2Output, Failure> {
        let bytes = u64::from(task.c1out.registered_proof.sector_size());
        proof_parameters::require(&self.params, proof_parameters::set(ParamKind::PoRep, bytes)?)?;
        seal_commit_phase2(task.c1out, task.prover_id, task.sector_id)
            .map_err(|error| proofs::library_failure("C2", &error))
    }

    fn finish(
        &self,
        _: &StageContext,
        input: &Input,
        held: Held,
        output: SealCommitPhase2Output,
    ) -> Result<Next<Self>, Failure> {
        if proof_parameters::can_verify(&self.params, parameter_set(input.proof_type)?) {
            let verified = verify_seal(
                input.proof_type.0,
                held.comm_r,
                held.comm_d,
                proofs::prover_id(input.miner),
                proofs::sector_id(input.sector),
                held.ticket,
                held.seed,
                &output.proof,
            );
            if !matches!(verified, Ok(true)) {
                let text = format!("the proof of sector {} does not verify", input.sector.0);
                return Err(Failure::transient("proof_rejected", text));
            }
        }
        let proof = hex::encode(output.proof);
        Ok(Next::End(Outcome::Done(Output { proof })))
    }
}

/// The parameter set of a proof type.
pub(crate) fn parameter_set(proof_type: SealProof) -> Result<ParamSet, Failure> {
    proof_parameters::set(ParamKind::PoRep, proof_type.sector_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    /// The example of the reference, whose inner vectors have one element.
    #[test]
    fn the_wire_form() {
        let n = |byte: u8| json!(vec![byte; 32]);
        let single = |root: u8, leaf: u8, hash: u8| {
            json!({ "data": { "Single": { "root": n(root), "leaf": n(leaf),
                "path": { "path": [{ "hashes": [n(hash)], "index": 0 }] } } } })
        };
        let column = |a: u8, b: u8, proof| json!({ "column": { "index": 3, "rows": [n(a), n(b)], "_h": null }, "inclusion_proof": proof });
        let label =
            |parent: u8, layer: u8| json!({ "parents": [n(parent)], "layer_index": layer, "node": 3 });
        let proof = json!({
            "comm_d_proofs": single(1, 2, 3),
            "comm_r_last_proof": single(4, 5, 6),
            "replica_column_proofs": {
                "c_x": column(7, 8, single(7, 8, 9)),
                "drg_parents": [column(8, 9, single(8, 9, 10))],
                "exp_parents": [column(9, 10, single(9, 10, 11))],
            },
            "labeling_proofs": [label(5, 1)],
            "encoding_proof": label(6, 2),
        });
        let mut prover = [0_u8; 32];
        (prover[0], prover[1]) = (232, 7);
        let task = json!({
            "c1out": { "registered_proof": "StackedDrg2KiBV1_1",
                "vanilla_proofs": { "StackedDrg2KiBV1": [[proof]] },
                "comm_r": n(31), "comm_d": n(21), "replica_id": n(41), "seed": n(2), "ticket": n(1) },
            "prover_id": prover, "sector_id": 7, "miner_id": 1000,
        });
        crate::golden::both_ways::<super::C2>(&task.to_string(), r#"{"proof":[140,3,255,16]}"#);
    }
}
