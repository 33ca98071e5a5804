//! A rehearsal: the real core runs a workflow with pretended work on a simulated clock, in a moment.
//! Steps take the time and give the failures that they are told to; people say yes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Now;
use crate::core::{Core, Dispatch, Effect, Refused, StartRun, Transition, Verb, run_of};
use crate::event::{By, Event};
use crate::executor::{ExecutorSpec, News, Report};
use crate::failure::{Failure, FailureClass};
use crate::id::{RunId, StepName};
use crate::journal::Append;
use crate::run::{InputValue, RunState, RunStatus, StepStatus};
use crate::stage::{Outcome, StageRegistry, Verdict, Wake};
use crate::workflow::{Graph, Source};

/// What is pretended.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// How long an attempt of a step takes, in milliseconds; a minute unless it is said.
    pub takes: BTreeMap<String, u64>,
    /// Failures of a step's first attempts, by step.
    pub fails: BTreeMap<String, Vec<(FailureClass, String)>>,
    /// How many items pretended lists have; three unless it is said.
    pub items: Option<usize>,
    /// Outputs of steps, where pretended ones will not do.
    pub gives: BTreeMap<String, Value>,
}

/// How long an attempt takes unless the script says so.
const TAKES_MS: u64 = 60_000;
/// The most attempts that a rehearsal makes.
const MAX_ATTEMPTS: usize = 100_000;

/// What happened to a step or an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rehearsed {
    /// The step or item.
    pub step: StepName,
    /// Where it stands in the end.
    pub status: StepStatus,
    /// When its first attempt began, in milliseconds since the start.
    pub began_ms: Option<u64>,
    /// When it last ended.
    pub ended_ms: Option<u64>,
    /// Tries.
    pub attempts: u32,
    /// Passages; a rewind starts another.
    pub visits: u32,
    /// What else is worth knowing, in order.
    pub notes: Vec<String>,
}

/// How a rehearsal went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// How the run ended or where it stopped.
    pub status: RunStatus,
    /// Why it stopped, if it did.
    pub reason: Option<String>,
    /// Simulated milliseconds from its start to its end.
    pub took_ms: u64,
    /// Its steps, each with its items after it.
    pub steps: Vec<Rehearsed>,
}

struct Stage {
    core: Core,
    run: RunId,
    script: Script,
    registry: Arc<StageRegistry>,
    now_ms: u64,
    /// Attempts under way, by when they end.
    under_way: BTreeMap<(u64, u64), Dispatch>,
    began: u64,
    failed: BTreeMap<String, usize>,
    state: Option<RunState>,
    /// Runs that do the work of its steps.
    others: BTreeMap<RunId, RunState>,
    graph: Arc<Graph>,
    seen: BTreeMap<StepName, Seen>,
}

#[derive(Default)]
struct Seen {
    began_ms: Option<u64>,
    ended_ms: Option<u64>,
    notes: Vec<String>,
}

/// Rehearses a workflow.
///
/// # Errors
/// Parameters that do not fit.
pub fn rehearse(
    registry: &Arc<StageRegistry>,
    graph: &Arc<Graph>,
    executors: Vec<ExecutorSpec>,
    params: Value,
    script: Script,
) -> Result<Rehearsal, Refused> {
    let mut core = Core::new(registry.clone(), executors, [0; 32]).keeping_all();
    let artifacts = owned(graph);
    let start = StartRun {
        graph: graph.clone(),
        source: String::new(),
        params,
        key: None,
        by: By::default(),
        artifacts,
        priority: None,
        fork: None,
    };
    let run = core.start(start, now(0))?;
    let mut stage = Stage {
        core,
        run,
        script,
        registry: registry.clone(),
        now_ms: 0,
        under_way: BTreeMap::new(),
        began: 0,
        failed: BTreeMap::new(),
        state: None,
        others: BTreeMap::new(),
        graph: graph.clone(),
        seen: BTreeMap::new(),
    };
    stage.play();
    Ok(stage.told())
}

