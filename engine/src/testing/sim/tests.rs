//! The core under every cut: the same end, whatever was lost.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::ledger::Stats;
use super::plan::{Made, Operator, Plan, RunPlan, Shape, StepPlan, Turn, plan};
use super::world::{Attempts, Cut, Ending, World};
use crate::event::RunEnd;

/// Random cases per test; more with `SEALFLOW_CASES`.
fn config(cases: u32) -> Config {
    let given = std::env::var("SEALFLOW_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    Config {
        cases: given.unwrap_or(cases),
        max_shrink_iters: Config::default().max_shrink_iters.min(2000),
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
/// and what expires on how long the daemon was away, so histories are compared where neither matters, and
/// without an operator. A forked run gives what the run gives that it was forked from.
fn compare(plan: &Plan, wanted: &[Ending], got: &[Ending], cuts: &[Cut]) -> Result<(), TestCaseError> {
    for ending in wanted.iter().chain(got) {
        prop_assert_eq!(ending.end, RunEnd::Succeeded, "with {:?}", cuts);
        let of = &wanted[ending.of];
        prop_assert_eq!(&ending.outputs, &of.outputs, "with {:?}", cuts);
    }
    for ((wanted, got), run) in wanted.iter().zip(got).zip(&plan.runs) {
        let rewound = wanted.rewound + got.rewound;
        if plan.asks.is_empty() && run.is_steady(&run.graph(), rewound) {
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

/// One cut somewhere, with attempts that die with the daemon and with such that outlive it.
fn one_cut(plan: &Plan, at: prop::sample::Index, kind: usize) -> Result<Vec<Vec<Ending>>, TestCaseError> {
    let (undisturbed, commits, _) = live(plan, &[], Attempts::DieWithIt)?;
    let cut = kinds_at(1 + at.index(commits))[kind];
    let mut endings = vec![undisturbed];
    for attempts in [Attempts::DieWithIt, Attempts::Survive] {
        endings.push(live(plan, &[cut], attempts)?.0);
    }
    Ok(endings)
}

#[test]
fn one_run_ends_the_same_after_every_cut() {
    let mut runner = TestRunner::new(config(150));
    runner
        .run(&plan(1..=1, 0, Operator::Helps), |plan| every_cut(&plan))
        .unwrap();
}

#[test]
fn an_operator_changes_nothing_about_the_end() {
    let mut runner = TestRunner::new(config(80));
    runner
        .run(&plan(1..=1, 6, Operator::Helps), |plan| every_cut(&plan))
        .unwrap();
}

#[test]
fn many_runs_share_and_all_end() {
    let mut runner = TestRunner::new(config(80));
    let strategy = (
        plan(1..=20, 6, Operator::Helps),
        any::<prop::sample::Index>(),
        0..3_usize,
    );
    let check = |(plan, at, kind): (Plan, prop::sample::Index, usize)| {
        let endings = one_cut(&plan, at, kind)?;
        for got in &endings[1..] {
            compare(&plan, &endings[0], got, &[])?;
        }
        Ok(())
    };
    runner.run(&strategy, check).unwrap();
}

/// Whoever leaves steps out and gives outputs of their own still gets an end in which everything follows
/// from what comes before it (the world checks that), wherever it is cut.
#[test]
fn who_meddles_gets_a_coherent_end() {
    let mut runner = TestRunner::new(config(200));
    let strategy = (
        plan(1..=2, 10, Operator::Meddles),
        any::<prop::sample::Index>(),
        0..3_usize,
    );
    let check = |(plan, at, kind): (Plan, prop::sample::Index, usize)| {
        for ending in one_cut(&plan, at, kind)?.iter().flatten() {
            prop_assert_eq!(ending.end, RunEnd::Succeeded);
        }
        Ok(())
    };
    runner.run(&strategy, check).unwrap();
}

/// A cancelled run ends, cancelled or because it had succeeded before, wherever it is cut.
#[test]
fn cancelled_runs_end() {
    let mut runner = TestRunner::new(config(200));
    let strategy = (
        plan(1..=3, 8, Operator::Cancels),
        any::<prop::sample::Index>(),
        0..3_usize,
    );
    let check = |(plan, at, kind): (Plan, prop::sample::Index, usize)| one_cut(&plan, at, kind).map(drop);
    runner.run(&strategy, check).unwrap();
}

/// A list of twenty, and the same done for each of them, three at a time; the seventh can never be done.
fn poisoned_fan_out() -> Plan {
    let plain = StepPlan {
        needs: 0,
        stage: 1,
        wait: 9,
        when: 9,
        each: 9,
        max_parallel: 3,
        expires: 9,
        lenient: true,
        max_attempts: 2,
        retry_on: 1,
        timeout: 0,
        ms: 100,
        payload: true,
        stubborn: false,
        list: 20,
        flag: true,
        lasts: 0,
        script: Vec::new(),
        poisoned: None,
    };
    let fan = StepPlan {
        each: 0,
        ms: 170,
        // Some fail at first, which is not the same as never being done.
        script: (0..20)
            .map(|item| {
                if item % 5 == 1 {
                    vec![Turn::Transient]
                } else {
                    Vec::new()
                }
            })
            .collect(),
        poisoned: Some(7),
        ..plain.clone()
    };
    let run = RunPlan {
        shape: Shape::Chain,
        steps: vec![plain.clone(), fan, plain],
        rewinds: Vec::new(),
        priority: None,
        made: Made::default(),
    };
    Plan {
        runs: vec![run],
        asks: Vec::new(),
        latency: 5,
        away: 50,
    }
}

/// Wherever the daemon is stopped, the nineteen others have one verdict each, once, and the poisoned item
/// has none, until a person leaves it out.
#[test]
fn one_poisoned_item_of_twenty_spoils_no_other() {
    let plan = poisoned_fan_out();
    let (wanted, commits, stats) = live(&plan, &[], Attempts::DieWithIt).unwrap();
    let items = wanted[0].outputs[1].as_array().unwrap().len();
    assert!(items >= 20 && commits > items, "{items} items, {commits} commits");
    assert_eq!(stats.0["item skipped"], 1);
    assert_eq!(
        (stats.0["paused by item"], stats.0["item retried"]),
        (3, 2),
        "{stats:?}"
    );
    for at in 1..=commits {
        for cut in kinds_at(at) {
            for attempts in [Attempts::DieWithIt, Attempts::Survive] {
                let (got, ..) = live(&plan, &[cut], attempts).unwrap();
                assert_eq!(got[0].outputs, wanted[0].outputs, "{cut:?}, {attempts:?}");
                for (name, accepted) in &got[0].accepted {
                    let once = !matches!(name.as_str(), "s1" | "s1[7]");
                    assert_eq!(*accepted, usize::from(once), "{name} with {cut:?}, {attempts:?}");
                }
                let poisoned = &got[0].history[&"s1[7]".parse().unwrap()];
                assert!(poisoned.len() >= 2 && poisoned.iter().all(|how| how == "1:wrong"));
            }
        }
    }
}

/// The tests above prove something only if what they are about happens.
#[test]
fn the_plans_are_rich() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut stats = Stats::default();
    for _ in 0..350 {
        let plan = plan(1..=2, 16, Operator::Cancels)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        for attempts in [Attempts::DieWithIt, Attempts::Survive] {
            let (_, _, of_one) = live(&plan, &[Cut::Between(3)], attempts).unwrap();
            stats.add(&of_one);
        }
    }
    for what in [
        "adopted",
        "approved",
        "asked",
        "attached",
        "backoff",
        "cancelled",
        "cannot do without",
        "condition fails",
        "condition holds",
        "critical",
        "expired",
        "forked",
        "item failed",
        "item overridden",
        "item redone",
        "item retried",
        "item skipped",
        "item superseded",
        "items done",
        "items listed",
        "lost",
        "made to wait",
        "max_parallel reached",
        "no items",
        "overridden",
        "park approval",
        "park for",
        "park signal",
        "passed",
        "paused by expression",
        "paused by failure",
        "paused by item",
        "paused by operator",
        "paused by retries",
        "paused by rewinds",
        "payload",
        "prioritized",
        "recalled to be asked",
        "recalled when due",
        "ran too long",
        "redone",
        "refused",
        "released",
        "restart",
        "resumed",
        "retried",
        "rewound",
        "rewound by item",
        "signal",
        "silent too long",
        "skipped",
        "superseded",
        "wait approval",
        "wait for",
        "wait signal",
    ] {
        let count = stats.0.get(what).copied().unwrap_or(0);
        assert!(
            count >= 10,
            "`{what}` happened {count} times in 700 lives: {stats:?}"
        );
    }
    // Seldom: something is asked for between a grant and the end of its commit.
    assert!(stats.0.contains_key("not wanted any more"), "{stats:?}");
}
