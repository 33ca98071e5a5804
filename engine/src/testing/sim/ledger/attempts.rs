//! What attempts may do: start, end once, wait and wake.

use super::*;
use crate::failure::FailureClass;
use crate::workflow::WaitSpec;

impl Ledger {
    pub(super) fn attempt(&mut self, event: &Event, at: u64) -> Result<(), String> {
        match event {
            Event::AttemptStarted {
                step,
                visit,
                attempt,
                token,
                executor,
                held,
            } => {
                let place = self.starts(step, *visit, *attempt, at)?;
                let fence = (step.clone(), *attempt);
                demand!(
                    self.started.insert(fence, token.clone()).is_none(),
                    "the same attempt starts twice"
                );
                self.place_mut(place).current = Some(Holding {
                    attempt: *attempt,
                    executor: executor.clone(),
                    held: *held,
                    started_at: at,
                });
            }
            Event::AttemptSucceeded {
                step,
                attempt,
                output,
                ..
            } => {
                let (place, _) = self.ends(step, *attempt)?;
                let text = serde_json::to_string(output).unwrap();
                // While a run is cancelled its attempts are asked to stop, but are still the current ones:
                // one that ends its work all the same has done it.
                let stopped = self.phase == Phase::Cancelling && text.contains("\"poison\"");
                demand!(
                    stopped || !text.contains("poison"),
                    "the success of a superseded or forged attempt counts"
                );
                if matches!(output, Output::Payload { .. }) {
                    self.stats.count("payload");
                }
                let visit = self.place(place).visit;
                self.place_mut(place).history.push(format!("{visit}:done"));
                self.done(place, visit, output)?;
            }
            Event::AttemptFailed {
                step,
                attempt,
                failure,
                charged,
                still_running,
                ..
            } => self.fails(step, *attempt, failure, *charged, *still_running, at)?,
            Event::AttemptLost { step, attempt, .. } => {
                self.ends(step, *attempt)?;
                self.stats.count("lost");
            }
            Event::AttemptReleased { step, attempt } => {
                demand!(
                    self.discarding.remove(&(step.clone(), *attempt)).is_some(),
                    "nothing to release"
                );
                self.stats.count("released");
            }
            _ => return Err("it is about no attempt".to_owned()),
        }
        Ok(())
    }

    /// An output counts: at most one for a visit.
    pub(super) fn done(&mut self, at: At, visit: u32, output: &Output) -> Result<(), String> {
        let place = self.place_mut(at);
        demand!(place.successes.insert(visit), "visit {visit} succeeds twice");
        place.done = Some((visit, output.clone()));
        self.through(at);
        Ok(())
    }

    /// A step is through with the last of its items.
    pub(super) fn through(&mut self, (ix, item): At) {
        if item.is_some() && self.items(ix).iter().all(Place::is_through) {
            let step = &mut self.steps[ix.get()];
            step.visit = step.visit.max(step.least_visit);
            step.done = Some((step.visit, Output::Inline(json!({}))));
            self.stats.count("items done");
        }
    }

    fn fails(
        &mut self,
        step: &StepName,
        attempt: u32,
        failure: &Failure,
        charged: bool,
        still_running: bool,
        at: u64,
    ) -> Result<(), String> {
        let (place, holding) = self.ends(step, attempt)?;
        let late = at.saturating_sub(holding.started_at);
        let timeout = &self.graph.step(place.0).timeout;
        match failure.code.as_ref() {
            "ran_too_long" => {
                demand!(late >= timeout.run_ms.unwrap(), "given up after {late} ms");
                self.stats.count("ran too long");
            }
            "silent_too_long" => {
                demand!(late >= timeout.silence_ms.unwrap(), "given up after {late} ms");
                self.stats.count("silent too long");
            }
            _ => demand!(!still_running, "given up without a limit"),
        }
        if still_running {
            self.discarding.insert((step.clone(), attempt), holding);
        }
        let cancelling = self.phase == Phase::Cancelling;
        let critical = failure.class == FailureClass::Critical;
        demand!(charged != critical || cancelling, "charged: {charged}");
        if critical {
            self.stats.count("critical");
        }
        if place.1.is_some() {
            self.stats.count("item failed");
        }
        let place = self.place_mut(place);
        place.charged += u32::from(charged);
        place.failures += 1;
        place.failed = Some(failure.clone());
        *place.ended.entry(place.visit).or_default() += 1;
        place.history.push(format!("{}:{}", place.visit, failure.code));
        Ok(())
    }

