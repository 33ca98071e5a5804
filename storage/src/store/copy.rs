//! Copying files and folders so that a copy that was broken off goes on where it stopped, and what
//! has its final name is whole and durable.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sealflow_engine::artifact::{BytesDone, StoreError};
use sealflow_engine::{crash, durable};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;

/// A failure of the system in words.
pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| {
        let advice = match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on that disk",
            ErrorKind::PermissionDenied => "let the user that runs sealflow read and write there",
            ErrorKind::ReadOnlyFilesystem => "the file system is mounted read-only; mount it for writing",
            ErrorKind::StaleNetworkFileHandle => "the network file system went away; mount it again",
            _ => "",
        };
        let source = match advice {
            "" => source,
            advice => std::io::Error::new(source.kind(), format!("{source}; {advice}")),
        };
        StoreError::Io { what, path, source }
    }
}

/// What a file or folder is: its bytes and the digest of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) bytes: u64,
    pub(super) digest: String,
}

/// The regular files below a folder, by their path in it with `/` between the parts, in order.
pub(super) fn files_below(folder: &Path) -> Result<Vec<String>, StoreError> {
    let mut files = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let here = folder.join(&relative);
        for entry in std::fs::read_dir(&here).map_err(io("list", &here))? {
            let entry = entry.map_err(io("list", &here))?;
            let path = relative.join(entry.file_name());
            // Not followed: a link could lead anywhere.
            let kind = entry.file_type().map_err(io("look at", &entry.path()))?;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let text = path
                    .to_str()
                    .ok_or_else(|| refuse(&entry.path(), "its name is not UTF-8"))?;
                files.push(text.to_owned());
            } else {
                return Err(refuse(
                    &entry.path(),
                    "it is neither a file nor a folder (links are not followed)",
                ));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Something that is not stored, and why.
pub(super) fn refuse(path: &Path, why: &str) -> StoreError {
    StoreError::Io {
        what: "store",
        path: path.to_owned(),
        source: std::io::Error::new(ErrorKind::InvalidInput, why.to_owned()),
    }
}

/// The content of a file or folder.
pub(super) fn content(path: &Path, done: BytesDone<'_>) -> Result<Content, StoreError> {
    let files = file_contents(path, done)?;
    match files.first() {
        Some(file) if !is_dir(path)? => Ok(file_content(file)),
        _ => Ok(folder_content(&files)),
    }
}

/// Copies a file or folder to a path that is not yet there or holds a copy that was broken off.
/// When this returns, all of it but its own name is durable.
pub(super) fn copy(from: &Path, to: &Path, done: BytesDone<'_>) -> Result<Content, StoreError> {
    if is_dir(from)? {
        remove_what_is_not_in(from, to)?;
    } else if to.is_dir() {
        std::fs::remove_dir_all(to).map_err(io("remove", to))?;
    }
    let copied = walk(from, done, &mut |file, relative, before, done| {
        let target = if relative.is_empty() {
            to.to_owned()
        } else {
            to.join(relative)
        };
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        }
        copy_file(file, &target, &|bytes| done(before + bytes))
    })?;
    sync_folders(to)?;
    Ok(copied)
}

/// What one file is: its path in the folder (empty for a file by itself), its bytes, and the SHA-256 of its content
/// in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileContent {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// What a folder is by what its files are, in order.
pub(super) fn folder_content(files: &[FileContent]) -> Content {
    let mut all = Sha256::new();
    for FileContent { path, bytes, sha256 } in files {
        // Lengths keep a name with a line break from looking like two files.
        all.update(format!("{} {path} {bytes} {sha256}\n", path.len()));
    }
    Content {
        bytes: files.iter().map(|file| file.bytes).sum(),
        digest: format!("sha256:{}", hex::encode(all.finalize())),
    }
}

/// What a file by itself is.
pub(super) fn file_content(file: &FileContent) -> Content {
    Content {
        bytes: file.bytes,
        digest: format!("sha256:{}", file.sha256),
    }
}

/// What a file is, or the files of a folder, in order.
pub(super) fn file_contents(path: &Path, done: BytesDone<'_>) -> Result<Vec<FileContent>, StoreError> {
    visit_all(path, done, &mut |file, _, before, done| {
        let (bytes, hash) = digest_file(file, &|bytes| done(before + bytes))?;
        Ok((bytes, hex::encode(hash.finalize())))
    })
}

/// Takes one file: its path, its path in the folder, the bytes of the files before it, and whom to
/// tell of its own. Gives its bytes and its digest in hex.
type Visit<'a> = dyn FnMut(&Path, &str, u64, BytesDone<'_>) -> Result<(u64, String), StoreError> + 'a;

