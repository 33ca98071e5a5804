//! Random plans: how steps hang together, what their attempts do, visit by visit, and what an operator asks.

use std::sync::{Arc, OnceLock};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::failure::Failure;
use crate::id::StepName;
use crate::workflow::{Graph, StepIx};

/// What one attempt does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Turn {
    Transient,
    Permanent,
    Critical,
    /// Fails with a code that may lead back.
    Back(u8),
    ParkFor(u16),
    ParkSignal,
    ParkApproval,
    /// Never ends by itself; fails at once where the step has no time limit.
    Hang,
    /// Hangs, but goes on reporting progress.
    HangTalking,
    /// Takes longer than the limit for silence, reports progress, and succeeds.
    Talk,
}

/// A step. Small numbers choose among variants; most values of each choose the plain one.
#[derive(Debug, Clone)]
pub(super) struct StepPlan {
    pub(super) needs: u16,
    pub(super) stage: u8,
    pub(super) wait: u8,
    /// Which condition it has.
    pub(super) when: u8,
    /// Where its items come from.
    pub(super) each: u8,
    pub(super) max_parallel: u32,
    /// What says until when it is worth something.
    pub(super) expires: u8,
    /// Whether it can do without steps that were skipped.
    pub(super) lenient: bool,
    pub(super) max_attempts: u32,
    pub(super) retry_on: u8,
    pub(super) timeout: u8,
    pub(super) ms: u16,
    pub(super) payload: bool,
    /// Does not stop when it is asked to.
    pub(super) stubborn: bool,
    /// The list that it gives has so many items, or one more.
    pub(super) list: u8,
    /// The flag that it gives.
    pub(super) flag: bool,
    /// How long what it gives is worth something, in milliseconds.
    pub(super) lasts: u16,
    /// For each visit, what its attempts do before one succeeds.
    pub(super) script: Vec<Vec<Turn>>,
    /// The item that can never be done.
    pub(super) poisoned: Option<u32>,
}

/// How steps hang together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// One after the other.
    Chain,
    /// Anyhow.
    Mesh,
    /// Most need only the first, so that much runs side by side when the run goes back.
    Fan,
}

#[derive(Debug, Clone)]
pub(super) struct RunPlan {
    pub(super) shape: Shape,
    pub(super) steps: Vec<StepPlan>,
    pub(super) rewinds: Vec<(u8, u8, u8, u32)>,
    /// Its priority when it starts, if it is not the workflow's.
    pub(super) priority: Option<i32>,
    /// Its workflow, once it was made.
    pub(super) made: Made,
}

/// A workflow that is made once and does not clutter what is printed of a plan.
#[derive(Clone, Default)]
pub(super) struct Made(pub(super) Arc<OnceLock<Arc<Graph>>>);

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// A step, or an item of it, as far as it has that many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) step: u8,
    pub(super) item: Option<u8>,
}

/// What an operator asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    Pause,
    Resume,
    Cancel,
    RetryAll,
    Retry(Target),
    Signal(u8),
    Approve(Target),
    Prioritize(i32),
    Rewind(Target),
    Skip(Target),
    /// Give a step the very output that it gives.
    Confirm(Target),
    /// Give a step another output than its own.
    Override(Target),
    /// Start another run that takes over what comes before this step.
    Fork(u8),
}

/// What kind of operator there is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Operator {
    /// What they ask changes nothing about the end.
    Helps,
    /// They leave steps out and give outputs of their own.
    Meddles,
    /// They do that, and cancel.
    Cancels,
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) runs: Vec<RunPlan>,
    /// After so many commits this is asked of this run.
    pub(super) asks: Vec<(u8, u8, Ask)>,
    /// How long commits take.
    pub(super) latency: u8,
    /// How long the daemon is away when it is stopped.
    pub(super) away: u32,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        4 => Just(Turn::Transient),
        1 => Just(Turn::Permanent),
        1 => Just(Turn::Critical),
        4 => prop_oneof![3 => Just(0_u8), 1 => Just(1)].prop_map(Turn::Back),
        // One of four is long enough for a run to rest.
        1 => (1..5000_u16).prop_map(|ms| Turn::ParkFor(if ms % 4 == 0 { 60_000 + ms } else { ms })),
        1 => Just(Turn::ParkSignal),
        1 => Just(Turn::ParkApproval),
        1 => Just(Turn::Hang),
        1 => Just(Turn::HangTalking),
        1 => Just(Turn::Talk),
    ]
}

fn step() -> impl Strategy<Value = StepPlan> {
    let shape = (any::<u16>(), any::<u16>(), 0..8_u8, 0..12_u8);
    let flow = (0..14_u8, 0..9_u8, 1..4_u32, 0..12_u8, any::<bool>());
    let rules = (1..4_u32, 0..5_u8, 0..4_u8);
    let script = vec(vec(turn(), 0..4), 0..4);
    let work = (
        prop_oneof![Just(0), 1..900_u16],
        any::<bool>(),
        any::<bool>(),
        script,
    );
    let gives = (
        prop_oneof![1 => Just(0_u8), 2 => 0..4_u8],
        any::<bool>(),
        0..6000_u16,
    );
    (shape, flow, rules, work, gives).prop_map(|(shape, flow, rules, work, gives)| StepPlan {
        needs: shape.0 & shape.1,
        stage: shape.2,
        wait: shape.3,
        when: flow.0,
        each: flow.1,
        max_parallel: flow.2,
        expires: flow.3,
        lenient: flow.4,
        max_attempts: rules.0,
        retry_on: rules.1,
        timeout: rules.2,
        ms: work.0,
        payload: work.1,
        stubborn: work.2,
        list: gives.0,
        flag: gives.1,
        lasts: gives.2,
        script: work.3,
        poisoned: None,
    })
}

