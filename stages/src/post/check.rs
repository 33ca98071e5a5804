//! Whether one sector could be proved now, as it lies in one store: what a proof of spacetime would say of it. Its
//! vanilla proof is made for challenges that nobody can know, and every path of it is checked by the library; there is
//! no Groth16 proof, so no parameters are needed.

use sealflow_engine::artifact::{SCRATCH, Stores};
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::StageContext;

use super::prove::{self, Job};
use crate::remote::RemoteReads;
use crate::types::{ActorId, PostPartition, PostProof, PostRandomness, Replica};

/// What a look at a sector gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Why it cannot be proved; nothing if it can.
    pub fault: Option<String>,
    /// What was read, if its store has no local paths.
    pub reads: Option<RemoteReads>,
}

/// Checks a sector of this size in its store alone: copies in other stores do not count. What the challenges need of a
/// store without local paths is put into the attempt's folder, which goes at the end.
///
/// # Errors
/// The size is none of a sector; the store is not configured.
pub async fn provable(
    cx: &StageContext,
    miner: ActorId,
    sector_bytes: u64,
    replica: Replica,
) -> Result<Checked, Failure> {
    let proof_type = PostProof::window(sector_bytes)
        .ok_or_else(|| Failure::permanent("bad_input", format!("no sector has {sector_bytes} bytes")))?;
    let alone = [
        SCRATCH,
        replica.sealed.store.as_str(),
        replica.cache.store.as_str(),
    ];
    let alone: Result<Vec<_>, _> = alone.iter().map(|name| cx.stores.get(name).cloned()).collect();
    let mut cx = cx.clone();
    cx.stores = Stores::new(alone?);
    let mut seed: [u8; 32] = rand::random();
    // The randomness is an element of the field.
    seed[31] &= 0x3f;
    let cx2 = cx.clone();
    cx.blocking(move || {
        let partition = PostPartition {
            partition: 0,
            replicas: vec![replica],
        };
        let job = Job {
            miner,
            randomness: PostRandomness(seed),
            proof_type,
            partition: &partition,
        };
        let vanilla = prove::vanilla(&cx2, &job)?;
        Ok(Checked {
            fault: vanilla.faults.into_iter().next().map(|fault| fault.reason),
            reads: vanilla.reads,
        })
    })
    .await
}
