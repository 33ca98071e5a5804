//! What belongs to the whole installation and to no single run: what somebody holds back. It has a
//! journal of its own, folded like that of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::By;
use crate::id::{RunId, WorkflowName};
use crate::journal::StoredGraph;

/// What can be held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldKind {
    /// No step of the workflow's runs starts.
    Workflow,
    /// No attempt of the stage starts.
    Stage,
    /// The executor is drained: it gets no new attempts, and those that it has go on.
    Executor,
    /// The machine is drained: none of its executors gets new attempts.
    Worker,
}

impl HoldKind {
    /// The name that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Stage => "stage",
            Self::Executor => "executor",
            Self::Worker => "worker",
        }
    }
}

/// A hold: until it is released nothing starts that it covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who asked for it, and why.
    pub by: By,
    /// Since when, milliseconds since 1970.
    pub since: u64,
}

/// The triggers of a workflow that are switched on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enabled {
    /// What their runs keep.
    pub graph: StoredGraph,
    /// Who switched them on, and why.
    pub by: By,
    /// Since when, milliseconds since 1970.
    pub since: u64,
    /// What each did last, by its place in the file.
    #[serde(default)]
    pub last: BTreeMap<u32, Fired>,
}

/// What a trigger did last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// The time that it was for, milliseconds since 1970.
    pub due: u64,
    /// Times that were left out so far.
    pub missed: u64,
    /// The last run that it started.
    pub run: Option<RunId>,
    /// Why it started none the last time.
    pub skipped: Option<String>,
}

/// Something that happened to the installation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SiteEvent {
    /// Something is held back from now on.
    Held {
        /// What.
        kind: HoldKind,
        /// Its name.
        name: String,
        /// Who asked.
        by: By,
    },
    /// It is not held back any more.
    Released {
        /// What.
        kind: HoldKind,
        /// Its name.
        name: String,
        /// Who asked.
        by: By,
    },
    /// The triggers of a workflow are switched on; those of an earlier version of it are off.
    TriggersEnabled {
        /// The workflow.
        workflow: WorkflowName,
        /// What their runs keep.
        graph: Box<StoredGraph>,
        /// Who asked.
        by: By,
    },
    /// The triggers of a workflow are switched off.
    TriggersDisabled {
        /// The workflow.
        workflow: WorkflowName,
        /// Who asked.
        by: By,
    },
    /// A trigger's time has come.
    TriggerFired {
        /// The workflow.
        workflow: WorkflowName,
        /// Which of its triggers.
        index: u32,
        /// The time, milliseconds since 1970.
        due: u64,
        /// Times before it that were left out.
        missed: u32,
        /// The run that was started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<RunId>,
        /// Why none was started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skipped: Option<String>,
    },
    /// Everything as it stands: what came before need not be read.
    Snapshot {
        /// The state.
        state: SiteState,
    },
}

/// What one commit adds to the history of the installation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteEntry {
    /// 1, 2, 3, … without gaps.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970.
    pub at: u64,
    /// What happened, in order; never empty.
    pub events: Vec<SiteEvent>,
}

/// The state of the installation: the fold of its entries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SiteState {
    /// Entries so far.
    pub seq: u64,
    /// The entry of the newest snapshot; 0 if there is none.
    pub snapshot: u64,
    /// What is held back.
    holds: BTreeMap<HoldKind, BTreeMap<String, Hold>>,
    /// Workflows whose triggers are switched on.
    #[serde(default)]
    triggers: BTreeMap<WorkflowName, Enabled>,
}

impl SiteState {
    /// After so many entries comes a snapshot, so that a start reads only the newest ones.
    pub const SNAPSHOT_EVERY: u64 = 500;
    /// How many of the newest entries a start reads: the last snapshot is among them.
    pub const TAIL: u32 = 1_000;

    /// Folds the newest entries: all of them, or from a snapshot on.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn fold(entries: &[SiteEntry]) -> Result<Self, String> {
        let snapshot = |entry: &SiteEntry| matches!(entry.events[..], [SiteEvent::Snapshot { .. }]);
        let from = entries.iter().rposition(snapshot).unwrap_or_default();
        let mut state = Self::default();
        if let Some(entry) = entries.get(from)
            && let [SiteEvent::Snapshot { state: kept }] = &entry.events[..]
        {
            state = kept.clone();
        }
        for entry in &entries[from..] {
            state.apply_entry(entry)?;
        }
        Ok(state)
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// It is not the next one, or cannot have happened.
    pub fn apply_entry(&mut self, entry: &SiteEntry) -> Result<(), String> {
        if entry.seq != self.seq + 1 {
            return Err(format!(
                "entry {} of the installation comes after entry {}",
                entry.seq, self.seq
            ));
        }
        for event in &entry.events {
            self.apply(event, entry.at)?;
        }
        self.seq = entry.seq;
        Ok(())
    }

