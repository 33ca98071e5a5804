//! Runs that start by themselves: which times have come, and what is started for them. A time and the run
//! that is started for it are one commit, so no time counts twice.

use super::*;
use crate::trigger::{Due, Overlap, Timetable};

/// A run that is to be started because its time has come, as soon as what its subject owns is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Fire {
    /// The workflow, and which of its triggers.
    pub workflow: WorkflowName,
    /// Its place in the file.
    pub index: u32,
    /// The time, milliseconds since 1970.
    pub due: u64,
    /// Its graph.
    pub graph: Arc<Graph>,
    /// The parameters.
    pub params: Value,
}

/// Triggers of a workflow that are switched on.
#[derive(Debug)]
pub(super) struct Armed {
    graph: Arc<Graph>,
    /// When each comes, by its place in the file.
    times: Vec<Timetable>,
    /// Triggers whose runs are being started.
    firing: BTreeSet<u32>,
}

impl Armed {
    fn new(graph: Arc<Graph>) -> Result<Self, String> {
        let times = graph
            .data()
            .triggers
            .iter()
            .map(|trigger| Timetable::of(&trigger.cron));
        Ok(Self {
            times: times.collect::<Result<_, _>>()?,
            graph,
            firing: BTreeSet::new(),
        })
    }
}

impl Core {
    /// Switches the triggers of a workflow on, as its file says now; those of an earlier version are switched
    /// off.
    ///
    /// # Errors
    /// It has none, or lacks parameters.
    pub fn enable_triggers(
        &mut self,
        graph: Arc<Graph>,
        source: String,
        by: By,
        now: Now,
    ) -> Result<(), Refused> {
        let data = graph.data();
        if data.triggers.is_empty() {
            let what = format!("workflow `{}` has no [[trigger]]", data.name);
            return Err(Refused::State(what));
        }
        for trigger in &data.triggers {
            check_params(&self.registry, &graph, &trigger.params)?;
        }
        let stored = StoredGraph {
            data: data.clone(),
            source,
        };
        let event = SiteEvent::TriggersEnabled {
            workflow: data.name.clone(),
            graph: Box::new(stored),
            by,
        };
        let name = data.name.clone();
        self.record_site(event, now)?;
        let armed = Armed::new(graph).map_err(Refused::State)?;
        self.armed.insert(name, armed);
        Ok(())
    }

    /// Switches the triggers of a workflow off.
    ///
    /// # Errors
    /// They are not on.
    pub fn disable_triggers(&mut self, workflow: WorkflowName, by: By, now: Now) -> Result<(), Refused> {
        if self.site.triggers(&workflow).is_none() {
            return Err(Refused::State(format!(
                "no trigger of workflow `{workflow}` is switched on"
            )));
        }
        self.armed.remove(&workflow);
        self.record_site(SiteEvent::TriggersDisabled { workflow, by }, now)
    }

    /// Takes up the triggers that are switched on.
    pub(super) fn arm(&mut self) -> Result<(), String> {
        for (workflow, enabled) in self.site.all_triggers() {
            let graph = Graph::new(enabled.graph.data.clone())
                .map_err(|why| format!("the graph of the trigger of `{workflow}`: {why}"))?;
            self.armed.insert(workflow.clone(), Armed::new(Arc::new(graph))?);
        }
        Ok(())
    }

    /// Sets in motion what has come, unless a run that is open keeps it.
    pub(super) fn fire_due(&mut self, now: Now) {
        let mut due = Vec::new();
        for (workflow, armed) in &self.armed {
            let triggers = armed.graph.data().triggers.iter().zip(&armed.times);
            for (index, (trigger, times)) in (0..).zip(triggers) {
                let last = self.site.last_fired(workflow, index);
                let come = last.and_then(|last| times.due(trigger.catch_up, last, now.wall_ms));
                let Some(come) = come else {
                    continue;
                };
                if !armed.firing.contains(&index) {
                    due.push((
                        workflow.clone(),
                        index,
                        trigger.clone(),
                        come,
                        armed.graph.clone(),
                    ));
                }
            }
        }
        for (workflow, index, trigger, come, graph) in due {
            let open = self.open_of(&workflow, index);
            let skipped = match (&open, trigger.overlap) {
                (_, _) if come.skip => Some("it passed while nothing could start".to_owned()),
                (Some(run), Overlap::Skip) => Some(format!("{run} was still open")),
                (Some(_), Overlap::Wait) => continue,
                (Some(_), Overlap::Allow) | (None, _) => None,
            };
            match skipped {
                Some(why) => self.fired(&workflow, index, come, Err(why), now),
                None => {
                    if let Some(armed) = self.armed.get_mut(&workflow) {
                        armed.firing.insert(index);
                    }
                    let fire = Fire {
                        workflow,
                        index,
                        due: come.at,
                        graph,
                        params: trigger.params,
                    };
                    self.stray.push(Effect::Fire(Box::new(fire)));
                }
            }
        }
    }

