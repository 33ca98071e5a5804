//! The promise that the machine profile decides who gets what of the machine, that anybody can see it, and
//! that workflows, stages and executors can be held back, over a restart too.

use serde_json::{Value, json};

use crate::env::{Home, Outcome, step, wait_for};

const TICKETS: &str = r#"
[workflow]
name    = "tickets"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"

[steps.ticket]

[steps.seed]
stage = "ticket"
needs = ["ticket"]
"#;

fn tickets(home: &Home) -> String {
    let file = home.path().join("tickets.toml");
    std::fs::write(&file, TICKETS).unwrap();
    file.to_str().unwrap().to_owned()
}

fn kinds(home: &Home, run: &str) -> Vec<String> {
    let why = home.json(&["run", "explain", run, "--json"]);
    let conditions = why["steps"][0]["conditions"].as_array().unwrap();
    conditions
        .iter()
        .map(|one| one["kind"].as_str().unwrap().to_owned())
        .collect()
}

fn status(home: &Home, run: &str, name: &str) -> Value {
    step(&home.json(&["run", "show", run, "--json"]), name)["status"].clone()
}

#[test]
fn what_is_held_back_waits_over_a_restart() {
    let home = Home::new();
    let file = tickets(&home);
    let params = |sector: u32| vec!["miner=f01000".to_owned(), format!("sector={sector}")];
    let mut daemon = home.daemon();
    for (sector, noun, verb, name, kind) in [
        (1, "workflow", "pause", "tickets", "held"),
        (2, "stage", "pause", "ticket", "held"),
        (3, "executor", "drain", "local", "drained"),
    ] {
        home.ok(&[noun, verb, name, "--why", "new disks"]);
        let Outcome { code, stderr, .. } = home.run(&[noun, verb, name]);
        assert_eq!(code, 1, "{stderr}");
        assert!(
            stderr.contains("held already") && stderr.contains("new disks"),
            "{stderr}"
        );
        let run = home.start(&file, &params(sector));
        assert!(kinds(&home, &run).contains(&kind.to_owned()));
        daemon.stop();
        daemon = home.daemon();
        assert!(kinds(&home, &run).contains(&kind.to_owned()));
        assert_eq!(status(&home, &run, "ticket"), "ready");
        home.ok(&[noun, "resume", name]);
        wait_for("the run", || status(&home, &run, "seed") == "succeeded");
        let Outcome { code, stderr, .. } = home.run(&[noun, "resume", name]);
        assert_eq!(code, 1);
        assert!(stderr.contains("is not held"), "{stderr}");
    }
    let Outcome { code, stderr, .. } = home.run(&["stage", "pause", "tickett"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("there is no stage `tickett`"), "{stderr}");
    daemon.stop();
    home.check_store();
}

#[test]
fn executors_are_what_the_profile_says() {
    let home = Home::new();
    let file = tickets(&home);
    let profile = "
        [machine]
        cpu = 4
        memory = \"8GiB\"
        disk = \"1TiB\"
        gpus = [0, 1]
        [executors.tickets]
        stages = [\"ticket\"]
        concurrency = 1
        claims = { gpus = 1, disk = \"1GiB\" }
        gpus = [1]
        stagger = \"1h\"
    ";
    std::fs::write(home.path().join("machine.toml"), profile).unwrap();
    home.ok(&["config", "check"]);
    let _daemon = home.daemon();
    let seen = home.json(&["executor", "list", "--json"]);
    assert_eq!(seen[0]["name"], "tickets");
    assert_eq!(
        seen[0]["capacity"],
        json!({"cpu": 4, "memory": 8_u64 << 30, "disk": 1_u64 << 40, "gpus": [0, 1]})
    );
    assert!(
        home.ok(&["executor", "show", "tickets"])
            .contains("one start every 3600 s")
    );
    let run = home.start(&file, &["miner=f01000".to_owned(), "sector=1".to_owned()]);
    wait_for("the first ticket", || {
        status(&home, &run, "ticket") == "succeeded"
    });
    // The second one must keep its distance, and the time goes on over there.
    let why = home.json(&["run", "explain", &run, "--json"]);
    let condition = &why["steps"][0]["conditions"][0];
    assert_eq!(
        (&why["steps"][0]["step"], &condition["kind"]),
        (&json!("seed"), &json!("stagger"))
    );
    assert_eq!(condition["numbers"]["stagger_ms"], 3_600_000);
    let entries = home.ok(&["run", "logs", &run, "--json"]);
    assert!(entries.contains(r#""gpus":[1]"#), "{entries}");
    home.ok(&["executor", "drain", "tickets", "--wait"]);
    let run2 = home.start(&file, &["miner=f01000".to_owned(), "sector=2".to_owned()]);
    assert_eq!(kinds(&home, &run2), ["drained", "stagger", "queue"]);
    let none = home.start(
        "seal_offline",
        &["miner=f01000".to_owned(), "sector=9".to_owned()],
    );
    assert!(kinds(&home, &none).contains(&"no_executor".to_owned()));
}
