//! An archived run, read as a journal that holds nothing else.

use sealflow_engine::event::Entry;
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::{
    ArtifactRow, Batch, Journal, JournalError, JournalFuture, RunFilter, StoredGraph,
};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::site::SiteEntry;

use super::super::SurrealJournal;
use super::super::error::corrupt;
use super::{Archive, ArchivedRow, blocking};

/// A run that was read from its archive. It can be asked what a journal can be asked, and not be changed.
#[derive(Debug)]
pub struct ArchivedRun {
    archive: Archive,
}

impl SurrealJournal {
    /// The archive of a run; nothing if it has none.
    ///
    /// # Errors
    /// The archive cannot be read, or is damaged.
    pub async fn archived(&self, run: &RunId) -> Result<Option<ArchivedRun>, JournalError> {
        match self.archived_row(run).await? {
            Some(row) => {
                let archive = self.read_archive(&row).await?;
                Ok(Some(ArchivedRun { archive }))
            }
            None => Ok(None),
        }
    }

    /// The verified content of an archive.
    pub(in super::super) async fn read_archive(&self, row: &ArchivedRow) -> Result<Archive, JournalError> {
        self.with_archive(row, |_, archive| archive).await
    }

    /// The bytes of an archive that was verified.
    pub(in super::super) async fn archive_bytes(&self, row: &ArchivedRow) -> Result<Vec<u8>, JournalError> {
        self.with_archive(row, |bytes, _| bytes).await
    }

    async fn with_archive<T: Send + 'static>(
        &self,
        row: &ArchivedRow,
        take: impl FnOnce(Vec<u8>, Archive) -> T + Send + 'static,
    ) -> Result<T, JournalError> {
        let (path, row) = (self.archives.path(&row.row), row.clone());
        blocking(move || {
            let lost = |what: String| {
                let run = &row.row.run;
                corrupt(format!(
                    "the archive of {run} at {}: {what}; restore it from a backup",
                    path.display()
                ))
            };
            let bytes = std::fs::read(&path).map_err(|error| lost(error.to_string()))?;
            let archive = Archive::read(&bytes, Some(&row)).map_err(|error| lost(error.to_string()))?;
            Ok(take(bytes, archive))
        })
        .await
    }
}

fn ready<'a, T: Send + 'a>(result: Result<T, JournalError>) -> JournalFuture<'a, T> {
    Box::pin(std::future::ready(result))
}

impl ArchivedRun {
    fn is(&self, run: &RunId) -> bool {
        self.archive.row.run == *run
    }

    fn unchangeable<T>(&self) -> Result<T, JournalError> {
        let run = &self.archive.row.run;
        Err(JournalError::Store(format!(
            "{run} is archived; archived runs do not change"
        )))
    }
}

impl Journal for ArchivedRun {
    fn commit<'a>(&'a self, _: &'a Batch) -> JournalFuture<'a, ()> {
        ready(self.unchangeable())
    }

    fn site_tail(&self, _: u32) -> JournalFuture<'_, Vec<SiteEntry>> {
        // An archive is of one run.
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn run<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Option<RunRow>> {
        ready(Ok(self.is(run).then(|| self.archive.row.clone())))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> JournalFuture<'a, Vec<RunRow>> {
        let row = &self.archive.row;
        let fits = filter.accepts(row) && filter.limit != Some(0);
        ready(Ok(fits.then(|| row.clone()).into_iter().collect()))
    }

    fn open_runs(&self) -> JournalFuture<'_, Vec<RunRow>> {
        ready(Ok(Vec::new()))
    }

    fn steps<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Vec<StepRow>> {
        ready(Ok(if self.is(run) {
            self.archive.steps.clone()
        } else {
            Vec::new()
        }))
    }

    fn entries<'a>(&'a self, run: &'a RunId, from: u64, limit: u32) -> JournalFuture<'a, Vec<Entry>> {
        let entries = self
            .archive
            .entries
            .iter()
            .filter(|entry| self.is(run) && entry.seq >= from);
        ready(Ok(entries.take(limit as usize).cloned().collect()))
    }

    fn graph<'a>(&'a self, hash: &'a str) -> JournalFuture<'a, Option<StoredGraph>> {
        let found = self.archive.graphs.get(hash);
        ready(Ok(found.map(|graph| (**graph).clone())))
    }

    fn artifacts<'a>(&'a self, _: &'a Subject) -> JournalFuture<'a, Vec<ArtifactRow>> {
        // What a subject owns now is in the journal.
        ready(Ok(Vec::new()))
    }

    fn find_key<'a>(&'a self, key: &'a str) -> JournalFuture<'a, Option<RunId>> {
        let row = &self.archive.row;
        ready(Ok((row.key.as_deref() == Some(key)).then(|| row.run.clone())))
    }

    fn put_payload<'a>(&'a self, _: &'a [u8]) -> JournalFuture<'a, String> {
        ready(self.unchangeable())
    }

    fn payload<'a>(&'a self, sha256: &'a str) -> JournalFuture<'a, Vec<u8>> {
        let found = self.archive.payloads.get(sha256).cloned();
        ready(found.ok_or_else(|| corrupt(format!("payload {sha256} is not in the archive"))))
    }
}
