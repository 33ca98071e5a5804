//! `sealflow store`: the durable history as a whole, and the stores of sealed sectors.

mod add;
mod drain;
mod list;
mod restore;
mod trash;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use sealflow_engine::journal::JournalError;
use sealflow_storage::journal::{CheckReport, Transferred, check, check_files};

use crate::api::Client;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::span::now_ms;
use crate::{backup, output, wire};

/// Check, back up and restore the durable history; look after the stores of sealed sectors
///
/// For `check` without a name and for `restore` the daemon must not run: the history belongs to one process
/// at a time.
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
    /// Add a store of sealed sectors to the configuration, once it was seen to work
    ///
    /// Something small is written to it, read, listed and removed. Then its table is written into config.toml;
    /// what else is there stays as it is. Secrets are never in that file: name where they come from.
    ///
    /// Example: sealflow store add cold --bucket sectors --endpoint https://10.0.0.9:9000
    /// --credentials file --credentials-file /run/credentials/sealflow-cold
    Add(Box<add::Args>),
    /// Move the sectors of a store to other stores; put nothing new there
    ///
    /// Each sector is copied, read back and looked at as WindowPoSt would, before it goes to the trash of the
    /// store that is drained. A sector that a run works on is left for the next time. The command can be broken
    /// off and given again. Runs go on: what was moved is found where it is.
    Drain(drain::DrainArgs),
    /// Take a store that is empty out of the configuration
    ///
    /// Refused while something is in it, or an open run names it.
    Remove {
        /// Its name
        name: String,
    },
    /// Do away with what nothing needs any more
    ///
    /// What ended runs left half put, and what a later try of the same sector replaced, goes to the trash of
    /// its store. What has been in the trash for `[trash] keep` is removed. The journal is asked first, and what is
    /// not known is left alone.
    Collect(drain::CollectArgs),
    /// List the trash of all stores
    Trash {
        /// Take this back out of the trash, under the key that it had (a name that the list shows)
        #[arg(long, value_name = "ID", requires = "store")]
        restore: Option<String>,
        /// Only of this store
        #[arg(long, value_name = "NAME")]
        store: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say whether every invariant that can be seen in the store holds, and its artifacts are there
    ///
    /// With the name of a store of sealed sectors: whether that works. It is reached, and something small is
    /// written, read, listed and removed; each line that failed says what to do.
    Check {
        /// A store of sealed sectors
        name: Option<String>,
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
        Command::Add(args) => add::add(cx, &args).await,
        Command::Drain(args) => drain::drain(cx, &args).await,
        Command::Remove { name } => add::remove(cx, &name).await,
        Command::Collect(args) => drain::collect(cx, &args).await,
        Command::Trash { restore, store, json } => {
            trash::run(cx, restore.as_deref(), store.as_deref(), json).await
        }
        Command::Check {
            name: Some(name),
            json,
            ..
        } => add::check(cx, &name, json).await,
        Command::Check {
            name: None,
            deep,
            json,
        } => {
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

/// Held by a command that moves or removes files of stores: one at a time.
fn only_one(cx: &Context) -> anyhow::Result<std::fs::File> {
    let path = cx.home.root().join("stores.lock");
    let file = std::fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            let text = "another `store drain`, `collect` or `remove` works on these stores";
            let hint = "wait until it has ended, and try again";
            Err(CliError::new(Kind::InUse, text).hint(hint).into())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
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
