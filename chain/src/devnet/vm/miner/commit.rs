//! ProveCommitSectors3: proves pre-committed sectors and makes them the miner's.

use crate::policy::{AGGREGATE_BYTES, AGGREGATED};
use crate::randomness::Tag;
use crate::types::state::ActorError;
use crate::types::{BatchReturn, BigInt, RegisteredAggregateProof, TokenAmount, Zero, miner};

use super::super::super::verifier::SealClaim;
use super::funds::daily_fee;
use super::prove::{Content, Survivors, comm_d, comm_r, proof_form, space_time};
use super::{MinerCall, StateError, illegal, pledge_for_power, require, sector_qa_power};

type Precommit = miner::SectorPreCommitOnChainInfo;

impl MinerCall<'_, '_> {
    pub(super) fn prove_commit(
        &mut self,
        params: miner::ProveCommitSectors3Params,
    ) -> Result<BatchReturn, ActorError> {
        self.only_controllers()?;
        let numbers = params.sector_activations.iter().map(|one| one.sector_number);
        let precommits = self.state.get_precommitted_sectors(self.vm.store, numbers)?;
        require(!precommits.is_empty(), || "no sectors to prove".into())?;
        let aggregated = proof_form(
            precommits.len(),
            &params.sector_proofs,
            &params.aggregate_proof,
            params.aggregate_proof_type,
        )?;
        self.check_form(&params, &precommits, aggregated)?;
        let mut alive = Survivors::new(precommits.len());
        let claims = self.check_precommits(&precommits, params.require_activation_success, &mut alive)?;
        require(!alive.none(), || "no valid precommits specified".into())?;
        if aggregated {
            let valid = self
                .vm
                .net
                .verifier
                .aggregate(&claims, params.aggregate_proof.bytes());
            require(valid, || "aggregate seal verify failed".into())?;
        } else {
            self.check_seals(&params, &claims, &mut alive)?;
        }
        require(!alive.none(), || "no valid proofs specified".into())?;
        self.check_data(&params, &precommits, &alive)?;
        self.activate(&params, &precommits, &alive)?;
        let activated = params.sector_activations.iter().zip(&precommits).enumerate();
        let activated = activated.filter(|(at, _)| alive.lives(*at));
        let contents: Vec<_> = activated
            .map(|(_, (one, precommit))| Content {
                sector: one.sector_number,
                expiration: precommit.info.expiration,
                pieces: &one.pieces,
            })
            .collect();
        self.notify(&contents, params.require_notification_success)?;
        Ok(alive.batch_return())
    }

    /// Sizes and numbers of proofs.
    fn check_form(
        &self,
        params: &miner::ProveCommitSectors3Params,
        precommits: &[Precommit],
        aggregated: bool,
    ) -> Result<(), ActorError> {
        if !aggregated {
            for (proof, precommit) in params.sector_proofs.iter().zip(precommits) {
                let max = precommit.info.seal_proof.proof_size().map_err(illegal)?;
                let size = proof.bytes().len();
                require(size <= max, || {
                    format!("sector proof size {size} exceeds max {max}")
                })?;
            }
            return Ok(());
        }
        require(
            params.aggregate_proof_type == Some(RegisteredAggregateProof::SnarkPackV2),
            || "aggregate proof type must be SnarkPackV2".into(),
        )?;
        let (count, size) = (precommits.len(), params.aggregate_proof.bytes().len());
        require(count <= *AGGREGATED.end(), || {
            format!("too many sectors addressed, addressed {count}")
        })?;
        require(count >= *AGGREGATED.start(), || {
            format!("too few sectors addressed, addressed {count}")
        })?;
        require(size <= AGGREGATE_BYTES, || {
            format!("sector proof size {size} exceeds max {AGGREGATE_BYTES}")
        })
    }

    /// Checks that sectors may be proved now, and draws their randomness.
    fn check_precommits(
        &self,
        precommits: &[Precommit],
        require_all: bool,
        alive: &mut Survivors,
    ) -> Result<Vec<SealClaim>, ActorError> {
        let (policy, now) = (&self.vm.net.policy, self.vm.epoch);
        let first = precommits.first().map(|one| one.info.seal_proof);
        if precommits.iter().any(|one| Some(one.info.seal_proof) != first) {
            return Err(ActorError::illegal_state(
                "aggregate contains mismatched seal proofs".into(),
            ));
        }
        let mut claims = Vec::with_capacity(precommits.len());
        for (at, precommit) in precommits.iter().enumerate() {
            let (info, number) = (&precommit.info, precommit.info.sector_number);
            let within = miner::max_prove_commit_duration(policy, info.seal_proof).unwrap_or_default();
            if !info.deal_ids.is_empty() || now > precommit.pre_commit_epoch + within {
                require(!require_all, || {
                    format!("invalid pre-commit {at} for sector {number} while requiring activation success")
                })?;
                alive.fail(at);
            }
            let seed_epoch = precommit.pre_commit_epoch + policy.pre_commit_challenge_delay;
            if now <= seed_epoch {
                return Err(ActorError::forbidden(format!(
                    "too early to prove sector {number}"
                )));
            }
            let entropy = self.entropy();
            claims.push(SealClaim {
                proof_type: info.seal_proof,
                miner: self.id,
                sector: number,
                comm_r: comm_r(&info.sealed_cid)?,
                comm_d: comm_d(&info.unsealed_cid.get_cid(info.seal_proof)?)?,
                ticket: self
                    .vm
                    .ticket_randomness(Tag::SealTicket, info.seal_rand_epoch, &entropy)?,
                seed: self.vm.beacon_randomness(Tag::SealSeed, seed_epoch, &entropy)?,
            });
        }
        Ok(claims)
    }

