//! UpgradeSectorQuality: gives sectors from before FIP-0118 the quality of new ones, and may lengthen their life (chain.md §0.1).
//! All of it, or nothing.

use crate::types::state::ActorError;
use crate::types::{ChainEpoch, TokenAmount, Zero, miner};

use super::declare::selection;
use super::funds::daily_fee;
use super::{MinerCall, StateError, illegal, pledge_for_power, require};

/// What a sector has that counts in full, whatever is in it.
const FULL: miner::SectorOnChainInfoFlags = miner::SectorOnChainInfoFlags::FULL_QA_POWER;

impl MinerCall<'_, '_> {
    pub(super) fn upgrade(&mut self, params: &miner::UpgradeSectorQualityParams) -> Result<(), ActorError> {
        let upgrades = &params.upgrades;
        require(!upgrades.is_empty(), || "no extension declarations".into())?;
        let declared = upgrades
            .iter()
            .map(|one| (one.deadline, one.partition, &one.sectors));
        for (deadline, _, sectors) in declared.clone() {
            require(!sectors.is_empty(), || "no sectors selected".into())?;
            let deadlines = self.vm.net.policy.wpost_period_deadlines;
            require(deadline < deadlines, || {
                format!("deadline {deadline} not in range 0..{deadlines}")
            })?;
        }
        // The limits of a message; the order of the declarations stays.
        selection(self.vm.net, declared)?;
        for epoch in upgrades.iter().filter_map(|one| one.new_expiration) {
            self.check_new_expiration(epoch)?;
        }
        self.only_controllers()?;
        self.repay_debts()?;
        let mut top_up = TokenAmount::zero();
        let mut made = Vec::with_capacity(upgrades.len());
        for upgrade in upgrades {
            let (old, new) = self.upgraded_all(upgrade)?;
            for (old, new) in old.iter().zip(&new) {
                top_up += &new.initial_pledge - &old.initial_pledge;
            }
            made.push((upgrade, old, new));
        }
        let balance = self.balance();
        let available = self
            .state
            .get_available_balance(&balance)
            .or_state("failed to calculate available balance")?;
        if available < top_up {
            let text = format!(
                "insufficient funds for new initial pledge requirement {top_up}, available: {available}"
            );
            return Err(ActorError::insufficient_funds(text));
        }
        for (upgrade, old, new) in made {
            self.put_in_place((upgrade.deadline, upgrade.partition), &old, new)?;
        }
        Ok(())
    }

    fn check_new_expiration(&self, epoch: ChainEpoch) -> Result<(), ActorError> {
        let (policy, now) = (&self.vm.net.policy, self.vm.epoch);
        require(epoch > now, || {
            format!("new expiration {epoch} must be after current epoch {now}")
        })?;
        let most = policy.max_sector_expiration_extension;
        require(epoch <= now + most, || {
            format!("invalid expiration {epoch}, cannot be more than {most} past current epoch {now}")
        })
    }

    fn upgraded_all(
        &self,
        upgrade: &miner::UpgradeSectorQuality,
    ) -> Result<(Vec<miner::SectorOnChainInfo>, Vec<miner::SectorOnChainInfo>), ActorError> {
        let place = (upgrade.deadline, upgrade.partition);
        self.check_partition(place)?;
        let sectors =
            miner::Sectors::load(self.vm.store, &self.state.sectors).or_state("failed to load sectors")?;
        let old = sectors.load_sectors(&upgrade.sectors)?;
        let mut new = Vec::with_capacity(old.len());
        for sector in &old {
            let number = sector.sector_number;
            let active = self
                .state
                .check_sector_active(self.vm.store, place.0, place.1, number, true)?;
            require(active, || {
                format!(
                    "sector {number} is not active in deadline {} partition {}",
                    place.0, place.1
                )
            })?;
            new.push(self.upgraded(sector, upgrade.new_expiration)?);
        }
        Ok((old, new))
    }

    fn upgraded(
        &self,
        sector: &miner::SectorOnChainInfo,
        expiration: Option<ChainEpoch>,
    ) -> Result<miner::SectorOnChainInfo, ActorError> {
        let (number, now, size) = (sector.sector_number, self.vm.epoch, self.info.sector_size);
        if sector.expiration < now {
            let text = format!(
                "cannot extend expiration for expired sector {number} at {}",
                sector.expiration
            );
            return Err(ActorError::forbidden(text));
        }
        let expiration = expiration.unwrap_or(sector.expiration);
        if expiration < sector.expiration {
            return Err(illegal(format!(
                "cannot reduce sector {number} expiration to {expiration} from {}",
                sector.expiration
            )));
        }
        let mut new = match expiration == sector.expiration {
            true => sector.clone(),
            false => self.extended(sector, expiration)?,
        };
        if sector.flags.contains(FULL) {
            return Ok(new);
        }
        let before = miner::qa_power_for_sector(size, sector);
        new.flags |= FULL;
        let after = miner::qa_power_for_sector(size, &new);
        let pledge = pledge_for_power(self.vm.net, &after);
        new.initial_pledge = sector.initial_pledge.clone().max(pledge);
        new.daily_fee = if sector.daily_fee.is_zero() {
            daily_fee(self.vm.net, &after)
        } else {
            miner::daily_proof_fee_adjust(&sector.daily_fee, &before, &after)
        };
        Ok(new)
    }
}
