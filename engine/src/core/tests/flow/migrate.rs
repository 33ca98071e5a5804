//! Going on with an edited workflow: what is kept, what is done again, and what is refused.

use super::*;
use crate::migrate::{Fate, Plan};

const FLOW: &str = r#"
[steps.list]
[steps.each]
needs = ["list"]
foreach = "list.numbers"
max_parallel = 2
with = { number = "item" }
[steps.gather]
needs = ["each"]
[steps.take]
needs = ["gather"]
"#;

impl Flow {
    fn plan(&self, steps: &str, redo: bool) -> Plan {
        Core::plan_migration(&stages(), &self.state(), &Flow::graph_of(steps), redo)
    }

    fn fates(&self, steps: &str, redo: bool) -> BTreeMap<String, Fate> {
        let steps = self.plan(steps, redo).steps.into_iter();
        steps.map(|step| (step.step.to_string(), step.fate)).collect()
    }

    fn migrate(&mut self, steps: &str, redo: bool) -> Result<(), Refused> {
        let graph = Flow::graph_of(steps);
        self.graphs.push(graph.clone());
        let (source, before) = (String::new(), self.entries.len());
        let plan = Core::plan_migration(&stages(), &self.state(), &graph, redo);
        let answer = self.ask(Verb::Migrate(Box::new(Migration { graph, source, redo })));
        assert_eq!(
            plan.is_safe(),
            answer.is_ok(),
            "what decides is what was told: {answer:?}"
        );
        if answer.is_err() {
            assert_eq!(self.entries.len(), before, "a refusal changes nothing");
        }
        answer
    }

    /// The same run after a restart: what it does next is decided from its entries alone.
    fn restarted(self) -> Flow {
        let now = self.now();
        let mut spec = place("main", 100, 1000);
        spec.machine.capacity.cpu = 100;
        let mut core = Core::new(stages(), vec![spec], [9; 32]).keeping_all();
        core.restore(self.state(), now);
        let transitions = core.settle(now);
        let kept = |effect: &Effect| matches!(effect, Effect::Attach { .. } | Effect::Dispatch(_));
        assert!(transitions.iter().flat_map(|one| &one.effects).all(kept));
        assert!(
            transitions.iter().all(|one| one.append.is_none()),
            "nothing was left undecided"
        );
        Flow { core, ..self }
    }
}

fn half_done() -> Flow {
    let mut flow = Flow::new(FLOW);
    flow.done("list", listed(&[5, 6, 7], true));
    flow.done("each[0]", json!({"number": 50}));
    flow
}

