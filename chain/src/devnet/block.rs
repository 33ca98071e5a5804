//! Block headers: their CBOR, CIDs and signatures (chain.md §2.6), and the JSON of nodes.

use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple};
use fvm_ipld_encoding::{strict_bytes, to_vec};
use fvm_shared::bigint::bigint_ser;
use serde_json::{Value, json};

use crate::json::Form;
use crate::message::{SignatureJson, SignedMessage, blake2b_256, cid_of};
use crate::randomness::{self, Tag};
use crate::types::{Address, BigInt, ChainEpoch, Cid, Signature, SignatureType, TokenAmount};
use crate::wallet::SecretKey;

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
}

/// A block's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub(super) struct Block {
    pub(super) miner: Address,
    pub(super) ticket: Ticket,
    pub(super) election_proof: Option<ElectionProof>,
    pub(super) beacon_entries: Vec<BeaconEntry>,
    pub(super) win_post_proof: Vec<crate::types::PoStProof>,
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
    pub(super) parent: Option<(&'a Block, Cid)>,
    pub(super) height: ChainEpoch,
    pub(super) state_root: Cid,
    pub(super) receipts: Cid,
    pub(super) messages: &'a [SignedMessage],
    pub(super) timestamp: u64,
    /// Which branch it is on: two blocks with the same parent are told apart by it.
    pub(super) branch: u64,
    pub(super) base_fee: TokenAmount,
}

/// Makes and signs a block.
pub(super) fn make(key: &SecretKey, parts: Parts<'_>, store: &Overlay<'_>) -> Result<(Block, Cid), String> {
    let height = parts.height;
    let entropy = randomness::miner_entropy(PRODUCER);
    let beacon = BeaconEntry::of(height);
    let mut ticket_entropy = entropy.clone();
    if let Some((parent, _)) = parts.parent {
        ticket_entropy.extend_from_slice(&parent.ticket.vrf_proof);
    }
    // On another branch another miner would have won, with another ticket.
    ticket_entropy.extend_from_slice(&parts.branch.to_be_bytes()[8 - branch_bytes(parts.branch)..]);
    let vrf = |tag, epoch, entropy: &[u8]| {
        let drawn = randomness::draw(&beacon.data, tag, epoch, entropy);
        key.sign(&drawn)
            .map(|signature| signature.bytes)
            .map_err(|e| e.to_string())
    };
    let from = parts.parent.map_or(height, |(parent, _)| parent.height + 1);
    let mut block = Block {
        miner: Address::new_id(PRODUCER),
        ticket: Ticket {
            vrf_proof: vrf(Tag::TicketProduction, height - 1, &ticket_entropy)?,
        },
        election_proof: Some(ElectionProof {
            win_count: 1,
            vrf_proof: vrf(Tag::ElectionProof, height, &entropy)?,
        }),
        beacon_entries: (from..=height).map(BeaconEntry::of).collect(),
        win_post_proof: Vec::new(),
        parents: parts.parent.map(|(_, cid)| cid).into_iter().collect(),
        parent_weight: BigInt::from(height),
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
    let unsigned = to_vec(&block).map_err(|e| e.to_string())?;
    block.block_sig = Some(key.sign(&unsigned).map_err(|e| e.to_string())?);
    let bytes = to_vec(&block).map_err(|e| e.to_string())?;
    Ok((block, cid_of(&bytes)))
}

/// None on the first branch, so that its tickets are those that the rule gives.
fn branch_bytes(branch: u64) -> usize {
    if branch == 0 { 0 } else { 8 }
}

fn is_bls(signed: &SignedMessage) -> bool {
    signed.signature.signature_type() == SignatureType::BLS
}

/// Puts messages in the order of execution: first those whose signatures a block aggregates.
pub(super) fn in_order(messages: Vec<SignedMessage>) -> Vec<SignedMessage> {
    let (mut bls, secp): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_bls);
    bls.extend(secp);
    bls
}

/// The CID that names a block's messages: of the roots of two lists.
fn message_meta(messages: &[SignedMessage], store: &Overlay<'_>) -> Result<Cid, String> {
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

fn aggregate(messages: &[SignedMessage]) -> Result<Signature, String> {
    let signatures: Vec<_> = messages
        .iter()
        .filter(|signed| is_bls(signed))
        .filter_map(|signed| blst::min_pk::Signature::from_bytes(&signed.signature.bytes).ok())
        .collect();
    let bytes = if signatures.is_empty() {
        // The point at infinity, compressed.
        let mut infinity = vec![0; 96];
        infinity[0] = 0xc0;
        infinity
    } else {
        let all: Vec<_> = signatures.iter().collect();
        let sum = blst::min_pk::AggregateSignature::aggregate(&all, false).map_err(|e| format!("{e:?}"))?;
        sum.to_signature().compress().to_vec()
    };
    Ok(Signature::new_bls(bytes))
}

impl Block {
    /// The block as nodes write it.
    pub(super) fn json(&self) -> Value {
        let election = self
            .election_proof
            .as_ref()
            .map(|won| json!({"WinCount": won.win_count, "VRFProof": Form(won.vrf_proof.clone())}));
        let beacons: Vec<Value> = self.beacon_entries.iter().map(beacon_json).collect();
        let proofs: Vec<Value> = self
            .win_post_proof
            .iter()
            .map(|one| {
                json!({"PoStProof": i64::from(one.post_proof), "ProofBytes": Form(one.proof_bytes.clone())})
            })
            .collect();
        json!({
            "Miner": Form(self.miner),
            "Ticket": {"VRFProof": Form(self.ticket.vrf_proof.clone())},
            "ElectionProof": election,
            "BeaconEntries": beacons,
            "WinPoStProof": proofs,
            "Parents": Form(self.parents.clone()),
            "ParentWeight": self.parent_weight.to_string(),
            "Height": self.height,
            "ParentStateRoot": Form(self.parent_state_root),
            "ParentMessageReceipts": Form(self.parent_message_receipts),
            "Messages": Form(self.messages),
            "BLSAggregate": self.bls_aggregate.as_ref().map(SignatureJson::from),
            "Timestamp": self.timestamp,
            "BlockSig": self.block_sig.as_ref().map(SignatureJson::from),
            "ForkSignaling": self.fork_signaling,
            "ParentBaseFee": Form(self.parent_base_fee.clone()),
        })
    }
}

/// A beacon entry as nodes write it.
pub(super) fn beacon_json(entry: &BeaconEntry) -> Value {
    json!({"Round": entry.round, "Data": Form(entry.data.clone())})
}