/// Visits a file, or the files of a folder, and puts their contents together.
fn walk(path: &Path, done: BytesDone<'_>, visit: &mut Visit<'_>) -> Result<Content, StoreError> {
    let folder = is_dir(path)?;
    let files = visit_all(path, done, visit)?;
    match files.first() {
        Some(file) if !folder => Ok(file_content(file)),
        _ => Ok(folder_content(&files)),
    }
}

fn visit_all(
    path: &Path,
    done: BytesDone<'_>,
    visit: &mut Visit<'_>,
) -> Result<Vec<FileContent>, StoreError> {
    let mut one = |at: &Path, path: String, before: u64| {
        let (bytes, sha256) = visit(at, &path, before, done)?;
        Ok(FileContent { path, bytes, sha256 })
    };
    if !is_dir(path)? {
        return Ok(vec![one(path, String::new(), 0)?]);
    }
    let (mut files, mut sum) = (Vec::new(), 0);
    for relative in files_below(path)? {
        let file = one(&path.join(&relative), relative, sum)?;
        sum += file.bytes;
        files.push(file);
    }
    Ok(files)
}

/// Whether this is a folder. A link is followed here only: an operator may link a folder into place.
pub(super) fn is_dir(path: &Path) -> Result<bool, StoreError> {
    Ok(std::fs::metadata(path).map_err(io("look at", path))?.is_dir())
}

fn digest_file(path: &Path, done: BytesDone<'_>) -> Result<(u64, Sha256), StoreError> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let (mut hash, mut sum, mut block) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let read = file.read(&mut block).map_err(io("read", path))?;
        if read == 0 {
            return Ok((sum, hash));
        }
        hash.update(&block[..read]);
        sum += read as u64;
        done(sum);
    }
}

/// Copies one file, after what of it is there already.
fn copy_file(from: &Path, to: &Path, done: BytesDone<'_>) -> Result<(u64, String), StoreError> {
    copy_file_with(from, to, done, share)
}

/// Makes an empty file one of the same content, without copying a byte: on file systems that can (btrfs, XFS, bcachefs)
/// both have the same blocks until one of them is written to. Says whether that was done.
fn share(target: &File, source: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

fn copy_file_with(
    from: &Path,
    to: &Path,
    done: BytesDone<'_>,
    share: impl Fn(&File, &File) -> bool,
) -> Result<(u64, String), StoreError> {
    let mut source = File::open(from).map_err(io("open", from))?;
    let mut options = File::options();
    let mut target = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(to)
        .map_err(io("make", to))?;
    let empty = target.metadata().map_err(io("look at", to))?.len() == 0;
    if empty && share(&target, &source) {
        crash::point("store.copy.before_fsync");
        let (bytes, hash) = digest_file(to, done)?;
        target.sync_all().map_err(io("flush", to))?;
        return Ok((bytes, hex::encode(hash.finalize())));
    }
    let (mut sum, mut hash) = common_prefix(&source, &target, (from, to))?;
    source.seek(SeekFrom::Start(sum)).map_err(io("read", from))?;
    target.set_len(sum).map_err(io("shorten", to))?;
    target.seek(SeekFrom::Start(sum)).map_err(io("write", to))?;
    done(sum);
    let mut block = vec![0; BLOCK];
    loop {
        let read = source.read(&mut block).map_err(io("read", from))?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
        target.write_all(&block[..read]).map_err(io("write", to))?;
        sum += read as u64;
        done(sum);
        crash::point("store.copy.block");
    }
    crash::point("store.copy.before_fsync");
    target.sync_all().map_err(io("flush", to))?;
    Ok((sum, hex::encode(hash.finalize())))
}

/// How much of the source the target has, compared byte by byte, and the digest of that.
fn common_prefix(
    source: &File,
    target: &File,
    (from, to): (&Path, &Path),
) -> Result<(u64, Sha256), StoreError> {
    let (mut sum, mut hash) = (0, Sha256::new());
    let (mut wanted, mut there) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    loop {
        wanted.clear();
        there.clear();
        Read::take(source, BLOCK as u64)
            .read_to_end(&mut wanted)
            .map_err(io("read", from))?;
        Read::take(target, BLOCK as u64)
            .read_to_end(&mut there)
            .map_err(io("read", to))?;
        let same = wanted.iter().zip(&there).take_while(|(a, b)| a == b).count();
        hash.update(&wanted[..same]);
        sum += same as u64;
        if same < BLOCK {
            return Ok((sum, hash));
        }
    }
}

/// Removes what an earlier, broken-off copy of something else left in the target.
fn remove_what_is_not_in(from: &Path, to: &Path) -> Result<(), StoreError> {
    match std::fs::symlink_metadata(to) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => std::fs::remove_file(to).map_err(io("remove", to))?,
        Err(_) => {}
    }
    std::fs::create_dir_all(to).map_err(io("make the folder", to))?;
    for relative in files_below(to)? {
        if !from.join(&relative).is_file() {
            let leftover = to.join(&relative);
            std::fs::remove_file(&leftover).map_err(io("remove", &leftover))?;
        }
    }
    Ok(())
}

