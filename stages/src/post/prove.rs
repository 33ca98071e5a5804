//! What the stages of proofs of spacetime share: vanilla proofs of every sector that can be read, faults for
//! the others, and the proof over them all.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use filecoin_proofs_api::post::{
    generate_fallback_sector_challenges, generate_single_vanilla_proof, generate_window_post_with_vanilla,
    generate_winning_post_with_vanilla,
};
use filecoin_proofs_api::{PrivateReplicaInfo, SectorId};
use rayon::prelude::*;
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::{Progress, StageContext};
use serde::{Deserialize, Serialize};

use super::lookup;
use crate::params::{ParamKind, ParamSet, ParamsDir};
use crate::seal::proof_parameters;
use crate::types::{
    ActorId, CommR, Fault, Post, PostPartition, PostProof, PostRandomness, ProvedSector, Replica,
};
use crate::{proofs, replica};

/// What is to be proved.
pub(super) struct Job<'a> {
    pub(super) miner: ActorId,
    pub(super) randomness: PostRandomness,
    pub(super) proof_type: PostProof,
    pub(super) partition: &'a PostPartition,
}

/// The sectors that can be proved, and those that cannot.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Vanilla {
    /// Each with its vanilla proof, in the library's own form, by number.
    pub(super) proved: Vec<(ProvedSector, String)>,
    /// The others, by number.
    pub(super) faults: Vec<Fault>,
}

/// Where a replica is.
struct Opened {
    comm_r: CommR,
    sealed: PathBuf,
    cache: PathBuf,
}

/// A sector's number, and where its replica is or what is wrong with it.
type Looked = (u64, Result<Opened, String>);

/// Proves each sector by itself. One that is missing, damaged or another than it should be is a fault.
pub(super) fn vanilla(cx: &StageContext, job: &Job<'_>) -> Result<Vanilla, Failure> {
    let (limit, count) = (job.proof_type.sectors(), job.partition.replicas.len());
    if count == 0 {
        let text = format!("partition {} has no sectors", job.partition.partition);
        return Err(Failure::permanent("empty_partition", text));
    }
    if count > limit {
        let text = format!(
            "{count} sectors; a partition of {} has at most {limit}",
            job.proof_type
        );
        return Err(Failure::permanent("partition_too_large", text));
    }
    let mut faults = BTreeMap::new();
    let mut good = BTreeMap::new();
    for (number, looked) in look(cx, job)? {
        match looked {
            Ok(opened) => drop(good.insert(number, opened)),
            Err(reason) => drop(faults.insert(number, reason)),
        }
    }
    let done = AtomicU64::new(faults.len() as u64);
    // Before V1_2 what a sector must show depends on its place among the good ones, so that a fault found
    // late changes the others' challenges.
    let mut proofs: BTreeMap<u64, (Vec<u64>, Vec<u8>)> = BTreeMap::new();
    while !good.is_empty() {
        let challenges = challenges(job, good.keys())?;
        proofs.retain(|number, (asked, _)| challenges.get(number) == Some(asked));
        let missing = good
            .par_iter()
            .filter(|(number, _)| !proofs.contains_key(*number));
        let made: Vec<_> = missing
            .map(|(number, opened)| {
                let asked = challenges.get(number).cloned().unwrap_or_default();
                let proof = if cx.cancel.is_cancelled() {
                    Err("asked to stop".to_owned())
                } else {
                    prove_one(job, *number, opened, &asked)
                };
                tell(cx, done.fetch_add(1, Ordering::Relaxed) + 1, count as u64);
                (*number, asked, proof)
            })
            .collect();
        if cx.cancel.is_cancelled() {
            return Err(Failure::transient("cancelled", "asked to stop"));
        }
        let before = good.len();
        for (number, asked, proof) in made {
            match proof {
                Ok(proof) => drop(proofs.insert(number, (asked, proof))),
                Err(reason) => {
                    good.remove(&number);
                    proofs.remove(&number);
                    faults.insert(number, reason);
                }
            }
        }
        if good.len() == before {
            break;
        }
    }
    let sector = crate::types::SectorNumber;
    let proved = proofs.into_iter().filter_map(|(number, (_, proof))| {
        let comm_r = good.get(&number)?.comm_r;
        let sector = sector(number);
        Some((ProvedSector { sector, comm_r }, hex::encode(proof)))
    });
    let faults = faults.into_iter().map(|(number, reason)| {
        tracing::warn!(sector = number, reason, "a sector cannot be proved");
        let sector = sector(number);
        Fault { sector, reason }
    });
    Ok(Vanilla {
        proved: proved.collect(),
        faults: faults.collect(),
    })
}

