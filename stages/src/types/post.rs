//! The nouns of proofs of spacetime: deadlines, the sectors to prove, what was proved and what could
//! not be.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use sealflow_engine::id::Subject;
use sealflow_engine::stage::SubjectKind;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ActorId, CommR, SealProof, SectorNumber};

bytes32!(
    /// The randomness that chooses what a proof of spacetime must show.
    PostRandomness, "post_randomness");

/// Deadlines of a proving period.
const DEADLINES: u64 = 48;

/// One of the 48 deadlines of a proving period, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Deadline(pub u64);

impl<'de> Deserialize<'de> for Deadline {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u64::deserialize(deserializer)?;
        if index >= DEADLINES {
            return Err(D::Error::custom(format!(
                "a proving period has {DEADLINES} deadlines, from 0; there is no deadline {index}"
            )));
        }
        Ok(Self(index))
    }
}

named_schema!(Deadline, "deadline", { "type": "integer", "description": "A deadline of the proving period: 0 to 47." });

/// A file or folder in a store. An artifact, as `run show --json` prints it, may be written here too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "place")]
pub struct Place {
    /// The store.
    pub store: String,
    /// The key in it.
    pub key: String,
}

/// A replica to prove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "replica")]
pub struct Replica {
    /// The sector.
    pub sector: SectorNumber,
    /// The commitment to the replica.
    pub comm_r: CommR,
    /// The replica; of a sector that took data later, the update.
    pub sealed: Place,
    /// The last tree and the auxiliary files.
    pub cache: Place,
}

/// Sectors that one proof covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "post_partition")]
pub struct PostPartition {
    /// Which partition of the deadline, from 0.
    pub partition: u64,
    /// Its sectors, by number.
    pub replicas: Vec<Replica>,
}

/// A sector that a proof covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "proved_sector")]
pub struct ProvedSector {
    /// The sector.
    pub sector: SectorNumber,
    /// The commitment to its replica.
    pub comm_r: CommR,
}

/// A sector that could not be proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "fault")]
pub struct Fault {
    /// The sector.
    pub sector: SectorNumber,
    /// Why not.
    pub reason: String,
}

/// A proof of spacetime over one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "post")]
pub struct Post {
    /// Which partition of the deadline, from 0.
    pub partition: u64,
    /// The proof, in hexadecimal; empty if no sector could be proved.
    pub proof: String,
    /// The sectors that it covers, by number.
    pub proved: Vec<ProvedSector>,
    /// The sectors that it had to leave out.
    pub faults: Vec<Fault>,
}

/// One proof of spacetime, or a list of them: what a step gives, or a step with an item for each partition. A
/// partition that was skipped has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Posts(pub Vec<Post>);

impl<'de> Deserialize<'de> for Posts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let posts = match value {
            serde_json::Value::Array(_) => serde_json::from_value::<Vec<Option<Post>>>(value)
                .map(|posts| posts.into_iter().flatten().collect()),
            one => serde_json::from_value(one).map(|post| vec![post]),
        };
        posts.map(Self).map_err(D::Error::custom)
    }
}

impl JsonSchema for Posts {
    fn schema_name() -> Cow<'static, str> {
        "posts".into()
    }
    // Either goes in, so the type has no name.
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({})
    }
}

/// The sectors of a deadline or a miner: a list of numbers, or of tables where a number is not enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sectors(pub Vec<SectorRef>);

named_schema!(Sectors, "sectors", { "type": "array", "description":
    "Sectors: a list of numbers; or of tables { sector, store } or { sector, proof_type, comm_r, sealed, cache }." });

/// A sector as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SectorRef {
    /// By its number: its description in a store tells the rest.
    Described {
        /// The sector.
        sector: SectorNumber,
        /// The store; the run's if nothing is said.
        store: Option<String>,
    },
    /// With all that a proof needs.
    Whole {
        /// The proof type that it was sealed with, which gives its size.
        proof_type: SealProof,
        /// The replica.
        replica: Replica,
    },
}

impl SectorRef {
    /// Its number.
    pub fn sector(&self) -> SectorNumber {
        match self {
            Self::Described { sector, .. } => *sector,
            Self::Whole { replica, .. } => replica.sector,
        }
    }
}

/// A sector as a table.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    sector: SectorNumber,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof_type: Option<SealProof>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comm_r: Option<CommR>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed: Option<Place>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cache: Option<Place>,
}

