//! Runs that wait: what many of them cost in memory and at a start, and whether others are slower for them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sealflow_engine::core::Verb;
use sealflow_engine::event::By;
use sealflow_engine::journal::{Journal, RunFilter};
use sealflow_engine::run::RunStatus;
use serde::{Deserialize, Serialize};

use super::{Bench, Spread, counted, memory, noop, spread};

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Runs that wait.
    pub(crate) runs: usize,
    /// How long it took to start them and bring them to their wait.
    pub(crate) fill_seconds: f64,
    /// Durable steps a second on an empty journal.
    pub(crate) alone_steps_per_second: f64,
    /// A daemon that was started anew on them.
    #[serde(flatten)]
    pub(crate) reopened: Reopened,
    /// Steps a second beside them, as a share of those on an empty journal.
    pub(crate) ratio: f64,
    pub(crate) version: &'static str,
}

/// What a new process finds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reopened {
    /// From nothing to an engine that answers.
    pub(crate) open_seconds: f64,
    /// Memory of the process then, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// The most that it had until then.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// Durable steps a second beside the runs that wait.
    pub(crate) steps_per_second: f64,
    /// From a signal being sent to its being durable, the run having been read again.
    pub(crate) wake_ms: Spread,
    /// Problems that `store check` found afterwards.
    pub(crate) problems: usize,
}

/// The load whose rate is compared: runs, steps, runs at a time.
const BESIDE: (usize, usize, usize) = (500, 10, 50);
/// How many are sent their signal.
const WOKEN: u32 = 100;

/// Starts runs that wait, and starts this program again on them: `again` makes the command.
pub(crate) async fn measure(
    folder: &Path,
    runs: usize,
    again: impl FnOnce(&Path) -> anyhow::Result<Command>,
) -> anyhow::Result<Figures> {
    let (empty, full) = (folder.join("empty"), folder.join("full"));
    std::fs::create_dir_all(&empty)?;
    std::fs::create_dir_all(&full)?;
    let bench = Bench::open(&empty, BESIDE.2, BESIDE.2, Duration::ZERO).await?;
    let alone = beside(&bench, 0).await?;
    bench.close().await?;

    let bench = Bench::open(&full, 200, 200, Duration::ZERO).await?;
    let graph = noop::parking(bench.handle.registry())?;
    let begun = Instant::now();
    bench.run(&graph, 0..runs).await?;
    let fill_seconds = begun.elapsed().as_secs_f64();
    bench.close().await?;

    let child = again(&full)?.stdout(Stdio::piped()).spawn()?;
    let output = tokio::task::spawn_blocking(move || child.wait_with_output()).await??;
    anyhow::ensure!(
        output.status.success(),
        "the second process ended with {}",
        output.status
    );
    let reopened: Reopened =
        serde_json::from_slice(&output.stdout).context("what the second process printed")?;
    Ok(Figures {
        runs,
        fill_seconds,
        alone_steps_per_second: alone,
        ratio: reopened.steps_per_second / alone,
        reopened,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// What the second process does.
pub(crate) async fn reopen(folder: &Path, runs: usize) -> anyhow::Result<Reopened> {
    let begun = Instant::now();
    let bench = Bench::open(folder, BESIDE.2, BESIDE.2, Duration::ZERO).await?;
    let open = bench.handle.engine().await?.open;
    let open_seconds = begun.elapsed().as_secs_f64();
    anyhow::ensure!(open == runs, "{open} runs are open, not {runs}");
    let (memory_bytes, peak_memory_bytes) = (memory("VmRSS:"), memory("VmHWM:"));
    let waiting = RunFilter {
        status: Some(RunStatus::Running),
        limit: Some(WOKEN),
        ..RunFilter::default()
    };
    let waiting = bench.observed.runs(&waiting).await?;
    let steps_per_second = beside(&bench, runs).await?;
    let settled = bench.observed.settled() + waiting.len();
    let mut times = Vec::new();
    for row in waiting {
        let sent = Instant::now();
        let signal = Verb::Signal("go".to_owned(), serde_json::Value::Null);
        bench.handle.operate(&row.run, signal, By::default()).await?;
        times.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    bench.until_settled(settled).await?;
    bench.close().await?;
    let (report, _) = counted(folder).await?;
    Ok(Reopened {
        open_seconds,
        memory_bytes,
        peak_memory_bytes,
        steps_per_second,
        wake_ms: spread(times),
        problems: report.problems.len(),
    })
}

/// Durable steps a second of chains about things from this number on.
async fn beside(bench: &Bench, from: usize) -> anyhow::Result<f64> {
    let (runs, steps, _) = BESIDE;
    let graph = noop::chain(steps, bench.handle.registry())?;
    let begun = Instant::now();
    bench.run(&graph, from..from + runs).await?;
    let steps = f64::from(u32::try_from(runs * steps)?);
    Ok(steps / begun.elapsed().as_secs_f64())
}