    /// Applies an event of the entry that is being made.
    ///
    /// # Errors
    /// The event cannot happen now.
    pub fn apply(&mut self, event: &SiteEvent, at: u64) -> Result<(), String> {
        match event {
            SiteEvent::Held { kind, name, by } => {
                let hold = Hold {
                    by: by.clone(),
                    since: at,
                };
                let held = self.holds.entry(*kind).or_default().insert(name.clone(), hold);
                held.map_or(Ok(()), |_| {
                    Err(format!("{} `{name}` is held already", kind.as_str()))
                })
            }
            SiteEvent::Released { kind, name, .. } => {
                let held = self.holds.get_mut(kind).and_then(|holds| holds.remove(name));
                held.map(drop)
                    .ok_or_else(|| format!("{} `{name}` is not held", kind.as_str()))
            }
            SiteEvent::TriggersEnabled { workflow, graph, by } => {
                let enabled = Enabled {
                    graph: (**graph).clone(),
                    by: by.clone(),
                    since: at,
                    last: BTreeMap::new(),
                };
                self.triggers.insert(workflow.clone(), enabled);
                Ok(())
            }
            SiteEvent::TriggersDisabled { workflow, .. } => self
                .triggers
                .remove(workflow)
                .map(drop)
                .ok_or_else(|| format!("no trigger of `{workflow}` is on")),
            SiteEvent::TriggerFired {
                workflow,
                index,
                due,
                missed,
                run,
                skipped,
            } => {
                let enabled = self.triggers.get_mut(workflow);
                let enabled = enabled.ok_or_else(|| format!("no trigger of `{workflow}` is on"))?;
                let before = enabled.last.get(index);
                if before.is_some_and(|before| before.due >= *due) {
                    return Err(format!("a time of trigger {index} of `{workflow}` counts twice"));
                }
                let left_out = u64::from(*missed) + u64::from(run.is_none());
                let fired = Fired {
                    due: *due,
                    missed: before.map_or(0, |before| before.missed) + left_out,
                    run: run
                        .clone()
                        .or_else(|| before.and_then(|before| before.run.clone())),
                    skipped: skipped.clone(),
                };
                enabled.last.insert(*index, fired);
                Ok(())
            }
            SiteEvent::Snapshot { state } => {
                if state != self {
                    return Err(format!(
                        "the snapshot after entry {} is not what came before it",
                        self.seq
                    ));
                }
                self.snapshot = self.seq + 1;
                Ok(())
            }
        }
    }

    /// The hold on something, if there is one.
    pub fn hold(&self, kind: HoldKind, name: &str) -> Option<&Hold> {
        self.holds.get(&kind)?.get(name)
    }

    /// The triggers of a workflow that are switched on.
    pub fn triggers(&self, workflow: &WorkflowName) -> Option<&Enabled> {
        self.triggers.get(workflow)
    }

    /// All workflows whose triggers are switched on.
    pub fn all_triggers(&self) -> &BTreeMap<WorkflowName, Enabled> {
        &self.triggers
    }

    /// The time that a trigger has come to, milliseconds since 1970.
    pub fn last_fired(&self, workflow: &WorkflowName, index: u32) -> Option<u64> {
        let enabled = self.triggers.get(workflow)?;
        Some(enabled.last.get(&index).map_or(enabled.since, |fired| fired.due))
    }

    /// The last run that a trigger started.
    pub fn last_run(&self, workflow: &WorkflowName, index: u32) -> Option<&RunId> {
        self.triggers.get(workflow)?.last.get(&index)?.run.as_ref()
    }

    /// All holds.
    pub fn holds(&self) -> impl Iterator<Item = (HoldKind, &str, &Hold)> {
        self.holds
            .iter()
            .flat_map(|(kind, holds)| holds.iter().map(|(name, hold)| (*kind, name.as_str(), hold)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64, events: Vec<SiteEvent>) -> SiteEntry {
        SiteEntry { seq, at: seq, events }
    }

    fn held(name: &str) -> SiteEvent {
        SiteEvent::Held {
            kind: HoldKind::Workflow,
            name: name.to_owned(),
            by: By::default(),
        }
    }

    #[test]
    fn the_tail_from_a_snapshot_gives_what_the_whole_gives() {
        let mut entries = vec![entry(1, vec![held("seal")]), entry(2, vec![held("snap_up")])];
        let state = SiteState::fold(&entries).unwrap();
        entries.push(entry(3, vec![SiteEvent::Snapshot { state }]));
        let released = SiteEvent::Released {
            kind: HoldKind::Workflow,
            name: "seal".to_owned(),
            by: By::default(),
        };
        entries.push(entry(4, vec![released]));
        let whole = SiteState::fold(&entries).unwrap();
        assert_eq!(SiteState::fold(&entries[2..]).unwrap(), whole);
        assert_eq!((whole.seq, whole.snapshot), (4, 3));
        assert!(whole.hold(HoldKind::Workflow, "seal").is_none());
        assert!(whole.hold(HoldKind::Workflow, "snap_up").is_some());
        let json = serde_json::to_string(&entries).unwrap();
        assert_eq!(serde_json::from_str::<Vec<SiteEntry>>(&json).unwrap(), entries);
    }

    #[test]
    fn what_cannot_have_happened_is_refused() {
        assert!(SiteState::fold(&[entry(1, vec![held("a")]), entry(3, vec![held("b")])]).is_err());
        assert!(SiteState::fold(&[entry(1, vec![held("a"), held("a")])]).is_err());
        let wrong = SiteEvent::Snapshot {
            state: SiteState::default(),
        };
        assert!(
            SiteState::default()
                .apply_entry(&entry(1, vec![held("a")]))
                .is_ok()
        );
        let mut state = SiteState::fold(&[entry(1, vec![held("a")])]).unwrap();
        assert!(state.apply_entry(&entry(2, vec![wrong])).is_err());
    }
}