/// What the subject of a workflow is pretended to own.
fn owned(graph: &Graph) -> BTreeMap<String, Value> {
    let mut artifacts = BTreeMap::new();
    for (_, step) in graph.steps() {
        for source in step.inputs.values() {
            if let Source::Subject { kind, .. } = source {
                artifacts.insert(kind.clone(), pretend("artifact", kind, 0));
            }
        }
    }
    artifacts
}

/// Values that are all at hand: nothing is stored in a rehearsal.
fn at_hand(values: BTreeMap<String, InputValue>) -> Result<Value, String> {
    let values = InputValue::Fields(values).at_hand();
    let values = values.ok_or_else(|| "a value is not at hand".to_owned())?;
    let Value::Object(mut fields) = values else {
        return Ok(values);
    };
    fields.retain(|_, value| !value.is_null());
    Ok(Value::Object(fields))
}

fn now(ms: u64) -> Now {
    Now {
        wall_ms: ms,
        mono_ms: ms,
    }
}

impl Stage {
    fn play(&mut self) {
        loop {
            self.settle();
            let open = self
                .state
                .as_ref()
                .is_some_and(|state| state.status == RunStatus::Running);
            if !open
                || self.under_way.len() + self.failed.len() > MAX_ATTEMPTS
                || self.began > MAX_ATTEMPTS as u64
            {
                return;
            }
            if self.agree() {
                continue;
            }
            let (wall, limit) = self.core.next_due();
            let ends = self.under_way.keys().next().map(|(at, _)| *at);
            let Some(next) = [wall, limit, ends].into_iter().flatten().min() else {
                return;
            };
            self.now_ms = self.now_ms.max(next);
            if ends == Some(next) {
                self.end_one();
            } else {
                self.core.tick(now(self.now_ms));
            }
        }
    }

    /// Commits at once, and carries out, and what follows from that too.
    fn settle(&mut self) {
        loop {
            let transitions = self.core.settle(now(self.now_ms));
            if transitions.is_empty() {
                return;
            }
            self.carry_out(transitions);
        }
    }

    fn carry_out(&mut self, transitions: Vec<Transition>) {
        for transition in transitions {
            let other = transition
                .append
                .as_ref()
                .filter(|append| append.row.run != self.run);
            if let Some(append) = other {
                self.other(append);
            }
            if let Some(append) = transition.append.filter(|append| append.row.run == self.run) {
                for event in &append.entry.events {
                    self.note(event);
                }
                let state = match self.state.take() {
                    None => RunState::start(self.run.clone(), self.graph.clone(), &append.entry).ok(),
                    Some(mut state) => state.apply(&append.entry).is_ok().then_some(state),
                };
                self.state = state;
            }
            for effect in transition.effects {
                match effect {
                    Effect::Dispatch(dispatch) => self.begin(*dispatch),
                    // Triggers are not switched on here, and all runs are kept.
                    Effect::Fire(_) | Effect::Recall(_) => {}
                    Effect::Launch(launch) => {
                        let params = at_hand(launch.input.clone());
                        let owned = owned(&launch.graph);
                        self.core.launch(&launch, params, owned, now(self.now_ms));
                    }
                    Effect::Deliver(delivery) => {
                        self.core.end_told(&delivery.run);
                        let values = at_hand(delivery.result.clone().unwrap_or_default());
                        for report in delivery.reports(values) {
                            self.core.report(report, now(self.now_ms));
                        }
                    }
                    Effect::Stop { executor, key } if run_of(&executor).is_some() => {
                        self.core.stop_served(&executor, &key, now(self.now_ms));
                    }
                    Effect::Stop { key, .. } => {
                        let found = self.under_way.iter().find(|(_, one)| one.key == key);
                        if let Some(at) = found.map(|(at, _)| *at)
                            && let Some(stopped) = self.under_way.remove(&at)
                        {
                            let news = News::Lost("stopped".to_owned());
                            self.report(&stopped, news);
                        }
                    }
                    Effect::Attach { .. } => {}
                }
            }
        }
    }

