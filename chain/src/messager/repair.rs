//! What people, and unusual turns of the chain, ask for: giving up, recovering, forbidding, searching, closing
//! gaps.

use crate::types::{Address, ChainEpoch, TokenAmount, Zero};

use super::core::Core;
use super::fees::FeePolicy;
use super::plan::{PlanError, refused};
use super::record::{Batch, Intent, Key, Record, SenderRow, State};

impl Core {
    /// Messages whose nonce was used on the chain, and that were not shown. They are to be searched for by the
    /// CID of any version (`StateSearchMsg`, which finds what took their place too); see [`Core::found`].
    pub fn to_search(&self) -> Vec<&Record> {
        let open = self
            .records
            .values()
            .filter(|record| record.state == State::Published);
        let used = |record: &&Record| {
            let account = self.accounts.get(&record.intent.from);
            account
                .zip(record.nonce)
                .is_some_and(|(account, nonce)| nonce < *account)
        };
        open.filter(used).collect()
    }

    /// Gives up an intent that has no nonce yet.
    ///
    /// # Errors
    /// It has a nonce: then only its expiry, or a replacement, can stop it.
    pub fn cancel(&self, key: &Key, reason: &str) -> Result<Batch, PlanError> {
        let record = self.live(key)?;
        if record.state != State::Queued {
            return Err(refused(record, "cancelled"));
        }
        let failed = State::Failed {
            code: "cancelled".into(),
            reason: reason.into(),
        };
        Ok(Batch {
            records: vec![record.to(failed)],
            ..Batch::default()
        })
    }

    /// Puts an intent whose nonce somebody else used back into the queue, under a new nonce.
    ///
    /// # Errors
    /// It has no conflict, or the conflict could still be reverted, after which both could land.
    pub fn recover(&self, key: &Key, finality: ChainEpoch) -> Result<Batch, PlanError> {
        let record = self.live(key)?;
        match &record.state {
            State::Conflict(landing) if self.height() - landing.height >= finality => Ok(Batch {
                records: vec![Record {
                    nonce: None,
                    ..record.to(State::Queued)
                }],
                ..Batch::default()
            }),
            _ => Err(refused(record, "recovered")),
        }
    }

    /// Lets a sender send, or not.
    pub fn forbid(&self, address: Address, forbidden: bool) -> Batch {
        Batch {
            senders: vec![SenderRow {
                forbidden,
                ..self.sender(&address)
            }],
            ..Batch::default()
        }
    }

    /// An intent that closes a gap before messages that are on their way, if there is one and nothing waits that
    /// could close it.
    pub fn filler(&self, address: &Address) -> Option<Intent> {
        let account = self.accounts.get(address)?;
        let row = self.sender(address);
        let nonce = self.free_nonce(&row, *account);
        let own = || {
            self.records
                .values()
                .filter(|record| record.intent.from == *address)
        };
        let waits = own().any(|record| record.state == State::Queued);
        let above = own().any(|r| r.state == State::Published && r.nonce.is_some_and(|n| n > nonce));
        if waits || !above {
            return None;
        }
        let key = Key::try_from(format!("gap/{address}/{nonce}/{}", self.last_number)).ok()?;
        let plain = Intent {
            key,
            from: *address,
            to: *address,
            value: TokenAmount::zero(),
            method: 0,
            params: Default::default(),
            fees: FeePolicy::default(),
            expires: None,
        };
        Some(plain)
    }
}
