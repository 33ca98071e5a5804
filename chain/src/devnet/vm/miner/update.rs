//! ProveReplicaUpdates3: replaces committed capacity by data.

use crate::policy::UPDATE_PROOF_BYTES;
use crate::types::state::ActorError;
use crate::types::{BatchReturn, BigInt, TokenAmount, Zero, miner};

use super::super::super::verifier::UpdateClaim;
use super::prove::{Content, Survivors, comm_d, comm_r, proof_form, space_time};
use super::{MinerCall, StateError, illegal, pledge_for_power, require};

/// An update that may be made, with the sector as it is.
type Update<'p> = (usize, &'p miner::SectorUpdateManifest, miner::SectorOnChainInfo);

impl MinerCall<'_, '_> {
    pub(super) fn prove_updates(
        &mut self,
        params: miner::ProveReplicaUpdates3Params,
    ) -> Result<BatchReturn, ActorError> {
        self.only_controllers()?;
        let updates = &params.sector_updates;
        let aggregated = proof_form(
            updates.len(),
            &params.sector_proofs,
            &params.aggregate_proof,
            params.aggregate_proof_type,
        )?;
        require(!aggregated, || "aggregate update proofs not yet supported".into())?;
        let mut alive = Survivors::new(updates.len());
        let infos = self.checked_updates(&params, &mut alive)?;
        require(!alive.none(), || "no valid updates".into())?;
        self.check_update_proofs(&params, &infos, &mut alive)?;
        require(!alive.none(), || "no valid updates".into())?;
        let made: Vec<_> = infos.into_iter().filter(|(at, ..)| alive.lives(*at)).collect();
        for update in &made {
            self.replace(update)?;
        }
        let contents: Vec<_> = made
            .iter()
            .map(|(_, manifest, info)| Content {
                sector: manifest.sector,
                expiration: info.expiration,
                pieces: &manifest.pieces,
            })
            .collect();
        self.notify(&contents, params.require_notification_success)?;
        Ok(alive.batch_return())
    }

