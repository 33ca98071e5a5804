//! The journal obeys the law of journals on every store, and refuses what it must not open.

mod compaction;
mod crash;
mod opening;
mod whole;

use std::path::Path;
use std::sync::Arc;

use sealflow_engine::testing::journal_suite;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::write::Writer;
use super::{OpenOptions, SurrealJournal, schema};

/// A journal in a directory.
async fn open(folder: &Path) -> SurrealJournal {
    let url = format!("surrealkv://{}", folder.join("journal").display());
    SurrealJournal::open(&url, OpenOptions::new(folder.join("payloads")))
        .await
        .unwrap()
}

/// A second daemon on the same store, as on a server: an embedded one cannot be opened twice.
async fn successor(first: &SurrealJournal) -> SurrealJournal {
    let epoch = schema::take_fence(&first.client).await.unwrap();
    SurrealJournal {
        client: Arc::clone(&first.client),
        payloads: first.payloads.clone(),
        writer: Some(Mutex::new(Writer::new(epoch))),
        lock: std::sync::Mutex::new(None),
    }
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
    journal_suite(fresh, successor).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn obeys_the_law_on_disk() {
    let folder = TempDir::new().unwrap();
    let count = std::cell::Cell::new(0);
    let fresh = async || {
        count.set(count.get() + 1);
        open(&folder.path().join(count.get().to_string())).await
    };
    journal_suite(fresh, successor).await;
}
