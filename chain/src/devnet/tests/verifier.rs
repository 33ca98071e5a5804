//! The verifier of these tests. A proof of a claim is made of the claim, so whatever is claimed wrongly (another
//! seed, another replica) is refused, without the minutes that real proofs take. It is compiled into tests only.

use crate::devnet::{Piece, PostClaim, SealClaim, UpdateClaim, Verifier};
use crate::message::blake2b_256;
use crate::types::{ActorID, RegisteredPoStProof, RegisteredSealProof};

/// By this the test binary knows that no other binary has the verifier: see `tests/it/house.rs`.
const MARK: &str = "sealflow-verifier-of-claims-for-tests";

/// See the module.
pub(super) struct ClaimVerifier;

fn proof_of(claim: &str, bytes: usize) -> Vec<u8> {
    let hash = blake2b_256(format!("{MARK}{claim}").as_bytes());
    hash.iter().copied().cycle().take(bytes).collect()
}

pub(super) fn seal_proof(claim: &SealClaim) -> Vec<u8> {
    proof_of(&format!("{claim:?}"), 192)
}

pub(super) fn aggregate_proof(claims: &[SealClaim]) -> Vec<u8> {
    proof_of(&format!("{claims:?}"), 1000)
}

pub(super) fn update_proof(claim: &UpdateClaim) -> Vec<u8> {
    proof_of(&format!("{claim:?}"), 192)
}

pub(super) fn post_proof(claim: &PostClaim) -> Vec<u8> {
    proof_of(&format!("{claim:?}"), 192)
}

/// A commitment that depends on every piece.
pub(super) fn comm_d(pieces: &[Piece]) -> [u8; 32] {
    let mut comm = blake2b_256(format!("{pieces:?}").as_bytes());
    comm[31] &= 0x3f;
    comm
}

impl Verifier for ClaimVerifier {
    fn seal(&self, claim: &SealClaim, proof: &[u8]) -> bool {
        proof == seal_proof(claim)
    }

    fn aggregate(&self, claims: &[SealClaim], proof: &[u8]) -> bool {
        proof == aggregate_proof(claims)
    }

    fn update(&self, claim: &UpdateClaim, proof: &[u8]) -> bool {
        proof == update_proof(claim)
    }

    fn window_post(&self, claim: &PostClaim, proof: &[u8]) -> bool {
        proof == post_proof(claim)
    }

    fn winning_post(&self, claim: &PostClaim, proof: &[u8]) -> bool {
        proof == post_proof(claim)
    }

    fn winning_challenge(
        &self,
        _: RegisteredPoStProof,
        miner: ActorID,
        randomness: [u8; 32],
        sectors: u64,
    ) -> Option<Vec<u64>> {
        let hash = blake2b_256(format!("{MARK}{miner}{randomness:?}").as_bytes());
        Some(vec![u64::from(hash[0]).checked_rem(sectors)?])
    }

    fn comm_d(&self, _: RegisteredSealProof, pieces: &[Piece]) -> Option<[u8; 32]> {
        Some(comm_d(pieces))
    }
}
