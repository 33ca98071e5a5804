//! The law of journals: what every implementation of [`Journal`] does. Each check gets a journal of its
//! own.

use std::collections::BTreeSet;

use super::sample::{SampleRun, signal};
use crate::event::{By, Event, PauseReason};
use crate::id::{RunId, Subject, WorkflowName};
use crate::journal::{Append, Batch, Journal, JournalError, OpenRun, RunFilter};
use crate::rows::{RunRow, StepRow, run_row, step_row};
use crate::run::RunStatus;
use crate::site::{HoldKind, SiteEntry, SiteEvent};
use crate::workflow::StepIx;

/// Runs every check. `fresh` makes an empty journal that may be written to; `successor` opens the
/// store of a journal again, as a second daemon would that takes over.
///
/// # Panics
/// When the journal breaks the law.
pub async fn journal_suite<J: Journal>(fresh: impl AsyncFn() -> J, successor: impl AsyncFn(&J) -> J) {
    empty_journal_is_empty(&fresh().await).await;
    rows_come_back(&fresh().await).await;
    artifacts_and_keys_come_back(&fresh().await).await;
    batches_hold_many_runs_and_entries(&fresh().await).await;
    rows_follow_a_run_to_its_end(&fresh().await).await;
    superseded_attempts_keep_a_run_open(&fresh().await).await;
    bad_batch_leaves_nothing(&fresh().await).await;
    batches_must_agree_with_themselves(&fresh().await).await;
    taken_numbers_are_refused(&fresh().await).await;
    filters_limit_and_order(&fresh().await).await;
    entries_come_in_pieces(&fresh().await).await;
    open_runs_come_with_their_entries(&fresh().await).await;
    reads_see_what_was_committed(&fresh().await).await;
    payloads_come_back(&fresh().await).await;
    the_installation_has_a_history(&fresh().await).await;
    let (first, second) = {
        let first = fresh().await;
        let second = successor(&first).await;
        (first, second)
    };
    successor_fences_predecessor(&first, &second).await;
}

/// Commits some appends together.
///
/// # Errors
/// What the journal says.
pub async fn commit(
    journal: &impl Journal,
    appends: impl IntoIterator<Item = Append>,
) -> Result<(), JournalError> {
    let mut batch = Batch::default();
    for append in appends {
        batch.push(append);
    }
    journal.commit(&batch).await
}

async fn must(journal: &impl Journal, appends: impl IntoIterator<Item = Append>) {
    commit(journal, appends).await.expect("a commit");
}

fn rows_of(run: &SampleRun, changed: &BTreeSet<StepIx>) -> (RunRow, Vec<StepRow>) {
    (
        run_row(&run.state),
        changed.iter().map(|ix| step_row(&run.state, *ix)).collect(),
    )
}

/// The stored rows of a run equal its state.
async fn assert_rows(journal: &impl Journal, run: &SampleRun, changed: &[u32]) {
    let changed = changed.iter().map(|ix| StepIx(*ix)).collect();
    let (row, steps) = rows_of(run, &changed);
    assert_eq!(journal.run(&run.id()).await.expect("reading"), Some(row));
    assert_eq!(journal.steps(&run.id()).await.expect("reading"), steps);
}

async fn the_installation_has_a_history(journal: &impl Journal) {
    let entry = |seq: u64| SiteEntry {
        seq,
        at: 1_000 + seq,
        events: vec![SiteEvent::Held {
            kind: HoldKind::Stage,
            name: format!("stage{seq}"),
            by: By {
                who: "me".to_owned(),
                why: "maintenance".to_owned(),
            },
        }],
    };
    let batch = |seqs: &[u64]| Batch {
        site: seqs.iter().map(|seq| entry(*seq)).collect(),
        ..Batch::default()
    };
    assert_eq!(journal.site_tail(10).await.expect("reading"), Vec::new());
    let gap = journal.commit(&batch(&[2])).await;
    assert!(matches!(gap, Err(JournalError::Fenced(_))), "{gap:?}");
    let gap = journal.commit(&batch(&[1, 3])).await;
    assert!(matches!(gap, Err(JournalError::Corrupt(_))), "{gap:?}");
    assert_eq!(journal.site_tail(10).await.expect("reading"), Vec::new());
    journal.commit(&batch(&[1, 2, 3])).await.expect("a commit");
    // Together with a run.
    let (run, start) = SampleRun::start(1, None);
    let mut both = batch(&[4]);
    both.push(start);
    journal.commit(&both).await.expect("a commit");
    assert_rows(journal, &run, &[0]).await;
    let taken = journal.commit(&batch(&[4])).await;
    assert!(matches!(taken, Err(JournalError::Fenced(_))), "{taken:?}");
    assert_eq!(
        journal.site_tail(3).await.expect("reading"),
        [entry(2), entry(3), entry(4)]
    );
    assert_eq!(journal.site_tail(10).await.expect("reading").len(), 4);
}

