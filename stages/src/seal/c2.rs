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
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::seal::{SealCommitPhase1Output, seal_commit_phase2};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
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
pub struct C2 {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for C2 {
    const NAME: &'static str = "c2";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("c2.rs");
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
            proof_parameters::require(&params, parameter_set(input.proof_type)?)?;
            let phase1: SealCommitPhase1Output = handover::read(&cx2, &input.c1_output, "c1")?;
            progress::phase(&cx2, "Groth16 proof");
            let (prover, sector) = (proofs::prover_id(input.miner), proofs::sector_id(input.sector));
            let output = seal_commit_phase2(phase1, prover, sector)
                .map_err(|error| proofs::library_failure("C2", &error))?;
            Ok(Outcome::Done(Output {
                proof: hex::encode(output.proof),
            }))
        })
        .await
    }
}

/// The parameter set of a proof type.
pub(crate) fn parameter_set(proof_type: SealProof) -> Result<ParamSet, Failure> {
    proof_parameters::set(ParamKind::PoRep, proof_type.sector_bytes())
}
