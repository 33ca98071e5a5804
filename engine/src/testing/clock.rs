//! A clock that goes only when it is told to.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{Clock, Now};

/// Both clocks stand still until they are moved.
#[derive(Debug)]
pub struct SimClock {
    wall: AtomicU64,
    mono: AtomicU64,
}

impl SimClock {
    /// A clock that shows this wall time, in milliseconds since 1970.
    pub fn new(wall_ms: u64) -> Self {
        Self {
            wall: AtomicU64::new(wall_ms),
            mono: AtomicU64::new(0),
        }
    }

    /// Moves both clocks on.
    pub fn advance(&self, ms: u64) {
        self.wall.fetch_add(ms, Ordering::Relaxed);
        self.mono.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets the wall clock, as a jump does.
    pub fn jump(&self, wall_ms: u64) {
        self.wall.store(wall_ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Now {
        Now {
            wall_ms: self.wall.load(Ordering::Relaxed),
            mono_ms: self.mono.load(Ordering::Relaxed),
        }
    }
}
