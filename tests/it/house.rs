//! The promises of ARCHITECTURE.md that tools can see: who imports whom, where `unsafe` is, and that
//! every file says what it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const FOLDERS: [&str; 8] = [
    "chain",
    "cli",
    "engine",
    "executors",
    "stages",
    "storage",
    "tests",
    "examples",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files() -> Vec<PathBuf> {
    fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    for folder in FOLDERS {
        walk(&root().join(folder), &mut files);
    }
    assert!(files.len() > 60, "{} files", files.len());
    files
}

/// The arrows of the house: what each package may import of ours.
#[test]
fn three_floors() {
    let allowed = [
        ("sealflow-engine", vec![]),
        ("sealflow-chain", vec![]),
        ("sealflow-executor", vec![]),
        ("sealflow-executors", vec!["sealflow-engine", "sealflow-executor"]),
        ("sealflow-stages", vec!["sealflow-engine", "sealflow-chain"]),
        ("sealflow-storage", vec!["sealflow-engine", "sealflow-chain"]),
        (
            "sealflow",
            vec![
                "sealflow-engine",
                "sealflow-chain",
                "sealflow-executor",
                "sealflow-executors",
                "sealflow-stages",
                "sealflow-storage",
            ],
        ),
    ];
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() >= 5);
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, may) = allowed
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} is not in the house"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let ours = to.starts_with("sealflow");
            assert!(!ours || may.contains(&to), "{name} imports {to}");
            // A package tests itself with the test support of what it may import anyway.
            if to.starts_with("filecoin-proofs") || to.starts_with("storage-proofs") {
                assert_eq!(name, "sealflow-stages", "only stages names the proofs library");
            }
            if to == "surrealdb" {
                assert_eq!(name, "sealflow-storage", "only storage names the database");
            }
        }
    }
}

/// The devnet verifies every proof: what judges proofs otherwise is compiled into tests alone.
#[test]
fn the_binary_has_no_verifier_but_the_real_one() {
    let mark = "sealflow-verifier-of-claims-for-tests";
    let mut holders: Vec<PathBuf> = rust_files()
        .into_iter()
        .filter(|file| !file.ends_with("tests/it/house.rs"))
        .filter(|file| std::fs::read_to_string(file).unwrap().contains(mark))
        .collect();
    holders.sort();
    let tests = ["chain/src/devnet/tests/verifier.rs", "stages/src/chain/tests.rs"];
    assert_eq!(holders, tests.map(|file| root().join(file)));
    let binary = std::fs::read(env!("CARGO_BIN_EXE_sealflow")).unwrap();
    let finds = |text: &str| binary.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(finds("Devnet.InjectNotifyFault"), "the devnet is in the binary");
    assert!(!finds(mark));
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in rust_files() {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("//!"),
            "{} does not begin with `//!`",
            file.display()
        );
    }
}

#[test]
fn unsafe_lives_in_one_file() {
    // Spelled so that this file does not find itself.
    let needle = ["unsafe", " {"].concat();
    let with: Vec<PathBuf> = rust_files()
        .into_iter()
        .filter(|file| std::fs::read_to_string(file).unwrap().contains(&needle))
        .collect();
    assert_eq!(with, [root().join("cli/environment.rs")]);
}

/// The header of a stage is its documentation, so it has all four parts, and its failures are those
/// that the code can return.
#[test]
fn stages_are_documented() {
    let stages: Value = {
        let output = Command::new(env!("CARGO_BIN_EXE_sealflow"))
            .args(["stage", "list", "--json"])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let stages = stages.as_array().unwrap();
    assert!(stages.len() >= 15);
    for stage in stages {
        let doc = stage["doc"].as_str().unwrap();
        for part in ["**Reads**", "**Writes**", "**Costs**", "**Fails**"] {
            assert!(doc.contains(part), "{}: {part}", stage["name"]);
        }
        for list in ["inputs", "outputs"] {
            for field in stage[list].as_array().unwrap() {
                assert!(
                    field["doc"].as_str().is_some_and(|doc| !doc.is_empty()),
                    "{}: {field}",
                    stage["name"]
                );
            }
        }
    }
}

/// What `cargo run` builds of other people's crates, `cargo test` uses as it is: a feature that only tests turn on, below
/// the database for instance, would have it built twice, for half an hour.
#[test]
fn nothing_is_built_twice() {
    let features = |edges: &str| -> BTreeMap<String, BTreeSet<String>> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let arguments = [
            "tree",
            "--locked",
            "--offline",
            "--workspace",
            "--prefix",
            "none",
            "-f",
            "{p}|{f}",
            "-e",
        ];
        let tree = Command::new(cargo)
            .current_dir(root())
            .args(arguments)
            .arg(edges)
            .output()
            .unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        for line in String::from_utf8_lossy(&tree.stdout).lines() {
            if let Some((package, features)) = line.split_once('|') {
                let features = features.trim_end_matches("(*)").trim_end();
                all.entry(package.to_owned())
                    .or_default()
                    .insert(features.to_owned());
            }
        }
        all
    };
    let (run, test) = (features("normal,build"), features("normal,build,dev"));
    assert!(run.len() > 300, "{} packages", run.len());
    for (package, run) in &run {
        let ours = package.starts_with("sealflow");
        assert!(
            ours || run.is_subset(&test[package]),
            "{package} has features {run:?} for `cargo run` and {:?} for `cargo test`: name those that are missing under \
             [dependencies] of Cargo.toml",
            test[package]
        );
    }
}

/// A seeded fault that does not fit the code any more, or names a test that is gone, proves nothing.
#[test]
fn seeded_faults_fit_the_code() {
    let mut tests = BTreeSet::new();
    for file in rust_files() {
        let text = std::fs::read_to_string(&file).unwrap();
        let functions = text.lines().filter_map(|line| {
            let line = line.trim_start();
            let line = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
            Some(line.split_once("()")?.0.to_owned())
        });
        tests.extend(functions);
    }
    let mut faults = 0;
    for entry in std::fs::read_dir(root().join("tests/mutants")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        faults += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let named = text.lines().next().unwrap().rsplit_once("Must fail: ");
        let (_, named) = named.unwrap_or_else(|| panic!("{} names no test", path.display()));
        let test = named.rsplit("::").next().unwrap();
        assert!(
            tests.contains(test),
            "{}: there is no test {test}",
            path.display()
        );
        let fits = Command::new("git")
            .args(["apply", "--check"])
            .arg(&path)
            .current_dir(root())
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&fits.stderr);
        assert!(fits.status.success(), "{} does not fit: {why}", path.display());
    }
    assert!(faults >= 60, "{faults} faults");
}

/// What `run explain` says has a stable kind, and a row in the table of docs/operating.md.
#[test]
fn every_kind_of_condition_is_documented() {
    let manual = std::fs::read_to_string(root().join("docs/operating.md")).unwrap();
    let mut kinds = BTreeSet::new();
    for file in rust_files() {
        let text = std::fs::read_to_string(&file).unwrap();
        for mark in ["Condition::new(\"", "ConditionView {\n            kind: \""] {
            // The first piece is what comes before the first one.
            let named = text
                .split(mark)
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap());
            kinds.extend(named.map(str::to_owned));
        }
    }
    assert!(kinds.len() > 25 && kinds.contains("message"), "{kinds:?}");
    for kind in kinds {
        assert!(
            manual.contains(&format!("`{kind}`")),
            "docs/operating.md does not tell what `{kind}` is"
        );
    }
}
