//! Calls about the network's state: addresses, actors, randomness, and where messages are.

use serde_json::{Value, json};

use crate::json::Form;
use crate::message::blake2b_256;
use crate::types::{Address, ChainEpoch, Cid, Protocol};

use super::super::block::BeaconEntry;
use super::super::chain::Tip;
use super::super::core::{Core, View};
use super::super::root::{Actor, Kind};
use super::shapes::{self, Key};
use super::{Answer, Args, RpcError};

/// The version of the network that the state is of: actors v19.
const NETWORK_VERSION: u32 = 29;
/// A network on which contracts would have this number.
const CHAIN_ID: u64 = 31_415_926;

pub(super) fn network_name(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(json!(core.profile.network_name()))
}

pub(super) fn network_version(core: &mut Core, args: &Args<'_>) -> Answer {
    let key: Key = args.get(0)?;
    shapes::tip(core, &key)?;
    Ok(json!(NETWORK_VERSION))
}

pub(super) fn network_params(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(json!({
        "NetworkName": core.profile.network_name(),
        "BlockDelaySecs": core.profile.epoch_seconds(),
        "ConsensusMinerMinPower": core.net.policy.minimum_consensus_power.to_string(),
        "PreCommitChallengeDelay": core.net.policy.pre_commit_challenge_delay,
        "ForkUpgradeParams": {},
        "Eip155ChainID": CHAIN_ID,
        "GenesisTimestamp": core.genesis.timestamp,
    }))
}

/// The ID of an address, or the error that nodes give.
pub(super) fn resolve(view: &View<'_>, address: &Address) -> Result<u64, RpcError> {
    let found = view.root.resolve(address);
    found.ok_or_else(|| {
        RpcError::app(format!(
            "resolution lookup failed ({address}): resolve address {address}: actor not found"
        ))
    })
}

fn found<'v>(view: &'v View<'_>, address: &Address) -> Result<(u64, &'v Actor), RpcError> {
    let id = resolve(view, address)?;
    let actor = view.root.actors.get(&id);
    actor
        .map(|actor| (id, actor))
        .ok_or_else(|| RpcError::new(11, "actor not found"))
}

fn place<'c>(core: &'c Core, args: &Args<'_>) -> Result<(Address, View<'c>), RpcError> {
    let (Form(address), key): (Form<Address>, Key) = (args.get(0)?, args.get(1)?);
    Ok((address, shapes::view(core, &key)?))
}

pub(super) fn lookup_id(core: &mut Core, args: &Args<'_>) -> Answer {
    let (address, view) = place(core, args)?;
    Ok(json!(Form(Address::new_id(resolve(&view, &address)?))))
}

pub(super) fn account_key(core: &mut Core, args: &Args<'_>) -> Answer {
    let (address, view) = place(core, args)?;
    if matches!(address.protocol(), Protocol::BLS | Protocol::Secp256k1) {
        return Ok(json!(Form(address)));
    }
    match found(&view, &address)? {
        (
            _,
            Actor {
                kind: Kind::Account,
                address: Some(key),
                ..
            },
        ) => Ok(json!(Form(*key))),
        (id, _) => Err(RpcError::app(format!("f0{id} is no account actor"))),
    }
}

pub(super) fn robust_address(core: &mut Core, args: &Args<'_>) -> Answer {
    let (address, view) = place(core, args)?;
    let (id, actor) = found(&view, &address)?;
    let robust = actor
        .address
        .ok_or_else(|| RpcError::app(format!("f0{id} has no robust address")))?;
    Ok(json!(Form(robust)))
}

/// A CID that stands for the code of an actor.
fn code(kind: Kind) -> Cid {
    let name = match kind {
        Kind::Singleton => "fil/19/singleton",
        Kind::Account => "fil/19/account",
        Kind::Miner => "fil/19/storageminer",
    };
    crate::message::cid_of(name.as_bytes())
}

