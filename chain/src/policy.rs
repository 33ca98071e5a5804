//! Limits and rules of the network that a client must know before it sends anything: the policy of actors
//! v18 and v19 (chain.md §1.9, §2.1, §2.4).
//!
//! Windows and delays that a node tells (`StateMinerProvingDeadline`, `StateGetNetworkParams`) are not here:
//! they differ between networks and are read from the node.

use crate::types::{ChainEpoch, RegisteredSealProof};

/// The most bytes of a message's CBOR.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// The most gas of a block, and so of a message.
pub const BLOCK_GAS: u64 = 10_000_000_000;
/// The largest sector number.
pub const SECTOR_NUMBER_MAX: u64 = i64::MAX as u64;
/// Deadlines of a proving period.
pub const DEADLINES: u64 = 48;
/// The most partitions of one window proof message.
pub const POST_PARTITIONS: usize = 3;
/// The most partitions that one declaration message may name.
pub const DECLARED_PARTITIONS: usize = 3000;
/// The most sectors that one declaration message may name.
pub const DECLARED_SECTORS: u64 = 25_000;
/// The most control addresses of a miner.
pub const CONTROL_ADDRESSES: usize = 10;
/// The most bytes of a peer ID.
pub const PEER_ID_BYTES: usize = 128;
/// The most bytes of all multiaddresses together.
pub const MULTIADDR_BYTES: usize = 1024;
/// The fewest and the most sectors of an aggregated seal proof.
pub const AGGREGATED: std::ops::RangeInclusive<usize> = 4..=819;
/// The fewest and the most sectors of an aggregated non-interactive proof.
pub const AGGREGATED_NI: std::ops::RangeInclusive<usize> = 1..=65;
/// The most bytes of an aggregated proof.
pub const AGGREGATE_BYTES: usize = 81_960;
/// The most bytes of a replica update's proof.
pub const UPDATE_PROOF_BYTES: usize = 4096;

/// Epochs of a day.
pub const DAY: ChainEpoch = 2880;
/// Epochs after which nothing is reverted any more, without fast finality.
pub const FINALITY: ChainEpoch = 900;
/// The oldest ticket that a pre-commit may have.
pub const TICKET_LOOKBACK: ChainEpoch = DAY + FINALITY;
/// How long after its pre-commit an interactive sector may be proved.
pub const PROVE_COMMIT_WITHIN: ChainEpoch = 30 * DAY + 150;

/// The same on a network with another challenge delay: the last epoch at which a sector that was pre-committed at `precommit`
/// may be proved, by the rule of actors v18 and v19.
pub fn prove_commit_by(precommit: ChainEpoch, challenge_delay: ChainEpoch) -> ChainEpoch {
    precommit.saturating_add(30 * DAY).saturating_add(challenge_delay)
}
/// The shortest time for which a sector is committed.
pub const LIFETIME_MIN: ChainEpoch = 180 * DAY;
/// How far ahead of now a sector may expire.
pub const EXPIRATION_AHEAD_MAX: ChainEpoch = 1278 * DAY;
/// The longest life of a sector over all extensions: five years.
pub const LIFETIME_MAX: ChainEpoch = 5_259_485;

/// The flow of a sector between sealing and the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealFlow {
    /// Pre-commit, seed, prove-commit; synthetic PoRep too.
    Interactive,
    /// One message, no pre-commit.
    NonInteractive,
}

/// The flow of a seal proof type, or nothing when the network does not take the type for new sectors.
pub fn seal_flow(proof: RegisteredSealProof) -> Option<SealFlow> {
    match i64::from(proof) {
        5..=14 => Some(SealFlow::Interactive),
        15..=19 => Some(SealFlow::NonInteractive),
        _ => None,
    }
}

/// Why an expiration is refused by the miner actor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpirationError {
    /// Shorter than the shortest commitment.
    #[error("expiration {expiration} is less than {LIFETIME_MIN} epochs (180 days) after activation, which may be as late as {activation}; choose {} or later", activation + LIFETIME_MIN)]
    TooEarly {
        /// The expiration.
        expiration: ChainEpoch,
        /// The latest epoch at which the sector can become active.
        activation: ChainEpoch,
    },
    /// Further ahead than allowed.
    #[error("expiration {expiration} is more than {EXPIRATION_AHEAD_MAX} epochs (1278 days) after now, {now}; choose {} or earlier", now + EXPIRATION_AHEAD_MAX)]
    TooFar {
        /// The expiration.
        expiration: ChainEpoch,
        /// The current epoch.
        now: ChainEpoch,
    },
    /// Longer than a sector may live.
    #[error("expiration {expiration} is more than {LIFETIME_MAX} epochs (5 years) after activation {activation}; choose {} or earlier", activation + LIFETIME_MAX)]
    TooLong {
        /// The expiration.
        expiration: ChainEpoch,
        /// The epoch at which the sector becomes or became active.
        activation: ChainEpoch,
    },
}

