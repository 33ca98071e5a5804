//! Runs that do the work of other runs' steps: sub-workflows, for one attempt, and batches, for many. To
//! the step such a run is an executor named `@RUN`: its attempt starts with the run, is stopped by
//! cancelling it, and ends with what it gives.

use super::*;
use crate::event::{RunEnd, Served};
use crate::stage::Verdict;
use crate::workflow::BatchSpec;

/// The executor that a run is to the attempts whose work it does.
pub(super) fn executor_of(run: &RunId) -> String {
    format!("@{run}")
}

/// The run behind an executor's name.
pub fn run_of(executor: &str) -> Option<RunId> {
    executor.strip_prefix('@')?.parse().ok()
}

/// A run that is to be started for a step, as soon as its parameters and what its subject owns are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The run and the step that it is for.
    pub run: RunId,
    /// The step or item.
    pub step: StepName,
    /// The passage.
    pub visit: u32,
    /// Its parameters.
    pub input: BTreeMap<String, InputValue>,
    /// Makes its subject of the parameters.
    pub graph: Arc<Graph>,
}

/// What a run that has ended gives to the attempts whose work it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The run.
    pub run: RunId,
    /// The attempts.
    pub to: Vec<Served>,
    /// Whether each has a verdict of its own.
    pub batch: bool,
    /// What it gives, or why it gives nothing.
    pub result: Result<BTreeMap<String, InputValue>, Failure>,
}

impl Delivery {
    /// What a run gives, once it has ended.
    pub fn of(state: &RunState) -> Option<Self> {
        let to: Vec<Served> = state.parent.iter().chain(&state.members).cloned().collect();
        if to.is_empty() || !state.status.is_final() {
            return None;
        }
        let batch = state.parent.is_none();
        let result = match state.status {
            RunStatus::Succeeded if batch => Ok(state.given(StepIx(0), "verdicts")),
            RunStatus::Succeeded => Ok(state.outputs()),
            _ => Err(Failure::permanent(
                "cancelled",
                format!("{} was cancelled", state.id),
            )),
        };
        let run = state.id.clone();
        Some(Self {
            run,
            to,
            batch,
            result,
        })
    }

    /// The reports of the attempts, of values that were fetched.
    pub fn reports(self, values: Result<Value, String>) -> Vec<Report> {
        let Self {
            to, batch, result, ..
        } = self;
        let report = |served: Served, news: News| Report {
            key: served.key,
            token: served.token,
            news,
        };
        let values = match (result, values) {
            // A batch that was cancelled decided about nobody: its members are collected again.
            (Err(failure), _) if batch => {
                let lost = |served| report(served, News::Lost(failure.message.clone()));
                return to.into_iter().map(lost).collect();
            }
            (Err(failure), _) => Err(failure),
            (Ok(_), Err(why)) => Err(Failure::permanent("payload_missing", why)),
            (Ok(_), Ok(values)) => Ok(values),
        };
        if !batch {
            let ended = |served| report(served, News::Ended(values.clone().map(Outcome::Done)));
            return to.into_iter().map(ended).collect();
        }
        let verdicts = values.and_then(|values| {
            let verdicts = values.get("verdicts").cloned().unwrap_or_default();
            serde_json::from_value::<Vec<Verdict>>(verdicts)
                .map_err(|error| Failure::permanent("bad_output", format!("verdicts of a batch: {error}")))
        });
        let missing = || Failure::permanent("bad_output", "the batch has no verdict for it");
        let one = |(at, served): (usize, Served)| {
            let verdict = match &verdicts {
                Ok(verdicts) => match verdicts.get(at) {
                    Some(Verdict::Done(output)) => Ok(Outcome::Done(output.clone())),
                    Some(Verdict::Failed(failure)) => Err(failure.clone()),
                    None => Err(missing()),
                },
                Err(failure) => Err(failure.clone()),
            };
            report(served, News::Ended(verdict))
        };
        to.into_iter().enumerate().map(one).collect()
    }
}

/// Steps that wait to be made together.
#[derive(Debug)]
pub(super) struct Collector {
    graph: Arc<Graph>,
    spec: BatchSpec,
    /// Since when each is ready, and which it is.
    pub(super) members: BTreeSet<(u64, RunId, StepIx)>,
    /// When it closes, if nobody comes; milliseconds since 1970.
    pub(super) due: u64,
}

/// What steps must have in common to be made together: the batch's graph, and the key's value.
pub(super) type Together = (Arc<str>, String);

