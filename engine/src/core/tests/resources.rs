//! Room: what attempts take of machines, who holds things back, and that `explain` names every reason with
//! its numbers.

use super::*;
use crate::executor::Claims;
use crate::resource::Gpus;
use crate::site::HoldKind;

/// Needs what its input says.
struct Load;

#[derive(Serialize, Deserialize, JsonSchema)]
struct LoadInput {
    cpu: u64,
    memory: u64,
    disk: u64,
    gpus: u64,
    file: Value,
}

impl Stage for Load {
    const NAME: &'static str = "load";
    const VERSION: u32 = 2;
    const SOURCE: &'static str = "//! Takes what its input says.";
    const CLAIM: Claim = Claim::None;
    const PREEMPTIBLE: bool = true;
    type Input = LoadInput;
    type Output = Nothing;
    fn costs(&self, input: &Value) -> Need {
        let number = |name: &str| input[name].as_u64().unwrap_or_default();
        Need {
            cpu: u32::try_from(number("cpu")).unwrap(),
            memory: number("memory"),
            disk: number("disk"),
            gpus: u32::try_from(number("gpus")).unwrap(),
        }
    }
    async fn run(&self, _: &StageContext, _: LoadInput) -> Result<Outcome<Nothing>, Failure> {
        Ok(Outcome::Done(Nothing {}))
    }
}

fn stages() -> Arc<StageRegistry> {
    let kind = *registry().subject_kind("thing").unwrap();
    Arc::new(
        StageRegistry::default()
            .with_subject(kind)
            .with_type::<u64>()
            .with(Load),
    )
}

/// One step that needs this much, at this priority, with this deadline.
fn graph(need: Value, priority: i32, valid_until: Option<u64>) -> Arc<Graph> {
    let input = |name: &str| (name.to_owned(), Source::Literal(need[name].clone()));
    let step = StepSpec {
        name: StepName::new("load").unwrap(),
        stage: Some(StageRef {
            name: StageName::new("load").unwrap(),
            version: 2,
            artifacts: Vec::new(),
            effect: false,
            many: false,
        }),
        needs: Vec::new(),
        inputs: ["cpu", "memory", "disk", "gpus", "file"].map(input).into(),
        retry: Retry::default(),
        timeout: Timeouts::default(),
        wait: None,
        when: None,
        foreach: None,
        valid_until: valid_until
            .map(|until| serde_json::from_value(json!(until.to_string())).expect("an expression")),
        workflow: None,
        batch: None,
        on_failure: Vec::new(),
        finally: false,
    };
    let data = GraphData {
        name: WorkflowName::new("loads").unwrap(),
        description: String::new(),
        subject: "thing".to_owned(),
        claim: Claim::None,
        priority,
        params: vec![ParamSpec {
            name: "id".to_owned(),
            ty: "uint64".to_owned(),
            default: None,
            doc: String::new(),
        }],
        steps: vec![step],
        rewinds: Vec::new(),
        children: Vec::new(),
        outputs: BTreeMap::new(),
        triggers: Vec::new(),
    };
    Arc::new(Graph::new(data).unwrap())
}

/// A machine with 8 cores, 100 bytes of memory, 50 of scratch and the GPUs 0 and 1.
fn rack() -> Machine {
    Machine {
        name: "rack".to_owned(),
        capacity: Resources {
            cpu: 8,
            memory: 100,
            disk: 50,
            gpus: [0, 1].into_iter().collect(),
        },
    }
}

fn core_of(specs: Vec<ExecutorSpec>) -> Core {
    Core::new(stages(), specs, [1; 32]).keeping_all()
}

/// Starts a run that needs this much.
fn begin(core: &mut Core, need: Value, now: Now) -> RunId {
    begin_with(core, &graph(need, 0, None), now)
}

fn begin_with(core: &mut Core, graph: &Arc<Graph>, now: Now) -> RunId {
    core.start(start(graph, json!({"id": core.open()}), None), now)
        .unwrap()
}

/// The kinds of conditions that a run's only step waits for, with the text of the first.
fn why(core: &Core, run: &RunId, now: Now) -> (Vec<String>, String) {
    let all = core.explain(run, now);
    assert_eq!(all.len(), 1, "{all:?}");
    let kinds = all[0].conditions.iter().map(|one| one.kind.clone()).collect();
    (kinds, all[0].conditions[0].text.clone())
}

fn numbers(core: &Core, run: &RunId, now: Now) -> BTreeMap<String, u64> {
    core.explain(run, now)[0].conditions[0].numbers.clone()
}

