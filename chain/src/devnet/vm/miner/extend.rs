//! ExtendSectorExpiration2: lengthens the life of sectors. Claims of verified data count no more (FIP-0118).

use crate::types::state::ActorError;
use crate::types::{ChainEpoch, ExitCode, miner};

use super::declare::selection;
use super::funds::daily_fee;
use super::{MinerCall, StateError, require};

impl MinerCall<'_, '_> {
    pub(super) fn extend(&mut self, params: miner::ExtendSectorExpiration2Params) -> Result<(), ActorError> {
        let extensions: Vec<miner::ValidatedExpirationExtension> =
            params.extensions.into_iter().map(Into::into).collect();
        let declared = extensions
            .iter()
            .map(|one| (one.deadline, one.partition, &one.sectors));
        // The limits of a message; the order of the declarations stays.
        selection(self.vm.net, declared)?;
        self.only_controllers()?;
        for extension in &extensions {
            self.extend_partition(extension)?;
        }
        Ok(())
    }

    fn extend_partition(
        &mut self,
        extension: &miner::ValidatedExpirationExtension,
    ) -> Result<(), ActorError> {
        self.check_partition((extension.deadline, extension.partition))?;
        let sectors =
            miner::Sectors::load(self.vm.store, &self.state.sectors).or_state("failed to load sectors")?;
        let old = sectors.load_sectors(&extension.sectors)?;
        let new = old
            .iter()
            .map(|sector| self.extended(sector, extension.new_expiration.unwrap_or(sector.expiration)))
            .collect::<Result<Vec<_>, _>>()?;
        self.put_in_place((extension.deadline, extension.partition), &old, new)
    }

    /// Fails unless there is such a partition.
    pub(super) fn check_partition(&self, (deadline, partition): (u64, u64)) -> Result<(), ActorError> {
        let deadlines = self.state.load_deadlines(self.vm.store)?;
        let deadline = deadlines.load_deadline(self.vm.store, deadline)?;
        let found = deadline.load_partition(self.vm.store, partition);
        found.map(|_| ()).map_err(|error| match error.exit_code() {
            ExitCode::USR_NOT_FOUND => ActorError::not_found(format!("no such partition {partition}")),
            _ => error,
        })
    }

    /// Puts sectors of a partition, which live, into the place of what they were.
    pub(super) fn put_in_place(
        &mut self,
        (index, partition_index): (u64, u64),
        old: &[miner::SectorOnChainInfo],
        new: Vec<miner::SectorOnChainInfo>,
    ) -> Result<(), ActorError> {
        let (policy, store) = (&self.vm.net.policy, self.vm.store);
        let mut deadlines = self.state.load_deadlines(store)?;
        let mut deadline = deadlines.load_deadline(store, index)?;
        let mut partition = deadline.load_partition(store, partition_index)?;
        let mut partitions = deadline
            .partitions_amt(store)
            .or_state("failed to load partitions")?;
        let quant = self.state.quant_spec_for_deadline(policy, index);
        let expirations: Vec<ChainEpoch> = new.iter().map(|one| one.expiration).collect();
        let (power, pledge, fee) = partition
            .replace_sectors(store, old, &new, self.info.sector_size, quant)
            .or_argument("failed to replace sector expirations")?;
        partitions
            .set(partition_index, partition)
            .or_state("failed to save partition")?;
        deadline.partitions = partitions.flush().or_state("failed to save partitions")?;
        deadline.live_power += &power;
        deadline.daily_fee += &fee;
        for expiration in expirations {
            deadline
                .add_expiration_partitions(store, expiration, &[partition_index], quant)
                .or_state("failed to add expiration partitions")?;
        }
        deadlines
            .update_deadline(policy, store, index, &deadline)
            .or_state("failed to update deadline")?;
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")?;
        self.state
            .put_sectors(store, new)
            .or_state("failed to update sectors")?;
        self.state
            .add_initial_pledge(&pledge)
            .or_state("failed to add initial pledge")?;
        self.pledge_changed(&pledge);
        self.power_changed(&power)
    }

    pub(super) fn extended(
        &self,
        sector: &miner::SectorOnChainInfo,
        expiration: ChainEpoch,
    ) -> Result<miner::SectorOnChainInfo, ActorError> {
        let now = self.vm.epoch;
        let number = sector.sector_number;
        if sector.expiration < now {
            let text = format!(
                "cannot extend expiration for expired sector {number} at {}",
                sector.expiration
            );
            return Err(ActorError::forbidden(text));
        }
        require(expiration >= sector.expiration, || {
            format!(
                "cannot reduce sector {number} expiration to {expiration} from {}",
                sector.expiration
            )
        })?;
        self.check_expiration(sector.activation, expiration, sector.seal_proof)?;
        let mut new = sector.clone();
        let (before, after) = (sector.expiration - sector.power_base_epoch, expiration - now);
        if before > 0 {
            // The same pieces, over what is left and what is added.
            new.deal_weight = &sector.deal_weight * after / before;
            new.verified_deal_weight = &sector.verified_deal_weight * after / before;
        }
        new.expiration = expiration;
        new.power_base_epoch = now;
        if new.daily_fee.is_zero() {
            let power = miner::qa_power_for_sector(self.info.sector_size, &new);
            new.daily_fee = daily_fee(self.vm.net, &power);
        }
        Ok(new)
    }
}
