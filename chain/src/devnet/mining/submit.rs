//! Judges a block that is handed in (SyncSubmitBlock) as every node of the network would (chain.md §2.6). What holds
//! becomes a block of the next tipset. Every refusal says what is wrong.

use std::sync::Arc;

use crate::commitment;
use crate::node::BlockMessage;
use crate::randomness::{self, Tag};
use crate::types::{ActorID, Protocol, Signature};

use super::super::block::{BeaconEntry, Block};
use super::super::chain::Tip;
use super::super::core::Core;
use super::super::verifier::PostClaim;
use super::base::Base;
use super::{Submitted, messages, sortition};

/// Bytes of a BLS signature, and so of a VRF's proof.
const BLS_BYTES: usize = 96;

type Judged<T> = Result<T, String>;

impl Core {
    /// Takes a block for the epoch after the head. The same block may come again.
    pub(in crate::devnet) fn submit_block(&mut self, written: BlockMessage) -> Result<(), String> {
        let (bls, secp) = (written.bls_messages, written.secpk_messages);
        let block = Block::try_from(written.header).map_err(|e| format!("the header cannot be read: {e}"))?;
        let cid = block.cid()?;
        if self.submitted.iter().any(|one| one.cid == cid) {
            return Ok(());
        }
        let (miner, height) = (block.miner, block.height);
        let judged = self.judge(&block).and_then(|()| {
            let messages = messages::load(self, &bls, &secp)?;
            messages::judge(self, &block, &messages)?;
            Ok(messages)
        });
        let messages = judged
            .map_err(|reason| format!("block {cid} of {miner} for epoch {height} is refused: {reason}"))?;
        self.submitted.push(Submitted { cid, block, messages });
        Ok(())
    }

    /// Judges the header.
    fn judge(&self, block: &Block) -> Judged<()> {
        let parent = self.chain.head();
        self.check_time(block, parent)?;
        self.check_place(block, parent)?;
        let id = miner_id(block)?;
        let base = self.mining_base(id, parent, block.height)?;
        let base =
            base.ok_or_else(|| format!("f0{id} is not eligible: it had no proven sector at the lookback"))?;
        if let Some(reason) = &base.ineligible {
            return Err(format!("f0{id} is not eligible: {reason}"));
        }
        if let Some(other) = self.submitted.iter().find(|one| one.block.miner == block.miner) {
            // Whoever publishes both can be reported and pays for it.
            return Err(format!(
                "double-fork mining: {} of the same miner for the same epoch was taken before; two of them are a \
                 consensus fault",
                other.cid
            ));
        }
        check_signature(block, &base)?;
        check_beacon(block, parent)?;
        check_election(block, id, &base)?;
        check_ticket(block, id, parent, &base)?;
        self.check_winning_proof(block, id, &base)
    }

    fn check_time(&self, block: &Block, parent: &Tip) -> Judged<()> {
        let (head, next) = (parent.height(), parent.height() + 1);
        if block.height <= head {
            return Err(format!("it comes too late: the head is at epoch {head}"));
        }
        if block.height > next {
            return Err(format!("it comes too early: the next epoch is {next}"));
        }
        let wanted = self.timestamp(block.height);
        if block.timestamp != wanted {
            return Err(format!("the timestamp is {}, not {wanted}", block.timestamp));
        }
        Ok(())
    }

    /// Its parents and what follows from them.
    fn check_place(&self, block: &Block, parent: &Tip) -> Judged<()> {
        if block.parents != parent.key() {
            let known = super::super::chain::name(&block.parents).and_then(|name| self.chain.get(&name));
            let head = crate::node::TipSetKey(parent.key());
            return Err(match known {
                Some(tip) => format!(
                    "the parents are the tipset of epoch {}; the head is {head}",
                    tip.height()
                ),
                None => format!("the parents are no tipset of this chain; the head is {head}"),
            });
        }
        if block.parent_weight != self.weight(parent)? {
            let (told, wanted) = (&block.parent_weight, self.weight(parent)?);
            return Err(format!("the parents' weight is {told}, not {wanted}"));
        }
        let told = [block.parent_state_root, block.parent_message_receipts];
        for (what, told, wanted) in [
            ("state", told[0], parent.post_root),
            ("list of receipts", told[1], parent.receipts_root),
        ] {
            if told != wanted {
                return Err(format!("the parents' {what} is {told}, not {wanted}"));
            }
        }
        if block.parent_base_fee != self.base_fee {
            let (told, wanted) = (block.parent_base_fee.atto(), self.base_fee.atto());
            return Err(format!("the base fee is {told} attoFIL, not {wanted}"));
        }
        Ok(())
    }

