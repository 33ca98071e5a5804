//! Work that does nothing: what is left is the engine.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::id::Subject;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext, StageRegistry, SubjectKind};
use sealflow_engine::workflow::{Graph, load};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::observed::Place;

/// When attempts began.
#[derive(Clone, Default)]
pub(super) struct Starts(Arc<Mutex<Vec<(Place, Instant)>>>);

impl Starts {
    pub(super) fn add(&self, place: Place) {
        let now = Instant::now();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((place, now));
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// When the first attempt began.
    pub(super) fn first(&self) -> Option<Instant> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(_, at)| *at).min()
    }

    pub(super) fn all(&self) -> Vec<(Place, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The stage.
pub(super) struct Noop(Starts, Duration);

#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct Nothing {}

impl Stage for Noop {
    const NAME: &'static str = "noop";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = "//! Does nothing.";
    const CLAIM: Claim = Claim::None;
    type Input = Nothing;
    type Output = Nothing;

    fn costs(&self, _: &Value) -> Need {
        Need::default()
    }

    async fn run(&self, cx: &StageContext, _: Nothing) -> Result<Outcome<Nothing>, Failure> {
        self.0.add((cx.key.run.clone(), cx.key.step.to_string()));
        if !self.1.is_zero() {
            tokio::time::sleep(self.1).await;
        }
        Ok(Outcome::Done(Nothing {}))
    }
}

/// What a step with items has them of.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "things")]
struct Things(Vec<u64>);

/// The stage, whose attempts take so long, and something for runs to be about.
pub(super) fn registry(starts: &Starts, each: Duration) -> StageRegistry {
    let subject = |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
    let kind = SubjectKind {
        name: "thing",
        params: &[("id", "uint64")],
        subject,
    };
    let registry = StageRegistry::default()
        .with_subject(kind)
        .with_type::<u64>()
        .with_type::<Things>();
    registry.with(Noop(starts.clone(), each))
}

/// A chain of so many steps.
pub(super) fn chain(steps: usize, registry: &StageRegistry) -> anyhow::Result<Arc<Graph>> {
    let mut text =
        "[workflow]\nname = \"chain\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n".to_owned();
    for at in 0..steps {
        write!(text, "[steps.s{at}]\nstage = \"noop\"\n")?;
        if let Some(before) = at.checked_sub(1) {
            writeln!(text, "needs = [\"s{before}\"]")?;
        }
    }
    loaded(&text, registry)
}

/// A chain of so many steps, each done for every one of the things.
pub(super) fn fan(steps: usize, parallel: usize, registry: &StageRegistry) -> anyhow::Result<Arc<Graph>> {
    let mut text =
        "[workflow]\nname = \"fan\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\nthings = \"things\"\n"
            .to_owned();
    for at in 0..steps {
        let needs = at
            .checked_sub(1)
            .map_or_else(String::new, |before| format!("\"s{before}\""));
        write!(
            text,
            "[steps.s{at}]\nstage = \"noop\"\nneeds = [{needs}]\nforeach = \"params.things\"\nmax_parallel = {parallel}\n"
        )?;
    }
    loaded(&text, registry)
}

/// A step, then a wait for a signal that may never come, then another step.
pub(super) fn parking(registry: &StageRegistry) -> anyhow::Result<Arc<Graph>> {
    const TEXT: &str = "[workflow]\nname = \"parking\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n\
        [steps.s0]\nstage = \"noop\"\n\
        [steps.lights]\nneeds = [\"s0\"]\nwait = { signal = \"go\" }\n\
        [steps.s1]\nstage = \"noop\"\nneeds = [\"lights\"]\n";
    loaded(TEXT, registry)
}

fn loaded(text: &str, registry: &StageRegistry) -> anyhow::Result<Arc<Graph>> {
    let (graph, complaints) = load(text, registry);
    graph
        .map(Arc::new)
        .ok_or_else(|| anyhow::anyhow!("{complaints:?}"))
}

/// The step before a step.
pub(super) fn before(step: &str) -> Option<String> {
    let at: usize = step.strip_prefix('s')?.parse().ok()?;
    Some(format!("s{}", at.checked_sub(1)?))
}
