//! Calls about the chain: tipsets, blocks and messages.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::json::Form;
use crate::types::{ChainEpoch, Cid, SignatureType};

use super::super::block::{Block, message_cids};
use super::super::chain::Tip;
use super::super::core::Core;
use super::shapes::{self, Key};
use super::{Answer, Args, RpcError};

/// The API's version by which Lotus is asked: 2.3.0 in a byte each.
const API_VERSION: u32 = 131_840;

pub(super) fn version(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(json!({
        "Version": format!("{}+{}", env!("CARGO_PKG_VERSION"), core.profile.network_name()),
        "APIVersion": API_VERSION,
        "BlockDelay": core.profile.epoch_seconds(),
        "Agent": "sealflow-devnet",
    }))
}

pub(super) fn head(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(shapes::tipset(core.chain.head()))
}

pub(super) fn genesis(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(shapes::tipset(core.chain.genesis()))
}

pub(super) fn tipset(core: &mut Core, args: &Args<'_>) -> Answer {
    let key: Key = args.get(0)?;
    Ok(shapes::tipset(&*shapes::tip(core, &key)?))
}

fn anchored(core: &Core, args: &Args<'_>) -> Result<(ChainEpoch, Arc<Tip>), RpcError> {
    let (height, key): (ChainEpoch, Key) = (args.get(0)?, args.get(1)?);
    let tip = shapes::tip(core, &key)?;
    if height > tip.height() {
        let text = format!(
            "looking for tipset with height greater than start point: {height} > {}",
            tip.height()
        );
        return Err(RpcError::app(text));
    }
    if height < 0 {
        return Err(RpcError::app(format!("no tipset at {height}")));
    }
    Ok((height, tip))
}

pub(super) fn tipset_by_height(core: &mut Core, args: &Args<'_>) -> Answer {
    let (height, tip) = anchored(core, args)?;
    let found = core.chain.at_or_before(&tip, height);
    found
        .map(|tip| shapes::tipset(&tip))
        .ok_or_else(|| RpcError::app(format!("no tipset at {height}")))
}

pub(super) fn tipset_after_height(core: &mut Core, args: &Args<'_>) -> Answer {
    let (height, tip) = anchored(core, args)?;
    let found = core.chain.at_or_after(&tip, height);
    found
        .map(|tip| shapes::tipset(&tip))
        .ok_or_else(|| RpcError::app(format!("no tipset at {height}")))
}

/// A tipset with the block that is named.
fn named(core: &Core, args: &Args<'_>) -> Result<Arc<Tip>, RpcError> {
    let Form(cid): Form<Cid> = args.get(0)?;
    let found = core.chain.holder(&cid).cloned();
    found.ok_or_else(|| RpcError::app(format!("ipld: could not find {cid}")))
}

/// The header of a block.
fn header<'t>(tip: &'t Tip, wanted: &Cid) -> Option<&'t Block> {
    let found = tip.blocks.iter().find(|(cid, _)| cid == wanted);
    found.map(|(_, block)| block)
}

pub(super) fn block(core: &mut Core, args: &Args<'_>) -> Answer {
    let (Form(cid), tip): (Form<Cid>, _) = (args.get(0)?, named(core, args)?);
    Ok(header(&tip, &cid).map(Block::json).unwrap_or_default())
}

pub(super) fn block_messages(core: &mut Core, args: &Args<'_>) -> Answer {
    let (Form(cid), tip): (Form<Cid>, _) = (args.get(0)?, named(core, args)?);
    let header = header(&tip, &cid).ok_or_else(|| RpcError::app(format!("ipld: could not find {cid}")))?;
    let held = message_cids(&core.store.overlay(), &header.messages)?;
    let (mut bls, mut secp, mut cids) = (Vec::new(), Vec::new(), Vec::new());
    for signed in &tip.messages {
        let cid = shapes::signed_cid(signed)?;
        if !held.contains(&cid) {
            continue;
        }
        match signed.signature.signature_type() {
            SignatureType::BLS => bls.push(shapes::message(&signed.message)),
            SignatureType::Secp256k1 => secp.push(shapes::signed(signed)),
        }
        cids.push(Form(cid));
    }
    Ok(json!({"BlsMessages": bls, "SecpkMessages": secp, "Cids": cids}))
}

fn messages_of(tip: &Tip) -> Answer {
    let mut all = Vec::new();
    for signed in &tip.messages {
        let cid = Form(shapes::signed_cid(signed)?);
        all.push(json!({"Cid": cid, "Message": shapes::message(&signed.message)}));
    }
    Ok(Value::Array(all))
}

pub(super) fn messages_in_tipset(core: &mut Core, args: &Args<'_>) -> Answer {
    let key: Key = args.get(0)?;
    messages_of(&*shapes::tip(core, &key)?)
}

pub(super) fn parent_messages(core: &mut Core, args: &Args<'_>) -> Answer {
    let tip = named(core, args)?;
    core.chain
        .parent(&tip)
        .map_or(Ok(json!([])), |parent| messages_of(parent))
}

pub(super) fn parent_receipts(core: &mut Core, args: &Args<'_>) -> Answer {
    let tip = named(core, args)?;
    let receipts = core.chain.parent(&tip).map(|parent| &parent.receipts);
    Ok(receipts.into_iter().flatten().map(shapes::receipt).collect())
}

pub(super) fn message(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(cid): Form<Cid> = args.get(0)?;
    let found = core.chain.message(&cid).or_else(|| core.mempool.find(&cid));
    let found = found.ok_or_else(|| RpcError::app(format!("ipld: could not find {cid}")))?;
    Ok(shapes::message(&found.message))
}

/// The bytes of an object: of state, or of a block.
fn object(core: &Core, cid: &Cid) -> Option<Vec<u8>> {
    let stored = core.store.get(cid).map(<[u8]>::to_vec);
    stored.or_else(|| fvm_ipld_encoding::to_vec(header(core.chain.holder(cid)?, cid)?).ok())
}

pub(super) fn read_object(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(cid): Form<Cid> = args.get(0)?;
    let bytes = object(core, &cid)
        .ok_or_else(|| RpcError::app(format!("blockstore get: ipld: could not find {cid}")))?;
    Ok(json!(Form(bytes)))
}

pub(super) fn has_object(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(cid): Form<Cid> = args.get(0)?;
    Ok(json!(object(core, &cid).is_some()))
}

pub(super) fn weight(core: &mut Core, args: &Args<'_>) -> Answer {
    let key: Key = args.get(0)?;
    let tip = shapes::tip(core, &key)?;
    Ok(json!(core.weight(&tip)?.to_string()))
}

pub(super) fn sync_state(core: &mut Core, _: &Args<'_>) -> Answer {
    let head = core.chain.head();
    let tipset = shapes::tipset(head);
    let never = "0001-01-01T00:00:00Z";
    let sync = json!({
        "WorkerID": 1, "Base": tipset, "Target": tipset, "Stage": 4, "Height": head.height(),
        "Start": never, "End": never, "Message": "",
    });
    Ok(json!({"ActiveSyncs": [sync], "VMApplied": head.height()}))
}

pub(super) fn f3_is_running(_: &Args<'_>) -> Answer {
    Ok(json!(false))
}

pub(super) fn f3_disabled(_: &Args<'_>) -> Answer {
    Err(RpcError::new(4, "f3 is disabled"))
}
