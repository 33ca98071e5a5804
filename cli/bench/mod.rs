//! Measures the engine on a journal of its own: how many durable steps a second, and how long one takes. Every number
//! comes with its conditions; docs/benchmarks.md compares them with those of others from the same hour.

pub(crate) mod fanout;
mod noop;
mod observed;
pub(crate) mod park;
pub(crate) mod recover;
mod remote;
pub(crate) mod seal;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngCore;
use sealflow_engine::artifact::Stores;
use sealflow_engine::clock::SystemClock;
use sealflow_engine::dispatcher::{self, Handle, NewRun, Parts};
use sealflow_engine::event::By;
use sealflow_engine::executor::{Executor, ExecutorSpec, Machine};
use sealflow_engine::resource::Resources;
use sealflow_engine::workflow::Graph;
use sealflow_executors::InProcess;
use sealflow_storage::journal::{CheckReport, OpenOptions, SurrealJournal, check, export};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use noop::Starts;
use observed::Observed;

/// What is done.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Load {
    /// Runs in all.
    pub(crate) runs: usize,
    /// Steps of each, one after the other.
    pub(crate) steps: usize,
    /// Runs at a time.
    pub(crate) concurrency: usize,
    /// Executors on "other machines", reached over gRPC on this one; none: all in the process.
    pub(crate) remote: usize,
}

/// A distribution, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) load: Load,
    pub(crate) seconds: f64,
    pub(crate) steps_per_second: f64,
    /// From an attempt's start to its success being durable.
    pub(crate) step_latency_ms: Spread,
    /// From a success being durable to its successor's start.
    pub(crate) handoff_ms: Spread,
    /// Transactions of the journal.
    pub(crate) commits: u64,
    /// What a commit promises.
    pub(crate) durability: String,
    /// Successes that an export of the journal counts.
    pub(crate) exported_successes: u64,
    /// Problems that `store check` found; none is right.
    pub(crate) problems: usize,
    /// The most memory that this process had, in bytes; with remote executors theirs too.
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) version: &'static str,
}

