//! Deposits, pledge and power of sectors: the published formulas with the devnet's money.

use super::super::super::profile::RAMP;
use super::super::Network;
use crate::types::{BigInt, SectorSize, TokenAmount, miner};

/// Quality of every new sector since FIP-0118, times its bytes.
pub(in crate::devnet) fn sector_qa_power(size: SectorSize) -> BigInt {
    miner::qa_power_max(size)
}

/// What is locked for a pre-commit.
pub(in crate::devnet) fn deposit_for_power(net: &Network, power: &BigInt) -> TokenAmount {
    miner::pre_commit_deposit_for_power(&net.economics.reward, &net.economics.power, power)
}

/// What is locked for a sector.
pub(in crate::devnet) fn pledge_for_power(net: &Network, power: &BigInt) -> TokenAmount {
    let money = &net.economics;
    miner::initial_pledge_for_power(
        power,
        &money.baseline,
        &money.reward,
        &money.power,
        &money.circulating,
        RAMP.0,
        RAMP.1,
    )
}

/// What a sector costs a day.
pub(super) fn daily_fee(net: &Network, power: &BigInt) -> TokenAmount {
    miner::daily_proof_fee(&net.policy, &net.economics.circulating, power)
}
