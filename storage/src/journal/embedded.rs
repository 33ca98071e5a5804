//! A store in this process, on its own thread: opening, asking, making tables of its log, closing.
//!
//! surrealkv 0.21.4 must never find its memory full. The change at which it does is written to the log of before and kept in the
//! memory of after; when the memory of before has become a table, that log is removed, and with it the only durable copy
//! of an acknowledged change. The same happens when a log is read again that does not fit into its memory (of several changes).
//! So its memory has room for [`ROOM`] times the log that we let it have, and we make the table ourselves, by closing and
//! opening the store. That takes about as long as its own way, which holds up the store's thread too.
//! `tests/full.rs` shows the fault on the store alone, and fails when a newer store has mended it.
//!
//! Nor may it put values into its log of values, which is its default for those above 4 KiB: when a file of that log is full, the
//! next one is begun without syncing it, the table that points to it is durable and the log of changes is removed: a power
//! cut then takes acknowledged values. It also verifies no checksum of them, and a file stays until nothing in it is used.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use surrealdb::Surreal;
use surrealdb::engine::local::Db;
use surrealdb_cnf::ConfigMap;
use surrealdb_engine_local::Datastore;
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::error::{OpenError, store_text};
use super::options::OpenOptions;
use super::thread::StoreThread;

/// The namespace and the database, both.
pub(super) const NAME: &str = "sealflow";

/// How much more the store's memory takes than the log may have: a change takes more room there, and the last one before
/// a table is made must fit too.
const ROOM: u64 = 8;

/// How long a store that a dropped journal of this process is still closing is waited for.
const CLOSING: Duration = Duration::from_secs(10);

/// An open store. The connection is shared: a clone of it would be another session.
struct Open {
    db: Arc<Surreal<Db>>,
    datastore: Arc<Datastore>,
}

/// A store in this process. Nothing of it is used, nor dropped, on another thread than its own.
pub(super) struct Embedded {
    thread: StoreThread,
    /// Nothing after it was closed, or after it could not be opened again. Statements share it; who makes a table has it alone.
    open: Arc<RwLock<Option<Open>>>,
    how: How,
}

/// How to open it.
#[derive(Clone)]
struct How {
    /// Its URL.
    path: String,
    /// The same, for people.
    place: String,
    settings: ConfigMap,
    /// Where its log is, and when a table is made of it. Not for stores that do this well themselves.
    log: Option<(PathBuf, u64)>,
}

impl Embedded {
    /// Opens the store of a URL.
    pub(super) async fn open(path: String, place: &str, options: &OpenOptions) -> Result<Self, OpenError> {
        let log = path
            .strip_prefix("surrealkv://")
            .map(|folder| (Path::new(folder).join("wal"), options.log_bytes));
        let how = How {
            path,
            place: place.to_owned(),
            settings: settings(options),
            log,
        };
        let thread = StoreThread::start().map_err(|error| OpenError::Store {
            place: place.to_owned(),
            what: format!("no thread for the store: {error}"),
        })?;
        let open = how.open(&thread).await?;
        Ok(Self {
            thread,
            open: Arc::new(RwLock::new(Some(open))),
            how,
        })
    }

    /// Does something with the store, on its thread. It is done even if nobody waits for it any more.
    pub(super) async fn with<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Surreal<Db>>) -> F + Send + 'static,
    ) -> surrealdb::Result<T> {
        let open = self.open.clone().read_owned().await;
        let Some(db) = open.as_ref().map(|open| open.db.clone()) else {
            return Err(surrealdb::Error::internal("the store is closed".to_owned()));
        };
        let work = hold(open, work(db));
        self.thread.run(work).await.map_err(surrealdb::Error::internal)
    }

    /// Makes a table of the log when it is long enough, or when the store began another one by itself. To be called after
    /// every change, before anyone is told of it.
    ///
    /// # Errors
    /// The log cannot be looked at, the store cannot be closed or opened again (then it stays closed), or no table could be
    /// made. Whatever was changed before is in the log.
    pub(super) async fn shorten_log(&self) -> Result<(), String> {
        let Some((folder, most)) = &self.how.log else {
            return Ok(());
        };
        // Some microseconds, here: to ask another thread takes longer.
        let look = || Log::look(folder).map_err(|error| format!("looking at {}: {error}", folder.display()));
        let log = look()?;
        if log.bytes < *most && log.files < 2 {
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let mut open = self.open.clone().write_owned().await;
        if let Some(old) = open.take() {
            self.thread.run(old.close()).await??;
        }
        *open = Some(
            self.how
                .open(&self.thread)
                .await
                .map_err(|error| error.to_string())?,
        );
        // The store says it to its own log alone when it could not. The log has everything, and is read again with it; but
        // the next change would try again, and the one after it, until the memory is full.
        if look()?.bytes >= log.bytes {
            return Err(format!(
                "its log of {} MiB stays as it is; make room on its disk",
                log.bytes >> 20
            ));
        }
        tracing::debug!(log.bytes, log.files, took = ?begun.elapsed(), "made a table of the store's log");
        Ok(())
    }

    /// Flushes and closes the store.
    ///
    /// # Errors
    /// Its own words.
    pub(super) async fn close(&self) -> Result<(), String> {
        match self.open.clone().write_owned().await.take() {
            Some(open) => self.thread.run(open.close()).await?,
            None => Ok(()),
        }
    }
}

