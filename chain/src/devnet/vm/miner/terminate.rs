//! TerminateSectors: ends sectors before their time, for a fee.

use crate::types::miner;
use crate::types::state::ActorError;

use super::declare::selection;
use super::{MinerCall, StateError, require};

impl MinerCall<'_, '_> {
    pub(super) fn terminate(
        &mut self,
        params: miner::TerminateSectorsParams,
    ) -> Result<miner::TerminateSectorsReturn, ActorError> {
        let declared = params
            .terminations
            .iter()
            .map(|one| (one.deadline, one.partition, &one.sectors));
        let mut declared = selection(self.vm.net, declared)?;
        self.only_controllers()?;
        let (policy, store, now) = (&self.vm.net.policy, self.vm.store, self.vm.epoch);
        let had_terminations = !self.state.early_terminations.is_empty();
        let sectors = miner::Sectors::load(store, &self.state.sectors).or_state("failed to load sectors")?;
        let mut deadlines = self.state.load_deadlines(store)?;
        let mut lost = miner::PowerPair::zero();
        for (index, partitions) in declared.iter() {
            let start = self.state.current_proving_period_start(policy, now);
            require(miner::deadline_is_mutable(policy, start, index, now), || {
                format!("cannot terminate sectors in immutable deadline {index}")
            })?;
            let quant = self.state.quant_spec_for_deadline(policy, index);
            let mut deadline = deadlines.load_deadline(store, index)?;
            let removed = deadline
                .terminate_sectors(
                    policy,
                    store,
                    &sectors,
                    now,
                    partitions,
                    self.info.sector_size,
                    quant,
                )
                .or_state(&format!("failed to terminate sectors in deadline {index}"))?;
            self.state.early_terminations.set(index);
            lost += &removed;
            deadlines
                .update_deadline(policy, store, index, &deadline)
                .or_state("failed to update deadline")?;
        }
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")?;
        let more = self.process_early_terminations()?;
        if more && !had_terminations {
            self.schedule_early_terminations();
        }
        let none = miner::PowerPair::zero();
        self.power_changed(&(&none - &lost))?;
        Ok(miner::TerminateSectorsReturn { done: !more })
    }
}
