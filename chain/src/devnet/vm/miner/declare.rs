//! DeclareFaults and DeclareFaultsRecovered, and what all declarations of sectors have in common.

use crate::types::state::ActorError;
use crate::types::{BitField, miner};

use super::{MinerCall, StateError, illegal, require};

/// Sectors by deadline and partition, within the limits of a message.
pub(super) fn selection<'p>(
    net: &super::super::Network,
    declared: impl IntoIterator<Item = (u64, u64, &'p BitField)>,
) -> Result<miner::DeadlineSectorMap, ActorError> {
    let policy = &net.policy;
    let mut map = miner::DeadlineSectorMap::new();
    for (deadline, partition, sectors) in declared {
        map.add(policy, deadline, partition, sectors.clone())
            .or_argument(&format!(
                "failed to process deadline {deadline}, partition {partition}"
            ))?;
    }
    map.check(policy.addressed_partitions_max, policy.addressed_sectors_max)
        .or_argument("cannot process requested parameters")?;
    Ok(map)
}

impl MinerCall<'_, '_> {
    pub(super) fn declare_faults(&mut self, params: miner::DeclareFaultsParams) -> Result<(), ActorError> {
        require(!params.faults.is_empty(), || {
            "must have at least one fault declaration".into()
        })?;
        let declared = params
            .faults
            .iter()
            .map(|one| (one.deadline, one.partition, &one.sectors));
        let mut declared = selection(self.vm.net, declared)?;
        self.only_controllers()?;
        let (policy, store) = (&self.vm.net.policy, self.vm.store);
        let sectors = miner::Sectors::load(store, &self.state.sectors).or_state("failed to load sectors")?;
        let mut deadlines = self.state.load_deadlines(store)?;
        let mut delta = miner::PowerPair::zero();
        for (index, partitions) in declared.iter() {
            let target = self.declaration_deadline(index)?;
            let mut deadline = deadlines.load_deadline(store, index)?;
            let lost = deadline
                .record_faults(
                    store,
                    &sectors,
                    self.info.sector_size,
                    target.quant_spec(),
                    target.last() + policy.fault_max_age,
                    partitions,
                )
                .or_state(&format!("failed to declare faults for deadline {index}"))?;
            delta += &lost;
            deadlines
                .update_deadline(policy, store, index, &deadline)
                .or_state("failed to store deadline")?;
        }
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")?;
        self.power_changed(&delta)
    }

    pub(super) fn declare_recovered(
        &mut self,
        params: miner::DeclareFaultsRecoveredParams,
    ) -> Result<(), ActorError> {
        let declared = params
            .recoveries
            .iter()
            .map(|one| (one.deadline, one.partition, &one.sectors));
        let mut declared = selection(self.vm.net, declared)?;
        self.repay_debts()?;
        self.only_controllers()?;
        if self.has_consensus_fault() {
            let text = "recovery not allowed during active consensus fault".to_owned();
            return Err(ActorError::forbidden(text));
        }
        let (policy, store) = (&self.vm.net.policy, self.vm.store);
        let sectors = miner::Sectors::load(store, &self.state.sectors).or_state("failed to load sectors")?;
        let mut deadlines = self.state.load_deadlines(store)?;
        for (index, partitions) in declared.iter() {
            self.declaration_deadline(index)?;
            let mut deadline = deadlines.load_deadline(store, index)?;
            deadline
                .declare_faults_recovered(store, &sectors, self.info.sector_size, partitions)
                .or_state(&format!("failed to declare recoveries for deadline {index}"))?;
            deadlines
                .update_deadline(policy, store, index, &deadline)
                .or_state("failed to store deadline")?;
        }
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")
    }

    /// The next window of a deadline, if it can still be declared for.
    fn declaration_deadline(&self, index: u64) -> Result<miner::DeadlineInfo, ActorError> {
        let (policy, now) = (&self.vm.net.policy, self.vm.epoch);
        if index >= policy.wpost_period_deadlines {
            return Err(illegal(format!(
                "invalid deadline {index}, must be < {}",
                policy.wpost_period_deadlines
            )));
        }
        let start = self.state.current_proving_period_start(policy, now);
        let target = miner::new_deadline_info(policy, start, index, now).next_not_elapsed();
        require(!target.fault_cutoff_passed(), || {
            format!("failed fault declaration at deadline {index}: late fault or recovery declaration")
        })?;
        Ok(target)
    }
}