#[test]
fn what_runs_and_what_is_done_stays_and_new_steps_are_done() {
    let mut flow = half_done();
    // Two items run; a step before the last one is new, and so are a wait and settings.
    let edited = format!(
        "{}{}",
        FLOW.replace("needs = [\"gather\"]", "needs = [\"more\"]"),
        r#"
with = { number = "more.number" }
retry = { max_attempts = 7 }
[steps.more]
stage = "take"
needs = ["gather"]
wait = { for = "5s" }
"#
    );
    let fates = flow.fates(&edited, false);
    for (name, fate) in [
        ("list", Fate::Kept),
        ("each", Fate::Kept),
        ("gather", Fate::Kept),
        ("more", Fate::Added),
    ] {
        assert_eq!(fates[name], fate, "{name}");
    }
    assert_eq!(fates["take"], Fate::NewForm);
    let token = flow.running["each[1]"].token.clone();
    flow.migrate(&edited, false).unwrap();
    assert_eq!(flow.running(), ["each[1]", "each[2]"]);
    assert_eq!(flow.running["each[1]"].token, token, "what runs goes on");
    let mut flow = flow.restarted();
    flow.done("each[2]", json!({"number": 70}));
    flow.done("each[1]", json!({"number": 60}));
    let list = [50, 60, 70].map(|number| InputValue::Value(json!(number)));
    assert_eq!(flow.input("gather")["number"], InputValue::List(list.to_vec()));
    flow.done("gather", json!({"number": 1}));
    assert_eq!(flow.status("more"), StepStatus::Waiting);
    flow.wait(5000);
    flow.done("more", json!({"number": 2}));
    assert_eq!(flow.input("take")["number"], InputValue::Value(json!(2)));
    flow.done("take", json!({"number": 3}));
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn what_would_be_done_otherwise_is_done_again_only_if_asked_for() {
    let mut flow = half_done();
    flow.done("each[1]", json!({"number": 60}));
    flow.done("each[2]", json!({"number": 70}));
    flow.done("gather", json!({"number": 1}));
    let edited = FLOW.replace(
        "foreach = \"list.numbers\"",
        "foreach = \"list.numbers.filter(n, n > 5u)\"",
    );
    assert_eq!(flow.fates(&edited, false)["each"], Fate::Refused);
    let refused = flow.migrate(&edited, false).unwrap_err().to_string();
    assert!(
        refused.contains("step `each`: foreach changed, but it is done; with --redo"),
        "{refused}"
    );
    // With --redo the step that runs would have to stop: that is refused too.
    let refused = flow.migrate(&edited, true).unwrap_err().to_string();
    assert!(
        refused.contains("step `take`: something that it needs is done again, but it runs"),
        "{refused}"
    );
    flow.ask(Verb::Pause).unwrap();
    flow.ends("take", Err(Failure::permanent("broken", "it is broken")));
    flow.migrate(&edited, true).unwrap();
    assert_eq!(flow.run_status(), RunStatus::Paused, "it stays paused");
    assert_eq!(flow.status("list"), StepStatus::Succeeded);
    assert_eq!(flow.status("gather"), StepStatus::Pending);
    flow.ask(Verb::Resume).unwrap();
    assert_eq!(flow.running(), ["each[0]", "each[1]"]);
    assert_eq!(flow.running["each[0]"].key.visit, 2);
    assert_eq!(
        flow.running["each[0]"].key.attempt, 2,
        "numbers of attempts only grow"
    );
}

#[test]
fn what_landed_outside_is_neither_done_again_nor_forgotten() {
    let steps = "[steps.list]\n[steps.send]\nneeds = [\"list\"]\n[steps.take]\nneeds = [\"send\"]\nwait = { approval = \"go on?\" }\n";
    let mut flow = Flow::new(steps);
    flow.done("list", listed(&[1], true));
    flow.done("send", json!({"number": 1}));
    let without = "[steps.list]\n[steps.try]\nneeds = [\"list\"]\n";
    let refused = flow.migrate(without, true).unwrap_err().to_string();
    assert!(
        refused.contains("step `send`: what it did outside has landed, and the new workflow lacks it"),
        "{refused}"
    );
    // `list` would be done again, and `send` with it.
    let after = steps.replace("[steps.list]\n", "[steps.list]\nwhen = \"params.id > 0u\"\n");
    let refused = flow.migrate(&after, true).unwrap_err().to_string();
    assert!(
        refused.contains("step `send`: something that it needs is done again, but what it did outside"),
        "{refused}"
    );
    // A wait for a person is no effect: the step that waits begins anew.
    let longer = steps.replace(
        "[steps.take]",
        "[steps.take]\nwith = { number = \"send.number\" }\nwhen = \"true\"",
    );
    flow.migrate(&longer, false).unwrap();
    assert_eq!(flow.status("take"), StepStatus::Waiting);
    assert_eq!(flow.state().step(StepIx(2)).visit, 2);
}

#[test]
fn another_workflow_or_other_parameters_are_refused() {
    let mut flow = half_done();
    let other = crate::workflow::load(
        "[workflow]\nname = \"other\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\nmore = \"uint64\"\n[steps.list]\n",
        &stages(),
    );
    let other = Arc::new(other.0.unwrap());
    let plan = Core::plan_migration(&stages(), &flow.state(), &other, false);
    let text = plan.obstacles().join("\n");
    for part in [
        "of workflow `other`, the run of `flow`",
        "parameter `more` (uint64) is missing",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let same = flow.migrate(FLOW, false).unwrap_err().to_string();
    assert!(same.contains("follows this workflow already"), "{same}");
    flow.ask(Verb::Cancel).unwrap();
    assert!(flow.migrate(FLOW, false).is_err());
}

/// At every point of its life a run is moved to a workflow with a step more, and comes to its end with the same
/// results, also after a restart right behind the move.
#[test]
fn at_every_point_a_move_loses_nothing() {
    let edited = format!("{FLOW}[steps.last]\nstage = \"take\"\nneeds = [\"gather\"]\n");
    let life = ["list", "each[0]", "each[1]", "each[2]", "gather", "take"];
    for at in 0..life.len() {
        let mut flow = Flow::new(FLOW);
        let mut moved = false;
        for (point, step) in life.into_iter().enumerate() {
            if point == at {
                flow.migrate(&edited, false).unwrap();
                flow = flow.restarted();
                moved = true;
            }
            let output = if step == "list" {
                listed(&[5, 6, 7], true)
            } else {
                json!({"number": 9})
            };
            flow.done(step, output);
        }
        assert!(moved);
        flow.done("last", json!({"number": 1}));
        assert_eq!(
            flow.run_status(),
            RunStatus::Succeeded,
            "moved before `{}`",
            life[at]
        );
        let started = flow.entries.iter().flat_map(|entry| &entry.events);
        let started = started
            .filter(|event| matches!(event, Event::AttemptStarted { .. }))
            .count();
        assert_eq!(started, life.len() + 1, "nothing was done twice");
    }
}

#[test]
fn a_step_that_comes_back_goes_on_counting() {
    let kept = "[steps.list]\n[steps.last]\nstage = \"take\"\nneeds = [\"list\"]\nwait = { signal = \"go\" }\n\
                with = { number = { value = 2 } }\n";
    let with_more = format!(
        "{kept}[steps.more]\nstage = \"take\"\nneeds = [\"list\"]\nforeach = \"list.numbers\"\nwith = {{ number = \"item\" }}\n\
         [steps.single]\nstage = \"take\"\nneeds = [\"list\"]\nwith = {{ number = {{ value = 1 }} }}\n"
    );
    let mut flow = Flow::new(&with_more);
    flow.done("list", listed(&[5], true));
    flow.done("more[0]", json!({"number": 1}));
    flow.done("single", json!({"number": 1}));
    // Moved away and back, twice.
    for round in 2..4 {
        flow.migrate(kept, false).unwrap();
        flow.migrate(&with_more, false).unwrap();
        for name in ["more[0]", "single"] {
            let state = flow.state();
            let step = state.step(state.find(&StepName::new(name).unwrap()).unwrap());
            assert_eq!((step.visit, step.attempts), (round, round), "{name}");
        }
        let mut again = flow.restarted();
        again.done("more[0]", json!({"number": 1}));
        again.done("single", json!({"number": 1}));
        flow = again;
    }
}
