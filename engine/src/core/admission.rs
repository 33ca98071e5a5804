//! Who may start where: executors, what their attempts hold, and why a ready step has to wait.

use super::*;
use crate::artifact::Artifact;
use crate::executor::{Machine, machine_of};
use crate::resource::{Lack, Need};
use crate::workflow::StageRef;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) spec: ExecutorSpec,
    /// The machine that it is on.
    pub(super) host: usize,
    /// Of what the machine has, what its attempts hold.
    pub(super) held: Resources,
    pub(super) attempts: usize,
    /// Not used before this monotonic time: its last attempt failed critically.
    pub(super) suspended_until: u64,
    /// Starts nothing before this monotonic time: its last start was just now.
    pub(super) next_start: u64,
}

/// An executor with what it has and what its attempts hold.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorView {
    /// What it is.
    pub spec: ExecutorSpec,
    /// What its machine has.
    pub capacity: Resources,
    /// What attempts hold of its machine, on whichever executor.
    pub machine_held: Resources,
    /// What its own attempts hold.
    pub held: Resources,
    /// Its attempts.
    pub attempts: Vec<Holding>,
    /// Who drains it, if somebody does.
    pub hold: Option<Hold>,
    /// When its machine was last heard of, by monotonic clock; nothing if that is ours.
    pub contact: Option<u64>,
    /// Whether that is too long ago.
    pub suspect: bool,
    /// Who drains its machine, if somebody does.
    pub machine_hold: Option<Hold>,
}

/// What an attempt holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Holding {
    /// The attempt.
    pub key: AttemptKey,
    /// What it holds.
    pub held: Resources,
    /// Since when, milliseconds since 1970.
    pub since: u64,
    /// Whether its result is not wanted any more, and its end is awaited.
    pub given_up: bool,
}

/// A ready step's turn: higher priority first, then what must start sooner to be in time, then what expires sooner,
/// then what waits longer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: std::cmp::Reverse<i32>,
    /// When it must start for everything behind it to be in time.
    latest: u64,
    pub(super) valid_until: u64,
    since: u64,
    pub(super) run: RunId,
    pub(super) ix: StepIx,
}

impl Turn {
    pub(super) fn of(live: &Live, ix: StepIx) -> Self {
        let state = &live.state;
        let until = |ix| state.step(ix).valid_until;
        let until = until(ix).or(until(state.base(ix))).unwrap_or(u64::MAX);
        let start = live.latest.get(&ix).and_then(|latest| latest.start.as_ref());
        Self {
            priority: std::cmp::Reverse(state.priority),
            latest: start.map_or(until, |start| start.by),
            valid_until: until,
            since: state.step(ix).since,
            run: state.id.clone(),
            ix,
        }
    }
}

/// How long an executor is left alone after a critical failure.
pub(super) const SUSPENSION_MS: u64 = 60_000;

/// A machine and what is held of it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) spec: Machine,
    pub(super) held: Resources,
    pub(super) contact: Contact,
}

impl Place {
    pub(super) fn new(spec: ExecutorSpec, host: usize) -> Self {
        Self {
            spec,
            host,
            held: Resources::default(),
            attempts: 0,
            suspended_until: 0,
            next_start: 0,
        }
    }

    /// Whether nothing is to start there any more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.spec.stages.as_ref().is_some_and(Vec::is_empty)
    }
}

/// What a ready step asks of an executor.
#[derive(Debug)]
pub(super) struct Ask {
    stage: StageName,
    many: bool,
    version: u32,
    need: Need,
    /// Stores that its input is in.
    stores: BTreeSet<String>,
    /// The machine that its run's files are on, if it works with them; ours has no name.
    bound: Option<String>,
}

/// Why an executor does not take a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It never has as much.
    TooLarge(Lack),
    /// It runs another version of the stage.
    Version { has: Option<u32> },
    /// It does not reach a store.
    Store(String),
    /// The run's files are on another machine.
    Elsewhere(String),
    /// It has not been heard of since then, by monotonic clock.
    Suspect(u64),
    /// Somebody keeps it, or its machine, from starting anything.
    Drained(HoldKind, Hold),
    /// It is left alone until then, by monotonic clock.
    Suspended(u64),
    /// It runs as many attempts as it may.
    Slots,
    /// Too little is free.
    Lack(Lack),
    /// An attempt holds a lock.
    Lock(String),
    /// The last start was too short a time ago; the next one may be then, by monotonic clock.
    Stagger(u64),
}

impl Ask {
    pub(super) fn stage(&self) -> &StageName {
        &self.stage
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }
}

