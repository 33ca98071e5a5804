//! What the chain shows: messages that landed, tipsets that were reverted, time that passed.

use crate::failure::bounded;
use crate::node::Receipt;
use crate::types::{Address, ChainEpoch, Cid};

use super::core::Core;
use super::record::{Batch, Head, Landing, Record, SenderRow, State};

/// A message that a tipset shows: one of its parents', with the receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The sender, by its key address.
    pub from: Address,
    /// Its nonce.
    pub nonce: u64,
    /// Its CID, with the signature or without.
    pub cid: Cid,
    /// What became of it.
    pub receipt: Receipt,
}

impl Core {
    /// Takes a tipset that was applied and the messages that it shows. Tipsets come in order, each on the head
    /// before.
    pub fn applied(&self, head: &Head, seen: &[Seen]) -> Batch {
        let mut batch = Batch {
            head: Some(head.clone()),
            ..Batch::default()
        };
        for record in self.records.values() {
            let shown = seen
                .iter()
                .find(|seen| seen.from == record.intent.from && record.holds(seen.nonce));
            let changed = match shown {
                Some(seen) if record.state == State::Published => Some(landed(record, seen, head)),
                _ => self.aged(record, head.height),
            };
            batch.records.extend(changed);
        }
        for seen in seen {
            let row = self.sender(&seen.from);
            // Somebody else used the sender.
            if self.senders.contains_key(&seen.from) && seen.nonce >= row.next_nonce {
                batch
                    .senders
                    .retain(|other| other.address != row.address || other.next_nonce > seen.nonce);
                if !batch.senders.iter().any(|other| other.address == row.address) {
                    batch.senders.push(SenderRow {
                        next_nonce: seen.nonce.saturating_add(1),
                        ..row
                    });
                }
            }
        }
        batch
    }

    /// What time alone changes: depth makes final, lateness gives up.
    fn aged(&self, record: &Record, height: ChainEpoch) -> Option<Record> {
        match &record.state {
            State::Landed(landing) if height - landing.height >= self.config.confidence => {
                Some(record.to(end(record, landing)))
            }
            State::Queued if record.intent.expires.is_some_and(|expires| height >= expires) => {
                Some(record.to(expired(record)))
            }
            _ => None,
        }
    }

    /// Takes a tipset that was reverted, with the one below it. What it showed did not happen; it is pushed
    /// again.
    pub fn reverted(&self, tipset: &Head, below: &Head) -> Batch {
        let shown = self.records.values().filter(|record| match &record.state {
            State::Landed(landing) | State::Conflict(landing) => landing.tipset == tipset.key,
            _ => false,
        });
        Batch {
            records: shown.map(|record| record.to(State::Published)).collect(),
            senders: Vec::new(),
            head: Some(below.clone()),
        }
    }

    /// Takes a head that is too far from the known one. All that is not final is looked for again, by
    /// [`Core::found`].
    pub fn lost(&self, head: &Head) -> Batch {
        let shown = self
            .records
            .values()
            .filter(|record| matches!(record.state, State::Landed(_) | State::Conflict(_)));
        Batch {
            records: shown.map(|record| record.to(State::Published)).collect(),
            senders: Vec::new(),
            head: Some(head.clone()),
        }
    }

    /// Takes the answer to a search for a message by its CID (`StateSearchMsg`): where it, or the one with its
    /// nonce, is.
    pub fn found(&self, seen: &Seen, at: &Head) -> Option<Batch> {
        let record = self
            .records
            .values()
            .find(|record| record.intent.from == seen.from && record.holds(seen.nonce))?;
        (record.state == State::Published).then(|| Batch {
            records: vec![landed(record, seen, at)],
            ..Batch::default()
        })
    }
}

fn landed(record: &Record, seen: &Seen, at: &Head) -> Record {
    let landing = Landing {
        cid: seen.cid,
        tipset: at.key.clone(),
        height: at.height,
        receipt: seen.receipt.clone(),
    };
    if record.version(&seen.cid).is_some() {
        return record.to(State::Landed(landing));
    }
    let mut conflict = record.to(State::Conflict(landing));
    conflict.note = bounded(&format!(
        "nonce {} of {} was used by {}, which is none of ours; somebody else sends from this address",
        seen.nonce, seen.from, seen.cid
    ));
    conflict
}

/// What a landing is in the end: the message's, or that of nothing in its place.
fn end(record: &Record, landing: &Landing) -> State {
    match record.version(&landing.cid) {
        Some(version) if version.cancel => expired(record),
        _ => State::Final(landing.clone()),
    }
}

fn expired(record: &Record) -> State {
    let epoch = record.intent.expires.unwrap_or_default();
    State::Failed {
        code: "expired".into(),
        reason: format!("it did not land before epoch {epoch}"),
    }
}
