//! The promise of proofs of spacetime: every sector that is whole is proved, every other one is named with a
//! reason, and no finished partition is proved again.

use serde_json::{Value, json};

use crate::bad_input::paused_with;
use crate::crash::{WITHOUT_C2, nothing_was_done_twice};
use crate::env::{Home, step, wait_for};
use crate::verifier::{claimed, judges};

/// Seals committed-capacity sectors of 2 KiB, without the proof that takes a minute.
pub(crate) fn seal(home: &Home, sectors: &[u64], pieces: &Value) {
    let file = home.path().join("without_c2.toml");
    std::fs::write(&file, WITHOUT_C2).unwrap();
    let runs: Vec<String> = sectors
        .iter()
        .map(|sector| {
            let params = [
                "miner=f01000".to_owned(),
                format!("sector={sector}"),
                "proof_type=StackedDrg2KiBV1_1".to_owned(),
                format!("pieces={pieces}"),
            ];
            home.start(file.to_str().unwrap(), &params)
        })
        .collect();
    for run in runs {
        wait_for("the sealed sector", || home.status(&run) == "succeeded");
    }
}

/// Replaces a sector's replica by noise of the same size.
fn corrupt(home: &Home, sector: u64) {
    let path = home.path().join(format!("store/sealed/s-t01000-{sector}"));
    let bytes = std::fs::read(&path).unwrap();
    let noise: Vec<u8> = bytes.iter().map(|byte| byte ^ 0x15).collect();
    std::fs::write(&path, noise).unwrap();
}

fn deadline(sectors: &Value) -> Vec<String> {
    vec![
        "miner=f01000".to_owned(),
        "deadline=3".to_owned(),
        format!("sectors={sectors}"),
    ]
}

fn partition(home: &Home, partition: u64, sectors: &[u64]) -> Value {
    let replicas: Vec<Value> = sectors
        .iter()
        .map(|sector| {
            let path = home.path().join(format!("store/sector/s-t01000-{sector}.json"));
            let info: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            let place = |kind: &str| json!({ "store": "store", "key": format!("{kind}/s-t01000-{sector}") });
            json!({ "sector": sector, "comm_r": info["comm_r"], "sealed": place("sealed"), "cache": place("cache") })
        })
        .collect();
    json!({ "partition": partition, "replicas": replicas })
}

fn numbers(list: &Value) -> Vec<u64> {
    let list = list.as_array().unwrap();
    list.iter().map(|one| one["sector"].as_u64().unwrap()).collect()
}

/// The items of `window_post` that have succeeded.
fn proved_partitions(home: &Home, run: &str) -> Vec<Value> {
    let shown = home.json(&["run", "show", run, "--json"]);
    let items = step(&shown, "window_post")["items"].as_array().cloned();
    let done = |item: &Value| item["status"] == "succeeded";
    items.unwrap_or_default().into_iter().filter(done).collect()
}

#[test]
fn faults_are_named_and_the_rest_is_proved() {
    let home = Home::new();
    let daemon = home.daemon();
    seal(&home, &[1, 2, 3, 4], &json!(["pledge"]));
    corrupt(&home, 2);
    std::fs::remove_file(home.path().join("store/sealed/s-t01000-3")).unwrap();
    let run = home.start("window_post_offline", &deadline(&json!([4, 1, 2, 3])));
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());

    let shown = home.json(&["run", "show", &run, "--json"]);
    assert_eq!(shown["subject"], "f01000/deadline-3");
    let partitions = &step(&shown, "post_challenge")["output"]["partitions"];
    assert_eq!(numbers(&partitions[0]["replicas"]), [1, 2], "{shown}");
    assert_eq!(numbers(&partitions[1]["replicas"]), [3, 4]);
    let items = proved_partitions(&home, &run);
    assert_eq!(items.len(), 2, "{shown}");
    for (item, proved, faulty, reason) in [(&items[0], 1, 2, "invalid"), (&items[1], 4, 3, "No such file")] {
        let post = &item["output"]["post"];
        assert_eq!(numbers(&post["proved"]), [proved], "{post}");
        assert_eq!(numbers(&post["faults"]), [faulty], "{post}");
        let found = post["faults"][0]["reason"].as_str().unwrap();
        assert!(
            found.contains(reason) && found.contains(&format!("s-t01000-{faulty}")),
            "{found}"
        );
        assert_eq!(post["proof"].as_str().unwrap().len(), 384);
    }
    let verified = &step(&shown, "verify_post")["output"];
    assert_eq!(verified["verified"], true, "{verified}");
    assert_eq!(verified["sectors_proved"], 2);
    assert_eq!(numbers(&verified["faults"]), [2, 3]);
    daemon.stop();
    nothing_was_done_twice(&home, &run);
    home.check_store_finds(&["`sealed` of f01000/3"]);
}

