//! The weight of a chain: it grows with the network's power and with every win (chain.md §2.6).

use crate::types::BigInt;

use super::super::chain::Tip;
use super::super::core::Core;
use super::super::root::Root;
use super::sortition::EXPECTED_BLOCKS;

/// How much wins count beside power: a half.
const WINS_DIVISOR: u64 = 2;

impl Core {
    /// The weight of the chain up to a tipset.
    pub(in crate::devnet) fn weight(&self, tip: &Tip) -> Result<BigInt, String> {
        let first = tip.first();
        let root: Root = self.store.overlay().load(&first.parent_state_root)?;
        // A network without power has no weight; this one begins with none, and its chain grows heavier all the same.
        let log = root.total_power().1.bits().saturating_sub(1).max(1);
        let wins: i64 = tip.blocks.iter().map(|(_, block)| block.wins()).sum();
        let log = BigInt::from(log << 8);
        Ok(&first.parent_weight
            + &log
            + &log * BigInt::from(wins) / BigInt::from(EXPECTED_BLOCKS * WINS_DIVISOR))
    }
}
