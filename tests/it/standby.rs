//! The promise that a daemon may be lost for good: of several on one SurrealDB server one decides, and when it is killed,
//! frozen, cut off or stopped another goes on, with nothing lost and nothing done twice. Long: `just long-standby URL`.

use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::cable::Cable;
use crate::crash::{WITHOUT_C2, nothing_was_done_twice};
use crate::env::{Daemon, Home, wait_for};

/// What all daemons and the worker reach.
struct Shared {
    folder: tempfile::TempDir,
    token: String,
}

impl Shared {
    fn config(&self, workers: u16, server: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "[journal]\nurl = \"{server}\"\nuser = \"root\"\npassword_file = \"{folder}/password\"\nfiles = \"{folder}/files\"\n\
             standby = true\ntakeover = \"3s\"\n[workers]\nlisten = \"127.0.0.1:{workers}\"\n[stores.store]\npath = \"{folder}/store\"\n"
        )
    }

    /// The home of a daemon that does only what leaves no files on its machine.
    fn home(&self, workers: u16, server: &str) -> Home {
        let home = Home::new();
        std::fs::write(home.path().join("config.toml"), self.config(workers, server)).unwrap();
        let machine = "[executors.light]\nstages = [\"ticket\", \"seed\"]\n";
        std::fs::write(home.path().join("machine.toml"), machine).unwrap();
        std::fs::write(home.path().join("token"), &self.token).unwrap();
        home
    }
}

/// A process that ends with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn stands_by(home: &Home) -> bool {
    let text = std::fs::read(home.path().join("daemon.json")).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).is_ok_and(|file| file["standby"] == true)
}

fn decides(home: &Home) -> bool {
    home.path().join("daemon.json").is_file() && !stands_by(home) && home.run(&["run", "list"]).code == 0
}

fn signal(daemon: &Daemon, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

fn start(home: &Home, workflow: &Path, sector: u32) -> String {
    let sector = format!("sector={sector}");
    let args = [
        "run",
        "start",
        workflow.to_str().unwrap(),
        "--json",
        "-p",
        "miner=f01000",
        "-p",
        &sector,
        "-p",
        "proof_type=StackedDrg2KiBV1_1",
        "-p",
        "pieces=[\"pledge\"]",
    ];
    home.json(&args)["run"].as_str().unwrap().to_owned()
}

fn has_begun(home: &Home, run: &str) -> bool {
    let outcome = home.run(&["run", "show", run, "--json"]);
    outcome.code == 0 && {
        let shown: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let steps = shown["steps"].as_array().unwrap();
        steps
            .iter()
            .any(|step| step["step"] == "add_pieces" && step["status"] == "succeeded")
    }
}

fn comes_to_its_end(home: &Home, run: &str) {
    wait_for("the run's end", || home.status(run) == "succeeded");
    nothing_was_done_twice(home, run);
}

#[test]
#[ignore = "needs a SurrealDB server: just long-standby URL"]
fn whoever_decides_is_killed_frozen_cut_off_or_stopped() {
    let server = std::env::var("SEALFLOW_TEST_SERVER").expect("SEALFLOW_TEST_SERVER, the URL of a server");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), "root").unwrap();
    let shared = Shared {
        folder,
        token: "a token that all three share".to_owned(),
    };
    let workflow = shared.folder.path().join("seal_without_c2.toml");
    std::fs::write(&workflow, WITHOUT_C2).unwrap();
    let ports = [free_port(), free_port()];
    let (scheme, host) = server.split_once("://").expect("ws://HOST:PORT");
    let cable = Cable::to(host);
    let by_cable = format!("{scheme}://{}", cable.address());
    let (a, b) = (shared.home(ports[0], &by_cable), shared.home(ports[1], &server));
    let first = a.daemon();
    assert!(decides(&a));
    let second = b.daemon();
    assert!(stands_by(&b));
    let work = Home::new();
    let token_file = work.path().join("worker.token");
    std::fs::write(
        &token_file,
        a.ok(&["executor", "token", "create", "rack1"]).trim(),
    )
    .unwrap();
    std::fs::copy(a.path().join("workers.json"), b.path().join("workers.json")).unwrap();
    let store = format!(
        "[stores.store]\npath = \"{}\"\n",
        shared.folder.path().join("store").display()
    );
    std::fs::write(work.path().join("config.toml"), store).unwrap();
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}")).join(",");
    let mut worker = work.command(&[
        "worker",
        "--daemon",
        &urls,
        "--name",
        "rack1",
        "--token-file",
        token_file.to_str().unwrap(),
    ]);
    let log = std::fs::File::create(shared.folder.path().join("worker.log")).unwrap();
    let _worker = Worker(worker.stdout(Stdio::null()).stderr(log).spawn().unwrap());

    // Killed. Commands of the home that stands by ask the one that decides.
    let run = start(&b, &workflow, 1);
    wait_for("the first steps", || has_begun(&b, &run));
    first.kill();
    wait_for("the second daemon", || decides(&b));
    comes_to_its_end(&b, &run);

    // Frozen, and woken when another one decides: it ends.
    let third = a.daemon();
    assert!(stands_by(&a));
    let run = start(&a, &workflow, 2);
    wait_for("the first steps", || has_begun(&a, &run));
    signal(&second, rustix::process::Signal::STOP);
    wait_for("the third daemon", || decides(&a));
    signal(&second, rustix::process::Signal::CONT);
    let status = second.wait();
    assert!(!status.success(), "it was not told that another one decides");
    comes_to_its_end(&a, &run);

    // Cut off from the database, while workers and commands still reach it: it ends, and the other one goes on.
    let fourth = b.daemon();
    assert!(stands_by(&b));
    let run = start(&b, &workflow, 3);
    wait_for("the first steps", || has_begun(&b, &run));
    cable.pull(true);
    wait_for("the fourth daemon", || decides(&b));
    let status = third.wait();
    assert!(!status.success(), "it did not notice");
    comes_to_its_end(&b, &run);
    cable.pull(false);

    // Stopped: the next one does not wait for the term.
    let fifth = a.daemon();
    assert!(stands_by(&a));
    let run = start(&a, &workflow, 4);
    fourth.stop();
    wait_for("the fifth daemon", || decides(&a));
    comes_to_its_end(&a, &run);
    fifth.stop();
    a.check_store();
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let home = Home::new();
    let config = |text: &str| std::fs::write(home.path().join("config.toml"), text).unwrap();
    config("[journal]\nstandby = true\n");
    let refused = home.run(&["daemon"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("files"), "{refused:?}");
    config("[journal]\nstandby = true\nfiles = \"files\"\n");
    let refused = home.run(&["daemon"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("pc1") && refused.stderr.contains("sealflow worker"),
        "{refused:?}"
    );
    std::fs::write(
        home.path().join("machine.toml"),
        "[executors.light]\nstages = [\"ticket\"]\n",
    )
    .unwrap();
    let refused = home.run(&["daemon"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("on a server"), "{refused:?}");
}