/// Looks at the files of every replica. A store that is not configured is no fault of the sector.
fn look(cx: &StageContext, job: &Job<'_>) -> Result<Vec<Looked>, Failure> {
    let bytes = job.proof_type.sector_bytes();
    let one = |replica: &Replica| {
        let opened = Opened {
            comm_r: replica.comm_r,
            sealed: lookup::local_path(&cx.stores, &replica.sealed)?,
            cache: lookup::local_path(&cx.stores, &replica.cache)?,
        };
        let looked = match replica::wrong(&opened.sealed, &opened.cache, replica.comm_r, bytes) {
            None => Ok(opened),
            Some(reason) => Err(reason),
        };
        Ok((replica.sector.0, looked))
    };
    job.partition.replicas.par_iter().map(one).collect()
}

fn challenges<'a>(
    job: &Job<'_>,
    sectors: impl Iterator<Item = &'a u64>,
) -> Result<BTreeMap<u64, Vec<u64>>, Failure> {
    let sectors: Vec<SectorId> = sectors.map(|number| SectorId::from(*number)).collect();
    let prover = proofs::prover_id(job.miner);
    let challenges =
        generate_fallback_sector_challenges(job.proof_type.0, &job.randomness.0, &sectors, prover)
            .map_err(|error| proofs::library_failure("challenges", &error))?;
    Ok(challenges
        .into_iter()
        .map(|(sector, asked)| (u64::from(sector), asked))
        .collect())
}

/// The vanilla proof of one sector, or why there is none. The library panics on some damaged files.
fn prove_one(job: &Job<'_>, number: u64, opened: &Opened, asked: &[u64]) -> Result<Vec<u8>, String> {
    let info = PrivateReplicaInfo::new(
        job.proof_type.0,
        opened.comm_r.0,
        opened.cache.clone(),
        opened.sealed.clone(),
    );
    let prove = || generate_single_vanilla_proof(job.proof_type.0, SectorId::from(number), &info, asked);
    match catch_unwind(AssertUnwindSafe(prove)) {
        Ok(Ok(proof)) => Ok(proof),
        Ok(Err(error)) => Err(format!("{}: {}", opened.sealed.display(), error.root_cause())),
        Err(_) => Err(format!(
            "{} or its tree is damaged: the proofs library panicked",
            opened.sealed.display()
        )),
    }
}

fn tell(cx: &StageContext, done: u64, total: u64) {
    cx.progress(Progress {
        phase: "vanilla proofs".to_owned(),
        done: Some(done),
        total: Some(total),
        unit: "sectors".to_owned(),
        estimate_seconds: None,
    });
}

/// The proof over vanilla proofs. There is none if every sector is faulty.
pub(super) fn snark(
    miner: ActorId,
    randomness: PostRandomness,
    proof_type: PostProof,
    partition: u64,
    vanilla: Vanilla,
) -> Result<Post, Failure> {
    let mut proved = Vec::new();
    let mut proofs = Vec::new();
    for (sector, proof) in vanilla.proved {
        proved.push(sector);
        proofs.push(
            hex::decode(proof)
                .map_err(|_| Failure::permanent("bad_input", "a vanilla proof is not hexadecimal"))?,
        );
    }
    let prover = proofs::prover_id(miner);
    let made = if proofs.is_empty() {
        Ok(Vec::new())
    } else if proof_type.is_winning() {
        generate_winning_post_with_vanilla(proof_type.0, &randomness.0, prover, &proofs)
    } else {
        generate_window_post_with_vanilla(proof_type.0, &randomness.0, prover, &proofs)
    };
    let made = made.map_err(|error| proofs::library_failure("proof of spacetime", &error))?;
    let proof: Vec<u8> = made.into_iter().flat_map(|(_, proof)| proof).collect();
    Ok(Post {
        partition,
        proof: hex::encode(proof),
        proved,
        faults: vanilla.faults,
    })
}

/// Fails if the parameters of a proof type are not there.
pub(super) fn require_parameters(params: &ParamsDir, proof_type: PostProof) -> Result<(), Failure> {
    proof_parameters::require(params, parameter_set(proof_type)?)
}

/// The parameter set of a proof type.
pub(crate) fn parameter_set(proof_type: PostProof) -> Result<ParamSet, Failure> {
    let kind = if proof_type.is_winning() {
        ParamKind::WinningPost
    } else {
        ParamKind::WindowPost
    };
    proof_parameters::set(kind, proof_type.sector_bytes())
}