impl Serialize for SectorRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let empty = |sector| Table {
            sector,
            store: None,
            proof_type: None,
            comm_r: None,
            sealed: None,
            cache: None,
        };
        match self.clone() {
            Self::Described { sector, store: None } => sector.serialize(serializer),
            Self::Described { sector, store } => Table {
                store,
                ..empty(sector)
            }
            .serialize(serializer),
            Self::Whole { proof_type, replica } => Table {
                proof_type: Some(proof_type),
                comm_r: Some(replica.comm_r),
                sealed: Some(replica.sealed),
                cache: Some(replica.cache),
                ..empty(replica.sector)
            }
            .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for SectorRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if value.is_number() {
            let sector = serde_json::from_value(value).map_err(D::Error::custom)?;
            return Ok(Self::Described { sector, store: None });
        }
        let table: Table = serde_json::from_value(value).map_err(D::Error::custom)?;
        let Table { sector, store, .. } = table;
        match (table.proof_type, table.comm_r, table.sealed, table.cache) {
            (None, None, None, None) => Ok(Self::Described { sector, store }),
            (Some(proof_type), Some(comm_r), Some(sealed), Some(cache)) if store.is_none() => {
                let replica = Replica {
                    sector,
                    comm_r,
                    sealed,
                    cache,
                };
                Ok(Self::Whole { proof_type, replica })
            }
            _ => Err(D::Error::custom(
                "a sector is a number, { sector, store }, or { sector, proof_type, comm_r, sealed, cache }",
            )),
        }
    }
}

fn miner_of(params: &serde_json::Value) -> Result<ActorId, String> {
    serde_json::from_value(params["miner"].clone()).map_err(|error| error.to_string())
}

/// The subject `deadline`: `f01000/deadline-3`.
pub const DEADLINE: SubjectKind = SubjectKind {
    name: "deadline",
    params: &[("miner", "actor_id"), ("deadline", "deadline")],
    subject: |params| {
        let deadline: Deadline =
            serde_json::from_value(params["deadline"].clone()).map_err(|error| error.to_string())?;
        Subject::new(&format!("{}/deadline-{}", miner_of(params)?, deadline.0))
            .map_err(|error| error.to_string())
    },
};

/// The subject `miner`: `f01000`.
pub const MINER: SubjectKind = SubjectKind {
    name: "miner",
    params: &[("miner", "actor_id")],
    subject: |params| Subject::new(&miner_of(params)?.to_string()).map_err(|error| error.to_string()),
};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sectors_are_numbers_or_tables() {
        let place = |key: &str| json!({ "store": "store", "key": key, "bytes": 2048 });
        let whole = json!({ "sector": 3, "proof_type": "StackedDrg2KiBV1_1", "comm_r": "11".repeat(32),
            "sealed": place("sealed/s"), "cache": place("cache/s") });
        let given = json!([1, { "sector": 2, "store": "cold" }, whole]);
        let sectors: Sectors = serde_json::from_value(given).unwrap();
        let numbers: Vec<u64> = sectors.0.iter().map(|one| one.sector().0).collect();
        assert_eq!(numbers, [1, 2, 3]);
        let again: Sectors = serde_json::from_value(serde_json::to_value(&sectors).unwrap()).unwrap();
        assert_eq!(again, sectors);
        for bad in [
            json!(["1"]),
            json!([-1]),
            json!([{ "sector": 1, "comm_r": "11".repeat(32) }]),
            json!([{ "sector": 1, "shop": "x" }]),
            json!(1),
        ] {
            assert!(serde_json::from_value::<Sectors>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn proofs_come_alone_or_in_lists() {
        let one = json!({ "partition": 1, "proof": "", "proved": [], "faults": [] });
        for (given, count) in [(one.clone(), 1), (json!([]), 0), (json!([one, null, one]), 2)] {
            assert_eq!(serde_json::from_value::<Posts>(given).unwrap().0.len(), count);
        }
        assert!(serde_json::from_value::<Posts>(json!(null)).is_err());
    }

    #[test]
    fn deadlines_are_48() {
        let subject = |deadline: u64| (DEADLINE.subject)(&json!({ "miner": "f01000", "deadline": deadline }));
        assert_eq!(subject(3).unwrap().as_str(), "f01000/deadline-3");
        assert!(subject(48).unwrap_err().contains("48 deadlines"));
        let miner = (MINER.subject)(&json!({ "miner": "t01000" })).unwrap();
        assert_eq!(miner.as_str(), "f01000");
    }
}
