//! The promise that every snippet of a workflow file in docs/workflows.md works: whole files are checked and
//! rehearsed, parts are put into the file that they belong to first.

use std::collections::BTreeMap;

use crate::env::Home;

/// A `toml` block and the comment in front of it.
struct Snippet {
    label: String,
    text: String,
}

fn snippets() -> Vec<Snippet> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/workflows.md")).unwrap();
    let lines: Vec<&str> = page.lines().collect();
    let mut snippets = Vec::new();
    for (at, _) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.trim() == "```toml")
    {
        let label = lines[at - 1]
            .strip_prefix("<!-- ")
            .and_then(|label| label.strip_suffix(" -->"));
        let label = label.unwrap_or_else(|| panic!("line {} does not say what the snippet is", at + 1));
        let text = lines[at + 1..].iter().take_while(|line| line.trim() != "```");
        let text = text.fold(String::new(), |text, line| text + line + "\n");
        snippets.push(Snippet {
            label: label.to_owned(),
            text,
        });
    }
    snippets
}

/// Puts the tables of a part into a file; what is there already is replaced.
fn put_into(file: &str, part: &str) -> String {
    let mut file: toml::Table = toml::from_str(file).unwrap();
    let part: toml::Table = toml::from_str(part).unwrap();
    for (section, tables) in part {
        let own = file
            .entry(section)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()));
        match (own, tables) {
            (toml::Value::Table(own), toml::Value::Table(tables)) => own.extend(tables),
            (own, tables) => *own = tables,
        }
    }
    toml::to_string(&file).unwrap()
}

#[test]
fn every_snippet_works() {
    let home = Home::new();
    let file = home.path().join("snippet.toml");
    let path = file.to_str().unwrap();
    // Whole files by name, with the parameters of their rehearsal.
    let mut whole: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for (name, params) in [
        ("seal_offline", "miner=f01000 sector=1"),
        ("window_post_offline", "miner=f01000 deadline=0 sectors=[1]"),
    ] {
        let text = home.ok(&["workflow", "show", name]);
        let params = params.split(' ').map(str::to_owned).collect();
        whole.insert(name.to_owned(), (text, params));
    }
    let mut tried = 0;
    for Snippet { label, text } in snippets() {
        let mut words = label.split(' ');
        let (text, params) = match words.next().unwrap() {
            "config.toml" => {
                std::fs::write(&file, &text).unwrap();
                home.ok(&["config", "check", path]);
                tried += 1;
                continue;
            }
            "rehearse" => {
                let params: Vec<String> = words.map(str::to_owned).collect();
                let parsed: toml::Table = toml::from_str(&text).unwrap();
                let name = parsed["workflow"]["name"].as_str().unwrap().to_owned();
                whole.insert(name, (text.clone(), params.clone()));
                (text, params)
            }
            "into" => {
                let (base, params) = &whole[words.next().unwrap()];
                (put_into(base, &text), params.clone())
            }
            other => panic!("a snippet is `{other}`"),
        };
        std::fs::write(&file, &text).unwrap();
        home.ok(&["workflow", "check", path]);
        let mut args = vec!["workflow", "rehearse", path, "--json"];
        for param in &params {
            args.extend(["-p", param]);
        }
        let rehearsal = home.json(&args);
        assert_eq!(rehearsal["status"], "succeeded", "{text}: {rehearsal}");
        tried += 1;
    }
    assert!(tried >= 9, "{tried}");
}