impl Obstacle {
    /// Whether waiting does not help.
    pub(super) fn lasts(&self) -> bool {
        matches!(
            self,
            Self::TooLarge(_) | Self::Version { .. } | Self::Store(_) | Self::Elsewhere(_)
        )
    }
}

impl Core {
    /// What executors have and hold.
    pub fn executors(&self) -> Vec<ExecutorView> {
        let mut attempts: BTreeMap<&str, Vec<Holding>> = BTreeMap::new();
        for live in self.runs.values() {
            for (ix, step) in live.state.steps() {
                if let (Some(current), Some(key)) = (&step.current, live.state.current_key(ix)) {
                    let holding = Holding {
                        key,
                        held: current.held,
                        since: current.started_at,
                        given_up: false,
                    };
                    attempts.entry(&current.executor).or_default().push(holding);
                }
            }
            for gone in live.state.discarding.values() {
                let holding = Holding {
                    key: gone.key.clone(),
                    held: gone.held,
                    since: live.state.updated_at,
                    given_up: true,
                };
                attempts.entry(&gone.executor).or_default().push(holding);
            }
        }
        let view = |place: &Place| ExecutorView {
            spec: place.spec.clone(),
            capacity: self.hosts[place.host].spec.capacity,
            machine_held: self.hosts[place.host].held,
            held: place.held,
            attempts: attempts.remove(place.spec.name.as_str()).unwrap_or_default(),
            hold: self.site.hold(HoldKind::Executor, &place.spec.name).cloned(),
            contact: self.hosts[place.host].contact.heard(),
            suspect: self.hosts[place.host].contact.suspect().is_some(),
            machine_hold: self
                .site
                .hold(HoldKind::Worker, &place.spec.machine.name)
                .cloned(),
        };
        self.places.iter().map(view).collect()
    }

    /// Whether an executor still has attempts.
    pub fn busy(&self) -> bool {
        self.places.iter().any(|place| place.attempts > 0)
    }

    pub(super) fn place(&mut self, name: &str) -> Option<&mut Place> {
        self.places.iter_mut().find(|place| place.spec.name == name)
    }

    pub(super) fn occupy(&mut self, executor: &str, held: Resources) {
        if let Some(place) = self.place(executor) {
            place.held += held;
            place.attempts += 1;
            let host = place.host;
            self.hosts[host].held += held;
        }
    }

    pub(super) fn vacate(&mut self, executor: &str, held: Resources) {
        if let Some(place) = self.place(executor) {
            place.held -= held;
            place.attempts = place.attempts.saturating_sub(1);
            let host = place.host;
            self.hosts[host].held -= held;
        }
    }

    pub(super) fn suspend(&mut self, executor: &str, now: Now) {
        if let Some(place) = self.place(executor) {
            place.suspended_until = now.mono_ms + SUSPENSION_MS;
        }
    }

