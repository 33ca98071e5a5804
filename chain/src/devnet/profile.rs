//! How fast the devnet's network is: the policy of the actors, scaled in time (chain.md §6.6), and its money.
//!
//! Money is that of mainnet, so amounts have the size that operators know; it does not change with time.

use std::str::FromStr;

use crate::types::state::{FilterEstimate, Policy};
use crate::types::{BigInt, ChainEpoch, RegisteredPoStProof, RegisteredSealProof, TokenAmount};

/// How time is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// The windows and delays of mainnet.
    Mainnet,
    /// Windows of mainnet with a short wait for seeds, for clocks of 100 to 200 ms.
    Fast,
    /// Windows of ten epochs, for tests.
    Tiny,
}

impl Profile {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 3] = [
        ("mainnet", Self::Mainnet),
        ("fast", Self::Fast),
        ("tiny", Self::Tiny),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, profile)| *profile == self);
        found.map_or("", |(name, _)| name)
    }

    /// The network's name, by which a client chooses its own parameters.
    pub fn network_name(self) -> String {
        format!("sealflow-devnet-{}", self.name())
    }

    /// Seconds of an epoch by the timestamps of blocks.
    pub fn epoch_seconds(self) -> u64 {
        match self {
            Self::Mainnet => 30,
            Self::Fast | Self::Tiny => 1,
        }
    }

    /// The policy of the actors.
    pub fn policy(self) -> Policy {
        let mut policy = Policy::default();
        allow_small_sectors(&mut policy);
        policy.minimum_consensus_power = BigInt::from(2048);
        match self {
            Self::Mainnet => {}
            Self::Fast => policy.pre_commit_challenge_delay = 10,
            Self::Tiny => {
                policy.pre_commit_challenge_delay = 10;
                policy.wpost_challenge_window = 10;
                policy.wpost_proving_period = 480;
                policy.wpost_challenge_lookback = 2;
                policy.fault_declaration_cutoff = 5;
                policy.wpost_dispute_window = 300;
                policy.chain_finality = 20;
                policy.max_pre_commit_randomness_lookback = 500;
                policy.wpost_max_chain_commit_age = 10;
                policy.fault_max_age = 42 * 480;
                policy.worker_key_change_delay = 20;
                policy.consensus_fault_ineligibility_duration = 20;
            }
        }
        policy
    }
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, profile)| *profile)
            .ok_or_else(|| format!("`{text}` is no profile; there are mainnet, fast and tiny"))
    }
}

/// Sectors of 2 KiB, 8 MiB and 512 MiB, which the public networks do not take.
fn allow_small_sectors(policy: &mut Policy) {
    for size in 0..3_i64 {
        let seals = [5, 10].map(|first| RegisteredSealProof::from(first + size));
        for seal in seals {
            policy.valid_pre_commit_proof_type.insert(seal);
        }
        let ni = RegisteredSealProof::from(15 + size);
        policy.valid_prove_commit_ni_proof_type.insert(ni);
        let post = RegisteredPoStProof::from(10 + size);
        policy.valid_post_proof_type.insert(post);
    }
}

/// What rewards, deposits and pledges are computed from.
#[derive(Debug, Clone)]
pub(super) struct Economics {
    /// Reward of an epoch.
    pub(super) reward: FilterEstimate,
    /// Quality-adjusted power of the whole network.
    pub(super) power: FilterEstimate,
    /// The baseline that pledge is measured by.
    pub(super) baseline: BigInt,
    /// FIL in circulation.
    pub(super) circulating: TokenAmount,
}

impl Economics {
    /// Amounts of the size that mainnet has: 25 FIL an epoch, 8 EiB of power, 700 million FIL.
    pub(super) fn new() -> Self {
        let reward = TokenAmount::from_whole(25).atto().clone();
        let power = BigInt::from(1_u64 << 63);
        Self {
            reward: FilterEstimate::new(reward, BigInt::default()),
            baseline: &power + &power,
            power: FilterEstimate::new(power, BigInt::default()),
            circulating: TokenAmount::from_whole(700_000_000),
        }
    }
}

/// Epochs from the beginning of FIP-0081's ramp: it has ended.
pub(super) const RAMP: (ChainEpoch, u64) = (1, 1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fit_together() {
        for (name, profile) in Profile::ALL {
            let policy = profile.policy();
            assert_eq!(name.parse(), Ok(profile));
            assert!(
                policy.fault_declaration_cutoff > policy.wpost_challenge_lookback,
                "{name}"
            );
            assert_eq!(
                policy.wpost_proving_period,
                48 * policy.wpost_challenge_window,
                "{name}"
            );
        }
        assert!("slow".parse::<Profile>().is_err());
    }

    #[test]
    fn small_sectors_are_taken_and_old_types_are_not() {
        let policy = Profile::Tiny.policy();
        for (seal, taken) in [
            (0, false),
            (5, true),
            (7, true),
            (8, true),
            (10, true),
            (15, false),
        ] {
            let seal = RegisteredSealProof::from(seal);
            assert_eq!(
                policy.valid_pre_commit_proof_type.contains(seal),
                taken,
                "{seal:?}"
            );
        }
        assert!(
            !policy
                .valid_post_proof_type
                .contains(RegisteredPoStProof::from(5))
        );
        assert!(
            policy
                .valid_post_proof_type
                .contains(RegisteredPoStProof::from(10))
        );
    }
}
