//! The promise that old runs leave the journal and lose nothing: they are read as before, their keys and
//! artifacts are honoured, and a kill at any moment leaves each of them in one place.

use serde_json::json;

use crate::crash::{WITHOUT_C2, events};
use crate::env::{Home, wait_for};

/// A run that ends by itself.
const SHORT: &str = r#"
[workflow]
name    = "short"
subject = "sector"

[params]
miner  = "actor_id"
sector = "sector_number"
hold   = { type = "bool", default = false }

[steps.ticket]

[steps.hold]
needs = ["ticket"]
when  = "params.hold"
wait  = { signal = "go" }
"#;

pub(crate) fn short(home: &Home) -> String {
    let file = home.path().join("short.toml");
    std::fs::write(&file, SHORT).unwrap();
    file.to_str().unwrap().to_owned()
}

pub(crate) fn sector(number: u32) -> Vec<String> {
    vec!["miner=f01000".to_owned(), format!("sector={number}")]
}

/// Starts a short run and waits for its end.
pub(crate) fn ended(home: &Home, file: &str, number: u32) -> String {
    let run = home.start(file, &sector(number));
    wait_for("the end", || home.status(&run) == "succeeded");
    run
}

fn listed(home: &Home, more: &[&str]) -> Vec<String> {
    let runs = home.json(&[&["run", "list", "--json"], more].concat());
    let runs = runs.as_array().unwrap().iter();
    runs.map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_archived_run_is_read_as_before() {
    let home = Home::new();
    let file = short(&home);
    let daemon = home.daemon();
    let args = ["run", "start", &file, "--json", "--key", "mine"];
    let params = ["-p", "miner=f01000", "-p", "sector=1"];
    let started = [&args[..], &params[..]].concat();
    let run = home.json(&started)["run"].as_str().unwrap().to_owned();
    wait_for("the end", || home.status(&run) == "succeeded");
    let held = home.start(&file, &[sector(2), vec!["hold=true".to_owned()]].concat());
    let before = home.json(&["run", "show", &run, "--json"]);
    let history = events(&home, &run);

    let refused = home.run(&["run", "archive", &held]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("has not ended"), "{refused:?}");
    let preview = home.json(&["run", "archive", "--all", "--dry-run", "--json"]);
    assert_eq!(preview, json!([{ "run": run, "archived": false }]));
    let young = home.json(&["run", "archive", "--all", "--older-than", "1h", "--json"]);
    assert_eq!(young, json!([]));
    let done = home.json(&["run", "archive", "--all", "--workflow", "short", "--json"]);
    assert_eq!(done, json!([{ "run": run, "archived": true }]));

    assert_eq!(listed(&home, &[]), [held.as_str()]);
    assert_eq!(listed(&home, &["--archived"]), [run.as_str()]);
    assert_eq!(
        listed(&home, &["--archived", "--subject", "f01000/2"]),
        Vec::<String>::new()
    );
    let same_as_before = |home: &Home, name: &str| {
        let mut after = home.json(&["run", "show", name, "--json"]);
        assert_eq!(after["archived"], true);
        after.as_object_mut().unwrap().remove("archived");
        assert_eq!(after, before);
        assert_eq!(events(home, name), history);
    };
    same_as_before(&home, &run);
    // By the end of its name too.
    same_as_before(&home, &run[run.len() - 8..]);
    // The key still names it, and it cannot be changed.
    assert_eq!(home.json(&started)["run"], run.as_str());
    let refused = home.run(&["run", "cancel", &run]);
    assert!(
        refused.code != 0 && refused.stderr.contains("archived"),
        "{refused:?}"
    );
    daemon.kill();
    same_as_before(&home, &run);
    home.check_store();
    // Without a daemon too, and what is archived stays so.
    let again = home.json(&["run", "archive", &run, "--json"]);
    assert_eq!(again[0]["archived"], true);

    // A damaged archive is found.
    let months = std::fs::read_dir(home.path().join("archive")).unwrap();
    let month = months.map(|month| month.unwrap().path()).next().unwrap();
    let path = month.join(format!("{run}.jsonl.gz"));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    std::fs::write(&path, bytes).unwrap();
    home.check_store_finds(&[&run]);
    let refused = home.run(&["run", "show", &run]);
    assert!(
        refused.code != 0 && refused.stderr.contains("restore it from a backup"),
        "{refused:?}"
    );
}

#[test]
fn later_runs_build_on_what_an_archived_one_made() {
    let home = Home::new();
    let file = home.path().join("without_c2.toml");
    std::fs::write(&file, WITHOUT_C2).unwrap();
    let piece = home.file("piece.bin", 1500);
    let daemon = home.daemon();
    let mut params = sector(1);
    params.push("proof_type=StackedDrg2KiBV1_1".to_owned());
    params.push(format!("pieces={}", json!([&piece])));
    let sealed = home.start(file.to_str().unwrap(), &params);
    wait_for("the seal", || home.status(&sealed) == "succeeded");
    home.json(&["run", "archive", &sealed, "--json"]);
    let output = home.path().join("back.bin");
    let unseal = home.start(
        "unseal",
        &[sector(1), vec![format!("output={}", output.display())]].concat(),
    );
    wait_for("the data", || home.status(&unseal) == "succeeded");
    let back = std::fs::read(&output).unwrap();
    assert_eq!(back[..1500], std::fs::read(&piece).unwrap());
    daemon.stop();
    home.check_store();
}

#[test]
fn the_daemon_archives_and_removes_by_age_whenever_it_is_killed() {
    let home = Home::new();
    let file = short(&home);
    let config = "[retention]\narchive_after = \"1s\"\ndelete_archives_after = \"2s\"\n";
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let mut number = 0;
    for point in [
        "archive.written",
        "archive.published",
        "archive.moved",
        "archive.unlisted",
        "archive.deleted",
    ] {
        let plan = format!("{point}=return");
        let (mut daemon, died) = home.daemon_or_death(&[("SEALFLOW_CRASH_AT", &plan)]);
        if !died {
            number += 1;
            // The kill may come before the answer, while what the last one left is brought to its end.
            let mut args = vec!["run", "start", &file];
            let params = sector(number);
            args.extend(params.iter().flat_map(|param| ["-p", param]));
            home.run(&args);
            wait_for("the kill", || daemon.has_ended());
        }
        assert!(!daemon.wait().success(), "{plan}: the daemon ended well");
        home.check_store();
    }
    // What a kill left half-written may be there for a moment, until its removal is brought to its end.
    let files = || {
        let months = std::fs::read_dir(home.path().join("archive")).unwrap();
        let files = months.flat_map(|month| std::fs::read_dir(month.unwrap().path()).unwrap());
        files.count()
    };
    let daemon = home.daemon();
    wait_for("everything to be forgotten", || {
        listed(&home, &[]).is_empty() && listed(&home, &["--archived"]).is_empty() && files() == 0
    });
    daemon.stop();
    home.check_store();
    assert_eq!(files(), 0);
}
