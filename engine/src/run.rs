//! The state of one run: a fold of its events, with a legality check. The same events give the same
//! state; applying one costs what it changes, not the size of the run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Entry, Event, Output, PauseReason, RunEnd, WaitReason};
use crate::failure::Failure;
use crate::id::{AttemptKey, RunId, StepName, Subject, Token};
use crate::resource::Resources;
use crate::stage::Wake;
use crate::workflow::{Graph, Source, StepIx};

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Steps start as soon as they can.
    Running,
    /// Nothing starts until it is resumed.
    Paused,
    /// Attempts are being stopped.
    Cancelling,
    /// Every step succeeded.
    Succeeded,
    /// It was cancelled.
    Cancelled,
}

impl RunStatus {
    /// Whether the run has ended.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Cancelled)
    }

    /// The status as users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// A step that it needs has not succeeded.
    Pending,
    /// It could start.
    Ready,
    /// An attempt runs.
    Running,
    /// It waits for a time or a signal.
    Waiting,
    /// Its output counts.
    Succeeded,
    /// It failed and a person must look.
    Failed,
    /// It was left out.
    Skipped,
    /// The run was cancelled before it ended.
    Cancelled,
}

impl StepStatus {
    /// The status as users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The attempt that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Current {
    /// The try.
    pub attempt: u32,
    /// Its fence.
    pub token: Token,
    /// Where it runs.
    pub executor: String,
    /// What it holds.
    pub held: Resources,
    /// When it started, milliseconds since 1970.
    pub started_at: u64,
}

/// The state of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepState {
    /// Where it stands.
    pub status: StepStatus,
    /// The passage, from 1.
    pub visit: u32,
    /// Tries so far, over all visits.
    pub attempts: u32,
    /// Failures of this visit that count against the retry rule.
    pub charged: u32,
    /// All failures of this visit.
    pub failures: u32,
    /// The attempt that runs.
    pub current: Option<Current>,
    /// What it waits for, and why.
    pub wake: Option<(Wake, WaitReason)>,
    /// Its output.
    pub output: Option<Output>,
    /// The last failure of this visit.
    pub failure: Option<Failure>,
    /// Seconds that the last ended attempt ran.
    pub seconds: f64,
    /// Since when it stands so, milliseconds since 1970.
    pub since: u64,
    unmet: u32,
    waited: bool,
}

/// A superseded attempt that has not ended yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Discarding {
    /// Which.
    pub key: AttemptKey,
    /// Its fence.
    pub token: Token,
    /// Where it runs.
    pub executor: String,
    /// What it holds.
    pub held: Resources,
}

/// The state of one run.
#[derive(Debug, Clone)]
pub struct RunState {
    /// Its identifier.
    pub id: RunId,
    /// The graph it keeps.
    pub graph: Arc<Graph>,
    /// What it is about.
    pub subject: Subject,
    /// Its parameters.
    pub params: Value,
    /// Artifacts that the subject owned when it started, by kind.
    pub subject_artifacts: Value,
    /// The caller's name for it.
    pub key: Option<String>,
    /// Entries so far.
    pub seq: u64,
    /// Where it stands.
    pub status: RunStatus,
    /// Why it is paused.
    pub pause: Option<PauseReason>,
    /// When it started, milliseconds since 1970.
    pub created_at: u64,
    /// When it last changed.
    pub updated_at: u64,
    /// Signals that came.
    pub signals: BTreeMap<String, Value>,
    /// How often each rewind edge was taken.
    pub rewinds: Vec<u32>,
    /// Superseded attempts that have not ended.
    pub discarding: BTreeMap<(StepName, u32), Discarding>,
    steps: Vec<StepState>,
    /// Steps that something is to be decided about: ready, running, waiting or failed.
    frontier: BTreeSet<StepIx>,
    unfinished: usize,
    touched: BTreeSet<StepIx>,
}

/// An event that cannot have happened in this state: the journal or the program is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("entry {seq} of {run} is illegal: {what}")]
pub struct Illegal {
    /// The run.
    pub run: RunId,
    /// The entry.
    pub seq: u64,
    /// Why.
    pub what: String,
}

