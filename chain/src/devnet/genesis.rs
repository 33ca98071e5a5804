//! The first tipset: the network's own actors, and keys with FIL.

use crate::types::{Address, TokenAmount};
use crate::wallet::SecretKey;

use super::block::{self, Parts};
use super::chain::Tip;
use super::core::{BASE_FEE_MIN, Fresh, receipts_root};
use super::error::DevnetError;
use super::folder::{Genesis, Keys};
use super::root::Root;
use super::store::{Overlay, Store};
use super::vm;

/// What each key has, in FIL.
const FUNDS: u64 = 1_000_000;

fn address(key: &SecretKey) -> Result<Address, DevnetError> {
    key.address().map_err(|e| DevnetError::Broken(e.to_string()))
}

/// The first tipset, and the objects of its state.
pub(super) fn genesis_tip(genesis: &Genesis, keys: &Keys) -> Result<(Tip, Fresh), DevnetError> {
    let mut accounts = Vec::new();
    for key in &keys.funded {
        accounts.push((address(key)?, TokenAmount::from_whole(FUNDS)));
    }
    let root = vm::genesis(address(&keys.producer)?, &accounts);
    let empty = Store::default();
    let store = empty.overlay();
    let built = build_genesis(genesis, keys, &root, &store);
    let tip = built.map_err(DevnetError::Broken)?;
    Ok((tip, store.into_fresh()))
}

fn build_genesis(genesis: &Genesis, keys: &Keys, root: &Root, store: &Overlay<'_>) -> Result<Tip, String> {
    let post_root = store.save(root)?;
    let receipts_root = receipts_root(store, &[])?;
    let parts = Parts {
        parent: None,
        height: 0,
        state_root: post_root,
        receipts: receipts_root,
        messages: &[],
        timestamp: genesis.timestamp,
        branch: 0,
        base_fee: TokenAmount::from_atto(BASE_FEE_MIN),
    };
    let (block, cid) = block::make(&keys.producer, parts, store)?;
    Ok(Tip {
        cid,
        blocks: vec![(cid, block)],
        messages: Vec::new(),
        receipts: Vec::new(),
        receipts_root,
        post_root,
    })
}
