//! The connection to SurrealDB: one interface to a store in this process and to a server.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealflow_engine::journal::JournalError;
use surrealdb::engine::any::{Any, connect};
use surrealdb::engine::local::Db;
use surrealdb::opt::auth::Root;
use surrealdb::types::{Object, SurrealValue};
use surrealdb::{IndexedResults, Surreal};
use surrealdb_cnf::ConfigMap;
use surrealdb_engine_local::Datastore;

use super::error::{OpenError, store, store_text};
use super::options::{Credentials, OpenOptions, Target};
use super::thread::StoreThread;

/// The namespace and the database, both.
const NAME: &str = "sealflow";

/// How long a store that a dropped journal of this process is still closing is waited for.
const CLOSING: Duration = Duration::from_secs(10);

enum Kind {
    Local(Local),
    Remote(Surreal<Any>),
}

/// A store in this process. Nothing of it is used, nor dropped, on another thread than its own.
struct Local {
    thread: StoreThread,
    /// Nothing only while it is dropped. The connection is shared: a clone of it would be another session.
    open: Option<(Arc<Surreal<Db>>, Arc<Datastore>)>,
}

impl Local {
    fn failed(what: String) -> surrealdb::Error {
        surrealdb::Error::internal(what)
    }

    async fn with<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Surreal<Db>>, Arc<Datastore>) -> F,
    ) -> surrealdb::Result<T> {
        let Some((db, datastore)) = self.open.clone() else {
            return Err(Self::failed("the store is closed".to_owned()));
        };
        self.thread.run(work(db, datastore)).await.map_err(Self::failed)
    }
}

impl Drop for Local {
    /// A journal that was dropped without `close` is closed in the background.
    fn drop(&mut self) {
        if let Some((db, datastore)) = self.open.take() {
            self.thread.finish(async move {
                if let Err(error) = datastore.shutdown().await {
                    tracing::warn!(%error, "closing the store");
                }
                drop((db, datastore));
            });
        }
    }
}

/// An open connection.
pub(super) struct Client {
    kind: Kind,
    place: String,
}

impl Client {
    /// Connects.
    pub(super) async fn open(
        target: &Target,
        place: String,
        options: &OpenOptions,
    ) -> Result<Self, OpenError> {
        let kind = match target {
            Target::Memory => embedded("memory", &place, options).await?,
            Target::Directory { scheme, path } => {
                let path = utf8(path, &place)?;
                embedded(&format!("{scheme}://{path}"), &place, options).await?
            }
            Target::Remote(url) => remote(url, &place, options).await?,
        };
        let client = Self { kind, place };
        let used = match &client.kind {
            Kind::Local(local) => {
                let used = local.with(|db, _| async move { db.use_ns(NAME).use_db(NAME).await });
                used.await.and_then(|used| used)
            }
            Kind::Remote(db) => db.use_ns(NAME).use_db(NAME).await,
        };
        match used {
            Ok(_) => Ok(client),
            Err(error) => Err(client.open_error("selecting the database", &error)),
        }
    }

    /// Runs statements.
    pub(super) async fn query(&self, sql: &str, params: Object) -> surrealdb::Result<IndexedResults> {
        match &self.kind {
            Kind::Local(local) => {
                let sql = sql.to_owned();
                local
                    .with(|db, _| async move { db.query(sql).bind(params).await })
                    .await?
            }
            Kind::Remote(db) => db.query(sql).bind(params).await,
        }
    }

    /// Runs statements and gives the result of the first.
    pub(super) async fn fetch<T: SurrealValue>(
        &self,
        sql: &str,
        params: Object,
    ) -> surrealdb::Result<Vec<T>> {
        self.query(sql, params).await?.check()?.take(0)
    }