impl Drop for Embedded {
    /// A journal that was dropped without `close` is closed in the background.
    fn drop(&mut self) {
        let open = self.open.clone();
        self.thread.finish(async move {
            if let Some(open) = open.write_owned().await.take()
                && let Err(error) = open.close().await
            {
                tracing::warn!(%error, "closing the store");
            }
        });
    }
}

/// Keeps the store open while something is done with it.
async fn hold<T>(open: OwnedRwLockReadGuard<Option<Open>>, work: impl Future<Output = T>) -> T {
    let done = work.await;
    drop(open);
    done
}

impl Open {
    async fn close(self) -> Result<(), String> {
        self.datastore.shutdown().await.map_err(|error| error.to_string())
    }
}

impl How {
    async fn open(&self, thread: &StoreThread) -> Result<Open, OpenError> {
        let fail = |what: String| OpenError::Store {
            place: self.place.clone(),
            what,
        };
        let begun = std::time::Instant::now();
        let datastore = loop {
            let opening = start(self.path.clone(), self.settings.clone());
            // A panic over files that it does not expect is an error, not our end.
            match thread.run(opening).await {
                Ok(Ok(datastore)) => break datastore,
                // A journal that was dropped without `close` is closed in the background.
                Ok(Err(what)) if what.contains("already locked") && begun.elapsed() < CLOSING => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(Err(what)) => {
                    let advice =
                        "check the path and the free space; if the files are damaged, restore a backup";
                    return Err(fail(format!("{what}; {advice}")));
                }
                Err(error) => {
                    let what = format!("the store cannot read its files ({error})");
                    return Err(OpenError::Damaged {
                        place: self.place.clone(),
                        what,
                    });
                }
            }
        };
        let stored = datastore.clone();
        let connecting = thread.run(async move {
            let db = Surreal::<Db>::unstable_from_datastore(stored, None).await?;
            db.use_ns(NAME).use_db(NAME).await?;
            Ok(db)
        });
        let db: surrealdb::Result<_> = connecting.await.map_err(fail)?;
        let db = db.map_err(|error| fail(store_text("connecting", &self.place, &error)))?;
        Ok(Open {
            db: Arc::new(db),
            datastore,
        })
    }
}

/// The settings of an embedded store. Its own defaults are half of the machine's memory, and the SDK
/// passes on neither settings in the URL nor the environment.
fn settings(options: &OpenOptions) -> ConfigMap {
    let cache = options.cache_bytes.to_string();
    // Taken from the system as it is written to, not before.
    let memory = (ROOM * options.log_bytes).to_string();
    ConfigMap::empty()
        .with_key_value("datastore_sync", if options.synced { "every" } else { "never" })
        .with_key_value("surrealkv_block_cache_capacity", cache.as_str())
        .with_key_value("surrealkv_max_memtable_size", memory)
        // Nothing new goes to its log of values, see above; what an earlier sealflow put there is still read.
        .with_key_value("surrealkv_vlog_threshold", usize::MAX.to_string())
        .with_key_value("rocksdb_block_cache_size", cache)
        .with_key_value("rocksdb_write_buffer_size", options.log_bytes.to_string())
        .with_key_value("rocksdb_max_write_buffer_number", "2")
}

/// Opens the datastore as the SDK does, but without its maintenance tasks: they serve clusters,
/// changefeeds and indexes, which the journal does not have, and would keep an idle daemon busy.
async fn start(path: String, settings: ConfigMap) -> Result<Arc<Datastore>, String> {
    let datastore = Datastore::builder()
        .with_config(settings)
        .without_maintenance_tasks()
        .build_with_path(&path)
        .await
        .map_err(|error| error.to_string())?;
    datastore
        .check_version()
        .await
        .map_err(|error| error.to_string())?;
    datastore.bootstrap().await.map_err(|error| error.to_string())?;
    Ok(datastore)
}

/// A store's log as it is on disk.
struct Log {
    files: usize,
    bytes: u64,
}

impl Log {
    fn look(folder: &Path) -> std::io::Result<Self> {
        let mut log = Self { files: 0, bytes: 0 };
        for file in std::fs::read_dir(folder)? {
            let file = file?;
            if file
                .path()
                .extension()
                .is_some_and(|extension| extension == "wal")
            {
                log.files += 1;
                log.bytes += file.metadata()?.len();
            }
        }
        Ok(log)
    }
}
