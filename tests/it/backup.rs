//! The promise that a backup is one: taken while runs go on, whole, refused where it is not, and a home that
//! is restored from it has all that was in it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::archives::{ended, sector, short};
use crate::env::{Home, wait_for};

fn backups(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "gz"));
    files.sort();
    files
}

fn restore(home: &Home, file: &Path) -> crate::env::Outcome {
    home.run(&["store", "restore", file.to_str().unwrap()])
}

fn unpack(file: &Path) -> String {
    let mut text = String::new();
    let mut packed = flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap());
    packed.read_to_string(&mut text).unwrap();
    text
}

fn pack(file: &Path, text: &str) {
    let out = std::fs::File::create(file).unwrap();
    let mut out = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap();
}

#[test]
fn a_backup_of_a_daemon_at_work_restores_everything() {
    let home = Home::new();
    let file = short(&home);
    let daemon = home.daemon();
    let archived = ended(&home, &file, 1);
    home.json(&["run", "archive", &archived, "--json"]);
    let run = ended(&home, &file, 2);
    let folder = home.path().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    // Runs start and end all the time.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let started = std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut started = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                started.push(home.start(&file, &sector(100 + u32::try_from(started.len()).unwrap())));
            }
            started
        });
        for n in 1..=3 {
            let taken = home.run(&[
                "store",
                "backup",
                folder.join(format!("{n}.jsonl.gz")).to_str().unwrap(),
            ]);
            assert_eq!(taken.code, 0, "{taken:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        busy.join().unwrap()
    });
    assert!(started.len() > 2, "{} runs", started.len());
    let named = home.run(&["store", "backup", folder.to_str().unwrap()]);
    assert_eq!(named.code, 0, "{named:?}");
    let again = home.run(&["store", "backup", folder.join("1.jsonl.gz").to_str().unwrap()]);
    assert!(
        again.code == 2 && again.stderr.contains("already there"),
        "{again:?}"
    );
    let files = backups(&folder);
    assert_eq!(files.len(), 4, "{files:?}");
    for file in &files {
        let other = Home::new();
        let restored = restore(&other, file);
        assert_eq!(restored.code, 0, "{restored:?}");
        assert!(restored.stderr.contains("every invariant holds"), "{restored:?}");
        other.check_store();
        for run in [&archived, &run] {
            assert_eq!(
                other.json(&["run", "show", run, "--json"]),
                home.json(&["run", "show", run, "--json"])
            );
        }
    }
    // The last one has all runs, and they go on.
    let last = Home::new();
    assert_eq!(restore(&last, files.last().unwrap()).code, 0);
    daemon.kill();
    let daemon = last.daemon();
    for run in &started {
        wait_for("the end in the other home", || last.status(run) == "succeeded");
    }
    daemon.stop();
    last.check_store();
}

#[test]
fn what_is_no_whole_backup_is_refused() {
    let home = Home::new();
    let file = short(&home);
    let daemon = home.daemon();
    ended(&home, &file, 1);
    daemon.stop();
    // Without a daemon too.
    let good = home.path().join("good.jsonl.gz");
    assert_eq!(home.run(&["store", "backup", good.to_str().unwrap()]).code, 0);
    let (text, bytes) = (unpack(&good), std::fs::read(&good).unwrap());
    let bad = home.path().join("bad.jsonl.gz");
    let other = Home::new();
    let refuse = |wanted: &str| {
        let refused = restore(&other, &bad);
        assert_eq!(refused.code, 7, "{wanted}: {refused:?}");
        assert!(refused.stderr.contains(wanted), "{wanted}: {refused:?}");
        assert!(
            !other.path().join("journal").exists(),
            "{wanted}: something was made"
        );
    };
    std::fs::write(&bad, &bytes[..bytes.len() / 2]).unwrap();
    refuse("cut off");
    let mut flipped = bytes.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 0x55;
    std::fs::write(&bad, flipped).unwrap();
    refuse("line ");
    pack(&bad, &text[..text.len() - 30]);
    refuse("cut off");
    pack(&bad, &text.replacen("f01000/1", "f01000/2", 1));
    refuse("not those that were written");
    pack(&bad, &text.replacen("\"format\":3", "\"format\":99,\"new\":1", 1));
    refuse("install a newer sealflow");
    pack(&bad, "{\"something\":\"else\"}\n");
    refuse("does not begin a backup");
    std::fs::write(&bad, "").unwrap();
    refuse("cut off");
    let missing = restore(&other, &home.path().join("none"));
    assert_eq!(missing.code, 4, "{missing:?}");
    // The good one is still taken; and then nothing more.
    assert_eq!(restore(&other, &good).code, 0);
    let twice = restore(&other, &good);
    assert_eq!(twice.code, 2, "{twice:?}");
    assert!(
        twice.stderr.contains("is not empty") && twice.stderr.contains("journal"),
        "{twice:?}"
    );
}