#[test]
fn no_finished_partition_is_proved_again() {
    let home = Home::new();
    let daemon = home.daemon();
    seal(&home, &[1, 2, 3, 4, 5, 6, 7], &json!(["pledge"]));
    let run = home.start("window_post_offline", &deadline(&json!([1, 2, 3, 4, 5, 6, 7])));
    wait_for("a partition", || !proved_partitions(&home, &run).is_empty());
    daemon.kill();
    let daemon = home.daemon();
    let before = proved_partitions(&home, &run);
    assert!(!before.is_empty());
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());
    let after = proved_partitions(&home, &run);
    assert_eq!(after.len(), 4, "{after:?}");
    for item in before {
        let same = after.iter().find(|other| other["step"] == item["step"]).unwrap();
        assert_eq!(same["output"], item["output"]);
        assert_eq!(same["attempts"], item["attempts"]);
    }
    let shown = home.json(&["run", "show", &run, "--json"]);
    let verified = &step(&shown, "verify_post")["output"];
    assert_eq!(
        (&verified["verified"], &verified["sectors_proved"]),
        (&json!(true), &json!(7))
    );
    daemon.stop();
    nothing_was_done_twice(&home, &run);
    home.check_store();
}

/// One partition that is given, in the two halves of `window_post`.
const HALVES: &str = r#"
[workflow]
name    = "halves"
subject = "deadline"

[params]
miner     = "actor_id"
deadline  = "deadline"
sectors   = "sectors"
partition = "post_partition"

[steps.post_challenge]
[steps.proof_parameters]
needs = ["post_challenge"]
[steps.window_post_vanilla]
needs = ["post_challenge"]
[steps.window_post_snark]
needs = ["window_post_vanilla", "proof_parameters"]
[steps.verify_post]
needs = ["window_post_snark"]
"#;

#[test]
fn two_halves_prove_a_partition_that_is_given() {
    let home = Home::new();
    let daemon = home.daemon();
    seal(&home, &[1, 2], &json!(["pledge"]));
    let file = home.path().join("halves.toml");
    std::fs::write(&file, HALVES).unwrap();
    let start = |partition: &Value| {
        let mut params = deadline(&json!([1, 2]));
        params.push(format!("partition={partition}"));
        home.start(file.to_str().unwrap(), &params)
    };
    // The second sector is taken for the replica of the first one.
    let mut mixed = partition(&home, 5, &[1, 2]);
    mixed["replicas"][1]["comm_r"] = mixed["replicas"][0]["comm_r"].clone();
    let run = start(&mixed);
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());
    let shown = home.json(&["run", "show", &run, "--json"]);
    let post = &step(&shown, "window_post_snark")["output"]["post"];
    assert_eq!(
        (&post["partition"], numbers(&post["proved"])),
        (&json!(5), vec![1])
    );
    let reason = post["faults"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("belongs to the replica"), "{reason}");
    assert_eq!(
        step(&shown, "window_post_vanilla")["output"]["faults"],
        post["faults"]
    );
    assert_eq!(step(&shown, "verify_post")["output"]["verified"], true);
    judges(&home, &claimed(&shown, 10, "post_challenge", "window_post_snark"));

    let mut large = partition(&home, 0, &[1, 2]);
    let more = json!({ "sector": 3, "comm_r": "11".repeat(32), "sealed": { "store": "store", "key": "a" },
        "cache": { "store": "store", "key": "b" } });
    large["replicas"].as_array_mut().unwrap().push(more);
    for (bad, code, text) in [
        (partition(&home, 4, &[]), "empty_partition", "partition 4"),
        (large, "partition_too_large", "at most 2"),
    ] {
        let run = start(&bad);
        let (found, message) = paused_with(&home, &run);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(text), "{message}");
        assert_eq!(home.run(&["run", "cancel", &run]).code, 0);
        wait_for("the cancel", || home.status(&run) == "cancelled");
    }
    daemon.stop();
    home.check_store();
}

