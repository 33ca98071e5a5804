//! The file a download grows in, its running digest, and the validator that lets another process go on with it.

use std::io;
use std::path::{Path, PathBuf};

use blake2b_simd::State as Blake2b;
use sealflow_engine::durable;
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::check::PUBLISHED_DIGITS;
use super::dir::{FileRecord, PARTIAL};
use super::error::ParamsError;
use super::fetch::{Transfer, Wanted};
use super::progress::Phase;

/// A file that is coming, or has come, but was not yet compared with its digest.
pub(crate) struct Partial {
    path: PathBuf,
    validator_path: PathBuf,
    file: File,
    hash: Blake2b,
    bytes: u64,
    validator: Option<String>,
}

impl Partial {
    /// The record of a file that is already in place and good. A damaged one is removed.
    pub(crate) async fn existing(
        transfer: &Transfer<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Option<FileRecord>, ParamsError> {
        if transfer.dir.size_of(wanted.name)?.is_none() {
            return Ok(None);
        }
        let path = transfer.dir.path().join(wanted.name);
        let (hash, bytes) = read_through(transfer, wanted.name, &path).await?;
        let blake2b = hash.finalize().to_hex().to_string();
        if !blake2b.starts_with(wanted.digest) {
            transfer.dir.remove(wanted.name)?;
            return Ok(None);
        }
        Ok(Some(FileRecord {
            name: wanted.name.to_owned(),
            bytes,
            blake2b,
        }))
    }

    /// Opens what an earlier fetch left, or starts an empty file.
    pub(crate) async fn open(transfer: &Transfer<'_>, wanted: &Wanted<'_>) -> Result<Self, ParamsError> {
        let path = transfer.dir.path().join(format!("{}{PARTIAL}", wanted.name));
        let validator_path = transfer.dir.path().join(format!("{}{PARTIAL}.etag", wanted.name));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .await
            .map_err(ParamsError::io("open", &path))?;
        let (hash, bytes) = read_through(transfer, wanted.name, &path).await?;
        // Without one the range is asked for plainly: a CID names its content, and the digest decides in the end.
        let validator = fs::read_to_string(&validator_path)
            .await
            .ok()
            .filter(|tag| !tag.is_empty());
        Ok(Self {
            path,
            validator_path,
            file,
            hash,
            bytes,
            validator,
        })
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What to send as `If-Range`.
    pub(crate) fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Throws away what came and starts over, with the validator of the file that now comes.
    pub(crate) async fn restart(&mut self, validator: Option<String>) -> Result<(), ParamsError> {
        let restart = async {
            self.file.set_len(0).await?;
            fs::write(&self.validator_path, validator.as_deref().unwrap_or_default()).await
        };
        restart.await.map_err(ParamsError::io("start over", &self.path))?;
        self.hash = Blake2b::new();
        self.bytes = 0;
        self.validator = validator;
        Ok(())
    }

    /// Adds what came.
    pub(crate) async fn append(&mut self, chunk: &[u8]) -> Result<(), ParamsError> {
        self.file
            .write_all(chunk)
            .await
            .map_err(ParamsError::io("write", &self.path))?;
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(())
    }

    /// Sees to it that what came is in the file.
    pub(crate) async fn flush(&mut self) -> Result<(), ParamsError> {
        self.file
            .flush()
            .await
            .map_err(ParamsError::io("write", &self.path))
    }

    /// Compares the digest and gives the file its name, or throws it away.
    pub(crate) async fn finish(
        mut self,
        transfer: &Transfer<'_>,
        wanted: &Wanted<'_>,
        url: &str,
    ) -> Result<FileRecord, ParamsError> {
        transfer.meter.begin(Phase::Commit, None, 0, 0);
        transfer.tick(wanted.name)?;
        let blake2b = self.hash.finalize().to_hex().to_string();
        let good = blake2b.starts_with(wanted.digest);
        let path = transfer.dir.path().join(wanted.name);
        let settle = async {
            if good {
                self.file.flush().await?;
                let (partial, path) = (self.path.clone(), path.clone());
                tokio::task::spawn_blocking(move || durable::publish(&partial, &path)).await??;
            } else {
                fs::remove_file(&self.path).await?;
            }
            match fs::remove_file(&self.validator_path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        settle.await.map_err(ParamsError::io("put in place", &path))?;
        transfer.dir.sync()?;
        if !good {
            return Err(ParamsError::WrongContent {
                url: url.to_owned(),
                name: wanted.name.to_owned(),
                bytes: self.bytes,
                expected: wanted.digest.to_owned(),
                found: blake2b[..PUBLISHED_DIGITS].to_owned(),
            });
        }
        Ok(FileRecord {
            name: wanted.name.to_owned(),
            bytes: self.bytes,
            blake2b,
        })
    }
}

/// Takes the digest of a file on disk.
async fn read_through(
    transfer: &Transfer<'_>,
    name: &str,
    path: &Path,
) -> Result<(Blake2b, u64), ParamsError> {
    let fail = |error| ParamsError::io("read", path)(error);
    let mut file = File::open(path).await.map_err(fail)?;
    let size = file.metadata().await.map_err(fail)?.len();
    transfer.meter.begin(Phase::Digest, Some(size), size, 0);
    let mut hash = Blake2b::new();
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).await.map_err(fail)?;
        if read == 0 {
            return Ok((hash, bytes));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
        transfer.meter.advance(read as u64);
        // A megabyte is read in a millisecond: report less often than that.
        if bytes % (256 << 20) < read as u64 {
            transfer.tick(name)?;
        }
    }
}
