//! The promise that the API is there for others too: described by OpenAPI, and closed without a token.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::env::{Home, Outcome};

/// One request over HTTP, as any program could send it.
fn request(home: &Home, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, Value) {
    let listening: Value =
        serde_json::from_slice(&std::fs::read(home.path().join("daemon.json")).unwrap()).unwrap();
    let address = listening["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let token = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{token}Content-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn the_api_needs_the_token_and_describes_itself() {
    let home = Home::new();
    let daemon = home.daemon();
    let path = home.path().join("token");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let token = std::fs::read_to_string(&path).unwrap();
    for wrong in [None, Some(""), Some("0000"), Some(&token[..63])] {
        let (status, problem) = request(&home, "GET", "/api/v1/runs", wrong, "");
        assert_eq!(
            (status, problem["code"].as_str()),
            (401, Some("unauthorized")),
            "{wrong:?}"
        );
    }
    let (status, runs) = request(&home, "GET", "/api/v1/runs", Some(&token), "");
    assert_eq!((status, runs), (200, serde_json::json!([])));
    let (status, description) = request(&home, "GET", "/api/v1/openapi.json", Some(&token), "");
    assert_eq!(status, 200);
    for path in [
        "/api/v1/runs",
        "/api/v1/runs/{run}",
        "/api/v1/runs/{run}/{verb}",
        "/api/v1/health",
    ] {
        assert!(description["paths"][path].is_object(), "{path}");
    }
    // A path would let a client read files as the daemon.
    let body = r#"{"workflow": "../token", "params": {}}"#;
    let (status, problem) = request(&home, "POST", "/api/v1/runs", Some(&token), body);
    assert_eq!(
        (status, problem["code"].as_str()),
        (400, Some("bad_request")),
        "{problem}"
    );
    let long = format!("{{\"source\": \"{}\"}}", " ".repeat(5 << 20));
    for (method, path, body, wanted) in [
        ("POST", "/api/v1/runs", "{", 400),
        ("POST", "/api/v1/runs", "{\"speed\": 1}", 422),
        ("POST", "/api/v1/runs", &long, 413),
        ("GET", "/api/v1/runs/nonsense", "", 400),
        ("GET", "/api/v1/runs/%FF", "", 400),
        ("GET", "/api/v1/runs?speed=1", "", 400),
        ("GET", "/api/v1/runs?limit=x", "", 400),
        ("DELETE", "/api/v1/runs", "", 405),
        ("GET", "/api/v2/runs", "", 404),
    ] {
        let (status, problem) = request(&home, method, path, Some(&token), body);
        assert_eq!(status, wanted, "{method} {path}: {problem}");
        assert!(
            problem["code"].is_string() && problem["message"].is_string(),
            "{method} {path}: {problem}"
        );
    }
    assert!(!home.daemon_log().contains(&token), "the token is in the log");
    daemon.stop();
}

#[test]
fn reads_work_without_a_daemon_and_the_history_moves() {
    let home = Home::new();
    let daemon = home.daemon();
    let run = home.start(
        "seal_offline",
        &[
            "miner=f01000".into(),
            "sector=1".into(),
            "pieces=[\"/no/such\"]".into(),
        ],
    );
    daemon.kill();
    assert_eq!(home.json(&["run", "list", "--json"])[0]["run"], run.as_str());
    assert_eq!(
        home.json(&["run", "show", "latest", "--json"])["run"],
        run.as_str()
    );
    let refused = home.run(&["run", "resume", &run]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.stderr.contains("sealflow --home"), "{refused:?}");

    let file = home.path().join("export.jsonl");
    let exported = home.run(&["store", "export", file.to_str().unwrap()]);
    assert_eq!(exported.code, 0, "{exported:?}");
    let other = Home::new();
    let imported = other.run(&["store", "import", file.to_str().unwrap()]);
    assert_eq!(imported.code, 0, "{imported:?}");
    other.check_store();
    assert_eq!(
        other.json(&["run", "show", &run, "--json"])["params"],
        home.json(&["run", "show", &run, "--json"])["params"]
    );
    let again = other.run(&["store", "import", file.to_str().unwrap()]);
    assert_ne!(again.code, 0);
    assert!(again.stderr.contains("not empty"), "{again:?}");
}

/// A daemon was killed, and its port is another program's now.
#[test]
fn the_token_goes_to_no_stranger() {
    let home = Home::new();
    let daemon = home.daemon();
    daemon.kill();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    stranger.set_nonblocking(true).unwrap();
    let file = serde_json::json!({
        "url": format!("http://{}", stranger.local_addr().unwrap()),
        "pid": 1,
    });
    std::fs::write(home.path().join("daemon.json"), file.to_string()).unwrap();
    let refused = home.run(&["run", "resume", "latest"]);
    assert_eq!(refused.code, 5, "{refused:?}");
    assert!(refused.stderr.contains("no daemon runs"), "{refused:?}");
    assert_eq!(home.json(&["run", "list", "--json"]), serde_json::json!([]));
    assert!(stranger.accept().is_err(), "somebody came");

    // One that holds the home but does not listen is said to be there.
    let held = sealflow_storage::journal::DirectoryLock::take(home.path()).unwrap();
    let refused = home.run(&["run", "resume", "latest"]);
    assert_eq!(refused.code, 8, "{refused:?}");
    let holder = format!("process {}", std::process::id());
    assert!(refused.stderr.contains(&holder), "{refused:?}");
    let refused = home.run(&["daemon"]);
    assert_eq!(refused.code, 8, "{refused:?}");
    drop(held);
    home.daemon().stop();
}

#[test]
fn a_clean_stop_says_nothing_wrong() {
    let home = Home::new();
    let daemon = home.daemon_with(&[("SEALFLOW_LOG", "warn,surrealdb=error")]);
    daemon.stop();
    assert!(!home.daemon_log().contains("WARN"), "{}", home.daemon_log());
    let mut list = home.command(&["run", "list"]);
    let list = Outcome::of(list.env("SEALFLOW_LOG", "warn,surrealdb=error").output().unwrap());
    assert!(!list.stderr.contains("WARN"), "{list:?}");
    assert!(!home.path().join("daemon.json").exists());
}
