//! Whether a run can go on with another graph, step by step. What was done stays if it would be done the same
//! way; what would be done otherwise is done again only if that was asked for, and never across an effect
//! outside that has landed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::StepName;
use crate::run::{RunState, RunStatus, StepStatus};
use crate::workflow::{Changed, Graph, StepIx, changed_keys};

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stays as it stands.
    Kept,
    /// It stays as it stands; what changed of its settings counts from its next attempt on.
    Settings,
    /// It has not begun, and will be done in its new form.
    NewForm,
    /// It begins another visit, in its new form.
    Again,
    /// The run did not have it.
    Added,
    /// The new graph does not have it.
    Dropped,
    /// It stands in the way.
    Refused,
}

impl Fate {
    /// The fate as programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Settings => "settings",
            Self::NewForm => "new_form",
            Self::Again => "again",
            Self::Added => "added",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
        }
    }
}

/// What becomes of one step, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepVerdict {
    /// The step.
    pub step: StepName,
    /// Where it stands.
    pub status: StepStatus,
    /// What becomes of it.
    pub fate: Fate,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Its keys whose values differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Changed>,
}

/// What moving a run to another graph would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What stands in the way of the whole run.
    pub refused: Vec<String>,
    /// Every step of the new graph, and those of the old one that it lacks.
    pub steps: Vec<StepVerdict>,
    /// The run's parameters in the new graph.
    pub params: Value,
    /// Steps that begin another visit, and all that need them with them.
    pub again: Vec<StepName>,
}

impl Plan {
    /// Whether nothing stands in the way.
    pub fn is_safe(&self) -> bool {
        self.refused.is_empty() && self.steps.iter().all(|step| step.fate != Fate::Refused)
    }

    /// Everything that stands in the way, a sentence each.
    pub fn obstacles(&self) -> Vec<String> {
        let steps = self.steps.iter().filter(|step| step.fate == Fate::Refused);
        let steps = steps.map(|step| format!("step `{}`: {}", step.step, step.why));
        self.refused.iter().cloned().chain(steps).collect()
    }
}

/// Keys that say how a step is tried, not what it does.
const SETTINGS: [&str; 6] = [
    "needs",
    "retry.",
    "timeout.",
    "wait",
    "valid_until",
    "max_parallel",
];

/// What moving `state` to `graph` would do. `params` are its parameters as the new graph takes them, or why it
/// does not; `redo` allows steps that are done to be done again.
pub fn plan(state: &RunState, graph: &Graph, params: Result<Value, String>, redo: bool) -> Plan {
    let mut refused = whole_run(state, graph);
    let params = params.unwrap_or_else(|why| {
        refused.push(why);
        state.params.clone()
    });
    let mut planner = Planner {
        state,
        graph,
        redo,
        again: BTreeSet::new(),
        roots: Vec::new(),
    };
    let mut steps: Vec<StepVerdict> = graph.steps().map(|(ix, _)| planner.step(ix)).collect();
    steps.extend(planner.dropped());
    Plan {
        refused,
        steps,
        params,
        again: planner.roots,
    }
}

fn whole_run(state: &RunState, graph: &Graph) -> Vec<String> {
    let (old, new) = (state.graph.data(), graph.data());
    let mut refused = Vec::new();
    let mut say = |wrong: bool, what: String| refused.extend(wrong.then_some(what));
    let status = state.status.as_str();
    say(
        !matches!(state.status, RunStatus::Running | RunStatus::Paused),
        format!("the run is {status}; only one that runs or is paused can go on otherwise"),
    );
    say(
        !state.discarding.is_empty(),
        "an attempt that was given up has not ended yet; try again when it has".to_owned(),
    );
    say(
        state.graph.hash() == graph.hash(),
        "the run follows this workflow already".to_owned(),
    );
    say(
        old.name != new.name,
        format!(
            "the file is of workflow `{}`, the run of `{}`",
            new.name, old.name
        ),
    );
    say(
        old.subject != new.subject,
        format!(
            "the new workflow is about a {}, the run about a {}",
            new.subject, old.subject
        ),
    );
    say(
        new.claim > old.claim,
        "the new workflow changes the subject's artifacts, the run only claimed to read them".to_owned(),
    );
    say(
        !state.members.is_empty(),
        "the run is a batch: move its members before they are collected".to_owned(),
    );
    say(
        state.parent.is_some() && old.outputs != new.outputs,
        "another run waits for what this one gives, and the new workflow gives something else".to_owned(),
    );
    refused
}

struct Planner<'a> {
    state: &'a RunState,
    graph: &'a Graph,
    redo: bool,
    /// Steps of the new graph that begin another visit.
    again: BTreeSet<StepIx>,
    /// Those of them that no other one drags along.
    roots: Vec<StepName>,
}

