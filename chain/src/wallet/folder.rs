//! The wallet's folder: one file a key, written so that a power cut leaves the whole file or none.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::types::Address;

use super::error::WalletError;
use super::sealed::SealedKey;

/// The end of a key file's name.
const KEY: &str = ".key.json";
/// The end of the name of a file that is being written; such files may be removed.
const PARTIAL: &str = ".partial";
/// More than any key file has.
const KEY_FILE_LIMIT: u64 = 16 * 1024;
/// More keys than a wallet has.
const KEYS_LIMIT: usize = 10_000;

/// The folder.
pub(super) struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Opens the folder, and makes it if it is not there.
    pub(super) fn open(dir: PathBuf) -> Result<Self, WalletError> {
        if !dir.exists() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(WalletError::io(&dir))?;
            sync_dir(dir.parent().unwrap_or(Path::new(".")))?;
        }
        check_private(&dir)?;
        let folder = Self { dir };
        for path in folder.files(PARTIAL)? {
            fs::remove_file(&path).map_err(WalletError::io(&path))?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn files(&self, end: &str) -> Result<Vec<PathBuf>, WalletError> {
        let entries = fs::read_dir(&self.dir).map_err(WalletError::io(&self.dir))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(WalletError::io(&self.dir))?.path();
            if path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.ends_with(end))
            {
                found.push(path);
            }
            if found.len() > KEYS_LIMIT {
                return Err(WalletError::Damaged {
                    path: self.dir.clone(),
                    reason: format!("it has more than {KEYS_LIMIT} keys"),
                });
            }
        }
        found.sort();
        Ok(found)
    }

    /// All keys, encrypted.
    pub(super) fn keys(&self) -> Result<Vec<SealedKey>, WalletError> {
        self.files(KEY)?.iter().map(|path| read_key(path)).collect()
    }

    /// One key, encrypted.
    pub(super) fn key(&self, address: &Address) -> Result<SealedKey, WalletError> {
        let path = self.key_path(address);
        let sealed = read_key(&path)?;
        if sealed.address != *address {
            return Err(WalletError::Damaged {
                path,
                reason: format!("it holds {}", sealed.address),
            });
        }
        Ok(sealed)
    }

    fn key_path(&self, address: &Address) -> PathBuf {
        self.dir.join(format!("{address}{KEY}"))
    }

    /// Writes a key: under a temporary name, synced, then renamed, then the folder synced.
    pub(super) fn write_key(&self, key: &SealedKey) -> Result<(), WalletError> {
        let path = self.key_path(&key.address);
        let temporary = self.dir.join(format!("{}{KEY}{PARTIAL}", key.address));
        let io = WalletError::io;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io(&temporary))?;
        file.write_all(key.to_json()?.as_bytes())
            .map_err(io(&temporary))?;
        file.sync_all().map_err(io(&temporary))?;
        fs::rename(&temporary, &path).map_err(io(&path))?;
        sync_dir(&self.dir)
    }
}

fn read_key(path: &Path) -> Result<SealedKey, WalletError> {
    check_private(path)?;
    let bytes = read_bounded(path, KEY_FILE_LIMIT)?;
    SealedKey::from_json(&bytes).map_err(|reason| WalletError::Damaged {
        path: path.to_owned(),
        reason,
    })
}

/// Makes what a folder lists durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), WalletError> {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(WalletError::io(dir))
}

/// Refuses a file or folder that others may read or write.
pub(super) fn check_private(path: &Path) -> Result<(), WalletError> {
    let mode = fs::metadata(path)
        .map_err(WalletError::io(path))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(WalletError::Permissions {
        path: path.to_owned(),
        mode,
    })
}

/// Reads a file that has at most `limit` bytes.
pub(super) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, WalletError> {
    let file = File::open(path).map_err(WalletError::io(path))?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(WalletError::io(path))?;
    if bytes.len() as u64 > limit {
        return Err(WalletError::Damaged {
            path: path.to_owned(),
            reason: format!("it has more than {limit} bytes"),
        });
    }
    Ok(bytes)
}
