//! Why a run's steps do not run: every condition that is not met, with its numbers and since when.

use serde::{Deserialize, Serialize};

use super::admission::{Ask, Obstacle, Turn};
use super::served::Collector;
use super::*;
use crate::clock::rfc3339;
use crate::resource::Kind;

/// One thing that stands between a step and its start, or its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// A stable slug for programs, for example `upstream`, `memory` or `approval`.
    pub kind: String,
    /// The condition in one sentence.
    pub text: String,
    /// Since when it is so, milliseconds since 1970.
    pub since: u64,
    /// The numbers behind the sentence, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
}

impl Condition {
    fn new(kind: &str, since: u64, text: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            text: text.into(),
            since,
            numbers: BTreeMap::new(),
        }
    }

    fn with(mut self, name: &str, number: u64) -> Self {
        self.numbers.insert(name.to_owned(), number);
        self
    }
}

/// Why one step or item is not through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The step or item.
    pub step: StepName,
    /// Where it stands.
    pub status: StepStatus,
    /// What is not met; never empty for a step that is neither running nor through.
    pub conditions: Vec<Condition>,
}

impl Core {
    /// Why the steps of an open run are not through, needs first; items after the step they belong to.
    pub fn explain(&self, run: &RunId, now: Now) -> Vec<Explanation> {
        let Some(live) = self.runs.get(run) else {
            return Vec::new();
        };
        let state = &live.state;
        let mut all = Vec::new();
        for (ix, _) in state.graph.steps() {
            all.extend(self.explain_step(live, ix, now));
            let open = state.items(ix).iter().copied();
            // Items that were not let go wait for the others, which the step itself says.
            let open = open.filter(|item| state.step(*item).status != StepStatus::Pending);
            all.extend(open.filter_map(|item| self.explain_step(live, item, now)));
        }
        all
    }

    fn explain_step(&self, live: &Live, ix: StepIx, now: Now) -> Option<Explanation> {
        let state = &live.state;
        let step = state.step(ix);
        let mut conditions = match step.status {
            StepStatus::Succeeded | StepStatus::Skipped | StepStatus::Cancelled => return None,
            StepStatus::Pending => vec![upstream(state, ix)],
            StepStatus::Running => self.under_way(state, ix, now),
            StepStatus::Waiting => self.waiting(state, ix, now),
            StepStatus::Failed => vec![self.failed(state, ix)],
            StepStatus::Ready => Vec::new(),
        };
        if matches!(step.status, StepStatus::Ready | StepStatus::Failed) {
            let own: Vec<String> = conditions.iter().map(|one| one.kind.clone()).collect();
            // What the step itself says need not be said again by its run.
            let of_run = self.of_run(state).into_iter();
            conditions.extend(of_run.filter(|one| !own.contains(&one.kind)));
        }
        if step.status == StepStatus::Ready {
            conditions.extend(self.launching(state, ix));
            if let Some(collector) = self.collector(&state.id, ix) {
                conditions.push(collecting(collector, step.since, now));
            } else if let Some(stage) = &state.spec(ix).stage {
                let hold = self.held_back(state, &stage.name);
                conditions.extend(hold.map(|(kind, hold)| held_back(kind, state, &stage.name, hold)));
                let ask = self.ask(state, ix, stage);
                conditions.extend(self.no_place(&ask, step.since, now));
                conditions.extend(self.queue(live, ix, &stage.name));
            }
            if conditions.is_empty() {
                conditions.push(Condition::new("starting", step.since, "nothing; it starts now"));
            }
        }
        if step.status == StepStatus::Ready {
            conditions.extend(in_time(live, ix, now));
        }
        if let Some(until) = step.valid_until {
            let left = until.saturating_sub(now.wall_ms);
            let text = format!("its success is worth something until {} only", rfc3339(until));
            conditions.push(Condition::new("valid_until", step.since, text).with("left_ms", left));
        }
        Some(Explanation {
            step: state.name(ix),
            status: step.status,
            conditions,
        })
    }

