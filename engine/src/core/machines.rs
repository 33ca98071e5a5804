//! Machines that come and go: what they offer, when they were last heard of, and what becomes of attempts on
//! one that has fallen silent. Silence is judged by our own monotonic clock; after our restart every machine
//! gets its full time again.

use super::*;
use crate::executor::{LOST_AFTER_MS, Machine, SUSPECT_AFTER_MS, machine_of};
use crate::workflow::OnLost;

/// How far we are in touch with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contact {
    /// It is the one that we are on.
    Own,
    /// It was heard of at this time, by monotonic clock.
    Heard(u64),
    /// It has not been heard of since this time for so long that something may have happened to it.
    Suspect(u64),
}

impl Contact {
    /// When it was last heard of.
    pub(super) fn heard(self) -> Option<u64> {
        match self {
            Self::Own => None,
            Self::Heard(at) | Self::Suspect(at) => Some(at),
        }
    }

    /// Since when it is suspect.
    pub(super) fn suspect(self) -> Option<u64> {
        match self {
            Self::Suspect(heard) => Some(heard),
            Self::Own | Self::Heard(_) => None,
        }
    }
}

/// An attempt on a machine.
struct Placed {
    run: RunId,
    ix: StepIx,
    key: AttemptKey,
    current: Current,
}

impl Core {
    /// A machine offers these executors: it is new, or it is back. What it still runs is asked for again.
    pub fn join(&mut self, machine: Machine, specs: Vec<ExecutorSpec>, now: Now) {
        self.at.get_or_insert(now.wall_ms);
        let name = machine.name.clone();
        let host = self.host_named(&name, now);
        self.hosts[host].spec = machine;
        self.hosts[host].contact = Contact::Heard(now.mono_ms);
        let offered: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        for place in self.places.iter_mut().filter(|place| place.host == host) {
            if !offered.contains(place.spec.name.as_str()) {
                // What it still runs there ends as usual; nothing new comes to it.
                place.spec.stages = Some(Vec::new());
            }
        }
        for spec in specs {
            match self.place(&spec.name) {
                Some(place) => place.spec = spec,
                None => self.places.push(Place::new(spec, host)),
            }
        }
        let gone = |place: &Place| place.host == host && place.attempts == 0 && place.is_withdrawn();
        self.places.retain(|place| !gone(place));
        self.ask_again(&name);
        // Steps that no executor could take may have one now.
        let ready = |live: &&mut Live| {
            let state = &live.state;
            state
                .frontier()
                .any(|ix| state.step(ix).status == StepStatus::Ready)
        };
        let waiting = self
            .runs
            .values_mut()
            .filter(ready)
            .map(|live| live.state.id.clone());
        self.dirty.extend(waiting.collect::<Vec<_>>());
    }

    /// A machine gave a sign of life.
    pub fn heard(&mut self, machine: &str, now: Now) {
        if let Some(host) = self.hosts.iter_mut().find(|host| host.spec.name == machine)
            && host.contact != Contact::Own
        {
            if host.contact.suspect().is_some() {
                tracing::info!(machine, "heard of again");
            }
            host.contact = Contact::Heard(now.mono_ms);
        }
    }

    /// A machine said goodbye. What it leaves unfinished, if anything, counts as silent from now on.
    pub fn leave(&mut self, machine: &str, now: Now) {
        let Some(host) = self.hosts.iter().position(|host| host.spec.name == machine) else {
            return;
        };
        self.hosts[host].contact = Contact::Suspect(now.mono_ms);
        for place in self.places.iter_mut().filter(|place| place.host == host) {
            place.spec.stages = Some(Vec::new());
        }
        self.places
            .retain(|place| place.host != host || place.attempts > 0);
    }

    /// The place of an executor that has not registered since we started.
    pub(super) fn expect_executor(&mut self, executor: &str, now: Now) {
        let Some(machine) = machine_of(executor) else {
            return;
        };
        if self.place(executor).is_some() {
            return;
        }
        let host = self.host_named(machine, now);
        let mut spec = ExecutorSpec::new(executor, self.hosts[host].spec.clone(), 0);
        spec.stages = Some(Vec::new());
        self.places.push(Place::new(spec, host));
    }

