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

use filecoin_proofs_api::update::{generate_partition_proofs, verify_partition_proofs};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
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
        let (key, key_cache) = (cx.local_path(&input.sealed)?, cx.local_path(&input.cache)?);
        let (update, update_cache) = (cx.local_path(&input.update)?, cx.local_path(&input.update_cache)?);
        let target = cx.attempt_dir()?.join("snap_vanilla.json");
        let cx2 = cx.clone();
        cx.blocking(move || {
            let bytes = input.update_proof_type.sector_bytes();
            let damaged = |why: String| Failure::permanent("replica_damaged", why);
            if let Some(why) = replica::wrong(&key, &key_cache, input.comm_r_old, bytes) {
                return Err(damaged(why));
            }
            if let Some(why) = replica::wrong(&update, &update_cache, input.comm_r_new, bytes) {
                return Err(damaged(why));
            }
            progress::phase(&cx2, "vanilla proofs");
            let (proof_type, old) = (input.update_proof_type.0, input.comm_r_old.0);
            let (new, data) = (input.comm_r_new.0, input.comm_d_new.0);
            let proofs = generate_partition_proofs(
                proof_type,
                old,
                new,
                data,
                &key,
                &key_cache,
                &update,
                &update_cache,
            )
            .map_err(|error| proofs::library_failure("partition proofs", &error))?;
            // Each proof is sound in itself; whether it is of these commitments nobody has looked yet.
            let verified = verify_partition_proofs(proof_type, &proofs, old, new, data)
                .map_err(|error| proofs::library_failure("partition proofs", &error))?;
            if !verified {
                return Err(damaged(format!(
                    "{} and {} are not what the commitments say; retry step snap_encode",
                    key.display(),
                    update.display()
                )));
            }
            let proofs: Vec<Vec<u8>> = proofs.into_iter().map(|proof| proof.0).collect();
            let snap_vanilla = handover::write(&cx2, &target, &proofs)?;
            Ok(Outcome::Done(Output { snap_vanilla }))
        })
        .await
    }
}