    /// Why a step failed; what must first be put in place is a kind of its own.
    fn failed(&self, state: &RunState, ix: StepIx) -> Condition {
        let step = state.step(ix);
        let most = state.spec(ix).retry.max_attempts;
        let lacks = |failure: &&Failure| self.prerequisite(state, ix, failure).is_some();
        let condition = match step.failure.as_ref().filter(lacks) {
            Some(failure) => Condition::new(&failure.code, step.since, failure.message.clone()),
            None => {
                let text = step.failure.as_ref().map(ToString::to_string);
                Condition::new("failed", step.since, text.unwrap_or_default())
            }
        };
        condition
            .with("charged", step.charged.into())
            .with("max_attempts", most.into())
    }

    /// What a step waits for, and what must be put in place before its next attempt can do better.
    fn waiting(&self, state: &RunState, ix: StepIx, now: Now) -> Vec<Condition> {
        let step = state.step(ix);
        let backs_off = matches!(step.wake, Some((_, WaitReason::Backoff)));
        let failure = step.failure.as_ref().filter(|_| backs_off);
        let lacks = failure.is_some_and(|failure| self.prerequisite(state, ix, failure).is_some());
        let lacks = lacks.then(|| self.failed(state, ix));
        lacks.into_iter().chain(waiting(state, ix, now)).collect()
    }

