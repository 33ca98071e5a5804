//! Proves that the winner of a block holds the sector that was drawn (WinningPoSt).
//!
//! **Reads** the sector's auxiliary files, its last tree, and some leaves of the replica; of a store without local
//! paths only the ranges that the challenges need. The Groth16 parameters of the proof type.
//!
//! **Writes** the ranges that come from such a store into the attempt's own folder, removed at the end.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`, for seconds: a block cannot wait. The first
//! proof of a process loads the parameters, which then stay in memory.
//!
//! **Fails**
//! - `sector_faulty` (permanent): the sector that was drawn cannot be proved; the message says why.
//! - `parameters_missing` (permanent): generate or fetch them (the message says how), then retry.
//! - `empty_partition`, `partition_too_large` (permanent): not one sector is to be proved.
//! - `unknown_store` (permanent): no store of this name is configured.
//! - `bad_answer`, `proof_rejected` (transient): another program proved, and its answer makes no sense or does
//!   not verify; tried again. It is verified here where the verifying key is in the parameter folder; where it is
//!   not, the workflow's `verify_post` finds out.
//! - `proofs_library` (transient): the library failed; tried again.

use std::sync::Arc;

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::copies::{self, Looked};
use super::prove::{self, Job, Reasons, Task};
use crate::params::ParamsDir;
use crate::remote::RemoteReads;
use crate::types::{ActorId, Post, PostPartition, PostProof, PostRandomness};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The miner.
    pub miner: ActorId,
    /// The randomness that chooses the challenges.
    pub randomness: PostRandomness,
    /// The proof type.
    pub post_proof_type: PostProof,
    /// The sector to prove.
    pub partition: PostPartition,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The proof and what it covers.
    pub post: Post,
    /// What was read of stores without local paths, if anything was.
    #[serde(default)]
    pub post_reads: Option<RemoteReads>,
}

/// See the module.
#[derive(Clone)]
pub struct WinningPost {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for WinningPost {
    const NAME: &'static str = "winning_post";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("winning_post.rs");
    const CLAIM: Claim = Claim::None;
    const PREREQUISITES: &'static [&'static str] = &[crate::seal::proof_parameters::MISSING];
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::post(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        wire::in_process(self, cx, input).await
    }
}

/// The answer as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The proof, in base64.
    pub proofs: Vec<String>,
}

/// What is kept until the proof is there.
pub struct Held {
    looked: Looked,
}

fn job(input: &Input) -> Job<'_> {
    Job {
        miner: input.miner,
        randomness: input.randomness,
        proof_type: input.post_proof_type,
        partition: &input.partition,
    }
}

/// The failure of sectors that cannot be proved, if there are any.
fn refuse(reasons: &Reasons) -> Result<(), Failure> {
    reasons.first_key_value().map_or(Ok(()), |(sector, reason)| {
        let text = format!("sector {}: {reason}", sector.0);
        Err(Failure::permanent("sector_faulty", text))
    })
}

impl WireStage for WinningPost {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    type Answer = Answer;
    type Held = Held;

    async fn prepare(
        &self,
        cx: &StageContext,
        input: &Arc<Input>,
        place: Place,
    ) -> Result<Next<Self>, Failure> {
        if place == Place::Here {
            prove::require_parameters(&self.params, input.post_proof_type)?;
        }
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let mut looked = copies::look(&cx2, &job(&input))?;
            copies::bring(&cx2, &job(&input), &mut looked)?;
            refuse(&looked.reasons)?;
            let task = prove::task(&job(&input), &looked.good, false);
            let held = Held { looked };
            Ok(Next::Compute { task, held })
        })
        .await
    }

    fn compute(&self, task: Task, reporter: &Reporter) -> Result<Answer, Failure> {
        prove::require_parameters(&self.params, PostProof(task.proof_type))?;
        let (proved, reasons) = prove::prove_all(&task, reporter)?;
        refuse(&reasons)?;
        reporter.progress(progress::of_phase("Groth16 proof"));
        let proofs = prove::groth_of(&task, proved)?;
        Ok(Answer { proofs })
    }

    fn finish(
        &self,
        _: &StageContext,
        input: &Input,
        held: Held,
        answer: Answer,
    ) -> Result<Next<Self>, Failure> {
        let Looked { good, remote, .. } = held.looked;
        let post = prove::taken(&self.params, &job(input), &good, Reasons::new(), &answer.proofs)?;
        let post_reads = remote.reads();
        Ok(Next::End(Outcome::Done(Output { post, post_reads })))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let task = format!(
            r#"{{"miner_id":1000,"proof_type":"StackedDrgWinning2KiBV1","replicas":[{{"sector_id":7,"comm_r":{},"cache_dir":"/mnt/remote/store1/cache/s-t01000-7","sealed_file":"/mnt/remote/store1/sealed/s-t01000-7"}}],"seed":{}}}"#,
            ints(31),
            ints(9)
        );
        crate::golden::both_ways::<super::WinningPost>(&task, r#"{"proofs":["AAECAwQF"]}"#);
    }
}
