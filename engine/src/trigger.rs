//! Triggers: the times at which a workflow starts by itself. Times are UTC.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use cron::Schedule;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happens when a run that the trigger started is still open at the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The time is left out.
    #[default]
    Skip,
    /// The next run starts when the open one has ended; of several times that passed meanwhile, `catch_up`
    /// says which count.
    Wait,
    /// Both are open.
    Allow,
}

/// What happens with times that passed while nothing could start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// They are left out.
    None,
    /// One run is started for the last of them.
    #[default]
    One,
    /// A run is started for each, at most [`TriggerSpec::MOST`].
    All,
}

/// A trigger of a workflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriggerSpec {
    /// When: a cron expression of five fields (minute, hour, day of the month, month, day of the week), or of
    /// six with seconds in front.
    pub cron: String,
    /// What happens when the last run is still open.
    #[serde(default)]
    pub overlap: Overlap,
    /// What happens with times that were missed.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// The parameters of the runs.
    #[serde(default)]
    pub params: Value,
}

/// The times of a trigger that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The time that a run is to be started for, milliseconds since 1970.
    pub at: u64,
    /// Times that are left out.
    pub missed: u32,
    /// Whether the time itself is left out too.
    pub skip: bool,
}

impl TriggerSpec {
    /// The most times that are caught up on, or counted.
    pub const MOST: u32 = 1_000;
    /// A time that came so many milliseconds ago was not missed.
    pub const GRACE_MS: u64 = 60_000;

    /// Checks a cron expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(cron: &str) -> Result<(), String> {
        let schedule = schedule(cron)?;
        match schedule.after(&DateTime::<Utc>::UNIX_EPOCH).next() {
            Some(_) => Ok(()),
            None => Err(format!("`{cron}` never comes")),
        }
    }

    /// What it does at times that it cannot keep, in words.
    pub fn policy(&self) -> String {
        let overlap = match self.overlap {
            Overlap::Skip => "left out while a run is open",
            Overlap::Wait => "waits for an open run",
            Overlap::Allow => "runs may overlap",
        };
        let missed = match self.catch_up {
            CatchUp::None => "missed times are left out",
            CatchUp::One => "the last missed time counts",
            CatchUp::All => "every missed time counts",
        };
        format!("{overlap}; {missed}")
    }
}

/// The times of a trigger.
#[derive(Debug, Clone)]
pub struct Timetable(Schedule);

impl Timetable {
    /// The times of a cron expression.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(cron: &str) -> Result<Self, String> {
        schedule(cron).map(Self)
    }

    /// The first time after `last`; both in milliseconds since 1970.
    pub fn next(&self, last: u64) -> Option<u64> {
        self.after(last).next()
    }

    /// What has come since `last` by `now`, both in milliseconds since 1970; nothing if nothing has.
    pub fn due(&self, catch_up: CatchUp, last: u64, now: u64) -> Option<Due> {
        let mut come = self.after(last).take_while(|at| *at <= now);
        let first = come.next()?;
        if catch_up == CatchUp::All {
            return Some(Due {
                at: first,
                missed: 0,
                skip: false,
            });
        }
        let (mut at, mut missed) = (first, 0);
        for later in come.take(TriggerSpec::MOST as usize) {
            at = later;
            missed += 1;
        }
        if missed == TriggerSpec::MOST {
            // So many times are not gone through one by one.
            at = now;
        }
        let late = now.saturating_sub(at) > TriggerSpec::GRACE_MS;
        Some(Due {
            at,
            missed,
            skip: late && catch_up == CatchUp::None,
        })
    }

    fn after(&self, last: u64) -> impl Iterator<Item = u64> + '_ {
        let last = i64::try_from(last).ok();
        let last = last.and_then(DateTime::<Utc>::from_timestamp_millis);
        let all = last.map(|last| self.0.after_owned(last));
        all.into_iter()
            .flatten()
            .filter_map(|time| u64::try_from(time.timestamp_millis()).ok())
    }
}

fn schedule(cron: &str) -> Result<Schedule, String> {
    let fields = cron.split_whitespace().count();
    let text = match fields {
        5 => format!("0 {cron}"),
        6 => cron.to_owned(),
        _ => {
            return Err(format!(
                "`{cron}` has {fields} fields; a cron expression has five (minute, hour, day, month, day of the week), or six with seconds in front"
            ));
        }
    };
    Schedule::from_str(&text).map_err(|error| format!("`{cron}` is not a cron expression: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// 2026-11-21 00:00 UTC.
    const DAY: u64 = 1_795_219_200_000;

    fn times(cron: &str) -> Timetable {
        Timetable::of(cron).unwrap()
    }

    #[test]
    fn times_come_after_the_last_one() {
        let hourly = times("0 * * * *");
        assert_eq!(hourly.next(DAY), Some(DAY + HOUR));
        assert_eq!(hourly.next(DAY - 1), Some(DAY));
        assert_eq!(hourly.due(CatchUp::One, DAY, DAY + HOUR - 1), None);
        let due = hourly.due(CatchUp::One, DAY, DAY + HOUR).unwrap();
        assert_eq!((due.at, due.missed, due.skip), (DAY + HOUR, 0, false));
        assert_eq!(times("*/5 * * * * *").next(DAY + 1), Some(DAY + 5_000));
    }

    #[test]
    fn what_was_missed_is_caught_up_on_as_the_file_says() {
        let late = DAY + 5 * HOUR + HOUR / 2;
        let due = |catch_up| times("0 * * * *").due(catch_up, DAY, late).unwrap();
        let of = |at, missed, skip| Due { at, missed, skip };
        assert_eq!(due(CatchUp::One), of(DAY + 5 * HOUR, 4, false));
        assert_eq!(due(CatchUp::None), of(DAY + 5 * HOUR, 4, true));
        assert_eq!(due(CatchUp::All), of(DAY + HOUR, 0, false));
        let in_time = times("0 * * * *").due(CatchUp::None, DAY, DAY + HOUR + 100);
        assert!(!in_time.unwrap().skip);
        // A clock that jumped by years costs a bounded number of steps.
        let jumped = DAY + 40_000 * HOUR;
        let years = times("0 * * * *").due(CatchUp::One, DAY, jumped).unwrap();
        assert_eq!((years.at, years.missed), (jumped, TriggerSpec::MOST));
    }

    #[test]
    fn what_is_no_cron_expression_is_refused() {
        for wrong in ["", "0 *", "61 * * * *", "a b c d e", "0 0 30 2 *"] {
            assert!(TriggerSpec::check(wrong).is_err(), "{wrong}");
        }
        TriggerSpec::check("30 */6 * * MON-FRI").unwrap();
    }
}
