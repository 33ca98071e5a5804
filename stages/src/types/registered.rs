//! The proof types of updates and of proofs of spacetime, named as the proofs library names them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use filecoin_proofs_api::{PoStType, RegisteredPoStProof, RegisteredUpdateProof};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A registered proof type that is written by its name.
macro_rules! registered {
    ($(#[$doc:meta])* $name:ident, $library:ident, $schema:literal, $what:literal, [$($variant:ident),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(pub $library);

        impl $name {
            /// All that there are.
            pub fn all() -> impl Iterator<Item = Self> {
                [$($library::$variant),*].into_iter().map(Self)
            }

            /// The sector's size in bytes.
            pub fn sector_bytes(self) -> u64 {
                u64::from(self.0.sector_size())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::all().find(|proof| proof.to_string() == text).ok_or_else(|| {
                    let names: Vec<String> = Self::all().map(|proof| proof.to_string()).collect();
                    format!("`{text}` is not {}; there are {}", $what, names.join(", "))
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                $schema.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "description": concat!("The name of ", $what, ".") })
            }
        }
    };
}

registered!(
    /// Which proof an update of a committed-capacity sector uses.
    UpdateProof, RegisteredUpdateProof, "registered_update_proof", "an update proof type",
    [
        StackedDrg2KiBV1,
        StackedDrg8MiBV1,
        StackedDrg512MiBV1,
        StackedDrg32GiBV1,
        StackedDrg64GiBV1,
    ]
);

registered!(
    /// Which proof of spacetime is made. (What the library calls `…WindowV1_2` is `…WindowPoStV1_1` on
    /// the chain.)
    PostProof, RegisteredPoStProof, "registered_post_proof", "a proof-of-spacetime type",
    [
        StackedDrgWinning2KiBV1,
        StackedDrgWinning8MiBV1,
        StackedDrgWinning512MiBV1,
        StackedDrgWinning32GiBV1,
        StackedDrgWinning64GiBV1,
        StackedDrgWindow2KiBV1,
        StackedDrgWindow8MiBV1,
        StackedDrgWindow512MiBV1,
        StackedDrgWindow32GiBV1,
        StackedDrgWindow64GiBV1,
        StackedDrgWindow2KiBV1_2,
        StackedDrgWindow8MiBV1_2,
        StackedDrgWindow512MiBV1_2,
        StackedDrgWindow32GiBV1_2,
        StackedDrgWindow64GiBV1_2,
    ]
);

impl UpdateProof {
    /// The update proof of a sector size in bytes.
    pub fn for_size(bytes: u64) -> Option<Self> {
        Self::all().find(|proof| proof.sector_bytes() == bytes)
    }
}

impl PostProof {
    /// The window proof that the network uses today for a sector size in bytes.
    pub fn window(bytes: u64) -> Option<Self> {
        let newest = |proof: &Self| format!("{proof}").ends_with("V1_2");
        Self::all().find(|proof| proof.sector_bytes() == bytes && !proof.is_winning() && newest(proof))
    }

    /// The winning proof of a sector size in bytes.
    pub fn winning(bytes: u64) -> Option<Self> {
        Self::all().find(|proof| proof.sector_bytes() == bytes && proof.is_winning())
    }

    /// Whether it is for winning a block; if not, it is for a deadline.
    pub fn is_winning(self) -> bool {
        self.0.typ() == PoStType::Winning
    }

    /// The most sectors that one proof covers.
    pub fn sectors(self) -> usize {
        self.0.sector_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_its_proofs() {
        for bytes in [2 << 10, 8 << 20, 512 << 20, 32 << 30, 64 << 30] {
            assert_eq!(UpdateProof::for_size(bytes).unwrap().sector_bytes(), bytes);
            let window = PostProof::window(bytes).unwrap();
            assert!(!window.is_winning() && window.to_string().ends_with("V1_2"));
            assert!(PostProof::winning(bytes).unwrap().is_winning());
        }
        assert_eq!(PostProof::window(32 << 30).unwrap().sectors(), 2349);
        assert!(PostProof::window(4 << 10).is_none());
    }

    #[test]
    fn names_come_back() {
        for proof in PostProof::all() {
            assert_eq!(proof.to_string().parse::<PostProof>().unwrap(), proof);
        }
        let error = "StackedDrg4KiBV1".parse::<UpdateProof>().unwrap_err();
        assert!(error.contains("StackedDrg2KiBV1, "), "{error}");
    }
}
