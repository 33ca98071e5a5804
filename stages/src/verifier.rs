//! Judges proofs for the devnet, with the proofs library (chain.md §6.4): every seal, update and proof of
//! spacetime is verified as the network does it.
//!
//! A panic inside the library makes a proof invalid. Verdicts are remembered, because a message is run when its
//! gas is estimated and again when it is in a block. A key that is not in the parameter folder is not made here: a
//! key that was made later would refuse proofs of the right one. So the proof is refused, and the log says why.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use filecoin_proofs_api::post::{
    generate_winning_post_sector_challenge, verify_window_post, verify_winning_post,
};
use filecoin_proofs_api::seal::{
    compute_comm_d, get_seal_inputs, verify_aggregate_seal_commit_proofs, verify_seal,
};
use filecoin_proofs_api::update::verify_empty_sector_update_proof;
use filecoin_proofs_api::{
    PublicReplicaInfo, RegisteredAggregationProof, RegisteredPoStProof, RegisteredSealProof,
    RegisteredUpdateProof,
};
use sealflow_chain::devnet::{Piece, PostClaim, SealClaim, UpdateClaim, Verifier};
use sealflow_chain::{address::prover_id, randomness::for_post, types};

use crate::proofs::{library_pieces, sector_id};
use crate::types::{CommP, PieceInfo, SealProof, SectorNumber};

/// Verdicts that are remembered; then all are forgotten.
const REMEMBERED: usize = 4096;

/// Verifies with the proofs library.
#[derive(Debug, Default)]
pub struct ProofsVerifier {
    verdicts: Mutex<HashMap<[u8; 32], bool>>,
}

impl ProofsVerifier {
    /// The verdict that is remembered for a claim and its proof, or that of `judge`.
    fn verdict(
        &self,
        claim: &impl Debug,
        proof: &[u8],
        key: anyhow::Result<PathBuf>,
        judge: impl FnOnce() -> anyhow::Result<bool>,
    ) -> bool {
        let place = name(claim, proof);
        // A map of finished verdicts is whole after every statement.
        let remembered = || self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = remembered().get(&place) {
            return *verdict;
        }
        match key {
            Ok(path) if path.exists() => {}
            Ok(path) => {
                // Not remembered: the key may come.
                tracing::error!(
                    "{} is missing, so the proof is refused; make or fetch the parameters first",
                    path.display()
                );
                return false;
            }
            Err(error) => {
                tracing::error!(%error, "no key is known for the proof's type, so the proof is refused");
                return false;
            }
        }
        let verdict = match catch_unwind(AssertUnwindSafe(judge)) {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the library refuses to judge a proof; it counts as invalid"
                );
                false
            }
            Err(_) => {
                tracing::warn!("the library panicked over a proof; it counts as invalid");
                false
            }
        };
        let mut verdicts = remembered();
        if verdicts.len() >= REMEMBERED {
            verdicts.clear();
        }
        verdicts.insert(place, verdict);
        verdict
    }

    fn post(&self, claim: &PostClaim, proof: &[u8], winning: bool) -> bool {
        let Some(proof_type) = post_type(claim.proof_type) else {
            return false;
        };
        let key = proof_type.cache_verifying_key_path();
        self.verdict(&(winning, claim), proof, key, || {
            let seed = for_post(claim.randomness);
            let replicas: BTreeMap<_, _> = claim
                .sectors
                .iter()
                .map(|(number, comm_r)| {
                    let sector = sector_id(SectorNumber(*number));
                    (sector, PublicReplicaInfo::new(proof_type, *comm_r))
                })
                .collect();
            let prover = prover_id(claim.miner);
            if winning {
                return verify_winning_post(&seed, proof, &replicas, prover);
            }
            verify_window_post(&seed, &[(proof_type, proof)], &replicas, prover)
        })
    }
}

