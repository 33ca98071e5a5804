//! The law of artifact stores: what every implementation of [`ArtifactStore`] does. Each check gets an
//! empty store, and a folder of its own for local files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::artifact::{Artifact, ArtifactStore, READ_LIMIT, StoreError};

/// Runs every check. `fresh` makes an empty store; `folder` is an empty local folder.
///
/// # Panics
/// When the store breaks the law.
pub async fn artifact_store_suite<S: ArtifactStore>(fresh: impl AsyncFn() -> S, folder: &Path) {
    let local = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).expect("a folder");
        path
    };
    files_come_back(&fresh().await, &local("files")).await;
    folders_come_back(&fresh().await, &local("folders")).await;
    same_content_changes_nothing(&fresh().await, &local("same")).await;
    other_content_replaces(&fresh().await, &local("other")).await;
    what_is_not_there(&fresh().await, &local("missing")).await;
    wrong_records_are_noticed(&fresh().await, &local("wrong")).await;
    keys_stay_inside(&fresh().await, &local("keys")).await;
    ranges_come_back(&fresh().await, &local("ranges")).await;
    what_is_there_is_listed(&fresh().await, &local("list")).await;
    copies_are_alike(&fresh().await, &local("copies")).await;
    marks_are_seen(&fresh().await).await;
    trash_is_out_of_sight(&fresh().await, &local("trash")).await;
}

async fn marks_are_seen(store: &impl ArtifactStore) {
    assert_eq!(store.mark("draining").await.expect("asking"), None);
    store.set_mark("draining", Some(b"why")).await.expect("marking");
    store
        .set_mark("draining", Some(b"because"))
        .await
        .expect("marking again");
    store
        .set_mark("putting.s-t01000-7", Some(b"{}"))
        .await
        .expect("marking");
    assert_eq!(
        store.mark("draining").await.expect("asking").as_deref(),
        Some(&b"because"[..])
    );
    assert_eq!(
        store.marks().await.expect("listing"),
        ["draining", "putting.s-t01000-7"]
    );
    assert!(
        store.list("", None).await.expect("listing").is_empty(),
        "marks are no keys"
    );
    store.set_mark("draining", None).await.expect("taking away");
    store
        .set_mark("draining", None)
        .await
        .expect("it is no error if it is not there");
    assert_eq!(store.marks().await.expect("listing"), ["putting.s-t01000-7"]);
    for bad in ["", "a/b", ".a", "../x"] {
        assert!(
            matches!(store.set_mark(bad, Some(b"x")).await, Err(StoreError::BadKey(_))),
            "{bad}"
        );
        assert!(
            matches!(store.mark(bad).await, Err(StoreError::BadKey(_))),
            "{bad}"
        );
    }
}

async fn trash_is_out_of_sight(store: &impl ArtifactStore, folder: &Path) {
    let one = file(folder, "one", &noise(100_000, 1));
    let cache = folder.join("cache");
    file(&cache, "p_aux", &noise(64, 2));
    file(&cache, "deep/tree", &noise(5000, 3));
    let sealed = put(store, "sealed/s-t01000-7", &one).await;
    let kept = put(store, "cache/s-t01000-7", &cache).await;
    store.trash("sealed/s-t01000-7", 1000).await.expect("trashing");
    store.trash("cache/s-t01000-7", 2000).await.expect("trashing");
    // It is no error if nothing is there, or not any more.
    store
        .trash("cache/s-t01000-7", 3000)
        .await
        .expect("trashing again");
    store
        .trash("update/s-t01000-7", 3000)
        .await
        .expect("trashing nothing");
    for key in ["sealed/s-t01000-7", "cache/s-t01000-7"] {
        assert_eq!(store.stat(key).await.expect("asking"), None, "{key}");
    }
    assert!(
        !store
            .list("", None)
            .await
            .expect("listing")
            .iter()
            .any(|name| name.contains("trash"))
    );
    let there = store.trashed().await.expect("listing");
    let keys: Vec<(&str, u64, u64)> = there
        .iter()
        .map(|one| (one.key.as_str(), one.at_ms, one.bytes))
        .collect();
    assert_eq!(
        keys,
        [
            ("sealed/s-t01000-7", 1000, 100_000),
            ("cache/s-t01000-7", 2000, 5064)
        ]
    );
    // It comes back as it was, but not over something else.
    put(store, "sealed/s-t01000-7", &file(folder, "two", &noise(10, 4))).await;
    assert!(matches!(
        store.untrash(&there[0].id).await,
        Err(StoreError::Refused { .. })
    ));
    store.delete("sealed/s-t01000-7").await.expect("deleting");
    for one in &there {
        store.untrash(&one.id).await.expect("taking back");
    }
    store.verify(&sealed).await.expect("verifying");
    store.verify(&kept).await.expect("verifying");
    assert!(store.trashed().await.expect("listing").is_empty());
    // What is discarded is gone, and nothing else.
    store.trash("cache/s-t01000-7", 4000).await.expect("trashing");
    let there = store.trashed().await.expect("listing");
    store.discard(&there[0].id).await.expect("discarding");
    store
        .discard(&there[0].id)
        .await
        .expect("it is no error if it is gone");
    assert!(store.trashed().await.expect("listing").is_empty());
    store.verify(&sealed).await.expect("verifying");
    for bad in ["../sealed", "x", "", "1-2/../.."] {
        assert!(
            store.discard(bad).await.is_err() && store.untrash(bad).await.is_err(),
            "{bad}"
        );
    }
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, bytes).expect("writing");
    path
}

fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(state >> 24).unwrap_or(0)
    };
    (0..length).map(|_| next()).collect()
}

async fn put(store: &impl ArtifactStore, key: &str, from: &Path) -> Artifact {
    store.put(key, from, &|_| {}).await.expect("putting")
}

async fn files_come_back(store: &impl ArtifactStore, folder: &Path) {
    for (n, length) in [0, 1, 100_000, 3_500_000].into_iter().enumerate() {
        let content = noise(length, u32::try_from(n).unwrap_or(0));
        let from = file(folder, &format!("in-{n}"), &content);
        let seen = AtomicU64::new(0);
        let key = format!("f01000-7/sealed-{n}");
        let artifact = store
            .put(&key, &from, &|bytes| seen.store(bytes, Ordering::Relaxed))
            .await
            .expect("putting");
        assert_eq!(
            (artifact.store.as_str(), artifact.key.as_str()),
            (store.name(), key.as_str())
        );
        assert_eq!(artifact.bytes, length as u64);
        assert_eq!(seen.into_inner(), length as u64, "the last report is the whole");
        assert!(
            artifact
                .digest
                .as_ref()
                .is_some_and(|digest| digest.starts_with("sha256:"))
        );
        store.verify(&artifact).await.expect("verifying");
        let to = folder.join(format!("out-{n}"));
        store.get(&artifact, &to, &|_| {}).await.expect("getting");
        assert_eq!(std::fs::read(&to).expect("reading"), content);
        if let Some(path) = store.local_path(&key).expect("a path") {
            assert_eq!(std::fs::read(path).expect("reading"), content);
        }
    }
    store.free().await.expect("the free space");
}

async fn folders_come_back(store: &impl ArtifactStore, folder: &Path) {
    let from = folder.join("cache");
    for (name, length) in [
        ("p_aux", 64),
        ("layer-1.dat", 2_000_000),
        ("trees/c/0", 10),
        ("empty", 0),
    ] {
        file(&from, name, &noise(length, 7));
    }
    let artifact = put(store, "f01000-7/cache", &from).await;
    assert_eq!(artifact.bytes, 2_000_074);
    store.verify(&artifact).await.expect("verifying");
    let to = folder.join("back");
    store.get(&artifact, &to, &|_| {}).await.expect("getting");
    for (name, length) in [
        ("p_aux", 64),
        ("layer-1.dat", 2_000_000),
        ("trees/c/0", 10),
        ("empty", 0),
    ] {
        assert_eq!(
            std::fs::read(to.join(name)).expect("reading"),
            noise(length, 7),
            "{name}"
        );
    }
    // A name is part of the content.
    std::fs::rename(from.join("p_aux"), from.join("t_aux")).expect("renaming");
    let renamed = put(store, "f01000-7/cache", &from).await;
    assert_ne!(renamed.digest, artifact.digest);
    assert!(matches!(
        store.verify(&artifact).await,
        Err(StoreError::Damaged { .. })
    ));
    store.verify(&renamed).await.expect("verifying");
    let again = folder.join("back-again");
    store.get(&renamed, &again, &|_| {}).await.expect("getting");
    assert!(again.join("t_aux").is_file() && !again.join("p_aux").exists());
}