impl RunState {
    /// The state after the first entry, which must begin with [`Event::RunStarted`].
    ///
    /// # Errors
    /// The entry does not start a run of this graph.
    pub fn start(id: RunId, graph: Arc<Graph>, entry: &Entry) -> Result<Self, Illegal> {
        let illegal = |what: &str| Illegal {
            run: id.clone(),
            seq: entry.seq,
            what: what.to_owned(),
        };
        let Some((
            Event::RunStarted {
                graph: hash,
                subject,
                params,
                artifacts,
                key,
                ..
            },
            rest,
        )) = entry.events.split_first()
        else {
            return Err(illegal("the first event does not start the run"));
        };
        if entry.seq != 1 {
            return Err(illegal("the first entry is not number 1"));
        }
        if hash != graph.hash() {
            return Err(illegal("the graph is not the one that the run is pinned to"));
        }
        let steps: Vec<StepState> = graph
            .steps()
            .map(|(_, spec)| StepState {
                status: if spec.needs.is_empty() {
                    StepStatus::Ready
                } else {
                    StepStatus::Pending
                },
                visit: 1,
                attempts: 0,
                charged: 0,
                failures: 0,
                current: None,
                wake: None,
                output: None,
                failure: None,
                seconds: 0.0,
                since: entry.at,
                unmet: u32::try_from(spec.needs.len()).unwrap_or(u32::MAX),
                waited: false,
            })
            .collect();
        let frontier = graph
            .steps()
            .filter(|(_, spec)| spec.needs.is_empty())
            .map(|(ix, _)| ix)
            .collect();
        let mut state = Self {
            subject: subject.clone(),
            params: params.clone(),
            subject_artifacts: artifacts.clone(),
            key: key.clone(),
            seq: 1,
            status: RunStatus::Running,
            pause: None,
            created_at: entry.at,
            updated_at: entry.at,
            signals: BTreeMap::new(),
            rewinds: vec![0; graph.data().rewinds.len()],
            discarding: BTreeMap::new(),
            unfinished: steps.len(),
            touched: BTreeSet::new(),
            steps,
            frontier,
            id,
            graph,
        };
        for event in rest {
            state.apply_event(event, entry.at)?;
        }
        Ok(state)
    }

    /// Folds all entries of a run.
    ///
    /// # Errors
    /// An entry that cannot have happened, or none at all.
    pub fn fold(id: &RunId, graph: &Arc<Graph>, entries: &[Entry]) -> Result<Self, Illegal> {
        let Some((first, rest)) = entries.split_first() else {
            return Err(Illegal {
                run: id.clone(),
                seq: 0,
                what: "it has no entries".to_owned(),
            });
        };
        let mut state = Self::start(id.clone(), graph.clone(), first)?;
        for entry in rest {
            state.apply(entry)?;
        }
        // What earlier entries touched is in the rows already.
        state.touched.clear();
        Ok(state)
    }

