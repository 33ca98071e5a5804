//! The offline check: folds every run from its entries and compares with everything else that is
//! stored.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sealflow_engine::core::accepted_artifacts;
use sealflow_engine::event::{Entry, Event, Output};
use sealflow_engine::id::{RunId, StepName, Subject};
use sealflow_engine::journal::{ArtifactRow, Journal, JournalError};
use sealflow_engine::resource::Resources;
use sealflow_engine::rows::{RunRow, StepRow, run_row, step_row};
use sealflow_engine::run::RunState;
use sealflow_engine::stage::Claim;
use sealflow_engine::workflow::Graph;
use serde::Serialize;
use surrealdb::types::{Object, SurrealValue};

use super::SurrealJournal;
use super::read::{EntryRecord, PAGE};
use super::record::{Changes, after, decode, number, object};
use super::write::is_open;

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// What is wrong; empty when all is well.
    pub problems: Vec<Problem>,
    /// What was looked at.
    pub checked: Checked,
    /// What attempts hold that have not ended, by executor: to be compared with its capacity.
    pub held: BTreeMap<String, Resources>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The broken promise, in a few words.
    pub invariant: &'static str,
    /// The run that it is about, if it is about one.
    pub run: Option<RunId>,
    /// What was found.
    pub what: String,
}

/// How many of each thing were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Runs.
    pub runs: u64,
    /// Entries.
    pub entries: u64,
    /// Versions of step rows.
    pub steps: u64,
    /// Graphs.
    pub graphs: u64,
    /// Callers' names of runs.
    pub keys: u64,
    /// Artifacts of subjects.
    pub artifacts: u64,
    /// Payload files.
    pub payloads: u64,
}

#[derive(SurrealValue)]
struct RunRecord {
    run: String,
    row: String,
    workflow: String,
    status: String,
    subject: String,
    open: bool,
}

#[derive(SurrealValue)]
struct KeyRecord {
    key: String,
    run: String,
}

/// Checks a journal. Nothing is changed, and one damaged run keeps no other from being checked. No
/// daemon may commit meanwhile.
///
/// # Errors
/// The store cannot be read at all. What is wrong in it is no error but in the report.
pub async fn check(journal: &SurrealJournal) -> Result<CheckReport, JournalError> {
    let mut checker = Checker {
        journal,
        report: CheckReport::default(),
        graphs: HashMap::new(),
        claims: BTreeMap::new(),
        artifacts: BTreeMap::new(),
        payloads: HashSet::new(),
        open: 0,
    };
    checker.runs().await?;
    checker.claims();
    checker.totals().await?;
    checker.keys().await?;
    checker.artifacts().await?;
    Ok(checker.report)
}

