//! What the stages of proofs of spacetime share: vanilla proofs of every sector that can be read, faults for
//! the others, and the proof over them all.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use filecoin_proofs_api::post::{
    generate_fallback_sector_challenges, generate_single_vanilla_proof, generate_window_post_with_vanilla,
    generate_winning_post_with_vanilla,
};
use filecoin_proofs_api::{PrivateReplicaInfo, RegisteredPoStProof, SectorId};
use rayon::prelude::*;
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::{Progress, StageContext};
use sealflow_engine::wire::Reporter;
use serde::{Deserialize, Serialize};

use super::copies::{bring, look};
use super::verify_post;
use crate::params::{ParamKind, ParamSet, ParamsDir};
use crate::proofs;
use crate::remote::RemoteReads;
use crate::seal::proof_parameters;
use crate::types::{
    ActorId, CommR, Fault, Post, PostPartition, PostProof, PostRandomness, ProvedSector, SectorNumber,
};

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
    /// What was read of stores without local paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reads: Option<RemoteReads>,
}

/// A task of `vc-processors` for proofs of spacetime.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The miner's number.
    pub miner_id: u64,
    /// The proof type.
    pub proof_type: RegisteredPoStProof,
    /// The sectors to prove.
    pub replicas: Vec<TaskReplica>,
    /// The randomness that chooses the challenges.
    pub seed: [u8; 32],
    /// Whether faulty sectors are left out of the proof. On the wire they are told instead, and there is no
    /// proof: so programs have it there.
    #[serde(skip)]
    pub(super) leave_out: bool,
}

#[cfg(test)]
impl Task {
    pub(super) fn for_test(
        miner: ActorId,
        proof: PostProof,
        seed: PostRandomness,
        replicas: Vec<TaskReplica>,
    ) -> Self {
        Self {
            miner_id: miner.0,
            proof_type: proof.0,
            replicas,
            seed: seed.0,
            leave_out: false,
        }
    }
}

/// A replica of a task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TaskReplica {
    /// The sector's number.
    pub sector_id: u64,
    /// The commitment to the replica.
    pub comm_r: [u8; 32],
    /// The last tree and the auxiliary files.
    pub cache_dir: PathBuf,
    /// The replica.
    pub sealed_file: PathBuf,
}

/// Replicas whose files are there, by number.
pub(super) type Good = BTreeMap<SectorNumber, TaskReplica>;

/// Vanilla proofs with the challenges that they answer.
type Made = BTreeMap<SectorNumber, (Vec<u64>, Vec<u8>)>;

/// Why sectors cannot be proved.
pub(super) type Reasons = BTreeMap<SectorNumber, String>;

/// The task for these replicas.
pub(super) fn task(job: &Job<'_>, good: &Good, leave_out: bool) -> Task {
    Task {
        miner_id: job.miner.0,
        proof_type: job.proof_type.0,
        replicas: good.values().cloned().collect(),
        seed: job.randomness.0,
        leave_out,
    }
}

/// Faults as outputs have them, by number.
pub(super) fn faults(reasons: Reasons) -> Vec<Fault> {
    let fault = |(sector, reason): (SectorNumber, String)| {
        tracing::warn!(sector = sector.0, reason, "a sector cannot be proved");
        Fault { sector, reason }
    };
    reasons.into_iter().map(fault).collect()
}

/// Looks at each sector's files and proves it by itself. One that is missing, damaged or another than it should
/// be is a fault.
pub(super) fn vanilla(cx: &StageContext, job: &Job<'_>) -> Result<Vanilla, Failure> {
    let mut looked = look(cx, job)?;
    loop {
        bring(cx, job, &mut looked)?;
        let alone = looked.remote.is_empty();
        let (proved, late) = prove_all(&task(job, &looked.good, alone), &Reporter::of(cx))?;
        let some = !late.is_empty();
        let copies = looked.fail(cx, late)?;
        let again = some && (copies || !alone) && !looked.good.is_empty();
        if !again {
            return Ok(Vanilla {
                proved,
                faults: faults(looked.reasons),
                reads: looked.remote.reads(),
            });
        }
    }
}

/// Sectors with their vanilla proofs, in hexadecimal, by number.
type Proved = Vec<(ProvedSector, String)>;

/// Proves each sector of a task by itself. If faults are not left out, nothing is proved when there is one.
pub(super) fn prove_all(task: &Task, reporter: &Reporter) -> Result<(Proved, Reasons), Failure> {
    let number = |replica: &TaskReplica| (SectorNumber(replica.sector_id), replica.clone());
    let mut good: Good = task.replicas.iter().map(number).collect();
    let (mut made, mut reasons) = (Made::new(), Reasons::new());
    while !good.is_empty() {
        let challenges = challenges(task, good.keys())?;
        // Before V1_2 what a sector must show depends on its place among the good ones, so that a fault found
        // late changes the others' challenges.
        made.retain(|sector, (asked, _)| challenges.get(sector) == Some(asked));
        let late = prove_missing(task, reporter, &good, &challenges, &mut made)?;
        if late.is_empty() {
            break;
        }
        good.retain(|sector, _| !late.contains_key(sector));
        reasons.extend(late);
        if !task.leave_out {
            return Ok((Vec::new(), reasons));
        }
    }
    let proved = made.into_iter().filter_map(|(sector, (_, proof))| {
        let comm_r = CommR(good.get(&sector)?.comm_r);
        Some((ProvedSector { sector, comm_r }, hex::encode(proof)))
    });
    Ok((proved.collect(), reasons))
}

