//! Several runs in one core: claims, keys, room, and damage that stays where it is.

mod ends;
mod eta;
mod flow;
mod resources;
mod served;
mod slack;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::executor::Machine;
use crate::resource::Need;
use crate::stage::{Stage, StageContext, SubjectKind};
use crate::workflow::{GraphData, ParamSpec, Retry, StageRef, StepSpec, Timeouts};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Nothing {}

/// Needs as much memory as the run's parameter `memory` says.
struct Work;

impl Stage for Work {
    const NAME: &'static str = "work";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = "//! Works.";
    const PREREQUISITES: &'static [&'static str] = &["fuel_missing"];
    type Input = Nothing;
    type Output = Nothing;
    fn costs(&self, input: &Value) -> Need {
        Need {
            cpu: 1,
            memory: input["memory"].as_u64().unwrap_or(1),
            ..Need::default()
        }
    }
    fn class(&self, input: &Value) -> String {
        input["memory"].to_string()
    }
    async fn run(&self, _: &StageContext, _: Nothing) -> Result<Outcome<Nothing>, Failure> {
        Ok(Outcome::Done(Nothing {}))
    }
}

fn registry() -> Arc<StageRegistry> {
    let subject = |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
    let kind = SubjectKind {
        name: "thing",
        params: &[("id", "uint64")],
        subject,
    };
    Arc::new(
        StageRegistry::default()
            .with_subject(kind)
            .with_type::<u64>()
            .with(Work),
    )
}

fn graph_with(claim: Claim, timeout: Timeouts) -> Arc<Graph> {
    let param = |name: &str, default| ParamSpec {
        name: name.to_owned(),
        ty: "uint64".to_owned(),
        default,
        doc: String::new(),
    };
    let stage = StageRef {
        name: StageName::new("work").unwrap(),
        version: 1,
        artifacts: Vec::new(),
        effect: false,
        many: false,
    };
    let step = StepSpec {
        name: StepName::new("work").unwrap(),
        stage: Some(stage),
        needs: Vec::new(),
        inputs: BTreeMap::from([("memory".to_owned(), Source::Param("memory".to_owned()))]),
        retry: Retry {
            on: BTreeSet::from([FailureClass::Transient, FailureClass::Critical]),
            ..Retry::default()
        },
        timeout,
        wait: None,
        when: None,
        foreach: None,
        valid_until: None,
        workflow: None,
        batch: None,
        on_failure: Vec::new(),
        finally: false,
    };
    let data = GraphData {
        name: crate::id::WorkflowName::new("one").unwrap(),
        description: String::new(),
        subject: "thing".to_owned(),
        claim,
        priority: 0,
        params: vec![param("id", None), param("memory", Some(json!(1)))],
        steps: vec![step],
        rewinds: Vec::new(),
        children: Vec::new(),
        outputs: BTreeMap::new(),
        triggers: Vec::new(),
    };
    Arc::new(Graph::new(data).unwrap())
}

fn start(graph: &Arc<Graph>, params: Value, key: Option<&str>) -> StartRun {
    StartRun {
        graph: graph.clone(),
        source: String::new(),
        params,
        key: key.map(str::to_owned),
        priority: None,
        fork: None,
        by: By::default(),
        artifacts: BTreeMap::new(),
    }
}

fn machine(name: &str, memory: u64) -> Machine {
    let capacity = Resources {
        cpu: 8,
        memory,
        ..Resources::default()
    };
    let name = name.to_owned();
    Machine { name, capacity }
}

fn place(name: &str, slots: usize, memory: u64) -> ExecutorSpec {
    ExecutorSpec::new(name, machine(name, memory), slots)
}

fn core(places: Vec<ExecutorSpec>) -> Core {
    Core::new(registry(), places, [1; 32]).keeping_all()
}

fn at(ms: u64) -> Now {
    Now {
        wall_ms: 1_000_000 + ms,
        mono_ms: ms,
    }
}