    /// What an attempt of a step asks of an executor.
    pub(super) fn ask(&self, state: &RunState, ix: StepIx, stage: &StageRef) -> Ask {
        let at_hand = state
            .input(ix)
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.at_hand()?)));
        let input: serde_json::Map<String, Value> = at_hand.collect();
        // What can be brought to where it is needed does not decide where that is.
        let artifact_store = |value: &Value| {
            let artifact: Artifact = serde_json::from_value(value.clone()).ok()?;
            (!artifact.is_movable()).then_some(artifact.store)
        };
        let info = self.registry.info(stage.name.as_str());
        let bound = info.filter(|info| info.bound).and_then(|_| self.bound_to(state));
        Ask {
            bound: bound.map(str::to_owned),
            stage: stage.name.clone(),
            many: stage.many,
            version: stage.version,
            stores: input.values().filter_map(artifact_store).collect(),
            need: self
                .registry
                .work(&stage.name, stage.many)
                .map_or_else(Need::default, |stage| stage.costs(&Value::Object(input))),
        }
    }

    /// Why an executor does not take a step now; nothing if it does.
    pub(super) fn obstacles(&self, place: &Place, ask: &Ask, now: Now) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        let (spec, host) = (&place.spec, &self.hosts[place.host]);
        let own = self.registry.info(ask.stage.as_str()).map(|info| info.version);
        let has = spec.versions.get(&ask.stage).copied().or(own);
        if has != Some(ask.version) {
            obstacles.push(Obstacle::Version { has });
        }
        let reaches = |store: &&String| spec.stores.as_ref().is_some_and(|own| !own.contains(store));
        obstacles.extend(ask.stores.iter().find(reaches).cloned().map(Obstacle::Store));
        if let Some(bound) = &ask.bound
            && machine_of(&spec.name).unwrap_or("") != bound
        {
            obstacles.push(Obstacle::Elsewhere(bound.clone()));
        }
        obstacles.extend(host.contact.suspect().map(Obstacle::Suspect));
        let need = spec.claims.over(ask.need);
        let capacity = host.spec.capacity;
        match need.take(capacity, Resources::default(), spec.gpus) {
            Err(lacks) => obstacles.extend(lacks.into_iter().map(Obstacle::TooLarge)),
            Ok(_) => {
                let taken = need.take(capacity, host.held, spec.gpus);
                let lacks = taken.err().unwrap_or_default();
                obstacles.extend(lacks.into_iter().map(Obstacle::Lack));
            }
        }
        let held = [
            (HoldKind::Executor, &spec.name),
            (HoldKind::Worker, &spec.machine.name),
        ];
        let held = held
            .into_iter()
            .filter_map(|(kind, name)| Some((kind, self.site.hold(kind, name)?)));
        obstacles.extend(held.map(|(kind, hold)| Obstacle::Drained(kind, hold.clone())));
        if place.suspended_until > now.mono_ms {
            obstacles.push(Obstacle::Suspended(place.suspended_until));
        }
        if place.attempts >= spec.slots {
            obstacles.push(Obstacle::Slots);
        }
        let locked = |lock: &&String| {
            let mut others = self.places.iter().filter(|other| other.host == place.host);
            others.any(|other| other.attempts > 0 && other.spec.locks.contains(lock))
        };
        obstacles.extend(spec.locks.iter().find(locked).cloned().map(Obstacle::Lock));
        if place.next_start > now.mono_ms {
            obstacles.push(Obstacle::Stagger(place.next_start));
        }
        obstacles
    }

    /// Starts ready steps, the longest waiting first, as far as executors have room. A step that waits
    /// for room makes later ones of its stage wait too, so that they cannot starve it; one that no
    /// executor could ever hold, or whose workflow or stage is held, makes nobody wait.
    pub(super) fn admit(&mut self, now: Now) {
        let mut full: BTreeSet<StageName> = BTreeSet::new();
        loop {
            let heads = self.ready.iter().filter(|(stage, _)| !full.contains(*stage));
            let heads =
                heads.filter_map(|(stage, queue)| queue.first().map(|head| (head.clone(), stage.clone())));
            let Some((head, stage)) = heads.min() else {
                return;
            };
            let (run, ix) = (head.run.clone(), head.ix);
            let startable = self.runs.get(&run).filter(|live| {
                live.state.step(ix).status == StepStatus::Ready
                    && live.state.may_start(ix)
                    && live.state.discarding.is_empty()
                    && self.held_back(&live.state, &stage).is_none()
                    // Its priority may have changed since; then it is in the queue twice.
                    && Turn::of(live, ix) == head
            });
            let ask = startable.and_then(|live| {
                let stage = live.state.spec(ix).stage.as_ref()?;
                Some(self.ask(&live.state, ix, stage))
            });
            let Some(ask) = ask else {
                self.forget_ready(&stage, &head);
                continue;
            };
            let accepting = self.places.iter().enumerate();
            let accepting = accepting.filter(|(_, place)| place.spec.accepts(&stage) && place.spec.slots > 0);
            let (mut able, mut free) = (false, None);
            for (at, place) in accepting {
                let obstacles = self.obstacles(place, &ask, now);
                able |= !obstacles.iter().any(Obstacle::lasts);
                if obstacles.is_empty() {
                    free = Some(at);
                    break;
                }
            }
            match free {
                Some(place) => {
                    self.forget_ready(&stage, &head);
                    self.grant(&run, ix, &ask, place, now);
                }
                None if able => {
                    self.preempt(&head, &ask, now);
                    full.insert(stage);
                }
                None => self.forget_ready(&stage, &head),
            }
        }
    }

    /// Why no step of the run's workflow, or none of this stage, may start.
    pub(super) fn held_back(&self, state: &RunState, stage: &StageName) -> Option<(HoldKind, &Hold)> {
        let workflow = state.graph.data().name.as_str();
        let of = |kind, name| Some((kind, self.site.hold(kind, name)?));
        of(HoldKind::Workflow, workflow).or_else(|| of(HoldKind::Stage, stage.as_str()))
    }

    pub(super) fn forget_ready(&mut self, stage: &StageName, head: &Turn) {
        if let Some(queue) = self.ready.get_mut(stage) {
            queue.remove(head);
            if queue.is_empty() {
                self.ready.remove(stage);
            }
        }
    }

    pub(super) fn grant(&mut self, run: &RunId, ix: StepIx, ask: &Ask, place: usize, now: Now) {
        let token = Token::new(self.draw());
        let place = &mut self.places[place];
        let spec = &place.spec;
        let host = &self.hosts[place.host];
        let need = spec.claims.over(ask.need);
        let Ok(held) = need.take(host.spec.capacity, host.held, spec.gpus) else {
            return;
        };
        if spec.stagger_ms > 0 {
            place.next_start = now.mono_ms.saturating_add(spec.stagger_ms);
        }
        let executor = spec.name.clone();
        let Some(live) = self.runs.get(run) else { return };
        let state = &live.state;
        let attempt = state.step(ix).attempts + 1;
        let key = state.attempt_key(ix, attempt);
        let dispatch = Dispatch {
            executor: executor.clone(),
            key: key.clone(),
            token: token.clone(),
            subject: state.subject.clone(),
            stage: ask.stage.clone(),
            many: ask.many,
            input: state.input(ix),
            held,
        };
        let (step, visit) = (key.step.clone(), key.visit);
        let started = Event::AttemptStarted {
            step,
            visit,
            attempt,
            token,
            executor: executor.clone(),
            held,
        };
        self.record(run, started);
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        live.effects.push(Effect::Dispatch(Box::new(dispatch)));
        self.occupy(&executor, held);
    }

    /// A step with a deadline that finds no room takes that of less urgent work: of attempts of lower
    /// priority, without a deadline, whose executor can stop them and whose stage loses little by it, those
    /// that started last. Nothing is stopped unless that makes room.
    fn preempt(&mut self, head: &Turn, ask: &Ask, now: Now) {
        if head.valid_until == u64::MAX {
            return;
        }
        let mut chosen = None;
        for place in &self.places {
            let in_the_way = self.obstacles(place, ask, now);
            let room_helps = |obstacle: &Obstacle| matches!(obstacle, Obstacle::Lack(_) | Obstacle::Slots);
            if !place.spec.accepts(&ask.stage) || !in_the_way.iter().all(room_helps) {
                continue;
            }
            chosen = self.victims(head, ask, place);
            if chosen.is_some() {
                break;
            }
        }
        for (run, ix) in chosen.unwrap_or_default() {
            let Some(live) = self.runs.get(&run) else { continue };
            let Some(current) = &live.state.step(ix).current else {
                continue;
            };
            let event = Event::AttemptPreempted {
                step: live.state.name(ix),
                attempt: current.attempt,
                by: head.run.clone(),
            };
            self.stop_steps(&run, vec![ix]);
            self.record(&run, event);
        }
    }

    /// The attempts whose end makes room on an executor; none if room is being made there already.
    fn victims(&self, head: &Turn, ask: &Ask, place: &Place) -> Option<Vec<(RunId, StepIx)>> {
        let host = &self.hosts[place.host];
        let (mut held, mut attempts) = (host.held, place.attempts);
        let on_host = |name: &str| {
            self.places
                .iter()
                .find(|one| one.spec.name == name && one.host == place.host)
        };
        let mut candidates = Vec::new();
        for (run, live) in &self.runs {
            for gone in live
                .state
                .discarding
                .values()
                .filter(|gone| on_host(&gone.executor).is_some())
            {
                held -= gone.held;
                attempts -= usize::from(gone.executor == place.spec.name);
            }
            let lower = live.state.priority < head.priority.0;
            for ix in live.state.frontier().filter(|_| lower) {
                let Some(current) = &live.state.step(ix).current else {
                    continue;
                };
                let Some(stage) = &live.state.spec(ix).stage else {
                    continue;
                };
                let cheap = self
                    .registry
                    .info(stage.name.as_str())
                    .is_some_and(|info| info.preemptible);
                let killable = on_host(&current.executor).is_some_and(|one| one.spec.killable);
                if cheap && killable && Turn::of(live, ix).valid_until == u64::MAX {
                    candidates.push((std::cmp::Reverse(current.started_at), run.clone(), ix, current));
                }
            }
        }
        candidates.sort_by(|a, b| (&a.0, &a.1, a.2).cmp(&(&b.0, &b.1, b.2)));
        let need = place.spec.claims.over(ask.need);
        let mut victims = Vec::new();
        let mut rest = candidates.into_iter();
        loop {
            if need.take(host.spec.capacity, held, place.spec.gpus).is_ok() && attempts < place.spec.slots {
                return Some(victims);
            }
            let (_, run, ix, current) = rest.next()?;
            held -= current.held;
            attempts -= usize::from(current.executor == place.spec.name);
            victims.push((run, ix));
        }
    }
}