async fn empty_journal_is_empty(journal: &impl Journal) {
    let run = RunId::new(1, &[1; 10]);
    assert_eq!(journal.run(&run).await.expect("reading"), None);
    assert_eq!(
        journal.runs(&RunFilter::default()).await.expect("reading"),
        Vec::new()
    );
    assert_eq!(journal.open_runs().await.expect("reading"), Vec::new());
    assert_eq!(journal.steps(&run).await.expect("reading"), Vec::new());
    assert_eq!(journal.entries(&run, 1, 10).await.expect("reading"), Vec::new());
    assert_eq!(journal.graph("00").await.expect("reading"), None);
    assert_eq!(journal.find_key("none").await.expect("reading"), None);
    let subject = Subject::new("f01/1").expect("a subject");
    assert_eq!(journal.artifacts(&subject).await.expect("reading"), Vec::new());
    journal
        .commit(&Batch::default())
        .await
        .expect("an empty commit changes nothing");
}

async fn rows_come_back(journal: &impl Journal) {
    let (mut run, start) = SampleRun::start(1, None);
    let first = start.entry.clone();
    must(journal, [start]).await;
    assert_rows(journal, &run, &[0]).await;
    let (graph, stored) = SampleRun::graph();
    assert_eq!(
        journal.graph(graph.hash()).await.expect("reading").as_ref(),
        Some(&*stored)
    );
    let done = run.one_done();
    let second = done.entry.clone();
    must(journal, [done]).await;
    assert_rows(journal, &run, &[0, 1]).await;
    assert_eq!(
        journal.entries(&run.id(), 1, 10).await.expect("reading"),
        [first, second]
    );
}

async fn artifacts_and_keys_come_back(journal: &impl Journal) {
    // Subjects and keys that are parts of each other must not be mixed up.
    let name = "key '\"; DELETE run; --";
    let (mut one, start_one) = SampleRun::start(1, Some(name));
    let (mut ten, start_ten) = SampleRun::start(10, Some("key"));
    must(journal, [start_one, start_ten]).await;
    assert_eq!(journal.find_key(name).await.expect("reading"), Some(one.id()));
    assert_eq!(journal.find_key("key").await.expect("reading"), Some(ten.id()));
    assert_eq!(journal.find_key("ke").await.expect("reading"), None);
    let (done_one, done_ten) = (one.one_done(), ten.one_done());
    let (made_by_one, made_by_ten) = (done_one.artifacts.clone(), done_ten.artifacts.clone());
    assert_eq!((made_by_one.len(), made_by_ten.len()), (1, 1));
    must(journal, [done_one, done_ten]).await;
    assert_eq!(
        journal.artifacts(&one.state.subject).await.expect("reading"),
        made_by_one
    );
    assert_eq!(
        journal.artifacts(&ten.state.subject).await.expect("reading"),
        made_by_ten
    );
    // A later run about the same subject replaces what it makes again.
    must(journal, [one.finished()]).await;
    let (mut later, start) = SampleRun::start_about(11, one.state.subject.clone(), None);
    must(journal, [start]).await;
    let again = later.one_done();
    let replaced = again.artifacts.clone();
    must(journal, [again]).await;
    assert_eq!(
        journal.artifacts(&one.state.subject).await.expect("reading"),
        replaced
    );
    assert_eq!(replaced[0].run, later.id());
}

async fn batches_hold_many_runs_and_entries(journal: &impl Journal) {
    let mut appends = Vec::new();
    let mut runs = Vec::new();
    for n in 0..50 {
        let (mut run, start) = SampleRun::start(n, None);
        appends.push(start);
        if n % 2 == 0 {
            appends.push(run.one_done());
        }
        if n % 10 == 0 {
            appends.push(run.finished());
        }
        runs.push(run);
    }
    must(journal, appends).await;
    for (n, run) in runs.iter_mut().enumerate() {
        assert_rows(journal, run, if n % 2 == 0 { &[0, 1] } else { &[0] }).await;
        let entries = journal.entries(&run.id(), 1, 100).await.expect("reading");
        assert_eq!(entries.len() as u64, run.state.seq);
    }
    let open: Vec<RunId> = journal
        .open_runs()
        .await
        .expect("reading")
        .into_iter()
        .map(|row| row.run)
        .collect();
    let wanted: Vec<RunId> = runs
        .iter()
        .filter(|run| !run.state.status.is_final())
        .map(SampleRun::id)
        .collect();
    assert_eq!(open, wanted);
    // Both entries of one batch count: the next one follows them.
    let next = runs[2].next(vec![signal(1)]);
    must(journal, [next]).await;
    assert_rows(journal, &runs[2], &[0, 1]).await;
}

