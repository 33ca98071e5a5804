//! Ended runs outside of the journal: each in a file of its own that holds all there was of it, and a row
//! in an index that says where. docs/storage.md describes the order in which things become durable.
//!
//! Reading order: `file` (what a file holds), `index` (rows), `moving` (out of the journal, and away),
//! `reader` (a file as a journal of one run), `retention` (which runs, and when), `sweep` (payloads that
//! nobody names any more).

mod file;
mod index;
mod moving;
mod reader;
mod retention;
mod sweep;

use std::path::{Path, PathBuf};

use sealflow_engine::journal::JournalError;
use sealflow_engine::rows::RunRow;
use serde::{Deserialize, Serialize};

pub use self::file::Archive;
pub use self::reader::ArchivedRun;
pub use self::retention::{Retained, Retention};
pub use self::sweep::Swept;

use super::error::corrupt;

/// An archived run, as the index has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArchivedRow {
    /// The run, as it ended.
    pub row: RunRow,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// When it was archived, milliseconds since 1970.
    pub archived_at: u64,
}

/// Why a run was not archived, or an archive not removed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// There is no such run.
    #[error("there is no run {0}; `sealflow run list` shows all")]
    NoRun(sealflow_engine::id::RunId),
    /// The run has not ended, or an attempt of it has not.
    #[error("{run} has not ended ({status}): only ended runs are archived")]
    Open {
        /// The run.
        run: sealflow_engine::id::RunId,
        /// How it stands.
        status: &'static str,
    },
    /// It did the work of a run that has not ended, and may still be asked what it gave.
    #[error("{run} worked for {parent}, which has not ended: it is archived after that")]
    Serves {
        /// The run.
        run: sealflow_engine::id::RunId,
        /// The run whose step's work it did.
        parent: sealflow_engine::id::RunId,
    },
    /// The run's entries do not give its rows, or something of it is missing.
    #[error("{run} stays in the journal: {why}; `sealflow store check` says more")]
    Damaged {
        /// The run.
        run: sealflow_engine::id::RunId,
        /// What is wrong.
        why: String,
    },
    /// The file cannot be written or removed.
    #[error("cannot {what} {}: {source}; {}", path.display(), advice(source))]
    Io {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => "make room on that disk",
        _ => "let the user that runs sealflow make and write this folder",
    }
}

/// The folders of archives: one for each month in which runs ended.
#[derive(Debug, Clone)]
pub(super) struct ArchiveFolder {
    pub(super) root: PathBuf,
}

impl ArchiveFolder {
    /// The file of a run, relative to the folder. It follows from the run alone: nothing that comes from
    /// outside names a path.
    pub(super) fn name(row: &RunRow) -> PathBuf {
        let ended = std::time::UNIX_EPOCH + std::time::Duration::from_millis(row.updated_at.min(LAST_TIME));
        let date = humantime::format_rfc3339_seconds(ended).to_string();
        let month = date.get(..7).unwrap_or("other").to_owned();
        Path::new(&month).join(format!("{}.jsonl.gz", row.run))
    }

    pub(super) fn path(&self, row: &RunRow) -> PathBuf {
        self.root.join(Self::name(row))
    }

    /// All files of archives, relative to the folder. What is being written is none.
    pub(super) fn files(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        if !self.root.is_dir() {
            return Ok(files);
        }
        for month in std::fs::read_dir(&self.root)? {
            let month = month?;
            if !month.file_type()?.is_dir() {
                continue;
            }
            for file in std::fs::read_dir(month.path())? {
                let name = Path::new(&month.file_name()).join(file?.file_name());
                if name.extension().is_some_and(|extension| extension == "gz") {
                    files.push(name);
                }
            }
        }
        Ok(files)
    }
}

/// The end of the year 9999, after which times have no usual form.
const LAST_TIME: u64 = 253_402_300_799_000;

/// Runs something that reads or writes files.
async fn blocking<T: Send + 'static, E: From<JournalError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(corrupt(format!("an archive: {error}")).into()))
}
