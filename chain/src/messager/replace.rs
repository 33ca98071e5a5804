//! Versions that take the place of others: dearer ones, and those that do nothing.

use crate::message::{Gas, SignedMessage};

use super::core::Core;
use super::plan::{PlanError, Prepare, refused, same};
use super::record::{Batch, Key, Record, State};

impl Core {
    /// Messages that are to be replaced: those that expired on their way, by nothing, and those that wait longer
    /// than their policy says, by one that pays more.
    pub fn to_replace(&self) -> Vec<Prepare> {
        let open = self
            .records
            .values()
            .filter(|record| record.state == State::Published);
        open.filter_map(|record| self.replacement(record, false))
            .collect()
    }

    /// A replacement that a person asks for.
    ///
    /// # Errors
    /// The message is not on its way, or has too many versions.
    pub fn replace_now(&self, key: &Key) -> Result<Prepare, PlanError> {
        let record = self.live(key)?;
        let open = (record.state == State::Published)
            .then(|| self.replacement(record, true))
            .flatten();
        open.ok_or_else(|| refused(record, "replaced"))
    }

    fn replacement(&self, record: &Record, now: bool) -> Option<Prepare> {
        let (last, nonce) = (record.versions.last()?, record.nonce?);
        let intent = &record.intent;
        let fees = self.fees(intent);
        let height = self.height();
        // Once it was given up it stays given up.
        let cancel = last.cancel || intent.expires.is_some_and(|expires| height >= expires);
        // Giving up is not held back by many versions before it.
        if record.versions.len() >= self.config.versions && (!cancel || last.cancel) {
            return None;
        }
        let waits = fees.replace_after.is_some_and(|after| height - last.at >= after);
        if !now && !waits && (!cancel || last.cancel) {
            return None;
        }
        // The premium must beat that of any version, which may still be the one that nodes hold.
        let signed = record.versions.iter().filter_map(|version| version.signed().ok());
        let best = signed
            .map(|signed| Gas::of(&signed.message))
            .max_by(|a, b| a.premium.cmp(&b.premium))?;
        Some(Prepare {
            key: intent.key.clone(),
            message: if cancel {
                intent.nothing(nonce)
            } else {
                intent.message(nonce)
            },
            fees,
            cancel,
            replaces: Some(best),
        })
    }

    /// Keeps a replacement that was signed. It may be pushed when the batch is committed and applied.
    ///
    /// # Errors
    /// The message landed in the meantime, or what was signed is not that replacement.
    pub fn replace(&self, prepared: &Prepare, signed: &SignedMessage) -> Result<Batch, PlanError> {
        let key = &prepared.key;
        let record = self.live(key)?;
        if record.state != State::Published || record.nonce != Some(prepared.message.sequence) {
            return Err(refused(record, "replaced"));
        }
        same(key, prepared, signed)?;
        let version = self.version(key, signed, prepared.cancel)?;
        let mut changed = record.to(State::Published);
        if changed.version(&version.cid).is_none() {
            changed.versions.push(version);
        }
        Ok(Batch {
            records: vec![changed],
            ..Batch::default()
        })
    }
}