    /// Starts the run of a time that has come.
    pub fn fire(&mut self, fire: &Fire, artifacts: Result<BTreeMap<String, Value>, String>, now: Now) {
        let Fire {
            workflow, index, due, ..
        } = fire;
        let Some(armed) = self.armed.get_mut(workflow) else {
            return;
        };
        armed.firing.remove(index);
        let same = armed.graph.hash() == fire.graph.hash();
        let place = *index as usize;
        let Some((trigger, times)) = armed.graph.data().triggers.get(place).zip(armed.times.get(place))
        else {
            return;
        };
        let last = self.site.last_fired(workflow, *index).filter(|last| last < due);
        let Some(come) = last
            .filter(|_| same)
            .and_then(|last| times.due(trigger.catch_up, last, *due))
        else {
            return;
        };
        let source = self
            .site
            .triggers(workflow)
            .map(|enabled| enabled.graph.source.clone());
        let started = artifacts.map_err(Refused::State).and_then(|artifacts| {
            let start = StartRun {
                graph: fire.graph.clone(),
                source: source.unwrap_or_default(),
                params: fire.params.clone(),
                key: Some(key(workflow, *index, *due)),
                by: By {
                    who: "sealflow".to_owned(),
                    why: format!("trigger {index} of {workflow}, {}", crate::clock::rfc3339(*due)),
                },
                artifacts,
                priority: None,
                fork: None,
            };
            self.start(start, now)
        });
        self.fired(
            workflow,
            *index,
            come,
            started.map_err(|refused| refused.to_string()),
            now,
        );
    }

    fn fired(
        &mut self,
        workflow: &WorkflowName,
        index: u32,
        come: Due,
        started: Result<RunId, String>,
        now: Now,
    ) {
        let (run, skipped) = match started {
            Ok(run) => (Some(run), None),
            Err(why) => {
                tracing::warn!(%workflow, why, "a trigger's time was left out");
                (None, Some(why))
            }
        };
        let event = SiteEvent::TriggerFired {
            workflow: workflow.clone(),
            index,
            due: come.at,
            missed: come.missed,
            run,
            skipped,
        };
        if let Err(refused) = self.record_site(event, now) {
            tracing::error!(%workflow, %refused, "a trigger");
        }
    }

    /// A run that a trigger started and that is open.
    fn open_of(&self, workflow: &WorkflowName, index: u32) -> Option<RunId> {
        let run = self.site.last_run(workflow, index)?;
        (self.runs.contains_key(run) || self.resting.contains(run)).then(|| run.clone())
    }

    /// When the next time comes, milliseconds since 1970.
    pub(super) fn next_trigger(&self) -> Option<u64> {
        let all = self.armed.iter().flat_map(|(workflow, armed)| {
            let triggers = armed.graph.data().triggers.iter().zip(&armed.times);
            (0..)
                .zip(triggers)
                .map(move |(index, one)| (workflow, armed, index, one))
        });
        let waits = all.filter(|(workflow, armed, index, (trigger, _))| {
            let keeps = trigger.overlap == Overlap::Wait && self.open_of(workflow, *index).is_some();
            !keeps && !armed.firing.contains(index)
        });
        waits
            .filter_map(|(workflow, _, index, (_, times))| times.next(self.site.last_fired(workflow, index)?))
            .min()
    }
}

/// The name under which the run of a time is started: once.
fn key(workflow: &WorkflowName, index: u32, due: u64) -> String {
    format!("trigger/{workflow}/{index}/{due}")
}
