//! A process that dies at any boundary of a commit or payload leaves a journal that is whole.

use std::process::Command;

use sealflow_engine::crash;
use sealflow_engine::journal::{Journal, JournalError};
use sealflow_engine::testing::{SampleRun, commit};
use tempfile::TempDir;

use super::super::{OpenOptions, SurrealJournal, check};
use super::{open, url};

/// Tells the test's process that it is to die, and in which folder.
const FOLDER: &str = "SEALFLOW_TEST_DIE_IN";
/// Where it is to die.
const PLAN: &str = "SEALFLOW_TEST_DIE_AT";

#[test]
fn dying_at_a_boundary_leaves_a_whole_journal() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let (Ok(folder), Ok(plan)) = (std::env::var(FOLDER), std::env::var(PLAN)) {
        runtime.block_on(live_until(std::path::Path::new(&folder), &plan));
        return;
    }
    for (plan, committed) in [
        ("journal.commit.before=return", 0),
        ("journal.commit.before=2*off->return", 2),
        ("journal.commit.after=return", 1),
        ("journal.commit.after=2*off->return", 3),
        ("payload.before_fsync=return", 2),
        ("publish.synced=return", 2),
        ("publish.renamed=return", 2),
    ] {
        let folder = TempDir::new().unwrap();
        let died = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "journal::tests::crash::dying_at_a_boundary_leaves_a_whole_journal",
            ])
            .env(FOLDER, folder.path())
            .env(PLAN, plan)
            .output()
            .unwrap();
        assert!(
            !died.status.success(),
            "{plan}: it lived: {}",
            String::from_utf8_lossy(&died.stdout)
        );
        runtime.block_on(async {
            let journal = open(folder.path()).await;
            let report = check(&journal).await.unwrap();
            assert_eq!(report.problems, Vec::new(), "{plan}");
            assert_eq!(report.checked.entries, committed, "{plan}");
            assert_eq!(
                std::fs::read_dir(folder.path().join("payloads/.tmp"))
                    .unwrap()
                    .count(),
                0,
                "{plan}"
            );
            // Life goes on where it stopped.
            let (mut run, start) = SampleRun::start(1, Some("key"));
            let rest = [start, run.one_done(), run.rewound(), run.one_done()];
            let rest = rest.into_iter().skip(usize::try_from(committed).unwrap());
            commit(&journal, rest).await.unwrap();
            let hash = journal.put_payload(&[7; 100_000]).await.unwrap();
            assert_eq!(journal.payload(&hash).await.unwrap().len(), 100_000);
            assert_eq!(check(&journal).await.unwrap().problems, Vec::new(), "{plan}");
            journal.close().await.unwrap();
        });
    }
}

async fn live_until(folder: &std::path::Path, plan: &str) {
    let journal = open(folder).await;
    crash::arm(plan).unwrap();
    let (mut run, start) = SampleRun::start(1, Some("key"));
    commit(&journal, [start]).await.unwrap();
    commit(&journal, [run.one_done()]).await.unwrap();
    journal.put_payload(&[7; 100_000]).await.unwrap();
    commit(&journal, [run.rewound()]).await.unwrap();
    commit(&journal, [run.one_done()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commit_that_does_not_fit_is_refused_and_stops_the_writer() {
    let folder = TempDir::new().unwrap();
    let url = url(folder.path());
    let options = || OpenOptions {
        log_bytes: 128 << 10,
        ..OpenOptions::new(folder.path().join("payloads"))
    };
    let journal = SurrealJournal::open(&url, options()).await.unwrap();
    let (mut run, start) = SampleRun::start(1, None);
    commit(&journal, [start]).await.unwrap();
    let data = serde_json::Value::String("x".repeat(4 << 20));
    let by = sealflow_engine::event::By::default();
    let large = run.next(vec![sealflow_engine::event::Event::SignalReceived {
        name: "large".to_owned(),
        data,
        by,
    }]);
    let refused = commit(&journal, [large]).await;
    let Err(JournalError::Store(text)) = &refused else {
        panic!("{refused:?}")
    };
    assert!(
        text.contains("committing") && text.contains("write buffer"),
        "{text}"
    );
    let (_, other) = SampleRun::start(2, None);
    assert!(matches!(
        commit(&journal, [other]).await,
        Err(JournalError::Store(_))
    ));
    journal.close().await.unwrap();
    let journal = SurrealJournal::open(&url, options()).await.unwrap();
    assert_eq!(check(&journal).await.unwrap().problems, Vec::new());
    journal.close().await.unwrap();
}
