//! An independent reading of one run's log that knows the invariants of the design (§11) and nothing of
//! `RunState`: every committed entry passes through it. `attempts` holds what attempts may do, `back`
//! what going back does, `values` what expressions come to.

mod attempts;
mod back;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::event::{Entry, Event, Output, PauseReason, RunEnd, WaitReason};
use crate::failure::Failure;
use crate::id::{RunId, StepName, Token};
use crate::resource::Resources;
use crate::stage::Wake;
use crate::workflow::{Graph, StepIx};

/// How often things happened, over all runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Stats(pub(super) BTreeMap<&'static str, u32>);

impl Stats {
    pub(super) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    Running,
    Paused,
    Cancelling,
    Ended(RunEnd),
}

#[derive(Debug, Clone)]
pub(super) struct Holding {
    pub(super) attempt: u32,
    pub(super) executor: String,
    pub(super) held: Resources,
    started_at: u64,
}

/// A step, or an item of one.
pub(super) type At = (StepIx, Option<u32>);

/// What is known of a step or an item.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// The output that counts, with the visit that made it.
    pub(super) done: Option<(u32, Output)>,
    pub(super) skipped: bool,
    pub(super) current: Option<Holding>,
    pub(super) waiting: Option<(Wake, WaitReason)>,
    pub(super) failed: Option<Failure>,
    /// A person, or another run, gave it its output or left it out.
    pub(super) by_person: bool,
    pub(super) valid_until: Option<u64>,
    /// How many items it has, once they are listed.
    pub(super) listed: Option<u32>,
    /// The visit of the last start.
    visit: u32,
    /// No start may be of an earlier visit.
    least_visit: u32,
    last_attempt: u32,
    waited: bool,
    judged: bool,
    /// Whether an attempt of this visit started.
    begun: bool,
    charged: u32,
    failures: u32,
    successes: BTreeSet<u32>,
    /// Attempts of each visit that ended otherwise than by being lost.
    pub(super) ended: BTreeMap<u32, u32>,
    /// What those were.
    pub(super) history: Vec<String>,
}

impl Place {
    fn new() -> Self {
        Self {
            least_visit: 1,
            ..Self::default()
        }
    }

    pub(super) fn is_through(&self) -> bool {
        self.done.is_some() || self.skipped
    }

    /// How often a success was accepted.
    pub(super) fn accepted(&self) -> usize {
        self.history.iter().filter(|how| how.ends_with(":done")).count()
    }

