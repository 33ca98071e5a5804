//! Moving a run out of the journal, and an archive away. At every moment a run is in the journal, or its
//! file is durable and the index names it:
//!
//! 1. the file is written, made durable, and read again;
//! 2. one transaction removes the run's rows and adds the one of the index.
//!
//! A kill before 2 leaves the run in the journal, and a file that is written anew the next time. An archive
//! goes in the opposite order: one transaction takes it (and the run's key) out of the index and notes the
//! file; the file is removed; the note is removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use sealflow_engine::dispatcher::Graphs;
use sealflow_engine::id::RunId;
use sealflow_engine::journal::JournalError;
use sealflow_engine::rows::run_row;
use sealflow_engine::run::RunState;
use sealflow_engine::{crash, durable};
use sha2::{Digest, Sha256};
use surrealdb::types::{Object, Value};

use super::super::SurrealJournal;
use super::super::lines::TransferError;
use super::super::record::{encode, entries_from, id, list, object, of_run, text};
use super::super::replay::step_rows;
use super::super::write::{Trace, is_open};
use super::index::record;
use super::{Archive, ArchiveError, ArchivedRow, blocking, file};

impl SurrealJournal {
    /// Moves an ended run into an archive. When this returns, the archive is durable and the run is no more
    /// in the journal; its key and its artifacts still are. A run that is archived stays so.
    ///
    /// # Errors
    /// The run is not there, has not ended or is damaged; the file or the journal cannot be written. The run
    /// is where it was.
    pub async fn archive_run(&self, run: &RunId, now: u64) -> Result<ArchivedRow, ArchiveError> {
        let _alone = self.housekeeping.lock().await;
        if let Some(row) = self.archived_row(run).await? {
            return Ok(row);
        }
        let state = self.whole_run(run).await?;
        let damaged = |why: String| ArchiveError::Damaged {
            run: run.clone(),
            why,
        };
        let packed = file::pack(self, &state).await.map_err(|error| match error {
            TransferError::Journal(JournalError::Corrupt(why)) => damaged(why),
            TransferError::Journal(error) => ArchiveError::Journal(error),
            other => damaged(other.to_string()),
        })?;
        let row = ArchivedRow {
            row: run_row(&state),
            sha256: hex::encode(Sha256::digest(&packed)),
            bytes: packed.len() as u64,
            archived_at: now,
        };
        let path = self.archives.path(&row.row);
        self.write_file(&path, packed).await?;
        // Read again from the disk: the rows go only if this gives all of them.
        self.read_archive(&row).await?;
        crash::point("archive.published");
        let params = object([
            ("row", record(&row)?),
            ("entries", entries_from(run, 1)),
            ("run", of_run("run", run)),
        ]);
        let statements =
            "INSERT INTO archive $row RETURN NONE; DELETE $entries RETURN NONE; DELETE $run RETURN NONE;";
        self.fenced(statements, params, Trace::Archived(&row)).await?;
        self.unswept.store(true, Ordering::Relaxed);
        crash::point("archive.moved");
        Ok(row)
    }

    /// The state of a run that has ended, which all its rows agree with.
    async fn whole_run(&self, run: &RunId) -> Result<RunState, ArchiveError> {
        let damaged = |why: String| ArchiveError::Damaged {
            run: run.clone(),
            why,
        };
        let row = self.read_run(run).await?;
        let row = row.ok_or_else(|| ArchiveError::NoRun(run.clone()))?;
        if is_open(&row) {
            let status = row.status.as_str();
            let run = run.clone();
            return Err(ArchiveError::Open { run, status });
        }
        if let Some(parent) = &row.parent
            && self
                .read_run(parent)
                .await?
                .is_some_and(|parent| is_open(&parent))
        {
            let (run, parent) = (run.clone(), parent.clone());
            return Err(ArchiveError::Serves { run, parent });
        }
        let all = sealflow_engine::dispatcher::all_entries(self, run).await;
        let entries = all.map_err(|error| damaged(error.to_string()))?;
        let graphs = Graphs::default().of(self, &entries).await;
        let graphs = graphs.map_err(|error| damaged(error.to_string()))?;
        let state = RunState::fold(run, &graphs, &entries).map_err(|error| damaged(error.to_string()))?;
        let folded = step_rows(&state);
        let stored = self.read_steps(run).await?;
        let agree = stored.iter().all(|step| folded.get(step.ix.get()) == Some(step));
        if run_row(&state) != row || !agree {
            return Err(damaged("its entries do not give its rows".to_owned()));
        }
        Ok(state)
    }

