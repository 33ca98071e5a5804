//! What can go wrong with proof parameters: each error says what, where, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::dir::Origin;
use super::set::ParamSet;

/// An error of [`generate`](super::generate()), [`fetch`](super::fetch()), [`check`](super::check()) or
/// [`list`](super::list()).
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// The name of a set that does not exist.
    #[error("there is no parameter set {name:?}; the sets are {}", set_names())]
    UnknownSet {
        /// The name as given.
        name: String,
    },

    /// The proofs library refused to set the proof up.
    #[error("the proofs library cannot set up {set}: {reason}; this is a bug in sealflow, please report it")]
    Setup {
        /// The set.
        set: ParamSet,
        /// What the library said.
        reason: String,
    },

    /// Neither `XDG_CACHE_HOME` nor `HOME` says where caches go.
    #[error(
        "no folder for proof parameters: set XDG_CACHE_HOME or HOME to an absolute path, or name a folder"
    )]
    NoCacheFolder,

    /// Generated and published parameters have the same names and must not mix.
    #[error(
        "{} holds {is} parameters, {wanted} ones do not belong there: the two have the same file names, and proofs \
         made with one never verify with the other; use the folder {wanted:?} beside it",
        path.display()
    )]
    WrongFolder {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        is: Origin,
        /// What was to be put there.
        wanted: Origin,
    },

    /// Generating this set would take days or more memory than machines have.
    #[error(
        "{set} is too large to generate here (2KiB and 8MiB are possible); \
         fetch the published set: sealflow params fetch {set}"
    )]
    TooLargeToGenerate {
        /// The set.
        set: ParamSet,
    },

    /// The network never published this set.
    #[error("{set} was never published; generate it: sealflow params generate {set}")]
    NotPublished {
        /// The set.
        set: ParamSet,
    },

    /// The circuit could not be turned into parameters.
    #[error("cannot generate {set}: {source}")]
    Synthesis {
        /// The set.
        set: ParamSet,
        /// What the circuit or the arithmetic complained about.
        source: bellpepper_core::SynthesisError,
    },

    /// The disk is too full.
    #[error(
        "{} has {free} bytes free and {needed} are needed for {what}; free some space or use another folder",
        path.display()
    )]
    NoSpace {
        /// The folder on that disk.
        path: PathBuf,
        /// A set or file.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes free for this user.
        free: u64,
    },

    /// Somebody asked to stop.
    #[error(
        "stopped before {what} was complete; nothing incomplete was put in place, start again when you like"
    )]
    Cancelled {
        /// A set or file.
        what: String,
    },

    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The server answered, but not with the file.
    #[error("{url} answered {status}: {advice}")]
    Http {
        /// What was asked for.
        url: String,
        /// The status line.
        status: String,
        /// What to do.
        advice: &'static str,
    },

    /// The transfer kept failing.
    #[error(
        "{url}: gave up after {attempts} attempts without progress, {have} bytes are kept and the next fetch \
         goes on from there; check the network, or name another gateway. The last attempt said: {reason}"
    )]
    Transfer {
        /// What was asked for.
        url: String,
        /// How often in a row nothing came.
        attempts: u32,
        /// Bytes on disk.
        have: u64,
        /// What the last attempt said.
        reason: String,
    },

    /// What came is not what was published.
    #[error(
        "{url} sent {bytes} bytes with digest {found}, but {name} has digest {expected}; they were thrown away. \
         Try again, or name another gateway"
    )]
    WrongContent {
        /// What was asked for.
        url: String,
        /// The file.
        name: String,
        /// Bytes received.
        bytes: u64,
        /// The published digest (the first 128 bits of BLAKE2b-512, in hex).
        expected: String,
        /// The digest of what came.
        found: String,
    },
}

impl ParamsError {
    /// For `map_err` on a file operation.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

fn set_names() -> String {
    ParamSet::all()
        .map(|set| set.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
