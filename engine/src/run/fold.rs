//! What each event does to a run, and in which states it may happen at all.

use super::*;
use crate::event::RunEnd;
use crate::workflow::WaitSpec;

impl RunState {
    pub(super) fn set_status(&mut self, ix: StepIx, status: StepStatus, at: u64) {
        let step = &mut self.steps[ix.get()];
        step.status = status;
        step.since = at;
        self.touched.insert(ix);
        let live = matches!(
            status,
            StepStatus::Ready | StepStatus::Running | StepStatus::Waiting | StepStatus::Failed
        );
        let changed = if live {
            self.frontier.insert(ix)
        } else {
            self.frontier.remove(&ix)
        };
        if let Some((base, _)) = self.step(ix).item
            && let Some(items) = &mut self.steps[base.get()].items
            && changed
        {
            items.under_way = if live {
                items.under_way + 1
            } else {
                items.under_way - 1
            };
        }
    }

    /// The step did its work.
    pub(super) fn succeed(&mut self, ix: StepIx, output: Output, at: u64) {
        let step = &mut self.steps[ix.get()];
        step.output = Some(output);
        step.failure = None;
        step.current = None;
        step.wake = None;
        self.set_status(ix, StepStatus::Succeeded, at);
        self.through(ix, at);
    }

    /// The step is left out.
    fn skip(&mut self, ix: StepIx, why: String, at: u64) {
        self.supersede(ix);
        self.drop_items(ix, at);
        let step = &mut self.steps[ix.get()];
        step.current = None;
        step.wake = None;
        step.skipped = Some(why);
        self.set_status(ix, StepStatus::Skipped, at);
        self.through(ix, at);
    }

    /// The step's output, or its absence, counts: what needs it comes nearer.
    fn through(&mut self, ix: StepIx, at: u64) {
        if let Some((step, _)) = self.step(ix).item {
            self.item_through(step, at);
            return;
        }
        self.unfinished -= 1;
        let graph = self.graph.clone();
        for next in graph.dependents(ix) {
            let step = &mut self.steps[next.get()];
            step.unmet -= 1;
            if step.unmet == 0 && step.status == StepStatus::Pending {
                self.set_status(next, StepStatus::Ready, at);
            }
        }
    }