    /// Takes in an archive of a backup: its file, its row, its key and its artifacts.
    pub(in super::super) async fn take_archive(
        &self,
        row: &ArchivedRow,
        bytes: &[u8],
        archive: &Archive,
    ) -> Result<(), TransferError> {
        let path = self.archives.path(&row.row);
        let written = self.write_file(&path, bytes.to_vec()).await;
        written.map_err(|error| match error {
            ArchiveError::Journal(error) => error,
            other => JournalError::Store(other.to_string()),
        })?;
        let mut keys = Vec::new();
        if let Some(key) = &row.row.key {
            keys.push(Value::Object(object([
                ("id", id("key", vec![text(key)])),
                ("key", text(key)),
                ("run", text(row.row.run.as_str())),
            ])));
        }
        let mut artifacts = Vec::new();
        for one in &archive.artifacts {
            artifacts.push(Value::Object(object([
                (
                    "id",
                    id("artifact", vec![text(one.subject.as_str()), text(&one.kind)]),
                ),
                ("row", encode("an artifact", one)?),
            ])));
        }
        let params = object([
            ("row", record(row)?),
            ("keys", list(keys)),
            ("artifacts", list(artifacts)),
        ]);
        let statements = "INSERT INTO archive $row RETURN NONE; \
            FOR $one IN $keys { INSERT INTO key $one RETURN NONE }; \
            FOR $one IN $artifacts { UPSERT $one.id CONTENT $one RETURN NONE };";
        Ok(self.fenced(statements, params, Trace::Archived(row)).await?)
    }

    async fn write_file(&self, path: &Path, bytes: Vec<u8>) -> Result<(), ArchiveError> {
        let path = path.to_owned();
        blocking(move || {
            let io = |what| {
                let path = path.clone();
                move |source| ArchiveError::Io { what, path, source }
            };
            if let Some(folder) = path.parent() {
                durable::make_dir(folder).map_err(io("make the folder of"))?;
            }
            let partial = durable::temporary(&path);
            std::fs::write(&partial, &bytes).map_err(io("write"))?;
            crash::point("archive.written");
            durable::publish(&partial, &path).map_err(io("write"))
        })
        .await
    }

    /// Whether the run made an artifact that its subject still owns: then what it did is needed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn owns(&self, row: &ArchivedRow) -> Result<bool, JournalError> {
        let owned = self.read_artifacts(&row.row.subject).await?;
        Ok(owned.iter().any(|artifact| artifact.run == row.row.run))
    }

    /// Removes an archive, with the run's key. Afterwards the run never was, for all that is stored.
    ///
    /// # Errors
    /// The journal cannot be written, or the file cannot be removed: then that is tried again by
    /// [`SurrealJournal::finish_removals`].
    pub(super) async fn remove_archive(&self, row: &ArchivedRow) -> Result<(), ArchiveError> {
        let run = &row.row.run;
        let mut statements =
            "INSERT IGNORE INTO removal $removal RETURN NONE; DELETE $archive RETURN NONE;".to_owned();
        let removal = object([
            ("id", of_run("removal", run)),
            ("row", encode("the row of an archived run", row)?),
        ]);
        let mut params = object([
            ("removal", Value::Object(removal)),
            ("archive", of_run("archive", run)),
        ]);
        if let Some(key) = &row.row.key {
            statements.push_str("DELETE $key RETURN NONE;");
            params.insert("key".to_owned(), id("key", vec![text(key)]));
        }
        self.fenced(&statements, params, Trace::NotArchived(run)).await?;
        crash::point("archive.unlisted");
        self.remove_file(row).await
    }

    /// Removes what is left of archives that are no more: after a kill in the middle.
    ///
    /// # Errors
    /// The journal or a file.
    pub(super) async fn finish_removals(&self) -> Result<(), ArchiveError> {
        for row in self.removals().await? {
            self.remove_file(&row).await?;
        }
        Ok(())
    }

    async fn remove_file(&self, row: &ArchivedRow) -> Result<(), ArchiveError> {
        let path: PathBuf = self.archives.path(&row.row);
        blocking(move || {
            let removed = durable::remove(&path).and_then(|()| match path.parent() {
                Some(folder) if folder.is_dir() => durable::sync_dir(folder),
                _ => Ok(()),
            });
            removed.map_err(|source| ArchiveError::Io {
                what: "remove",
                path,
                source,
            })
        })
        .await?;
        crash::point("archive.deleted");
        let removal = of_run("removal", &row.row.run);
        let params: Object = object([("removal", removal)]);
        self.fenced("DELETE $removal RETURN NONE;", params, Trace::None)
            .await?;
        Ok(())
    }
}
