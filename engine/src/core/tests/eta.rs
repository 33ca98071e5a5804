//! Estimates come from what was measured, and are silent where nothing was.

use super::*;
use crate::durations::{Durations, Work as Kind};
use crate::workflow::Foreach;

fn known(seconds: &[f64]) -> Durations {
    let mut durations = Durations::default();
    for one in seconds {
        let kind = Kind {
            stage: StageName::new("work").unwrap(),
            executor: "here".to_owned(),
            class: "1".to_owned(),
        };
        durations.learn(kind, *one);
    }
    durations
}

/// A graph of steps named `a`, `b`, …, each with what it needs.
pub(super) fn graph_of(needs: &[&[u32]], change: impl Fn(usize, &mut StepSpec)) -> Arc<Graph> {
    let mut data = graph_with(Claim::None, Timeouts::default()).data().clone();
    let one = data.steps.remove(0);
    for (at, needs) in needs.iter().enumerate() {
        let letter = char::from(b'a' + u8::try_from(at).unwrap());
        let mut step = one.clone();
        step.name = StepName::new(&letter.to_string()).unwrap();
        step.needs = needs.iter().copied().map(StepIx).collect();
        change(at, &mut step);
        data.steps.push(step);
    }
    Arc::new(Graph::new(data).unwrap())
}

fn begin(core: &mut Core, graph: &Arc<Graph>, params: Value, ms: u64) -> (RunId, Vec<Dispatch>) {
    let run = core.start(start(graph, params, None), at(ms)).unwrap();
    let jobs = dispatches(&core.settle(at(ms)));
    (run, jobs)
}

pub(super) fn done(core: &mut Core, job: &Dispatch, ms: u64) -> Vec<Dispatch> {
    let report = Report {
        key: job.key.clone(),
        token: job.token.clone(),
        news: News::Ended(Ok(Outcome::Done(json!({})))),
    };
    core.report(report, at(ms));
    dispatches(&core.settle(at(ms)))
}

fn eta(core: &Core, run: &RunId, ms: u64) -> Eta {
    core.eta(run, at(ms)).0.unwrap()
}

#[test]
fn an_estimate_needs_a_measurement_of_the_same_kind() {
    let mut core = core(vec![place("here", 8, 100)]);
    let graph = graph_of(&[&[]], |_, _| {});
    let (first, jobs) = begin(&mut core, &graph, json!({"id": 1}), 0);
    let nothing = eta(&core, &first, 500);
    assert_eq!((nothing.p50, nothing.p90), (None, None));
    assert_eq!(
        nothing.unknown,
        ["`a` was not done before with work of this kind"]
    );
    assert!(core.eta(&first, at(500)).1.is_empty());
    done(&mut core, &jobs[0], 10_000);
    assert_eq!(core.eta(&first, at(10_000)).0, None, "it has ended");

    let (second, _) = begin(&mut core, &graph, json!({"id": 2}), 20_000);
    let fresh = eta(&core, &second, 20_000);
    assert_eq!((fresh.p50, fresh.p90), (Some(10.0), Some(10.0)));
    assert_eq!(fresh.path, [StepName::new("a").unwrap()]);
    assert_eq!(
        core.eta(&second, at(20_000)).1,
        [(StepName::new("a").unwrap(), 10.0)]
    );
    // What runs has begun to be over.
    assert_eq!(eta(&core, &second, 24_000).p50, Some(6.0));
    let late = eta(&core, &second, 31_000);
    assert_eq!(late.p50, None);
    assert_eq!(late.unknown, ["`a` takes longer than each of the 1 times before"]);
    // Larger work is another kind.
    let (third, _) = begin(&mut core, &graph, json!({"id": 3, "memory": 2}), 32_000);
    assert_eq!(eta(&core, &third, 32_000).p50, None);
}