#[test]
fn the_drawn_sector_wins() {
    let home = Home::new();
    let daemon = home.daemon();
    seal(&home, &[1, 2, 3], &json!(["pledge"]));
    let params = ["miner=f01000".to_owned(), "sectors=[1,2,3]".to_owned()];
    let run = home.start("winning_post_offline", &params);
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());
    let shown = home.json(&["run", "show", &run, "--json"]);
    assert_eq!(shown["subject"], "f01000");
    assert_eq!(step(&shown, "verify_post")["output"]["verified"], true);
    let drawn = numbers(&step(&shown, "winning_challenge")["output"]["partition"]["replicas"]);
    assert_eq!(drawn.len(), 1);
    assert_eq!(
        numbers(&step(&shown, "winning_post")["output"]["post"]["proved"]),
        drawn
    );
    judges(&home, &claimed(&shown, 0, "winning_challenge", "winning_post"));

    // Whichever is drawn now, it cannot be proved.
    for sector in [1, 2, 3] {
        corrupt(&home, sector);
    }
    let run = home.start("winning_post_offline", &params);
    let (code, message) = paused_with(&home, &run);
    assert_eq!(code, "sector_faulty", "{message}");
    assert!(message.contains("s-t01000-"), "{message}");
    daemon.stop();
    home.check_store();
}

#[test]
fn sectors_that_cannot_be_named() {
    let home = Home::new();
    let daemon = home.daemon();
    seal(&home, &[1], &json!(["pledge"]));
    let cases = [
        (json!([1, 7, 8]), "unknown_sector", "sector 7, 8"),
        (json!([]), "no_sectors", "empty"),
        (json!([1, 1]), "sector_twice", "sector 1"),
        (json!([{ "sector": 1, "store": "cold" }]), "unknown_store", "cold"),
    ];
    for (sectors, code, text) in cases {
        let params = ["miner=f01000".to_owned(), format!("sectors={sectors}")];
        let run = home.start("winning_post_offline", &params);
        let (found, message) = paused_with(&home, &run);
        assert_eq!(found, code, "{message}");
        assert!(message.contains(text), "{message}");
        assert_eq!(home.run(&["run", "cancel", &run]).code, 0);
    }
    daemon.stop();
    home.check_store();
}

#[test]
fn missing_parameters_name_their_command() {
    let home = Home::new();
    let config = "[params]\npath = \"no-params\"\n";
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let piece = home.file("piece.bin", 300);
    let daemon = home.daemon();
    seal(&home, &[1], &json!(["pledge"]));
    let (miner, sector) = ("miner=f01000".to_owned(), "sector=1".to_owned());
    let cases = [
        (
            "winning_post_offline",
            "winning-post-2KiB",
            vec![miner.clone(), "sectors=[1]".to_owned()],
        ),
        (
            "snap_up_offline",
            "empty-sector-update-2KiB",
            vec![miner, sector, format!("pieces={}", json!([piece]))],
        ),
    ];
    for (workflow, set, params) in cases {
        // Without the step that would make them.
        let text = home.run(&["workflow", "show", workflow]).stdout;
        let text = text.replace("[steps.proof_parameters]\nneeds = [\"winning_challenge\"]\n", "");
        let text = text.replace("[steps.proof_parameters]\nneeds = [\"sector_key\"]\n", "");
        let text = text.replace("[\"proof_parameters\"]", "[\"winning_challenge\"]");
        let text = text.replace(", \"proof_parameters\"", "");
        let file = home.path().join(format!("{workflow}.toml"));
        std::fs::write(&file, text).unwrap();
        let run = home.start(file.to_str().unwrap(), &params);
        let (code, message) = paused_with(&home, &run);
        assert_eq!(code, "parameters_missing", "{message}");
        assert!(
            message.contains(&format!("sealflow params generate {set}")),
            "{message}"
        );
    }
    daemon.stop();
    home.check_store();
}
