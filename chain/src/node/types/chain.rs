//! Tipsets and block headers, as far as a storage provider looks into them.

use serde::{Deserialize, Serialize};

use crate::types::{Address, ChainEpoch, Cid, TokenAmount};

/// The blocks of a tipset, by which it is named. An empty key means the node's head.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TipSetKey(#[serde(with = "crate::json")] pub Vec<Cid>);

impl TipSetKey {
    /// The node's head, whatever it is when the call arrives.
    pub const HEAD: Self = Self(Vec::new());
}

impl std::fmt::Display for TipSetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cids: Vec<String> = self.0.iter().map(Cid::to_string).collect();
        write!(f, "{{{}}}", cids.join(","))
    }
}

/// A block's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockHeader {
    /// Who made it.
    #[serde(with = "crate::json")]
    pub miner: Address,
    /// The tipset that it was made on.
    #[serde(deserialize_with = "crate::json::or_default")]
    pub parents: TipSetKey,
    /// Its epoch.
    pub height: ChainEpoch,
    /// The state after its parents' messages.
    #[serde(with = "crate::json")]
    pub parent_state_root: Cid,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// The base fee that its messages pay, in attoFIL.
    #[serde(with = "crate::json")]
    pub parent_base_fee: TokenAmount,
}

/// The blocks of one epoch on the same parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct TipSet {
    /// Its name.
    pub key: TipSetKey,
    /// Its blocks; never none.
    pub blocks: Vec<BlockHeader>,
    /// Its epoch.
    pub height: ChainEpoch,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    cids: TipSetKey,
    blocks: Vec<BlockHeader>,
    height: ChainEpoch,
}

impl TryFrom<Wire> for TipSet {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let Wire { cids, blocks, height } = wire;
        let Some(first) = blocks.first() else {
            return Err("a tipset without blocks".into());
        };
        if cids.0.len() != blocks.len() {
            return Err(format!(
                "a tipset with {} CIDs and {} blocks",
                cids.0.len(),
                blocks.len()
            ));
        }
        if height < 0
            || blocks
                .iter()
                .any(|block| block.height != height || block.parents != first.parents)
        {
            return Err("a tipset whose blocks differ in height or parents".into());
        }
        Ok(Self {
            key: cids,
            blocks,
            height,
        })
    }
}

impl From<TipSet> for Wire {
    fn from(tipset: TipSet) -> Self {
        Self {
            cids: tipset.key,
            blocks: tipset.blocks,
            height: tipset.height,
        }
    }
}

impl TipSet {
    /// The tipset before it; empty for the genesis.
    pub fn parents(&self) -> &TipSetKey {
        // A tipset has a block: see `try_from`.
        &self.blocks[0].parents
    }

    /// Seconds since 1970.
    pub fn timestamp(&self) -> u64 {
        self.blocks[0].timestamp
    }

    /// How many seconds old it is at a time in seconds since 1970. A head older than three epochs means that the
    /// node does not keep up.
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.timestamp())
    }

    /// The base fee that messages in it pay, in attoFIL.
    pub fn base_fee(&self) -> &TokenAmount {
        &self.blocks[0].parent_base_fee
    }
}
