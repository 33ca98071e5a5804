//! One process per directory: a lock that the kernel drops when the holder dies. The journal takes it
//! on its own folder; the daemon on its data directory, so that others can tell whether it lives.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::error::OpenError;

/// The name of the lock file in a directory.
const NAME: &str = "sealflow.lock";

/// Holds a directory for as long as it lives.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock without waiting. The file is left in place afterwards: it says who held it last.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if a process holds it; the system refuses.
    pub fn take(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join(NAME);
        let io = |what| {
            let path = path.clone();
            move |source| OpenError::Io { what, path, source }
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("open the lock file"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked {
                    folder: folder.to_owned(),
                    holder: named(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        let note = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(io("write to the lock file"))?;
        Ok(Self { _file: file })
    }

    /// The process that holds a directory; nothing if none does. Whoever takes the lock at this moment
    /// may find it held and must try again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn holder(folder: &Path) -> Result<Option<String>, OpenError> {
        let path = folder.join(NAME);
        let fail = |what, source| {
            let path = path.clone();
            Err(OpenError::Io { what, path, source })
        };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return fail("open the lock file", error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(named(&mut file))),
            Err(TryLockError::Error(error)) => fail("look at the lock of", error),
        }
    }
}

/// The process that a lock file names.
fn named(file: &mut File) -> String {
    let mut holder = String::new();
    // The holder may be writing its number just now; then it is not known.
    let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
    if known { holder.trim() } else { "(unknown)" }.to_owned()
}
