//! A folder as a store of artifacts: a local disk, or a network file system that is mounted.

mod hidden;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sealflow_engine::artifact::{
    Artifact, ArtifactStore, BytesDone, FileStat, LIST_LIMIT, Policy, Stat, StoreError, StoreFuture, Trashed,
    check_key,
};
use sealflow_engine::crash;
use sha2::{Digest, Sha256};

use super::blocking;
use super::copy::{Content, content, copy, files_below, io, make_folder, refuse, remove, size, sync_folder};

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
    policy: Policy,
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
            policy: Policy::default(),
            turns: std::array::from_fn(|_| Mutex::new(())),
        })
    }

    /// With what the operator says of it.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
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
        super::writable(&self.name, &self.policy)?;
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
        self.check_room(from, &unfinished)?;
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

    /// Refuses what the operator leaves no room for. The disk itself says when it is full.
    fn check_room(&self, from: &Path, unfinished: &Path) -> Result<(), StoreError> {
        if self.policy.reserve == 0 && self.policy.capacity.is_none() {
            return Ok(());
        }
        let there = if unfinished.exists() { size(unfinished)? } else { 0 };
        let (bytes, free) = (size(from)?.saturating_sub(there), self.free_now()?);
        if free < bytes {
            return Err(super::no_room(&self.name, bytes, free));
        }
        Ok(())
    }

    fn free_now(&self) -> Result<u64, StoreError> {
        let found = rustix::fs::statvfs(&self.root);
        let found = found.map_err(|error| io("measure the free space of", &self.root)(error.into()))?;
        let mut free = found.f_bavail.saturating_mul(found.f_frsize);
        if let Some(capacity) = self.policy.capacity {
            free = free.min(capacity.saturating_sub(size(&self.root)?));
        }
        Ok(free.saturating_sub(self.policy.reserve))
    }

    fn stat_now(&self, key: &str) -> Result<Option<Stat>, StoreError> {
        let path = self.path(key)?;
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(io("look at", &path)(error)),
        };
        let file = |path: String, bytes: u64| FileStat {
            path,
            bytes,
            digest: None,
        };
        if !meta.is_dir() {
            return Ok(Some(Stat {
                is_folder: false,
                files: vec![file(String::new(), meta.len())],
            }));
        }
        let files = files_below(&path)?.into_iter().map(|relative| {
            let bytes = size(&path.join(&relative))?;
            Ok(file(relative, bytes))
        });
        Ok(Some(Stat {
            is_folder: true,
            files: files.collect::<Result<_, StoreError>>()?,
        }))
    }

    fn read_now(&self, key: &str, file: &str, range: &Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut path = self.path(key)?;
        super::file_key(key, file)?;
        super::check_range(&self.name, key, range)?;
        // Below the key names may begin with a dot, but be no links either.
        for part in file.split('/').filter(|part| !part.is_empty()) {
            path.push(part);
            if path.is_symlink() {
                return Err(refuse(
                    &path,
                    "it is a symbolic link, which could lead out of the store",
                ));
            }
        }
        let opened = match File::open(&path) {
            Err(error) if is_missing(&error) => return Err(self.missing(key)),
            other => other.map_err(io("open", &path))?,
        };
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        match opened.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(StoreError::Damaged {
                store: self.name.clone(),
                key: key.to_owned(),
                what: "it is shorter than it should be".to_owned(),
            }),
            Err(error) => Err(io("read", &path)(error)),
        }
    }

    fn list_now(&self, folder: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        let path = if folder.is_empty() {
            self.root.clone()
        } else {
            self.path(folder)?
        };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) || error.kind() == std::io::ErrorKind::NotADirectory => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(io("list", &path)(error)),
        };
        let mut names = std::collections::BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(io("list", &path))?.file_name();
            // What no key can name is not ours.
            if let Some(name) = name.to_str().filter(|name| check_key(name).is_ok())
                && after.is_none_or(|after| name > after)
            {
                names.insert(name.to_owned());
                if names.len() > LIST_LIMIT {
                    names.pop_last();
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    fn copy_now(&self, from: &str, to: &str) -> Result<Artifact, StoreError> {
        let path = self.path(from)?;
        if std::fs::symlink_metadata(&path).is_err() {
            return Err(self.missing(from));
        }
        self.put_now(to, &path, &|_| {})
    }

    fn delete_now(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        super::writable(&self.name, &self.policy)?;
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

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

impl ArtifactStore for FilesystemStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "filesystem"
    }

    fn policy(&self) -> &Policy {
        &self.policy
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

    fn stat<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stat>> {
        Box::pin(async move { blocking(|| self.stat_now(key)) })
    }

    fn read<'a>(&'a self, key: &'a str, file: &'a str, range: Range<u64>) -> StoreFuture<'a, Vec<u8>> {
        Box::pin(async move { blocking(|| self.read_now(key, file, &range)) })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> StoreFuture<'a, Vec<String>> {
        Box::pin(async move { blocking(|| self.list_now(folder, after)) })
    }

    fn copy<'a>(&'a self, from: &'a str, to: &'a str) -> StoreFuture<'a, Artifact> {
        Box::pin(async move { blocking(|| self.copy_now(from, to)) })
    }

    fn free(&self) -> StoreFuture<'_, Option<u64>> {
        Box::pin(async move { blocking(|| self.free_now().map(Some)) })
    }

    fn marks(&self) -> StoreFuture<'_, Vec<String>> {
        Box::pin(async move { blocking(|| self.marks_now()) })
    }

    fn mark<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move { blocking(|| self.mark_now(name)) })
    }

    fn set_mark<'a>(&'a self, name: &'a str, content: Option<&'a [u8]>) -> StoreFuture<'a, ()> {
        Box::pin(async move { blocking(|| self.set_mark_now(name, content)) })
    }

    fn trash<'a>(&'a self, key: &'a str, at_ms: u64) -> StoreFuture<'a, ()> {
        Box::pin(async move { blocking(|| self.trash_now(key, at_ms)) })
    }

    fn trashed(&self) -> StoreFuture<'_, Vec<Trashed>> {
        Box::pin(async move { blocking(|| self.trashed_now()) })
    }

    fn untrash<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move { blocking(|| self.untrash_now(id)) })
    }

    fn discard<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move { blocking(|| self.discard_now(id)) })
    }
}
