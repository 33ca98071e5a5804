//! What happened to a run: the journal's vocabulary, in the past tense. Stored as JSON; variants and
//! fields are only ever added (`tests/data/formats` holds one of each).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use crate::id::{AttemptKey, RunId, StepName, Subject, Token, WorkflowName};
use crate::resource::Resources;
use crate::stage::Wake;

/// Who asked for something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct By {
    /// The person or program.
    pub who: String,
    /// The reason that was given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl By {
    /// Who, and the reason if there is one.
    pub fn text(&self) -> String {
        if self.why.is_empty() {
            self.who.clone()
        } else {
            format!("{}: {}", self.who, self.why)
        }
    }
}

/// The output of a step: in the journal when it is small, else in a file that its hash names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The value itself.
    Inline(Value),
    /// The value is in a payload file.
    Payload {
        /// SHA-256 of its JSON text, in hex.
        sha256: String,
        /// Length of its JSON text.
        bytes: u64,
        /// The fields that are artifacts, which the journal must know.
        artifacts: Value,
        /// Other fields that are small, for expressions.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        known: Value,
        /// How many items each list has, for fan-outs.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        lengths: BTreeMap<String, u64>,
    },
}

/// Why a run paused by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// Somebody asked for it.
    Operator(By),
    /// A step failed in a way that needs a person.
    Failed {
        /// The step.
        step: StepName,
        /// Its last failure.
        failure: Failure,
    },
    /// A step failed as often as its retry rule allows.
    RetriesUsedUp {
        /// The step.
        step: StepName,
        /// Charged attempts of this visit.
        attempts: u32,
        /// Its last failure.
        failure: Failure,
    },
    /// A way back was taken as often as it may be.
    RewindsUsedUp {
        /// The step that failed.
        step: StepName,
        /// How often the way was taken.
        taken: u32,
        /// The failure.
        failure: Failure,
    },
    /// A condition or a list of a step cannot be worked out.
    Expression {
        /// The step.
        step: StepName,
        /// What is wrong.
        why: String,
    },
}

impl PauseReason {
    /// The reason in one sentence.
    pub fn text(&self) -> String {
        match self {
            Self::Operator(by) => format!("paused by {}", by.text()),
            Self::Failed { step, failure } => format!("step `{step}` failed: {failure}"),
            Self::RetriesUsedUp {
                step,
                attempts,
                failure,
            } => {
                format!("step `{step}` failed {attempts} times, the last time: {failure}")
            }
            Self::RewindsUsedUp { step, taken, failure } => {
                format!("step `{step}` went back {taken} times and failed again: {failure}")
            }
            Self::Expression { step, why } => format!("step `{step}`: {why}"),
        }
    }
}

/// Why a step waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The workflow file says so.
    Declared,
    /// The stage asked for it.
    Parked,
    /// The last attempt failed and the next one is not due.
    Backoff,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnd {
    /// Every step succeeded.
    Succeeded,
    /// It was cancelled.
    Cancelled,
}

/// An attempt whose work a run does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The attempt.
    pub key: AttemptKey,
    /// Its fence.
    pub token: Token,
}

