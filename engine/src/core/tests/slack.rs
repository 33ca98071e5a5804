//! Deadline slack: of equal priority, who must start first goes first, by what work took before.

use proptest::prelude::*;

use super::eta::{done, graph_of};
use super::*;
use crate::durations::{Durations, Work as Kind};
use crate::expression::Expression;
use crate::workflow::{BatchSpec, Foreach};

/// One place where one attempt runs at a time.
fn one_place() -> Core {
    core(vec![place("here", 1, 1000)])
}

/// How long work of a size takes.
fn learn(core: &mut Core, memory: u64, seconds: &[f64]) {
    let mut durations = Durations::default();
    for one in seconds {
        let kind = Kind {
            stage: StageName::new("work").unwrap(),
            executor: "here".to_owned(),
            class: memory.to_string(),
        };
        durations.learn(kind, *one);
    }
    core.learn_older(durations);
}

/// A chain of so many steps, the last of which expires so many milliseconds after the beginning.
fn chain(steps: usize, until: Option<u64>) -> Arc<Graph> {
    let needs: Vec<Vec<u32>> = (0..steps)
        .map(|at| {
            at.checked_sub(1)
                .map(|before| before as u32)
                .into_iter()
                .collect()
        })
        .collect();
    let needs: Vec<&[u32]> = needs.iter().map(Vec::as_slice).collect();
    graph_of(&needs, |at, step| {
        let until = until.filter(|_| at + 1 == steps);
        step.valid_until = until.map(|ms| Expression::parse(&(1_000_000 + ms).to_string()).unwrap());
    })
}

/// Something that has the place until it is told to end.
fn occupy(core: &mut Core) -> Dispatch {
    let graph = graph_with(Claim::None, Timeouts::default());
    core.start(start(&graph, json!({"id": 0}), None), at(0)).unwrap();
    dispatches(&core.settle(at(0))).remove(0)
}

fn begin(core: &mut Core, graph: &Arc<Graph>, id: u64, memory: u64, ms: u64) -> RunId {
    let params = json!({"id": id, "memory": memory});
    let run = core.start(start(graph, params, None), at(ms)).unwrap();
    core.settle(at(ms));
    run
}

fn slack(core: &Core, run: &RunId, ms: u64) -> Option<Condition> {
    let mut why = core
        .explain(run, at(ms))
        .into_iter()
        .flat_map(|step| step.conditions);
    why.find(|one| one.kind == "slack")
}

#[test]
fn least_slack_goes_first() {
    let mut core = one_place();
    learn(&mut core, 1, &[10.0, 10.0, 10.0]);
    learn(&mut core, 2, &[300.0]);
    let blocker = occupy(&mut core);
    // Nobody waits for it; it came first.
    let idle = begin(&mut core, &chain(1, None), 1, 1, 1);
    // It expires first, but little is left to do.
    let soon = begin(&mut core, &chain(2, Some(400_000)), 2, 1, 2);
    // It expires later, with two steps of five minutes to come.
    let long = begin(&mut core, &chain(2, Some(900_000)), 3, 2, 3);
    let told = slack(&core, &long, 100_000).unwrap();
    assert_eq!(
        (told.numbers["left_ms"], told.numbers["expected_ms"]),
        (200_000, 600_000)
    );
    assert_eq!(
        told.text,
        "must start within 200 s for `b` to be in time: 600 s of work are expected"
    );
    assert_eq!(slack(&core, &long, 310_000).unwrap().numbers["late_ms"], 10_000);
    assert_eq!(slack(&core, &soon, 0).unwrap().numbers["left_ms"], 380_000);
    assert_eq!(slack(&core, &idle, 0), None);
    let next = done(&mut core, &blocker, 100_000).remove(0);
    assert_eq!(next.key.run, long);
    // Its second step has as much slack as before, if it took as long as expected.
    let next = done(&mut core, &next, 400_000).remove(0);
    assert_eq!(next.key.run, soon, "380 s are before 600 s");
    let next = done(&mut core, &next, 410_000).remove(0);
    assert_eq!(
        (next.key.run.clone(), next.key.step.as_str()),
        (long.clone(), "b")
    );
}

