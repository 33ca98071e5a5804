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
        let visit = self.step(ix).visit;
        for index in 0..count {
            match self.step(ix).slots.get(index as usize).copied() {
                Some(slot) => {
                    let state = &mut self.steps[slot.get()];
                    state.reset();
                    state.visit = visit;
                    state.status = StepStatus::Pending;
                }
                None => {
                    let slot = StepIx(u32::try_from(self.steps.len()).map_err(|_| "too many items")?);
                    let mut state = StepState::new(StepStatus::Pending, 0, at);
                    state.visit = visit;
                    state.item = Some((ix, index));
                    self.steps.push(state);
                    self.steps[ix.get()].slots.push(slot);
                }
            }
        }
        self.steps[ix.get()].items = Some(Items {
            total: count,
            left: count,
            next: 0,
            list: std::sync::OnceLock::new(),
        });
        self.set_status(ix, StepStatus::Running, at);
        let window = self
            .graph
            .step(ix)
            .foreach
            .as_ref()
            .map_or(1, |foreach| foreach.max_parallel);
        for _ in 0..window.min(count) {
            self.let_go(ix, at);
        }
        if count == 0 {
            self.succeed(ix, Output::Inline(Value::Object(serde_json::Map::new())), at);
        }
        Ok(())
    }

    /// The next item may start.
    fn let_go(&mut self, step: StepIx, at: u64) {
        let Some(items) = &mut self.steps[step.get()].items else {
            return;
        };
        if items.next == items.total {
            return;
        }
        let index = items.next;
        items.next += 1;
        let slot = self.steps[step.get()].slots[index as usize];
        self.set_status(slot, StepStatus::Ready, at);
    }

    /// An item is through; after the last one the step is.
    pub(super) fn item_through(&mut self, step: StepIx, at: u64) {
        self.let_go(step, at);
        let Some(items) = &mut self.steps[step.get()].items else {
            return;
        };
        items.left -= 1;
        if items.left == 0 {
            self.succeed(step, Output::Inline(Value::Object(serde_json::Map::new())), at);
        }
    }

    /// Gives up the items of a step: their attempts are superseded, and they are as if never listed.
    pub(super) fn drop_items(&mut self, step: StepIx, at: u64) {
        for slot in self.items(step).to_vec() {
            self.supersede(slot);
            if self.step(slot).status != StepStatus::Pending {
                self.steps[slot.get()].reset();
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
        if let Some(items) = &mut self.steps[step.get()].items {
            items.left += 1;
        }
        let state = &mut self.steps[item.get()];
        state.reset();
        state.visit += 1;
        self.set_status(item, StepStatus::Ready, at);
    }
}