fn run_plan(steps: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = RunPlan> {
    let code = prop_oneof![3 => Just(0_u8), 1 => Just(1), 2 => Just(2)];
    let rewinds = vec((any::<u8>(), any::<u8>(), code, 1..4_u32), 0..6);
    let shape = prop_oneof![Just(Shape::Chain), Just(Shape::Mesh), Just(Shape::Fan)];
    let priority = proptest::option::of(-2..3_i32);
    (shape, vec(step(), steps), rewinds, priority).prop_map(|(shape, steps, rewinds, priority)| RunPlan {
        shape,
        steps,
        rewinds,
        priority,
        made: Made::default(),
    })
}

fn target() -> impl Strategy<Value = Target> {
    (any::<u8>(), proptest::option::of(0..4_u8)).prop_map(|(step, item)| Target { step, item })
}

fn ask(operator: Operator) -> BoxedStrategy<Ask> {
    let helps = prop_oneof![
        2 => Just(Ask::Pause),
        2 => Just(Ask::Resume),
        2 => Just(Ask::RetryAll),
        2 => target().prop_map(Ask::Retry),
        2 => any::<u8>().prop_map(Ask::Signal),
        1 => target().prop_map(Ask::Approve),
        1 => (-3..4_i32).prop_map(Ask::Prioritize),
        3 => target().prop_map(Ask::Rewind),
        2 => target().prop_map(Ask::Confirm),
        2 => any::<u8>().prop_map(Ask::Fork),
    ];
    let meddles = prop_oneof![target().prop_map(Ask::Skip), target().prop_map(Ask::Override)];
    match operator {
        Operator::Helps => helps.boxed(),
        Operator::Meddles => prop_oneof![1 => helps, 2 => meddles].boxed(),
        Operator::Cancels => prop_oneof![2 => helps, 1 => meddles, 1 => Just(Ask::Cancel)].boxed(),
    }
}

/// One run or more, and what an operator asks of them.
pub(super) fn plan(
    runs: std::ops::RangeInclusive<usize>,
    asks: usize,
    operator: Operator,
) -> impl Strategy<Value = Plan> {
    let most_steps = if *runs.end() > 1 { 6 } else { 12 };
    let asks = vec((0..24_u8, any::<u8>(), ask(operator)), 0..=asks);
    let times = (
        prop_oneof![Just(0), 1..60_u8],
        prop_oneof![Just(0), Just(50), Just(100_000_u32)],
    );
    (vec(run_plan(1..=most_steps), runs), asks, times).prop_map(|(runs, mut asks, (latency, away))| {
        asks.sort_by_key(|(after, ..)| *after);
        Plan {
            runs,
            asks,
            latency,
            away,
        }
    })
}

impl RunPlan {
    /// What an attempt does: a function of the step, the item, the visit, and how many attempts of the
    /// visit have ended in a way that counts (not lost with a process).
    pub(super) fn turn(
        &self,
        graph: &Graph,
        (ix, item): (StepIx, Option<u32>),
        visit: u32,
        ended: u32,
    ) -> Option<Turn> {
        let plan = &self.steps[ix.get()];
        if item.is_some() && item == plan.poisoned {
            return Some(Turn::Permanent);
        }
        // Items begin at different places of the script.
        let script = plan.script.get((visit - 1 + item.unwrap_or(0)) as usize)?;
        let turn = script.get(ended as usize).copied()?;
        let timeout = &graph.step(ix).timeout;
        Some(match turn {
            Turn::Hang if timeout.silence_ms.is_none() => Turn::Transient,
            // Who talks is given up only by the limit of the whole attempt.
            Turn::HangTalking if timeout.run_ms.is_none() => Turn::Transient,
            Turn::Talk if timeout.run_ms.is_some() => Turn::HangTalking,
            other => other,
        })
    }

    /// The step or item that a request names.
    pub(super) fn named(&self, graph: &Graph, target: Target) -> StepName {
        let fans: Vec<_> = graph.steps().filter(|(_, spec)| spec.foreach.is_some()).collect();
        match target.item {
            Some(item) if !fans.is_empty() => {
                let (_, spec) = fans[usize::from(target.step) % fans.len()];
                spec.name.item(u32::from(item))
            }
            _ => graph.data().steps[usize::from(target.step) % self.steps.len()]
                .name
                .clone(),
        }
    }
}

impl Turn {
    /// The failure that it reports, if that is what it does.
    pub(super) fn failure(self) -> Option<Failure> {
        match self {
            Self::Transient => Some(Failure::transient("shaky", "try again")),
            Self::Permanent => Some(Failure::permanent("wrong", "look at it")),
            Self::Critical => Some(Failure::critical("broken", "this place is bad")),
            Self::Back(0) => Some(Failure::rewind("back0", "go back")),
            Self::Back(_) => Some(Failure::rewind("back1", "go back")),
            Self::ParkFor(_)
            | Self::ParkSignal
            | Self::ParkApproval
            | Self::Hang
            | Self::HangTalking
            | Self::Talk => None,
        }
    }
}
