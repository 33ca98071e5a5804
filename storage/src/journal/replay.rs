//! What the lines of a backup or an archive tell, folded run by run: it derives all rows, and proves that
//! what is told can have happened.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sealflow_chain::messager::{Batch as MessageBatch, Record};
use sealflow_engine::core::accepted_artifacts;
use sealflow_engine::event::Entry;
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Append, StoredGraph};
use sealflow_engine::rows::{StepRow, run_row, step_row};
use sealflow_engine::run::RunState;
use sealflow_engine::site::{SiteEntry, SiteState};
use sealflow_engine::workflow::Graph;
use sha2::{Digest, Sha256};

use super::archive::{Archive, ArchivedRow};
use super::lines::{Line, Transferred, payloads_of};

/// What a line told.
pub(super) enum Told {
    /// Nothing that is to be stored.
    Nothing,
    /// A payload, whose hash is right.
    Payload(Vec<u8>),
    /// The next entry of a run, with the rows it changes.
    Append(Box<Append>),
    /// The next entry of the installation.
    Site(Box<SiteEntry>),
    /// What the messager remembers.
    Messages(Box<MessageBatch>),
    /// An archived run: its row, its file, and what the file says.
    Archive(Box<ArchivedRow>, Vec<u8>, Box<Archive>),
}

/// Folds lines.
#[derive(Default)]
pub(super) struct Replay {
    graphs: HashMap<String, (Arc<Graph>, Arc<StoredGraph>)>,
    payloads: HashSet<String>,
    site: SiteState,
    /// The run whose entries are being read.
    pub(super) run: Option<RunState>,
    /// Whether the rows of that run were compared with a snapshot.
    pub(super) compared: bool,
    /// What was read.
    pub(super) done: Transferred,
}

impl Replay {
    /// Takes the next line.
    ///
    /// # Errors
    /// What it tells cannot have happened, or does not fit what came before.
    pub(super) fn line(&mut self, line: Line) -> Result<Told, String> {
        match line {
            Line::SealflowExport { .. } | Line::End { .. } => Ok(Told::Nothing),
            Line::Graph { hash, graph } => {
                let made = Graph::new(graph.data.clone())?;
                if **made.hash() != *hash {
                    return Err(format!("the graph's hash is {}, not {hash}", made.hash()));
                }
                self.graphs.insert(hash, (Arc::new(made), Arc::from(graph)));
                self.done.graphs += 1;
                Ok(Told::Nothing)
            }
            Line::Payload { sha256, hex } => {
                let bytes = hex::decode(hex).map_err(|error| error.to_string())?;
                let found = hex::encode(Sha256::digest(&bytes));
                if found != sha256 {
                    return Err(format!("the payload's hash is {found}, not {sha256}"));
                }
                self.payloads.insert(sha256);
                self.done.payloads += 1;
                Ok(Told::Payload(bytes))
            }
            Line::Entry { run, entry } => self
                .entry(run, *entry)
                .map(|append| Told::Append(Box::new(append))),
            Line::Site { entry } => {
                self.site.apply_entry(&entry)?;
                Ok(Told::Site(entry))
            }
            Line::Message { record } => {
                let versions = record.versions.iter();
                if let Some(Err(error)) = versions.map(|version| version.signed()).find(Result::is_err) {
                    return Err(format!(
                        "message {} has a version that is none: {error}",
                        record.intent.key
                    ));
                }
                self.done.messages += 1;
                // A new journal takes it as the first of its key.
                let record = Record {
                    revision: 1,
                    ..*record
                };
                Ok(Told::Messages(Box::new(MessageBatch {
                    records: vec![record],
                    ..MessageBatch::default()
                })))
            }
            Line::Sender { row } => Ok(Told::Messages(Box::new(MessageBatch {
                senders: vec![*row],
                ..MessageBatch::default()
            }))),
            Line::Snapshot { row, steps } => {
                let state = self.run.as_ref().ok_or("a snapshot of no run")?;
                if run_row(state) != *row || step_rows(state) != steps {
                    return Err(format!("the entries of {} do not give its snapshot", row.run));
                }
                self.compared = true;
                Ok(Told::Nothing)
            }
            Line::Archive { row, hex } => {
                let bytes = hex::decode(hex).map_err(|error| error.to_string())?;
                let archive = Archive::read(&bytes, Some(&row)).map_err(|error| error.to_string())?;
                self.done.archives += 1;
                Ok(Told::Archive(row, bytes, Box::new(archive)))
            }
        }
    }

    fn entry(&mut self, run: RunId, entry: Entry) -> Result<Append, String> {
        let illegal = |error: sealflow_engine::run::Illegal| error.to_string();
        if let Some((missing, _)) = payloads_of(&entry).find(|(sha256, _)| !self.payloads.contains(*sha256)) {
            return Err(format!("payload {missing} did not come before it"));
        }
        let mut new_graph = None;
        let mut graphs = Vec::new();
        for hash in entry.graphs() {
            let known = self.graphs.get(&**hash);
            let (made, stored) = known.ok_or_else(|| format!("graph {hash} did not come before it"))?;
            new_graph = Some((made.hash().clone(), stored.clone()));
            graphs.push(made.clone());
        }
        if self.run.as_ref().is_none_or(|state| state.id != run) {
            self.run = Some(RunState::begin(&run, &graphs, &entry).map_err(illegal)?);
            self.compared = false;
            self.done.runs += 1;
        } else if let Some(state) = &mut self.run {
            graphs.into_iter().for_each(|graph| state.provide(graph));
            state.apply(&entry).map_err(illegal)?;
        }
        let state = self.run.as_mut().ok_or("it belongs to no run")?;
        self.done.entries += 1;
        let steps = state
            .take_touched()
            .into_iter()
            .map(|ix| step_row(state, ix))
            .collect();
        let artifacts = accepted_artifacts(state, &entry);
        Ok(Append {
            row: run_row(state),
            steps,
            artifacts,
            graph: new_graph,
            entry,
        })
    }

    /// The graphs that were read, by hash.
    pub(super) fn graphs(&self) -> BTreeMap<String, Arc<StoredGraph>> {
        let graphs = self.graphs.iter();
        graphs
            .map(|(hash, (_, stored))| (hash.clone(), stored.clone()))
            .collect()
    }
}

/// The rows of all steps and items of a run.
pub(super) fn step_rows(state: &RunState) -> Vec<StepRow> {
    state.steps().map(|(ix, _)| step_row(state, ix)).collect()
}
