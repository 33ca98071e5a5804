//! What the engine asks of the durable journal, and what one commit holds.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Entry;
use crate::id::{RunId, Subject, WorkflowName};
use crate::rows::{RunRow, StepRow};
use crate::run::RunStatus;
use crate::site::SiteEntry;
use crate::workflow::{GraphData, StepIx};

/// A graph that runs are pinned to, with the text it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredGraph {
    /// What it says.
    pub data: GraphData,
    /// The workflow file as it was read.
    pub source: String,
}

/// An artifact that a subject owns now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtifactRow {
    /// The owner.
    pub subject: Subject,
    /// Its kind, for example `sealed`.
    pub kind: String,
    /// Where it is: an [`crate::artifact::Artifact`].
    pub artifact: Value,
    /// The run that made it.
    pub run: RunId,
}

/// The next entry of one run and what it changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Append {
    /// The entry.
    pub entry: Entry,
    /// The run after it.
    pub row: RunRow,
    /// The steps that changed, after it.
    pub steps: Vec<StepRow>,
    /// Artifacts of the subject that it makes current.
    pub artifacts: Vec<ArtifactRow>,
    /// The graph, when the entry starts the run or moves it to another graph.
    pub graph: Option<(Arc<str>, Arc<StoredGraph>)>,
}

/// What one transaction commits: entries of any number of runs, and the rows after all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The entries, those of one run in order.
    pub entries: Vec<(RunId, Entry)>,
    /// For each run the sequence number before the batch, and its row after it.
    pub runs: BTreeMap<RunId, (u64, RunRow)>,
    /// Steps after the batch.
    pub steps: BTreeMap<(RunId, StepIx), StepRow>,
    /// Runs whose steps got other places: rows of theirs from before the batch count no more.
    pub renumbered: BTreeSet<RunId>,
    /// Artifacts after the batch.
    pub artifacts: BTreeMap<(Subject, String), ArtifactRow>,
    /// Graphs that may be new, by hash.
    pub graphs: BTreeMap<Arc<str>, Arc<StoredGraph>>,
    /// Callers' names of runs that are new.
    pub keys: BTreeMap<String, RunId>,
    /// Entries of the installation, in order.
    pub site: Vec<SiteEntry>,
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.site.is_empty()
    }

    /// Checks that the batch agrees with itself: the entries of each run are numbered from the one
    /// after `before` to its row's `seq`, and nothing belongs to a run without an entry.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`]: the program that made the batch is wrong.
    pub fn check(&self) -> Result<(), JournalError> {
        let mut last: BTreeMap<&RunId, u64> = self
            .runs
            .iter()
            .map(|(run, (before, _))| (run, *before))
            .collect();
        for (run, entry) in &self.entries {
            let wrong = |what: &str| {
                JournalError::Corrupt(format!(
                    "entry {} of {run} was to be written, but {what}",
                    entry.seq
                ))
            };
            let last = last.get_mut(run).ok_or_else(|| wrong("without the run's row"))?;
            if entry.seq != *last + 1 {
                return Err(wrong(&format!("it comes after entry {last}")));
            }
            if entry.events.is_empty() {
                return Err(wrong("it is empty"));
            }
            *last = entry.seq;
        }
        for (run, (before, row)) in &self.runs {
            if last.get(run) != Some(&row.seq) || row.seq == *before {
                let what = format!(
                    "the row of {run} was to be written at entry {}, which it does not have",
                    row.seq
                );
                return Err(JournalError::Corrupt(what));
            }
        }
        for (run, (before, row)) in &self.runs {
            if *before == 0
                && let Some(key) = &row.key
                && self.keys.get(key) != Some(run)
            {
                let what =
                    format!("{run} was to be started under the key `{key}`, as another run of the batch");
                return Err(JournalError::Corrupt(what));
            }
        }
        if let Some(pair) = self.site.windows(2).find(|pair| pair[1].seq != pair[0].seq + 1) {
            let what = format!(
                "entry {} of the installation comes after entry {}",
                pair[1].seq, pair[0].seq
            );
            return Err(JournalError::Corrupt(what));
        }
        let mut owners = self.steps.keys().map(|(run, _)| run).chain(self.keys.values());
        match owners.find(|run| !self.runs.contains_key(*run)) {
            Some(run) => Err(JournalError::Corrupt(format!(
                "a change of {run} was to be written without an entry"
            ))),
            None => Ok(()),
        }
    }

    /// Adds the next entry of a run.
    pub fn push(&mut self, append: Append) {
        let Append {
            entry,
            row,
            steps,
            artifacts,
            graph,
        } = append;
        let run = row.run.clone();
        let before = self.runs.get(&run).map_or(entry.seq - 1, |(before, _)| *before);
        if entry.seq == 1
            && let Some(key) = &row.key
        {
            self.keys.insert(key.clone(), run.clone());
        }
        if entry.renumbers() {
            self.steps.retain(|(of, _), _| *of != run);
            self.renumbered.insert(run.clone());
        }
        self.entries.push((run.clone(), entry));
        for step in steps {
            self.steps.insert((run.clone(), step.ix), step);
        }
        for artifact in artifacts {
            self.artifacts
                .insert((artifact.subject.clone(), artifact.kind.clone()), artifact);
        }
        self.graphs.extend(graph);
        self.runs.insert(run, (before, row));
    }
}

