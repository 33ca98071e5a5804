//! The state of the whole network after a tipset: one immutable object, which names the states of miners.

use std::collections::BTreeMap;

use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple};
use fvm_shared::bigint::bigint_ser;
use serde::{Deserialize, Serialize};

use crate::types::{
    ActorID, Address, BigInt, ChainEpoch, Cid, Protocol, RegisteredPoStProof, TokenAmount, Zero,
};

/// The actor whose balance is out of the world.
pub(super) const BURNT: ActorID = 99;
/// The actor that pays block rewards.
pub(super) const REWARD: ActorID = 2;
/// The actor that makes miners.
pub(super) const POWER: ActorID = 4;
/// The built-in market.
pub(super) const MARKET: ActorID = 5;
/// Who makes the devnet's blocks. It has no sectors.
pub(super) const PRODUCER: ActorID = 100;
/// The first actor of a user.
pub(super) const FIRST_USER: ActorID = 1000;

/// What an actor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub(super) enum Kind {
    /// One of the network's own.
    Singleton,
    /// A key.
    Account,
    /// A storage miner.
    Miner,
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Singleton => 0,
            Kind::Account => 1,
            Kind::Miner => 2,
        }
    }
}

impl TryFrom<u8> for Kind {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Singleton),
            1 => Ok(Self::Account),
            2 => Ok(Self::Miner),
            _ => Err(format!("no kind of actor has number {number}")),
        }
    }
}

/// An actor.
#[derive(Debug, Clone, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Actor {
    pub(super) kind: Kind,
    /// The key address of an account, the robust address of a miner.
    pub(super) address: Option<Address>,
    pub(super) nonce: u64,
    pub(super) balance: TokenAmount,
    /// The state of a miner.
    pub(super) head: Option<Cid>,
}

/// A miner's power.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Claim {
    pub(super) post_proof: RegisteredPoStProof,
    #[serde(with = "bigint_ser")]
    pub(super) raw: BigInt,
    #[serde(with = "bigint_ser")]
    pub(super) qa: BigInt,
}

/// What a miner asked to be called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub(super) enum CronKind {
    /// The end of a deadline.
    ProvingDeadline,
    /// Terminations that are left.
    EarlyTerminations,
}

impl From<CronKind> for u8 {
    fn from(kind: CronKind) -> Self {
        match kind {
            CronKind::ProvingDeadline => 1,
            CronKind::EarlyTerminations => 2,
        }
    }
}

impl TryFrom<u8> for CronKind {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::ProvingDeadline),
            2 => Ok(Self::EarlyTerminations),
            _ => Err(format!("no cron event has number {number}")),
        }
    }
}

/// The power of all miners.
#[derive(Debug, Clone, Default, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Power {
    #[serde(with = "pairs")]
    pub(super) claims: BTreeMap<ActorID, Claim>,
    /// All pledge and locked funds of miners.
    pub(super) pledge: TokenAmount,
    #[serde(with = "pairs")]
    pub(super) cron: BTreeMap<ChainEpoch, Vec<(ActorID, CronKind)>>,
}

/// The state of the network.
#[derive(Debug, Clone, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Root {
    #[serde(with = "pairs")]
    pub(super) actors: BTreeMap<ActorID, Actor>,
    pub(super) next_id: ActorID,
    pub(super) power: Power,
}

impl Root {
    /// A network with its own actors only.
    pub(super) fn new() -> Self {
        let singleton = |id: ActorID| {
            let actor = Actor {
                kind: Kind::Singleton,
                address: None,
                nonce: 0,
                balance: TokenAmount::zero(),
                head: None,
            };
            (id, actor)
        };
        let ids = [0, 1, REWARD, 3, POWER, MARKET, 6, 7, 10, 90, BURNT];
        Self {
            actors: ids.into_iter().map(singleton).collect(),
            next_id: FIRST_USER,
            power: Power::default(),
        }
    }

    /// The ID of an address that has an actor.
    pub(super) fn resolve(&self, address: &Address) -> Option<ActorID> {
        if address.protocol() == Protocol::ID {
            return address.id().ok().filter(|id| self.actors.contains_key(id));
        }
        let mut actors = self.actors.iter();
        let found = actors.find(|(_, actor)| actor.address.as_ref() == Some(address));
        found.map(|(id, _)| *id)
    }

    /// Adds an actor.
    pub(super) fn add(&mut self, kind: Kind, address: Address, balance: TokenAmount) -> ActorID {
        let id = self.next_id;
        self.next_id += 1;
        let actor = Actor {
            kind,
            address: Some(address),
            nonce: 0,
            balance,
            head: None,
        };
        self.actors.insert(id, actor);
        id
    }

    /// Raw and quality-adjusted power of all miners.
    pub(super) fn total_power(&self) -> (BigInt, BigInt) {
        let claims = self.power.claims.values();
        claims.fold((BigInt::zero(), BigInt::zero()), |(raw, qa), claim| {
            (raw + &claim.raw, qa + &claim.qa)
        })
    }
}

/// Maps whose keys are numbers, which this form of CBOR does not have: as lists of pairs.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
