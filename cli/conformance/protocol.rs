//! Whether a program keeps to the line protocol, looked at from outside: it is started, asked things, and ended.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Check, Program, Verdict};

/// How long a broken request may take to be answered.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a program may take to end.
const END: Duration = Duration::from_secs(10);

/// The most of a line that is shown.
const SHOWN: usize = 120;

/// A program that runs.
struct Started {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Lines that were no answers.
    noise: Vec<String>,
}

impl Drop for Started {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Started {
    fn new(program: &Program, stage: &str) -> Result<Self, String> {
        let command = program.command(stage);
        let (name, args) = command.split_first().ok_or("the command is empty")?;
        let mut child = Command::new(name)
            .args(args)
            .envs(&program.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let (to, lines) = channel();
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stdout);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    line.clear();
                    if to.send(text).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self {
            child,
            stdin,
            lines,
            noise: Vec::new(),
        })
    }

    /// The first line that is wanted; others are noise.
    fn wait_for<T>(&mut self, within: Duration, wanted: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => match wanted(&line) {
                    Some(found) => return Ok(found),
                    None => self.noise.push(line),
                },
                Err(_) => return Err(self.silence(within)),
            }
        }
    }

    fn silence(&mut self, within: Duration) -> String {
        let heard = self.noise.last().map_or_else(String::new, |line| {
            format!("; its last line was `{}`", shown(line))
        });
        // Its pipe may be closed a moment before it has ended.
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            if let Ok(Some(status)) = self.child.try_wait() {
                return format!("it ended ({status}){heard}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        format!("nothing came within {} s{heard}", within.as_secs())
    }

    fn ask(&mut self, text: &str) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("its input is closed")?;
        let written = stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush());
        written.map_err(|error| format!("it does not read its input: {error}"))
    }
}

fn shown(line: &str) -> String {
    line.chars().take(SHOWN).collect()
}

/// Looks at one stage of a program. The first check is whether it gets ready.
pub(super) fn check(program: &Program, stage: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut add = |check, verdict, found: String| checks.push(Check::new(stage, check, verdict, found));
    let ready = format!("{stage} processor ready");
    let begun = Instant::now();
    let started = Started::new(program, stage);
    let mut started = match started {
        Ok(started) => started,
        Err(why) => {
            add("ready", Verdict::Failed, why);
            return checks;
        }
    };
    match started.wait_for(program.ready, |line| (line == ready).then_some(())) {
        Ok(()) => add(
            "ready",
            Verdict::Ok,
            format!("after {:.1} s", begun.elapsed().as_secs_f64()),
        ),
        Err(why) => {
            add("ready", Verdict::Failed, format!("no line `{ready}`: {why}"));
            return checks;
        }
    }
    match two_at_once(&mut started) {
        Ok(found) => add("broken requests", Verdict::Ok, found),
        Err(why) => add("broken requests", Verdict::Failed, why),
    }
    let noise = std::mem::take(&mut started.noise);
    match noise.first() {
        None => add(
            "clean output",
            Verdict::Ok,
            "every line on standard output is an answer".to_owned(),
        ),
        Some(first) => add(
            "clean output",
            Verdict::Warning,
            format!(
                "{} lines on standard output are no answers, such as `{}`; logs belong on standard error",
                noise.len(),
                shown(first)
            ),
        ),
    }
    started.stdin = None;
    let (verdict, found) = ends(&mut started);
    add("end", verdict, found);
    checks
}

/// Two requests in one write, of which neither is a task: each must be refused by its id, and the program live on.
fn two_at_once(started: &mut Started) -> Result<String, String> {
    let ids = [7, u64::MAX];
    let text: String = ids
        .map(|id| format!("{{\"id\":{id},\"task\":{{\"no\":\"task\"}}}}\n"))
        .concat();
    started.ask(&text)?;
    for _ in ids {
        let answer = |line: &str| {
            let value: Value = serde_json::from_str(line).ok()?;
            let id = value["id"].as_u64().filter(|id| ids.contains(id))?;
            Some((id, value["err_msg"].as_str().map(str::to_owned)))
        };
        let why = |why| format!("a task that cannot be read must be answered by `err_msg`: {why}");
        let (id, err_msg) = started.wait_for(ANSWER, answer).map_err(why)?;
        if err_msg.is_none() {
            return Err(format!(
                "request {id} is no task, but its answer has no `err_msg`"
            ));
        }
    }
    match started.child.try_wait() {
        Ok(None) => Ok("refused one by one".to_owned()),
        _ => Err("it ends after a request that it cannot read".to_owned()),
    }
}

fn ends(started: &mut Started) -> (Verdict, String) {
    let begun = Instant::now();
    while begun.elapsed() < END {
        match started.child.try_wait() {
            Ok(Some(status)) if status.success() => {
                let text =
                    "it ends with its input, but with status 0: other parents take that for a good end";
                return (Verdict::Warning, text.to_owned());
            }
            Ok(Some(_)) => return (Verdict::Ok, "it ends with its input".to_owned()),
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return (Verdict::Failed, error.to_string()),
        }
    }
    let text = format!(
        "it still runs {} s after its input was closed; it will be killed",
        END.as_secs()
    );
    (Verdict::Failed, text)
}