pub(super) fn actor(core: &mut Core, args: &Args<'_>) -> Answer {
    let (address, view) = place(core, args)?;
    let (_, actor) = found(&view, &address)?;
    Ok(json!({
        "Code": Form(code(actor.kind)),
        "Head": Form(actor.head.unwrap_or_else(|| crate::message::cid_of(&[0x80]))),
        "Nonce": actor.nonce,
        "Balance": Form(actor.balance.clone()),
        "DelegatedAddress": null,
    }))
}

pub(super) fn miners(core: &mut Core, args: &Args<'_>) -> Answer {
    let key: Key = args.get(0)?;
    let view = shapes::view(core, &key)?;
    let miners = view
        .root
        .actors
        .iter()
        .filter(|(_, actor)| actor.kind == Kind::Miner);
    Ok(miners.map(|(id, _)| json!(Form(Address::new_id(*id)))).collect())
}

pub(super) fn circulating(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(json!(Form(core.net.economics.circulating.clone())))
}

/// Draws with a number for what is drawn that need not be one that we know.
fn draw(base: &[u8], tag: i64, epoch: ChainEpoch, entropy: &[u8]) -> Value {
    let mut input = tag.to_be_bytes().to_vec();
    input.extend_from_slice(&blake2b_256(base));
    input.extend_from_slice(&epoch.to_be_bytes());
    input.extend_from_slice(entropy);
    json!(Form(blake2b_256(&input).to_vec()))
}

type Draw = (i64, ChainEpoch, Vec<u8>, std::sync::Arc<Tip>);

fn wanted(core: &Core, args: &Args<'_>) -> Result<Draw, RpcError> {
    let (tag, epoch): (i64, ChainEpoch) = (args.get(0)?, args.get(1)?);
    let (Form(entropy), key): (Form<Vec<u8>>, Key) = (args.get(2)?, args.get(3)?);
    let tip = shapes::tip(core, &key)?;
    if epoch > tip.height() {
        let text = format!(
            "cannot draw randomness from the future ({epoch} > {})",
            tip.height()
        );
        return Err(RpcError::app(text));
    }
    Ok((tag, epoch, entropy, tip))
}

pub(super) fn from_tickets(core: &mut Core, args: &Args<'_>) -> Answer {
    let (tag, epoch, entropy, tip) = wanted(core, args)?;
    let base = core.chain.ticket(&tip, epoch)?;
    Ok(draw(&base, tag, epoch, &entropy))
}

pub(super) fn from_beacon(core: &mut Core, args: &Args<'_>) -> Answer {
    let (tag, epoch, entropy, _) = wanted(core, args)?;
    Ok(draw(&BeaconEntry::of(epoch).data, tag, epoch, &entropy))
}

/// Where a message is, on the chain of a tipset.
pub(super) fn lookup(core: &Core, key: &Key, cid: &Cid, limit: ChainEpoch, replaced: bool) -> Answer {
    let tip = shapes::tip(core, key)?;
    let sender = core.mempool.place(cid);
    let Some((holder, at, child)) = core.chain.find_message(&tip, cid, sender, replaced) else {
        return Ok(Value::Null);
    };
    if limit >= 0 && tip.height() - holder.height() > limit {
        return Ok(Value::Null);
    }
    let (Some(signed), Some(receipt)) = (holder.messages.get(at), holder.receipts.get(at)) else {
        return Ok(Value::Null);
    };
    let known = super::super::chain::message_cids(signed);
    // The CID that was asked for, if it is this message's.
    let found = if known.contains(cid) {
        *cid
    } else {
        shapes::signed_cid(signed)?
    };
    Ok(json!({
        "Message": Form(found),
        "Receipt": shapes::receipt(receipt),
        "ReturnDec": null,
        "TipSet": shapes::key(&child),
        "Height": child.height(),
    }))
}

pub(super) fn search(core: &mut Core, args: &Args<'_>) -> Answer {
    let (key, Form(cid)): (Key, Form<Cid>) = (args.get(0)?, args.get(1)?);
    lookup(core, &key, &cid, args.get(2)?, args.get(3)?)
}
