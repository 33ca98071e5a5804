//! The promise that other machines seal as this one does: workers of another user, with scratch space of their own, give
//! the same sector; whoever is killed meanwhile, nothing is done again that need not be.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::crash::{WITHOUT_C2, nothing_was_done_twice};
use crate::env::{Home, Outcome, step, wait_for};

/// The user that workers run as where the test may choose one.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the daemon and all workers reach: sealed sectors, the user's data, the program and the parameters.
struct Shared {
    folder: tempfile::TempDir,
}

impl Shared {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(folder.path(), all.clone()).unwrap();
        for part in ["store", "params/generated", "params/parents"] {
            std::fs::create_dir_all(folder.path().join(part)).unwrap();
            std::fs::set_permissions(folder.path().join(part), all.clone()).unwrap();
        }
        let shared = Self { folder };
        link(
            Path::new(env!("CARGO_BIN_EXE_sealflow")),
            &shared.path("sealflow"),
        );
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        let generated = cache.join("sealflow/params/generated");
        for file in std::fs::read_dir(&generated).unwrap() {
            let file = file.unwrap();
            // Locks are everybody's own.
            if file
                .path()
                .extension()
                .is_none_or(|extension| extension != "lock")
            {
                link(
                    &file.path(),
                    &shared.path("params/generated").join(file.file_name()),
                );
            }
        }
        shared
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The home of a worker, which belongs to its user.
    fn worker(&self, name: &str, machine: &str) -> PathBuf {
        let home = self.path(name);
        std::fs::create_dir(&home).unwrap();
        let config = format!(
            "[params]\npath = \"{}\"\n[stores.store]\npath = \"{}\"\n",
            self.path("params").display(),
            self.path("store").display()
        );
        std::fs::write(home.join("config.toml"), config).unwrap();
        std::fs::write(home.join("machine.toml"), machine).unwrap();
        if is_root() {
            std::os::unix::fs::chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        home
    }
}

/// The same file under another name, or a copy where that is on another disk.
fn link(from: &Path, to: &Path) {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).unwrap();
    }
}

struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    fn start(shared: &Shared, name: &str, url: &str, more: &[&str]) -> Self {
        let home = shared.path(name);
        let log = shared.path(&format!("{name}.log"));
        let mut command = Command::new(shared.path("sealflow"));
        command.arg("--home").arg(&home);
        command
            .args(["worker", "--daemon", url, "--name", name])
            .args(more);
        command
            .env_remove("SEALFLOW_HOME")
            .env("HOME", &home)
            .env("NO_COLOR", "1");
        command
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap(),
        );
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let child = command.spawn().unwrap();
        Self { child, log }
    }

    fn with_token(shared: &Shared, name: &str, url: &str, token: &str) -> Self {
        let file = shared.path(&format!("{name}.token"));
        std::fs::write(&file, token).unwrap();
        Self::start(shared, name, url, &["--token-file", file.to_str().unwrap()])
    }

    fn told(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// It ends by itself.
    fn ends(mut self) -> (i32, String) {
        wait_for("the worker's end", || self.child.try_wait().unwrap().is_some());
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        (code, self.told())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A home whose daemon workers connect to, and their address.
fn with_workers(home: &Home, shared: &Shared, stages: &str, tls: &str) -> String {
    let port = free_port();
    let config = format!(
        "[workers]\nlisten = \"127.0.0.1:{port}\"\ntls = \"{tls}\"\n[stores.store]\npath = \"{}\"\n",
        shared.path("store").display()
    );
    std::fs::write(home.path().join("config.toml"), config).unwrap();
    let machine = format!("[executors.here]\nstages = [{stages}]\n");
    std::fs::write(home.path().join("machine.toml"), machine).unwrap();
    let scheme = if tls == "off" { "http" } else { "https" };
    format!("{scheme}://127.0.0.1:{port}")
}

fn token(home: &Home, worker: &str) -> String {
    home.ok(&["executor", "token", "create", worker])
        .trim()
        .to_owned()
}

fn params(data: &Path) -> Vec<String> {
    vec![
        "miner=f01000".to_owned(),
        "sector=7".to_owned(),
        "proof_type=StackedDrg2KiBV1_1".to_owned(),
        format!("pieces=[\"{}\"]", data.display()),
    ]
}

const SEALING: &str = r#"
[executors.seal]
stages = ["add_pieces", "tree_d", "pc1", "pc2", "synth_proof", "c1", "persist", "finalize"]
"#;

const PROVING: &str = r#"
[executors.proofs]
stages = ["c2"]
"#;

#[test]
fn the_same_sector_in_the_process_by_children_and_by_workers_of_another_user() {
    // Without the proof of a minute.
    let here = Home::new();
    let data = here.file("data.bin", 1500);
    let workflow = here.path().join("short.toml");
    std::fs::write(&workflow, WITHOUT_C2).unwrap();
    let seal = |home: &Home| {
        let daemon = home.daemon();
        let run = home.start(workflow.to_str().unwrap(), &params(&data));
        wait_for("the seal", || home.status(&run) == "succeeded");
        let shown = home.json(&["run", "show", &run, "--json"]);
        daemon.stop();
        shown
    };
    let reference = seal(&here);
    let children = Home::new();
    std::fs::write(children.path().join("machine.toml"), crate::processors::CHILDREN).unwrap();
    let by_children = seal(&children);
    for (name, executor) in [
        ("tree_d", "disk"),
        ("pc1", "layers"),
        ("pc2", "trees"),
        ("c1", "trees"),
    ] {
        assert_eq!(
            step(&by_children, name)["executor"],
            executor,
            "{name}: {by_children}"
        );
    }

    let (shared, home) = (Shared::new(), Home::new());
    let stages = "\"ticket\", \"seed\", \"proof_parameters\", \"verify_seal\"";
    let url = with_workers(&home, &shared, stages, "off");
    std::fs::copy(&data, shared.path("data.bin")).unwrap();
    shared.worker("w1", SEALING);
    shared.worker("w2", PROVING);
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    if is_root() {
        let mut look = Command::new("ls");
        look.arg(home.path())
            .uid(NOBODY)
            .gid(NOBODY)
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        assert!(
            !look.status().unwrap().success(),
            "workers cannot open the daemon's folder"
        );
    }
    let daemon = home.daemon();
    let (first, second) = (token(&home, "w1"), token(&home, "w2"));
    let sealing = Worker::with_token(&shared, "w1", &url, &first);
    let proving = Worker::with_token(&shared, "w2", &url, &second);
    wait_for("the workers", || {
        home.json(&["worker", "list", "--json"]).as_array().unwrap().len() == 2
    });
    let run = home.start("seal_offline", &params(&shared.path("data.bin")));
    let shown = || home.json(&["run", "show", &run, "--json"]);
    // Not only asked for: an order that a kill overtakes is given again.
    wait_for("the proof to begin", || proving.told().contains("step=\"c2\""));
    // The proof goes on while there is no daemon.
    daemon.kill();
    let daemon = home.daemon();
    let watched = home.run(&["run", "watch", &run]);
    let told = || format!("{}\n{}\n{}", home.daemon_log(), sealing.told(), proving.told());
    assert_eq!(watched.code, 0, "{watched:?}\n{}", told());
    nothing_was_done_twice(&home, &run);
    let sealed = shown();
    for (name, executor) in [
        ("pc1", "seal@w1"),
        ("c1", "seal@w1"),
        ("c2", "proofs@w2"),
        ("finalize", "seal@w1"),
    ] {
        assert_eq!(step(&sealed, name)["executor"], executor, "{name}: {sealed}");
        assert_eq!(step(&sealed, name)["attempts"], 1, "{name}: {sealed}");
    }
    for field in ["comm_d", "comm_r"] {
        let of = |shown: &Value| step(shown, "pc2")["output"][field].clone();
        assert_eq!(of(&sealed), of(&reference), "{field}");
        assert_eq!(of(&by_children), of(&reference), "{field}");
    }
    assert!(
        !home.path().join("scratch/f01000").exists(),
        "the daemon's scratch space was not used"
    );
    assert!(shared.path("store/sealed/s-t01000-7").exists());
    daemon.stop();
    home.check_store();
    let daemon = home.daemon();
    wait_for("the workers", || {
        let workers = home.json(&["worker", "list", "--json"]);
        workers
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["worker"] == "w2")
    });

    // A drained worker goes home.
    home.ok(&["worker", "drain", "w2", "--end", "--wait"]);
    let (code, told) = proving.ends();
    assert_eq!(code, 0, "{told}");
    drop(sealing);
    daemon.stop();
}

#[test]
fn who_may_be_a_worker_is_looked_at() {
    let (shared, home) = (Shared::new(), Home::new());
    let url = with_workers(&home, &shared, "\"ticket\"", "mutual");
    let out = shared.path("certificates");
    let out = out.to_str().unwrap();
    let missing = home.run(&["daemon"]);
    assert_eq!(missing.code, 3, "{missing:?}");
    assert!(missing.stderr.contains("executor cert init"), "{missing:?}");
    home.ok(&["executor", "cert", "init", "127.0.0.1"]);
    home.ok(&["executor", "cert", "issue", "w1", "--out", out]);
    home.ok(&["executor", "cert", "issue", "w2", "--out", out]);
    for name in ["w1", "w2"] {
        for end in ["pem", "key"] {
            let file = format!("{out}/{name}.{end}");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
    std::fs::set_permissions(format!("{out}/ca.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    shared.worker("w1", PROVING);
    shared.worker("w2", PROVING);
    let daemon = home.daemon();
    let by = |name: &str, shows: &str| {
        let files = ["ca".to_owned(), shows.to_owned()].map(|name| format!("{out}/{name}.pem"));
        let key = format!("{out}/{shows}.key");
        let more = ["--ca", &files[0], "--cert", &files[1], "--key", &key];
        Worker::start(&shared, name, &url, &more)
    };
    let worker = by("w1", "w1");
    wait_for("the worker", || {
        home.json(&["worker", "list", "--json"])[0]["worker"] == "w1"
    });
    let shown = home.ok(&["worker", "list"]);
    assert!(shown.contains("proofs"), "{shown}");
    // Somebody else's certificate, one that was revoked, and a stage that there is not.
    let (code, told) = by("w2", "w1").ends();
    assert!(
        code == 3 && told.contains("not those of worker `w2`"),
        "{code}: {told}"
    );
    home.ok(&["executor", "token", "revoke", "w2"]);
    let (code, told) = by("w2", "w2").ends();
    assert!(code == 3 && told.contains("revoked"), "{code}: {told}");
    let mut other = Worker::start(&shared, "w2", &url.replace("https", "http"), &[]);
    wait_for("no contact", || {
        other.told().contains("cannot be reached") || other.told().contains("no contact")
    });
    assert!(other.child.try_wait().unwrap().is_none(), "it goes on trying");
    drop(other);
    drop(worker);
    daemon.stop();

    // Without TLS nothing listens beyond this machine, and the API's token is none of a worker.
    let url = with_workers(&home, &shared, "\"ticket\"", "off");
    let config = home.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("127.0.0.1", "0.0.0.0")).unwrap();
    let refused: Outcome = home.run(&["daemon"]);
    assert!(
        refused.code == 3 && refused.stderr.contains("tls is off"),
        "{refused:?}"
    );
    std::fs::write(&config, text).unwrap();
    let daemon = home.daemon();
    let api = std::fs::read_to_string(home.path().join("token")).unwrap();
    let (code, told) = Worker::with_token(&shared, "w1", &url, &api).ends();
    assert!(
        code == 3 && told.contains("executor token create"),
        "{code}: {told}"
    );
    assert!(!told.contains(api.trim()), "no secret is told");
    daemon.stop();
}

/// So many processes that compute, on however few cores.
struct Load(Vec<Child>);

impl Load {
    fn start(processes: usize) -> Self {
        let spin = || {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]);
            command.spawn().unwrap()
        };
        Self((0..processes).map(|_| spin()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Nobody is declared lost for being busy: a worker seals while eight processes a core want the same cores, for longer than a
/// silence may be, daemon and all.
#[test]
#[ignore = "minutes of a machine that is kept busy: just long-saturated"]
fn who_is_busy_is_not_taken_for_lost() {
    const LONGER_THAN_SILENCE: std::time::Duration = std::time::Duration::from_secs(100);
    let (shared, home) = (Shared::new(), Home::new());
    let url = with_workers(&home, &shared, "\"ticket\", \"seed\"", "off");
    let data = shared.path("data.bin");
    std::fs::write(&data, [7; 1500]).unwrap();
    shared.worker("w1", SEALING);
    let workflow = home.path().join("short.toml");
    std::fs::write(&workflow, WITHOUT_C2).unwrap();
    let daemon = home.daemon();
    let worker = Worker::with_token(&shared, "w1", &url, &token(&home, "w1"));
    let heard = || home.json(&["worker", "list", "--json"])[0].clone();
    wait_for("the worker", || heard()["worker"] == "w1");
    let cores = std::thread::available_parallelism().unwrap().get();
    let load = Load::start(8 * cores);
    let begun = std::time::Instant::now();
    let (mut runs, mut looks) = (Vec::new(), 0);
    while begun.elapsed() < LONGER_THAN_SILENCE {
        let params = [
            "miner=f01000".to_owned(),
            format!("sector={}", 7 + runs.len()),
            "proof_type=StackedDrg8MiBV1_1".to_owned(),
            format!("pieces=[\"{}\"]", data.display()),
        ];
        let run = home.start(workflow.to_str().unwrap(), &params);
        wait_for("the seal", || {
            looks += 1;
            let heard = heard();
            assert_eq!(heard["suspect"], false, "{heard}\n{}", worker.told());
            home.status(&run) == "succeeded"
        });
        runs.push(run);
    }
    drop(load);
    for run in &runs {
        nothing_was_done_twice(&home, run);
        let shown = home.json(&["run", "show", run, "--json"]);
        for one in shown["steps"].as_array().unwrap() {
            assert_eq!(one["attempts"], 1, "{one}");
        }
    }
    println!(
        "{} sectors of 8 MiB in {:.0} s, looked at {looks} times",
        runs.len(),
        begun.elapsed().as_secs_f64()
    );
    daemon.stop();
}
