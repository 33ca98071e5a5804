//! Filecoin nouns as workflows and journals write them. Conversions to the proofs library's own types
//! are in `proofs.rs`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use filecoin_proofs_api::RegisteredSealProof;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use sealflow_engine::id::Subject;
use sealflow_engine::stage::SubjectKind;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The schema of a type that workflow files know by this name.
macro_rules! named_schema {
    ($type:ident, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// A miner: the number of its ID address, written `f01000` (or `t01000`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId(pub u64);

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f0{}", self.0)
    }
}

impl FromStr for ActorId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text
            .strip_prefix("f0")
            .or_else(|| text.strip_prefix("t0"))
            .unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let id = digits.parse().ok().filter(|_| plain);
        id.map(Self)
            .ok_or_else(|| format!("`{text}` is not a miner address like f01000"))
    }
}

impl Serialize for ActorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ActorId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Number(id) => Ok(Self(id)),
            Either::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

named_schema!(ActorId, "actor_id", { "type": "string", "description": "A miner's ID address, like f01000." });

/// A sector's number within its miner: 0 to 2^63 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[schemars(rename = "sector_number")]
pub struct SectorNumber(pub u64);

impl<'de> Deserialize<'de> for SectorNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        if number > i64::MAX as u64 {
            return Err(D::Error::custom("a sector number is at most 9223372036854775807"));
        }
        Ok(Self(number))
    }
}

/// Which proof of replication a sector uses; it also gives the sector's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealProof(pub RegisteredSealProof);

/// The proof types that can be sealed: V1_1 and synthetic, for each sector size.
const SEAL_PROOFS: [RegisteredSealProof; 10] = {
    use RegisteredSealProof as P;
    [
        P::StackedDrg2KiBV1_1,
        P::StackedDrg8MiBV1_1,
        P::StackedDrg512MiBV1_1,
        P::StackedDrg32GiBV1_1,
        P::StackedDrg64GiBV1_1,
        P::StackedDrg2KiBV1_1_Feat_SyntheticPoRep,
        P::StackedDrg8MiBV1_1_Feat_SyntheticPoRep,
        P::StackedDrg512MiBV1_1_Feat_SyntheticPoRep,
        P::StackedDrg32GiBV1_1_Feat_SyntheticPoRep,
        P::StackedDrg64GiBV1_1_Feat_SyntheticPoRep,
    ]
};

impl SealProof {
    /// The interactive V1_1 proof of a sector size in bytes.
    pub fn for_size(bytes: u64) -> Option<Self> {
        SEAL_PROOFS
            .into_iter()
            .map(Self)
            .find(|proof| proof.sector_bytes() == bytes)
    }

    /// The sector's size in bytes.
    pub fn sector_bytes(self) -> u64 {
        u64::from(self.0.sector_size())
    }

    /// Bytes of data that fit: 127 of every 128.
    pub fn data_bytes(self) -> u64 {
        self.sector_bytes() / 128 * 127
    }

    /// Whether challenges come from synthetic proofs, which must be made after PC2.
    pub fn is_synthetic(self) -> bool {
        format!("{:?}", self.0).ends_with("SyntheticPoRep")
    }

    /// Layers that PC1 computes.
    pub fn layers(self) -> u32 {
        if self.sector_bytes() >= 32 << 30 { 11 } else { 2 }
    }

    /// All that can be sealed.
    pub fn all() -> impl Iterator<Item = Self> {
        SEAL_PROOFS.into_iter().map(Self)
    }
}

impl fmt::Display for SealProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for SealProof {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::all()
            .find(|proof| proof.to_string() == text)
            .ok_or_else(|| {
                let names: Vec<String> = Self::all().map(|proof| proof.to_string()).collect();
                format!(
                    "`{text}` is not a seal proof type; there are {}",
                    names.join(", ")
                )
            })
    }
}

impl Serialize for SealProof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SealProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

named_schema!(SealProof, "registered_seal_proof",
    { "type": "string", "description": "A seal proof type, like StackedDrg2KiBV1_1." });

/// 32 bytes, written as 64 hexadecimal digits.
macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident, $schema:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; 32]);

        named_schema!($name, $schema, { "type": "string", "description": "64 hexadecimal digits." });

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&hex::encode(self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let mut bytes = [0; 32];
                hex::decode_to_slice(&text, &mut bytes)
                    .map_err(|_| D::Error::custom(concat!("a ", $schema, " has 64 hexadecimal digits")))?;
                Ok(Self(bytes))
            }
        }
    };
}

bytes32!(
    /// The commitment to a sector's data: the root of its binary SHA-256 tree.
    CommD, "comm_d");
bytes32!(
    /// The commitment to a sealed replica.
    CommR, "comm_r");
bytes32!(
    /// The commitment to a piece: the root of its binary SHA-256 tree.
    CommP, "comm_p");
bytes32!(
    /// The randomness that a replica is bound to.
    Ticket, "ticket");
bytes32!(
    /// The randomness that chooses what a seal proof must show.
    Seed, "seed");

mod post;
mod registered;

pub use post::{
    DEADLINE, Deadline, Fault, MINER, Place, Post, PostPartition, PostRandomness, Posts, ProvedSector,
    Replica, SectorRef, Sectors,
};
pub use registered::{PostProof, UpdateProof};