/// A name for a claim with its proof, which no other has.
fn name(claim: &impl Debug, proof: &[u8]) -> [u8; 32] {
    let mut hasher = blake2b_simd::Params::new().hash_length(32).to_state();
    let claim = format!("{claim:?}");
    hasher.update(&(claim.len() as u64).to_be_bytes());
    hasher.update(claim.as_bytes());
    hasher.update(proof);
    let mut name = [0; 32];
    name.copy_from_slice(hasher.finalize().as_bytes());
    name
}

impl Verifier for ProofsVerifier {
    fn seal(&self, claim: &SealClaim, proof: &[u8]) -> bool {
        let Some(proof_type) = seal_type(claim.proof_type) else {
            return false;
        };
        self.verdict(claim, proof, proof_type.cache_verifying_key_path(), || {
            verify_seal(
                proof_type,
                claim.comm_r,
                claim.comm_d,
                prover_id(claim.miner),
                sector_id(SectorNumber(claim.sector)),
                claim.ticket,
                claim.seed,
                proof,
            )
        })
    }

    /// Needs the file `v28-fil-inner-product-v1.srs` beside the parameters.
    fn aggregate(&self, claims: &[SealClaim], proof: &[u8]) -> bool {
        let types: Option<Vec<_>> = claims.iter().map(|claim| seal_type(claim.proof_type)).collect();
        let Some((types, first)) = types.and_then(|types| Some((types.clone(), *types.first()?))) else {
            return false;
        };
        if types.iter().any(|one| *one != first) {
            return false;
        }
        self.verdict(&claims, proof, first.cache_verifying_key_path(), || {
            let (mut inputs, mut comm_rs, mut seeds) = (Vec::new(), Vec::new(), Vec::new());
            for claim in claims {
                let sector = sector_id(SectorNumber(claim.sector));
                let prover = prover_id(claim.miner);
                inputs.extend(get_seal_inputs(
                    first,
                    claim.comm_r,
                    claim.comm_d,
                    prover,
                    sector,
                    claim.ticket,
                    claim.seed,
                )?);
                comm_rs.push(claim.comm_r);
                seeds.push(claim.seed);
            }
            let version = RegisteredAggregationProof::SnarkPackV2;
            verify_aggregate_seal_commit_proofs(first, version, proof.to_vec(), &comm_rs, &seeds, inputs)
        })
    }

    fn update(&self, claim: &UpdateClaim, proof: &[u8]) -> bool {
        let Some(proof_type) = update_type(claim.proof_type) else {
            return false;
        };
        self.verdict(claim, proof, proof_type.cache_verifying_key_path(), || {
            verify_empty_sector_update_proof(
                proof_type,
                proof,
                claim.old_comm_r,
                claim.new_comm_r,
                claim.comm_d,
            )
        })
    }

    fn window_post(&self, claim: &PostClaim, proof: &[u8]) -> bool {
        self.post(claim, proof, false)
    }

    fn winning_post(&self, claim: &PostClaim, proof: &[u8]) -> bool {
        self.post(claim, proof, true)
    }

    fn winning_challenge(
        &self,
        proof_type: types::RegisteredPoStProof,
        miner: types::ActorID,
        randomness: [u8; 32],
        sectors: u64,
    ) -> Option<Vec<u64>> {
        let proof_type = post_type(proof_type)?;
        if sectors == 0 {
            return None;
        }
        let seed = for_post(randomness);
        let drawn = catch_unwind(AssertUnwindSafe(|| {
            generate_winning_post_sector_challenge(proof_type, &seed, sectors, prover_id(miner))
        }));
        drawn.ok()?.ok()
    }

    fn comm_d(&self, proof_type: types::RegisteredSealProof, pieces: &[Piece]) -> Option<[u8; 32]> {
        let proof_type = SealProof(seal_type(proof_type)?);
        let mut end = 0_u64;
        let mut placed = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let size = piece.size.0;
            if !size.is_power_of_two() || size < 128 {
                return None;
            }
            // A piece begins at a multiple of its size.
            let offset = end.checked_next_multiple_of(size)?;
            end = offset.checked_add(size)?;
            placed.push(PieceInfo {
                comm_p: CommP(piece.comm_p),
                padded_bytes: size,
                offset,
                data_bytes: size / 128 * 127,
            });
        }
        if end > proof_type.sector_bytes() {
            return None;
        }
        let pieces = library_pieces(&placed, proof_type).ok()?;
        let computed = catch_unwind(AssertUnwindSafe(|| compute_comm_d(proof_type.0, &pieces)));
        computed.ok()?.ok()
    }
}

