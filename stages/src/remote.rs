//! Files that are in stores without local paths, as far as a stage needs them: small ones whole, of large ones the
//! ranges that are looked at, each at its place in a local file that is empty elsewhere and takes no room there.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use schemars::JsonSchema;
use sealflow_engine::artifact::{ArtifactStore, StoreError, Stores};
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use serde::{Deserialize, Serialize};

/// How long one range may take, however often the store tries.
const PATIENCE: Duration = Duration::from_secs(120);

/// The most bytes that are asked for at once.
const STEP: u64 = 8 << 20;

/// The largest description of a sector.
const SMALL: u64 = 4 << 20;

/// What was read of stores without local paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "remote_reads")]
pub struct RemoteReads {
    /// Sectors that were read there.
    pub sectors: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Reads of ranges and looks at what is there; each is one or two requests.
    pub requests: u64,
}

/// Counts what is read.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Counter {
    pub(crate) fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, reads: RemoteReads) {
        self.bytes.fetch_add(reads.bytes, Ordering::Relaxed);
        self.requests.fetch_add(reads.requests, Ordering::Relaxed);
    }

    pub(crate) fn reads(&self, sectors: u64) -> RemoteReads {
        RemoteReads {
            sectors,
            bytes: self.bytes.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

/// The content of a small file in any store, or nothing if it is not there.
pub(crate) async fn small(stores: &Stores, store: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let store = stores.get(store)?;
    let Some(stat) = store.stat(key).await? else {
        return Ok(None);
    };
    let bytes = stat.bytes();
    if stat.is_folder || bytes > SMALL {
        return Err(StoreError::Damaged {
            store: store.name().to_owned(),
            key: key.to_owned(),
            what: format!("{bytes} bytes are no description of a sector"),
        });
    }
    patient(&**store, store.read(key, "", 0..bytes)).await.map(Some)
}

/// Makes a file of this size with nothing in it.
pub(crate) fn hole(path: &Path, bytes: u64) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Failure::io("make the folder", folder, &error))?;
    }
    let made = File::create(path).and_then(|file| file.set_len(bytes));
    made.map_err(|error| Failure::io("make", path, &error))
}

/// Copies ranges of one file of a store to their places in a local file.
pub(crate) async fn fill(
    store: &dyn ArtifactStore,
    (key, file): (&str, &str),
    ranges: &[Range<u64>],
    to: &Path,
    counter: &Counter,
) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io {
        what: "write",
        path: to.to_owned(),
        source,
    };
    let target = Arc::new(File::options().write(true).open(to).map_err(failed)?);
    for range in ranges {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + STEP);
            let bytes = patient(store, store.read(key, file, start..end)).await?;
            counter.count(bytes.len() as u64);
            let target = target.clone();
            let written = tokio::task::spawn_blocking(move || target.write_all_at(&bytes, start)).await;
            written
                .map_err(std::io::Error::other)
                .and_then(|done| done)
                .map_err(failed)?;
            start = end;
        }
    }
    Ok(())
}

/// Waits for a store, but not for ever.
pub(crate) async fn patient<T>(
    store: &dyn ArtifactStore,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let waited = tokio::time::timeout(PATIENCE, asked).await;
    waited.unwrap_or_else(|_| {
        Err(StoreError::Unavailable {
            store: store.name().to_owned(),
            what: format!("no answer in {} s", PATIENCE.as_secs()),
        })
    })
}

/// An attempt's own folder. It goes when the attempt ends, however that is.
#[derive(Debug)]
pub(crate) struct Work(pub(crate) PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = durable::remove(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a working folder stays");
        }
        // The run's and the sector's folders go too, if nothing else is in them.
        for folder in self.0.ancestors().skip(1).take(2) {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}
