//! Taking whole files and folders out of the bucket: in ranges, a few of them ahead, hashed in order.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use futures::{StreamExt, stream};
use sealflow_engine::artifact::{Artifact, BytesDone, FileStat, Stat, StoreError};
use sealflow_engine::crash;
use sha2::{Digest, Sha256};

use super::S3Store;
use super::fault::Fault;
use crate::store::blocking;
use crate::store::copy::{
    Content, FileContent, file_content, folder_content, io, make_folder, remove, sync_folder,
};

/// Takes the bytes of a file as they come, in order.
type Take<'a> = dyn FnMut(&[u8]) -> Result<(), StoreError> + Send + 'a;

impl S3Store {
    /// Reads a file from `start` to its end.
    async fn stream(
        &self,
        key: &str,
        path: &str,
        range: std::ops::Range<u64>,
        take: &mut Take<'_>,
    ) -> Result<(), StoreError> {
        let step = self.client.settings().part_bytes.clamp(1 << 20, READ_STEP);
        let object = self.object(&crate::store::file_key(key, path)?);
        let starts: Vec<u64> = (range.start..range.end)
            .step_by(usize::try_from(step).unwrap_or(usize::MAX))
            .collect();
        let read = |start: u64| {
            let (object, bytes) = (&object, step.min(range.end - start));
            async move {
                let read = self.client.read(object, start, bytes).await?;
                if read.len() as u64 != bytes {
                    return Err(Fault::OutOfRange);
                }
                Ok(read)
            }
        };
        let ahead = self.client.settings().concurrency.max(1);
        let mut blocks = stream::iter(starts).map(read).buffered(ahead);
        while let Some(block) = blocks.next().await {
            let block = block.map_err(self.failed(key))?;
            blocking(|| take(&block))?;
        }
        Ok(())
    }

    /// The SHA-256 of a file of so many bytes, in hexadecimal.
    pub(super) async fn hash(&self, key: &str, path: &str, bytes: u64) -> Result<String, StoreError> {
        let mut hash = Sha256::new();
        self.stream(key, path, 0..bytes, &mut |block| {
            hash.update(block);
            Ok(())
        })
        .await?;
        Ok(hex::encode(hash.finalize()))
    }

    pub(super) async fn verify_now(&self, artifact: &Artifact) -> Result<(), StoreError> {
        let stat = self.existing(artifact).await?;
        let hashed = artifact
            .digest
            .as_ref()
            .is_some_and(|digest| digest.starts_with("sha256:"));
        self.check_size(artifact, stat.bytes())?;
        let mut files = Vec::new();
        for file in &stat.files {
            // A list of files says what should be there; only the server knows what is.
            let sha256 = if hashed {
                self.hash(&artifact.key, &file.path, file.bytes).await?
            } else {
                self.check_object(&artifact.key, file).await?;
                String::new()
            };
            let (path, bytes) = (file.path.clone(), file.bytes);
            files.push(FileContent { path, bytes, sha256 });
        }
        if hashed {
            self.check_content(artifact, &stat, &files)?;
        }
        Ok(())
    }

    async fn check_object(&self, key: &str, file: &FileStat) -> Result<(), StoreError> {
        let object = self.object(&crate::store::file_key(key, &file.path)?);
        let head = super::upload::head(&self.client, &object)
            .await
            .map_err(self.failed(key))?;
        match head {
            Some((bytes, _)) if bytes == file.bytes => Ok(()),
            Some(_) => Err(self.failed(key)(Fault::OutOfRange)),
            None => Err(self.missing(key)),
        }
    }

    async fn existing(&self, artifact: &Artifact) -> Result<Stat, StoreError> {
        let stat = self.stat_now(&artifact.key).await?;
        stat.ok_or_else(|| self.missing(&artifact.key))
    }

    fn check_size(&self, artifact: &Artifact, found: u64) -> Result<(), StoreError> {
        if found == artifact.bytes {
            return Ok(());
        }
        Err(StoreError::Damaged {
            store: artifact.store.clone(),
            key: artifact.key.clone(),
            what: format!("it has {found} bytes instead of {}", artifact.bytes),
        })
    }

    fn check_content(
        &self,
        artifact: &Artifact,
        stat: &Stat,
        files: &[FileContent],
    ) -> Result<(), StoreError> {
        let found = match files.first() {
            Some(file) if !stat.is_folder => file_content(file),
            _ => folder_content(files),
        };
        let Content { bytes, digest } = found;
        self.check_size(artifact, bytes)?;
        match &artifact.digest {
            Some(wanted) if wanted.starts_with("sha256:") && *wanted != digest => Err(StoreError::Damaged {
                store: artifact.store.clone(),
                key: artifact.key.clone(),
                what: format!("its content is {digest} instead of {wanted}"),
            }),
            _ => Ok(()),
        }
    }

