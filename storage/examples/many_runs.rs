//! Measures what a start and lists cost when the journal holds many open runs, one in ten of them paused,
//! on embedded SurrealKV. Prints JSON. Usage: `many_runs [RUNS] [FOLDER]`; docs/storage.md has results.

use std::io::Write;
use std::time::{Duration, Instant};

use sealflow_engine::dispatcher::all_entries;
use sealflow_engine::event::{By, Event, PauseReason};
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::{Batch, Journal, RunFilter};
use sealflow_engine::run::{RunState, RunStatus};
use sealflow_engine::testing::SampleRun;
use sealflow_storage::journal::{OpenOptions, SurrealJournal};
use serde_json::json;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let runs: u16 = args.next().map_or(Ok(10_000), |text| text.parse())?;
    let folder = tempfile::TempDir::new()?;
    let folder = args.next().map_or(folder.path().to_owned(), Into::into);
    let url = format!("surrealkv://{}", folder.join("journal").display());
    let open = || SurrealJournal::open(&url, OpenOptions::new(folder.join("payloads")));

    let journal = open().await?;
    let begun = Instant::now();
    let ids = fill(&journal, runs).await?;
    let filled = begun.elapsed();
    journal.close().await?;
    drop(journal);

    let begun = Instant::now();
    let journal = open().await?;
    let opened = begun.elapsed();

    let begun = Instant::now();
    let taken_up = take_up(&journal).await?;
    let together = begun.elapsed();

    // As a start did it before: the row and the entries of each run by themselves. A tenth of them is enough.
    let begun = Instant::now();
    let (graph, _) = SampleRun::graph();
    let some: Vec<&RunId> = ids.iter().step_by(10).collect();
    for run in &some {
        journal.run(run).await?;
        RunState::fold(
            run,
            std::slice::from_ref(&graph),
            &all_entries(&journal, run).await?,
        )?;
    }
    let one_by_one = begun.elapsed();

    let list = async |filter: RunFilter| -> Fallible<f64> {
        let begun = Instant::now();
        for _ in 0..5 {
            journal.runs(&filter).await?;
        }
        Ok(ms(begun.elapsed()) / 5.0)
    };
    let newest = RunFilter {
        limit: Some(100),
        ..RunFilter::default()
    };
    let paused = RunFilter {
        status: Some(RunStatus::Paused),
        ..newest.clone()
    };
    let subject = RunFilter {
        subject: Some(Subject::new("f01000/1")?),
        ..newest.clone()
    };
    let result = json!({
        "runs": taken_up, "entries_a_run": 4, "fill_s": filled.as_secs_f64(), "open_ms": ms(opened),
        "take_up_together_us_a_run": us(together, taken_up), "one_by_one_us_a_run": us(one_by_one, some.len()),
        "ratio": us(one_by_one, some.len()) / us(together, taken_up),
        "list_100_newest_ms": list(newest).await?, "list_100_paused_ms": list(paused).await?,
        "list_one_subject_ms": list(subject).await?,
    });
    journal.close().await?;
    writeln!(std::io::stdout(), "{result:#}")?;
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn us(time: Duration, runs: usize) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(u32::try_from(runs).unwrap_or(u32::MAX))
}

/// Runs of four entries.
async fn fill(journal: &SurrealJournal, runs: u16) -> Fallible<Vec<RunId>> {
    let mut ids = Vec::new();
    let mut batch = Batch::default();
    for n in 0..runs {
        let (mut run, start) = SampleRun::start(n, None);
        batch.push(start);
        for append in [run.one_done(), run.rewound(), run.one_done()] {
            batch.push(append);
        }
        if n % 10 == 0 {
            let reason = PauseReason::Operator(By::default());
            batch.push(run.next(vec![Event::RunPaused { reason }]));
        }
        ids.push(run.id());
        if n % 200 == 199 || n + 1 == runs {
            journal.commit(&batch).await?;
            batch = Batch::default();
        }
    }
    Ok(ids)
}

/// What a start does.
async fn take_up(journal: &SurrealJournal) -> Fallible<usize> {
    let (graph, _) = SampleRun::graph();
    let (mut last, mut count): (Option<RunId>, usize) = (None, 0);
    loop {
        let page = journal.open_histories(last.as_ref(), 500).await?;
        let Some(open) = page.last() else { return Ok(count) };
        last = Some(open.row.run.clone());
        for open in page {
            RunState::fold(&open.row.run, std::slice::from_ref(&graph), &open.entries?)?;
            count += 1;
        }
    }
}
