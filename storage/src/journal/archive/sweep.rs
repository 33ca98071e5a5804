//! Payload files that no run in the journal names any more: what archived runs leave behind, and what was
//! stored just before a crash. Graphs are kept: there is one for each version of a workflow file.

use std::collections::HashSet;

use sealflow_engine::id::RunId;

use super::super::SurrealJournal;
use super::super::error::corrupt;
use super::super::record::{entries_of_all, object};
use super::ArchiveError;

/// Runs whose entries one query covers.
const SPAN: usize = 250;

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files that were removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl SurrealJournal {
    /// Removes payload files that no entry names, unless they were stored in the last hour: then the entry
    /// that names them may be on its way.
    ///
    /// # Errors
    /// The journal or the folder cannot be read, or a file cannot be removed.
    pub async fn sweep_payloads(&self) -> Result<Swept, ArchiveError> {
        let _alone = self.housekeeping.lock().await;
        self.writer()?;
        let old = self.payloads.old_ones().await?;
        if old.is_empty() {
            return Ok(Swept::default());
        }
        let named = self.named().await?;
        let mut swept = Swept::default();
        for sha256 in old.difference(&named) {
            if let Some(bytes) = self.payloads.remove_old(sha256).await? {
                swept.files += 1;
                swept.bytes += bytes;
            }
        }
        Ok(swept)
    }

    /// Everything in the journal that could be the name of a payload: whatever the event, and also where an
    /// entry cannot be understood.
    async fn named(&self) -> Result<HashSet<String>, ArchiveError> {
        let mut named = HashSet::new();
        for page in self.names("run", "run").await?.chunks(SPAN) {
            let run = |name: Option<&String>| -> Result<RunId, ArchiveError> {
                let name = name.map(String::as_str).unwrap_or_default();
                Ok(name.parse().map_err(corrupt)?)
            };
            let range = entries_of_all(&run(page.first())?, &run(page.last())?);
            let sql = "SELECT VALUE entry FROM $range WHERE string::contains(entry, '\"payload\"')";
            for entry in self.fetch::<String>(sql, object([("range", range)])).await? {
                named.extend(digests(&entry).map(str::to_owned));
            }
        }
        Ok(named)
    }
}

/// All words of a text that are 64 hexadecimal digits.
fn digests(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f'));
    words.filter(|word| word.len() == 64)
}

#[cfg(test)]
mod tests {
    use super::digests;

    #[test]
    fn digests_are_found_wherever_they_are() {
        let (a, b) = ("0a".repeat(32), "9f".repeat(32));
        let text = format!("{{\"payload\":{{\"sha256\":\"{a}\",\"x\":\"{b}0\"}},\"y\":[\"{b}\"]}}");
        assert_eq!(digests(&text).collect::<Vec<_>>(), [a.as_str(), b.as_str()]);
    }
}
