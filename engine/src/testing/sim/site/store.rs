//! A store as the embedded one is: what is written is seen at once, and durable only when the write was
//! synced. A stop in between may lose it, or not. Entries are only created, never written over.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::Effect;
use crate::event::Entry;
use crate::id::RunId;
use crate::journal::{Append, Batch};
use crate::rows::{RunRow, run_row};
use crate::run::RunState;
use crate::site::SiteEntry;
use crate::workflow::Graph;

/// What one commit writes, and what follows from it.
#[derive(Default)]
pub(super) struct Group {
    pub(super) appends: Vec<Append>,
    pub(super) site: Vec<SiteEntry>,
    pub(super) effects: Vec<Effect>,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.site.is_empty() && self.effects.is_empty()
    }
}

/// A run's history.
#[derive(Default)]
pub(super) struct Logged {
    /// Each with the entry that it came with.
    graphs: Vec<(u64, Arc<Graph>)>,
    pub(super) entries: Vec<Entry>,
    rows: Vec<RunRow>,
}

impl Logged {
    pub(super) fn row(&self) -> &RunRow {
        self.rows.last().unwrap()
    }

    pub(super) fn fold(&self) -> Result<RunState, String> {
        let graphs: Vec<Arc<Graph>> = self.graphs.iter().map(|(_, graph)| graph.clone()).collect();
        RunState::fold(&self.row().run, &graphs, &self.entries).map_err(|error| error.to_string())
    }
}

#[derive(Default)]
pub(super) struct Store {
    pub(super) runs: BTreeMap<RunId, Logged>,
    pub(super) site: Vec<SiteEntry>,
    /// How much of each is durable.
    synced: BTreeMap<RunId, usize>,
    synced_site: usize,
    /// What is visible and not durable yet, as one commit.
    unsynced: Batch,
}

impl Store {
    /// Writes a group: visible now. A write over what is there is refused.
    pub(super) fn write(&mut self, group: &Group) -> Result<(), String> {
        for append in &group.appends {
            let run = &append.row.run;
            let logged = self.runs.entry(run.clone()).or_default();
            if append.entry.seq != logged.entries.len() as u64 + 1 {
                return Err(format!("{run}: entry {} is there", append.entry.seq));
            }
            if let Some((hash, stored)) = &append.graph {
                let graph = Graph::new(stored.data.clone())?;
                if graph.hash() != hash {
                    return Err(format!("{run}: a graph under a hash that is not its own"));
                }
                logged.graphs.push((append.entry.seq, Arc::new(graph)));
            }
            logged.entries.push(append.entry.clone());
            logged.rows.push(append.row.clone());
            self.unsynced.push(append.clone());
        }
        for entry in &group.site {
            if entry.seq != self.site.len() as u64 + 1 {
                return Err(format!("entry {} of the site is there", entry.seq));
            }
            self.site.push(entry.clone());
            self.unsynced.site.push(entry.clone());
        }
        Ok(())
    }

    /// Makes everything durable that is visible; gives the runs that this is about, and the commit.
    pub(super) fn sync(&mut self) -> Result<(Vec<RunId>, Batch), String> {
        let mut changed = Vec::new();
        for (run, logged) in &self.runs {
            let count = logged.entries.len();
            if self.synced.insert(run.clone(), count) != Some(count) {
                let folded = run_row(&logged.fold()?);
                if folded != *logged.row() {
                    return Err(format!("row {:?} is not the fold {folded:?}", logged.row()));
                }
                changed.push(run.clone());
            }
        }
        self.synced_site = self.site.len();
        Ok((changed, std::mem::take(&mut self.unsynced)))
    }

    /// Entries of a run that are durable and that nobody has read in this way before.
    pub(super) fn fresh(&self, run: &RunId, from: usize) -> &[Entry] {
        &self.runs[run].entries[from..]
    }

    /// The machine stops: what was not synced is gone, and given.
    pub(super) fn lose(&mut self) -> Batch {
        self.site.truncate(self.synced_site);
        for (run, logged) in &mut self.runs {
            let kept = self.synced.get(run).copied().unwrap_or_default();
            logged.entries.truncate(kept);
            logged.rows.truncate(kept);
            logged.graphs.retain(|(seq, _)| *seq <= kept as u64);
        }
        self.runs.retain(|_, logged| !logged.entries.is_empty());
        std::mem::take(&mut self.unsynced)
    }
}
