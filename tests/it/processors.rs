//! The promise of child processes: whatever stage a child computes, the result is the one that the daemon would
//! have made; and no child outlives what it was started for.

use std::path::Path;

use serde_json::{Value, json};

use crate::crash::{WITHOUT_C2, events, nothing_was_done_twice};
use crate::env::{Home, step, wait_for};

/// Children for every stage that has a wire form, each with other settings of the proofs library.
pub(crate) const CHILDREN: &str = r#"
[executors.here]
stages = ["ticket", "seed", "proof_parameters", "verify_seal", "persist", "finalize", "sector_key", "verify_snap",
          "persist_update", "post_challenge", "winning_challenge", "verify_post"]

[executors.disk]
kind   = "ext-processor"
stages = ["add_pieces", "tree_d", "transfer"]
cpuset = "0"
ready_timeout = "60s"

[executors.layers]
kind   = "ext-processor"
stages = ["pc1", "unseal"]
ready_timeout = "60s"
env    = { FIL_PROOFS_USE_MULTICORE_SDR = "0", FIL_PROOFS_MAXIMIZE_CACHING = "1" }

[executors.trees]
kind   = "ext-processor"
stages = ["pc2", "synth_proof", "c1", "snap_encode", "snap_partition_proofs"]
env    = { FIL_PROOFS_MAX_TREE_BATCH_SIZE = "16", FIL_PROOFS_ROWS_TO_DISCARD = "1" }
ready_timeout = "60s"

[executors.proofs]
kind   = "ext-processor"
stages = ["c2", "snap_prove", "window_post", "winning_post"]
env    = { FIL_PROOFS_VERIFY_CACHE = "1", RAYON_NUM_THREADS = "2" }
ready_timeout = "60s"
"#;

/// One child kind for all.
const ONE: &str = r#"
[executors.here]
stages = ["add_pieces", "ticket", "seed", "synth_proof", "c1", "persist", "finalize"]

[executors.slow]
kind   = "ext-processor"
stages = ["tree_d", "pc1", "pc2"]
ready_timeout = "60s"
"#;

/// Without the proof of a minute, with a copy of the replica into a store.
fn with_transfer() -> String {
    let workflow = WITHOUT_C2.replace("seal_without_c2", "seal_and_copy");
    workflow.replace(
        "[defaults]",
        "to_store = { type = \"string\", default = \"store\" }\nto_key = \"string\"\n\n[defaults]",
    ) + "\n[steps.transfer]\nneeds = [\"pc2\"]\nwith = { artifact = \"pc2.sealed\" }\n"
}

fn params(sector: u64, pieces: &Value) -> Vec<String> {
    vec![
        "miner=f01000".to_owned(),
        format!("sector={sector}"),
        "proof_type=StackedDrg2KiBV1_1".to_owned(),
        format!("pieces={pieces}"),
    ]
}

/// Runs a workflow to its end, and gives what is shown of it.
fn run(home: &Home, workflow: &str, params: &[String]) -> Value {
    let run = home.start(workflow, params);
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());
    nothing_was_done_twice(home, &run);
    home.json(&["run", "show", &run, "--json"])
}

/// Where each of these steps ran.
fn ran_on(shown: &Value, executor: &str, steps: &[&str]) {
    for name in steps {
        assert_eq!(step(shown, name)["executor"], executor, "{name}: {shown}");
    }
}

/// Processes that work for a home, apart from those of the test itself.
fn processes(home: &Path) -> Vec<String> {
    let home = home.to_str().unwrap();
    let of = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let line = std::fs::read(path.join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (line.contains(home) && !stat.contains(") Z ")).then_some(line)
    };
    std::fs::read_dir("/proc").unwrap().filter_map(of).collect()
}

