//! Fan-outs: a step with `foreach` has items, each with attempts, failures and an output of its own.
//! Items are places behind those of the steps, and keep their place over visits, so that attempt numbers
//! only grow.

use super::*;
use crate::workflow::Foreach;

/// The items of one visit of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Items {
    /// How many.
    pub total: u32,
    /// How many are not through.
    pub left: u32,
    /// The first that has not been let go.
    next: u32,
    /// Those of earlier places that are to be done again.
    again: BTreeSet<u32>,
    /// How many were let go and are not through.
    pub(super) under_way: u32,
    /// The list, once it had to be worked out.
    pub(super) list: std::sync::OnceLock<Arc<Value>>,
}

impl RunState {
    /// The items of a step are known: the first of them may start.
    pub(super) fn list_items(&mut self, step: &StepName, count: u32, at: u64) -> Result<(), String> {
        let ix = self.expect(step, &[StepStatus::Ready])?;
        if !self.must_list(ix) || self.must_wait(ix) || self.must_judge(ix) {
            return Err(format!("step `{step}` has no items to be listed now"));
        }
        if count as usize > Foreach::MAX_ITEMS {
            return Err(format!("step `{step}` has {count} items"));
        }
        // An item that was there before goes on counting its own visits.
        let visit = self.step(ix).visit;
        for index in u32::try_from(self.step(ix).slots.len()).unwrap_or(u32::MAX)..count {
            let slot = StepIx(u32::try_from(self.steps.len()).map_err(|_| "too many items")?);
            let mut state = StepState::new(StepStatus::Pending, 0, at);
            state.visit = visit;
            state.item = Some((ix, index));
            self.steps.push(state);
            let before = self.gone.remove(&self.name(slot));
            self.steps[slot.get()].go_on_after(before);
            self.steps[ix.get()].slots.push(slot);
        }
        self.steps[ix.get()].items = Some(Items {
            total: count,
            left: count,
            next: 0,
            again: BTreeSet::new(),
            under_way: 0,
            list: std::sync::OnceLock::new(),
        });
        self.set_status(ix, StepStatus::Running, at);
        self.let_go(ix, at);
        if count == 0 {
            self.succeed(ix, Output::Inline(Value::Object(serde_json::Map::new())), at);
        }
        Ok(())
    }

    /// The next items may start, as many as may be under way beside the others.
    fn let_go(&mut self, step: StepIx, at: u64) {
        let foreach = self.graph.step(step).foreach.as_ref();
        let window = foreach.map_or(1, |foreach| foreach.max_parallel);
        while let Some(items) = &mut self.steps[step.get()].items
            && items.under_way < window
        {
            let index = match items.again.pop_first() {
                Some(index) => index,
                None if items.next == items.total => return,
                None => {
                    items.next += 1;
                    items.next - 1
                }
            };
            let slot = self.steps[step.get()].slots[index as usize];
            // Somebody may have left it out, or given its output, before its turn.
            if self.step(slot).status == StepStatus::Pending {
                self.set_status(slot, StepStatus::Ready, at);
            }
        }
    }

    /// An item is through; after the last one the step is.
    pub(super) fn item_through(&mut self, step: StepIx, at: u64) {
        let Some(items) = &mut self.steps[step.get()].items else {
            return;
        };
        items.left -= 1;
        if items.left == 0 {
            self.succeed(step, Output::Inline(Value::Object(serde_json::Map::new())), at);
        } else {
            self.let_go(step, at);
        }
    }

    /// Gives up the items of a step: their attempts are superseded, and they are as if never listed. Only that
    /// something of theirs has landed outside is not forgotten.
    pub(super) fn drop_items(&mut self, step: StepIx, at: u64) {
        let done = |item: &StepIx| self.step(*item).status == StepStatus::Succeeded;
        let landed = self.items(step).iter().any(done) && self.graph.has_effect(self.spec(step));
        self.steps[step.get()].landed |= landed;
        for slot in self.items(step).to_vec() {
            self.supersede(slot);
            if self.step(slot).status != StepStatus::Pending {
                let state = &mut self.steps[slot.get()];
                state.reset();
                state.visit += 1;
                self.set_status(slot, StepStatus::Pending, at);
            }
        }
        self.steps[step.get()].items = None;
    }

    /// Does one item that is through again, and all that needs the step.
    pub(super) fn item_again(&mut self, item: StepIx, step: StepIx, at: u64) {
        if self.step(step).status == StepStatus::Succeeded {
            self.unfinished += 1;
            for ix in self.graph.with_descendants(step) {
                if ix != step {
                    self.fresh(ix, at);
                }
            }
            self.steps[step.get()].output = None;
            self.set_status(step, StepStatus::Running, at);
            self.settle_needs(step, at);
        }
        let state = &mut self.steps[item.get()];
        state.reset();
        state.visit += 1;
        let index = state.item.map_or(0, |(_, index)| index);
        self.set_status(item, StepStatus::Pending, at);
        if let Some(items) = &mut self.steps[step.get()].items {
            items.left += 1;
            items.again.insert(index);
        }
        self.let_go(step, at);
    }
}
