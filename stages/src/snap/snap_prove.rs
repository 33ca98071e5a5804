//! Proves in zero knowledge (Groth16) that a committed-capacity sector took data. Lotus calls it
//! ProveReplicaUpdate2, Curio UpdateProve.
//!
//! **Reads** what `snap_partition_proofs` wrote; the Groth16 parameters of the update proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`; as much memory as `c2`. The first proof of a
//! process loads the parameters, which then stay in memory.
//!
//! **Fails**
//! - `parameters_missing` (permanent): generate or fetch them (the message says how), then retry.
//! - `artifact_damaged` (permanent): the vanilla proofs are not what was written; retry `snap_partition_proofs`.
//! - `proof_rejected` (transient): the proof does not verify; tried again. It is verified here where the
//!   verifying key is in the parameter folder; where it is not, the workflow's `verify_snap` finds out.
//! - `proofs_library` (transient): the library failed; tried again.

use std::sync::Arc;

use filecoin_proofs_api::update::{
    generate_empty_sector_update_proof_with_vanilla, verify_empty_sector_update_proof,
};
use filecoin_proofs_api::{PartitionProofBytes, RegisteredUpdateProof};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::params::{ParamKind, ParamSet, ParamsDir};
use crate::seal::proof_parameters;
use crate::types::{CommD, CommR, UpdateProof};
use crate::{handover, progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The update proof type.
    pub update_proof_type: UpdateProof,
    /// The commitment to the replica.
    pub comm_r_old: CommR,
    /// The commitment to the updated replica.
    pub comm_r_new: CommR,
    /// The commitment to the data in it.
    pub comm_d_new: CommD,
    /// The vanilla proofs.
    pub snap_vanilla: Artifact,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The proof, in hexadecimal: 192 bytes a partition.
    pub update_proof: String,
}

/// See the module.
#[derive(Clone)]
pub struct SnapProve {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for SnapProve {
    const NAME: &'static str = "snap_prove";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("snap_prove.rs");
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
    /// The update proof type.
    pub registered_proof: RegisteredUpdateProof,
    /// The vanilla proofs, one for each partition. Spelled as on the wire.
    pub vannilla_proofs: Vec<Vec<u8>>,
    /// The commitment to the replica.
    pub comm_r_old: [u8; 32],
    /// The commitment to the updated replica.
    pub comm_r_new: [u8; 32],
    /// The commitment to the data in it.
    pub comm_d_new: [u8; 32],
}

impl WireStage for SnapProve {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    /// The proof.
    type Answer = Vec<u8>;
    type Held = ();

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let vannilla_proofs = handover::read(&cx2, &input.snap_vanilla, "snap_partition_proofs")?;
            progress::phase(&cx2, "Groth16 proof");
            let task = Task {
                registered_proof: input.update_proof_type.0,
                vannilla_proofs,
                comm_r_old: input.comm_r_old.0,
                comm_r_new: input.comm_r_new.0,
                comm_d_new: input.comm_d_new.0,
            };
            Ok(Next::Compute { task, held: () })
        })
        .await
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<Vec<u8>, Failure> {
        proof_parameters::require(&self.params, parameter_set(UpdateProof(task.registered_proof))?)?;
        let vanilla = task.vannilla_proofs.into_iter().map(PartitionProofBytes);
        let proof = generate_empty_sector_update_proof_with_vanilla(
            task.registered_proof,
            vanilla.collect(),
            task.comm_r_old,
            task.comm_r_new,
            task.comm_d_new,
        )
        .map_err(|error| proofs::library_failure("update proof", &error))?;
        Ok(proof.0)
    }

    fn finish(&self, _: &StageContext, input: &Input, (): (), proof: Vec<u8>) -> Result<Next<Self>, Failure> {
        if proof_parameters::can_verify(&self.params, parameter_set(input.update_proof_type)?) {
            let verified = verify_empty_sector_update_proof(
                input.update_proof_type.0,
                &proof,
                input.comm_r_old.0,
                input.comm_r_new.0,
                input.comm_d_new.0,
            );
            if !matches!(verified, Ok(true)) {
                let text = format!("the proof of the update to {} does not verify", input.comm_r_new);
                return Err(Failure::transient("proof_rejected", text));
            }
        }
        let update_proof = hex::encode(proof);
        Ok(Next::End(Outcome::Done(Output { update_proof })))
    }
}

/// The parameter set of an update proof type.
pub(crate) fn parameter_set(proof_type: UpdateProof) -> Result<ParamSet, Failure> {
    proof_parameters::set(ParamKind::EmptySectorUpdate, proof_type.sector_bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let task = format!(
            r#"{{"registered_proof":"StackedDrg2KiBV1","vannilla_proofs":[[0,1,2,255],[3,4,5]],"comm_r_old":{},"comm_r_new":{},"comm_d_new":{}}}"#,
            ints(31),
            ints(51),
            ints(53)
        );
        crate::golden::both_ways::<super::SnapProve>(&task, "[140,3,255,16]");
    }
}
