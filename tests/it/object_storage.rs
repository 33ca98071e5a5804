//! The promise of object storage: a bucket of an S3 server is as good as a folder. The same work gives the same, only the
//! configuration differs, and proofs and unsealing read a small part of a sealed sector.

use std::path::{Path, PathBuf};

use sealflow_storage::testing::Trouble;
use serde_json::{Value, json};

use crate::crash::{WITHOUT_C2, nothing_was_done_twice};
use crate::env::{Home, step, wait_for, wait_hours_for};
use crate::s3_server::Server;

/// An S3 server, and a home that has a store in it.
struct Bucket {
    home: Home,
    server: Server,
    file: PathBuf,
}

impl Bucket {
    fn new() -> Self {
        let home = Home::new();
        let server = Server::beside(&home);
        let file = home.path().join("seal.toml");
        let text = WITHOUT_C2.replace(
            "[defaults]",
            "store = { type = \"string\", default = \"store\" }\n\n[defaults]",
        );
        std::fs::write(&file, text).unwrap();
        let bucket = Self { home, server, file };
        bucket.configure("credentials", "");
        bucket
    }

    fn configure(&self, credentials: &str, more: &str) {
        let more = format!("prefix = \"sealflow\"\n{more}");
        let text = self.server.block(credentials, &more);
        std::fs::write(self.home.path().join("config.toml"), text).unwrap();
    }

    fn seal(&self, store: &str, sector: u64, proof: &str, piece: &Path) -> String {
        let params = [
            "miner=f01000".to_owned(),
            format!("sector={sector}"),
            format!("proof_type={proof}"),
            format!("pieces=[\"{}\"]", piece.display()),
            format!("store={store}"),
        ];
        self.home.start(self.file.to_str().unwrap(), &params)
    }

    /// The output of the vanilla proofs of a sector in the bucket.
    fn proves(&self, sector: u64, comm_r: &Value) -> Value {
        let place = |kind: &str| json!({ "store": "bucket", "key": format!("{kind}/s-t01000-{sector}") });
        let replica =
            json!({ "sector": sector, "comm_r": comm_r, "sealed": place("sealed"), "cache": place("cache") });
        let file = self.home.path().join("vanilla.toml");
        std::fs::write(&file, VANILLA).unwrap();
        let mut params = deadline(&json!([{ "sector": sector, "store": "bucket" }]));
        params.push(format!(
            "partition={}",
            json!({ "partition": 0, "replicas": [replica] })
        ));
        let shown = self
            .home
            .succeeds(&self.home.start(file.to_str().unwrap(), &params));
        let output = step(&shown, "window_post_vanilla")["output"].clone();
        assert_eq!(output["faults"], json!([]), "{output}");
        output
    }

    fn object(&self, key: &str) -> PathBuf {
        self.server.object(&format!("sealflow/{key}"))
    }
}

fn deadline(sectors: &Value) -> Vec<String> {
    vec![
        "miner=f01000".to_owned(),
        "deadline=3".to_owned(),
        format!("sectors={sectors}"),
    ]
}

#[test]
fn a_bucket_is_as_good_as_a_folder() {
    let bucket = Bucket::new();
    let home = &bucket.home;
    let piece = home.file("data.bin", 2000);
    let daemon = home.daemon();
    for (store, sector) in [("store", 1), ("bucket", 2)] {
        let run = bucket.seal(store, sector, "StackedDrg2KiBV1_1", &piece);
        let shown = home.succeeds(&run);
        assert_eq!(step(&shown, "persist")["output"]["sealed"]["store"], store);
    }
    assert_eq!(
        std::fs::metadata(bucket.object("sealed/s-t01000-2"))
            .unwrap()
            .len(),
        2048
    );
    assert!(bucket.object("cache/s-t01000-2/p_aux").is_file());
    assert!(
        !home.path().join("scratch/f01000-2/cache").exists(),
        "working files are gone"
    );

    let sectors = json!([1, { "sector": 2, "store": "bucket" }]);
    let shown = home.succeeds(&home.start("window_post_offline", &deadline(&sectors)));
    let items = step(&shown, "window_post")["items"].as_array().unwrap();
    let output = &items[0]["output"];
    assert_eq!(output["post"]["proved"].as_array().unwrap().len(), 2, "{output}");
    assert_eq!(output["post_reads"]["sectors"], 1, "{output}");
    assert_eq!(step(&shown, "verify_post")["output"]["verified"], true);

    for (sector, offset, bytes) in [(1, 0, 2000), (2, 0, 2000), (2, 700, 300)] {
        let to = home.path().join(format!("unsealed-{sector}-{offset}"));
        let params = [
            "miner=f01000".to_owned(),
            format!("sector={sector}"),
            format!("output={}", to.display()),
            format!("offset={offset}"),
            format!("bytes={bytes}"),
        ];
        home.succeeds(&home.start("unseal", &params));
        let wanted = &std::fs::read(&piece).unwrap()[offset..offset + bytes];
        assert!(
            std::fs::read(&to).unwrap() == wanted,
            "sector {sector} from {offset}"
        );
    }

    // What is gone or wrong in the bucket is a fault; the rest is proved.
    std::fs::remove_file(bucket.object("sealed/s-t01000-2")).unwrap();
    let shown = home.succeeds(&home.start("window_post_offline", &deadline(&sectors)));
    let post = &step(&shown, "window_post")["items"][0]["output"]["post"];
    assert_eq!(post["proved"][0]["sector"], 1, "{post}");
    let reason = post["faults"][0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("has nothing under `sealed/s-t01000-2`"),
        "{reason}"
    );
    daemon.stop();
    home.check_store_finds(&["`sealed` of f01000/2"]);
}

