//! Random runs: a graph, and for each step what its attempts do, visit by visit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::executor::{ExecutorSpec, Machine};
use crate::failure::{Failure, FailureClass};
use crate::id::{StageName, StepName, Subject, WorkflowName};
use crate::resource::{Need, Resources};
use crate::stage::{Claim, Outcome, Stage, StageContext, StageRegistry, SubjectKind};
use crate::workflow::{
    Graph, GraphData, ParamSpec, Retry, RewindEdge, Source, StageRef, StepIx, StepSpec, Timeouts, WaitSpec,
};

/// What one attempt does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turn {
    Transient,
    Permanent,
    Critical,
    /// Fails with a code that may lead back.
    Back(u8),
    ParkFor(u16),
    ParkSignal,
    /// Never ends by itself; fails at once where the step has no time limit.
    Hang,
    /// Hangs, but goes on reporting progress.
    HangTalking,
    /// Takes longer than the limit for silence, reports progress, and succeeds.
    Talk,
}

#[derive(Debug, Clone)]
pub(super) struct StepPlan {
    needs: u16,
    stage: u8,
    wait: u8,
    max_attempts: u32,
    retry_on: u8,
    timeout: u8,
    pub(super) ms: u16,
    pub(super) payload: bool,
    /// Does not stop when it is asked to.
    pub(super) stubborn: bool,
    /// For each visit, what its attempts do before one succeeds.
    pub(super) script: Vec<Vec<Turn>>,
}

/// How steps hang together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// One after the other.
    Chain,
    /// Anyhow.
    Mesh,
    /// Most need only the first, so that much runs side by side when the run goes back.
    Fan,
}

#[derive(Debug, Clone)]
pub(super) struct RunPlan {
    pub(super) shape: Shape,
    pub(super) steps: Vec<StepPlan>,
    rewinds: Vec<(u8, u8, u8, u32)>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    Pause,
    Resume,
    Cancel,
    RetryAll,
    Retry(u8),
    Signal(u8),
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) runs: Vec<RunPlan>,
    /// After so many commits this is asked of this run.
    pub(super) asks: Vec<(u8, u8, Ask)>,
    /// How long commits take.
    pub(super) latency: u8,
    /// How long the daemon is away when it is stopped.
    pub(super) away: u32,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => Just(Turn::Transient),
        1 => Just(Turn::Permanent),
        1 => Just(Turn::Critical),
        4 => prop_oneof![3 => Just(0_u8), 1 => Just(1)].prop_map(Turn::Back),
        1 => (1..5000_u16).prop_map(Turn::ParkFor),
        1 => Just(Turn::ParkSignal),
        1 => Just(Turn::Hang),
        1 => Just(Turn::HangTalking),
        1 => Just(Turn::Talk),
    ]
}

fn step() -> impl Strategy<Value = StepPlan> {
    let shape = (any::<u16>(), any::<u16>(), 0..8_u8, 0..8_u8);
    let rules = (1..4_u32, 0..5_u8, 0..4_u8);
    let script = vec(vec(turn(), 0..4), 0..4);
    let work = (
        prop_oneof![Just(0), 1..900_u16],
        any::<bool>(),
        any::<bool>(),
        script,
    );
    (shape, rules, work).prop_map(|(shape, rules, work)| StepPlan {
        needs: shape.0 & shape.1,
        stage: shape.2,
        wait: shape.3,
        max_attempts: rules.0,
        retry_on: rules.1,
        timeout: rules.2,
        ms: work.0,
        payload: work.1,
        stubborn: work.2,
        script: work.3,
    })
}

pub(super) fn run_plan(steps: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = RunPlan> {
    let code = prop_oneof![3 => Just(0_u8), 1 => Just(1)];
    let rewinds = vec((any::<u8>(), any::<u8>(), code, 1..4_u32), 0..6);
    let shape = prop_oneof![Just(Shape::Chain), Just(Shape::Mesh), Just(Shape::Fan)];
    (shape, vec(step(), steps), rewinds).prop_map(|(shape, steps, rewinds)| RunPlan {
        shape,
        steps,
        rewinds,
    })
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Pause),
        Just(Ask::Resume),
        Just(Ask::RetryAll),
        any::<u8>().prop_map(Ask::Retry),
        any::<u8>().prop_map(Ask::Signal),
    ]
}

