//! A change at which the store's memory is full must not get lost: neither through what the store does then, nor
//! through what we do about it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sealflow_engine::event::{By, Event};
use sealflow_engine::journal::Journal;
use sealflow_engine::testing::{SampleRun, commit};
use serde_json::Value;
use tempfile::TempDir;

use super::super::client::Client;
use super::super::options::Target;
use super::super::record::object;
use super::super::{OpenOptions, SurrealJournal, check};

/// How long the store may take to remove a log that it needs no more.
const REMOVED: Duration = Duration::from_secs(60);

/// The logs of a store, oldest first, with their sizes.
fn logs(journal: &Path) -> Vec<(PathBuf, u64)> {
    let mut logs: Vec<_> = std::fs::read_dir(journal.join("wal"))
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            (file.path(), file.metadata().unwrap().len())
        })
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    logs.sort();
    logs
}

/// What a process that ends here would leave.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let name = file.file_name();
        if file.file_type().unwrap().is_dir() {
            copy(&file.path(), &to.join(name));
        } else if name != "LOCK" && name != "sealflow.lock" {
            std::fs::copy(file.path(), to.join(name)).unwrap();
        }
    }
}

fn options(folder: &Path, log_bytes: u64) -> OpenOptions {
    OpenOptions {
        log_bytes,
        ..OpenOptions::new(folder.join("payloads"))
    }
}

