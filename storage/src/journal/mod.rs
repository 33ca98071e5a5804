//! The journal on SurrealDB: embedded in the data directory, or a server. docs/storage.md describes the
//! schema and why it has this shape.
//!
//! Reading order: `options` (what to open), `open` (locks, schema, fence), `write` (one commit), `read`,
//! `read_many`, `payload` (large values in files), `error`; then `check`; `lines` and `replay`, which
//! `export`, `import` and `archive` share.

mod archive;
mod check;
mod client;
mod embedded;
mod error;
mod export;
mod feed;
mod import;
mod lease;
mod lines;
mod lock;
mod messages;
mod open;
mod options;
mod payload;
mod read;
mod read_many;
mod record;
mod replay;
mod schema;
#[cfg(test)]
mod tests;
mod thread;
mod write;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sealflow_engine::event::Entry;
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::{
    ArtifactRow, Batch, Journal, JournalError, JournalFuture, OpenRun, RunFilter, StoredGraph,
};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::site::SiteEntry;
use tokio::sync::Mutex;

pub use self::archive::{Archive, ArchiveError, ArchivedRow, ArchivedRun, Retained, Retention, Swept};
pub use self::check::{CheckReport, Checked, Problem, check, check_files};
pub use self::error::OpenError;
pub use self::export::export;
pub use self::feed::{Feed, Following, Place};
pub use self::import::{import, verify};
pub use self::lease::stand_by;
pub use self::lines::{EXPORT_FORMAT, Sink, TransferError, Transferred};
pub use self::lock::DirectoryLock;
pub use self::messages::Messages;
pub use self::options::{Credentials, OpenOptions};
pub use self::schema::SCHEMA_VERSION;

use self::archive::ArchiveFolder;
use self::client::Client;
use self::payload::PayloadFolder;
use self::write::Writer;

/// The durable history of runs on SurrealDB.
///
/// Reads may go on while a commit is made; commits are made one after the other.
pub struct SurrealJournal {
    client: Arc<Client>,
    payloads: PayloadFolder,
    archives: ArchiveFolder,
    /// What was committed last.
    feed: Feed,
    /// Held by whoever needs that nothing is archived or removed meanwhile, or does just that.
    housekeeping: Mutex<()>,
    /// Whether there may be payloads that nobody names any more.
    unswept: AtomicBool,
    /// Which opening of the journal this is; none when it was opened without the fence, only to be read.
    epoch: Option<u64>,
    /// There is none then.
    writer: Option<Mutex<Writer>>,
    /// Held while an embedded store is open.
    lock: std::sync::Mutex<Option<DirectoryLock>>,
}

impl std::fmt::Debug for SurrealJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SurrealJournal")
            .field("place", &self.client.place())
            .finish_non_exhaustive()
    }
}

impl SurrealJournal {
    /// Closes the store: what is committed is flushed, and the directory may be opened by another
    /// process when this returns. Anything asked of the journal afterwards fails.
    ///
    /// # Errors
    /// The store could not be closed cleanly. Nothing that was committed is lost.
    pub async fn close(&self) -> Result<(), JournalError> {
        // A commit that is under way is waited for, and none begins any more.
        let _idle = match &self.writer {
            Some(writer) => {
                let mut writer = writer.lock().await;
                writer.stop(format!("the journal at {} has been closed", self.place()));
                Some(writer)
            }
            None => None,
        };
        let closed = self.client.close().await;
        drop(
            self.lock
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take(),
        );
        closed
    }

    /// What is committed, for those who follow all runs.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Where the journal is, for people: a URL without its password.
    pub fn place(&self) -> &str {
        self.client.place()
    }
}

impl Journal for SurrealJournal {
    fn commit<'a>(&'a self, batch: &'a Batch) -> JournalFuture<'a, ()> {
        Box::pin(self.write(batch))
    }

    fn site_tail(&self, limit: u32) -> JournalFuture<'_, Vec<SiteEntry>> {
        Box::pin(self.read_site(limit))
    }

    fn run<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Option<RunRow>> {
        Box::pin(self.read_run(run))
    }

    fn runs<'a>(&'a self, filter: &'a RunFilter) -> JournalFuture<'a, Vec<RunRow>> {
        Box::pin(self.read_runs(filter))
    }

    fn open_runs(&self) -> JournalFuture<'_, Vec<RunRow>> {
        Box::pin(self.read_open_runs())
    }

    fn open_histories<'a>(&'a self, after: Option<&'a RunId>, limit: u32) -> JournalFuture<'a, Vec<OpenRun>> {
        Box::pin(self.read_open_histories(after, limit))
    }

    fn steps<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Vec<StepRow>> {
        Box::pin(self.read_steps(run))
    }

    fn entries<'a>(&'a self, run: &'a RunId, from: u64, limit: u32) -> JournalFuture<'a, Vec<Entry>> {
        Box::pin(self.read_entries(run, from, limit))
    }

    fn graph<'a>(&'a self, hash: &'a str) -> JournalFuture<'a, Option<StoredGraph>> {
        Box::pin(self.read_graph(hash))
    }

    fn artifacts<'a>(&'a self, subject: &'a Subject) -> JournalFuture<'a, Vec<ArtifactRow>> {
        Box::pin(self.read_artifacts(subject))
    }

    fn find_key<'a>(&'a self, key: &'a str) -> JournalFuture<'a, Option<RunId>> {
        Box::pin(self.read_key(key))
    }

    fn put_payload<'a>(&'a self, bytes: &'a [u8]) -> JournalFuture<'a, String> {
        Box::pin(async move {
            self.writer()?;
            self.payloads.put(bytes.to_vec()).await
        })
    }

    fn payload<'a>(&'a self, sha256: &'a str) -> JournalFuture<'a, Vec<u8>> {
        Box::pin(self.payloads.get(sha256))
    }
}
