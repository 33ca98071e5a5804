//! The promise that an operator can question and repair any run: fan-outs, conditions, approvals, and
//! the verbs that skip, override, go back, fork and prioritize, each in the journal with who and why.

use serde_json::{Value, json};

use crate::env::{Home, step, wait_for};

const FAN: &str = r#"
[workflow]
name    = "fan"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"

[steps.ticket]
foreach = "[7, 8, 9]"
with    = { sector = "item" }

[steps.look]
needs = ["ticket"]
wait  = { approval = "look at the tickets" }

[steps.far]
stage = "ticket"
needs = ["look"]
when  = "params.sector > 100"
"#;

fn fan(home: &Home) -> String {
    let file = home.path().join("fan.toml");
    std::fs::write(&file, FAN).unwrap();
    file.to_str().unwrap().to_owned()
}

fn params(sector: u32) -> Vec<String> {
    vec!["miner=f01000".to_owned(), format!("sector={sector}")]
}

fn shown(home: &Home, run: &str) -> Value {
    home.json(&["run", "show", run, "--json"])
}

fn waits_for_approval(home: &Home, run: &str) {
    wait_for("the approval", || {
        step(&shown(home, run), "look")["status"] == "waiting"
    });
}

/// The conditions of a step, by kind.
fn kinds(home: &Home, run: &str, name: &str) -> Vec<String> {
    let why = home.json(&["run", "explain", run, "--json"]);
    let steps = why["steps"].as_array().unwrap();
    let one = steps.iter().find(|step| step["step"] == name).unwrap();
    let conditions = one["conditions"].as_array().unwrap();
    let kinds = conditions
        .iter()
        .map(|one| one["kind"].as_str().unwrap().to_owned());
    kinds.collect()
}

#[test]
fn a_run_is_questioned_and_repaired() {
    let home = Home::new();
    let file = fan(&home);
    let daemon = home.daemon();
    let run = home.start(&file, &params(1));
    waits_for_approval(&home, &run);
    let detail = shown(&home, &run);
    let tickets = step(&detail, "ticket");
    assert_eq!(
        (&tickets["status"], &tickets["item_count"]),
        (&json!("succeeded"), &json!(3))
    );
    let items = tickets["items"].as_array().unwrap();
    let names: Vec<&str> = items.iter().map(|item| item["step"].as_str().unwrap()).collect();
    assert_eq!(names, ["ticket[0]", "ticket[1]", "ticket[2]"]);
    assert_ne!(items[0]["output"]["ticket"], items[1]["output"]["ticket"]);
    assert_eq!(kinds(&home, &run, "look"), ["approval"]);
    assert_eq!(kinds(&home, &run, "far"), ["upstream"]);

    // What would be done again is said first, and nothing happens.
    let preview = home.json(&["run", "rewind", &run, "ticket[1]", "--dry-run", "--json"]);
    assert_eq!(preview[0]["again"], json!(["ticket[1]", "look"]));
    assert_eq!(preview[0]["done"], false);
    let before = shown(&home, &run)["entries"].clone();
    let done = home.json(&["run", "rewind", &run, "ticket[1]", "--json", "--why", "a test"]);
    assert_eq!(done[0]["done"], true);
    waits_for_approval(&home, &run);
    assert_ne!(shown(&home, &run)["entries"], before);
    let items = step(&shown(&home, &run), "ticket")["items"].clone();
    assert_eq!(
        (&items[1]["visit"], &items[1]["attempts"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(
        (&items[0]["visit"], &items[0]["attempts"]),
        (&json!(1), &json!(1))
    );

    // Requests that make no sense are refused with a reason.
    for (args, part) in [
        (vec!["run", "approve", &run, "far"], "these do: look"),
        (vec!["run", "skip", &run, "nothing"], "has no step `nothing`"),
        (
            vec!["run", "override", &run, "far", "--output", "{}"],
            "has not begun",
        ),
        (
            vec!["run", "override", &run, "ticket[0]", "--output", "{\"x\":1}"],
            "no output `x`",
        ),
        (
            vec!["run", "override", &run, "ticket[0]", "--output", "{"],
            "not JSON",
        ),
        (vec!["run", "signal", &run, "go"], "waits for no signal `go`"),
        (vec!["run", "rewind", &run, "far"], "has not begun"),
    ] {
        let refused = home.run(&args);
        assert_ne!(refused.code, 0, "{args:?}");
        assert!(refused.stderr.contains(part), "{args:?}: {refused:?}");
    }
    let ticket = "00".repeat(32);
    let output = json!({"ticket": ticket, "ticket_source": "by hand"}).to_string();
    home.json(&[
        "run",
        "override",
        &run,
        "ticket[0]",
        "--output",
        &output,
        "--json",
    ]);
    waits_for_approval(&home, &run);
    let items = step(&shown(&home, &run), "ticket")["items"].clone();
    assert_eq!(items[0]["output"]["ticket"], json!(ticket));
    home.json(&["run", "approve", &run, "look", "--json", "--why", "looked"]);
    wait_for("the end", || home.status(&run) == "succeeded");
    let far = step(&shown(&home, &run), "far").clone();
    assert_eq!(far["status"], "skipped");
    assert_eq!(far["skipped"], "`params.sector > 100` does not hold");

    // Who and why are in the journal.
    let logs = home.run(&["run", "logs", &run]).stdout;
    for part in [
        "step_redone",
        "a test",
        "step_overridden",
        "step_approved",
        "looked",
        "items_listed  count=3",
    ] {
        assert!(logs.contains(part), "{part} is not in {logs}");
    }

    // A fork takes over what it can: items are done anew.
    let forked = home.json(&["run", "fork", &run, "look", "--json"]);
    let forked = forked[0]["forked"].as_str().unwrap();
    waits_for_approval(&home, forked);
    home.json(&["run", "skip", forked, "look", "--json"]);
    wait_for("the end of the fork", || home.status(forked) == "succeeded");
    daemon.stop();
    home.check_store();
}

#[test]
fn many_runs_are_told_at_once() {
    let home = Home::new();
    let file = fan(&home);
    let daemon = home.daemon();
    let runs: Vec<String> = (1..=3).map(|sector| home.start(&file, &params(sector))).collect();
    for run in &runs {
        waits_for_approval(&home, run);
    }
    let paused = home.json(&[
        "run",
        "pause",
        "--all",
        "--workflow",
        "fan",
        "--json",
        "--why",
        "maintenance",
    ]);
    assert_eq!(paused.as_array().unwrap().len(), 3);
    for run in &runs {
        let detail = shown(&home, run);
        assert_eq!(detail["status"], "paused");
        assert!(detail["reason"].as_str().unwrap().ends_with(": maintenance"));
    }
    // One that is refused does not keep the others from being told.
    home.json(&["run", "resume", &runs[0], "--json"]);
    let outcome = home.run(&["run", "resume", "--all", "--json"]);
    assert_ne!(outcome.code, 0);
    let answers: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let done = answers
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["done"] == true);
    assert_eq!(done.count(), 2);
    home.json(&["run", "prioritize", &runs[1], "--to", "-5", "--json"]);
    assert_eq!(shown(&home, &runs[1])["priority"], -5);
    home.json(&["run", "cancel", "--all", "--subject", "f01000/2", "--json"]);
    wait_for("the cancellation", || home.status(&runs[1]) == "cancelled");
    assert_eq!(home.status(&runs[0]), "running");
    let nothing = home.run(&["run", "cancel", "--all", "--workflow", "other"]);
    assert_eq!(nothing.code, 0);
    assert!(nothing.stderr.contains("no run fits"));
    daemon.stop();
    home.check_store();
}
