//! Block headers: their CBOR, CIDs and signatures (chain.md §2.6), and the JSON of nodes.

use std::collections::HashSet;

use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple};
use fvm_ipld_encoding::{strict_bytes, to_vec};
use fvm_shared::bigint::bigint_ser;
use serde_json::Value;

use crate::message::{MessageError, SignatureJson, SignedMessage, blake2b_256, cid_of};
use crate::node::{self, FullHeader};
use crate::randomness::{self, Tag};
use crate::types::{
    Address, BigInt, ChainEpoch, Cid, PoStProof, RegisteredPoStProof, Signature, SignatureType, TokenAmount,
};
use crate::wallet::SecretKey;

use super::chain::Tip;
use super::root::PRODUCER;
use super::store::Overlay;
use crate::types::state::Amtv0;

/// The proof of a verifiable random function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Ticket {
    #[serde(with = "strict_bytes")]
    pub(super) vrf_proof: Vec<u8>,
}

/// How often a block won, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub(super) struct ElectionProof {
    pub(super) win_count: i64,
    #[serde(with = "strict_bytes")]
    pub(super) vrf_proof: Vec<u8>,
}

/// An entry of the beacon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub(super) struct BeaconEntry {
    pub(super) round: u64,
    #[serde(with = "strict_bytes")]
    pub(super) data: Vec<u8>,
}

impl BeaconEntry {
    /// The entry of an epoch: the mock beacon of Lotus' own devnets.
    pub(super) fn of(epoch: ChainEpoch) -> Self {
        let round = epoch.max(0).unsigned_abs() + 100;
        Self {
            round,
            data: blake2b_256(&round.to_be_bytes()).to_vec(),
        }
    }

    /// Those that a block of an epoch holds: one for each epoch after its parents.
    pub(super) fn since(parents: ChainEpoch, epoch: ChainEpoch) -> Vec<Self> {
        (parents + 1..=epoch).map(Self::of).collect()
    }
}

/// What stands for the signatures of no messages: the point at infinity, compressed.
pub(super) const NO_SIGNATURE: [u8; 96] = {
    let mut infinity = [0; 96];
    infinity[0] = 0xc0;
    infinity
};

/// A block's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Block {
    pub(super) miner: Address,
    pub(super) ticket: Ticket,
    pub(super) election_proof: Option<ElectionProof>,
    pub(super) beacon_entries: Vec<BeaconEntry>,
    pub(super) win_post_proof: Vec<PoStProof>,
    pub(super) parents: Vec<Cid>,
    #[serde(with = "bigint_ser")]
    pub(super) parent_weight: BigInt,
    pub(super) height: ChainEpoch,
    pub(super) parent_state_root: Cid,
    pub(super) parent_message_receipts: Cid,
    pub(super) messages: Cid,
    pub(super) bls_aggregate: Option<Signature>,
    pub(super) timestamp: u64,
    pub(super) block_sig: Option<Signature>,
    pub(super) fork_signaling: u64,
    pub(super) parent_base_fee: TokenAmount,
}

/// What a new block is made of.
pub(super) struct Parts<'a> {
    /// The parents, and the weight of the chain up to them.
    pub(super) parent: Option<(&'a Tip, BigInt)>,
    pub(super) height: ChainEpoch,
    pub(super) state_root: Cid,
    pub(super) receipts: Cid,
    pub(super) messages: &'a [SignedMessage],
    pub(super) timestamp: u64,
    /// Which branch it is on: two blocks with the same parent are told apart by it.
    pub(super) branch: u64,
    pub(super) base_fee: TokenAmount,
}

