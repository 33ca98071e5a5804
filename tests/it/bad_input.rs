//! The promise that mistakes and broken surroundings end in a clear error or a paused run that can be
//! resumed, and that nothing is lost.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::env::{Home, step, wait_for};

fn seal_params(sector: u32, pieces: &Value) -> Vec<String> {
    vec![
        "miner=f01000".to_owned(),
        format!("sector={sector}"),
        "proof_type=StackedDrg2KiBV1_1".to_owned(),
        format!("pieces={pieces}"),
    ]
}

/// The code of the failure that paused a run.
pub(crate) fn paused_with(home: &Home, run: &str) -> (String, String) {
    wait_for("the pause", || home.status(run) == "paused");
    let shown = home.json(&["run", "show", run, "--json"]);
    let failed = shown["steps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|step| step["status"] == "failed")
        .unwrap()
        .clone();
    (
        failed["failure"]["code"].as_str().unwrap().to_owned(),
        failed["failure"]["message"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn pieces_that_do_not_fit() {
    let home = Home::new();
    let empty = home.file("empty.bin", 0);
    let large = home.file("large.bin", 2033);
    let half = home.file("half.bin", 1100);
    let small = home.file("small.bin", 100);
    let cid = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";
    let missing = home.path().join("missing.bin");
    let cases = [
        (serde_json::json!([empty]), "piece_empty", "empty.bin"),
        (serde_json::json!([large]), "piece_too_large", "2033"),
        (serde_json::json!([half, half]), "sector_full", "half.bin"),
        (
            serde_json::json!([{ "path": small, "cid": cid }]),
            "comm_p_mismatch",
            cid,
        ),
        (
            serde_json::json!([{ "path": small, "cid": "bafkqaaa" }]),
            "bad_cid",
            "baga",
        ),
        (
            serde_json::json!([{ "path": large, "padded_bytes": 1024 }]),
            "piece_too_large",
            "large.bin",
        ),
        (serde_json::json!([missing]), "path_missing", "missing.bin"),
        (
            serde_json::json!([{ "url": "http://127.0.0.1:9/piece", "token_file": missing }]),
            "path_missing",
            "missing.bin",
        ),
    ];
    let daemon = home.daemon();
    for (at, (pieces, code, text)) in cases.iter().enumerate() {
        let run = home.start("seal_offline", &seal_params(u32::try_from(at).unwrap(), pieces));
        let (found, message) = paused_with(&home, &run);
        assert_eq!(found, *code, "{pieces}: {message}");
        assert!(message.contains(text), "{pieces}: {message}");
        // The subject is free again once the run is cancelled.
        assert_eq!(home.run(&["run", "cancel", &run]).code, 0);
        wait_for("the cancel", || home.status(&run) == "cancelled");
    }
    daemon.stop();
    home.check_store();
}

#[test]
fn a_file_that_is_put_back_lets_the_run_go_on() {
    let home = Home::new();
    let file = home.path().join("late.bin");
    let daemon = home.daemon();
    let workflow = home.path().join("tree.toml");
    let text = "[workflow]\nname = \"tree\"\nsubject = \"sector\"\n[params]\nminer = \"actor_id\"\n\
        sector = \"sector_number\"\nproof_type = \"registered_seal_proof\"\npieces = \"pieces\"\n\
        [steps.add_pieces]\n[steps.tree_d]\nneeds = [\"add_pieces\"]\n";
    std::fs::write(&workflow, text).unwrap();
    let run = home.start(
        workflow.to_str().unwrap(),
        &seal_params(1, &serde_json::json!([file])),
    );
    let (code, message) = paused_with(&home, &run);
    assert_eq!(code, "path_missing");
    assert!(message.contains("sealflow run retry"), "{message}");
    std::fs::write(&file, b"here it is").unwrap();
    assert_eq!(
        home.run(&["run", "resume", &run, "--why", "the disk is mounted again"])
            .code,
        0
    );
    wait_for("the end", || home.status(&run) == "succeeded");
    let log = home.run(&["run", "logs", &run]).stdout;
    assert!(log.contains("the disk is mounted again"), "{log}");
    daemon.stop();
    home.check_store();
}

#[test]
fn parameters_and_subjects_that_make_no_sense() {
    let home = Home::new();
    let daemon = home.daemon();
    let refused = |params: &[&str], text: &str| {
        let mut args = vec!["run", "start", "seal_offline"];
        for param in params {
            args.extend(["-p", param]);
        }
        let outcome = home.run(&args);
        assert_ne!(outcome.code, 0, "{params:?}");
        assert!(outcome.stderr.contains(text), "{params:?}: {outcome:?}");
    };
    refused(&["miner=f01000"], "`sector`");
    refused(&["miner=1000x", "sector=1"], "f01000");
    refused(&["miner=f01000", "sector=-1"], "sector");
    refused(
        &["miner=f01000", "sector=1", "proof_type=StackedDrg3KiBV1"],
        "StackedDrg2KiBV1_1",
    );
    refused(&["miner=f01000", "sector=1", "piece=x"], "no parameter `piece`");
    refused(&["nonsense"], "NAME=VALUE");
    // Two runs may not write to one sector.
    let missing = serde_json::json!(["/no/such/file"]);
    let run = home.start("seal_offline", &seal_params(7, &missing));
    refused(
        &["miner=f01000", "sector=7", "proof_type=StackedDrg2KiBV1_1"],
        &run,
    );
    // A sector that was never sealed has nothing to unseal.
    let outcome = home.run(&[
        "run",
        "start",
        "unseal",
        "-p",
        "miner=f01000",
        "-p",
        "sector=9",
        "-p",
        "output=/tmp/x",
    ]);
    assert!(
        outcome.code != 0 && outcome.stderr.contains("was it sealed here"),
        "{outcome:?}"
    );
    let outcome = home.run(&["run", "retry", "run_00000000000000000000000000000000"]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    daemon.stop();
}

#[test]
fn a_second_daemon_is_refused() {
    let home = Home::new();
    let daemon = home.daemon();
    let second = home.run(&["daemon"]);
    assert_eq!(second.code, 8, "{second:?}");
    assert!(second.stderr.contains(&daemon.id().to_string()), "{second:?}");
    assert!(
        second.stderr.contains(home.path().to_str().unwrap()),
        "{second:?}"
    );
    daemon.stop();
    // The demo has a home of its own, in this one.
    let inner = home.demo();
    std::fs::create_dir(inner.path()).unwrap();
    let daemon = inner.daemon();
    let demo = home.run(&["demo"]);
    assert_eq!(demo.code, 8, "{demo:?}");
    daemon.stop();
}

#[test]
fn a_damaged_journal_is_refused_and_left_alone() {
    let home = Home::new();
    home.daemon().stop();
    let journal = home.path().join("journal");
    let mut damaged = 0;
    damage(&journal, &mut damaged);
    assert!(damaged > 0);
    let outcome = home.run(&["daemon"]);
    assert_ne!(outcome.code, 0, "{outcome:?}");
    assert!(outcome.stderr.contains("cannot open the journal"), "{outcome:?}");
    assert!(outcome.stderr.contains(journal.to_str().unwrap()), "{outcome:?}");
}

/// Overwrites every file that is not a lock, at its full length.
fn damage(dir: &Path, count: &mut u32) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage(&path, count);
        } else if !path.to_string_lossy().to_lowercase().contains("lock") {
            let length = std::fs::metadata(&path).unwrap().len().max(64);
            std::fs::write(&path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
            *count += 1;
        }
    }
}

/// The scratch folder is on a file system of 4 MiB, in a mount namespace of the daemon's own.
#[test]
fn a_full_disk_is_waited_for() {
    let home = Home::new();
    let scratch = home.path().join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=4m tmpfs {} && exec {} --home {} daemon",
        scratch.display(),
        env!("CARGO_BIN_EXE_sealflow"),
        home.path().display()
    );
    let log = std::fs::File::create(home.path().join("daemon.log")).unwrap();
    let mut child = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &script])
        .stderr(log)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the daemon", || {
        assert!(child.try_wait().unwrap().is_none(), "{}", home.daemon_log());
        home.path().join("daemon.json").exists()
    });
    let piece = home.file("piece.bin", 5 << 20);
    let workflow = home.path().join("pieces.toml");
    let text = "[workflow]\nname = \"pieces\"\nsubject = \"sector\"\n[params]\nminer = \"actor_id\"\n\
        sector = \"sector_number\"\nproof_type = \"registered_seal_proof\"\npieces = \"pieces\"\n\
        [defaults]\nretry = { backoff = \"1h\" }\n[steps.add_pieces]\n[steps.tree_d]\nneeds = [\"add_pieces\"]\n";
    std::fs::write(&workflow, text).unwrap();
    let params = [
        "miner=f01000".to_owned(),
        "sector=1".to_owned(),
        "proof_type=StackedDrg8MiBV1_1".to_owned(),
        format!("pieces={}", serde_json::json!([piece])),
    ];
    let run = home.start(workflow.to_str().unwrap(), &params);
    let waiting = || {
        let shown = home.json(&["run", "show", &run, "--json"]);
        shown["steps"]
            .as_array()
            .unwrap()
            .iter()
            .find(|step| step["status"] == "waiting")
            .cloned()
    };
    wait_for("the full disk", || waiting().is_some());
    let full = waiting().unwrap();
    assert_eq!(full["failure"]["code"], "no_space", "{full}");
    child.kill().unwrap();
    child.wait().unwrap();

    // The disk has room again: the run is told not to wait for its back-off, and ends.
    let daemon = home.daemon();
    assert_eq!(home.run(&["run", "retry", &run]).code, 0);
    wait_for("the end", || home.status(&run) == "succeeded");
    daemon.stop();
    home.check_store();
}

