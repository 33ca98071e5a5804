//! Makes a block of what a miner won (MinerCreateBlock): its place in the chain, its messages, and the worker's
//! signature.

use crate::message::{self, SignedMessage};
use crate::node::{BlockMessage, BlockTemplate, FullHeader};
use crate::types::{Address, Cid};
use crate::wallet::SecretKey;

use super::super::block::{self, BeaconEntry, Block, winning_proof};
use super::super::chain;
use super::super::core::Core;
use super::MESSAGES;

impl Core {
    /// Makes and signs a block. Whether it holds is judged when it is handed in.
    pub(in crate::devnet) fn create_block(
        &mut self,
        template: BlockTemplate,
    ) -> Result<BlockMessage, String> {
        let key = &template.parents;
        let parent = chain::name(&key.0)
            .and_then(|name| self.chain.get(&name))
            .cloned();
        let parent = parent.ok_or_else(|| format!("failed to load the parent tipset {key}"))?;
        if template.epoch <= parent.height() {
            let (epoch, height) = (template.epoch, parent.height());
            return Err(format!(
                "a block for epoch {epoch} cannot be on a tipset of epoch {height}"
            ));
        }
        let id = self.head_root()?.resolve(&template.miner);
        let id = id.ok_or_else(|| format!("resolve address {}: actor not found", template.miner))?;
        let base = self.mining_base(id, &parent, template.epoch)?;
        let base = base.ok_or_else(|| format!("f0{id} had no proven sector at the lookback"))?;
        let messages = checked(template.messages)?;
        let store = self.store.overlay();
        let mut block = Block {
            miner: Address::new_id(id),
            ticket: template.ticket.into(),
            election_proof: Some(template.eproof.into()),
            beacon_entries: template
                .beacon_values
                .into_iter()
                .map(BeaconEntry::from)
                .collect(),
            win_post_proof: template
                .winning_post_proof
                .into_iter()
                .map(winning_proof)
                .collect(),
            parents: parent.key(),
            parent_weight: self.weight(&parent)?,
            height: template.epoch,
            parent_state_root: parent.post_root,
            parent_message_receipts: parent.receipts_root,
            messages: block::message_meta(&messages, &store)?,
            bls_aggregate: Some(block::aggregate(&messages)?),
            timestamp: template.timestamp,
            block_sig: None,
            fork_signaling: 0,
            parent_base_fee: self.base_fee.clone(),
        };
        block.sign(self.worker_key(&base.worker)?)?;
        let (mut bls_messages, mut secpk_messages) = (Vec::new(), Vec::new());
        for signed in messages {
            let cid: Cid = signed.cid().map_err(|e| e.to_string())?;
            let list = match block::is_bls(&signed) {
                true => &mut bls_messages,
                false => &mut secpk_messages,
            };
            list.push(cid);
            self.given.put(cid, signed);
        }
        Ok(BlockMessage {
            header: FullHeader::from(&block),
            bls_messages,
            secpk_messages,
        })
    }

    fn worker_key(&self, worker: &Address) -> Result<&SecretKey, String> {
        let mut all = self.keys.funded.iter();
        let found = all.find(|key| key.address().is_ok_and(|address| address == *worker));
        found.ok_or_else(|| {
            format!(
                "failed to sign the new block: signing using key '{worker}': key not found; this node has only the keys \
                 of `WalletList`"
            )
        })
    }
}

/// Messages with good signatures, in the order of execution.
fn checked(messages: Vec<message::SignedMessageJson>) -> Result<Vec<SignedMessage>, String> {
    if messages.len() > MESSAGES {
        return Err(format!(
            "{} messages; a block has {MESSAGES} at most",
            messages.len()
        ));
    }
    let mut all = Vec::with_capacity(messages.len());
    for written in messages {
        let signed = SignedMessage::try_from(written).map_err(|e| e.to_string())?;
        message::verify(&signed).map_err(|e| format!("signature verification failed: {e}"))?;
        all.push(signed);
    }
    Ok(block::in_order(all))
}
