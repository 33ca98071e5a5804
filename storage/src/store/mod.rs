//! Stores of artifacts: where large files are kept.

mod copy;
mod filesystem;
mod s3;
#[cfg(test)]
mod tests;

use std::ops::Range;

use sealflow_engine::artifact::{Policy, READ_LIMIT, StoreError, check_file, check_key};

pub use self::filesystem::FilesystemStore;
pub use self::s3::{CredentialSource, S3Settings, S3Store};

/// Runs file work where it may block. It borrows what the caller borrowed, so it stays on this thread.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Refuses to write to a store that is for reading only.
fn writable(store: &str, policy: &Policy) -> Result<(), StoreError> {
    if !policy.read_only {
        return Ok(());
    }
    Err(StoreError::Refused {
        store: store.to_owned(),
        what: "it is for reading only (`read_only` in the configuration)".to_owned(),
    })
}

/// The failure of what does not fit.
fn no_room(store: &str, bytes: u64, free: u64) -> StoreError {
    StoreError::Unavailable {
        store: store.to_owned(),
        what: format!(
            "{bytes} bytes do not fit into the {free} that are free beside its reserve; make room, the step is \
             tried again"
        ),
    }
}

/// The key of a file in the folder under a key.
fn file_key(key: &str, file: &str) -> Result<String, StoreError> {
    check_key(key)?;
    if file.is_empty() {
        return Ok(key.to_owned());
    }
    check_file(file)?;
    Ok(format!("{key}/{file}"))
}

/// Refuses ranges that are upside down or too long for one answer.
fn check_range(store: &str, key: &str, range: &Range<u64>) -> Result<(), StoreError> {
    if range.start <= range.end && range.end - range.start <= READ_LIMIT {
        return Ok(());
    }
    Err(StoreError::Refused {
        store: store.to_owned(),
        what: format!(
            "bytes {} to {} of `{key}` are no range for one read",
            range.start, range.end
        ),
    })
}
