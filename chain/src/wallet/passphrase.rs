//! Passphrases, from a file or the environment. They never appear in a log or an error.

use std::path::Path;

use zeroize::Zeroizing;

use super::error::WalletError;
use super::folder;

/// The shortest passphrase that keys are encrypted with.
const SHORTEST: usize = 8;
/// The most bytes that are read.
const LONGEST: usize = 1024;

/// What keys are encrypted with. Its memory is wiped when it is dropped.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// A passphrase of at least 8 bytes.
    ///
    /// # Errors
    /// It is too short or too long.
    pub fn new(text: Zeroizing<String>) -> Result<Self, WalletError> {
        if (SHORTEST..=LONGEST).contains(&text.len()) {
            return Ok(Self(text));
        }
        Err(WalletError::Passphrase(format!(
            "a passphrase has {SHORTEST} to {LONGEST} bytes"
        )))
    }

    /// Reads the first line of a file that only its owner may read.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or its line is too short or too long.
    pub fn from_file(path: &Path) -> Result<Self, WalletError> {
        folder::check_private(path)?;
        let bytes = Zeroizing::new(folder::read_bounded(path, LONGEST as u64 + 2)?);
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| WalletError::Passphrase(format!("{} is not UTF-8", path.display())))?;
        let line = text.lines().next().unwrap_or_default();
        Self::new(Zeroizing::new(line.to_owned()))
    }

    /// Reads an environment variable.
    ///
    /// # Errors
    /// It is not set, not UTF-8, too short or too long.
    pub fn from_env(variable: &str) -> Result<Self, WalletError> {
        let text = std::env::var(variable)
            .map_err(|_| WalletError::Passphrase(format!("the variable {variable} is not set to a text")))?;
        Self::new(Zeroizing::new(text))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("passphrase (secret)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        std::fs::write(&path, "correct horse\nsecond line\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Passphrase::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("can be read by others (mode 644)"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Passphrase::from_file(&path).unwrap().bytes(), b"correct horse");
        std::fs::write(&path, "short\n").unwrap();
        assert!(Passphrase::from_file(&path).is_err());
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert!(Passphrase::from_file(&path).is_err());
        assert!(Passphrase::from_file(&dir.path().join("none")).is_err());
    }

    #[test]
    fn the_environment() {
        // Cargo sets this for tests; setting one ourselves would race with other threads.
        assert!(Passphrase::from_env("CARGO_MANIFEST_DIR").is_ok());
        let error = Passphrase::from_env("SEALFLOW_NO_SUCH_VARIABLE")
            .unwrap_err()
            .to_string();
        assert!(error.contains("SEALFLOW_NO_SUCH_VARIABLE"), "{error}");
    }
}
