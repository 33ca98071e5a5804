//! CompactPartitions: takes dead sectors out of partitions.

use crate::types::miner;
use crate::types::state::ActorError;

use super::{MinerCall, StateError, require};

impl MinerCall<'_, '_> {
    pub(super) fn compact_partitions(
        &mut self,
        params: &miner::CompactPartitionsParams,
    ) -> Result<(), ActorError> {
        let (policy, store, now) = (&self.vm.net.policy, self.vm.store, self.vm.epoch);
        let index = params.deadline;
        require(index < policy.wpost_period_deadlines, || {
            format!("invalid deadline {index}")
        })?;
        self.only_controllers()?;
        let start = self.state.current_proving_period_start(policy, now);
        if !miner::deadline_available_for_compaction(policy, start, index, now) {
            let text = format!(
                "cannot compact deadline {index} during its challenge window, or the prior challenge window, or before {} epochs have passed since its last challenge window ended",
                policy.wpost_dispute_window
            );
            return Err(ActorError::forbidden(text));
        }
        let size = self.info.window_post_partition_sectors;
        let most = miner::load_partitions_sectors_max(policy, size);
        let count = params.partitions.len();
        require(count <= most, || {
            format!("too many partitions {count}, limit {most}")
        })?;
        let quant = self.state.quant_spec_for_deadline(policy, index);
        let mut sectors =
            miner::Sectors::load(store, &self.state.sectors).or_state("failed to load sectors")?;
        let mut deadlines = self.state.load_deadlines(store)?;
        let mut deadline = deadlines.load_deadline(store, index)?;
        let dead = deadline
            .compact_partitions(
                store,
                &mut sectors,
                self.info.sector_size,
                size,
                &params.partitions,
                quant,
            )
            .or_state("failed to compact partitions")?;
        sectors.delete_sectors(&dead)?;
        self.state.sectors = sectors.amt.flush().or_state("failed to save sectors")?;
        deadlines
            .update_deadline(policy, store, index, &deadline)
            .or_state("failed to update deadline")?;
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")
    }
}