    pub(super) async fn get_now(
        &self,
        artifact: &Artifact,
        to: &Path,
        done: BytesDone<'_>,
    ) -> Result<(), StoreError> {
        let stat = self.existing(artifact).await?;
        self.check_size(artifact, stat.bytes())?;
        if std::fs::symlink_metadata(to).is_ok() {
            let there = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(io("make", to)(there));
        }
        let name = to.file_name().map(|name| name.to_string_lossy().into_owned());
        let unfinished = to.with_file_name(format!(".{}.unfinished", name.unwrap_or_default()));
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        make_folder(folder)?;
        prepare(&unfinished, &stat)?;
        let (mut files, mut sum) = (Vec::new(), 0);
        for file in &stat.files {
            let target = if file.path.is_empty() {
                unfinished.clone()
            } else {
                unfinished.join(&file.path)
            };
            let so_far = |bytes| done(sum + bytes);
            files.push(self.fetch(&artifact.key, file, &target, &so_far).await?);
            sum += file.bytes;
        }
        if let Err(error) = self.check_content(artifact, &stat, &files) {
            remove(&unfinished)?;
            return Err(error);
        }
        if stat.is_folder {
            for place in folders(&unfinished, &stat) {
                sync_folder(&place)?;
            }
        }
        done(artifact.bytes);
        crash::point("store.s3.before_rename");
        std::fs::rename(&unfinished, to).map_err(io("rename to", to))?;
        sync_folder(folder)
    }

    /// Fetches a file, after what of it is there. If that is of something else, the checksum of the whole tells.
    async fn fetch(
        &self,
        key: &str,
        file: &FileStat,
        to: &Path,
        done: BytesDone<'_>,
    ) -> Result<FileContent, StoreError> {
        let (mut target, mut hash, start) = blocking(|| open_at_end(to, file.bytes))?;
        let mut sum = start;
        done(sum);
        self.stream(key, &file.path, start..file.bytes, &mut |block| {
            target.write_all(block).map_err(io("write", to))?;
            hash.update(block);
            sum += block.len() as u64;
            done(sum);
            crash::point("store.s3.fetched");
            Ok(())
        })
        .await?;
        blocking(|| target.sync_all()).map_err(io("flush", to))?;
        Ok(FileContent {
            path: file.path.clone(),
            bytes: sum,
            sha256: hex::encode(hash.finalize()),
        })
    }
}

/// The largest range that is read at once.
const READ_STEP: u64 = 16 << 20;

/// The folders of a copy, the innermost first.
fn folders(at: &Path, stat: &Stat) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = vec![at.to_owned()];
    for file in &stat.files {
        let inside = at.join(&file.path);
        let above = inside.ancestors().skip(1).take_while(|folder| *folder != at);
        all.extend(above.map(Path::to_owned));
    }
    all.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    all.dedup();
    all
}

/// Makes room for a copy: what of another kind is there goes, as do files that the copy does not have.
fn prepare(unfinished: &Path, stat: &Stat) -> Result<(), StoreError> {
    if unfinished.is_dir() != stat.is_folder {
        remove(unfinished)?;
    }
    if !stat.is_folder {
        return Ok(());
    }
    make_folder(unfinished)?;
    for path in crate::store::copy::files_below(unfinished)? {
        if stat.file(&path).is_none() {
            remove(&unfinished.join(path))?;
        }
    }
    Ok(())
}

/// Opens a file to go on with, hashed as far as it is there.
fn open_at_end(to: &Path, bytes: u64) -> Result<(File, Sha256, u64), StoreError> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    let mut options = File::options();
    let opened = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(to);
    let mut file = opened.map_err(io("make", to))?;
    let there = file.metadata().map_err(io("look at", to))?.len();
    // The last bytes that a crash left need not be those that were written.
    let keep = there.saturating_sub(1 << 20).min(bytes) / (1 << 20) * (1 << 20);
    file.set_len(keep).map_err(io("shorten", to))?;
    let (mut hash, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut block).map_err(io("read", to))?;
        if read == 0 {
            break;
        }
        hash.update(&block[..read]);
    }
    file.seek(SeekFrom::Start(keep)).map_err(io("write", to))?;
    Ok((file, hash, keep))
}
