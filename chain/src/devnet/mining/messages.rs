//! Judges the messages of a block that is handed in. The network lets some in that cannot be paid, and punishes the
//! miner; here they are refused.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use fvm_shared::crypto::signature::ops::verify_bls_aggregate;
use fvm_shared::crypto::signature::{BLS_PUB_LEN, BLS_SIG_LEN};

use crate::message::{self, Gas, SignedMessage};
use crate::policy::BLOCK_GAS;
use crate::types::{Address, Cid, SignatureType};

use super::super::block::{self, Block, NO_SIGNATURE};
use super::super::core::{Core, account};
use super::super::mempool::Account;
use super::super::root::{Kind, Root};
use super::MESSAGES;

/// The messages that a block names, in the order of execution: from the pool, from a block that was made here, or from
/// a tipset.
pub(super) fn load(core: &Core, bls: &[Cid], secp: &[Cid]) -> Result<Vec<SignedMessage>, String> {
    let count = bls.len() + secp.len();
    if count > MESSAGES {
        return Err(format!("it has {count} messages; a block has {MESSAGES} at most"));
    }
    let pool = core.mempool.by_cid();
    let mut seen = HashSet::new();
    let mut all = Vec::with_capacity(count);
    for (list, wanted) in [(bls, SignatureType::BLS), (secp, SignatureType::Secp256k1)] {
        for cid in list {
            if !seen.insert(*cid) {
                return Err(format!("message {cid} is in it twice"));
            }
            let found = pool.get(cid).copied();
            let found = found
                .or_else(|| core.given.get(cid))
                .or_else(|| core.chain.message(cid));
            let found = found.filter(|signed| signed.cid().is_ok_and(|own| own == *cid));
            let signed = found.ok_or_else(|| format!("message {cid} is not known here; push it first"))?;
            if signed.signature.signature_type() != wanted {
                return Err(format!(
                    "message {cid} is in the wrong list: its signature is no {wanted:?} one"
                ));
            }
            all.push(signed.clone());
        }
    }
    Ok(all)
}

/// Whether the header speaks of these messages, and each may be in a block on the head.
pub(super) fn judge(core: &Core, block: &Block, messages: &[SignedMessage]) -> Result<(), String> {
    let wanted = block::message_meta(messages, &core.store.overlay())?;
    if block.messages != wanted {
        return Err(format!(
            "the root of its messages is {}, not {wanted}",
            block.messages
        ));
    }
    check_aggregate(block, messages)?;
    let root = core.head_root()?;
    let mut accounts: HashMap<Address, Account> = HashMap::new();
    let mut gas = 0_u64;
    for signed in messages {
        let cid = signed.cid().map_err(|e| e.to_string())?;
        let refused = |reason: String| format!("message {cid} cannot be in it: {reason}");
        if !block::is_bls(signed) {
            message::verify(signed).map_err(|e| refused(e.to_string()))?;
        }
        let used = check(signed, block, &root, &mut accounts);
        gas = gas.saturating_add(used.map_err(refused)?);
        if gas > BLOCK_GAS {
            return Err(format!("its messages may use {gas} gas; a block has {BLOCK_GAS}"));
        }
    }
    Ok(())
}

/// Checks one message behind those before it. Returns the gas that it may use.
fn check(
    signed: &SignedMessage,
    block: &Block,
    root: &Root,
    accounts: &mut HashMap<Address, Account>,
) -> Result<u64, String> {
    let message = &signed.message;
    message::check(message).map_err(|e| e.to_string())?;
    let from = message.from;
    let kind = root
        .resolve(&from)
        .and_then(|id| root.actors.get(&id))
        .map(|actor| actor.kind);
    if kind != Some(Kind::Account) {
        return Err(format!("its sender {from} is no account"));
    }
    if message.gas_fee_cap < block.parent_base_fee {
        let (cap, fee) = (message.gas_fee_cap.atto(), block.parent_base_fee.atto());
        return Err(format!("its fee cap is {cap} attoFIL, and the base fee {fee}"));
    }
    let sender = match accounts.entry(from) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let found = account(root, &from);
            place.insert(found.ok_or_else(|| format!("its sender {from} is no account"))?)
        }
    };
    if message.sequence != sender.nonce {
        return Err(format!("its nonce is {}, not {}", message.sequence, sender.nonce));
    }
    let required = Gas::of(message).max_fee() + &message.value;
    if sender.balance < required {
        return Err(format!(
            "its sender has {}, and it may cost {required}",
            sender.balance
        ));
    }
    sender.balance -= required;
    sender.nonce += 1;
    Ok(message.gas_limit)
}

/// Whether the header's signature is that of all senders of BLS messages together.
fn check_aggregate(block: &Block, messages: &[SignedMessage]) -> Result<(), String> {
    let aggregate = block.bls_aggregate.as_ref().ok_or("it has no BLS aggregate")?;
    let invalid = || "the BLS aggregate is not that of its messages".to_owned();
    if aggregate.signature_type() != SignatureType::BLS {
        return Err(invalid());
    }
    let bytes: &[u8; BLS_SIG_LEN] = aggregate.bytes().try_into().map_err(|_| invalid())?;
    let (mut keys, mut signed) = (Vec::new(), Vec::new());
    for one in messages.iter().filter(|one| block::is_bls(one)) {
        let key = <[u8; BLS_PUB_LEN]>::try_from(one.message.from.payload_bytes());
        keys.push(key.map_err(|_| format!("the sender {} has no BLS key", one.message.from))?);
        signed.push(message::signing_bytes(&one.message).map_err(|e| e.to_string())?);
    }
    if keys.is_empty() {
        // There is only one signature of nothing.
        return if *bytes == NO_SIGNATURE {
            Ok(())
        } else {
            Err(invalid())
        };
    }
    let signed: Vec<&[u8]> = signed.iter().map(Vec::as_slice).collect();
    match verify_bls_aggregate(bytes, &keys, &signed) {
        Ok(true) => Ok(()),
        _ => Err(invalid()),
    }
}