impl Core {
    /// Asks for what a step's own run needs to start; once for each time that the step could start.
    pub(super) fn ask_launch(&mut self, run: &RunId, ix: StepIx) {
        let Some(live) = self.runs.get(run) else { return };
        let state = &live.state;
        let Some(graph) = state.graph.child(state.spec(ix)).cloned() else {
            return;
        };
        let workflow = state.graph.data().name.as_str();
        let held = [workflow, graph.data().name.as_str()]
            .into_iter()
            .any(|name| self.site.hold(HoldKind::Workflow, name).is_some());
        let visit = state.step(ix).visit;
        if held || !state.discarding.is_empty() {
            return;
        }
        let launch = Launch {
            run: run.clone(),
            step: state.name(ix),
            visit,
            input: state.input(ix),
            graph,
        };
        if self.launching.insert((run.clone(), ix, visit))
            && let Some(live) = self.runs.get_mut(run)
        {
            live.effects.push(Effect::Launch(Box::new(launch)));
            self.dirty.insert(run.clone());
        }
    }

    /// Starts the run that does a step's work, unless the step does not want it any more.
    pub fn launch(
        &mut self,
        launch: &Launch,
        params: Result<Value, String>,
        artifacts: BTreeMap<String, Value>,
        now: Now,
    ) {
        let at = *self.at.get_or_insert(now.wall_ms);
        let run = &launch.run;
        let found = self.runs.get(run).and_then(|live| {
            let ix = live.state.find(&launch.step)?;
            Some((ix, live.state.step(ix).visit))
        });
        let Some((ix, visit)) = found else {
            // The run has ended, or the item is gone: nothing of that visit is launched any more.
            self.launching
                .retain(|(other, _, visit)| other != run || *visit != launch.visit);
            return;
        };
        self.launching.remove(&(run.clone(), ix, launch.visit));
        let Some(live) = self.runs.get(run) else { return };
        let state = &live.state;
        let wanted = visit == launch.visit
            && state.step(ix).status == StepStatus::Ready
            && state.may_start(ix)
            && state.discarding.is_empty();
        if !wanted {
            // Should it be wanted again, the run is decided about anew.
            return;
        }
        let priority = state.priority;
        let attempt = state.step(ix).attempts + 1;
        let key = state.attempt_key(ix, attempt);
        let data = launch.graph.data();
        let checked = params
            .map_err(Refused::Params)
            .and_then(|params| check_params(&self.registry, &launch.graph, &params));
        let checked = checked.and_then(|(params, subject)| {
            self.check_claim_within(&subject, data.claim, Some(run))?;
            check_artifacts(&launch.graph, &subject, &artifacts)?;
            Ok((params, subject))
        });
        let token = Token::new(self.draw());
        let child = RunId::new(now.wall_ms, &self.draw());
        if let Err(Refused::Busy { subject, .. }) = &checked {
            self.queued
                .entry(subject.clone())
                .or_default()
                .insert(run.clone());
            return;
        }
        let started = Event::AttemptStarted {
            step: key.step.clone(),
            visit,
            attempt,
            token: token.clone(),
            executor: executor_of(&child),
            held: Resources::default(),
        };
        self.record(run, started);
        match checked {
            Ok((params, subject)) => {
                let event = Event::RunStarted {
                    workflow: data.name.clone(),
                    graph: launch.graph.hash().clone(),
                    subject,
                    params,
                    artifacts: Value::Object(artifacts.into_iter().collect()),
                    key: None,
                    priority: Some(priority),
                    parent: Some(Served { key, token }),
                    members: Vec::new(),
                    by: By {
                        who: "sealflow".to_owned(),
                        why: format!("step `{}` of {run}", launch.step),
                    },
                };
                let source = format!("# step `{}` of {run}; that run keeps the file\n", launch.step);
                self.create(child, launch.graph.clone(), event, Vec::new(), source, at);
            }
            Err(refused) => {
                let failed = Event::AttemptFailed {
                    step: key.step,
                    attempt,
                    failure: Failure::permanent("not_started", refused.to_string()),
                    charged: true,
                    seconds: 0.0,
                    still_running: false,
                };
                self.record(run, failed);
            }
        }
    }

    /// Makes a run of its first events.
    pub(super) fn create(
        &mut self,
        run: RunId,
        graph: Arc<Graph>,
        started: Event,
        more: Vec<Event>,
        source: String,
        at: u64,
    ) {
        let data = graph.data().clone();
        let stored = Arc::new(StoredGraph { data, source });
        let mut events = vec![started];
        events.extend(more);
        let entry = Entry { seq: 1, at, events };
        match RunState::start(run.clone(), graph, &entry) {
            Ok(mut state) => {
                // The entry is sealed with everything else that this input causes.
                state.seq = 0;
                self.admit_run(state, Vec::new(), Some(stored));
                if let Some(live) = self.runs.get_mut(&run) {
                    live.events.extend(entry.events);
                }
            }
            Err(error) => tracing::error!(%error, "a run could not be made"),
        }
    }

