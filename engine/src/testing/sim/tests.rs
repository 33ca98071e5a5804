//! The core under every cut: the same end, whatever was lost.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::ledger::Stats;
use super::plan::{Plan, Shape, plan};
use super::world::{Attempts, Cut, Ending, World};
use crate::event::RunEnd;

/// Random cases per test; more with `SEALFLOW_CASES`.
fn config(cases: u32) -> Config {
    let given = std::env::var("SEALFLOW_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    Config {
        cases: given.unwrap_or(cases),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..Config::default()
    }
}

fn live(plan: &Plan, cuts: &[Cut], attempts: Attempts) -> Result<(Vec<Ending>, usize, Stats), TestCaseError> {
    match World::live(plan, cuts, attempts) {
        Ok(world) => Ok((world.endings(), world.commits, world.stats.clone())),
        Err(why) => Err(TestCaseError::fail(format!(
            "{why}\n  with {cuts:?}, {attempts:?}"
        ))),
    }
}

/// What must not differ. How often a run goes back can depend on which of two parallel steps is first,
/// so histories are compared where nothing goes back, in chains, and without an operator.
fn compare(plan: &Plan, wanted: &[Ending], got: &[Ending], cuts: &[Cut]) -> Result<(), TestCaseError> {
    for ((wanted, got), run) in wanted.iter().zip(got).zip(&plan.runs) {
        prop_assert_eq!(wanted.end, RunEnd::Succeeded);
        prop_assert_eq!(got.end, RunEnd::Succeeded, "with {:?}", cuts);
        prop_assert_eq!(&got.outputs, &wanted.outputs, "with {:?}", cuts);
        let steady = plan.asks.is_empty() && (run.shape == Shape::Chain || wanted.rewound + got.rewound == 0);
        if steady {
            prop_assert_eq!(&got.history, &wanted.history, "with {:?}", cuts);
            prop_assert_eq!(got.rewound, wanted.rewound, "with {:?}", cuts);
        }
    }
    Ok(())
}

/// Every cut of the undisturbed life, and some lives with a second cut soon after.
fn every_cut(plan: &Plan) -> Result<(), TestCaseError> {
    let (wanted, commits, _) = live(plan, &[], Attempts::DieWithIt)?;
    for at in 1..=commits {
        let kinds = [Cut::Before(at), Cut::Between(at), Cut::After(at)];
        for (n, cut) in kinds.into_iter().enumerate() {
            let mut cuts = vec![cut];
            if (at + n) % 3 == 0 {
                cuts.push(kinds_at(at + 1 + n)[(at + n) % 2 + 1]);
            }
            for attempts in [Attempts::DieWithIt, Attempts::Survive] {
                let (got, ..) = live(plan, &cuts, attempts)?;
                compare(plan, &wanted, &got, &cuts)?;
            }
        }
    }
    Ok(())
}

fn kinds_at(at: usize) -> [Cut; 3] {
    [Cut::Before(at), Cut::Between(at), Cut::After(at)]
}

#[test]
fn one_run_ends_the_same_after_every_cut() {
    let mut runner = TestRunner::new(config(400));
    runner
        .run(&plan(1..=1, 0, false), |plan| every_cut(&plan))
        .unwrap();
}

#[test]
fn an_operator_changes_nothing_about_the_end() {
    let mut runner = TestRunner::new(config(200));
    runner
        .run(&plan(1..=1, 6, false), |plan| every_cut(&plan))
        .unwrap();
}

#[test]
fn many_runs_share_and_all_end() {
    let mut runner = TestRunner::new(config(200));
    let strategy = (plan(1..=20, 6, false), any::<prop::sample::Index>(), 0..3_usize);
    let check = |(plan, at, kind): (Plan, prop::sample::Index, usize)| {
        let (wanted, commits, _) = live(&plan, &[], Attempts::DieWithIt)?;
        let cut = kinds_at(1 + at.index(commits))[kind];
        for attempts in [Attempts::DieWithIt, Attempts::Survive] {
            let (got, ..) = live(&plan, &[cut], attempts)?;
            compare(&plan, &wanted, &got, &[cut])?;
        }
        Ok(())
    };
    runner.run(&strategy, check).unwrap();
}

/// A cancelled run ends, cancelled or because it had succeeded before, wherever it is cut.
#[test]
fn cancelled_runs_end() {
    let mut runner = TestRunner::new(config(200));
    let strategy = (plan(1..=3, 8, true), any::<prop::sample::Index>(), 0..3_usize);
    let check = |(plan, at, kind): (Plan, prop::sample::Index, usize)| {
        let (_, commits, _) = live(&plan, &[], Attempts::DieWithIt)?;
        let cut = kinds_at(1 + at.index(commits))[kind];
        for attempts in [Attempts::DieWithIt, Attempts::Survive] {
            live(&plan, &[cut], attempts)?;
        }
        Ok(())
    };
    runner.run(&strategy, check).unwrap();
}

/// The tests above prove something only if what they are about happens.
#[test]
fn the_plans_are_rich() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut stats = Stats::default();
    for _ in 0..200 {
        let plan = plan(1..=2, 6, true).new_tree(&mut runner).unwrap().current();
        for attempts in [Attempts::DieWithIt, Attempts::Survive] {
            let (_, _, of_one) = live(&plan, &[Cut::Between(3)], attempts).unwrap();
            stats.add(&of_one);
        }
    }
    for what in [
        "rewound",
        "superseded by rewind",
        "wait for",
        "wait signal",
        "park for",
        "park signal",
        "backoff",
        "retried",
        "resumed",
        "critical",
        "lost",
        "attached",
        "released",
        "passed",
        "payload",
        "ran too long",
        "silent too long",
        "paused by operator",
        "paused by failure",
        "paused by retries",
        "paused by rewinds",
        "cancelled",
        "asked",
        "restart",
    ] {
        let count = stats.0.get(what).copied().unwrap_or(0);
        assert!(
            count >= 10,
            "`{what}` happened {count} times in 400 lives: {stats:?}"
        );
    }
}
