//! `sealflow bench`: what the engine costs on this machine.

use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Subcommand;

use sealflow_engine::workflow::MAX_STEPS;

use crate::bench::{Figures, Load, Spread, chains, fanout, park, recover, seal};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::output;

/// Measure the engine on this machine
///
/// A benchmark makes a journal of its own and removes it. Disk and load decide what comes out: compare only figures of
/// the same machine and hour. docs/benchmarks.md has ours, beside those of other engines.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs of steps that do nothing, one after the other: how many durable steps a second
    ///
    /// Every success is durable before its successor starts. Afterwards the journal is checked, and an export of it counts the successes.
    Engine {
        /// Runs in all
        #[arg(long, default_value_t = 200)]
        runs: usize,
        /// Steps of each run
        #[arg(long, default_value_t = 10)]
        steps: usize,
        /// Runs at a time
        #[arg(long, default_value_t = 200)]
        concurrency: usize,
        /// Let so many executors do the work that connect over gRPC, as those on other machines do
        #[arg(long, default_value_t = 0)]
        remote: usize,
        #[command(flatten)]
        place: Place,
    },
    /// Runs of very many steps: does a step cost more where a run has more of them?
    ///
    /// Runs with a hundredth, a tenth and all of the items in one step, and one with all of them in each of several steps.
    /// Afterwards the journal is checked, and an export of it counts the successes.
    Fanout {
        /// Items of a step
        #[arg(long, default_value_t = fanout::MOST)]
        items: usize,
        /// Steps of the largest run
        #[arg(long, default_value_t = 5)]
        steps: usize,
        #[command(flatten)]
        place: Place,
    },
    /// Runs that wait for a signal: their memory, the time of a start, and whether others are slower for them
    ///
    /// They are made, and a second process opens the same journal. It is checked at the end.
    Park {
        /// Runs that wait
        #[arg(long, default_value_t = 100_000)]
        runs: usize,
        #[command(flatten)]
        place: Place,
        /// Be the second process
        #[arg(long, hide = true)]
        reopen: Option<PathBuf>,
    },
    /// One real sector through the engine, and the same by bare calls of the proofs library: what is durability's price?
    ///
    /// In turns in one process, after one sector to warm up. A proof takes half a minute of both cores where there are two.
    Seal {
        /// The sector's size: 2KiB or 8MiB with parameters generated here
        #[arg(long, value_name = "SIZE", default_value = "2KiB")]
        sector_size: ByteSize,
        /// How often each
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        #[command(flatten)]
        place: Place,
    },
    /// Kill a daemon with many runs in flight, and start the next: how long until it goes on, and what was lost
    ///
    /// An export of the journal counts each success at the end, and the journal is checked.
    Recover {
        /// Runs in flight
        #[arg(long, default_value_t = 1000)]
        runs: usize,
        #[command(flatten)]
        place: Place,
        /// Be the process that is killed
        #[arg(long, hide = true)]
        victim: Option<PathBuf>,
    },
}

/// Where a benchmark works, and how it tells.
#[derive(Debug, clap::Args)]
struct Place {
    /// The folder to work in; its disk is what is measured [default: in the home]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Place {
    /// A folder of its own, which goes with its owner.
    fn open(&self, cx: &Context) -> anyhow::Result<tempfile::TempDir> {
        cx.home.prepare()?;
        let folder = self.folder.as_deref().unwrap_or_else(|| cx.home.root());
        tempfile::tempdir_in(folder).with_context(|| format!("cannot write {}", folder.display()))
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Engine {
            runs,
            steps,
            concurrency,
            remote,
            place,
        } => {
            let load = Load {
                runs,
                steps,
                concurrency,
                remote,
            };
            engine(cx, load, &place).await
        }
        Command::Fanout { items, steps, place } => fanned(cx, items, steps, &place).await,
        Command::Park {
            runs,
            reopen: Some(folder),
            ..
        } => output::json(&Box::pin(park::reopen(&folder, runs)).await?),
        Command::Park { runs, place, .. } => parked(cx, runs, &place).await,
        Command::Seal {
            sector_size,
            rounds,
            place,
        } => sealed(cx, sector_size, rounds, &place).await,
        Command::Recover {
            runs,
            victim: Some(folder),
            ..
        } => Box::pin(recover::victim(&folder, runs, || output::data("ready\n"))).await,
        Command::Recover { runs, place, .. } => recovered(cx, runs, &place).await,
    }
}