/// One run or more, with or without an operator; `cancels` adds cancellations.
pub(super) fn plan(
    runs: std::ops::RangeInclusive<usize>,
    asks: usize,
    cancels: bool,
) -> impl Strategy<Value = Plan> {
    let most_steps = if *runs.end() > 1 { 6 } else { 12 };
    let one = if cancels {
        prop_oneof![2 => ask(), 1 => Just(Ask::Cancel)].boxed()
    } else {
        ask().boxed()
    };
    let asks = vec((0..40_u8, any::<u8>(), one), 0..=asks);
    let times = (
        prop_oneof![Just(0), 1..60_u8],
        prop_oneof![Just(0), Just(50), Just(100_000_u32)],
    );
    (vec(run_plan(1..=most_steps), runs), asks, times).prop_map(|(runs, asks, (latency, away))| Plan {
        runs,
        asks,
        latency,
        away,
    })
}

impl RunPlan {
    /// The graph of a run.
    pub(super) fn graph(&self) -> Arc<Graph> {
        let mut steps: Vec<StepSpec> = Vec::new();
        for (at, plan) in self.steps.iter().enumerate() {
            let needs: Vec<StepIx> = (0..at)
                .filter(|earlier| match self.shape {
                    Shape::Chain => earlier + 1 == at,
                    Shape::Mesh => plan.needs >> earlier & 1 == 1,
                    Shape::Fan => *earlier == 0 || plan.needs >> earlier & 3 == 3,
                })
                .map(|earlier| StepIx(u32::try_from(earlier).unwrap()))
                .collect();
            let stage = match plan.stage {
                0 => None,
                1 | 2 => Some("light"),
                3..=5 => Some("one"),
                6 => Some("two"),
                _ => Some("big"),
            };
            let inputs = needs.iter().flat_map(|need| {
                ["out", "visit"].map(|field| {
                    (
                        format!("{field}_{}", need.0),
                        Source::Output {
                            step: *need,
                            field: field.to_owned(),
                            optional: false,
                        },
                    )
                })
            });
            let inputs = if stage.is_some() {
                inputs.collect()
            } else {
                BTreeMap::new()
            };
            let on: &[FailureClass] = match plan.retry_on {
                0 => &[],
                1 => &[FailureClass::Transient],
                2 => &[
                    FailureClass::Transient,
                    FailureClass::Critical,
                    FailureClass::Permanent,
                ],
                _ => &[FailureClass::Transient, FailureClass::Critical],
            };
            let (run_ms, silence_ms) = match plan.timeout {
                0 | 1 => (None, None),
                2 => (Some(1000), Some(1000)),
                _ => (None, Some(1000)),
            };
            steps.push(StepSpec {
                name: StepName::new(&format!("s{at}")).unwrap(),
                stage: stage.map(|name| StageRef {
                    name: StageName::new(name).unwrap(),
                    version: 1,
                    artifacts: Vec::new(),
                    effect: false,
                    many: false,
                }),
                needs,
                inputs,
                retry: Retry {
                    max_attempts: plan.max_attempts,
                    backoff_ms: 1000,
                    max_backoff_ms: 3000,
                    on: BTreeSet::from_iter(on.iter().copied()),
                },
                timeout: Timeouts { run_ms, silence_ms },
                wait: match plan.wait {
                    0 => Some(WaitSpec::For(2000)),
                    1 => Some(WaitSpec::Signal(format!("go{}", at % 2))),
                    _ => None,
                },
                when: None,
                foreach: None,
                valid_until: None,
                workflow: None,
                batch: None,
                on_failure: Vec::new(),
                finally: false,
            });
        }
        let mut data = GraphData {
            name: WorkflowName::new("random").unwrap(),
            description: String::new(),
            subject: "thing".to_owned(),
            claim: Claim::Write,
            priority: 0,
            params: vec![ParamSpec {
                name: "id".to_owned(),
                ty: "uint64".to_owned(),
                default: None,
                doc: String::new(),
            }],
            steps,
            rewinds: Vec::new(),
            children: Vec::new(),
            outputs: BTreeMap::new(),
            triggers: Vec::new(),
        };
        let plain = Graph::new(data.clone()).unwrap();
        let mut seen = BTreeSet::new();
        for (from, to, code, max) in &self.rewinds {
            let from = StepIx(u32::from(*from) % u32::try_from(self.steps.len()).unwrap());
            let mut back: Vec<StepIx> = plain.ancestors(from).into_iter().collect();
            back.push(from);
            let to = back[usize::from(*to) % back.len()];
            if plain.step(from).stage.is_some() && seen.insert((from, *code)) {
                data.rewinds.push(RewindEdge {
                    on: back_code(*code),
                    from,
                    to,
                    max: *max,
                });
            }
        }
        Arc::new(Graph::new(data).unwrap())
    }