/// `examples/object_storage`: the same sealing (but for the proof that takes a minute), window PoSt and unsealing.
#[test]
fn the_examples_differ_in_where_the_store_is() {
    for (name, example) in [
        (
            "folder",
            include_str!("../../examples/object_storage/folder.toml"),
        ),
        (
            "bucket",
            include_str!("../../examples/object_storage/bucket.toml"),
        ),
    ] {
        let bucket = Bucket::new();
        let home = &bucket.home;
        let (mut text, credentials) = (example.to_owned(), home.path().join("credentials"));
        let folder = home.path().join("mounted");
        let here = [
            ("/mnt/sectors", folder.to_str().unwrap()),
            ("https://s3.example.org", bucket.server.endpoint.as_str()),
            ("/run/credentials/sealflow", credentials.to_str().unwrap()),
        ];
        for (place, ours) in here {
            text = text.replace(place, ours);
        }
        assert_ne!(text, example);
        std::fs::write(home.path().join("config.toml"), text).unwrap();
        let piece = home.file("data.bin", 2000);
        let daemon = home.daemon();
        let shown = home.succeeds(&bucket.seal("sectors", 1, "StackedDrg2KiBV1_1", &piece));
        assert_eq!(step(&shown, "persist")["output"]["sealed"]["store"], "sectors");
        let sealed = match name {
            "folder" => folder.join("sealed/s-t01000-1"),
            _ => bucket.server.object("sealed/s-t01000-1"),
        };
        assert_eq!(std::fs::metadata(sealed).unwrap().len(), 2048);
        let mut params = deadline(&json!([1]));
        params.push("store=sectors".to_owned());
        let shown = home.succeeds(&home.start("window_post_offline", &params));
        assert_eq!(
            step(&shown, "verify_post")["output"]["sectors_proved"],
            1,
            "{name}"
        );
        let back = home.path().join("back");
        let params = [
            "miner=f01000".to_owned(),
            "sector=1".to_owned(),
            format!("output={}", back.display()),
        ];
        home.succeeds(&home.start("unseal", &params));
        assert!(
            std::fs::read(&back).unwrap() == std::fs::read(&piece).unwrap(),
            "{name}"
        );
        daemon.stop();
        home.check_store();
    }
}

/// The first half of a proof, for which a sector of 8 MiB needs no parameters.
const VANILLA: &str = r#"
[workflow]
name    = "vanilla"
subject = "deadline"

[params]
miner     = "actor_id"
deadline  = "deadline"
sectors   = "sectors"
partition = "post_partition"

[steps.post_challenge]
[steps.window_post_vanilla]
needs = ["post_challenge"]
"#;