#[test]
fn executors_of_a_machine_share_it_and_gpus_have_numbers() {
    let mut core = core_of(vec![
        ExecutorSpec {
            gpus: [1].into_iter().collect(),
            ..ExecutorSpec::new("second", rack(), 4)
        },
        ExecutorSpec::new("any", rack(), 4),
    ]);
    let gpu = |core: &mut Core, ms| {
        begin(core, json!({"gpus": 1, "cpu": 3}), at(ms));
        dispatches(&core.settle(at(ms)))
    };
    let (first, second) = (gpu(&mut core, 0), gpu(&mut core, 1));
    let where_and_which = |job: &Dispatch| (job.executor.clone(), Vec::from(job.held.gpus));
    assert_eq!(where_and_which(&first[0]), ("second".to_owned(), vec![1]));
    assert_eq!(where_and_which(&second[0]), ("any".to_owned(), vec![0]));
    // Both GPUs are taken, on whichever executor; there are cores for two only.
    let third = begin(&mut core, json!({"gpus": 1, "cpu": 3}), at(2));
    assert_eq!(dispatches(&core.settle(at(2))), []);
    let (kinds, text) = why(&core, &third, at(2));
    assert_eq!(kinds, ["cpu", "gpu", "cpu", "gpu"]);
    assert!(
        text.contains("needs 3 cores, free are 2 cores of 8 cores; held by load of run_"),
        "{text}"
    );
    let seen = core.executors();
    assert_eq!((seen[0].attempts.len(), seen[1].attempts.len()), (1, 1));
    assert_eq!((seen[0].held.cpu, seen[0].machine_held.cpu), (3, 6));
    report(&mut core, &first[0], done(), at(3));
    let next = dispatches(&core.settle(at(3)));
    assert_eq!(where_and_which(&next[0]), ("second".to_owned(), vec![1]));
}

#[test]
fn every_resource_is_explained_with_its_numbers() {
    for (need, kind, needed, free, capacity) in [
        (json!({"cpu": 3}), "cpu", 3, 2, 8),
        (json!({"memory": 31}), "memory", 31, 30, 100),
        (json!({"disk": 11}), "disk", 11, 10, 50),
        (json!({"gpus": 2}), "gpu", 2, 1, 2),
    ] {
        let mut core = core_of(vec![ExecutorSpec::new("main", rack(), 10)]);
        begin(
            &mut core,
            json!({"cpu": 6, "memory": 70, "disk": 40, "gpus": 1}),
            at(0),
        );
        core.settle(at(0));
        let run = begin(&mut core, need, at(1));
        assert_eq!(dispatches(&core.settle(at(1))), []);
        assert_eq!(why(&core, &run, at(1)).0, [kind]);
        let told = numbers(&core, &run, at(1));
        assert_eq!(
            (told["needed"], told["free"], told["capacity"]),
            (needed, free, capacity)
        );
    }
    let mut core = core_of(vec![ExecutorSpec::new("main", rack(), 10)]);
    let never = begin(&mut core, json!({"disk": 51}), at(0));
    core.settle(at(0));
    assert_eq!(why(&core, &never, at(0)).0, ["too_large"]);
    assert_eq!(numbers(&core, &never, at(0))["capacity"], 50);
}

#[test]
fn claims_of_the_profile_replace_what_the_stage_says() {
    let mut core = core_of(vec![ExecutorSpec {
        claims: Claims {
            cpu: Some(1),
            disk: Some(7),
            gpus: Some(2),
            ..Claims::default()
        },
        ..ExecutorSpec::new("main", rack(), 10)
    }]);
    begin(&mut core, json!({"cpu": 6, "memory": 70}), at(0));
    let held = dispatches(&core.settle(at(0)))[0].held;
    assert_eq!(
        (held.cpu, held.memory, held.disk, held.gpus.count()),
        (1, 70, 7, 2)
    );
}

#[test]
fn a_lock_is_held_by_one_attempt_of_the_machine() {
    let with_lock = |name: &str| ExecutorSpec {
        locks: vec!["layers".to_owned()],
        ..ExecutorSpec::new(name, rack(), 4)
    };
    let mut core = core_of(vec![with_lock("one"), with_lock("two")]);
    begin(&mut core, json!({}), at(0));
    let first = dispatches(&core.settle(at(0)));
    let waits = begin(&mut core, json!({}), at(1));
    assert_eq!(dispatches(&core.settle(at(1))), []);
    let (kinds, text) = why(&core, &waits, at(1));
    assert_eq!(kinds, ["lock", "lock"]);
    assert!(
        text.contains("`layers`") && text.contains("held by load of run_"),
        "{text}"
    );
    report(&mut core, &first[0], done(), at(2));
    assert_eq!(dispatches(&core.settle(at(2))).len(), 1);
}

