//! Opening: the directory lock, the store, its schema, the fence, the payload folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Mutex;

use super::archive::ArchiveFolder;
use super::client::Client;
use super::error::OpenError;
use super::feed::Feed;
use super::lock::DirectoryLock;
use super::options::{OpenOptions, Target, redact};
use super::payload::PayloadFolder;
use super::write::Writer;
use super::{SurrealJournal, schema};

impl SurrealJournal {
    /// Opens a journal: `surrealkv://PATH` (embedded, every commit synced to disk), `memory` (gone when
    /// closed), `rocksdb://PATH` (with the feature of that name), `ws://HOST:PORT` or `wss://HOST:PORT`.
    ///
    /// # Errors
    /// A wrong URL, a directory in use, a store that cannot be reached or read, a newer schema; and
    /// without [`OpenOptions::fence`] a journal that is not there.
    pub async fn open(url: &str, options: OpenOptions) -> Result<Self, OpenError> {
        let target = Target::parse(url)?;
        let lock = match &target {
            Target::Directory { path, .. } => Some(lock(path, &options).await?),
            Target::Memory | Target::Remote(_) => None,
        };
        let client = Client::open(&target, redact(url), &options).await?;
        let prepared = prepare(&client, &options).await;
        let (epoch, payloads) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                if let Err(closing) = client.close().await {
                    tracing::warn!(%closing, "after a failed start");
                }
                return Err(error);
            }
        };
        Ok(Self {
            client: Arc::new(client),
            payloads,
            epoch,
            writer: epoch.map(|epoch| Mutex::new(Writer::new(epoch))),
            feed: Feed::new(epoch.unwrap_or_default()),
            archives: ArchiveFolder {
                root: options.archives,
            },
            housekeeping: Mutex::new(()),
            // What a crash left.
            unswept: AtomicBool::new(true),
            lock: std::sync::Mutex::new(lock),
        })
    }
}

/// Gives the epoch of the writer, if there is one, and the payloads.
async fn prepare(client: &Client, options: &OpenOptions) -> Result<(Option<u64>, PayloadFolder), OpenError> {
    schema::prepare(client, options.fence).await?;
    let epoch = if options.fence {
        Some(schema::take_fence(client, options.after).await?)
    } else {
        None
    };
    let payloads = PayloadFolder::open(options.payloads.clone(), options.fence).await?;
    Ok((epoch, payloads))
}

/// Makes the directory if it may, and locks it.
async fn lock(folder: &Path, options: &OpenOptions) -> Result<DirectoryLock, OpenError> {
    let (folder, create): (PathBuf, bool) = (folder.to_owned(), options.fence);
    let work = move || {
        if create {
            let failed = |source| OpenError::Io {
                what: "make the data directory",
                path: folder.clone(),
                source,
            };
            std::fs::create_dir_all(&folder).map_err(failed)?;
        } else if !folder.is_dir() {
            return Err(OpenError::Missing {
                place: folder.display().to_string(),
            });
        }
        DirectoryLock::take(&folder)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(lock) => lock,
        Err(error) => Err(OpenError::Store {
            place: "its directory".to_owned(),
            what: error.to_string(),
        }),
    }
}
