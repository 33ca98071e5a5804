//! The promise that a run says how long it will still take, from what was measured and not otherwise, and
//! where its time went.

use serde_json::{Value, json};

use crate::env::{Home, step, wait_for};

/// A step that takes no time, a wait, and then items one after the other.
const TIMED: &str = r#"
[workflow]
name    = "timed"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"
hold   = { type = "bool", default = false }

[steps.ticket]

[steps.rest]
needs = ["ticket"]
wait  = "2s"

[steps.items]
stage        = "ticket"
needs        = ["rest"]
foreach      = "[7, 8, 9]"
max_parallel = 1
with         = { sector = "item" }

[steps.hold]
needs = ["items"]
when  = "params.hold"
wait  = { signal = "go" }
"#;

fn start(home: &Home, sector: u32, hold: bool) -> String {
    let file = home.path().join("timed.toml");
    std::fs::write(&file, TIMED).unwrap();
    let params = [
        "miner=f01000".to_owned(),
        format!("sector={sector}"),
        format!("hold={hold}"),
    ];
    home.start(file.to_str().unwrap(), &params)
}

fn shown(home: &Home, run: &str) -> Value {
    home.json(&["run", "show", run, "--json"])
}

fn seconds(step: &Value, field: &str) -> f64 {
    step[field]
        .as_f64()
        .unwrap_or_else(|| panic!("{field} in {step}"))
}

#[test]
fn time_left_is_known_from_earlier_runs_and_unknown_without() {
    let home = Home::new();
    let daemon = home.daemon();
    let first = start(&home, 1, false);
    wait_for("the wait", || {
        step(&shown(&home, &first), "rest")["status"] == "waiting"
    });
    let eta = shown(&home, &first)["eta"].clone();
    assert_eq!(
        (&eta["estimate"], &eta["p50_seconds"]),
        (&json!(true), &Value::Null)
    );
    // Of the ticket there is a duration already; of what the items are, nothing is known yet.
    assert!(eta["unknown"].to_string().contains("items"), "{eta}");
    let text = home.run(&["run", "show", &first]).stdout;
    assert!(text.contains("time left: not known"), "{text}");
    wait_for("the end", || home.status(&first) == "succeeded");
    assert_eq!(shown(&home, &first)["eta"], Value::Null);

    // A run that a person must let go on: that takes nobody knows how long.
    let held = start(&home, 2, true);
    wait_for("the last wait", || {
        step(&shown(&home, &held), "hold")["status"] == "waiting"
    });
    let why = home.json(&["run", "explain", &held, "--json"]);
    assert_eq!(why["eta"]["unknown"], json!(["`hold` waits for the signal `go`"]));
    daemon.stop();
    let kept = std::fs::read_to_string(home.path().join("durations.json")).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(
        (&kept[0]["stage"], &kept[0]["executor"]),
        (&json!("ticket"), &json!("local"))
    );
    // Four tickets a run, and both runs' are kept.
    assert_eq!(kept[0]["seconds"].as_array().unwrap().len(), 8);

    // Kept over a restart, and learned anew from the journal where it was lost.
    for lost in [false, true] {
        if lost {
            std::fs::remove_file(home.path().join("durations.json")).unwrap();
        }
        let daemon = home.daemon();
        let file = home.path().join("two.toml");
        let text = TIMED
            .replace("wait  = \"2s\"", "wait  = \"1h\"")
            .replace("foreach      = \"[7, 8, 9]\"\n", "");
        let text = text
            .replace("max_parallel = 1\n", "")
            .replace("{ sector = \"item\" }", "{ sector = \"params.sector\" }");
        let text = text
            .split("[steps.hold]")
            .next()
            .unwrap()
            .replace("hold   = ", "#");
        std::fs::write(&file, text).unwrap();
        let params = [
            "miner=f01000".to_owned(),
            format!("sector={}", 10 + u32::from(lost)),
        ];
        let run = home.start(file.to_str().unwrap(), &params);
        let mut eta = Value::Null;
        wait_for("an estimate", || {
            let detail = shown(&home, &run);
            eta = detail["eta"].clone();
            step(&detail, "rest")["status"] == "waiting" && eta["p50_seconds"].is_number()
        });
        let (p50, p90) = (seconds(&eta, "p50_seconds"), seconds(&eta, "p90_seconds"));
        assert!(3000.0 < p50 && p50 <= p90 && p90 < 3700.0, "{eta}");
        assert_eq!(eta["path"], json!(["rest", "items"]));
        let text = home.run(&["run", "show", &run]).stdout;
        assert!(text.contains("left,") && text.contains("estimate"), "{text}");
        home.json(&["run", "cancel", &run, "--json"]);
        daemon.stop();
    }
}

#[test]
fn a_run_shows_where_its_time_went() {
    let home = Home::new();
    let daemon = home.daemon();
    let run = start(&home, 1, false);
    wait_for("the end", || home.status(&run) == "succeeded");
    let detail = shown(&home, &run);
    let rest = step(&detail, "rest");
    assert!((2.0..10.0).contains(&seconds(rest, "wait_seconds")), "{rest}");
    let items = step(&detail, "items");
    let each: Vec<f64> = items["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| {
            assert_eq!(item["executor"], "local");
            seconds(item, "run_seconds")
        })
        .collect();
    assert_eq!(each.len(), 3);
    assert!(
        seconds(items, "run_seconds") + 0.01 >= each.iter().sum::<f64>(),
        "{items}"
    );
    // The contract of scripts is as it was.
    for field in ["step", "status", "attempts", "output"] {
        assert!(items.get(field).is_some(), "{field}");
    }

    let timeline = home.json(&["run", "show", &run, "--timeline", "--json"]);
    let rows = timeline["steps"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["step"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "ticket", "rest", "items", "hold", "items[0]", "items[1]", "items[2]"
        ]
    );
    for row in rows {
        let spans = row["spans"].as_array().unwrap();
        for pair in spans.windows(2) {
            assert_eq!(pair[0]["to"], pair[1]["from"], "{row}");
        }
        assert!(spans.last().unwrap()["to"].is_null(), "{row}");
    }
    let waits = rows[1]["spans"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|span| span["status"] == "waiting");
    assert_eq!(waits.count(), 1);
    let drawn = home.run(&["run", "show", &run, "--timeline"]).stdout;
    let line = |name: &str| {
        let of = |line: &&str| line.split_whitespace().next() == Some(name);
        drawn
            .lines()
            .find(of)
            .unwrap_or_else(|| panic!("{name} in {drawn}"))
            .to_owned()
    };
    assert!(line("rest").contains("┄┄┄┄┄┄┄┄┄┄"), "{drawn}");
    assert!(line("items[2]").contains('█'), "{drawn}");
    let tree = home.run(&["run", "show", &run]).stdout;
    for part in [
        "✓ ticket",
        "✓ └ rest",
        "waited 2.",
        "├ items[0]",
        "on local",
        "– ",
    ] {
        assert!(tree.contains(part), "{part}: {tree}");
    }
    daemon.stop();
    // Without a daemon the same.
    assert_eq!(
        home.json(&["run", "show", &run, "--timeline", "--json"]),
        timeline
    );
    home.check_store();
}
