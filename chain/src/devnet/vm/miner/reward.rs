//! ApplyRewards: three quarters of a block reward are locked and vest; fee debt is paid first.

use crate::types::state::ActorError;
use crate::types::{TokenAmount, miner};

use super::{MinerCall, StateError};

impl MinerCall<'_, '_> {
    /// What came with the call is in the balance already.
    pub(in crate::devnet::vm) fn apply_rewards(&mut self, reward: &TokenAmount) -> Result<(), ActorError> {
        let (locked, vesting) = miner::locked_reward_from_reward(reward.clone());
        let unlocked = self
            .state
            .get_unlocked_balance(&self.balance())
            .or_state("failed to calculate unlocked balance")?;
        if unlocked < locked {
            let text = format!("insufficient funds to lock up: unlocked {unlocked}, to lock {locked}");
            return Err(ActorError::insufficient_funds(text));
        }
        let vested = self
            .state
            .add_locked_funds(self.vm.store, self.vm.epoch, &locked, vesting)
            .or_state("failed to lock the reward")?;
        let (burnt, released) = self
            .state
            .repay_partial_debt_in_priority_order(self.vm.store, self.vm.epoch, &self.balance())
            .or_state("failed to repay penalty")?;
        self.burn(&burnt)?;
        self.pledge_changed(&(locked - vested - released));
        Ok(())
    }
}
