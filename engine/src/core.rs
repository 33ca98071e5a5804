//! All runs together, without input or output: takes what came in and the time, gives back what to
//! append to the journal and what to do once that is durable. The dispatcher and the simulator both
//! drive it.

mod admission;
mod attempt;
mod effect;
mod eta;
mod explain;
mod machines;
mod migrate;
mod request;
mod resting;
mod served;
mod site;
mod slack;
#[cfg(test)]
mod tests;
mod trigger;

pub use admission::{ExecutorView, Holding};
pub use effect::{Dispatch, Effect, Transition};
pub use eta::{Eta, Expected};
pub use explain::{Condition, Explanation};
pub use request::{Fork, Migration, Refused, StartRun, Verb};
pub use served::{Delivery, Launch, run_of};
pub use trigger::Fire;

use admission::{Host, Place, Turn};
use attempt::Limit;
use machines::Contact;
use request::{check_artifacts, check_params};
use resting::Resting;
use served::{Collector, Together};
use slack::Latest;
use trigger::Armed;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clock::Now;
use crate::decide::{Command, decide};
use crate::durations::Durations;
use crate::event::{By, Entry, Event, Output, PauseReason, WaitReason};
use crate::executor::{ExecutorSpec, News, Report, machine_of};
use crate::failure::{Failure, FailureClass};
use crate::id::{AttemptKey, RunId, StageName, StepName, Subject, Token, WorkflowName};
use crate::journal::{Append, ArtifactRow, StoredGraph};
use crate::resource::Resources;
use crate::rows::{RunRow, run_row, step_row};
use crate::run::{Current, Discarding, InputValue, RunState, RunStatus, StepStatus};
use crate::site::{Hold, HoldKind, SiteEntry, SiteEvent, SiteState};
use crate::stage::{Claim, Outcome, Progress, StageRegistry, Wake};
use crate::workflow::{Graph, Source, StepIx, WaitSpec};

#[derive(Debug)]
struct Live {
    state: RunState,
    /// Wakes in the timer queue.
    armed: BTreeMap<StepIx, u64>,
    /// Attempts that were asked to stop.
    stopping: BTreeSet<AttemptKey>,
    /// How far running attempts are.
    progress: BTreeMap<StepIx, Progress>,
    /// When running attempts are given up (monotonic), as far as the core's queue has them.
    limits: BTreeMap<StepIx, Vec<(u64, Limit)>>,
    /// When ready steps must start to be in time.
    latest: BTreeMap<StepIx, Latest>,
    /// Events of the entry that is being made.
    events: Vec<Event>,
    effects: Vec<Effect>,
    graph_source: Option<Arc<StoredGraph>>,
    class: eta::RunClass,
}

/// An attempt of a run that was set aside: nobody wants its result, but until it ends it holds what it
/// holds.
#[derive(Debug)]
struct Orphan {
    token: Token,
    executor: String,
    held: Resources,
}

