//! The checked, resolved workflow that a run keeps from its start to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::{Dfs, Reversed};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::expression::Expression;
use crate::failure::FailureClass;
use crate::id::{StageName, StepName, WorkflowName};
use crate::stage::Claim;
use crate::trigger::TriggerSpec;

/// A step's place in [`GraphData::steps`], which is in an order where needs come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepIx(pub u32);

impl StepIx {
    /// As an index.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

/// What a graph says, as it is stored and hashed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphData {
    /// The workflow's name.
    pub name: WorkflowName,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The kind of thing it is about, for example `sector`.
    pub subject: String,
    /// What it does to the subject's artifacts: the most that any of its stages does.
    pub claim: Claim,
    /// Runs of higher priority start their steps first; 0 unless the file says otherwise.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// What must be given to start it.
    pub params: Vec<ParamSpec>,
    /// Its steps; a step comes after all that it needs.
    pub steps: Vec<StepSpec>,
    /// Its ways back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewinds: Vec<RewindEdge>,
    /// The workflows that steps run as runs of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<GraphData>,
    /// What a run gives to the step that it was started for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Source>,
    /// When it starts by itself, once somebody switches that on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<TriggerSpec>,
}

/// A parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParamSpec {
    /// Its name.
    pub name: String,
    /// The name of its type.
    #[serde(rename = "type")]
    pub ty: String,
    /// What it is when it is not given; without one it must be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub doc: String,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSpec {
    /// Its name.
    pub name: StepName,
    /// Its stage; a step that only waits has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageRef>,
    /// The steps that must have succeeded first.
    pub needs: Vec<StepIx>,
    /// Where each field of the input comes from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Source>,
    /// What happens after a failure.
    pub retry: Retry,
    /// How long an attempt may take.
    #[serde(default)]
    pub timeout: Timeouts,
    /// What is waited for once the needs are met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitSpec>,
    /// The step is skipped unless this holds once its needs are met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Expression>,
    /// The step is done once for each item of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreach: Option<Foreach>,
    /// The time after which its success is worth nothing: milliseconds since 1970 or RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Expression>,
    /// Instead of a stage: the workflow that does its work, by its place in [`GraphData::children`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<u32>,
    /// Its attempts are made together with those of other runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSpec>,
    /// It is done only if one of these, which it needs, fails for good; then the run does not pause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on_failure: Vec<StepIx>,
    /// It is done at the end of the run, also of one that is cancelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finally: bool,
}

impl StepSpec {
    /// Whether there is work to do, and not only something to wait for.
    pub fn works(&self) -> bool {
        self.stage.is_some() || self.workflow.is_some()
    }
}

/// How the attempts of a step are made together: see [`crate::core`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSpec {
    /// Only steps whose input or parameter of this name is the same are made together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// At most so many.
    pub max: u32,
    /// The batch closes when the inputs, as JSON, have so many bytes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// The batch closes so many milliseconds after its first member was ready.
    pub wait_ms: u64,
    /// The batch closes so many milliseconds before the success of a member is worth nothing.
    #[serde(default)]
    pub slack_ms: u64,
}

impl BatchSpec {
    /// The most members that a batch can have.
    pub const MAX: u32 = 1000;
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A fan-out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Foreach {
    /// Gives the list.
    pub list: Expression,
    /// How many items are under way at a time.
    pub max_parallel: u32,
}

impl Foreach {
    /// The most items that a step can have.
    pub const MAX_ITEMS: usize = 10_000;
    /// Items under way at a time, unless the file says otherwise: enough for any executor, and few
    /// enough that a decision looks at few.
    pub const MAX_PARALLEL: u32 = 100;
}

/// A stage as it was when the run started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRef {
    /// Its name.
    pub name: StageName,
    /// Its version.
    pub version: u32,
    /// The output fields that are artifacts of the subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// Whether its success changes the world outside, which going back cannot undo.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub effect: bool,
    /// Whether an attempt does the work of many members of a batch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub many: bool,
}

/// Where an input field comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A parameter of the run.
    Param(String),
    /// A field of the output of an earlier step.
    Output {
        /// The step.
        step: StepIx,
        /// The field.
        field: String,
        /// Whether the input can do without it, if the step was skipped.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        optional: bool,
    },
    /// The item that the step is about, or a field of it.
    Item {
        /// The field; without one the whole item.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<String>,
    },
    /// The inputs of all members of a batch.
    Members,
    /// A value in the file.
    Literal(Value),
    /// An artifact that the subject owned when the run started.
    Subject {
        /// Its kind, for example `sealed`.
        kind: String,
        /// Whether the step can do without it.
        optional: bool,
    },
}

/// What happens after a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Charged attempts of one visit before the run pauses.
    pub max_attempts: u32,
    /// Milliseconds before the second attempt; doubled before each later one.
    pub backoff_ms: u64,
    /// The most milliseconds between two attempts.
    pub max_backoff_ms: u64,
    /// The classes that are tried again.
    pub on: BTreeSet<FailureClass>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff_ms: 10_000,
            max_backoff_ms: 600_000,
            on: BTreeSet::from([FailureClass::Transient, FailureClass::Critical]),
        }
    }
}

