//! A program on the other end of the ext-processor protocol that misbehaves as it is told: tests drive it. It is
//! told by the words of its command line and by each task, and knows nothing of sealflow but the protocol. With
//! `--launch` it is what the binary is to its own children, a guard or an entry; with `--parent` a parent.
#![expect(clippy::unwrap_used, reason = "a program for tests")]

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

use sealflow_executors::processor::launch::{Hooks, launch};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().map(String::as_str) == Some("--launch") {
        let hooks = Hooks {
            affinity: |_| Ok(()),
            prefer_node: |_| Ok(()),
        };
        let plan = serde_json::from_str(&args[1]).unwrap();
        return match launch(&plan, &args[3..], hooks) {
            Ok(status) => ExitCode::from(status),
            Err(error) => {
                say(&format!("cannot launch: {error}"));
                ExitCode::from(sealflow_executors::processor::launch::NOT_STARTED)
            }
        };
    }
    if args.first().map(String::as_str) == Some("--parent") {
        return parent(&args[1..]);
    }
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let has = |word| words.contains(&word);
    say(&format!(
        "vendor {words:?} in {:?}",
        std::env::current_dir().unwrap()
    ));
    if has("never-ready") {
        std::thread::sleep(Duration::from_secs(3600));
    }
    if has("dies-at-start") {
        say("no licence");
        return ExitCode::from(3);
    }
    if has("noise-first") {
        out(b"INFO loading\n\xff\xfe\x00\n");
    }
    let stage = words[0];
    match () {
        () if has("crlf") => out(format!("{stage} processor ready\r\n").as_bytes()),
        // What comes with the ready line must not be lost: an answer to a request that nobody will make.
        () if has("early") => {
            out(format!("{stage} processor ready\n{}\n", answer(1_000_000, "\"early\"")).as_bytes())
        }
        () => out(format!("{stage} processor ready\n").as_bytes()),
    }
    if let Some(seconds) = words.iter().find_map(|word| word.strip_prefix("orphans-")) {
        // They hide as a daemon would: in sessions of their own.
        let hidden = format!("setsid sleep {seconds} & setsid sh -c 'sleep {seconds}.5 & wait' & exit 0");
        let shell = std::process::Command::new("sh")
            .args(["-c", &hidden])
            .status()
            .unwrap();
        assert!(shell.success());
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let request: serde_json::Value = serde_json::from_str(&line).unwrap();
        let id = request["id"].as_u64().unwrap();
        let task = request["task"]["how"].as_str().unwrap_or_default().to_owned();
        let stubborn = has("stubborn");
        std::thread::spawn(move || serve(id, &task, stubborn));
    }
    if has("stubborn") {
        std::thread::sleep(Duration::from_secs(3600));
    }
    say("stdin has ended");
    ExitCode::FAILURE
}

/// A parent that starts a child with a guard, as sealflow does, and then waits to be killed.
fn parent(words: &[String]) -> ExitCode {
    let own = std::env::current_exe().unwrap();
    let plan = format!("{{\"role\":\"guard\",\"parent\":{}}}", std::process::id());
    // The thread that starts it ends at once: the guard must not take that for our end.
    let start = move || {
        let mut guard = std::process::Command::new(&own);
        guard.args(["--launch", &plan, "--"]).arg(&own).args(words);
        guard.stdin(std::process::Stdio::piped()).spawn().unwrap()
    };
    let guard = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    std::thread::sleep(Duration::from_secs(3600));
    drop(guard);
    ExitCode::SUCCESS
}

fn answer(id: u64, output: &str) -> String {
    format!("{{\"id\":{id},\"err_msg\":null,\"output\":{output}}}")
}

fn serve(id: u64, task: &str, _stubborn: bool) {
    let good = answer(id, "\"done\"");
    let line = |text: &str| out(format!("{text}\n").as_bytes());
    match task {
        "well" => line(&good),
        "crlf" => line(&format!("{good}\r")),
        "noise" => {
            out(b"\xff\xfenoise\nINFO {\"progress\": 3}\n\n");
            line(&good);
        }
        "twice" => {
            line(&good);
            line(&good);
        }
        "other" => {
            line(&answer(id + 1000, "\"for another\""));
            line(&good);
        }
        "garbage" => line(&format!("{{\"id\":{id},\"output\":[1,2")),
        "not utf-8" => {
            let mut text = format!("{{\"id\":{id},\"output\":\"").into_bytes();
            text.extend_from_slice(b"\xff\"}\n");
            out(&text);
        }
        "neither" => line(&format!("{{\"id\":{id}}}")),
        "wrong type" => line(&answer(id, "[3]")),
        "error" => line(&format!(
            "{{\"id\":{id},\"err_msg\":\"disk\\nfull\",\"output\":\"x\"}}"
        )),
        "told" => line(&format!(
            "{{\"id\":{id},\"err_msg\":\"no_licence (permanent): buy one\"}}"
        )),
        "large" => line(&answer(id, &format!("\"{}\"", "x".repeat(3 << 20)))),
        "env" => {
            let pairs: std::collections::BTreeMap<String, String> = std::env::vars().collect();
            let text = serde_json::to_string(&serde_json::to_string(&pairs).unwrap()).unwrap();
            line(&answer(id, &text));
        }
        "die" => {
            say("I am dying");
            std::process::exit(42);
        }
        "abort" => std::process::abort(),
        "half" => {
            out(format!("{{\"id\":{id},\"err").as_bytes());
            std::process::exit(0);
        }
        "eat" => {
            let mut food: Vec<Vec<u8>> = Vec::new();
            loop {
                food.push(vec![1; 1 << 20]);
            }
        }
        "idle" => std::thread::sleep(Duration::from_secs(3600)),
        "busy" => {
            let mut sum = 0_u64;
            loop {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
        }
        slow => {
            let ms = slow.strip_prefix("slow ").and_then(|ms| ms.parse().ok()).unwrap();
            std::thread::sleep(Duration::from_millis(ms));
            line(&good);
        }
    }
}

fn out(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).unwrap();
    stdout.flush().unwrap();
}

fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "{text}").unwrap();
}
