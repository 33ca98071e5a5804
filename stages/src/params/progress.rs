//! Progress of long parameter work: what is being done, how far it is, and how long it will take at the measured
//! rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Another process makes the same set; we wait for it.
    Waiting,
    /// The circuit is laid out. Counted in constraints, whose number is not known before the end.
    Synthesis,
    /// The circuit's polynomials are evaluated at the secret point. Not counted.
    Evaluation,
    /// Curve points are multiplied by scalars and written: nearly all of the time. Counted in scalars.
    Multiplication,
    /// A file is coming over the network. Counted in bytes.
    Download,
    /// A file is read back and its digest computed. Counted in bytes.
    Digest,
    /// Files are flushed to disk and given their names. Not counted.
    Commit,
}

impl Phase {
    /// A short name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting for another process",
            Self::Synthesis => "synthesising the circuit",
            Self::Evaluation => "evaluating the circuit",
            Self::Multiplication => "multiplying points",
            Self::Download => "downloading",
            Self::Digest => "checking the digest",
            Self::Commit => "writing to disk",
        }
    }

    /// What `done` and `total` count in this phase; empty when nothing is counted.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Synthesis => "constraints",
            Self::Multiplication => "scalars",
            Self::Download | Self::Digest => "bytes",
            Self::Waiting | Self::Evaluation | Self::Commit => "",
        }
    }
}

/// One report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is going on.
    pub phase: Phase,
    /// Units done in this phase, see [`Phase::unit`].
    pub done: u64,
    /// Units in all, when known.
    pub total: Option<u64>,
    /// Time since the whole work began.
    pub elapsed: Duration,
    /// Time to the end of this phase at the rate measured in it, once that says something.
    pub eta: Option<Duration>,
}

/// How often [`Meter::watch`] reports.
const INTERVAL: Duration = Duration::from_millis(250);

/// The counters behind the reports.
pub(crate) struct Meter {
    started: Instant,
    state: Mutex<State>,
    /// Units done in the phase.
    done: AtomicU64,
    /// The same weighed by cost, for the rate.
    cost: AtomicU64,
    /// Counts along during synthesis.
    pub(crate) constraints: AtomicU64,
}

#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    since: Instant,
    total: Option<u64>,
    total_cost: u64,
    /// What was already there when the phase began and says nothing about the rate.
    head_start: u64,
}

impl Meter {
    pub(crate) fn new(phase: Phase) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            state: Mutex::new(State {
                phase,
                since: now,
                total: None,
                total_cost: 0,
                head_start: 0,
            }),
            done: AtomicU64::new(0),
            cost: AtomicU64::new(0),
            constraints: AtomicU64::new(0),
        }
    }

    /// Begins a phase of `total` units that cost `total_cost` together, of which `done` are done.
    pub(crate) fn begin(&self, phase: Phase, total: Option<u64>, total_cost: u64, done: u64) {
        let mut state = self.state();
        self.done.store(done, Ordering::Relaxed);
        self.cost.store(done, Ordering::Relaxed);
        *state = State {
            phase,
            since: Instant::now(),
            total,
            total_cost,
            head_start: done,
        };
    }

    /// Counts units that cost `cost` together.
    pub(crate) fn multiplied(&self, units: u64, cost: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
        self.cost.fetch_add(cost, Ordering::Relaxed);
    }

    /// Counts units that cost one each.
    pub(crate) fn advance(&self, units: u64) {
        self.multiplied(units, units);
    }

    /// Time since the whole work began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The state of things now.
    pub(crate) fn snapshot(&self) -> Progress {
        let state = *self.state();
        let cost = self.cost.load(Ordering::Relaxed);
        let paid = cost.saturating_sub(state.head_start);
        let eta = (state.total.is_some() && paid > 0).then(|| {
            let left = state.total_cost.saturating_sub(cost) as f64;
            Duration::try_from_secs_f64(state.since.elapsed().as_secs_f64() * left / paid as f64)
                .unwrap_or(Duration::MAX)
        });
        let done = match state.phase {
            Phase::Synthesis => self.constraints.load(Ordering::Relaxed),
            _ => self.done.load(Ordering::Relaxed),
        };
        Progress {
            phase: state.phase,
            done,
            total: state.total,
            elapsed: self.elapsed(),
            eta,
        }
    }

    /// Runs `work` and calls `progress` four times a second until it ends, and once after that.
    pub(crate) fn watch<T>(&self, progress: &(impl Fn(Progress) + Sync), work: impl FnOnce() -> T) -> T {
        let result = std::thread::scope(|scope| {
            // When `work` ends, in whatever way, the sender is dropped and the reporter stops.
            let (_working, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                while ended.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                    progress(self.snapshot());
                }
            });
            work()
        });
        progress(self.snapshot());
        result
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_leaves_out_what_was_there_before() {
        let meter = Meter::new(Phase::Waiting);
        assert_eq!(meter.snapshot().eta, None);
        meter.begin(Phase::Download, Some(100), 100, 50);
        assert_eq!(meter.snapshot().eta, None);
        meter.advance(50);
        let now = meter.snapshot();
        assert_eq!(
            (now.done, now.total, now.eta),
            (100, Some(100), Some(Duration::ZERO))
        );
    }

    #[test]
    fn the_last_report_comes_after_the_work() {
        let meter = Meter::new(Phase::Multiplication);
        meter.begin(Phase::Multiplication, Some(3), 3, 0);
        let last = Mutex::new(None);
        let result = meter.watch(&|p| *last.lock().unwrap() = Some(p.done), || {
            meter.advance(3);
            "done"
        });
        assert_eq!((result, *last.lock().unwrap()), ("done", Some(3)));
    }
}
