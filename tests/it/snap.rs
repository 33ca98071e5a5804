//! The promise of snap-up: data goes into a committed-capacity sector with a real proof, comes back byte for
//! byte, and the replica that it was made from is never touched.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bad_input::paused_with;
use crate::crash::nothing_was_done_twice;
use crate::env::{Home, step, wait_for};
use crate::post::seal;
use crate::verifier::judges;

/// The digest of every file below a folder, or of a file.
fn digests(path: &Path, into: &mut BTreeMap<String, String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            digests(&entry.unwrap().path(), into);
        }
    } else {
        let bytes = std::fs::read(path).unwrap();
        into.insert(path.display().to_string(), hex::encode(Sha256::digest(bytes)));
    }
}

fn replica(home: &Home, sector: u64) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for kind in ["sealed", "cache"] {
        digests(
            &home.path().join(format!("store/{kind}/s-t01000-{sector}")),
            &mut found,
        );
    }
    digests(
        &home.path().join(format!("store/sector/s-t01000-{sector}.json")),
        &mut found,
    );
    found
}

fn snap(home: &Home, sector: u64, pieces: &Value) -> String {
    let params = [
        "miner=f01000".to_owned(),
        format!("sector={sector}"),
        format!("pieces={pieces}"),
    ];
    home.start("snap_up_offline", &params)
}

#[test]
fn data_goes_into_a_committed_capacity_sector_and_comes_back() {
    let home = Home::new();
    let daemon = home.daemon();
    seal(&home, &[1, 2], &json!(["pledge"]));
    let before = replica(&home, 1);
    let (first, second) = (home.file("first.bin", 500), home.file("second.bin", 700));
    let run = snap(&home, 1, &json!([first, second]));
    wait_for("the encoded update", || {
        step(&home.json(&["run", "show", &run, "--json"]), "snap_encode")["status"] == "succeeded"
    });
    daemon.kill();
    let daemon = home.daemon();
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());

    let shown = home.json(&["run", "show", &run, "--json"]);
    assert_eq!(step(&shown, "verify_snap")["output"]["verified"], true);
    let proof = step(&shown, "snap_prove")["output"]["update_proof"]
        .as_str()
        .unwrap();
    assert_eq!(proof.len(), 384);
    let encoded = &step(&shown, "snap_encode")["output"];
    assert_eq!(encoded["comm_d_new"], step(&shown, "tree_d")["output"]["comm_d"]);
    let claim = json!({
        "type": 0, "old_comm_r": step(&shown, "sector_key")["output"]["comm_r_old"], "new_comm_r": encoded["comm_r_new"],
        "comm_d": encoded["comm_d_new"], "proof": proof,
    });
    judges(&home, &claim);
    assert_ne!(
        encoded["comm_r_new"],
        step(&shown, "sector_key")["output"]["comm_r_old"]
    );
    nothing_was_done_twice(&home, &run);
    assert_eq!(before, replica(&home, 1), "the replica was touched");
    assert!(before.len() >= 4, "{before:?}");
    assert!(
        !home.path().join("scratch/f01000-1").exists(),
        "working files are left"
    );

    for (piece, file) in [(0, &first), (1, &second)] {
        let output = home.path().join(format!("back-{piece}"));
        let params = [
            "miner=f01000".to_owned(),
            "sector=1".to_owned(),
            format!("piece={piece}"),
            format!("output={}", output.display()),
        ];
        let run = home.start("unseal", &params);
        wait_for("the data", || home.status(&run) == "succeeded");
        assert!(
            std::fs::read(&output).unwrap() == std::fs::read(file).unwrap(),
            "piece {piece}"
        );
    }
    // A part that begins and ends in the middle of groups of 127 bytes.
    let output = home.path().join("range");
    let params = [
        "miner=f01000".to_owned(),
        "sector=1".to_owned(),
        "piece=1".to_owned(),
        "offset=130".to_owned(),
        "bytes=401".to_owned(),
        format!("output={}", output.display()),
    ];
    let run = home.start("unseal", &params);
    wait_for("the range", || home.status(&run) == "succeeded");
    assert_eq!(
        std::fs::read(&output).unwrap(),
        std::fs::read(&second).unwrap()[130..531]
    );

    the_update_is_what_is_proved(&home, &encoded["comm_r_new"]);

    let run = snap(&home, 1, &json!([first]));
    let (code, message) = paused_with(&home, &run);
    assert_eq!(code, "already_updated", "{message}");
    daemon.stop();
    home.check_store();
}

fn the_update_is_what_is_proved(home: &Home, comm_r_new: &Value) {
    let params = ["miner=f01000".to_owned(), "sectors=[1]".to_owned()];
    let run = home.start("winning_post_offline", &params);
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());
    let shown = home.json(&["run", "show", &run, "--json"]);
    let proved = &step(&shown, "winning_post")["output"]["post"]["proved"][0];
    assert_eq!(&proved["comm_r"], comm_r_new);
    assert_eq!(step(&shown, "verify_post")["output"]["verified"], true);
}

#[test]
fn sectors_that_cannot_take_data() {
    let home = Home::new();
    let daemon = home.daemon();
    let data = home.file("data.bin", 300);
    seal(&home, &[1], &json!([data]));
    seal(&home, &[2, 3], &json!(["pledge"]));

    let run = snap(&home, 1, &json!([data]));
    let (code, message) = paused_with(&home, &run);
    assert_eq!(code, "not_committed_capacity", "{message}");

    // Described as another replica than it is.
    let description = home.path().join("store/sector/s-t01000-2.json");
    let text = std::fs::read_to_string(&description).unwrap();
    let info: Value = serde_json::from_str(&text).unwrap();
    let right = info["comm_r"].as_str().unwrap();
    std::fs::write(&description, text.replace(right, &"11".repeat(32))).unwrap();
    let run = snap(&home, 2, &json!([data]));
    let (code, message) = paused_with(&home, &run);
    assert_eq!(code, "replica_damaged", "{message}");
    assert!(message.contains(right), "{message}");

    std::fs::remove_file(
        home.path()
            .join("store/cache/s-t01000-3/sc-02-data-tree-r-last.dat"),
    )
    .unwrap();
    let run = snap(&home, 3, &json!([data]));
    let (code, message) = paused_with(&home, &run);
    assert_eq!(code, "replica_damaged", "{message}");
    assert!(message.contains("tree-r-last"), "{message}");

    let params = [
        "run",
        "start",
        "snap_up_offline",
        "-p",
        "miner=f01000",
        "-p",
        "sector=99",
        "-p",
        "pieces=[\"/x\"]",
    ];
    let refused = home.run(&params);
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("was it sealed here?"), "{refused:?}");
    daemon.stop();
    home.check_store_finds(&["`cache` of f01000/3"]);
    // It has its size, so only who reads it sees that it is another one.
    let deep = home.run(&["store", "check", "--deep"]);
    assert_eq!(deep.code, 7, "{deep:?}");
    assert!(deep.stdout.contains("`sector_info` of f01000/2"), "{deep:?}");
}