    /// Whether an answer may be lost although the store did what was asked.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self.kind, Kind::Remote(_))
    }

    /// Where it is, without a password.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// A failure in words.
    pub(super) fn open_error(&self, doing: &str, error: &surrealdb::Error) -> OpenError {
        OpenError::Store {
            place: self.place.clone(),
            what: store_text(doing, &self.place, error),
        }
    }

    /// A failure after opening.
    pub(super) fn error(&self, doing: &str, error: &surrealdb::Error) -> JournalError {
        store(doing, &self.place, error)
    }

    /// Flushes and closes an embedded store.
    pub(super) async fn close(&self) -> Result<(), JournalError> {
        match &self.kind {
            Kind::Local(local) => {
                let closed = local.with(|_, datastore| async move {
                    datastore.shutdown().await.map_err(|error| error.to_string())
                });
                let closed = closed
                    .await
                    .map_err(|error| error.to_string())
                    .and_then(|closed| closed);
                let place = &self.place;
                closed.map_err(|error| JournalError::Store(format!("closing the store at {place}: {error}")))
            }
            Kind::Remote(_) => Ok(()),
        }
    }
}

fn utf8<'a>(path: &'a Path, place: &str) -> Result<&'a str, OpenError> {
    path.to_str().ok_or_else(|| OpenError::Url {
        url: place.to_owned(),
        why: "the path is not UTF-8".to_owned(),
    })
}

/// The settings of an embedded store. Its own defaults are half of the machine's memory, and the SDK
/// passes on neither settings in the URL nor the environment.
fn settings(options: &OpenOptions) -> ConfigMap {
    let cache = options.cache_bytes.to_string();
    let memtable = options.memtable_bytes.to_string();
    ConfigMap::empty()
        .with_key_value("datastore_sync", if options.synced { "every" } else { "never" })
        .with_key_value("surrealkv_block_cache_capacity", cache.as_str())
        .with_key_value("surrealkv_max_memtable_size", memtable.as_str())
        .with_key_value("rocksdb_block_cache_size", cache)
        .with_key_value("rocksdb_write_buffer_size", memtable)
        .with_key_value("rocksdb_max_write_buffer_number", "2")
}

async fn embedded(path: &str, place: &str, options: &OpenOptions) -> Result<Kind, OpenError> {
    let fail = |what: String| OpenError::Store {
        place: place.to_owned(),
        what,
    };
    let thread = StoreThread::start().map_err(|error| fail(format!("no thread for the store: {error}")))?;
    let begun = std::time::Instant::now();
    let datastore = loop {
        let opening = start(path.to_owned(), settings(options));
        // A panic over files that it does not expect is an error, not our end.
        match thread.run(opening).await {
            Ok(Ok(datastore)) => break datastore,
            // A journal that was dropped without `close` is closed in the background.
            Ok(Err(what)) if what.contains("already locked") && begun.elapsed() < CLOSING => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(Err(what)) => {
                let advice = "check the path and the free space; if the files are damaged, restore a backup";
                return Err(fail(format!("{what}; {advice}")));
            }
            Err(error) => {
                let what = format!("the store cannot read its files ({error})");
                return Err(OpenError::Damaged {
                    place: place.to_owned(),
                    what,
                });
            }
        }
    };
    let stored = datastore.clone();
    let connecting = thread.run(async move { Surreal::<Db>::unstable_from_datastore(stored, None).await });
    let db = connecting.await.map_err(&fail)?;
    let db = db.map_err(|error| fail(store_text("connecting", place, &error)))?;
    Ok(Kind::Local(Local {
        thread,
        open: Some((Arc::new(db), datastore)),
    }))
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

async fn remote(url: &str, place: &str, options: &OpenOptions) -> Result<Kind, OpenError> {
    let fail = |doing: &str, error: &surrealdb::Error| OpenError::Store {
        place: place.to_owned(),
        what: store_text(doing, place, error),
    };
    let db = connect(url).await.map_err(|error| fail("connecting", &error))?;
    match &options.credentials {
        Some(Credentials::Password { user, password }) => {
            let root = Root {
                username: user.clone(),
                password: password.clone(),
            };
            db.signin(root)
                .await
                .map_err(|error| fail("logging in", &error))?;
        }
        Some(Credentials::Token(token)) => {
            db.authenticate(token.as_str())
                .await
                .map_err(|error| fail("logging in", &error))?;
        }
        None => {}
    }
    Ok(Kind::Remote(db))
}
