//! Executors on other machines: they join, fall silent, come back, and what becomes of their attempts.

use super::*;
use crate::executor::{LOST_AFTER_MS, Machine, SUSPECT_AFTER_MS};

impl Flow {
    /// A run on other machines only.
    fn remote(steps: &str, machines: &[&str]) -> Self {
        let graph = Self::graph_of(steps);
        let mut core = Core::new(stages(), Vec::new(), [7; 32]).keeping_all();
        let now = Now {
            wall_ms: 0,
            mono_ms: 0,
        };
        let run = core.start(start(&graph, json!({"id": 1}), None), now).unwrap();
        let mut flow = Self {
            core,
            run,
            graphs: vec![graph.clone()],
            graph,
            entries: Vec::new(),
            rows: BTreeMap::new(),
            running: BTreeMap::new(),
            asked: Vec::new(),
            ms: 0,
        };
        flow.settle();
        for machine in machines {
            flow.join(machine);
        }
        flow
    }

    fn join(&mut self, name: &str) {
        let capacity = Resources {
            cpu: 8,
            memory: 1000,
            ..Resources::default()
        };
        let machine = Machine {
            name: name.to_owned(),
            capacity,
        };
        let spec = ExecutorSpec::new(format!("all@{name}"), machine.clone(), 4);
        self.core.join(machine, vec![spec], self.now());
        self.settle();
    }

    fn heard(&mut self, name: &str) {
        self.core.heard(name, self.now());
        self.settle();
    }

    /// Time goes by second by second; these machines give signs of life.
    fn pass(&mut self, ms: u64, alive: &[&str]) {
        for _ in 0..ms.div_ceil(1000) {
            for machine in alive {
                self.core.heard(machine, self.now());
            }
            self.wait(1000);
        }
    }

    fn on(&self, step: &str) -> &str {
        &self.running[step].executor
    }

    /// Forgets an attempt as a machine does that is gone, and gives what it would have reported.
    fn forget(&mut self, step: &str, output: Value) -> Report {
        let Dispatch { key, token, .. } = self.running.remove(step).unwrap();
        Report {
            key,
            token,
            news: News::Ended(Ok(Outcome::Done(output))),
        }
    }

    fn kinds(&self, step: &str) -> Vec<String> {
        let all = self.core.explain(&self.run, self.now());
        let one = all.into_iter().find(|one| one.step.as_str() == step).unwrap();
        one.conditions
            .into_iter()
            .map(|condition| condition.kind)
            .collect()
    }

    /// A daemon that is started again: it knows the machines only from the runs.
    fn reborn(&mut self) {
        let mut core = Core::new(stages(), Vec::new(), [9; 32]).keeping_all();
        core.restore(self.state(), self.now());
        self.core = core;
        self.settle();
    }

    fn lost(&self) -> usize {
        let events = self.entries.iter().flat_map(|entry| &entry.events);
        events
            .filter(|event| matches!(event, Event::AttemptLost { .. }))
            .count()
    }
}

