//! Reading ranges while the store flushes and compacts must not lock the two up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sealflow_engine::journal::{Journal, RunFilter};
use sealflow_engine::testing::{SampleRun, commit};
use tempfile::TempDir;

use super::super::{OpenOptions, SurrealJournal};

/// With a memtable this small the store flushes or compacts nearly all the time. Before the store had a
/// thread of its own, readers and the compaction waited for each other for ever within seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_and_the_compaction_do_not_wait_for_each_other() {
    let folder = TempDir::new().unwrap();
    let url = format!("surrealkv://{}", folder.path().join("journal").display());
    let mut options = OpenOptions::new(folder.path().join("payloads"));
    options.log_bytes = 64 << 10;
    let journal = Arc::new(SurrealJournal::open(&url, options).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (journal, stop) = (journal.clone(), stop.clone());
            tokio::spawn(async move {
                let mut seen = 0;
                while !stop.load(Ordering::Relaxed) {
                    seen = journal.runs(&RunFilter::default()).await.unwrap().len();
                }
                seen
            })
        })
        .collect();
    let writing = async {
        for n in 0..2000 {
            let (run, append) = SampleRun::start(n, None);
            drop(run);
            commit(&*journal, vec![append]).await.unwrap();
        }
    };
    // The limit only keeps a broken store from hanging the tests for ever.
    tokio::time::timeout(Duration::from_secs(300), writing)
        .await
        .expect("the store is locked up");
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let seen = tokio::time::timeout(Duration::from_secs(60), reader).await;
        assert!(seen.expect("a reader is locked up").unwrap() > 0);
    }
    journal.close().await.unwrap();
}
