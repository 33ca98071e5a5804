//! The promise that workflows are made of workflows, and that runs start by themselves: with the real daemon, killed in
//! between. That steps of many runs are made together is in `offline_seal`, where there is a proof.

use serde_json::{Value, json};

use crate::env::{Home, step, wait_for};

fn file(home: &Home, name: &str, text: &str) -> String {
    let file = home.path().join("workflows").join(format!("{name}.toml"));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, text).unwrap();
    name.to_owned()
}

fn shown(home: &Home, run: &str) -> Value {
    home.json(&["run", "show", run, "--json"])
}

fn runs_of(home: &Home, workflow: &str) -> Vec<Value> {
    let all = home.json(&["run", "list", "--json"]);
    let all = all.as_array().unwrap().iter();
    all.filter(|run| run["workflow"] == workflow).cloned().collect()
}

const PART: &str = r#"
[workflow]
name    = "part"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"

[steps.look]
wait = { approval = "look" }

[steps.ticket]
needs = ["look"]

[outputs]
ticket = "ticket.ticket"
"#;

const WHOLE: &str = r#"
[workflow]
name    = "whole"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"

[steps.part]
workflow = "part"

[steps.parts]
workflow = "part"
needs    = ["part"]
foreach  = "[71, 72]"
with     = { sector = "item" }

[finally.end]
stage = "ticket"
"#;

#[test]
fn a_run_works_for_another_over_a_kill() {
    let home = Home::new();
    file(&home, "part", PART);
    let whole = file(&home, "whole", WHOLE);
    let daemon = home.daemon();
    let run = home.start(&whole, &["miner=f01000".to_owned(), "sector=7".to_owned()]);
    wait_for("the part", || runs_of(&home, "part").len() == 1);
    let part = runs_of(&home, "part")[0].clone();
    assert_eq!(
        (&part["parent"], &part["subject"]),
        (&json!(run), &json!("f01000/7"))
    );
    daemon.kill();
    home.check_store();
    let daemon = home.daemon();
    let why = home.json(&["run", "explain", &run, "--json"]);
    assert_eq!(why["steps"][0]["conditions"][0]["kind"], "child");
    let approve_all = || {
        for part in runs_of(&home, "part") {
            if part["status"] == "running" {
                home.run(&["run", "approve", part["run"].as_str().unwrap(), "look"]);
            }
        }
    };
    wait_for("the whole", || {
        approve_all();
        shown(&home, &run)["status"] == "succeeded"
    });
    let detail = shown(&home, &run);
    assert!(step(&detail, "part")["output"]["ticket"].is_string());
    assert_eq!(step(&detail, "part")["attempts"], 1);
    assert_eq!(runs_of(&home, "part").len(), 3);
    assert_eq!(step(&detail, "end")["status"], "succeeded");
    daemon.stop();
    home.check_store();
}

const OFTEN: &str = r#"
[workflow]
name    = "often"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"

[[trigger]]
cron   = "* * * * * *"
params = { miner = "f01000", sector = 1 }

[steps.ticket]
"#;

#[test]
fn runs_start_by_themselves_once_somebody_says_so() {
    let home = Home::new();
    let often = file(&home, "often", OFTEN);
    let daemon = home.daemon();
    assert_eq!(runs_of(&home, "often").len(), 0, "nothing before");
    home.ok(&["trigger", "enable", &often, "--why", "a test"]);
    wait_for("two runs", || runs_of(&home, "often").len() >= 2);
    daemon.kill();
    home.check_store();
    let daemon = home.daemon();
    let before = runs_of(&home, "often").len();
    wait_for("another run", || runs_of(&home, "often").len() > before);
    let list = home.json(&["trigger", "list", "--json"]);
    assert_eq!(
        (&list[0]["workflow"], &list[0]["cron"]),
        (&json!("often"), &json!("* * * * * *"))
    );
    assert!(list[0]["next"].is_string() && list[0]["run"].is_string());
    home.ok(&["trigger", "disable", &often]);
    assert_eq!(home.run(&["trigger", "disable", &often]).code, 1);
    let runs = runs_of(&home, "often");
    let mut keys: Vec<&str> = runs.iter().map(|run| run["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), runs.len(), "no time counts twice");
    daemon.stop();
    home.check_store();
}
