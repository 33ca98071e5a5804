//! How much FIL a message must carry for deposits and pledge (chain.md §1.5). What a deposit or a pledge is
//! the node says; here it is added up.
//!
//! Deposits and pledge are taken from the miner's available balance, to which the message's own value is
//! added first.

use crate::types::{TokenAmount, Zero};

/// Who pays deposits and pledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collateral {
    /// The sender of the message, all of it.
    Sender,
    /// The miner's available balance; the sender adds what is missing.
    MinerFirst,
    /// The miner's available balance alone.
    MinerOnly,
}

/// The miner has not enough available balance and the sender may not add to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the miner has {available} available and needs {needed}: {} are missing; send FIL to the miner, or let the sender pay", needed - available)]
pub struct Shortfall {
    /// What is needed.
    pub needed: TokenAmount,
    /// What there is.
    pub available: TokenAmount,
}

/// The value of a message that needs `needed` of the miner's balance.
///
/// # Errors
/// Only with [`Collateral::MinerOnly`]: the balance is too small.
pub fn value(
    needed: &TokenAmount,
    available: &TokenAmount,
    collateral: Collateral,
) -> Result<TokenAmount, Shortfall> {
    let available = available.clone().max(TokenAmount::zero());
    match collateral {
        Collateral::Sender => Ok(needed.clone()),
        Collateral::MinerFirst => Ok((needed - &available).max(TokenAmount::zero())),
        Collateral::MinerOnly if *needed > available => Err(Shortfall {
            needed: needed.clone(),
            available,
        }),
        Collateral::MinerOnly => Ok(TokenAmount::zero()),
    }
}

/// What a pre-commit needs: the deposit of every sector.
pub fn precommit_needs<'a>(deposits: impl IntoIterator<Item = &'a TokenAmount>) -> TokenAmount {
    deposits.into_iter().sum()
}

/// What a prove-commit needs: for every sector its pledge less the deposit that becomes free. A deposit that
/// is larger than its pledge pays nothing for another sector.
pub fn prove_commit_needs<'a>(
    pledges_and_deposits: impl IntoIterator<Item = (&'a TokenAmount, &'a TokenAmount)>,
) -> TokenAmount {
    increase(pledges_and_deposits)
}

/// What a replica update needs: for every sector its new pledge less the present one; pledge never falls.
pub fn update_needs<'a>(
    new_and_old_pledges: impl IntoIterator<Item = (&'a TokenAmount, &'a TokenAmount)>,
) -> TokenAmount {
    increase(new_and_old_pledges)
}

fn increase<'a>(pairs: impl IntoIterator<Item = (&'a TokenAmount, &'a TokenAmount)>) -> TokenAmount {
    let pairs = pairs.into_iter();
    pairs.map(|(to, from)| (to - from).max(TokenAmount::zero())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn atto(n: i64) -> TokenAmount {
        TokenAmount::from_atto(n)
    }

    #[test]
    fn what_messages_need() {
        assert_eq!(precommit_needs(&[atto(3), atto(4)]), atto(7));
        let (five, two, nine) = (atto(5), atto(2), atto(9));
        assert_eq!(prove_commit_needs([(&five, &two), (&two, &nine)]), atto(3));
        assert_eq!(update_needs([(&two, &five)]), atto(0));
    }

    #[test]
    fn who_pays() {
        let (needed, available) = (atto(10), atto(4));
        assert_eq!(value(&needed, &available, Collateral::Sender), Ok(atto(10)));
        assert_eq!(value(&needed, &available, Collateral::MinerFirst), Ok(atto(6)));
        assert_eq!(value(&needed, &atto(11), Collateral::MinerFirst), Ok(atto(0)));
        assert_eq!(value(&needed, &atto(-3), Collateral::MinerFirst), Ok(atto(10)));
        assert_eq!(value(&needed, &atto(10), Collateral::MinerOnly), Ok(atto(0)));
        let error = value(&needed, &available, Collateral::MinerOnly).unwrap_err();
        assert!(
            error.to_string().contains("0.000000000000000006 are missing"),
            "{error}"
        );
    }
}
