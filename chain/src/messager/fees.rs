//! What messages may cost: four levels of policy, and the gas fields that follow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::Gas;
use crate::policy::BLOCK_GAS;
use crate::types::{Address, BigInt, ChainEpoch, TokenAmount};

/// What one level says. What it leaves open the level below says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeePolicy {
    /// The most that a message may cost, in attoFIL.
    #[serde(with = "crate::json")]
    pub max_fee: Option<TokenAmount>,
    /// How much more gas than estimated, in percent.
    pub extra_gas_percent: Option<u32>,
    /// How much more premium than estimated, in percent.
    pub extra_premium_percent: Option<u32>,
    /// While the base fee is above this (attoFIL), nothing is sent.
    #[serde(with = "crate::json")]
    pub base_fee_max: Option<TokenAmount>,
    /// After so many epochs without landing, a message is replaced by one that pays more.
    pub replace_after: Option<ChainEpoch>,
}

/// The policies of a messager. A message's own comes first, then its sender's, its method's, and that for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeeBook {
    /// For all.
    pub global: FeePolicy,
    /// By the method's name, as [`crate::params::Call::name`] gives it.
    pub methods: BTreeMap<String, FeePolicy>,
    /// By sender.
    pub senders: BTreeMap<Address, FeePolicy>,
}

/// What holds for one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fees {
    /// The most that it may cost.
    pub max_fee: TokenAmount,
    /// How much more gas than estimated, in percent.
    pub extra_gas_percent: u32,
    /// How much more premium than estimated, in percent.
    pub extra_premium_percent: u32,
    /// While the base fee is above this, it is not sent.
    pub base_fee_max: Option<TokenAmount>,
    /// After so many epochs it is replaced; never, if this is not set.
    pub replace_after: Option<ChainEpoch>,
}

/// The most that a message may cost where nobody says.
const MAX_FEE: u64 = 1;

impl FeeBook {
    /// What holds for a message.
    pub fn resolve(&self, from: &Address, method: &str, own: &FeePolicy) -> Fees {
        let levels = [
            Some(own),
            self.senders.get(from),
            self.methods.get(method),
            Some(&self.global),
        ];
        let levels = || levels.iter().copied().flatten();
        Fees {
            max_fee: levels()
                .find_map(|level| level.max_fee.clone())
                .unwrap_or_else(|| TokenAmount::from_whole(MAX_FEE)),
            extra_gas_percent: levels().find_map(|level| level.extra_gas_percent).unwrap_or(0),
            extra_premium_percent: levels()
                .find_map(|level| level.extra_premium_percent)
                .unwrap_or(0),
            base_fee_max: levels().find_map(|level| level.base_fee_max.clone()),
            replace_after: levels().find_map(|level| level.replace_after),
        }
    }
}

impl Fees {
    /// The gas fields of a message for which a node estimated `estimated`.
    pub fn gas(&self, estimated: &Gas) -> Gas {
        let limit = u128::from(estimated.limit) * (100 + u128::from(self.extra_gas_percent)) / 100;
        let premium = estimated.premium.atto() * BigInt::from(100 + u64::from(self.extra_premium_percent));
        let premium = TokenAmount::from_atto(premium).div_floor(100);
        Gas {
            limit: u64::try_from(limit).unwrap_or(BLOCK_GAS).min(BLOCK_GAS),
            fee_cap: estimated.fee_cap.clone().max(premium.clone()),
            premium,
        }
        .capped(&self.max_fee)
    }

    /// Whether a message may be sent at this base fee.
    pub fn open_at(&self, base_fee: &TokenAmount) -> bool {
        self.base_fee_max.as_ref().is_none_or(|most| base_fee <= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atto(n: i64) -> TokenAmount {
        TokenAmount::from_atto(n)
    }

    #[test]
    fn the_nearest_level_that_speaks_counts() {
        let (one, two) = (Address::new_id(1), Address::new_id(2));
        let mut book = FeeBook::default();
        let max = |n| FeePolicy {
            max_fee: Some(atto(n)),
            ..FeePolicy::default()
        };
        assert_eq!(
            book.resolve(&one, "M", &FeePolicy::default()).max_fee,
            TokenAmount::from_whole(1)
        );
        book.global = FeePolicy {
            extra_gas_percent: Some(7),
            ..max(1)
        };
        book.methods.insert("M".into(), max(2));
        book.senders.insert(one, max(3));
        let none = FeePolicy::default();
        assert_eq!(book.resolve(&two, "N", &none).max_fee, atto(1));
        assert_eq!(book.resolve(&two, "M", &none).max_fee, atto(2));
        assert_eq!(book.resolve(&one, "M", &none).max_fee, atto(3));
        let own = book.resolve(&one, "M", &max(4));
        assert_eq!((own.max_fee, own.extra_gas_percent), (atto(4), 7));
    }

    #[test]
    fn gas_with_extras_under_the_cap() {
        let estimated = Gas {
            limit: 1000,
            fee_cap: atto(100),
            premium: atto(10),
        };
        let policy = FeePolicy {
            max_fee: Some(atto(1_000_000)),
            extra_gas_percent: Some(25),
            extra_premium_percent: Some(50),
            ..FeePolicy::default()
        };
        let fees = FeeBook::default().resolve(&Address::new_id(1), "M", &policy);
        assert_eq!(
            fees.gas(&estimated),
            Gas {
                limit: 1250,
                fee_cap: atto(100),
                premium: atto(15)
            }
        );
        let dear = Gas {
            limit: 1_000_000,
            ..estimated.clone()
        };
        assert_eq!(
            fees.gas(&dear),
            Gas {
                limit: 1_250_000,
                fee_cap: atto(0),
                premium: atto(0)
            }
        );
        let huge = Gas {
            limit: u64::MAX,
            ..estimated
        };
        assert_eq!(fees.gas(&huge).limit, BLOCK_GAS);
    }

    #[test]
    fn the_base_fee_gate() {
        let gate = |most| Fees {
            base_fee_max: most,
            ..FeeBook::default().resolve(&Address::new_id(1), "M", &FeePolicy::default())
        };
        assert!(gate(None).open_at(&atto(i64::MAX)));
        assert!(gate(Some(atto(100))).open_at(&atto(100)));
        assert!(!gate(Some(atto(100))).open_at(&atto(101)));
    }
}
