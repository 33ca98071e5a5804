//! What was committed last, for those who follow all runs: a bounded list in memory. It is only kept while
//! somebody follows, and a little longer. Whoever falls behind, or comes back after a restart, is told that there is a gap; the
//! journal itself has everything.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sealflow_engine::event::Entry;
use sealflow_engine::id::RunId;
use sealflow_engine::journal::Batch;
use tokio::sync::watch;

/// Entries that are kept.
const KEPT: usize = 1024;
/// How long they are kept for nobody: so long a reader may be away.
const IDLE: Duration = Duration::from_secs(300);

/// A place in the order of all commits of one daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which daemon: each start has another number.
    pub epoch: u64,
    /// Entries that it had committed.
    pub number: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no place in the order of all events, as in 12-3456");
        let (epoch, number) = text.split_once('-').ok_or_else(wrong)?;
        let parse = |part: &str| part.parse::<u64>().map_err(|_| wrong());
        Ok(Self {
            epoch: parse(epoch)?,
            number: parse(number)?,
        })
    }
}

/// What follows a place.
#[derive(Debug, Clone, PartialEq)]
pub enum Following {
    /// The next entries, each with its place; perhaps none yet.
    Entries(Vec<(Place, RunId, Entry)>),
    /// Not all of it is kept: what follows is what comes after this place.
    Gap(Place),
}

#[derive(Debug, Default)]
struct Inner {
    epoch: u64,
    /// Entries committed so far.
    number: u64,
    kept: VecDeque<(RunId, Entry)>,
    read: Option<Instant>,
}

/// The list.
#[derive(Debug)]
pub struct Feed {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Feed {
    pub(super) fn new(epoch: u64) -> Self {
        let inner = Inner {
            epoch,
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(inner),
            changed: watch::Sender::new(0),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what was committed.
    pub(super) fn push(&self, batch: &Batch) {
        let number = self.with(|inner| {
            inner.number += batch.entries.len() as u64;
            let followed = self.changed.receiver_count() > 0;
            if followed || inner.read.is_some_and(|read| read.elapsed() < IDLE) {
                inner.kept.extend(batch.entries.iter().cloned());
                let over = inner.kept.len().saturating_sub(KEPT);
                inner.kept.drain(..over);
            } else {
                inner.kept = VecDeque::new();
            }
            inner.number
        });
        self.changed.send_replace(number);
    }

    /// The place behind everything that is committed.
    pub fn now(&self) -> Place {
        self.with(|inner| {
            inner.read = Some(Instant::now());
            Place {
                epoch: inner.epoch,
                number: inner.number,
            }
        })
    }

    /// At most `limit` entries behind a place.
    pub fn after(&self, place: Place, limit: usize) -> Following {
        self.with(|inner| {
            inner.read = Some(Instant::now());
            let epoch = inner.epoch;
            let first = inner.number - inner.kept.len() as u64;
            if place.epoch != epoch || place.number < first || place.number > inner.number {
                let number = inner.number;
                return Following::Gap(Place { epoch, number });
            }
            let skip = usize::try_from(place.number - first).unwrap_or(usize::MAX);
            let kept = inner.kept.iter().skip(skip).take(limit).zip(place.number + 1..);
            let entries =
                kept.map(|((run, entry), number)| (Place { epoch, number }, run.clone(), entry.clone()));
            Following::Entries(entries.collect())
        })
    }

    /// Changes with every commit.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: u64) -> Batch {
        let run = RunId::new(1, &[0; 10]);
        let entry = |seq| Entry {
            seq,
            at: 0,
            events: Vec::new(),
        };
        Batch {
            entries: (1..=n).map(|seq| (run.clone(), entry(seq))).collect(),
            ..Batch::default()
        }
    }

    fn numbers(following: Following) -> Vec<u64> {
        match following {
            Following::Entries(entries) => entries.iter().map(|(place, ..)| place.number).collect(),
            Following::Gap(place) => panic!("a gap up to {place}"),
        }
    }

    #[test]
    fn readers_get_everything_once_or_hear_of_a_gap() {
        let feed = Feed::new(7);
        feed.push(&batch(5));
        // Nobody read, so nothing was kept.
        let old = Place { epoch: 7, number: 2 };
        let now = Place { epoch: 7, number: 5 };
        assert_eq!(feed.after(old, 10), Following::Gap(now));
        assert_eq!(feed.now(), now);
        feed.push(&batch(3));
        assert_eq!(numbers(feed.after(now, 2)), [6, 7]);
        assert_eq!(numbers(feed.after(Place { epoch: 7, number: 7 }, 10)), [8]);
        assert_eq!(numbers(feed.after(Place { epoch: 7, number: 8 }, 10)), [0; 0]);
        // Of another daemon, or of the future.
        for other in [Place { epoch: 6, number: 6 }, Place { epoch: 7, number: 9 }] {
            assert!(matches!(feed.after(other, 10), Following::Gap(_)), "{other}");
        }
        feed.push(&batch(KEPT as u64));
        assert!(matches!(
            feed.after(Place { epoch: 7, number: 7 }, 10),
            Following::Gap(_)
        ));
        assert_eq!(numbers(feed.after(Place { epoch: 7, number: 8 }, 1)), [9]);
        assert_eq!("7-8".parse::<Place>().unwrap().to_string(), "7-8");
        for wrong in ["", "7", "-", "7-x", "a-1"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
