//! The promise of stores: a sector that is kept in several, moved from one to another, or cleared up after, is at every
//! moment whole in one of them, whenever the process is killed; and nothing goes that something still needs.

use std::path::{Path, PathBuf};

use sealflow_storage::testing::{BUCKET, Trouble};
use serde_json::{Value, json};

use crate::crash::{WITHOUT_C2, nothing_was_done_twice};
use crate::env::{Daemon, Home, step, wait_for};
use crate::s3_server::Server;

/// A home with two folders and a bucket.
struct Site {
    home: Home,
    server: Server,
    file: PathBuf,
}

impl Site {
    fn new() -> Self {
        let home = Home::new();
        let server = Server::beside(&home);
        let file = home.path().join("seal.toml");
        let more =
            "store = { type = \"string\", default = \"any\" }\ncopies = { type = \"uint64\", default = 2 }\n";
        std::fs::write(
            &file,
            WITHOUT_C2.replace("[defaults]", &format!("{more}\n[defaults]")),
        )
        .unwrap();
        let site = Self { home, server, file };
        site.configure("");
        site
    }

    fn bucket(&self) -> String {
        self.server.block("credentials", "attempts = 3\n")
    }

    /// `store` is for reading only, so that what there is to choose are `fast` and `bucket`.
    fn configure(&self, more: &str) {
        let text = format!(
            "[stores.store]\nread_only = true\n[stores.fast]\npath = \"fast\"\nweight = 2\n{}{more}",
            self.bucket()
        );
        std::fs::write(self.home.path().join("config.toml"), text).unwrap();
    }

    fn seal(&self, sector: u64, more: &[&str]) -> String {
        let piece = self.home.file("data.bin", 2000);
        let mut params = vec![
            "miner=f01000".to_owned(),
            format!("sector={sector}"),
            "proof_type=StackedDrg2KiBV1_1".to_owned(),
            format!("pieces=[\"{}\"]", piece.display()),
        ];
        params.extend(more.iter().map(|&param| param.to_owned()));
        self.home.start(self.file.to_str().unwrap(), &params)
    }

    fn unseals(&self, sector: u64) {
        let to = self
            .home
            .path()
            .join(format!("unsealed-{sector}-{:?}", std::time::Instant::now()));
        let params = [
            "miner=f01000".to_owned(),
            format!("sector={sector}"),
            format!("output={}", to.display()),
        ];
        self.home.succeeds(&self.home.start("unseal", &params));
        let wanted = std::fs::read(self.home.path().join("data.bin")).unwrap();
        assert!(std::fs::read(&to).unwrap() == wanted, "sector {sector}");
    }

    /// The stores that have a sector.
    fn find(&self, sector: u64) -> Vec<String> {
        let found = self
            .home
            .json(&["sector", "find", &format!("f01000/{sector}"), "--json"]);
        serde_json::from_value(found).unwrap()
    }

