//! Places on the chain to come back to, by name. They last until the devnet ends.

use std::collections::BTreeMap;

use crate::message::SignedMessage;
use crate::types::{Cid, TokenAmount};

use super::core::Core;
use super::error::DevnetError;
use super::log::Record;

/// The most snapshots.
const SNAPSHOTS: usize = 100;
/// The longest name of one.
const NAME_BYTES: usize = 256;

/// What a snapshot holds: the chain keeps every state anyway.
#[derive(Debug)]
struct Snapshot {
    head: Cid,
    base_fee: TokenAmount,
    pending: Vec<SignedMessage>,
}

/// All snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots(BTreeMap<String, Snapshot>);

impl Core {
    /// Remembers head, base fee and pool under a name. The one of before with this name is forgotten.
    pub(super) fn snapshot(&mut self, name: String) -> Result<(), DevnetError> {
        let all = &mut self.snapshots.0;
        if name.len() > NAME_BYTES || (all.len() >= SNAPSHOTS && !all.contains_key(&name)) {
            return Err(DevnetError::Refused(format!(
                "there are {SNAPSHOTS} snapshots at most, and a name has {NAME_BYTES} bytes"
            )));
        }
        let snapshot = Snapshot {
            head: self.chain.head().cid,
            base_fee: self.base_fee.clone(),
            pending: self.mempool.pending().into_iter().cloned().collect(),
        };
        all.insert(name, snapshot);
        Ok(())
    }

    /// Goes back to a snapshot, or forth. Listeners hear of it as of a reorg. What follows has other tickets than what
    /// followed before.
    pub(super) fn restore(&mut self, name: &str) -> Result<(), DevnetError> {
        let found = self.snapshots.0.get(name);
        let found = found.ok_or_else(|| DevnetError::Refused(format!("there is no snapshot {name:?}")))?;
        let tip = self.chain.get(&found.head).cloned();
        let tip = tip.ok_or_else(|| DevnetError::Broken(format!("no tipset {}", found.head)))?;
        let (fee, pending) = (found.base_fee.clone(), found.pending.clone());
        self.next_branch()?;
        let mut records = vec![Record::EmptyPool, Record::BaseFee(fee.clone())];
        records.extend(pending.iter().cloned().map(Box::new).map(Record::Pending));
        self.write(&records)?;
        self.base_fee = fee;
        self.mempool.clear();
        pending.into_iter().for_each(|signed| self.mempool.put(signed));
        self.set_head(&tip)
    }
}
