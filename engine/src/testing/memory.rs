//! A journal in memory. It obeys the same suite as the durable ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::event::Entry;
use crate::id::{RunId, Subject};
use crate::journal::{ArtifactRow, Batch, Journal, JournalError, JournalFuture, RunFilter, StoredGraph};
use crate::rows::{RunRow, StepRow};
use crate::site::SiteEntry;
use crate::workflow::StepIx;

#[derive(Debug, Default, Clone)]
struct Data {
    entries: BTreeMap<(RunId, u64), Entry>,
    runs: BTreeMap<RunId, RunRow>,
    steps: BTreeMap<(RunId, StepIx), StepRow>,
    artifacts: BTreeMap<(Subject, String), ArtifactRow>,
    graphs: BTreeMap<String, StoredGraph>,
    keys: BTreeMap<String, RunId>,
    payloads: BTreeMap<String, Vec<u8>>,
    site: Vec<SiteEntry>,
    owner: u64,
}

/// A journal that lives as long as the process. A [`MemoryJournal::successor`] shares its data and
/// fences it off, as a second daemon would.
#[derive(Debug)]
pub struct MemoryJournal {
    data: Arc<Mutex<Data>>,
    owner: u64,
}

impl Default for MemoryJournal {
    fn default() -> Self {
        Self {
            data: Arc::new(Mutex::new(Data {
                owner: 1,
                ..Data::default()
            })),
            owner: 1,
        }
    }
}

impl MemoryJournal {
    /// Opens the same data again; the journal this is called on is fenced off from now on.
    #[must_use]
    pub fn successor(&self) -> Self {
        let owner = self.with(|data| {
            data.owner += 1;
            data.owner
        });
        Self {
            data: self.data.clone(),
            owner,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Data) -> T) -> T {
        work(&mut self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn apply(&self, data: &mut Data, batch: &Batch) -> Result<(), JournalError> {
        if data.owner != self.owner {
            return Err(JournalError::Fenced(format!(
                "owner {} instead of {}",
                data.owner, self.owner
            )));
        }
        batch.check()?;
        let mut next = data.clone();
        for (run, (before, row)) in &batch.runs {
            let stored = next.runs.get(run).map_or(0, |row| row.seq);
            if stored != *before {
                return Err(JournalError::Fenced(format!(
                    "{run} is at entry {stored}, not {before}"
                )));
            }
            next.runs.insert(run.clone(), row.clone());
        }
        for (run, entry) in &batch.entries {
            if next
                .entries
                .insert((run.clone(), entry.seq), entry.clone())
                .is_some()
            {
                return Err(JournalError::Fenced(format!(
                    "entry {} of {run} is taken",
                    entry.seq
                )));
            }
        }
        next.steps.retain(|(run, _), _| !batch.renumbered.contains(run));
        next.steps.extend(batch.steps.clone());
        next.artifacts.extend(batch.artifacts.clone());
        for (hash, graph) in &batch.graphs {
            next.graphs.insert(hash.to_string(), (**graph).clone());
        }
        for (key, run) in &batch.keys {
            if next.keys.insert(key.clone(), run.clone()).is_some() {
                return Err(JournalError::Fenced(format!("the key `{key}` is taken")));
            }
        }
        for entry in &batch.site {
            let last = next.site.last().map_or(0, |entry| entry.seq);
            if entry.seq != last + 1 {
                let what = format!("entry {} of the installation comes after {last}", entry.seq);
                return Err(JournalError::Fenced(what));
            }
            next.site.push(entry.clone());
        }
        *data = next;
        Ok(())
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T, JournalError>) -> JournalFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl Journal for MemoryJournal {
    fn commit<'a>(&'a self, batch: &'a Batch) -> JournalFuture<'a, ()> {
        ready(self.with(|data| self.apply(data, batch)))
    }

    fn site_tail(&self, limit: u32) -> JournalFuture<'_, Vec<SiteEntry>> {
        ready(Ok(self.with(|data| {
            let skipped = data.site.len().saturating_sub(limit as usize);
            data.site[skipped..].to_vec()
        })))
    }

    fn run<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Option<RunRow>> {
        ready(Ok(self.with(|data| data.runs.get(run).cloned())))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> JournalFuture<'a, Vec<RunRow>> {
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        ready(Ok(self.with(|data| {
            data.runs
                .values()
                .rev()
                .filter(|row| filter.accepts(row))
                .take(limit)
                .cloned()
                .collect()
        })))
    }

    fn open_runs(&self) -> JournalFuture<'_, Vec<RunRow>> {
        let open = |row: &&RunRow| !row.status.is_final() || !row.discarding.is_empty();
        ready(Ok(
            self.with(|data| data.runs.values().filter(open).cloned().collect())
        ))
    }

    fn steps<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Vec<StepRow>> {
        let of = |((other, _), _): &(&(RunId, StepIx), &StepRow)| other == run;
        ready(Ok(self.with(|data| {
            data.steps.iter().filter(of).map(|(_, row)| row.clone()).collect()
        })))
    }

    fn entries<'a>(&'a self, run: &'a RunId, from: u64, limit: u32) -> JournalFuture<'a, Vec<Entry>> {
        let range = (run.clone(), from)..=(run.clone(), u64::MAX);
        ready(Ok(self.with(|data| {
            data.entries
                .range(range)
                .take(limit as usize)
                .map(|(_, entry)| entry.clone())
                .collect()
        })))
    }

    fn graph<'a>(&'a self, hash: &'a str) -> JournalFuture<'a, Option<StoredGraph>> {
        ready(Ok(self.with(|data| data.graphs.get(hash).cloned())))
    }

    fn artifacts<'a>(&'a self, subject: &'a Subject) -> JournalFuture<'a, Vec<ArtifactRow>> {
        ready(Ok(self.with(|data| {
            data.artifacts
                .values()
                .filter(|row| row.subject == *subject)
                .cloned()
                .collect()
        })))
    }

    fn find_key<'a>(&'a self, key: &'a str) -> JournalFuture<'a, Option<RunId>> {
        ready(Ok(self.with(|data| data.keys.get(key).cloned())))
    }

    fn put_payload<'a>(&'a self, bytes: &'a [u8]) -> JournalFuture<'a, String> {
        let hash = hex::encode(Sha256::digest(bytes));
        self.with(|data| data.payloads.insert(hash.clone(), bytes.to_vec()));
        ready(Ok(hash))
    }

    fn payload<'a>(&'a self, sha256: &'a str) -> JournalFuture<'a, Vec<u8>> {
        let found = self.with(|data| data.payloads.get(sha256).cloned());
        ready(found.ok_or_else(|| JournalError::Corrupt(format!("payload {sha256} is missing"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::journal_suite;

    #[tokio::test]
    async fn obeys_the_law_of_journals() {
        journal_suite(async || MemoryJournal::default(), async |first| first.successor()).await;
    }
}
