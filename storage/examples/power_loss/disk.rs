//! A disk that remembers what was synced: files by number, names that lead to them, and for both what is only in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::trace::Call;

/// What of that which was not synced is there after the cut.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rest {
    /// Nothing: neither names nor bytes.
    Nothing,
    /// Names, but no bytes.
    Names,
    /// Names, and of each file some first writes, the last of them torn; which ones the number says.
    Torn(u64),
    /// Everything, as after the end of a process.
    All,
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// Writes since, in order; a truncation has no bytes.
    since: Vec<(u64, Option<Vec<u8>>)>,
}

impl File {
    fn with(&self, count: usize, torn: usize) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for (at, (offset, data)) in self.since.iter().take(count).enumerate() {
            let offset = usize::try_from(*offset).unwrap_or(usize::MAX);
            match data {
                None => bytes.resize(offset, 0),
                Some(data) => {
                    let part = if at + 1 == count {
                        data.len().saturating_sub(torn)
                    } else {
                        data.len()
                    };
                    let end = offset + part;
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[offset..end].copy_from_slice(&data[..part]);
                }
            }
        }
        bytes
    }
}

/// The disk.
#[derive(Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
}

impl Disk {
    /// Does what a call did.
    pub(crate) fn apply(&mut self, call: &Call) {
        match call {
            Call::Create(path) => {
                if !self.names.contains_key(path) {
                    self.files.push(File::default());
                    self.names.insert(path.clone(), self.files.len() - 1);
                }
            }
            Call::Folder(path) => {
                self.folders.insert(path.clone());
            }
            Call::Write(path, offset, bytes) => self.change(path, *offset, Some(bytes.clone())),
            Call::Truncate(path, length) => self.change(path, *length, None),
            Call::Rename(from, to) => {
                let moved: Vec<PathBuf> = self
                    .names
                    .keys()
                    .filter(|name| name.starts_with(from))
                    .cloned()
                    .collect();
                for name in moved {
                    if let (Some(file), Ok(rest)) = (self.names.remove(&name), name.strip_prefix(from)) {
                        let name = if rest.as_os_str().is_empty() {
                            to.clone()
                        } else {
                            to.join(rest)
                        };
                        self.names.insert(name, file);
                    }
                }
                if self.folders.remove(from) {
                    self.folders.insert(to.clone());
                }
            }
            Call::Remove(path) => {
                self.names.remove(path);
                self.folders.remove(path);
            }
            Call::Sync(path) => self.sync(path),
            Call::Ack(_) => {}
        }
    }

    fn change(&mut self, path: &Path, offset: u64, bytes: Option<Vec<u8>>) {
        if let Some(file) = self.names.get(path) {
            self.files[*file].since.push((offset, bytes));
        }
    }

    /// A synced file has its bytes and, as on ext4 and XFS, the name under which it was made; a synced folder its names.
    fn sync(&mut self, path: &Path) {
        if let Some(file) = self.names.get(path).copied() {
            let one = &mut self.files[file];
            one.synced = one.with(one.since.len(), 0);
            one.since.clear();
            if !self.synced_names.values().any(|known| *known == file) {
                self.synced_names.insert(path.to_owned(), file);
            }
            return;
        }
        let here = |name: &&PathBuf| name.parent() == Some(path);
        let gone: Vec<PathBuf> = self.synced_names.keys().filter(here).cloned().collect();
        for name in gone {
            self.synced_names.remove(&name);
        }
        let there = self.names.iter().filter(|(name, _)| here(name));
        self.synced_names
            .extend(there.map(|(name, file)| (name.clone(), *file)));
    }

    /// Puts the disk together in a folder, as it is after a cut now.
    pub(crate) fn write(&self, folder: &Path, rest: Rest) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        for path in &self.folders {
            std::fs::create_dir_all(folder.join(path))?;
        }
        let names = if matches!(rest, Rest::Nothing) {
            &self.synced_names
        } else {
            &self.names
        };
        for (name, file) in names {
            let one = &self.files[*file];
            let bytes = match rest {
                Rest::Nothing | Rest::Names => one.synced.clone(),
                Rest::Torn(seed) => {
                    let some = hash(seed, *file as u64);
                    let count = usize::try_from(some % (one.since.len() as u64 + 1)).unwrap_or_default();
                    one.with(count, usize::try_from(some >> 32 & 0xfff).unwrap_or_default())
                }
                Rest::All => one.with(one.since.len(), 0),
            };
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(path, bytes)?;
        }
        Ok(())
    }
}

/// A number that looks like any.
fn hash(seed: u64, file: u64) -> u64 {
    let mut value = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ file.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^= value >> 29;
    value.wrapping_mul(0x94d0_49bb_1331_11eb)
}