async fn rows_follow_a_run_to_its_end(journal: &impl Journal) {
    let (mut run, start) = SampleRun::start(1, None);
    must(journal, [start]).await;
    let by = By {
        who: "o".to_owned(),
        why: "lunch".to_owned(),
    };
    must(
        journal,
        [run.next(vec![Event::RunPaused {
            reason: PauseReason::Operator(by.clone()),
        }])],
    )
    .await;
    assert_rows(journal, &run, &[0]).await;
    must(journal, [run.next(vec![signal(1)])]).await;
    assert_rows(journal, &run, &[0]).await;
    must(journal, [run.next(vec![Event::RunResumed { by }])]).await;
    assert_rows(journal, &run, &[0]).await;
    must(journal, [run.one_done()]).await;
    must(journal, [run.rewound()]).await;
    assert_rows(journal, &run, &[0, 1]).await;
    must(journal, [run.one_done()]).await;
    must(journal, [run.finished()]).await;
    assert_rows(journal, &run, &[0, 1]).await;
    assert_eq!(journal.open_runs().await.expect("reading"), Vec::new());
    let rows = journal.runs(&RunFilter::default()).await.expect("reading");
    assert_eq!(rows, [run_row(&run.state)]);
}

async fn superseded_attempts_keep_a_run_open(journal: &impl Journal) {
    let (mut run, start) = SampleRun::start(1, None);
    must(journal, [start]).await;
    let given_up = Event::AttemptFailed {
        step: crate::id::StepName::new("one").expect("a step name"),
        attempt: 1,
        failure: crate::failure::Failure::transient("slow", "too slow"),
        charged: true,
        seconds: 1.0,
        still_running: true,
    };
    must(journal, [run.next(vec![given_up])]).await;
    assert_eq!(run.state.discarding.len(), 1);
    assert_rows(journal, &run, &[0]).await;
    let released = Event::AttemptReleased {
        step: crate::id::StepName::new("one").expect("a step name"),
        attempt: 1,
    };
    must(journal, [run.next(vec![signal(1)])]).await;
    assert_rows(journal, &run, &[0]).await;
    must(journal, [run.next(vec![released])]).await;
    assert_rows(journal, &run, &[0]).await;
    assert_eq!(journal.open_runs().await.expect("reading"), [run_row(&run.state)]);
}

async fn bad_batch_leaves_nothing(journal: &impl Journal) {
    let (mut known, start) = SampleRun::start(1, Some("taken"));
    must(journal, [start]).await;
    let before = run_row(&known.state);
    let (fresh, fresh_start) = SampleRun::start(2, Some("new"));
    let (_, same_key) = SampleRun::start(3, Some("taken"));
    let progress = known.one_done();
    let refused = commit(journal, [fresh_start, progress, same_key]).await;
    assert!(matches!(refused, Err(JournalError::Fenced(_))), "{refused:?}");
    assert_eq!(journal.run(&fresh.id()).await.expect("reading"), None);
    assert_eq!(journal.steps(&fresh.id()).await.expect("reading"), Vec::new());
    assert_eq!(
        journal.entries(&fresh.id(), 1, 10).await.expect("reading"),
        Vec::new()
    );
    assert_eq!(journal.find_key("new").await.expect("reading"), None);
    assert_eq!(journal.run(&known.id()).await.expect("reading"), Some(before));
    assert_eq!(
        journal.entries(&known.id(), 1, 10).await.expect("reading").len(),
        1
    );
    assert_eq!(
        journal.artifacts(&known.state.subject).await.expect("reading"),
        Vec::new()
    );
    assert_eq!(journal.open_runs().await.expect("reading").len(), 1);
    assert_eq!(
        journal.find_key("taken").await.expect("reading"),
        Some(known.id())
    );
}

