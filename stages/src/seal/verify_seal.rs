//! Verifies a seal proof, as the network would; in a batch those of many sectors together.
//!
//! **Reads** the verifying key of the proof type.
//!
//! **Writes** nothing.
//!
//! **Costs** milliseconds.
//!
//! **Fails**
//! - `proof_invalid` (rewind): the proof does not verify; a workflow sends the run back to the step
//!   that can make it right, else the run pauses.
//! - `proofs_library` (transient): the library failed; tried again.

use filecoin_proofs_api::seal::{verify_batch_seal, verify_seal};
use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{BatchStage, Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::proofs;
use crate::types::{ActorId, CommD, CommR, SealProof, SectorNumber, Seed, Ticket};

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
    /// The randomness that chose the challenges.
    pub seed: Seed,
    /// The data commitment.
    pub comm_d: CommD,
    /// The commitment to the replica.
    pub comm_r: CommR,
    /// The proof, in hexadecimal.
    pub proof: String,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Always true: what does not verify fails.
    pub verified: bool,
}

/// See the module.
pub struct VerifySeal;

impl Stage for VerifySeal {
    const NAME: &'static str = "verify_seal";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("verify_seal.rs");
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
        cx.blocking(move || verdict(&input).map(Outcome::Done)).await
    }
}

/// All proofs of a type are checked together, which takes one pairing check instead of one for each. Where
/// that fails each is checked alone, so that a bad one is found and the others are not held up.
impl BatchStage for VerifySeal {
    async fn run_many(
        &self,
        cx: &StageContext,
        inputs: Vec<Input>,
    ) -> Result<Outcome<Vec<Result<Output, Failure>>>, Failure> {
        let verdicts = cx.blocking(move || {
            let alike = inputs
                .windows(2)
                .all(|pair| pair[0].proof_type == pair[1].proof_type);
            if alike && inputs.len() > 1 && together(&inputs) {
                return Ok(inputs.iter().map(|_| Ok(Output { verified: true })).collect());
            }
            Ok(inputs.iter().map(verdict).collect())
        });
        verdicts.await.map(Outcome::Done)
    }
}

/// Whether proofs of one type all verify. What cannot be checked together does not count as bad.
fn together(inputs: &[Input]) -> bool {
    let proofs: Option<Vec<Vec<u8>>> = inputs
        .iter()
        .map(|input| hex::decode(&input.proof).ok())
        .collect();
    let (Some(proofs), Some(first)) = (proofs, inputs.first()) else {
        return false;
    };
    let all = |part: fn(&Input) -> [u8; 32]| inputs.iter().map(part).collect::<Vec<_>>();
    let sectors: Vec<_> = inputs
        .iter()
        .map(|input| proofs::sector_id(input.sector))
        .collect();
    let proofs: Vec<&[u8]> = proofs.iter().map(Vec::as_slice).collect();
    let verified = verify_batch_seal(
        first.proof_type.0,
        &all(|input| input.comm_r.0),
        &all(|input| input.comm_d.0),
        &all(|input| proofs::prover_id(input.miner)),
        &sectors,
        &all(|input| input.ticket.0),
        &all(|input| input.seed.0),
        &proofs,
    );
    verified.unwrap_or_default()
}

fn verdict(input: &Input) -> Result<Output, Failure> {
    let proof = hex::decode(&input.proof)
        .map_err(|_| Failure::permanent("bad_input", "the proof is not hexadecimal"))?;
    let verified = verify_seal(
        input.proof_type.0,
        input.comm_r.0,
        input.comm_d.0,
        proofs::prover_id(input.miner),
        proofs::sector_id(input.sector),
        input.ticket.0,
        input.seed.0,
        &proof,
    )
    .map_err(|error| proofs::library_failure("verify the seal", &error))?;
    if verified {
        return Ok(Output { verified });
    }
    let text = format!(
        "the proof of {} with comm_r {} does not verify",
        input.sector.0, input.comm_r
    );
    Err(Failure::rewind("proof_invalid", text))
}