/// Why the journal did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another daemon owns the journal, or a sequence number is taken: this process must stop.
    #[error("another sealflow daemon has taken over this journal: {0}")]
    Fenced(String),
    /// Something stored cannot be understood or contradicts itself.
    #[error("the journal is damaged: {0}")]
    Corrupt(String),
    /// The store failed; whether a commit took effect is not known, so the process must stop and
    /// the replay at the next start decides.
    #[error("the store failed: {0}")]
    Store(String),
}

/// A run that a start takes up.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenRun {
    /// Its row.
    pub row: RunRow,
    /// All its entries, or why they cannot be read; none if its row says that it rests.
    pub entries: Result<Vec<Entry>, String>,
}

/// A future that the journal returns.
pub type JournalFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, JournalError>> + Send + 'a>>;

/// Which runs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunFilter {
    /// Only runs of this workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowName>,
    /// Only runs that stand so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RunStatus>,
    /// Only runs about this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// At most so many, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl RunFilter {
    /// Whether the filter lets a run through (its limit aside).
    pub fn accepts(&self, row: &RunRow) -> bool {
        self.workflow
            .as_ref()
            .is_none_or(|wanted| *wanted == row.workflow)
            && self.status.is_none_or(|wanted| wanted == row.status)
            && self.subject.as_ref().is_none_or(|wanted| *wanted == row.subject)
    }
}

/// The durable history of runs. Every implementation passes `testing::journal_suite`.
pub trait Journal: Send + Sync + 'static {
    /// Commits a batch, all of it or nothing, and returns when it would survive a power cut.
    ///
    /// Refused as [`JournalError::Fenced`]: any commit of a daemon that is not the newest one, a run
    /// that is not at the entry that the batch names as `before`, an entry whose number is taken or, of
    /// the installation's, not the next one, and a key that is taken. Refused as [`JournalError::Corrupt`]: a batch that contradicts itself
    /// ([`Batch::check`]). A refused batch changes nothing.
    fn commit<'a>(&'a self, batch: &'a Batch) -> JournalFuture<'a, ()>;

    /// The newest entries of the installation, at most `limit`, in order.
    fn site_tail(&self, limit: u32) -> JournalFuture<'_, Vec<SiteEntry>>;

    /// The row of a run.
    fn run<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Option<RunRow>>;

    /// Runs that a filter accepts, the newest first.
    fn runs<'a>(&'a self, filter: &'a RunFilter) -> JournalFuture<'a, Vec<RunRow>>;

    /// Runs that have not ended, or have attempts that have not.
    fn open_runs(&self) -> JournalFuture<'_, Vec<RunRow>>;

    /// Open runs with their entries: at most `limit` of those that come after `after`, in order. Of runs that rest no
    /// entries are read. A run that cannot be read keeps no other from being read.
    fn open_histories<'a>(&'a self, after: Option<&'a RunId>, limit: u32) -> JournalFuture<'a, Vec<OpenRun>> {
        Box::pin(async move {
            let mut open = Vec::new();
            let rows = self.open_runs().await?.into_iter();
            let rows = rows.filter(|row| after.is_none_or(|after| row.run > *after));
            for row in rows.take(limit as usize) {
                if row.rest.is_some() {
                    let entries = Ok(Vec::new());
                    open.push(OpenRun { row, entries });
                    continue;
                }
                let entries = match self.entries(&row.run, 1, u32::MAX).await {
                    Ok(entries) => Ok(entries),
                    Err(JournalError::Corrupt(why)) => Err(why),
                    Err(error) => return Err(error),
                };
                open.push(OpenRun { row, entries });
            }
            Ok(open)
        })
    }

    /// The rows of the steps of a run that ever changed, in the order of the graph.
    fn steps<'a>(&'a self, run: &'a RunId) -> JournalFuture<'a, Vec<StepRow>>;

    /// At most `limit` entries of a run from number `from` on.
    fn entries<'a>(&'a self, run: &'a RunId, from: u64, limit: u32) -> JournalFuture<'a, Vec<Entry>>;

    /// A graph.
    fn graph<'a>(&'a self, hash: &'a str) -> JournalFuture<'a, Option<StoredGraph>>;

    /// The artifacts that a subject owns.
    fn artifacts<'a>(&'a self, subject: &'a Subject) -> JournalFuture<'a, Vec<ArtifactRow>>;

    /// The run that was started under a caller's name.
    fn find_key<'a>(&'a self, key: &'a str) -> JournalFuture<'a, Option<RunId>>;

    /// Stores a large value durably and gives its SHA-256 in hex.
    fn put_payload<'a>(&'a self, bytes: &'a [u8]) -> JournalFuture<'a, String>;

    /// A large value, verified against its hash.
    fn payload<'a>(&'a self, sha256: &'a str) -> JournalFuture<'a, Vec<u8>>;
}