impl Retry {
    /// How long to wait after the `failed`-th failure (from 1), without jitter.
    pub fn backoff(&self, failed: u32) -> Duration {
        let factor = 1_u64 << failed.saturating_sub(1).min(20);
        Duration::from_millis(self.backoff_ms.saturating_mul(factor).min(self.max_backoff_ms))
    }
}

/// Limits of one attempt, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timeouts {
    /// From its start to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<u64>,
    /// Without any report of progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence_ms: Option<u64>,
    /// Without a word from the machine that it is on. Unless the file says otherwise 45 s, or 12 s for what is worth
    /// something only until a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<u64>,
    /// What then becomes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_lost: Option<OnLost>,
}

/// What becomes of an attempt whose machine has fallen silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLost {
    /// It is waited for. So it is done with steps that work in the sector's cache directory, unless the file says
    /// otherwise.
    Wait,
    /// The step is done on another machine, or on the same when it is back; what the lost attempt still reports
    /// does not count.
    Reassign,
    /// The run pauses, and a person decides.
    Ask,
}

impl OnLost {
    /// The word in workflow files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Reassign => "reassign",
            Self::Ask => "ask",
        }
    }
}

/// What a step waits for before its stage starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitSpec {
    /// Milliseconds since its needs were met.
    For(u64),
    /// A signal of this name.
    Signal(String),
    /// That a person approves; the text says what they should look at.
    Approval(String),
}

/// A way back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewindEdge {
    /// The failure code that takes it.
    pub on: String,
    /// The step that fails.
    pub from: StepIx,
    /// The step that the run goes back to.
    pub to: StepIx,
    /// How often a run may take it before it pauses.
    pub max: u32,
}

/// A [`GraphData`] with what follows from it.
#[derive(Debug)]
pub struct Graph {
    data: GraphData,
    digraph: DiGraph<StepIx, ()>,
    by_name: BTreeMap<StepName, StepIx>,
    children: Vec<Arc<Graph>>,
    /// Steps whose failure another one handles.
    handled: BTreeSet<StepIx>,
    finally: bool,
    /// Steps whose success is worth nothing from some time on.
    deadlines: Vec<StepIx>,
    hash: Arc<str>,
}