/// Checks an expiration as the miner actor does (chain.md §2.4). `activation` is the latest epoch at which
/// the sector can become active: `now + PROVE_COMMIT_WITHIN` for a pre-commit, `now` for non-interactive
/// sectors, the original activation for an extension.
///
/// # Errors
/// The rule that the expiration breaks.
pub fn check_expiration(
    now: ChainEpoch,
    activation: ChainEpoch,
    expiration: ChainEpoch,
) -> Result<(), ExpirationError> {
    if expiration.saturating_sub(activation) < LIFETIME_MIN {
        return Err(ExpirationError::TooEarly {
            expiration,
            activation,
        });
    }
    if expiration > now.saturating_add(EXPIRATION_AHEAD_MAX) {
        return Err(ExpirationError::TooFar { expiration, now });
    }
    if expiration.saturating_sub(activation) > LIFETIME_MAX {
        return Err(ExpirationError::TooLong {
            expiration,
            activation,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_numbers_are_those_of_the_published_policy() {
        use fil_actors_shared::v19::runtime::Policy;
        let policy = Policy::default();
        assert_eq!(policy.max_pre_commit_randomness_lookback, TICKET_LOOKBACK);
        assert_eq!(policy.chain_finality, FINALITY);
        assert_eq!(policy.min_sector_expiration, LIFETIME_MIN);
        assert_eq!(policy.max_sector_expiration_extension, EXPIRATION_AHEAD_MAX);
        assert_eq!(policy.wpost_period_deadlines, DEADLINES);
        assert_eq!(policy.posted_partitions_max as usize, POST_PARTITIONS);
        assert_eq!(policy.addressed_partitions_max as usize, DECLARED_PARTITIONS);
        assert_eq!(policy.addressed_sectors_max, DECLARED_SECTORS);
        assert_eq!(policy.max_control_addresses, CONTROL_ADDRESSES);
        assert_eq!(policy.max_peer_id_length, PEER_ID_BYTES);
        assert_eq!(policy.max_multiaddr_data, MULTIADDR_BYTES);
        assert_eq!(policy.min_aggregated_sectors as usize, *AGGREGATED.start());
        assert_eq!(policy.max_aggregated_sectors as usize, *AGGREGATED.end());
        assert_eq!(policy.max_aggregated_sectors_ni as usize, *AGGREGATED_NI.end());
        assert_eq!(policy.max_aggregated_proof_size, AGGREGATE_BYTES);
        assert_eq!(policy.max_replica_update_proof_size, UPDATE_PROOF_BYTES);
        for proof in 5..=9 {
            let proof = RegisteredSealProof::from(proof);
            assert_eq!(
                fil_actor_miner_state::v19::max_prove_commit_duration(&policy, proof),
                Some(PROVE_COMMIT_WITHIN),
                "{proof:?}"
            );
        }
        let short = Policy {
            pre_commit_challenge_delay: 10,
            ..Policy::default()
        };
        let proof = RegisteredSealProof::from(8);
        let within = fil_actor_miner_state::v19::max_prove_commit_duration(&short, proof);
        assert_eq!(within, Some(prove_commit_by(7, 10) - 7));
        assert_eq!(prove_commit_by(0, 150), PROVE_COMMIT_WITHIN);
    }

    #[test]
    fn expirations_at_the_limits() {
        let now = 1_000_000;
        let latest = now + PROVE_COMMIT_WITHIN;
        assert_eq!(check_expiration(now, latest, latest + LIFETIME_MIN), Ok(()));
        assert!(matches!(
            check_expiration(now, latest, latest + LIFETIME_MIN - 1),
            Err(ExpirationError::TooEarly { .. })
        ));
        assert_eq!(check_expiration(now, latest, now + EXPIRATION_AHEAD_MAX), Ok(()));
        let error = check_expiration(now, latest, now + EXPIRATION_AHEAD_MAX + 1).unwrap_err();
        assert!(error.to_string().contains("choose 4680640 or earlier"), "{error}");
        assert!(matches!(
            check_expiration(now, now - LIFETIME_MAX, now + 1),
            Err(ExpirationError::TooLong { .. })
        ));
        assert!(check_expiration(i64::MAX, i64::MIN, i64::MAX).is_err());
    }

    #[test]
    fn flows() {
        assert_eq!(seal_flow(RegisteredSealProof::from(0)), None);
        assert_eq!(
            seal_flow(RegisteredSealProof::from(8)),
            Some(SealFlow::Interactive)
        );
        assert_eq!(
            seal_flow(RegisteredSealProof::from(13)),
            Some(SealFlow::Interactive)
        );
        assert_eq!(
            seal_flow(RegisteredSealProof::from(18)),
            Some(SealFlow::NonInteractive)
        );
        assert_eq!(seal_flow(RegisteredSealProof::from(20)), None);
    }
}
