//! `sealflow store`: the durable history as a whole, and the stores of sealed sectors.

mod list;
mod restore;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use sealflow_engine::journal::JournalError;
use sealflow_storage::journal::{CheckReport, Transferred, check, check_files};

use crate::api::Client;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::span::now_ms;
use crate::{backup, output, wire};

/// Check, back up and restore the durable history; list the stores of sealed sectors
///
/// For `check` and `restore` the daemon must not run: the history belongs to one process at a time.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the stores of sealed sectors
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask a store of sealed sectors what is in it, and whether it answers
    Show {
        /// Its name in the configuration
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether every invariant that can be seen in the store holds, and its artifacts are there
    Check {
        /// Read every stored file too, and compare its checksum
        #[arg(long)]
        deep: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the whole history into one file, also while a daemon runs
    ///
    /// What is written is how things stood at one moment; runs go on. The file is read again before it
    /// counts. A file whose name ends in .gz is compressed.
    #[command(visible_alias = "export")]
    Backup {
        /// A new file, or a folder, in which its name is the time
        to: PathBuf,
    },
    /// Read a backup into a data directory without history, and check all of it
    ///
    /// Example: sealflow --home /var/lib/sealflow-new store restore /backup/sealflow.jsonl.gz
    #[command(visible_alias = "import")]
    Restore {
        /// The file
        file: PathBuf,
    },
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { json } => list::list(cx, json),
        Command::Show { name, json } => list::show(cx, &name, json).await,
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
            let hint = "keep a copy of the data directory; a backup can be restored into a new one";
            Err(CliError::new(Kind::CheckFailed, text).hint(hint).into())
        }
        Command::Backup { to } => backup(cx, &to).await,
        Command::Restore { file } => restore::run(cx, &file).await,
    }
}

async fn backup(cx: &Context, to: &Path) -> anyhow::Result<()> {
    let file = backup::file_at(to, now_ms());
    let done = match Client::find(cx).await? {
        Some(client) => backup::write(backup::From::Daemon(&client), &file).await?,
        None => {
            let journal = wire::journal(cx, false).await?;
            let done = backup::write(backup::From::Journal(&journal), &file).await;
            journal.close().await?;
            done?
        }
    };
    output::note(&format!("wrote {}: {}", file.display(), amount(done)));
    Ok(())
}

fn amount(done: Transferred) -> String {
    let Transferred {
        runs,
        entries,
        graphs,
        payloads,
        archives,
        messages,
    } = done;
    counts(&[
        (runs, "run"),
        (entries, "entry"),
        (graphs, "graph"),
        (payloads, "payload"),
        (archives, "archived run"),
        (messages, "message"),
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
        (c.archives, "archived run"),
        (c.messages, "message"),
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
