//! Gas: not the numbers of the network's machine, but amounts of that size that grow with the work, so that
//! estimates, limits and fees mean something (chain.md §6.2).

use fvm_ipld_encoding::from_slice;

use crate::types::{Message, TokenAmount, Zero, miner};

/// How a message that ran out of gas begins.
pub(in crate::devnet) const OUT_OF_GAS_TEXT: &str = "message ran out of gas";

/// What every message uses.
const BASE: u64 = 500_000;
/// For a byte of a message.
const BYTE: u64 = 1_300;

/// Who gets what of the gas that was paid for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::devnet) struct Cost {
    pub(in crate::devnet) base_fee_burn: TokenAmount,
    pub(in crate::devnet) over_estimation_burn: TokenAmount,
    pub(in crate::devnet) miner_tip: TokenAmount,
    pub(in crate::devnet) refund: TokenAmount,
}

/// Gas that a message uses.
pub(super) fn used(message: &Message, bytes: usize) -> u64 {
    let work = work(message).unwrap_or(0);
    BASE + BYTE * bytes as u64 + work
}

/// By the method's own work. Parameters that cannot be read fail before they cost.
fn work(message: &Message) -> Option<u64> {
    let params = message.params.bytes();
    let work = match message.method_num {
        0 => 0,
        28 => {
            let read: miner::PreCommitSectorBatchParams2 = from_slice(params).ok()?;
            1_500_000 + 500_000 * read.sectors.len() as u64
        }
        34 => {
            let read: miner::ProveCommitSectors3Params = from_slice(params).ok()?;
            let sectors = read.sector_activations.len() as u64;
            if read.aggregate_proof.bytes().is_empty() {
                40_000_000 * sectors
            } else {
                60_000_000 + 2_000_000 * sectors
            }
        }
        35 => {
            let read: miner::ProveReplicaUpdates3Params = from_slice(params).ok()?;
            50_000_000 * read.sector_updates.len() as u64
        }
        5 => {
            let read: miner::SubmitWindowedPoStParams = from_slice(params).ok()?;
            5_000_000 + 15_000_000 * read.partitions.len() as u64
        }
        _ => 10_000_000,
    };
    Some(work)
}

/// Shares out what was taken for gas: the rule of the network's machine.
pub(super) fn settle(message: &Message, used: u64, base_fee: &TokenAmount) -> Cost {
    let limit = message.gas_limit;
    let paid = message.gas_fee_cap.clone() * limit;
    let base = base_fee.min(&message.gas_fee_cap).clone();
    let tip = (&message.gas_fee_cap - &base).min(message.gas_premium.clone());
    let base_fee_burn = base.clone() * used;
    let over_estimation_burn = base * over_estimated(limit, used);
    let miner_tip = tip.max(TokenAmount::zero()) * limit;
    let refund = paid - &base_fee_burn - &over_estimation_burn - &miner_tip;
    Cost {
        base_fee_burn,
        over_estimation_burn,
        miner_tip,
        refund,
    }
}

/// The part of the unused gas that is burnt, so that nobody asks for much more than is needed.
fn over_estimated(limit: u64, used: u64) -> u64 {
    if used == 0 {
        return limit;
    }
    let free = u128::from(used) * 11 / 10;
    let over = u128::from(limit).saturating_sub(free).min(u128::from(used));
    let burnt = u128::from(limit - used.min(limit)) * over / u128::from(used);
    u64::try_from(burnt).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_near_the_use_burns_nothing_more() {
        assert_eq!(over_estimated(110, 100), 0);
        assert_eq!(over_estimated(200, 100), 90);
        assert_eq!(over_estimated(1_000, 100), 900);
        assert_eq!(over_estimated(7, 0), 7);
    }

    #[test]
    fn what_was_paid_is_shared_out_to_the_last_atto() {
        let mut message = crate::message::tests::vector("f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y");
        message.gas_limit = 1_000;
        let cost = settle(&message, 400, &TokenAmount::from_atto(100));
        let paid = message.gas_fee_cap * 1_000_u64;
        let shares = &cost.base_fee_burn + &cost.over_estimation_burn + &cost.miner_tip + &cost.refund;
        assert_eq!(shares, paid);
        assert_eq!(cost.base_fee_burn, TokenAmount::from_atto(40_000));
        assert_eq!(cost.miner_tip, TokenAmount::from_atto(100_000));
    }
}