#[test]
fn missing_rights_pause_the_run() {
    let home = Home::new();
    let daemon = home.daemon();
    // Not even root may make files there.
    let workflow = home.path().join("copy.toml");
    let text = "[workflow]\nname = \"copy\"\nsubject = \"sector\"\n[params]\nminer = \"actor_id\"\n\
        sector = \"sector_number\"\nproof_type = \"registered_seal_proof\"\npieces = \"pieces\"\n\
        [steps.add_pieces]\n[steps.transfer]\nneeds = [\"add_pieces\"]\n\
        with = { artifact = \"add_pieces.unsealed\", to_store = { value = \"locked\" } }\n";
    std::fs::write(&workflow, text).unwrap();
    daemon.stop();
    std::fs::write(
        home.path().join("config.toml"),
        "[stores.locked]\npath = \"/proc/self/sealflow\"\n",
    )
    .unwrap();
    let refused = home.run(&["daemon"]);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("/proc/self/sealflow"), "{refused:?}");
    // A store that is not configured pauses the run that names it.
    std::fs::remove_file(home.path().join("config.toml")).unwrap();
    let daemon = home.daemon();
    let run = home.start(
        workflow.to_str().unwrap(),
        &seal_params(1, &serde_json::json!(["pledge"])),
    );
    let (code, message) = paused_with(&home, &run);
    assert_eq!(
        (code.as_str(), message.contains("locked")),
        ("unknown_store", true),
        "{message}"
    );
    daemon.stop();
}