    /// Applies the next entry.
    ///
    /// # Errors
    /// The entry is not the next one, or cannot have happened.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), Illegal> {
        if entry.seq != self.seq + 1 {
            return Err(self.illegal(entry.seq, format!("it comes after entry {}", self.seq)));
        }
        if entry.events.is_empty() {
            return Err(self.illegal(entry.seq, "it is empty".to_owned()));
        }
        for event in &entry.events {
            self.apply_event(event, entry.at)?;
        }
        self.seal(entry.at);
        Ok(())
    }

    /// Applies one event of the entry that is being made.
    ///
    /// # Errors
    /// The event cannot happen now.
    pub fn apply_event(&mut self, event: &Event, at: u64) -> Result<(), Illegal> {
        if self.status.is_final() && !matches!(event, Event::AttemptReleased { .. }) {
            return Err(self.illegal(self.seq + 1, "the run has ended".to_owned()));
        }
        self.transition(event, at)
            .map_err(|what| self.illegal(self.seq + 1, what))
    }

    /// Ends the entry that is being made.
    pub fn seal(&mut self, at: u64) {
        self.seq += 1;
        self.updated_at = at;
    }

    /// Steps that changed since this was last asked.
    pub fn take_touched(&mut self) -> BTreeSet<StepIx> {
        std::mem::take(&mut self.touched)
    }

    fn illegal(&self, seq: u64, what: String) -> Illegal {
        Illegal {
            run: self.id.clone(),
            seq,
            what,
        }
    }

    /// The state of a step.
    pub fn step(&self, ix: StepIx) -> &StepState {
        &self.steps[ix.get()]
    }

    /// All steps with their states, needs first.
    pub fn steps(&self) -> impl Iterator<Item = (StepIx, &StepState)> {
        (0..).map(StepIx).zip(&self.steps)
    }

    /// Steps that something is to be decided about.
    pub fn frontier(&self) -> impl Iterator<Item = StepIx> + '_ {
        self.frontier.iter().copied()
    }

    /// Whether every step is through.
    pub fn all_done(&self) -> bool {
        self.unfinished == 0
    }

    /// Whether the step's declared wait is still to come.
    pub fn must_wait(&self, ix: StepIx) -> bool {
        self.graph.step(ix).wait.is_some() && !self.step(ix).waited
    }

    /// The key of the step's running attempt.
    pub fn current_key(&self, ix: StepIx) -> Option<AttemptKey> {
        let step = self.step(ix);
        let current = step.current.as_ref()?;
        Some(self.attempt_key(ix, current.attempt))
    }

    /// The key of a try of a step's present visit.
    pub fn attempt_key(&self, ix: StepIx, attempt: u32) -> AttemptKey {
        let step = self.graph.step(ix).name.clone();
        AttemptKey {
            run: self.id.clone(),
            step,
            visit: self.step(ix).visit,
            attempt,
        }
    }

    /// Where each field of a step's input comes from, with the values that are at hand.
    pub fn input(&self, ix: StepIx) -> BTreeMap<String, InputValue> {
        let spec = self.graph.step(ix);
        let value = |source: &Source| match source {
            Source::Param(name) => InputValue::Value(self.params.get(name).cloned().unwrap_or(Value::Null)),
            Source::Literal(value) => InputValue::Value(value.clone()),
            Source::Subject { kind, .. } => {
                InputValue::Value(self.subject_artifacts.get(kind).cloned().unwrap_or(Value::Null))
            }
            Source::Output { step, field } => match &self.step(*step).output {
                Some(Output::Inline(value)) => {
                    InputValue::Value(value.get(field).cloned().unwrap_or(Value::Null))
                }
                Some(Output::Payload { sha256, .. }) => InputValue::Payload {
                    sha256: sha256.clone(),
                    field: field.clone(),
                },
                None => InputValue::Value(Value::Null),
            },
        };
        spec.inputs
            .iter()
            .map(|(name, source)| (name.clone(), value(source)))
            .collect()
    }

    /// Every artifact that the run made or found, by kind; of several the one of the latest step. One
    /// that a step did away with is null.
    pub fn artifacts(&self) -> BTreeMap<String, Value> {
        let mut artifacts = BTreeMap::new();
        if let Value::Object(found) = &self.subject_artifacts {
            artifacts.extend(found.clone());
        }
        for (ix, step) in self.steps() {
            let Some(stage) = &self.graph.step(ix).stage else {
                continue;
            };
            let fields = match &step.output {
                Some(Output::Inline(value) | Output::Payload { artifacts: value, .. }) => value,
                None => continue,
            };
            for kind in &stage.artifacts {
                if let Some(artifact) = fields.get(kind) {
                    artifacts.insert(kind.clone(), artifact.clone());
                }
            }
        }
        artifacts
    }

    fn set_status(&mut self, ix: StepIx, status: StepStatus, at: u64) {
        let step = &mut self.steps[ix.get()];
        step.status = status;
        step.since = at;
        self.touched.insert(ix);
        let live = matches!(
            status,
            StepStatus::Ready | StepStatus::Running | StepStatus::Waiting | StepStatus::Failed
        );
        if live {
            self.frontier.insert(ix);
        } else {
            self.frontier.remove(&ix);
        }
    }

    fn succeed(&mut self, ix: StepIx, output: Output, at: u64) {
        let step = &mut self.steps[ix.get()];
        step.output = Some(output);
        step.failure = None;
        step.current = None;
        step.wake = None;
        self.set_status(ix, StepStatus::Succeeded, at);
        self.unfinished -= 1;
        let graph = self.graph.clone();
        for next in graph.dependents(ix) {
            let step = &mut self.steps[next.get()];
            step.unmet -= 1;
            if step.unmet == 0 && step.status == StepStatus::Pending {
                self.set_status(next, StepStatus::Ready, at);
            }
        }
    }

    fn transition(&mut self, event: &Event, at: u64) -> Result<(), String> {
        match event {
            Event::RunStarted { .. } => return Err("the run starts twice".to_owned()),
            Event::AttemptStarted {
                step,
                visit,
                attempt,
                token,
                executor,
                held,
            } => {
                let ix = self.expect(step, &[StepStatus::Ready])?;
                if self.status != RunStatus::Running {
                    return Err(format!(
                        "step `{step}` starts while the run is {}",
                        self.status.as_str()
                    ));
                }
                if self.graph.step(ix).stage.is_none() || self.must_wait(ix) {
                    return Err(format!("step `{step}` has no stage, or must wait first"));
                }
                let state = &mut self.steps[ix.get()];
                if *visit != state.visit || *attempt != state.attempts + 1 {
                    return Err(format!("attempt {visit}.{attempt} of `{step}` is out of order"));
                }
                state.attempts = *attempt;
                state.current = Some(Current {
                    attempt: *attempt,
                    token: token.clone(),
                    executor: executor.clone(),
                    held: *held,
                    started_at: at,
                });
                self.set_status(ix, StepStatus::Running, at);
            }
            Event::AttemptSucceeded {
                step,
                attempt,
                output,
                seconds,
            } => {
                let ix = self.expect_attempt(step, *attempt)?;
                self.steps[ix.get()].seconds = *seconds;
                self.succeed(ix, output.clone(), at);
            }
            Event::AttemptFailed {
                step,
                attempt,
                failure,
                charged,
                seconds,
                still_running,
            } => {
                let ix = self.expect_attempt(step, *attempt)?;
                if *still_running {
                    self.supersede(ix);
                }
                let state = &mut self.steps[ix.get()];
                state.current = None;
                state.seconds = *seconds;
                state.failures += 1;
                state.charged += u32::from(*charged);
                state.failure = Some(failure.clone());
                self.set_status(ix, StepStatus::Failed, at);
            }
            Event::AttemptLost { step, attempt, .. } => {
                let ix = self.expect_attempt(step, *attempt)?;
                self.steps[ix.get()].current = None;
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::AttemptReleased { step, attempt } => {
                if self.discarding.remove(&(step.clone(), *attempt)).is_none() {
                    return Err(format!("attempt {attempt} of `{step}` is not being discarded"));
                }
            }
            Event::StepWaiting {
                step,
                wake,
                reason,
                attempt,
            } => {
                let ix = match attempt {
                    Some(attempt) => self.expect_attempt(step, *attempt)?,
                    None => self.expect(step, &[StepStatus::Ready, StepStatus::Failed])?,
                };
                let state = &mut self.steps[ix.get()];
                state.current = None;
                state.wake = Some((wake.clone(), *reason));
                self.set_status(ix, StepStatus::Waiting, at);
            }
            Event::StepWoken { step } => {
                let ix = self.expect(step, &[StepStatus::Waiting])?;
                let state = &mut self.steps[ix.get()];
                if let Some((_, WaitReason::Declared)) = state.wake.take() {
                    state.waited = true;
                }
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::StepPassed { step } => {
                let ix = self.expect(step, &[StepStatus::Ready])?;
                if self.graph.step(ix).stage.is_some() || self.must_wait(ix) {
                    return Err(format!("step `{step}` has more to do than to pass"));
                }
                self.succeed(ix, Output::Inline(Value::Object(serde_json::Map::new())), at);
            }
            Event::Rewound { on, from, to } => self.rewind(on, from, to, at)?,
            Event::SignalReceived { name, data, .. } => {
                self.signals.insert(name.clone(), data.clone());
            }
            Event::RunPaused { reason } => {
                if self.status != RunStatus::Running {
                    return Err(format!("it is paused while {}", self.status.as_str()));
                }
                self.status = RunStatus::Paused;
                self.pause = Some(reason.clone());
            }
            Event::RunResumed { .. } => {
                if self.status != RunStatus::Paused {
                    return Err(format!("it is resumed while {}", self.status.as_str()));
                }
                self.status = RunStatus::Running;
                self.pause = None;
            }
            Event::StepRetried { step, .. } => {
                let ix = self.expect(step, &[StepStatus::Failed, StepStatus::Waiting])?;
                let state = &mut self.steps[ix.get()];
                state.charged = 0;
                state.failures = 0;
                state.wake = None;
                let edges = self.graph.data().rewinds.iter().zip(&mut self.rewinds);
                for (edge, taken) in edges {
                    if edge.from == ix {
                        *taken = 0;
                    }
                }
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::StepRedone { step, .. } => {
                let ix = self.expect(step, &[StepStatus::Succeeded])?;
                self.again(ix, at);
            }
            Event::CancelRequested { .. } => {
                self.status = RunStatus::Cancelling;
                self.pause = None;
            }
            Event::RunFinished { end } => self.finish(*end, at)?,
        }
        Ok(())
    }

    fn find(&self, step: &StepName) -> Result<StepIx, String> {
        self.graph
            .find(step)
            .ok_or_else(|| format!("there is no step `{step}`"))
    }

    fn expect(&self, step: &StepName, wanted: &[StepStatus]) -> Result<StepIx, String> {
        let ix = self.find(step)?;
        let status = self.step(ix).status;
        if wanted.contains(&status) {
            Ok(ix)
        } else {
            Err(format!("step `{step}` is {}", status.as_str()))
        }
    }

    fn expect_attempt(&self, step: &StepName, attempt: u32) -> Result<StepIx, String> {
        let ix = self.expect(step, &[StepStatus::Running])?;
        match &self.step(ix).current {
            Some(current) if current.attempt == attempt => Ok(ix),
            _ => Err(format!("attempt {attempt} of `{step}` is not the current one")),
        }
    }

    /// Stops counting on the running attempt of a step.
    fn supersede(&mut self, ix: StepIx) {
        let Some(key) = self.current_key(ix) else { return };
        if let Some(current) = self.steps[ix.get()].current.take() {
            let Current {
                attempt,
                token,
                executor,
                held,
                ..
            } = current;
            let discarding = Discarding {
                key: key.clone(),
                token,
                executor,
                held,
            };
            self.discarding.insert((key.step, attempt), discarding);
        }
    }

    fn rewind(&mut self, on: &str, from: &StepName, to: &StepName, at: u64) -> Result<(), String> {
        let from_ix = self.expect(from, &[StepStatus::Failed])?;
        let to_ix = self.find(to)?;
        let edges = &self.graph.data().rewinds;
        let edge = edges
            .iter()
            .position(|edge| edge.on == on && edge.from == from_ix && edge.to == to_ix);
        let edge = edge.ok_or_else(|| format!("there is no way back from `{from}` to `{to}` on `{on}`"))?;
        self.rewinds[edge] += 1;
        self.again(to_ix, at);
        Ok(())
    }

    /// Begins another visit of a step and of all that need it.
    fn again(&mut self, first: StepIx, at: u64) {
        let again = self.graph.with_descendants(first);
        for ix in &again {
            self.supersede(*ix);
            let state = &mut self.steps[ix.get()];
            if state.status == StepStatus::Succeeded {
                self.unfinished += 1;
            }
            if state.status != StepStatus::Pending {
                state.visit += 1;
            }
            state.charged = 0;
            state.failures = 0;
            state.wake = None;
            state.output = None;
            state.failure = None;
            state.waited = false;
            self.set_status(*ix, StepStatus::Pending, at);
        }
        // `again` is in an order where needs come first, so what a step needs is settled before it.
        let graph = self.graph.clone();
        for ix in again {
            let unmet = graph
                .step(ix)
                .needs
                .iter()
                .filter(|need| self.step(**need).status != StepStatus::Succeeded);
            let unmet = u32::try_from(unmet.count()).unwrap_or(u32::MAX);
            self.steps[ix.get()].unmet = unmet;
            if unmet == 0 {
                self.set_status(ix, StepStatus::Ready, at);
            }
        }
    }

    fn finish(&mut self, end: RunEnd, at: u64) -> Result<(), String> {
        match end {
            RunEnd::Succeeded if !self.all_done() => return Err("it succeeds with steps undone".to_owned()),
            RunEnd::Succeeded if self.status != RunStatus::Running => {
                return Err(format!("it succeeds while {}", self.status.as_str()));
            }
            RunEnd::Cancelled if self.status != RunStatus::Cancelling => {
                return Err("it is cancelled unasked".to_owned());
            }
            RunEnd::Succeeded => self.status = RunStatus::Succeeded,
            RunEnd::Cancelled => {
                for at_step in 0..self.steps.len() {
                    let ix = StepIx(u32::try_from(at_step).unwrap_or(u32::MAX));
                    if self.step(ix).current.is_some() {
                        return Err(format!("step `{}` still runs", self.graph.step(ix).name));
                    }
                    if self.step(ix).status != StepStatus::Succeeded {
                        self.steps[at_step].wake = None;
                        self.set_status(ix, StepStatus::Cancelled, at);
                    }
                }
                self.status = RunStatus::Cancelled;
            }
        }
        Ok(())
    }
}

/// A field of an input: a value, or where to fetch it.
#[derive(Debug, Clone, PartialEq)]
pub enum InputValue {
    /// The value.
    Value(Value),
    /// A field of a payload file.
    Payload {
        /// SHA-256 of the payload, in hex.
        sha256: String,
        /// The field of it.
        field: String,
    },
}
