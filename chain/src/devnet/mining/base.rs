//! What a miner's block of an epoch is judged by: power, worker and sectors as they were a finality before, and
//! whether it may make one now.

use std::sync::Arc;

use crate::randomness::{self, Tag};
use crate::types::{
    ActorID, Address, BigInt, BitField, ChainEpoch, RegisteredPoStProof, SectorSize, Zero, miner,
};

use super::super::block::BeaconEntry;
use super::super::chain::Tip;
use super::super::core::Core;
use super::super::root::Root;
use super::super::store::Overlay;

/// While fewer miners than this have the smallest power for blocks, any power is enough.
const MINERS_WITH_POWER: usize = 4;

/// See the module.
pub(in crate::devnet) struct Base {
    /// Quality-adjusted power of the miner.
    pub(in crate::devnet) power: BigInt,
    /// That of all.
    pub(in crate::devnet) all_power: BigInt,
    /// The key that signs.
    pub(in crate::devnet) worker: Address,
    pub(in crate::devnet) sector_size: SectorSize,
    /// Type of its winning proofs.
    pub(in crate::devnet) proof_type: RegisteredPoStProof,
    /// What the challenges are drawn from.
    pub(in crate::devnet) randomness: [u8; 32],
    /// The sectors that were drawn.
    pub(in crate::devnet) sectors: Vec<miner::SectorOnChainInfo>,
    /// Why it may not make a block.
    pub(in crate::devnet) ineligible: Option<String>,
}

impl Core {
    /// What a block of a miner on a tipset is judged by; nothing where it had no proven sector at the lookback.
    pub(in crate::devnet) fn mining_base(
        &self,
        id: ActorID,
        tip: &Arc<Tip>,
        epoch: ChainEpoch,
    ) -> Result<Option<Base>, String> {
        let store = self.store.overlay();
        let root: Root = store.load(&self.lookback(tip, epoch)?.post_root)?;
        let Some(state) = miner_state(&root, &store, id)? else {
            return Ok(None);
        };
        let info = state.get_info(&store).map_err(|e| e.to_string())?;
        let active = active_sectors(&state, &store)?;
        if active.is_empty() {
            return Ok(None);
        }
        let proof_type = winning_type(info.window_post_proof_type);
        let beacon = BeaconEntry::of(epoch);
        let randomness = randomness::draw(
            &beacon.data,
            Tag::WinningPost,
            epoch,
            &randomness::miner_entropy(id),
        );
        let drawn = self
            .net
            .verifier
            .winning_challenge(proof_type, id, randomness, active.len());
        let drawn =
            drawn.ok_or_else(|| format!("no sector can be drawn for proofs of type {proof_type:?}"))?;
        let numbers: Vec<u64> = active.iter().collect();
        let drawn = drawn.into_iter().map(|at| numbers.get(usize::try_from(at).ok()?));
        let drawn: Option<Vec<u64>> = drawn.map(|number| number.copied()).collect();
        let drawn = drawn.ok_or("a sector was drawn that is not there")?;
        let drawn = BitField::try_from_bits(drawn).map_err(|e| e.to_string())?;
        let sectors = state
            .load_sector_infos(&store, &drawn)
            .map_err(|e| e.to_string())?;
        let claim = root.power.claims.get(&id);
        Ok(Some(Base {
            power: claim.map(|claim| claim.qa.clone()).unwrap_or_default(),
            all_power: root.total_power().1,
            worker: key_of(&root, &info)?,
            sector_size: info.sector_size,
            proof_type,
            randomness,
            sectors,
            ineligible: match self.too_little_power(&root, id) {
                Some(reason) => Some(reason),
                None => self.barred(id, tip)?,
            },
        }))
    }

    /// The key by which a miner's block of an epoch is judged, on the chain of a tipset.
    pub(in crate::devnet) fn worker_of(
        &self,
        id: ActorID,
        tip: &Arc<Tip>,
        epoch: ChainEpoch,
    ) -> Result<Address, String> {
        let store = self.store.overlay();
        let root: Root = store.load(&self.lookback(tip, epoch)?.post_root)?;
        let state = miner_state(&root, &store, id)?.ok_or_else(|| format!("there was no miner f0{id}"))?;
        key_of(&root, &state.get_info(&store).map_err(|e| e.to_string())?)
    }

