//! Artifacts: large files that a subject owns, and the stores that hold them. Outputs name them;
//! the bytes never pass through the journal.

pub mod placement;
mod stores;

use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::stores::Stores;
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
    /// The store is there and says no, and will say it again: wrong credentials, no such bucket, a store for reading only.
    #[error("store `{store}` refuses: {what}")]
    Refused {
        /// The store.
        store: String,
        /// Why, and what to do.
        what: String,
    },
    /// The store cannot be had now, or has no room.
    #[error("store `{store}` is not to be had: {what}")]
    Unavailable {
        /// The store.
        store: String,
        /// Why, and what to do.
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

/// One file that a store has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Its path in the folder, with `/` between the parts; empty for a file that is no part of a folder.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// SHA-256 of its content (`sha256:…`) as it was when it was put, if the store remembers that.
    pub digest: Option<String>,
}

/// What a store has under a key, as far as it knows without reading all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The file, or the files of the folder by their paths.
    pub files: Vec<FileStat>,
}

impl Stat {
    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The file of this path in the folder.
    pub fn file(&self, path: &str) -> Option<&FileStat> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// What an operator says of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How much of what may go to several stores goes to this one, against the others.
    pub weight: u32,
    /// Bytes that may be stored in it; without a limit if nothing is said.
    pub capacity: Option<u64>,
    /// Bytes that are to stay free in it.
    pub reserve: u64,
    /// Whether nothing may be written to it.
    pub read_only: bool,
    /// The miners whose sectors may be put here; all if there are none.
    pub allow_miners: Vec<u64>,
    /// The miners whose sectors may not be put here.
    pub deny_miners: Vec<u64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            weight: 1,
            capacity: None,
            reserve: 0,
            read_only: false,
            allow_miners: Vec::new(),
            deny_miners: Vec::new(),
        }
    }
}

impl Policy {
    /// Whether sectors of this miner may be put here.
    pub fn admits(&self, miner: u64) -> bool {
        (self.allow_miners.is_empty() || self.allow_miners.contains(&miner))
            && !self.deny_miners.contains(&miner)
    }
}

/// The most bytes that one [`ArtifactStore::read`] gives.
pub const READ_LIMIT: u64 = 32 << 20;

/// The most names that one [`ArtifactStore::list`] gives.
pub const LIST_LIMIT: usize = 1000;

/// A place that keeps artifacts. Every implementation passes the same conformance suite.
pub trait ArtifactStore: Send + Sync + 'static {
    /// The store's name in artifacts.
    fn name(&self) -> &str;

    /// What kind of store it is: `filesystem`, `s3`.
    fn kind(&self) -> &'static str;

    /// What the operator says of it.
    fn policy(&self) -> &Policy;

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

    /// What is under a key; nothing of it is read. None if nothing is there.
    fn stat<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stat>>;

    /// Reads a range of one file, at most [`READ_LIMIT`] bytes: of the file under the key if `file` is empty, else of
    /// the file of this path in the folder under the key. A range that is not wholly in the file is
    /// [`StoreError::Damaged`].
    fn read<'a>(&'a self, key: &'a str, file: &'a str, range: Range<u64>) -> StoreFuture<'a, Vec<u8>>;

    /// The names right below a key (below the root if it is empty), in order, those after `after`; at most
    /// [`LIST_LIMIT`]. None if nothing is there.
    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> StoreFuture<'a, Vec<String>>;

    /// Copies a file or folder to another key in the same store.
    fn copy<'a>(&'a self, from: &'a str, to: &'a str) -> StoreFuture<'a, Artifact>;

    /// Bytes that can still be stored, if the store knows: without what the operator reserves.
    fn free(&self) -> StoreFuture<'_, Option<u64>>;

    /// The names of the store's marks, in order.
    fn marks(&self) -> StoreFuture<'_, Vec<String>>;

    /// The content of a mark: a small file of the store that no key names, and that all machines see. A name is one
    /// part of a key.
    fn mark<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Vec<u8>>>;

    /// Writes a mark, durably, or takes it away.
    fn set_mark<'a>(&'a self, name: &'a str, content: Option<&'a [u8]>) -> StoreFuture<'a, ()>;

    /// Takes what is under a key out of sight, into the store's trash. Doing it again after it was broken off ends
    /// it. What was only half put is removed. `at_ms` is the time now, in milliseconds since 1970.
    fn trash<'a>(&'a self, key: &'a str, at_ms: u64) -> StoreFuture<'a, ()>;

    /// What is in the trash, the oldest first.
    fn trashed(&self) -> StoreFuture<'_, Vec<Trashed>>;

    /// Puts what is in the trash back under its key. There must be nothing under the key.
    fn untrash<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()>;

    /// Removes something from the trash for good.
    fn discard<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()>;
}

/// The mark of a store that is being emptied: nothing new is put there.
pub const DRAINING: &str = "draining";

/// What begins the name of the mark of something that is being put: `putting.s-t01000-7`.
pub const PUTTING: &str = "putting.";

/// Something in a store's trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trashed {
    /// Its name in the trash.
    pub id: String,
    /// The key that it had.
    pub key: String,
    /// When it was put there, in milliseconds since 1970.
    pub at_ms: u64,
    /// Its bytes; nothing if it never came there, because the move was broken off.
    pub bytes: u64,
}

impl Trashed {
    /// The name in the trash of what had this key: the time, and what tells keys apart.
    pub fn id(key: &str, at_ms: u64) -> String {
        let hash = hex::encode(Sha256::digest(key));
        format!("{at_ms:014}-{}", &hash[..16])
    }

    /// Checks a name that came from outside.
    ///
    /// # Errors
    /// [`StoreError::BadKey`].
    pub fn check(id: &str) -> Result<(), StoreError> {
        match Self::time(id) {
            Some(_) => Ok(()),
            None => Err(StoreError::BadKey(id.chars().take(80).collect())),
        }
    }

    /// The time in a name; nothing if it is no such name.
    pub fn time(id: &str) -> Option<u64> {
        let (time, hash) = id.split_once('-')?;
        let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        time.parse().ok().filter(|_| is_hash)
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

/// Checks the path of a file in a folder: parts between `/`, none of them empty or a step up.
///
/// # Errors
/// [`StoreError::BadKey`].
pub fn check_file(path: &str) -> Result<(), StoreError> {
    let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
    if path.len() > 1024 || path.chars().any(char::is_control) || path.split('/').any(bad_part) {
        return Err(StoreError::BadKey(path.chars().take(80).collect()));
    }
    Ok(())
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

/// Checks the name of a mark: one part of a key.
///
/// # Errors
/// [`StoreError::BadKey`].
pub fn check_mark(name: &str) -> Result<(), StoreError> {
    check_key(name)?;
    if name.contains('/') || name.len() > 200 {
        return Err(StoreError::BadKey(name.chars().take(80).collect()));
    }
    Ok(())
}

/// The failure of what is to be taken out of the trash while its key is in use.
pub fn key_in_use(store: &str, key: &str) -> StoreError {
    StoreError::Refused {
        store: store.to_owned(),
        what: format!("`{key}` is in use again; move that away first"),
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
