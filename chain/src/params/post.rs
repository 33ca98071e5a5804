//! Messages about proofs of spacetime (chain.md §1.6).

use crate::policy::POST_PARTITIONS;
use crate::types::{BitField, ChainEpoch, PoStProof, Randomness, RegisteredPoStProof, miner};

use super::call::Call;
use super::declare::check_deadline;
use super::error::BuildError;

/// A partition of a window proof.
#[derive(Debug, Clone, PartialEq)]
pub struct PartitionPost {
    /// Its place in the deadline, from zero.
    pub index: u64,
    /// Sectors that could not be read and are not yet known as faulty.
    pub skipped: BitField,
}

/// A window proof of some partitions of a deadline.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowPost {
    /// The open deadline, 0 to 47.
    pub deadline: u64,
    /// At most three, each once.
    pub partitions: Vec<PartitionPost>,
    /// Type of the proof (10 to 14).
    pub proof_type: RegisteredPoStProof,
    /// One proof of 192 bytes for each partition.
    pub proof: Vec<u8>,
    /// From the deadline's challenge on, before the epoch of inclusion.
    pub commit_epoch: ChainEpoch,
    /// The ticket randomness of that epoch (tag 9).
    pub commit_rand: [u8; 32],
}

/// Submits a window proof.
///
/// # Errors
/// The deadline is none, there are no partitions, too many, or one twice, or the proof is empty.
pub fn submit_window_post(post: WindowPost) -> Result<Call, BuildError> {
    const METHOD: &str = "SubmitWindowedPoSt";
    check_deadline(METHOD, post.deadline)?;
    let count = post.partitions.len();
    if count == 0 || count > POST_PARTITIONS {
        return Err(BuildError::new(
            METHOD,
            format!("{count} partitions; a message proves 1 to {POST_PARTITIONS}"),
        ));
    }
    let indices = post.partitions.iter().map(|partition| partition.index);
    if let Some(twice) = super::declare::twice(indices) {
        return Err(BuildError::new(METHOD, format!("partition {twice} comes twice")));
    }
    if post.proof.is_empty() {
        return Err(BuildError::new(METHOD, "the proof is empty"));
    }
    let partitions = post.partitions.into_iter();
    Ok(Call::SubmitWindowedPoSt(miner::SubmitWindowedPoStParams {
        deadline: post.deadline,
        partitions: partitions
            .map(|partition| miner::PoStPartition {
                index: partition.index,
                skipped: partition.skipped,
            })
            .collect(),
        proofs: vec![PoStProof {
            post_proof: post.proof_type,
            proof_bytes: post.proof,
        }],
        chain_commit_epoch: post.commit_epoch,
        chain_commit_rand: Randomness(post.commit_rand.to_vec()),
    }))
}

/// Shows that a window proof that was accepted unverified is wrong.
///
/// # Errors
/// The deadline is none.
pub fn dispute(deadline: u64, post_index: u64) -> Result<Call, BuildError> {
    check_deadline("DisputeWindowedPoSt", deadline)?;
    Ok(Call::DisputeWindowedPoSt(miner::DisputeWindowedPoStParams {
        deadline,
        post_index,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_that_the_actor_would_refuse() {
        let partition = |index| PartitionPost {
            index,
            skipped: BitField::new(),
        };
        let post = |deadline, partitions: Vec<PartitionPost>, proof: &[u8]| {
            submit_window_post(WindowPost {
                deadline,
                partitions,
                proof_type: RegisteredPoStProof::from(13),
                proof: proof.to_vec(),
                commit_epoch: 1234,
                commit_rand: [9; 32],
            })
        };
        assert!(post(47, vec![partition(0)], &[1]).is_ok());
        for (result, reason) in [
            (post(48, vec![partition(0)], &[1]), "deadline 48"),
            (post(3, vec![], &[1]), "0 partitions"),
            (post(3, (0..4).map(partition).collect(), &[1]), "4 partitions"),
            (
                post(3, vec![partition(1), partition(1)], &[1]),
                "partition 1 comes twice",
            ),
            (post(3, vec![partition(0)], &[]), "empty"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(dispute(48, 0).is_err());
    }
}