    /// The tipset a finality before an epoch, on the chain of its parents.
    fn lookback(&self, tip: &Arc<Tip>, epoch: ChainEpoch) -> Result<Arc<Tip>, String> {
        let wanted = epoch.saturating_sub(self.net.policy.chain_finality).max(0);
        if wanted >= tip.height() {
            return Ok(tip.clone());
        }
        let found = self.chain.at_or_before(tip, wanted);
        found.ok_or_else(|| format!("no tipset at or before {wanted}"))
    }

    fn too_little_power(&self, root: &Root, id: ActorID) -> Option<String> {
        let least = &self.net.policy.minimum_consensus_power;
        let claims = &root.power.claims;
        let raw = claims.get(&id).map(|claim| claim.raw.clone()).unwrap_or_default();
        let enough = claims.values().filter(|claim| claim.raw >= *least).count();
        if raw >= *least || (enough < MINERS_WITH_POWER && raw > BigInt::zero()) {
            return None;
        }
        Some(format!(
            "its power at the lookback is {raw} bytes; {least} are needed"
        ))
    }

    /// What bars a miner from the block after a tipset, by the state that calls about the tipset see.
    fn barred(&self, id: ActorID, tip: &Arc<Tip>) -> Result<Option<String>, String> {
        let view = self.view(tip.clone())?;
        let power = view.root.power.claims.get(&id).map(|claim| claim.qa.clone());
        let Some(state) = miner_state(&view.root, &view.store, id)? else {
            return Ok(Some("there is no such miner any more".into()));
        };
        let info = state.get_info(&view.store).map_err(|e| e.to_string())?;
        if power.is_none_or(|power| power <= BigInt::zero()) {
            return Ok(Some("it has no power any more".into()));
        }
        if !state.fee_debt.is_zero() {
            return Ok(Some(format!("it has a fee debt of {}", state.fee_debt)));
        }
        if info.consensus_fault_elapsed > tip.height() {
            let until = info.consensus_fault_elapsed;
            return Ok(Some(format!(
                "after a consensus fault it is excluded until {until}"
            )));
        }
        Ok(None)
    }
}

/// The state of a miner, if there is one.
fn miner_state(root: &Root, store: &Overlay<'_>, id: ActorID) -> Result<Option<miner::State>, String> {
    let head = root.actors.get(&id).and_then(|actor| actor.head);
    head.map(|head| store.load(&head)).transpose()
}

/// The worker's key.
fn key_of(root: &Root, info: &miner::MinerInfo) -> Result<Address, String> {
    let key = info.worker.id().ok().and_then(|id| root.actors.get(&id)?.address);
    key.ok_or_else(|| format!("the worker {} has no key", info.worker))
}

/// Sectors that were proven and are neither faulty nor ended.
fn active_sectors(state: &miner::State, store: &Overlay<'_>) -> Result<BitField, String> {
    let deadlines = state.load_deadlines(store).map_err(|e| e.to_string())?;
    let mut active = BitField::new();
    for index in 0..deadlines.due.len() as u64 {
        let deadline = deadlines.load_deadline(store, index).map_err(|e| e.to_string())?;
        deadline
            .for_each(store, |_, partition: &miner::Partition| {
                active |= &partition.active_sectors();
                Ok(())
            })
            .map_err(|e| e.to_string())?;
    }
    Ok(active)
}

/// The winning proof of the size of a window proof: types have five sizes each.
fn winning_type(window: RegisteredPoStProof) -> RegisteredPoStProof {
    RegisteredPoStProof::from(i64::from(window).rem_euclid(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn winning_proofs_have_the_size_of_window_proofs() {
        for number in 10..15 {
            let window = RegisteredPoStProof::from(number);
            let winning = winning_type(window);
            assert_eq!(i64::from(winning), number - 10);
            assert_eq!(winning.sector_size(), window.sector_size());
        }
    }
}
