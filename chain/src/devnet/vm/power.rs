//! The power actor: makes miners (chain.md §6.3).

use fvm_ipld_encoding::to_vec;

use crate::policy::{MULTIADDR_BYTES, PEER_ID_BYTES};
use crate::randomness::miner_entropy;
use crate::types::state::ActorError;
use crate::types::{
    ActorID, Address, BigInt, ChainEpoch, Protocol, RawBytes, TokenAmount, Zero, miner, power,
};

use super::super::root::{Claim, Kind};
use super::miner::{StateError, pledge_for_power};
use super::{Network, Vm};

/// The share of the smallest power for block production whose pledge is the deposit of a new miner.
const DEPOSIT_POWER_DIVISOR: u64 = 10;

/// What must be sent to make a miner (FIP-0077).
pub(in crate::devnet) fn creation_deposit(net: &Network) -> TokenAmount {
    let power = &net.policy.minimum_consensus_power / BigInt::from(DEPOSIT_POWER_DIVISOR);
    pledge_for_power(net, &power)
}

impl Vm<'_> {
    pub(super) fn create_miner(
        &mut self,
        caller: ActorID,
        value: &TokenAmount,
        params: power::CreateMinerParams,
    ) -> Result<RawBytes, ActorError> {
        let policy = &self.net.policy;
        check_identity(&params.peer, &params.multiaddrs)?;
        if !policy
            .valid_post_proof_type
            .contains(params.window_post_proof_type)
        {
            let text = format!(
                "proof type {:?} not allowed for new miner actors",
                params.window_post_proof_type
            );
            return Err(ActorError::illegal_argument(text));
        }
        let deposit = creation_deposit(self.net);
        if *value < deposit {
            let text = format!(
                "not enough balance to lock for create miner deposit: sent balance {value} < deposit {deposit}"
            );
            return Err(ActorError::insufficient_funds(text));
        }
        let owner = self.resolved(&params.owner)?;
        let worker = self.resolved_worker(&params.worker)?;
        let robust = self.robust_address(caller);
        let info = miner::MinerInfo::new(
            owner,
            worker,
            Vec::new(),
            params.peer,
            params.multiaddrs,
            params.window_post_proof_type,
        )?;
        let id = self.root.add(Kind::Miner, robust, TokenAmount::zero());
        self.transfer(super::POWER, id, value)?;
        let head = self.new_miner_state(id, &info, &deposit)?;
        if let Some(actor) = self.root.actors.get_mut(&id) {
            actor.head = Some(head);
        }
        self.root.power.pledge += &deposit;
        let claim = Claim {
            post_proof: params.window_post_proof_type,
            raw: BigInt::zero(),
            qa: BigInt::zero(),
        };
        self.root.power.claims.insert(id, claim);
        let made = power::CreateMinerReturn {
            id_address: Address::new_id(id),
            robust_address: robust,
        };
        let bytes = to_vec(&made).map_err(|e| ActorError::serialization(e.to_string()))?;
        Ok(RawBytes::new(bytes))
    }

    fn new_miner_state(
        &mut self,
        id: ActorID,
        info: &miner::MinerInfo,
        deposit: &TokenAmount,
    ) -> Result<crate::types::Cid, ActorError> {
        let policy = &self.net.policy;
        let offset = period_offset(id, self.epoch, policy.wpost_proving_period);
        let start = period_start(self.epoch, offset, policy.wpost_proving_period);
        let index = (self.epoch - start) / policy.wpost_challenge_window;
        let info = self.store.save(info).map_err(ActorError::illegal_state)?;
        let mut state = miner::State::new(policy, self.store, info, start, index.unsigned_abs())?;
        state
            .add_locked_funds(self.store, self.epoch, deposit, &miner::REWARD_VESTING_SPEC)
            .or_state("failed to lock the deposit")?;
        self.store.save(&state).map_err(ActorError::illegal_state)
    }

    /// The ID of an address, which is made an account if it is a key that nobody used.
    pub(super) fn resolved(&mut self, address: &Address) -> Result<ActorID, ActorError> {
        if let Some(id) = self.root.resolve(address) {
            return Ok(id);
        }
        if matches!(address.protocol(), Protocol::BLS | Protocol::Secp256k1) {
            return Ok(self.root.add(Kind::Account, *address, TokenAmount::zero()));
        }
        let text = format!("unable to resolve address {address}");
        Err(ActorError::illegal_argument(text))
    }

    /// The ID of an account with a BLS key.
    pub(super) fn resolved_worker(&mut self, address: &Address) -> Result<ActorID, ActorError> {
        let id = self.resolved(address)?;
        let key = self.root.actors.get(&id).and_then(|actor| match actor.kind {
            Kind::Account => actor.address,
            _ => None,
        });
        match key {
            Some(key) if key.protocol() == Protocol::BLS => Ok(id),
            _ => {
                let text = format!("worker account {address} must have BLS pubkey");
                Err(ActorError::illegal_argument(text))
            }
        }
    }

    fn robust_address(&self, caller: ActorID) -> Address {
        let mut name = Address::new_id(caller).to_bytes();
        name.extend_from_slice(&self.root.next_id.to_be_bytes());
        name.extend_from_slice(&self.epoch.to_be_bytes());
        Address::new_actor(&name)
    }
}

/// Checks what a miner tells of itself.
pub(super) fn check_identity(peer: &[u8], multiaddrs: &[crate::types::BytesDe]) -> Result<(), ActorError> {
    if peer.len() > PEER_ID_BYTES {
        let text = format!(
            "peer ID size of {} exceeds maximum size of {PEER_ID_BYTES}",
            peer.len()
        );
        return Err(ActorError::illegal_argument(text));
    }
    if multiaddrs.iter().any(|one| one.0.is_empty()) {
        return Err(ActorError::illegal_argument("invalid empty multiaddr".into()));
    }
    let total: usize = multiaddrs.iter().map(|one| one.0.len()).sum();
    if total > MULTIADDR_BYTES {
        let text = format!("multiaddr size of {total} exceeds maximum of {MULTIADDR_BYTES}");
        return Err(ActorError::illegal_argument(text));
    }
    Ok(())
}

/// Where a miner's period begins within the network's, so that not all prove at once.
fn period_offset(id: ActorID, epoch: ChainEpoch, period: ChainEpoch) -> ChainEpoch {
    let mut name = miner_entropy(id);
    name.extend_from_slice(&epoch.to_be_bytes());
    let hash = crate::message::blake2b_256(&name);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    let offset = u64::from_be_bytes(first) % period.unsigned_abs().max(1);
    ChainEpoch::try_from(offset).unwrap_or(0)
}

/// The latest beginning of a period with that offset which is not after now. It may be negative.
fn period_start(now: ChainEpoch, offset: ChainEpoch, period: ChainEpoch) -> ChainEpoch {
    now - (now - offset).rem_euclid(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_begins_at_its_offset_and_not_after_now() {
        for now in [0, 1, 479, 480, 5_000] {
            for offset in [0, 1, 479] {
                let start = period_start(now, offset, 480);
                assert!(start <= now && now - start < 480, "{now} {offset}: {start}");
                assert_eq!(start.rem_euclid(480), offset);
            }
        }
        let offsets: std::collections::BTreeSet<_> =
            (1000..1010).map(|id| period_offset(id, 7, 480)).collect();
        assert!(offsets.len() > 5 && offsets.iter().all(|offset| (0..480).contains(offset)));
    }
}