    fn host_named(&mut self, machine: &str, now: Now) -> usize {
        let known = self.hosts.iter().position(|host| host.spec.name == machine);
        known.unwrap_or_else(|| {
            let (name, capacity) = (machine.to_owned(), Resources::default());
            self.hosts.push(Host {
                spec: Machine { name, capacity },
                held: Resources::default(),
                contact: Contact::Heard(now.mono_ms),
            });
            self.hosts.len() - 1
        })
    }

    /// Asks a machine that is back for the attempts that it had.
    fn ask_again(&mut self, machine: &str) {
        for live in self.runs.values_mut() {
            let state = &live.state;
            let mut effects = Vec::new();
            for ix in state.frontier() {
                let step = state.step(ix);
                let (Some(current), Some(key)) = (&step.current, state.current_key(ix)) else {
                    continue;
                };
                if machine_of(&current.executor) != Some(machine) {
                    continue;
                }
                let (executor, token) = (current.executor.clone(), current.token.clone());
                let stops = live.stopping.contains(&key);
                let stop = stops.then(|| Effect::Stop {
                    executor: executor.clone(),
                    key: key.clone(),
                });
                effects.push(Effect::Attach { executor, key, token });
                effects.extend(stop);
            }
            for gone in state.discarding.values() {
                if machine_of(&gone.executor) == Some(machine) {
                    let (executor, key) = (gone.executor.clone(), gone.key.clone());
                    effects.push(Effect::Attach {
                        executor: executor.clone(),
                        key: key.clone(),
                        token: gone.token.clone(),
                    });
                    effects.push(Effect::Stop { executor, key });
                }
            }
            if !effects.is_empty() {
                live.effects.extend(effects);
                self.dirty.insert(live.state.id.clone());
            }
        }
    }

    /// Suspects machines that are silent, and gives up what was lost with them.
    pub(super) fn look_after_machines(&mut self, now: Now) {
        self.looked_at = now.mono_ms;
        for at in 0..self.hosts.len() {
            let host = &mut self.hosts[at];
            let heard = match host.contact {
                Contact::Own => continue,
                Contact::Heard(heard) | Contact::Suspect(heard) => heard,
            };
            let silent = now.mono_ms.saturating_sub(heard);
            if silent < SUSPECT_AFTER_MS {
                continue;
            }
            let machine = host.spec.name.clone();
            if host.contact != Contact::Suspect(heard) {
                tracing::warn!(machine, silent_ms = silent, "suspect: not heard of");
                host.contact = Contact::Suspect(heard);
            }
            for placed in self.attempts_on(&machine) {
                self.lost_with(placed, &machine, silent, now);
            }
            if silent >= LOST_AFTER_MS {
                self.release_on(&machine);
            }
            let empty = |place: &Place| place.host == at && place.attempts == 0 && place.is_withdrawn();
            self.places.retain(|place| !empty(place));
        }
    }

    fn attempts_on(&self, machine: &str) -> Vec<Placed> {
        let mut all = Vec::new();
        for (run, live) in &self.runs {
            for ix in live.state.frontier() {
                let Some(current) = &live.state.step(ix).current else {
                    continue;
                };
                if machine_of(&current.executor) == Some(machine)
                    && let Some(key) = live.state.current_key(ix)
                {
                    let (run, current) = (run.clone(), current.clone());
                    all.push(Placed {
                        run,
                        ix,
                        key,
                        current,
                    });
                }
            }
        }
        all
    }

