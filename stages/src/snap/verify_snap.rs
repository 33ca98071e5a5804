//! Verifies the proof of an update, as the network would.
//!
//! **Reads** the verifying key of the update proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** milliseconds.
//!
//! **Fails**
//! - `proof_invalid` (rewind): the proof does not verify; a workflow sends the run back to the step
//!   that can make it right, else the run pauses.
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::update::verify_empty_sector_update_proof;
use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::proofs;
use crate::types::{CommD, CommR, UpdateProof};

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
    /// The proof, in hexadecimal.
    pub update_proof: String,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Always true: what does not verify fails.
    pub verified: bool,
}

/// See the module.
pub struct VerifySnap;

impl Stage for VerifySnap {
    const NAME: &'static str = "verify_snap";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("verify_snap.rs");
    const CLAIM: Claim = Claim::None;
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        cx.blocking(move || {
            let proof = hex::decode(&input.update_proof)
                .map_err(|_| Failure::permanent("bad_input", "the proof is not hexadecimal"))?;
            let verified = verify_empty_sector_update_proof(
                input.update_proof_type.0,
                &proof,
                input.comm_r_old.0,
                input.comm_r_new.0,
                input.comm_d_new.0,
            )
            .map_err(|error| proofs::library_failure("verify the update", &error))?;
            if verified {
                Ok(Outcome::Done(Output { verified }))
            } else {
                let text = format!(
                    "the proof of the update to comm_r {} does not verify",
                    input.comm_r_new
                );
                Err(Failure::rewind("proof_invalid", text))
            }
        })
        .await
    }
}
