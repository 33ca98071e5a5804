//! Gas limit, fee cap and premium: what a message may cost, and how one takes another's place (chain.md
//! §2.12).

use crate::types::{BigInt, Message, TokenAmount, Zero};

/// The gas fields of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gas {
    /// The most gas that it may use.
    pub limit: u64,
    /// The most that is paid for a unit of gas, base fee and premium together.
    pub fee_cap: TokenAmount,
    /// What the block producer gets for a unit of gas.
    pub premium: TokenAmount,
}

/// Why a message cannot take another's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "replacing needs a fee of up to {needed}, and at most {allowed} is allowed; raise the maximum fee or wait"
)]
pub struct GasError {
    /// What the cheapest replacement could cost.
    pub needed: TokenAmount,
    /// The maximum.
    pub allowed: TokenAmount,
}

impl Gas {
    /// The gas fields of a message.
    pub fn of(message: &Message) -> Self {
        Self {
            limit: message.gas_limit,
            fee_cap: message.gas_fee_cap.clone(),
            premium: message.gas_premium.clone(),
        }
    }

    /// Puts the fields into a message.
    pub fn put(&self, message: &mut Message) {
        message.gas_limit = self.limit;
        message.gas_fee_cap = self.fee_cap.clone();
        message.gas_premium = self.premium.clone();
    }

    /// The most that the message can cost, without its value.
    pub fn max_fee(&self) -> TokenAmount {
        self.fee_cap.clone() * self.limit
    }

    /// The same, but costing at most `max_fee`: fee cap and premium are lowered where needed.
    pub fn capped(mut self, max_fee: &TokenAmount) -> Self {
        if self.limit == 0 || self.max_fee() <= *max_fee {
            return self;
        }
        self.fee_cap = max_fee.div_floor(self.limit).max(TokenAmount::zero());
        self.premium = self.premium.min(self.fee_cap.clone());
        self
    }

    /// The lowest premium that nodes take for another message with the same nonce: a tenth more, and one.
    pub fn replacing_premium(&self) -> TokenAmount {
        let atto = self.premium.atto() * BigInt::from(11);
        TokenAmount::from_atto(atto).div_ceil(10) + TokenAmount::from_atto(1)
    }

    /// Gas fields that take the place of these: a quarter more premium, as the market asks now (`market`), at
    /// most `max_fee`. The limit is the larger one.
    ///
    /// # Errors
    /// The cheapest replacement would cost more than `max_fee`.
    pub fn replacement(&self, market: &Self, max_fee: &TokenAmount) -> Result<Self, GasError> {
        let minimum = self.replacing_premium();
        let quarter = TokenAmount::from_atto(self.premium.atto() * BigInt::from(5)).div_ceil(4);
        let premium = market.premium.clone().max(quarter).max(minimum.clone());
        let fee_cap = market
            .fee_cap
            .clone()
            .max(self.fee_cap.clone())
            .max(premium.clone());
        let limit = self.limit.max(market.limit);
        let wished = Self {
            limit,
            fee_cap,
            premium,
        };
        let capped = wished.capped(max_fee);
        if capped.premium >= minimum && capped.fee_cap >= minimum {
            return Ok(capped);
        }
        Err(GasError {
            needed: minimum * limit,
            allowed: max_fee.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gas(limit: u64, fee_cap: i64, premium: i64) -> Gas {
        Gas {
            limit,
            fee_cap: TokenAmount::from_atto(fee_cap),
            premium: TokenAmount::from_atto(premium),
        }
    }

    #[test]
    fn a_cap_lowers_both() {
        let atto = TokenAmount::from_atto;
        assert_eq!(gas(100, 50, 10).capped(&atto(5000)), gas(100, 50, 10));
        assert_eq!(gas(100, 50, 10).capped(&atto(4999)), gas(100, 49, 10));
        assert_eq!(gas(100, 50, 10).capped(&atto(500)), gas(100, 5, 5));
        assert_eq!(gas(100, 50, 10).capped(&atto(-1)), gas(100, 0, 0));
        assert_eq!(gas(0, 50, 10).capped(&atto(1)), gas(0, 50, 10));
    }

    #[test]
    fn a_replacement_pays_enough() {
        let atto = TokenAmount::from_atto;
        let old = gas(100, 1000, 100);
        assert_eq!(old.replacing_premium(), atto(111));
        let cheap_market = gas(90, 500, 10);
        assert_eq!(
            old.replacement(&cheap_market, &atto(1_000_000)),
            Ok(gas(100, 1000, 125))
        );
        let dear_market = gas(120, 5000, 300);
        assert_eq!(
            old.replacement(&dear_market, &atto(1_000_000)),
            Ok(gas(120, 5000, 300))
        );
        // The cap may take the extra, never the minimum.
        assert_eq!(
            old.replacement(&cheap_market, &atto(11_500)),
            Ok(gas(100, 115, 115))
        );
        let error = old.replacement(&cheap_market, &atto(11_099)).unwrap_err();
        assert_eq!(error.needed, atto(11_100));
        assert_eq!(gas(1, 0, 0).replacing_premium(), atto(1));
    }
}