/// Something that happened to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run exists.
    RunStarted {
        /// The workflow's name.
        workflow: WorkflowName,
        /// The hash of the graph that the run keeps.
        graph: Arc<str>,
        /// What it is about.
        subject: Subject,
        /// Its parameters, checked.
        params: Value,
        /// The artifacts that the subject owned, by kind.
        #[serde(default)]
        artifacts: Value,
        /// The caller's name for it: starting it again under the same key gives the same run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Its priority, if it is not the workflow's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priority: Option<i32>,
        /// The attempt of another run's step whose work it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Served>,
        /// The attempts of other runs' steps whose work it does together: it is a batch.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        members: Vec<Served>,
        /// Who started it.
        by: By,
    },
    /// An attempt was granted its resources and may run.
    AttemptStarted {
        /// The step.
        step: StepName,
        /// The passage.
        visit: u32,
        /// The try.
        attempt: u32,
        /// Its fence.
        token: Token,
        /// Where it runs.
        executor: String,
        /// What it holds until it ends.
        held: Resources,
    },
    /// The attempt did the step's work.
    AttemptSucceeded {
        /// The step.
        step: StepName,
        /// The try.
        attempt: u32,
        /// What it gave.
        output: Output,
        /// How long it ran.
        seconds: f64,
    },
    /// The attempt failed.
    AttemptFailed {
        /// The step.
        step: StepName,
        /// The try.
        attempt: u32,
        /// How.
        failure: Failure,
        /// Whether it counts against the retry rule.
        charged: bool,
        /// How long it ran.
        seconds: f64,
        /// Whether it was given up while it still runs, and holds what it holds until it ends.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        still_running: bool,
    },
    /// The attempt ended without a result, through no fault of the run: our restart, a lost executor.
    AttemptLost {
        /// The step.
        step: StepName,
        /// The try.
        attempt: u32,
        /// What is known.
        why: String,
    },
    /// The attempt was stopped to make room for more urgent work; the step may start again.
    AttemptPreempted {
        /// The step.
        step: StepName,
        /// The try.
        attempt: u32,
        /// The run that needs the room.
        by: RunId,
    },
    /// A superseded attempt has ended and gave back what it held.
    AttemptReleased {
        /// The step.
        step: StepName,
        /// The try.
        attempt: u32,
    },
    /// The step waits.
    StepWaiting {
        /// The step.
        step: StepName,
        /// For what.
        wake: Wake,
        /// Why.
        reason: WaitReason,
        /// The attempt that parked, if one did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempt: Option<u32>,
    },
    /// What the step waited for is there.
    StepWoken {
        /// The step.
        step: StepName,
    },
    /// A step without a stage is through.
    StepPassed {
        /// The step.
        step: StepName,
    },
    /// The conditions of a step were looked at, once its needs were met.
    StepJudged {
        /// The step.
        step: StepName,
        /// Why it is skipped; nothing if it is not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        skip: Option<String>,
        /// When its success is worth nothing any more, milliseconds since 1970.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        valid_until: Option<u64>,
    },
    /// The items of a step are known.
    ItemsListed {
        /// The step.
        step: StepName,
        /// How many.
        count: u32,
    },
    /// The time until which a step's success is worth something has passed.
    StepExpired {
        /// The step.
        step: StepName,
    },
    /// A step failed for good, and another step of the run handles that: the run goes on.
    StepGivenUp {
        /// The step.
        step: StepName,
        /// What would have paused the run.
        reason: PauseReason,
    },
    /// The attempts of a run that is cancelled have ended; what is done at the end of a run begins.
    RunClosing,
    /// Somebody left a step out.
    StepSkipped {
        /// The step, or an item of it.
        step: StepName,
        /// Who asked.
        by: By,
    },
    /// Somebody gave a step its output; all that need it begin another visit.
    StepOverridden {
        /// The step, or an item of it.
        step: StepName,
        /// What it gives from now on.
        output: Output,
        /// Who asked.
        by: By,
    },
    /// A new run took over what another run's step gave.
    StepAdopted {
        /// The step.
        step: StepName,
        /// What it gave.
        output: Output,
        /// The other run.
        from: RunId,
        /// Where it was done, if that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran_on: Option<String>,
    },
    /// A person approved what a step waits for.
    StepApproved {
        /// The step.
        step: StepName,
        /// Who.
        by: By,
    },
    /// The run goes on with another graph. What its steps did so far stays, but for those named in `again`
    /// and all that need them, which begin another visit.
    RunMigrated {
        /// The hash of the graph that it keeps from now on.
        graph: Arc<str>,
        /// Its parameters, checked against that graph.
        params: Value,
        /// Steps that are done again.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<StepName>,
        /// Who asked.
        by: By,
    },
    /// The run has another priority.
    RunPrioritized {
        /// Which; higher goes first.
        priority: i32,
        /// Who asked.
        by: By,
    },
    /// The run went back: the step `to` and all that need it begin another visit.
    Rewound {
        /// The failure code.
        on: String,
        /// The step that failed.
        from: StepName,
        /// The step that is done again.
        to: StepName,
    },
    /// A signal came.
    SignalReceived {
        /// Its name.
        name: String,
        /// What came with it.
        data: Value,
        /// From whom.
        by: By,
    },
    /// Nothing of the run starts any more until it is resumed.
    RunPaused {
        /// Why.
        reason: PauseReason,
    },
    /// The run goes on.
    RunResumed {
        /// Who asked.
        by: By,
    },
    /// A failed or waiting step may start again, with a fresh retry budget.
    StepRetried {
        /// The step.
        step: StepName,
        /// Who asked.
        by: By,
    },
    /// A step that had begun, and all that need it, begin another visit because somebody asked for it.
    StepRedone {
        /// The step.
        step: StepName,
        /// Who asked.
        by: By,
    },
    /// The run is to end; attempts are being stopped.
    CancelRequested {
        /// Who asked.
        by: By,
    },
    /// The run ended.
    RunFinished {
        /// How.
        end: RunEnd,
    },
}

impl Event {
    /// The hash of the graph that the run keeps from here on, if this says so.
    pub fn graph(&self) -> Option<&Arc<str>> {
        match self {
            Self::RunStarted { graph, .. } | Self::RunMigrated { graph, .. } => Some(graph),
            _ => None,
        }
    }
}

/// What one commit adds to the history of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// 1, 2, 3, … without gaps.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970; for people, never for decisions.
    pub at: u64,
    /// What happened, in order; never empty.
    pub events: Vec<Event>,
}

impl Entry {
    /// The hashes of the graphs that the run keeps from this entry on.
    pub fn graphs(&self) -> impl Iterator<Item = &Arc<str>> {
        self.events.iter().filter_map(Event::graph)
    }

    /// Whether the steps of the run have other places after it than before.
    pub fn renumbers(&self) -> bool {
        let migrated = |event: &Event| matches!(event, Event::RunMigrated { .. });
        self.events.iter().any(migrated)
    }
}
