//! Keys, money and names of a miner.

use crate::policy::CONTROL_ADDRESSES;
use crate::types::state::ActorError;
use crate::types::{Address, TokenAmount, Zero, miner};

use super::super::power::check_identity;
use super::{MinerCall, StateError, require};

impl MinerCall<'_, '_> {
    pub(super) fn change_worker(
        &mut self,
        params: miner::ChangeWorkerAddressParams,
    ) -> Result<(), ActorError> {
        let count = params.new_control_addresses.len();
        require(count <= CONTROL_ADDRESSES, || {
            format!(
                "control addresses length {count} exceeds max control addresses length {CONTROL_ADDRESSES}"
            )
        })?;
        let worker = Address::new_id(self.vm.resolved_worker(&params.new_worker)?);
        let mut control = Vec::with_capacity(count);
        for address in &params.new_control_addresses {
            let id = self.vm.resolved(address)?;
            require(self.account_exists(id), || {
                format!("control address {address} is no account")
            })?;
            control.push(Address::new_id(id));
        }
        self.only_owner()?;
        self.info.control_addresses = control;
        if worker != self.info.worker && self.info.pending_worker_key.is_none() {
            self.info.pending_worker_key = Some(miner::WorkerKeyChange {
                new_worker: worker,
                effective_at: self.vm.epoch + self.vm.net.policy.worker_key_change_delay,
            });
        }
        self.save_info()
    }

    pub(super) fn confirm_worker(&mut self) -> Result<(), ActorError> {
        self.only_owner()?;
        self.apply_pending_worker()
    }

    /// Makes a worker that is due effective.
    pub(super) fn apply_pending_worker(&mut self) -> Result<(), ActorError> {
        let now = self.vm.epoch;
        let due = self
            .info
            .pending_worker_key
            .take_if(|change| now >= change.effective_at);
        match due {
            Some(change) => {
                self.info.worker = change.new_worker;
                self.save_info()
            }
            None => Ok(()),
        }
    }

    pub(super) fn control_addresses(&self) -> miner::GetControlAddressesReturn {
        miner::GetControlAddressesReturn {
            owner: self.info.owner,
            worker: self.info.worker,
            control_addresses: self.info.control_addresses.clone(),
        }
    }

    pub(super) fn change_peer(&mut self, params: miner::ChangePeerIDParams) -> Result<(), ActorError> {
        check_identity(&params.new_id, &[])?;
        self.only_controllers()?;
        self.info.peer_id = params.new_id;
        self.save_info()
    }

    pub(super) fn change_multiaddrs(
        &mut self,
        params: miner::ChangeMultiaddrsParams,
    ) -> Result<(), ActorError> {
        check_identity(&[], &params.new_multi_addrs)?;
        self.only_controllers()?;
        self.info.multi_address = params.new_multi_addrs;
        self.save_info()
    }

    pub(super) fn compact_numbers(
        &mut self,
        params: miner::CompactSectorNumbersParams,
    ) -> Result<(), ActorError> {
        let mask = &params.mask_sector_numbers;
        require(!mask.is_empty(), || "invalid mask bitfield".into())?;
        require(
            mask.last()
                .is_some_and(|last| last <= crate::policy::SECTOR_NUMBER_MAX),
            || "masked sector number exceeded max sector number".into(),
        )?;
        self.only_controllers()?;
        self.state
            .allocate_sector_numbers(self.vm.store, mask, miner::CollisionPolicy::AllowCollisions)
    }

    pub(super) fn repay_debt(&mut self) -> Result<(), ActorError> {
        self.only_controllers()?;
        let balance = self.balance();
        let (burn, unlocked) = self
            .state
            .repay_partial_debt_in_priority_order(self.vm.store, self.vm.epoch, &balance)
            .or_state("failed to unlock fee debt")?;
        self.burn(&burn)?;
        self.pledge_changed(&-unlocked);
        Ok(())
    }

    pub(super) fn withdraw(
        &mut self,
        params: miner::WithdrawBalanceParams,
    ) -> Result<TokenAmount, ActorError> {
        require(!params.amount_requested.is_negative(), || {
            format!(
                "negative fund requested for withdrawal: {}",
                params.amount_requested
            )
        })?;
        self.only_owner()?;
        if !self.state.early_terminations.is_empty() {
            let text = "cannot withdraw funds while pending early terminations exist".to_owned();
            return Err(ActorError::forbidden(text));
        }
        let vested = self
            .state
            .unlock_vested_funds(self.vm.store, self.vm.epoch)
            .or_state("failed to vest funds")?;
        self.pledge_changed(&-vested);
        self.repay_debts()?;
        let balance = self.balance();
        let available = self
            .state
            .get_available_balance(&balance)
            .or_state("failed to calculate available balance")?;
        let amount = available.min(params.amount_requested).max(TokenAmount::zero());
        let owner = self
            .info
            .owner
            .id()
            .map_err(|e| ActorError::illegal_state(e.to_string()))?;
        self.vm.transfer(self.id, owner, &amount)?;
        Ok(amount)
    }
}
