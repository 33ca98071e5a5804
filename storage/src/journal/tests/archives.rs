//! Archived runs lose nothing, and a kill at any line of archiving or removing leaves a whole journal.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use sealflow_engine::crash;
use sealflow_engine::event::{Event, Output};
use sealflow_engine::id::StepName;
use sealflow_engine::journal::{Journal, JournalError, RunFilter};
use sealflow_engine::testing::{SampleRun, commit};
use serde_json::json;
use tempfile::TempDir;

use super::super::record::object;
use super::super::{ArchiveError, Retention, SurrealJournal, check, export, import};
use super::open;

const NOW: u64 = 1_800_000_000_000;

/// A run about `f01000/n` that has ended, the last of its steps with this large output.
async fn ended(journal: &SurrealJournal, n: u16, about: u16, payload: &str) -> SampleRun {
    let subject = format!("f01000/{about}").parse().unwrap();
    let (mut run, start) = SampleRun::start_about(n, subject, Some(&format!("key-{n}")));
    let mut appends = vec![start, run.one_done()];
    let output = Output::Payload {
        sha256: payload.to_owned(),
        bytes: 50_000,
        artifacts: json!({}),
        known: serde_json::Value::Null,
        lengths: std::collections::BTreeMap::new(),
    };
    appends.push(run.next(vec![
        Event::AttemptSucceeded {
            step: StepName::new("two").unwrap(),
            attempt: 1,
            output,
            seconds: 2.5,
        },
        Event::RunFinished {
            end: sealflow_engine::event::RunEnd::Succeeded,
        },
    ]));
    commit(journal, appends).await.unwrap();
    run
}

async fn payload(journal: &SurrealJournal, byte: u8) -> String {
    journal.put_payload(&vec![byte; 50_000]).await.unwrap()
}

/// Makes all payload files look as if they had been stored long ago.
fn age(folder: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    for part in std::fs::read_dir(folder.join("payloads")).unwrap() {
        for file in std::fs::read_dir(part.unwrap().path()).unwrap() {
            let file = std::fs::File::options()
                .append(true)
                .open(file.unwrap().path())
                .unwrap();
            file.set_modified(long_ago).unwrap();
        }
    }
}

async fn whole(journal: &SurrealJournal) {
    assert_eq!(check(journal).await.unwrap().problems, Vec::new());
}