#[test]
fn a_step_waits_for_a_machine_and_is_done_there() {
    let mut flow = Flow::remote("[steps.list]\n", &[]);
    assert_eq!(flow.kinds("list"), ["no_executor"]);
    flow.join("a");
    assert_eq!(flow.on("list"), "all@a");
    flow.done("list", listed(&[1], true));
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn what_is_lost_is_done_elsewhere_and_a_late_result_does_not_count() {
    let mut flow = Flow::remote("[steps.list]\n", &["a"]);
    flow.join("b");
    assert_eq!(flow.on("list"), "all@a");
    flow.pass(SUSPECT_AFTER_MS + 1000, &["b"]);
    assert_eq!(flow.kinds("list"), ["suspect_worker"]);
    assert_eq!(
        (flow.status("list"), flow.lost()),
        (StepStatus::Running, 0),
        "suspect is not lost"
    );
    // The effect that stops it reaches nobody.
    let late = flow.forget("list", listed(&[9], true));
    flow.pass(LOST_AFTER_MS - SUSPECT_AFTER_MS, &["b"]);
    assert_eq!((flow.lost(), flow.on("list")), (1, "all@b"));
    assert_eq!(
        flow.state().step(StepIx(0)).charged,
        0,
        "that was not the run's fault"
    );
    assert!(!flow.core.report(late, flow.now()), "superseded");
    flow.settle();
    assert_eq!(flow.status("list"), StepStatus::Running);
    flow.join("a");
    assert!(flow.asked.is_empty(), "nothing of it is on a any more");
    flow.done("list", listed(&[1], true));
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn a_machine_that_is_back_in_time_goes_on() {
    let mut flow = Flow::remote("[steps.list]\n", &["a"]);
    flow.join("b");
    flow.pass(LOST_AFTER_MS - 2000, &["b"]);
    flow.heard("a");
    flow.pass(LOST_AFTER_MS - 2000, &["b"]);
    flow.join("a");
    assert_eq!(flow.asked.len(), 1, "it is asked for what it had");
    assert_eq!(flow.lost(), 0);
    flow.done("list", listed(&[1], true));
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn work_with_a_deadline_does_not_wait_as_long() {
    let steps = "[steps.list]\nvalid_until = \"900000u\"\n";
    let mut flow = Flow::remote(steps, &["a"]);
    flow.join("b");
    flow.forget("list", json!({}));
    flow.pass(SUSPECT_AFTER_MS + 1000, &["b"]);
    assert_eq!((flow.lost(), flow.on("list")), (1, "all@b"));
}

#[test]
fn files_of_a_run_stay_on_their_machine() {
    let steps = "[steps.first]\nstage = \"grind\"\n[steps.second]\nstage = \"grind\"\nneeds = [\"first\"]\n";
    let mut flow = Flow::remote(steps, &["a"]);
    flow.done("first", json!({"number": 1}));
    flow.join("b");
    assert_eq!(flow.on("second"), "all@a");
    flow.ends("second", Err(Failure::transient("busy", "try again")));
    flow.core.leave("a", flow.now());
    flow.pass(20_000, &["b"]);
    assert_eq!(flow.status("second"), StepStatus::Ready, "b cannot do it");
    assert_eq!(flow.kinds("second"), ["elsewhere"]);
    flow.join("a");
    assert_eq!(flow.on("second"), "all@a");
    // Such a step is waited for; its files are nowhere else.
    let late = flow.forget("second", json!({"number": 2}));
    flow.pass(20 * LOST_AFTER_MS, &["b"]);
    assert_eq!((flow.lost(), flow.status("second")), (0, StepStatus::Running));
    assert!(flow.core.report(late, flow.now()), "adopted");
    flow.settle();
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn a_person_may_be_asked_what_becomes_of_a_lost_attempt() {
    let steps = "[steps.list]\ntimeout = { lost = \"2min\", on_lost = \"ask\" }\n";
    let mut flow = Flow::remote(steps, &["a", "b"]);
    flow.forget("list", json!({}));
    flow.pass(LOST_AFTER_MS + 2000, &["b"]);
    assert_eq!(flow.run_status(), RunStatus::Running, "two minutes it says");
    flow.pass(80_000, &["b"]);
    assert_eq!(flow.run_status(), RunStatus::Paused);
    assert!(flow.state().pause.unwrap().text().contains("no word from `a`"));
    flow.ask(Verb::Resume).unwrap();
    assert_eq!(flow.on("list"), "all@b");
}

#[test]
fn after_a_restart_machines_get_their_full_time_and_are_asked() {
    let mut flow = Flow::remote("[steps.list]\n", &["a"]);
    flow.pass(LOST_AFTER_MS - 1000, &[]);
    flow.reborn();
    assert!(flow.asked.is_empty(), "a is not here yet");
    flow.pass(LOST_AFTER_MS - 1000, &[]);
    assert_eq!(flow.lost(), 0, "its time began anew");
    flow.join("a");
    let asked = flow.asked.clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        flow.core.executors()[0].attempts.len(),
        1,
        "what it holds is counted"
    );
    // It does not have it: the step is done again at once.
    let Dispatch { key, token, .. } = flow.running.remove("list").unwrap();
    flow.core.report(
        Report {
            key,
            token,
            news: News::Lost("not here".to_owned()),
        },
        flow.now(),
    );
    flow.settle();
    assert_eq!((flow.lost(), flow.on("list")), (1, "all@a"));
    flow.done("list", listed(&[1], true));
    assert_eq!(
        flow.core.executors()[0].held,
        Resources::default(),
        "nothing leaked"
    );
}

#[test]
fn a_cancelled_run_does_not_wait_for_ever_for_a_machine_that_is_gone() {
    let steps = "[steps.first]\nstage = \"grind\"\n";
    let mut flow = Flow::remote(steps, &["a"]);
    let dispatch = flow.running["first"].clone();
    flow.core
        .operate(&flow.run.clone(), Verb::Cancel, By::default(), flow.now())
        .unwrap();
    // What is sent to stop it reaches nobody.
    for transition in flow.core.settle(flow.now()) {
        flow.entries.extend(transition.append.map(|append| append.entry));
    }
    flow.rows.clear();
    flow.pass(LOST_AFTER_MS + 2000, &[]);
    assert_eq!(flow.run_status(), RunStatus::Cancelled);
    let Dispatch { key, token, .. } = dispatch;
    assert!(!flow.core.counts(&key, &token));
}

#[test]
fn a_drained_machine_gets_nothing_new() {
    let mut flow = Flow::remote("[steps.list]\nwait = { signal = \"go\" }\n", &["a"]);
    let (worker, by) = (HoldKind::Worker, By::default());
    flow.core
        .hold(worker, "a".to_owned(), by.clone(), flow.now())
        .unwrap();
    flow.ask(Verb::Signal("go".to_owned(), Value::Null)).unwrap();
    assert_eq!(flow.kinds("list"), ["drained"]);
    flow.core.release(worker, "a".to_owned(), by, flow.now()).unwrap();
    flow.settle();
    assert_eq!(flow.on("list"), "all@a");
}