/// Makes and signs a block of the devnet's own.
pub(super) fn make(key: &SecretKey, parts: Parts<'_>, store: &Overlay<'_>) -> Result<(Block, Cid), String> {
    let height = parts.height;
    let entropy = randomness::miner_entropy(PRODUCER);
    let beacon = BeaconEntry::of(height);
    let mut ticket_entropy = entropy.clone();
    if let Some((parent, _)) = &parts.parent {
        ticket_entropy.extend_from_slice(&parent.first().ticket.vrf_proof);
    }
    // On another branch another miner would have won, with another ticket.
    ticket_entropy.extend_from_slice(&parts.branch.to_be_bytes()[8 - branch_bytes(parts.branch)..]);
    let vrf = |tag, epoch, entropy: &[u8]| {
        let drawn = randomness::draw(&beacon.data, tag, epoch, entropy);
        key.sign(&drawn)
            .map(|signature| signature.bytes)
            .map_err(|e| e.to_string())
    };
    let (parents, parent_weight, beacon_entries) = match parts.parent {
        Some((parent, weight)) => (parent.key(), weight, BeaconEntry::since(parent.height(), height)),
        None => (Vec::new(), BigInt::default(), vec![beacon.clone()]),
    };
    let mut block = Block {
        miner: Address::new_id(PRODUCER),
        ticket: Ticket {
            vrf_proof: vrf(Tag::TicketProduction, height - 1, &ticket_entropy)?,
        },
        election_proof: Some(ElectionProof {
            win_count: 1,
            vrf_proof: vrf(Tag::ElectionProof, height, &entropy)?,
        }),
        beacon_entries,
        win_post_proof: Vec::new(),
        parents,
        parent_weight,
        height,
        parent_state_root: parts.state_root,
        parent_message_receipts: parts.receipts,
        messages: message_meta(parts.messages, store)?,
        bls_aggregate: Some(aggregate(parts.messages)?),
        timestamp: parts.timestamp,
        block_sig: None,
        fork_signaling: parts.branch,
        parent_base_fee: parts.base_fee,
    };
    block.sign(key)?;
    let cid = block.cid()?;
    Ok((block, cid))
}

/// None on the first branch, so that its tickets are those that the rule gives.
fn branch_bytes(branch: u64) -> usize {
    if branch == 0 { 0 } else { 8 }
}

pub(super) fn is_bls(signed: &SignedMessage) -> bool {
    signed.signature.signature_type() == SignatureType::BLS
}

/// Puts messages in the order of execution: first those whose signatures a block aggregates.
pub(super) fn in_order(messages: Vec<SignedMessage>) -> Vec<SignedMessage> {
    let (mut bls, secp): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_bls);
    bls.extend(secp);
    bls
}

/// The CID that names a block's messages: of the roots of two lists.
pub(super) fn message_meta(messages: &[SignedMessage], store: &Overlay<'_>) -> Result<Cid, String> {
    let mut lists = [Vec::new(), Vec::new()];
    for signed in messages {
        let bytes = match is_bls(signed) {
            true => crate::message::encode(&signed.message),
            false => signed.encode(),
        };
        let bytes = bytes.map_err(|e| e.to_string())?;
        let cid = cid_of(&bytes);
        crate::types::state::Blockstore::put_keyed(store, &cid, &bytes).map_err(|e| e.to_string())?;
        lists[usize::from(!is_bls(signed))].push(cid);
    }
    let root = |list: &[Cid]| Amtv0::new_from_iter(store, list.iter().copied()).map_err(|e| e.to_string());
    store.save(&(root(&lists[0])?, root(&lists[1])?))
}

/// The CIDs of a block's messages, by the name that its header has for them.
pub(super) fn message_cids(store: &Overlay<'_>, meta: &Cid) -> Result<HashSet<Cid>, String> {
    let lists: (Cid, Cid) = store.load(meta)?;
    let mut cids = HashSet::new();
    for root in [lists.0, lists.1] {
        let list = Amtv0::<Cid, _>::load(&root, store).map_err(|e| e.to_string())?;
        list.for_each(|_, cid| {
            cids.insert(*cid);
            Ok(())
        })
        .map_err(|e| e.to_string())?;
    }
    Ok(cids)
}

/// The signatures of all BLS messages in one.
pub(super) fn aggregate(messages: &[SignedMessage]) -> Result<Signature, String> {
    let signatures: Vec<_> = messages
        .iter()
        .filter(|signed| is_bls(signed))
        .filter_map(|signed| blst::min_pk::Signature::from_bytes(&signed.signature.bytes).ok())
        .collect();
    let bytes = if signatures.is_empty() {
        NO_SIGNATURE.to_vec()
    } else {
        let all: Vec<_> = signatures.iter().collect();
        let sum = blst::min_pk::AggregateSignature::aggregate(&all, false).map_err(|e| format!("{e:?}"))?;
        sum.to_signature().compress().to_vec()
    };
    Ok(Signature::new_bls(bytes))
}

impl Block {
    /// What its miner signs: the header without the signature.
    pub(super) fn signing_bytes(&self) -> Result<Vec<u8>, String> {
        let unsigned = Self {
            block_sig: None,
            ..self.clone()
        };
        to_vec(&unsigned).map_err(|e| e.to_string())
    }

