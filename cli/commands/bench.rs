//! `sealflow bench`: what the engine costs on this machine.

use std::path::PathBuf;

use anyhow::Context as _;
use bytesize::ByteSize;
use clap::Subcommand;

use crate::bench::{Figures, Load, Spread, chains};
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
        /// The folder for the journal; its disk is what is measured [default: in the home]
        #[arg(long)]
        folder: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let Command::Engine {
        runs,
        steps,
        concurrency,
        remote,
        folder,
        json,
    } = args.command;
    if runs == 0 || steps == 0 || concurrency == 0 || steps > 50_000 {
        let text = "take at least one run of one step at a time, and at most 50,000 steps a run";
        return Err(CliError::new(Kind::Usage, text).into());
    }
    cx.home.prepare()?;
    let folder = folder.unwrap_or_else(|| cx.home.root().to_owned());
    let folder =
        tempfile::tempdir_in(&folder).with_context(|| format!("cannot write {}", folder.display()))?;
    let load = Load {
        runs,
        steps,
        concurrency,
        remote,
    };
    let figures = Box::pin(chains(folder.path(), load)).await?;
    let wanted = runs as u64 * steps as u64;
    if json {
        output::json(&figures)?;
    } else {
        show(&figures);
    }
    if figures.problems > 0 || figures.exported_successes != wanted {
        let text = format!(
            "{} of {wanted} successes were exported, and the journal has {}",
            figures.exported_successes,
            output::count(figures.problems, "problem")
        );
        return Err(CliError::new(Kind::CheckFailed, text).into());
    }
    Ok(())
}

fn show(figures: &Figures) {
    let spread = |spread: Spread| {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms, at most {:.2} ms",
            spread.p50, spread.p99, spread.max
        )
    };
    let load = figures.load;
    let place = match load.remote {
        0 => "in the process".to_owned(),
        count => format!("on {} over gRPC", output::count(count, "executor")),
    };
    let rows = [
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
        ("step latency", spread(figures.step_latency_ms)),
        ("hand-off", spread(figures.handoff_ms)),
        ("commits", figures.commits.to_string()),
        ("durability", figures.durability.clone()),
        (
            "peak memory",
            figures
                .peak_memory_bytes
                .map_or_else(String::new, |bytes| ByteSize(bytes).to_string()),
        ),
    ];
    output::table(
        &["", ""],
        rows.into_iter()
            .map(|(what, is)| vec![what.to_owned(), is])
            .collect(),
    );
}