/// Priority comes before slack, and work that was never measured counts by when it expires.
#[test]
fn priority_comes_before_slack_and_no_history_counts_as_no_work() {
    let mut core = one_place();
    let blocker = occupy(&mut core);
    let late = begin(&mut core, &chain(1, Some(900_000)), 1, 5, 1);
    let soon = begin(&mut core, &chain(3, Some(500_000)), 2, 6, 2);
    let first = begin(&mut core, &chain(1, None), 3, 1, 3);
    core.operate(&first, Verb::Prioritize(1), By::default(), at(4))
        .unwrap();
    core.settle(at(4));
    let next = done(&mut core, &blocker, 5).remove(0);
    assert_eq!(next.key.run, first);
    let next = done(&mut core, &next, 6).remove(0);
    assert_eq!(
        (
            next.key.run.clone(),
            slack(&core, &late, 6).unwrap().numbers["expected_ms"]
        ),
        (soon, 0)
    );
}

/// What is learned while a step waits does not lose it its place in the queue, and a restart finds the same order.
#[test]
fn what_is_learned_meanwhile_loses_nobody() {
    let mut core = one_place();
    learn(&mut core, 1, &[10.0]);
    let blocker = occupy(&mut core);
    let runs =
        [(1, 700_000), (2, 500_000)].map(|(id, until)| begin(&mut core, &chain(2, Some(until)), id, 1, id));
    learn(&mut core, 1, &[9000.0; 40]);
    let mut order = Vec::new();
    let mut next = done(&mut core, &blocker, 1000);
    while let Some(job) = next.pop() {
        order.push(job.key.run.clone());
        next = done(&mut core, &job, 2000);
    }
    assert_eq!(order.len(), 4);
    assert_eq!(order[0], runs[1]);
    assert_eq!(core.open(), 0);
}

/// A batch that must close early makes what comes before it more urgent; items count by how many are done at a time.
#[test]
fn the_slack_of_a_batch_and_items_count() {
    let mut core = one_place();
    learn(&mut core, 1, &[10.0]);
    let blocker = occupy(&mut core);
    let mut data = chain(2, Some(800_000)).data().clone();
    data.steps[1].batch = Some(BatchSpec {
        key: None,
        max: 2,
        max_bytes: None,
        wait_ms: 1000,
        slack_ms: 300_000,
    });
    let batch = begin(&mut core, &Arc::new(Graph::new(data).unwrap()), 1, 1, 1);
    assert_eq!(slack(&core, &batch, 0).unwrap().numbers["left_ms"], 490_000);
    let mut data = chain(1, Some(800_000)).data().clone();
    data.steps[0].foreach = Some(Foreach {
        list: Expression::parse("[1, 2, 3, 4, 5]").unwrap(),
        max_parallel: 2,
    });
    let items = begin(&mut core, &Arc::new(Graph::new(data).unwrap()), 2, 1, 2);
    // Three rounds of ten seconds.
    assert_eq!(slack(&core, &items, 0).unwrap().numbers["left_ms"], 770_000);
    assert_eq!(done(&mut core, &blocker, 5)[0].key.run, batch);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Chains of any length, sizes and deadlines: the first to start is the one with the least slack.
    #[test]
    fn the_order_is_that_of_slack(
        runs in proptest::collection::vec((1..5_usize, 1..4_u64, proptest::option::of(1..2_000_000_u64), 0..2_i32), 1..12),
    ) {
        let mut core = one_place();
        for memory in 1..4 {
            learn(&mut core, memory, &[memory as f64 * 60.0; 3]);
        }
        let blocker = occupy(&mut core);
        let mut wanted = Vec::new();
        for (id, (steps, memory, until, priority)) in (1..).zip(&runs) {
            let run = begin(&mut core, &chain(*steps, *until), id, *memory, id);
            core.operate(&run, Verb::Prioritize(*priority), By::default(), at(id)).unwrap();
            core.settle(at(id));
            let work = *steps as u64 * memory * 60_000;
            let latest = until.map_or(u64::MAX, |until| (1_000_000 + until).saturating_sub(work));
            wanted.push((std::cmp::Reverse(*priority), latest, until.unwrap_or(u64::MAX), id, run));
        }
        let first = wanted.iter().min_by_key(|one| (one.0, one.1)).unwrap();
        let next = done(&mut core, &blocker, 100).remove(0);
        let got = wanted.iter().find(|one| one.4 == next.key.run).unwrap();
        prop_assert_eq!((got.0, got.1), (first.0, first.1));
    }
}
