//! Errors for people, and the documented exit codes for scripts (docs/cli.md).

use std::fmt;
use std::process::ExitCode;

/// What kind of failure a command ended with; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Something failed that has no code of its own.
    Failed = 1,
    /// The command line is wrong (clap uses the same number).
    Usage = 2,
    /// A configuration or workflow file is wrong.
    Config = 3,
    /// What was asked for is not there.
    NotFound = 4,
    /// The command needs a running daemon.
    NoDaemon = 5,
    /// The run that was waited for did not succeed.
    RunFailed = 6,
    /// A check found something.
    CheckFailed = 7,
    /// The data directory is in use by another process.
    InUse = 8,
}

/// The codes with their meaning, for `docs/cli.md` and `--help`.
pub(crate) const CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong command line
  3  a configuration or workflow file is wrong
  4  what was asked for is not there
  5  the command needs a running daemon (sealflow daemon)
  6  the run that was waited for is paused or was cancelled
  7  a check found something
  8  the data directory is in use by another process";

/// An error that knows its exit code.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl CliError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// The error of a missing thing.
pub(crate) fn not_found(message: impl Into<String>) -> anyhow::Error {
    CliError::new(Kind::NotFound, message).into()
}

/// Tells the user, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let known = error.downcast_ref::<CliError>();
    let kind = known.map_or(Kind::Failed, |known| known.kind);
    if known.is_none_or(|known| !known.message.is_empty()) {
        crate::output::problem(&format!("{error:#}"));
    }
    if let Some(hint) = known.and_then(|known| known.hint.as_ref()) {
        crate::output::hint(hint);
    }
    ExitCode::from(kind as u8)
}