/// The library's name of a seal type.
pub(crate) fn seal_type(proof: types::RegisteredSealProof) -> Option<RegisteredSealProof> {
    use RegisteredSealProof::*;
    let all = [
        StackedDrg2KiBV1,
        StackedDrg8MiBV1,
        StackedDrg512MiBV1,
        StackedDrg32GiBV1,
        StackedDrg64GiBV1,
        StackedDrg2KiBV1_1,
        StackedDrg8MiBV1_1,
        StackedDrg512MiBV1_1,
        StackedDrg32GiBV1_1,
        StackedDrg64GiBV1_1,
        StackedDrg2KiBV1_1_Feat_SyntheticPoRep,
        StackedDrg8MiBV1_1_Feat_SyntheticPoRep,
        StackedDrg512MiBV1_1_Feat_SyntheticPoRep,
        StackedDrg32GiBV1_1_Feat_SyntheticPoRep,
        StackedDrg64GiBV1_1_Feat_SyntheticPoRep,
        StackedDrg2KiBV1_2_Feat_NonInteractivePoRep,
        StackedDrg8MiBV1_2_Feat_NonInteractivePoRep,
        StackedDrg512MiBV1_2_Feat_NonInteractivePoRep,
        StackedDrg32GiBV1_2_Feat_NonInteractivePoRep,
        StackedDrg64GiBV1_2_Feat_NonInteractivePoRep,
    ];
    at(&all, i64::from(proof))
}

/// The library's name of a proof of spacetime: winning 0 to 4, window 10 to 14.
fn post_type(proof: types::RegisteredPoStProof) -> Option<RegisteredPoStProof> {
    use RegisteredPoStProof::*;
    let all = [
        StackedDrgWinning2KiBV1,
        StackedDrgWinning8MiBV1,
        StackedDrgWinning512MiBV1,
        StackedDrgWinning32GiBV1,
        StackedDrgWinning64GiBV1,
        StackedDrgWindow2KiBV1,
        StackedDrgWindow8MiBV1,
        StackedDrgWindow512MiBV1,
        StackedDrgWindow32GiBV1,
        StackedDrgWindow64GiBV1,
        StackedDrgWindow2KiBV1_2,
        StackedDrgWindow8MiBV1_2,
        StackedDrgWindow512MiBV1_2,
        StackedDrgWindow32GiBV1_2,
        StackedDrgWindow64GiBV1_2,
    ];
    at(&all, i64::from(proof))
}

/// The library's name of an update.
fn update_type(proof: types::RegisteredUpdateProof) -> Option<RegisteredUpdateProof> {
    use RegisteredUpdateProof::*;
    let all = [
        StackedDrg2KiBV1,
        StackedDrg8MiBV1,
        StackedDrg512MiBV1,
        StackedDrg32GiBV1,
        StackedDrg64GiBV1,
    ];
    at(&all, i64::from(proof))
}

fn at<T: Copy>(all: &[T], number: i64) -> Option<T> {
    all.get(usize::try_from(number).ok()?).copied()
}

#[cfg(test)]
mod tests {
    use sealflow_chain::types::PaddedPieceSize;

    use super::*;
    use crate::tree;

    #[test]
    fn types_have_the_same_size_on_both_sides() {
        for number in 0..20 {
            let proof = types::RegisteredSealProof::from(number);
            let ours = seal_type(proof).unwrap();
            assert_eq!(
                proof.sector_size().unwrap() as u64,
                u64::from(ours.sector_size()),
                "{number}"
            );
        }
        for number in (0..5).chain(10..15) {
            let proof = types::RegisteredPoStProof::from(number);
            let ours = post_type(proof).unwrap();
            assert_eq!(
                proof.sector_size().unwrap() as u64,
                u64::from(ours.sector_size()),
                "{number}"
            );
        }
        assert_eq!(seal_type(types::RegisteredSealProof::from(20)), None);
        assert_eq!(update_type(types::RegisteredUpdateProof::from(5)), None);
    }

