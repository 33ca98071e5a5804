//! The S3 store against a real server: the law of artifact stores, uploads that are broken off, troubles of the server,
//! and what is said about them.

use std::path::PathBuf;
use std::time::Duration;

use sealflow_engine::artifact::{ArtifactStore, Policy, StoreError};
use sealflow_engine::testing::artifact_store_suite;
use tempfile::TempDir;

use super::{CredentialSource, S3Settings, S3Store};
use crate::testing::{BUCKET, S3Server, SECRET_KEY, Trouble};

const MIB: usize = 1 << 20;

struct Fixture {
    folder: TempDir,
    server: S3Server,
}

impl Fixture {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let server = S3Server::start(&folder.path().join("server")).await;
        let fixture = Self { folder, server };
        let text = fixture.server.credentials(SECRET_KEY);
        std::fs::write(fixture.path("credentials"), text).unwrap();
        fixture
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self) -> S3Settings {
        S3Settings {
            endpoint: Some(self.server.endpoint.clone()),
            path_style: true,
            credentials: CredentialSource::File {
                path: self.path("credentials"),
                profile: None,
            },
            timeout: Duration::from_secs(10),
            part_bytes: S3Settings::SMALLEST_PART,
            ..S3Settings::new(BUCKET)
        }
    }

    fn store(&self) -> S3Store {
        self.store_with(self.settings())
    }

    fn store_with(&self, settings: S3Settings) -> S3Store {
        S3Store::new("remote", settings, Policy::default()).unwrap()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..4]);
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn obeys_the_law_of_artifact_stores() {
    let fixture = Fixture::start().await;
    let count = std::cell::Cell::new(0);
    let fresh = async || {
        count.set(count.get() + 1);
        fixture.store_with(S3Settings {
            prefix: format!("here/store-{}", count.get()),
            ..fixture.settings()
        })
    };
    artifact_store_suite(fresh, &fixture.path("local")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_go_in_parts_and_a_broken_off_upload_goes_on() {
    let fixture = Fixture::start().await;
    let content = noise(23 * MIB);
    let from = fixture.file("in", &content);
    // One request at a time: what is there when it breaks off is known.
    let settings = S3Settings {
        concurrency: 1,
        attempts: 1,
        ..fixture.settings()
    };
    let store = fixture.store_with(settings.clone());
    let third = |method: &str, path: &str| method == "PUT" && path.contains("partNumber=3");
    fixture.server.always(third, Trouble::Drop);
    let error = store.put("a/b", &from, &|_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(store.stat("a/b").await.unwrap(), None, "half of it has no name");
    fixture.server.heal();
    // Another process goes on: nothing is known but what the store has.
    let first = std::sync::Mutex::new(None);
    let note = |bytes: u64| {
        first.lock().unwrap().get_or_insert(bytes);
    };
    let store = fixture.store_with(settings);
    let artifact = store.put("a/b", &from, &note).await.unwrap();
    assert_eq!(
        *first.lock().unwrap(),
        Some(10 * MIB as u64),
        "two parts were there"
    );
    assert_eq!(std::fs::read(fixture.server.object("a/b")).unwrap(), content);
    let notes = std::fs::read_dir(fixture.server.object(".uploads"));
    assert_eq!(notes.map_or(0, Iterator::count), 0, "no note is left");
    store.verify(&artifact).await.unwrap();
    let before = fixture.server.requests();
    assert_eq!(store.put("a/b", &from, &|_| {}).await.unwrap(), artifact);
    assert_eq!(
        fixture.server.requests() - before,
        3,
        "what is there is not sent again"
    );
    let to = fixture.path("out");
    store.get(&artifact, &to, &|_| {}).await.unwrap();
    assert_eq!(std::fs::read(to).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_server_forgets_is_begun_anew() {
    let fixture = Fixture::start().await;
    let store = fixture.store();
    let content = noise(7 * MIB);
    let from = fixture.file("in", &content);
    let complete = |method: &str, path: &str| method == "POST" && path.contains("uploadId=");
    fixture
        .server
        .once(complete, Trouble::Answer(404, "NoSuchUpload"));
    let artifact = store.put("a/b", &from, &|_| {}).await.unwrap();
    store.verify(&artifact).await.unwrap();
    assert_eq!(std::fs::read(fixture.server.object("a/b")).unwrap(), content);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_content_ends_the_upload_of_the_first() {
    let fixture = Fixture::start().await;
    let store = fixture.store_with(S3Settings {
        concurrency: 1,
        attempts: 1,
        ..fixture.settings()
    });
    let content = noise(12 * MIB);
    let from = fixture.file("in", &content);
    let second = |method: &str, path: &str| method == "PUT" && path.contains("partNumber=2");
    fixture.server.always(second, Trouble::Drop);
    store.put("a/b", &from, &|_| {}).await.unwrap_err();
    let parts = || {
        let root = fixture.path("server");
        let names = std::fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().contains(".upload_id-"))
            .count()
    };
    assert_eq!(parts(), 1);
    fixture.server.heal();
    // The upload is also ended when what it was for is deleted.
    store.delete("a/b").await.unwrap();
    assert_eq!(parts(), 0);
    fixture.server.always(second, Trouble::Drop);
    store.put("a/b", &from, &|_| {}).await.unwrap_err();
    fixture.server.heal();
    let mut other = content.clone();
    other[7] ^= 1;
    let from = fixture.file("in", &other);
    let artifact = store.put("a/b", &from, &|_| {}).await.unwrap();
    assert_eq!(parts(), 0);
    store.verify(&artifact).await.unwrap();
    assert_eq!(std::fs::read(fixture.server.object("a/b")).unwrap(), other);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_folder_is_not_there() {
    let fixture = Fixture::start().await;
    let store = fixture.store_with(S3Settings {
        attempts: 1,
        ..fixture.settings()
    });
    fixture.file("cache/p_aux", b"1");
    fixture.file("cache/t_aux", b"22");
    let last = |method: &str, path: &str| method == "PUT" && path.contains(".folder.json");
    fixture.server.always(last, Trouble::Answer(500, "InternalError"));
    store
        .put("cache/s", &fixture.path("cache"), &|_| {})
        .await
        .unwrap_err();
    assert!(fixture.server.object("cache/s/p_aux").exists());
    assert_eq!(store.stat("cache/s").await.unwrap(), None);
    fixture.server.heal();
    let artifact = store
        .put("cache/s", &fixture.path("cache"), &|_| {})
        .await
        .unwrap();
    store.verify(&artifact).await.unwrap();
    // Changed below us.
    std::fs::write(fixture.server.object("cache/s/t_aux"), b"23").unwrap();
    assert!(matches!(
        store.verify(&artifact).await,
        Err(StoreError::Damaged { .. })
    ));
    std::fs::remove_file(fixture.server.object("cache/s/t_aux")).unwrap();
    assert!(matches!(
        store.verify(&artifact).await,
        Err(StoreError::Missing { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_troubles_pass() {
    let fixture = Fixture::start().await;
    let store = fixture.store();
    let from = fixture.file("in", &noise(1000));
    let any = |_: &str, _: &str| true;
    for trouble in [
        Trouble::Answer(503, "SlowDown"),
        Trouble::Answer(500, "InternalError"),
        Trouble::Drop,
        Trouble::Answer(400, "RequestTimeout"),
    ] {
        fixture.server.once(any, trouble.clone());
        let artifact = store.put("a/b", &from, &|_| {}).await.unwrap();
        fixture.server.once(any, trouble);
        assert_eq!(store.read("a/b", "", 1..10).await.unwrap(), noise(1000)[1..10]);
        store.verify(&artifact).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_left_alone() {
    let fixture = Fixture::start().await;
    let store = fixture.store_with(S3Settings {
        timeout: Duration::from_millis(200),
        attempts: 3,
        ..fixture.settings()
    });
    let from = fixture.file("in", b"x");
    store.put("a/b", &from, &|_| {}).await.unwrap();
    fixture
        .server
        .always(|_, _| true, Trouble::Late(Duration::from_secs(60)));
    let error = store.read("a/b", "", 0..1).await.unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    let asked = fixture.server.requests();
    let error = store.read("a/b", "", 0..1).await.unwrap_err();
    assert!(error.to_string().contains("left alone"), "{error}");
    assert!(matches!(error, StoreError::Unavailable { .. }));
    assert_eq!(fixture.server.requests(), asked, "nothing is asked of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_says_what_to_do_and_no_secret() {
    let fixture = Fixture::start().await;
    let secret = "wrong/secret/wrong/secret";
    let refused = async |settings: S3Settings, advice: &str| {
        let store = fixture.store_with(settings);
        let error = store.stat("a/b").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        let text = format!("{error} {error:?} {store:?}");
        assert!(text.contains(advice), "{text}");
        assert!(!text.contains(secret) && !text.contains(SECRET_KEY), "{text}");
    };
    let wrong = fixture.file("wrong", fixture.server.credentials(secret).as_bytes());
    let file = |path| CredentialSource::File { path, profile: None };
    let with = |credentials| S3Settings {
        credentials,
        ..fixture.settings()
    };
    refused(with(file(wrong)), "credentials").await;
    refused(
        with(file(fixture.path("none"))),
        "none must have a profile `default`",
    )
    .await;
    let nonsense = fixture.file("nonsense", format!("[default]\n{secret}\n").as_bytes());
    refused(with(file(nonsense)), "no credentials").await;
    refused(with(CredentialSource::Anonymous), "credentials").await;
    let bucket = S3Settings {
        bucket: "nobody-made-it".to_owned(),
        ..fixture.settings()
    };
    let store = fixture.store_with(bucket);
    let error = store.list("", None).await.unwrap_err();
    assert!(error.to_string().contains("make the bucket"), "{error}");
    fixture
        .server
        .always(|_, _| true, Trouble::Answer(403, "RequestTimeTooSkewed"));
    refused(fixture.settings(), "clock").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn room_and_rights_are_kept() {
    let fixture = Fixture::start().await;
    let from = fixture.file("in", &noise(1000));
    let policy = Policy {
        capacity: Some(2500),
        reserve: 400,
        ..Policy::default()
    };
    let store = S3Store::new("remote", fixture.settings(), policy.clone()).unwrap();
    store.put("a/b", &from, &|_| {}).await.unwrap();
    store.put("a/c", &from, &|_| {}).await.unwrap();
    let error = store.put("a/d", &from, &|_| {}).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(store.free().await.unwrap(), Some(100));
    let read_only = Policy {
        read_only: true,
        ..Policy::default()
    };
    let store = S3Store::new("remote", fixture.settings(), read_only).unwrap();
    for error in [
        store.put("a/e", &from, &|_| {}).await.unwrap_err(),
        store.delete("a/b").await.unwrap_err(),
        store.copy("a/b", "a/e").await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("reading only"), "{error}");
    }
    assert_eq!(store.read("a/b", "", 0..4).await.unwrap(), noise(4));
}
