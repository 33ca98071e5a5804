//! The workflows of the installation, and what their work gives: numbers that follow from numbers.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;
use crate::id::Subject;
use crate::resource::Need;
use crate::stage::{BatchStage, Claim, Outcome, Stage, StageContext, StageRegistry, SubjectKind};
use crate::workflow::{Graph, load_with};

/// What nobody may believe: it is in reports that come too late or from nobody.
pub(super) const POISON: u64 = 666_666_666;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Number {
    /// A number.
    number: u64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Numbers {
    /// Numbers.
    number: Vec<u64>,
}

macro_rules! pretend {
    ($stage:ident, $name:literal, $input:ty, $claim:expr, $bound:literal, $memory:literal) => {
        struct $stage;
        impl Stage for $stage {
            const NAME: &'static str = $name;
            const VERSION: u32 = 1;
            const SOURCE: &'static str = "//! Pretends.";
            const CLAIM: Claim = $claim;
            const BOUND: bool = $bound;
            type Input = $input;
            type Output = Number;
            fn costs(&self, _: &Value) -> Need {
                Need {
                    cpu: 1,
                    memory: $memory,
                    ..Need::default()
                }
            }
            async fn run(&self, _: &StageContext, _: $input) -> Result<Outcome<Number>, Failure> {
                Err(Failure::permanent("pretended", "the simulator reports"))
            }
        }
    };
}

pretend!(Mix, "mix", Number, Claim::None, false, 1);
pretend!(Grind, "grind", Number, Claim::Write, true, 2);
pretend!(Sum, "sum", Numbers, Claim::None, false, 1);

impl BatchStage for Mix {
    async fn run_many(
        &self,
        _: &StageContext,
        _: Vec<Number>,
    ) -> Result<Outcome<Vec<Result<Number, Failure>>>, Failure> {
        Err(Failure::permanent("pretended", "the simulator reports"))
    }
}

/// What a stage makes of its input.
pub(super) fn works(stage: &str, input: &Value) -> Option<u64> {
    let number = || input.get("number")?.as_u64();
    match stage {
        "mix" => Some((number()? * 31 + 7) % 1_000_003),
        "grind" => Some((number()? * 17 + 3) % 1_000_003),
        _ => {
            let all = input.get("number")?.as_array()?.iter();
            Some(all.map(Value::as_u64).sum::<Option<u64>>()? % 1_000_003)
        }
    }
}

pub(super) fn registry() -> Arc<StageRegistry> {
    let subject = |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
    let kind = SubjectKind {
        name: "thing",
        params: &[("id", "uint64")],
        subject,
    };
    let registry = StageRegistry::default().with_subject(kind).with_type::<u64>();
    Arc::new(registry.with_batch(Mix).with(Grind).with(Sum))
}

/// Workflows that people start, each with the step that an edited file adds one behind.
pub(super) const STARTED: [(&str, &str); 6] = [
    ("plain", "c"),
    ("together", "c"),
    ("sub", "last"),
    ("deep", "last"),
    ("fan", "sum"),
    ("fan_together", "sum"),
];

/// The steps of a workflow.
fn steps(name: &str) -> Option<&'static str> {
    Some(match name {
        "plain" => {
            "[steps.a]\nstage = \"mix\"\n[steps.b]\nstage = \"grind\"\nneeds = [\"a\"]\nwith = { number = \"a.number\" }\n\
             [steps.c]\nstage = \"grind\"\nneeds = [\"b\"]\nwith = { number = \"b.number\" }\n"
        }
        "together" => {
            "[steps.a]\nstage = \"mix\"\n[steps.b]\nstage = \"mix\"\nneeds = [\"a\"]\nwith = { number = \"a.number\" }\n\
             batch = { max = 3, wait = \"20s\" }\n\
             [steps.c]\nstage = \"grind\"\nneeds = [\"b\"]\nwith = { number = \"b.number\" }\n"
        }
        "inner" => {
            "[steps.a]\nstage = \"mix\"\n[steps.b]\nstage = \"grind\"\nneeds = [\"a\"]\nwith = { number = \"a.number\" }\n\
             [outputs]\nnumber = \"b.number\"\n"
        }
        "inner_together" => {
            "[steps.a]\nstage = \"mix\"\nbatch = { max = 2, wait = \"5s\" }\n[outputs]\nnumber = \"a.number\"\n"
        }
        "sub" => {
            "[steps.a]\nstage = \"mix\"\n[steps.part]\nworkflow = \"inner\"\nneeds = [\"a\"]\nwith = { number = \"a.number\" }\n\
             [steps.last]\nstage = \"mix\"\nneeds = [\"part\"]\nwith = { number = \"part.number\" }\n\
             [outputs]\nnumber = \"last.number\"\n"
        }
        "deep" => {
            "[steps.part]\nworkflow = \"sub\"\n[steps.last]\nstage = \"grind\"\nneeds = [\"part\"]\n\
             with = { number = \"part.number\" }\n"
        }
        "fan" => {
            "[steps.part]\nworkflow = \"inner\"\nforeach = \"[1, 2, 3]\"\nmax_parallel = 2\nwith = { number = \"item\" }\n\
             [steps.sum]\nneeds = [\"part\"]\nwith = { number = \"part.number\" }\n"
        }
        "fan_together" => {
            "[steps.part]\nworkflow = \"inner_together\"\nforeach = \"[4, 5, 6]\"\nwith = { number = \"item\" }\n\
             [steps.sum]\nneeds = [\"part\"]\nwith = { number = \"part.number\" }\n"
        }
        _ => return None,
    })
}