#[test]
fn staggered_starts_keep_their_distance_over_a_restart() {
    let spec = || ExecutorSpec {
        stagger_ms: 600,
        ..ExecutorSpec::new("main", rack(), 4)
    };
    let mut core = core_of(vec![spec()]);
    let load = graph(json!({}), 0, None);
    let first = begin_with(&mut core, &load, at(0));
    let transitions = core.settle(at(0));
    let waits = begin_with(&mut core, &load, at(100));
    assert_eq!(dispatches(&core.settle(at(100))), []);
    assert_eq!(why(&core, &waits, at(100)).0, ["stagger"]);
    assert_eq!(numbers(&core, &waits, at(100))["left_ms"], 500);
    assert_eq!(core.next_due().1, Some(600), "it is looked at again then");
    // A restart does not make the next start come earlier.
    let entry = transitions[0].append.as_ref().unwrap().entry.clone();
    let mut second = core_of(vec![spec()]);
    second.restore(
        RunState::fold(&first, std::slice::from_ref(&load), &[entry]).unwrap(),
        at(200),
    );
    begin_with(&mut second, &load, at(200));
    for (core, from) in [(&mut core, 100), (&mut second, 200)] {
        core.tick(at(from + 10));
        assert_eq!(dispatches(&core.settle(at(from + 10))), []);
        core.tick(at(600));
        assert_eq!(dispatches(&core.settle(at(600))).len(), 1);
    }
}

#[test]
fn executors_run_the_version_that_a_run_is_pinned_to() {
    let old = BTreeMap::from([(StageName::new("load").unwrap(), 1)]);
    let mut core = core_of(vec![ExecutorSpec {
        versions: old,
        ..ExecutorSpec::new("vendor", rack(), 4)
    }]);
    let run = begin(&mut core, json!({}), at(0));
    assert_eq!(dispatches(&core.settle(at(0))), []);
    assert_eq!(why(&core, &run, at(0)).0, ["executor_version"]);
    let told = numbers(&core, &run, at(0));
    assert_eq!((told["needed"], told["has"]), (2, 1));
}

#[test]
fn executors_reach_the_stores_of_their_inputs() {
    let mut core = core_of(vec![ExecutorSpec {
        stores: Some(vec!["scratch".to_owned()]),
        ..ExecutorSpec::new("main", rack(), 4)
    }]);
    let file = |store: &str| json!({"file": {"store": store, "key": "a/b", "bytes": 1}});
    begin(&mut core, file("scratch"), at(0));
    assert_eq!(dispatches(&core.settle(at(0))).len(), 1);
    let run = begin(&mut core, file("s3-cold"), at(1));
    assert_eq!(dispatches(&core.settle(at(1))), []);
    let (kinds, text) = why(&core, &run, at(1));
    assert_eq!(kinds, ["store"]);
    assert!(text.contains("`s3-cold`"), "{text}");
}