/// A piece as it lies in a sector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "piece_info")]
pub struct PieceInfo {
    /// Its commitment.
    pub comm_p: CommP,
    /// Its padded size in bytes: a power of two.
    pub padded_bytes: u64,
    /// Where it begins, in padded bytes.
    pub offset: u64,
    /// The bytes of the data that it was made from, before zeros filled it up.
    pub data_bytes: u64,
}

/// Where the data of a piece comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PieceSource {
    /// A local file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// An HTTP or HTTPS address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A file that holds the bearer token for the address; its content never reaches the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Zeros: committed capacity. Fills what the other pieces leave free.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pledge: bool,
    /// The padded size, a power of two of at least 128; by default the smallest that holds the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padded_bytes: Option<u64>,
    /// The piece CID that was agreed on (`baga…`); the data must match it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    /// The deal of the built-in market that the piece is for: the market is told when the sector is active. Without one the
    /// piece is onboarded directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deal: Option<u64>,
}

impl<'de> Deserialize<'de> for PieceSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields)]
        struct Full {
            path: Option<String>,
            url: Option<String>,
            token_file: Option<String>,
            #[serde(default)]
            pledge: bool,
            padded_bytes: Option<u64>,
            cid: Option<String>,
            deal: Option<u64>,
        }
        let full = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) if text == "pledge" => Full {
                pledge: true,
                ..Full::default()
            },
            serde_json::Value::String(text)
                if text.starts_with("http://") || text.starts_with("https://") =>
            {
                Full {
                    url: Some(text),
                    ..Full::default()
                }
            }
            serde_json::Value::String(text) => Full {
                path: Some(text),
                ..Full::default()
            },
            other => serde_json::from_value(other).map_err(D::Error::custom)?,
        };
        let Full {
            path,
            url,
            token_file,
            pledge,
            padded_bytes,
            cid,
            deal,
        } = full;
        let sources = usize::from(path.is_some()) + usize::from(url.is_some()) + usize::from(pledge);
        if sources != 1 {
            return Err(D::Error::custom("a piece has one of `path`, `url` and `pledge`"));
        }
        if padded_bytes.is_some_and(|bytes| bytes < 128 || !bytes.is_power_of_two()) {
            return Err(D::Error::custom(
                "`padded_bytes` must be a power of two of at least 128",
            ));
        }
        if pledge && deal.is_some() {
            return Err(D::Error::custom("`pledge` is for no deal"));
        }
        Ok(Self {
            path,
            url,
            token_file,
            pledge,
            padded_bytes,
            cid,
            deal,
        })
    }
}

/// The pieces of a sector: a list of paths, addresses, `"pledge"`, or tables with more detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces(pub Vec<PieceSource>);

named_schema!(Pieces, "pieces",
    { "type": "array", "description": "Pieces: a list of paths, addresses, \"pledge\", or tables." });

/// A local path, as the operator writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalPath(pub String);

named_schema!(LocalPath, "path", { "type": "string", "description": "A local path." });

/// The subject `sector`: `f01000/7`.
pub const SECTOR: SubjectKind = SubjectKind {
    name: "sector",
    params: &[("miner", "actor_id"), ("sector", "sector_number")],
    subject: |params| {
        let miner: ActorId =
            serde_json::from_value(params["miner"].clone()).map_err(|error| error.to_string())?;
        let sector: SectorNumber =
            serde_json::from_value(params["sector"].clone()).map_err(|error| error.to_string())?;
        Subject::new(&format!("{miner}/{}", sector.0)).map_err(|error| error.to_string())
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn miners_parse() {
        for text in ["f01000", "t01000", "1000"] {
            assert_eq!(text.parse::<ActorId>().unwrap(), ActorId(1000));
        }
        for text in ["", "f0", "f1abc", "f0-1", "f0 1"] {
            assert!(text.parse::<ActorId>().is_err(), "{text}");
        }
    }

    #[test]
    fn pieces_have_one_source() {
        let pieces: Pieces = serde_json::from_value(json!(["/a", "https://b/c", "pledge"])).unwrap();
        assert_eq!(pieces.0[0].path.as_deref(), Some("/a"));
        assert_eq!(pieces.0[1].url.as_deref(), Some("https://b/c"));
        assert!(pieces.0[2].pledge);
        for bad in [
            json!([{}]),
            json!([{"path": "a", "pledge": true}]),
            json!([{"path": "a", "padded_bytes": 100}]),
            json!([{"pledge": true, "deal": 7}]),
        ] {
            assert!(serde_json::from_value::<Pieces>(bad).is_err());
        }
    }

    #[test]
    fn proof_types_have_names_and_sizes() {
        let proof: SealProof = "StackedDrg2KiBV1_1".parse().unwrap();
        assert_eq!(
            (proof.sector_bytes(), proof.data_bytes(), proof.is_synthetic()),
            (2048, 2032, false)
        );
        assert!(
            "StackedDrg2KiBV1_1_Feat_SyntheticPoRep"
                .parse::<SealProof>()
                .unwrap()
                .is_synthetic()
        );
        assert!("StackedDrg2KiBV1".parse::<SealProof>().is_err());
        assert_eq!(
            SealProof::for_size(8 << 20).unwrap().to_string(),
            "StackedDrg8MiBV1_1"
        );
    }
}
