//! What is done when a step fails for good, and at the end of every run.

use super::flow::Flow;
use super::*;

const HANDLED: &str = r#"
[steps.try]
retry = { max_attempts = 2, backoff = "1s" }
[steps.take]
needs = ["try"]
with = { number = "try.number" }
[steps.each]
stage = "list"
needs = ["take"]
[steps.tell]
stage = "list"
on_failure = ["try", "take"]
[steps.after]
stage = "list"
needs = ["tell"]
"#;

fn bad() -> Result<Outcome<Value>, Failure> {
    Err(Failure::permanent("bad", "no good"))
}

fn slow() -> Result<Outcome<Value>, Failure> {
    Err(Failure::transient("slow", "no answer"))
}

fn list() -> Value {
    json!({"numbers": [1], "flag": true, "until": 0})
}

#[test]
fn a_failure_that_is_handled_takes_the_other_way() {
    let mut flow = Flow::new(HANDLED);
    flow.ends("try", slow());
    flow.wait(10_000);
    assert_eq!(flow.running(), ["try"], "it is tried again first");
    flow.ends("try", slow());
    assert_eq!(flow.status("try"), StepStatus::Failed);
    assert_eq!(flow.status("take"), StepStatus::Skipped);
    assert_eq!(
        flow.status("each"),
        StepStatus::Skipped,
        "what comes after what was left out"
    );
    assert_eq!(flow.running(), ["tell"]);
    let skipped = |flow: &Flow, step: &str| {
        let state = flow.state();
        let ix = state.find(&StepName::new(step).unwrap()).unwrap();
        state.step(ix).skipped.clone().unwrap()
    };
    assert_eq!(skipped(&flow, "take"), "`try` failed");
    assert_eq!(skipped(&flow, "each"), "`take` came after a failure");
    flow.done("tell", list());
    flow.done("after", list());
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
    // The step in the middle.
    let mut flow = Flow::new(HANDLED);
    flow.done("try", json!({"number": 1}));
    flow.ends("take", bad());
    assert_eq!(flow.running(), ["tell"]);
    // And nothing fails.
    let mut flow = Flow::new(HANDLED);
    flow.done("try", json!({"number": 1}));
    flow.done("take", json!({"number": 1}));
    flow.done("each", list());
    assert_eq!(skipped(&flow, "tell"), "`try`, `take` did not fail");
    flow.done("after", list());
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn a_failure_that_was_handled_can_be_tried_again() {
    let mut flow = Flow::new(HANDLED);
    flow.ends("try", bad());
    assert_eq!(flow.running(), ["tell"]);
    let again = Verb::Retry(Some(StepName::new("try").unwrap()));
    flow.ask(again).unwrap();
    assert_eq!(flow.running(), ["try"], "what handled it is stopped");
    flow.done("try", json!({"number": 1}));
    flow.done("take", json!({"number": 1}));
    flow.done("each", list());
    assert_eq!(flow.status("tell"), StepStatus::Skipped);
}

#[test]
fn a_failure_that_nobody_handles_pauses_the_run() {
    let mut flow = Flow::new(HANDLED);
    flow.done("try", json!({"number": 1}));
    flow.done("take", json!({"number": 1}));
    flow.ends("each", bad());
    assert_eq!(flow.run_status(), RunStatus::Paused);
}

#[test]
fn one_bad_item_gives_its_step_up() {
    let mut flow = Flow::new(
        "[steps.each]\nforeach = \"[1, 2, 3]\"\nmax_parallel = 2\nwith = { number = \"item\" }\n\
         [steps.tell]\nstage = \"list\"\non_failure = [\"each\"]\n",
    );
    flow.ends("each[0]", bad());
    assert_eq!(flow.status("each"), StepStatus::Failed);
    assert_eq!(flow.running(), ["tell"], "the other items are stopped");
    flow.done("tell", list());
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

const CLOSED: &str = r#"
[steps.take]
with = { number = { value = 1 } }
[steps.each]
needs = ["take"]
with = { number = "take.number" }
[finally.clean]
stage = "list"
retry = { max_attempts = 2, backoff = "1s" }
[finally.report]
stage = "take"
with = { number = "each.number" }
[finally.last]
stage = "list"
needs = ["clean"]
"#;

#[test]
fn what_is_done_at_the_end_is_done_after_everything() {
    let mut flow = Flow::new(CLOSED);
    flow.done("take", json!({"number": 1}));
    assert_eq!(flow.status("clean"), StepStatus::Pending);
    flow.done("each", json!({"number": 7}));
    assert_eq!(flow.running(), ["clean", "report"]);
    assert_eq!(flow.input("report")["number"], InputValue::Value(json!(7)));
    flow.done("report", json!({"number": 1}));
    flow.done("clean", list());
    flow.done("last", list());
    assert_eq!(flow.run_status(), RunStatus::Succeeded);
}

#[test]
fn it_is_done_for_a_cancelled_run_too() {
    let mut flow = Flow::new(CLOSED);
    flow.ask(Verb::Cancel).unwrap();
    assert_eq!(flow.status("take"), StepStatus::Cancelled);
    assert_eq!(
        flow.status("report"),
        StepStatus::Skipped,
        "its input was never made"
    );
    assert_eq!(flow.running(), ["clean"]);
    flow.ends("clean", slow());
    flow.wait(10_000);
    assert_eq!(flow.running(), ["clean"], "tried again like any step");
    flow.ends("clean", slow());
    // It failed for good: a run that is being cancelled does not wait for a person.
    assert_eq!(flow.status("clean"), StepStatus::Failed);
    flow.done("last", list());
    assert_eq!(flow.run_status(), RunStatus::Cancelled);
    assert_eq!(flow.status("each"), StepStatus::Cancelled);
}

#[test]
fn mistakes_about_ends_are_found_with_the_file() {
    let complain = |steps: &str| {
        let text =
            format!("[workflow]\nname = \"flow\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n{steps}");
        let (graph, complaints) = crate::workflow::load(&text, &super::flow::stages());
        assert!(graph.is_none());
        let told: Vec<String> = complaints.into_iter().map(|one| one.message).collect();
        told.join("\n")
    };
    for (steps, told) in [
        (
            "[steps.list]\n[steps.tell]\nstage = \"list\"\non_failure = [\"lst\"]\n",
            "`lst`, which is not a step",
        ),
        (
            "[steps.list]\nneeds = [\"end\"]\n[finally.end]\nstage = \"list\"\n",
            "comes at the end of the run",
        ),
        (
            "[steps.list]\n[finally.list]\nstage = \"list\"\n",
            "a step `list` already",
        ),
    ] {
        let complaints = complain(steps);
        assert!(complaints.contains(told), "{complaints}");
    }
}