    /// Follows a run that does the work of a step.
    fn other(&mut self, append: &Append) {
        let run = append.row.run.clone();
        let state = match (self.others.remove(&run), &append.graph) {
            (Some(mut state), _) => state.apply(&append.entry).is_ok().then_some(state),
            (None, Some((_, stored))) => Graph::new(stored.data.clone())
                .ok()
                .and_then(|graph| RunState::start(run.clone(), Arc::new(graph), &append.entry).ok()),
            (None, None) => None,
        };
        self.others.extend(state.map(|state| (run, state)));
    }

    fn begin(&mut self, dispatch: Dispatch) {
        self.began += 1;
        let (base, _) = dispatch.key.step.split();
        let takes = self.script.takes.get(dispatch.key.step.as_str());
        let takes = takes.or(self.script.takes.get(base)).copied().unwrap_or(TAKES_MS);
        self.core.begin(&dispatch.key, &dispatch.token, now(self.now_ms));
        self.under_way.insert((self.now_ms + takes, self.began), dispatch);
    }

    fn end_one(&mut self) {
        let Some((_, dispatch)) = self.under_way.pop_first() else {
            return;
        };
        let step = dispatch.key.step.as_str();
        let before = self.failed.get(step).copied().unwrap_or(0);
        let fails = self
            .script
            .fails
            .get(step)
            .or(self.script.fails.get(dispatch.key.step.split().0));
        let news = match fails.and_then(|fails| fails.get(before)) {
            Some((class, code)) => {
                self.failed.insert(step.to_owned(), before + 1);
                News::Ended(Err(Failure {
                    class: *class,
                    code: code.clone().into(),
                    message: "pretended".to_owned(),
                }))
            }
            None => News::Ended(Ok(Outcome::Done(self.output(&dispatch)))),
        };
        self.report(&dispatch, news);
    }

    fn report(&mut self, dispatch: &Dispatch, news: News) {
        let report = Report {
            key: dispatch.key.clone(),
            token: dispatch.token.clone(),
            news,
        };
        self.core.report(report, now(self.now_ms));
    }

    fn output(&self, dispatch: &Dispatch) -> Value {
        let step = dispatch.key.step.as_str();
        let given = self
            .script
            .gives
            .get(step)
            .or(self.script.gives.get(dispatch.key.step.split().0));
        let mut output = serde_json::Map::new();
        for field in self
            .registry
            .info(dispatch.stage.as_str())
            .map(|info| info.outputs.as_slice())
            .unwrap_or_default()
        {
            let value = pretend(&field.ty, &field.name, self.script.items.unwrap_or(3));
            output.insert(field.name.clone(), value);
        }
        if let Some(Value::Object(given)) = given {
            output.extend(given.clone());
        }
        if dispatch.many {
            let verdict = Verdict::Done(Value::Object(output));
            let members = match dispatch.input.get("members") {
                Some(InputValue::List(members)) => members.len(),
                _ => 0,
            };
            return json!({ "verdicts": vec![verdict; members] });
        }
        Value::Object(output)
    }

    /// Says yes to whoever asks, and sends the signals that are waited for.
    fn agree(&mut self) -> bool {
        let all = self.state.iter().chain(self.others.values());
        let asks: Vec<(RunId, StepName, Wake)> = all
            .flat_map(|state| {
                let asks = |ix| Some((state.id.clone(), state.name(ix), state.step(ix).wake.clone()?.0));
                state.frontier().filter_map(asks)
            })
            .collect();
        let mut agreed = false;
        for (run, step, wake) in asks {
            let (verb, note) = match wake {
                Wake::Approval(text) => (
                    Verb::Approve(step.clone()),
                    format!("a person must approve: {text}"),
                ),
                Wake::Signal(name) => {
                    let note = format!("waits for the signal `{name}`");
                    (Verb::Signal(name, Value::Null), note)
                }
                Wake::At(_) => continue,
            };
            if run == self.run {
                self.seen.entry(step).or_default().notes.push(note);
            }
            agreed |= self
                .core
                .operate(&run, verb, By::default(), now(self.now_ms))
                .is_ok();
        }
        agreed
    }

