//! Which runs leave the journal, and which archives go: by the age of what has ended.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sealflow_engine::id::RunId;
use sealflow_engine::rows::RunRow;
use sealflow_engine::run::RunStatus;

use super::super::SurrealJournal;
use super::super::record::{decode, number, object, text};
use super::super::write::is_open;
use super::{ArchiveError, Swept};

/// How long things are kept. Nothing means for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Runs that ended this long ago are archived.
    pub archive_after: Option<Duration>,
    /// Archives of runs that ended this long ago are removed, but for those of runs that made artifacts
    /// which their subjects still own.
    pub delete_archives_after: Option<Duration>,
}

/// What one pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Runs that were archived.
    pub archived: u64,
    /// Ended runs that could not be archived; the log says why.
    pub failed: u64,
    /// Archives that were removed.
    pub removed: u64,
    /// Archives that are old enough, but are kept for the artifacts that their runs made.
    pub kept: u64,
    /// Payload files that nobody names any more.
    pub swept: Swept,
}

/// Rows that are looked at together.
const PIECE: usize = 200;

impl SurrealJournal {
    /// Archives and removes what is old enough, and then payloads that only archived runs named. Commits go
    /// on meanwhile. A run that cannot be archived keeps no other from being so.
    ///
    /// # Errors
    /// The journal fails, or a file cannot be written.
    pub async fn retain(&self, policy: Retention, now: u64) -> Result<Retained, ArchiveError> {
        let mut done = Retained::default();
        self.finish_removals().await?;
        if let Some(before) = cutoff(policy.archive_after, now) {
            self.archive_before(before, now, &mut done).await?;
        }
        if let Some(before) = cutoff(policy.delete_archives_after, now) {
            self.remove_before(before, &mut done).await?;
        }
        // A sweep reads the whole journal: only after something was archived, and once after a start.
        if self.unswept.swap(false, Ordering::Relaxed) {
            let swept = self.sweep_payloads().await;
            self.unswept.fetch_or(swept.is_err(), Ordering::Relaxed);
            done.swept = swept?;
        }
        Ok(done)
    }

    async fn archive_before(&self, before: u64, now: u64, done: &mut Retained) -> Result<(), ArchiveError> {
        for status in [RunStatus::Succeeded, RunStatus::Cancelled] {
            let mut after: Option<RunId> = None;
            loop {
                let page = self.ended(status, after.as_ref()).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.run.clone());
                let young = page.iter().all(|row| row.created_at >= before);
                for row in page.iter().filter(|row| row.updated_at < before && !is_open(row)) {
                    match self.archive_run(&row.run, now).await {
                        Ok(_) => done.archived += 1,
                        Err(error @ ArchiveError::Damaged { .. }) => {
                            tracing::error!(run = %row.run, %error, "a run cannot be archived");
                            done.failed += 1;
                        }
                        // Its time comes when the run that it worked for has ended.
                        Err(ArchiveError::Serves { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                // Runs are in the order in which they started: all that follow are younger.
                if young {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn remove_before(&self, before: u64, done: &mut Retained) -> Result<(), ArchiveError> {
        let mut after: Option<RunId> = None;
        loop {
            let page = self.archived_before(after.as_ref(), before, PIECE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.row.run.clone());
            for row in &page {
                let _alone = self.housekeeping.lock().await;
                if self.owns(row).await? {
                    done.kept += 1;
                } else {
                    self.remove_archive(row).await?;
                    done.removed += 1;
                }
            }
        }
    }

    /// Runs that have ended so, in the order in which they started.
    async fn ended(&self, status: RunStatus, after: Option<&RunId>) -> Result<Vec<RunRow>, ArchiveError> {
        let sql = "SELECT row, open, run FROM run WITH INDEX run_status \
            WHERE status = $status AND run > $after ORDER BY run LIMIT $limit";
        let params = object([
            ("status", text(status.as_str())),
            ("after", text(after.map_or("", RunId::as_str))),
            ("limit", number(PIECE as u64)),
        ]);
        let records = self.fetch::<super::super::read::RunRecord>(sql, params).await?;
        let rows = records
            .iter()
            .map(|record| decode("the row of a run", &record.row));
        Ok(rows.collect::<Result<Vec<RunRow>, _>>()?)
    }
}

/// The time before which things are old.
fn cutoff(age: Option<Duration>, now: u64) -> Option<u64> {
    let age = u64::try_from(age?.as_millis()).unwrap_or(u64::MAX);
    // Older than all time: nothing is.
    now.checked_sub(age)
}
