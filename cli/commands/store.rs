//! `sealflow store`: the durable history as a whole.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use sealflow_engine::durable;
use sealflow_storage::journal::{check, export, import};

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
    /// Say whether every invariant that can be seen in the store holds
    Check {
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
        Command::Check { json } => {
            let journal = wire::journal(cx, false).await?;
            let report = check(&journal).await;
            journal.close().await?;
            let report = report?;
            if json {
                output::json(&report)?;
            } else {
                output::data(&report.to_string());
            }
            if report.is_clean() {
                return Ok(());
            }
            let text = format!("{} problems in {}", report.problems.len(), cx.home.root().display());
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
            let out = File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?;
            let mut out = BufWriter::new(out);
            let summary = export(&journal, &mut out).await;
            journal.close().await?;
            let summary = summary?;
            out.flush()?;
            drop(out);
            durable::publish(&partial, &file).with_context(|| format!("cannot write {}", file.display()))?;
            output::note(&format!("{}: {summary}", file.display()));
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
            output::note(&format!("{}: {}", file.display(), summary?));
            Ok(())
        }
    }
}
