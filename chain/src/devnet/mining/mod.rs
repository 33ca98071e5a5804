//! Blocks of miners: who may make one and what it must show (chain.md §2.6), how it is made (MinerCreateBlock), and how
//! one that is handed in is judged (SyncSubmitBlock).

mod base;
mod create;
mod messages;
mod sortition;
mod submit;
mod weight;

use std::collections::HashMap;

use crate::message::{SignedMessage, blake2b_256};
use crate::types::Cid;

use super::block::Block;

pub(super) use sortition::EXPECTED_BLOCKS;

/// The most messages of a block.
const MESSAGES: usize = 10_000;

/// A block with its messages in the order of execution.
pub(super) struct Submitted {
    pub(super) cid: Cid,
    pub(super) block: Block,
    pub(super) messages: Vec<SignedMessage>,
}

impl Submitted {
    /// Its place in a tipset: by the hash of its ticket.
    pub(super) fn order(&self) -> ([u8; 32], Cid) {
        (blake2b_256(&self.block.ticket.vrf_proof), self.cid)
    }
}

/// Messages that came with a block that was made here, by their CIDs: they need not be in the pool.
#[derive(Debug, Default)]
pub(super) struct Given(HashMap<Cid, SignedMessage>);

impl Given {
    /// Remembers a message. Of too many the older are forgotten.
    fn put(&mut self, cid: Cid, signed: SignedMessage) {
        if self.0.len() >= 2 * MESSAGES {
            self.0.clear();
        }
        self.0.insert(cid, signed);
    }

    fn get(&self, cid: &Cid) -> Option<&SignedMessage> {
        self.0.get(cid)
    }
}
