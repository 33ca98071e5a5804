//! The families of faults that durable engines suffer from (docs/reliability.md lists them all): for each
//! that no other test names, the shortest story in which the engine must do better.

use super::*;

const CHAIN: &str = r#"
[steps.list]
[steps.try]
needs = ["list"]
with = { number = { value = 1 } }
[steps.take]
needs = ["try"]
"#;

fn limited(silence_ms: u64) -> Arc<Graph> {
    graph_with(
        Claim::Write,
        Timeouts {
            run_ms: None,
            silence_ms: Some(silence_ms),
            ..Timeouts::default()
        },
    )
}

fn one() -> Value {
    json!({"number": 1})
}

/// A core that took the run up from its entries, and what it asks for first.
fn restarted(run: &RunId, graph: &Arc<Graph>, entries: &[Entry], now: Now) -> (Core, Vec<Effect>) {
    let mut second = core(vec![place("main", 1, 10)]);
    second.restore(
        RunState::fold(run, std::slice::from_ref(graph), entries).unwrap(),
        now,
    );
    let asked = second.settle(now);
    assert!(asked.iter().all(|transition| transition.append.is_none()));
    let effects = asked.into_iter().flat_map(|transition| transition.effects);
    (second, effects.collect())
}

/// A run of one step whose attempt is granted, and the entry that says so.
fn granted() -> (Arc<Graph>, RunId, Dispatch, Entry) {
    let graph = graph_with(Claim::Write, Timeouts::default());
    let mut first = core(vec![place("main", 1, 10)]);
    let run = first.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let mut transitions = first.settle(at(0));
    let job = dispatches(&transitions).remove(0);
    let entry = transitions.remove(0).append.unwrap().entry;
    (graph, run, job, entry)
}

/// Family 1, hours of work thrown away on restart.
#[test]
fn running_work_is_adopted_after_a_restart() {
    let (graph, run, job, entry) = granted();
    let (mut second, effects) = restarted(&run, &graph, &[entry], at(1000));
    let attach = Effect::Attach {
        executor: "main".to_owned(),
        key: job.key.clone(),
        token: job.token.clone(),
    };
    assert_eq!(
        effects,
        [attach],
        "it is asked for, neither stopped nor begun anew"
    );
    report(&mut second, &job, done(), at(2000));
    let entry = second.settle(at(2000)).remove(0).append.unwrap().entry;
    assert!(
        matches!(entry.events[0], Event::AttemptSucceeded { attempt: 1, .. }),
        "{entry:?}"
    );
    assert_eq!(second.open(), 0);
}

/// Family 2, fixed timeouts kill long steps: who reports progress is not silent, and the engine's own
/// latency is nobody's fault.
#[test]
fn who_reports_progress_is_not_given_up() {
    let mut core = core(vec![place("main", 1, 10)]);
    core.start(start(&limited(1000), json!({"id": 1}), None), at(0))
        .unwrap();
    let job = dispatches(&core.settle(at(0))).remove(0);
    // The commit took half a second.
    assert!(core.begin(&job.key, &job.token, at(500)));
    for ms in [1400, 2300, 3200] {
        core.tick(at(ms));
        assert_eq!(core.settle(at(ms)).len(), 0, "given up at {ms}");
        report(&mut core, &job, News::Progress(Progress::default()), at(ms));
    }
    core.tick(at(4199));
    assert_eq!(core.settle(at(4199)).len(), 0);
    core.tick(at(4200));
    let entry = core.settle(at(4200)).remove(0).append.unwrap().entry;
    assert!(
        matches!(&entry.events[0], Event::AttemptFailed { failure, .. } if failure.code == "silent_too_long"),
        "{entry:?}"
    );
}

/// Family 5, slots and locks leak.
#[test]
fn whatever_ends_an_attempt_frees_its_place() {
    let ends: [(&str, News); 5] = [
        ("done", done()),
        ("parked", News::Ended(Ok(Outcome::Park(Wake::At(u64::MAX))))),
        ("failed", News::Ended(Err(Failure::permanent("broken", "")))),
        ("critical", News::Ended(Err(Failure::critical("broken", "")))),
        ("lost", News::Lost("gone".to_owned())),
    ];
    for (how, news) in ends {
        let graph = graph_with(Claim::Write, Timeouts::default());
        let mut core = core(vec![place("main", 1, 10)]);
        let run = core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
        let job = dispatches(&core.settle(at(0))).remove(0);
        assert!(core.busy());
        if how == "lost" {
            core.operate(&run, Verb::Pause, By::default(), at(1)).unwrap();
        }
        report(&mut core, &job, news, at(1));
        core.settle(at(1));
        assert!(!core.busy(), "{how}");
        assert_eq!(core.executors()[0].machine_held, Resources::default(), "{how}");
    }
    for verb in [Verb::Rewind(step("work")), Verb::Skip(step("work")), Verb::Cancel] {
        let graph = graph_with(Claim::Write, Timeouts::default());
        let mut core = core(vec![place("main", 1, 10)]);
        let run = core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
        let job = dispatches(&core.settle(at(0))).remove(0);
        core.operate(&run, Verb::Pause, By::default(), at(1)).unwrap();
        core.operate(&run, verb.clone(), By::default(), at(1)).unwrap();
        let before = core.settle(at(1));
        assert!(core.busy(), "it holds its place until it has ended: {verb:?}");
        assert_eq!(dispatches(&before), []);
        report(&mut core, &job, News::Lost("stopped".to_owned()), at(2));
        let next = dispatches(&core.settle(at(2)));
        assert_eq!(core.busy(), !next.is_empty(), "{verb:?}");
    }
}

