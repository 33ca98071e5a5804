//! Messages by which a miner is made and run: keys, owner, beneficiary, money (chain.md §1.7).

use crate::policy::{CONTROL_ADDRESSES, MULTIADDR_BYTES, PEER_ID_BYTES};
use crate::types::{Address, BytesDe, ChainEpoch, Protocol, RegisteredPoStProof, TokenAmount, miner, power};

use super::call::Call;
use super::error::BuildError;

/// A miner that is to be made. The value of the message is the deposit (`StateMinerCreationDeposit`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinerCreation {
    /// Who owns it.
    pub owner: Address,
    /// Who proves and signs blocks; must be an account with a BLS key.
    pub worker: Address,
    /// Type of its window proofs (10 to 14), which fixes the sector size.
    pub post_proof: RegisteredPoStProof,
    /// Peer ID, may be empty.
    pub peer: Vec<u8>,
    /// Where it can be reached, may be empty.
    pub multiaddrs: Vec<Vec<u8>>,
}

/// Makes a miner.
///
/// # Errors
/// The worker has a key of another kind, the type is no window proof that is taken, or peer ID or
/// addresses are too long.
pub fn create_miner(new: MinerCreation) -> Result<Call, BuildError> {
    const METHOD: &str = "CreateMiner";
    if !matches!(new.worker.protocol(), Protocol::BLS | Protocol::ID) {
        return Err(BuildError::new(
            METHOD,
            format!("the worker {} must have a BLS key (f3…)", new.worker),
        ));
    }
    if !(10..=14).contains(&i64::from(new.post_proof)) {
        return Err(BuildError::new(
            METHOD,
            format!("{:?} is no window proof type of this network", new.post_proof),
        ));
    }
    check_peer(METHOD, &new.peer)?;
    Ok(Call::CreateMiner(power::CreateMinerParams {
        owner: new.owner,
        worker: new.worker,
        window_post_proof_type: new.post_proof,
        peer: new.peer,
        multiaddrs: multiaddrs(METHOD, new.multiaddrs)?,
    }))
}

/// The worker and the control addresses that a miner is to have. The worker changes 900 epochs later, on
/// confirmation; the control addresses change at once. To change only them, give the present worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlChange {
    /// The worker.
    pub worker: Address,
    /// All control addresses, at most ten.
    pub control: Vec<Address>,
}

/// Changes worker and control addresses.
///
/// # Errors
/// There are too many control addresses.
pub fn change_worker(change: ControlChange) -> Result<Call, BuildError> {
    const METHOD: &str = "ChangeWorkerAddress";
    let count = change.control.len();
    if count > CONTROL_ADDRESSES {
        return Err(BuildError::new(
            METHOD,
            format!("{count} control addresses; a miner has at most {CONTROL_ADDRESSES}"),
        ));
    }
    Ok(Call::ChangeWorkerAddress(miner::ChangeWorkerAddressParams {
        new_worker: change.worker,
        new_control_addresses: change.control,
    }))
}

/// Proposes (as owner) or confirms (as the new owner) an owner.
///
/// # Errors
/// The address is not an ID address.
pub fn change_owner(new_owner: Address) -> Result<Call, BuildError> {
    if new_owner.protocol() != Protocol::ID {
        return Err(BuildError::new(
            "ChangeOwnerAddress",
            format!("{new_owner} must be given by its ID, for example f01003"),
        ));
    }
    Ok(Call::ChangeOwnerAddress(miner::ChangeOwnerAddressParams {
        new_owner,
    }))
}

/// Proposes or confirms who receives the balance, how much and until when.
///
/// # Errors
/// The quota is negative.
pub fn change_beneficiary(
    beneficiary: Address,
    quota: TokenAmount,
    expiration: ChainEpoch,
) -> Result<Call, BuildError> {
    if quota.is_negative() {
        return Err(BuildError::new("ChangeBeneficiary", "the quota is negative"));
    }
    Ok(Call::ChangeBeneficiary(miner::ChangeBeneficiaryParams::new(
        beneficiary,
        quota,
        expiration,
    )))
}

/// Pays available balance out to the beneficiary.
///
/// # Errors
/// The amount is negative.
pub fn withdraw(amount: TokenAmount) -> Result<Call, BuildError> {
    if amount.is_negative() {
        return Err(BuildError::new("WithdrawBalance", "the amount is negative"));
    }
    Ok(Call::WithdrawBalance(miner::WithdrawBalanceParams {
        amount_requested: amount,
    }))
}

/// Changes the peer ID.
///
/// # Errors
/// It is too long.
pub fn change_peer_id(new_id: Vec<u8>) -> Result<Call, BuildError> {
    check_peer("ChangePeerID", &new_id)?;
    Ok(Call::ChangePeerID(miner::ChangePeerIDParams { new_id }))
}

/// Changes the multiaddresses.
///
/// # Errors
/// One is empty, or they are too long together.
pub fn change_multiaddrs(addresses: Vec<Vec<u8>>) -> Result<Call, BuildError> {
    Ok(Call::ChangeMultiaddrs(miner::ChangeMultiaddrsParams {
        new_multi_addrs: multiaddrs("ChangeMultiaddrs", addresses)?,
    }))
}

fn check_peer(method: &'static str, peer: &[u8]) -> Result<(), BuildError> {
    if peer.len() <= PEER_ID_BYTES {
        return Ok(());
    }
    Err(BuildError::new(
        method,
        format!(
            "a peer ID of {} bytes; at most {PEER_ID_BYTES} are taken",
            peer.len()
        ),
    ))
}

fn multiaddrs(method: &'static str, addresses: Vec<Vec<u8>>) -> Result<Vec<BytesDe>, BuildError> {
    let total: usize = addresses.iter().map(Vec::len).sum();
    if total > MULTIADDR_BYTES || addresses.iter().any(Vec::is_empty) {
        return Err(BuildError::new(
            method,
            format!(
                "multiaddresses of {total} bytes; none may be empty, and all have at most {MULTIADDR_BYTES}"
            ),
        ));
    }
    Ok(addresses.into_iter().map(BytesDe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse;

    const SECP: &str = "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y";

    #[test]
    fn administration_that_the_actor_would_refuse() {
        let id = Address::new_id;
        let new = MinerCreation {
            owner: id(1000),
            worker: id(1001),
            post_proof: RegisteredPoStProof::from(13),
            peer: vec![0, 1],
            multiaddrs: vec![],
        };
        assert!(create_miner(new.clone()).is_ok());
        let secp = MinerCreation {
            worker: parse(SECP).unwrap(),
            ..new.clone()
        };
        let old = MinerCreation {
            post_proof: RegisteredPoStProof::from(8),
            ..new.clone()
        };
        let peer = MinerCreation {
            peer: vec![0; 129],
            ..new
        };
        let control = ControlChange {
            worker: id(1001),
            control: vec![id(1002); 11],
        };
        for (result, reason) in [
            (create_miner(secp), "must have a BLS key"),
            (create_miner(old), "no window proof type"),
            (create_miner(peer), "129 bytes"),
            (change_worker(control), "11 control addresses"),
            (change_owner(parse(SECP).unwrap()), "by its ID"),
            (withdraw(TokenAmount::from_atto(-1)), "negative"),
            (
                change_beneficiary(id(1), TokenAmount::from_atto(-1), 0),
                "negative",
            ),
            (change_peer_id(vec![0; 129]), "129 bytes"),
            (change_multiaddrs(vec![vec![]]), "none may be empty"),
            (change_multiaddrs(vec![vec![0; 1025]]), "1025 bytes"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
