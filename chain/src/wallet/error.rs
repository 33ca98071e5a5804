//! What can go wrong with a wallet. No error holds a secret.

use std::path::PathBuf;

use crate::address::AddressError;
use crate::message::MessageError;
use crate::params::DecodeError;
use crate::types::Address;

use super::policy::Denied;

/// What can go wrong with a wallet.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// The system refuses.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says. It is in the text, so it is no source of the error.
        reason: std::io::Error,
    },
    /// Others may read what only the owner should.
    #[error("{} can be read by others (mode {mode:o}); run `chmod go-rwx {}`", path.display(), path.display())]
    Permissions {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A key file is not whole.
    #[error("the key file {} is damaged: {reason}; restore it from a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The passphrase does not open the key, or the file's content was changed.
    #[error("the passphrase does not open the key {address} (or its file was changed)")]
    WrongPassphrase {
        /// The key.
        address: Address,
    },
    /// A passphrase that cannot be used.
    #[error("{0}")]
    Passphrase(String),
    /// The key is there already.
    #[error("the key {address} is in the wallet already")]
    KeyExists {
        /// The key.
        address: Address,
    },
    /// The key is not here.
    #[error("the key {address} is not in the wallet")]
    NoKey {
        /// The key.
        address: Address,
    },
    /// The key is here, but locked.
    #[error("the key {address} is locked; unlock the wallet")]
    Locked {
        /// The key.
        address: Address,
    },
    /// An address that no key belongs to.
    #[error("{address} has no key of its own; give the key's address (f1… or f3…)")]
    NotAKey {
        /// The address.
        address: Address,
    },
    /// A key that cannot be used.
    #[error("the key cannot be used: {0}")]
    Key(String),
    /// The policy does not allow it.
    #[error(transparent)]
    Denied(Denied),
    /// What is to be signed is not understood.
    #[error("not signed, because {0}")]
    NotUnderstood(#[from] DecodeError),
    /// What is to be signed is not well formed.
    #[error("not signed, because {0}")]
    NotWellFormed(#[from] MessageError),
    /// A text is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl WalletError {
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |reason| Self::Io {
            path: path.to_owned(),
            reason,
        }
    }
}
