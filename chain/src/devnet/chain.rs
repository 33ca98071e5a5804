//! The tree of tipsets: every one that was ever made, which of them are on the chain, and where messages are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fvm_ipld_encoding::RawBytes;
use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple};

use crate::message::{SignedMessage, cid_of};
use crate::types::{Address, ChainEpoch, Cid, ExitCode};

use super::block::Block;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Receipt {
    pub(super) exit_code: ExitCode,
    pub(super) returned: RawBytes,
    pub(super) gas_used: u64,
    pub(super) events_root: Option<Cid>,
}

/// A tipset, executed: what its messages did is kept with it and told by its children.
#[derive(Debug, Clone, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Tip {
    /// Its name here: see [`name`].
    pub(super) cid: Cid,
    /// With their CIDs, smallest ticket first. Never none.
    pub(super) blocks: Vec<(Cid, Block)>,
    /// In the order in which they were executed; what several blocks hold is there once.
    pub(super) messages: Vec<SignedMessage>,
    pub(super) receipts: Vec<Receipt>,
    /// The list of receipts, as the children's headers name it.
    pub(super) receipts_root: Cid,
    /// The state after it.
    pub(super) post_root: Cid,
}

impl Tip {
    pub(super) fn height(&self) -> ChainEpoch {
        self.first().height
    }

    /// The block with the smallest ticket. All have the same parents, height and base fee.
    pub(super) fn first(&self) -> &Block {
        &self.blocks[0].1
    }

    /// The CIDs of its blocks, as headers of its children name it.
    pub(super) fn key(&self) -> Vec<Cid> {
        self.blocks.iter().map(|(cid, _)| *cid).collect()
    }

    /// The name of the tipset before it.
    pub(super) fn parent(&self) -> Option<Cid> {
        name(&self.first().parents)
    }
}

/// One CID for a key: that of its block, or of the list of several. Nothing for an empty key.
pub(super) fn name(key: &[Cid]) -> Option<Cid> {
    match key {
        [] => None,
        [one] => Some(*one),
        several => fvm_ipld_encoding::to_vec(several)
            .ok()
            .map(|bytes| cid_of(&bytes)),
    }
}

/// What happened to the head: what left the chain, newest first, and what came, oldest first.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) reverted: Vec<Arc<Tip>>,
    pub(super) applied: Vec<Arc<Tip>>,
}

/// All tipsets. There is always a genesis, so there is always a head.
#[derive(Debug)]
pub(super) struct Chain {
    tips: HashMap<Cid, Arc<Tip>>,
    main: BTreeMap<ChainEpoch, Cid>,
    head: Arc<Tip>,
    genesis: Arc<Tip>,
    /// The first tipset with a block.
    by_block: HashMap<Cid, Cid>,
    by_message: HashMap<Cid, Vec<Cid>>,
    by_nonce: HashMap<(Address, u64), Vec<Cid>>,
}

impl Chain {
    pub(super) fn new(genesis: Tip) -> Self {
        let genesis = Arc::new(genesis);
        Self {
            tips: HashMap::from([(genesis.cid, genesis.clone())]),
            main: BTreeMap::from([(genesis.height(), genesis.cid)]),
            head: genesis.clone(),
            by_block: genesis
                .key()
                .into_iter()
                .map(|block| (block, genesis.cid))
                .collect(),
            genesis,
            by_message: HashMap::new(),
            by_nonce: HashMap::new(),
        }
    }

    pub(super) fn head(&self) -> &Arc<Tip> {
        &self.head
    }

    pub(super) fn genesis(&self) -> &Arc<Tip> {
        &self.genesis
    }

    pub(super) fn get(&self, cid: &Cid) -> Option<&Arc<Tip>> {
        self.tips.get(cid)
    }

    /// A tipset that has this block.
    pub(super) fn holder(&self, block: &Cid) -> Option<&Arc<Tip>> {
        self.tips.get(self.by_block.get(block)?)
    }

    pub(super) fn parent(&self, tip: &Tip) -> Option<&Arc<Tip>> {
        self.tips.get(&tip.parent()?)
    }

    /// Adds a tipset whose parent is known. The head stays.
    pub(super) fn add(&mut self, tip: Tip) -> Arc<Tip> {
        let tip = Arc::new(tip);
        for block in tip.key() {
            self.by_block.entry(block).or_insert(tip.cid);
        }
        for signed in &tip.messages {
            for cid in message_cids(signed) {
                let places = self.by_message.entry(cid).or_default();
                if !places.contains(&tip.cid) {
                    places.push(tip.cid);
                }
            }
            let key = (signed.message.from, signed.message.sequence);
            self.by_nonce.entry(key).or_default().push(tip.cid);
        }
        self.tips.insert(tip.cid, tip.clone());
        tip
    }