#[test]
fn a_small_part_of_a_sector_is_read() {
    let bucket = Bucket::new();
    let home = &bucket.home;
    let piece = home.file("data.bin", 5_000_000);
    let daemon = home.daemon();
    let shown = home.succeeds(&bucket.seal("bucket", 7, "StackedDrg8MiBV1_1", &piece));
    let output = bucket.proves(7, &step(&shown, "pc2")["output"]["comm_r"]);
    let read = output["post_reads"]["bytes"].as_u64().unwrap();
    let requests = output["post_reads"]["requests"].as_u64().unwrap();
    // Ten challenges, 16 KiB of the replica for each, the tree of 18,720 bytes, and what lies between ranges that are
    // near each other: less than a twenty-fifth of the sector.
    assert!(read * 25 < 8 << 20 && requests <= 14, "{output}");

    let to = home.path().join("unsealed");
    let params = [
        "miner=f01000".to_owned(),
        "sector=7".to_owned(),
        format!("output={}", to.display()),
        "offset=3000000".to_owned(),
        "bytes=1000".to_owned(),
    ];
    home.succeeds(&home.start("unseal", &params));
    assert!(std::fs::read(&to).unwrap() == std::fs::read(&piece).unwrap()[3_000_000..3_001_000]);
    daemon.stop();
    home.check_store();
}

#[test]
#[ignore = "half an hour of two idle cores: just long-post-reads"]
fn a_512_mib_sector_is_proved_from_a_bucket() {
    let bucket = Bucket::new();
    let home = &bucket.home;
    let piece = home.file("data.bin", 100_000_000);
    let daemon = home.daemon();
    let run = bucket.seal("bucket", 8, "StackedDrg512MiBV1_1", &piece);
    wait_hours_for("the sealed sector", || home.status(&run) == "succeeded");
    let shown = home.json(&["run", "show", &run, "--json"]);
    let before = bucket.server.requests();
    let output = bucket.proves(8, &step(&shown, "pc2")["output"]["comm_r"]);
    let requests = bucket.server.requests() - before;
    let read = output["post_reads"]["bytes"].as_u64().unwrap();
    println!(
        "512 MiB: {} of the sector's 536870912 bytes, {requests} requests to the server",
        output["post_reads"]
    );
    assert!(read * 500 < 512 << 20, "{output}");
    daemon.stop();
}

#[test]
fn a_daemon_that_is_killed_while_it_stores_goes_on() {
    let bucket = Bucket::new();
    let home = &bucket.home;
    let piece = home.file("data.bin", 100_000);
    let points = [
        "store.s3.begun",
        "store.s3.before_complete",
        "store.s3.after_complete",
        "store.s3.folder_file",
        "store.s3.before_manifest",
    ];
    for (sector, point) in (10..).zip(points) {
        let plan = format!("{point}=return");
        let daemon = home.daemon_with(&[("SEALFLOW_CRASH_AT", &plan)]);
        let run = bucket.seal("bucket", sector, "StackedDrg8MiBV1_1", &piece);
        daemon.wait();
        let daemon = home.daemon();
        wait_for("the sealed sector", || home.status(&run) == "succeeded");
        daemon.stop();
        nothing_was_done_twice(home, &run);
        home.check_store();
        let notes = std::fs::read_dir(bucket.object(".uploads"));
        assert_eq!(
            notes.map_or(0, Iterator::count),
            0,
            "no upload is left after {point}"
        );
    }
}

#[test]
fn a_bucket_that_refuses_is_named_and_no_secret_told() {
    let bucket = Bucket::new();
    let home = &bucket.home;
    let secret = "wrong/secret/wrong/secret/wrong";
    std::fs::write(home.path().join("wrong"), bucket.server.credentials(secret)).unwrap();
    bucket.configure("wrong", "");
    let piece = home.file("data.bin", 2000);
    let daemon = home.daemon();
    let run = bucket.seal("bucket", 1, "StackedDrg2KiBV1_1", &piece);
    wait_for("the pause", || home.status(&run) == "paused");
    let shown = home.ok(&["run", "show", &run, "--json"]);
    assert!(
        shown.contains("store_refused") && shown.contains("check the store's credentials"),
        "{shown}"
    );
    assert!(!shown.contains(secret) && !home.daemon_log().contains(secret));
    daemon.stop();
    // The right ones, and the server is back after some trouble: it goes on where it stopped.
    bucket.configure("credentials", "allow_miners = [\"f01000\"]\n");
    let put = |method: &str, _: &str| method == "PUT";
    bucket.server.once(put, Trouble::Answer(503, "SlowDown"));
    bucket.server.once(put, Trouble::Drop);
    let daemon = home.daemon();
    home.ok(&["run", "retry", &run]);
    wait_for("the sealed sector", || home.status(&run) == "succeeded");
    daemon.stop();
    home.check_store();
}