    /// Whether what comes before the work of a step or an item is behind it.
    pub(super) fn may_begin(&self, at: At) -> Result<(), String> {
        let spec = self.graph.step(at.0);
        let step = &self.steps[at.0.get()];
        demand!(
            spec.wait.is_none() || step.waited,
            "its declared wait is not over"
        );
        let judged = step.judged || (spec.when.is_none() && spec.valid_until.is_none());
        demand!(judged, "its conditions were not looked at");
        self.is_open(at)
    }

    /// Whether all that it needs is there, and nothing was made of it yet.
    pub(super) fn is_open(&self, at: At) -> Result<(), String> {
        let spec = self.graph.step(at.0);
        for need in &spec.needs {
            demand!(
                self.steps[need.get()].is_through(),
                "step {} that it needs is not through",
                need.0
            );
        }
        demand!(
            self.lacks(at.0).is_none(),
            "a step that it cannot do without was skipped"
        );
        let place = self.place(at);
        demand!(place.done.is_none(), "it has succeeded already");
        demand!(!place.skipped, "it was skipped");
        demand!(place.current.is_none(), "it runs already");
        demand!(place.waiting.is_none(), "it waits");
        demand!(
            place.failed.is_none(),
            "it has failed and nobody asked for another attempt"
        );
        Ok(())
    }

    /// Whether a step without items could start if there were room.
    pub(in super::super) fn could_start(&self, ix: StepIx) -> bool {
        let spec = self.graph.step(ix);
        spec.stage.is_some()
            && spec.foreach.is_none()
            && self.phase == Phase::Running
            && self.discarding.is_empty()
            && self.may_begin((ix, None)).is_ok()
    }

    fn starts(&mut self, step: &StepName, visit: u32, attempt: u32, now: u64) -> Result<At, String> {
        let at = self.find(step)?;
        let spec = self.graph.step(at.0).clone();
        self.is_running("it starts")?;
        self.may_begin(at)?;
        demand!(
            self.discarding.is_empty(),
            "it starts beside an attempt that was given up"
        );
        demand!(
            spec.stage.is_some() && spec.foreach.is_some() == at.1.is_some(),
            "it has nothing to start"
        );
        let until = self.steps[at.0.get()].valid_until;
        demand!(
            until.is_none_or(|until| now < until),
            "it starts although it expired at {until:?}"
        );
        let place = self.place_mut(at);
        demand!(
            attempt == place.last_attempt + 1,
            "attempt {attempt} follows {}",
            place.last_attempt
        );
        let least = place.least_visit;
        let fits = match at.1 {
            None => visit == least,
            // Whether an item that did not start had its turn is not in the log.
            Some(_) if place.begun => visit == place.visit,
            Some(_) => visit >= least,
        };
        demand!(fits, "visit {visit} instead of {least}");
        place.last_attempt = attempt;
        place.visit = visit;
        place.begun = true;
        if let Some(foreach) = &spec.foreach {
            let under_way = |item: &&Place| item.begun && !item.is_through();
            let under_way = self.items(at.0).iter().filter(under_way).count();
            demand!(
                under_way <= foreach.max_parallel as usize,
                "{under_way} items are under way"
            );
            if under_way == foreach.max_parallel as usize {
                self.stats.count("max_parallel reached");
            }
        }
        Ok(at)
    }

