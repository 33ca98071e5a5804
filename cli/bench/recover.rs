//! A daemon that is killed with many runs in flight, and the next one: how long until it goes on, and whether anything was
//! lost or done twice.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::{Bench, counted, noop};

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Runs that were in flight.
    pub(crate) runs: usize,
    /// Steps of each.
    pub(crate) steps: usize,
    /// From the start of the second life to its first attempt.
    pub(crate) first_dispatch_seconds: f64,
    /// Until as many attempts had begun as there were runs.
    pub(crate) all_dispatched_seconds: f64,
    /// Until all had ended.
    pub(crate) ended_seconds: f64,
    /// Successes that an export counts at the end.
    pub(crate) exported_successes: u64,
    /// Problems that `store check` found.
    pub(crate) problems: usize,
    pub(crate) version: &'static str,
}

/// Steps of each run.
const STEPS: usize = 10;
/// How long an attempt of the first life takes: long enough that every run is in one when it is killed.
const EACH: Duration = Duration::from_millis(400);

/// What the first process does until it is killed: it says when every run is in an attempt.
pub(crate) async fn victim(folder: &Path, runs: usize, say: impl FnOnce()) -> anyhow::Result<()> {
    let bench = Bench::open(folder, runs, runs, EACH).await?;
    let graph = noop::chain(STEPS, bench.handle.registry())?;
    let driven = bench.run(&graph, 0..runs);
    let ready = async {
        while bench.starts.count() < runs * 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        say();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        driven = driven => driven?,
        () = ready => {}
    }
    anyhow::bail!("nobody killed this process before its runs had ended")
}

/// Kills the first process in the middle, and is the second: `first` makes the command of the first.
pub(crate) async fn measure(
    folder: &Path,
    runs: usize,
    first: impl FnOnce(&Path) -> anyhow::Result<Command>,
) -> anyhow::Result<Figures> {
    let mut child = first(folder)?.stdout(Stdio::piped()).spawn()?;
    let killed = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        child.kill()?;
        child.wait()?;
        std::io::Result::Ok(!said.is_empty())
    });
    anyhow::ensure!(
        killed.await??,
        "the first process ended before its runs had begun"
    );

    let begun = Instant::now();
    let bench = Bench::open(folder, runs, runs, Duration::ZERO).await?;
    let dispatched = async {
        while bench.starts.count() < runs {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    bench.watched(dispatched).await?;
    let all_dispatched_seconds = begun.elapsed().as_secs_f64();
    let first = bench.starts.first().context("nothing was started")?;
    bench.until_settled(runs).await?;
    let ended_seconds = begun.elapsed().as_secs_f64();
    bench.close().await?;
    let (report, exported_successes) = counted(folder).await?;
    Ok(Figures {
        runs,
        steps: STEPS,
        first_dispatch_seconds: first.saturating_duration_since(begun).as_secs_f64(),
        all_dispatched_seconds,
        ended_seconds,
        exported_successes,
        problems: report.problems.len(),
        version: env!("CARGO_PKG_VERSION"),
    })
}
