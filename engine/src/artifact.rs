//! Artifacts: large files that a subject owns, and the stores that hold them. Outputs name them;
//! the bytes never pass through the journal.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{AttemptKey, Subject};

/// Where a large file or folder is, and how to know that it is the right one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "artifact")]
pub struct Artifact {
    /// The store that holds it; `scratch` is the host's own working folder.
    pub store: String,
    /// Its place in the store: parts separated by `/`.
    pub key: String,
    /// Its size in bytes (of a folder: of all its files).
    pub bytes: u64,
    /// How its content is known: `sha256:…` of the bytes, or a commitment (`comm_d:…`, `comm_r:…`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Artifact {
    /// The largest file that is brought to another machine when an attempt needs it there.
    pub const MOVABLE: u64 = 256 << 20;

    /// Whether an attempt on another machine may get a copy of it: it is a file that its digest tells whole, and is
    /// not large.
    pub fn is_movable(&self) -> bool {
        self.bytes <= Self::MOVABLE
            && self
                .digest
                .as_ref()
                .is_some_and(|digest| digest.starts_with("sha256:"))
    }
}

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such store.
    #[error("there is no store `{name}`; the configuration has {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The stores that there are.
        known: String,
    },
    /// A key would leave the store, or is not a key at all.
    #[error("`{0}` is not a key: parts between `/` must not be empty or begin with a dot")]
    BadKey(String),
    /// There is nothing under this key.
    #[error("store `{store}` has nothing under `{key}`")]
    Missing {
        /// The store.
        store: String,
        /// The key.
        key: String,
    },
    /// What is there is not what was recorded.
    #[error("`{key}` in store `{store}` is damaged: {what}")]
    Damaged {
        /// The store.
        store: String,
        /// The key.
        key: String,
        /// The difference.
        what: String,
    },
    /// The system refused.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A future that a store returns.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Called with the bytes that are safely there so far.
pub type BytesDone<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// A place that keeps artifacts. Every implementation passes the same conformance suite.
pub trait ArtifactStore: Send + Sync + 'static {
    /// The store's name in artifacts.
    fn name(&self) -> &str;

    /// The local path of a key, if the store has such paths.
    ///
    /// # Errors
    /// A key that is not a key.
    fn local_path(&self, key: &str) -> Result<Option<PathBuf>, StoreError>;

    /// Where the unfinished copy for a key is, if the store has such paths. What a program puts there counts for
    /// [`ArtifactStore::put`] as far as it is the same as the source, byte by byte.
    ///
    /// # Errors
    /// A key that is not a key.
    fn staging(&self, key: &str) -> Result<Option<PathBuf>, StoreError> {
        let _ = key;
        Ok(None)
    }

    /// Copies a file or folder into the store: under a temporary name, checksummed, made durable,
    /// then renamed. A copy that was broken off goes on where it stopped. Doing it again with the
    /// same content changes nothing.
    fn put<'a>(&'a self, key: &'a str, from: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, Artifact>;

    /// Copies out of the store into a new file or folder, and verifies size and checksum.
    fn get<'a>(&'a self, artifact: &'a Artifact, to: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, ()>;

    /// Verifies size, and checksum where one is recorded, of what the store has.
    fn verify<'a>(&'a self, artifact: &'a Artifact) -> StoreFuture<'a, ()>;

    /// Removes what is under the key. It is no error if nothing is there.
    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()>;

    /// Bytes that can still be stored, if the store knows.
    fn free(&self) -> Result<Option<u64>, StoreError>;
}

/// The stores of a process, by name.
#[derive(Clone, Default)]
pub struct Stores(Arc<Vec<Arc<dyn ArtifactStore>>>);

impl Stores {
    /// Takes the stores. The first of two with one name wins.
    pub fn new(stores: Vec<Arc<dyn ArtifactStore>>) -> Self {
        Self(Arc::new(stores))
    }

    /// The store of this name.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn get(&self, name: &str) -> Result<&Arc<dyn ArtifactStore>, StoreError> {
        self.0
            .iter()
            .find(|store| store.name() == name)
            .ok_or_else(|| StoreError::Unknown {
                name: name.to_owned(),
                known: self
                    .0
                    .iter()
                    .map(|store| store.name())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// The local path of an artifact.
    ///
    /// # Errors
    /// An unknown store, or one without local paths.
    pub fn local_path(&self, artifact: &Artifact) -> Result<PathBuf, StoreError> {
        self.get(&artifact.store)?
            .local_path(&artifact.key)?
            .ok_or_else(|| StoreError::Missing {
                store: artifact.store.clone(),
                key: artifact.key.clone(),
            })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn ArtifactStore>> {
        self.0.iter()
    }
}

/// The name of the store that is the host's working folder.
pub const SCRATCH: &str = "scratch";

/// The key, in the scratch store, of the folder that belongs to one attempt alone.
pub fn attempt_folder(subject: &Subject, key: &AttemptKey) -> String {
    format!(
        "{}/{}/{}.{}.{}",
        subject.folder(),
        key.run,
        key.step,
        key.visit,
        key.attempt
    )
}

/// The key, in the scratch store, of the sector's cache directory: shared by the stages from PC1 to
/// C1, bound to the host, used by one attempt at a time.
pub fn cache_folder(subject: &Subject) -> String {
    format!("{}/cache", subject.folder())
}

/// Checks a key that came from outside.
///
/// # Errors
/// [`StoreError::BadKey`] when a part is empty or begins with a dot, or the key is too long.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    let bad = key.len() > 1024
        || key.contains('\\')
        || key.chars().any(char::is_control)
        || key
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'));
    if bad {
        Err(StoreError::BadKey(key.chars().take(80).collect()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside() {
        assert!(check_key("a/b.c").is_ok());
        for bad in ["", "/a", "a/", "a/../b", "..", ".a", "a\\b", "a\n"] {
            assert!(check_key(bad).is_err(), "{bad}");
        }
    }
}