    fn check_winning_proof(&self, block: &Block, id: ActorID, base: &Base) -> Judged<()> {
        let [proof] = &block.win_post_proof[..] else {
            let count = block.win_post_proof.len();
            return Err(format!("it has {count} winning proofs, not one"));
        };
        if proof.post_proof != base.proof_type {
            let (told, wanted) = (proof.post_proof, base.proof_type);
            return Err(format!("the winning proof is of type {told:?}, not {wanted:?}"));
        }
        let mut sectors = Vec::with_capacity(base.sectors.len());
        for sector in &base.sectors {
            let comm_r = commitment::comm_r(&sector.sealed_cid).map_err(|e| e.to_string())?;
            sectors.push((sector.sector_number, comm_r));
        }
        let numbers: Vec<u64> = sectors.iter().map(|(number, _)| *number).collect();
        let claim = PostClaim {
            proof_type: base.proof_type,
            miner: id,
            randomness: base.randomness,
            sectors,
        };
        if self.net.verifier.winning_post(&claim, &proof.proof_bytes) {
            return Ok(());
        }
        Err(format!(
            "the winning proof does not hold; sector {numbers:?} was drawn"
        ))
    }
}

fn miner_id(block: &Block) -> Judged<ActorID> {
    let id = block.miner.id().ok();
    let id = id.filter(|_| block.miner.protocol() == Protocol::ID);
    id.ok_or_else(|| format!("the miner {} is named by no ID", block.miner))
}

fn check_signature(block: &Block, base: &Base) -> Judged<()> {
    let signature = block.block_sig.as_ref().ok_or("it is not signed")?;
    let verdict = signature.verify(&block.signing_bytes()?, &base.worker);
    verdict.map_err(|e| format!("the signature is not that of the worker {}: {e}", base.worker))
}

fn check_beacon(block: &Block, parent: &Tip) -> Judged<()> {
    let wanted = BeaconEntry::since(parent.height(), block.height);
    if block.beacon_entries == wanted {
        return Ok(());
    }
    let rounds = |entries: &[BeaconEntry]| entries.iter().map(|one| one.round).collect::<Vec<_>>();
    let (told, wanted) = (rounds(&block.beacon_entries), rounds(&wanted));
    Err(format!(
        "the beacon entries are not those since the parents: it has rounds {told:?}, and the network {wanted:?}"
    ))
}

/// Whether a proof is the worker's signature of what was drawn.
fn vrf_holds(proof: &[u8], drawn: &[u8], base: &Base) -> bool {
    proof.len() == BLS_BYTES
        && Signature::new_bls(proof.to_vec())
            .verify(drawn, &base.worker)
            .is_ok()
}

fn check_election(block: &Block, id: ActorID, base: &Base) -> Judged<()> {
    let won = block.election_proof.as_ref().ok_or("it has no election proof")?;
    let beacon = BeaconEntry::of(block.height);
    let entropy = randomness::miner_entropy(id);
    let drawn = randomness::draw(&beacon.data, Tag::ElectionProof, block.height, &entropy);
    if !vrf_holds(&won.vrf_proof, &drawn, base) {
        return Err("the election proof is not the worker's for this epoch".into());
    }
    let wins = sortition::wins(&won.vrf_proof, &base.power, &base.all_power);
    if won.win_count < 1 {
        return Err(format!("it does not claim to win: WinCount is {}", won.win_count));
    }
    if won.win_count != wins {
        let told = won.win_count;
        return Err(format!(
            "it claims to win {told} times; its election proof wins {wins} times"
        ));
    }
    Ok(())
}

fn check_ticket(block: &Block, id: ActorID, parent: &Arc<Tip>, base: &Base) -> Judged<()> {
    let beacon = BeaconEntry::of(block.height);
    let mut entropy = randomness::miner_entropy(id);
    entropy.extend_from_slice(&parent.first().ticket.vrf_proof);
    let drawn = randomness::draw(&beacon.data, Tag::TicketProduction, block.height - 1, &entropy);
    if vrf_holds(&block.ticket.vrf_proof, &drawn, base) {
        return Ok(());
    }
    Err("the ticket is not the worker's for this epoch and these parents".into())
}