/// The process of the child that computes a stage, once it has something to do.
fn busy_child(home: &Home, executor: &str, stage: &str) -> i32 {
    let mut pid = None;
    wait_for("a busy child", || {
        let shown = home.json(&["executor", "show", executor, "--json"]);
        let notes = shown["notes"].as_array().unwrap().iter();
        pid = notes.filter_map(Value::as_str).find_map(|note| {
            let rest = note.strip_prefix(&format!("child for {stage}: pid "))?;
            rest.strip_suffix(", 1 open")?.parse().ok()
        });
        pid.is_some()
    });
    pid.unwrap()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn every_stage_in_children_gives_what_the_daemon_gives() {
    let here = Home::new();
    let data = here.file("data.bin", 900);
    let more = here.file("more.bin", 400);
    let pieces = json!([data, more]);
    let copy = here.path().join("copy.toml");
    std::fs::write(&copy, with_transfer()).unwrap();
    let daemon = here.daemon();
    let key = "to_key=copies/replica".to_owned();
    let seal = |home: &Home| {
        let params = [params(7, &pieces), vec![key.clone()]].concat();
        run(home, copy.to_str().unwrap(), &params)
    };
    let reference = seal(&here);
    daemon.stop();

    let home = Home::new();
    std::fs::write(home.path().join("machine.toml"), CHILDREN).unwrap();
    home.ok(&["config", "check"]);
    let daemon = home.daemon();
    let sealed = seal(&home);
    ran_on(&sealed, "disk", &["add_pieces", "tree_d", "transfer"]);
    ran_on(&sealed, "layers", &["pc1"]);
    ran_on(&sealed, "trees", &["pc2", "synth_proof", "c1"]);
    for (name, field) in [
        ("add_pieces", "piece_infos"),
        ("tree_d", "comm_d"),
        ("pc2", "comm_r"),
        ("transfer", "transferred"),
    ] {
        let of = |shown: &Value| step(shown, name)["output"][field].clone();
        assert_eq!(of(&sealed), of(&reference), "{name}");
    }
    let child = home.ok(&["executor", "show", "disk"]);
    let pid = child
        .split_once("child for tree_d: pid ")
        .unwrap()
        .1
        .split_once(',')
        .unwrap()
        .0;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");

    // The proof of a minute: by a child, and verified here. Then the data comes back.
    let proved = run(&home, "seal_offline", &params(8, &json!(["pledge"])));
    ran_on(&proved, "proofs", &["c2"]);
    assert_eq!(step(&proved, "verify_seal")["output"]["verified"], true);
    let back = home.path().join("back");
    let unseal = [
        "miner=f01000".to_owned(),
        "sector=7".to_owned(),
        format!("output={}", back.display()),
    ];
    ran_on(&run(&home, "unseal", &unseal), "layers", &["unseal"]);
    assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&data).unwrap());

    let snap = [
        "miner=f01000".to_owned(),
        "sector=8".to_owned(),
        format!("pieces={pieces}"),
    ];
    let snapped = run(&home, "snap_up_offline", &snap);
    ran_on(&snapped, "trees", &["snap_encode", "snap_partition_proofs"]);
    ran_on(&snapped, "proofs", &["snap_prove"]);
    assert_eq!(
        step(&snapped, "tree_d")["output"]["comm_d"],
        step(&reference, "tree_d")["output"]["comm_d"]
    );

    faults_are_told_over_the_wire(&home);
    let winning = ["miner=f01000".to_owned(), "sectors=[8]".to_owned()];
    let won = run(&home, "winning_post_offline", &winning);
    ran_on(&won, "proofs", &["winning_post"]);
    assert_eq!(step(&won, "verify_post")["output"]["verified"], true);
    daemon.stop();
    home.check_store();
    wait_for("the end of all children", || processes(home.path()).is_empty());
}

/// A fault that only proving finds: the child tells it instead of a proof, and proves the rest when asked again.
fn faults_are_told_over_the_wire(home: &Home) {
    crate::post::seal(home, &[9], &json!(["pledge"]));
    let path = home.path().join("store/sealed/s-t01000-9");
    let noise: Vec<u8> = std::fs::read(&path)
        .unwrap()
        .iter()
        .map(|byte| byte ^ 0x15)
        .collect();
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, noise).unwrap();
    let deadline = [
        "miner=f01000".to_owned(),
        "deadline=3".to_owned(),
        "sectors=[7,8,9]".to_owned(),
    ];
    let proved = run(home, "window_post_offline", &deadline);
    std::fs::write(&path, good).unwrap();
    let verdict = &step(&proved, "verify_post")["output"];
    assert_eq!(
        (&verdict["verified"], &verdict["sectors_proved"]),
        (&json!(true), &json!(2)),
        "{proved}"
    );
    assert_eq!(verdict["faults"][0]["sector"], 9, "{proved}");
}

