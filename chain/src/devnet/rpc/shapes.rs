//! Values as nodes write them, where several calls write the same.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::json::Form;
use crate::message::{MessageJson, SignedMessage, SignedMessageJson};
use crate::types::{Cid, Message};

use super::super::chain::{self, Receipt, Tip};
use super::super::core::{Core, View};
use super::RpcError;

/// A key of a tipset as a parameter; null and nothing are the head.
pub(super) type Key = Option<Vec<Form<Cid>>>;

/// The tipset of a key.
pub(super) fn tip(core: &Core, key: &Key) -> Result<Arc<Tip>, RpcError> {
    match key.as_deref() {
        None | Some([]) => Ok(core.chain.head().clone()),
        Some(several) => {
            let key: Vec<Cid> = several.iter().map(|one| one.0).collect();
            named(core, &key)
        }
    }
}

/// The tipset of a key that stands for no head.
pub(super) fn named(core: &Core, key: &[Cid]) -> Result<Arc<Tip>, RpcError> {
    let found = chain::name(key).and_then(|name| core.chain.get(&name));
    // The order of its blocks belongs to a key.
    let found = found.filter(|tip| tip.key() == key).cloned();
    found.ok_or_else(|| {
        let key = crate::node::TipSetKey(key.to_vec());
        RpcError::app(format!("loading tipset: ipld: could not find {key}"))
    })
}

/// The state of a key.
pub(super) fn view<'a>(core: &'a Core, key: &Key) -> Result<View<'a>, RpcError> {
    Ok(core.view(tip(core, key)?)?)
}

/// A tipset.
pub(super) fn tipset(tip: &Tip) -> Value {
    let blocks: Vec<Value> = tip.blocks.iter().map(|(_, block)| block.json()).collect();
    json!({"Cids": key(tip), "Blocks": blocks, "Height": tip.height()})
}

/// The key of a tipset.
pub(super) fn key(tip: &Tip) -> Value {
    json!(Form(tip.key()))
}

/// A message with its CID.
pub(super) fn message(message: &Message) -> Value {
    let mut written = MessageJson::from(message);
    written.cid = crate::message::cid(message).ok();
    serde_json::to_value(written).unwrap_or_default()
}

/// A signed message with its CIDs.
pub(super) fn signed(signed: &SignedMessage) -> Value {
    let mut written = serde_json::to_value(SignedMessageJson::from(signed)).unwrap_or_default();
    written["Message"] = message(&signed.message);
    if let Ok(cid) = signed.cid() {
        written["CID"] = serde_json::to_value(Form(cid)).unwrap_or_default();
    }
    written
}

/// The CID by which a message is on the chain.
pub(super) fn signed_cid(signed: &SignedMessage) -> Result<Cid, RpcError> {
    signed.cid().map_err(|e| RpcError::app(e.to_string()))
}

/// What became of a message.
pub(super) fn receipt(receipt: &Receipt) -> Value {
    json!({
        "ExitCode": receipt.exit_code.value(),
        "Return": Form(receipt.returned.clone()),
        "GasUsed": receipt.gas_used,
        "EventsRoot": receipt.events_root.map(Form),
    })
}
