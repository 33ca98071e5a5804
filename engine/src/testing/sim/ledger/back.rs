//! What is undone: going back, expiring, leaving out, giving and taking over outputs.

use super::*;
use crate::failure::FailureClass;
use crate::workflow::WaitSpec;

impl Ledger {
    pub(super) fn rewinds(&mut self, on: &str, from: &StepName, to: &StepName) -> Result<(), String> {
        let (from, (to, _)) = (self.find(from)?, self.find(to)?);
        let failure = self.place(from).failed.clone().ok_or("it has not failed")?;
        demand!(
            failure.class == FailureClass::Rewind && failure.code == on,
            "it failed with {failure}"
        );
        let edges = &self.graph.data().rewinds;
        let edge = edges
            .iter()
            .position(|edge| edge.on == on && edge.from == from.0 && edge.to == to);
        let edge = edge.ok_or("no such edge")?;
        self.taken[edge] += 1;
        demand!(
            self.taken[edge] <= edges[edge].max,
            "taken {} times",
            self.taken[edge]
        );
        self.again(to);
        self.rewound += 1;
        self.stats.count("rewound");
        if from.1.is_some() {
            self.stats.count("rewound by item");
        }
        Ok(())
    }

    /// Only what has begun can be done again, or be given another output.
    pub(super) fn has_begun(&self, (ix, item): At) -> Result<(), String> {
        let begun = item.is_some() || self.steps[ix.get()].is_through() || self.needs_are_met(ix);
        demand!(begun, "it has not begun");
        Ok(())
    }

    fn needs_are_met(&self, ix: StepIx) -> bool {
        let needs = &self.graph.step(ix).needs;
        needs.iter().all(|need| self.steps[need.get()].is_through())
    }

    /// Another visit of a step and of all that need it.
    pub(super) fn again(&mut self, to: StepIx) {
        let mut steps = self.dependents(to);
        steps.insert(to);
        self.undo(&steps);
    }

    /// All that need a step, found by their needs.
    fn dependents(&self, to: StepIx) -> BTreeSet<StepIx> {
        let mut found = BTreeSet::from([to]);
        for (ix, spec) in self.graph.steps() {
            if spec.needs.iter().any(|need| found.contains(need)) {
                found.insert(ix);
            }
        }
        found.remove(&to);
        found
    }

    /// Whether anything that needs a step can expire.
    pub(in super::super) fn expires_behind(&self, ix: StepIx) -> bool {
        let mut behind = self.dependents(ix).into_iter();
        behind.any(|ix| self.graph.step(ix).valid_until.is_some())
    }

    fn undo(&mut self, steps: &BTreeSet<StepIx>) {
        // A step whose needs were met has begun its visit, and one that is through without them.
        let begun = |ix: &StepIx| self.has_begun((*ix, None)).is_ok();
        let begun: BTreeSet<StepIx> = steps.iter().copied().filter(begun).collect();
        for ix in steps {
            self.drop_items(*ix);
            self.supersede((*ix, None));
            if let Some(WaitSpec::Signal(signal)) = &self.graph.step(*ix).wait {
                self.signals.remove(signal);
            }
            let place = &mut self.steps[ix.get()];
            place.least_visit += u32::from(begun.contains(ix));
            place.clear();
        }
    }

    /// One item again, and all that need its step.
    pub(super) fn item_again(&mut self, at: At) {
        if self.steps[at.0.get()].done.is_some() {
            let steps = self.dependents(at.0);
            self.undo(&steps);
            self.steps[at.0.get()].done = None;
        }
        self.supersede(at);
        self.place_mut(at).renew();
    }

    fn drop_items(&mut self, ix: StepIx) {
        for item in 0..self.steps[ix.get()].listed.unwrap_or(0) {
            self.supersede((ix, Some(item)));
            self.place_mut((ix, Some(item))).renew();
        }
        self.steps[ix.get()].listed = None;
    }

    fn supersede(&mut self, at: At) {
        if let Some(holding) = self.place_mut(at).current.take() {
            self.discarding.insert((self.name(at), holding.attempt), holding);
            self.stats.count("superseded");
            if at.1.is_some() {
                self.stats.count("item superseded");
            }
        }
    }

    pub(super) fn expires(&mut self, step: &StepName, now: u64) -> Result<(), String> {
        let (ix, item) = self.find(step)?;
        let until = self.steps[ix.get()].valid_until.take();
        demand!(
            item.is_none() && until.is_some_and(|until| now >= until),
            "it is worth something until {until:?}"
        );
        demand!(!self.steps[ix.get()].is_through(), "it is through");
        self.supersede((ix, None));
        self.drop_items(ix);
        let place = &mut self.steps[ix.get()];
        place.failures += 1;
        place.waiting = None;
        place.failed = Some(Failure::rewind("valid_until_passed", ""));
        self.stats.count("expired");
        Ok(())
    }

    pub(super) fn skips(&mut self, step: &StepName) -> Result<(), String> {
        let at = self.find(step)?;
        demand!(!self.place(at).is_through(), "it is through");
        self.leave_out(at);
        self.place_mut(at).by_person = true;
        self.through(at);
        self.stats
            .count(if at.1.is_some() { "item skipped" } else { "skipped" });
        Ok(())
    }

    pub(super) fn leave_out(&mut self, at: At) {
        self.supersede(at);
        if at.1.is_none() {
            self.drop_items(at.0);
        }
        let place = self.place_mut(at);
        (place.waiting, place.failed, place.skipped) = (None, None, true);
    }

    pub(super) fn overridden(&mut self, step: &StepName, output: &Output) -> Result<(), String> {
        let at = self.find(step)?;
        demand!(
            at.1.is_some() || self.graph.step(at.0).foreach.is_none(),
            "a step with items has no output of its own"
        );
        self.has_begun(at)?;
        match at {
            (ix, None) => self.again(ix),
            at => self.item_again(at),
        }
        let place = self.place_mut(at);
        place.by_person = true;
        place.visit = place.least_visit;
        let visit = place.visit;
        self.done(at, visit, output)?;
        self.stats.count(if at.1.is_some() {
            "item overridden"
        } else {
            "overridden"
        });
        Ok(())
    }

    pub(super) fn adopts(&mut self, step: &StepName, output: &Output, from: &RunId) -> Result<(), String> {
        let at = self.find(step)?;
        demand!(self.seq == 1 && at.1.is_none(), "taken over too late");
        self.is_open(at)?;
        self.adopted.push((from.clone(), step.clone(), output.clone()));
        self.place_mut(at).by_person = true;
        self.place_mut(at).visit = 1;
        self.done(at, 1, output)?;
        self.stats.count("adopted");
        Ok(())
    }
}

impl Place {
    /// As if nothing had been made of it.
    fn clear(&mut self) {
        (self.done, self.waiting, self.failed) = (None, None, None);
        (self.charged, self.failures, self.waited, self.judged) = (0, 0, false, false);
        (self.skipped, self.by_person, self.begun) = (false, false, false);
        self.valid_until = None;
    }

    /// Another visit of an item.
    fn renew(&mut self) {
        if self.begun || self.is_through() {
            self.least_visit = self.least_visit.max(self.visit) + 1;
        }
        self.clear();
    }
}