    /// The code of a failure with which a step says that something must first be put in place.
    fn prerequisite<'a>(&self, state: &RunState, ix: StepIx, failure: &'a Failure) -> Option<&'a str> {
        let stage = state.spec(ix).stage.as_ref()?;
        let known = self.registry.info(stage.name.as_str())?.prerequisites;
        known.contains(&failure.code.as_ref()).then_some(&*failure.code)
    }

    /// What holds up every step of the run that could start.
    fn of_run(&self, state: &RunState) -> Vec<Condition> {
        let mut conditions = Vec::new();
        if state.status == RunStatus::Cancelling {
            let text = "the run is being cancelled";
            conditions.push(Condition::new("cancelling", state.updated_at, text));
        }
        if let Some(pause) = &state.pause {
            let kind = match pause {
                PauseReason::Operator(_) => "paused_by_person",
                PauseReason::Failed { step, failure } | PauseReason::RetriesUsedUp { step, failure, .. } => {
                    let of_step = state.find(step);
                    let otherwise = match pause {
                        PauseReason::Failed { .. } => "paused_by_failure",
                        _ => "retries_used_up",
                    };
                    of_step
                        .and_then(|ix| self.prerequisite(state, ix, failure))
                        .unwrap_or(otherwise)
                }
                PauseReason::RewindsUsedUp { .. } => "rewinds_used_up",
                PauseReason::Expression { .. } => "expression",
            };
            conditions.push(Condition::new(kind, state.updated_at, pause.text()));
        }
        for gone in state.discarding.values() {
            let text = format!(
                "attempt {} of `{}` was given up but cannot be interrupted; its end is awaited",
                gone.key.attempt, gone.key.step
            );
            conditions.push(Condition::new("given_up", state.updated_at, text));
        }
        conditions
    }

    /// Why no executor takes the step; nothing if one would.
    fn no_place(&self, ask: &Ask, since: u64, now: Now) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for place in self.places.iter().filter(|place| place.spec.accepts(ask.stage())) {
            let obstacles = self.obstacles(place, ask, now);
            if obstacles.is_empty() {
                // This one has room; what the others lack does not matter.
                return Vec::new();
            }
            let told = obstacles.into_iter();
            conditions.extend(told.map(|one| self.told(place, ask, one, since, now)));
        }
        if conditions.is_empty() {
            let names: Vec<&str> = self.places.iter().map(|place| place.spec.name.as_str()).collect();
            let text = format!(
                "no executor runs stage `{}`; there are: {}",
                ask.stage(),
                names.join(", ")
            );
            conditions.push(Condition::new("no_executor", since, text));
        }
        conditions
    }

    fn told(&self, place: &Place, ask: &Ask, obstacle: Obstacle, since: u64, now: Now) -> Condition {
        let (spec, name) = (&place.spec, &place.spec.name);
        match obstacle {
            Obstacle::TooLarge(lack) => {
                let (needed, capacity) = (amount(lack.what, lack.needed), amount(lack.what, lack.capacity));
                let text = format!("executor `{name}` can never hold it: it needs {needed} of {capacity}");
                Condition::new("too_large", since, text)
                    .with("needed", lack.needed)
                    .with("capacity", lack.capacity)
            }
            Obstacle::Version { has } => {
                let wanted = ask.version();
                let runs = has.map_or("does not know".to_owned(), |version| {
                    format!("runs version {version} of")
                });
                let text = format!(
                    "executor `{name}` {runs} stage `{}`; the run is pinned to version {wanted}",
                    ask.stage()
                );
                Condition::new("executor_version", since, text)
                    .with("needed", wanted.into())
                    .with("has", has.unwrap_or_default().into())
            }
            Obstacle::Store(store) => {
                let text =
                    format!("executor `{name}` does not reach the store `{store}`, where its input is");
                Condition::new("store", since, text)
            }
            Obstacle::Elsewhere(machine) => {
                let machine = if machine.is_empty() {
                    "the daemon's machine"
                } else {
                    machine.as_str()
                };
                let text = format!(
                    "executor `{name}` is not on {machine}, where the cache directory of {} is",
                    ask.stage()
                );
                Condition::new("elsewhere", since, text)
            }
            Obstacle::Suspect(heard) => suspect(&spec.machine.name, heard, since, now),
            Obstacle::Drained(kind, hold) => {
                let (kind, which) = match kind {
                    HoldKind::Worker => ("worker", &spec.machine.name),
                    _ => ("executor", name),
                };
                let text = format!(
                    "{kind} `{which}` is drained by {}: sealflow {kind} resume {which}",
                    hold.by.text()
                );
                Condition::new("drained", hold.since, text).with("running", place.attempts as u64)
            }
            Obstacle::Suspended(until) => {
                let left = until - now.mono_ms;
                let text = format!(
                    "executor `{name}` is left alone for {} s after a critical failure",
                    left.div_ceil(1000)
                );
                Condition::new("suspended", since, text).with("left_ms", left)
            }
            Obstacle::Slots => {
                let text = format!(
                    "executor `{name}` runs {} attempts of at most {}",
                    place.attempts, spec.slots
                );
                Condition::new("slots", since, text)
                    .with("running", place.attempts as u64)
                    .with("slots", spec.slots as u64)
            }
            Obstacle::Lack(lack) => {
                let text = format!(
                    "executor `{name}`: needs {}, free are {} of {}{}",
                    amount(lack.what, lack.needed),
                    amount(lack.what, lack.free),
                    amount(lack.what, lack.capacity),
                    self.holders(place)
                );
                Condition::new(lack.what.as_str(), since, text)
                    .with("needed", lack.needed)
                    .with("free", lack.free)
                    .with("capacity", lack.capacity)
            }
            Obstacle::Lock(lock) => {
                let text = format!(
                    "executor `{name}`: the lock `{lock}` is held{}",
                    self.holders(place)
                );
                Condition::new("lock", since, text)
            }
            Obstacle::Stagger(until) => {
                let left = until - now.mono_ms;
                let text = format!(
                    "executor `{name}` starts one attempt every {} s; the next one in {} s",
                    spec.stagger_ms.div_ceil(1000),
                    left.div_ceil(1000)
                );
                Condition::new("stagger", since, text)
                    .with("left_ms", left)
                    .with("stagger_ms", spec.stagger_ms)
            }
        }
    }

    /// Which attempts are on the machine of an executor: the first few.
    fn holders(&self, place: &Place) -> String {
        const NAMED: usize = 3;
        let on_host = |executor: &str| {
            let mut places = self.places.iter();
            places.any(|one| one.spec.name == executor && one.host == place.host)
        };
        let current = self.runs.values().flat_map(|live| {
            let state = &live.state;
            state.frontier().filter_map(|ix| {
                let current = state.step(ix).current.as_ref()?;
                on_host(&current.executor).then(|| format!("{} of {}", state.name(ix), state.id))
            })
        });
        let mut named: Vec<String> = current.take(NAMED + 1).collect();
        if named.is_empty() {
            return String::new();
        }
        if named.len() > NAMED {
            named.truncate(NAMED);
            named.push("…".to_owned());
        }
        format!("; held by {}", named.join(", "))
    }

    /// What a step that runs is busy with, beside an attempt of its own.
    fn under_way(&self, state: &RunState, ix: StepIx, now: Now) -> Vec<Condition> {
        let step = state.step(ix);
        if let Some(items) = &step.items {
            let text = format!("{} of {} items are not through", items.left, items.total);
            let condition = Condition::new("items", step.since, text).with("left", items.left.into());
            return vec![condition.with("total", items.total.into())];
        }
        let executor = step.current.as_ref().map(|current| current.executor.as_str());
        let silent = executor.and_then(|executor| {
            let place = self.places.iter().find(|place| place.spec.name == executor)?;
            let host = &self.hosts[place.host];
            Some(suspect(&host.spec.name, host.contact.suspect()?, step.since, now))
        });
        let Some(other) = executor.and_then(run_of) else {
            return silent.into_iter().collect();
        };
        let stands = match (self.runs.get(&other), self.damaged.get(&other)) {
            (Some(live), _) => match &live.state.pause {
                Some(reason) => format!("paused: {}", reason.text()),
                None => live.state.status.as_str().to_owned(),
            },
            (None, Some(why)) => format!("set aside: {why}"),
            (None, None) => "at its end".to_owned(),
        };
        let members = self
            .runs
            .get(&other)
            .map_or(0, |live| live.state.members.len() as u64);
        if members > 0 {
            let text = format!("made with others, {members} in all, by {other}, which is {stands}");
            vec![Condition::new("in_batch", step.since, text).with("members", members)]
        } else {
            let text = format!("done by {other}, which is {stands}");
            vec![Condition::new("child", step.since, text)]
        }
    }

    /// Why the run that does a ready step's work does not start.
    fn launching(&self, state: &RunState, ix: StepIx) -> Option<Condition> {
        let since = state.step(ix).since;
        let child = state.graph.child(state.spec(ix))?;
        for name in [state.graph.data().name.as_str(), child.data().name.as_str()] {
            if let Some(hold) = self.site.hold(HoldKind::Workflow, name) {
                let text = format!(
                    "workflow `{name}` is paused by {}: sealflow workflow resume {name}",
                    hold.by.text()
                );
                return Some(Condition::new("held", hold.since, text));
            }
        }
        let (subject, _) = self.queued.iter().find(|(_, runs)| runs.contains(&state.id))?;
        let holders = self
            .claims
            .get(subject)
            .into_iter()
            .flat_map(|holders| holders.keys());
        let holders: Vec<&str> = holders
            .map(RunId::as_str)
            .filter(|run| *run != state.id.as_str())
            .collect();
        let text = format!("{subject} is in use by {}", holders.join(", "));
        Some(Condition::new("subject", since, text))
    }

    /// How many of its kind come first.
    fn queue(&self, live: &Live, ix: StepIx, stage: &StageName) -> Option<Condition> {
        let turn = Turn::of(live, ix);
        let ahead = self
            .ready
            .get(stage)
            .map_or(0, |queue| queue.range(..turn).count());
        let text = format!("{ahead} ahead of it for the same stage");
        let condition = Condition::new("queue", live.state.step(ix).since, text);
        (ahead > 0).then(|| condition.with("ahead", ahead as u64))
    }
}

