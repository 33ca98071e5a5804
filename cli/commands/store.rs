//! `sealflow store`: the durable history as a whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use sealflow_engine::durable;
use sealflow_engine::journal::JournalError;
use sealflow_storage::journal::{CheckReport, Transferred, check, check_files, export, import};

use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::{output, wire};

/// Check, export and import the durable history
///
/// The daemon must not run: the store belongs to one process at a time.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say whether every invariant that can be seen in the store holds, and its artifacts are there
    Check {
        /// Read every stored file too, and compare its checksum
        #[arg(long)]
        deep: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write everything into one file
    Export {
        /// The file
        file: PathBuf,
    },
    /// Read such a file into an empty data directory
    Import {
        /// The file
        file: PathBuf,
    },
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Check { deep, json } => {
            let stores = wire::stores(cx)?;
            let journal = wire::journal(cx, false).await?;
            let report = async {
                let mut report = check(&journal).await?;
                check_files(&journal, &stores, deep, &mut report).await?;
                Ok::<_, JournalError>(report)
            };
            let report = report.await;
            journal.close().await?;
            let report = report?;
            if json {
                output::json(&report)?;
            } else {
                output::data(&text(&report));
            }
            if report.problems.is_empty() {
                return Ok(());
            }
            let problems = output::count(report.problems.len(), "problem");
            let text = format!("{problems} in {}", cx.home.root().display());
            let hint = "keep a copy of the data directory; an earlier export can be imported into a new one";
            Err(CliError::new(Kind::CheckFailed, text).hint(hint).into())
        }
        Command::Export { file } => {
            if file.exists() {
                let text = format!("{} is already there; name another file", file.display());
                return Err(CliError::new(Kind::Usage, text).into());
            }
            let journal = wire::journal(cx, false).await?;
            let partial = durable::temporary(&file);
            let out =
                File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
            let mut out = BufWriter::new(out);
            let summary = export(&journal, &mut out).await;
            journal.close().await?;
            let summary = summary?;
            out.flush()?;
            drop(out);
            durable::publish(&partial, &file).with_context(|| format!("cannot write {}", file.display()))?;
            output::note(&format!("wrote {}: {}", file.display(), amount(summary)));
            Ok(())
        }
        Command::Import { file } => {
            if !file.exists() {
                return Err(not_found(format!("there is no file {}", file.display())));
            }
            cx.home.prepare()?;
            let journal = wire::journal(cx, true).await?;
            let mut reader = BufReader::new(File::open(&file)?);
            let summary = import(&journal, &mut reader).await;
            journal.close().await?;
            output::note(&format!("read {}: {}", file.display(), amount(summary?)));
            Ok(())
        }
    }
}

fn amount(done: Transferred) -> String {
    let Transferred {
        runs,
        entries,
        graphs,
        payloads,
    } = done;
    counts(&[
        (runs, "run"),
        (entries, "entry"),
        (graphs, "graph"),
        (payloads, "payload"),
    ])
}

fn counts(all: &[(u64, &str)]) -> String {
    let all: Vec<_> = all.iter().map(|(n, thing)| output::count(*n, thing)).collect();
    all.join(", ")
}

/// What a check found, for people.
fn text(report: &CheckReport) -> String {
    let c = &report.checked;
    let all = [
        (c.runs, "run"),
        (c.entries, "entry"),
        (c.steps, "step"),
        (c.graphs, "graph"),
        (c.keys, "key"),
        (c.artifacts, "artifact"),
        (c.payloads, "payload"),
        (c.files, "stored file"),
    ];
    let mut lines = vec![format!("checked {}", counts(&all))];
    for problem in &report.problems {
        let run = problem
            .run
            .as_ref()
            .map(|run| format!("{run}: "))
            .unwrap_or_default();
        lines.push(format!("{run}{}: {}", problem.invariant, problem.what));
    }
    if report.problems.is_empty() {
        lines.push("every invariant holds".to_owned());
    }
    lines.join("\n")
}