    /// The status that the log gives it, but for the difference between ready and pending.
    pub(super) fn status(&self) -> &'static str {
        if self.done.is_some() {
            "succeeded"
        } else if self.skipped {
            "skipped"
        } else if self.current.is_some() || self.listed.is_some() {
            "running"
        } else if self.waiting.is_some() {
            "waiting"
        } else if self.failed.is_some() {
            "failed"
        } else {
            "open"
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Ledger {
    pub(super) graph: Arc<Graph>,
    pub(super) phase: Phase,
    pub(super) pause: Option<PauseReason>,
    pub(super) priority: i32,
    pub(super) steps: Vec<Place>,
    /// The items of each step; more than are listed, if it once had more.
    items: Vec<Vec<Place>>,
    pub(super) discarding: BTreeMap<(StepName, u32), Holding>,
    /// The fence of every attempt that ever started.
    pub(super) started: BTreeMap<(StepName, u32), Token>,
    /// What was taken over, and from which run.
    pub(super) adopted: Vec<(RunId, StepName, Output)>,
    params: Value,
    signals: BTreeSet<String>,
    taken: Vec<u32>,
    pub(super) rewound: u32,
    seq: u64,
    pub(super) stats: Stats,
}

macro_rules! demand {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}
use demand;

pub(super) use values::value_of;

impl Ledger {
    pub(super) fn new(graph: Arc<Graph>) -> Self {
        let steps = vec![Place::new(); graph.len()];
        let taken = vec![0; graph.data().rewinds.len()];
        Self {
            phase: Phase::Running,
            pause: None,
            priority: graph.data().priority,
            items: vec![Vec::new(); steps.len()],
            steps,
            discarding: BTreeMap::new(),
            started: BTreeMap::new(),
            adopted: Vec::new(),
            params: Value::Null,
            signals: BTreeSet::new(),
            taken,
            rewound: 0,
            seq: 0,
            stats: Stats::default(),
            graph,
        }
    }

    /// A step, or an item of those that are listed.
    pub(super) fn find(&self, name: &StepName) -> Result<At, String> {
        let (base, item) = name.split();
        let base = StepName::new(base).map_err(|error| error.to_string())?;
        let ix = self.graph.find(&base).ok_or_else(|| format!("no step {base}"))?;
        let listed = self.steps[ix.get()].listed.unwrap_or(0);
        match item {
            Some(item) if item >= listed => Err(format!("{name} is not one of {listed} items")),
            item => Ok((ix, item)),
        }
    }

    pub(super) fn place(&self, (ix, item): At) -> &Place {
        match item {
            Some(item) => &self.items[ix.get()][item as usize],
            None => &self.steps[ix.get()],
        }
    }

    fn place_mut(&mut self, (ix, item): At) -> &mut Place {
        match item {
            Some(item) => &mut self.items[ix.get()][item as usize],
            None => &mut self.steps[ix.get()],
        }
    }

    pub(super) fn name(&self, (ix, item): At) -> StepName {
        let name = &self.graph.step(ix).name;
        item.map_or_else(|| name.clone(), |item| name.item(item))
    }

    /// The listed items of a step.
    pub(super) fn items(&self, ix: StepIx) -> &[Place] {
        &self.items[ix.get()][..self.steps[ix.get()].listed.unwrap_or(0) as usize]
    }

    /// All steps and listed items.
    pub(super) fn places(&self) -> impl Iterator<Item = (At, &Place)> {
        self.graph.steps().flat_map(|(ix, _)| {
            let items = (0..).map(Some).zip(self.items(ix));
            std::iter::once((None, &self.steps[ix.get()]))
                .chain(items)
                .map(move |(item, place)| ((ix, item), place))
        })
    }

    /// What is held now.
    pub(super) fn holdings(&self) -> impl Iterator<Item = &Holding> {
        self.places()
            .filter_map(|(_, place)| place.current.as_ref())
            .chain(self.discarding.values())
    }

    pub(super) fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        demand!(
            entry.seq == self.seq + 1,
            "entry {} follows {}",
            entry.seq,
            self.seq
        );
        demand!(!entry.events.is_empty(), "entry {} is empty", entry.seq);
        self.seq = entry.seq;
        for event in &entry.events {
            self.event(event, entry.at)
                .map_err(|why| format!("entry {}, {event:?}: {why}", entry.seq))?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, at: u64) -> Result<(), String> {
        demand!(!matches!(self.phase, Phase::Ended(_)), "the run has ended");
        match event {
            Event::RunStarted { params, priority, .. } => {
                demand!(self.seq == 1, "a second start");
                self.params = params.clone();
                self.priority = priority.unwrap_or(self.priority);
            }
            Event::AttemptStarted { .. }
            | Event::AttemptSucceeded { .. }
            | Event::AttemptFailed { .. }
            | Event::AttemptLost { .. }
            | Event::AttemptReleased { .. } => self.attempt(event, at)?,
            Event::StepWaiting {
                step,
                wake,
                reason,
                attempt,
            } => self.waits(step, wake, *reason, *attempt, at)?,
            Event::StepWoken { step } => self.wakes(step, at)?,
            Event::StepApproved { step, .. } => {
                let place = self.find(step)?;
                let place = self.place_mut(place);
                match place.waiting.take() {
                    Some((Wake::Approval(_), reason)) => place.waited |= reason == WaitReason::Declared,
                    other => return Err(format!("approved while it waits for {other:?}")),
                }
                self.stats.count("approved");
            }
            Event::StepPassed { step } => {
                let (ix, _) = self.find(step)?;
                self.may_begin((ix, None))?;
                self.is_running("a step passes")?;
                let spec = self.graph.step(ix);
                demand!(spec.stage.is_none(), "a step with a stage passes");
                let place = &mut self.steps[ix.get()];
                place.visit = place.visit.max(place.least_visit);
                place.done = Some((place.visit, Output::Inline(json!({}))));
                self.stats.count("passed");
            }
            Event::StepJudged {
                step,
                skip,
                valid_until,
            } => self.judged(step, skip.as_deref(), *valid_until)?,
            Event::ItemsListed { step, count } => self.listed(step, *count)?,
            Event::StepExpired { step } => self.expires(step, at)?,
            Event::StepSkipped { step, .. } => self.skips(step)?,
            Event::StepOverridden { step, output, .. } => self.overridden(step, output)?,
            Event::StepAdopted {
                step, output, from, ..
            } => self.adopts(step, output, from)?,
            Event::Rewound { on, from, to } => self.rewinds(on, from, to)?,
            Event::StepRedone { step, .. } => {
                let place = self.find(step)?;
                self.has_begun(place)?;
                match place {
                    (ix, None) => self.again(ix),
                    at => self.item_again(at),
                }
                self.rewound += 1;
                self.stats.count(if place.1.is_some() {
                    "item redone"
                } else {
                    "redone"
                });
            }
            Event::StepRetried { step, .. } => self.retried(step)?,
            Event::SignalReceived { name, .. } => {
                self.signals.insert(name.clone());
                self.stats.count("signal");
            }
            Event::StepGivenUp { .. } | Event::RunClosing | Event::AttemptPreempted { .. } => {
                return Err("no step here handles failures, ends or is preempted".to_owned());
            }
            Event::RunMigrated { .. } => return Err("nobody moved it to another graph".to_owned()),
            Event::RunPrioritized { priority, .. } => {
                self.priority = *priority;
                self.stats.count("prioritized");
            }
            Event::RunPaused { reason } => {
                self.is_running("paused")?;
                self.phase = Phase::Paused;
                self.pause = Some(reason.clone());
                self.pauses(reason)?;
            }
            Event::RunResumed { .. } => {
                demand!(self.phase == Phase::Paused, "resumed while {:?}", self.phase);
                self.phase = Phase::Running;
                self.pause = None;
                self.stats.count("resumed");
            }
            Event::CancelRequested { .. } => {
                demand!(self.phase != Phase::Cancelling, "cancelled twice");
                self.phase = Phase::Cancelling;
                self.pause = None;
                self.stats.count("cancelled");
            }
            Event::RunFinished { end } => self.finishes(*end)?,
        }
        Ok(())
    }

    fn is_running(&self, what: &str) -> Result<(), String> {
        demand!(
            self.phase == Phase::Running,
            "{what} while the run is {:?}",
            self.phase
        );
        Ok(())
    }

    fn finishes(&mut self, end: RunEnd) -> Result<(), String> {
        demand!(
            self.holdings().next().is_none(),
            "an attempt still holds something"
        );
        match end {
            RunEnd::Succeeded => {
                self.is_running("it succeeds")?;
                demand!(self.steps.iter().all(Place::is_through), "a step is undone");
            }
            RunEnd::Cancelled => demand!(self.phase == Phase::Cancelling, "cancelled unasked"),
        }
        self.phase = Phase::Ended(end);
        Ok(())
    }

    fn pauses(&mut self, reason: &PauseReason) -> Result<(), String> {
        let failed = |step: &StepName| {
            let at = self.find(step)?;
            demand!(
                self.place(at).failed.is_some(),
                "paused for a step that has not failed"
            );
            Ok(at)
        };
        match reason {
            PauseReason::Expression { step, .. } => {
                let at = self.find(step)?;
                demand!(
                    self.puzzles(at.0),
                    "paused for an expression that can be worked out"
                );
                self.stats.count("paused by expression");
            }
            PauseReason::Operator(_) => self.stats.count("paused by operator"),
            PauseReason::Failed { step, failure } => {
                let (ix, item) = failed(step)?;
                demand!(
                    !self.graph.step(ix).retry.on.contains(&failure.class),
                    "a failure that is retried pauses the run"
                );
                self.stats.count("paused by failure");
                if item.is_some() {
                    self.stats.count("paused by item");
                }
            }
            PauseReason::RetriesUsedUp { step, attempts, .. } => {
                let at = failed(step)?;
                let charged = self.place(at).charged;
                let most = self.graph.step(at.0).retry.max_attempts;
                demand!(
                    charged == *attempts && charged == most,
                    "{charged} of {most} attempts are charged"
                );
                self.stats.count("paused by retries");
            }
            PauseReason::RewindsUsedUp { step, taken, failure } => {
                let (ix, _) = failed(step)?;
                let edges = self.graph.data().rewinds.iter().zip(&self.taken);
                let mut edges = edges.filter(|(edge, _)| edge.from == ix && edge.on == failure.code);
                let fits = edges.any(|(edge, count)| *count == *taken && *count == edge.max);
                demand!(fits, "the way back was not taken {taken} times");
                self.stats.count("paused by rewinds");
            }
        }
        Ok(())
    }
}