    fn ends(&mut self, step: &StepName, attempt: u32) -> Result<(At, Holding), String> {
        let at = self.find(step)?;
        match self.place_mut(at).current.take() {
            Some(holding) if holding.attempt == attempt => Ok((at, holding)),
            other => Err(format!("the current attempt is {other:?}")),
        }
    }

    pub(super) fn waits(
        &mut self,
        step: &StepName,
        wake: &Wake,
        reason: WaitReason,
        attempt: Option<u32>,
        now: u64,
    ) -> Result<(), String> {
        let at = self.find(step)?;
        let spec = self.graph.clone();
        let spec = spec.step(at.0);
        match reason {
            WaitReason::Declared => {
                demand!(!self.place(at).waited, "it has waited");
                self.is_open(at)?;
                match (spec.wait.as_ref().unwrap(), wake) {
                    (WaitSpec::For(ms), Wake::At(due)) => {
                        demand!(now + ms == *due, "waits until {due}");
                        self.stats.count("wait for");
                    }
                    (WaitSpec::Signal(name), Wake::Signal(other)) => {
                        demand!(name == other, "waits for {other}");
                        self.stats.count("wait signal");
                    }
                    (WaitSpec::Approval(text), Wake::Approval(other)) => {
                        demand!(text == other, "waits for {other}");
                        self.stats.count("wait approval");
                    }
                    _ => return Err("another kind of wait than declared".to_owned()),
                }
            }
            WaitReason::Parked => {
                self.ends(step, attempt.unwrap())?;
                let place = self.place_mut(at);
                *place.ended.entry(place.visit).or_default() += 1;
                place.history.push(format!("{}:parked", place.visit));
                self.stats.count(match wake {
                    Wake::At(_) => "park for",
                    Wake::Signal(_) => "park signal",
                    Wake::Approval(_) => "park approval",
                });
            }
            WaitReason::Backoff => {
                let place = self.place_mut(at);
                let failure = place.failed.take().ok_or("it has not failed")?;
                demand!(
                    spec.retry.on.contains(&failure.class),
                    "a {:?} failure is retried",
                    failure.class
                );
                demand!(
                    place.charged < spec.retry.max_attempts,
                    "retried after {} charged attempts",
                    place.charged
                );
                let least = u64::try_from(spec.retry.backoff(place.failures).as_millis()).unwrap();
                let Wake::At(due) = wake else {
                    return Err("backs off until something else than a time".to_owned());
                };
                demand!(
                    *due >= now + least,
                    "backs off {} ms instead of {least}",
                    due - now
                );
                self.stats.count("backoff");
            }
        }
        self.place_mut(at).waiting = Some((wake.clone(), reason));
        Ok(())
    }

    pub(super) fn wakes(&mut self, step: &StepName, now: u64) -> Result<(), String> {
        let at = self.find(step)?;
        let Some((wake, reason)) = self.place_mut(at).waiting.take() else {
            return Err("it did not wait".to_owned());
        };
        match &wake {
            Wake::At(due) => demand!(now >= *due, "woken {} ms early", due - now),
            Wake::Signal(name) => demand!(self.signals.contains(name), "no such signal came"),
            Wake::Approval(_) => return Err("woken without an approval".to_owned()),
        }
        self.place_mut(at).waited |= reason == WaitReason::Declared;
        Ok(())
    }

    pub(super) fn retried(&mut self, step: &StepName) -> Result<(), String> {
        let at = self.find(step)?;
        let place = self.place_mut(at);
        let backs_off = matches!(place.waiting, Some((_, WaitReason::Backoff)));
        demand!(
            place.failed.is_some() || backs_off,
            "neither failed nor backing off"
        );
        (place.charged, place.failures, place.failed, place.waiting) = (0, 0, None, None);
        for (edge, taken) in self.graph.data().rewinds.iter().zip(&mut self.taken) {
            if edge.from == at.0 {
                *taken = 0;
            }
        }
        self.stats
            .count(if at.1.is_some() { "item retried" } else { "retried" });
        Ok(())
    }
}
