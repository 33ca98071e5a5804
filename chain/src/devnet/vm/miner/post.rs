//! SubmitWindowedPoSt: proves the sectors of a deadline. Every proof is verified when it comes, so that a
//! prover's mistake shows at once; the network, and the devnet if it is told so, accepts most of them unseen and lets others
//! dispute them.

use std::collections::BTreeMap;

use crate::randomness::Tag;
use crate::types::state::ActorError;
use crate::types::{RegisteredPoStProof, miner};

use super::super::super::verifier::PostClaim;
use super::super::PostCheck;
use super::prove::comm_r;
use super::{MinerCall, StateError, illegal, is_zero, require};

impl MinerCall<'_, '_> {
    pub(super) fn submit_post(
        &mut self,
        mut params: miner::SubmitWindowedPoStParams,
    ) -> Result<(), ActorError> {
        let proof_type = self.check_post_form(&params)?;
        self.only_controllers()?;
        self.check_post_fits(&params, proof_type)?;
        self.check_post_time(&params)?;
        let (policy, store, now) = (&self.vm.net.policy, self.vm.store, self.vm.epoch);
        let current = self.state.deadline_info(policy, now);
        let sectors = miner::Sectors::load(store, &self.state.sectors).or_state("failed to load sectors")?;
        let mut deadlines = self.state.load_deadlines(store)?;
        let mut deadline = deadlines.load_deadline(store, params.deadline)?;
        let fault_expiration = current.last() + policy.fault_max_age;
        let result = deadline
            .record_proven_sectors(
                store,
                &sectors,
                self.info.sector_size,
                current.quant_spec(),
                fault_expiration,
                &mut params.partitions,
            )
            .or_state("failed to process post submission for deadline")?;
        let proven = &result.sectors - &result.ignored_sectors;
        require(!proven.is_empty(), || {
            "cannot prove partitions with no active sectors".into()
        })?;
        let infos = sectors
            .load_for_proof(&result.sectors, &result.ignored_sectors)
            .or_state("failed to load sectors for post verification")?;
        let proof = params.proofs.first().map_or(&[][..], |proof| &proof.proof_bytes);
        let unseen = is_zero(&result.recovered_power.raw) && is_zero(&result.recovered_power.qa);
        if !unseen || self.vm.net.post_check == PostCheck::Strict {
            let valid = self.post_holds(proof_type, current.challenge, &infos, proof)?;
            require(valid, || "invalid post was submitted".into())?;
        }
        if unseen {
            deadline
                .record_post_proofs(store, &result.partitions, &params.proofs)
                .or_state("failed to record proof for optimistic verification")?;
        }
        deadlines
            .update_deadline(policy, store, params.deadline, &deadline)
            .or_state("failed to update deadline")?;
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")?;
        self.power_changed(&result.power_delta)
    }

    fn check_post_form(
        &self,
        params: &miner::SubmitWindowedPoStParams,
    ) -> Result<RegisteredPoStProof, ActorError> {
        let policy = &self.vm.net.policy;
        let [proof] = &params.proofs[..] else {
            let text = format!("expected exactly one proof, got {}", params.proofs.len());
            return Err(illegal(text));
        };
        require(policy.valid_post_proof_type.contains(proof.post_proof), || {
            format!("proof type {:?} not allowed", proof.post_proof)
        })?;
        require(params.deadline < policy.wpost_period_deadlines, || {
            format!(
                "invalid deadline {} of {}",
                params.deadline, policy.wpost_period_deadlines
            )
        })?;
        let random = params.chain_commit_rand.0.len();
        require(random <= 32, || {
            format!("expected at most 32 bytes of randomness, got {random}")
        })?;
        Ok(proof.post_proof)
    }

    fn check_post_fits(
        &self,
        params: &miner::SubmitWindowedPoStParams,
        proof_type: RegisteredPoStProof,
    ) -> Result<(), ActorError> {
        let (policy, info) = (&self.vm.net.policy, &self.info);
        require(info.window_post_proof_type == proof_type, || {
            format!(
                "expected proof of type {:?}, got {proof_type:?}",
                info.window_post_proof_type
            )
        })?;
        let one = proof_type.proof_size().map_err(illegal)?;
        let (partitions, limit) = (params.partitions.len(), one * params.partitions.len());
        let bytes = params.proofs.first().map_or(0, |proof| proof.proof_bytes.len());
        require(bytes <= limit, || {
            format!("expected proof to be smaller than {limit} bytes")
        })?;
        let most = miner::load_partitions_sectors_max(policy, info.window_post_partition_sectors);
        let most = most.min(policy.posted_partitions_max);
        require(partitions as u64 <= most, || {
            format!("too many partitions {partitions}, limit {most}")
        })
    }

    fn check_post_time(&self, params: &miner::SubmitWindowedPoStParams) -> Result<(), ActorError> {
        let now = self.vm.epoch;
        let current = self.state.deadline_info(&self.vm.net.policy, now);
        if !current.is_open() {
            let text = format!("proving period {} not yet open at {now}", current.period_start);
            return Err(ActorError::illegal_state(text));
        }
        require(params.deadline == current.index, || {
            format!(
                "invalid deadline {} at epoch {now}, expected {}",
                params.deadline, current.index
            )
        })?;
        let committed = params.chain_commit_epoch;
        require(committed >= current.challenge, || {
            format!(
                "expected chain commit epoch {committed} to be after {}",
                current.challenge
            )
        })?;
        require(committed < now, || {
            format!("chain commit epoch {committed} must be less than the current epoch {now}")
        })?;
        let drawn = self.vm.ticket_randomness(Tag::PostChainCommit, committed, &[])?;
        require(params.chain_commit_rand.0 == drawn, || {
            "post commit randomness mismatched".into()
        })
    }

    /// Whether a window proof holds for sectors whose stand-ins are themselves again.
    pub(super) fn post_holds(
        &self,
        proof_type: RegisteredPoStProof,
        challenge: i64,
        infos: &[miner::SectorOnChainInfo],
        proof: &[u8],
    ) -> Result<bool, ActorError> {
        let randomness = self
            .vm
            .beacon_randomness(Tag::WindowPost, challenge, &self.entropy())?;
        let mut sectors = BTreeMap::new();
        for info in infos {
            sectors.insert(info.sector_number, comm_r(&info.sealed_cid)?);
        }
        let claim = PostClaim {
            proof_type,
            miner: self.id,
            randomness,
            sectors: sectors.into_iter().collect(),
        };
        Ok(self.vm.net.verifier.window_post(&claim, proof))
    }

    /// CheckSectorProven: fails unless the sector is there.
    pub(super) fn check_proven(&self, params: miner::CheckSectorProvenParams) -> Result<(), ActorError> {
        let number = params.sector_number;
        let found = self.state.get_sector(self.vm.store, number)?;
        match found {
            Some(_) => Ok(()),
            None => Err(ActorError::not_found(format!("sector {number} not proven"))),
        }
    }
}
