//! JSON as Lotus writes it: CIDs as `{"/": "bafy…"}`, big numbers as decimal strings, bytes as base64,
//! addresses as text, bitfields as run lengths (chain.md §3.1).
//!
//! `#[serde(with = "crate::json")]` on a field chooses the form by the field's type. Reading is tolerant where
//! Go is: null stands for an empty list, no bytes, no address.

use std::borrow::Cow;

use data_encoding::BASE64;
use fvm_ipld_bitfield::json::{BitFieldJson, BitFieldJsonRef};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::types::{Address, BitField, Cid, RawBytes, TokenAmount};
use crate::{address, amount};

/// What Go prints for an address that is not set.
const UNSET: &str = "<empty>";

/// A type that Lotus writes in a form of its own.
pub trait Lotus: Sized {
    /// Writes the Lotus form.
    ///
    /// # Errors
    /// The serializer's.
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error>;
    /// Reads the Lotus form.
    ///
    /// # Errors
    /// The value has another form.
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// For `#[serde(with = "crate::json")]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<T: Lotus, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.write(serializer)
}

/// For `#[serde(with = "crate::json")]`.
///
/// # Errors
/// The value has another form.
pub fn deserialize<'de, T: Lotus, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::read(deserializer)
}

/// For `#[serde(deserialize_with)]`: null is the default, as Go writes empty lists.
///
/// # Errors
/// The value has another form.
pub fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A value in its Lotus form, where a type is needed: parameters and results of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form<T>(pub T);

impl<T: Lotus> Serialize for Form<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

impl<'de, T: Lotus> Deserialize<'de> for Form<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::read(deserializer).map(Self)
    }
}

struct Borrowed<'a, T>(&'a T);

impl<T: Lotus> Serialize for Borrowed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

impl Lotus for Cid {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("/", &self.to_string())?;
        map.end()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Link<'a> {
            #[serde(rename = "/", borrow)]
            text: Cow<'a, str>,
        }
        let link = Link::deserialize(deserializer)?;
        Self::try_from(&*link.text).map_err(|e| D::Error::custom(format!("not a CID: {e}")))
    }
}

impl Lotus for Address {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_string())
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        address::parse(&text).map_err(D::Error::custom)
    }
}

impl Lotus for Option<Address> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(address) => address.write(serializer),
            None => serializer.serialize_none(),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<Cow<str>>::deserialize(deserializer)? {
            Some(text) if !text.is_empty() && text != UNSET => {
                address::parse(&text).map(Some).map_err(D::Error::custom)
            }
            _ => Ok(None),
        }
    }
}

impl Lotus for Option<Cid> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(cid) => cid.write(serializer),
            None => serializer.serialize_none(),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<Form<Cid>>::deserialize(deserializer)?.map(|form| form.0))
    }
}

impl Lotus for TokenAmount {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.atto().to_string())
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        amount::parse_atto(&text).map_err(D::Error::custom)
    }
}

impl Lotus for Option<TokenAmount> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(amount) => amount.write(serializer),
            None => serializer.serialize_none(),
        }
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::<Form<TokenAmount>>::deserialize(deserializer)?.map(|form| form.0))
    }
}

impl Lotus for Vec<u8> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(self))
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<Cow<str>>::deserialize(deserializer)?.unwrap_or_default();
        BASE64
            .decode(text.as_bytes())
            .map_err(|e| D::Error::custom(format!("not base64: {e}")))
    }
}

impl Lotus for RawBytes {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(self.bytes()))
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<u8>::read(deserializer).map(Self::new)
    }
}