impl Planner<'_> {
    /// The verdict on a step of the new graph. Those that it needs were judged before.
    fn step(&mut self, ix: StepIx) -> StepVerdict {
        let spec = self.graph.step(ix);
        let Some(old) = self.state.graph.find(&spec.name) else {
            return verdict(spec.name.clone(), StepStatus::Pending, Fate::Added, "");
        };
        let status = self.state.step(old).status;
        let keys = changed_keys(
            (self.state.graph.data(), self.state.graph.step(old)),
            (self.graph.data(), spec),
        );
        let work = keys
            .iter()
            .filter(|key| !SETTINGS.iter().any(|one| key.key.starts_with(one)));
        let work: Vec<&str> = work.map(|key| key.key.as_str()).collect();
        let (fate, why) = self.fate(ix, old, &work.join(", "), !keys.is_empty());
        if fate == Fate::Again && self.again.insert(ix) {
            self.roots.push(spec.name.clone());
            self.again.extend(self.graph.with_descendants(ix));
        }
        StepVerdict {
            keys,
            ..verdict(spec.name.clone(), status, fate, &why)
        }
    }

    fn fate(&self, ix: StepIx, old: StepIx, work: &str, changed: bool) -> (Fate, String) {
        let step = self.state.step(old);
        let begun = !matches!(step.status, StepStatus::Pending | StepStatus::Ready);
        let dragged = self.again.contains(&ix);
        let missing = self.missing_need(ix).filter(|_| begun || step.is_through());
        let why = match (dragged, missing) {
            _ if !work.is_empty() => format!("{work} changed"),
            (true, _) if begun => "something that it needs is done again".to_owned(),
            (false, Some(need)) => format!("it needs `{need}` now, which was not done"),
            _ if changed => return (Fate::Settings, String::new()),
            _ => return (Fate::Kept, String::new()),
        };
        if step.status == StepStatus::Pending {
            return (Fate::NewForm, why);
        }
        if step.status == StepStatus::Running {
            let what = format!("{why}, but it runs: let it end first (after `run pause` nothing new starts)");
            return (Fate::Refused, what);
        }
        if self.landed(old) {
            let what = format!("{why}, but what it did outside has landed and cannot be undone");
            return (Fate::Refused, what);
        }
        if step.is_through() && !self.redo {
            let what = format!("{why}, but it is done; with --redo it is done again, and all that need it");
            return (Fate::Refused, what);
        }
        (Fate::Again, why)
    }

    /// A need of a step that is not through, or is done again.
    fn missing_need(&self, ix: StepIx) -> Option<&StepName> {
        let mut needs = self.graph.step(ix).needs.iter();
        let missing = needs.find(|need| {
            let old = self.state.graph.find(&self.graph.step(**need).name);
            old.is_none_or(|old| !self.state.step(old).is_through())
        });
        missing.map(|need| &self.graph.step(*need).name)
    }

    fn landed(&self, old: StepIx) -> bool {
        let one = |ix: &StepIx| self.state.step(*ix).status == StepStatus::Succeeded;
        let items = self.state.items(old);
        let effect = self.state.graph.has_effect(self.state.graph.step(old));
        self.state.step(old).landed || (effect && (one(&old) || items.iter().any(one)))
    }

    /// Steps of the old graph that the new one lacks.
    fn dropped(&self) -> Vec<StepVerdict> {
        let gone = self.state.graph.steps();
        let gone = gone.filter(|(_, spec)| self.graph.find(&spec.name).is_none());
        gone.map(|(ix, spec)| {
            let step = self.state.step(ix);
            let made = spec.stage.as_ref().filter(|_| step.output.is_some());
            let made = made.and_then(|stage| stage.artifacts.first());
            let (fate, why) = if step.status == StepStatus::Running {
                (
                    Fate::Refused,
                    "it runs, and the new workflow lacks it: let it end first".to_owned(),
                )
            } else if self.landed(ix) {
                let what = "what it did outside has landed, and the new workflow lacks it";
                (Fate::Refused, what.to_owned())
            } else if let Some(kind) = made {
                let what = format!("it made the `{kind}` of the subject, and the new workflow lacks it");
                (Fate::Refused, what)
            } else {
                (Fate::Dropped, String::new())
            };
            verdict(spec.name.clone(), step.status, fate, &why)
        })
        .collect()
    }
}

fn verdict(step: StepName, status: StepStatus, fate: Fate, why: &str) -> StepVerdict {
    StepVerdict {
        step,
        status,
        fate,
        why: why.to_owned(),
        keys: Vec::new(),
    }
}