/// A hold keeps everything that it covers from starting, until it is released, over a restart too; what
/// runs goes on, and others go on.
#[test]
fn what_is_held_does_not_start_until_it_is_released() {
    let by = || By {
        who: "ana".to_owned(),
        why: "new disks".to_owned(),
    };
    for (kind, name, told) in [
        (HoldKind::Workflow, "loads", "held"),
        (HoldKind::Stage, "load", "held"),
        (HoldKind::Executor, "main", "drained"),
    ] {
        let specs = || vec![ExecutorSpec::new("main", rack(), 4)];
        let mut core = core_of(specs());
        let load = graph(json!({}), 0, None);
        begin_with(&mut core, &load, at(0));
        let runs = dispatches(&core.settle(at(0)));
        assert_eq!(runs.len(), 1);
        core.hold(kind, name.to_owned(), by(), at(1)).unwrap();
        let again = core.hold(kind, name.to_owned(), by(), at(1));
        assert!(matches!(&again, Err(Refused::State(why)) if why.contains("held already")));
        let held = begin_with(&mut core, &load, at(2));
        let transitions = core.settle(at(2));
        assert_eq!(dispatches(&transitions), []);
        let (kinds, text) = why(&core, &held, at(2));
        assert_eq!(kinds[0], told);
        assert!(text.contains("ana: new disks"), "{text}");
        assert_eq!(core.explain(&held, at(2))[0].conditions[0].since, at(1).wall_ms);
        // What runs goes on to its end.
        report(&mut core, &runs[0], done(), at(3));
        core.settle(at(3));
        assert_eq!(core.open(), 1);
        let site = core.take_site();
        assert_eq!(site.len(), 1);
        let entry = transitions[0].append.as_ref().unwrap().entry.clone();
        let mut second = core_of(specs());
        second.restore_site(&site).unwrap();
        second.restore(
            RunState::fold(&held, std::slice::from_ref(&load), &[entry]).unwrap(),
            at(9),
        );
        for core in [&mut core, &mut second] {
            assert_eq!(dispatches(&core.settle(at(9))), []);
            core.release(kind, name.to_owned(), by(), at(10)).unwrap();
            assert_eq!(dispatches(&core.settle(at(10))).len(), 1);
            let none = core.release(kind, name.to_owned(), by(), at(11));
            assert!(matches!(&none, Err(Refused::State(why)) if why.contains("not held")));
        }
    }
    let mut core = core_of(vec![ExecutorSpec::new("main", rack(), 4)]);
    let unknown = core.hold(HoldKind::Executor, "mian".to_owned(), by(), at(0));
    assert!(matches!(&unknown, Err(Refused::State(why)) if why.contains("there are: main")));
}

/// The pool of a rack whose attempts can be stopped at any time.
fn killable(slots: usize) -> ExecutorSpec {
    ExecutorSpec {
        killable: true,
        ..ExecutorSpec::new("main", rack(), slots)
    }
}

#[test]
fn work_with_a_deadline_takes_the_place_of_what_is_cheap_to_lose() {
    let mut core = core_of(vec![killable(10)]);
    let bulk = graph(json!({"memory": 40}), 0, None);
    let old = begin_with(&mut core, &bulk, at(0));
    core.settle(at(0));
    let young = begin_with(&mut core, &bulk, at(50));
    let jobs = dispatches(&core.settle(at(50)));
    let urgent = graph(json!({"memory": 50}), 10, Some(9_000_000));
    let proof = begin_with(&mut core, &urgent, at(60));
    let transitions = core.settle(at(60));
    // The one that started last is stopped; its run is not charged, and what it holds is held until it ends.
    let stop = Effect::Stop {
        executor: "main".to_owned(),
        key: jobs[0].key.clone(),
    };
    let effects: Vec<&Effect> = transitions.iter().flat_map(|one| &one.effects).collect();
    assert_eq!(effects, [&stop]);
    assert_eq!(jobs[0].key.run, young);
    assert_eq!(core.executors()[0].machine_held.memory, 80);
    for ms in [61, 62] {
        assert!(core.settle(at(ms)).is_empty(), "it asks for room once");
    }
    let failure = Failure::transient("stopped", "asked to");
    report(&mut core, &jobs[0], News::Ended(Err(failure)), at(70));
    let next = dispatches(&core.settle(at(70)));
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].key.run, proof);
    let step = core.runs[&young].state.step(StepIx(0));
    assert_eq!((step.status, step.charged), (StepStatus::Ready, 0));
    assert_eq!(core.runs[&old].state.step(StepIx(0)).status, StepStatus::Running);
    report(&mut core, &next[0], done(), at(80));
    let again = dispatches(&core.settle(at(80)));
    assert_eq!((again[0].key.run.clone(), again[0].key.attempt), (young, 2));
}

#[test]
fn nothing_is_stopped_in_vain() {
    let stopped = |core: &mut Core, ms| {
        let transitions = core.settle(at(ms));
        let mut effects = transitions.iter().flat_map(|one| &one.effects);
        effects.any(|effect| matches!(effect, Effect::Stop { .. }))
    };
    let urgent = |memory: u64, priority| graph(json!({"memory": memory}), priority, Some(9_000_000));
    let bulk = graph(json!({"memory": 40}), 0, None);
    // Of the same priority; too large even then; not killable; no deadline; deadline of the other.
    for (spec, running, wants) in [
        (killable(10), bulk.clone(), urgent(90, 0)),
        (
            killable(10),
            graph(json!({"memory": 40}), 20, None),
            urgent(90, 10),
        ),
        (
            ExecutorSpec::new("main", rack(), 10),
            bulk.clone(),
            urgent(90, 10),
        ),
        (killable(10), bulk.clone(), graph(json!({"memory": 90}), 10, None)),
        (killable(10), urgent(40, 0), urgent(90, 10)),
    ] {
        let mut core = core_of(vec![spec]);
        begin_with(&mut core, &running, at(0));
        core.settle(at(0));
        begin_with(&mut core, &wants, at(1));
        assert!(!stopped(&mut core, 1));
        assert!(!stopped(&mut core, 2));
    }
    let mut core = core_of(vec![killable(1)]);
    begin_with(&mut core, &bulk, at(0));
    core.settle(at(0));
    begin_with(&mut core, &urgent(1, 10), at(1));
    assert!(stopped(&mut core, 1), "a slot is room too");
}