/// All open runs.
pub struct Core {
    registry: Arc<StageRegistry>,
    places: Vec<Place>,
    hosts: Vec<Host>,
    site: SiteState,
    /// Events of the site's entry that is being made.
    site_events: Vec<SiteEvent>,
    site_entries: Vec<SiteEntry>,
    /// Workflows whose triggers are switched on.
    armed: BTreeMap<WorkflowName, Armed>,
    runs: BTreeMap<RunId, Live>,
    resting: Resting,
    /// Runs that contradict themselves; they are left alone, and nobody else is disturbed.
    damaged: BTreeMap<RunId, String>,
    keys: HashMap<String, RunId>,
    claims: HashMap<Subject, BTreeMap<RunId, Claim>>,
    ready: BTreeMap<StageName, BTreeSet<Turn>>,
    /// When steps expire, by wall clock; checked again when it comes to it.
    expiries: BTreeSet<(u64, RunId, StepIx)>,
    /// Wakes by wall clock.
    timers: BTreeSet<(u64, RunId, StepIx)>,
    /// Attempt limits by monotonic clock.
    limits: BTreeSet<(u64, AttemptKey, Limit)>,
    orphans: BTreeMap<AttemptKey, Orphan>,
    /// When silent machines were last looked at, by monotonic clock.
    looked_at: u64,
    /// Steps whose own runs are being started, with their visits.
    launching: BTreeSet<(RunId, StepIx, u32)>,
    /// Runs with steps whose own runs wait for a subject.
    queued: HashMap<Subject, BTreeSet<RunId>>,
    /// Runs for attempts of others that have ended; that is not durable yet, or not told.
    untold: BTreeSet<RunId>,
    /// Steps that wait to be made together.
    collecting: BTreeMap<Together, Collector>,
    /// Effects that belong to no open run.
    stray: Vec<Effect>,
    durations: Durations,
    seed: [u8; 32],
    drawn: u64,
    dirty: BTreeSet<RunId>,
    /// The time of all events since the last settling: they become entries together.
    at: Option<u64>,
}

impl Core {
    /// No runs yet. `seed` must be unpredictable in production: fences are drawn from it.
    pub fn new(registry: Arc<StageRegistry>, executors: Vec<ExecutorSpec>, seed: [u8; 32]) -> Self {
        let mut hosts: Vec<Host> = Vec::new();
        let mut places = Vec::with_capacity(executors.len());
        for spec in executors {
            let known = hosts.iter().position(|host| host.spec.name == spec.machine.name);
            let host = known.unwrap_or_else(|| {
                let spec = spec.machine.clone();
                let held = Resources::default();
                let contact = Contact::Own;
                hosts.push(Host { spec, held, contact });
                hosts.len() - 1
            });
            places.push(Place::new(spec, host));
        }
        Self {
            registry,
            places,
            hosts,
            site: SiteState::default(),
            site_events: Vec::new(),
            site_entries: Vec::new(),
            armed: BTreeMap::new(),
            runs: BTreeMap::new(),
            resting: Resting::default(),
            damaged: BTreeMap::new(),
            keys: HashMap::new(),
            claims: HashMap::new(),
            ready: BTreeMap::new(),
            expiries: BTreeSet::new(),
            timers: BTreeSet::new(),
            limits: BTreeSet::new(),
            orphans: BTreeMap::new(),
            looked_at: 0,
            launching: BTreeSet::new(),
            queued: HashMap::new(),
            untold: BTreeSet::new(),
            collecting: BTreeMap::new(),
            stray: Vec::new(),
            durations: Durations::default(),
            seed,
            drawn: 0,
            dirty: BTreeSet::new(),
            at: None,
        }
    }

