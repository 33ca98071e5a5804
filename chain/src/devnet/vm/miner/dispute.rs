//! DisputeWindowedPoSt: shows that a window proof that was accepted unseen does not hold.

use crate::types::state::ActorError;
use crate::types::{TokenAmount, miner};

use super::{MinerCall, StateError, require};

impl MinerCall<'_, '_> {
    /// Anybody may.
    pub(super) fn dispute(&mut self, params: &miner::DisputeWindowedPoStParams) -> Result<(), ActorError> {
        let (net, store, now) = (self.vm.net, self.vm.store, self.vm.epoch);
        let (policy, index) = (&net.policy, params.deadline);
        require(index < policy.wpost_period_deadlines, || {
            format!("invalid deadline {index} of {}", policy.wpost_period_deadlines)
        })?;
        let start = self.state.current_proving_period_start(policy, now);
        if !miner::deadline_available_for_optimistic_post_dispute(policy, start, index, now) {
            let text = format!(
                "can only dispute window posts during the dispute window ({} epochs after the challenge window closes)",
                policy.wpost_dispute_window
            );
            return Err(ActorError::forbidden(text));
        }
        let current = self.state.deadline_info(policy, now);
        let period = match current.index < index {
            true => current.period_start - policy.wpost_proving_period,
            false => current.period_start,
        };
        let target = miner::new_deadline_info(policy, period, index, now);
        let mut deadlines = self.state.load_deadlines(store)?;
        let mut deadline = deadlines.load_deadline(store, index)?;
        // It is gone after this, so that nobody disputes it twice.
        let (partitions, proofs) = deadline
            .take_post_proofs(store, params.post_index)
            .or_state("failed to load proof for dispute")?;
        let mut disputed = deadline
            .load_partitions_for_dispute(store, partitions)
            .or_state("failed to load partition for dispute")?;
        let snapshot =
            miner::Sectors::load(store, &deadline.sectors_snapshot).or_state("failed to load sectors")?;
        let infos = snapshot
            .load_for_proof(&disputed.all_sector_nos, &disputed.ignored_sector_nos)
            .or_state("failed to load sectors to dispute window post")?;
        let mut valid = !proofs.is_empty();
        for proof in &proofs {
            valid &= self.post_holds(proof.post_proof, target.challenge, &infos, &proof.proof_bytes)?;
        }
        require(!valid, || "failed to dispute valid post".into())?;
        let sectors = miner::Sectors::load(store, &self.state.sectors).or_state("failed to load sectors")?;
        let lost = deadline
            .record_faults(
                store,
                &sectors,
                self.info.sector_size,
                target.quant_spec(),
                target.last() + policy.fault_max_age,
                &mut disputed.disputed_sectors,
            )
            .or_state("failed to declare faults")?;
        deadlines
            .update_deadline(policy, store, index, &deadline)
            .or_state("failed to update deadline")?;
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")?;
        self.punish(&disputed.disputed_power)?;
        self.power_changed(&lost)
    }

    /// Takes the penalty, of which who disputed gets a part.
    fn punish(&mut self, disputed: &miner::PowerPair) -> Result<(), ActorError> {
        let money = &self.vm.net.economics;
        let penalty = miner::pledge_penalty_for_invalid_windowpost(&money.reward, &money.power, &disputed.qa);
        let reward =
            miner::reward_for_disputed_window_post(self.info.window_post_proof_type, disputed.clone());
        self.state
            .apply_penalty(&(penalty + &reward))
            .or_state("failed to apply penalty")?;
        let balance = self.balance();
        let (paid, unlocked) = self
            .state
            .repay_partial_debt_in_priority_order(self.vm.store, self.vm.epoch, &balance)
            .or_state("failed to pay debt")?;
        let reward: TokenAmount = reward.min(paid.clone());
        if !reward.is_zero() {
            self.vm.transfer(self.id, self.caller, &reward)?;
        }
        self.burn(&(paid - reward))?;
        self.pledge_changed(&-unlocked);
        Ok(())
    }
}
