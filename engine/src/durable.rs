//! The recipe for files that survive a power cut: written under a temporary name, made durable, then
//! renamed. Stores and the payload folder follow it with steps of their own between.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::crash;

/// The suffix of files that are being written; they may be removed at any time.
pub const TEMPORARY: &str = ".partial";

/// Makes what a folder lists durable.
///
/// # Errors
/// The system refuses.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a file's content durable.
///
/// # Errors
/// The system refuses.
pub fn sync_file(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The name under which `path` is written before it is complete.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(TEMPORARY);
    path.with_file_name(name)
}

/// Gives a complete file its name and makes that durable: after this returns the file is there, and
/// before it was either not there or the old one.
///
/// # Errors
/// The system refuses; the file then still has its temporary name or already its own.
pub fn publish(from: &Path, to: &Path) -> io::Result<()> {
    sync_file(from)?;
    crash::point("publish.synced");
    fs::rename(from, to)?;
    crash::point("publish.renamed");
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    sync_dir(folder.unwrap_or(Path::new(".")))
}

/// Makes a folder and all above it that are not there, durably.
///
/// # Errors
/// The system refuses.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    let above = above.unwrap_or(Path::new("."));
    make_dir(above)?;
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(above),
    }
}

/// Writes a small file whole.
///
/// # Errors
/// The system refuses; the old file, if there was one, is still there.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = temporary(path);
    File::create(&partial)?.write_all(bytes)?;
    publish(&partial, path)
}

/// Writes a small file that only its owner may read: after this returns it is there, and before it was either not there
/// or the old one.
///
/// # Errors
/// The system refuses.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let partial = temporary(path);
    remove(&partial)?;
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    publish(&partial, path)
}

/// Removes a file or folder with all that is in it. It is no error if nothing is there.
///
/// # Errors
/// The system refuses.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
