//! Items under an operator's hands: faults that came to light when the simulator learned what items are,
//! each with the shortest story that shows it.

use super::*;

/// A fan-out of a list, and more.
fn fan(more: &str) -> Flow {
    Flow::new(&format!("{FAN}{more}"))
}

fn item_status(flow: &Flow) -> Vec<&'static str> {
    let state = flow.state();
    let items = state.items(state.find(&step("each")).unwrap()).iter();
    items.map(|item| state.step(*item).status.as_str()).collect()
}

/// An item that was left out before its turn was started when its turn came, and counted twice.
#[test]
fn an_item_that_is_skipped_before_its_turn_never_runs() {
    let mut flow = fan("");
    flow.done("list", listed(&[5, 6, 7, 8], true));
    flow.ask(Verb::Skip(step("each[2]"))).unwrap();
    // Nobody moves up: two are under way as before.
    assert_eq!(flow.running(), ["each[0]", "each[1]"]);
    flow.done("each[0]", json!({"number": 50}));
    assert_eq!(flow.running(), ["each[1]", "each[3]"]);
    flow.done("each[1]", json!({"number": 60}));
    assert_eq!(
        item_status(&flow),
        ["succeeded", "succeeded", "skipped", "running"]
    );
    assert_eq!(flow.status("each"), StepStatus::Running);
    flow.done("each[3]", json!({"number": 80}));
    assert_eq!(flow.running(), ["gather"]);
}

/// Items that were done again ran beside `max_parallel` others, and one that was overridden let another
/// one go.
#[test]
fn redone_items_wait_for_their_turn() {
    let mut flow = fan("");
    flow.done("list", listed(&[5, 6, 7, 8, 9], true));
    flow.done("each[0]", json!({"number": 50}));
    assert_eq!(flow.running(), ["each[1]", "each[2]"]);
    flow.ask(Verb::Override(step("each[0]"), json!({"number": 51})))
        .unwrap();
    assert_eq!(flow.running(), ["each[1]", "each[2]"]);
    flow.ask(Verb::Rewind(step("each[0]"))).unwrap();
    assert_eq!(flow.running(), ["each[1]", "each[2]"]);
    assert_eq!(flow.status("each[0]"), StepStatus::Pending);
    // It comes before those that had no turn yet.
    flow.done("each[1]", json!({"number": 60}));
    assert_eq!(flow.running(), ["each[0]", "each[2]"]);
    flow.done("each[0]", json!({"number": 52}));
    assert_eq!(flow.running(), ["each[2]", "each[3]"]);
}

/// After an item had been done again, the next visit of its step gave it a visit that it had had before.
#[test]
fn an_item_succeeds_at_most_once_in_a_visit() {
    let mut flow = fan("");
    flow.done("list", listed(&[5], true));
    let mut visits = Vec::new();
    for again in [None, Some("each[0]"), Some("list"), Some("each"), Some("each[0]")] {
        if let Some(again) = again {
            flow.ask(Verb::Rewind(step(again))).unwrap();
        }
        if again == Some("list") {
            flow.done("list", listed(&[5], true));
        }
        visits.push(flow.running["each[0]"].key.visit);
        flow.done("each[0]", json!({"number": 50}));
    }
    assert_eq!(visits, [1, 2, 3, 4, 5]);
}

/// What expired and was retried listed its items again in the same visit.
#[test]
fn items_that_expired_begin_another_visit() {
    let mut flow = Flow::new(&FAN.replace(
        "max_parallel = 2\n",
        "max_parallel = 2\nvalid_until = \"list.until\"\n",
    ));
    flow.done("list", listed(&[5, 6], true));
    flow.done("each[0]", json!({"number": 50}));
    flow.wait(5000);
    assert_eq!(flow.run_status(), RunStatus::Paused);
    flow.ask(Verb::Resume).unwrap();
    assert_eq!(flow.running(), ["each[0]", "each[1]"]);
    assert_eq!(flow.running["each[0]"].key.visit, 2);
}

/// An item's failure that leads back set the run aside: the event named the step, which had not failed.
#[test]
fn an_item_can_lead_back() {
    let mut flow = fan("[[rewind]]\non = \"again\"\nfrom = \"each\"\nto = \"list\"\nmax = 1\n");
    flow.done("list", listed(&[5, 6], true));
    flow.ends("each[1]", Err(Failure::rewind("again", "once more")));
    assert_eq!(flow.core.damaged().len(), 0);
    assert_eq!(flow.running(), ["list"]);
    flow.done("list", listed(&[5, 6], true));
    flow.ends("each[0]", Err(Failure::rewind("again", "once more")));
    assert_eq!(flow.run_status(), RunStatus::Paused);
    let reason = flow.state().pause.unwrap().text();
    assert!(reason.contains("`each[0]` went back 1 times"), "{reason}");
}

/// An item that had done nothing yet could not be overridden or begun anew once another item's effect had
/// landed, although that one is left alone.
#[test]
fn what_landed_stands_beside_an_item_that_is_done_again() {
    let steps = "[steps.list]\n[steps.send]\nneeds = [\"list\"]\nforeach = \"list.numbers\"\n[steps.gather]\nneeds = [\"send\"]\n";
    let mut flow = Flow::new(steps);
    flow.done("list", listed(&[5, 6], true));
    flow.done("send[0]", json!({"number": 50}));
    flow.ends("send[1]", Err(Failure::permanent("refused", "by the chain")));
    for landed in ["send[0]", "send", "list"] {
        let refused = flow.ask(Verb::Rewind(step(landed))).unwrap_err().to_string();
        assert!(refused.contains("has landed and cannot be undone"), "{refused}");
    }
    flow.ask(Verb::Rewind(step("send[1]"))).unwrap();
    assert_eq!(flow.running(), ["send[1]"]);
    flow.ask(Verb::Override(step("send[1]"), json!({"number": 60})))
        .unwrap();
    assert_eq!(flow.status("send"), StepStatus::Succeeded);
    assert_eq!(flow.running(), ["gather"]);
    // For the same reason no item may lead back over the others.
    let text = format!(
        "[workflow]\nname = \"flow\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n{steps}[[rewind]]\non = \"x\"\nfrom = \"send\"\nto = \"list\"\n"
    );
    let (graph, complaints) = crate::workflow::load(&text, &stages());
    assert!(graph.is_none());
    assert_eq!(complaints[0].code, "rewind_across_effect");
}