impl Lotus for BitField {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        BitFieldJsonRef(self).serialize(serializer)
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let runs = Option::<Vec<u64>>::deserialize(deserializer)?.unwrap_or_default();
        // The published reader adds the runs up unchecked.
        let total = runs.iter().try_fold(0u64, |sum, run| sum.checked_add(*run));
        if total.is_none_or(|total| total > i64::MAX as u64) {
            return Err(D::Error::custom("a bitfield that reaches beyond 2^63"));
        }
        if runs.iter().skip(1).any(|run| *run == 0) {
            return Err(D::Error::custom("a bitfield with an empty run"));
        }
        let value = serde_json::to_value(&runs).map_err(D::Error::custom)?;
        let field: BitFieldJson = serde_json::from_value(value).map_err(D::Error::custom)?;
        Ok(field.into())
    }
}

impl<T: Lotus + ListElement> Lotus for Vec<T> {
    fn write<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.len()))?;
        for element in self {
            seq.serialize_element(&Borrowed(element))?;
        }
        seq.end()
    }

    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let list = Option::<Vec<Form<T>>>::deserialize(deserializer)?.unwrap_or_default();
        Ok(list.into_iter().map(|form| form.0).collect())
    }
}

/// Types of which Lotus writes lists element by element; bytes are not among them.
pub trait ListElement {}
impl ListElement for Cid {}
impl ListElement for Address {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct All {
        #[serde(with = "crate::json")]
        cid: Cid,
        #[serde(with = "crate::json")]
        cids: Vec<Cid>,
        #[serde(with = "crate::json")]
        to: Address,
        #[serde(with = "crate::json")]
        owner: Option<Address>,
        #[serde(with = "crate::json")]
        value: TokenAmount,
        #[serde(with = "crate::json")]
        params: Vec<u8>,
        #[serde(with = "crate::json")]
        sectors: BitField,
    }

    const CID: &str = r#"{"/":"bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"}"#;

    #[test]
    fn every_form_both_ways() {
        let text = format!(
            r#"{{"cid":{CID},"cids":[{CID},{CID}],"to":"f01000","owner":"f0100","value":"1000","params":"gYA=","sectors":[1,3,6,1]}}"#
        );
        let all: All = serde_json::from_str(&text).unwrap();
        assert_eq!(all.params, [0x81, 0x80]);
        assert_eq!(all.sectors.iter().collect::<Vec<_>>(), [1, 2, 3, 10]);
        assert_eq!(serde_json::to_string(&all).unwrap(), text);
    }

    #[test]
    fn what_go_leaves_out() {
        for unset in ["null", "\"<empty>\"", "\"\""] {
            let text = format!(
                r#"{{"cid":{CID},"cids":null,"to":"t01000","owner":{unset},"value":"0","params":null,"sectors":[0]}}"#
            );
            let all: All = serde_json::from_str(&text).unwrap();
            assert!(all.owner.is_none() && all.cids.is_empty() && all.params.is_empty());
            assert!(all.sectors.is_empty());
        }
    }

    #[test]
    fn hostile_values_are_errors() {
        fn refused<T: Lotus>(text: &str) -> bool {
            serde_json::from_str::<Form<T>>(text).is_err()
        }
        assert!(refused::<Cid>("\"bafy\"") && refused::<Cid>(r#"{"/":"bafy"}"#) && refused::<Cid>("{}"));
        assert!(refused::<Address>("\"f0x\"") && refused::<Address>("null"));
        assert!(refused::<TokenAmount>("\"1.5\"") && refused::<TokenAmount>("1"));
        assert!(refused::<Vec<u8>>("\"gYA\"") && refused::<Vec<u8>>("[1]"));
        for runs in [
            "[18446744073709551615,18446744073709551615]",
            "[0,18446744073709551615]",
            "[-1]",
            "[1,0,1]",
        ] {
            assert!(refused::<BitField>(runs), "{runs}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_run_lengths_never_panic(runs in proptest::collection::vec(0u64.., 0..8)) {
            let text = serde_json::to_string(&runs).unwrap();
            if let Ok(Form(field)) = serde_json::from_str::<Form<BitField>>(&text) {
                assert!(field.len() <= i64::MAX as u64);
            }
        }
    }
}