fn archive_of(folder: &Path, run: &SampleRun) -> PathBuf {
    let months = std::fs::read_dir(folder.join("archive")).unwrap();
    let path = |month: std::io::Result<std::fs::DirEntry>| {
        month.unwrap().path().join(format!("{}.jsonl.gz", run.id()))
    };
    months.map(path).find(|path| path.exists()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_runs_read_as_before() {
    let folder = TempDir::new().unwrap();
    let journal = open(folder.path()).await;
    let large = payload(&journal, 7).await;
    let run = ended(&journal, 1, 1, &large).await;
    let (other, start) = SampleRun::start(2, None);
    commit(&journal, [start]).await.unwrap();
    let id = run.id();
    let (row, steps) = (journal.run(&id).await.unwrap(), journal.steps(&id).await.unwrap());
    let entries = journal.entries(&id, 1, 100).await.unwrap();

    let refused = journal.archive_run(&other.id(), NOW).await;
    assert!(matches!(refused, Err(ArchiveError::Open { .. })), "{refused:?}");
    let missing = SampleRun::start(9, None).0.id();
    assert!(matches!(
        journal.archive_run(&missing, NOW).await,
        Err(ArchiveError::NoRun(_))
    ));

    let archived = journal.archive_run(&id, NOW).await.unwrap();
    // Asked again, it is where it is.
    assert_eq!(journal.archive_run(&id, NOW + 1).await.unwrap(), archived);
    assert_eq!(journal.run(&id).await.unwrap(), None);
    assert_eq!(journal.entries(&id, 1, 100).await.unwrap(), Vec::new());
    let all = RunFilter::default();
    assert_eq!(journal.runs(&all).await.unwrap().len(), 1);
    let found = journal.archived_runs(&all).await.unwrap();
    assert_eq!((found.len(), Some(&found[0].row)), (1, row.as_ref()));
    let read = journal.archived(&id).await.unwrap().unwrap();
    assert_eq!(read.run(&id).await.unwrap(), row);
    assert_eq!(read.entries(&id, 1, 100).await.unwrap(), entries);
    assert_eq!(read.steps(&id).await.unwrap(), steps);
    assert_eq!(read.payload(&large).await.unwrap(), [7; 50_000]);
    let hash = &row.as_ref().unwrap().graph;
    assert_eq!(
        read.graph(hash).await.unwrap(),
        journal.graph(hash).await.unwrap()
    );
    // What outlives the run: its key, and what its subject owns.
    assert_eq!(journal.find_key("key-1").await.unwrap(), Some(id.clone()));
    let owned = journal.artifacts(&run.state.subject).await.unwrap();
    assert_eq!((owned.len(), &owned[0].run), (1, &id));
    let (_, again) = SampleRun::start(3, Some("key-1"));
    assert!(matches!(
        commit(&journal, [again]).await,
        Err(JournalError::Fenced(_))
    ));
    whole(&journal).await;
    journal.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_payloads_stay_and_others_go() {
    let folder = TempDir::new().unwrap();
    let journal = open(folder.path()).await;
    let (shared, own) = (payload(&journal, 1).await, payload(&journal, 2).await);
    let first = ended(&journal, 1, 1, &shared).await;
    let second = ended(&journal, 2, 2, &own).await;
    ended(&journal, 3, 3, &shared).await;
    for run in [&first, &second] {
        journal.archive_run(&run.id(), NOW).await.unwrap();
    }
    // Stored a moment ago, a payload may be named by a commit that is on its way.
    assert_eq!(journal.sweep_payloads().await.unwrap().files, 0);
    age(folder.path());
    assert_eq!(
        journal.sweep_payloads().await.unwrap().files,
        0,
        "this process stored it just now"
    );
    journal.close().await.unwrap();
    let journal = open(folder.path()).await;
    let swept = journal.sweep_payloads().await.unwrap();
    assert_eq!((swept.files, swept.bytes), (1, 50_000));
    assert!(journal.payload(&shared).await.is_ok() && journal.payload(&own).await.is_err());
    let read = journal.archived(&second.id()).await.unwrap().unwrap();
    assert_eq!(read.payload(&own).await.unwrap(), [2; 50_000]);
    whole(&journal).await;
    journal.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_goes_by_age_and_keeps_what_subjects_own() {
    let folder = TempDir::new().unwrap();
    let journal = open(folder.path()).await;
    let large = payload(&journal, 1).await;
    // Run 1 made what `f01000/1` owned, run 3 made it anew; run 2 is alone.
    let first = ended(&journal, 1, 1, &large).await;
    let second = ended(&journal, 2, 2, &large).await;
    let third = ended(&journal, 3, 1, &large).await;
    let (open_run, start) = SampleRun::start(4, None);
    commit(&journal, [start]).await.unwrap();
    let end = third.state.updated_at;
    let days = |days: u64| Some(Duration::from_secs(days * 86_400));
    let policy = |archive_after, delete_archives_after| Retention {
        archive_after,
        delete_archives_after,
    };
    let soon = end + 86_400_000;
    let nothing = journal.retain(policy(None, None), soon).await.unwrap();
    assert_eq!((nothing.archived, nothing.removed), (0, 0));
    let young = journal.retain(policy(days(2), days(2)), soon).await.unwrap();
    assert_eq!((young.archived, young.removed), (0, 0));
    let later = end + 3 * 86_400_000;
    let old = journal.retain(policy(days(2), None), later).await.unwrap();
    assert_eq!((old.archived, old.removed, old.failed), (3, 0, 0));
    whole(&journal).await;
    let path = archive_of(folder.path(), &first);
    let removed = journal
        .retain(policy(days(2), days(3)), later + 86_400_000)
        .await
        .unwrap();
    assert_eq!((removed.removed, removed.kept), (1, 2));
    assert!(!path.exists());
    assert!(journal.archived_row(&first.id()).await.unwrap().is_none());
    assert_eq!(
        journal.find_key("key-1").await.unwrap(),
        None,
        "its key is free again"
    );
    for (run, key) in [(&second, "key-2"), (&third, "key-3")] {
        assert!(journal.archived(&run.id()).await.unwrap().is_some());
        assert_eq!(journal.find_key(key).await.unwrap(), Some(run.id()));
    }
    assert!(journal.run(&open_run.id()).await.unwrap().is_some());
    whole(&journal).await;
    journal.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_hold_archives() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let journal = open(from.path()).await;
    let large = payload(&journal, 1).await;
    let mut runs = Vec::new();
    for n in 1..=4 {
        // All about one sector: what it owns is what the last run made.
        runs.push(ended(&journal, n, 1, &large).await);
    }
    for run in [&runs[0], &runs[2]] {
        journal.archive_run(&run.id(), NOW).await.unwrap();
    }
    let mut file = Vec::new();
    let written = export(&journal, &mut file).await.unwrap();
    assert_eq!((written.runs, written.archives), (2, 2));
    let other = open(to.path()).await;
    assert_eq!(import(&other, Cursor::new(&file)).await.unwrap(), written);
    whole(&other).await;
    let all = RunFilter::default();
    assert_eq!(
        other.archived_runs(&all).await.unwrap(),
        journal.archived_runs(&all).await.unwrap()
    );
    assert_eq!(other.find_key("key-3").await.unwrap(), Some(runs[2].id()));
    let subject = &runs[0].state.subject;
    let owned = other.artifacts(subject).await.unwrap();
    assert_eq!(owned, journal.artifacts(subject).await.unwrap());
    assert_eq!(owned[0].run, runs[3].id());
    let mut again = Vec::new();
    export(&other, &mut again).await.unwrap();
    assert!(again == file, "a backup of the restored journal is the same");
    // A damaged archive makes no backup.
    let path = archive_of(from.path(), &runs[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let refused = export(&journal, &mut Vec::new()).await.unwrap_err().to_string();
    assert!(refused.contains(runs[0].id().as_str()), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_archives_is_found() {
    type Damage = fn(&Path);
    let damages: [(Damage, &str); 4] = [
        (|path| std::fs::remove_file(path).unwrap(), "No such file"),
        (
            |path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes.pop();
                std::fs::write(path, bytes).unwrap();
            },
            "not the file that was written",
        ),
        (
            |path| std::fs::write(path, b"").unwrap(),
            "not the file that was written",
        ),
        (
            |path| assert!(std::fs::copy(path, path.with_file_name("stray.jsonl.gz")).unwrap() > 0),
            "of no run that the journal knows",
        ),
    ];
    for (damage, wanted) in damages {
        let folder = TempDir::new().unwrap();
        let journal = open(folder.path()).await;
        let large = payload(&journal, 1).await;
        let run = ended(&journal, 1, 1, &large).await;
        journal.archive_run(&run.id(), NOW).await.unwrap();
        damage(&archive_of(folder.path(), &run));
        let problems = check(&journal).await.unwrap().problems;
        assert!(
            problems.iter().any(|problem| problem.what.contains(wanted)),
            "{wanted}: {problems:?}"
        );
        journal.close().await.unwrap();
    }
    // Somebody changed the snapshot in the index: the file no more gives it.
    let folder = TempDir::new().unwrap();
    let journal = open(folder.path()).await;
    let large = payload(&journal, 1).await;
    let run = ended(&journal, 1, 1, &large).await;
    journal.archive_run(&run.id(), NOW).await.unwrap();
    let sql = "UPDATE archive SET row = string::replace(row, '\"seq\":3', '\"seq\":4')";
    let changed = journal.client.query(sql, object([])).await.unwrap();
    changed.check().unwrap();
    let problems = check(&journal).await.unwrap().problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.what.contains("which the index has otherwise")),
        "{problems:?}"
    );
}

/// Tells the test's process that it is to die, and in which folder.
const FOLDER: &str = "SEALFLOW_TEST_DIE_IN";
/// Where it is to die.
const PLAN: &str = "SEALFLOW_TEST_DIE_AT";

#[test]
fn dying_at_any_line_of_archiving_loses_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if let (Ok(folder), Ok(plan)) = (std::env::var(FOLDER), std::env::var(PLAN)) {
        runtime.block_on(live_until(Path::new(&folder), &plan));
        return;
    }
    for (plan, archived, removed) in [
        ("archive.written=return", 0, 0),
        ("publish.synced=return", 0, 0),
        ("publish.renamed=return", 0, 0),
        ("archive.published=return", 0, 0),
        ("archive.moved=return", 1, 0),
        ("archive.written=1*off->return", 1, 0),
        ("archive.unlisted=return", 1, 1),
        ("archive.deleted=return", 1, 1),
        ("sweep.before_remove=return", 1, 1),
    ] {
        let folder = TempDir::new().unwrap();
        let died = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "journal::tests::archives::dying_at_any_line_of_archiving_loses_nothing",
            ])
            .env(FOLDER, folder.path())
            .env(PLAN, plan)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&died.stdout);
        assert!(!died.status.success(), "{plan}: it lived: {said}");
        runtime.block_on(async {
            let journal = open(folder.path()).await;
            let report = check(&journal).await.unwrap();
            assert_eq!(report.problems, Vec::new(), "{plan}");
            let checked = (report.checked.archives, report.checked.runs);
            assert_eq!(checked, (archived, 2 - archived - removed), "{plan}");
            // What was begun is brought to its end.
            let age = Some(Duration::from_secs(1));
            let policy = Retention {
                archive_after: age,
                delete_archives_after: age,
            };
            journal.retain(policy, NOW).await.unwrap();
            let report = check(&journal).await.unwrap();
            assert_eq!(report.problems, Vec::new(), "{plan}");
            assert_eq!((report.checked.archives, report.checked.runs), (1, 0), "{plan}");
            let files = std::fs::read_dir(folder.path().join("archive")).unwrap();
            let files = files.flat_map(|month| std::fs::read_dir(month.unwrap().path()).unwrap());
            let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
            assert_eq!(files.len(), 1, "{plan}: {files:?}");
            journal.close().await.unwrap();
        });
    }
}

/// Two runs about one sector: both are archived, and the first one's archive is removed.
async fn live_until(folder: &Path, plan: &str) {
    let journal = open(folder).await;
    let large = payload(&journal, 1).await;
    ended(&journal, 1, 1, &large).await;
    ended(&journal, 2, 1, &large).await;
    journal.close().await.unwrap();
    age(folder);
    let journal = open(folder).await;
    crash::arm(plan).unwrap();
    let age = Some(Duration::from_secs(1));
    let policy = |delete_archives_after| Retention {
        archive_after: age,
        delete_archives_after,
    };
    journal.retain(policy(age), NOW).await.unwrap();
}