pub(super) fn check_count(job: &Job<'_>) -> Result<(), Failure> {
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

/// What each sector must show.
pub(super) fn challenges<'a>(
    task: &Task,
    sectors: impl Iterator<Item = &'a SectorNumber>,
) -> Result<BTreeMap<SectorNumber, Vec<u64>>, Failure> {
    let sectors: Vec<SectorId> = sectors.map(|sector| proofs::sector_id(*sector)).collect();
    let prover = proofs::prover_id(ActorId(task.miner_id));
    let challenges = generate_fallback_sector_challenges(task.proof_type, &task.seed, &sectors, prover)
        .map_err(|error| proofs::library_failure("challenges", &error))?;
    let number = |(sector, asked)| (SectorNumber(u64::from(sector)), asked);
    Ok(challenges.into_iter().map(number).collect())
}

/// Proves the sectors that have no proof yet, and gives those for which it failed.
fn prove_missing(
    task: &Task,
    reporter: &Reporter,
    good: &Good,
    challenges: &BTreeMap<SectorNumber, Vec<u64>>,
    made: &mut Made,
) -> Result<Reasons, Failure> {
    let total = good.len() as u64;
    let done = AtomicU64::new(made.len() as u64);
    let missing = good.par_iter().filter(|(sector, _)| !made.contains_key(*sector));
    let proved: Vec<_> = missing
        .map(|(sector, replica)| {
            if reporter.is_cancelled() {
                return Err(Failure::transient("cancelled", "asked to stop"));
            }
            let asked = challenges.get(sector).cloned().unwrap_or_default();
            let proof = prove_one(task, *sector, replica, &asked);
            tell(reporter, done.fetch_add(1, Ordering::Relaxed) + 1, total);
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
pub(super) fn prove_one(
    task: &Task,
    sector: SectorNumber,
    replica: &TaskReplica,
    asked: &[u64],
) -> Result<Vec<u8>, String> {
    let info = PrivateReplicaInfo::new(
        task.proof_type,
        replica.comm_r,
        replica.cache_dir.clone(),
        replica.sealed_file.clone(),
    );
    let prove = || generate_single_vanilla_proof(task.proof_type, proofs::sector_id(sector), &info, asked);
    let file = replica.sealed_file.display();
    match catch_unwind(AssertUnwindSafe(prove)) {
        Ok(Ok(proof)) => Ok(proof),
        Ok(Err(error)) => Err(format!("{file}: {}", error.root_cause())),
        Err(_) => Err(format!(
            "{file} or its tree is damaged: the proofs library panicked"
        )),
    }
}

fn tell(reporter: &Reporter, done: u64, total: u64) {
    reporter.progress(Progress {
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
    let proved = vanilla.proved.iter().map(|(sector, _)| *sector).collect();
    let proofs = groth(miner, randomness, proof_type, vanilla.proved)?;
    Ok(Post {
        partition,
        proof: hex::encode(proofs.concat()),
        proved,
        faults: vanilla.faults,
    })
}

/// The proofs over vanilla proofs. There is none if there are no vanilla proofs.
pub(super) fn groth(
    miner: ActorId,
    randomness: PostRandomness,
    proof_type: PostProof,
    vanilla: Proved,
) -> Result<Vec<Vec<u8>>, Failure> {
    let proofs: Vec<Vec<u8>> = vanilla
        .iter()
        .map(|(_, proof)| hex::decode(proof))
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::permanent("bad_input", "a vanilla proof is not hexadecimal"))?;
    let prover = proofs::prover_id(miner);
    let made = if proofs.is_empty() {
        Ok(Vec::new())
    } else if proof_type.is_winning() {
        generate_winning_post_with_vanilla(proof_type.0, &randomness.0, prover, &proofs)
    } else {
        generate_window_post_with_vanilla(proof_type.0, &randomness.0, prover, &proofs)
    };
    let made = made.map_err(|error| proofs::library_failure("proof of spacetime", &error))?;
    Ok(made.into_iter().map(|(_, proof)| proof).collect())
}

/// The proof of a task over vanilla proofs, as the wire has it: in standard base64 with padding.
pub(super) fn groth_of(task: &Task, proved: Proved) -> Result<Vec<String>, Failure> {
    let (miner, seed) = (ActorId(task.miner_id), PostRandomness(task.seed));
    let proofs = groth(miner, seed, PostProof(task.proof_type), proved)?;
    Ok(proofs
        .into_iter()
        .map(|proof| BASE64_STANDARD.encode(proof))
        .collect())
}

/// The proof that an answer gives over the good replicas. It is verified where the verifying key is here.
pub(super) fn taken(
    params: &ParamsDir,
    job: &Job<'_>,
    good: &Good,
    reasons: Reasons,
    proofs: &[String],
) -> Result<Post, Failure> {
    let decoded: Vec<Vec<u8>> = proofs
        .iter()
        .map(|proof| BASE64_STANDARD.decode(proof))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::transient("bad_answer", format!("a proof is not base64: {error}")))?;
    let proved = good.iter().map(|(sector, replica)| ProvedSector {
        sector: *sector,
        comm_r: CommR(replica.comm_r),
    });
    let post = Post {
        partition: job.partition.partition,
        proof: hex::encode(decoded.concat()),
        proved: proved.collect(),
        faults: faults(reasons),
    };
    if !post.proved.is_empty() && post.proof.is_empty() {
        return Err(Failure::transient(
            "bad_answer",
            "there is neither a proof nor a fault",
        ));
    }
    let keys = parameter_set(job.proof_type)?;
    if !post.proved.is_empty() && proof_parameters::can_verify(params, keys) {
        let verified = verify_post::verifies(job.proof_type, job.miner, job.randomness, &post);
        if !matches!(verified, Ok(true)) {
            let text = format!("the proof over {} sectors does not verify", post.proved.len());
            return Err(Failure::transient("proof_rejected", text));
        }
    }
    Ok(post)
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