    /// What an attempt does: a function of the step, its visit, and how many attempts of the visit have
    /// ended in a way that counts (not lost with a process).
    pub(super) fn turn(&self, graph: &Graph, ix: StepIx, visit: u32, ended: u32) -> Option<Turn> {
        let script = self.steps[ix.get()].script.get(visit as usize - 1)?;
        let turn = script.get(ended as usize).copied()?;
        let timeout = &graph.step(ix).timeout;
        Some(match turn {
            Turn::Hang if timeout.silence_ms.is_none() => Turn::Transient,
            // Who talks is given up only by the limit of the whole attempt.
            Turn::HangTalking if timeout.run_ms.is_none() => Turn::Transient,
            Turn::Talk if timeout.run_ms.is_some() => Turn::HangTalking,
            other => other,
        })
    }
}

fn back_code(code: u8) -> String {
    format!("back{code}")
}

impl Turn {
    /// The failure that it reports, if that is what it does.
    pub(super) fn failure(self) -> Option<Failure> {
        match self {
            Self::Transient => Some(Failure::transient("shaky", "try again")),
            Self::Permanent => Some(Failure::permanent("wrong", "look at it")),
            Self::Critical => Some(Failure::critical("broken", "this place is bad")),
            Self::Back(0) => Some(Failure::rewind("back0", "go back")),
            Self::Back(_) => Some(Failure::rewind("back1", "go back")),
            Self::ParkFor(_) | Self::ParkSignal | Self::Hang | Self::HangTalking | Self::Talk => None,
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Nothing {}

macro_rules! pretend {
    ($name:ident, $text:literal, $cpu:literal, $memory:literal) => {
        struct $name;
        impl Stage for $name {
            const NAME: &'static str = $text;
            const VERSION: u32 = 1;
            const SOURCE: &'static str = "//! Pretends.";
            type Input = Nothing;
            type Output = Nothing;
            fn costs(&self, _: &Value) -> Need {
                Need {
                    cpu: $cpu,
                    memory: $memory,
                    ..Need::default()
                }
            }
            async fn run(&self, _: &StageContext, _: Nothing) -> Result<Outcome<Nothing>, Failure> {
                Ok(Outcome::Done(Nothing {}))
            }
        }
    };
}

pretend!(Light, "light", 0, 0);
pretend!(One, "one", 1, 1);
pretend!(Two, "two", 2, 2);
pretend!(Big, "big", 64, 3);

/// The stages that plans use.
pub(super) fn registry() -> Arc<StageRegistry> {
    let subject = |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
    let kind = SubjectKind {
        name: "thing",
        params: &[("id", "uint64")],
        subject,
    };
    let registry = StageRegistry::default().with_subject(kind).with_type::<u64>();
    Arc::new(registry.with(Light).with(One).with(Two).with(Big))
}

/// The executors that plans share.
pub(super) fn executors() -> Vec<ExecutorSpec> {
    let machine = |name: &str, cpu, memory| Machine {
        name: name.to_owned(),
        capacity: Resources {
            cpu,
            memory,
            ..Resources::default()
        },
    };
    let stages = ["light", "one"].map(|name| StageName::new(name).unwrap());
    vec![
        ExecutorSpec {
            stages: Some(stages.to_vec()),
            ..ExecutorSpec::new("side", machine("side", 1, 1), 3)
        },
        ExecutorSpec::new("main", machine("main", 2, 4), 5),
    ]
}

/// The parameters of the `n`-th run.
pub(super) fn params(n: usize) -> Value {
    json!({ "id": n })
}
