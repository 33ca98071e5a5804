//! What attempts report, how long they may take, and what is due by the clock.

use super::*;

/// What makes the core give up an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Limit {
    /// It runs for too long.
    Run,
    /// It reported no progress for too long.
    Silence,
}

impl Limit {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Run => "ran_too_long",
            Self::Silence => "silent_too_long",
        }
    }
}

/// How an attempt ended.
pub(super) enum End {
    Done(Output),
    Parked(Wake),
    Failed(Failure),
    Lost(String),
}

pub(super) fn seconds_since(started_at: u64, now: Now) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds of an attempt are far below 2^52"
    )]
    let ms = now.wall_ms.saturating_sub(started_at) as f64;
    ms / 1000.0
}

impl Core {
    /// Starts the time limits of an attempt.
    pub(super) fn limit(&mut self, run: &RunId, ix: StepIx, key: &AttemptKey, now: Now) {
        let Some(live) = self.runs.get_mut(run) else {
            return;
        };
        let timeout = &live.state.spec(ix).timeout;
        let limits = [(timeout.run_ms, Limit::Run), (timeout.silence_ms, Limit::Silence)];
        let limits = limits
            .into_iter()
            .filter_map(|(ms, limit)| Some((now.mono_ms.saturating_add(ms?), limit)));
        let limits: Vec<(u64, Limit)> = limits.collect();
        self.limits
            .extend(limits.iter().map(|(due, limit)| (*due, key.clone(), *limit)));
        if !limits.is_empty() {
            live.limits.insert(ix, limits);
        }
    }

    /// Ends the time limits of a step's attempt.
    pub(super) fn unlimit(&mut self, ix: StepIx, key: &AttemptKey) {
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        for (due, limit) in live.limits.remove(&ix).unwrap_or_default() {
            self.limits.remove(&(due, key.clone(), limit));
        }
    }

    /// Takes a report of an executor. Says whether it is about an attempt that counts: the current one of its step,
    /// or one whose end is awaited.
    pub fn report(&mut self, report: Report, now: Now) -> bool {
        let Report { key, token, news } = report;
        let counts = self.counts(&key, &token);
        match news {
            News::Progress(progress) => self.advanced(&key, &token, progress, now),
            News::Ended(Ok(Outcome::Done(value))) => {
                self.ended(&key, &token, End::Done(Output::Inline(value)), now);
            }
            News::Ended(Ok(Outcome::Park(wake))) => self.ended(&key, &token, End::Parked(wake), now),
            News::Ended(Err(failure)) => self.ended(&key, &token, End::Failed(failure), now),
            News::Lost(why) => self.ended(&key, &token, End::Lost(why), now),
        }
        counts
    }

    /// Whether somebody waits for what becomes of an attempt.
    pub fn counts(&self, key: &AttemptKey, token: &Token) -> bool {
        let awaited = |live: &Live| {
            let gone = live.state.discarding.get(&(key.step.clone(), key.attempt));
            gone.is_some_and(|gone| gone.token == *token)
        };
        self.current(key, token).is_some()
            || self.runs.get(&key.run).is_some_and(awaited)
            || self.orphans.get(key).is_some_and(|orphan| orphan.token == *token)
    }

    /// Takes the report of an attempt whose output is in a payload file.
    pub fn report_payload(&mut self, key: &AttemptKey, token: &Token, output: Output, now: Now) -> bool {
        let counts = self.counts(key, token);
        self.ended(key, token, End::Done(output), now);
        counts
    }

    /// The step whose current attempt this is.
    pub(super) fn current(&self, key: &AttemptKey, token: &Token) -> Option<(StepIx, &Current)> {
        let state = &self.runs.get(&key.run)?.state;
        let ix = state.find(&key.step)?;
        let current = state.step(ix).current.as_ref()?;
        let is_current = current.attempt == key.attempt && current.token == *token;
        is_current.then_some((ix, current))
    }

    /// An attempt that was granted is about to begin; says whether it still may. What is on its way to an
    /// executor may have been superseded, or its run cancelled. Its time limits count from here: how long
    /// the commit took, or the input to arrive, is not the attempt's fault.
    pub fn begin(&mut self, key: &AttemptKey, token: &Token, now: Now) -> bool {
        let stops = self
            .runs
            .get(&key.run)
            .is_none_or(|live| live.stopping.contains(key));
        let Some((ix, _)) = self.current(key, token) else {
            return false;
        };
        if !stops {
            self.unlimit(ix, key);
            self.limit(&key.run, ix, key, now);
        }
        !stops
    }

    pub(super) fn advanced(&mut self, key: &AttemptKey, token: &Token, progress: Progress, now: Now) {
        let Some((ix, _)) = self.current(key, token) else {
            return;
        };
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        live.progress.insert(ix, progress);
        let silence = live.state.spec(ix).timeout.silence_ms;
        let limit = live
            .limits
            .get_mut(&ix)
            .and_then(|all| all.iter_mut().find(|(_, limit)| *limit == Limit::Silence));
        if let (Some(silence), Some((due, limit))) = (silence, limit) {
            self.limits.remove(&(*due, key.clone(), *limit));
            *due = now.mono_ms.saturating_add(silence);
            self.limits.insert((*due, key.clone(), *limit));
        }
    }