/// Runs chains of steps that do nothing, and counts.
pub(crate) async fn chains(folder: &Path, load: Load) -> anyhow::Result<Figures> {
    let here = if load.remote == 0 {
        load.concurrency.max(1)
    } else {
        0
    };
    let bench = Bench::open(folder, here, load.concurrency, Duration::ZERO).await?;
    let far = match load.remote {
        0 => None,
        count => {
            let each = load.concurrency.div_ceil(count);
            Some(remote::connect(&bench.handle, count, each, &bench.starts).await?)
        }
    };
    let commits_before = bench.observed.commits();
    let begun = Instant::now();
    let graph = noop::chain(load.steps, bench.handle.registry())?;
    bench.run(&graph, 0..load.runs).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let commits = bench.observed.commits() - commits_before;
    if let Some(far) = far {
        far.end().await;
    }
    let (latency, handoff) = bench.observed.latencies(&bench.starts);
    bench.close().await?;
    let (report, exported) = counted(folder).await?;
    let steps = f64::from(u32::try_from(load.runs * load.steps)?);
    Ok(Figures {
        load,
        seconds,
        steps_per_second: steps / seconds,
        step_latency_ms: spread(latency),
        handoff_ms: spread(handoff),
        commits,
        durability: "a commit returns after fsync (surrealkv, sync=every); no step starts before what it needs is durable".to_owned(),
        exported_successes: exported,
        problems: report.problems.len(),
        peak_memory_bytes: memory("VmHWM:"),
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// An engine on a journal in a folder, with stages that do nothing.
struct Bench {
    handle: Handle,
    observed: Arc<Observed>,
    starts: Starts,
    shutdown: CancellationToken,
    /// How the engine ended, once it has.
    ended: watch::Receiver<Option<Result<(), String>>>,
}

impl Bench {
    /// Opens the journal and starts what it says is under way: so many attempts at a time in the process, each of which
    /// takes so long, and so many runs.
    async fn open(folder: &Path, slots: usize, runs: usize, each: Duration) -> anyhow::Result<Self> {
        let (url, payloads) = place(folder);
        let journal = SurrealJournal::open(&url, OpenOptions::new(payloads)).await?;
        let observed = Arc::new(Observed::new(Arc::new(journal), runs));
        let starts = Starts::default();
        let registry = Arc::new(noop::registry(&starts, each));
        let machine = Machine {
            name: "local".to_owned(),
            capacity: Resources {
                cpu: 64,
                memory: 1 << 40,
                ..Resources::default()
            },
        };
        let executors: Vec<Arc<dyn Executor>> = if slots > 0 {
            let spec = ExecutorSpec::new("local", machine, slots);
            vec![Arc::new(InProcess::new(
                spec,
                registry.clone(),
                Stores::default(),
            ))]
        } else {
            Vec::new()
        };
        let mut seed = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut seed);
        let parts = Parts {
            journal: observed.clone(),
            registry,
            executors,
            clock: Arc::new(SystemClock::default()),
            seed,
        };
        let (dispatcher, handle) = dispatcher::open(parts).await?;
        let shutdown = CancellationToken::new();
        let (tell, ended) = watch::channel(None);
        let until = shutdown.clone();
        tokio::spawn(async move {
            let end = dispatcher.run(until).await;
            tell.send_replace(Some(end.map_err(|error| error.to_string())));
        });
        Ok(Self {
            handle,
            observed,
            starts,
            shutdown,
            ended,
        })
    }

    /// Starts runs, as many at a time as there is room for. Each is started by a client of its own, as people and
    /// triggers do: whoever waited for one start to be durable before asking for the next would measure that.
    async fn drive(&self, graph: &Arc<Graph>, ids: Range<usize>) -> anyhow::Result<()> {
        let mut starts = JoinSet::new();
        for id in ids {
            self.observed.room().await;
            let new = NewRun {
                graph: graph.clone(),
                source: String::new(),
                params: json!({ "id": id }),
                key: None,
                priority: None,
                by: By::default(),
            };
            let handle = self.handle.clone();
            starts.spawn(async move { handle.start_run(new).await });
            while let Some(started) = starts.try_join_next() {
                started??;
            }
        }
        while let Some(started) = starts.join_next().await {
            started??;
        }
        Ok(())
    }

    /// Starts runs, and waits until all have ended or rest.
    async fn run(&self, graph: &Arc<Graph>, ids: Range<usize>) -> anyhow::Result<()> {
        let settled = self.observed.settled() + ids.len();
        let all = async {
            self.drive(graph, ids).await?;
            self.observed.until_settled(settled).await;
            Ok(())
        };
        self.watched(all).await
    }

    /// Waits until runs ended or came to rest so often.
    async fn until_settled(&self, times: usize) -> anyhow::Result<()> {
        let all = async {
            self.observed.until_settled(times).await;
            Ok(())
        };
        self.watched(all).await
    }

    /// Waits for something, but not for an engine that has ended or stands still.
    async fn watched(&self, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        let mut ended = self.ended.clone();
        let end = async move { ended.wait_for(Option::is_some).await.map(|end| end.clone()) };
        tokio::select! {
            // Its end says why what was waited for failed.
            biased;
            end = end => match end {
                Ok(Some(Err(why))) => anyhow::bail!("the engine ended: {why}"),
                _ => anyhow::bail!("the engine ended"),
            },
            done = work => done,
            stalled = self.observed.stalled(Duration::from_secs(60)) => anyhow::bail!("nothing was committed for {} s", stalled.as_secs()),
        }
    }

    async fn close(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        if let Some(Err(why)) = &*self.ended.wait_for(Option::is_some).await? {
            anyhow::bail!("the engine ended: {why}");
        }
        drop(self.handle);
        Ok(self.observed.close().await?)
    }
}

/// Where the journal and its payloads are.
fn place(folder: &Path) -> (String, PathBuf) {
    let url = format!("surrealkv://{}", folder.join("journal").display());
    (url, folder.join("payloads"))
}

/// Holds the journal against its invariants, and counts successes in an export.
async fn counted(folder: &Path) -> anyhow::Result<(CheckReport, u64)> {
    let (url, payloads) = place(folder);
    let journal = SurrealJournal::open(&url, OpenOptions::new(payloads)).await?;
    let report = check(&journal).await?;
    let mut count = Successes(0);
    export(&journal, &mut count).await?;
    journal.close().await?;
    Ok((report, count.0))
}

/// Counts successes in the lines of an export.
struct Successes(u64);

impl std::io::Write for Successes {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        self.0 += text.matches("\"event\":\"attempt_succeeded\"").count() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn spread(mut all: Vec<f64>) -> Spread {
    all.sort_by(f64::total_cmp);
    let at = |part: usize| all.get((all.len() * part / 100).min(all.len().saturating_sub(1)));
    let at = |part| at(part).copied().unwrap_or_default();
    Spread {
        p50: at(50),
        p99: at(99),
        max: at(100),
    }
}

/// What the system says about this process's memory, in bytes: `VmHWM:`, the most that it ever had, or `VmRSS:`.
fn memory(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}
