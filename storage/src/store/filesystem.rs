//! A folder as a store of artifacts: a local disk, or a network file system that is mounted.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sealflow_engine::artifact::{Artifact, ArtifactStore, BytesDone, StoreError, StoreFuture, check_key};
use sealflow_engine::crash;
use sha2::{Digest, Sha256};

use super::copy::{Content, content, copy, io, make_folder, refuse, remove, sync_folder};

/// Where unfinished copies are, below the root. No key can name it: keys' parts begin with no dot.
const UNFINISHED: &str = ".tmp";

/// A store in a folder.
///
/// Files are copied through this process, because every byte is hashed on its way. The hash of what was
/// read is what is recorded, so a copy that the system makes by itself would have to be read again.
#[derive(Debug)]
pub struct FilesystemStore {
    name: String,
    root: PathBuf,
    /// Two changes of one key share its unfinished copy, so they take turns; other keys rarely wait.
    turns: [Mutex<()>; 64],
}

impl FilesystemStore {
    /// Takes a folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(name: impl Into<String>, root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(io("make the folder", &root))?;
        // What the root is cannot change under us when a link above it does.
        let root = std::fs::canonicalize(&root).map_err(io("look at", &root))?;
        Ok(Self {
            name: name.into(),
            root,
            turns: std::array::from_fn(|_| Mutex::new(())),
        })
    }

    /// The path of a key. No part of it below the root is a link: that could lead out of the store.
    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        check_key(key)?;
        let mut path = self.root.clone();
        for part in key.split('/') {
            path.push(part);
            match std::fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_symlink() => {
                    return Err(refuse(
                        &path,
                        "it is a symbolic link, which could lead out of the store",
                    ));
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(io("look at", &path)(error)),
            }
        }
        Ok(path)
    }

    fn turn(&self, key: &str) -> MutexGuard<'_, ()> {
        let at = usize::from(Sha256::digest(key)[0]) % self.turns.len();
        self.turns[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, key: &str) -> StoreError {
        StoreError::Missing {
            store: self.name.clone(),
            key: key.to_owned(),
        }
    }

    /// The unfinished copy for a key: the same one whenever it is tried again.
    fn unfinished(&self, key: &str) -> PathBuf {
        self.root.join(UNFINISHED).join(hex::encode(Sha256::digest(key)))
    }

    fn check(&self, artifact: &Artifact, found: &Content) -> Result<(), StoreError> {
        let damaged = |what| {
            let (store, key) = (self.name.clone(), artifact.key.clone());
            Err(StoreError::Damaged { store, key, what })
        };
        if found.bytes != artifact.bytes {
            return damaged(format!(
                "it has {} bytes instead of {}",
                found.bytes, artifact.bytes
            ));
        }
        match &artifact.digest {
            Some(wanted) if wanted.starts_with("sha256:") && *wanted != found.digest => {
                damaged(format!("its content is {} instead of {wanted}", found.digest))
            }
            _ => Ok(()),
        }
    }

    fn put_now(&self, key: &str, from: &Path, done: BytesDone<'_>) -> Result<Artifact, StoreError> {
        let to = self.path(key)?;
        let _turn = self.turn(key);
        let unfinished = self.unfinished(key);
        make_folder(&self.root.join(UNFINISHED))?;
        let artifact = |found: Content| Artifact {
            store: self.name.clone(),
            key: key.to_owned(),
            bytes: found.bytes,
            digest: Some(found.digest),
        };
        let there = std::fs::symlink_metadata(&to).is_ok();
        if there && !unfinished.exists() {
            let (wanted, found) = (content(from, &|_| {})?, content(&to, &|_| {})?);
            if wanted == found && to.is_dir() == from.is_dir() {
                done(found.bytes);
                return Ok(artifact(found));
            }
        }
        let copied = copy(from, &unfinished, done)?;
        let folder = to.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        crash::point("store.before_rename");
        self.replace(&unfinished, &to)?;
        crash::point("store.after_rename");
        sync_folder(folder)?;
        Ok(artifact(copied))
    }

    /// Gives a finished copy its name. What had the name before is removed afterwards: at no moment is
    /// there half of either.
    fn replace(&self, finished: &Path, to: &Path) -> Result<(), StoreError> {
        let rename = || std::fs::rename(finished, to);
        let both_files = !to.is_dir() && !finished.is_dir();
        if both_files || std::fs::symlink_metadata(to).is_err() {
            return rename().map_err(io("rename to", to));
        }
        // A folder that is not empty cannot be renamed over: the two change places.
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let exchanged = rustix::fs::renameat_with(rustix::fs::CWD, finished, rustix::fs::CWD, to, flags);
        if let Err(error) = exchanged {
            if !matches!(
                error,
                rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP
            ) {
                return Err(io("exchange with", to)(error.into()));
            }
            // A file system that cannot exchange (NFS): the old one goes first. A crash in between loses
            // the name but no new content; putting it again goes on with the finished copy.
            let old = finished.with_extension("old");
            remove(&old)?;
            std::fs::rename(to, &old).map_err(io("rename", to))?;
            crash::point("store.between_renames");
            rename().map_err(io("rename to", to))?;
            return remove(&old);
        }
        remove(finished)
    }

    fn get_now(&self, artifact: &Artifact, to: &Path, done: BytesDone<'_>) -> Result<(), StoreError> {
        let from = self.existing(artifact)?;
        if std::fs::symlink_metadata(to).is_ok() {
            return Err(io("make", to)(std::io::Error::from(
                std::io::ErrorKind::AlreadyExists,
            )));
        }
        let name = to
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let unfinished = to.with_file_name(format!(".{name}.unfinished"));
        let folder = to
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        make_folder(folder)?;
        let copied = copy(&from, &unfinished, done)?;
        if let Err(error) = self.check(artifact, &copied) {
            remove(&unfinished)?;
            return Err(error);
        }
        std::fs::rename(&unfinished, to).map_err(io("rename to", to))?;
        sync_folder(folder)
    }

    fn existing(&self, artifact: &Artifact) -> Result<PathBuf, StoreError> {
        let path = self.path(&artifact.key)?;
        if std::fs::symlink_metadata(&path).is_ok() {
            Ok(path)
        } else {
            Err(self.missing(&artifact.key))
        }
    }

    fn delete_now(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let _turn = self.turn(key);
        remove(&self.unfinished(key))?;
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        // Out of sight first, so that a crash leaves no half of a folder under its name.
        let going = self.unfinished(key).with_extension("deleted");
        make_folder(&self.root.join(UNFINISHED))?;
        remove(&going)?;
        std::fs::rename(&path, &going).map_err(io("rename", &path))?;
        sync_folder(path.parent().unwrap_or(&self.root))?;
        crash::point("store.before_delete");
        remove(&going)
    }
}

