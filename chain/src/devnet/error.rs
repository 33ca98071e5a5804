//! Why a devnet cannot start or go on.

use std::path::{Path, PathBuf};

/// What can go wrong with a devnet itself.
#[derive(Debug, thiserror::Error)]
pub enum DevnetError {
    /// A file or a socket.
    #[error("{what}: {source}")]
    Io {
        /// Which.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}: {reason}; remove the folder to begin a new chain", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder holds a chain of another profile.
    #[error("the chain in {} has the profile {found}, not {wanted}; use that profile, or another folder", path.display())]
    OtherProfile {
        /// The folder.
        path: PathBuf,
        /// Its profile.
        found: String,
        /// The profile that was asked for.
        wanted: String,
    },
    /// Another process has the folder.
    #[error("{} is in use by another devnet; stop it, or use another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A command that cannot be done.
    #[error("{0}")]
    Refused(String),
    /// Something that should never fail.
    #[error("the devnet broke: {0}")]
    Broken(String),
}

impl DevnetError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            what: path.display().to_string(),
            source,
        }
    }
}
