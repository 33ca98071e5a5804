//! Values that are too large for the store: files named by the SHA-256 of their content, durable
//! before the commit that names them, and removed when no entry names them any more.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sealflow_engine::journal::JournalError;
use sealflow_engine::{crash, durable};
use sha2::{Digest, Sha256};

use super::error::{OpenError, corrupt};

/// Where unfinished files are. What is there when a daemon starts was left behind by a crash.
const UNFINISHED: &str = ".tmp";

/// How long a payload is kept although nothing names it: the commit that does may be on its way.
const GRACE: Duration = Duration::from_secs(3600);

/// A folder of payload files: `ab/cdef…`.
#[derive(Debug, Clone)]
pub(super) struct PayloadFolder {
    root: PathBuf,
    /// When this process stored what it stored lately, new or not. Held while a file is looked for to be
    /// stored, and while one is removed.
    stored: Arc<Mutex<HashMap<String, Instant>>>,
}

impl PayloadFolder {
    /// Takes the folder. To write, it is made if it is not there, and leftovers are removed.
    pub(super) async fn open(root: PathBuf, write: bool) -> Result<Self, OpenError> {
        let stored = Arc::default();
        let folder = Self { root, stored };
        if write {
            let path = folder.root.clone();
            let io = |what, path, source| OpenError::Io { what, path, source };
            match tokio::task::spawn_blocking(move || clean(&path)).await {
                Ok(Ok(())) => {}
                Ok(Err((path, source))) => return Err(io("prepare the payload folder", path, source)),
                Err(error) => {
                    let source = std::io::Error::other(error);
                    return Err(io("prepare the payload folder", folder.root, source));
                }
            }
        }
        Ok(folder)
    }

    /// The file of a payload.
    pub(super) fn path(&self, sha256: &str) -> Result<PathBuf, JournalError> {
        if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(corrupt(format!(
                "`{sha256}` is not the name of a payload: 64 hexadecimal digits"
            )));
        }
        Ok(self.root.join(&sha256[..2]).join(&sha256[2..]))
    }

    /// Stores a value; when this returns it would survive a power cut.
    pub(super) async fn put(&self, bytes: Vec<u8>) -> Result<String, JournalError> {
        let folder = self.clone();
        blocking(move || folder.put_now(&bytes)).await
    }

    fn put_now(&self, bytes: &[u8]) -> Result<String, JournalError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let sha256 = hex::encode(Sha256::digest(bytes));
        let path = self.path(&sha256)?;
        self.note(&sha256);
        if read_verified(&path, &sha256).is_ok() {
            return Ok(sha256);
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .root
            .join(UNFINISHED)
            .join(format!("{sha256}.{}.{count}", std::process::id()));
        write_durably(&temporary, &path, bytes)
            .map_err(|error| JournalError::Store(io_text("storing a payload", &path, &error)))?;
        Ok(sha256)
    }

    /// From now on the payload is not removed for a while.
    fn note(&self, sha256: &str) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if stored.len() >= 1000 {
            stored.retain(|_, at| at.elapsed() < GRACE);
        }
        stored.insert(sha256.to_owned(), Instant::now());
    }

    /// The payloads that were not stored lately.
    pub(super) async fn old_ones(&self) -> Result<HashSet<String>, JournalError> {
        let folder = self.clone();
        blocking(move || {
            let failed = |error| JournalError::Store(io_text("listing payloads", &folder.root, &error));
            folder.old_ones_now().map_err(failed)
        })
        .await
    }

    fn old_ones_now(&self) -> std::io::Result<HashSet<String>> {
        let mut found = HashSet::new();
        for part in std::fs::read_dir(&self.root)? {
            let part = part?;
            let begin = part.file_name().to_string_lossy().into_owned();
            if begin.len() != 2 {
                continue;
            }
            for file in std::fs::read_dir(part.path())? {
                let file = file?;
                let sha256 = format!("{begin}{}", file.file_name().to_string_lossy());
                // Clocks may jump: what seems to come from the future is young.
                let age = SystemTime::now().duration_since(file.metadata()?.modified()?);
                if self.path(&sha256).is_ok() && age.is_ok_and(|age| age > GRACE) {
                    found.insert(sha256);
                }
            }
        }
        Ok(found)
    }

    /// Removes a payload, unless it was stored lately. Gives its size.
    pub(super) async fn remove_old(&self, sha256: &str) -> Result<Option<u64>, JournalError> {
        let (folder, sha256) = (self.clone(), sha256.to_owned());
        blocking(move || {
            let path = folder.path(&sha256)?;
            let stored = folder.stored.lock().unwrap_or_else(PoisonError::into_inner);
            if stored.get(&sha256).is_some_and(|at| at.elapsed() < GRACE) {
                return Ok(None);
            }
            crash::point("sweep.before_remove");
            let bytes = std::fs::metadata(&path).map(|meta| meta.len());
            let removed = bytes.and_then(|bytes| std::fs::remove_file(&path).map(|()| bytes));
            drop(stored);
            removed
                .map(Some)
                .map_err(|error| JournalError::Store(io_text("removing a payload", &path, &error)))
        })
        .await
    }

    /// Reads a value and verifies it.
    pub(super) async fn get(&self, sha256: &str) -> Result<Vec<u8>, JournalError> {
        let (path, sha256) = (self.path(sha256)?, sha256.to_owned());
        blocking(move || read_verified(&path, &sha256)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(JournalError::Store(format!("a payload file: {error}"))))
}

fn clean(root: &Path) -> Result<(), (PathBuf, std::io::Error)> {
    let unfinished = root.join(UNFINISHED);
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    std::fs::create_dir_all(&unfinished).map_err(at(&unfinished))?;
    for leftover in std::fs::read_dir(&unfinished).map_err(at(&unfinished))? {
        let path = leftover.map_err(at(&unfinished))?.path();
        tracing::info!(path = %path.display(), "removing an unfinished payload");
        std::fs::remove_file(&path).map_err(at(&path))?;
    }
    Ok(())
}

fn write_durably(temporary: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    File::create(temporary)?.write_all(bytes)?;
    crash::point("payload.before_fsync");
    if let Some(folder) = path.parent() {
        durable::make_dir(folder)?;
    }
    durable::publish(temporary, path)
}

fn read_verified(path: &Path, sha256: &str) -> Result<Vec<u8>, JournalError> {
    let bytes = std::fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => corrupt(format!(
            "payload {sha256} is missing: there is no {}",
            path.display()
        )),
        _ => JournalError::Store(io_text("reading a payload", path, &error)),
    })?;
    let found = hex::encode(Sha256::digest(&bytes));
    if found == sha256 {
        Ok(bytes)
    } else {
        let what = "is not what was stored; restore the file from a backup";
        Err(corrupt(format!(
            "payload {sha256}: the content of {} {what}",
            path.display()
        )))
    }
}

fn io_text(doing: &str, path: &Path, error: &std::io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room on that disk",
        ErrorKind::PermissionDenied => "; make it writable for the user that runs sealflow",
        ErrorKind::ReadOnlyFilesystem => "; the file system is mounted read-only",
        _ => "",
    };
    format!("{doing} in {}: {error}{advice}", path.display())
}