/// When it must start for what expires to be in time.
fn in_time(live: &Live, ix: StepIx, now: Now) -> Option<Condition> {
    let start = live.latest.get(&ix)?.start.as_ref()?;
    let (left, late) = (
        start.by.saturating_sub(now.wall_ms),
        now.wall_ms.saturating_sub(start.by),
    );
    let expected = start.expected.div_ceil(1000);
    let when = if late > 0 {
        format!("should have started {} s ago", late.div_ceil(1000))
    } else {
        format!("must start within {} s", left.div_ceil(1000))
    };
    let text = format!(
        "{when} for {} to be in time: {expected} s of work are expected",
        start.sake
    );
    let condition = Condition::new("slack", live.state.step(ix).since, text).with("left_ms", left);
    Some(
        condition
            .with("late_ms", late)
            .with("expected_ms", start.expected),
    )
}

/// How many of a batch are there.
fn collecting(collector: &Collector, since: u64, now: Now) -> Condition {
    let (there, max) = (collector.members.len() as u64, collector.max());
    let left = collector.due.saturating_sub(now.wall_ms);
    let text = format!(
        "waits for others to be made with it: {there} of at most {max} are there; it goes without more in {} s",
        left.div_ceil(1000)
    );
    Condition::new("batch", since, text)
        .with("collected", there)
        .with("max", max.into())
        .with("left_ms", left)
}

