//! The check finds what is wrong, and an export is a full backup.

use std::io::Cursor;
use std::path::Path;

use sealflow_engine::event::{Event, Output};
use sealflow_engine::id::{StepName, Subject};
use sealflow_engine::journal::{Journal, JournalError, RunFilter};
use sealflow_engine::testing::{SampleRun, commit};
use serde_json::json;
use tempfile::TempDir;

use super::super::record::object;
use super::super::{SurrealJournal, TransferError, check, export, import};
use super::open;

/// A journal with runs that ended, run, were rewound, and one with a large output. Gives the payload.
async fn filled(folder: &Path) -> (SurrealJournal, Vec<SampleRun>, String) {
    let journal = open(folder).await;
    let mut runs = Vec::new();
    for n in 0..6 {
        let (mut run, start) = SampleRun::start(n, (n % 2 == 0).then_some(format!("key-{n}")).as_deref());
        commit(&journal, [start]).await.unwrap();
        let rest = [run.one_done(), run.rewound(), run.one_done()];
        commit(&journal, rest).await.unwrap();
        if n % 3 == 0 {
            commit(&journal, [run.finished()]).await.unwrap();
        }
        runs.push(run);
    }
    let payload = journal.put_payload(&vec![b' '; 100_000]).await.unwrap();
    let output = Output::Payload {
        sha256: payload.clone(),
        bytes: 100_000,
        artifacts: json!({}),
        known: serde_json::Value::Null,
        lengths: std::collections::BTreeMap::new(),
    };
    let two = StepName::new("two").unwrap();
    let done = Event::AttemptSucceeded {
        step: two,
        attempt: 2,
        output,
        seconds: 2.5,
    };
    let append = runs[1].next(vec![done]);
    commit(&journal, [append]).await.unwrap();
    (journal, runs, payload)
}

