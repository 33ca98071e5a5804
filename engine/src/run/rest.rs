//! Runs that rest: they wait for something that is not due soon, or for a person. A provider has a hundred times as many
//! of them as of others, so nothing of them but their place is kept in memory (`core/resting.rs`).

use serde::{Deserialize, Serialize};

use super::{RunState, RunStatus, StepStatus};
use crate::stage::Wake;

/// Nothing is to be done about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// Until this time, milliseconds since 1970; without a time until somebody asks for something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Rest {
    /// A run whose next time comes sooner than this after its last entry, in milliseconds, does not rest: reading it again
    /// would cost more than keeping it.
    pub const LEAST_MS: u64 = 60_000;
}

impl RunState {
    /// Whether the run rests. Runs that work for attempts of others do not: they are asked about together with them.
    pub fn rest(&self) -> Option<Rest> {
        let open = matches!(self.status, RunStatus::Running | RunStatus::Paused);
        if !open || !self.discarding.is_empty() || self.parent.is_some() || !self.members.is_empty() {
            return None;
        }
        let mut until = None;
        for ix in self.frontier() {
            let step = self.step(ix);
            let due = match (step.status, &step.wake) {
                (StepStatus::Waiting, Some((Wake::At(at), _))) => Some(*at),
                (StepStatus::Waiting, Some((Wake::Signal(_) | Wake::Approval(_), _))) => None,
                (StepStatus::Failed, _) if self.status == RunStatus::Paused => None,
                _ => return None,
            };
            until = [until, due, step.valid_until].into_iter().flatten().min();
        }
        let soon = until.is_some_and(|until| until < self.updated_at.saturating_add(Rest::LEAST_MS));
        (!soon).then_some(Rest { until })
    }
}