#[test]
fn missing_parameters_pause_the_run_and_name_the_command() {
    let home = Home::new();
    std::fs::write(
        home.path().join("config.toml"),
        "[params]\npath = \"no-params\"\n",
    )
    .unwrap();
    let workflow = home.path().join("seal.toml");
    let builtin = home.run(&["workflow", "show", "seal_offline"]).stdout;
    // Without the step that would make them.
    let text = builtin
        .replace("[steps.proof_parameters]\n", "")
        .replace(", \"proof_parameters\"", "");
    std::fs::write(&workflow, text).unwrap();
    let daemon = home.daemon();
    let run = home.start(
        workflow.to_str().unwrap(),
        &seal_params(1, &serde_json::json!(["pledge"])),
    );
    let (code, message) = paused_with(&home, &run);
    assert_eq!(code, "parameters_missing", "{message}");
    assert!(
        message.contains("sealflow params generate porep-2KiB"),
        "{message}"
    );
    // Its own kind of condition, with the set, its files and where they are looked for.
    let why = home.json(&["run", "explain", &run, "--json"]);
    let of_c2 = why["steps"].as_array().unwrap().iter();
    let of_c2 = of_c2.flat_map(|step| step["conditions"].as_array().unwrap());
    let missing: Vec<_> = of_c2.filter(|one| one["kind"] == "parameters_missing").collect();
    let text = missing[0]["text"].as_str().unwrap();
    for part in [
        "porep-2KiB",
        "no-params",
        ".params and ",
        ".vk",
        "sealflow params generate",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(missing[0]["numbers"]["charged"], 0, "{why}");
    daemon.stop();

    std::fs::remove_file(home.path().join("config.toml")).unwrap();
    let daemon = home.daemon();
    assert_eq!(home.run(&["run", "resume", &run]).code, 0);
    wait_for("the end", || home.status(&run) == "succeeded");
    let shown = home.json(&["run", "show", &run, "--json"]);
    assert_eq!(
        step(&shown, "pc1")["attempts"],
        1,
        "nothing finished was done again"
    );
    daemon.stop();
}