    fn check_seals(
        &self,
        params: &miner::ProveCommitSectors3Params,
        claims: &[SealClaim],
        alive: &mut Survivors,
    ) -> Result<(), ActorError> {
        for (at, (claim, proof)) in claims.iter().zip(&params.sector_proofs).enumerate() {
            if !alive.lives(at) || self.vm.net.verifier.seal(claim, proof.bytes()) {
                continue;
            }
            require(!params.require_activation_success, || {
                format!(
                    "invalid proof for sector {} while requiring activation success",
                    claim.sector
                )
            })?;
            alive.fail(at);
        }
        Ok(())
    }

    /// Pieces must be those that were pre-committed.
    fn check_data(
        &self,
        params: &miner::ProveCommitSectors3Params,
        precommits: &[Precommit],
        alive: &Survivors,
    ) -> Result<(), ActorError> {
        let all = params.sector_activations.iter().zip(precommits).enumerate();
        for (_, (manifest, precommit)) in all.filter(|(at, _)| alive.lives(*at)) {
            let seal = precommit.info.seal_proof;
            let declared = precommit.info.unsealed_cid.get_cid(seal)?;
            let computed = self.unsealed_cid(seal, &manifest.pieces)?.get_cid(seal)?;
            require(declared == computed, || {
                format!(
                    "unsealed CID does not match pieces for sector {}, computed {computed} declared {declared}",
                    precommit.info.sector_number
                )
            })?;
        }
        Ok(())
    }

    fn activate(
        &mut self,
        params: &miner::ProveCommitSectors3Params,
        precommits: &[Precommit],
        alive: &Survivors,
    ) -> Result<(), ActorError> {
        let (policy, store, now) = (&self.vm.net.policy, self.vm.store, self.vm.epoch);
        let (mut deposits, mut pledges) = (TokenAmount::zero(), TokenAmount::zero());
        let (mut sectors, mut numbers) = (Vec::new(), Vec::new());
        let all = params.sector_activations.iter().zip(precommits).enumerate();
        for (_, (manifest, precommit)) in all.filter(|(at, _)| alive.lives(*at)) {
            let sector = self.new_sector(precommit, manifest)?;
            deposits += &precommit.pre_commit_deposit;
            pledges += &sector.initial_pledge;
            numbers.push(sector.sector_number);
            sectors.push(sector);
        }
        self.state
            .put_sectors(store, sectors.clone())
            .or_state("failed to put new sectors")?;
        self.state.delete_precommitted_sectors(store, &numbers)?;
        let partition = self.info.window_post_partition_sectors;
        self.state
            .assign_sectors_to_deadlines(policy, store, now, sectors, partition, self.info.sector_size)
            .or_state("failed to assign new sectors to deadlines")?;
        self.state
            .add_pre_commit_deposit(&-deposits)
            .or_state("failed to release pre-commit deposit")?;
        let balance = self.balance();
        let unlocked = self
            .state
            .get_unlocked_balance(&balance)
            .or_state("failed to calculate unlocked balance")?;
        if unlocked < pledges {
            let text = format!(
                "insufficient funds for aggregate initial pledge requirement {pledges}, available: {unlocked}"
            );
            return Err(ActorError::insufficient_funds(text));
        }
        self.state
            .add_initial_pledge(&pledges)
            .or_state("failed to add initial pledge")?;
        self.pledge_changed(&pledges);
        Ok(())
    }

    /// A sector as it begins. It has power only after its first window proof.
    fn new_sector(
        &self,
        precommit: &Precommit,
        manifest: &miner::SectorActivationManifest,
    ) -> Result<miner::SectorOnChainInfo, ActorError> {
        let (policy, now) = (&self.vm.net.policy, self.vm.epoch);
        let info = &precommit.info;
        let duration = info.expiration - now;
        require(duration >= policy.min_sector_expiration, || {
            format!(
                "precommit {} has lifetime {duration} less than minimum {}",
                info.sector_number, policy.min_sector_expiration
            )
        })?;
        let power = sector_qa_power(self.info.sector_size);
        Ok(miner::SectorOnChainInfo {
            sector_number: info.sector_number,
            seal_proof: info.seal_proof,
            sealed_cid: info.sealed_cid,
            activation: now,
            expiration: info.expiration,
            deal_weight: BigInt::zero(),
            verified_deal_weight: space_time(&manifest.pieces, duration),
            initial_pledge: pledge_for_power(self.vm.net, &power),
            power_base_epoch: now,
            flags: miner::SectorOnChainInfoFlags::SIMPLE_QA_POWER
                | miner::SectorOnChainInfoFlags::FULL_QA_POWER,
            daily_fee: daily_fee(self.vm.net, &power),
            ..miner::SectorOnChainInfo::default()
        })
    }
}
