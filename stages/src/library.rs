//! The proofs library alone: one sector sealed by bare calls, one after the other, with nothing durable in between. What the
//! engine costs is measured against it.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use filecoin_proofs_api::UnpaddedBytesAmount;
use filecoin_proofs_api::seal::{
    add_piece, seal_commit_phase1, seal_commit_phase2, seal_pre_commit_phase1, seal_pre_commit_phase2,
    verify_seal,
};
use sealflow_engine::failure::Failure;

use crate::proofs;
use crate::types::{ActorId, SealProof, SectorNumber};

/// How long each of the library's calls took, in their order.
pub type Calls = Vec<(&'static str, Duration)>;

/// Seals the data of a file, filled up with zeros, in an empty folder, and verifies the proof. The Groth16 parameters must be where the
/// library looks for them.
///
/// # Errors
/// A file cannot be read or written, the library fails, or its proof does not verify.
pub fn seal(
    proof: SealProof,
    (miner, sector): (ActorId, SectorNumber),
    data: &Path,
    folder: &Path,
) -> Result<Calls, Failure> {
    let (prover, sector) = (proofs::prover_id(miner), proofs::sector_id(sector));
    // Randomness is a field element: below the field's modulus with these bits off.
    let (ticket, seed) = ([17; 32], [19; 32]);
    let cache = folder.join("cache");
    let (unsealed, sealed) = (folder.join("unsealed"), folder.join("sealed"));
    let made =
        |path: &Path, done: std::io::Result<File>| done.map_err(|error| Failure::io("make", path, &error));
    std::fs::create_dir_all(&cache).map_err(|error| Failure::io("make", &cache, &error))?;
    let mut calls = Calls::new();
    let room = proof.data_bytes();
    let source = made(data, File::open(data))?.chain(std::io::repeat(0)).take(room);
    let target = made(&unsealed, File::create(&unsealed))?;
    let (piece, _) = timed(&mut calls, "add_pieces", || {
        add_piece(proof.0, source, target, UnpaddedBytesAmount(room), &[])
    })?;
    made(&sealed, File::create(&sealed))?;
    let pieces = [piece];
    let pc1 = timed(&mut calls, "pc1", || {
        seal_pre_commit_phase1(
            proof.0, &cache, &unsealed, &sealed, prover, sector, ticket, &pieces,
        )
    })?;
    let pc2 = timed(&mut calls, "pc2", || seal_pre_commit_phase2(pc1, &cache, &sealed))?;
    let (comm_r, comm_d) = (pc2.comm_r, pc2.comm_d);
    let c1 = timed(&mut calls, "c1", || {
        seal_commit_phase1(&cache, &sealed, prover, sector, ticket, seed, pc2, &pieces)
    })?;
    let c2 = timed(&mut calls, "c2", || seal_commit_phase2(c1, prover, sector))?;
    let verified = timed(&mut calls, "verify_seal", || {
        verify_seal(proof.0, comm_r, comm_d, prover, sector, ticket, seed, &c2.proof)
    })?;
    if !verified {
        return Err(Failure::permanent(
            "proof_invalid",
            "the library's own proof does not verify",
        ));
    }
    Ok(calls)
}

/// Calls the library, and notes how long it took.
fn timed<T>(
    calls: &mut Calls,
    name: &'static str,
    call: impl FnOnce() -> anyhow::Result<T>,
) -> Result<T, Failure> {
    let begun = Instant::now();
    let done = call().map_err(|error| proofs::library_failure(name, &error))?;
    calls.push((name, begun.elapsed()));
    Ok(done)
}
