//! Time, given to the engine from outside so that tests and rehearsals can simulate it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, milliseconds since 1970. It may jump. Durable wakes are stored in it.
    pub wall_ms: u64,
    /// Milliseconds since some start; never goes back. Timeouts are judged by it.
    pub mono_ms: u64,
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Both clocks, now.
    fn now(&self) -> Now;
}

/// The clocks of the machine.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Now {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            mono_ms: u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// A time in milliseconds since 1970, as people and logs read it.
pub fn rfc3339(ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(ms));
    let shown = time.filter(|_| ms < 253_402_300_800_000);
    shown.map_or_else(
        || format!("{ms} ms since 1970"),
        |time| humantime::format_rfc3339_millis(time).to_string(),
    )
}