async fn found(journal: &SurrealJournal) -> Vec<String> {
    let report = check(journal).await.unwrap();
    report
        .problems
        .iter()
        .map(|problem| format!("{}: {}", problem.invariant, problem.what))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_journal_has_no_problems() {
    let folder = TempDir::new().unwrap();
    let (journal, runs, _) = filled(folder.path()).await;
    let report = check(&journal).await.unwrap();
    assert_eq!(report.problems, Vec::new());
    let checked = &report.checked;
    assert_eq!(
        (checked.runs, checked.graphs, checked.keys, checked.payloads),
        (6, 1, 3, 1)
    );
    assert_eq!(checked.entries, runs.iter().map(|run| run.state.seq).sum::<u64>());
    assert!(checked.steps > 0 && checked.artifacts == 6);
    // Runs 2, 4 and 5 have an attempt of `two` that runs.
    assert_eq!(report.held["local"].cpu, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found() {
    let run = |runs: &[SampleRun], n: usize| runs[n].id().to_string();
    type Damage = (&'static str, &'static str);
    let damages: &[Damage] = &[
        ("DELETE entry:['RUN', 2]", "numbered without gaps"),
        (
            "DELETE entry:['RUN', 4]",
            "every entry belongs|gives the row|can be read|numbered without gaps",
        ),
        ("DELETE run:['RUN']", "every entry belongs to a run"),
        (
            "UPDATE run:['RUN'] SET row = string::replace(row, '\"running\"', '\"paused\"')",
            "gives the row of the run",
        ),
        (
            "UPDATE run:['RUN'] SET status = 'succeeded'",
            "fields of a row agree",
        ),
        ("UPDATE run:['RUN'] SET row = 'x'", "rows can be read"),
        (
            "UPDATE entry:['RUN', 4] SET changes = string::replace(changes, '\"attempts\":2', '\"attempts\":3')",
            "rows of the steps",
        ),
        ("UPDATE entry:['RUN', 4] SET changes = '{}'", "rows of the steps"),
        ("UPDATE run:['RUN'] SET open = false", "fields of a row agree"),
        ("DELETE key:['key-4']", "keys name their runs"),
        (
            "CREATE key:['stray'] SET key = 'stray', run = 'RUN'",
            "keys name their runs",
        ),
        ("DELETE artifact WHERE true", "artifacts are those"),
        (
            "UPDATE artifact SET row = string::replace(row, 'sealed\"', 'other\"') WHERE true",
            "artifacts are those",
        ),
        ("DELETE graph WHERE true", "keeps the graph"),
    ];
    for (sql, wanted) in damages {
        let folder = TempDir::new().unwrap();
        let (journal, runs, _) = filled(folder.path()).await;
        let sql = sql.replace("RUN", &run(&runs, 4));
        journal
            .client
            .query(&sql, object([]))
            .await
            .unwrap()
            .check()
            .unwrap();
        let found = found(&journal).await;
        let hit = wanted
            .split('|')
            .any(|wanted| found.iter().any(|problem| problem.contains(wanted)));
        assert!(hit, "{sql}: {found:?}");
        journal.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn second_writer_and_missing_payload_are_found() {
    let folder = TempDir::new().unwrap();
    let (journal, runs, payload) = filled(folder.path()).await;
    let (_, start) = SampleRun::start_about(99, runs[4].state.subject.clone(), None);
    commit(&journal, [start]).await.unwrap();
    std::fs::remove_file(
        folder
            .path()
            .join("payloads")
            .join(&payload[..2])
            .join(&payload[2..]),
    )
    .unwrap();
    let found = found(&journal).await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("outputs exist") && found[0].contains(&payload),
        "{found:?}"
    );
    assert!(found[1].contains("one run writes to a subject"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn export_is_a_full_backup() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (journal, runs, payload) = filled(from.path()).await;
    let mut file = Vec::new();
    let written = export(&journal, &mut file).await.unwrap();
    assert_eq!((written.runs, written.graphs, written.payloads), (6, 1, 1));
    let other = open(to.path()).await;
    let read = import(&other, Cursor::new(&file)).await.unwrap();
    assert_eq!(read, written);
    assert_eq!(check(&other).await.unwrap().problems, Vec::new());
    let all = RunFilter::default();
    assert_eq!(other.runs(&all).await.unwrap(), journal.runs(&all).await.unwrap());
    for run in &runs {
        assert_eq!(
            other.steps(&run.id()).await.unwrap(),
            journal.steps(&run.id()).await.unwrap()
        );
        let entries = journal.entries(&run.id(), 1, 100).await.unwrap();
        assert_eq!(other.entries(&run.id(), 1, 100).await.unwrap(), entries);
        let subject: &Subject = &run.state.subject;
        assert_eq!(
            other.artifacts(subject).await.unwrap(),
            journal.artifacts(subject).await.unwrap()
        );
    }
    assert_eq!(other.find_key("key-2").await.unwrap(), Some(runs[2].id()));
    assert_eq!(other.payload(&payload).await.unwrap().len(), 100_000);
    // An export of the import is the same export.
    let mut again = Vec::new();
    export(&other, &mut again).await.unwrap();
    assert_eq!(again, file);
    let refused = import(&other, Cursor::new(&file)).await;
    assert!(matches!(refused, Err(TransferError::NotEmpty(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_or_changed_exports_are_refused() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (journal, ..) = filled(from.path()).await;
    let mut file = Vec::new();
    export(&journal, &mut file).await.unwrap();
    let text = String::from_utf8(file).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let without = |at: usize| -> String {
        lines
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != at)
            .map(|(_, line)| *line)
            .collect()
    };
    let changed = [
        String::new(),
        text[..text.len() - 1].to_owned(),
        text[..text.len() / 2].to_owned(),
        without(0),
        without(3),
        without(lines.len() - 1),
        text.replacen("a sample", "a simple", 1),
        format!("{text}{}", lines[0]),
    ];
    let other = open(to.path()).await;
    for (n, changed) in changed.into_iter().enumerate() {
        let refused = import(&other, Cursor::new(changed)).await;
        assert!(
            matches!(refused, Err(TransferError::Refused { .. })),
            "{n}: {refused:?}"
        );
        assert_eq!(other.runs(&RunFilter::default()).await.unwrap(), Vec::new());
    }
    let newer = text.replacen("\"format\":3", "\"format\":4,\"more\":{}", 1);
    let refused = import(&other, Cursor::new(newer)).await;
    assert!(
        matches!(refused, Err(TransferError::Newer { found: 4 })),
        "{refused:?}"
    );
    // What the first format could say, it says in the same way.
    let body: String = lines[..lines.len() - 1].concat();
    let body = body.replacen("\"format\":3", "\"format\":1", 1);
    import(&other, Cursor::new(closed(&body))).await.unwrap();
}

/// Lines with what closes them.
fn closed(body: &str) -> String {
    use sha2::{Digest, Sha256};
    let (lines, sha256) = (body.lines().count(), hex::encode(Sha256::digest(body)));
    format!("{body}{{\"end\":{{\"lines\":{lines},\"sha256\":\"{sha256}\"}}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn export_that_cannot_have_happened_is_refused() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (journal, ..) = filled(from.path()).await;
    let mut file = Vec::new();
    export(&journal, &mut file).await.unwrap();
    let text = String::from_utf8(file).unwrap();
    // Somebody who makes the trailer fit still cannot make two and two five.
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines.pop();
    let at = lines.iter().position(|line| line.contains("\"seq\":2")).unwrap();
    lines.remove(at);
    let text = closed(&lines.concat());
    let other = open(to.path()).await;
    let refused = import(&other, Cursor::new(text)).await;
    assert!(
        matches!(refused, Err(TransferError::Refused { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fenced_daemon_stays_fenced() {
    let folder = TempDir::new().unwrap();
    let (journal, mut runs, _) = filled(folder.path()).await;
    let second = super::successor(&journal).await;
    let late = runs[4].next(vec![signal()]);
    for _ in 0..2 {
        let refused = commit(&journal, [late.clone()]).await;
        assert!(matches!(refused, Err(JournalError::Fenced(_))), "{refused:?}");
    }
    commit(&second, [late]).await.unwrap();
    assert_eq!(found(&second).await, Vec::<String>::new());
}

fn signal() -> Event {
    Event::SignalReceived {
        name: "go".to_owned(),
        data: json!(null),
        by: Default::default(),
    }
}
