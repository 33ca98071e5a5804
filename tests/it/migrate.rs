//! The promise that an edited workflow reaches runs that are under way, where that is safe, and that a run stays
//! as it is where it is not.

use serde_json::{Value, json};

use crate::env::{Home, step, wait_for};

const OLD: &str = r#"
[workflow]
name    = "moving"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"

[steps.ticket]
foreach = "[7, 8]"
with    = { sector = "item" }

[steps.look]
needs = ["ticket"]
wait  = { approval = "look at the tickets" }
"#;

fn file(home: &Home, name: &str, text: &str) -> String {
    let file = home.path().join(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

fn shown(home: &Home, run: &str) -> Value {
    home.json(&["run", "show", run, "--json"])
}

fn fate(view: &Value, name: &str) -> String {
    let steps = view["steps"].as_array().unwrap();
    let one = steps.iter().find(|step| step["step"] == name).unwrap();
    one["fate"].as_str().unwrap().to_owned()
}

#[test]
fn a_run_goes_on_with_an_edited_workflow() {
    let home = Home::new();
    let old = file(&home, "old.toml", OLD);
    let more = "\n[steps.after]\nstage = \"ticket\"\nneeds = [\"look\"]\n";
    let new = file(&home, "new.toml", &format!("{OLD}{more}"));
    let otherwise = OLD.replace("[7, 8]", "[7, 8, 9]");
    let otherwise = file(&home, "otherwise.toml", &otherwise);
    let daemon = home.daemon();
    let params = ["miner=f01000".to_owned(), "sector=1".to_owned()];
    let run = home.start(&old, &params);
    wait_for("the approval", || {
        step(&shown(&home, &run), "look")["status"] == "waiting"
    });

    // What is done would be done otherwise: refused, with a verdict on each step, and nothing changes.
    let before = shown(&home, &run)["entries"].clone();
    let refused = home.run(&["run", "migrate", &run, &otherwise, "--json"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let view: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(
        (fate(&view, "ticket"), view["done"] == false),
        ("refused".to_owned(), true)
    );
    assert!(refused.stderr.contains("1 step in the way"), "{refused:?}");
    let told = home.run(&["run", "migrate", &run, &new, "--dry-run"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(
        told.stdout.contains("after") && told.stderr.contains("nothing stands in the way"),
        "{told:?}"
    );
    assert_eq!(shown(&home, &run)["entries"], before);

    let view = home.json(&["run", "migrate", &run, &new, "--json", "--why", "one more look"]);
    assert_eq!(
        (fate(&view, "ticket"), fate(&view, "after")),
        ("kept".to_owned(), "added".to_owned())
    );
    let graph = shown(&home, &run)["graph"].clone();
    let log = home.run(&["run", "logs", &run]);
    assert!(
        log.stdout.contains("one more look"),
        "the journal says why: {log:?}"
    );

    // It is moved for good: after a restart, in a backup, and in an archive.
    drop(daemon);
    home.check_store();
    let daemon = home.daemon();
    assert_eq!(shown(&home, &run)["graph"], graph);
    let view = home.json(&["run", "migrate", &run, &otherwise, "--redo", "--json"]);
    assert_eq!(
        (fate(&view, "ticket"), fate(&view, "after")),
        ("again".to_owned(), "dropped".to_owned())
    );
    wait_for("the approval", || {
        let detail = shown(&home, &run);
        step(&detail, "look")["status"] == "waiting" && step(&detail, "ticket")["item_count"] == 3
    });
    home.json(&["run", "approve", &run, "look", "--json"]);
    wait_for("the end", || shown(&home, &run)["status"] == "succeeded");
    let backup = home.path().join("moved.jsonl.gz");
    let backup = backup.to_str().unwrap();
    assert_eq!(home.run(&["store", "backup", backup]).code, 0);
    home.json(&["run", "archive", &run, "--json"]);
    let archived = shown(&home, &run);
    assert_eq!(
        (&archived["status"], archived["steps"].as_array().unwrap().len()),
        (&json!("succeeded"), 2)
    );
    drop(daemon);
    home.check_store();
    let other = Home::new();
    let restored = other.run(&["store", "restore", backup]);
    assert_eq!(restored.code, 0, "{restored:?}");
    other.check_store();
    assert_eq!(shown(&other, &run)["status"], "succeeded");
}