    #[test]
    fn pieces_are_put_where_the_network_puts_them() {
        let verifier = ProofsVerifier::default();
        let seal = types::RegisteredSealProof::from(5);
        let zeros = |size: u64| Piece {
            comm_p: tree::zeros_root(size),
            size: PaddedPieceSize(size),
        };
        // Pieces of zeros make a sector of zeros, with all gaps and the end filled.
        for sizes in [
            &[2048][..],
            &[128],
            &[128, 1024],
            &[512, 512, 128],
            &[128, 256, 512, 1024],
        ] {
            let pieces: Vec<Piece> = sizes.iter().map(|size| zeros(*size)).collect();
            assert_eq!(
                verifier.comm_d(seal, &pieces),
                Some(tree::zeros_root(2048)),
                "{sizes:?}"
            );
        }
        for sizes in [&[4096][..], &[2048, 128], &[1024, 512, 1024], &[100], &[64]] {
            let pieces: Vec<Piece> = sizes
                .iter()
                .map(|size| Piece {
                    size: PaddedPieceSize(*size),
                    ..zeros(128)
                })
                .collect();
            assert_eq!(verifier.comm_d(seal, &pieces), None, "{sizes:?}");
        }
        let data = Piece {
            comm_p: [7; 32],
            ..zeros(1024)
        };
        assert_ne!(verifier.comm_d(seal, &[data]), Some(tree::zeros_root(2048)));
    }

    #[test]
    fn one_sector_is_drawn_for_a_winning_proof() {
        let verifier = ProofsVerifier::default();
        let winning = types::RegisteredPoStProof::from(0);
        // By another program: SHA-256 of prover, randomness and zero, of which the first eight bytes count.
        for (byte, expected) in (0..8).zip([0, 1, 2, 2, 4, 0, 3, 3]) {
            let drawn = verifier.winning_challenge(winning, 1000, [byte; 32], 5);
            assert_eq!(drawn, Some(vec![expected]), "{byte}");
        }
        // The two highest bits are no part of the randomness.
        let masked = |last| {
            let mut randomness = [7; 32];
            randomness[31] = last;
            verifier.winning_challenge(winning, 1000, randomness, 1000)
        };
        assert_eq!(masked(0xff), masked(0x3f));
        assert_eq!(verifier.winning_challenge(winning, 1000, [1; 32], 0), None);
        let window = types::RegisteredPoStProof::from(10);
        assert_eq!(verifier.winning_challenge(window, 1000, [1; 32], 5), None);
    }

    #[test]
    fn whatever_breaks_makes_a_proof_invalid_and_verdicts_are_remembered() {
        let verifier = ProofsVerifier::default();
        let here = || Ok(PathBuf::from("/"));
        assert!(!verifier.verdict(&1, &[], here(), || panic!("as the library does")));
        assert!(!verifier.verdict(&2, &[], here(), || Err(anyhow::anyhow!("refused"))));
        assert!(verifier.verdict(&3, &[1], here(), || Ok(true)));
        // The claim and the proof together are what is judged.
        assert!(verifier.verdict(&3, &[1], here(), || Ok(false)));
        assert!(!verifier.verdict(&3, &[2], here(), || Ok(false)));
        assert!(!verifier.verdict(&4, &[1], here(), || Ok(false)));
        // Without a key nothing is judged, and nothing is remembered.
        let missing = || Ok(PathBuf::from("/no/such/key"));
        assert!(!verifier.verdict(&5, &[], missing(), || Ok(true)));
        assert!(verifier.verdict(&5, &[], here(), || Ok(true)));
        for _ in 0..2 * REMEMBERED {
            verifier.verdict(&rand::random::<u64>(), &[], here(), || Ok(true));
        }
        assert!(verifier.verdicts.lock().unwrap().len() <= REMEMBERED);
    }
}
