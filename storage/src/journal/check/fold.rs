//! Folding one run from its entries, and comparing each version of its rows on the way.

use std::collections::{BTreeMap, HashMap, HashSet};

use sealflow_engine::core::accepted_artifacts;
use sealflow_engine::event::{Entry, Event};
use sealflow_engine::id::{RunId, StepName};
use sealflow_engine::journal::{Journal, JournalError};
use sealflow_engine::rows::{StepRow, step_row};
use sealflow_engine::run::RunState;

use super::super::lines::payloads_of;
use super::super::read::{EntryRecord, PAGE};
use super::super::record::{Changes, decode};
use super::Checker;

/// What one run's entries add up to.
struct Folding {
    state: Option<RunState>,
    visits: HashMap<(StepName, u32), u32>,
    succeeded: HashSet<(StepName, u32)>,
    /// Step rows that changed since rows were last stored, by their place.
    changed: BTreeMap<u32, StepRow>,
    stored: BTreeMap<u32, StepRow>,
}

impl Checker<'_> {
    /// Folds the entries of a run. Nothing, and a problem, when that is not possible.
    pub(super) async fn fold(&mut self, run: &RunId) -> Result<Option<RunState>, JournalError> {
        let mut folding = Folding {
            state: None,
            visits: HashMap::new(),
            succeeded: HashSet::new(),
            changed: BTreeMap::new(),
            stored: BTreeMap::new(),
        };
        let mut from = 1;
        loop {
            let page = self.journal.read_records(run, from, PAGE as u64).await?;
            let full = page.len() == PAGE;
            for record in page {
                self.report.checked.entries += 1;
                match self.entry(run, &mut folding, &record).await {
                    Ok(Some(seq)) => from = seq + 1,
                    Ok(None) => return Ok(None),
                    Err(JournalError::Corrupt(what)) => {
                        self.problem(
                            "entries are numbered without gaps and can have happened",
                            Some(run),
                            what,
                        );
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                }
            }
            if !full {
                break;
            }
        }
        if folding.state.is_none() {
            self.problem(
                "entries are numbered without gaps and can have happened",
                Some(run),
                "it has no entries",
            );
        }
        Ok(folding.state)
    }

    async fn entry(
        &mut self,
        run: &RunId,
        folding: &mut Folding,
        record: &EntryRecord,
    ) -> Result<Option<u64>, JournalError> {
        let entry: Entry = decode(format_args!("an entry of {run}"), &record.entry)?;
        let illegal = |error: sealflow_engine::run::Illegal| JournalError::Corrupt(error.to_string());
        let mut graphs = Vec::new();
        for hash in entry.graphs() {
            match self.graph(run, hash).await? {
                Some(graph) => graphs.push(graph),
                None => return Ok(None),
            }
        }
        match &mut folding.state {
            Some(state) => {
                graphs.into_iter().for_each(|graph| state.provide(graph));
                state.apply(&entry).map_err(illegal)?;
            }
            None => folding.state = Some(RunState::begin(run, &graphs, &entry).map_err(illegal)?),
        }
        self.events(run, folding, &entry).await?;
        let Some(state) = &mut folding.state else {
            return Ok(Some(entry.seq));
        };
        if entry.renumbers() {
            folding.changed.clear();
        }
        for artifact in accepted_artifacts(state, &entry) {
            self.artifacts
                .insert((artifact.subject.clone(), artifact.kind.clone()), artifact);
        }
        for ix in state.take_touched() {
            folding.changed.insert(ix.0, step_row(state, ix));
        }
        let Some(changes) = &record.changes else {
            return Ok(Some(entry.seq));
        };
        let changes: Changes = decode(format_args!("the rows of entry {} of {run}", entry.seq), changes)?;
        let discarding: Vec<_> = state.discarding.values().cloned().collect();
        self.report.checked.steps += changes.steps.len() as u64;
        folding
            .stored
            .extend(changes.steps.into_iter().map(|step| (step.ix.0, step)));
        let wrong = folding
            .changed
            .iter()
            .find(|(ix, row)| folding.stored.get(ix) != Some(*row));
        let wrong = wrong.map(|(_, row)| format!("step `{}` after entry {}", row.step, entry.seq));
        let extra = folding.stored.len() != folding.changed.len();
        if let Some(what) = wrong.or_else(|| extra.then(|| format!("entry {} has rows too many", entry.seq)))
        {
            self.problem("folding the entries gives the rows of the steps", Some(run), what);
        }
        if discarding != changes.discarding {
            let what = format!("superseded attempts after entry {}", entry.seq);
            self.problem("folding the entries gives the row of the run", Some(run), what);
        }
        folding.stored.clear();
        folding.changed.clear();
        Ok(Some(entry.seq))
    }

    async fn events(
        &mut self,
        run: &RunId,
        folding: &mut Folding,
        entry: &Entry,
    ) -> Result<(), JournalError> {
        for event in &entry.events {
            match event {
                Event::AttemptStarted {
                    step, visit, attempt, ..
                } => {
                    folding.visits.insert((step.clone(), *attempt), *visit);
                }
                Event::AttemptSucceeded { step, attempt, .. } => {
                    let visit = folding
                        .visits
                        .get(&(step.clone(), *attempt))
                        .copied()
                        .unwrap_or_default();
                    if !folding.succeeded.insert((step.clone(), visit)) {
                        let what = format!("step `{step}` succeeded twice in visit {visit}");
                        self.problem("at most one success is accepted", Some(run), what);
                    }
                }
                _ => {}
            }
        }
        for (sha256, bytes) in payloads_of(entry) {
            self.payload(run, sha256, bytes).await?;
        }
        Ok(())
    }

    async fn payload(&mut self, run: &RunId, sha256: &str, bytes: u64) -> Result<(), JournalError> {
        if !self.payloads.insert(sha256.to_owned()) {
            return Ok(());
        }
        self.report.checked.payloads += 1;
        match self.journal.payload(sha256).await {
            Ok(found) if found.len() as u64 == bytes => {}
            Ok(found) => {
                let what = format!("payload {sha256} has {} bytes instead of {bytes}", found.len());
                self.problem("outputs exist as recorded", Some(run), what);
            }
            Err(error) => self.problem("outputs exist as recorded", Some(run), error.to_string()),
        }
        Ok(())
    }
}
