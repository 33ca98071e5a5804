//! When the next epoch comes: by command only, by the time, or by the time unless somebody holds it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Shared;

/// How the devnet's epochs pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Only by `Devnet.Mine` and its like.
    Manual,
    /// One every so often.
    Timed(Duration),
    /// The same, but not while a client holds the epoch with `Devnet.Hold`.
    OnDemand(Duration),
}

/// The shortest time of an epoch.
pub(super) const BLOCK_TIME_MIN: Duration = Duration::from_millis(10);
/// The longest hold.
const HOLD_MAX: Duration = Duration::from_secs(3600);
/// The most holds.
const HOLDS: usize = 1000;

/// What the clock does now.
#[derive(Debug, Clone)]
pub(super) struct State {
    clock: Clock,
    paused: bool,
    holds: BTreeMap<String, Instant>,
}

impl State {
    fn new(clock: Clock) -> Self {
        Self {
            clock,
            paused: false,
            holds: BTreeMap::new(),
        }
    }

    /// How long to wait for the next epoch, or nothing where none comes by itself; and when to look again.
    fn next(&self, now: Instant) -> (Option<Duration>, Option<Instant>) {
        let (time, held) = match self.clock {
            Clock::Manual => (None, None),
            Clock::Timed(time) => (Some(time), None),
            Clock::OnDemand(time) => (
                Some(time),
                self.holds.values().filter(|end| **end > now).max().copied(),
            ),
        };
        match (self.paused, held) {
            (true, _) => (None, None),
            (false, Some(end)) => (None, Some(end)),
            (false, None) => (time, None),
        }
    }
}

/// The clock's handle.
#[derive(Debug)]
pub(super) struct Control(watch::Sender<State>);

impl Control {
    pub(super) fn new(clock: Clock) -> Self {
        Self(watch::Sender::new(State::new(clock)))
    }

    /// Epochs of so many milliseconds from now on; 0 stops the time.
    pub(super) fn set_block_time(&self, milliseconds: u64) -> Result<(), String> {
        let time = Duration::from_millis(milliseconds);
        if milliseconds > 0 && time < BLOCK_TIME_MIN {
            return Err(format!(
                "a block time is {} ms at least",
                BLOCK_TIME_MIN.as_millis()
            ));
        }
        self.0.send_modify(|state| {
            state.clock = match state.clock {
                _ if milliseconds == 0 => Clock::Manual,
                Clock::OnDemand(_) => Clock::OnDemand(time),
                _ => Clock::Timed(time),
            };
        });
        Ok(())
    }

    pub(super) fn pause(&self, paused: bool) {
        // Only a change wakes the clock: told the same again and again it must not begin the epoch anew.
        self.0
            .send_if_modified(|state| std::mem::replace(&mut state.paused, paused) != paused);
    }

    /// Holds the epoch under a name, for so many seconds at most.
    pub(super) fn hold(&self, name: String, seconds: u64) -> Result<(), String> {
        let time = Duration::from_secs(seconds);
        if time > HOLD_MAX || name.len() > 256 {
            return Err("a hold lasts an hour at most, and its name has 256 bytes at most".into());
        }
        let mut told = Ok(());
        self.0.send_modify(|state| {
            let now = Instant::now();
            state.holds.retain(|_, end| *end > now);
            if !matches!(state.clock, Clock::OnDemand(_)) {
                told = Err("only a clock that is on demand can be held".into());
            } else if state.holds.len() >= HOLDS {
                told = Err(format!("there are {HOLDS} holds already"));
            } else {
                state.holds.insert(name, now + time);
            }
        });
        told
    }

    /// Ends a hold. Tells whether there was one.
    pub(super) fn release(&self, name: &str) -> bool {
        let mut was = false;
        self.0
            .send_modify(|state| was = state.holds.remove(name).is_some());
        was
    }
}

/// Mines as the clock says, until it is told to end or a block cannot be made.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut states = shared.clock.0.subscribe();
    loop {
        let (time, look_again) = states.borrow_and_update().next(Instant::now());
        let wait = async {
            match (time, look_again) {
                (Some(time), _) => tokio::time::sleep(time).await,
                (None, Some(end)) => tokio::time::sleep_until(end.into()).await,
                (None, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            () = wait => if time.is_some() && !mine(&shared).await { return },
        }
    }
}

/// One block. Tells whether the chain can go on.
async fn mine(shared: &Arc<Shared>) -> bool {
    let shared = shared.clone();
    let mined = tokio::task::spawn_blocking(move || {
        shared
            .core()
            .and_then(|mut core| core.mine(0).map_err(|e| e.to_string()))
    });
    match mined.await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::error!(%error, "the devnet makes no more blocks");
            false
        }
        Err(error) => {
            tracing::error!(%error, "making a block panicked; the devnet makes no more");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_stop_a_clock_on_demand_until_they_end() {
        let time = Duration::from_millis(100);
        let control = Control::new(Clock::OnDemand(time));
        let next = |control: &Control| control.0.borrow().next(Instant::now());
        assert_eq!(next(&control), (Some(time), None));
        control.hold("a".into(), 60).unwrap();
        control.hold("b".into(), 0).unwrap();
        assert_eq!(next(&control).0, None);
        assert!(control.release("a") && !control.release("a"));
        // A hold of no time does not hold.
        assert_eq!(next(&control), (Some(time), None));
        control.pause(true);
        assert_eq!(next(&control), (None, None));
        assert!(control.hold("c".into(), 3601).is_err());
        assert!(Control::new(Clock::Timed(time)).hold("a".into(), 1).is_err());
        assert!(control.set_block_time(1).is_err());
        control.pause(false);
        control.set_block_time(0).unwrap();
        assert_eq!(next(&control), (None, None));
    }
}
