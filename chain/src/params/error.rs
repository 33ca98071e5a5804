//! Why parameters cannot be built or read.

use crate::types::MethodNum;

use super::call::Actor;

/// Why a message is not built: the actor would refuse it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{method}: {reason}")]
pub struct BuildError {
    /// The message that was asked for.
    pub method: &'static str,
    /// What is wrong and what to do.
    pub reason: String,
}

impl BuildError {
    pub(crate) fn new(method: &'static str, reason: impl Into<String>) -> Self {
        Self {
            method,
            reason: reason.into(),
        }
    }
}

/// Why parameters are not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The actor has no such method, or none that a storage provider sends.
    #[error("method {method} of the {actor} actor is not one that a storage provider sends")]
    UnknownMethod {
        /// The actor that the destination stands for.
        actor: Actor,
        /// The number.
        method: MethodNum,
    },
    /// The bytes are no parameters of the method.
    #[error("the parameters of {method} cannot be decoded: {reason}")]
    Undecodable {
        /// The method's name.
        method: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Other bytes mean the same, or there are bytes left over: nothing honest makes such parameters.
    #[error("the parameters of {method} are not in the canonical form")]
    NotCanonical {
        /// The method's name.
        method: &'static str,
    },
}
