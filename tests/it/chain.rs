//! The promise of the chain: one command seals a sector with data and brings it onto a network that verifies everything;
//! each message is on the chain once, whatever is killed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::env::{Home, step, wait_for};

/// A devnet in a process of its own.
struct Devnet {
    child: Child,
    told: Value,
}

impl Drop for Devnet {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Devnet {
    /// A network of a fast clock.
    fn start(home: &Home) -> Self {
        let args = [
            "devnet",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--profile",
            "fast",
            "--block-time",
            "100ms",
        ];
        let mut command = home.command(&args);
        let log = std::fs::File::create(home.path().join("devnet.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        Self { child, told }
    }

    fn address(&self, role: &str) -> String {
        let mut keys = self.told["keys"].as_array().unwrap().iter();
        let key = keys.find(|key| key["role"] == role).unwrap();
        key["address"].as_str().unwrap().to_owned()
    }
}

/// A home whose daemon reaches the devnet and may sign what a miner sends.
fn on_chain(network: &Devnet) -> Home {
    let home = Home::new();
    std::fs::write(home.path().join("passphrase"), "only for a test\n").unwrap();
    let private = |path: PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    private(home.path().join("passphrase"));
    let config = format!(
        "[chain]\nnodes = [\"{}\"]\ntoken_file = \"{}\"\n[wallet]\npassphrase_file = \"passphrase\"\n",
        network.told["url"].as_str().unwrap(),
        network.told["tokens"]["write"].as_str().unwrap(),
    );
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let keys = std::fs::read(network.told["key_file"].as_str().unwrap()).unwrap();
    let keys: Value = serde_json::from_slice(&keys).unwrap();
    for role in ["owner", "worker"] {
        // The block producer's comes first, then those with FIL in the order in which they are told.
        let mut told = network.told["keys"].as_array().unwrap().iter();
        let at = 1 + told.position(|key| key["role"] == role).unwrap();
        let file = home.path().join(format!("{role}.key"));
        std::fs::write(&file, keys[at].as_str().unwrap()).unwrap();
        let address = home.ok(&["wallet", "import", file.to_str().unwrap()]);
        assert_eq!(address.trim(), network.address(role));
    }
    let policy = "[[allow]]\nkeys = [\"any\"]\nmethods = [\"CreateMiner\", \"PreCommitSectorBatch2\", \"ProveCommitSectors3\"]\n\
                  to = [\"any\"]\nmax_value = \"1000 FIL\"\n";
    std::fs::write(home.path().join("wallet/policy.toml"), policy).unwrap();
    home
}

#[test]
fn a_sector_becomes_active_and_each_message_lands_once() {
    let place = Home::new();
    let network = Devnet::start(&place);
    let home = on_chain(&network);
    let daemon = home.daemon();
    let (owner, worker) = (network.address("owner"), network.address("worker"));
    let create = [
        "miner",
        "create",
        "--owner",
        &owner,
        "--worker",
        &worker,
        "--sector-size",
        "2KiB",
        "--key",
        "mine",
    ];
    let miner = home.ok(&create).trim().to_owned();
    assert!(miner.starts_with("f0"), "{miner}");
    // Asked for again by the same name it is the same miner.
    assert_eq!(home.ok(&create).trim(), miner);

    let data = home.file("data.bin", 1500);
    let params = vec![
        format!("miner={miner}"),
        "sector=7".to_owned(),
        "proof_type=StackedDrg2KiBV1_1".to_owned(),
        format!("pieces={}", json!([data])),
    ];
    let run = home.start("seal", &params);
    // A kill while the first message is on its way, and one while the seed is waited for.
    let shown = || home.json(&["run", "show", &run, "--json"]);
    let state = |name: &str| {
        step(&shown(), name)["status"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    wait_for("the pre-commit", || {
        ["waiting", "succeeded"].contains(&state("submit_precommit").as_str())
    });
    daemon.kill();
    let daemon = home.daemon();
    wait_for("the wait for the seed", || {
        state("seed") == "waiting" || state("seed") == "succeeded"
    });
    daemon.kill();
    let daemon = home.daemon();
    let watched = home.run(&["run", "watch", &run]);
    assert_eq!(watched.code, 0, "{watched:?}\n{}", home.daemon_log());
    let sealed = shown();
    let committed = &step(&sealed, "submit_commit")["output"];
    assert!(committed["activation_epoch"].as_i64().unwrap() > 0, "{committed}");

    let listed = home.json(&["message", "list", "--json"]);
    let messages = listed["messages"].as_array().unwrap();
    let methods: Vec<&str> = messages
        .iter()
        .map(|one| one["method"].as_str().unwrap())
        .collect();
    assert_eq!(
        methods,
        ["ProveCommitSectors3", "PreCommitSectorBatch2", "CreateMiner"],
        "{listed}"
    );
    for one in messages {
        assert_eq!(
            (&one["state"], &one["exit_code"]),
            (&json!("final"), &json!(0)),
            "{one}"
        );
    }
    assert_eq!(messages[0]["landed"], committed["commit_cid"]);
    let key = messages[0]["key"].as_str().unwrap();
    assert!(home.ok(&["message", "show", key]).contains("on the chain"));
    // What the chain says.
    let info = home.json(&["miner", "info", &miner, "--json"]);
    assert_eq!(
        (&info["sectors"], &info["faulty"]),
        (&json!(1), &json!(0)),
        "{info}"
    );
    assert_eq!(info["worker"].as_str().unwrap().len(), miner.len(), "{info}");
    daemon.stop();
    home.check_store();
}

#[test]
fn what_cannot_be_sent_says_why_and_sends_nothing() {
    let place = Home::new();
    let network = Devnet::start(&place);
    // No node: the stage says so.
    let home = Home::new();
    let daemon = home.daemon();
    let outcome = home.run(&["message", "list"]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    assert!(outcome.stderr.contains("[chain]"), "{outcome:?}");
    daemon.stop();

    // A wallet that may sign nothing.
    let home = on_chain(&network);
    std::fs::write(home.path().join("wallet/policy.toml"), "").unwrap();
    let daemon = home.daemon();
    let owner = network.address("owner");
    let outcome = home.run(&["miner", "create", "--owner", &owner, "--sector-size", "2KiB"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.stderr.contains("policy"), "{outcome:?}");
    let outcome = home.run(&["miner", "info", "f0999999"]);
    assert_eq!(outcome.code, 4, "{outcome:?}");
    daemon.stop();

    // A locked wallet: the message waits, says so, and can be given up.
    let home = on_chain(&network);
    let config = home.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("passphrase_file", "#")).unwrap();
    let daemon = home.daemon();
    let args = [
        "miner",
        "create",
        "--owner",
        &owner,
        "--sector-size",
        "2KiB",
        "--key",
        "later",
    ];
    let mut waiting = home
        .command(&args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let message = || home.run(&["message", "show", "later", "--json"]);
    wait_for("the message to wait", || message().stdout.contains("locked"));
    home.ok(&["message", "cancel", "later", "--why", "changed my mind"]);
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
    assert!(message().stdout.contains("changed my mind"));
    daemon.stop();
    home.check_store();

    // Another network's token.
    std::fs::write(home.path().join("wrong"), "nonsense").unwrap();
    let text = text.replace(network.told["tokens"]["write"].as_str().unwrap(), "wrong");
    std::fs::write(&config, text).unwrap();
    let outcome = home.run(&["miner", "info", "f01000"]);
    assert_ne!(outcome.code, 0);
    assert!(!outcome.stderr.contains("nonsense"), "{outcome:?}");
}
