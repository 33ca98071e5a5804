//! Calls about the pool of messages.

use serde_json::{Value, json};

use crate::json::Form;
use crate::message::{self, MessageJson, SignedMessage, SignedMessageJson};
use crate::node::FeeSpec;
use crate::types::{Address, Cid, Message};

use super::super::core::{Core, account};
use super::shapes;
use super::{Answer, Args, RpcError, gas, wallet};

/// The most messages of a batch.
const BATCH: usize = 1000;

fn take(core: &mut Core, written: SignedMessageJson, trusted: bool) -> Result<Cid, RpcError> {
    let signed = SignedMessage::try_from(written).map_err(|e| RpcError::app(e.to_string()))?;
    message::verify(&signed).map_err(|e| RpcError::app(format!("signature verification failed: {e}")))?;
    Ok(core.push(&signed, trusted)?)
}

pub(super) fn push(core: &mut Core, args: &Args<'_>) -> Answer {
    let cid = take(core, args.get(0)?, true)?;
    Ok(json!(Form(cid)))
}

pub(super) fn push_untrusted(core: &mut Core, args: &Args<'_>) -> Answer {
    let cid = take(core, args.get(0)?, false)?;
    Ok(json!(Form(cid)))
}

pub(super) fn batch_push(core: &mut Core, args: &Args<'_>) -> Answer {
    let all: Vec<SignedMessageJson> = args.get(0)?;
    if all.len() > BATCH {
        return Err(RpcError::app(format!("a batch has at most {BATCH} messages")));
    }
    let mut cids = Vec::with_capacity(all.len());
    for one in all {
        cids.push(Form(take(core, one, true)?));
    }
    Ok(json!(cids))
}

/// Signs with the devnet's own key, and pushes.
pub(super) fn push_message(core: &mut Core, args: &Args<'_>) -> Answer {
    let (written, spec): (MessageJson, Option<FeeSpec>) = (args.get(0)?, args.get(1)?);
    let mut message = Message::from(written);
    if message.sequence != 0 {
        return Err(RpcError::app(
            "MpoolPushMessage expects message nonce to be 0, was not 0",
        ));
    }
    message.from = wallet::key_address(core, &message.from)?;
    let mut message = gas::fill(core, message, spec)?;
    message.sequence = next_nonce(core, &message.from)?;
    let signed = wallet::sign_message(core, message)?;
    core.push(&signed, true)?;
    Ok(shapes::signed(&signed))
}

/// The nonce after all that waits.
pub(super) fn next_nonce(core: &Core, address: &Address) -> Result<u64, RpcError> {
    let root = core.head_root()?;
    let on_chain = account(&root, address);
    let on_chain =
        on_chain.ok_or_else(|| RpcError::app(format!("resolve address {address}: actor not found")))?;
    Ok(core.mempool.next_nonce(address, on_chain.nonce))
}

pub(super) fn nonce(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(address): Form<Address> = args.get(0)?;
    let address = wallet::key_address(core, &address)?;
    Ok(json!(next_nonce(core, &address)?))
}

pub(super) fn pending(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(core.mempool.pending().into_iter().map(shapes::signed).collect())
}

pub(super) fn select(core: &mut Core, _: &Args<'_>) -> Answer {
    let root = core.head_root()?;
    let chosen = core
        .mempool
        .select(|address| account(&root, address), &core.base_fee);
    Ok(chosen.iter().map(shapes::signed).collect::<Value>())
}
