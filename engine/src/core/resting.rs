//! Runs that rest are not in memory, only that they are there and when they are due. They come back as after a restart,
//! from their journal, when that time comes or somebody asks about them.

use super::*;
use crate::run::Rest;

/// Open runs that are not in memory.
#[derive(Default)]
pub(super) struct Resting {
    /// When each is due, milliseconds since 1970, and whether it is being read.
    runs: BTreeMap<RunId, (Option<u64>, bool)>,
    due: BTreeSet<(u64, RunId)>,
    keep_all: bool,
}

impl Resting {
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    pub(super) fn contains(&self, run: &RunId) -> bool {
        self.runs.contains_key(run)
    }

    fn insert(&mut self, run: &RunId, rest: Rest) {
        self.due.extend(rest.until.map(|until| (until, run.clone())));
        self.runs.insert(run.clone(), (rest.until, false));
    }

    pub(super) fn remove(&mut self, run: &RunId) {
        if let Some((Some(until), _)) = self.runs.remove(run) {
            self.due.remove(&(until, run.clone()));
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }
}

impl Core {
    /// Takes note of a run that rests, from its row alone.
    pub fn restore_resting(&mut self, row: &RunRow, rest: Rest) {
        if let Some(key) = &row.key {
            self.keys.insert(key.clone(), row.run.clone());
        }
        self.claim(&row.subject, &row.run, row.claim, false);
        self.resting.insert(&row.run, rest);
    }

    /// Keeps runs that rest: for those who have no journal to read them from again.
    #[must_use]
    pub fn keeping_all(mut self) -> Self {
        self.resting.keep_all = true;
        self
    }

    /// Whether a run rests.
    pub fn rests(&self, run: &RunId) -> bool {
        self.resting.contains(run)
    }

    /// The same. It is asked for then, and comes back by [`Core::restore`]; what is wanted of it has to wait for
    /// that, and must be asked before the next [`Core::settle`], after which the run may rest again.
    pub fn recall(&mut self, run: &RunId) -> bool {
        let Some((_, asked)) = self.resting.runs.get_mut(run) else {
            return false;
        };
        if !std::mem::replace(asked, true) {
            self.stray.push(Effect::Recall(run.clone()));
        }
        true
    }

    /// A run that rested cannot be understood: it is left alone. Its subject stays claimed.
    pub fn lose_resting(&mut self, run: &RunId, why: String) {
        self.resting.remove(run);
        tracing::error!(%run, why, "run set aside");
        self.damaged.insert(run.clone(), why);
    }

    /// Asks for runs whose time has come.
    pub(super) fn recall_due(&mut self, now: Now) {
        while let Some((due, run)) = self.resting.due.first().cloned() {
            if due > now.wall_ms {
                break;
            }
            self.resting.due.pop_first();
            self.recall(&run);
        }
    }

    /// Lets go of a run that rests, once its changes are on their way to the journal: it is read from there not before they
    /// are durable, because what is asked for is done in the order of commits.
    pub(super) fn let_rest(&mut self, run: &RunId, now: Now) {
        if self.resting.keep_all {
            return;
        }
        let Some(live) = self.runs.get(run) else { return };
        let Some(rest) = live.state.rest() else { return };
        // It was taken up because its time has come: the next tick wakes it.
        if rest.until.is_some_and(|until| until <= now.wall_ms) {
            return;
        }
        let Some(live) = self.runs.remove(run) else { return };
        for (ix, at) in &live.armed {
            self.timers.remove(&(*at, run.clone(), *ix));
        }
        for ix in live.state.frontier() {
            if let Some(until) = live.state.step(ix).valid_until {
                self.expiries.remove(&(until, run.clone(), ix));
            }
        }
        self.resting.insert(run, rest);
    }
}