    fn note(&mut self, event: &Event) {
        let at = self.now_ms;
        let mut seen = |step: &StepName, note: Option<String>| {
            let seen = self.seen.entry(step.clone()).or_default();
            seen.notes.extend(note);
            seen.began_ms.get_or_insert(at);
            seen.ended_ms = Some(at);
        };
        match event {
            Event::AttemptStarted { step, .. }
            | Event::AttemptSucceeded { step, .. }
            | Event::StepPassed { step }
            | Event::StepApproved { step, .. } => seen(step, None),
            Event::AttemptFailed { step, failure, .. } => {
                seen(
                    step,
                    Some(format!("{} ({})", failure.code, failure.class.as_str())),
                );
            }
            Event::StepWaiting {
                step,
                wake: Wake::At(until),
                ..
            } => {
                let wait = until.saturating_sub(at);
                seen(step, Some(format!("waits {}", duration(wait))));
            }
            Event::StepJudged {
                step,
                skip: Some(why),
                ..
            } => seen(step, Some(why.clone())),
            Event::StepExpired { step } => seen(step, Some("its time has passed".to_owned())),
            Event::ItemsListed { step, count } => seen(step, Some(format!("{count} items"))),
            Event::Rewound { on, from, to } => seen(from, Some(format!("goes back to {to} on {on}"))),
            _ => {}
        }
    }

    fn told(self) -> Rehearsal {
        let Some(state) = self.state else {
            return Rehearsal {
                status: RunStatus::Cancelled,
                reason: Some("the rehearsal contradicts itself; this is a bug, please report it".to_owned()),
                took_ms: self.now_ms,
                steps: Vec::new(),
            };
        };
        let mut steps = Vec::new();
        let mut shown = BTreeSet::new();
        for (ix, _) in state.graph.steps() {
            for ix in std::iter::once(ix).chain(state.items(ix).iter().copied()) {
                let (step, name) = (state.step(ix), state.name(ix));
                let seen = self.seen.get(&name);
                shown.insert(name.clone());
                steps.push(Rehearsed {
                    step: name,
                    status: step.status,
                    began_ms: seen.and_then(|seen| seen.began_ms),
                    ended_ms: seen.and_then(|seen| seen.ended_ms),
                    attempts: step.attempts,
                    visits: step.visit,
                    notes: seen.map(|seen| seen.notes.clone()).unwrap_or_default(),
                });
            }
        }
        let reason = state.pause.as_ref().map(|pause| pause.text());
        let reason = reason.or_else(|| {
            let why = self.core.explain(&self.run, now(self.now_ms));
            let stuck = why
                .iter()
                .find_map(|why| why.conditions.first().map(|one| (why.step.clone(), one)));
            let stuck = stuck.map(|(step, one)| format!("`{step}`: {}", one.text));
            stuck.filter(|_| !state.status.is_final())
        });
        Rehearsal {
            status: state.status,
            reason,
            took_ms: self.now_ms,
            steps,
        }
    }
}

fn duration(ms: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(ms.div_ceil(1000))).to_string()
}

/// A value of a type, by the type's name.
fn pretend(ty: &str, name: &str, items: usize) -> Value {
    let ty = ty.trim_end_matches('?');
    match ty {
        "bool" => json!(true),
        "string" => json!("rehearsed"),
        "artifact" => json!({"store": "rehearsal", "key": name, "bytes": 0}),
        // A moment that has not come yet: the year 2100.
        _ if name.ends_with("_at") && (ty.starts_with("uint") || ty.starts_with("int")) => {
            json!(4_102_444_800_000_u64)
        }
        "integer" | "number" | "double" | "float" => json!(1),
        _ if ty.starts_with("uint") || ty.starts_with("int") => json!(1),
        _ => match ty.strip_prefix("list of ") {
            Some(inner) => (0..items).map(|_| pretend(inner, name, items)).collect(),
            None => json!("rehearsed"),
        },
    }
}