async fn same_content_changes_nothing(store: &impl ArtifactStore, folder: &Path) {
    let from = file(folder, "in", &noise(1_500_000, 1));
    let first = put(store, "a/b", &from).await;
    assert_eq!(put(store, "a/b", &from).await, first);
    let elsewhere = put(store, "a/c", &from).await;
    assert_eq!(elsewhere.digest, first.digest);
}

async fn other_content_replaces(store: &impl ArtifactStore, folder: &Path) {
    let long = file(folder, "long", &noise(1_500_000, 1));
    let short = file(folder, "short", &noise(10, 2));
    let old = put(store, "a/b", &long).await;
    let new = put(store, "a/b", &short).await;
    assert_eq!(new.bytes, 10);
    store.verify(&new).await.expect("verifying");
    assert!(matches!(
        store.verify(&old).await,
        Err(StoreError::Damaged { .. })
    ));
    let to = folder.join("out");
    assert!(matches!(
        store.get(&old, &to, &|_| {}).await,
        Err(StoreError::Damaged { .. })
    ));
    assert!(!to.exists(), "what is damaged gets no name");
}

async fn what_is_not_there(store: &impl ArtifactStore, folder: &Path) {
    let from = file(folder, "in", b"x");
    let artifact = put(store, "a/b", &from).await;
    store.delete("a/b").await.expect("deleting");
    store.delete("a/b").await.expect("deleting what is gone");
    store
        .delete("never/there")
        .await
        .expect("deleting what never was");
    assert!(matches!(
        store.verify(&artifact).await,
        Err(StoreError::Missing { .. })
    ));
    assert!(matches!(
        store.get(&artifact, &folder.join("out"), &|_| {}).await,
        Err(StoreError::Missing { .. })
    ));
    let tree = folder.join("tree");
    file(&tree, "x/y", b"z");
    put(store, "a/tree", &tree).await;
    store.delete("a/tree").await.expect("deleting a folder");
    assert!(store.put("a/none", &folder.join("none"), &|_| {}).await.is_err());
    assert_eq!(put(store, "a/b", &from).await, artifact);
}

async fn wrong_records_are_noticed(store: &impl ArtifactStore, folder: &Path) {
    let from = file(folder, "in", &noise(1000, 3));
    let artifact = put(store, "a/b", &from).await;
    let longer = Artifact {
        bytes: 1001,
        ..artifact.clone()
    };
    let other = Artifact {
        digest: Some(format!("sha256:{}", "0".repeat(64))),
        ..artifact.clone()
    };
    for wrong in [longer, other] {
        assert!(
            matches!(store.verify(&wrong).await, Err(StoreError::Damaged { .. })),
            "{wrong:?}"
        );
    }
    // A commitment says nothing about the bytes; the size still does.
    let committed = Artifact {
        digest: Some("comm_r:00".to_owned()),
        ..artifact.clone()
    };
    store.verify(&committed).await.expect("verifying");
    store
        .verify(&Artifact {
            digest: None,
            ..artifact
        })
        .await
        .expect("verifying");
    let there = file(folder, "there", b"mine");
    let artifact = put(store, "a/b", &from).await;
    assert!(
        store.get(&artifact, &there, &|_| {}).await.is_err(),
        "a file that is there is not overwritten"
    );
    assert_eq!(std::fs::read(&there).expect("reading"), b"mine");
}

async fn keys_stay_inside(store: &impl ArtifactStore, folder: &Path) {
    let from = file(folder, "in", b"x");
    for key in [
        "",
        "/etc/passwd",
        "../a",
        "a/../../b",
        "a//b",
        ".tmp/a",
        "a\\b",
        "a\n",
    ] {
        let refused = store.put(key, &from, &|_| {}).await;
        assert!(
            matches!(refused, Err(StoreError::BadKey(_))),
            "{key}: {refused:?}"
        );
        assert!(
            matches!(store.delete(key).await, Err(StoreError::BadKey(_))),
            "{key}"
        );
        assert!(
            matches!(store.local_path(key), Err(StoreError::BadKey(_))),
            "{key}"
        );
        let artifact = Artifact {
            store: store.name().to_owned(),
            key: key.to_owned(),
            bytes: 1,
            digest: None,
        };
        assert!(
            matches!(store.verify(&artifact).await, Err(StoreError::BadKey(_))),
            "{key}"
        );
    }
}

