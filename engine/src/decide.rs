//! What is to be done about a run: a pure function of its state. A command is derived again and again
//! until the event that answers it is in the journal, so nothing depends on remembering it.

use crate::event::{PauseReason, RunEnd};
use crate::failure::FailureClass;
use crate::run::{Judgement, RunState, RunStatus, StepStatus};
use crate::stage::Wake;
use crate::workflow::{StepIx, WaitSpec};

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Start an attempt as soon as an executor has room. Answered by `AttemptStarted`.
    Start(StepIx),
    /// See that the current attempt runs. Answered by the attempt's end.
    Run(StepIx),
    /// Stop the current attempt. Answered by the attempt's end.
    Stop(StepIx),
    /// Begin the wait that the file declares. Answered by `StepWaiting`.
    Wait(StepIx, WaitSpec),
    /// Wait before the next attempt, after this many failures of the visit. Answered by `StepWaiting`.
    Backoff(StepIx, u32),
    /// See that the step wakes. Answered by `StepWoken`.
    Arm(StepIx, Wake),
    /// What the step waits for is there already. Answered by `StepWoken`.
    Wake(StepIx),
    /// The conditions of the step come to this. Answered by `StepJudged`.
    Judge(StepIx, Judgement),
    /// The step has this many items. Answered by `ItemsListed`.
    List(StepIx, u32),
    /// See that the step expires at this time (milliseconds since 1970). Answered by `StepExpired`.
    Expire(StepIx, u64),
    /// The step has nothing to do. Answered by `StepPassed`.
    Pass(StepIx),
    /// Take this way back (its place in the graph), because this step or item failed. Answered by
    /// `Rewound`.
    Rewind(usize, StepIx),
    /// The step failed for good, which another one handles. Answered by `StepGivenUp`.
    GiveUp(StepIx, PauseReason),
    /// Begin what is done at the end of a run that is cancelled. Answered by `RunClosing`.
    Close,
    /// Stop starting things. Answered by `RunPaused`.
    Pause(PauseReason),
    /// The run is over. Answered by `RunFinished`.
    Finish(RunEnd),
}

/// What is to be done about the run. Costs the number of steps that are ready, running, waiting or
/// failed.
pub fn decide(run: &RunState) -> Vec<Command> {
    let mut commands = Vec::new();
    match run.status {
        RunStatus::Succeeded | RunStatus::Cancelled => {}
        RunStatus::Cancelling if run.closing => {
            for ix in run.frontier() {
                commands.extend(step(run, ix));
            }
            if run.all_done() && run.discarding.is_empty() {
                commands.push(Command::Finish(RunEnd::Cancelled));
            }
        }
        RunStatus::Cancelling => {
            let running = run.frontier().filter(|ix| run.step(*ix).current.is_some());
            commands.extend(running.map(Command::Stop));
            if commands.is_empty() && run.discarding.is_empty() {
                commands.push(if run.graph.has_finally() {
                    Command::Close
                } else {
                    Command::Finish(RunEnd::Cancelled)
                });
            }
        }
        RunStatus::Running | RunStatus::Paused => {
            for ix in run.frontier() {
                commands.extend(run.step(ix).valid_until.map(|until| Command::Expire(ix, until)));
                commands.extend(step(run, ix));
            }
            if run.status == RunStatus::Running && run.all_done() && run.discarding.is_empty() {
                commands.push(Command::Finish(RunEnd::Succeeded));
            }
        }
    }
    commands
}

fn step(run: &RunState, ix: StepIx) -> Option<Command> {
    let state = run.step(ix);
    let spec = run.spec(ix);
    let starts = run.may_start(ix);
    match state.status {
        // What was superseded may still write where the next attempt would.
        StepStatus::Ready if !starts || !run.discarding.is_empty() => None,
        StepStatus::Ready if run.must_judge(ix) => Some(match run.judge(ix) {
            Ok(judgement) => Command::Judge(ix, judgement),
            Err(why) => puzzled(run, ix, why),
        }),
        StepStatus::Ready => Some(match &spec.wait {
            Some(wait) if run.must_wait(ix) => Command::Wait(ix, wait.clone()),
            _ if run.must_list(ix) => match run.count_items(ix) {
                Ok(count) => Command::List(ix, count),
                Err(why) => puzzled(run, ix, why),
            },
            _ if !spec.works() => Command::Pass(ix),
            _ => Command::Start(ix),
        }),
        // A step with items runs as long as they do.
        StepStatus::Running => state.current.as_ref().map(|_| Command::Run(ix)),
        StepStatus::Waiting => state.wake.as_ref().map(|(wake, _)| match wake {
            Wake::Signal(name) if run.signals.contains_key(name) => Command::Wake(ix),
            _ => Command::Arm(ix, wake.clone()),
        }),
        StepStatus::Failed => {
            let handled = run.closing || run.graph.handles_failure_of(run.base(ix));
            match failed(run, ix) {
                Some(Command::Pause(reason)) if handled => Some(Command::GiveUp(run.base(ix), reason)),
                Some(Command::Pause(_)) if !starts => None,
                // There is nothing to go back to.
                Some(Command::Rewind(..)) if run.closing => run.step(ix).failure.clone().map(|failure| {
                    let step = run.name(ix);
                    Command::GiveUp(run.base(ix), PauseReason::Failed { step, failure })
                }),
                command => command,
            }
        }
        StepStatus::Pending | StepStatus::Succeeded | StepStatus::Skipped | StepStatus::Cancelled => None,
    }
}

/// An expression cannot be worked out: a person must look.
fn puzzled(run: &RunState, ix: StepIx, why: String) -> Command {
    let step = run.name(ix);
    Command::Pause(PauseReason::Expression { step, why })
}

/// The class of the failure decides.
fn failed(run: &RunState, ix: StepIx) -> Option<Command> {
    let state = run.step(ix);
    let spec = run.spec(ix);
    let failure = state.failure.clone()?;
    let name = run.name(ix);
    if failure.class == FailureClass::Rewind {
        let edges = &run.graph.data().rewinds;
        let edge = edges
            .iter()
            .position(|edge| edge.from == run.base(ix) && edge.on == failure.code);
        return Some(match edge {
            Some(at) if run.rewinds[at] < edges[at].max => Command::Rewind(at, ix),
            Some(at) => Command::Pause(PauseReason::RewindsUsedUp {
                step: name,
                taken: run.rewinds[at],
                failure,
            }),
            None => Command::Pause(PauseReason::Failed { step: name, failure }),
        });
    }
    if !spec.retry.on.contains(&failure.class) {
        return Some(Command::Pause(PauseReason::Failed { step: name, failure }));
    }
    Some(if state.charged < spec.retry.max_attempts {
        Command::Backoff(ix, state.failures)
    } else {
        Command::Pause(PauseReason::RetriesUsedUp {
            step: name,
            attempts: state.charged,
            failure,
        })
    })
}
