//! The state of one run: a fold of its events, with a legality check. The same events give the same
//! state; applying one costs what it changes, not the size of the run. `fold` holds the events, `items`
//! the fan-outs, `value` the inputs of steps and what expressions see.

mod fold;
mod items;
mod migrate;
mod rest;
mod value;

pub use items::Items;
pub use rest::Rest;
pub use value::{InputValue, Judgement};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Entry, Event, Output, PauseReason, Served, WaitReason};
use crate::failure::Failure;
use crate::id::{AttemptKey, RunId, StepName, Subject, Token};
use crate::resource::Resources;
use crate::stage::Wake;
use crate::workflow::{Graph, StepIx, StepSpec};

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
    /// It was left out: its condition did not hold, what it takes was left out, or somebody said so.
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
    /// The executor of the last attempt of this visit.
    pub ran_on: Option<String>,
    /// Why it was skipped.
    pub skipped: Option<String>,
    /// When its success is worth nothing any more, milliseconds since 1970.
    pub valid_until: Option<u64>,
    /// It failed for good, which another step handles.
    pub given_up: bool,
    /// It was skipped because of a failure before it.
    pub after_failure: bool,
    /// Items of it that are forgotten had succeeded and changed the world outside.
    pub landed: bool,
    /// Its items, once they are known.
    pub items: Option<Items>,
    /// The step that this is an item of, and its number.
    pub item: Option<(StepIx, u32)>,
    unmet: u32,
    waited: bool,
    judged: bool,
    /// Places of its items of this and earlier visits, by number.
    slots: Vec<StepIx>,
}

impl StepState {
    /// Goes on counting where one of the same name ended.
    fn go_on_after(&mut self, before: Option<(u32, u32)>) {
        if let Some((visit, attempts)) = before {
            self.visit = self.visit.max(visit + 1);
            self.attempts = attempts;
        }
    }

    fn new(status: StepStatus, unmet: u32, at: u64) -> Self {
        Self {
            status,
            visit: 1,
            attempts: 0,
            charged: 0,
            failures: 0,
            current: None,
            wake: None,
            output: None,
            failure: None,
            seconds: 0.0,
            since: at,
            ran_on: None,
            skipped: None,
            valid_until: None,
            given_up: false,
            landed: false,
            after_failure: false,
            items: None,
            item: None,
            unmet,
            waited: false,
            judged: false,
            slots: Vec::new(),
        }
    }

    /// Forgets everything of the present visit.
    fn reset(&mut self) {
        let kept = Self {
            visit: self.visit,
            attempts: self.attempts,
            seconds: self.seconds,
            item: self.item,
            landed: self.landed,
            slots: std::mem::take(&mut self.slots),
            ..Self::new(self.status, self.unmet, self.since)
        };
        *self = kept;
    }

