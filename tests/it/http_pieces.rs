//! The promise that pieces come over HTTP: with a bearer token, going on where a broken download
//! stopped, and never taking the wrong bytes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::env::{Home, step, wait_for};

const WORKFLOW: &str = r#"
[workflow]
name    = "fetch"
subject = "sector"
[params]
miner      = "actor_id"
sector     = "sector_number"
proof_type = "registered_seal_proof"
pieces     = "pieces"
[defaults]
retry = { max_attempts = 5, backoff = "50ms" }
[steps.add_pieces]
[steps.tree_d]
needs = ["add_pieces"]
"#;

/// A server that gives `data`, cuts the first answer in the middle, and wants a token.
struct Server {
    address: String,
    answers: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(data: Vec<u8>, token: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (answers, ranges) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counted, seen) = (answers.clone(), ranges.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(
                    stream.unwrap(),
                    &data,
                    token,
                    counted.fetch_add(1, Ordering::SeqCst),
                    &seen,
                );
            }
        });
        Self {
            address,
            answers,
            ranges,
        }
    }
}

fn answer(mut stream: TcpStream, data: &[u8], token: &str, count: usize, seen: &Mutex<Vec<String>>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap().to_lowercase();
    let header = |name: &str| {
        let line = request.lines().find(|line| line.starts_with(&format!("{name}:")));
        line.map(|line| line.split_once(':').unwrap().1.trim().to_owned())
    };
    if header("authorization") != Some(format!("bearer {token}")) {
        drop(
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        );
        return;
    }
    let start = header("range").map(|range| {
        seen.lock().unwrap().push(range.clone());
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse::<usize>()
            .unwrap()
    });
    let (status, from) = match start {
        Some(from) => ("206 Partial Content", from),
        None => ("200 OK", 0),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nETag: \"v1\"\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\nConnection: close\r\n\r\n",
        data.len() - from,
        data.len() - 1,
        data.len()
    );
    // The first answer that gives data breaks off half-way.
    let to = if count == 0 { data.len() / 2 } else { data.len() };
    drop(
        stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&data[from..to])),
    );
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let home = Home::new();
    let local = home.file("piece.bin", 3 << 20);
    let server = Server::start(std::fs::read(&local).unwrap(), "s3cret");
    let token = home.path().join("piece-token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let workflow = home.path().join("fetch.toml");
    std::fs::write(&workflow, WORKFLOW).unwrap();
    let daemon = home.daemon();
    let url = format!("http://{}/piece.car", server.address);
    let start = |sector: u32, piece: serde_json::Value| {
        let params = [
            "miner=f01000".to_owned(),
            format!("sector={sector}"),
            "proof_type=StackedDrg8MiBV1_1".to_owned(),
            format!("pieces={}", serde_json::json!([piece])),
        ];
        home.start(workflow.to_str().unwrap(), &params)
    };
    let fetched = start(1, serde_json::json!({ "url": url, "token_file": token }));
    let from_disk = start(2, serde_json::json!(local));
    let comm_d = |run: &str| {
        wait_for("the end", || home.status(run) == "succeeded");
        step(&home.json(&["run", "show", run, "--json"]), "tree_d")["output"]["comm_d"].clone()
    };
    assert_eq!(comm_d(&fetched), comm_d(&from_disk));
    let ranges = server.ranges.lock().unwrap().clone();
    assert_eq!(ranges.len(), 1, "{ranges:?}");
    assert_eq!(server.answers.load(Ordering::SeqCst), 2);
    let resumed_at: u64 = ranges[0]
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap();
    assert!(resumed_at > 0 && resumed_at <= (3 << 20) / 2, "{ranges:?}");

    // Without the token the server refuses, and the run says so.
    let refused = start(3, serde_json::json!({ "url": format!("{url}?other") }));
    wait_for("the pause", || home.status(&refused) == "paused");
    let shown = home.json(&["run", "show", &refused, "--json"]);
    let failure = &step(&shown, "add_pieces")["failure"];
    assert_eq!(failure["code"], "http_refused");
    assert!(
        failure["message"].as_str().unwrap().contains("token_file"),
        "{failure}"
    );
    daemon.stop();
    home.check_store();
    // The token is nowhere but in its own file.
    let export = home.path().join("export.jsonl");
    assert_eq!(home.run(&["store", "export", export.to_str().unwrap()]).code, 0);
    let exported = std::fs::read_to_string(&export).unwrap();
    assert!(exported.contains("piece.car") && !exported.contains("s3cret"));
    assert!(!home.daemon_log().contains("s3cret"));
}