async fn batches_must_agree_with_themselves(journal: &impl Journal) {
    let (mut run, start) = SampleRun::start(1, None);
    let (skipped, after) = (run.one_done(), run.next(vec![signal(1)]));
    let mut gap = Batch::default();
    gap.push(start);
    gap.push(after);
    let mut ownerless = Batch::default();
    ownerless.entries.push((run.id(), skipped.entry.clone()));
    let mut rowless = Batch::default();
    rowless.push(skipped);
    rowless.entries.clear();
    let mut same_key = Batch::default();
    same_key.push(SampleRun::start(2, Some("key")).1);
    same_key.push(SampleRun::start(3, Some("key")).1);
    for batch in [gap, ownerless, rowless, same_key] {
        let refused = journal.commit(&batch).await;
        let nothing_to_do = batch.is_empty() && refused.is_ok();
        assert!(
            nothing_to_do || matches!(refused, Err(JournalError::Corrupt(_))),
            "{refused:?}"
        );
    }
    assert_eq!(
        journal.runs(&RunFilter::default()).await.expect("reading"),
        Vec::new()
    );
    assert_eq!(
        journal.entries(&run.id(), 1, 10).await.expect("reading"),
        Vec::new()
    );
}

async fn taken_numbers_are_refused(journal: &impl Journal) {
    let (mut run, start) = SampleRun::start(1, None);
    must(journal, [start.clone()]).await;
    let again = commit(journal, [start]).await;
    assert!(matches!(again, Err(JournalError::Fenced(_))), "{again:?}");
    let second = run.next(vec![signal(2)]);
    must(journal, [second.clone()]).await;
    let again = commit(journal, [second]).await;
    assert!(matches!(again, Err(JournalError::Fenced(_))), "{again:?}");
    let _lost = run.next(vec![signal(3)]);
    let ahead = commit(journal, [run.next(vec![signal(4)])]).await;
    assert!(matches!(ahead, Err(JournalError::Fenced(_))), "{ahead:?}");
    let entries = journal.entries(&run.id(), 1, 10).await.expect("reading");
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2]);
}

async fn filters_limit_and_order(journal: &impl Journal) {
    let mut ids = Vec::new();
    for n in 0..20 {
        let subject = Subject::new(&format!("f01000/{}", n % 4)).expect("a subject");
        let (mut run, start) = SampleRun::start_about(n, subject, None);
        must(journal, [start]).await;
        if n % 2 == 0 {
            must(journal, [run.one_done(), run.finished()]).await;
        }
        ids.push(run.id());
    }
    let newest_first = |keep: &dyn Fn(usize) -> bool| -> Vec<RunId> {
        ids.iter()
            .enumerate()
            .filter(|(n, _)| keep(*n))
            .map(|(_, id)| id.clone())
            .rev()
            .collect()
    };
    let list = async |filter: RunFilter| -> Vec<RunId> {
        let rows = journal.runs(&filter).await.expect("reading");
        assert!(rows.iter().all(|row| filter.accepts(row)));
        rows.into_iter().map(|row| row.run).collect()
    };
    let any = RunFilter::default();
    assert_eq!(list(any.clone()).await, newest_first(&|_| true));
    let ended = RunFilter {
        status: Some(RunStatus::Succeeded),
        ..any.clone()
    };
    assert_eq!(list(ended.clone()).await, newest_first(&|n| n % 2 == 0));
    let limited = RunFilter {
        limit: Some(3),
        ..ended
    };
    assert_eq!(list(limited).await, newest_first(&|n| n % 2 == 0)[..3]);
    assert_eq!(
        list(RunFilter {
            limit: Some(0),
            ..any.clone()
        })
        .await,
        Vec::new()
    );
    let subject = RunFilter {
        subject: Some(Subject::new("f01000/1").expect("a subject")),
        ..any.clone()
    };
    assert_eq!(list(subject.clone()).await, newest_first(&|n| n % 4 == 1));
    assert_eq!(
        list(RunFilter {
            status: Some(RunStatus::Paused),
            ..subject
        })
        .await,
        Vec::new()
    );
    let workflow = |name| RunFilter {
        workflow: Some(WorkflowName::new(name).expect("a name")),
        ..any.clone()
    };
    assert_eq!(list(workflow("sample")).await.len(), 20);
    assert_eq!(list(workflow("other")).await, Vec::new());
    let open: Vec<RunId> = journal
        .open_runs()
        .await
        .expect("reading")
        .into_iter()
        .map(|row| row.run)
        .collect();
    assert_eq!(open.len(), 10);
}

