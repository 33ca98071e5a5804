//! The promise of the first command: a user's file is sealed with real proofs and given back byte for
//! byte, and scripts can read every step of it.

use std::process::Stdio;

use serde_json::Value;

use crate::env::{Home, Outcome, step, wait_for};

#[test]
fn a_file_is_sealed_verified_and_unsealed() {
    let outer = Home::new();
    let file = outer.file("data.bin", 1999);
    let file = file.to_str().unwrap();
    let report = outer.json(&["demo", "--file", file, "--sector-size", "2KiB", "--json"]);
    let home = outer.demo();
    assert_eq!(report["proof_type"], "StackedDrg2KiBV1_1");
    assert_eq!(report["proof_bytes"], 192);
    assert_eq!(report["verified"], true);
    assert_eq!(report["unsealed_matches_input"], true);
    assert_eq!(report["resumed"], false);
    assert_eq!(report["comm_d"].as_str().unwrap().len(), 64);
    assert_ne!(report["comm_d"], report["comm_r"]);
    // Steps that wait for the chain look at it again and again; all others were done once.
    let waits = ["ticket", "submit_precommit", "seed", "submit_commit"];
    let mut steps = report["steps"].as_array().unwrap().iter();
    assert!(
        steps.all(|step| step["attempts"] == 1 || waits.contains(&step["step"].as_str().unwrap())),
        "{report}"
    );
    let run = report["run"].as_str().unwrap();
    the_chain_has_it(&home, &report);

    let list = home.json(&["run", "list", "--json"]);
    // Batches are runs too.
    let rows = list.as_array().unwrap().iter();
    let list: Vec<&Value> = rows.filter(|row| row["members"].is_null()).collect();
    assert_eq!(list.len(), 2, "the seal and the unseal");
    assert!(
        list.iter()
            .any(|row| row["run"] == run && row["workflow"] == "seal" && row["status"] == "succeeded")
    );

    let shown = home.json(&["run", "show", run, "--json"]);
    assert_eq!(shown["status"], "succeeded");
    assert_eq!(step(&shown, "c2")["output"]["proof"].as_str().unwrap().len(), 384);
    assert_eq!(step(&shown, "tree_d")["output"]["comm_d"], report["comm_d"]);
    let piece = &step(&shown, "add_pieces")["output"]["piece_infos"][0];
    assert_eq!(
        (piece["data_bytes"].as_u64(), piece["padded_bytes"].as_u64()),
        (Some(1999), Some(2048))
    );

    // What must last is in the store, under the names that the field knows; working files are gone.
    let subject = shown["subject"].as_str().unwrap();
    let sector = format!("s-t{}", subject[1..].replace('/', "-"));
    assert_eq!(
        std::fs::metadata(home.path().join("store/sealed").join(&sector))
            .unwrap()
            .len(),
        2048
    );
    assert!(
        home.path()
            .join("store/cache")
            .join(&sector)
            .join("p_aux")
            .is_file()
    );
    let scratch = home.path().join("scratch").join(sector.replace("s-t0", "f0"));
    assert!(!scratch.join("cache").join("sc-02-data-layer-1.dat").exists());
    home.check_store();

    proofs_are_verified_together(&home, &shown);
    a_range_of_the_piece_comes_back(&home, file, subject);
    lost_and_damaged_artifacts_are_found(&home, &sector);
}

/// What the demo says of the chain is what the network shows, when it is started again as the demo says.
fn the_chain_has_it(home: &Home, report: &Value) {
    assert_eq!(report["on_chain"], true, "{report}");
    for cid in ["precommit_cid", "commit_cid"] {
        assert!(report[cid].as_str().unwrap().starts_with("bafy"), "{report}");
    }
    let config = std::fs::read_to_string(home.path().join("config.toml")).unwrap();
    let (_, port) = config.split_once("127.0.0.1:").unwrap();
    let address = format!("127.0.0.1:{}", port.split_once(' ').unwrap().0);
    let args = ["devnet", "--listen", &address, "--clock", "manual"];
    let mut network = home
        .command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let info = ["miner", "info", report["miner"].as_str().unwrap(), "--json"];
    wait_for("the network", || home.run(&info).code == 0);
    assert_eq!(home.json(&info)["sectors"], 1);
    network.kill().unwrap();
    network.wait().unwrap();
}

const VERIFY: &str = r#"
[workflow]
name    = "verify"
subject = "sector"

[params]
miner      = "actor_id"
sector     = "sector_number"
proof_type = "registered_seal_proof"
comm_d     = "comm_d"
comm_r     = "comm_r"
ticket     = "ticket"
seed       = "seed"
proof      = "string"

[steps.verify_seal]
batch = { key = "proof_type", max = 3, wait = "1h" }
"#;