/// This program again, as another process of the same benchmark.
fn again(
    cx: &Context,
    what: &str,
    role: &str,
    folder: &Path,
    runs: usize,
) -> anyhow::Result<process::Command> {
    let mut command = process::Command::new(std::env::current_exe()?);
    command
        .arg("--home")
        .arg(cx.home.root())
        .args(["bench", what, "--runs"]);
    command.arg(runs.to_string()).arg(role).arg(folder);
    Ok(command)
}

fn at_least_one(runs: usize) -> anyhow::Result<()> {
    if runs == 0 {
        return Err(CliError::new(Kind::Usage, "take at least one run").into());
    }
    Ok(())
}

async fn fanned(cx: &Context, items: usize, steps: usize, place: &Place) -> anyhow::Result<()> {
    if !(100..=fanout::MOST).contains(&items) || !(1..=100).contains(&steps) {
        let text = format!("take 100 to {} items, and 1 to 100 steps", fanout::MOST);
        return Err(CliError::new(Kind::Usage, text).into());
    }
    let folder = place.open(cx)?;
    let figures = Box::pin(fanout::measure(folder.path(), items, steps)).await?;
    if place.json {
        output::json(&figures)?;
    } else {
        let row = |size: &fanout::Size| {
            vec![
                format!("{} × {}", size.steps, size.items),
                format!("{:.2} s", size.seconds),
                format!("{:.0}", size.attempts_per_second),
            ]
        };
        output::table(
            &["steps × items", "time", "a second"],
            figures.sizes.iter().map(row).collect(),
        );
        table([
            (
                "an attempt of the largest",
                format!("costs {:.2} times as much", figures.growth),
            ),
            ("peak memory", size_of(figures.peak_memory_bytes)),
        ]);
    }
    let wanted: usize = figures.sizes.iter().map(|size| size.attempts).sum();
    counted(wanted as u64, figures.exported_successes)?;
    sound(figures.problems)
}

async fn parked(cx: &Context, runs: usize, place: &Place) -> anyhow::Result<()> {
    at_least_one(runs)?;
    let folder = place.open(cx)?;
    let second = |folder: &Path| again(cx, "park", "--reopen", folder, runs);
    let figures = Box::pin(park::measure(folder.path(), runs, second)).await?;
    if place.json {
        output::json(&figures)?;
    } else {
        let there = &figures.reopened;
        let rate = |rate: f64| format!("{rate:.0} durable steps a second");
        table([
            ("runs that wait", figures.runs.to_string()),
            ("made in", format!("{:.1} s", figures.fill_seconds)),
            ("open again after", format!("{:.2} s", there.open_seconds)),
            ("memory then", size_of(there.memory_bytes)),
            ("at most until then", size_of(there.peak_memory_bytes)),
            ("others, without them", rate(figures.alone_steps_per_second)),
            (
                "others, beside them",
                format!("{}, {:.2} times", rate(there.steps_per_second), figures.ratio),
            ),
            ("a signal is durable", told(there.wake_ms)),
        ]);
    }
    sound(figures.reopened.problems)
}

async fn sealed(cx: &Context, sector_size: ByteSize, rounds: usize, place: &Place) -> anyhow::Result<()> {
    at_least_one(rounds)?;
    let proof = crate::sizes::seal_proof(sector_size)?;
    let folder = place.open(cx)?;
    let figures = Box::pin(seal::measure(cx, folder.path(), proof, rounds)).await?;
    if place.json {
        return output::json(&figures);
    }
    let seconds = |seconds: f64| format!("{seconds:.3} s");
    let row = |step: &seal::Step| {
        let library = step.library_seconds.map_or_else(String::new, seconds);
        vec![step.step.clone(), seconds(step.engine_seconds), library]
    };
    output::table(
        &["step", "the engine", "the library"],
        figures.steps.iter().map(row).collect(),
    );
    table([
        ("the run", seconds(figures.engine_seconds)),
        ("the library's calls", seconds(figures.library_seconds)),
        ("ratio", format!("{:.4}", figures.ratio)),
        (
            "the engine adds, but for c2",
            format!(
                "{}, {:.2} % of the library's calls",
                seconds(figures.overhead_seconds),
                figures.overhead_share * 100.0
            ),
        ),
        ("peak memory", size_of(figures.peak_memory_bytes)),
    ]);
    Ok(())
}

