//! Proves that the sectors of one partition are still there (WindowPoSt). A sector that cannot be proved becomes
//! a fault with its reason, and the others are proved without it.
//!
//! **Reads** of each sector the auxiliary files, the last tree, and some leaves of the replica; of a store without
//! local paths only the ranges that the challenges need. The Groth16 parameters of the proof type.
//!
//! **Writes** the ranges that come from such stores into the attempt's own folder, removed at the end.
//!
//! **Costs** all cores, or a GPU with the features `cuda` or `opencl`; at 32 GiB an estimated 64 GiB of memory.
//! The first proof of a process loads the parameters, which then stay in memory.
//!
//! **Fails**
//! - `parameters_missing` (permanent): generate or fetch them (the message says how), then retry.
//! - `empty_partition`, `partition_too_large` (permanent): the partition cannot be proved as it is.
//! - `unknown_store` (permanent): no store of this name is configured.
//! - `bad_answer`, `proof_rejected` (transient): another program proved, and its answer makes no sense or does
//!   not verify; tried again. It is verified here where the verifying key is in the parameter folder; where it is
//!   not, the workflow's `verify_post` finds out.
//! - `proofs_library` (transient): the library failed; tried again.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::copies::{self, Looked};
use super::prove::{self, Job, Task};
use crate::params::ParamsDir;
use crate::remote::RemoteReads;
use crate::types::{ActorId, Post, PostPartition, PostProof, PostRandomness, SectorNumber};
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
    /// The sectors to prove.
    pub partition: PostPartition,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The proof, what it covers, and the faults.
    pub post: Post,
    /// What was read of stores without local paths, if anything was.
    #[serde(default)]
    pub post_reads: Option<RemoteReads>,
}

/// See the module.
#[derive(Clone)]
pub struct WindowPost {
    /// Where the parameters are.
    pub params: ParamsDir,
}

impl Stage for WindowPost {
    const NAME: &'static str = "window_post";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("window_post.rs");
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
    /// The proof, in base64; none if there are faults.
    pub proofs: Vec<String>,
    /// Sectors that cannot be proved.
    pub faults: Vec<u64>,
    /// Why not, of those that this process looked at.
    #[serde(skip)]
    pub reasons: BTreeMap<u64, String>,
}

/// What is kept until the proof is there.
pub struct Held {
    looked: Looked,
    here: bool,
}

fn job(input: &Input) -> Job<'_> {
    Job {
        miner: input.miner,
        randomness: input.randomness,
        proof_type: input.post_proof_type,
        partition: &input.partition,
    }
}

impl WireStage for WindowPost {
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
        let (stage, cx2, input) = (self.clone(), cx.clone(), input.clone());
        cx.blocking(move || {
            let held = Held {
                looked: copies::look(&cx2, &job(&input))?,
                here: place == Place::Here,
            };
            stage.prove(&cx2, &input, held)
        })
        .await
    }

    fn compute(&self, task: Task, reporter: &Reporter) -> Result<Answer, Failure> {
        prove::require_parameters(&self.params, PostProof(task.proof_type))?;
        let (proved, reasons) = prove::prove_all(&task, reporter)?;
        reporter.progress(progress::of_phase("Groth16 proof"));
        let proofs = prove::groth_of(&task, proved)?;
        for (sector, reason) in &reasons {
            tracing::warn!(sector = sector.0, reason, "a sector cannot be proved");
        }
        Ok(Answer {
            proofs,
            faults: reasons.keys().map(|sector| sector.0).collect(),
            reasons: reasons
                .into_iter()
                .map(|(sector, reason)| (sector.0, reason))
                .collect(),
        })
    }

    fn finish(
        &self,
        cx: &StageContext,
        input: &Input,
        mut held: Held,
        answer: Answer,
    ) -> Result<Next<Self>, Failure> {
        let mut failed = BTreeMap::new();
        for fault in &answer.faults {
            let sector = SectorNumber(*fault);
            if !held.looked.good.contains_key(&sector) || failed.contains_key(&sector) {
                let text = format!("sector {fault} is called faulty, but was not asked for");
                return Err(Failure::transient("bad_answer", text));
            }
            let reason = answer.reasons.get(fault).cloned();
            let reason = reason.unwrap_or_else(|| "the program that proves says so; see its log".to_owned());
            failed.insert(sector, reason);
        }
        let copies = held.looked.fail(cx, failed)?;
        if copies || (!answer.faults.is_empty() && answer.proofs.is_empty()) {
            // The others are proved without them, or with other copies of them.
            return self.prove(cx, input, held);
        }
        self.taken(input, held, &answer.proofs)
    }
}

impl WindowPost {
    /// Has the good sectors proved, if there are any.
    fn prove(&self, cx: &StageContext, input: &Input, mut held: Held) -> Result<Next<Self>, Failure> {
        let job = job(input);
        if !held.looked.remote.is_empty() {
            progress::phase(cx, "reading ranges");
        }
        copies::bring(cx, &job, &mut held.looked)?;
        if held.looked.good.is_empty() {
            return self.taken(input, held, &[]);
        }
        progress::phase(cx, "vanilla proofs");
        // Without the others a sector may have to show other ranges, which must be brought first.
        let leave_out = held.here && held.looked.remote.is_empty();
        let task = prove::task(&job, &held.looked.good, leave_out);
        Ok(Next::Compute { task, held })
    }

    fn taken(&self, input: &Input, held: Held, proofs: &[String]) -> Result<Next<Self>, Failure> {
        let Looked {
            good,
            reasons,
            remote,
            ..
        } = held.looked;
        let post = prove::taken(&self.params, &job(input), &good, reasons, proofs)?;
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
            r#"{{"miner_id":1000,"proof_type":"StackedDrgWindow2KiBV1_2","replicas":[{{"sector_id":7,"comm_r":{},"cache_dir":"/mnt/remote/store1/cache/s-t01000-7","sealed_file":"/mnt/remote/store1/sealed/s-t01000-7"}}],"seed":{}}}"#,
            ints(31),
            ints(9)
        );
        crate::golden::both_ways::<super::WindowPost>(&task, r#"{"proofs":["AAECAwQF"],"faults":[]}"#);
        crate::golden::both_ways::<super::WindowPost>(&task, r#"{"proofs":[],"faults":[7]}"#);
    }
}
