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
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::PartitionProofBytes;
use filecoin_proofs_api::update::generate_empty_sector_update_proof_with_vanilla;
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
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
pub struct SnapProve {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for SnapProve {
    const NAME: &'static str = "snap_prove";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("snap_prove.rs");
    const CLAIM: Claim = Claim::Read;
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::groth(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let params = self.params.clone();
        let cx2 = cx.clone();
        cx.blocking(move || {
            proof_parameters::require(&params, parameter_set(input.update_proof_type)?)?;
            let vanilla: Vec<Vec<u8>> = handover::read(&cx2, &input.snap_vanilla, "snap_partition_proofs")?;
            progress::phase(&cx2, "Groth16 proof");
            let proof = generate_empty_sector_update_proof_with_vanilla(
                input.update_proof_type.0,
                vanilla.into_iter().map(PartitionProofBytes).collect(),
                input.comm_r_old.0,
                input.comm_r_new.0,
                input.comm_d_new.0,
            )
            .map_err(|error| proofs::library_failure("update proof", &error))?;
            Ok(Outcome::Done(Output {
                update_proof: hex::encode(proof.0),
            }))
        })
        .await
    }
}

/// The parameter set of an update proof type.
pub(crate) fn parameter_set(proof_type: UpdateProof) -> Result<ParamSet, Failure> {
    proof_parameters::set(ParamKind::EmptySectorUpdate, proof_type.sector_bytes())
}
