//! The promise that nothing is lost: the process is stopped at every durable boundary and by the clock,
//! and always goes on where it was.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::env::{Home, step, wait_for, wait_hours_for};

/// Everything of sealing except the proof that takes a minute.
pub(crate) const WITHOUT_C2: &str = r#"
[workflow]
name    = "seal_without_c2"
subject = "sector"

[params]
miner      = "actor_id"
sector     = "sector_number"
proof_type = "registered_seal_proof"
pieces     = "pieces"

[defaults]
retry = { backoff = "100ms" }

[steps.add_pieces]
[steps.tree_d]
needs = ["add_pieces"]
[steps.ticket]
[steps.pc1]
needs = ["tree_d", "ticket"]
[steps.pc2]
needs = ["pc1"]
[steps.synth_proof]
needs = ["pc2"]
[steps.seed]
needs = ["pc2"]
[steps.c1]
needs = ["synth_proof", "seed"]
[steps.persist]
needs = ["synth_proof"]
[steps.finalize]
needs = ["c1", "persist"]
"#;

/// The durable boundaries, before and after, and how many passages each kill lets through first.
const POINTS: [(&str, &[u32]); 14] = [
    ("commit.before", &[0, 1, 3, 6]),
    ("commit.after", &[0, 1, 3, 6]),
    ("effects.after", &[0, 1, 3, 6]),
    ("journal.commit.before", &[0, 2, 5]),
    ("journal.commit.after", &[0, 2, 5]),
    ("publish.synced", &[0, 1, 2]),
    ("publish.renamed", &[0, 1, 2]),
    ("pc1.layer.before_sync", &[0, 1]),
    ("pc1.layer.counted", &[0, 1]),
    ("store.copy.block", &[0, 1]),
    ("store.copy.before_fsync", &[0, 1]),
    ("store.before_rename", &[0, 1]),
    ("store.after_rename", &[0, 1]),
    ("store.before_delete", &[0]),
];

fn params(home: &Home, sector: u32, proof_type: &str) -> Vec<String> {
    // Written once: a run whose start was never answered may be reading it by now.
    let piece = home.path().join("piece.bin");
    if !piece.exists() {
        home.file("piece.bin", 1500);
    }
    vec![
        "miner=f01000".to_owned(),
        format!("sector={sector}"),
        format!("proof_type={proof_type}"),
        format!("pieces={}", serde_json::json!([piece])),
    ]
}

pub(crate) fn events(home: &Home, run: &str) -> Vec<Value> {
    let outcome = home.run(&["run", "logs", run, "--json"]);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let entries = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries
        .flat_map(|entry| entry["events"].as_array().unwrap().clone())
        .collect()
}

/// No step succeeded twice in a visit, and none started again after it had succeeded.
pub(crate) fn nothing_was_done_twice(home: &Home, run: &str) {
    let mut done: BTreeMap<String, bool> = BTreeMap::new();
    for event in events(home, run) {
        let step = event["step"].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str().unwrap() {
            "attempt_started" => assert!(
                !done.contains_key(&step),
                "{step} started again after its success"
            ),
            "attempt_succeeded" => assert!(
                done.insert(step.clone(), true).is_none(),
                "{step} succeeded twice"
            ),
            _ => {}
        }
    }
}