    fn checked_updates<'p>(
        &self,
        params: &'p miner::ProveReplicaUpdates3Params,
        alive: &mut Survivors,
    ) -> Result<Vec<Update<'p>>, ActorError> {
        let sectors =
            miner::Sectors::load(self.vm.store, &self.state.sectors).or_state("failed to load sectors")?;
        let mut infos = Vec::with_capacity(params.sector_updates.len());
        for manifest in &params.sector_updates {
            infos.push(sectors.must_get(manifest.sector)?);
        }
        let mut seen = std::collections::BTreeSet::new();
        let mut updates = Vec::new();
        for (at, (manifest, info)) in params.sector_updates.iter().zip(infos).enumerate() {
            let checked = self.check_update(params, at, manifest, &info, seen.insert(manifest.sector));
            if let Err(e) = checked {
                require(!params.require_activation_success, || {
                    format!(
                        "invalid update {at} while requiring activation success: {}",
                        e.msg()
                    )
                })?;
                alive.fail(at);
            }
            updates.push((at, manifest, info));
        }
        Ok(updates)
    }

    fn check_update(
        &self,
        params: &miner::ProveReplicaUpdates3Params,
        at: usize,
        manifest: &miner::SectorUpdateManifest,
        info: &miner::SectorOnChainInfo,
        first: bool,
    ) -> Result<(), ActorError> {
        let (policy, now, number) = (&self.vm.net.policy, self.vm.epoch, manifest.sector);
        require(first, || format!("skipping duplicate sector {number}"))?;
        let bytes = params
            .sector_proofs
            .get(at)
            .map_or(0, |proof| proof.bytes().len());
        require(bytes <= UPDATE_PROOF_BYTES, || {
            format!("update proof is too large ({bytes}), sector {number}")
        })?;
        require(manifest.deadline < policy.wpost_period_deadlines, || {
            format!(
                "deadline {} not in range 0..{}",
                manifest.deadline, policy.wpost_period_deadlines
            )
        })?;
        require(miner::is_sealed_sector(&manifest.new_sealed_cid), || {
            format!("new sealed CID had wrong prefix {}", manifest.new_sealed_cid)
        })?;
        // A replica that is being challenged must not change under the challenge.
        let start = self.state.current_proving_period_start(policy, now);
        require(
            miner::deadline_is_mutable(policy, start, manifest.deadline, now),
            || {
                format!(
                    "cannot upgrade sectors in immutable deadline {}, skipping sector {number}",
                    manifest.deadline
                )
            },
        )?;
        let active = self.state.check_sector_active(
            self.vm.store,
            manifest.deadline,
            manifest.partition,
            number,
            true,
        )?;
        require(active, || format!("sector isn't active {number}"))?;
        require(
            info.deal_weight.is_zero() && info.verified_deal_weight.is_zero(),
            || format!("cannot update sector with non-zero data {number}"),
        )?;
        let expected = info.seal_proof.registered_update_proof().map_err(illegal)?;
        require(expected == params.update_proofs_type, || {
            format!(
                "expected proof type {expected:?}, was {:?}",
                params.update_proofs_type
            )
        })
    }

    fn check_update_proofs(
        &self,
        params: &miner::ProveReplicaUpdates3Params,
        updates: &[Update<'_>],
        alive: &mut Survivors,
    ) -> Result<(), ActorError> {
        for (at, manifest, info) in updates {
            if !alive.lives(*at) {
                continue;
            }
            let unsealed = self
                .unsealed_cid(info.seal_proof, &manifest.pieces)?
                .get_cid(info.seal_proof)?;
            let claim = UpdateClaim {
                proof_type: params.update_proofs_type,
                old_comm_r: comm_r(&info.sealed_cid)?,
                new_comm_r: comm_r(&manifest.new_sealed_cid)?,
                comm_d: comm_d(&unsealed)?,
            };
            let proof = params
                .sector_proofs
                .get(*at)
                .map_or(&[][..], |proof| proof.bytes());
            if self.vm.net.verifier.update(&claim, proof) {
                continue;
            }
            require(!params.require_activation_success, || {
                format!(
                    "invalid proof for sector {} while requiring activation success",
                    manifest.sector
                )
            })?;
            alive.fail(*at);
        }
        Ok(())
    }

    /// Puts the updated sector in the place of the old one; its power counts at once.
    fn replace(&mut self, (_, manifest, old): &Update<'_>) -> Result<(), ActorError> {
        let (policy, store) = (&self.vm.net.policy, self.vm.store);
        let new = self.updated(manifest, old);
        let mut deadlines = self.state.load_deadlines(store)?;
        let mut deadline = deadlines.load_deadline(store, manifest.deadline)?;
        let mut partitions = deadline
            .partitions_amt(store)
            .or_state("failed to load partitions")?;
        let partition = partitions
            .get(manifest.partition)
            .or_state("failed to load partition")?;
        let mut partition = partition
            .cloned()
            .ok_or_else(|| ActorError::not_found(format!("no such partition {}", manifest.partition)))?;
        let quant = self.state.quant_spec_for_deadline(policy, manifest.deadline);
        let (power, pledge, fee) = partition
            .replace_sectors(store, [old], [&new], self.info.sector_size, quant)
            .or_state("failed to replace sector")?;
        partitions
            .set(manifest.partition, partition)
            .or_state("failed to save partition")?;
        deadline.partitions = partitions.flush().or_state("failed to save partitions")?;
        deadline.live_power += &power;
        deadline.daily_fee += &fee;
        deadlines
            .update_deadline(policy, store, manifest.deadline, &deadline)
            .or_state("failed to save deadline")?;
        self.state
            .save_deadlines(store, deadlines)
            .or_state("failed to save deadlines")?;
        self.state
            .put_sectors(store, vec![new])
            .or_state("failed to save sector")?;
        self.lock_more(&pledge)?;
        self.power_changed(&power)
    }

    fn lock_more(&mut self, pledge: &TokenAmount) -> Result<(), ActorError> {
        let balance = self.balance();
        let unlocked = self
            .state
            .get_unlocked_balance(&balance)
            .or_state("failed to calculate unlocked balance")?;
        if unlocked < *pledge {
            let text = format!(
                "insufficient funds for aggregate initial pledge requirement {pledge}, available: {unlocked}"
            );
            return Err(ActorError::insufficient_funds(text));
        }
        self.state
            .add_initial_pledge(pledge)
            .or_state("failed to add initial pledge")?;
        self.pledge_changed(pledge);
        Ok(())
    }

    fn updated(
        &self,
        manifest: &miner::SectorUpdateManifest,
        old: &miner::SectorOnChainInfo,
    ) -> miner::SectorOnChainInfo {
        let (size, now) = (self.info.sector_size, self.vm.epoch);
        let mut new = old.clone();
        new.sector_key_cid = old.sector_key_cid.or(Some(old.sealed_cid));
        new.sealed_cid = manifest.new_sealed_cid;
        new.deal_weight = BigInt::zero();
        new.verified_deal_weight = space_time(&manifest.pieces, old.expiration - now);
        new.power_base_epoch = now;
        new.flags |=
            miner::SectorOnChainInfoFlags::SIMPLE_QA_POWER | miner::SectorOnChainInfoFlags::FULL_QA_POWER;
        let (before, after) = (
            miner::qa_power_for_sector(size, old),
            miner::qa_power_for_sector(size, &new),
        );
        new.daily_fee = miner::daily_proof_fee_adjust(&old.daily_fee, &before, &after);
        new.initial_pledge = old
            .initial_pledge
            .clone()
            .max(pledge_for_power(self.vm.net, &after));
        new
    }
}