struct Checker<'a> {
    journal: &'a SurrealJournal,
    report: CheckReport,
    /// Graphs that were looked at; nothing where one is missing or wrong.
    graphs: HashMap<String, Option<Arc<Graph>>>,
    claims: BTreeMap<Subject, Vec<(RunId, Claim)>>,
    /// The artifacts that the entries make current: of the run that started last.
    artifacts: BTreeMap<(Subject, String), ArtifactRow>,
    payloads: HashSet<String>,
    open: u64,
}

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
    fn problem(&mut self, invariant: &'static str, run: Option<&RunId>, what: impl Into<String>) {
        self.report.problems.push(Problem {
            invariant,
            run: run.cloned(),
            what: what.into(),
        });
    }

    async fn runs(&mut self) -> Result<(), JournalError> {
        let mut last: Option<String> = None;
        loop {
            let params = object([
                ("range", after("run", last.as_deref())),
                ("limit", number(PAGE as u64)),
            ]);
            let sql = "SELECT run, row, workflow, status, subject, open FROM $range LIMIT $limit";
            let page = self.journal.fetch::<RunRecord>(sql, params).await?;
            let full = page.len() == PAGE;
            last = page.last().map(|record| record.run.clone());
            for record in page {
                self.report.checked.runs += 1;
                match record.run.parse::<RunId>() {
                    Ok(run) => self.run(&run, &record).await?,
                    Err(error) => self.problem("rows can be read", None, error.to_string()),
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn run(&mut self, run: &RunId, record: &RunRecord) -> Result<(), JournalError> {
        let head: RunRow = match decode("its row", &record.row) {
            Ok(head) => head,
            Err(error) => {
                self.problem("rows can be read", Some(run), error.to_string());
                return Ok(());
            }
        };
        let shown = (
            record.workflow.as_str(),
            record.status.as_str(),
            record.subject.as_str(),
            record.open,
        );
        let wanted = (
            head.workflow.as_str(),
            head.status.as_str(),
            head.subject.as_str(),
            is_open(&head),
        );
        if shown != wanted {
            self.problem(
                "the fields of a row agree",
                Some(run),
                format!("{shown:?} instead of {wanted:?}"),
            );
        }
        let marker = object([("id", super::record::of_run("open", run))]);
        let marked = self
            .journal
            .fetch::<String>("SELECT VALUE run FROM $id", marker)
            .await?
            .len()
            == 1;
        self.open += u64::from(marked);
        if marked != is_open(&head) {
            let what = if marked {
                "it has ended but is listed as open"
            } else {
                "it is open but is not listed so"
            };
            self.problem("open runs are listed", Some(run), what);
        }
        let Some(graph) = self.graph(run, &head.graph).await? else {
            return Ok(());
        };
        let Some(state) = self.fold(run, &graph).await? else {
            return Ok(());
        };
        let wanted = run_row(&state);
        match self.journal.read_run(run).await {
            Ok(Some(found)) if found == wanted => {}
            Ok(found) => self.problem(
                "folding the entries gives the row of the run",
                Some(run),
                format!("the entries give {wanted:?}, stored is {found:?}"),
            ),
            Err(JournalError::Corrupt(what)) => self.problem("rows can be read", Some(run), what),
            Err(error) => return Err(error),
        }
        if !state.status.is_final() {
            self.claims
                .entry(state.subject.clone())
                .or_default()
                .push((run.clone(), head.claim));
        }
        self.hold(&state);
        if let Some(key) = &state.key
            && self.journal.read_key(key).await?.as_ref() != Some(run)
        {
            self.problem(
                "keys name their runs",
                Some(run),
                format!("its key `{key}` does not lead to it"),
            );
        }
        Ok(())
    }

    fn hold(&mut self, state: &RunState) {
        let current = state.steps().filter_map(|(_, step)| step.current.as_ref());
        let current = current.map(|current| (current.executor.clone(), current.held));
        let gone = state
            .discarding
            .values()
            .map(|gone| (gone.executor.clone(), gone.held));
        let all: Vec<_> = current.chain(gone).collect();
        if state.status.is_final() && !all.is_empty() {
            let what = format!("it has ended, but attempts of it hold resources of {}", all[0].0);
            self.problem("what has ended holds nothing", Some(&state.id), what);
        }
        for (executor, held) in all {
            *self.report.held.entry(executor).or_default() += held;
        }
    }

    async fn graph(&mut self, run: &RunId, hash: &str) -> Result<Option<Arc<Graph>>, JournalError> {
        if let Some(known) = self.graphs.get(hash) {
            return Ok(known.clone());
        }
        self.report.checked.graphs += 1;
        let found = match self.journal.read_graph(hash).await {
            Ok(None) => Err(format!("graph {hash} is not stored")),
            Ok(Some(stored)) => match Graph::new(stored.data) {
                Ok(graph) if **graph.hash() == *hash => Ok(Arc::new(graph)),
                Ok(graph) => Err(format!(
                    "what is stored as graph {hash} has the hash {}",
                    graph.hash()
                )),
                Err(why) => Err(format!("graph {hash}: {why}")),
            },
            Err(JournalError::Corrupt(what)) => Err(what),
            Err(error) => return Err(error),
        };
        let graph = match found {
            Ok(graph) => Some(graph),
            Err(what) => {
                self.problem("a run keeps the graph it started with", Some(run), what);
                None
            }
        };
        self.graphs.insert(hash.to_owned(), graph.clone());
        Ok(graph)
    }

    /// Folds the entries of a run. Nothing, and a problem, when that is not possible.
    async fn fold(&mut self, run: &RunId, graph: &Arc<Graph>) -> Result<Option<RunState>, JournalError> {
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
                match self.entry(run, graph, &mut folding, &record).await {
                    Ok(seq) => from = seq + 1,
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
        graph: &Arc<Graph>,
        folding: &mut Folding,
        record: &EntryRecord,
    ) -> Result<u64, JournalError> {
        let entry: Entry = decode(format_args!("an entry of {run}"), &record.entry)?;
        let illegal = |error: sealflow_engine::run::Illegal| JournalError::Corrupt(error.to_string());
        match &mut folding.state {
            Some(state) => state.apply(&entry).map_err(illegal)?,
            None => {
                folding.state = Some(RunState::start(run.clone(), graph.clone(), &entry).map_err(illegal)?)
            }
        }
        self.events(run, folding, &entry).await?;
        let Some(state) = &mut folding.state else {
            return Ok(entry.seq);
        };
        for artifact in accepted_artifacts(state, &entry) {
            self.artifacts
                .insert((artifact.subject.clone(), artifact.kind.clone()), artifact);
        }
        for ix in state.take_touched() {
            folding.changed.insert(ix.0, step_row(state, ix));
        }
        let Some(changes) = &record.changes else {
            return Ok(entry.seq);
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
        Ok(entry.seq)
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
                Event::AttemptSucceeded {
                    step,
                    attempt,
                    output,
                    ..
                } => {
                    let visit = folding
                        .visits
                        .get(&(step.clone(), *attempt))
                        .copied()
                        .unwrap_or_default();
                    if !folding.succeeded.insert((step.clone(), visit)) {
                        let what = format!("step `{step}` succeeded twice in visit {visit}");
                        self.problem("at most one success is accepted", Some(run), what);
                    }
                    if let Output::Payload { sha256, bytes, .. } = output {
                        self.payload(run, sha256, *bytes).await?;
                    }
                }
                _ => {}
            }
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

    fn claims(&mut self) {
        for (subject, holders) in std::mem::take(&mut self.claims) {
            let writers = holders.iter().filter(|(_, claim)| *claim == Claim::Write).count();
            let readers = holders.iter().filter(|(_, claim)| *claim == Claim::Read).count();
            if writers > 1 || (writers == 1 && readers > 0) {
                let runs: Vec<_> = holders.iter().map(|(run, _)| run.to_string()).collect();
                let what = format!(
                    "{subject} is in use by {}, and one of them writes",
                    runs.join(", ")
                );
                let last = holders.last().map(|(run, _)| run.clone());
                self.problem("one run writes to a subject at a time", last.as_ref(), what);
            }
        }
    }

    /// What no run led to.
    async fn totals(&mut self) -> Result<(), JournalError> {
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
        let (entries, open) = (count("entry").await?, count("open").await?);
        if entries != self.report.checked.entries {
            let what = format!(
                "{entries} entries are stored, {} of known runs were read",
                self.report.checked.entries
            );
            self.problem("every entry belongs to a run", None, what);
        }
        if open != self.open {
            self.problem(
                "open runs are listed",
                None,
                format!("{} listed runs do not exist", open - self.open),
            );
        }
        Ok(())
    }

    async fn keys(&mut self) -> Result<(), JournalError> {
        let mut last: Option<String> = None;
        loop {
            let params = object([
                ("range", after("key", last.as_deref())),
                ("limit", number(PAGE as u64)),
            ]);
            let sql = "SELECT key, run FROM $range LIMIT $limit";
            let page = self.journal.fetch::<KeyRecord>(sql, params).await?;
            let full = page.len() == PAGE;
            last = page.last().map(|record| record.key.clone());
            for KeyRecord { key, run } in page {
                self.report.checked.keys += 1;
                let row = match run.parse::<RunId>() {
                    Ok(run) => self.journal.read_run(&run).await.ok().flatten(),
                    Err(_) => None,
                };
                if row.and_then(|row| row.key).as_ref() != Some(&key) {
                    self.problem(
                        "keys name their runs",
                        None,
                        format!("`{key}` leads to {run}, which has another key or is not there"),
                    );
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    async fn artifacts(&mut self) -> Result<(), JournalError> {
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
