//! The promise that a user edits the pipeline without a programmer, and that every mistake is shown at
//! its line with a hint before anything runs.

use serde_json::Value;

use crate::env::Home;

fn builtin(home: &Home) -> String {
    home.run(&["workflow", "show", "seal_offline"]).stdout
}

fn check(home: &Home, text: &str) -> (i32, Vec<Value>, String) {
    let file = home.path().join("edited.toml");
    std::fs::write(&file, text).unwrap();
    let outcome = home.run(&["workflow", "check", file.to_str().unwrap(), "--json"]);
    let problems: Vec<Value> = serde_json::from_str(&outcome.stdout).unwrap();
    let drawn = home.run(&["workflow", "check", file.to_str().unwrap()]).stderr;
    (outcome.code, problems, drawn)
}

/// The number of the line that holds `needle`.
fn line_of(text: &str, needle: &str) -> u64 {
    text.lines().position(|line| line.contains(needle)).unwrap() as u64 + 1
}

#[test]
fn an_edited_file_runs() {
    let home = Home::new();
    let text = builtin(&home);
    let edited = text.replace("max_attempts = 3", "max_attempts = 5").replace(
        "[steps.seed]\n",
        "[steps.rest]\nwait = \"50ms\"\nneeds = [\"pc2\"]\n\n[steps.seed]\n",
    );
    let (code, problems, _) = check(&home, &edited);
    assert_eq!((code, problems.len()), (0, 0), "{problems:?}");
    let shown = home.json(&[
        "workflow",
        "show",
        home.path().join("edited.toml").to_str().unwrap(),
        "--json",
    ]);
    let steps = shown["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["retry"]["max_attempts"] == 5));
    assert!(steps.iter().any(|step| step["name"] == "rest"));
}

#[test]
fn each_mistake_is_shown_at_its_line() {
    let home = Home::new();
    let text = builtin(&home);
    let cases = [
        (
            "misspelled key",
            "needs = [\"pc1\"]",
            "need = [\"pc1\"]",
            "unknown_key",
            "did you mean `needs`?",
        ),
        (
            "unknown stage",
            "[steps.synth_proof]",
            "[steps.synth_prof]",
            "unknown_stage",
            "did you mean `synth_proof`?",
        ),
        (
            "unknown step",
            "needs = [\"tree_d\", \"ticket\"]",
            "needs = [\"tree_d\", \"tiket\"]",
            "unknown_step",
            "did you mean `ticket`?",
        ),
        (
            "unknown type",
            "\"actor_id\"",
            "\"actor\"",
            "unknown_type",
            "actor_id",
        ),
        (
            "bad duration",
            "backoff = \"10s\"",
            "backoff = \"10 parsecs\"",
            "bad_duration",
            "30s",
        ),
    ];
    for (what, good, bad, code, hint) in cases {
        let edited = text.replacen(good, bad, 1);
        assert_ne!(edited, text, "{what}");
        let (exit, problems, drawn) = check(&home, &edited);
        assert_eq!(exit, 3, "{what}");
        let problem = problems.iter().find(|problem| problem["code"] == code);
        let problem = problem.unwrap_or_else(|| panic!("{what}: {problems:?}"));
        assert_eq!(
            problem["line"].as_u64(),
            Some(line_of(&edited, bad)),
            "{what}: {problem}"
        );
        assert!(
            problem["hint"].as_str().unwrap().contains(hint),
            "{what}: {problem}"
        );
        assert!(
            drawn.contains("edited.toml") && drawn.contains(hint),
            "{what}: {drawn}"
        );
    }
}

#[test]
fn cycles_and_wrong_wires() {
    let home = Home::new();
    let text = builtin(&home);
    let cycle = text.replace("[steps.add_pieces]\n", "[steps.add_pieces]\nneeds = [\"pc2\"]\n");
    let (exit, problems, _) = check(&home, &cycle);
    assert_eq!(exit, 3);
    let problem = problems
        .iter()
        .find(|problem| problem["code"] == "cycle")
        .unwrap();
    for step in ["add_pieces", "tree_d", "pc1", "pc2"] {
        assert!(problem["message"].as_str().unwrap().contains(step), "{problem}");
    }
    let wrong = text.replace(
        "[steps.verify_seal]\nneeds = [\"c2\"]\n",
        "[steps.verify_seal]\nneeds = [\"c2\"]\nwith = { comm_d = \"pc2.comm_r\" }\n",
    );
    let (exit, problems, _) = check(&home, &wrong);
    assert_eq!(exit, 3);
    let problem = problems
        .iter()
        .find(|problem| problem["code"] == "wrong_type")
        .unwrap();
    assert_eq!(problem["line"].as_u64(), Some(line_of(&wrong, "with = { comm_d")));
    let message = problem["message"].as_str().unwrap();
    assert!(
        message.contains("comm_d") && message.contains("comm_r"),
        "{message}"
    );
}

#[test]
fn several_mistakes_are_shown_at_once_and_nothing_starts() {
    let home = Home::new();
    let text = builtin(&home)
        .replace("needs = [\"pc1\"]", "need = [\"pc1\"]")
        .replace("[steps.seed]", "[steps.sed]")
        .replace("backoff = \"10s\"", "backoff = \"soon\"");
    let (exit, problems, _) = check(&home, &text);
    assert_eq!(exit, 3);
    for code in ["unknown_key", "unknown_stage", "bad_duration"] {
        assert!(
            problems.iter().any(|problem| problem["code"] == code),
            "{code}: {problems:?}"
        );
    }
    let daemon = home.daemon();
    let file = home.path().join("edited.toml");
    let outcome = home.run(&[
        "run",
        "start",
        file.to_str().unwrap(),
        "-p",
        "miner=f01000",
        "-p",
        "sector=1",
    ]);
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert_eq!(home.json(&["run", "list", "--json"]).as_array().unwrap().len(), 0);
    daemon.stop();
}

#[test]
fn workflows_are_drawn() {
    let home = Home::new();
    let text = home.run(&["workflow", "graph", "seal_offline"]);
    assert!(
        text.code == 0 && text.stdout.contains("pc1") && text.stdout.contains("goes back to c1"),
        "{text:?}"
    );
    let mermaid = home
        .run(&["workflow", "graph", "seal_offline", "--format", "mermaid"])
        .stdout;
    assert!(
        mermaid.starts_with("graph TD") && mermaid.contains("pc1 --> pc2"),
        "{mermaid}"
    );
    let dot = home
        .run(&["workflow", "graph", "seal_offline", "--format", "dot"])
        .stdout;
    assert!(
        dot.starts_with("digraph") && dot.contains("\"pc1\" -> \"pc2\""),
        "{dot}"
    );
}

#[test]
fn workflows_are_rehearsed_and_compared() {
    let home = Home::new();
    let sealing = [
        "-p",
        "miner=f01000",
        "-p",
        "sector=7",
        "-p",
        "proof_type=StackedDrg2KiBV1_1",
    ];
    let mut args = vec!["workflow", "rehearse", "seal_offline", "--json"];
    args.extend(sealing);
    args.extend(["--takes", "pc1=3h", "--fails", "verify_seal=rewind:proof_invalid"]);
    let told = home.json(&args);
    assert_eq!(told["status"], "succeeded", "{told}");
    assert!(told["took_ms"].as_u64().unwrap() > 3 * 3_600_000);
    let steps = told["steps"].as_array().unwrap();
    let c1 = steps.iter().find(|step| step["step"] == "c1").unwrap();
    assert_eq!(c1["visits"], 2);
    // Too little memory is found before any machine is bought.
    args.extend(["--memory", "1MiB", "--cpu", "1"]);
    let small = home.run(&args);
    assert_eq!(small.code, 6, "{small:?}");
    assert!(small.stderr.contains("can never hold it"), "{small:?}");
    for (args, part) in [
        (
            vec!["workflow", "rehearse", "seal_offline"],
            "parameter `miner` (actor_id) is missing",
        ),
        (
            vec!["workflow", "rehearse", "seal_offline", "--takes", "pc9=1h"],
            "no step `pc9`",
        ),
        (
            vec!["workflow", "rehearse", "seal_offline", "--fails", "pc1=bad:x"],
            "classes are transient",
        ),
    ] {
        let refused = home.run(&args);
        assert_ne!(refused.code, 0);
        assert!(refused.stderr.contains(part), "{args:?}: {refused:?}");
    }
    let edited = home.path().join("edited.toml");
    std::fs::write(&edited, builtin(&home).replace("max  = 2", "max  = 7")).unwrap();
    let differences = home.json(&[
        "workflow",
        "diff",
        "seal_offline",
        edited.to_str().unwrap(),
        "--json",
    ]);
    assert!(!differences.as_array().unwrap().is_empty());
    assert_eq!(differences[0]["what"], "rewind", "{differences}");
    assert_eq!(differences[0]["keys"][0]["after"], "7");
}

#[test]
fn expressions_are_checked_with_the_file() {
    let home = Home::new();
    let text = builtin(&home);
    for (line, code, hint) in [
        (
            "when = \"params.sectr > 5\"",
            "bad_expression",
            "did you mean `sector`?",
        ),
        ("when = \"size(pc2.comm_r)\"", "bad_expression", ""),
        ("foreach = \"params.sector >\"", "bad_expression", ""),
        ("max_parallel = 3", "unused_key", "foreach"),
        ("with = { sector = \"item\" }", "bad_reference", "foreach"),
    ] {
        let edited = format!("{text}\n[steps.more]\nstage = \"ticket\"\nneeds = [\"pc2\"]\n{line}\n");
        let (exit, problems, drawn) = check(&home, &edited);
        assert_eq!(exit, 3, "{line}: {problems:?}");
        let problem = problems.iter().find(|one| one["code"] == code);
        let problem = problem.unwrap_or_else(|| panic!("{line}: {problems:?}"));
        assert_eq!(problem["line"], line_of(&edited, line), "{line}");
        assert!(
            problem["hint"].as_str().unwrap_or_default().contains(hint),
            "{problem}"
        );
        assert!(drawn.contains(code), "{drawn}");
    }
}
