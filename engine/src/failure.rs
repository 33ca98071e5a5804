//! How an attempt can fail. The class decides what happens next, the code is looked up, the message
//! is read.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What a failure means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// May work next time: retry with back-off; when the retries are used up the run pauses.
    Transient,
    /// Will not work without a change: the run pauses and a person looks.
    Permanent,
    /// The run must go back along the edge that the workflow declares for this code.
    Rewind,
    /// This executor or disk is bad: try elsewhere or later, and do not charge the run.
    Critical,
}

impl FailureClass {
    /// The class as users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Rewind => "rewind",
            Self::Critical => "critical",
        }
    }
}

/// A failed attempt, as a stage or an executor reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides what happens next.
    pub class: FailureClass,
    /// A stable slug that documentation explains, for example `no_space`.
    pub code: Cow<'static, str>,
    /// What happened, where, and what to do: at most 4 KiB are kept.
    pub message: String,
}

const MESSAGE_LIMIT: usize = 4096;

impl Failure {
    /// A failure with a message. Longer messages than 4 KiB are cut.
    pub fn new(class: FailureClass, code: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_LIMIT {
            let mut end = MESSAGE_LIMIT;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        Self {
            class,
            code: Cow::Borrowed(code),
            message,
        }
    }

    /// A failure that may not happen again.
    pub fn transient(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Transient, code, message)
    }

    /// A failure that a person must look at.
    pub fn permanent(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Permanent, code, message)
    }

    /// A failure that sends the run back.
    pub fn rewind(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Rewind, code, message)
    }

    /// A failure of the place, not of the work.
    pub fn critical(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(FailureClass::Critical, code, message)
    }

    /// The failure of an input or output error at a path: a full disk, missing rights and the like
    /// have codes of their own, so that people and retries treat them rightly.
    pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let text = |hint: &str| format!("{what} {}: {error}{hint}", path.display());
        match error.kind() {
            K::StorageFull | K::QuotaExceeded => {
                Self::transient("no_space", text("; free space there, the step is tried again"))
            }
            K::PermissionDenied | K::ReadOnlyFilesystem => Self::permanent(
                "no_permission",
                text("; let the user that runs sealflow use it, then `sealflow run retry`"),
            ),
            K::NotFound => Self::permanent(
                "path_missing",
                text("; put the file back or mount its disk, then `sealflow run retry`"),
            ),
            _ => Self::transient("io_error", text("")),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.class.as_str(), self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let failure = Failure::permanent("x", "é".repeat(4000));
        assert!(failure.message.len() <= MESSAGE_LIMIT + 4);
        assert!(failure.message.ends_with('…'));
    }
}
