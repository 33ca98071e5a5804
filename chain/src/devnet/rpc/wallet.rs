//! Calls about keys: those that the devnet began with.

use serde_json::{Value, json};

use crate::json::Form;
use crate::message::{self, SignatureJson, SignedMessage};
use crate::types::{Address, Message, Protocol, Signature};
use crate::wallet::SecretKey;

use super::super::core::{Core, account};
use super::{Answer, Args, RpcError};

fn app(error: impl std::fmt::Display) -> RpcError {
    RpcError::app(error.to_string())
}

/// The key address of an account at the head.
pub(super) fn key_address(core: &Core, address: &Address) -> Result<Address, RpcError> {
    if matches!(address.protocol(), Protocol::BLS | Protocol::Secp256k1) {
        return Ok(*address);
    }
    let root = core.head_root()?;
    let actor = root.resolve(address).and_then(|id| root.actors.get(&id));
    let key = actor.and_then(|actor| actor.address);
    key.ok_or_else(|| RpcError::app(format!("resolve address {address}: actor not found")))
}

fn key<'c>(core: &'c Core, wanted: &Address) -> Result<&'c SecretKey, RpcError> {
    let mut all = core.keys.funded.iter();
    let found = all.find(|key| key.address().is_ok_and(|address| address == *wanted));
    found.ok_or_else(|| RpcError::app(format!("signing using key '{wanted}': key not found")))
}

/// Signs with one of the devnet's keys.
pub(super) fn sign_message(core: &Core, message: Message) -> Result<SignedMessage, RpcError> {
    let bytes = message::signing_bytes(&message).map_err(app)?;
    let signature = key(core, &message.from)?.sign(&bytes).map_err(app)?;
    Ok(SignedMessage { message, signature })
}

pub(super) fn balance(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(address): Form<Address> = args.get(0)?;
    let account = account(&core.head_root()?, &address);
    Ok(json!(Form(
        account.map(|account| account.balance).unwrap_or_default()
    )))
}

pub(super) fn list(core: &mut Core, _: &Args<'_>) -> Answer {
    let mut all = Vec::new();
    for key in &core.keys.funded {
        all.push(json!(Form(key.address().map_err(app)?)));
    }
    Ok(Value::Array(all))
}

pub(super) fn has(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(address): Form<Address> = args.get(0)?;
    Ok(json!(key(core, &address).is_ok()))
}

pub(super) fn sign(core: &mut Core, args: &Args<'_>) -> Answer {
    let (Form(address), Form(bytes)): (Form<Address>, Form<Vec<u8>>) = (args.get(0)?, args.get(1)?);
    let signature = key(core, &address)?.sign(&bytes).map_err(app)?;
    super::json(&SignatureJson::from(&signature))
}

pub(super) fn verify(args: &Args<'_>) -> Answer {
    let (Form(address), Form(bytes)): (Form<Address>, Form<Vec<u8>>) = (args.get(0)?, args.get(1)?);
    let written: SignatureJson = args.get(2)?;
    let signature = Signature::try_from(written).map_err(app)?;
    Ok(json!(signature.verify(&bytes, &address).is_ok()))
}
