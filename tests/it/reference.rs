//! The promise that reference pages are current: they are made from the binary. `just docs` rewrites
//! them.

use std::path::PathBuf;

use serde_json::Value;

use crate::env::Home;

fn check(page: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    if std::env::var_os("SEALFLOW_UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "docs/{page} is not current; run `just docs`");
}

#[test]
fn reference_of_stages() {
    let stages = Home::new().json(&["stage", "list", "--json"]);
    let mut text = String::from(
        "# Stages\n\nGenerated from the stages' own files by `just docs`. `sealflow stage show NAME` prints the same.\n",
    );
    for stage in stages.as_array().unwrap() {
        let doc = stage["doc"].as_str().unwrap();
        text.push_str(&format!("\n## {}\n\n{doc}\n\n", stage["name"].as_str().unwrap()));
        for (title, list) in [("takes", "inputs"), ("gives", "outputs")] {
            text.push_str(&format!("| {title} | type | |\n|---|---|---|\n"));
            for field in stage[list].as_array().unwrap() {
                let of = |key: &str| field[key].as_str().unwrap().to_owned();
                text.push_str(&format!("| `{}` | {} | {} |\n", of("name"), of("ty"), of("doc")));
            }
            text.push('\n');
        }
    }
    check("stages.md", &text);
}

#[test]
fn reference_of_the_command_line() {
    let home = Home::new();
    let mut text = String::from("# Command line\n\nGenerated from the binary by `just docs`.\n");
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    while let Some(path) = open.pop() {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        // The width of the page, wherever it is made.
        let outcome = home
            .command(&args)
            .env("COLUMNS", "100")
            .env_remove("HOME")
            .output()
            .unwrap();
        let help = String::from_utf8(outcome.stdout)
            .unwrap()
            .replace(home.path().to_str().unwrap(), "DIR");
        text.push_str(
            &format!(
                "\n## sealflow {}\n\n```\n{}\n```\n",
                path.join(" "),
                help.trim_end()
            )
            .replace("sealflow \n", "sealflow\n"),
        );
        let commands = help.split_once("Commands:\n").map(|(_, rest)| rest).unwrap_or("");
        let names: Vec<&str> = commands
            .lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| {
                line.strip_prefix("  ")?
                    .split_whitespace()
                    .next()
                    .filter(|_| !line.starts_with("   "))
            })
            .filter(|name| *name != "help")
            .collect();
        for name in names.into_iter().rev() {
            let mut next = path.clone();
            next.push(name.to_owned());
            open.push(next);
        }
    }
    check("cli.md", &text);
}

#[test]
fn reference_of_the_configuration() {
    let text = Home::new().run(&["config", "default"]).stdout;
    let machine = Home::new().run(&["config", "default", "--machine"]).stdout;
    let page = format!(
        "# Configuration\n\nThe file `config.toml` in the data directory, as `sealflow config default` prints it.\n\n\
         ```toml\n{text}```\n\n# Machine profile\n\n\
         The file `machine.toml` in the data directory, as `sealflow config default --machine` prints it.\n\n\
         ```toml\n{machine}```\n"
    );
    check("config.md", &page);
}

#[test]
fn reference_of_the_api() {
    let home = Home::new();
    let daemon = home.daemon();
    let listening: Value =
        serde_json::from_slice(&std::fs::read(home.path().join("daemon.json")).unwrap()).unwrap();
    let token = std::fs::read_to_string(home.path().join("token")).unwrap();
    let address = listening["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    let request = format!(
        "GET /api/v1/openapi.json HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    let description: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    check(
        "openapi.json",
        &(serde_json::to_string_pretty(&description).unwrap() + "\n"),
    );
    daemon.stop();
}
