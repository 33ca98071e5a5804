//! The workflow of a run plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;

use super::plan::{RunPlan, Shape, StepPlan};
use super::world::BEGIN;
use crate::expression::Expression;
use crate::failure::FailureClass;
use crate::id::{StageName, StepName, WorkflowName};
use crate::stage::Claim;
use crate::workflow::{
    Foreach, Graph, GraphData, ParamSpec, Retry, RewindEdge, Source, StageRef, StepIx, StepSpec, Timeouts,
    WaitSpec,
};

/// The code with which what has expired fails.
const EXPIRED: &str = "valid_until_passed";

impl RunPlan {
    /// The graph of a run.
    pub(super) fn graph(&self) -> Arc<Graph> {
        self.made.0.get_or_init(|| self.make()).clone()
    }

    fn make(&self) -> Arc<Graph> {
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
            steps.push(spec(at, plan, needs, &steps));
        }
        let param = |name: &str, ty: &str, default| ParamSpec {
            name: name.to_owned(),
            ty: ty.to_owned(),
            default,
            doc: String::new(),
        };
        let mut data = GraphData {
            name: WorkflowName::new("random").unwrap(),
            description: String::new(),
            subject: "thing".to_owned(),
            claim: Claim::Write,
            priority: 0,
            params: vec![
                param("id", "uint64", None),
                param("list", "list of uint64", Some(json!([3, 1, 4]))),
            ],
            steps,
            rewinds: Vec::new(),
            children: Vec::new(),
            outputs: BTreeMap::new(),
            triggers: Vec::new(),
        };
        data.rewinds = self.edges(&Graph::new(data.clone()).unwrap());
        Arc::new(Graph::new(data).unwrap())
    }

    fn edges(&self, plain: &Graph) -> Vec<RewindEdge> {
        let mut edges = Vec::new();
        let mut seen = BTreeSet::new();
        for (from, to, code, max) in &self.rewinds {
            let from = StepIx(u32::from(*from) % u32::try_from(self.steps.len()).unwrap());
            let mut back: Vec<StepIx> = plain.ancestors(from).into_iter().collect();
            back.push(from);
            let to = back[usize::from(*to) % back.len()];
            let fails = match code {
                2 => plain.step(from).valid_until.is_some(),
                _ => plain.step(from).stage.is_some(),
            };
            if fails && seen.insert((from, *code)) {
                edges.push(RewindEdge {
                    on: match code {
                        2 => EXPIRED.to_owned(),
                        code => format!("back{code}"),
                    },
                    from,
                    to,
                    max: *max,
                });
            }
        }
        edges
    }

    /// Whether anything in it goes by the wall clock, or its parts can race each other when it goes back.
    pub(super) fn is_steady(&self, graph: &Graph, rewound: u32) -> bool {
        let expires = graph.steps().any(|(_, spec)| spec.valid_until.is_some());
        let fans = graph.steps().any(|(_, spec)| spec.foreach.is_some());
        !expires && (rewound == 0 || (self.shape == Shape::Chain && !fans))
    }
}

fn spec(at: usize, plan: &StepPlan, needs: Vec<StepIx>, before: &[StepSpec]) -> StepSpec {
    let stage = match plan.stage {
        0 => None,
        1 | 2 => Some("light"),
        3..=5 => Some("one"),
        6 => Some("two"),
        _ => Some("big"),
    };
    let stage = stage.map(|name| StageRef {
        name: StageName::new(name).unwrap(),
        version: 1,
        artifacts: Vec::new(),
        effect: false,
        many: false,
    });
    // What expressions look at: the first need that gives something.
    let staged = |need: &&StepIx| before[need.get()].stage.is_some();
    let source = needs.iter().find(staged).map(|need| &before[need.get()]);
    let foreach = stage.as_ref().and_then(|_| foreach(plan, source));
    let mut inputs = BTreeMap::new();
    if stage.is_some() {
        for need in &needs {
            for field in ["out", "visit"] {
                let source = Source::Output {
                    step: *need,
                    field: field.to_owned(),
                    optional: plan.lenient,
                };
                inputs.insert(format!("{field}_{}", need.0), source);
            }
        }
    }
    if foreach.is_some() {
        inputs.insert("item".to_owned(), Source::Item { field: None });
    }
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
    StepSpec {
        name: StepName::new(&format!("s{at}")).unwrap(),
        stage,
        needs,
        inputs,
        retry: Retry {
            max_attempts: plan.max_attempts,
            backoff_ms: 1000,
            max_backoff_ms: 3000,
            on: BTreeSet::from_iter(on.iter().copied()),
        },
        timeout: Timeouts {
            run_ms,
            silence_ms,
            ..Timeouts::default()
        },
        wait: match plan.wait {
            0 => Some(WaitSpec::For(2000)),
            1 => Some(WaitSpec::Signal(format!("go{}", at % 2))),
            2 => Some(WaitSpec::Approval("look at it".to_owned())),
            _ => None,
        },
        when: when(plan, source),
        foreach,
        valid_until: valid_until(at, plan, source),
        workflow: None,
        batch: None,
        on_failure: Vec::new(),
        finally: false,
    }
}

fn expression(text: &str) -> Expression {
    Expression::parse(text).unwrap()
}

fn when(plan: &StepPlan, source: Option<&StepSpec>) -> Option<Expression> {
    let (name, items) = match source {
        Some(source) => (source.name.as_str(), source.foreach.is_some()),
        None => return (plan.when < 2).then(|| expression("params.id < 1000")),
    };
    let text = match (plan.when, items) {
        (0 | 1, false) => format!("{name}.flag"),
        (0, true) => format!("size({name}.out) > 1"),
        (1, true) => format!("true in {name}.flag"),
        (2, false) => format!("size({name}.list) < 2 || {name}.flag"),
        (2, true) => format!("{name}.flag.exists(x, x)"),
        // This one cannot be worked out.
        (3, _) => format!("{name}.list[40] == 1"),
        _ => return None,
    };
    Some(expression(&text))
}

fn foreach(plan: &StepPlan, source: Option<&StepSpec>) -> Option<Foreach> {
    let text = match (plan.each, source.map(|source| source.name.as_str())) {
        (0, Some(name)) => format!("{name}.list"),
        (1, Some(name)) => format!("{name}.list.filter(x, x != 1)"),
        (0..3, _) => "params.list".to_owned(),
        _ => return None,
    };
    Some(Foreach {
        list: expression(&text),
        max_parallel: plan.max_parallel,
    })
}

fn valid_until(at: usize, plan: &StepPlan, source: Option<&StepSpec>) -> Option<Expression> {
    let text = match (plan.expires, source) {
        (0 | 1, Some(source)) if source.foreach.is_none() => format!("{}.until", source.name),
        (0, _) => (BEGIN + 3000 + 700 * at as u64).to_string(),
        _ => return None,
    };
    Some(expression(&text))
}
