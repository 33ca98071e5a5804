//! What a folder keeps out of sight: marks in `.marks`, and the trash in `.trash/ID`, where `key` says what `content`
//! was. Both are in the same file system as the rest, so that moving is renaming.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sealflow_engine::artifact::{StoreError, Trashed, check_key, check_mark, key_in_use};
use sealflow_engine::{crash, durable};

use super::super::copy::{io, make_folder, remove, size, sync_folder};
use super::{FilesystemStore, UNFINISHED};

const MARKS: &str = ".marks";
const TRASH: &str = ".trash";
/// What the key in the trash is written in.
const KEY: &str = "key";
/// What had the key.
const CONTENT: &str = "content";
/// What ends the name of something that is being removed.
const GOING: &str = "deleted";
/// The largest mark that is read.
const LARGEST: u64 = 1 << 20;

impl FilesystemStore {
    fn in_trash(&self, id: &str) -> Result<PathBuf, StoreError> {
        Trashed::check(id)?;
        Ok(self.root.join(TRASH).join(id))
    }

    pub(super) fn marks_now(&self) -> Result<Vec<String>, StoreError> {
        let mut names = names_in(&self.root.join(MARKS))?;
        names.retain(|name| check_mark(name).is_ok() && !name.ends_with(durable::TEMPORARY));
        names.sort();
        Ok(names)
    }

    pub(super) fn mark_now(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_mark(name)?;
        small(&self.root.join(MARKS).join(name))
    }

    pub(super) fn set_mark_now(&self, name: &str, content: Option<&[u8]>) -> Result<(), StoreError> {
        check_mark(name)?;
        super::super::writable(&self.name, &self.policy)?;
        let folder = self.root.join(MARKS);
        let path = folder.join(name);
        let Some(content) = content else {
            remove(&path)?;
            return match sync_folder(&folder) {
                Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
                other => other,
            };
        };
        make_folder(&folder)?;
        durable::write(&path, content).map_err(io("write", &path))
    }

    pub(super) fn trash_now(&self, key: &str, at_ms: u64) -> Result<(), StoreError> {
        let path = self.path(key)?;
        super::super::writable(&self.name, &self.policy)?;
        let _turn = self.turn(key);
        remove(&self.unfinished(key))?;
        if std::fs::symlink_metadata(&path).is_err() {
            return Ok(());
        }
        let mut at_ms = at_ms;
        let own = loop {
            let own = self.in_trash(&Trashed::id(key, at_ms))?;
            if std::fs::symlink_metadata(own.join(CONTENT)).is_err() {
                break own;
            }
            at_ms += 1;
        };
        make_folder(&own)?;
        let note = own.join(KEY);
        durable::write(&note, key.as_bytes()).map_err(io("write", &note))?;
        crash::point("store.trash.begun");
        std::fs::rename(&path, own.join(CONTENT)).map_err(io("move to the trash", &path))?;
        crash::point("store.trash.moved");
        sync_folder(&own)?;
        sync_folder(path.parent().unwrap_or(&self.root))
    }

    pub(super) fn trashed_now(&self) -> Result<Vec<Trashed>, StoreError> {
        self.end_removals()?;
        let mut all = Vec::new();
        for id in names_in(&self.root.join(TRASH))? {
            let Some(at_ms) = Trashed::time(&id) else {
                continue;
            };
            let own = self.in_trash(&id)?;
            let key = small(&own.join(KEY))?.and_then(|bytes| String::from_utf8(bytes).ok());
            let bytes = match size(&own.join(CONTENT)) {
                Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => 0,
                other => other?,
            };
            let key = key.filter(|key| check_key(key).is_ok()).unwrap_or_default();
            all.push(Trashed {
                id,
                key,
                at_ms,
                bytes,
            });
        }
        all.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    pub(super) fn untrash_now(&self, id: &str) -> Result<(), StoreError> {
        let own = self.in_trash(id)?;
        super::super::writable(&self.name, &self.policy)?;
        let key = small(&own.join(KEY))?.and_then(|bytes| String::from_utf8(bytes).ok());
        let key = key.ok_or_else(|| self.missing(id))?;
        let path = self.path(&key)?;
        let _turn = self.turn(&key);
        if std::fs::symlink_metadata(own.join(CONTENT)).is_err() {
            return Err(self.missing(id));
        }
        if std::fs::symlink_metadata(&path).is_ok() {
            return Err(key_in_use(&self.name, &key));
        }
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder)?;
        std::fs::rename(own.join(CONTENT), &path).map_err(io("rename to", &path))?;
        sync_folder(folder)?;
        remove(&own)
    }

    pub(super) fn discard_now(&self, id: &str) -> Result<(), StoreError> {
        let own = self.in_trash(id)?;
        super::super::writable(&self.name, &self.policy)?;
        // Out of the trash first: half of something must not be taken for all of it.
        let going = self.root.join(UNFINISHED).join(id).with_extension(GOING);
        make_folder(&self.root.join(UNFINISHED))?;
        remove(&going)?;
        match std::fs::rename(&own, &going) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(io("rename", &own))?,
        }
        sync_folder(&self.root.join(TRASH))?;
        crash::point("store.trash.discarding");
        remove(&going)
    }

    /// Ends removals that were broken off.
    fn end_removals(&self) -> Result<(), StoreError> {
        if self.policy.read_only {
            return Ok(());
        }
        let folder = self.root.join(UNFINISHED);
        for name in names_in(&folder)? {
            let id = name.strip_suffix(&format!(".{GOING}"));
            if id.is_some_and(|id| Trashed::time(id).is_some()) {
                remove(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// The names in a folder; none if it is not there.
fn names_in(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io("list", folder))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(io("list", folder))?.file_name();
        names.extend(name.into_string());
    }
    Ok(names)
}

/// The content of a small file; nothing if it is not there.
fn small(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let bytes = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io("look at", path))?.len(),
    };
    if bytes > LARGEST {
        return Err(super::super::copy::refuse(
            path,
            "it is too large for what it should be",
        ));
    }
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some).map_err(io("read", path)),
    }
}
