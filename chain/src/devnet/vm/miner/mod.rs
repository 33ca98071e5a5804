//! The miner actor's entry points: the checks that the published state library does not have, in the order of
//! the actor (chain.md §6.3). State, queues and money are the library's.

mod admin;
mod commit;
mod compact;
mod cron;
mod declare;
mod dispute;
mod extend;
mod fault;
mod funds;
mod post;
mod precommit;
mod prove;
mod reward;
mod terminate;
mod update;
mod upgrade;

use fvm_ipld_encoding::to_vec;
use serde::Serialize;

use crate::params::Call;
use crate::randomness::miner_entropy;
use crate::types::state::{ActorDowncast, ActorError};
use crate::types::{ActorID, Address, BigInt, ExitCode, RawBytes, TokenAmount, Zero, miner};

use super::super::root::{CronKind, Kind};
use super::Vm;

pub(in crate::devnet) use funds::{deposit_for_power, pledge_for_power, sector_qa_power};

/// Errors of the state library, which hold an exit code somewhere or none.
pub(super) trait StateError<T> {
    /// The library's own code, or that of an illegal state.
    fn or_state(self, text: &str) -> Result<T, ActorError>;
    /// The library's own code, or that of an illegal argument.
    fn or_argument(self, text: &str) -> Result<T, ActorError>;
}

impl<T, E: ActorDowncast> StateError<T> for Result<T, E> {
    fn or_state(self, text: &str) -> Result<T, ActorError> {
        self.map_err(|e| e.downcast_default(ExitCode::USR_ILLEGAL_STATE, text))
    }

    fn or_argument(self, text: &str) -> Result<T, ActorError> {
        self.map_err(|e| e.downcast_default(ExitCode::USR_ILLEGAL_ARGUMENT, text))
    }
}

/// A miner in work. What fails is rolled back by who called.
pub(super) struct MinerCall<'v, 'a> {
    vm: &'v mut Vm<'a>,
    id: ActorID,
    caller: ActorID,
    state: miner::State,
    info: miner::MinerInfo,
}

impl<'a> Vm<'a> {
    /// Loads a miner.
    pub(super) fn open_miner(
        &mut self,
        id: ActorID,
        caller: ActorID,
    ) -> Result<MinerCall<'_, 'a>, ActorError> {
        let head = self.root.actors.get(&id).and_then(|actor| actor.head);
        let head = head.ok_or_else(|| ActorError::not_found(format!("f0{id} is no miner")))?;
        let state: miner::State = self.store.load(&head).map_err(ActorError::illegal_state)?;
        let info = state.get_info(self.store).or_state("could not read miner info")?;
        Ok(MinerCall {
            vm: self,
            id,
            caller,
            state,
            info,
        })
    }

    /// Runs a call of a miner.
    pub(super) fn call_miner(
        &mut self,
        id: ActorID,
        caller: ActorID,
        call: Call,
    ) -> Result<RawBytes, ActorError> {
        let mut miner = self.open_miner(id, caller)?;
        let returned = miner.run(call)?;
        miner.save()?;
        Ok(returned)
    }
}

impl MinerCall<'_, '_> {
    fn run(&mut self, call: Call) -> Result<RawBytes, ActorError> {
        let nothing = RawBytes::default();
        match call {
            Call::PreCommitSectorBatch2(params) => self.precommit(params).map(|()| nothing),
            Call::ProveCommitSectors3(params) => returned(&self.prove_commit(params)?),
            Call::ProveReplicaUpdates3(params) => returned(&self.prove_updates(params)?),
            Call::SubmitWindowedPoSt(params) => self.submit_post(params).map(|()| nothing),
            Call::DeclareFaults(params) => self.declare_faults(params).map(|()| nothing),
            Call::DeclareFaultsRecovered(params) => self.declare_recovered(params).map(|()| nothing),
            Call::TerminateSectors(params) => returned(&self.terminate(params)?),
            Call::ExtendSectorExpiration2(params) => self.extend(params).map(|()| nothing),
            Call::UpgradeSectorQuality(params) => self.upgrade(&params).map(|()| nothing),
            Call::CompactPartitions(params) => self.compact_partitions(&params).map(|()| nothing),
            Call::ReportConsensusFault(params) => self.report_fault(&params).map(|()| nothing),
            Call::DisputeWindowedPoSt(params) => self.dispute(&params).map(|()| nothing),
            Call::CompactSectorNumbers(params) => self.compact_numbers(params).map(|()| nothing),
            Call::CheckSectorProven(params) => self.check_proven(params).map(|()| nothing),
            Call::ChangeWorkerAddress(params) => self.change_worker(params).map(|()| nothing),
            Call::ConfirmChangeWorkerAddress => self.confirm_worker().map(|()| nothing),
            Call::ChangePeerID(params) => self.change_peer(params).map(|()| nothing),
            Call::ChangeMultiaddrs(params) => self.change_multiaddrs(params).map(|()| nothing),
            Call::WithdrawBalance(params) => returned(&self.withdraw(params)?),
            Call::RepayDebt => self.repay_debt().map(|()| nothing),
            Call::ControlAddresses => returned(&self.control_addresses()),
            other => {
                let text = format!("the devnet does not have the method {}", other.name());
                Err(ActorError::unhandled_message(text))
            }
        }
    }