fn dispatches(transitions: &[Transition]) -> Vec<Dispatch> {
    let effects = transitions.iter().flat_map(|transition| &transition.effects);
    effects
        .filter_map(|effect| {
            if let Effect::Dispatch(job) = effect {
                Some((**job).clone())
            } else {
                None
            }
        })
        .collect()
}

fn report(core: &mut Core, job: &Dispatch, news: News, now: Now) {
    core.report(
        Report {
            key: job.key.clone(),
            token: job.token.clone(),
            news,
        },
        now,
    );
}

fn done() -> News {
    News::Ended(Ok(Outcome::Done(json!({}))))
}

#[test]
fn one_run_writes_to_a_subject_and_many_read_it() {
    let mut core = core(vec![place("main", 10, 10)]);
    let (write, read) = (
        graph_with(Claim::Write, Timeouts::default()),
        graph_with(Claim::Read, Timeouts::default()),
    );
    let none = graph_with(Claim::None, Timeouts::default());
    let writer = core.start(start(&write, json!({"id": 1}), None), at(0)).unwrap();
    for graph in [&write, &read] {
        let refused = core.start(start(graph, json!({"id": 1}), None), at(0));
        assert_eq!(
            refused,
            Err(Refused::Busy {
                subject: Subject::new("1").unwrap(),
                holder: writer.clone()
            })
        );
    }
    core.start(start(&none, json!({"id": 1}), None), at(0)).unwrap();
    let reader = core.start(start(&read, json!({"id": 2}), None), at(0)).unwrap();
    core.start(start(&read, json!({"id": 2}), None), at(0)).unwrap();
    let refused = core.start(start(&write, json!({"id": 2}), None), at(0));
    assert!(matches!(refused, Err(Refused::Busy { .. })), "{refused:?}");
    // When all have ended the subjects are free.
    for job in dispatches(&core.settle(at(0))) {
        report(&mut core, &job, done(), at(1));
    }
    let ended = core.settle(at(1));
    assert_eq!(ended.len(), 4);
    assert_eq!(core.open(), 0);
    core.start(start(&write, json!({"id": 1}), None), at(2)).unwrap();
    core.start(start(&write, json!({"id": 2}), None), at(2)).unwrap();
    assert!(matches!(
        core.operate(&reader, Verb::Pause, By::default(), at(2)),
        Err(Refused::NoRun(_))
    ));
}