async fn entries_come_in_pieces(journal: &impl Journal) {
    let (mut run, start) = SampleRun::start(1, None);
    let (_, other) = SampleRun::start(2, None);
    must(journal, [start, other]).await;
    must(
        journal,
        (2..=2500).map(|n| run.next(vec![signal(n)])).collect::<Vec<_>>(),
    )
    .await;
    let numbers = async |from, limit| -> Vec<u64> {
        let entries = journal.entries(&run.id(), from, limit).await.expect("reading");
        entries.into_iter().map(|entry| entry.seq).collect()
    };
    assert_eq!(numbers(1, 3).await, [1, 2, 3]);
    assert_eq!(numbers(2499, 10).await, [2499, 2500]);
    assert_eq!(numbers(2501, 10).await, Vec::<u64>::new());
    assert_eq!(numbers(1, 0).await, Vec::<u64>::new());
    assert_eq!(numbers(1, 5000).await, (1..=2500).collect::<Vec<_>>());
    let folded = crate::dispatcher::all_entries(journal, &run.id())
        .await
        .expect("reading");
    assert_eq!(folded.len(), 2500);
    assert_rows(journal, &run, &[0]).await;
}

async fn open_runs_come_with_their_entries(journal: &impl Journal) {
    let mut runs = Vec::new();
    for n in 0..600 {
        let (mut run, start) = SampleRun::start(n, None);
        let mut appends = vec![start];
        // Runs that ended, and long ones, lie between short ones.
        match n {
            20..30 => appends.extend([run.one_done(), run.finished()]),
            30 | 599 => appends.extend((0..1100).map(|at| run.next(vec![signal(at)]))),
            // Some rest, and one of them did and does not any more.
            _ if n % 5 == 0 => appends.push(run.parked()),
            101 => appends.extend([run.parked(), run.woken()]),
            _ if n % 2 == 0 => appends.push(run.one_done()),
            _ => {}
        }
        must(journal, appends).await;
        if !run.state.status.is_final() {
            runs.push(run);
        }
    }
    let mut found = Vec::new();
    loop {
        let last = found.last().map(|open: &OpenRun| open.row.run.clone());
        let page = journal.open_histories(last.as_ref(), 350).await.expect("reading");
        assert!(page.len() <= 350);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found.len(), runs.len());
    for (open, run) in found.iter().zip(&runs) {
        assert_eq!(open.row, run_row(&run.state));
        let entries = open.entries.as_ref().expect("its entries");
        if run.state.rest().is_some() {
            assert!(entries.is_empty(), "a run that rests is not read");
            continue;
        }
        assert!(entries.iter().map(|entry| entry.seq).eq(1..=run.state.seq));
        let stored = journal.entries(&run.id(), 1, 3).await.expect("reading");
        assert!(entries.starts_with(&stored));
    }
    assert_eq!(
        found.iter().filter(|open| open.row.rest.is_some()).count(),
        runs.iter().filter(|run| run.state.rest().is_some()).count()
    );
    let rows: Vec<RunRow> = found.into_iter().map(|open| open.row).collect();
    assert_eq!(journal.open_runs().await.expect("reading"), rows);
}

async fn reads_see_what_was_committed(journal: &impl Journal) {
    let (mut run, start) = SampleRun::start(1, None);
    must(journal, [start]).await;
    for n in 2..100 {
        let append = run.next(vec![signal(n)]);
        must(journal, [append]).await;
        let row = journal.run(&run.id()).await.expect("reading").expect("the run");
        assert_eq!(row.seq, n);
    }
}

async fn payloads_come_back(journal: &impl Journal) {
    let large: Vec<u8> = (0..1_000_000_u32)
        .map(|n| u8::try_from(n % 251).unwrap_or(0))
        .collect();
    let hash = journal.put_payload(&large).await.expect("storing");
    assert_eq!(hash, journal.put_payload(&large).await.expect("storing it again"));
    assert_eq!(journal.payload(&hash).await.expect("reading"), large);
    let empty = journal.put_payload(&[]).await.expect("storing");
    assert_eq!(journal.payload(&empty).await.expect("reading"), Vec::<u8>::new());
    let unknown = "ab".repeat(32);
    for wrong in [unknown.as_str(), "../../etc/passwd", ""] {
        let missing = journal.payload(wrong).await;
        assert!(matches!(missing, Err(JournalError::Corrupt(_))), "{missing:?}");
    }
}

async fn successor_fences_predecessor<J: Journal>(first: &J, second: &J) {
    let (mut run, start) = SampleRun::start(1, None);
    must(second, [start]).await;
    let (other, other_start) = SampleRun::start(2, None);
    let late = commit(first, [other_start]).await;
    assert!(matches!(late, Err(JournalError::Fenced(_))), "{late:?}");
    assert_eq!(second.run(&other.id()).await.expect("reading"), None);
    must(second, [run.one_done()]).await;
    assert_rows(second, &run, &[0, 1]).await;
    assert_rows(first, &run, &[0, 1]).await;
}