    /// In how many stores a sector is whole, as a proof of spacetime sees it.
    fn whole(&self, sector: u64) -> usize {
        let checked = self
            .home
            .run(&["sector", "check", &format!("f01000/{sector}"), "--json"]);
        let checked: Value = serde_json::from_str(&checked.stdout).unwrap_or_else(|_| panic!("{checked:?}"));
        checked
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["whole"] == true)
            .count()
    }

    /// Seals a sector that a store refuses to take as a whole: the run pauses.
    fn is_refused(&self, sector: u64, more: &[&str]) -> (Daemon, String) {
        let daemon = self.home.daemon();
        let run = self.seal(sector, more);
        wait_for("the pause", || self.home.status(&run) == "paused");
        (daemon, run)
    }

    /// Nothing of an open run is collected; when it is cancelled what it left is, also when that is killed.
    fn collects(&self, daemon: Daemon, run: &str, sector: u64, plan: &str) {
        let home = &self.home;
        assert_eq!(home.json(&["store", "collect", "--json"]), json!([]), "{plan}");
        home.ok(&["run", "cancel", run]);
        wait_for("the end of the run", || home.status(run) == "cancelled");
        daemon.stop();
        let wanted = home.json(&["store", "collect", "--dry-run", "--json"]);
        let name = format!("s-t01000-{sector}");
        let own = |one: &Value| one["key"].as_str().unwrap().contains(&name);
        let wanted = wanted.as_array().unwrap();
        assert!(!wanted.is_empty() && wanted.iter().all(own), "{plan}: {wanted:?}");
        assert!(
            wanted.iter().any(|one| one["action"] == "trash"),
            "{plan}: {wanted:?}"
        );
        assert!(self.killed(&["store", "collect"], plan), "{plan}");
        home.ok(&["store", "collect"]);
        assert_eq!(home.json(&["store", "collect", "--json"]), json!([]), "{plan}");
        let found = home.run(&["sector", "find", &format!("f01000/{sector}")]);
        assert_eq!(found.code, 4, "{plan}: {found:?}");
    }

    /// A command that a kill at this point ends, and whether it came so far.
    fn killed(&self, args: &[&str], point: &str) -> bool {
        let mut command = self.home.command(args);
        let output = command.env("SEALFLOW_CRASH_AT", point).output().unwrap();
        output.status.code().is_none()
    }

    fn in_folder(&self, key: &str) -> PathBuf {
        self.home.path().join("fast").join(key)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const VANILLA: &str = r#"
[workflow]
name    = "vanilla"
subject = "deadline"

[params]
miner    = "actor_id"
deadline = "deadline"
sectors  = "sectors"
store    = "string"

[steps.post_challenge]
[steps.window_post_vanilla]
needs   = ["post_challenge"]
foreach = "post_challenge.partitions"
with    = { partition = "item" }
"#;

#[test]
fn a_sector_is_kept_in_two_stores_and_either_is_enough() {
    let site = Site::new();
    let home = &site.home;
    let daemon = home.daemon();
    let shown = site.home.succeeds(&site.seal(1, &[]));
    let output = &step(&shown, "persist")["output"];
    assert_eq!(
        output["sealed"]["store"], "fast",
        "the heavier one is first: {output}"
    );
    assert_eq!(output["kept"][1]["store"], "bucket", "{output}");
    assert!(
        output["kept"][0]["why"].as_str().unwrap().contains("weight 2"),
        "{output}"
    );
    assert_eq!(site.find(1), ["bucket", "fast"]);
    assert_eq!(site.whole(1), 2);

    // A proof takes the next copy, whether the first is gone, truncated or corrupt; so does unsealing.
    let vanilla = home.path().join("vanilla.toml");
    std::fs::write(&vanilla, VANILLA).unwrap();
    let prove = || {
        let params = ["miner=f01000", "deadline=3", "sectors=[1]", "store=any"].map(str::to_owned);
        let shown = site
            .home
            .succeeds(&home.start(vanilla.to_str().unwrap(), &params));
        step(&shown, "window_post_vanilla")["items"][0]["output"].clone()
    };
    let sealed = site.in_folder("sealed/s-t01000-1");
    let content = std::fs::read(&sealed).unwrap();
    assert_eq!(prove()["post_reads"], Value::Null, "the folder's is taken");
    for damage in ["corrupt", "truncated", "missing"] {
        match damage {
            "corrupt" => std::fs::write(&sealed, vec![7; content.len()]).unwrap(),
            "truncated" => std::fs::write(&sealed, &content[..100]).unwrap(),
            _ => std::fs::remove_file(&sealed).unwrap(),
        }
        let output = prove();
        assert_eq!(output["faults"], json!([]), "{damage}: {output}");
        assert_eq!(
            output["post_reads"]["sectors"], 1,
            "{damage}: the bucket's is taken: {output}"
        );
        assert_eq!(site.whole(1), 1, "{damage}");
    }
    site.unseals(1);
    // Without any it is a fault, which says what is wrong with each.
    std::fs::remove_file(site.server.object("sealed/s-t01000-1")).unwrap();
    let reason = prove()["faults"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("No such file"), "{reason}");
    daemon.stop();
}

#[test]
fn a_daemon_that_is_killed_while_it_keeps_goes_on_in_the_same_stores() {
    let site = Site::new();
    let home = &site.home;
    std::fs::create_dir_all(home.path().join("other")).unwrap();
    let points = [
        "keep.chosen=return",
        "keep.marked=return",
        "keep.marked=1*off->return",
        "store.before_rename=return",
        "store.after_rename=return",
        "keep.put=return",
        "keep.put=2*off->return",
        "keep.whole=return",
        "keep.put=3*off->return",
        "keep.put=4*off->return",
        "store.s3.before_manifest=return",
        "keep.whole=1*off->return",
    ];
    for (sector, plan) in (10..).zip(points) {
        site.configure("");
        let daemon = home.daemon_with(&[("SEALFLOW_CRASH_AT", plan)]);
        let run = site.seal(sector, &[]);
        daemon.wait();
        // What would be chosen now is another: the choice is what was written down.
        site.configure("[stores.other]\npath = \"other\"\nweight = 100\n");
        let daemon = home.daemon();
        wait_for("the sealed sector", || home.status(&run) == "succeeded");
        daemon.stop();
        nothing_was_done_twice(home, &run);
        assert_eq!(site.find(sector), ["bucket", "fast"], "{plan}");
        assert_eq!(site.whole(sector), 2, "{plan}");
        assert!(names(&home.path().join("fast/.marks")).is_empty(), "{plan}");
        assert!(names(&site.server.object(".marks")).is_empty(), "{plan}");
    }
    assert!(names(&home.path().join("other/sealed")).is_empty());
    home.check_store();
    let collected = home.json(&["store", "collect", "--json"]);
    assert_eq!(collected, json!([]), "nothing is left behind");
}

#[test]
fn a_store_that_is_taken_out_of_the_configuration_is_replaced() {
    let site = Site::new();
    let home = &site.home;
    let daemon = home.daemon_with(&[("SEALFLOW_CRASH_AT", "keep.put=return")]);
    let run = site.seal(1, &[]);
    daemon.wait();
    let text = format!(
        "[stores.store]\nread_only = true\n[stores.other]\npath = \"other\"\n{}",
        site.bucket()
    );
    std::fs::write(home.path().join("config.toml"), text).unwrap();
    let daemon = home.daemon();
    wait_for("the sealed sector", || home.status(&run) == "succeeded");
    assert_eq!(site.find(1), ["bucket", "other"]);
    assert_eq!(site.whole(1), 2);
    daemon.stop();
    assert!(home.daemon_log().contains("it is not configured any more"));
    // What it had is known for what it is when it comes back.
    site.configure("[stores.other]\npath = \"other\"\n");
    assert!(site.in_folder("sealed/s-t01000-1").exists());
    home.ok(&["store", "collect"]);
    assert!(!site.in_folder("sealed/s-t01000-1").exists());
    assert_eq!(site.whole(1), 2);
}

#[test]
fn stores_that_cannot_take_a_sector_are_passed_over_and_say_why() {
    let site = Site::new();
    let home = &site.home;
    let more = "[stores.small]\npath = \"small\"\ncapacity = \"1KB\"\n[stores.others]\npath = \"others\"\nallow_miners = [\"f02\"]\n\
                [stores.drained]\npath = \"drained\"\nweight = 100\n";
    site.configure(more);
    home.ok(&["store", "drain", "drained", "--mark-only"]);
    let daemon = home.daemon();
    site.home.succeeds(&site.seal(1, &[]));
    assert_eq!(site.find(1), ["bucket", "fast"]);
    // A bucket that does not answer is passed over where there is another; it is not waited for.
    site.server.always(|_, _| true, Trouble::Drop);
    let shown = site.home.succeeds(&site.seal(2, &["copies=1"]));
    assert_eq!(step(&shown, "persist")["output"]["sealed"]["store"], "fast");
    // Too few are to be had: it is tried again, and every store says why.
    let run = site.seal(3, &["copies=2"]);
    let failure = || home.ok(&["run", "show", &run, "--json"]);
    wait_for("the failure", || failure().contains("store_unavailable"));
    let text = failure();
    for part in [
        "small: ",
        "others: it takes no sectors of f01000",
        "drained: it is being drained",
        "store: it is for reading only",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    site.server.heal();
    wait_for("the sealed sector", || {
        if home.status(&run) == "paused" {
            home.ok(&["run", "retry", &run]);
        }
        home.status(&run) == "succeeded"
    });
    // What can never be does not wait.
    let run = site.seal(4, &["store=others,drained"]);
    wait_for("the pause", || home.status(&run) == "paused");
    assert!(
        home.ok(&["run", "show", &run, "--json"])
            .contains("store_refused")
    );
    daemon.stop();
}

#[test]
fn a_sector_is_whole_somewhere_whenever_a_move_is_killed() {
    let site = Site::new();
    let home = &site.home;
    let daemon = home.daemon();
    let points = [
        "move.marked",
        "move.copied",
        "move.copied=1*off->return",
        "move.copied=2*off->return",
        "store.before_rename",
        "move.verified",
        "store.trash.begun",
        "store.trash.moved",
        "move.trashed",
        "move.trashed=1*off->return",
        "move.trashed=2*off->return",
        "move.done",
        "store.s3.trash_file",
        "store.s3.folder_hidden",
    ];
    let sectors: Vec<u64> = (1..=2).collect();
    for sector in &sectors {
        site.home
            .succeeds(&site.seal(*sector, &["store=bucket", "copies=1"]));
    }
    // Runs go on while sectors are moved: the daemon does not stop.
    let (mut from, mut to) = ("bucket", "fast");
    let mut kills = 0;
    for point in points {
        let plan = if point.contains('=') {
            point.to_owned()
        } else {
            format!("{point}=return")
        };
        let args = ["store", "drain", from, "--to", to];
        kills += u32::from(site.killed(&args, &plan));
        for sector in &sectors {
            assert!(site.whole(*sector) >= 1, "sector {sector} after a kill at {plan}");
        }
        site.unseals(1);
        home.ok(&args);
        for sector in &sectors {
            assert_eq!(site.find(*sector), [to], "after {plan}");
            assert_eq!(site.whole(*sector), 1, "after {plan}");
        }
        home.ok(&["store", "drain", from, "--stop"]);
        std::mem::swap(&mut from, &mut to);
    }
    assert!(kills >= 10, "{kills} kills");
    site.unseals(2);
    daemon.stop();
    home.check_store();
    // An empty store can go; what it had is found where it is, also by runs that recorded it there.
    let full = home.run(&["store", "remove", from]);
    assert_eq!(full.code, 1, "{full:?}");
    assert!(full.stderr.contains("not empty"), "{full:?}");
    home.ok(&["store", "drain", from, "--to", to]);
    home.ok(&["store", "remove", from]);
    let daemon = home.daemon();
    site.unseals(1);
    daemon.stop();
    home.check_store();
}

#[test]
fn only_what_nothing_needs_is_collected_whenever_that_is_killed() {
    let site = Site::new();
    let home = &site.home;
    // A sector that lies there as Lotus leaves it, one that is whole, and one whose run came to nothing.
    let daemon = home.daemon();
    site.home.succeeds(&site.seal(1, &[]));
    daemon.stop();
    for kind in ["sealed", "cache"] {
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(site.in_folder(&format!("{kind}/s-t01000-1")))
            .arg(site.in_folder(&format!("{kind}/s-t01000-5")))
            .status()
            .unwrap();
        assert!(copied.success());
    }
    // What the bucket, which is first, refuses to take.
    let cases = [
        ("/cache/s-t", "store.s3.trash_file=return"),
        ("/sector/s-t", "collect.trashed=return"),
        ("/sector/s-t", "collect.before_unmark=return"),
    ];
    for (sector, (refused, plan)) in (10..).zip(cases) {
        site.configure("weight = 100\n");
        let when = move |method: &str, path: &str| method == "PUT" && path.contains(refused);
        site.server.always(when, Trouble::Answer(403, "AccessDenied"));
        let (daemon, run) = site.is_refused(sector, &[]);
        site.server.heal();
        site.collects(daemon, &run, sector, plan);
        assert_eq!(site.whole(1), 2, "{plan}");
        assert!(
            site.in_folder("sealed/s-t01000-5").exists() && site.in_folder("cache/s-t01000-5/p_aux").exists()
        );
    }
    // What the folder refuses, because something lies in the way.
    let plans = [
        "store.trash.begun",
        "store.trash.moved",
        "collect.trashed",
        "collect.before_unmark",
    ];
    for (sector, point) in (20..).zip(plans) {
        let plan = format!("{point}=return");
        site.configure("weight = 0\n");
        let (cache, aside) = (site.in_folder("cache"), site.in_folder("aside"));
        std::fs::rename(&cache, &aside).unwrap();
        std::fs::write(&cache, "not a folder").unwrap();
        let (daemon, run) = site.is_refused(sector, &["store=fast", "copies=1"]);
        std::fs::remove_file(&cache).unwrap();
        std::fs::rename(&aside, &cache).unwrap();
        let sealed = site.in_folder(&format!("sealed/s-t01000-{sector}"));
        assert!(sealed.exists(), "{plan}");
        site.collects(daemon, &run, sector, &plan);
        assert!(!sealed.exists(), "{plan}");
        assert_eq!(site.whole(1), 2, "{plan}");
    }
    site.configure("");
    // What is in the trash comes back, or goes when its time is over; also when that is killed.
    let trash = home.json(&["store", "trash", "--json"]);
    let sealed = trash
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["store"] == "bucket" && one["key"].as_str().unwrap().starts_with("sealed/"));
    let sealed = sealed.unwrap_or_else(|| panic!("{trash}"));
    let (id, key) = (sealed["id"].as_str().unwrap(), sealed["key"].as_str().unwrap());
    home.ok(&["store", "trash", "--store", "bucket", "--restore", id]);
    assert!(site.server.object(key).exists());
    site.configure("[trash]\nkeep = \"1ms\"\n");
    for plan in ["store.trash.discarding=return", "collect.deleted=return"] {
        site.killed(&["store", "collect"], plan);
    }
    home.ok(&["store", "collect"]);
    assert_eq!(home.json(&["store", "trash", "--json"]), json!([]));
    assert!(site.server.object(key).exists(), "what was taken back stays");
    assert_eq!(site.whole(1), 2);
    home.check_store();
}

#[test]
fn sectors_that_were_sealed_elsewhere_are_taken_in_once_they_are_seen_to_be_whole() {
    let site = Site::new();
    let home = &site.home;
    let daemon = home.daemon();
    let shown = site.home.succeeds(&site.seal(7, &["store=fast", "copies=1"]));
    let exported = home.ok(&["sector", "export"]);
    let info = home.path().join("info.json");
    std::fs::write(&info, &exported).unwrap();
    let csv = home.ok(&["sector", "export", "--format", "csv"]);
    let comm_r = step(&shown, "pc2")["output"]["comm_r"].as_str().unwrap();
    assert!(csv.contains("f01000,7,fast,") && csv.contains(comm_r), "{csv}");
    // As another program leaves it: without a description.
    let description = site.in_folder("sector/s-t01000-7.json");
    std::fs::remove_file(&description).unwrap();
    let missing = home.run(&["sector", "find", "f01000/7"]);
    assert!(
        missing.code == 4 && missing.stderr.contains("sector import fast f01000/7"),
        "{missing:?}"
    );
    // Damaged ones are refused, each with its reason, and nothing is written.
    let aux = site.in_folder("cache/s-t01000-7/p_aux");
    let good = std::fs::read(&aux).unwrap();
    let sealed = site.in_folder("sealed/s-t01000-7");
    let replica = std::fs::read(&sealed).unwrap();
    let refused = |why: &str| {
        let refused = home.run(&["sector", "import", "fast", "f01000/7"]);
        assert!(
            refused.code == 7 && refused.stdout.contains(why),
            "{why}: {refused:?}"
        );
        assert!(!description.exists());
    };
    std::fs::write(&aux, &good[..10]).unwrap();
    refused("shorter than it should be");
    std::fs::write(&aux, &good).unwrap();
    std::fs::write(&sealed, &replica[..2000]).unwrap();
    refused("has 2000 bytes, which no sector has");
    std::fs::write(&sealed, vec![1; 2048]).unwrap();
    refused("");
    std::fs::write(&sealed, &replica).unwrap();
    assert!(
        home.ok(&["sector", "import", "fast", "--dry-run"])
            .contains("would be taken in")
    );
    assert!(!description.exists());
    // Without what its maker knew it can be proved, and not be unsealed; with it, that too.
    assert!(site.killed(&["sector", "import", "fast"], "import.update_described=return"));
    assert!(!description.exists());
    assert!(home.ok(&["sector", "import", "fast"]).contains("not known"));
    assert_eq!(site.whole(7), 1);
    home.ok(&[
        "sector",
        "import",
        "fast",
        "f01000/7",
        "--info",
        info.to_str().unwrap(),
    ]);
    site.unseals(7);
    let shown = home.json(&["sector", "show", "f01000/7", "--json"]);
    assert_eq!(shown["stores"]["fast"]["info"]["comm_r"], comm_r, "{shown}");
    // A deep check finds what a proof of few challenges may miss, once a checksum is known.
    home.ok(&["sector", "check", "f01000/7", "--deep"]);
    let tree = site.in_folder("sealed/s-t01000-7");
    let mut wrong = replica.clone();
    wrong[40] ^= 1;
    std::fs::write(&tree, &wrong).unwrap();
    let deep = home.run(&["sector", "check", "--deep", "--json"]);
    assert_eq!(deep.code, 7, "{deep:?}");
    let listed = home.ok(&["sector", "list"]);
    assert!(listed.contains("NOT WHOLE"), "{listed}");
    daemon.stop();
}

#[test]
fn the_index_is_right_without_its_file_and_whatever_a_server_lists() {
    let site = Site::new();
    let home = &site.home;
    let daemon = home.daemon();
    site.home.succeeds(&site.seal(1, &[]));
    let listed = || home.json(&["sector", "list", "--json"]);
    let first = listed();
    assert_eq!(first.as_array().unwrap().len(), 2, "{first}");
    std::fs::remove_file(home.path().join("sectors.json")).unwrap();
    assert_eq!(listed(), first);
    std::fs::write(home.path().join("sectors.json"), "half of it").unwrap();
    assert_eq!(listed(), first);
    // An old list does not hide what is there.
    let empty = "<ListBucketResult><Name>sectors</Name><Prefix></Prefix><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>";
    site.server.always(
        |method, path| method == "GET" && path.contains("list-type"),
        Trouble::Body(200, empty),
    );
    assert_eq!(listed(), first);
    // A server that does not answer takes nothing out of the index.
    site.server.always(|_, _| true, Trouble::Answer(503, "SlowDown"));
    assert_eq!(listed(), first);
    site.server.heal();
    // Names that lead out of a store are no sectors.
    std::fs::create_dir_all(site.in_folder("sealed/..s-t01000-9")).unwrap();
    std::fs::write(site.in_folder("sealed/s-t01000-09"), "x").unwrap();
    assert_eq!(home.json(&["sector", "list", "--refresh", "--json"]), first);
    for bad in ["f01000/../7", "../f01000/7", "f01000"] {
        assert_eq!(home.run(&["sector", "show", bad]).code, 2, "{bad}");
    }
    daemon.stop();
}

#[test]
fn a_store_is_added_once_it_works_and_says_what_is_wrong_with_it() {
    let site = Site::new();
    let home = &site.home;
    let config = || std::fs::read_to_string(home.path().join("config.toml")).unwrap();
    site.configure("# a remark of mine\n");
    let before = config();
    let endpoint = &site.server.endpoint;
    let add = |name: &str, more: &[&str]| {
        let mut args = vec![
            "store",
            "add",
            name,
            "--endpoint",
            endpoint,
            "--credentials",
            "file",
        ];
        args.extend(more);
        home.run(&args)
    };
    let file = ["--credentials-file", "credentials"];
    let missing = add("new", &[&["--bucket", "nowhere"], &file[..]].concat());
    assert!(
        missing.code == 7 && missing.stderr.contains("make the bucket"),
        "{missing:?}"
    );
    std::fs::write(
        home.path().join("wrong"),
        site.server.credentials("wrong/secret/wrong"),
    )
    .unwrap();
    let wrong = add("new", &["--bucket", BUCKET, "--credentials-file", "wrong"]);
    assert!(
        wrong.code == 7 && wrong.stderr.contains("credentials"),
        "{wrong:?}"
    );
    assert!(!wrong.stderr.contains("wrong/secret"), "{wrong:?}");
    assert_eq!(config(), before, "what does not work is not written");
    let good = add(
        "new",
        &[
            &["--bucket", BUCKET, "--prefix", "new", "--weight", "3"],
            &file[..],
        ]
        .concat(),
    );
    assert_eq!(good.code, 0, "{good:?}");
    assert!(
        config().contains("# a remark of mine") && config().contains("[stores.new]"),
        "{}",
        config()
    );
    assert!(
        names(&site.server.object("new/sealflow-probe")).is_empty(),
        "the probe is gone"
    );
    assert!(home.ok(&["store", "list"]).contains("new"));

    home.ok(&["store", "check", "new"]);
    let wrong = |trouble: Trouble, says: &str| {
        site.server.always(|method, _| method == "PUT", trouble);
        let checked = home.run(&["store", "check", "new", "--json"]);
        assert_eq!(checked.code, 7, "{checked:?}");
        assert!(checked.stdout.contains(says), "{says}: {checked:?}");
        site.server.heal();
    };
    wrong(Trouble::Answer(403, "RequestTimeTooSkewed"), "clock");
    wrong(Trouble::Answer(403, "AccessDenied"), "allowed to do");
    wrong(Trouble::Answer(507, "InsufficientStorage"), "room");
    wrong(Trouble::Drop, "reaches it");
    // What comes back is not what was written, or less of it.
    site.server.always(
        |method, path| method == "GET" && path.contains("sealflow-probe/") && !path.contains("list-type"),
        Trouble::Body(206, "something else"),
    );
    let checked = home.run(&["store", "check", "new", "--json"]);
    assert_eq!(checked.code, 7, "{checked:?}");
    site.server.heal();

    assert_eq!(home.run(&["store", "add", "any", "--path", "x"]).code, 3);
    assert_eq!(home.run(&["store", "add", "fast", "--path", "x"]).code, 3);
    assert_eq!(home.run(&["store", "remove", "nowhere"]).code, 4);
}
