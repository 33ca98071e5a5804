//! PreCommitSectorBatch2: registers sealed sectors and locks a deposit for each.

use crate::types::state::ActorError;
use crate::types::{BitField, ChainEpoch, RegisteredSealProof, TokenAmount, miner};

use super::{MinerCall, StateError, deposit_for_power, illegal, require, sector_qa_power};

impl MinerCall<'_, '_> {
    pub(super) fn precommit(&mut self, params: miner::PreCommitSectorBatchParams2) -> Result<(), ActorError> {
        let sectors = params.sectors;
        require(!sectors.is_empty(), || "batch empty".into())?;
        let mut numbers = BitField::new();
        for sector in &sectors {
            self.check_precommit(sector, &numbers)?;
            numbers.set(sector.sector_number);
        }
        self.repay_debts()?;
        self.only_controllers()?;
        if self.has_consensus_fault() {
            let text = "pre-commit not allowed during active consensus fault".to_owned();
            return Err(ActorError::forbidden(text));
        }
        for sector in &sectors {
            let post = sector
                .seal_proof
                .registered_window_post_proof()
                .map_err(illegal)?;
            require(post == self.info.window_post_proof_type, || {
                format!(
                    "sector Window PoSt proof type {post:?} must match miner Window PoSt proof type {:?} (seal proof type {:?})",
                    self.info.window_post_proof_type, sector.seal_proof
                )
            })?;
        }
        self.lock_deposits(sectors, &numbers)
    }

    /// What can be told from a sector alone.
    fn check_precommit(
        &self,
        sector: &miner::SectorPreCommitInfo,
        seen: &BitField,
    ) -> Result<(), ActorError> {
        let (policy, now) = (&self.vm.net.policy, self.vm.epoch);
        let number = sector.sector_number;
        require(!seen.get(number), || format!("duplicate sector number {number}"))?;
        require(
            miner::can_pre_commit_seal_proof(policy, sector.seal_proof),
            || format!("unsupported seal proof type {}", i64::from(sector.seal_proof)),
        )?;
        require(number <= crate::policy::SECTOR_NUMBER_MAX, || {
            format!("sector number {number} out of range 0..(2^63-1)")
        })?;
        require(miner::is_sealed_sector(&sector.sealed_cid), || {
            "sealed CID had wrong prefix".into()
        })?;
        let ticket = sector.seal_rand_epoch;
        require(ticket < now, || {
            format!("seal challenge epoch {ticket} must be before now {now}")
        })?;
        let earliest = now - policy.max_pre_commit_randomness_lookback;
        require(ticket >= earliest, || {
            format!("seal challenge epoch {ticket} too old, must be after {earliest}")
        })?;
        if let Some(cid) = &sector.unsealed_cid.0 {
            require(miner::is_unsealed_sector(cid), || {
                "unsealed CID had wrong prefix".into()
            })?;
        }
        let latest = now + miner::max_prove_commit_duration(policy, sector.seal_proof).unwrap_or_default();
        self.check_expiration(latest, sector.expiration, sector.seal_proof)
    }

    /// The rules of chain.md §2.4.
    pub(super) fn check_expiration(
        &self,
        activation: ChainEpoch,
        expiration: ChainEpoch,
        seal: RegisteredSealProof,
    ) -> Result<(), ActorError> {
        let (policy, now) = (&self.vm.net.policy, self.vm.epoch);
        require(expiration > activation, || {
            format!("sector expiration {expiration} must be after activation {activation}")
        })?;
        let life = expiration - activation;
        require(life >= policy.min_sector_expiration, || {
            format!(
                "invalid expiration {expiration}, total sector lifetime ({life}) must exceed {} after activation {activation}",
                policy.min_sector_expiration
            )
        })?;
        require(expiration <= now + policy.max_sector_expiration_extension, || {
            format!(
                "invalid expiration {expiration}, cannot be more than {} past current epoch {now}",
                policy.max_sector_expiration_extension
            )
        })?;
        let longest = miner::seal_proof_sector_maximum_lifetime(seal)
            .ok_or_else(|| illegal(format!("unrecognized seal proof type {seal:?}")))?;
        require(life <= longest, || {
            format!(
                "invalid expiration {expiration}, total sector lifetime ({life}) cannot exceed {longest} after activation {activation}"
            )
        })
    }

    fn lock_deposits(
        &mut self,
        sectors: Vec<miner::SectorPreCommitInfo>,
        numbers: &BitField,
    ) -> Result<(), ActorError> {
        let (policy, store, now) = (&self.vm.net.policy, self.vm.store, self.vm.epoch);
        let deposit = deposit_for_power(self.vm.net, &sector_qa_power(self.info.sector_size));
        let total: TokenAmount = deposit.clone() * sectors.len();
        let balance = self.balance();
        let available = self
            .state
            .get_available_balance(&balance)
            .or_state("failed to calculate available balance")?;
        if available < total {
            let text = format!("insufficient funds {available} for pre-commit deposit: {total}");
            return Err(ActorError::insufficient_funds(text));
        }
        self.state
            .add_pre_commit_deposit(&total)
            .or_state("failed to add pre-commit deposit")?;
        self.state
            .allocate_sector_numbers(store, numbers, miner::CollisionPolicy::DenyCollisions)?;
        let mut clean_ups = Vec::with_capacity(sectors.len());
        let mut stored = Vec::with_capacity(sectors.len());
        for info in sectors {
            let within = miner::max_prove_commit_duration(policy, info.seal_proof)
                .ok_or_else(|| illegal(format!("unsupported seal proof type {:?}", info.seal_proof)))?;
            clean_ups.push((
                now + within + policy.expired_pre_commit_clean_up_delay,
                info.sector_number,
            ));
            stored.push(miner::SectorPreCommitOnChainInfo {
                info,
                pre_commit_deposit: deposit.clone(),
                pre_commit_epoch: now,
            });
        }
        self.state
            .put_precommitted_sectors(store, stored)
            .or_state("failed to write pre-committed sectors")?;
        self.state
            .add_pre_commit_clean_ups(policy, store, clean_ups)
            .or_state("failed to add pre-commit expiry to queue")?;
        self.start_cron();
        Ok(())
    }
}