    /// Its name.
    pub(super) fn cid(&self) -> Result<Cid, String> {
        let bytes = to_vec(self).map_err(|e| e.to_string())?;
        Ok(cid_of(&bytes))
    }

    /// Signs it.
    pub(super) fn sign(&mut self, key: &SecretKey) -> Result<(), String> {
        let signature = key.sign(&self.signing_bytes()?).map_err(|e| e.to_string())?;
        self.block_sig = Some(signature);
        Ok(())
    }

    /// How often it won.
    pub(super) fn wins(&self) -> i64 {
        self.election_proof.as_ref().map_or(0, |won| won.win_count)
    }

    /// The block as nodes write it.
    pub(super) fn json(&self) -> Value {
        serde_json::to_value(FullHeader::from(self)).unwrap_or_default()
    }
}

impl From<&Block> for FullHeader {
    fn from(block: &Block) -> Self {
        let proofs = block.win_post_proof.iter().map(|one| node::WinningProof {
            post_proof: i64::from(one.post_proof),
            proof_bytes: one.proof_bytes.clone(),
        });
        Self {
            miner: block.miner,
            ticket: node::Ticket {
                vrf_proof: block.ticket.vrf_proof.clone(),
            },
            election_proof: block.election_proof.as_ref().map(|won| node::ElectionProof {
                win_count: won.win_count,
                vrf_proof: won.vrf_proof.clone(),
            }),
            beacon_entries: block.beacon_entries.iter().map(node::BeaconEntry::from).collect(),
            win_post_proof: proofs.collect(),
            parents: node::TipSetKey(block.parents.clone()),
            parent_weight: block.parent_weight.clone(),
            height: block.height,
            parent_state_root: block.parent_state_root,
            parent_message_receipts: block.parent_message_receipts,
            messages: block.messages,
            bls_aggregate: block.bls_aggregate.as_ref().map(SignatureJson::from),
            timestamp: block.timestamp,
            block_sig: block.block_sig.as_ref().map(SignatureJson::from),
            fork_signaling: block.fork_signaling,
            parent_base_fee: block.parent_base_fee.clone(),
        }
    }
}

impl TryFrom<FullHeader> for Block {
    type Error = MessageError;

    fn try_from(header: FullHeader) -> Result<Self, MessageError> {
        let signature = |one: Option<SignatureJson>| one.map(Signature::try_from).transpose();
        Ok(Self {
            miner: header.miner,
            ticket: header.ticket.into(),
            election_proof: header.election_proof.map(ElectionProof::from),
            beacon_entries: header.beacon_entries.into_iter().map(BeaconEntry::from).collect(),
            win_post_proof: header.win_post_proof.into_iter().map(winning_proof).collect(),
            parents: header.parents.0,
            parent_weight: header.parent_weight,
            height: header.height,
            parent_state_root: header.parent_state_root,
            parent_message_receipts: header.parent_message_receipts,
            messages: header.messages,
            bls_aggregate: signature(header.bls_aggregate)?,
            timestamp: header.timestamp,
            block_sig: signature(header.block_sig)?,
            fork_signaling: header.fork_signaling,
            parent_base_fee: header.parent_base_fee,
        })
    }
}

impl From<node::Ticket> for Ticket {
    fn from(json: node::Ticket) -> Self {
        Self {
            vrf_proof: json.vrf_proof,
        }
    }
}

impl From<node::ElectionProof> for ElectionProof {
    fn from(json: node::ElectionProof) -> Self {
        Self {
            win_count: json.win_count,
            vrf_proof: json.vrf_proof,
        }
    }
}

impl From<&BeaconEntry> for node::BeaconEntry {
    fn from(entry: &BeaconEntry) -> Self {
        Self {
            round: entry.round,
            data: entry.data.clone(),
        }
    }
}

impl From<node::BeaconEntry> for BeaconEntry {
    fn from(json: node::BeaconEntry) -> Self {
        Self {
            round: json.round,
            data: json.data,
        }
    }
}

/// A winning proof as headers have it.
pub(super) fn winning_proof(json: node::WinningProof) -> PoStProof {
    PoStProof {
        post_proof: RegisteredPoStProof::from(json.post_proof),
        proof_bytes: json.proof_bytes,
    }
}

/// A beacon entry as nodes write it.
pub(super) fn beacon_json(entry: &BeaconEntry) -> Value {
    serde_json::to_value(node::BeaconEntry::from(entry)).unwrap_or_default()
}