    pub(super) fn ended(&mut self, key: &AttemptKey, token: &Token, end: End, now: Now) {
        self.at.get_or_insert(now.wall_ms);
        if self.orphans.get(key).is_some_and(|orphan| orphan.token == *token) {
            if let Some(orphan) = self.orphans.remove(key) {
                self.vacate(&orphan.executor, orphan.held);
            }
            return;
        }
        let (step, attempt) = (key.step.clone(), key.attempt);
        let discarding = self.runs.get(&key.run).map(|live| &live.state.discarding);
        if let Some(gone) = discarding.and_then(|all| all.get(&(step.clone(), attempt))) {
            if gone.token == *token {
                let (executor, held) = (gone.executor.clone(), gone.held);
                self.vacate(&executor, held);
                self.record(&key.run, Event::AttemptReleased { step, attempt });
            }
            return;
        }
        let Some((ix, current)) = self.current(key, token) else {
            tracing::debug!(%key, "report of a superseded attempt");
            return;
        };
        let current = current.clone();
        let seconds = seconds_since(current.started_at, now);
        self.unlimit(ix, key);
        if matches!(end, End::Done(_)) {
            self.learn(&key.run, ix, &current.executor, seconds);
        }
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        live.progress.remove(&ix);
        live.stopping.remove(key);
        let cancelling = live.state.status == RunStatus::Cancelling && !live.state.closing;
        let stage = live.state.spec(ix).stage.as_ref();
        let info = stage.and_then(|stage| self.registry.info(stage.name.as_str()));
        let prerequisites = info.map_or(&[][..], |info| info.prerequisites);
        let event = match end {
            End::Done(output) => Event::AttemptSucceeded {
                step,
                attempt,
                output,
                seconds,
            },
            End::Parked(wake) => Event::StepWaiting {
                step,
                wake,
                reason: WaitReason::Parked,
                attempt: Some(attempt),
            },
            End::Failed(failure) => {
                if failure.class == FailureClass::Critical {
                    self.suspend(&current.executor, now);
                }
                // What is not there yet is not the work's fault.
                let lacks = prerequisites.contains(&failure.code.as_ref());
                let charged = failure.class != FailureClass::Critical && !lacks && !cancelling;
                Event::AttemptFailed {
                    step,
                    attempt,
                    failure,
                    charged,
                    seconds,
                    still_running: false,
                }
            }
            End::Lost(why) => Event::AttemptLost { step, attempt, why },
        };
        self.vacate(&current.executor, current.held);
        self.record(&key.run, event);
    }

    /// Wakes what is due and gives up what took too long.
    pub fn tick(&mut self, now: Now) {
        self.at.get_or_insert(now.wall_ms);
        while let Some((due, run, ix)) = self.timers.first().cloned() {
            if due > now.wall_ms {
                break;
            }
            self.timers.pop_first();
            let Some(live) = self.runs.get_mut(&run) else {
                continue;
            };
            live.armed.remove(&ix);
            let waits = matches!(&live.state.step(ix).wake, Some((Wake::At(at), _)) if *at <= now.wall_ms);
            if waits && live.state.step(ix).status == StepStatus::Waiting {
                let step = live.state.name(ix);
                self.record(&run, Event::StepWoken { step });
            }
        }
        while let Some((due, run, _)) = self.expiries.first().cloned() {
            if due > now.wall_ms {
                break;
            }
            self.expiries.pop_first();
            // Whether the step still expires then is decided anew.
            if self.runs.contains_key(&run) {
                self.dirty.insert(run);
            }
        }
        while let Some((due, key, limit)) = self.limits.first().cloned() {
            if due > now.mono_ms {
                break;
            }
            self.limits.pop_first();
            self.give_up(&key, limit, now);
        }
        self.recall_due(now);
        self.look_after_machines(now);
        for place in &mut self.places {
            if place.suspended_until <= now.mono_ms {
                place.suspended_until = 0;
            }
            if place.next_start <= now.mono_ms {
                place.next_start = 0;
            }
        }
    }

    pub(super) fn give_up(&mut self, key: &AttemptKey, limit: Limit, now: Now) {
        let Some(live) = self.runs.get_mut(&key.run) else {
            return;
        };
        let Some(ix) = live.state.find(&key.step) else {
            return;
        };
        let Some(current) = live.state.step(ix).current.clone() else {
            return;
        };
        if current.attempt != key.attempt {
            return;
        }
        let seconds = seconds_since(current.started_at, now);
        let message = format!(
            "attempt {} ran {seconds:.0} s; the workflow's `timeout` for this step is used up",
            key.attempt
        );
        live.effects.push(Effect::Stop {
            executor: current.executor,
            key: key.clone(),
        });
        live.progress.remove(&ix);
        self.unlimit(ix, key);
        let failure = Failure::transient(limit.code(), message);
        let (step, attempt) = (key.step.clone(), key.attempt);
        self.record(
            &key.run,
            Event::AttemptFailed {
                step,
                attempt,
                failure,
                charged: true,
                seconds,
                still_running: true,
            },
        );
    }

    /// The wall-clock and monotonic times at which [`Core::tick`] has something to do.
    pub fn next_due(&self) -> (Option<u64>, Option<u64>) {
        let limit = self.limits.first().map(|(due, ..)| *due);
        let suspension = self
            .places
            .iter()
            .flat_map(|place| [place.suspended_until, place.next_start])
            .filter(|until| *until > 0)
            .min();
        (
            [self.timers.first(), self.expiries.first()]
                .into_iter()
                .flatten()
                .map(|(due, ..)| *due)
                .chain(self.resting.next())
                .chain(self.next_trigger())
                .chain(self.collecting.values().map(|collector| collector.due))
                .min(),
            limit.into_iter().chain(suspension).chain(self.next_look()).min(),
        )
    }

    /// How far the running attempts of a run are.
    pub fn progress(&self, run: &RunId) -> Vec<(StepName, Progress)> {
        let Some(live) = self.runs.get(run) else {
            return Vec::new();
        };
        let of = |ix: &StepIx| live.state.name(*ix);
        live.progress
            .iter()
            .map(|(ix, progress)| (of(ix), progress.clone()))
            .collect()
    }
}