#[test]
fn the_longest_way_counts() {
    let mut core = core(vec![place("here", 8, 100)]);
    core.learn_older(known(&[10.0]));
    // a → b → d and c → d; b also waits for a minute first.
    let graph = graph_of(&[&[], &[0], &[], &[1, 2]], |at, step| {
        if at == 1 {
            step.wait = Some(WaitSpec::For(60_000));
        }
    });
    let (run, jobs) = begin(&mut core, &graph, json!({"id": 1}), 0);
    assert_eq!(jobs.len(), 2);
    let first = eta(&core, &run, 0);
    assert_eq!(first.p50, Some(90.0));
    let path: Vec<String> = first.path.iter().map(ToString::to_string).collect();
    assert_eq!(path, ["a", "b", "d"]);
    for job in &jobs {
        done(&mut core, job, 10_000);
    }
    // The wait has begun, and has fifty seconds left.
    assert_eq!(eta(&core, &run, 20_000).p50, Some(50.0 + 10.0 + 10.0));
    core.operate(&run, Verb::Pause, By::default(), at(20_000))
        .unwrap();
    core.settle(at(20_000));
    assert_eq!(eta(&core, &run, 20_000).unknown, ["the run is paused"]);
}

#[test]
fn p50_and_p90_follow_the_measured_spread() {
    let mut core = core(vec![place("here", 8, 100)]);
    let measured: Vec<f64> = (1..=32).map(f64::from).collect();
    core.learn_older(known(&measured));
    let graph = graph_of(&[&[]], |_, _| {});
    let (run, _) = begin(&mut core, &graph, json!({"id": 1}), 0);
    let Eta { p50, p90, .. } = eta(&core, &run, 0);
    let (p50, p90) = (p50.unwrap(), p90.unwrap());
    assert!(
        (13.0..=20.0).contains(&p50) && (26.0..=32.0).contains(&p90),
        "{p50} {p90}"
    );
    assert_eq!(
        eta(&core, &run, 0).p50,
        Some(p50),
        "the same history gives the same estimate"
    );
    // Once it ran for 30 seconds, only the two longest of the earlier ones say something.
    let late = eta(&core, &run, 30_500);
    assert!(late.p50.is_some_and(|p50| p50 <= 1.5), "{late:?}");
}

#[test]
fn people_and_lists_make_it_unknown_until_they_are_known() {
    let mut core = core(vec![place("here", 2, 100)]);
    core.learn_older(known(&[10.0]));
    let list = crate::expression::Expression::parse("[1, 2, 3, 4]").unwrap();
    let graph = graph_of(&[&[], &[0]], |at, step| {
        if at == 0 {
            step.wait = Some(WaitSpec::Approval("look".to_owned()));
        } else {
            step.foreach = Some(Foreach {
                list: list.clone(),
                max_parallel: 2,
            });
        }
    });
    let (run, _) = begin(&mut core, &graph, json!({"id": 1}), 0);
    assert_eq!(
        eta(&core, &run, 0).unknown,
        [
            "`a` waits for somebody",
            "how many items `b` has is not known yet"
        ]
    );
    core.operate(
        &run,
        Verb::Approve(StepName::new("a").unwrap()),
        By::default(),
        at(0),
    )
    .unwrap();
    let jobs = dispatches(&core.settle(at(0)));
    assert_eq!(
        eta(&core, &run, 0).unknown,
        ["how many items `b` has is not known yet"]
    );
    let items = done(&mut core, &jobs[0], 10_000);
    assert_eq!(items.len(), 2);
    // Four items, two at a time.
    assert_eq!(eta(&core, &run, 10_000).p50, Some(20.0));
    done(&mut core, &items[0], 20_000);
    // The second is about to end, the third began just now, the fourth follows the second.
    assert_eq!(eta(&core, &run, 20_000).p50, Some(10.0));
}

#[test]
fn the_journal_teaches_the_same() {
    let mut core = core(vec![place("here", 8, 100)]);
    let graph = graph_of(&[&[], &[0]], |_, _| {});
    let run = core
        .start(start(&graph, json!({"id": 1, "memory": 7}), None), at(0))
        .unwrap();
    let mut entries = Vec::new();
    let mut transitions = core.settle(at(0));
    for ms in [3_000, 8_000] {
        let jobs = dispatches(&transitions);
        entries.extend(transitions.into_iter().filter_map(|one| Some(one.append?.entry)));
        let report = Report {
            key: jobs[0].key.clone(),
            token: jobs[0].token.clone(),
            news: News::Ended(Ok(Outcome::Done(json!({})))),
        };
        core.report(report, at(ms));
        transitions = core.settle(at(ms));
    }
    entries.extend(transitions.into_iter().filter_map(|one| Some(one.append?.entry)));
    let mut learned = Durations::default();
    learned
        .learn_run(&registry(), &run, std::slice::from_ref(&graph), &entries)
        .unwrap();
    assert_eq!(&learned, core.durations());
    assert_eq!(learned.len(), 1);
}