const RETRY: &str = "[defaults]\nretry = { max_attempts = 3, backoff = \"1s\", max_backoff = \"5s\" }\ntimeout = { lost = \"30s\" }\n";

fn text(name: &str, steps: &str) -> String {
    format!(
        "[workflow]\nname = \"{name}\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\nnumber = \"uint64\"\n{RETRY}{steps}"
    )
}

fn load(text: &str) -> Arc<Graph> {
    let library = |name: &str| steps(name).map(|steps| self::text(name, steps));
    let (graph, complaints) = load_with(text, &registry(), &library);
    Arc::new(graph.unwrap_or_else(|| panic!("{complaints:?}")))
}

/// The graph of a workflow that is started.
pub(super) fn graph(name: &str) -> Arc<Graph> {
    load(&text(name, steps(name).unwrap()))
}

/// The same, as somebody edited it: a step more, and other settings.
pub(super) fn edited(name: &str) -> Arc<Graph> {
    let (_, last) = STARTED.iter().find(|(known, _)| *known == name).unwrap();
    let more = format!(
        "[steps.more]\nstage = \"mix\"\nneeds = [\"{last}\"]\nwith = {{ number = \"{last}.number\" }}\n\
         retry = {{ max_attempts = 5 }}\n"
    );
    let steps = steps(name).unwrap();
    // Tables of steps go before the outputs.
    let steps = match steps.find("[outputs]") {
        Some(at) => format!("{}{more}{}", &steps[..at], &steps[at..]),
        None => format!("{steps}{more}"),
    };
    load(&text(name, &steps))
}

/// Every ten seconds a run.
pub(super) fn triggered(overlap: &str, catch_up: &str) -> Arc<Graph> {
    let steps = format!(
        "[steps.a]\nstage = \"mix\"\n[[trigger]]\ncron = \"*/10 * * * * *\"\noverlap = \"{overlap}\"\n\
         catch_up = \"{catch_up}\"\nparams = {{ id = 900, number = 5 }}\n"
    );
    load(&text(&format!("each_{overlap}_{catch_up}"), &steps))
}

/// How often a trigger comes, in milliseconds.
pub(super) const EVERY_MS: u64 = 10_000;