    /// Whether its output, or its absence, counts.
    pub fn is_through(&self) -> bool {
        self.given_up || matches!(self.status, StepStatus::Succeeded | StepStatus::Skipped)
    }
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
    /// The attempt of another run's step whose work it does.
    pub parent: Option<Served>,
    /// The attempts whose work it does together, if it is a batch.
    pub members: Vec<Served>,
    /// Entries so far.
    pub seq: u64,
    /// Runs of higher priority start their steps first.
    pub priority: i32,
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
    /// It is cancelled, its attempts have ended, and what is done at the end goes on.
    pub closing: bool,
    /// How often each rewind edge was taken.
    pub rewinds: Vec<u32>,
    /// Superseded attempts that have not ended.
    pub discarding: BTreeMap<(StepName, u32), Discarding>,
    steps: Vec<StepState>,
    /// The visits and tries of steps and items that a move to another graph took out: one that comes back under the
    /// name goes on counting, so that no attempt has the key of an earlier one.
    gone: BTreeMap<StepName, (u32, u32)>,
    /// Steps that something is to be decided about: ready, running, waiting or failed.
    frontier: BTreeSet<StepIx>,
    unfinished: usize,
    touched: BTreeSet<StepIx>,
    /// Graphs that it may come to keep.
    at_hand: Vec<Arc<Graph>>,
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
                priority,
                parent,
                members,
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
            .map(|(_, spec)| {
                let status = if spec.needs.is_empty() {
                    StepStatus::Ready
                } else {
                    StepStatus::Pending
                };
                let unmet = u32::try_from(spec.needs.len()).unwrap_or(u32::MAX);
                StepState::new(status, unmet, entry.at)
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
            parent: parent.clone(),
            members: members.clone(),
            seq: 1,
            priority: priority.unwrap_or(graph.data().priority),
            status: RunStatus::Running,
            pause: None,
            created_at: entry.at,
            updated_at: entry.at,
            signals: BTreeMap::new(),
            closing: false,
            rewinds: vec![0; graph.data().rewinds.len()],
            discarding: BTreeMap::new(),
            gone: BTreeMap::new(),
            unfinished: steps.len(),
            touched: BTreeSet::new(),
            at_hand: Vec::new(),
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

    /// The state after the first entry, with all graphs at hand that the run's entries name.
    ///
    /// # Errors
    /// The entry starts no run of one of these graphs.
    pub fn begin(id: &RunId, graphs: &[Arc<Graph>], entry: &Entry) -> Result<Self, Illegal> {
        let pinned = entry.graphs().next();
        let graph = graphs.iter().find(|graph| Some(graph.hash()) == pinned);
        // Without one `start` says what is wrong.
        let Some(graph) = graph.or(graphs.first()) else {
            return Err(Illegal {
                run: id.clone(),
                seq: entry.seq,
                what: "the graph that it is pinned to is not at hand".to_owned(),
            });
        };
        let mut state = Self::start(id.clone(), graph.clone(), entry)?;
        state.at_hand = graphs.to_vec();
        Ok(state)
    }

    /// Folds all entries of a run. `graphs` are those that its entries name ([`Entry::graphs`]).
    ///
    /// # Errors
    /// An entry that cannot have happened, or none at all.
    pub fn fold(id: &RunId, graphs: &[Arc<Graph>], entries: &[Entry]) -> Result<Self, Illegal> {
        let Some((first, rest)) = entries.split_first() else {
            return Err(Illegal {
                run: id.clone(),
                seq: 0,
                what: "it has no entries".to_owned(),
            });
        };
        let mut state = Self::begin(id, graphs, first)?;
        for entry in rest {
            state.apply(entry)?;
        }
        // What earlier entries touched is in the rows already.
        state.touched.clear();
        Ok(state)
    }

    /// Gives it a graph that its next entries may name.
    pub fn provide(&mut self, graph: Arc<Graph>) {
        self.at_hand.push(graph);
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

    /// What the graph says of a step; for an item, of the step that it belongs to.
    pub fn spec(&self, ix: StepIx) -> &StepSpec {
        self.graph.step(self.base(ix))
    }

    /// The step itself, or the step that it is an item of.
    pub fn base(&self, ix: StepIx) -> StepIx {
        self.step(ix).item.map_or(ix, |(step, _)| step)
    }

    /// The name of a step or an item.
    pub fn name(&self, ix: StepIx) -> StepName {
        let name = &self.spec(ix).name;
        match self.step(ix).item {
            Some((_, index)) => name.item(index),
            None => name.clone(),
        }
    }

    /// The place of a step, or of an item that exists.
    pub fn find(&self, name: &StepName) -> Option<StepIx> {
        let (base, index) = name.split();
        match index {
            None => self.graph.find(name),
            Some(index) => {
                let base = self.graph.find(&StepName::new(base).ok()?)?;
                let items = self.step(base).items.as_ref()?;
                (index < items.total).then(|| self.step(base).slots.get(index as usize).copied())?
            }
        }
    }

    /// The items of a step, by number.
    pub fn items(&self, ix: StepIx) -> &[StepIx] {
        let state = self.step(ix);
        let total = state.items.as_ref().map_or(0, |items| items.total as usize);
        &state.slots[..total.min(state.slots.len())]
    }

    /// What is done again with a step: itself, all that need it, directly or not, and the items of all of
    /// them; with an item only itself and all that need its step.
    pub fn lineage(&self, first: StepIx) -> Vec<StepIx> {
        let base = self.base(first);
        let steps = self.graph.with_descendants(base);
        let all = steps
            .into_iter()
            .flat_map(|ix| std::iter::once(ix).chain(self.items(ix).iter().copied()));
        let again = |ix: &StepIx| first == base || *ix == first || self.base(*ix) != base;
        all.filter(again).collect()
    }

    /// All steps with their states, needs first, and then all items.
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
        let state = self.step(ix);
        state.item.is_none() && self.graph.step(ix).wait.is_some() && !state.waited
    }

    /// Whether the step's conditions are still to be looked at.
    pub fn must_judge(&self, ix: StepIx) -> bool {
        let state = self.step(ix);
        if state.item.is_some() || state.judged {
            return false;
        }
        let spec = self.graph.step(ix);
        let conditional = spec.when.is_some() || spec.valid_until.is_some();
        conditional || self.graph.handles_failures() || self.lacks(ix).is_some()
    }

    /// Whether a step may start as far as the run is concerned: of one that is being cancelled only what is
    /// done at the end.
    pub fn may_start(&self, ix: StepIx) -> bool {
        match self.status {
            RunStatus::Running => true,
            RunStatus::Cancelling => self.closing && self.spec(ix).finally,
            RunStatus::Paused | RunStatus::Succeeded | RunStatus::Cancelled => false,
        }
    }

    /// Whether the step's items are still to be listed.
    pub fn must_list(&self, ix: StepIx) -> bool {
        let state = self.step(ix);
        state.item.is_none() && state.items.is_none() && self.graph.step(ix).foreach.is_some()
    }

    /// The key of the step's running attempt.
    pub fn current_key(&self, ix: StepIx) -> Option<AttemptKey> {
        let step = self.step(ix);
        let current = step.current.as_ref()?;
        Some(self.attempt_key(ix, current.attempt))
    }

    /// The key of a try of a step's present visit.
    pub fn attempt_key(&self, ix: StepIx, attempt: u32) -> AttemptKey {
        AttemptKey {
            run: self.id.clone(),
            step: self.name(ix),
            visit: self.step(ix).visit,
            attempt,
        }
    }

    /// The artifacts that are this run's to say: those of a kind that one of its stages makes.
    pub fn own_artifacts(&self) -> BTreeMap<String, Value> {
        let makes = |kind: &String| {
            let mut stages = self
                .graph
                .data()
                .steps
                .iter()
                .filter_map(|step| step.stage.as_ref());
            stages.any(|stage| stage.artifacts.contains(kind))
        };
        let mut artifacts = self.artifacts();
        artifacts.retain(|kind, _| makes(kind));
        artifacts
    }

    /// One field of a step's output.
    pub fn given(&self, ix: StepIx, field: &str) -> BTreeMap<String, InputValue> {
        BTreeMap::from([(field.to_owned(), self.output(ix, field))])
    }

    /// What the run gives to the step that it was started for.
    pub fn outputs(&self) -> BTreeMap<String, InputValue> {
        let outputs = self.graph.data().outputs.iter();
        outputs
            .map(|(name, source)| (name.clone(), self.source(StepIx(0), source)))
            .collect()
    }

    /// Every artifact that the run made or found, by kind; of several the one of the latest step. One
    /// that a step did away with is null.
    pub fn artifacts(&self) -> BTreeMap<String, Value> {
        let mut artifacts = BTreeMap::new();
        if let Value::Object(found) = &self.subject_artifacts {
            artifacts.extend(found.clone());
        }
        // What items make is theirs: the subject has one artifact of a kind.
        for (ix, step) in self.steps().take(self.graph.len()) {
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
}
