//! Runs of very many steps: whether an attempt costs more where a run has more of them.

use std::path::Path;
use std::time::{Duration, Instant};

use sealflow_engine::dispatcher::NewRun;
use sealflow_engine::event::By;
use sealflow_engine::workflow::Foreach;
use serde::Serialize;
use serde_json::json;

use super::{Bench, counted, memory, noop};

/// Items under way at a time.
const PARALLEL: usize = 200;

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// From the smallest to the largest.
    pub(crate) sizes: Vec<Size>,
    /// What an attempt of the largest run costs, as a multiple of what it costs in the second smallest: in the smallest
    /// the start and the end of the run are a part of it.
    pub(crate) growth: f64,
    /// Successes that an export of the journal counts.
    pub(crate) exported_successes: u64,
    /// Problems that `store check` found; none is right.
    pub(crate) problems: usize,
    /// The most memory that this process had, in bytes.
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) version: &'static str,
}

/// A run.
#[derive(Debug, Serialize)]
pub(crate) struct Size {
    /// Items of each of its steps.
    pub(crate) items: usize,
    /// Its steps, one after the other.
    pub(crate) steps: usize,
    /// Attempts: items × steps.
    pub(crate) attempts: usize,
    /// From its start to its end.
    pub(crate) seconds: f64,
    pub(crate) attempts_per_second: f64,
}

/// The most items that a step may have.
pub(crate) const MOST: usize = Foreach::MAX_ITEMS;

/// Measures runs of `items` / 100, `items` / 10, and `items` items in one step, and of `items` in each of `steps` steps.
pub(crate) async fn measure(folder: &Path, items: usize, steps: usize) -> anyhow::Result<Figures> {
    let bench = Bench::open(folder, PARALLEL, 1, Duration::ZERO).await?;
    let mut sizes = Vec::new();
    let shapes = [(items / 100, 1), (items / 10, 1), (items, 1), (items, steps)];
    for (id, (items, steps)) in shapes.into_iter().enumerate() {
        let graph = noop::fan(steps, PARALLEL, bench.handle.registry())?;
        let new = NewRun {
            graph,
            source: String::new(),
            params: json!({ "id": id, "things": (0..items).collect::<Vec<_>>() }),
            key: None,
            priority: None,
            by: By::default(),
        };
        let settled = bench.observed.settled() + 1;
        let begun = Instant::now();
        bench.handle.start_run(new).await?;
        bench.until_settled(settled).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let attempts = items * steps;
        sizes.push(Size {
            items,
            steps,
            attempts,
            seconds,
            attempts_per_second: f64::from(u32::try_from(attempts)?) / seconds,
        });
    }
    bench.close().await?;
    let (report, exported_successes) = counted(folder).await?;
    let rate = |size: Option<&Size>| size.map_or(f64::NAN, |size| size.attempts_per_second);
    Ok(Figures {
        growth: rate(sizes.get(1)) / rate(sizes.last()),
        sizes,
        exported_successes,
        problems: report.problems.len(),
        peak_memory_bytes: memory("VmHWM:"),
        version: env!("CARGO_PKG_VERSION"),
    })
}