    /// Stops the run that does an attempt's work. Of a batch only the result for this attempt is dropped.
    pub fn stop_served(&mut self, executor: &str, key: &AttemptKey, now: Now) {
        let Some(run) = run_of(executor) else { return };
        let Some(live) = self.runs.get(&run) else { return };
        let state = &live.state;
        if state.parent.as_ref().is_some_and(|parent| parent.key == *key) {
            let by = By {
                who: "sealflow".to_owned(),
                why: format!("{key} was stopped"),
            };
            if let Err(refused) = self.operate(&run, Verb::Cancel, by, now) {
                tracing::debug!(%run, %refused, "not cancelled");
            }
        } else if let Some(served) = state.members.iter().find(|served| served.key == *key).cloned() {
            let why = "stopped; the batch goes on for the others".to_owned();
            self.ended(&served.key, &served.token, attempt::End::Lost(why), now);
        }
    }

    /// Whether the run behind an executor's name is open, set aside, or has ended and its end is still to be told:
    /// until then the journal may not have it.
    pub fn serves(&self, executor: &str) -> bool {
        run_of(executor).is_some_and(|run| {
            self.runs.contains_key(&run) || self.damaged.contains_key(&run) || self.untold.contains(&run)
        })
    }

    /// The end of a run is durable, and is told to those that it worked for.
    pub fn end_told(&mut self, run: &RunId) {
        self.untold.remove(run);
    }

    /// The open runs that do the work of a run's attempts, directly.
    pub(super) fn children(&self, run: &RunId) -> Vec<RunId> {
        let Some(live) = self.runs.get(run) else {
            return Vec::new();
        };
        let state = &live.state;
        let attempts = state.frontier().filter_map(|ix| state.step(ix).current.as_ref());
        let runs = attempts.filter_map(|current| run_of(&current.executor));
        let own = |child: &RunId| {
            let live = self.runs.get(child);
            live.is_some_and(|live| {
                live.state
                    .parent
                    .as_ref()
                    .is_some_and(|parent| parent.key.run == *run)
            })
        };
        runs.filter(own).collect()
    }

    /// Whether `run` does the work of `other`, directly or not.
    pub(super) fn is_within(&self, run: &RunId, other: &RunId) -> bool {
        let mut at = run.clone();
        while let Some(parent) = self.runs.get(&at).and_then(|live| live.state.parent.as_ref()) {
            if parent.key.run == *other {
                return true;
            }
            at = parent.key.run.clone();
        }
        false
    }

    /// A step waits for others to be made with it.
    pub(super) fn collect(&mut self, run: &RunId, ix: StepIx) {
        let Some(live) = self.runs.get(run) else { return };
        let state = &live.state;
        let spec = state.spec(ix);
        let (Some(batch), Some(stage)) = (&spec.batch, &spec.stage) else {
            return;
        };
        if self.held_back(state, &stage.name).is_some() || !state.discarding.is_empty() {
            return;
        }
        let Ok(graph) = state.graph.batch(spec) else {
            return;
        };
        let key = batch.key.as_ref().map(|key| {
            let input = spec.inputs.get(key).map(|source| state.source(ix, source));
            let value = input.and_then(InputValue::at_hand);
            value
                .or_else(|| state.params.get(key).cloned())
                .unwrap_or_default()
        });
        let together = (
            graph.hash().clone(),
            key.map(|key| key.to_string()).unwrap_or_default(),
        );
        let member = (state.step(ix).since, run.clone(), ix);
        let collector = self.collecting.entry(together).or_insert_with(|| Collector {
            graph: Arc::new(graph),
            spec: batch.clone(),
            members: BTreeSet::new(),
            due: u64::MAX,
        });
        collector.members.insert(member);
    }

    /// Closes the batches that are full, or due: each becomes a run, sealed before anything is done.
    pub(super) fn close_batches(&mut self, now: Now) {
        let mut collecting = std::mem::take(&mut self.collecting);
        for collector in collecting.values_mut() {
            while let Some((members, due)) = self.ready_batch(collector, now) {
                collector.due = due;
                if members.is_empty() {
                    break;
                }
                for member in &members {
                    collector.members.remove(member);
                }
                self.seal_batch(&collector.graph, &members, now);
            }
        }
        collecting.retain(|_, collector| !collector.members.is_empty());
        self.collecting = collecting;
    }