async fn recovered(cx: &Context, runs: usize, place: &Place) -> anyhow::Result<()> {
    at_least_one(runs)?;
    let folder = place.open(cx)?;
    let first = |folder: &Path| again(cx, "recover", "--victim", folder, runs);
    let figures = Box::pin(recover::measure(folder.path(), runs, first)).await?;
    if place.json {
        output::json(&figures)?;
    } else {
        let seconds = |seconds: f64| format!("{seconds:.2} s");
        table([
            (
                "in flight",
                format!(
                    "{} of {} steps",
                    output::count(figures.runs, "run"),
                    figures.steps
                ),
            ),
            ("first attempt after", seconds(figures.first_dispatch_seconds)),
            ("all under way after", seconds(figures.all_dispatched_seconds)),
            ("all ended after", seconds(figures.ended_seconds)),
            ("successes", figures.exported_successes.to_string()),
        ]);
    }
    let wanted = figures.runs as u64 * figures.steps as u64;
    counted(wanted, figures.exported_successes)?;
    sound(figures.problems)
}

async fn engine(cx: &Context, load: Load, place: &Place) -> anyhow::Result<()> {
    let Load {
        runs,
        steps,
        concurrency,
        ..
    } = load;
    if runs == 0 || steps == 0 || concurrency == 0 || steps > MAX_STEPS {
        let text = format!(
            "take at least one run of one step at a time, and at most {MAX_STEPS} steps a run; for more see `bench fanout`"
        );
        return Err(CliError::new(Kind::Usage, text).into());
    }
    let folder = place.open(cx)?;
    let figures = Box::pin(chains(folder.path(), load)).await?;
    if place.json {
        output::json(&figures)?;
    } else {
        show(&figures);
    }
    counted(runs as u64 * steps as u64, figures.exported_successes)?;
    sound(figures.problems)
}

/// Each success is there once.
fn counted(wanted: u64, exported: u64) -> anyhow::Result<()> {
    if wanted == exported {
        return Ok(());
    }
    let text = format!("{exported} of {wanted} successes were exported");
    Err(CliError::new(Kind::CheckFailed, text).into())
}

fn sound(problems: usize) -> anyhow::Result<()> {
    if problems == 0 {
        return Ok(());
    }
    let text = format!("the journal has {}", output::count(problems, "problem"));
    Err(CliError::new(Kind::CheckFailed, text).into())
}

fn table<const N: usize>(rows: [(&str, String); N]) {
    let rows = rows.into_iter().map(|(what, is)| vec![what.to_owned(), is]);
    output::table(&["", ""], rows.collect());
}

fn size_of(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| ByteSize(bytes).to_string())
}

fn told(spread: Spread) -> String {
    format!(
        "p50 {:.2} ms, p99 {:.2} ms, at most {:.2} ms",
        spread.p50, spread.p99, spread.max
    )
}

fn show(figures: &Figures) {
    let load = figures.load;
    let place = match load.remote {
        0 => "in the process".to_owned(),
        count => format!("on {} over gRPC", output::count(count, "executor")),
    };
    table([
        (
            "load",
            format!(
                "{} of {}, {} at a time, {place}",
                output::count(load.runs, "run"),
                output::count(load.steps, "step"),
                load.concurrency
            ),
        ),
        (
            "durable steps",
            format!(
                "{:.0} a second ({:.2} s)",
                figures.steps_per_second, figures.seconds
            ),
        ),
        ("step latency", told(figures.step_latency_ms)),
        ("hand-off", told(figures.handoff_ms)),
        ("commits", figures.commits.to_string()),
        ("durability", figures.durability.clone()),
        ("peak memory", size_of(figures.peak_memory_bytes)),
    ]);
}