    /// Makes a known tipset the head. Tells what left the chain, newest first, and what came, oldest first.
    pub(super) fn set_head(&mut self, cid: &Cid) -> Option<Change> {
        let mut applied = Vec::new();
        let mut at = self.tips.get(cid)?.clone();
        let head = at.clone();
        while self.main.get(&at.height()) != Some(&at.cid) {
            applied.push(at.clone());
            at = self.parent(&at)?.clone();
        }
        applied.reverse();
        let gone: Vec<(ChainEpoch, Cid)> = self
            .main
            .range(at.height() + 1..)
            .map(|(height, cid)| (*height, *cid))
            .collect();
        let mut reverted = Vec::new();
        for (height, cid) in gone.into_iter().rev() {
            self.main.remove(&height);
            reverted.extend(self.tips.get(&cid).cloned());
        }
        for tip in &applied {
            self.main.insert(tip.height(), tip.cid);
        }
        self.head = head;
        Some(Change { reverted, applied })
    }

    /// Whether a tipset is `tip` or before it.
    fn is_on(&self, tip: &Tip, wanted: &Tip) -> bool {
        if self.main.get(&tip.height()) == Some(&tip.cid) {
            return wanted.height() <= tip.height() && self.main.get(&wanted.height()) == Some(&wanted.cid);
        }
        if tip.cid == wanted.cid {
            return true;
        }
        self.parent(tip).is_some_and(|parent| self.is_on(parent, wanted))
    }

    /// The tipset at a height on the chain of `tip`, or the one before it where that round is null.
    pub(super) fn at_or_before(&self, tip: &Arc<Tip>, height: ChainEpoch) -> Option<Arc<Tip>> {
        let mut at = tip.clone();
        while at.height() > height {
            if self.main.get(&at.height()) == Some(&at.cid) {
                let (_, cid) = self.main.range(..=height).next_back()?;
                return self.tips.get(cid).cloned();
            }
            at = self.parent(&at)?.clone();
        }
        Some(at)
    }

    /// The tipset at a height on the chain of `tip`, or the one after it where that round is null.
    pub(super) fn at_or_after(&self, tip: &Arc<Tip>, height: ChainEpoch) -> Option<Arc<Tip>> {
        if tip.height() < height {
            return None;
        }
        let mut at = tip.clone();
        loop {
            if self.main.get(&at.height()) == Some(&at.cid) {
                let (_, cid) = self.main.range(height.min(at.height())..).next()?;
                return self.tips.get(cid).cloned();
            }
            match self.parent(&at) {
                Some(parent) if parent.height() >= height => at = parent.clone(),
                _ => return Some(at),
            }
        }
    }

    /// The child of `wanted` on the chain of `tip`.
    fn child(&self, tip: &Arc<Tip>, wanted: &Tip) -> Option<Arc<Tip>> {
        self.at_or_after(tip, wanted.height() + 1)
    }

    /// Where a message was executed on the chain of `tip`: the tipset with the message, its place in it, and
    /// the child that tells the receipt. With `replaced`, another message of the same sender and nonce counts.
    pub(super) fn find_message(
        &self,
        tip: &Arc<Tip>,
        cid: &Cid,
        sender: Option<(Address, u64)>,
        replaced: bool,
    ) -> Option<(Arc<Tip>, usize, Arc<Tip>)> {
        let exact = self.by_message.get(cid).into_iter().flatten();
        let exact: Vec<Cid> = exact.copied().collect();
        let key = sender.or_else(|| {
            let tip = self.tips.get(exact.first()?)?;
            let at = position(tip, cid)?;
            Some((tip.messages[at].message.from, tip.messages[at].message.sequence))
        });
        let others = key.filter(|_| replaced).and_then(|key| self.by_nonce.get(&key));
        for place in exact.iter().chain(others.into_iter().flatten()) {
            let Some(holder) = self.tips.get(place) else {
                continue;
            };
            if !self.is_on(tip, holder) {
                continue;
            }
            let at = position(holder, cid).or_else(|| {
                let (from, nonce) = key?;
                let mut all = holder.messages.iter();
                all.position(|one| one.message.from == from && one.message.sequence == nonce)
            });
            if let (Some(at), Some(child)) = (at, self.child(tip, holder)) {
                return Some((holder.clone(), at, child));
            }
        }
        None
    }

    /// A message that was ever in a tipset.
    pub(super) fn message(&self, cid: &Cid) -> Option<&SignedMessage> {
        let tip = self.tips.get(self.by_message.get(cid)?.first()?)?;
        tip.messages.get(position(tip, cid)?)
    }

    /// The proof of the ticket by which randomness of an epoch is drawn, on the chain of `tip`.
    pub(super) fn ticket(&self, tip: &Arc<Tip>, epoch: ChainEpoch) -> Result<Vec<u8>, String> {
        if epoch > tip.height() {
            return Err("cannot draw randomness from the future".into());
        }
        let found = self.at_or_after(tip, epoch.max(0));
        let found = found.ok_or_else(|| format!("no tipset at or after {epoch}"))?;
        Ok(found.first().ticket.vrf_proof.clone())
    }
}

/// The CIDs by which a message is known: of the message alone, and with its signature.
pub(super) fn message_cids(signed: &SignedMessage) -> Vec<Cid> {
    let mut cids: Vec<Cid> = crate::message::cid(&signed.message).into_iter().collect();
    if let Ok(cid) = signed.cid()
        && !cids.contains(&cid)
    {
        cids.push(cid);
    }
    cids
}

fn position(tip: &Tip, cid: &Cid) -> Option<usize> {
    let mut all = tip.messages.iter();
    all.position(|signed| message_cids(signed).contains(cid))
}