#[test]
fn no_child_outlives_the_daemon_and_a_dead_one_is_replaced() {
    let home = Home::new();
    std::fs::write(home.path().join("machine.toml"), ONE).unwrap();
    let file = home.path().join("without_c2.toml");
    std::fs::write(&file, WITHOUT_C2).unwrap();
    let daemon = home.daemon();
    let piece = home.file("piece.bin", 1500);
    let mut given = params(5, &json!([piece]));
    given[2] = "proof_type=StackedDrg8MiBV1_1".to_owned();
    let started = home.start(file.to_str().unwrap(), &given);
    let pid = busy_child(&home, "slow", "pc1");
    daemon.kill();
    wait_for("the end of all children", || processes(home.path()).is_empty());
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());

    // Taken up by the next daemon, and not charged.
    let daemon = home.daemon();
    kill(busy_child(&home, "slow", "pc2"));
    wait_for("the end of the run", || home.status(&started) != "running");
    let shown = home.json(&["run", "show", &started, "--json"]);
    assert_eq!(shown["status"], "succeeded", "{shown}");
    let failed: Vec<Value> = events(&home, &started)
        .into_iter()
        .filter(|event| event["event"] == "attempt_failed")
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(
        (&failed[0]["step"], &failed[0]["failure"]["code"]),
        (&json!("pc2"), &json!("child_died"))
    );
    assert!(
        failed[0]["failure"]["message"]
            .as_str()
            .unwrap()
            .contains("signal 9"),
        "{failed:?}"
    );
    let log = home.ok(&["run", "logs", &started, "pc2"]);
    assert!(log.contains("child_died"), "{log}");
    let log = home.ok(&["executor", "logs", "slow"]);
    assert!(
        log.contains("processor pc2") && log.contains("it was killed by signal 9"),
        "{log}"
    );
    nothing_was_done_twice(&home, &started);
    daemon.stop();
    home.check_store();
}

/// A program that answers at once, and wrongly.
const LIAR: &str = r#"#!/bin/sh
echo "$1 processor ready"
zeros=$(printf '0,%.0s' $(seq 31))0
while read -r line; do
  id=$(printf '%s' "$line" | cut -c1-30 | sed 's/^{"id":\([0-9]*\).*/\1/')
  case $1 in
    tree_d) out=true ;;
    pc2) out="{\"registered_proof\":\"StackedDrg2KiBV1_1\",\"comm_r\":[$zeros],\"comm_d\":[$zeros]}" ;;
    c2) out="{\"proof\":[$zeros,$zeros,$zeros,$zeros,$zeros,$zeros]}" ;;
  esac
  echo "{\"id\":$id,\"output\":$out}"
done
exit 1
"#;

#[test]
fn a_program_that_lies_is_found_out() {
    use std::os::unix::fs::PermissionsExt;
    let stages = ["tree_d", "pc2", "c2"];
    let workflow = WITHOUT_C2
        .replace("retry = { backoff = \"100ms\" }", "retry = { max_attempts = 1 }")
        .replace("[steps.persist]", "[steps.proof_parameters]\n\n[steps.c2]\nneeds = [\"c1\", \"proof_parameters\"]\n\n[steps.persist]");
    assert!(workflow.contains("max_attempts = 1"), "{workflow}");
    for (liar, code) in [
        ("tree_d", "bad_answer"),
        ("pc2", "bad_answer"),
        ("c2", "proof_rejected"),
    ] {
        let home = Home::new();
        let program = home.path().join("liar.sh");
        std::fs::write(&program, LIAR).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let honest: Vec<&str> = stages.into_iter().filter(|stage| *stage != liar).collect();
        let profile = format!(
            "[executors.here]\nstages = {}\n[executors.liar]\nkind = \"ext-processor\"\nstages = [\"{liar}\"]\ncommand = [\"{}\", \"{{stage}}\"]\n",
            json!(
                [
                    &honest[..],
                    &[
                        "add_pieces",
                        "ticket",
                        "pc1",
                        "synth_proof",
                        "seed",
                        "c1",
                        "proof_parameters",
                        "persist",
                        "finalize"
                    ]
                ]
                .concat()
            ),
            program.display()
        );
        std::fs::write(home.path().join("machine.toml"), profile).unwrap();
        home.ok(&["config", "check"]);
        let file = home.path().join("with_c2.toml");
        std::fs::write(&file, &workflow).unwrap();
        let daemon = home.daemon();
        let piece = home.file("piece.bin", 1500);
        let started = home.start(file.to_str().unwrap(), &params(7, &json!([piece])));
        wait_for("the verdict", || home.status(&started) != "running");
        let shown = home.json(&["run", "show", &started, "--json"]);
        assert_eq!(step(&shown, liar)["failure"]["code"], code, "{shown}");
        home.ok(&["run", "cancel", &started]);
        daemon.stop();
        home.check_store();
    }
}

