//! Whether a message was signed by its sender: the network's own check, from the published crate.

use fvm_shared::crypto::signature::SignatureType;

use crate::types::Protocol;

use super::{MessageError, SignedMessage, signing_bytes};

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The sender's address holds no key, or one of another kind than the signature.
    #[error("{from} cannot have made a {kind:?} signature; an address with its own key (f1… or f3…) signs")]
    WrongKind {
        /// The sender.
        from: String,
        /// The signature's kind.
        kind: SignatureType,
    },
    /// It is not the sender's, or not for this message.
    #[error("the signature is not that of {from} for this message: {reason}")]
    Invalid {
        /// The sender.
        from: String,
        /// What the check says.
        reason: String,
    },
    /// The message cannot be encoded.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// Checks that the sender signed the message.
///
/// # Errors
/// The signature is invalid, or of another kind than the sender's key.
pub fn verify(signed: &SignedMessage) -> Result<(), SignatureError> {
    let from = signed.message.from;
    let kind = signed.signature.signature_type();
    let fits = matches!(
        (from.protocol(), kind),
        (Protocol::Secp256k1, SignatureType::Secp256k1) | (Protocol::BLS, SignatureType::BLS)
    );
    if !fits {
        return Err(SignatureError::WrongKind {
            from: from.to_string(),
            kind,
        });
    }
    let bytes = signing_bytes(&signed.message)?;
    signed
        .signature
        .verify(&bytes, &from)
        .map_err(|reason| SignatureError::Invalid {
            from: from.to_string(),
            reason,
        })
}