    fn draw<const N: usize>(&mut self) -> [u8; N] {
        self.drawn += 1;
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.drawn.to_le_bytes())
            .finalize();
        let mut bytes = [0; N];
        bytes.copy_from_slice(&digest[..N]);
        bytes
    }

    /// Takes up a run from its journal: the only way runs are taken up, after a start, a restart or a rest.
    /// Attempts that may still run get their full time limits again, because the clock that judged
    /// them is gone.
    pub fn restore(&mut self, state: RunState, now: Now) {
        let run = state.id.clone();
        self.resting.remove(&run);
        let mut effects = Vec::new();
        let mut running = Vec::new();
        for (ix, step) in state.steps() {
            if let (Some(current), Some(key)) = (&step.current, state.current_key(ix)) {
                self.expect_executor(&current.executor, now);
                self.occupy(&current.executor, current.held);
                let ago = now.wall_ms.saturating_sub(current.started_at);
                if let Some(place) = self.place(&current.executor) {
                    let left = place.spec.stagger_ms.saturating_sub(ago);
                    if left > 0 {
                        place.next_start = place.next_start.max(now.mono_ms + left);
                    }
                }
                running.push((ix, key.clone()));
                // Executors of other machines are asked when they are back.
                if machine_of(&current.executor).is_none() {
                    let (executor, token) = (current.executor.clone(), current.token.clone());
                    effects.push(Effect::Attach { executor, key, token });
                }
            }
        }
        for gone in state.discarding.values() {
            self.expect_executor(&gone.executor, now);
            self.occupy(&gone.executor, gone.held);
            if machine_of(&gone.executor).is_some() {
                continue;
            }
            let (executor, key, token) = (gone.executor.clone(), gone.key.clone(), gone.token.clone());
            effects.push(Effect::Attach {
                executor: executor.clone(),
                key: key.clone(),
                token,
            });
            // Whether it was asked to stop before the restart is not known.
            effects.push(Effect::Stop { executor, key });
        }
        self.admit_run(state, effects, None);
        for (ix, key) in running {
            self.limit(&run, ix, &key, now);
        }
    }

    /// Leaves a run aside that cannot be understood. Its subject stays claimed: nobody knows what was
    /// being done to it.
    pub fn set_aside(&mut self, row: &RunRow, why: String) {
        self.claim(&row.subject, &row.run, row.claim, row.status.is_final());
        if let Some(key) = &row.key {
            self.keys.insert(key.clone(), row.run.clone());
        }
        tracing::error!(run = %row.run, why, "run set aside");
        self.damaged.insert(row.run.clone(), why);
    }

    fn claim(&mut self, subject: &Subject, run: &RunId, claim: Claim, is_final: bool) {
        if claim != Claim::None && !is_final {
            self.claims
                .entry(subject.clone())
                .or_default()
                .insert(run.clone(), claim);
        }
    }

    fn admit_run(&mut self, state: RunState, effects: Vec<Effect>, graph_source: Option<Arc<StoredGraph>>) {
        let run = state.id.clone();
        if let Some(key) = &state.key {
            self.keys.insert(key.clone(), run.clone());
        }
        self.claim(
            &state.subject,
            &run,
            state.graph.data().claim,
            state.status.is_final(),
        );
        let live = Live {
            state,
            armed: BTreeMap::new(),
            stopping: BTreeSet::new(),
            progress: BTreeMap::new(),
            limits: BTreeMap::new(),
            latest: BTreeMap::new(),
            events: Vec::new(),
            effects,
            graph_source,
            class: eta::RunClass::default(),
        };
        self.runs.insert(run.clone(), live);
        self.dirty.insert(run);
    }

    /// Open runs.
    pub fn open(&self) -> usize {
        self.runs.len() + self.resting.len()
    }

    /// Runs that are set aside, and why.
    pub fn damaged(&self) -> &BTreeMap<RunId, String> {
        &self.damaged
    }

    /// Applies an event and keeps it for the entry that is being made.
    fn record(&mut self, run: &RunId, event: Event) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        let at = self.at.unwrap_or(live.state.updated_at);
        match live.state.apply_event(&event, at) {
            Ok(()) => {
                live.events.push(event);
                self.dirty.insert(run.clone());
            }
            Err(error) => self.damaged_now(run, error.to_string()),
        }
    }

    /// Sets a run aside that contradicts itself while it is open. What was recorded since its last
    /// entry is forgotten; its attempts are stopped, and hold what they hold until they end.
    fn damaged_now(&mut self, run: &RunId, why: String) {
        self.dirty.remove(run);
        let Some(live) = self.runs.remove(run) else { return };
        for (ix, at) in &live.armed {
            self.timers.remove(&(*at, run.clone(), *ix));
        }
        let unsent: BTreeSet<&AttemptKey> = live.effects.iter().filter_map(dispatched).collect();
        let state = &live.state;
        let current = state.steps().filter_map(|(ix, step)| {
            let current = step.current.as_ref()?;
            let Current {
                token,
                executor,
                held,
                ..
            } = current.clone();
            Some((
                state.current_key(ix)?,
                Orphan {
                    token,
                    executor,
                    held,
                },
            ))
        });
        let gone = state.discarding.values().cloned();
        let gone = gone.map(
            |Discarding {
                 key,
                 token,
                 executor,
                 held,
             }| {
                (
                    key,
                    Orphan {
                        token,
                        executor,
                        held,
                    },
                )
            },
        );
        for (key, orphan) in current.chain(gone) {
            if unsent.contains(&key) {
                self.vacate(&orphan.executor, orphan.held);
            } else {
                self.stray.push(Effect::Stop {
                    executor: orphan.executor.clone(),
                    key: key.clone(),
                });
                self.orphans.insert(key, orphan);
            }
        }
        self.set_aside(&run_row(state), why);
    }

    /// Decides about everything that changed since the last call, admits what can start, and gives
    /// the transitions: one for each run that changed. What it changes of the installation is in
    /// [`Core::take_site`].
    pub fn settle(&mut self, now: Now) -> Vec<Transition> {
        let at = *self.at.get_or_insert(now.wall_ms);
        self.fire_due(now);
        let changed: Vec<RunId> = self.dirty.iter().cloned().collect();
        for run in &changed {
            self.decide_run(run, now);
        }
        self.close_batches(now);
        let new: Vec<RunId> = self
            .dirty
            .iter()
            .filter(|run| !changed.contains(run))
            .cloned()
            .collect();
        for run in &new {
            self.decide_run(run, now);
        }
        self.admit(now);
        let mut transitions = Vec::new();
        for run in std::mem::take(&mut self.dirty) {
            if let Some(transition) = self.seal(&run, at) {
                transitions.push(transition);
            }
            self.let_rest(&run, now);
        }
        if !self.stray.is_empty() {
            transitions.push(Transition {
                append: None,
                effects: std::mem::take(&mut self.stray),
            });
        }
        self.seal_site(at);
        self.at = None;
        transitions
    }

    fn decide_run(&mut self, run: &RunId, now: Now) {
        // Every round answers a command with an event, and steps only move on; the bound is a guard
        // against a mistake in the program.
        for _ in 0..10_000 {
            let Some(live) = self.runs.get_mut(run) else {
                return;
            };
            let commands = decide(&live.state);
            let mut events = Vec::new();
            for command in commands {
                if let Some(event) = self.answer(run, &command, now) {
                    let regroups = matches!(
                        event,
                        Event::Rewound { .. }
                            | Event::StepExpired { .. }
                            | Event::StepJudged { .. }
                            | Event::ItemsListed { .. }
                            | Event::RunPaused { .. }
                            | Event::StepGivenUp { .. }
                            | Event::RunClosing
                            | Event::RunFinished { .. }
                    );
                    events.push(event);
                    if regroups {
                        break;
                    }
                }
            }
            if events.is_empty() {
                return;
            }
            for event in events {
                self.record(run, event);
            }
        }
        self.damaged_now(run, "its decisions do not come to an end".to_owned());
    }

    /// The event that answers a command at once; what cannot be answered at once is set in motion.
    fn answer(&mut self, run: &RunId, command: &Command, now: Now) -> Option<Event> {
        if let Command::Start(ix) = command {
            self.look_ahead(run, *ix);
        }
        let live = self.runs.get_mut(run)?;
        let name = |ix: &StepIx| live.state.name(*ix);
        match command {
            Command::Start(ix) => {
                let spec = live.state.spec(*ix);
                if spec.workflow.is_some() {
                    self.ask_launch(run, *ix);
                    return None;
                }
                if spec.batch.is_some() {
                    self.collect(run, *ix);
                    return None;
                }
                let stage = spec.stage.as_ref()?.name.clone();
                let turn = Turn::of(live, *ix);
                self.ready.entry(stage).or_default().insert(turn);
                None
            }
            Command::Run(_) => None,
            Command::Stop(ix) => {
                let key = live.state.current_key(*ix)?;
                let executor = live.state.step(*ix).current.as_ref()?.executor.clone();
                if live.stopping.insert(key.clone()) {
                    live.effects.push(Effect::Stop { executor, key });
                }
                None
            }
            Command::Wait(ix, spec) => {
                let wake = match spec {
                    WaitSpec::For(ms) => Wake::At(now.wall_ms.saturating_add(*ms)),
                    WaitSpec::Signal(signal) => Wake::Signal(signal.clone()),
                    WaitSpec::Approval(text) => Wake::Approval(text.clone()),
                };
                Some(Event::StepWaiting {
                    step: name(ix),
                    wake,
                    reason: WaitReason::Declared,
                    attempt: None,
                })
            }
            Command::Backoff(ix, failures) => {
                let retry = &live.state.spec(*ix).retry;
                let backoff = u64::try_from(retry.backoff(*failures).as_millis()).unwrap_or(u64::MAX);
                let jitter = jitter(run, *ix, *failures, backoff);
                let wake = Wake::At(now.wall_ms.saturating_add(backoff).saturating_add(jitter));
                Some(Event::StepWaiting {
                    step: name(ix),
                    wake,
                    reason: WaitReason::Backoff,
                    attempt: None,
                })
            }
            Command::Arm(ix, wake) => {
                if let Wake::At(at) = wake {
                    let before = live.armed.insert(*ix, *at);
                    if before != Some(*at) {
                        if let Some(before) = before {
                            self.timers.remove(&(before, run.clone(), *ix));
                        }
                        self.timers.insert((*at, run.clone(), *ix));
                    }
                }
                None
            }
            Command::Judge(ix, judgement) => Some(Event::StepJudged {
                step: name(ix),
                skip: judgement.skip.clone(),
                valid_until: judgement.valid_until,
            }),
            Command::List(ix, count) => Some(Event::ItemsListed {
                step: name(ix),
                count: *count,
            }),
            Command::Expire(ix, until) => {
                if *until > now.wall_ms {
                    self.expiries.insert((*until, run.clone(), *ix));
                    return None;
                }
                let event = Event::StepExpired { step: name(ix) };
                self.stop_one(run, *ix);
                Some(event)
            }
            Command::Wake(ix) => Some(Event::StepWoken { step: name(ix) }),
            Command::Pass(ix) => Some(Event::StepPassed { step: name(ix) }),
            Command::Rewind(at, failed) => {
                let edge = live.state.graph.data().rewinds.get(*at)?;
                let event = Event::Rewound {
                    on: edge.on.clone(),
                    from: name(failed),
                    to: name(&edge.to),
                };
                let to = edge.to;
                self.stop_from(run, to);
                Some(event)
            }
            Command::GiveUp(ix, reason) => {
                let event = Event::StepGivenUp {
                    step: name(ix),
                    reason: reason.clone(),
                };
                self.stop_one(run, *ix);
                Some(event)
            }
            Command::Close => Some(Event::RunClosing),
            Command::Pause(reason) => Some(Event::RunPaused {
                reason: reason.clone(),
            }),
            Command::Finish(end) => Some(Event::RunFinished { end: *end }),
        }
    }

    /// Stops the running attempts of a step and of all that need it: another visit begins.
    fn stop_from(&mut self, run: &RunId, first: StepIx) {
        let Some(live) = self.runs.get(run) else { return };
        let steps = live.state.lineage(first);
        self.stop_steps(run, steps);
    }

    /// Stops the running attempts of a step, or of its items.
    fn stop_one(&mut self, run: &RunId, ix: StepIx) {
        let Some(live) = self.runs.get(run) else { return };
        let steps = std::iter::once(ix).chain(live.state.items(ix).iter().copied());
        let steps = steps.collect();
        self.stop_steps(run, steps);
    }

    fn stop_steps(&mut self, run: &RunId, steps: Vec<StepIx>) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        let mut running = Vec::new();
        for ix in steps {
            if let (Some(key), Some(current)) = (live.state.current_key(ix), &live.state.step(ix).current) {
                let (executor, key_of_stop) = (current.executor.clone(), key.clone());
                live.effects.push(Effect::Stop {
                    executor,
                    key: key_of_stop,
                });
                live.progress.remove(&ix);
                running.push((ix, key));
            }
        }
        for (ix, key) in running {
            self.unlimit(ix, &key);
        }
    }

    /// Ends the entry that a run's changes make.
    fn seal(&mut self, run: &RunId, at: u64) -> Option<Transition> {
        let live = self.runs.get_mut(run)?;
        let mut effects = std::mem::take(&mut live.effects);
        let events = std::mem::take(&mut live.events);
        if events.is_empty() {
            return if effects.is_empty() {
                None
            } else {
                Some(Transition {
                    append: None,
                    effects,
                })
            };
        }
        let touched = live.state.take_touched();
        live.state.seal(at);
        let state = &live.state;
        let entry = Entry {
            seq: state.seq,
            at,
            events,
        };
        let steps = touched.into_iter().map(|ix| step_row(state, ix)).collect();
        let artifacts = accepted_artifacts(state, &entry);
        let delivery = served::delivery(state, &entry.events);
        if delivery.is_some() {
            self.untold.insert(run.clone());
        }
        effects.extend(delivery);
        let graph = live
            .graph_source
            .take()
            .map(|stored| (state.graph.hash().clone(), stored));
        let append = Append {
            entry,
            row: run_row(state),
            steps,
            artifacts,
            graph,
        };
        if state.status.is_final() {
            let subject = state.subject.clone();
            if let Some(holders) = self.claims.get_mut(&subject) {
                holders.remove(run);
                if holders.is_empty() {
                    self.claims.remove(&subject);
                }
            }
            // Steps whose own runs wait for the subject may try again.
            self.dirty
                .extend(self.queued.remove(&subject).unwrap_or_default());
            let done = self.runs.remove(run);
            for (ix, at) in done.map(|live| live.armed).unwrap_or_default() {
                self.timers.remove(&(at, run.clone(), ix));
            }
        }
        Some(Transition {
            append: Some(append),
            effects,
        })
    }
}

