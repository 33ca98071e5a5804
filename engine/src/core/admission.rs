//! Who may start where: executors, what their attempts hold, and why a ready step has to wait.

use super::*;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) spec: ExecutorSpec,
    pub(super) held: Resources,
    pub(super) attempts: usize,
    /// Not used before this monotonic time: its last attempt failed critically.
    pub(super) suspended_until: u64,
}

/// A ready step's turn: higher priority first, then what expires sooner, then what waits longer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    priority: std::cmp::Reverse<i32>,
    valid_until: u64,
    since: u64,
    pub(super) run: RunId,
    pub(super) ix: StepIx,
}

impl Turn {
    pub(super) fn of(state: &RunState, ix: StepIx) -> Self {
        let until = |ix| state.step(ix).valid_until;
        Self {
            priority: std::cmp::Reverse(state.priority),
            valid_until: until(ix).or(until(state.base(ix))).unwrap_or(u64::MAX),
            since: state.step(ix).since,
            run: state.id.clone(),
            ix,
        }
    }
}

/// How long an executor is left alone after a critical failure.
pub(super) const SUSPENSION_MS: u64 = 60_000;

impl Core {
    /// What executors have and hold.
    pub fn executors(&self) -> Vec<(ExecutorSpec, Resources, usize)> {
        self.places
            .iter()
            .map(|place| (place.spec.clone(), place.held, place.attempts))
            .collect()
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
        }
    }

    pub(super) fn vacate(&mut self, executor: &str, held: Resources) {
        if let Some(place) = self.place(executor) {
            place.held -= held;
            place.attempts = place.attempts.saturating_sub(1);
        }
    }

    pub(super) fn suspend(&mut self, executor: &str, now: Now) {
        if let Some(place) = self.place(executor) {
            place.suspended_until = now.mono_ms + SUSPENSION_MS;
        }
    }

    /// What an attempt of a step would hold.
    pub(super) fn costs(&self, state: &RunState, ix: StepIx, stage: &StageName) -> Resources {
        let Some(stage) = self.registry.stage(stage) else {
            return Resources::default();
        };
        let at_hand = state
            .input(ix)
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.at_hand()?)));
        stage.costs(&Value::Object(at_hand.collect()))
    }

    /// Starts ready steps, the longest waiting first, as far as executors have room. A step that waits
    /// for room makes later ones of its stage wait too, so that they cannot starve it; one that no
    /// executor could ever hold makes nobody wait.
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
                    && live.state.status == RunStatus::Running
                    && live.state.discarding.is_empty()
                    // Its priority may have changed since; then it is in the queue twice.
                    && Turn::of(&live.state, ix) == head
            });
            let Some(live) = startable else {
                self.forget_ready(&stage, &head);
                continue;
            };
            let need = self.costs(&live.state, ix, &stage);
            let nothing = Resources::default();
            let able = |place: &Place| {
                let capacity = place.spec.capacity;
                place.spec.accepts(&stage)
                    && place.spec.slots > 0
                    && need.clamped(capacity).fits(capacity, nothing)
            };
            if !self.places.iter().any(able) {
                self.forget_ready(&stage, &head);
                continue;
            }
            let place = self.places.iter().position(|place| {
                able(place)
                    && place.attempts < place.spec.slots
                    && place.suspended_until <= now.mono_ms
                    && need
                        .clamped(place.spec.capacity)
                        .fits(place.spec.capacity, place.held)
            });
            match place {
                Some(place) => {
                    self.forget_ready(&stage, &head);
                    self.grant(&run, ix, &stage, place, need);
                }
                None => {
                    full.insert(stage);
                }
            }
        }
    }

    pub(super) fn forget_ready(&mut self, stage: &StageName, head: &Turn) {
        if let Some(queue) = self.ready.get_mut(stage) {
            queue.remove(head);
            if queue.is_empty() {
                self.ready.remove(stage);
            }
        }
    }

    pub(super) fn grant(
        &mut self,
        run: &RunId,
        ix: StepIx,
        stage: &StageName,
        place: usize,
        need: Resources,
    ) {
        let token = Token::new(self.draw());
        let spec = &self.places[place].spec;
        let held = need.clamped(spec.capacity);
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
            stage: stage.clone(),
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
}
