//! `sealflow store restore`: a backup into a data directory without history. A note in the directory keeps
//! everybody out until all of it is there and checked.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sealflow_engine::{crash, durable};
use sealflow_storage::journal::{DirectoryLock, TransferError, check, import};

use super::{amount, counts};
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::{output, wire};

pub(super) async fn run(cx: &Context, file: &Path) -> anyhow::Result<()> {
    if !file.is_file() {
        return Err(not_found(format!("there is no file {}", file.display())));
    }
    let held = history(cx)?;
    if !held.is_empty() {
        let names: Vec<_> = held.iter().map(|path| path.display().to_string()).collect();
        let home = cx.home.root().display();
        let text = format!(
            "the data directory {home} is not empty: there is {}",
            names.join(", ")
        );
        let hint = "restore into a new one (--home), or move these away; sectors and configuration may stay";
        return Err(CliError::new(Kind::Usage, text).hint(hint).into());
    }
    let unread = || format!("cannot read {}", file.display());
    let mut from = BufReader::new(File::open(file).with_context(unread)?);
    // Verified before anything is made: a bad file leaves the directory as it is.
    let read = sealflow_storage::journal::verify(&mut from);
    let promised = read.map_err(|error| refused(file, error))?;
    cx.home.prepare()?;
    let _lock = DirectoryLock::take(cx.home.root())?;
    let note = cx.home.restoring();
    durable::write(&note, file.display().to_string().as_bytes())?;
    crash::point("restore.begun");
    let from = BufReader::new(File::open(file).with_context(unread)?);
    let journal = wire::open_journal(cx, true).await?;
    let restored = async {
        let done = import(&journal, from)
            .await
            .map_err(|error| refused(file, error))?;
        crash::point("restore.imported");
        Ok::<_, anyhow::Error>((done, check(&journal).await?))
    };
    let restored = restored.await;
    journal.close().await?;
    let (done, report) = restored?;
    if done != promised || !report.problems.is_empty() {
        for problem in &report.problems {
            output::problem(&format!("{}: {}", problem.invariant, problem.what));
        }
        let text = format!("what was restored into {} is not whole", cx.home.root().display());
        let hint = "remove the data directory, and restore another backup";
        return Err(CliError::new(Kind::CheckFailed, text).hint(hint).into());
    }
    crash::point("restore.checked");
    durable::remove(&note)?;
    durable::sync_dir(cx.home.root())?;
    output::note(&format!("restored {}: {}", file.display(), amount(done)));
    let checked = [(report.checked.runs, "run"), (report.checked.entries, "entry")];
    output::note(&format!("checked {}: every invariant holds", counts(&checked)));
    Ok(())
}

/// What of the home a restore would write over.
fn history(cx: &Context) -> anyhow::Result<Vec<PathBuf>> {
    let mut held = Vec::new();
    for path in [cx.home.journal(), cx.home.payloads(), cx.home.archive()] {
        // A folder in which nothing is was perhaps made to be mounted on.
        let used = match std::fs::read_dir(&path) {
            Ok(mut inside) => inside.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if used {
            held.push(path);
        }
    }
    let note = cx.home.restoring();
    if note.exists() {
        held.push(note);
    }
    Ok(held)
}

fn refused(file: &Path, error: TransferError) -> anyhow::Error {
    let kind = match error {
        TransferError::Refused { .. } | TransferError::Newer { .. } => Kind::CheckFailed,
        TransferError::NotEmpty(_) => Kind::Usage,
        TransferError::Journal(_) | TransferError::Io { .. } => Kind::Failed,
    };
    CliError::new(kind, format!("{}: {error}", file.display())).into()
}
