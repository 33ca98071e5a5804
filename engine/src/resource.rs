//! What work needs and what executors have: declared, compared and added up, never coded.

use serde::{Deserialize, Serialize};

/// An amount of each resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Cores. Light work that mostly waits needs 0.
    pub cpu: u32,
    /// Bytes of memory.
    pub memory: u64,
}

impl Resources {
    /// Whether `self` fits into what `capacity` has left beside `held`.
    pub fn fits(self, capacity: Self, held: Self) -> bool {
        self.cpu <= capacity.cpu.saturating_sub(held.cpu)
            && self.memory <= capacity.memory.saturating_sub(held.memory)
    }

    /// `self`, but never more cores than `capacity` has: "all cores" is a fair demand anywhere.
    pub fn clamped(self, capacity: Self) -> Self {
        Self {
            cpu: self.cpu.min(capacity.cpu),
            ..self
        }
    }
}

impl std::ops::AddAssign for Resources {
    fn add_assign(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
    }
}

impl std::ops::SubAssign for Resources {
    fn sub_assign(&mut self, other: Self) {
        self.cpu = self.cpu.saturating_sub(other.cpu);
        self.memory = self.memory.saturating_sub(other.memory);
    }
}
