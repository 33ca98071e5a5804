//! Archived runs: each file is the one that was written, folds, and gives the rows that were recorded; and
//! no file is there that nobody knows of.

use std::collections::HashSet;
use std::path::PathBuf;

use sealflow_engine::id::RunId;
use sealflow_engine::journal::JournalError;

use super::super::archive::{ArchiveFolder, ArchivedRow};
use super::Checker;

const WHOLE: &str = "archives give what was recorded";

impl Checker<'_> {
    /// Looks at the archives of runs that started before another one; at all that are left if none is named.
    pub(super) async fn archives_before(&mut self, run: Option<&str>) -> Result<(), JournalError> {
        while self
            .archived
            .front()
            .is_some_and(|row| run.is_none_or(|run| row.row.run.as_str() < run))
        {
            if let Some(row) = self.archived.pop_front() {
                self.archive(&row).await?;
            }
        }
        Ok(())
    }

    async fn archive(&mut self, row: &ArchivedRow) -> Result<(), JournalError> {
        let run = &row.row.run;
        self.report.checked.archives += 1;
        match self.journal.read_archive(row).await {
            Ok(archive) => {
                let accepted = archive.artifacts.into_iter();
                let named =
                    accepted.map(|artifact| ((artifact.subject.clone(), artifact.kind.clone()), artifact));
                self.artifacts.extend(named);
            }
            Err(JournalError::Corrupt(what)) => self.problem(WHOLE, Some(run), what),
            Err(error) => return Err(error),
        }
        if self.journal.read_run(run).await?.is_some() {
            let what = "it is in the journal and in an archive";
            self.problem("a run is in one place", Some(run), what);
        }
        if let Some(key) = &row.row.key
            && self.journal.read_key(key).await?.as_ref() != Some(run)
        {
            let what = format!("its key `{key}` does not lead to it");
            self.problem("keys name their runs", Some(run), what);
        }
        Ok(())
    }

    /// The key of an archived run.
    pub(super) async fn archived_key(&self, run: &RunId) -> Result<Option<String>, JournalError> {
        let row = self.journal.archived_row(run).await?;
        Ok(row.and_then(|row| row.row.key))
    }

    /// Files that no archived run has. One that a kill left while it was being written belongs to a run of
    /// the journal, one that is being removed is noted.
    pub(super) async fn stray_archives(&mut self, known: &HashSet<PathBuf>) -> Result<(), JournalError> {
        const INVARIANT: &str = "every archive belongs to an archived run";
        let files = match self.journal.archives.files() {
            Ok(files) => files,
            Err(error) => {
                let what = format!("cannot list {}: {error}", self.journal.archives.root.display());
                self.problem(INVARIANT, None, what);
                return Ok(());
            }
        };
        let removals = self.journal.removals().await?;
        let leaving: HashSet<PathBuf> = removals.iter().map(|row| ArchiveFolder::name(&row.row)).collect();
        for file in files
            .iter()
            .filter(|file| !known.contains(*file) && !leaving.contains(*file))
        {
            let name = file
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let run = name
                .strip_suffix(".jsonl.gz")
                .and_then(|run| run.parse::<RunId>().ok());
            let open = match &run {
                Some(run) => self.journal.read_run(run).await?.is_some(),
                None => false,
            };
            if !open {
                let what = format!("{} is of no run that the journal knows", file.display());
                self.problem(INVARIANT, run.as_ref(), what);
            }
        }
        Ok(())
    }
}