    /// What the step says is done about an attempt on a machine that has been silent for so long.
    fn lost_with(&mut self, placed: Placed, machine: &str, silent: u64, now: Now) {
        let Placed {
            run,
            ix,
            key,
            current,
        } = placed;
        let Some(live) = self.runs.get_mut(&run) else {
            return;
        };
        let (after, then) = policy(&self.registry, &live.state, ix);
        let cancelling = live.state.status == RunStatus::Cancelling;
        if silent < after || (then == OnLost::Wait && !cancelling) {
            return;
        }
        live.effects.push(Effect::Stop {
            executor: current.executor.clone(),
            key: key.clone(),
        });
        live.progress.remove(&ix);
        live.stopping.remove(&key);
        self.unlimit(ix, &key);
        self.vacate(&current.executor, current.held);
        let why = format!("no word from `{machine}` for {} s", silent / 1000);
        let (step, attempt) = (key.step.clone(), key.attempt);
        let event = if then == OnLost::Ask && !cancelling {
            let hint = "resume the run to do it elsewhere, or bring the machine back first";
            Event::AttemptFailed {
                step,
                attempt,
                failure: Failure::permanent("worker_lost", format!("{why}; {hint}")),
                charged: false,
                seconds: attempt::seconds_since(current.started_at, now),
                still_running: false,
            }
        } else {
            Event::AttemptLost { step, attempt, why }
        };
        self.record(&run, event);
    }

    /// What nobody wants any more and was lost with its machine holds up nothing.
    fn release_on(&mut self, machine: &str) {
        let mut gone = Vec::new();
        for (run, live) in &self.runs {
            for one in live.state.discarding.values() {
                if machine_of(&one.executor) == Some(machine) {
                    gone.push((run.clone(), one.clone()));
                }
            }
        }
        for (run, one) in gone {
            self.vacate(&one.executor, one.held);
            let (step, attempt) = (one.key.step, one.key.attempt);
            self.record(&run, Event::AttemptReleased { step, attempt });
        }
        let orphans = self.orphans.iter();
        let orphans = orphans.filter(|(_, orphan)| machine_of(&orphan.executor) == Some(machine));
        let orphans: Vec<AttemptKey> = orphans.map(|(key, _)| key.clone()).collect();
        for key in orphans {
            if let Some(orphan) = self.orphans.remove(&key) {
                self.vacate(&orphan.executor, orphan.held);
            }
        }
    }

    /// When machines are to be looked after next, by monotonic clock.
    pub(super) fn next_look(&self) -> Option<u64> {
        let due = self
            .hosts
            .iter()
            .enumerate()
            .filter_map(|(at, host)| match host.contact {
                Contact::Own => None,
                Contact::Heard(heard) => Some(heard + SUSPECT_AFTER_MS),
                Contact::Suspect(_) => {
                    let busy = self
                        .places
                        .iter()
                        .any(|place| place.host == at && place.attempts > 0);
                    busy.then_some(self.looked_at + LOOK_MS)
                }
            });
        due.min()
    }

    /// The machine that a run's host-bound files are on: where its last host-bound step was done.
    pub(super) fn bound_to<'a>(&self, state: &'a RunState) -> Option<&'a str> {
        let mut steps = state.steps();
        steps.find_map(|(ix, step)| {
            let stage = state.spec(ix).stage.as_ref()?;
            let bound = self.registry.info(stage.name.as_str())?.bound;
            let ran_on = step
                .ran_on
                .as_deref()
                .filter(|_| bound && step.status == StepStatus::Succeeded)?;
            Some(machine_of(ran_on).unwrap_or(""))
        })
    }
}

/// How often a silent machine's attempts are looked at.
const LOOK_MS: u64 = 1000;

/// After how long a silence an attempt of the step is lost, and what then.
fn policy(registry: &StageRegistry, state: &RunState, ix: StepIx) -> (u64, OnLost) {
    let spec = state.spec(ix);
    // Work with a deadline cannot wait long; a file that is only on that machine can be had nowhere else.
    let urgent = state
        .step(ix)
        .valid_until
        .or(state.step(state.base(ix)).valid_until)
        .is_some();
    let after = if urgent { SUSPECT_AFTER_MS } else { LOST_AFTER_MS };
    let stage = spec
        .stage
        .as_ref()
        .and_then(|stage| registry.info(stage.name.as_str()));
    let bound = stage.is_some_and(|info| info.bound);
    let then = if bound { OnLost::Wait } else { OnLost::Reassign };
    (
        spec.timeout.lost_ms.unwrap_or(after),
        spec.timeout.on_lost.unwrap_or(then),
    )
}