#[test]
fn every_durable_boundary() {
    let home = Home::new();
    let file = home.path().join("without_c2.toml");
    std::fs::write(&file, WITHOUT_C2).unwrap();
    let mut runs: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    let mut kills = 0;
    for (point, skips) in POINTS {
        for skip in skips {
            let plan = format!("{point}={skip}*off->return");
            let (mut daemon, _) = home.daemon_or_death(&[("SEALFLOW_CRASH_AT", &plan)]);
            if open.is_none() {
                let params = params(
                    &home,
                    100 + u32::try_from(runs.len()).unwrap(),
                    "StackedDrg2KiBV1_1",
                );
                let mut args = vec!["run", "start", file.to_str().unwrap(), "--json", "--key"];
                let key = format!("sector-{}", runs.len());
                args.push(&key);
                for param in &params {
                    args.extend(["-p", param]);
                }
                // The kill may come before the answer; the same key then finds the same run.
                let outcome = home.run(&args);
                if outcome.code == 0 {
                    let started: Value = serde_json::from_str(&outcome.stdout).unwrap();
                    open = Some(started["run"].as_str().unwrap().to_owned());
                }
            }
            let mut ended = false;
            wait_for("the kill or the end of the run", || {
                if daemon.has_ended() {
                    return true;
                }
                let Some(run) = &open else { return false };
                let shown = home.run(&["run", "show", run, "--json"]);
                // The kill may come before this answer too.
                let status =
                    serde_json::from_str::<Value>(&shown.stdout).map(|shown| shown["status"].clone());
                if let Ok(status) = status {
                    assert_ne!(status, "paused", "{plan}: {}", shown.stdout);
                    ended = status == "succeeded";
                }
                ended
            });
            if ended {
                daemon.kill();
            } else {
                assert!(!daemon.wait().success(), "{plan}: the daemon ended well");
                kills += 1;
            }
            home.check_store();
            if ended && let Some(run) = open.take() {
                nothing_was_done_twice(&home, &run);
                runs.push(run);
            }
        }
    }
    assert!(kills >= 30, "only {kills} kills happened");
    let daemon = home.daemon();
    if let Some(run) = open {
        wait_for("the end of the last run", || home.status(&run) == "succeeded");
        runs.push(run);
    }
    daemon.stop();
    for run in &runs {
        nothing_was_done_twice(&home, run);
    }
    home.check_store();
}

#[test]
fn kills_by_the_clock() {
    let kills: u32 = std::env::var("SEALFLOW_KILLS").map_or(10, |text| text.parse().unwrap());
    let home = Home::new();
    let demo = home.demo();
    let file = home.file("data.bin", 2032);
    let args = ["demo", "--json", "--file", file.to_str().unwrap()];
    for kill in 0..kills {
        let mut child = home
            .command(&args)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // 0.1 s, 0.3 s, 0.5 s, …: the first ones meet the short steps, the later ones the proof.
        std::thread::sleep(Duration::from_millis(100 + 200 * u64::from(kill % 20)));
        child.kill().unwrap();
        child.wait().unwrap();
        if demo.path().join("journal").exists() {
            let checked = demo.run(&["store", "check"]);
            // Killed before there was a journal, there is nothing to check.
            assert!(
                checked.code == 0 || checked.stderr.contains("there is no journal"),
                "{checked:?}"
            );
        }
    }
    let report = home.json(&args);
    assert_eq!(
        (&report["verified"], &report["unsealed_matches_input"]),
        (&Value::Bool(true), &Value::Bool(true))
    );
    assert_eq!(
        (&report["resumed"], &report["on_chain"]),
        (&Value::Bool(true), &Value::Bool(true))
    );
    nothing_was_done_twice(&demo, report["run"].as_str().unwrap());
    demo.check_store();
}

#[test]
fn pc1_killed_in_its_second_layer_keeps_the_first() {
    pc1_goes_on_behind_its_last_layer("StackedDrg8MiBV1_1");
}

pub(crate) fn pc1_goes_on_behind_its_last_layer(proof_type: &str) {
    let home = Home::new();
    let file = home.path().join("without_c2.toml");
    std::fs::write(&file, WITHOUT_C2).unwrap();
    let daemon = home.daemon_with(&[("SEALFLOW_CRASH_AT", "pc1.layer.counted=return")]);
    let run = home.start(file.to_str().unwrap(), &params(&home, 5, proof_type));
    assert!(!daemon.wait().success());
    let layer = home.path().join("scratch/f01000-5/cache/sc-02-data-layer-1.dat");
    let written = std::fs::metadata(&layer).unwrap().modified().unwrap();

    let daemon = home.daemon();
    wait_hours_for("the end of PC1", || {
        step(&home.json(&["run", "show", &run, "--json"]), "pc1")["status"] == "succeeded"
    });
    // PC2 may end at any time now, but the layers stay until finalize.
    let shown = home.json(&["run", "show", &run, "--json"]);
    assert_eq!(step(&shown, "pc1")["output"]["resumed_layers"], 1);
    if let Ok(meta) = std::fs::metadata(&layer) {
        assert_eq!(
            meta.modified().unwrap(),
            written,
            "the first layer was written again"
        );
    }
    wait_hours_for("the end of the run", || home.status(&run) == "succeeded");
    daemon.stop();
    nothing_was_done_twice(&home, &run);
    home.check_store();
}