/// Whatever comes and goes, no machine gives more than it has.
#[test]
fn random_loads_never_take_more_than_there_is() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let cases = std::env::var("SEALFLOW_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    for case in 0..cases.unwrap_or(200_u64) {
        let mut random = StdRng::seed_from_u64(case);
        let locks = |random: &mut StdRng| {
            let lock = random.gen_bool(0.3);
            lock.then(|| "l".to_owned()).into_iter().collect()
        };
        let specs: Vec<ExecutorSpec> = (0..3)
            .map(|n| ExecutorSpec {
                killable: random.gen_bool(0.7),
                stagger_ms: [0, 0, 5][random.gen_range(0..3)],
                locks: locks(&mut random),
                gpus: (0..Gpus::MAX).filter(|gpu| (gpu + n) % 3 != 0).collect(),
                ..ExecutorSpec::new(format!("e{n}"), rack(), random.gen_range(1..5))
            })
            .collect();
        let mut core = core_of(specs.clone());
        let mut running: Vec<Dispatch> = Vec::new();
        let (mut left, mut started, mut ended) = (30, 0, 0);
        for ms in 0..4_000 {
            if left > 0 && random.gen_bool(0.4) {
                left -= 1;
                let need = json!({
                    "cpu": random.gen_range(0..12), "memory": random.gen_range(0..=100),
                    "disk": random.gen_range(0..=50), "gpus": random.gen_range(0..2),
                });
                let deadline = random.gen_bool(0.3).then_some(u64::MAX / 2);
                let load = graph(need, random.gen_range(0..3), deadline);
                let now = at(ms);
                core.start(start(&load, json!({"id": left}), None), now).unwrap();
            }
            if !running.is_empty() && random.gen_bool(0.3) {
                let job = running.swap_remove(random.gen_range(0..running.len()));
                report(&mut core, &job, done(), at(ms));
                ended += 1;
            }
            core.tick(at(ms));
            let transitions = core.settle(at(ms));
            let jobs = dispatches(&transitions);
            started += jobs.len();
            running.extend(jobs);
            for effect in transitions.iter().flat_map(|one| &one.effects) {
                if let Effect::Stop { key, .. } = effect {
                    let at_place = running.iter().position(|job| job.key == *key).unwrap();
                    let job = running.swap_remove(at_place);
                    let failure = Failure::transient("stopped", "asked to");
                    report(&mut core, &job, News::Ended(Err(failure)), at(ms));
                    ended += 1;
                }
            }
            let seen = core.executors();
            let machine = seen[0].machine_held;
            let mut sum = Resources::default();
            for view in &seen {
                assert!(view.attempts.len() <= view.spec.slots);
                for holding in &view.attempts {
                    assert!(sum.gpus.and(holding.held.gpus).is_empty(), "a GPU is held twice");
                    assert!(holding.held.gpus.without(view.spec.gpus).is_empty());
                    sum += holding.held;
                }
            }
            assert_eq!(sum, machine, "what is held is what attempts hold");
            let capacity = rack().capacity;
            assert!(sum.cpu <= capacity.cpu && sum.memory <= capacity.memory && sum.disk <= capacity.disk);
            let holders = seen.iter().filter(|view| !view.spec.locks.is_empty());
            let holders: usize = holders.map(|view| view.attempts.len()).sum();
            assert!(holders <= 1, "a lock is held twice");
            if left == 0 && core.open() == 0 {
                break;
            }
        }
        assert_eq!(
            (left, core.open()),
            (0, 0),
            "case {case}: everything comes to its end"
        );
        assert_eq!(started, ended);
        assert_eq!(
            core.executors()[0].machine_held,
            Resources::default(),
            "nothing leaks"
        );
    }
}