/// Runs file work where it may block. It borrows what the caller borrowed, so it stays on this thread.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

impl ArtifactStore for FilesystemStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn local_path(&self, key: &str) -> Result<Option<PathBuf>, StoreError> {
        self.path(key).map(Some)
    }

    fn staging(&self, key: &str) -> Result<Option<PathBuf>, StoreError> {
        self.path(key)?;
        make_folder(&self.root.join(UNFINISHED))?;
        Ok(Some(self.unfinished(key)))
    }

    fn put<'a>(&'a self, key: &'a str, from: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, Artifact> {
        Box::pin(async move { blocking(|| self.put_now(key, from, done)) })
    }

    fn get<'a>(&'a self, artifact: &'a Artifact, to: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, ()> {
        Box::pin(async move { blocking(|| self.get_now(artifact, to, done)) })
    }

    fn verify<'a>(&'a self, artifact: &'a Artifact) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            blocking(|| {
                let found = content(&self.existing(artifact)?, &|_| {})?;
                self.check(artifact, &found)
            })
        })
    }

    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move { blocking(|| self.delete_now(key)) })
    }

    fn free(&self) -> Result<Option<u64>, StoreError> {
        let found = rustix::fs::statvfs(&self.root);
        let found = found.map_err(|error| io("measure the free space of", &self.root)(error.into()))?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }
}
