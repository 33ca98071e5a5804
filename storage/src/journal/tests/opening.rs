//! What is opened, what is refused, and what the refusal says.

use sealflow_engine::journal::{Journal, JournalError, RunFilter};
use sealflow_engine::rows::run_row;
use sealflow_engine::testing::{SampleRun, commit};
use tempfile::TempDir;

use super::super::record::{number, object};
use super::super::{OpenError, OpenOptions, SurrealJournal};
use super::{open, url};

#[tokio::test(flavor = "multi_thread")]
async fn reopens_after_close_and_after_drop() {
    let folder = TempDir::new().unwrap();
    let (mut run, start) = SampleRun::start(1, Some("key"));
    let journal = open(folder.path()).await;
    commit(&journal, [start]).await.unwrap();
    let payload = journal.put_payload(b"large").await.unwrap();
    journal.close().await.unwrap();
    assert!(journal.run(&run.id()).await.is_err() || commit(&journal, [run.one_done()]).await.is_err());
    drop(journal);
    let (mut run, _) = SampleRun::start(1, Some("key"));
    for round in 0..3 {
        let journal = open(folder.path()).await;
        assert_eq!(journal.run(&run.id()).await.unwrap(), Some(run_row(&run.state)));
        assert_eq!(journal.find_key("key").await.unwrap(), Some(run.id()));
        assert_eq!(journal.payload(&payload).await.unwrap(), b"large");
        let append = if round == 0 { run.one_done() } else { run.rewound() };
        commit(&journal, [append]).await.unwrap();
        if round == 1 {
            commit(&journal, [run.one_done()]).await.unwrap();
        }
        // Dropped without `close`: the store is closed in the background, and the next one waits for it.
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_is_for_one() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path()).await;
    let url = url(folder.path());
    for options in [
        OpenOptions::new(folder.path()),
        OpenOptions::new(folder.path()).read_only(),
    ] {
        let error = SurrealJournal::open(&url, options).await.unwrap_err();
        assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&std::process::id().to_string()) && text.contains("journal"),
            "{text}"
        );
    }
    first.close().await.unwrap();
    open(folder.path()).await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_creates_and_fences_nothing() {
    let folder = TempDir::new().unwrap();
    let url = url(folder.path());
    let options = || OpenOptions::new(folder.path().join("payloads")).read_only();
    let error = SurrealJournal::open(&url, options()).await.unwrap_err();
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    assert!(!folder.path().join("journal").exists() && !folder.path().join("payloads").exists());
    let journal = open(folder.path()).await;
    let (run, start) = SampleRun::start(1, None);
    commit(&journal, [start]).await.unwrap();
    journal.close().await.unwrap();
    let reader = SurrealJournal::open(&url, options()).await.unwrap();
    assert_eq!(
        reader.runs(&RunFilter::default()).await.unwrap(),
        [run_row(&run.state)]
    );
    let (_, other) = SampleRun::start(2, None);
    assert!(matches!(
        commit(&reader, [other]).await,
        Err(JournalError::Store(_))
    ));
    assert!(reader.put_payload(b"x").await.is_err());
    reader.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_and_strange_schemas_are_left_alone() {
    let folder = TempDir::new().unwrap();
    let url = url(folder.path());
    for (change, expected) in [
        (
            "UPDATE meta:schema SET version = 6",
            "has schema version 6, this sealflow knows 5",
        ),
        ("UPDATE meta:schema SET version = 'one'", "schema version is"),
        ("DELETE meta:schema", "schema version is missing"),
        ("REMOVE TABLE meta", "no schema version"),
    ] {
        let journal = open(folder.path()).await;
        journal
            .client
            .query(change, object([]))
            .await
            .unwrap()
            .check()
            .unwrap();
        journal.close().await.unwrap();
        let error = SurrealJournal::open(&url, OpenOptions::new(folder.path()))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains("Nothing was changed"),
            "{error}"
        );
        std::fs::remove_dir_all(folder.path().join("journal")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_in_words() {
    let folder = TempDir::new().unwrap();
    let journal = open(folder.path()).await;
    let (_, start) = SampleRun::start(1, None);
    commit(&journal, [start]).await.unwrap();
    journal.close().await.unwrap();
    drop(journal);
    let manifest = folder.path().join("journal").join("manifest");
    let mut spoiled = 0;
    for file in std::fs::read_dir(&manifest).unwrap() {
        std::fs::write(file.unwrap().path(), b"this is no manifest").unwrap();
        spoiled += 1;
    }
    assert!(spoiled > 0);
    let url = url(folder.path());
    let error = SurrealJournal::open(&url, OpenOptions::new(folder.path()))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("journal") && error.contains("backup"), "{error}");
    let file = folder.path().join("a-file");
    std::fs::write(&file, b"x").unwrap();
    let url = format!("surrealkv://{}", file.display());
    let error = SurrealJournal::open(&url, OpenOptions::new(folder.path()))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fence_outlives_a_restart() {
    let folder = TempDir::new().unwrap();
    for wanted in 1..=3_u64 {
        let journal = open(folder.path()).await;
        let sql = "SELECT VALUE epoch FROM lease:journal";
        let epoch: Vec<u64> = journal
            .client
            .fetch(sql, object([("_", number(0))]))
            .await
            .unwrap();
        assert_eq!(epoch, [wanted]);
        journal.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_are_verified_and_leftovers_removed() {
    let folder = TempDir::new().unwrap();
    let payloads = folder.path().join("payloads");
    let journal = open(folder.path()).await;
    let hash = journal.put_payload(b"what was stored").await.unwrap();
    let file = payloads.join(&hash[..2]).join(&hash[2..]);
    std::fs::write(&file, b"what was not").unwrap();
    let error = journal.payload(&hash).await.unwrap_err();
    assert!(
        matches!(error, JournalError::Corrupt(_)) && error.to_string().contains(&hash),
        "{error}"
    );
    // Storing it again repairs it.
    assert_eq!(journal.put_payload(b"what was stored").await.unwrap(), hash);
    assert_eq!(journal.payload(&hash).await.unwrap(), b"what was stored");
    std::fs::write(payloads.join(".tmp").join("broken-off"), b"half").unwrap();
    journal.close().await.unwrap();
    drop(journal);
    open(folder.path()).await.close().await.unwrap();
    assert_eq!(std::fs::read_dir(payloads.join(".tmp")).unwrap().count(), 0);
}

/// Version 1 listed open runs in a table and had no indexes.
#[tokio::test(flavor = "multi_thread")]
async fn version_1_is_brought_to_the_present() {
    let folder = TempDir::new().unwrap();
    let journal = open(folder.path()).await;
    let (run, start) = SampleRun::start(1, None);
    let (mut ended, other) = SampleRun::start(2, None);
    commit(&journal, [start, other, ended.one_done(), ended.finished()])
        .await
        .unwrap();
    let back = "REMOVE INDEX run_open ON run; REMOVE INDEX run_status ON run; REMOVE INDEX run_workflow ON run; \
        REMOVE INDEX run_subject ON run; REMOVE TABLE archive; REMOVE TABLE removal; REMOVE TABLE site; REMOVE TABLE message; REMOVE TABLE message_sender; REMOVE TABLE message_head; DEFINE TABLE open SCHEMALESS; UPDATE meta:schema SET version = 1";
    let done = journal.client.query(back, object([])).await;
    done.unwrap().check().unwrap();
    journal.close().await.unwrap();

    let journal = open(folder.path()).await;
    assert_eq!(journal.open_runs().await.unwrap(), [run_row(&run.state)]);
    let filter = RunFilter {
        status: Some(ended.state.status),
        ..RunFilter::default()
    };
    assert_eq!(journal.runs(&filter).await.unwrap(), [run_row(&ended.state)]);
    assert_eq!(super::super::check(&journal).await.unwrap().problems, Vec::new());
    journal.close().await.unwrap();
}
