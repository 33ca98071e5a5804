//! The connection to SurrealDB: one interface to a store in this process and to a server.

use std::future::Future;
use std::path::Path;

use sealflow_engine::journal::JournalError;
use surrealdb::engine::any::{Any, connect};
use surrealdb::opt::auth::Root;
use surrealdb::types::{Object, SurrealValue};
use surrealdb::{IndexedResults, Surreal};
use tokio::sync::RwLock;

use super::embedded::{Embedded, NAME};
use super::error::{OpenError, store, store_text};
use super::options::{Credentials, OpenOptions, Target};
use super::record::number;

/// Writes to the lease, on the condition that it still has the epoch of who writes. The store isolates writes only, so a look
/// at it would not do.
const FENCE: &str = "LET $held = (UPDATE lease:journal SET commits = (commits ?? 0) + 1 WHERE epoch = $epoch RETURN VALUE epoch); \
     IF array::len($held) != 1 { THROW 'fenced' };";

/// What keeps a daemon that was followed from committing.
pub(super) enum Fence {
    /// The lease in the store, which each transaction writes to: other processes take it there.
    Stored,
    /// The newest epoch, for a store that only this process can have: its folder is locked, and nobody else would see what
    /// is written to it anyway. Transactions share it; who takes over has it alone. It spares each of them a write.
    Here(RwLock<u64>),
}

enum Kind {
    Local(Embedded),
    Remote(Surreal<Any>),
}

/// An open connection.
pub(super) struct Client {
    kind: Kind,
    pub(super) fence: Fence,
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
            Target::Memory => Kind::Local(Embedded::open("memory".to_owned(), &place, options).await?),
            Target::Directory { scheme, path } => {
                let path = format!("{scheme}://{}", utf8(path, &place)?);
                Kind::Local(Embedded::open(path, &place, options).await?)
            }
            Target::Remote(url) => Kind::Remote(remote(url, &place, options).await?),
        };
        let fence = match kind {
            Kind::Local(_) => Fence::Here(RwLock::new(0)),
            Kind::Remote(_) => Fence::Stored,
        };
        Ok(Self { kind, fence, place })
    }

    /// Lets somebody take the fence by `take`, which writes the lease and gives its epoch. Transactions that are under way end
    /// before.
    ///
    /// # Errors
    /// Those of `take`.
    pub(super) async fn follow<E>(&self, take: impl Future<Output = Result<u64, E>>) -> Result<u64, E> {
        match &self.fence {
            Fence::Stored => take.await,
            Fence::Here(newest) => {
                let mut newest = newest.write().await;
                let epoch = take.await?;
                *newest = epoch;
                Ok(epoch)
            }
        }
    }

    /// Runs statements in one transaction, if the epoch is the newest.
    ///
    /// # Errors
    /// One that was thrown (`is_thrown`) when the epoch is not the newest, and those of the store.
    pub(super) async fn transact(
        &self,
        epoch: u64,
        statements: &str,
        mut params: Object,
    ) -> surrealdb::Result<IndexedResults> {
        match &self.fence {
            Fence::Stored => {
                params.insert("epoch".to_owned(), number(epoch));
                self.query(&format!("BEGIN; {FENCE} {statements} COMMIT;"), params)
                    .await
            }
            Fence::Here(newest) => {
                let newest = newest.read().await;
                if *newest != epoch {
                    return Err(surrealdb::Error::thrown("fenced".to_owned()));
                }
                self.query(&format!("BEGIN; {statements} COMMIT;"), params).await
            }
        }
    }

    /// Runs statements.
    pub(super) async fn query(&self, sql: &str, params: Object) -> surrealdb::Result<IndexedResults> {
        match &self.kind {
            Kind::Local(store) => {
                let sql = sql.to_owned();
                let work = store.with(|db| async move { db.query(sql).bind(params).await });
                Box::pin(work).await?
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

    /// What an embedded store needs after a change, before anyone is told of it.
    pub(super) async fn changed(&self) -> Result<(), JournalError> {
        match &self.kind {
            Kind::Local(store) => {
                let place = &self.place;
                let failed =
                    |error| JournalError::Store(format!("making a table of the log at {place}: {error}"));
                // Rare and large.
                Box::pin(store.shorten_log()).await.map_err(failed)
            }
            Kind::Remote(_) => Ok(()),
        }
    }

    /// Flushes and closes an embedded store.
    pub(super) async fn close(&self) -> Result<(), JournalError> {
        match &self.kind {
            Kind::Local(store) => {
                let place = &self.place;
                let failed = |error| JournalError::Store(format!("closing the store at {place}: {error}"));
                store.close().await.map_err(failed)
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

async fn remote(url: &str, place: &str, options: &OpenOptions) -> Result<Surreal<Any>, OpenError> {
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
    match db.use_ns(NAME).use_db(NAME).await {
        Ok(_) => Ok(db),
        Err(error) => Err(fail("selecting the database", &error)),
    }
}
