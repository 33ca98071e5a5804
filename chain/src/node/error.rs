//! What can go wrong between us and a node, and what it means for the work that asked.

use crate::failure::{Failure, FailureClass, bounded};
use crate::outcome;
use crate::types::ExitCode;

/// What a node says when it understood the call and refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppError {
    /// The actor does not exist at that tipset.
    ActorNotFound,
    /// There is no tipset at that height.
    NullRound,
    /// Something that was named does not exist.
    NotFound,
    /// Randomness of an epoch that has not come.
    FutureRandomness,
    /// The nonce was used already.
    NonceTooLow,
    /// There are too many unused nonces before this one.
    NonceGap,
    /// The very message is known already.
    AlreadyKnown,
    /// Another message has the nonce, and this one does not pay enough to take its place.
    PremiumTooLow,
    /// The sender has too many messages waiting.
    TooManyPending,
    /// The sender cannot pay.
    NotEnoughFunds,
    /// Running the message fails.
    Execution(Option<ExitCode>),
    /// The token does not allow it.
    PermissionDenied,
    /// The call is too expensive, or something is not ready.
    Unavailable,
    /// Anything else.
    Other,
}

/// What can go wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No connection, or it broke.
    #[error("{node}: {method}: {reason}")]
    Connection {
        /// The node.
        node: String,
        /// The method.
        method: &'static str,
        /// What happened.
        reason: String,
    },
    /// No answer in time.
    #[error("{node}: {method}: no answer after {seconds} s")]
    Timeout {
        /// The node.
        node: String,
        /// The method.
        method: &'static str,
        /// How long it took.
        seconds: u64,
    },
    /// The node does not know our token, or asks for one.
    #[error("{node}: {method}: the token is refused (HTTP {status}); check it with `lotus auth api-info`")]
    Unauthorized {
        /// The node.
        node: String,
        /// The method.
        method: &'static str,
        /// The status.
        status: u16,
    },
    /// The answer has another form than the method's.
    #[error("{node}: {method}: the answer is not understood: {reason}")]
    Malformed {
        /// The node.
        node: String,
        /// The method.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The answer is larger than we take.
    #[error("{node}: {method}: the answer has more than {limit} bytes")]
    TooLarge {
        /// The node.
        node: String,
        /// The method.
        method: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The node has no such method, or another number of parameters.
    #[error("{node}: {method} is not offered in the form that is needed (code {code}): {message}")]
    NotOffered {
        /// The node.
        node: String,
        /// The method.
        method: &'static str,
        /// The code.
        code: i64,
        /// What the node says.
        message: String,
    },
    /// The node understood and refuses.
    #[error("{node}: {method}: {message} (code {code})")]
    App {
        /// The node.
        node: String,
        /// The method.
        method: &'static str,
        /// The code.
        code: i64,
        /// What the node says.
        message: String,
        /// What that means.
        kind: AppError,
    },
    /// The node belongs to another network than it should.
    #[error("{node} is on the network `{found}`, not on `{wanted}`")]
    WrongNetwork {
        /// The node.
        node: String,
        /// Its network.
        found: String,
        /// The network that it should be on.
        wanted: String,
    },
    /// No node is left to ask.
    #[error("no node can be asked: {0}")]
    NoNode(String),
}

/// Fragments by which texts of nodes are told apart; wrapped errors lose their code (chain.md §3.1).
const FRAGMENTS: [(&str, AppError); 17] = [
    ("missing permission to invoke", AppError::PermissionDenied),
    ("actor not found", AppError::ActorNotFound),
    ("null round", AppError::NullRound),
    (
        "cannot draw randomness from the future",
        AppError::FutureRandomness,
    ),
    ("message nonce too low", AppError::NonceTooLow),
    ("nonce too low", AppError::NonceTooLow),
    ("unfulfilled nonce gap", AppError::NonceGap),
    // Before the next: the text of a replacement that pays too little has both.
    ("replace by fee", AppError::PremiumTooLow),
    ("already in mpool", AppError::AlreadyKnown),
    ("minimum gas premium", AppError::PremiumTooLow),
    ("too many pending messages", AppError::TooManyPending),
    ("not enough funds", AppError::NotEnoughFunds),
    ("insufficient funds", AppError::NotEnoughFunds),
    ("RetCode=", AppError::Execution(None)),
    ("call failed", AppError::Execution(None)),
    ("message execution failed", AppError::Execution(None)),
    ("not found", AppError::NotFound),
];

/// What an application error means.
pub(super) fn kind_of(code: i64, message: &str) -> AppError {
    match code {
        2 => return AppError::Execution(Some(ExitCode::SYS_OUT_OF_GAS)),
        11 => return AppError::ActorNotFound,
        12 => return AppError::NullRound,
        -32005 | -32002 | 4 | 10 => return AppError::Unavailable,
        _ => {}
    }
    // An execution's own text may hold any other fragment.
    if let Some(exit) = outcome::exit_code_in(message) {
        return AppError::Execution(Some(exit));
    }
    let found = FRAGMENTS.iter().find(|(fragment, _)| message.contains(fragment));
    match found {
        Some((_, kind)) => *kind,
        None if code == 3 => AppError::Execution(None),
        None => AppError::Other,
    }
}

impl NodeError {
    /// Whether another node, or this one later, may answer: for calls that may be repeated.
    pub fn is_node_trouble(&self) -> bool {
        match self {
            Self::Connection { .. }
            | Self::Timeout { .. }
            | Self::Unauthorized { .. }
            | Self::Malformed { .. }
            | Self::NotOffered { .. }
            | Self::WrongNetwork { .. } => true,
            Self::App { kind, .. } => matches!(kind, AppError::Unavailable | AppError::PermissionDenied),
            Self::TooLarge { .. } | Self::NoNode(_) => false,
        }
    }

    /// What the node means, if it understood and refuses.
    pub fn app(&self) -> Option<AppError> {
        match self {
            Self::App { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// The failure that this is for the work that asked.
    pub fn failure(&self) -> Failure {
        use FailureClass::{Critical, Permanent, Transient};
        let (class, code) = match self {
            Self::Connection { .. } => (Transient, "node_unreachable"),
            Self::Timeout { .. } => (Transient, "node_timeout"),
            Self::NoNode(_) => (Transient, "no_node"),
            Self::Unauthorized { .. } => (Permanent, "node_refuses_token"),
            Self::Malformed { .. } => (Critical, "node_not_understood"),
            Self::TooLarge { .. } => (Permanent, "answer_too_large"),
            Self::NotOffered { .. } => (Permanent, "method_not_offered"),
            Self::WrongNetwork { .. } => (Critical, "wrong_network"),
            Self::App { kind, .. } => self.refusal(*kind),
        };
        if let (Self::App { method, message, .. }, Some(exit)) = (self, self.exit_code())
            && let Some(failure) = outcome::failure(method, exit, Some(message))
        {
            return failure;
        }
        Failure {
            class,
            code,
            message: bounded(&self.to_string()),
        }
    }

    fn exit_code(&self) -> Option<ExitCode> {
        match self.app() {
            Some(AppError::Execution(exit)) => exit,
            _ => None,
        }
    }

    fn refusal(&self, kind: AppError) -> (FailureClass, &'static str) {
        use FailureClass::{Permanent, Transient};
        match kind {
            AppError::ActorNotFound => (Permanent, "actor_not_found"),
            AppError::NullRound => (Transient, "null_round"),
            AppError::NotFound => (Transient, "not_found"),
            AppError::FutureRandomness => (Transient, "too_early"),
            AppError::NonceTooLow => (Transient, "nonce_used"),
            AppError::NonceGap => (Transient, "nonce_gap"),
            AppError::AlreadyKnown => (Transient, "already_known"),
            AppError::PremiumTooLow => (Transient, "premium_too_low"),
            AppError::TooManyPending => (Transient, "too_many_pending"),
            AppError::NotEnoughFunds => (Transient, "insufficient_funds"),
            AppError::Execution(_) => (Permanent, "execution_failed"),
            AppError::PermissionDenied => (Permanent, "node_refuses_token"),
            AppError::Unavailable => (Transient, "node_unavailable"),
            AppError::Other => (Transient, "node_error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_nodes() {
        for (code, text, kind) in [
            (1, "resolve address f3x: actor not found", AppError::ActorNotFound),
            (11, "", AppError::ActorNotFound),
            (12, "", AppError::NullRound),
            (
                1,
                "missing permission to invoke 'MpoolPush' (need 'write')",
                AppError::PermissionDenied,
            ),
            (1, "message nonce too low", AppError::NonceTooLow),
            (
                1,
                "message from f1 with nonce 3 already in mpool",
                AppError::AlreadyKnown,
            ),
            (
                1,
                "message will not be included: unfulfilled nonce gap",
                AppError::NonceGap,
            ),
            (
                1,
                "message from f1 with nonce 3 already in mpool, increase GasPremium to 5 from 4 to trigger replace by fee: replace by fee has too low GasPremium",
                AppError::PremiumTooLow,
            ),
            (1, "not enough funds: 0 < 5", AppError::NotEnoughFunds),
            (
                1,
                "cannot draw randomness from the future",
                AppError::FutureRandomness,
            ),
            (
                1,
                "call failed: … insufficient funds (RetCode=19)",
                AppError::Execution(Some(ExitCode::new(19))),
            ),
            (
                2,
                "call ran out of gas",
                AppError::Execution(Some(ExitCode::SYS_OUT_OF_GAS)),
            ),
            (3, "execution reverted", AppError::Execution(None)),
            (-32005, "limit", AppError::Unavailable),
            (1, "anything", AppError::Other),
        ] {
            assert_eq!(kind_of(code, text), kind, "{code} {text}");
        }
    }

    #[test]
    fn an_execution_that_fails_has_the_actors_own_class() {
        let message = "message execution failed: too early to prove sector 7 (RetCode=18)".to_owned();
        let kind = kind_of(1, &message);
        let error = NodeError::App {
            node: "n".into(),
            method: "GasEstimateMessageGas",
            code: 1,
            message,
            kind,
        };
        let failure = error.failure();
        assert_eq!(
            (failure.class, failure.code),
            (FailureClass::Transient, "too_early")
        );
        assert!(!error.is_node_trouble());
    }
}
