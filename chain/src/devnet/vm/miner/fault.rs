//! ReportConsensusFault: two blocks of a miner that exclude each other cost it a penalty and its part in block production
//! for a while (chain.md §6.3). Which blocks do is the rule of the network's machine.

use fvm_ipld_encoding::from_slice;

use crate::types::state::ActorError;
use crate::types::{ActorID, ChainEpoch, TokenAmount, miner};

use super::super::super::block::Block;
use super::{MinerCall, StateError, illegal, require};

/// What two blocks show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Two blocks of one epoch.
    DoubleForkMining,
    /// Two blocks of different epochs on the same parents.
    TimeOffsetMining,
    /// A block that leaves out its miner's own block from among its parents.
    ParentGrinding,
}

impl MinerCall<'_, '_> {
    /// Anybody may.
    pub(super) fn report_fault(
        &mut self,
        params: &miner::ReportConsensusFaultParams,
    ) -> Result<(), ActorError> {
        let (first, second) = (header(&params.header1)?, header(&params.header2)?);
        let witness = match params.header_extra.is_empty() {
            true => None,
            false => Some(header(&params.header_extra)?),
        };
        let found = fault(&first, &second, witness.as_ref()).map_err(illegal)?;
        let target = second
            .miner
            .id()
            .map_err(|e| illegal(format!("fault not verified: {e}")))?;
        for block in [&first, &second] {
            self.check_block_signature(target, block)?;
        }
        require(target == self.id, || {
            format!("fault by f0{target} reported to miner f0{}", self.id)
        })?;
        let (now, epoch) = (self.vm.epoch, second.height);
        require(epoch < now, || {
            format!("invalid fault epoch {epoch} ahead of current {now}")
        })?;
        let elapsed = self.info.consensus_fault_elapsed;
        if epoch < elapsed {
            let text = format!("fault epoch {epoch} is too old, last exclusion period ended at {elapsed}");
            return Err(ActorError::forbidden(text));
        }
        tracing::info!(miner = target, epoch, ?found, "a consensus fault was reported");
        self.punish_fault()
    }

    fn check_block_signature(&self, id: ActorID, block: &Block) -> Result<(), ActorError> {
        let height = block.height;
        let refused =
            |reason: String| illegal(format!("fault not verified: block of epoch {height}: {reason}"));
        let worker = (self.vm.workers)(id, height).map_err(refused)?;
        let signature = block
            .block_sig
            .as_ref()
            .ok_or_else(|| refused("it is not signed".into()))?;
        let bytes = block.signing_bytes().map_err(refused)?;
        signature.verify(&bytes, &worker).map_err(refused)
    }

    /// Takes the penalty, of which the reporter gets a part, and excludes the miner.
    fn punish_fault(&mut self) -> Result<(), ActorError> {
        let (now, epoch_reward) = (self.vm.epoch, self.vm.epoch_reward());
        let reward = miner::reward_for_consensus_slash_report(&epoch_reward);
        let penalty = miner::consensus_fault_penalty(epoch_reward);
        self.state
            .apply_penalty(&penalty)
            .or_state("failed to apply penalty")?;
        let balance = self.balance();
        let (paid, unlocked) = self
            .state
            .repay_partial_debt_in_priority_order(self.vm.store, now, &balance)
            .or_state("failed to pay fees")?;
        // No more than what was there.
        let reward: TokenAmount = reward.min(paid.clone());
        let excluded: ChainEpoch = self.vm.net.policy.consensus_fault_ineligibility_duration;
        self.info.consensus_fault_elapsed = now + excluded;
        self.save_info()?;
        self.vm.transfer(self.id, self.caller, &reward)?;
        self.burn(&(paid - reward))?;
        self.pledge_changed(&-unlocked);
        Ok(())
    }
}

fn header(bytes: &[u8]) -> Result<Block, ActorError> {
    from_slice(bytes).map_err(|e| illegal(format!("fault not verified: header cannot be decoded: {e}")))
}

/// Judges two blocks, of which the first must not be the later one, with a third that has the same place as the first.
fn fault(first: &Block, second: &Block, witness: Option<&Block>) -> Result<Fault, String> {
    let no = |reason: &str| Err(format!("No consensus fault found: {reason}"));
    let cid = first.cid()?;
    if cid == second.cid()? {
        return no("submitted blocks are the same");
    }
    if first.miner != second.miner {
        return no("blocks not mined by the same miner");
    }
    if second.height < first.height {
        return no("the first block must not be of a later epoch than the second");
    }
    if first.height == second.height {
        return Ok(Fault::DoubleForkMining);
    }
    if first.parents == second.parents {
        return Ok(Fault::TimeOffsetMining);
    }
    if let Some(witness) = witness {
        let beside = witness.parents == first.parents && witness.height == first.height;
        let left_out = !second.parents.contains(&cid);
        if beside && left_out && second.parents.contains(&witness.cid()?) {
            return Ok(Fault::ParentGrinding);
        }
    }
    no("the blocks do not exclude each other")
}
