//! The promise that events can be followed: of a run from any entry on, of all runs as they happen, without
//! a gap that is not told, and by nobody who does not keep up at the cost of others.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::archives::{ended, sector, short};
use crate::env::{Home, wait_for};

/// A command whose lines are read as they come.
struct Lines {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Lines {
    fn of(home: &Home, args: &[&str]) -> Self {
        let mut command = home.command(args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn next(&self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(120)).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// All lines to the end of the command, and its exit code.
    fn rest(mut self) -> (Vec<Value>, i32) {
        let lines = self
            .lines
            .iter()
            .map(|line| serde_json::from_str(&line).unwrap())
            .collect();
        (lines, self.child.wait().unwrap().code().unwrap_or(-1))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn kinds(lines: &[Value]) -> Vec<String> {
    let events = lines.iter().flat_map(|line| line["events"].as_array().unwrap());
    events
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_run_is_followed_to_its_end_and_resumed_from_any_entry() {
    let home = Home::new();
    let file = short(&home);
    let daemon = home.daemon();
    let run = home.start(&file, &[sector(1), vec!["hold=true".to_owned()]].concat());
    let follower = Lines::of(&home, &["run", "events", &run, "--follow", "--json"]);
    let first = follower.next();
    assert_eq!(
        (&first["run"], &first["seq"], &first["id"]),
        (&json!(run), &json!(1), &json!("1"))
    );
    wait_for("the wait", || {
        let shown = home.json(&["run", "show", &run, "--json"]);
        crate::env::step(&shown, "hold")["status"] == "waiting"
    });
    home.json(&["run", "signal", &run, "go", "--json"]);
    let (rest, code) = follower.rest();
    assert_eq!(code, 0);
    let all: Vec<Value> = std::iter::once(first).chain(rest).collect();
    let seqs: Vec<u64> = all.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=all.len() as u64).collect::<Vec<_>>());
    assert_eq!(kinds(&all).first().unwrap(), "run_started");
    assert_eq!(kinds(&all).last().unwrap(), "run_finished");
    // From where one stopped, with a stream and without, with a daemon and without.
    let later = Lines::of(
        &home,
        &["run", "events", &run, "--follow", "--json", "--since", "2"],
    );
    assert_eq!(later.rest(), (all[2..].to_vec(), 0));
    assert_eq!(
        Lines::of(&home, &["run", "events", &run, "--json", "--since", "2"])
            .rest()
            .0,
        all[2..]
    );
    let logs = Lines::of(&home, &["run", "logs", &run, "--json", "--follow"]).rest();
    assert_eq!((kinds(&logs.0), logs.1), (kinds(&all), 0));
    // An archived one too.
    home.json(&["run", "archive", &run, "--json"]);
    let archived = Lines::of(&home, &["run", "events", &run, "--follow", "--json"]);
    assert_eq!(archived.rest(), (all.clone(), 0));
    daemon.stop();
    assert_eq!(
        Lines::of(&home, &["run", "events", &run, "--json"]).rest(),
        (all, 0)
    );
    for wrong in [vec!["run", "events"], vec!["run", "events", &run, "--since", "x"]] {
        assert_eq!(home.run(&wrong).code, 2, "{wrong:?}");
    }
}

#[test]
fn all_runs_are_followed_and_a_stop_is_said() {
    let home = Home::new();
    let file = short(&home);
    let daemon = home.daemon();
    let follower = Lines::of(&home, &["run", "events", "--follow", "--json"]);
    // Whoever follows sees what is started afterwards; so runs are started until one is seen.
    let mut number = 0;
    let first = loop {
        number += 1;
        ended(&home, &file, number);
        if let Ok(line) = follower.lines.try_recv() {
            break serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    let wanted = ended(&home, &file, 1000);
    let mut seen = vec![first];
    while !seen.iter().any(|line| {
        line["run"] == wanted.as_str()
            && kinds(std::slice::from_ref(line)).contains(&"run_finished".to_owned())
    }) {
        seen.push(follower.next());
    }
    let of_wanted: Vec<Value> = seen
        .iter()
        .filter(|line| line["run"] == wanted.as_str())
        .cloned()
        .collect();
    assert_eq!(of_wanted[0]["seq"], 1);
    // Numbers of all events are dense.
    let numbers: Vec<u64> = seen
        .iter()
        .map(|line| {
            line["id"]
                .as_str()
                .unwrap()
                .split_once('-')
                .unwrap()
                .1
                .parse()
                .unwrap()
        })
        .collect();
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
    // Another one begins where one of them was.
    let since = seen[0]["id"].as_str().unwrap().to_owned();
    let second = Lines::of(&home, &["run", "events", "--follow", "--json", "--since", &since]);
    for line in &seen[1..] {
        assert_eq!(second.next(), *line);
    }
    daemon.stop();
    let (_, code) = follower.rest();
    assert_eq!(code, 1, "the end of the daemon is told");
    // Behind a restart the numbers are others: that is said, not hidden.
    let daemon = home.daemon();
    let (text, _) = raw(&home, &format!("/api/v1/events?since={since}"), "event: gap");
    assert!(
        text.contains("event: begin") && text.contains("event: gap"),
        "{text}"
    );
    let (status, _) = raw(&home, "/api/v1/events?since=nonsense", "}");
    assert!(status.contains("400"), "{status}");
    daemon.stop();
}

/// Sends a request and reads until a text comes; the connection is given back open.
fn raw(home: &Home, path: &str, until: &str) -> (String, TcpStream) {
    let listening: Value =
        serde_json::from_slice(&std::fs::read(home.path().join("daemon.json")).unwrap()).unwrap();
    let address = listening["url"]
        .as_str()
        .unwrap()
        .strip_prefix("http://")
        .unwrap()
        .to_owned();
    let token = std::fs::read_to_string(home.path().join("token")).unwrap();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(until) {
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
    }
    (String::from_utf8(text).unwrap(), stream)
}

#[test]
fn followers_are_bounded_and_those_who_do_not_read_harm_nobody() {
    let home = Home::new();
    let file = short(&home);
    let daemon = home.daemon();
    let held = home.start(&file, &[sector(1), vec!["hold=true".to_owned()]].concat());
    // As many as may follow, none of which reads anything more.
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(raw(&home, &format!("/api/v1/runs/{held}/events"), "event: entry").1);
    }
    let (refused, _) = raw(&home, "/api/v1/events", "}");
    assert!(
        refused.contains("503") && refused.contains("follow events already"),
        "{refused}"
    );
    // Runs go on as ever, and a daemon with followers stops at once.
    ended(&home, &file, 2);
    silent.truncate(63);
    wait_for("room for another follower", || {
        let (text, _) = raw(&home, "/api/v1/events", "\r\n\r\n");
        text.contains("200 OK")
    });
    daemon.stop();
    let mut rest = String::new();
    silent[0].read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("event: end") && rest.contains("daemon_stops"),
        "{rest}"
    );
}
