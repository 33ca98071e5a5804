//! Opens the old and the updated replica at the places that the new commitment chooses: the vanilla proofs of an
//! update, one for each of its partitions. Curio does this in UpdateProve.
//!
//! **Reads** the replica and its cache where they are stored; the updated replica and its trees.
//!
//! **Writes** `snap_vanilla.json` into the attempt's own folder.
//!
//! **Costs** all cores for seconds; at 32 GiB an output of some tens of MiB.
//!
//! **Fails**
//! - `replica_damaged` (permanent): the replicas and the commitments do not belong together; retry `snap_encode`.
//! - `no_space` (transient): free space; it is tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use std::path::PathBuf;
use std::sync::Arc;

use filecoin_proofs_api::update::{generate_partition_proofs, verify_partition_proofs};
use filecoin_proofs_api::{PartitionProofBytes, RegisteredUpdateProof};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::{CommD, CommR, UpdateProof};
use crate::{handover, progress, proofs, replica};

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
    /// The replica.
    pub sealed: Artifact,
    /// Its last tree and auxiliary files.
    pub cache: Artifact,
    /// The updated replica.
    pub update: Artifact,
    /// Its trees and auxiliary files.
    pub update_cache: Artifact,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The vanilla proofs, in the proofs library's own form.
    pub snap_vanilla: Artifact,
}

/// See the module.
#[derive(Clone)]
pub struct SnapPartitionProofs;

impl Stage for SnapPartitionProofs {
    const NAME: &'static str = "snap_partition_proofs";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("snap_partition_proofs.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        Need {
            cpu: u32::MAX,
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
    /// The update proof type.
    pub registered_proof: RegisteredUpdateProof,
    /// The commitment to the replica.
    pub comm_r_old: [u8; 32],
    /// The commitment to the updated replica.
    pub comm_r_new: [u8; 32],
    /// The commitment to the data in it.
    pub comm_d_new: [u8; 32],
    /// The replica.
    pub sector_path: PathBuf,
    /// Its last tree and auxiliary files.
    pub sector_cache_path: PathBuf,
    /// The updated replica.
    pub replica_path: PathBuf,
    /// Its trees and auxiliary files.
    pub replica_cache_path: PathBuf,
}

impl WireStage for SnapPartitionProofs {
    const DIALECT: Dialect = Dialect::Sealflow;
    type Task = Task;
    /// One proof for each partition.
    type Answer = Vec<Vec<u8>>;
    type Held = ();

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let task = Task {
            registered_proof: input.update_proof_type.0,
            comm_r_old: input.comm_r_old.0,
            comm_r_new: input.comm_r_new.0,
            comm_d_new: input.comm_d_new.0,
            sector_path: cx.local_path(&input.sealed)?,
            sector_cache_path: cx.local_path(&input.cache)?,
            replica_path: cx.local_path(&input.update)?,
            replica_cache_path: cx.local_path(&input.update_cache)?,
        };
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let bytes = input.update_proof_type.sector_bytes();
            for (replica, cache, comm_r) in [
                (&task.sector_path, &task.sector_cache_path, input.comm_r_old),
                (&task.replica_path, &task.replica_cache_path, input.comm_r_new),
            ] {
                if let Some(why) = replica::wrong(replica, cache, comm_r, bytes) {
                    return Err(Failure::permanent("replica_damaged", why));
                }
            }
            progress::phase(&cx2, "vanilla proofs");
            Ok(Next::Compute { task, held: () })
        })
        .await
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<Vec<Vec<u8>>, Failure> {
        let proofs = generate_partition_proofs(
            task.registered_proof,
            task.comm_r_old,
            task.comm_r_new,
            task.comm_d_new,
            &task.sector_path,
            &task.sector_cache_path,
            &task.replica_path,
            &task.replica_cache_path,
        )
        .map_err(|error| proofs::library_failure("partition proofs", &error))?;
        Ok(proofs.into_iter().map(|proof| proof.0).collect())
    }

    fn finish(
        &self,
        cx: &StageContext,
        input: &Input,
        (): (),
        proofs: Vec<Vec<u8>>,
    ) -> Result<Next<Self>, Failure> {
        let bytes: Vec<PartitionProofBytes> = proofs.iter().cloned().map(PartitionProofBytes).collect();
        // Each proof is sound in itself; whether it is of these commitments nobody has looked yet.
        let verified = verify_partition_proofs(
            input.update_proof_type.0,
            &bytes,
            input.comm_r_old.0,
            input.comm_r_new.0,
            input.comm_d_new.0,
        )
        .map_err(|error| proofs::library_failure("partition proofs", &error))?;
        if !verified {
            let text = format!(
                "{} and {} are not what the commitments say; retry step snap_encode",
                cx.local_path(&input.sealed)?.display(),
                cx.local_path(&input.update)?.display()
            );
            return Err(Failure::permanent("replica_damaged", text));
        }
        let target = cx.attempt_dir()?.join("snap_vanilla.json");
        let snap_vanilla = handover::write(cx, &target, &proofs)?;
        Ok(Next::End(Outcome::Done(Output { snap_vanilla })))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let task = format!(
            r#"{{"registered_proof":"StackedDrg2KiBV1","comm_r_old":{},"comm_r_new":{},"comm_d_new":{},"sector_path":"/a","sector_cache_path":"/b","replica_path":"/c","replica_cache_path":"/d"}}"#,
            ints(31),
            ints(51),
            ints(53)
        );
        crate::golden::both_ways::<super::SnapPartitionProofs>(&task, "[[0,255],[1]]");
    }
}
