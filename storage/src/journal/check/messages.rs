//! Messages: what was signed for each is what it says, numbers are given once, and of the live ones each nonce is held by one.

use std::collections::BTreeMap;

use sealflow_engine::journal::JournalError;

use super::Checker;

impl Checker<'_> {
    pub(super) async fn messages(&mut self) -> Result<(), JournalError> {
        let mut held: BTreeMap<(String, u64), String> = BTreeMap::new();
        let mut next = 1;
        loop {
            let page = self.journal.read_messages_from(next).await?;
            let Some(last) = page.last() else { break };
            let after = last.number + 1;
            for record in page {
                let key = record.intent.key.to_string();
                if record.number < next {
                    let what = format!("message {key} has the number {} of another", record.number);
                    self.problem("a message has a number of its own", None, what);
                }
                next = record.number + 1;
                self.report.checked.messages += 1;
                for version in &record.versions {
                    let signed = version.signed();
                    let fits = signed.as_ref().is_ok_and(|signed| {
                        signed.message.from == record.intent.from
                            && record.nonce == Some(signed.message.sequence)
                    });
                    if !fits {
                        let what = format!("a signed version of message {key} is not one of it");
                        self.problem("what was signed is what was asked for", None, what);
                    }
                }
                let on_chain = record.landing().is_some();
                if let Some(nonce) = record.nonce.filter(|_| record.is_live() || on_chain) {
                    let place = (record.intent.from.to_string(), nonce);
                    if let Some(other) = held.insert(place, key.clone()) {
                        let what = format!("messages {other} and {key} have the same sender and nonce");
                        self.problem("a nonce belongs to one message", None, what);
                    }
                }
            }
            next = after;
        }
        Ok(())
    }
}