    /// The members of the batch that closes now, if one does, and else when it will.
    #[expect(clippy::type_complexity, reason = "members and a time")]
    fn ready_batch(&self, collector: &mut Collector, now: Now) -> Option<(Vec<(u64, RunId, StepIx)>, u64)> {
        collector
            .members
            .retain(|(since, run, ix)| self.may_join(run, *ix, *since));
        let spec = &collector.spec;
        let (oldest, ..) = collector.members.first()?;
        let mut due = oldest.saturating_add(spec.wait_ms);
        let mut members = Vec::new();
        let (mut bytes, mut full) = (0, false);
        for member in &collector.members {
            let (_, run, ix) = member;
            let Some(live) = self.runs.get(run) else { continue };
            let size = spec.max_bytes.map_or(0, |_| {
                let input = live.state.input(*ix);
                serde_json::to_string(&input).map_or(0, |text| text.len() as u64)
            });
            let most = spec.max_bytes.unwrap_or(u64::MAX);
            if !members.is_empty() && bytes + size > most {
                full = true;
                break;
            }
            bytes += size;
            if let Some(until) = live.state.step(*ix).valid_until {
                due = due.min(until.saturating_sub(spec.slack_ms));
            }
            members.push(member.clone());
            full = members.len() >= spec.max as usize || bytes >= most;
            if full {
                break;
            }
        }
        if full || due <= now.wall_ms {
            Some((members, u64::MAX))
        } else {
            Some((Vec::new(), due))
        }
    }

    fn may_join(&self, run: &RunId, ix: StepIx, since: u64) -> bool {
        self.runs.get(run).is_some_and(|live| {
            let state = &live.state;
            let stage = state.spec(ix).stage.as_ref();
            state.step(ix).status == StepStatus::Ready
                && state.step(ix).since == since
                && state.may_start(ix)
                && state.discarding.is_empty()
                && stage.is_some_and(|stage| self.held_back(state, &stage.name).is_none())
        })
    }

    fn seal_batch(&mut self, graph: &Arc<Graph>, members: &[(u64, RunId, StepIx)], now: Now) {
        let at = *self.at.get_or_insert(now.wall_ms);
        let batch = RunId::new(now.wall_ms, &self.draw());
        let (mut served, mut inputs) = (Vec::new(), Vec::new());
        let mut priority = i32::MIN;
        for (_, run, ix) in members {
            let token = Token::new(self.draw());
            let Some(live) = self.runs.get(run) else { continue };
            let state = &live.state;
            let attempt = state.step(*ix).attempts + 1;
            let key = state.attempt_key(*ix, attempt);
            priority = priority.max(state.priority);
            inputs.push(InputValue::Fields(state.input(*ix)));
            let started = Event::AttemptStarted {
                step: key.step.clone(),
                visit: key.visit,
                attempt,
                token: token.clone(),
                executor: executor_of(&batch),
                held: Resources::default(),
            };
            served.push(Served { key, token });
            self.record(run, started);
        }
        // A run's name has only letters, digits and `_`, so this is a subject.
        let Ok(subject) = Subject::new(&format!("batch/{batch}")) else {
            return;
        };
        let members = serde_json::to_value(InputValue::List(inputs)).unwrap_or_default();
        let event = Event::RunStarted {
            workflow: graph.data().name.clone(),
            graph: graph.hash().clone(),
            subject,
            params: serde_json::json!({ "members": members }),
            artifacts: Value::Object(serde_json::Map::new()),
            key: None,
            priority: Some(priority),
            parent: None,
            by: By {
                who: "sealflow".to_owned(),
                why: format!("a batch of {}", served.len()),
            },
            members: served,
        };
        let source = "# a batch; the runs of its members keep the file\n".to_owned();
        self.create(batch, graph.clone(), event, Vec::new(), source, at);
    }

    /// The collector that a step waits in.
    pub(super) fn collector(&self, run: &RunId, ix: StepIx) -> Option<&Collector> {
        let mut all = self.collecting.values();
        all.find(|one| {
            one.members
                .iter()
                .any(|(_, member, at)| member == run && *at == ix)
        })
    }
}

impl Collector {
    pub(super) fn max(&self) -> u32 {
        self.spec.max
    }
}

/// The end of a run that does others' work is told to them.
pub(super) fn delivery(state: &RunState, events: &[Event]) -> Option<Effect> {
    let ended = events.iter().any(|event| {
        matches!(
            event,
            Event::RunFinished {
                end: RunEnd::Succeeded | RunEnd::Cancelled
            }
        )
    });
    let delivery = ended.then(|| Delivery::of(state)).flatten()?;
    Some(Effect::Deliver(Box::new(delivery)))
}