#[test]
fn a_restored_run_keeps_its_claim_and_its_key() {
    let mut first = core(vec![place("main", 10, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    let run = first
        .start(start(&graph, json!({"id": 1}), Some("a")), at(0))
        .unwrap();
    assert_eq!(
        first.start(start(&graph, json!({"id": 1}), Some("a")), at(0)),
        Ok(run.clone())
    );
    let transitions = first.settle(at(0));
    let entry = transitions[0].append.as_ref().unwrap().entry.clone();
    let mut second = core(vec![place("main", 10, 10)]);
    second.restore(
        RunState::fold(&run, std::slice::from_ref(&graph), &[entry]).unwrap(),
        at(5),
    );
    assert_eq!(
        second.start(start(&graph, json!({"id": 1}), Some("a")), at(5)),
        Ok(run)
    );
    assert!(matches!(
        second.start(start(&graph, json!({"id": 1}), None), at(5)),
        Err(Refused::Busy { .. })
    ));
}

#[test]
fn what_fits_nowhere_makes_nobody_wait() {
    let mut core = core(vec![place("small", 1, 10), place("smaller", 1, 5)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    let huge = core
        .start(start(&graph, json!({"id": 1, "memory": 11}), None), at(0))
        .unwrap();
    core.settle(at(0));
    core.start(start(&graph, json!({"id": 2, "memory": 10}), None), at(1))
        .unwrap();
    core.start(start(&graph, json!({"id": 3, "memory": 1}), None), at(2))
        .unwrap();
    let started = dispatches(&core.settle(at(2)));
    assert_eq!(
        started
            .iter()
            .map(|job| job.executor.as_str())
            .collect::<Vec<_>>(),
        ["small", "smaller"]
    );
    let why = core.explain(&huge, at(0));
    assert_eq!(why.len(), 1);
    assert_eq!(why[0].conditions[0].kind, "too_large");
    assert!(why[0].conditions[0].text.contains("executor `small`"), "{why:?}");
}

/// What must first be put in place is a kind of its own, charged to nobody, and the run goes on when somebody says so.
#[test]
fn a_missing_prerequisite_has_a_kind_of_its_own() {
    let mut core = core(vec![place("main", 1, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    let run = core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let lacks = || {
        News::Ended(Err(Failure::permanent(
            "fuel_missing",
            "no fuel in /tank; run `fill`",
        )))
    };
    // Three attempts are all that the workflow gives: none of these is one of them.
    for round in 0..5 {
        let job = dispatches(&core.settle(at(round * 10))).remove(0);
        report(&mut core, &job, lacks(), at(round * 10 + 1));
        core.settle(at(round * 10 + 1));
        let why = core.explain(&run, at(round * 10 + 2));
        let conditions = &why[0].conditions;
        let kinds: Vec<&str> = conditions.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["fuel_missing"], "{why:?}");
        assert_eq!(conditions[0].text, "no fuel in /tank; run `fill`");
        assert_eq!(conditions[0].numbers["charged"], 0);
        core.operate(&run, Verb::Retry(None), By::default(), at(round * 10 + 3))
            .unwrap();
    }
    // Another failure of the same class is what it was.
    let job = dispatches(&core.settle(at(60))).remove(0);
    let broken = News::Ended(Err(Failure::permanent("broken", "look at it")));
    report(&mut core, &job, broken, at(61));
    core.settle(at(61));
    let why = core.explain(&run, at(62));
    let kinds: Vec<&str> = why[0].conditions.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["failed", "paused_by_failure"], "{why:?}");
}

/// A workflow that tries again whatever failed tries this for as long as it takes.
#[test]
fn a_missing_prerequisite_is_waited_for_where_failures_are_tried_again() {
    let mut core = core(vec![place("main", 1, 10)]);
    let mut data = graph_with(Claim::Write, Timeouts::default()).data().clone();
    data.steps[0].retry.on.insert(FailureClass::Permanent);
    let graph = Arc::new(Graph::new(data).unwrap());
    let run = core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let mut now = 0;
    for _ in 0..20 {
        core.tick(at(now));
        let job = dispatches(&core.settle(at(now))).remove(0);
        let lacks = Failure::permanent("fuel_missing", "no fuel in /tank");
        report(&mut core, &job, News::Ended(Err(lacks)), at(now + 1));
        core.settle(at(now + 1));
        let why = core.explain(&run, at(now + 2));
        let kinds: Vec<&str> = why[0].conditions.iter().map(|one| one.kind.as_str()).collect();
        assert_eq!(kinds, ["fuel_missing", "backoff"], "{why:?}");
        now += 1_000_000;
    }
    core.tick(at(now));
    let job = dispatches(&core.settle(at(now))).remove(0);
    report(&mut core, &job, done(), at(now + 1));
    core.settle(at(now + 1));
    assert_eq!(core.open(), 0);
}

#[test]
fn what_must_wait_for_room_is_not_overtaken_by_its_like() {
    let mut core = core(vec![place("main", 10, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    core.start(start(&graph, json!({"id": 1, "memory": 6}), None), at(0))
        .unwrap();
    let first = dispatches(&core.settle(at(0)));
    core.start(start(&graph, json!({"id": 2, "memory": 6}), None), at(1))
        .unwrap();
    let third = core
        .start(start(&graph, json!({"id": 3, "memory": 1}), None), at(2))
        .unwrap();
    assert_eq!(dispatches(&core.settle(at(2))), []);
    let why = core.explain(&third, at(2));
    let kinds: Vec<&str> = why[0].conditions.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["queue"]);
    assert_eq!(why[0].conditions[0].numbers["ahead"], 1);
    report(&mut core, &first[0], done(), at(3));
    let next: Vec<u64> = dispatches(&core.settle(at(3)))
        .iter()
        .map(|job| job.held.memory)
        .collect();
    assert_eq!(next, [6, 1]);
}

/// A run whose state cannot be is set aside at once; its attempts are stopped, what they hold is given
/// back when they end, its subject stays claimed, and the others go on.
#[test]
fn a_damaged_run_disturbs_nobody() {
    let mut core = core(vec![place("main", 1, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    let bad = core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let good = core.start(start(&graph, json!({"id": 2}), None), at(1)).unwrap();
    let started = dispatches(&core.settle(at(1)));
    assert_eq!(started.len(), 1);
    let job = &started[0];
    assert_eq!(job.key.run, bad);
    core.record(
        &bad,
        Event::StepPassed {
            step: StepName::new("work").unwrap(),
        },
    );
    let stop = Effect::Stop {
        executor: "main".to_owned(),
        key: job.key.clone(),
    };
    let effects: Vec<Effect> = core
        .settle(at(2))
        .into_iter()
        .flat_map(|transition| transition.effects)
        .collect();
    assert_eq!(effects, [stop]);
    assert_eq!(core.damaged().keys().collect::<Vec<_>>(), [&bad]);
    assert!(matches!(
        core.operate(&bad, Verb::Cancel, By::default(), at(2)),
        Err(Refused::Damaged { .. })
    ));
    assert!(matches!(
        core.start(start(&graph, json!({"id": 1}), None), at(2)),
        Err(Refused::Busy { .. })
    ));
    report(&mut core, job, done(), at(3));
    let next = core.settle(at(3));
    assert_eq!(
        dispatches(&next)
            .iter()
            .map(|job| &job.key.run)
            .collect::<Vec<_>>(),
        [&good]
    );
    assert!(
        next.iter()
            .filter_map(|transition| transition.append.as_ref())
            .all(|append| append.row.run == good)
    );
}

#[test]
fn a_run_that_was_set_aside_keeps_its_claim_and_its_key() {
    let mut first = core(vec![place("main", 1, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    let run = first
        .start(start(&graph, json!({"id": 1}), Some("a")), at(0))
        .unwrap();
    let row = first.settle(at(0)).remove(0).append.unwrap().row;
    let mut second = core(vec![place("main", 1, 10)]);
    second.set_aside(&row, "its entries are gone".to_owned());
    assert!(matches!(
        second.start(start(&graph, json!({"id": 1}), None), at(0)),
        Err(Refused::Busy { .. })
    ));
    assert_eq!(
        second.start(start(&graph, json!({"id": 1}), Some("a")), at(0)),
        Ok(run)
    );
}

#[test]
fn a_bad_place_is_left_alone_and_another_is_not() {
    let mut core = core(vec![place("a", 1, 10), place("b", 1, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    core.start(start(&graph, json!({"id": 2}), None), at(0)).unwrap();
    let jobs = dispatches(&core.settle(at(0)));
    report(
        &mut core,
        &jobs[0],
        News::Ended(Err(Failure::critical("broken", ""))),
        at(10),
    );
    core.settle(at(10));
    report(
        &mut core,
        &jobs[1],
        News::Ended(Err(Failure::critical("broken", ""))),
        at(30_000),
    );
    core.settle(at(30_000));
    // The first suspension is over, the second is not.
    core.tick(at(60_010));
    let again = dispatches(&core.settle(at(60_010)));
    assert!(
        !again.is_empty() && again.iter().all(|job| job.executor == "a"),
        "{again:?}"
    );
}

#[test]
fn equal_limits_are_two_limits() {
    let timeout = Timeouts {
        run_ms: Some(1000),
        silence_ms: Some(1000),
        ..Timeouts::default()
    };
    let mut core = core(vec![place("main", 1, 10)]);
    let run = core
        .start(
            start(&graph_with(Claim::Write, timeout), json!({"id": 1}), None),
            at(0),
        )
        .unwrap();
    let job = dispatches(&core.settle(at(0))).remove(0);
    assert!(core.begin(&job.key, &job.token, at(0)));
    report(&mut core, &job, News::Progress(Progress::default()), at(900));
    assert_eq!(core.progress(&run).len(), 1);
    core.tick(at(1000));
    let transitions = core.settle(at(1000));
    let events = &transitions[0].append.as_ref().unwrap().entry.events;
    assert!(
        matches!(&events[0], Event::AttemptFailed { failure, still_running: true, .. } if failure.code == "ran_too_long"),
        "{events:?}"
    );
    assert_eq!(core.progress(&run), []);
}

#[test]
fn an_attempt_that_outlives_the_daemon_is_still_limited() {
    let timeout = Timeouts {
        run_ms: Some(1000),
        silence_ms: None,
        ..Timeouts::default()
    };
    let graph = graph_with(Claim::Write, timeout);
    let mut first = core(vec![place("main", 1, 10)]);
    let run = first.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let entry = first.settle(at(0)).remove(0).append.unwrap().entry;
    let mut second = core(vec![place("main", 1, 10)]);
    second.restore(
        RunState::fold(&run, std::slice::from_ref(&graph), &[entry]).unwrap(),
        at(50),
    );
    second.settle(at(50));
    assert_eq!(second.next_due(), (None, Some(1050)));
    second.tick(at(1049));
    assert!(second.settle(at(1049)).is_empty());
    second.tick(at(1050));
    assert_eq!(second.settle(at(1050)).len(), 1);
}

/// What was given up may not have been told so before the daemon ended.
#[test]
fn what_was_given_up_is_stopped_again_after_a_restart() {
    let timeout = Timeouts {
        run_ms: Some(1000),
        silence_ms: None,
        ..Timeouts::default()
    };
    let graph = graph_with(Claim::Write, timeout);
    let mut first = core(vec![place("main", 1, 10)]);
    let run = first.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let transition = first.settle(at(0)).remove(0);
    let job = dispatches(std::slice::from_ref(&transition)).remove(0);
    let mut entries = vec![transition.append.unwrap().entry];
    assert_eq!(first.next_due(), (None, None), "the commit's time does not count");
    assert!(first.begin(&job.key, &job.token, at(0)));
    first.tick(at(1000));
    entries.push(first.settle(at(1000)).remove(0).append.unwrap().entry);
    let mut second = core(vec![place("main", 1, 10)]);
    second.restore(
        RunState::fold(&run, std::slice::from_ref(&graph), &entries).unwrap(),
        at(2000),
    );
    let effects = second.settle(at(2000)).remove(0).effects;
    let kinds: Vec<bool> = effects
        .iter()
        .map(|effect| matches!(effect, Effect::Stop { .. }))
        .collect();
    assert_eq!(kinds, [false, true], "{effects:?}");
}

#[test]
fn a_large_output_is_the_state_and_the_row_too() {
    let mut core = core(vec![place("main", 1, 10)]);
    core.start(
        start(
            &graph_with(Claim::Write, Timeouts::default()),
            json!({"id": 1}),
            None,
        ),
        at(0),
    )
    .unwrap();
    let job = dispatches(&core.settle(at(0))).remove(0);
    let output = Output::Payload {
        sha256: "ab".to_owned(),
        bytes: 20_000,
        artifacts: json!({}),
        known: serde_json::Value::Null,
        lengths: std::collections::BTreeMap::new(),
    };
    core.report_payload(&job.key, &job.token, output.clone(), at(1));
    let append = core.settle(at(1)).remove(0).append.unwrap();
    assert_eq!(append.steps[0].output, Some(output.clone()));
    assert!(
        matches!(&append.entry.events[0], Event::AttemptSucceeded { output: stored, .. } if *stored == output)
    );
}
