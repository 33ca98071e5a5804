//! What the devnet needs from the proofs library. The trait is here, where it is used; who names the library
//! implements it.

use crate::types::{
    ActorID, PaddedPieceSize, RegisteredPoStProof, RegisteredSealProof, RegisteredUpdateProof, SectorNumber,
};

/// A seal and what it claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealClaim {
    /// Type of the seal.
    pub proof_type: RegisteredSealProof,
    /// The miner.
    pub miner: ActorID,
    /// The sector.
    pub sector: SectorNumber,
    /// Commitment to the replica.
    pub comm_r: [u8; 32],
    /// Commitment to the data.
    pub comm_d: [u8; 32],
    /// The randomness that the replica is bound to.
    pub ticket: [u8; 32],
    /// The randomness that chose the challenges.
    pub seed: [u8; 32],
}

/// A replica update and what it claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateClaim {
    /// Type of the update.
    pub proof_type: RegisteredUpdateProof,
    /// Commitment to the replica before it.
    pub old_comm_r: [u8; 32],
    /// Commitment to the replica after it.
    pub new_comm_r: [u8; 32],
    /// Commitment to the new data.
    pub comm_d: [u8; 32],
}

/// What a proof of spacetime claims. Sectors are ascending and distinct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostClaim {
    /// Type of the proof.
    pub proof_type: RegisteredPoStProof,
    /// The miner.
    pub miner: ActorID,
    /// The chain's randomness, as drawn; its two highest bits are cleared by whoever verifies.
    pub randomness: [u8; 32],
    /// The sectors and their commitments.
    pub sectors: Vec<(SectorNumber, [u8; 32])>,
}

/// A piece in its place in a sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Commitment to the piece.
    pub comm_p: [u8; 32],
    /// Its size with padding.
    pub size: PaddedPieceSize,
}

/// Judges proofs as the network does. A call blocks for milliseconds, and never panics: whatever goes wrong
/// inside makes a proof invalid.
pub trait Verifier: Send + Sync {
    /// Whether a seal's proof holds.
    fn seal(&self, claim: &SealClaim, proof: &[u8]) -> bool;
    /// Whether the aggregated proof of several seals holds, which are in the order of aggregation.
    fn aggregate(&self, claims: &[SealClaim], proof: &[u8]) -> bool;
    /// Whether a replica update's proof holds.
    fn update(&self, claim: &UpdateClaim, proof: &[u8]) -> bool;
    /// Whether a window proof holds.
    fn window_post(&self, claim: &PostClaim, proof: &[u8]) -> bool;
    /// Whether a winning proof holds; the sectors are those that were challenged.
    fn winning_post(&self, claim: &PostClaim, proof: &[u8]) -> bool;
    /// Which of so many sectors, in ascending order and counted from zero, a winning proof must show. Nothing for a
    /// type that is none of a winning proof. The randomness is as drawn.
    fn winning_challenge(
        &self,
        proof_type: RegisteredPoStProof,
        miner: ActorID,
        randomness: [u8; 32],
        sectors: u64,
    ) -> Option<Vec<u64>>;
    /// The commitment to a sector with these pieces, in their order, with zeros in every gap. Nothing where
    /// they do not fit.
    fn comm_d(&self, proof_type: RegisteredSealProof, pieces: &[Piece]) -> Option<[u8; 32]>;
}
