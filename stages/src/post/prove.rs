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
    SectorNumber,
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

/// Vanilla proofs with the challenges that they answer.
type Made = BTreeMap<SectorNumber, (Vec<u64>, Vec<u8>)>;

/// Why sectors cannot be proved.
type Reasons = BTreeMap<SectorNumber, String>;

/// Proves each sector by itself. One that is missing, damaged or another than it should be is a fault.
pub(super) fn vanilla(cx: &StageContext, job: &Job<'_>) -> Result<Vanilla, Failure> {
    check_count(job)?;
    let (mut good, mut faults) = look(cx, job)?;
    let mut made = Made::new();
    while !good.is_empty() {
        let challenges = challenges(job, good.keys())?;
        // Before V1_2 what a sector must show depends on its place among the good ones, so that a fault found
        // late changes the others' challenges.
        made.retain(|sector, (asked, _)| challenges.get(sector) == Some(asked));
        let late = prove_missing(cx, job, &good, &challenges, &mut made)?;
        if late.is_empty() {
            break;
        }
        good.retain(|sector, _| !late.contains_key(sector));
        faults.extend(late);
    }
    let proved = made.into_iter().filter_map(|(sector, (_, proof))| {
        let comm_r = good.get(&sector)?.comm_r;
        Some((ProvedSector { sector, comm_r }, hex::encode(proof)))
    });
    let faults = faults.into_iter().map(|(sector, reason)| {
        tracing::warn!(sector = sector.0, reason, "a sector cannot be proved");
        Fault { sector, reason }
    });
    Ok(Vanilla {
        proved: proved.collect(),
        faults: faults.collect(),
    })
}

fn check_count(job: &Job<'_>) -> Result<(), Failure> {
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
    Ok(())
}

/// Looks at the files of every replica. A store that is not configured is no fault of the sector.
fn look(cx: &StageContext, job: &Job<'_>) -> Result<(BTreeMap<SectorNumber, Opened>, Reasons), Failure> {
    let bytes = job.proof_type.sector_bytes();
    let one = |replica: &Replica| {
        let opened = Opened {
            comm_r: replica.comm_r,
            sealed: lookup::local_path(&cx.stores, &replica.sealed)?,
            cache: lookup::local_path(&cx.stores, &replica.cache)?,
        };
        let wrong = replica::wrong(&opened.sealed, &opened.cache, replica.comm_r, bytes);
        Ok((replica.sector, opened, wrong))
    };
    let looked: Vec<_> = job
        .partition
        .replicas
        .par_iter()
        .map(one)
        .collect::<Result<_, Failure>>()?;
    let (mut good, mut faults) = (BTreeMap::new(), Reasons::new());
    for (sector, opened, wrong) in looked {
        match wrong {
            None => drop(good.insert(sector, opened)),
            Some(reason) => drop(faults.insert(sector, reason)),
        }
    }
    Ok((good, faults))
}

/// What each sector must show.
fn challenges<'a>(
    job: &Job<'_>,
    sectors: impl Iterator<Item = &'a SectorNumber>,
) -> Result<BTreeMap<SectorNumber, Vec<u64>>, Failure> {
    let sectors: Vec<SectorId> = sectors.map(|sector| proofs::sector_id(*sector)).collect();
    let prover = proofs::prover_id(job.miner);
    let challenges =
        generate_fallback_sector_challenges(job.proof_type.0, &job.randomness.0, &sectors, prover)
            .map_err(|error| proofs::library_failure("challenges", &error))?;
    let number = |(sector, asked)| (SectorNumber(u64::from(sector)), asked);
    Ok(challenges.into_iter().map(number).collect())
}

/// Proves the sectors that have no proof yet, and gives those for which it failed.
fn prove_missing(
    cx: &StageContext,
    job: &Job<'_>,
    good: &BTreeMap<SectorNumber, Opened>,
    challenges: &BTreeMap<SectorNumber, Vec<u64>>,
    made: &mut Made,
) -> Result<Reasons, Failure> {
    let total = good.len() as u64;
    let done = AtomicU64::new(made.len() as u64);
    let missing = good.par_iter().filter(|(sector, _)| !made.contains_key(*sector));
    let proved: Vec<_> = missing
        .map(|(sector, opened)| {
            if cx.cancel.is_cancelled() {
                return Err(Failure::transient("cancelled", "asked to stop"));
            }
            let asked = challenges.get(sector).cloned().unwrap_or_default();
            let proof = prove_one(job, *sector, opened, &asked);
            tell(cx, done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok((*sector, asked, proof))
        })
        .collect::<Result<_, _>>()?;
    let mut failed = Reasons::new();
    for (sector, asked, proof) in proved {
        match proof {
            Ok(proof) => drop(made.insert(sector, (asked, proof))),
            Err(reason) => drop(failed.insert(sector, reason)),
        }
    }
    Ok(failed)
}

/// The vanilla proof of one sector, or why there is none. The library panics on some damaged files.
fn prove_one(job: &Job<'_>, sector: SectorNumber, opened: &Opened, asked: &[u64]) -> Result<Vec<u8>, String> {
    let info = PrivateReplicaInfo::new(
        job.proof_type.0,
        opened.comm_r.0,
        opened.cache.clone(),
        opened.sealed.clone(),
    );
    let prove = || generate_single_vanilla_proof(job.proof_type.0, proofs::sector_id(sector), &info, asked);
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