    pub(super) fn transition(&mut self, event: &Event, at: u64) -> Result<(), String> {
        match event {
            Event::RunStarted { .. } => return Err("the run starts twice".to_owned()),
            Event::AttemptStarted {
                step,
                visit,
                attempt,
                token,
                executor,
                held,
            } => {
                let ix = self.expect(step, &[StepStatus::Ready])?;
                if !self.may_start(ix) {
                    return Err(format!(
                        "step `{step}` starts while the run is {}",
                        self.status.as_str()
                    ));
                }
                let first = self.must_wait(ix) || self.must_judge(ix) || self.must_list(ix);
                if !self.spec(ix).works() || first {
                    return Err(format!(
                        "step `{step}` has no stage, or something must come first"
                    ));
                }
                let state = &mut self.steps[ix.get()];
                if *visit != state.visit || *attempt != state.attempts + 1 {
                    return Err(format!("attempt {visit}.{attempt} of `{step}` is out of order"));
                }
                state.attempts = *attempt;
                state.ran_on = Some(executor.clone());
                state.current = Some(Current {
                    attempt: *attempt,
                    token: token.clone(),
                    executor: executor.clone(),
                    held: *held,
                    started_at: at,
                });
                self.set_status(ix, StepStatus::Running, at);
            }
            Event::AttemptSucceeded {
                step,
                attempt,
                output,
                seconds,
            } => {
                let ix = self.expect_attempt(step, *attempt)?;
                self.steps[ix.get()].seconds = *seconds;
                self.succeed(ix, output.clone(), at);
            }
            Event::AttemptFailed {
                step,
                attempt,
                failure,
                charged,
                seconds,
                still_running,
            } => {
                let ix = self.expect_attempt(step, *attempt)?;
                if *still_running {
                    self.supersede(ix);
                }
                let state = &mut self.steps[ix.get()];
                state.current = None;
                state.seconds = *seconds;
                state.failures += 1;
                state.charged += u32::from(*charged);
                state.failure = Some(failure.clone());
                self.set_status(ix, StepStatus::Failed, at);
            }
            Event::AttemptLost { step, attempt, .. } => {
                let ix = self.expect_attempt(step, *attempt)?;
                self.steps[ix.get()].current = None;
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::AttemptPreempted { step, attempt, .. } => {
                let ix = self.expect_attempt(step, *attempt)?;
                self.supersede(ix);
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::AttemptReleased { step, attempt } => {
                if self.discarding.remove(&(step.clone(), *attempt)).is_none() {
                    return Err(format!("attempt {attempt} of `{step}` is not being discarded"));
                }
            }
            Event::StepWaiting {
                step,
                wake,
                reason,
                attempt,
            } => {
                let ix = match attempt {
                    Some(attempt) => self.expect_attempt(step, *attempt)?,
                    None => self.expect(step, &[StepStatus::Ready, StepStatus::Failed])?,
                };
                let state = &mut self.steps[ix.get()];
                state.current = None;
                state.wake = Some((wake.clone(), *reason));
                self.set_status(ix, StepStatus::Waiting, at);
            }
            Event::StepWoken { step } => {
                let ix = self.expect(step, &[StepStatus::Waiting])?;
                let state = &mut self.steps[ix.get()];
                if let Some((_, WaitReason::Declared)) = state.wake.take() {
                    state.waited = true;
                }
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::StepPassed { step } => {
                let ix = self.expect(step, &[StepStatus::Ready])?;
                if self.spec(ix).works() || self.must_wait(ix) || self.must_judge(ix) {
                    return Err(format!("step `{step}` has more to do than to pass"));
                }
                self.succeed(ix, Output::Inline(Value::Object(serde_json::Map::new())), at);
            }
            Event::StepJudged {
                step,
                skip,
                valid_until,
            } => {
                let ix = self.expect(step, &[StepStatus::Ready])?;
                if !self.must_judge(ix) {
                    return Err(format!("the conditions of step `{step}` are settled"));
                }
                let state = &mut self.steps[ix.get()];
                state.judged = true;
                state.valid_until = *valid_until;
                self.touched.insert(ix);
                if let Some(why) = skip {
                    let needs = &self.graph.step(ix).needs;
                    let failed = needs.iter().map(|need| self.step(*need));
                    let failed = failed.into_iter().any(|need| need.given_up || need.after_failure);
                    let handles = !self.graph.step(ix).on_failure.is_empty();
                    self.skip(ix, why.clone(), at);
                    self.steps[ix.get()].after_failure = failed && !handles;
                }
            }
            Event::ItemsListed { step, count } => self.list_items(step, *count, at)?,
            Event::StepExpired { step } => {
                let live = [
                    StepStatus::Ready,
                    StepStatus::Running,
                    StepStatus::Waiting,
                    StepStatus::Failed,
                ];
                let ix = self.expect(step, &live)?;
                let Some(until) = self.step(ix).valid_until else {
                    return Err(format!("step `{step}` does not expire"));
                };
                self.supersede(ix);
                self.drop_items(ix, at);
                let state = &mut self.steps[ix.get()];
                state.wake = None;
                state.valid_until = None;
                state.failures += 1;
                state.failure = Some(Failure::rewind(
                    "valid_until_passed",
                    format!(
                        "it was worth something until {} only",
                        crate::clock::rfc3339(until)
                    ),
                ));
                self.set_status(ix, StepStatus::Failed, at);
            }
            Event::StepGivenUp { step, .. } => {
                let ix = self.find_or(step)?;
                let live = matches!(self.step(ix).status, StepStatus::Failed | StepStatus::Running);
                if !live || self.step(ix).given_up || self.step(ix).item.is_some() {
                    return Err(format!("step `{step}` is {}", self.step(ix).status.as_str()));
                }
                let items = self.items(ix).iter();
                let failure = items.rev().find_map(|item| self.step(*item).failure.clone());
                self.supersede(ix);
                self.drop_items(ix, at);
                let state = &mut self.steps[ix.get()];
                state.given_up = true;
                state.wake = None;
                state.failure = state.failure.take().or(failure);
                self.set_status(ix, StepStatus::Failed, at);
                self.frontier.remove(&ix);
                self.through(ix, at);
            }
            Event::RunClosing => self.close(at)?,
            Event::StepSkipped { step, by } => {
                let ix = self.find_or(step)?;
                if self.step(ix).is_through() {
                    return Err(format!("step `{step}` is {}", self.step(ix).status.as_str()));
                }
                self.skip(ix, format!("skipped by {}", by.text()), at);
            }
            Event::StepOverridden { step, output, .. } => {
                let ix = self.find_or(step)?;
                if self.spec(ix).foreach.is_some() && self.step(ix).item.is_none() {
                    return Err(format!("step `{step}` has items; override them one by one"));
                }
                if self.step(ix).status == StepStatus::Pending {
                    return Err(format!("step `{step}` is pending"));
                }
                self.redo(ix, at);
                self.succeed(ix, output.clone(), at);
            }
            Event::StepAdopted {
                step, output, ran_on, ..
            } => {
                let ix = self.find_or(step)?;
                if self.seq > 1 || self.step(ix).is_through() || self.step(ix).unmet > 0 {
                    return Err(format!("step `{step}` cannot be taken over now"));
                }
                self.steps[ix.get()].ran_on.clone_from(ran_on);
                self.succeed(ix, output.clone(), at);
            }
            Event::StepApproved { step, .. } => {
                let ix = self.expect(step, &[StepStatus::Waiting])?;
                let state = &mut self.steps[ix.get()];
                let reason = match state.wake.take() {
                    Some((Wake::Approval(_), reason)) => reason,
                    _ => return Err(format!("step `{step}` does not wait for an approval")),
                };
                state.waited |= reason == WaitReason::Declared;
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::RunMigrated {
                graph, params, again, ..
            } => self.migrate(graph, params, again, at)?,
            Event::RunPrioritized { priority, .. } => self.priority = *priority,
            Event::Rewound { on, from, to } => self.rewind(on, from, to, at)?,
            Event::SignalReceived { name, data, .. } => {
                self.signals.insert(name.clone(), data.clone());
            }
            Event::RunPaused { reason } => {
                if self.status != RunStatus::Running {
                    return Err(format!("it is paused while {}", self.status.as_str()));
                }
                self.status = RunStatus::Paused;
                self.pause = Some(reason.clone());
            }
            Event::RunResumed { .. } => {
                if self.status != RunStatus::Paused {
                    return Err(format!("it is resumed while {}", self.status.as_str()));
                }
                self.status = RunStatus::Running;
                self.pause = None;
            }
            Event::StepRetried { step, .. } => {
                let ix = self.expect(step, &[StepStatus::Failed, StepStatus::Waiting])?;
                let base = self.base(ix);
                let state = &mut self.steps[ix.get()];
                state.charged = 0;
                state.failures = 0;
                state.wake = None;
                let edges = self.graph.data().rewinds.iter().zip(&mut self.rewinds);
                for (edge, taken) in edges {
                    if edge.from == base {
                        *taken = 0;
                    }
                }
                self.set_status(ix, StepStatus::Ready, at);
            }
            Event::StepRedone { step, .. } => {
                let ix = self.find_or(step)?;
                if self.step(ix).status == StepStatus::Pending {
                    return Err(format!("step `{step}` is pending"));
                }
                match self.step(ix).item {
                    Some(_) => self.redo(ix, at),
                    None => self.again(ix, at),
                }
            }
            Event::CancelRequested { .. } => {
                self.status = RunStatus::Cancelling;
                self.pause = None;
            }
            Event::RunFinished { end } => self.finish(*end, at)?,
        }
        Ok(())
    }

    fn find_or(&self, step: &StepName) -> Result<StepIx, String> {
        self.find(step)
            .ok_or_else(|| format!("there is no step `{step}`"))
    }

    pub(super) fn expect(&self, step: &StepName, wanted: &[StepStatus]) -> Result<StepIx, String> {
        let ix = self.find_or(step)?;
        let status = self.step(ix).status;
        if wanted.contains(&status) {
            Ok(ix)
        } else {
            Err(format!("step `{step}` is {}", status.as_str()))
        }
    }

    fn expect_attempt(&self, step: &StepName, attempt: u32) -> Result<StepIx, String> {
        let ix = self.expect(step, &[StepStatus::Running])?;
        match &self.step(ix).current {
            Some(current) if current.attempt == attempt => Ok(ix),
            _ => Err(format!("attempt {attempt} of `{step}` is not the current one")),
        }
    }

    /// Stops counting on the running attempt of a step.
    pub(super) fn supersede(&mut self, ix: StepIx) {
        let Some(key) = self.current_key(ix) else { return };
        if let Some(current) = self.steps[ix.get()].current.take() {
            let Current {
                attempt,
                token,
                executor,
                held,
                ..
            } = current;
            let discarding = Discarding {
                key: key.clone(),
                token,
                executor,
                held,
            };
            self.discarding.insert((key.step, attempt), discarding);
        }
    }

    fn rewind(&mut self, on: &str, from: &StepName, to: &StepName, at: u64) -> Result<(), String> {
        let from_ix = self.expect(from, &[StepStatus::Failed])?;
        let to_ix = self.find_or(to)?;
        let base = self.base(from_ix);
        let edges = &self.graph.data().rewinds;
        let edge = edges
            .iter()
            .position(|edge| edge.on == on && edge.from == base && edge.to == to_ix);
        let edge = edge.ok_or_else(|| format!("there is no way back from `{from}` to `{to}` on `{on}`"))?;
        self.rewinds[edge] += 1;
        self.again(to_ix, at);
        Ok(())
    }

    /// Begins another visit of a step and of all that need it.
    fn again(&mut self, first: StepIx, at: u64) {
        for ix in self.graph.with_descendants(first) {
            self.fresh(ix, at);
        }
        self.settle_needs(first, at);
    }

    /// Makes a step or an item as if it had not been done: what needs it begins another visit.
    fn redo(&mut self, ix: StepIx, at: u64) {
        match self.step(ix).item {
            Some((step, _)) if self.step(ix).is_through() => self.item_again(ix, step, at),
            Some(_) => {
                self.supersede(ix);
                let state = &mut self.steps[ix.get()];
                state.reset();
                state.visit += 1;
                self.set_status(ix, StepStatus::Ready, at);
            }
            None => self.again(ix, at),
        }
    }

    /// A step is pending, in another visit if it had begun one.
    pub(super) fn fresh(&mut self, ix: StepIx, at: u64) {
        self.supersede(ix);
        self.drop_items(ix, at);
        if let Some(WaitSpec::Signal(name)) = &self.graph.step(ix).wait {
            // The next visit waits for a signal of its own.
            self.signals.remove(name);
        }
        let state = &mut self.steps[ix.get()];
        if state.is_through() {
            self.unfinished += 1;
        }
        if state.status != StepStatus::Pending {
            state.visit += 1;
        }
        state.reset();
        self.set_status(ix, StepStatus::Pending, at);
    }

    /// Counts again what a step and those that need it still need; what needs nothing is ready.
    pub(super) fn settle_needs(&mut self, first: StepIx, at: u64) {
        // Needs come first in this order, so what a step needs is settled before it.
        let graph = self.graph.clone();
        for ix in graph.with_descendants(first) {
            let needs = &graph.step(ix).needs;
            let unmet = needs.iter().filter(|need| !self.step(**need).is_through());
            let unmet = u32::try_from(unmet.count()).unwrap_or(u32::MAX);
            self.steps[ix.get()].unmet = unmet;
            if unmet == 0 && self.step(ix).status == StepStatus::Pending {
                self.set_status(ix, StepStatus::Ready, at);
            }
        }
    }

    /// What a cancelled run leaves undone is left; what is done at the end begins.
    fn close(&mut self, at: u64) -> Result<(), String> {
        if self.status != RunStatus::Cancelling || self.closing || !self.graph.has_finally() {
            return Err("nothing is to be done at the end".to_owned());
        }
        let graph = self.graph.clone();
        for (ix, spec) in graph.steps() {
            if self.step(ix).current.is_some() {
                return Err(format!("step `{}` still runs", spec.name));
            }
            if spec.finally {
                let before = spec.needs.iter().filter(|need| graph.step(**need).finally);
                let unmet = before.filter(|need| !self.step(**need).is_through()).count();
                self.steps[ix.get()].unmet = u32::try_from(unmet).unwrap_or(u32::MAX);
                if unmet == 0 && self.step(ix).status == StepStatus::Pending {
                    self.set_status(ix, StepStatus::Ready, at);
                }
            } else if !self.step(ix).is_through() {
                for slot in self.items(ix).to_vec() {
                    if !self.step(slot).is_through() && self.step(slot).status != StepStatus::Pending {
                        self.steps[slot.get()].wake = None;
                        self.set_status(slot, StepStatus::Cancelled, at);
                    }
                }
                self.steps[ix.get()].wake = None;
                self.set_status(ix, StepStatus::Cancelled, at);
                self.unfinished -= 1;
            }
        }
        self.closing = true;
        Ok(())
    }

    fn finish(&mut self, end: RunEnd, at: u64) -> Result<(), String> {
        match end {
            RunEnd::Succeeded if !self.all_done() => return Err("it succeeds with steps undone".to_owned()),
            RunEnd::Succeeded if self.status != RunStatus::Running => {
                return Err(format!("it succeeds while {}", self.status.as_str()));
            }
            RunEnd::Cancelled if self.status != RunStatus::Cancelling => {
                return Err("it is cancelled unasked".to_owned());
            }
            RunEnd::Succeeded => self.status = RunStatus::Succeeded,
            RunEnd::Cancelled => {
                for at_step in 0..self.steps.len() {
                    let ix = StepIx(u32::try_from(at_step).unwrap_or(u32::MAX));
                    if self.step(ix).current.is_some() {
                        return Err(format!("step `{}` still runs", self.name(ix)));
                    }
                    // Items that were never let go stay as they are: there may be thousands.
                    let untouched =
                        self.step(ix).item.is_some() && self.step(ix).status == StepStatus::Pending;
                    if !self.step(ix).is_through() && !untouched {
                        self.steps[at_step].wake = None;
                        self.set_status(ix, StepStatus::Cancelled, at);
                    }
                }
                self.status = RunStatus::Cancelled;
            }
        }
        Ok(())
    }
}