/// The artifacts that an entry makes current: those of the successes in it, and after a rewind those
/// that the run still stands by.
pub fn accepted_artifacts(state: &RunState, entry: &Entry) -> Vec<ArtifactRow> {
    let accepted = entry.events.iter().any(|event| {
        matches!(
            event,
            Event::AttemptSucceeded { .. }
                | Event::Rewound { .. }
                | Event::StepOverridden { .. }
                | Event::StepRedone { .. }
                | Event::StepAdopted { .. }
        )
    });
    if !accepted {
        return Vec::new();
    }
    let row = |(kind, artifact)| ArtifactRow {
        subject: state.subject.clone(),
        kind,
        artifact,
        run: state.id.clone(),
    };
    state.own_artifacts().into_iter().map(row).collect()
}

/// The attempt that an effect hands out.
fn dispatched(effect: &Effect) -> Option<&AttemptKey> {
    match effect {
        Effect::Dispatch(dispatch) => Some(&dispatch.key),
        Effect::Stop { .. }
        | Effect::Attach { .. }
        | Effect::Recall(_)
        | Effect::Launch(_)
        | Effect::Deliver(_)
        | Effect::Fire(_) => None,
    }
}

/// Up to a quarter more, the same for the same failure, so that many runs do not retry in step.
fn jitter(run: &RunId, ix: StepIx, failures: u32, backoff: u64) -> u64 {
    let digest = Sha256::new()
        .chain_update(run.as_str())
        .chain_update(ix.0.to_le_bytes())
        .chain_update(failures.to_le_bytes())
        .finalize();
    let part = u64::from(digest[0]);
    (backoff / 4).saturating_mul(part) / 256
}
