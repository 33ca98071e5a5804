//! Pretended stages, what they give, and the executors that all plans share.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::plan::StepPlan;
use crate::executor::{ExecutorSpec, Machine};
use crate::failure::Failure;
use crate::id::{StageName, StepName, Subject};
use crate::resource::{Need, Resources};
use crate::stage::{Outcome, Stage, StageContext, StageRegistry, SubjectKind};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Nothing {}

/// What every stage gives: something for each kind of expression.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Given {
    out: String,
    visit: u64,
    flag: bool,
    until: u64,
    list: Vec<u64>,
}

/// What a step or an item gives when it takes this. All but `visit` and `until` follow from what it takes.
pub(super) fn given(
    plan: &StepPlan,
    name: &StepName,
    takes: &std::collections::BTreeMap<String, Value>,
    visit: u32,
    ends_at: u64,
) -> Value {
    let mut hash = Sha256::new().chain_update(name.as_str());
    for (field, value) in takes.iter().filter(|(field, _)| !field.starts_with("visit")) {
        hash = hash.chain_update(field).chain_update(value.to_string());
    }
    let hash = hash.finalize();
    json!({
        "out": hex::encode(&hash[..8]),
        "visit": visit,
        "flag": plan.flag || hash[8] & 3 == 0,
        "until": ends_at + u64::from(plan.lasts),
        "list": (0..u64::from(plan.list) + u64::from(hash[9] & 1)).collect::<Vec<_>>(),
    })
}

macro_rules! pretend {
    ($name:ident, $text:literal, $cpu:literal, $memory:literal) => {
        struct $name;
        impl Stage for $name {
            const NAME: &'static str = $text;
            const VERSION: u32 = 1;
            const SOURCE: &'static str = "//! Pretends.";
            type Input = Nothing;
            type Output = Given;
            fn costs(&self, _: &Value) -> Need {
                Need {
                    cpu: $cpu,
                    memory: $memory,
                    ..Need::default()
                }
            }
            async fn run(&self, _: &StageContext, _: Nothing) -> Result<Outcome<Given>, Failure> {
                Err(Failure::permanent("pretended", "the simulator reports"))
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
    let registry = StageRegistry::default().with_subject(kind);
    let registry = registry.with_type::<u64>().with_type::<Vec<u64>>();
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

/// The parameters of the `n`-th run; `list` has a default.
pub(super) fn params(n: usize) -> Value {
    json!({ "id": n })
}
