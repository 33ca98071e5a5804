//! Keeps transfers to a number of bytes in a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Hands out time slots: each transfer takes the next one, as long as its bytes need.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            next: Mutex::new(Instant::now()),
        }
    }

    /// How long a transfer of so many bytes waits before it begins.
    fn delay(&self, now: Instant, bytes: u64) -> Duration {
        let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) else {
            return Duration::ZERO;
        };
        let takes = u128::from(bytes) * 1_000_000 / u128::from(rate);
        let takes = Duration::from_micros(u64::try_from(takes).unwrap_or(u64::MAX));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = (*next).max(now);
        *next = begins + takes;
        begins.duration_since(now)
    }

    /// Waits until a transfer of so many bytes may begin.
    pub(super) async fn wait(&self, bytes: u64) {
        let delay = self.delay(Instant::now(), bytes);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_take_turns() {
        let free = Pace::new(None);
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(free.delay(now, u64::MAX), Duration::ZERO);
        let pace = Pace::new(Some(1000));
        assert_eq!(pace.delay(now, 500), Duration::ZERO);
        assert_eq!(pace.delay(now, 2000), Duration::from_millis(500));
        assert_eq!(pace.delay(now, 1), Duration::from_millis(2500));
        assert_eq!(pace.delay(now + Duration::from_secs(60), 1), Duration::ZERO);
    }
}