async fn ranges_come_back(store: &impl ArtifactStore, folder: &Path) {
    let content = noise(300_000, 5);
    let from = file(folder, "in", &content);
    put(store, "a/b", &from).await;
    for range in [0..1, 0..300_000, 299_999..300_000, 1000..1000, 4095..70_001] {
        let read = store.read("a/b", "", range.clone()).await.expect("reading");
        let wanted = usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small");
        assert!(read == content[wanted], "{range:?}");
    }
    for outside in [299_999..300_001, 400_000..400_010] {
        let read = store.read("a/b", "", outside.clone()).await;
        assert!(
            matches!(read, Err(StoreError::Damaged { .. })),
            "{outside:?}: {:?}",
            read.map(|bytes| bytes.len())
        );
    }
    assert!(
        store.read("a/b", "", 0..READ_LIMIT + 1).await.is_err(),
        "one read is bounded"
    );
    assert!(matches!(
        store.read("a/none", "", 0..1).await,
        Err(StoreError::Missing { .. })
    ));
    let tree = folder.join("tree");
    file(&tree, "x/y", b"0123456789");
    put(store, "a/tree", &tree).await;
    assert_eq!(store.read("a/tree", "x/y", 3..6).await.expect("reading"), b"345");
    assert!(matches!(
        store.read("a/tree", "x/z", 0..1).await,
        Err(StoreError::Missing { .. })
    ));
    for bad in ["../b", "/etc/passwd", "x//y", "x/../../b"] {
        let read = store.read("a/tree", bad, 0..1).await;
        assert!(matches!(read, Err(StoreError::BadKey(_))), "{bad}: {read:?}");
    }
}

async fn what_is_there_is_listed(store: &impl ArtifactStore, folder: &Path) {
    assert_eq!(store.stat("a/b").await.expect("looking"), None);
    assert!(store.list("", None).await.expect("listing").is_empty());
    assert!(store.list("a", None).await.expect("listing").is_empty());
    let from = file(folder, "in", &noise(1000, 5));
    let artifact = put(store, "a/b", &from).await;
    let stat = store.stat("a/b").await.expect("looking").expect("a file");
    assert_eq!((stat.is_folder, stat.bytes(), stat.files.len()), (false, 1000, 1));
    assert_eq!(stat.files[0].path, "");
    let digest = &stat.files[0].digest;
    assert!(
        digest.is_none() || *digest == artifact.digest,
        "a digest that is remembered is the right one"
    );
    let tree = folder.join("tree");
    file(&tree, "p_aux", &noise(64, 1));
    file(&tree, "x/y", &noise(10, 2));
    put(store, "a/tree", &tree).await;
    let stat = store.stat("a/tree").await.expect("looking").expect("a folder");
    assert_eq!((stat.is_folder, stat.bytes()), (true, 74));
    let paths: Vec<_> = stat.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["p_aux", "x/y"]);
    put(store, "c", &from).await;
    assert_eq!(store.list("", None).await.expect("listing"), ["a", "c"]);
    assert_eq!(store.list("a", None).await.expect("listing"), ["b", "tree"]);
    assert_eq!(store.list("a", Some("b")).await.expect("listing"), ["tree"]);
    store.delete("a/tree").await.expect("deleting");
    assert_eq!(store.stat("a/tree").await.expect("looking"), None);
    assert_eq!(store.list("a", None).await.expect("listing"), ["b"]);
    assert!(matches!(store.stat("../a").await, Err(StoreError::BadKey(_))));
    assert!(matches!(
        store.list("../a", None).await,
        Err(StoreError::BadKey(_))
    ));
}

async fn copies_are_alike(store: &impl ArtifactStore, folder: &Path) {
    let from = file(folder, "in", &noise(100_000, 9));
    let artifact = put(store, "a/b", &from).await;
    let copy = store.copy("a/b", "d/e").await.expect("copying");
    assert_eq!((copy.bytes, &copy.digest), (artifact.bytes, &artifact.digest));
    store.verify(&copy).await.expect("verifying");
    let tree = folder.join("tree");
    file(&tree, "x/y", &noise(10, 2));
    let artifact = put(store, "a/tree", &tree).await;
    let copy = store.copy("a/tree", "d/tree").await.expect("copying");
    assert_eq!(copy.digest, artifact.digest);
    store.delete("a/tree").await.expect("deleting");
    store.verify(&copy).await.expect("verifying");
    assert!(matches!(
        store.copy("a/none", "d/none").await,
        Err(StoreError::Missing { .. })
    ));
    assert!(matches!(
        store.copy("a/b", "../e").await,
        Err(StoreError::BadKey(_))
    ));
}
