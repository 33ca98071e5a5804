//! What is stored beside the runs: claims, keys, artifacts, and what belongs to no run.

use sealflow_engine::id::RunId;
use sealflow_engine::journal::{ArtifactRow, JournalError};
use sealflow_engine::site::SiteState;
use sealflow_engine::stage::Claim;
use surrealdb::types::{Object, SurrealValue};

use super::super::read::PAGE;
use super::super::record::{decode, id, list, object, text};
use super::Checker;

#[derive(SurrealValue)]
struct KeyRecord {
    key: String,
    run: String,
}

impl Checker<'_> {
    pub(super) fn claims(&mut self) {
        for (subject, holders) in std::mem::take(&mut self.claims) {
            // What does the work of a run's step claims what that run has.
            let parts: Vec<_> = holders
                .iter()
                .filter(|(_, _, parent)| {
                    let has = |parent: &RunId| holders.iter().any(|(run, ..)| run == parent);
                    parent.as_ref().is_some_and(has)
                })
                .map(|(run, ..)| run.clone())
                .collect();
            let mut holders = holders;
            holders.retain(|(run, ..)| !parts.contains(run));
            let writers = holders
                .iter()
                .filter(|(_, claim, _)| *claim == Claim::Write)
                .count();
            let readers = holders
                .iter()
                .filter(|(_, claim, _)| *claim == Claim::Read)
                .count();
            if writers > 1 || (writers == 1 && readers > 0) {
                let runs: Vec<_> = holders.iter().map(|(run, ..)| run.to_string()).collect();
                let what = format!(
                    "{subject} is in use by {}, and one of them writes",
                    runs.join(", ")
                );
                let last = holders.last().map(|(run, ..)| run.clone());
                self.problem("one run writes to a subject at a time", last.as_ref(), what);
            }
        }
    }

    /// What no run led to.
    pub(super) async fn totals(&mut self) -> Result<(), JournalError> {
        let count = async |table: &str| -> Result<u64, JournalError> {
            let sql = format!("SELECT VALUE count FROM (SELECT count() FROM {table} GROUP ALL)");
            Ok(self
                .journal
                .fetch::<u64>(&sql, Object::new())
                .await?
                .first()
                .copied()
                .unwrap_or_default())
        };
        let entries = count("entry").await?;
        if entries != self.report.checked.entries {
            let what = format!(
                "{entries} entries are stored, {} of known runs were read",
                self.report.checked.entries
            );
            self.problem("every entry belongs to a run", None, what);
        }
        Ok(())
    }

    pub(super) async fn keys(&mut self) -> Result<(), JournalError> {
        for page in self.journal.names("key", "key").await?.chunks(PAGE) {
            let ids = page.iter().map(|key| id("key", vec![text(key)])).collect();
            let sql = "SELECT key, run FROM $ids";
            let params = object([("ids", list(ids))]);
            for KeyRecord { key, run } in self.journal.fetch::<KeyRecord>(sql, params).await? {
                self.report.checked.keys += 1;
                let found = match run.parse::<RunId>() {
                    Ok(run) => match self.journal.read_run(&run).await.ok().flatten() {
                        Some(row) => row.key,
                        None => self.archived_key(&run).await?,
                    },
                    Err(_) => None,
                };
                if found.as_ref() != Some(&key) {
                    self.problem(
                        "keys name their runs",
                        None,
                        format!("`{key}` leads to {run}, which has another key or is not there"),
                    );
                }
            }
        }
        Ok(())
    }

    /// The history of the installation: dense, and foldable from its first entry.
    pub(super) async fn site(&mut self) -> Result<(), JournalError> {
        const INVARIANT: &str = "the history of the installation can have happened";
        let last = self
            .journal
            .read_site(1)
            .await?
            .last()
            .map_or(0, |entry| entry.seq);
        let mut state = SiteState::default();
        let mut next = 1;
        while next <= last {
            let end = last.min(next + PAGE as u64 - 1);
            match self.journal.site_between(next, end).await {
                Ok(entries) => {
                    for entry in entries {
                        if let Err(why) = state.apply_entry(&entry) {
                            self.problem(INVARIANT, None, why);
                            return Ok(());
                        }
                    }
                }
                Err(JournalError::Corrupt(what)) => {
                    self.problem("rows can be read", None, what);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            next = end + 1;
        }
        if state.seq != last {
            let what = format!("entry {} is missing", state.seq + 1);
            self.problem(INVARIANT, None, what);
        }
        Ok(())
    }

    pub(super) async fn artifacts(&mut self) -> Result<(), JournalError> {
        const INVARIANT: &str = "artifacts are those of the last accepted state";
        let stored = self
            .journal
            .fetch::<String>("SELECT VALUE row FROM artifact", Object::new())
            .await?;
        let mut wanted = std::mem::take(&mut self.artifacts);
        for json in stored {
            self.report.checked.artifacts += 1;
            let row: ArtifactRow = match decode("an artifact", &json) {
                Ok(row) => row,
                Err(error) => {
                    self.problem("rows can be read", None, error.to_string());
                    continue;
                }
            };
            let expected = wanted.remove(&(row.subject.clone(), row.kind.clone()));
            if expected.as_ref() != Some(&row) {
                let what = format!(
                    "`{}` of {} is {}, the entries give {expected:?}",
                    row.kind, row.subject, row.artifact
                );
                self.problem(INVARIANT, Some(&row.run), what);
            }
        }
        for row in wanted.into_values() {
            self.problem(
                INVARIANT,
                Some(&row.run),
                format!("`{}` of {} is not stored", row.kind, row.subject),
            );
        }
        Ok(())
    }
}
