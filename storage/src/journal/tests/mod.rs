//! The journal obeys the law of journals on every store, and refuses what it must not open.
//!
//! On disk that is SurrealKV; `SEALFLOW_TEST_STORE=rocksdb`, with the feature of that name, does the same
//! on RocksDB. What needs a server is left to `just long-remote`, whose database `sealflow` is removed.

mod archives;
mod compaction;
mod crash;
mod full;
mod installations;
mod messages;
mod opening;
mod whole;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sealflow_engine::testing::journal_suite;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::client::Fence;
use super::feed::Feed;
use super::record::object;
use super::write::Writer;
use super::{Credentials, OpenError, OpenOptions, SurrealJournal, schema};

/// The URL of a journal in a directory.
fn url(folder: &Path) -> String {
    let scheme = std::env::var("SEALFLOW_TEST_STORE").unwrap_or_else(|_| "surrealkv".to_owned());
    format!("{scheme}://{}", folder.join("journal").display())
}

/// A journal in a directory.
async fn open(folder: &Path) -> SurrealJournal {
    SurrealJournal::open(&url(folder), OpenOptions::new(folder.join("payloads")))
        .await
        .unwrap()
}

/// A second daemon on the same store, as on a server: an embedded one cannot be opened twice.
async fn successor(first: &SurrealJournal) -> SurrealJournal {
    follower(first, None).await.unwrap()
}

/// The same, if nobody else followed the epoch `after`.
pub(super) async fn follower(
    first: &SurrealJournal,
    after: Option<u64>,
) -> Result<SurrealJournal, OpenError> {
    let epoch = schema::take_fence(&first.client, after).await?;
    Ok(SurrealJournal {
        epoch: Some(epoch),
        client: Arc::clone(&first.client),
        payloads: first.payloads.clone(),
        archives: first.archives.clone(),
        feed: Feed::new(epoch),
        housekeeping: Mutex::new(()),
        unswept: AtomicBool::new(true),
        writer: Some(Mutex::new(Writer::new(epoch))),
        lock: std::sync::Mutex::new(None),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn obeys_the_law_in_memory() {
    let folder = TempDir::new().unwrap();
    let payloads = folder.path();
    let fresh = async || {
        SurrealJournal::open("memory", OpenOptions::new(payloads))
            .await
            .unwrap()
    };
    Box::pin(journal_suite(fresh, successor)).await;
}

/// As on a server: other processes are kept out by the lease in the store, not by what this one knows.
#[tokio::test(flavor = "multi_thread")]
async fn obeys_the_law_with_the_fence_in_the_store() {
    let folder = TempDir::new().unwrap();
    let payloads = folder.path();
    let fresh = async || {
        let mut journal = SurrealJournal::open("memory", OpenOptions::new(payloads))
            .await
            .unwrap();
        Arc::get_mut(&mut journal.client).unwrap().fence = Fence::Stored;
        journal
    };
    Box::pin(journal_suite(fresh, successor)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn obeys_the_law_on_disk() {
    let folder = TempDir::new().unwrap();
    let count = std::cell::Cell::new(0);
    let fresh = async || {
        count.set(count.get() + 1);
        open(&folder.path().join(count.get().to_string())).await
    };
    Box::pin(journal_suite(fresh, successor)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a SurrealDB server: just long-remote"]
async fn obeys_the_law_on_a_server() {
    let server = std::env::var("SEALFLOW_TEST_SERVER").expect("SEALFLOW_TEST_SERVER names the server");
    let folder = TempDir::new().unwrap();
    let payloads = folder.path();
    let log_in = || {
        let (user, password) = ("root".to_owned(), "root".to_owned());
        OpenOptions::new(payloads).credentials(Credentials::Password { user, password })
    };
    let fresh = async || {
        let old = SurrealJournal::open(&server, log_in()).await.unwrap();
        let removed = old.client.query("REMOVE DATABASE sealflow", object([])).await;
        removed.unwrap().check().unwrap();
        SurrealJournal::open(&server, log_in()).await.unwrap()
    };
    // A daemon of its own, with a connection of its own.
    let other = async |_: &SurrealJournal| SurrealJournal::open(&server, log_in()).await.unwrap();
    Box::pin(journal_suite(fresh, other)).await;
}
