//! The offline check: folds every run from its entries (`fold`) or its archive (`archives`) and compares
//! with everything else that is stored (`rest`); and with the artifacts in their stores (`files`).

mod archives;
mod files;
mod fold;
mod messages;
mod rest;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::{ArtifactRow, JournalError};
use sealflow_engine::resource::Resources;
use sealflow_engine::rows::{RunRow, run_row};
use sealflow_engine::run::RunState;
use sealflow_engine::stage::Claim;
use sealflow_engine::workflow::Graph;
use serde::Serialize;
use surrealdb::types::SurrealValue;

pub use self::files::check_files;

use super::SurrealJournal;
use super::archive::{ArchiveFolder, ArchivedRow};
use super::read::PAGE;
use super::record::{decode, id, list, object, text};
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
    /// Archived runs.
    pub archives: u64,
    /// Messages to the chain.
    #[serde(default)]
    pub messages: u64,
    /// Artifacts whose files were looked at.
    pub files: u64,
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

/// Checks a journal. Nothing is changed, and one damaged run keeps no other from being checked. No
/// daemon may commit meanwhile.
///
/// # Errors
/// The store cannot be read at all. What is wrong in it is no error but in the report.
pub async fn check(journal: &SurrealJournal) -> Result<CheckReport, JournalError> {
    let archived = journal.all_archived().await?;
    let names: HashSet<PathBuf> = archived.iter().map(|row| ArchiveFolder::name(&row.row)).collect();
    let mut checker = Checker {
        journal,
        archived: archived.into(),
        report: CheckReport::default(),
        graphs: HashMap::new(),
        claims: BTreeMap::new(),
        artifacts: BTreeMap::new(),
        payloads: HashSet::new(),
    };
    checker.runs().await?;
    checker.archives_before(None).await?;
    checker.stray_archives(&names).await?;
    checker.claims();
    checker.totals().await?;
    checker.keys().await?;
    checker.artifacts().await?;
    checker.site().await?;
    checker.messages().await?;
    Ok(checker.report)
}

struct Checker<'a> {
    journal: &'a SurrealJournal,
    report: CheckReport,
    /// Archived runs that are still to be looked at, the oldest first: artifacts are those of the run that
    /// started last, wherever it is now.
    archived: VecDeque<ArchivedRow>,
    /// Graphs that were looked at; nothing where one is missing or wrong.
    graphs: HashMap<String, Option<Arc<Graph>>>,
    /// Open runs with what they claim and the run whose work they do.
    claims: BTreeMap<Subject, Vec<(RunId, Claim, Option<RunId>)>>,
    /// The artifacts that the entries make current: of the run that started last.
    artifacts: BTreeMap<(Subject, String), ArtifactRow>,
    payloads: HashSet<String>,
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
        for page in self.journal.names("run", "record::id(id)[0]").await?.chunks(PAGE) {
            let ids = page.iter().map(|name| id("run", vec![text(name)])).collect();
            let sql = "SELECT run, row, workflow, status, subject, open FROM $ids";
            let params = object([("ids", list(ids))]);
            for record in self.journal.fetch::<RunRecord>(sql, params).await? {
                self.report.checked.runs += 1;
                self.archives_before(Some(&record.run)).await?;
                match record.run.parse::<RunId>() {
                    Ok(run) => self.run(&run, &record).await?,
                    Err(error) => self.problem("rows can be read", None, error.to_string()),
                }
            }
        }
        Ok(())
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
        let Some(state) = self.fold(run).await? else {
            return Ok(());
        };
        let wanted = run_row(&state);
        let found = self.journal.read_run(run).await.map(|found| {
            // What an earlier version wrote does not say that a run rests; that is only not known then.
            found.map(|row| RunRow {
                rest: row.rest.or(wanted.rest),
                ..row
            })
        });
        match found {
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
            self.claims.entry(state.subject.clone()).or_default().push((
                run.clone(),
                head.claim,
                wanted.parent,
            ));
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
                self.problem("a run keeps the graphs that its entries name", Some(run), what);
                None
            }
        };
        self.graphs.insert(hash.to_owned(), graph.clone());
        Ok(graph)
    }
}
