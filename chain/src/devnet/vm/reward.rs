//! The reward actor: pays who made a block (chain.md §6.2).

use crate::types::state::ActorError;
use crate::types::{ActorID, TokenAmount};

use super::super::mining::EXPECTED_BLOCKS;
use super::super::root::{BURNT, REWARD};
use super::Vm;

impl Vm<'_> {
    /// The reward of an epoch.
    pub(super) fn epoch_reward(&self) -> TokenAmount {
        TokenAmount::from_atto(self.net.economics.reward.estimate())
    }

    /// Runs something whose tips the reward actor collects. Tells how much that was.
    pub(in crate::devnet) fn collecting_tips<T>(
        &mut self,
        run: impl FnOnce(&mut Self) -> T,
    ) -> (T, TokenAmount) {
        let before = self.balance(REWARD);
        let tips_to = std::mem::replace(&mut self.tips_to, REWARD);
        let done = run(self);
        self.tips_to = tips_to;
        (done, self.balance(REWARD) - before)
    }

    /// AwardBlockReward: a miner gets the reward of its wins, with the tips. What it cannot be paid is burnt, as on the
    /// network. The supply is a constant here, so a reward comes out of nothing.
    pub(in crate::devnet) fn award(&mut self, miner: ActorID, wins: i64, tips: &TokenAmount) {
        let reward = (self.epoch_reward() * wins).div_floor(EXPECTED_BLOCKS);
        if let Some(actor) = self.root.actors.get_mut(&REWARD) {
            actor.balance += &reward;
        }
        let total = reward + tips;
        let before = self.root.clone();
        if let Err(error) = self.pay_reward(miner, &total) {
            tracing::error!(miner, epoch = self.epoch, %error, "a block reward cannot be paid; it is burnt");
            self.root = before;
            if let Err(error) = self.transfer(REWARD, BURNT, &total) {
                tracing::error!(miner, epoch = self.epoch, %error, "a block reward cannot be burnt");
            }
        }
    }

    fn pay_reward(&mut self, miner: ActorID, total: &TokenAmount) -> Result<(), ActorError> {
        self.transfer(REWARD, miner, total)?;
        let mut call = self.open_miner(miner, REWARD)?;
        call.apply_rewards(total)?;
        call.save()
    }
}