/// Family 6, the hand-off window loses a task: the grant is in the log before anybody hears of it, so what
/// nobody has after a crash is handed out again.
#[test]
fn what_was_handed_off_and_lost_is_handed_off_again() {
    let (graph, run, job, entry) = granted();
    let (mut second, effects) = restarted(&run, &graph, &[entry], at(1000));
    for effect in effects {
        if let Effect::Attach { key, token, .. } = effect {
            let news = News::Lost("nobody has it".to_owned());
            second.report(Report { key, token, news }, at(1000));
        }
    }
    let again = dispatches(&second.settle(at(1000)));
    assert_eq!(again.len(), 1, "it is handed off again");
    assert_eq!((again[0].key.visit, again[0].key.attempt), (1, 2));
    assert_ne!(again[0].token, job.token);
}

/// Family 8, running again from a step: from any that has begun, keeping what came before.
#[test]
fn a_run_is_done_again_from_any_step() {
    let mut flow = Flow::new(CHAIN);
    flow.done("list", listed(&[], true));
    flow.done("try", one());
    assert_eq!(flow.running(), ["take"]);
    flow.ask(Verb::Rewind(step("try"))).unwrap();
    assert_eq!(flow.running(), ["try"]);
    assert_eq!(flow.running["try"].key.visit, 2);
    let state = flow.state();
    let of = |name: &str| state.step(state.find(&step(name)).unwrap());
    assert!(of("list").output.is_some() && of("try").output.is_none());
    assert_eq!((of("list").visit, of("list").attempts), (1, 1));
    flow.done("try", one());
    assert_eq!(flow.running["take"].key.visit, 2);
    flow.done("take", one());
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

/// Family 9, pausing without losing work.
#[test]
fn a_pause_lets_work_end_and_starts_nothing() {
    let mut flow = Flow::new(CHAIN);
    flow.ask(Verb::Pause).unwrap();
    assert_eq!(flow.running(), ["list"], "what runs goes on");
    flow.done("list", listed(&[], true));
    assert_eq!(flow.status("list"), StepStatus::Succeeded);
    assert_eq!(flow.running(), Vec::<&str>::new());
    flow.ask(Verb::Resume).unwrap();
    assert_eq!(flow.running(), ["try"]);
}

/// Family 12, a retry budget that is used up drops the work in silence.
#[test]
fn used_up_retries_pause_the_run_and_keep_everything() {
    let mut flow = Flow::new(&CHAIN.replace(
        "[steps.try]\n",
        "[steps.try]\nretry = { max_attempts = 2, backoff = \"1s\" }\n",
    ));
    flow.done("list", listed(&[], true));
    for _ in 0..2 {
        assert_eq!(flow.run_status(), RunStatus::Running);
        flow.ends("try", Err(Failure::transient("no_luck", "not this time")));
        flow.wait(2000);
    }
    assert_eq!(flow.run_status(), RunStatus::Paused);
    let reason = flow.state().pause.unwrap().text();
    assert!(reason.contains("`try` failed 2 times"), "{reason}");
    assert_eq!(flow.status("list"), StepStatus::Succeeded);
    flow.ask(Verb::Retry(Some(step("try")))).unwrap();
    assert_eq!(flow.running(), ["try"]);
    flow.done("try", one());
    flow.done("take", one());
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

/// Family 13, new versions break running work: a run never goes on with another graph than its own.
#[test]
fn a_run_goes_on_with_its_own_graph_only() {
    let flow = Flow::new(CHAIN);
    let edited = Flow::new(&CHAIN.replace(
        "needs = [\"list\"]",
        "needs = [\"list\"]\ntimeout = { run = \"1h\" }",
    ));
    RunState::fold(&flow.run, std::slice::from_ref(&flow.graph), &flow.entries).unwrap();
    let illegal = RunState::fold(&flow.run, std::slice::from_ref(&edited.graph), &flow.entries).unwrap_err();
    assert!(illegal.what.contains("pinned"), "{illegal}");
}

/// Family 15, a wrong diagnosis: a bad place is not the run's fault.
#[test]
fn a_critical_failure_is_not_charged_to_the_run() {
    let mut core = core(vec![place("a", 1, 10), place("b", 1, 10)]);
    let graph = graph_with(Claim::Write, Timeouts::default());
    core.start(start(&graph, json!({"id": 1}), None), at(0)).unwrap();
    let job = dispatches(&core.settle(at(0))).remove(0);
    let news = News::Ended(Err(Failure::critical("gpu_lost", "it fell off the bus")));
    report(&mut core, &job, news, at(1));
    let entry = core.settle(at(1)).remove(0).append.unwrap().entry;
    assert!(
        matches!(&entry.events[0], Event::AttemptFailed { charged: false, .. }),
        "{entry:?}"
    );
    core.tick(at(20_000));
    let again = dispatches(&core.settle(at(20_000)));
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].executor, job.executor, "it is tried elsewhere");
}
