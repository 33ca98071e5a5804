//! Errors in words: what was being done, where, what is wrong and what to do.

use std::path::PathBuf;

use sealflow_engine::journal::JournalError;

/// Why a journal could not be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one.
    #[error("`{url}` is not the URL of a journal: {why}")]
    Url {
        /// The URL, without its password.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Another process has the directory open.
    #[error(
        "the data directory {} is in use by process {holder}; stop that daemon first, or ask it instead of its files",
        folder.display()
    )]
    Locked {
        /// The directory.
        folder: PathBuf,
        /// The process that holds it, if it says so.
        holder: String,
    },
    /// The system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another daemon was quicker to take over.
    #[error("another daemon took over the journal at {place} from epoch {after}")]
    Followed {
        /// Where.
        place: String,
        /// The epoch that ended.
        after: u64,
    },
    /// There is nothing to read.
    #[error("there is no journal at {place}; `sealflow daemon` makes one when it starts")]
    Missing {
        /// Where.
        place: String,
    },
    /// A newer sealflow wrote the journal.
    #[error(
        "the journal at {place} has schema version {found}, this sealflow knows {known}: install a sealflow that \
         knows version {found}. Nothing was changed"
    )]
    Newer {
        /// Where.
        place: String,
        /// The version of the journal.
        found: u64,
        /// The newest version that this program knows.
        known: u64,
    },
    /// An older sealflow wrote the journal, and it was to be read only.
    #[error(
        "the journal at {place} has schema version {found}, this sealflow reads {known}: start `sealflow daemon` \
         once, which brings it up to date. Nothing was changed"
    )]
    Older {
        /// Where.
        place: String,
        /// The version of the journal.
        found: u64,
        /// The version that this program reads.
        known: u64,
    },
    /// What is stored is not a journal of ours.
    #[error(
        "{place} holds something that is no sealflow journal: {what}. Nothing was changed; check the path, or \
         restore the directory from a backup"
    )]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The store failed.
    #[error("cannot open the journal at {place}: {what}")]
    Store {
        /// Where.
        place: String,
        /// What it says, and what to do.
        what: String,
    },
}

impl From<JournalError> for OpenError {
    fn from(error: JournalError) -> Self {
        Self::Store {
            place: "its store".to_owned(),
            what: error.to_string(),
        }
    }
}

/// What can be done about a failure of the store.
fn advice(error: &surrealdb::Error) -> &'static str {
    let text = error.message();
    if text.contains("No space left") || text.contains("os error 28") {
        "make room on the disk, then start the daemon again"
    } else if text.contains("Permission denied") || text.contains("os error 13") {
        "make the directory writable for the user that runs sealflow"
    } else if error.is_not_allowed() {
        "check the user, password or token of the store"
    } else if error.is_connection() {
        "check that the SurrealDB server runs and can be reached"
    } else if text.contains("memtable") || text.contains("arena") {
        "one commit is larger than the store's write buffer; raise it"
    } else {
        "start the daemon again; if it comes back, `sealflow store check` tells whether data is damaged"
    }
}

/// A failure of the store in words.
pub(super) fn store_text(doing: &str, place: &str, error: &surrealdb::Error) -> String {
    format!("{doing} at {place}: {}; {}", error.message(), advice(error))
}

/// A failure of the store, after which the process cannot know what is stored.
pub(super) fn store(doing: &str, place: &str, error: &surrealdb::Error) -> JournalError {
    JournalError::Store(store_text(doing, place, error))
}

/// Something stored that cannot be decoded.
pub(super) fn corrupt(what: impl std::fmt::Display) -> JournalError {
    JournalError::Corrupt(what.to_string())
}