    /// Writes the miner back.
    pub(super) fn save(self) -> Result<(), ActorError> {
        let balance = self.balance();
        if let Err(e) = self.state.check_balance_invariants(&balance) {
            let text = format!("balance invariants broken: {e}");
            return Err(ActorError::unchecked(miner::ERR_BALANCE_INVARIANTS_BROKEN, text));
        }
        let head = self
            .vm
            .store
            .save(&self.state)
            .map_err(ActorError::illegal_state)?;
        if let Some(actor) = self.vm.root.actors.get_mut(&self.id) {
            actor.head = Some(head);
        }
        Ok(())
    }

    fn balance(&self) -> TokenAmount {
        self.vm.balance(self.id)
    }

    /// The miner as randomness knows it.
    fn entropy(&self) -> Vec<u8> {
        miner_entropy(self.id)
    }

    /// Refuses all but owner, worker and control addresses.
    pub(super) fn only_controllers(&self) -> Result<(), ActorError> {
        let caller = Address::new_id(self.caller);
        let known = [self.info.owner, self.info.worker];
        let mut all = known.iter().chain(&self.info.control_addresses);
        if all.any(|one| *one == caller) {
            return Ok(());
        }
        Err(self.forbidden_caller())
    }

    /// Refuses all but the owner.
    fn only_owner(&self) -> Result<(), ActorError> {
        if self.info.owner == Address::new_id(self.caller) {
            return Ok(());
        }
        Err(self.forbidden_caller())
    }

    fn forbidden_caller(&self) -> ActorError {
        ActorError::forbidden(format!("caller f0{} is not one of supported", self.caller))
    }

    fn has_consensus_fault(&self) -> bool {
        self.vm.epoch <= self.info.consensus_fault_elapsed
    }

    /// Takes money out of the world.
    fn burn(&mut self, amount: &TokenAmount) -> Result<(), ActorError> {
        self.vm.transfer(self.id, super::BURNT, amount)
    }

    /// Pays fee debt, which must be paid before the miner takes more on itself.
    fn repay_debts(&mut self) -> Result<(), ActorError> {
        let balance = self.balance();
        let fee = self.state.repay_debts(&balance);
        let fee = fee.map_err(|e| {
            e.downcast_default(
                ExitCode::USR_INSUFFICIENT_FUNDS,
                "unlocked balance can not repay fee debt",
            )
        })?;
        self.burn(&fee)
    }

    fn pledge_changed(&mut self, delta: &TokenAmount) {
        self.vm.root.power.pledge += delta;
    }

    fn power_changed(&mut self, delta: &miner::PowerPair) -> Result<(), ActorError> {
        self.vm.update_power(self.id, &delta.raw, &delta.qa)
    }

    /// Asks to be called at the end of every deadline from now on, unless it is so already.
    fn start_cron(&mut self) {
        if self.state.deadline_cron_active {
            return;
        }
        self.state.deadline_cron_active = true;
        let epoch = self.vm.epoch;
        let last = self.state.deadline_info(&self.vm.net.policy, epoch).last();
        self.vm.enroll(self.id, last, CronKind::ProvingDeadline);
    }

    fn save_info(&mut self) -> Result<(), ActorError> {
        let cid = self
            .vm
            .store
            .save(&self.info)
            .map_err(ActorError::illegal_state)?;
        self.state.info = cid;
        Ok(())
    }

    fn account_exists(&self, id: ActorID) -> bool {
        let actor = self.vm.root.actors.get(&id);
        actor.is_some_and(|actor| actor.kind == Kind::Account)
    }
}

fn returned<T: Serialize>(value: &T) -> Result<RawBytes, ActorError> {
    let bytes = to_vec(value).map_err(|e| ActorError::serialization(e.to_string()))?;
    Ok(RawBytes::new(bytes))
}

fn illegal(text: String) -> ActorError {
    ActorError::illegal_argument(text)
}

/// Refuses what is not expected to hold.
fn require(holds: bool, text: impl FnOnce() -> String) -> Result<(), ActorError> {
    if holds { Ok(()) } else { Err(illegal(text())) }
}

fn is_zero(power: &BigInt) -> bool {
    power.is_zero()
}