/// A batch of a good proof, the same again and a bad one: each has a verdict of its own.
fn proofs_are_verified_together(home: &Home, sealed: &Value) {
    let file = home.path().join("verify.toml");
    std::fs::write(&file, VERIFY).unwrap();
    let daemon = home.daemon();
    let of = |name: &str, field: &str| step(sealed, name)["output"][field].as_str().unwrap().to_owned();
    let params = &sealed["params"];
    let begin = |comm_r: &str| {
        let given = [
            format!("miner={}", params["miner"].as_str().unwrap()),
            format!("sector={}", params["sector"]),
            format!("proof_type={}", params["proof_type"].as_str().unwrap()),
            format!("comm_d={}", of("tree_d", "comm_d")),
            format!("comm_r={comm_r}"),
            format!("ticket={}", of("ticket", "ticket")),
            format!("seed={}", of("seed", "seed")),
            format!("proof={}", of("c2", "proof")),
        ];
        home.start(file.to_str().unwrap(), &given)
    };
    let good = of("pc2", "comm_r");
    let runs = [begin(&good), begin(&good), begin(&of("tree_d", "comm_d"))];
    wait_for("the verdicts", || {
        runs.iter()
            .all(|run| ["succeeded", "paused"].contains(&home.status(run).as_str()))
    });
    let ends: Vec<String> = runs.iter().map(|run| home.status(run)).collect();
    assert_eq!(ends, ["succeeded", "succeeded", "paused"]);
    let bad = home.json(&["run", "show", &runs[2], "--json"]);
    assert_eq!(step(&bad, "verify_seal")["failure"]["code"], "proof_invalid");
    let list = home.json(&["run", "list", "--json"]);
    let batch: Vec<&Value> = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["members"] == 3)
        .collect();
    assert_eq!((batch.len(), &batch[0]["status"]), (1, &Value::from("succeeded")));
    home.ok(&["run", "cancel", &runs[2]]);
    daemon.stop();
    home.check_store();
}

/// By size, and with `--deep` by content.
fn lost_and_damaged_artifacts_are_found(home: &Home, sector: &str) {
    let path = home.path().join("store/sealed").join(sector);
    let good = std::fs::read(&path).unwrap();
    let check = |args: &[&str], code: i32, text: &str| {
        let outcome = home.run(&[&["store", "check"], args].concat());
        assert_eq!(outcome.code, code, "{outcome:?}");
        assert!(outcome.stdout.contains(text), "{outcome:?}");
    };
    check(&["--deep"], 0, "every invariant holds");
    let mut flipped = good.clone();
    flipped[1000] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    check(&[], 0, "every invariant holds");
    check(&["--deep"], 7, "damaged");
    std::fs::write(&path, &good[1..]).unwrap();
    check(&[], 7, "it has 2047 bytes instead of 2048");
    std::fs::remove_file(&path).unwrap();
    check(&[], 7, "has nothing under");
    std::fs::write(&path, good).unwrap();
    check(&["--deep"], 0, "every invariant holds");
}

/// A part of a piece that begins and ends in the middle of the library's groups of 127 bytes.
fn a_range_of_the_piece_comes_back(home: &Home, file: &str, subject: &str) {
    let daemon = home.daemon();
    let (miner, sector) = subject.split_once('/').unwrap();
    let output = home.path().join("range.bin");
    let params = [
        format!("miner={miner}"),
        format!("sector={sector}"),
        format!("output={}", output.display()),
        "offset=200".to_owned(),
        "bytes=1001".to_owned(),
    ];
    let run = home.start("unseal", &params);
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}");
    assert_eq!(
        std::fs::read(&output).unwrap(),
        std::fs::read(file).unwrap()[200..1201]
    );

    let beyond = [
        &params[..2],
        &[format!("output={}", output.display()), "offset=1999".to_owned()],
    ]
    .concat();
    let run = home.start("unseal", &beyond);
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 6, "{watched:?}");
    assert!(watched.stderr.contains("range_outside"), "{watched:?}");
    daemon.stop();
}

#[test]
fn synthetic_porep_is_sealed_and_verified() {
    let home = Home::new();
    let file = home.file("data.bin", 500);
    let daemon = home.daemon();
    let params = [
        "miner=f02000".to_owned(),
        "sector=3".to_owned(),
        "proof_type=StackedDrg2KiBV1_1_Feat_SyntheticPoRep".to_owned(),
        format!("pieces={}", serde_json::json!([file, file])),
    ];
    let run = home.start("seal_offline", &params);
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());
    let shown = home.json(&["run", "show", &run, "--json"]);
    assert_eq!(step(&shown, "synth_proof")["output"]["synthetic"], true);
    assert_eq!(step(&shown, "verify_seal")["output"]["verified"], true);
    let pieces = step(&shown, "add_pieces")["output"]["piece_infos"]
        .as_array()
        .unwrap();
    assert_eq!(pieces[1]["offset"], 512);
    daemon.stop();
    home.check_store();
}

#[test]
#[ignore = "half an hour; `just long-512mib` runs it, and the 8 MiB sector of `crash` holds the promise in CI"]
fn a_512_mib_sector_survives_a_kill() {
    crate::crash::pc1_goes_on_behind_its_last_layer("StackedDrg512MiBV1_1");
}

/// The exit codes that scripts rely on.
#[test]
fn exit_codes_are_as_documented() {
    let home = Home::new();
    let check = |args: &[&str], code: i32, text: &str| {
        let Outcome {
            code: found,
            stdout,
            stderr,
        } = home.run(args);
        assert_eq!(found, code, "{args:?}: {stdout}{stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    };
    check(&["run", "list"], 4, "sealflow init");
    check(&["run", "start", "seal_offline"], 5, "daemon");
    check(&["run", "fly"], 2, "unrecognized subcommand");
    check(&["stage", "show", "pc3"], 4, "pc3");
    check(&["workflow", "check", "no_such"], 4, "no_such");
    check(&["demo", "--sector-size", "3KiB"], 2, "2KiB, 8MiB");
    check(&["demo", "--file", "/no/such/file"], 4, "/no/such/file");
    std::fs::write(home.path().join("config.toml"), "[daemon]\nlisten_on = 3\n").unwrap();
    check(&["run", "list"], 3, "listen_on");
    std::fs::remove_file(home.path().join("config.toml")).unwrap();
    std::fs::write(
        home.path().join("machine.toml"),
        "[executors.fast]\nstages = [\"pc9\"]\n",
    )
    .unwrap();
    check(&["config", "check"], 3, "there is no stage `pc9`");
    check(&["daemon"], 3, "there is no stage `pc9`");
}
