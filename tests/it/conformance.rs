//! The promise to vendors: `executor test` says of a program or a service what is right and what is wrong with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::env::{Home, wait_for};

/// An example, which cargo builds with the tests.
fn example(name: &str) -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_sealflow"));
    binary.with_file_name("examples").join(name)
}

fn verdict<'a>(report: &'a Value, stage: &str, check: &str) -> &'a Value {
    let mut all = report.as_array().unwrap().iter();
    all.find(|one| one["stage"] == stage && one["check"] == check)
        .unwrap_or_else(|| panic!("{stage} {check}: {report}"))
}

#[test]
fn a_program_is_held_against_the_protocol_and_the_library() {
    let home = Home::new();
    let program = example("ext_processor");
    let program = program.to_str().unwrap();
    let report = home.json(&["executor", "test", "--json", "--stage", "tree_d", "--", program]);
    for check in ["ready", "broken requests", "clean output", "end", "result"] {
        assert_eq!(
            verdict(&report, "tree_d", check)["verdict"],
            "ok",
            "{check}: {report}"
        );
    }
    // Our own, for the stages that make no SNARK.
    let own = env!("CARGO_BIN_EXE_sealflow");
    let mut args = vec!["executor", "test", "--json"];
    let stages = [
        "add_pieces",
        "pc1",
        "pc2",
        "synth_proof",
        "c1",
        "transfer",
        "unseal",
    ];
    for stage in stages {
        args.extend(["--stage", stage]);
    }
    args.extend(["--", own, "processor", "{stage}"]);
    let report = home.json(&args);
    for stage in stages {
        assert_eq!(
            verdict(&report, stage, "result")["verdict"],
            "ok",
            "{stage}: {report}"
        );
    }
    // Whoever starts the same command for every stage must say which one it is.
    let outcome = home.run(&["executor", "test", "--", program]);
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stderr.contains("{stage}"), "{outcome:?}");
    let outcome = home.run(&["executor", "test", "--stage", "tree_e", "--", program]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
}

/// A program with a fault, and what is said of it.
fn faulty(home: &Home, script: &str) -> Value {
    use std::os::unix::fs::PermissionsExt;
    let program = home.path().join("program.py");
    std::fs::write(
        &program,
        format!("#!/usr/bin/env python3\nimport json, sys, time\n{script}"),
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let args = [
        "executor",
        "test",
        "--json",
        "--ready-timeout",
        "5s",
        "--stage",
        "tree_d",
        "--",
        program.to_str().unwrap(),
    ];
    let outcome = home.run(&args);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn what_is_wrong_with_a_program_is_said() {
    let home = Home::new();
    let ready = "print('tree_d processor ready', flush=True)\n";
    let report = faulty(&home, "print('hello', flush=True)\nsys.stdin.read()\n");
    let found = verdict(&report, "tree_d", "ready");
    assert_eq!(found["verdict"], "failed");
    assert!(found["found"].as_str().unwrap().contains("`hello`"), "{found}");

    // It dies of what it cannot read.
    let report = faulty(
        &home,
        &format!("{ready}json.loads(sys.stdin.readline())['task']['staged_file']\n"),
    );
    let found = verdict(&report, "tree_d", "broken requests");
    assert_eq!(found["verdict"], "failed");
    assert!(found["found"].as_str().unwrap().contains("it ended"), "{found}");

    // It says yes to everything, between lines for people, and does not go.
    let script = format!(
        "{ready}for line in sys.stdin:\n  print('working')\n  r = json.loads(line)\n  bad = 'no' in r['task']\n  \
         print(json.dumps({{'id': r['id'], 'err_msg': 'no task' if bad else None, 'output': None if bad else True}}), flush=True)\n\
         time.sleep(60)\n"
    );
    let report = faulty(&home, &script);
    for (check, expected) in [
        ("broken requests", "ok"),
        ("clean output", "warning"),
        ("end", "failed"),
    ] {
        assert_eq!(
            verdict(&report, "tree_d", check)["verdict"],
            expected,
            "{check}: {report}"
        );
    }
    let script = script.replace("time.sleep(60)", "sys.exit(1)");
    let report = faulty(&home, &script);
    let found = verdict(&report, "tree_d", "result");
    assert_eq!(found["verdict"], "failed", "{report}");
    assert!(found["found"].as_str().unwrap().contains("bad_answer"), "{found}");
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_service_is_held_against_the_contract() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let said = home.path().join("said.txt");
    let mut test = home.command(&["executor", "test", "--json", "--grpc", &address]);
    test.stderr(std::fs::File::create(&said).unwrap())
        .stdout(Stdio::piped());
    let mut test = test.spawn().unwrap();
    let mut token = String::new();
    wait_for("the words to the vendor", || {
        let text = std::fs::read_to_string(&said).unwrap();
        let file = text
            .split("the token in ")
            .nth(1)
            .and_then(|rest| rest.lines().next());
        token = file.unwrap_or_default().trim().to_owned();
        !token.is_empty()
    });
    let service = Command::new(example("remote_executor"))
        .args([&format!("http://{address}"), &token, "tested"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _service = Ends(service);
    let output = {
        let mut out = String::new();
        std::io::Read::read_to_string(test.stdout.as_mut().unwrap(), &mut out).unwrap();
        out
    };
    let code = test.wait().unwrap().code();
    let said = std::fs::read_to_string(&said).unwrap();
    let report: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {said}"));
    for (stage, check) in [("", "registers"), ("", "comes back")] {
        assert_eq!(verdict(&report, stage, check)["verdict"], "ok", "{report}");
    }
    // Its beacon is not the library's, which is the point of it, and is seen.
    let seed = verdict(&report, "seed", "result");
    assert_eq!((&seed["verdict"], code), (&json!("failed"), Some(7)), "{report}");
    assert!(seed["found"].as_str().unwrap().contains("`seed"), "{seed}");
}