#[test]
fn a_restore_that_was_killed_is_not_taken_for_one() {
    let home = Home::new();
    let file = short(&home);
    let daemon = home.daemon();
    let run = ended(&home, &file, 1);
    daemon.stop();
    let backup = home.path().join("backup.jsonl");
    assert_eq!(home.run(&["store", "export", backup.to_str().unwrap()]).code, 0);
    for point in [
        "restore.begun",
        "journal.commit.before",
        "restore.imported",
        "restore.checked",
    ] {
        let other = Home::new();
        let mut command = other.command(&["store", "restore", backup.to_str().unwrap()]);
        let died = command
            .env("SEALFLOW_CRASH_AT", format!("{point}=return"))
            .output()
            .unwrap();
        assert!(!died.status.success(), "{point}");
        for args in [
            vec!["run", "list"],
            vec!["store", "check"],
            vec!["daemon"],
            vec!["store", "backup", "x"],
        ] {
            let refused = other.run(&args);
            assert_ne!(refused.code, 0, "{point}: {args:?}");
            assert!(
                refused.stderr.contains("did not come to its end")
                    || refused.stderr.contains("no sealflow data"),
                "{point}: {refused:?}"
            );
        }
        assert_eq!(restore(&other, &backup).code, 2, "{point}");
        for name in ["journal", "payloads", "archive"] {
            drop(std::fs::remove_dir_all(other.path().join(name)));
        }
        std::fs::remove_file(other.path().join("restore.unfinished")).unwrap();
        let restored = restore(&other, &backup);
        assert_eq!(restored.code, 0, "{point}: {restored:?}");
        assert_eq!(other.status(&run), "succeeded");
    }
}

fn finding(home: &Home) -> Value {
    let outcome = home.run(&["doctor", "--json"]);
    let findings: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let findings = findings.as_array().unwrap().clone();
    findings
        .into_iter()
        .find(|finding| finding["what"] == "backup")
        .unwrap()
}

#[test]
fn scheduled_backups_are_kept_and_their_failures_are_seen() {
    let home = Home::new();
    let file = short(&home);
    let config = home.path().join("config.toml");
    assert_eq!(finding(&home)["verdict"], "warning");
    std::fs::write(&config, "[backup]\nevery = \"1s\"\nkeep = 2\n").unwrap();
    let folder = home.path().join("backup");
    let daemon = home.daemon();
    let run = ended(&home, &file, 1);
    let mut seen = std::collections::BTreeSet::new();
    wait_for("four backups", || {
        seen.extend(backups(&folder));
        seen.len() >= 4
    });
    daemon.stop();
    let files = backups(&folder);
    assert_eq!(files.len(), 2, "{files:?}");
    let other = Home::new();
    let restored = restore(&other, &files[1]);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(other.status(&run), "succeeded");
    // A folder that cannot be written to.
    std::fs::write(home.path().join("occupied"), "").unwrap();
    std::fs::write(
        &config,
        "[backup]\nevery = \"1s\"\nkeep = 2\npath = \"occupied\"\n",
    )
    .unwrap();
    let daemon = home.daemon();
    wait_for("the failure", || home.daemon_log().contains("THE BACKUP FAILED"));
    let found = finding(&home);
    assert_eq!(found["verdict"], "problem", "{found}");
    assert!(found["found"].as_str().unwrap().contains("occupied"), "{found}");
    assert_eq!(home.run(&["doctor"]).code, 7);
    daemon.stop();
    assert_eq!(backups(&folder), files, "what was there is kept");
}