/// Graphs of one hash say the same.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Graph {
    /// Takes a graph that was resolved or stored.
    ///
    /// # Errors
    /// What makes it no graph: a need that does not come earlier, a name that is there twice.
    pub fn new(data: GraphData) -> Result<Self, String> {
        let mut digraph = DiGraph::with_capacity(data.steps.len(), data.steps.len() * 2);
        let mut by_name = BTreeMap::new();
        for (at, step) in data.steps.iter().enumerate() {
            let ix = StepIx(u32::try_from(at).map_err(|_| "too many steps".to_owned())?);
            let node = digraph.add_node(ix);
            if by_name.insert(step.name.clone(), ix).is_some() {
                return Err(format!("step `{}` is there twice", step.name));
            }
            for need in &step.needs {
                if need.get() >= at {
                    return Err(format!(
                        "step `{}` needs a step that does not come before it",
                        step.name
                    ));
                }
                digraph.add_edge(NodeIndex::new(need.get()), node, ());
            }
        }
        for step in &data.steps {
            let beyond = |source: &Source| matches!(source, Source::Output { step, .. } if step.get() >= data.steps.len());
            if step.inputs.values().any(beyond) {
                return Err(format!(
                    "step `{}` takes from a step that is not there",
                    step.name
                ));
            }
            if step.foreach.is_some() && !step.works() {
                return Err(format!("step `{}` has items but no stage", step.name));
            }
            let child = step.workflow.map(|child| child as usize);
            if child.is_some_and(|child| step.stage.is_some() || child >= data.children.len()) {
                return Err(format!(
                    "step `{}` has no such workflow, or a stage too",
                    step.name
                ));
            }
            if step.batch.is_some() && (step.stage.is_none() || step.foreach.is_some()) {
                return Err(format!("step `{}` cannot be made in batches", step.name));
            }
        }
        let last = data.steps.len();
        if data
            .rewinds
            .iter()
            .any(|edge| edge.from.get() >= last || edge.to.get() >= last)
        {
            return Err("a rewind edge names a step that is not there".to_owned());
        }
        let needed = |step: &StepSpec| step.on_failure.iter().all(|of| step.needs.contains(of));
        if let Some(step) = data.steps.iter().find(|step| !needed(step)) {
            return Err(format!(
                "step `{}` handles the failure of a step that it does not need",
                step.name
            ));
        }
        let handled = data
            .steps
            .iter()
            .flat_map(|step| step.on_failure.iter().copied())
            .collect();
        let finally = data.steps.iter().any(|step| step.finally);
        let expires = (0..).map(StepIx).zip(&data.steps);
        let expires = expires.filter(|(_, step)| step.valid_until.is_some());
        let deadlines = expires.map(|(ix, _)| ix).collect();
        let children = data.children.iter().cloned().map(Self::new);
        let children = children
            .map(|child| child.map(Arc::new))
            .collect::<Result<_, _>>()?;
        let bytes = serde_json::to_vec(&data).map_err(|error| error.to_string())?;
        let hash = hex::encode(Sha256::digest(&bytes)).into();
        Ok(Self {
            data,
            digraph,
            by_name,
            children,
            handled,
            finally,
            deadlines,
            hash,
        })
    }

    /// What the graph says.
    pub fn data(&self) -> &GraphData {
        &self.data
    }

    /// SHA-256 of the stored form, in hex: the identity that a run is pinned to.
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// The workflow that a step runs as a run of its own.
    pub fn child(&self, step: &StepSpec) -> Option<&Arc<Graph>> {
        self.children.get(step.workflow? as usize)
    }

    /// Whether another step handles the failure of this one.
    pub fn handles_failure_of(&self, ix: StepIx) -> bool {
        self.handled.contains(&ix)
    }

    /// Whether a step handles the failure of any other.
    pub fn handles_failures(&self) -> bool {
        !self.handled.is_empty()
    }

    /// Whether there are steps that are done at the end of a run, also of one that is cancelled.
    pub fn has_finally(&self) -> bool {
        self.finally
    }

    /// Steps whose success is worth nothing from some time on.
    pub fn deadlines(&self) -> &[StepIx] {
        &self.deadlines
    }

    /// Whether anything that a step does changes the world outside.
    pub fn has_effect(&self, step: &StepSpec) -> bool {
        let within = |graph: &Arc<Self>| graph.data.steps.iter().any(|step| graph.has_effect(step));
        step.stage.as_ref().is_some_and(|stage| stage.effect) || self.child(step).is_some_and(within)
    }

    /// The graph of a batch of a step: one step, which does the work of all members.
    ///
    /// # Errors
    /// The step is not made in batches.
    pub fn batch(&self, step: &StepSpec) -> Result<Self, String> {
        let stage = step.stage.as_ref().filter(|_| step.batch.is_some());
        let stage = stage.ok_or_else(|| format!("step `{}` is not made in batches", step.name))?;
        let name = format!("{}_{}", self.data.name, step.name);
        let name = WorkflowName::new(&name[..name.len().min(64)]).map_err(|error| error.to_string())?;
        Self::new(GraphData {
            name,
            description: format!(
                "Step `{}` of workflow `{}`, for many runs.",
                step.name, self.data.name
            ),
            subject: "batch".to_owned(),
            claim: Claim::None,
            priority: self.data.priority,
            params: Vec::new(),
            steps: vec![StepSpec {
                name: step.name.clone(),
                stage: Some(StageRef {
                    many: true,
                    artifacts: Vec::new(),
                    ..stage.clone()
                }),
                needs: Vec::new(),
                inputs: BTreeMap::from([("members".to_owned(), Source::Members)]),
                retry: step.retry.clone(),
                timeout: step.timeout.clone(),
                wait: None,
                when: None,
                foreach: None,
                valid_until: None,
                workflow: None,
                batch: None,
                on_failure: Vec::new(),
                finally: false,
            }],
            rewinds: Vec::new(),
            children: Vec::new(),
            outputs: BTreeMap::new(),
            triggers: Vec::new(),
        })
    }

    /// One step.
    pub fn step(&self, ix: StepIx) -> &StepSpec {
        &self.data.steps[ix.get()]
    }

    /// All steps with their places, needs first.
    pub fn steps(&self) -> impl Iterator<Item = (StepIx, &StepSpec)> {
        (0..).map(StepIx).zip(&self.data.steps)
    }

    /// The place of a step.
    pub fn find(&self, name: &StepName) -> Option<StepIx> {
        self.by_name.get(name).copied()
    }

    /// How many steps it has.
    pub fn len(&self) -> usize {
        self.data.steps.len()
    }

    /// Whether it has no steps at all.
    pub fn is_empty(&self) -> bool {
        self.data.steps.is_empty()
    }

    /// The steps that need this one directly.
    pub fn dependents(&self, ix: StepIx) -> impl Iterator<Item = StepIx> + '_ {
        self.digraph
            .neighbors(NodeIndex::new(ix.get()))
            .map(|node| self.digraph[node])
    }

    /// The step itself and all that need it, directly or not.
    pub fn with_descendants(&self, ix: StepIx) -> BTreeSet<StepIx> {
        let mut dfs = Dfs::new(&self.digraph, NodeIndex::new(ix.get()));
        std::iter::from_fn(|| dfs.next(&self.digraph))
            .map(|node| self.digraph[node])
            .collect()
    }

    /// All steps that this one needs, directly or not.
    pub fn ancestors(&self, ix: StepIx) -> BTreeSet<StepIx> {
        let reversed = Reversed(&self.digraph);
        let mut dfs = Dfs::new(reversed, NodeIndex::new(ix.get()));
        let all = std::iter::from_fn(|| dfs.next(reversed)).map(|node| self.digraph[node]);
        all.filter(|other| *other != ix).collect()
    }
}