/// This is about surrealkv alone, used without [`Client::changed`]. If it fails, the store has been mended, and `embedded.rs`
/// can leave tables to it.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_alone_loses_the_change_at_which_its_memory_is_full() {
    let folder = TempDir::new().unwrap();
    let open = async |folder: &Path| {
        let target = Target::parse(&format!("surrealkv://{}", folder.join("journal").display())).unwrap();
        // The store's memory is eight times as large.
        Client::open(&target, "the test".to_owned(), &options(folder, 32 << 10))
            .await
            .unwrap()
    };
    let client = open(folder.path()).await;
    let journal = folder.path().join("journal");
    let first = logs(&journal).pop().unwrap().0;
    let mut full = 0;
    while logs(&journal).last().unwrap().0 == first {
        full += 1;
        assert!(full < 1000, "its memory is never full");
        let sql = format!("CREATE thing:{full} SET text = '{}'", "x".repeat(2000));
        client.query(&sql, object([])).await.unwrap().check().unwrap();
    }
    let begun = std::time::Instant::now();
    while first.exists() {
        assert!(begun.elapsed() < REMOVED, "{} stays", first.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let there: Vec<u32> = client
        .fetch("SELECT VALUE record::id(id) FROM thing ORDER BY id", object([]))
        .await
        .unwrap();
    assert_eq!(
        there,
        (1..=full).collect::<Vec<_>>(),
        "all is there while the process lives"
    );
    let after = TempDir::new().unwrap();
    copy(folder.path(), after.path());
    client.close().await.unwrap();
    let client = open(after.path()).await;
    let there: Vec<u32> = client
        .fetch("SELECT VALUE record::id(id) FROM thing ORDER BY id", object([]))
        .await
        .unwrap();
    assert_eq!(
        there,
        (1..full).collect::<Vec<_>>(),
        "the last one was acknowledged"
    );
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_whenever_a_table_was_made() {
    const LOG: u64 = 64 << 10;
    let folder = TempDir::new().unwrap();
    let url = |folder: &Path| format!("surrealkv://{}", folder.join("journal").display());
    let journal = SurrealJournal::open(&url(folder.path()), options(folder.path(), LOG))
        .await
        .unwrap();
    let (mut before, mut tables, mut n) = (0, 0, 0);
    while tables < 6 {
        n += 1;
        assert!(n < 5000, "no tables are made");
        let (run, start) = SampleRun::start(n, None);
        commit(&journal, [start]).await.unwrap();
        let log = logs(&folder.path().join("journal"));
        let bytes = log.iter().map(|(_, bytes)| bytes).sum::<u64>();
        assert!(log.len() <= 1 && bytes < LOG, "{log:?}");
        let made = bytes < before;
        before = bytes;
        if made {
            tables += 1;
            // At once, and when its own work behind our backs is done.
            for wait in [0, 300] {
                tokio::time::sleep(Duration::from_millis(wait)).await;
                let after = TempDir::new().unwrap();
                copy(folder.path(), after.path());
                let copied = SurrealJournal::open(&url(after.path()), options(after.path(), LOG))
                    .await
                    .unwrap();
                assert!(copied.run(&run.id()).await.unwrap().is_some(), "run {n}");
                let report = check(&copied).await.unwrap();
                assert_eq!(report.problems, Vec::new());
                assert_eq!(report.checked.runs, u64::from(n));
                copied.close().await.unwrap();
            }
        }
    }
    journal.close().await.unwrap();
}

/// The store's log of values is not synced in every case, and must have none of ours.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_stay_in_the_tables() {
    let folder = TempDir::new().unwrap();
    let url = format!("surrealkv://{}", folder.path().join("journal").display());
    let journal = SurrealJournal::open(&url, options(folder.path(), 1 << 20))
        .await
        .unwrap();
    let (mut run, start) = SampleRun::start(1, None);
    let (name, data) = ("large".to_owned(), Value::String("x".repeat(20 << 10)));
    let large = run.next(vec![Event::SignalReceived {
        name,
        data,
        by: By::default(),
    }]);
    commit(&journal, [start, large]).await.unwrap();
    journal.close().await.unwrap();
    let size = |part: &str| -> u64 {
        let files = std::fs::read_dir(folder.path().join("journal").join(part)).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(
        size("vlog") < 1 << 10,
        "{} bytes in the log of values",
        size("vlog")
    );
    assert!(size("sstables") > 0, "no table was made");
}

/// As on a full disk: what is acknowledged is in the log, and nothing more is.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_made_ends_the_daemon_and_loses_nothing() {
    const LOG: u64 = 64 << 10;
    let folder = TempDir::new().unwrap();
    let (journal_folder, tables) = (
        folder.path().join("journal"),
        folder.path().join("journal/sstables"),
    );
    let url = format!("surrealkv://{}", journal_folder.display());
    let journal = SurrealJournal::open(&url, options(folder.path(), LOG))
        .await
        .unwrap();
    // Where tables should go nothing can go.
    std::fs::remove_dir(&tables).unwrap();
    std::fs::write(&tables, "").unwrap();
    let (mut n, mut acknowledged) = (0, Vec::new());
    let error = loop {
        n += 1;
        assert!(n < 5000, "no tables are made");
        let (run, start) = SampleRun::start(n, None);
        match commit(&journal, [start]).await {
            Ok(()) => acknowledged.push(run.id()),
            Err(error) => break error.to_string(),
        }
    };
    assert!(
        error.contains("make room on its disk") || error.contains("table"),
        "{error}"
    );
    let (_, another) = SampleRun::start(n + 1, None);
    assert!(commit(&journal, [another]).await.is_err(), "it goes on");
    drop(journal);
    std::fs::remove_file(&tables).unwrap();
    std::fs::create_dir(&tables).unwrap();
    let journal = SurrealJournal::open(&url, options(folder.path(), LOG))
        .await
        .unwrap();
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    for run in &acknowledged {
        assert!(journal.run(run).await.unwrap().is_some(), "{run}");
    }
    assert_eq!(check(&journal).await.unwrap().problems, Vec::new());
    // There is room again: the table is made with the next change.
    let (_, next) = SampleRun::start(n + 2, None);
    commit(&journal, [next]).await.unwrap();
    let log: u64 = logs(&journal_folder).iter().map(|(_, bytes)| bytes).sum();
    assert!(log < LOG, "{log}");
    journal.close().await.unwrap();
}