/// The crate that vendors build on, as our child and as our parent.
#[test]
#[ignore = "needs a program that is built outside the workspace; `just long-vc` runs it"]
fn the_published_crate_is_on_the_other_end() {
    let peer = std::env::var("SEALFLOW_VC_PEER").expect("SEALFLOW_VC_PEER names the program");
    let home = Home::new();
    let vendor = format!(
        "[executors.here]\nstages = [\"add_pieces\", \"ticket\", \"pc1\", \"pc2\", \"synth_proof\", \"seed\", \"c1\", \"persist\", \"finalize\"]\n\
         [executors.vendor]\nkind = \"ext-processor\"\nstages = [\"tree_d\"]\ncommand = [\"{peer}\", \"consume\"]\n"
    );
    std::fs::write(home.path().join("machine.toml"), vendor).unwrap();
    home.ok(&["config", "check"]);
    let daemon = home.daemon();
    let data = home.file("data.bin", 2000);
    let file = home.path().join("without_c2.toml");
    std::fs::write(&file, WITHOUT_C2).unwrap();
    let sealed = run(&home, file.to_str().unwrap(), &params(7, &json!([data])));
    ran_on(&sealed, "vendor", &["tree_d"]);
    let notes = home.ok(&["executor", "show", "vendor"]);
    assert!(
        notes.contains("1 answers, 0 children ended, 0 lines that are no answers"),
        "{notes}"
    );
    daemon.stop();
    let staged = home.path().join("staged");
    std::fs::write(&staged, [5; 2048]).unwrap();
    let folder = home.path().join("tree");
    std::fs::create_dir(&folder).unwrap();
    let output = std::process::Command::new(&peer)
        .args(["produce", env!("CARGO_BIN_EXE_sealflow")])
        .args([home.path(), &staged, &folder])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What any parent may do to our child.
#[test]
fn our_child_answers_whoever_drives_it() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let home = Home::new();
    let mut command = home.command(&["processor", "tree_d"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // As a Damocles worker confines its children.
    command
        .env("VC_CG_CPUSET", "0")
        .env("VENUS_WORKER_NUMA_PREFERRED", "0");
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tree_d processor ready");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    let mut ask = |text: String| {
        writeln!(stdin, "{text}").unwrap();
        serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap()
    };
    let broken = ask(r#"{"id":3,"task":{"registered_proof""#.to_owned());
    assert!(
        broken["err_msg"].as_str().unwrap().contains("cannot be read"),
        "{broken}"
    );
    assert_eq!((&broken["id"], &broken["output"]), (&json!(3), &Value::Null));
    let staged = home.path().join("staged");
    std::fs::write(&staged, [0; 2048]).unwrap();
    let task =
        json!({ "registered_proof": "StackedDrg2KiBV1_1", "staged_file": staged, "cache_dir": home.path() });
    // Noise is passed over: the next request is answered.
    let made = ask(format!("noise\n{}", json!({ "id": 4, "task": task })));
    assert_eq!(made, json!({ "id": 4, "err_msg": null, "output": true }));
    assert!(home.path().join("sc-02-data-tree-d.dat").exists());
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let refused = home.run(&["processor", "ticket"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        refused.stderr.contains("a child cannot compute `ticket`"),
        "{refused:?}"
    );
}
