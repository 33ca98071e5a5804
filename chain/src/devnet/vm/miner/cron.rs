//! The end of a deadline: missed proofs, fees, expirations, clean-ups (chain.md §6.2).

use crate::types::state::ActorError;
use crate::types::{TokenAmount, Zero, miner};

use super::super::super::root::CronKind;
use super::{MinerCall, StateError};

/// Epochs of a day, by which daily fees are measured on every profile.
const DAY: i64 = crate::policy::DAY;

impl MinerCall<'_, '_> {
    pub(in crate::devnet::vm) fn proving_deadline(&mut self) -> Result<(), ActorError> {
        let (net, store, now) = (self.vm.net, self.vm.store, self.vm.epoch);
        let (policy, money) = (&net.policy, &net.economics);
        let vested = self
            .state
            .unlock_vested_funds(store, now)
            .or_state("failed to vest funds")?;
        let mut pledge = -vested;
        self.apply_pending_worker()?;
        let deposits = self
            .state
            .cleanup_expired_pre_commits(policy, store, now)
            .or_state("failed to expire pre-committed sectors")?;
        self.state
            .apply_penalty(&deposits)
            .or_state("failed to apply penalty")?;
        let had_terminations = !self.state.early_terminations.is_empty();
        let result = self
            .state
            .advance_deadline(policy, store, now)
            .or_state("failed to advance deadline")?;
        pledge += &result.pledge_delta;
        let faulty = &result.previously_faulty_power.qa;
        let fault_fee = miner::pledge_penalty_for_continued_fault(&money.reward, &money.power, faulty);
        self.state
            .apply_penalty(&fault_fee)
            .or_state("failed to apply penalty")?;
        let day = miner::expected_reward_for_power(&money.reward, &money.power, &result.live_power.qa, DAY);
        let fee = miner::daily_proof_fee_payable(policy, &result.daily_fee, &day);
        self.state
            .apply_penalty(&fee)
            .or_state("failed to apply the daily fee")?;
        pledge += &self.pay_debt()?;
        self.power_changed(&result.power_delta)?;
        self.pledge_changed(&pledge);
        if self.state.continue_deadline_cron() {
            let next = self.state.deadline_info(policy, now + 1).last();
            self.vm.enroll(self.id, next, CronKind::ProvingDeadline);
        } else {
            self.state.deadline_cron_active = false;
        }
        let has_terminations = !self.state.early_terminations.is_empty();
        if !had_terminations && has_terminations && self.process_early_terminations()? {
            self.schedule_early_terminations();
        }
        Ok(())
    }

    /// Pays as much debt as there is money for, also from funds that are not vested. Returns what the pledge
    /// total changes by.
    fn pay_debt(&mut self) -> Result<TokenAmount, ActorError> {
        let balance = self.balance();
        let (burn, unlocked) = self
            .state
            .repay_partial_debt_in_priority_order(self.vm.store, self.vm.epoch, &balance)
            .or_state("failed to repay penalty")?;
        self.burn(&burn)?;
        Ok(-unlocked)
    }

    pub(in crate::devnet::vm) fn schedule_early_terminations(&mut self) {
        let next = self.vm.epoch + 1;
        self.vm.enroll(self.id, next, CronKind::EarlyTerminations);
    }

    /// Charges for sectors that ended early, as many as fit. Tells whether some are left.
    pub(in crate::devnet::vm) fn process_early_terminations(&mut self) -> Result<bool, ActorError> {
        let (net, store) = (self.vm.net, self.vm.store);
        let (policy, money) = (&net.policy, &net.economics);
        let (result, more) = self
            .state
            .pop_early_terminations(
                policy,
                store,
                policy.addressed_partitions_max,
                policy.addressed_sectors_max,
            )
            .or_state("failed to pop early terminations")?;
        if result.is_empty() {
            return Ok(more);
        }
        let sectors = miner::Sectors::load(store, &self.state.sectors).or_state("failed to load sectors")?;
        let (mut penalty, mut pledge) = (TokenAmount::zero(), TokenAmount::zero());
        for (epoch, numbers) in result.iter() {
            for sector in sectors.load_sectors(numbers)? {
                let power = miner::qa_power_for_sector(self.info.sector_size, &sector);
                let fault_fee =
                    miner::pledge_penalty_for_continued_fault(&money.reward, &money.power, &power);
                let age = epoch - sector.activation;
                penalty += miner::pledge_penalty_for_termination(&sector.initial_pledge, age, &fault_fee);
                pledge += &sector.initial_pledge;
            }
        }
        self.state
            .apply_penalty(&penalty)
            .or_state("failed to apply penalty")?;
        self.state
            .add_initial_pledge(&-pledge.clone())
            .or_state("failed to release the pledge of terminated sectors")?;
        let delta = self.pay_debt()? - pledge;
        self.pledge_changed(&delta);
        Ok(more)
    }
}