fn held_back(kind: HoldKind, state: &RunState, stage: &StageName, hold: &Hold) -> Condition {
    let (what, name) = match kind {
        HoldKind::Stage => ("stage", stage.as_str()),
        HoldKind::Workflow | HoldKind::Executor | HoldKind::Worker => {
            ("workflow", state.graph.data().name.as_str())
        }
    };
    let text = format!(
        "{what} `{name}` is paused by {}: sealflow {what} resume {name}",
        hold.by.text()
    );
    Condition::new("held", hold.since, text)
}

/// An amount of a resource with its unit.
fn amount(what: Kind, number: u64) -> String {
    match what {
        Kind::Cpu => format!("{number} cores"),
        Kind::Gpu => format!("{number} GPUs"),
        Kind::Memory | Kind::Disk => format!("{} MiB of {}", number >> 20, what.as_str()),
    }
}

fn upstream(state: &RunState, ix: StepIx) -> Condition {
    if let Some((step, _)) = state.step(ix).item {
        return Condition::new(
            "items",
            state.step(ix).since,
            format!("other items of `{}` come first", state.graph.step(step).name),
        );
    }
    let needs = &state.graph.step(ix).needs;
    let unmet: Vec<StepIx> = needs
        .iter()
        .copied()
        .filter(|need| !state.step(*need).is_through())
        .collect();
    let named = unmet.iter().map(|need| {
        let status = state.step(*need).status.as_str();
        format!("`{}` ({status})", state.graph.step(*need).name)
    });
    let text = format!("needs {}", named.collect::<Vec<_>>().join(", "));
    let condition = Condition::new("upstream", state.step(ix).since, text).with("needs", needs.len() as u64);
    condition.with("met", (needs.len() - unmet.len()) as u64)
}

fn waiting(state: &RunState, ix: StepIx, now: Now) -> Vec<Condition> {
    let step = state.step(ix);
    let Some((wake, reason)) = &step.wake else {
        return Vec::new();
    };
    let condition = match wake {
        Wake::At(at) => {
            let left = at.saturating_sub(now.wall_ms);
            let (kind, what) = match reason {
                WaitReason::Backoff => ("backoff", "the next attempt is due"),
                WaitReason::Declared => ("time", "the workflow says to wait until"),
                WaitReason::Parked => ("time", "the stage waits until"),
            };
            let text = format!("{what} {}, in {} s", rfc3339(*at), left.div_ceil(1000));
            let condition = Condition::new(kind, step.since, text).with("left_ms", left);
            if *reason == WaitReason::Backoff {
                let most = state.spec(ix).retry.max_attempts;
                condition
                    .with("charged", step.charged.into())
                    .with("max_attempts", most.into())
            } else {
                condition
            }
        }
        Wake::Signal(name) => {
            let text = format!(
                "waits for the signal `{name}`: sealflow run signal {} {name}",
                state.id
            );
            Condition::new("signal", step.since, text)
        }
        Wake::Approval(what) => {
            let text = format!(
                "a person must approve ({what}): sealflow run approve {} {}",
                state.id,
                state.name(ix)
            );
            Condition::new("approval", step.since, text)
        }
    };
    vec![condition]
}

/// A machine has not been heard of.
fn suspect(machine: &str, heard: u64, since: u64, now: Now) -> Condition {
    let silent = now.mono_ms.saturating_sub(heard);
    let text = format!("worker `{machine}` has not been heard of for {} s", silent / 1000);
    Condition::new("suspect_worker", since, text).with("silent_ms", silent)
}
