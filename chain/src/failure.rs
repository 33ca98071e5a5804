//! What a failure on the chain means for the work that asked for it. The class decides, the code is looked
//! up, the message is read.
//!
//! The engine has the same four classes; this crate imports nothing of ours, so it has its own and the
//! stages translate.

use std::fmt;

/// What a failure means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// May work next time.
    Transient,
    /// Will not work without a change: a person looks.
    Permanent,
    /// Earlier work must be done again, along the edge that the workflow declares for the code.
    Rewind,
    /// The place where the work was done is bad: a node with another network, a broken wallet.
    Critical,
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transient => "transient",
            Self::Permanent => "permanent",
            Self::Rewind => "rewind",
            Self::Critical => "critical",
        })
    }
}

/// A failure with its class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({class}): {message}")]
pub struct Failure {
    /// Decides what happens next.
    pub class: FailureClass,
    /// A stable slug that documentation explains, for example `ticket_expired`.
    pub code: &'static str,
    /// What happened and what to do.
    pub message: String,
}

/// The most that is kept of a text that a node sent.
pub const TEXT_LIMIT: usize = 2048;

/// The beginning of a text from outside, without control characters.
pub fn bounded(text: &str) -> String {
    let mut kept: String = text
        .chars()
        .take(TEXT_LIMIT)
        .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
        .collect();
    if text.len() > kept.len() {
        kept.push('…');
    }
    kept
}
