//! Many lives of whole installations, each under a seed.

use super::world::World;
use super::{Next, Stats, installation_suite};
use crate::testing::MemoryJournal;

/// A number from the environment.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn lives(seeds: impl Iterator<Item = u64>) -> Stats {
    let mut stats = Stats::default();
    for seed in seeds {
        match World::live(seed, None) {
            Ok(of_one) => {
                for (what, count) in of_one.0 {
                    *stats.0.entry(what).or_default() += count;
                }
            }
            Err(why) => panic!(
                "{why}\n  again: SEALFLOW_SEED={seed} cargo test --release -p sealflow-engine --lib site::"
            ),
        }
    }
    stats
}

/// One seed with `SEALFLOW_SEED`, so many with `SEALFLOW_CASES`; each life must come to a good end.
#[test]
fn installations_come_to_a_good_end() {
    match given("SEALFLOW_SEED") {
        Some(seed) => drop(lives(std::iter::once(seed))),
        None => drop(lives(0..given("SEALFLOW_CASES").unwrap_or(150))),
    }
}

/// The same lives on a journal that does what the trait says.
#[test]
fn a_journal_makes_no_difference() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for seed in 0..given("SEALFLOW_CASES").unwrap_or(150).min(300) {
        let next = |before: MemoryJournal, how| {
            let after = before.successor();
            (after, (how == Next::Beside).then_some(before))
        };
        if let Err(why) = installation_suite(seed, runtime.handle(), MemoryJournal::default(), next) {
            panic!("{why}");
        }
    }
}

/// Seeds from `SEALFLOW_SEED` on, until somebody stops it or one of them fails.
#[test]
#[ignore = "it does not end by itself: just long-simulation"]
fn without_end() {
    let first = given("SEALFLOW_SEED").unwrap_or(1_000_000);
    drop(lives(first..));
}

/// The test above proves something only if what it is about happens.
#[test]
fn the_lives_are_rich() {
    let stats = lives(10_000..10_120);
    for what in [
        "a batch of many",
        "a batch of one",
        "a command got lost",
        "a member failed alone",
        "a move was refused",
        "a run for a step",
        "a run for others was stopped",
        "a run within a run within a run",
        "a suspect came back",
        "a time was left out",
        "a trigger started a run",
        "adopted",
        "an end was told after a restart",
        "an unsynced suffix was lost",
        "asked",
        "cancelled",
        "delivered",
        "fenced",
        "late result refused",
        "lost with its machine",
        "machine cut off",
        "machine died",
        "machine froze",
        "machine joined",
        "machine said goodbye",
        "moved",
        "moved to another graph",
        "parked",
        "paused by a failure",
        "refused",
        "result taken",
        "resumed",
        "run cancelled",
        "run succeeded",
        "stopped anywhere",
        "subject in use",
        "the clock jumped",
        "the clock went back",
        "times were missed",
        "unknown outcome",
        "unknown outcome, landed",
        "what was visible survived",
    ] {
        let count = stats.0.get(what).copied().unwrap_or(0);
        assert!(count >= 3, "`{what}` happened {count} times: {stats:?}");
    }
}
