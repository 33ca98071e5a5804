//! The filesystem store obeys the law of artifact stores, resumes copies and keeps to its root.

use sealflow_engine::artifact::{ArtifactStore, StoreError};
use sealflow_engine::testing::artifact_store_suite;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::FilesystemStore;

#[tokio::test(flavor = "multi_thread")]
async fn obeys_the_law_of_artifact_stores() {
    let folder = TempDir::new().unwrap();
    let count = std::cell::Cell::new(0);
    let fresh = async || {
        count.set(count.get() + 1);
        FilesystemStore::new("archive", folder.path().join(format!("store-{}", count.get()))).unwrap()
    };
    artifact_store_suite(fresh, &folder.path().join("local")).await;
}

#[tokio::test]
async fn broken_off_copy_goes_on() {
    let folder = TempDir::new().unwrap();
    let store = FilesystemStore::new("archive", folder.path().join("store")).unwrap();
    let content: Vec<u8> = (0..5_000_000_u32)
        .map(|n| u8::try_from(n % 253).unwrap())
        .collect();
    let from = folder.path().join("in");
    std::fs::write(&from, &content).unwrap();
    let unfinished = folder
        .path()
        .join("store/.tmp")
        .join(hex::encode(Sha256::digest("a/b")));
    std::fs::create_dir_all(unfinished.parent().unwrap()).unwrap();
    // The last bytes that a crash left need not be those that were written.
    let mut half = content[..3_000_000].to_vec();
    half[2_900_000..].fill(0);
    std::fs::write(&unfinished, &half).unwrap();
    let first = std::sync::Mutex::new(None);
    let note = |bytes| {
        first.lock().unwrap().get_or_insert(bytes);
    };
    let artifact = store.put("a/b", &from, &note).await.unwrap();
    let first = first.lock().unwrap().unwrap();
    assert!((2_900_000..2_901_000).contains(&first), "it began at {first}");
    assert_eq!(
        artifact.digest,
        Some(format!("sha256:{}", hex::encode(Sha256::digest(&content))))
    );
    assert_eq!(std::fs::read(folder.path().join("store/a/b")).unwrap(), content);
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn leftover_of_another_folder_does_not_leak_in() {
    let folder = TempDir::new().unwrap();
    let store = FilesystemStore::new("archive", folder.path().join("store")).unwrap();
    let unfinished = folder
        .path()
        .join("store/.tmp")
        .join(hex::encode(Sha256::digest("a/b")));
    std::fs::create_dir_all(unfinished.join("sub")).unwrap();
    std::fs::write(unfinished.join("sub/stale"), b"stale").unwrap();
    let from = folder.path().join("in");
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("new"), b"new").unwrap();
    let artifact = store.put("a/b", &from, &|_| {}).await.unwrap();
    store.verify(&artifact).await.unwrap();
    assert!(!folder.path().join("store/a/b/sub/stale").exists());
}

#[cfg(unix)]
#[tokio::test]
async fn links_do_not_lead_out() {
    let folder = TempDir::new().unwrap();
    let store = FilesystemStore::new("archive", folder.path().join("store")).unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink(&outside, folder.path().join("store/link")).unwrap();
    let from = folder.path().join("in");
    std::fs::write(&from, b"x").unwrap();
    assert!(store.put("link/x", &from, &|_| {}).await.is_err());
    assert!(store.delete("link/secret").await.is_err());
    assert!(store.local_path("link/secret").is_err());
    assert!(outside.join("secret").exists() && !outside.join("x").exists());
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), tree.join("link")).unwrap();
    let error = store.put("a/tree", &tree, &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("link"), "{error}");
}

#[tokio::test]
async fn changed_bytes_are_noticed_and_errors_name_the_path() {
    let folder = TempDir::new().unwrap();
    let store = FilesystemStore::new("archive", folder.path().join("store")).unwrap();
    let from = folder.path().join("in");
    std::fs::write(&from, b"abc").unwrap();
    let artifact = store.put("a/b", &from, &|_| {}).await.unwrap();
    std::fs::write(folder.path().join("store/a/b"), b"abd").unwrap();
    assert!(matches!(
        store.verify(&artifact).await,
        Err(StoreError::Damaged { .. })
    ));
    // Putting it again repairs it.
    assert_eq!(store.put("a/b", &from, &|_| {}).await.unwrap(), artifact);
    store.verify(&artifact).await.unwrap();
    // A file where a folder must be.
    let error = store.put("a/b/c", &from, &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("store/a/b"), "{error}");
    assert!(store.free().await.unwrap().unwrap() > 0);
}