/// Makes the names in a folder, and in the folders below it, durable.
fn sync_folders(path: &Path) -> Result<(), StoreError> {
    if !path.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(io("list", path))? {
        let entry = entry.map_err(io("list", path))?;
        if entry.file_type().map_err(io("look at", &entry.path()))?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(path)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    durable::sync_dir(path).map_err(io("flush the folder", path))
}

/// Makes a folder and all above it, durably, down from one that is there.
pub(super) fn make_folder(path: &Path) -> Result<(), StoreError> {
    durable::make_dir(path).map_err(io("make the folder", path))
}

/// Removes a file or a folder, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    durable::remove(path).map_err(io("remove", path))
}

/// The bytes of a file, or of all files of a folder, by their sizes alone.
pub(super) fn size(path: &Path) -> Result<u64, StoreError> {
    let of = |path: &Path| {
        std::fs::metadata(path)
            .map(|meta| meta.len())
            .map_err(io("look at", path))
    };
    if !is_dir(path)? {
        return of(path);
    }
    files_below(path)?.iter().map(|file| of(&path.join(file))).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tempfile::TempDir;

    use super::*;

    /// As on a file system that shares blocks: the bytes are there at once, and are not written again.
    #[test]
    fn what_shares_its_blocks_is_only_read() {
        let folder = TempDir::new().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let bytes: Vec<u8> = (0..3_000_000_u32)
            .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
            .collect();
        std::fs::write(&from, &bytes).unwrap();
        let shared = |mut target: &File, mut source: &File| {
            std::io::copy(&mut source, &mut target).unwrap();
            // Who writes again now is found out.
            let mut closed = target.metadata().unwrap().permissions();
            closed.set_readonly(true);
            target.set_permissions(closed).is_ok()
        };
        let told = AtomicU64::new(0);
        let tell = |bytes| told.store(bytes, Ordering::Relaxed);
        let copied = copy_file_with(&from, &to, &tell, shared).unwrap();
        let wanted = copy_file_with(&from, &folder.path().join("plain"), &|_| {}, |_, _| false).unwrap();
        assert_eq!(copied, wanted);
        assert_eq!(told.into_inner(), 3_000_000);
        assert!(std::fs::read(&to).unwrap() == bytes);
        // What is there already is gone on with instead.
        std::fs::write(folder.path().join("half"), &bytes[..1_500_000]).unwrap();
        let refused = |_: &File, _: &File| panic!("it is not empty");
        let half = copy_file_with(&from, &folder.path().join("half"), &|_| {}, refused).unwrap();
        assert_eq!(half, wanted);
    }

    /// The real thing: a copy takes no room.
    #[test]
    #[ignore = "needs a folder on btrfs or XFS: just long-shared-blocks"]
    fn a_file_system_that_shares_blocks_is_made_use_of() {
        let place = std::env::var("SEALFLOW_TEST_FOLDER").expect("SEALFLOW_TEST_FOLDER is on btrfs or XFS");
        let folder = TempDir::new_in(place).unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let bytes = vec![7; 64 << 20];
        std::fs::write(&from, &bytes).unwrap();
        File::open(&from).unwrap().sync_all().unwrap();
        let free = || {
            let found = rustix::fs::statvfs(folder.path()).unwrap();
            found.f_bavail * found.f_frsize
        };
        let before = free();
        copy_file(&from, &to, &|_| {}).unwrap();
        assert!(
            free() + (1 << 20) > before,
            "{} bytes were written",
            before - free()
        );
        // What is written to one of them does not show in the other.
        let mut original = File::options().write(true).open(&from).unwrap();
        original.write_all(&[1; 4096]).unwrap();
        original.sync_all().unwrap();
        assert!(std::fs::read(&to).unwrap() == bytes);
    }
}
