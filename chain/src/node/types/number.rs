//! Whole numbers of any size, as decimal strings.

use serde::{Deserializer, Serializer};

use crate::json::Lotus;
use crate::types::{BigInt, TokenAmount};

pub(super) fn serialize<S: Serializer>(number: &BigInt, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&number.to_string())
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BigInt, D::Error> {
    // Amounts have the same form and the same limit.
    TokenAmount::read(deserializer).map(|amount| amount.atto().clone())
}
