//! Leaves a store that does not answer alone for a while, so that what waits for it fails at once and what does not
//! need it goes on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long at first; each time after that twice as long.
const FIRST: Duration = Duration::from_secs(5);
/// For how long at most.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Breaker {
    /// Failures in a row after which the store is left alone.
    limit: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failures: u32,
    /// Until when, and why.
    open: Option<(Instant, String)>,
    pause: Duration,
}

impl Breaker {
    pub(super) fn new(limit: u32) -> Self {
        let state = State {
            failures: 0,
            open: None,
            pause: FIRST,
        };
        Self {
            limit: limit.max(1),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may be made now; if not, for how long not, and what happened. When the time is over one
    /// request goes through, and the others wait for what comes of it.
    pub(super) fn pass(&self, now: Instant) -> Result<(), (Duration, String)> {
        let mut state = self.state();
        let pause = state.pause;
        match &mut state.open {
            Some((until, why)) if *until > now => Err((until.duration_since(now), why.clone())),
            Some((until, _)) => {
                *until = now + pause;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn succeeded(&self) {
        let mut state = self.state();
        state.failures = 0;
        state.open = None;
        state.pause = FIRST;
    }

    pub(super) fn failed(&self, now: Instant, why: &str) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures < self.limit {
            return;
        }
        if state.open.is_some() {
            state.pause = (state.pause * 2).min(LONGEST);
        }
        state.open = Some((now + state.pause, why.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_tries_once_and_closes() {
        let breaker = Breaker::new(3);
        let start = Instant::now();
        for _ in 1..3 {
            breaker.failed(start, "it is down");
            assert!(breaker.pass(start).is_ok());
        }
        breaker.failed(start, "it is down");
        let (rest, why) = breaker.pass(start).unwrap_err();
        assert_eq!((rest, why.as_str()), (FIRST, "it is down"));
        let later = start + FIRST;
        assert!(breaker.pass(later).is_ok(), "one may try");
        assert!(breaker.pass(later).is_err(), "the others wait for it");
        breaker.failed(later, "still down");
        assert!(breaker.pass(later + FIRST).is_err(), "the pause doubles");
        assert!(breaker.pass(later + 2 * FIRST).is_ok());
        breaker.succeeded();
        assert!(breaker.pass(later).is_ok() && breaker.pass(later).is_ok());
        for n in 0..40 {
            breaker.failed(start + Duration::from_secs(n), "down");
        }
        assert!(breaker.pass(start + Duration::from_secs(39)).unwrap_err().0 <= LONGEST);
    }
}
