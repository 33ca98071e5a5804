//! The typed methods of a node: one for each call that sealing, proofs and messages need (chain.md §3.2).
//!
//! Every `at` is the tipset whose *parent state* is read, so a message of that very tipset is not visible yet.
//! All are [`NodeError`] when a node refuses or none answers.
#![expect(
    clippy::missing_errors_doc,
    reason = "all fail for the same reasons, which the module says once"
)]

use serde_json::json;

use crate::json::Form;
use crate::message::{MessageJson, SignedMessage, SignedMessageJson};
use crate::randomness::{self, Tag};
use crate::types::{ActorID, Address, BitField, ChainEpoch, Cid, Message, SectorNumber, TokenAmount};

use super::client::{Client, NO_PARAMS};
use super::error::{AppError, NodeError};
use super::types::{
    ActorState, BlockMessage, BlockTemplate, Deadline, FeeSpec, InvocationResult, MessageLookup, MinerInfo,
    MinerPower, MiningBase, NetworkParams, ParentMessage, Partition, PrecommitInfo, PrecommitOnChain,
    ProvingDeadline, Receipt, SectorExpiration, SectorInfo, SectorLocation, TipSet, TipSetKey, Version,
};

/// Chain.
impl Client {
    /// The node's software.
    pub async fn version(&self) -> Result<Version, NodeError> {
        self.call("Version", &NO_PARAMS).await
    }

    /// The head of the best node.
    pub async fn chain_head(&self) -> Result<TipSet, NodeError> {
        self.call("ChainHead", &NO_PARAMS).await
    }

    /// The genesis.
    pub async fn chain_genesis(&self) -> Result<TipSet, NodeError> {
        self.call("ChainGetGenesis", &NO_PARAMS).await
    }

    /// A tipset by its key.
    pub async fn tipset(&self, key: &TipSetKey) -> Result<TipSet, NodeError> {
        self.call("ChainGetTipSet", &(key,)).await
    }

    /// The tipset at a height, or the one before it where the round is null, on the chain of `at`.
    pub async fn tipset_at(&self, height: ChainEpoch, at: &TipSetKey) -> Result<TipSet, NodeError> {
        self.call("ChainGetTipSetByHeight", &(height, at)).await
    }

    /// The tipset at a height, or the one after it where the round is null, on the chain of `at`.
    pub async fn tipset_from(&self, height: ChainEpoch, at: &TipSetKey) -> Result<TipSet, NodeError> {
        self.call("ChainGetTipSetAfterHeight", &(height, at)).await
    }

    /// The messages of a block's parents, in the order in which they were executed.
    pub async fn parent_messages(&self, block: &Cid) -> Result<Vec<ParentMessage>, NodeError> {
        let found = self
            .call::<Option<_>>("ChainGetParentMessages", &(Form(*block),))
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// What became of them, in the same order.
    pub async fn parent_receipts(&self, block: &Cid) -> Result<Vec<Receipt>, NodeError> {
        let found = self
            .call::<Option<_>>("ChainGetParentReceipts", &(Form(*block),))
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// A message by its CID.
    pub async fn message(&self, cid: &Cid) -> Result<Message, NodeError> {
        let json: MessageJson = self.call("ChainGetMessage", &(Form(*cid),)).await?;
        Ok(json.into())
    }
}

/// State of the network and of actors.
impl Client {
    /// The network's version, 28 or 29 today.
    pub async fn network_version(&self, at: &TipSetKey) -> Result<u32, NodeError> {
        self.call("StateNetworkVersion", &(at,)).await
    }

    /// The network's name and delays.
    pub async fn network_params(&self) -> Result<NetworkParams, NodeError> {
        self.call("StateGetNetworkParams", &NO_PARAMS).await
    }

    /// The ID of an address, or nothing where it has none.
    pub async fn lookup_id(&self, address: &Address, at: &TipSetKey) -> Result<Option<Address>, NodeError> {
        let found = self
            .call::<Form<Address>>("StateLookupID", &(Form(*address), at))
            .await;
        known(found.map(|form| form.0))
    }

    /// The key address of an account.
    pub async fn account_key(&self, address: &Address, at: &TipSetKey) -> Result<Address, NodeError> {
        let key: Form<Address> = self.call("StateAccountKey", &(Form(*address), at)).await?;
        Ok(key.0)
    }

    /// An actor, or nothing where there is none.
    pub async fn actor(&self, address: &Address, at: &TipSetKey) -> Result<Option<ActorState>, NodeError> {
        known(self.call("StateGetActor", &(Form(*address), at)).await)
    }

    /// Randomness for a miner, or for none, of an epoch that must not be above `at`.
    pub async fn randomness(
        &self,
        tag: Tag,
        epoch: ChainEpoch,
        miner: Option<ActorID>,
        at: &TipSetKey,
    ) -> Result<[u8; 32], NodeError> {
        let method = match tag {
            Tag::SealTicket | Tag::PostChainCommit => "StateGetRandomnessFromTickets",
            _ => "StateGetRandomnessFromBeacon",
        };
        let entropy = miner.map(randomness::miner_entropy).unwrap_or_default();
        let drawn: Form<Vec<u8>> = self.call(method, &(tag as i64, epoch, Form(entropy), at)).await?;
        <[u8; 32]>::try_from(drawn.0).map_err(|drawn| {
            super::http::malformed("the node", method, format!("{} bytes of randomness", drawn.len()))
        })
    }
}

/// State of a miner.
impl Client {
    /// Addresses and constants.
    pub async fn miner_info(&self, miner: &Address, at: &TipSetKey) -> Result<MinerInfo, NodeError> {
        self.call("StateMinerInfo", &(Form(*miner), at)).await
    }

    /// The deadline that is open or opens next, with the network's windows.
    pub async fn proving_deadline(
        &self,
        miner: &Address,
        at: &TipSetKey,
    ) -> Result<ProvingDeadline, NodeError> {
        self.call("StateMinerProvingDeadline", &(Form(*miner), at)).await
    }

    /// All deadlines.
    pub async fn deadlines(&self, miner: &Address, at: &TipSetKey) -> Result<Vec<Deadline>, NodeError> {
        self.call("StateMinerDeadlines", &(Form(*miner), at)).await
    }

    /// The partitions of a deadline.
    pub async fn partitions(
        &self,
        miner: &Address,
        deadline: u64,
        at: &TipSetKey,
    ) -> Result<Vec<Partition>, NodeError> {
        let found = self
            .call::<Option<_>>("StateMinerPartitions", &(Form(*miner), deadline, at))
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// Sectors, those of `filter` or all.
    pub async fn sectors(
        &self,
        miner: &Address,
        filter: Option<&BitField>,
        at: &TipSetKey,
    ) -> Result<Vec<SectorInfo>, NodeError> {
        let filter = filter.map(|filter| Form(filter.clone()));
        let found = self
            .call::<Option<_>>("StateMinerSectors", &(Form(*miner), filter, at))
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// Sectors with power.
    pub async fn active_sectors(
        &self,
        miner: &Address,
        at: &TipSetKey,
    ) -> Result<Vec<SectorInfo>, NodeError> {
        let found = self
            .call::<Option<_>>("StateMinerActiveSectors", &(Form(*miner), at))
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// Faulty sectors.
    pub async fn faults(&self, miner: &Address, at: &TipSetKey) -> Result<BitField, NodeError> {
        let faults: Form<BitField> = self.call("StateMinerFaults", &(Form(*miner), at)).await?;
        Ok(faults.0)
    }

    /// Faulty sectors that are to be proved again.
    pub async fn recoveries(&self, miner: &Address, at: &TipSetKey) -> Result<BitField, NodeError> {
        let recoveries: Form<BitField> = self.call("StateMinerRecoveries", &(Form(*miner), at)).await?;
        Ok(recoveries.0)
    }

    /// Power.
    pub async fn power(&self, miner: &Address, at: &TipSetKey) -> Result<MinerPower, NodeError> {
        self.call("StateMinerPower", &(Form(*miner), at)).await
    }

    /// What is neither locked nor owed.
    pub async fn available_balance(&self, miner: &Address, at: &TipSetKey) -> Result<TokenAmount, NodeError> {
        self.amount("StateMinerAvailableBalance", &(Form(*miner), at))
            .await
    }

    /// All sector numbers that were ever used.
    pub async fn allocated(&self, miner: &Address, at: &TipSetKey) -> Result<BitField, NodeError> {
        let allocated: Form<BitField> = self.call("StateMinerAllocated", &(Form(*miner), at)).await?;
        Ok(allocated.0)
    }

    /// The deposit for a pre-commit, with a tenth to spare.
    pub async fn precommit_deposit(
        &self,
        miner: &Address,
        info: &PrecommitInfo,
        at: &TipSetKey,
    ) -> Result<TokenAmount, NodeError> {
        self.amount("StateMinerPreCommitDepositForPower", &(Form(*miner), info, at))
            .await
    }

    /// The pledge for a sector of that life, size and verified bytes, with a tenth to spare.
    pub async fn initial_pledge(
        &self,
        duration: ChainEpoch,
        sector_size: u64,
        verified: u64,
        at: &TipSetKey,
    ) -> Result<TokenAmount, NodeError> {
        self.amount(
            "StateMinerInitialPledgeForSector",
            &(duration, sector_size, verified, at),
        )
        .await
    }

    /// The deposit for making a miner.
    pub async fn creation_deposit(&self, at: &TipSetKey) -> Result<TokenAmount, NodeError> {
        self.amount("StateMinerCreationDeposit", &(at,)).await
    }

    /// A sector, or nothing where there is none.
    pub async fn sector(
        &self,
        miner: &Address,
        number: SectorNumber,
        at: &TipSetKey,
    ) -> Result<Option<SectorInfo>, NodeError> {
        self.call("StateSectorGetInfo", &(Form(*miner), number, at)).await
    }

    /// A pre-commit, or nothing where there is none.
    pub async fn precommit(
        &self,
        miner: &Address,
        number: SectorNumber,
        at: &TipSetKey,
    ) -> Result<Option<PrecommitOnChain>, NodeError> {
        let found = self
            .call("StateSectorPreCommitInfo", &(Form(*miner), number, at))
            .await;
        match found {
            // Older nodes say it with an error.
            Err(error) if error.app() == Some(AppError::NotFound) => Ok(None),
            found => found,
        }
    }

    /// Where a sector is proved.
    pub async fn sector_location(
        &self,
        miner: &Address,
        number: SectorNumber,
        at: &TipSetKey,
    ) -> Result<SectorLocation, NodeError> {
        self.call("StateSectorPartition", &(Form(*miner), number, at))
            .await
    }

    /// When a sector ends.
    pub async fn sector_expiration(
        &self,
        miner: &Address,
        number: SectorNumber,
        at: &TipSetKey,
    ) -> Result<SectorExpiration, NodeError> {
        self.call("StateSectorExpiration", &(Form(*miner), number, at))
            .await
    }
}

/// Blocks.
impl Client {
    /// What a miner needs to make a block of an epoch on a tipset, which must be named; nothing where it had no
    /// proven sector at the lookback.
    pub async fn mining_base(
        &self,
        miner: &Address,
        epoch: ChainEpoch,
        at: &TipSetKey,
    ) -> Result<Option<MiningBase>, NodeError> {
        self.call("MinerGetBaseInfo", &(Form(*miner), epoch, at)).await
    }

    /// Lets the node make a block's header and sign it. A node without the worker's key refuses, or leaves the
    /// signature out.
    pub async fn create_block(&self, template: &BlockTemplate) -> Result<BlockMessage, NodeError> {
        self.call("MinerCreateBlock", &(template,)).await
    }

    /// Hands a block in.
    pub async fn submit_block(&self, block: &BlockMessage) -> Result<(), NodeError> {
        self.call("SyncSubmitBlock", &(block,)).await
    }
}

/// Messages.
impl Client {
    /// Runs a message without sending it.
    pub async fn dry_run(&self, message: &Message, at: &TipSetKey) -> Result<InvocationResult, NodeError> {
        self.call("StateCall", &(MessageJson::from(message), at)).await
    }

    /// The message with the gas fields filled that were zero, costing at most `max_fee` (zero for the node's
    /// own limit). It runs the message, so a refusal of the actor is an error here.
    pub async fn estimate_gas(
        &self,
        message: &Message,
        max_fee: &TokenAmount,
        at: &TipSetKey,
    ) -> Result<Message, NodeError> {
        let spec = FeeSpec {
            max_fee: max_fee.clone(),
        };
        let json: MessageJson = self
            .call("GasEstimateMessageGas", &(MessageJson::from(message), spec, at))
            .await?;
        Ok(json.into())
    }

    /// The nonce that the sender's next message should have, by what the node knows of pending ones.
    pub async fn mpool_nonce(&self, sender: &Address) -> Result<u64, NodeError> {
        self.call("MpoolGetNonce", &(Form(*sender),)).await
    }

    /// Messages that wait for a block.
    pub async fn mpool_pending(&self, at: &TipSetKey) -> Result<Vec<SignedMessageJson>, NodeError> {
        let pending = self.call::<Option<_>>("MpoolPending", &(at,)).await?;
        Ok(pending.unwrap_or_default())
    }

    /// Gives a signed message to every usable node. It is enough that one takes it. A node that has it already
    /// took it.
    pub async fn push(&self, signed: &SignedMessage) -> Result<(), NodeError> {
        let params = (SignedMessageJson::from(signed),);
        let answers = self.call_all::<serde_json::Value>("MpoolPush", &params).await;
        let mut refused = None;
        let mut taken = false;
        for (_, answer) in answers {
            match answer {
                Ok(_) => taken = true,
                Err(error) if error.app() == Some(AppError::AlreadyKnown) => taken = true,
                // What a node that works says counts more than that another does not work.
                Err(error) if error.is_node_trouble() => {
                    refused.get_or_insert(error);
                }
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            _ if taken => Ok(()),
            Some(error) => Err(error),
            None => Err(NodeError::NoNode("none is usable".into())),
        }
    }

    /// Where a message, or the one that took its place, is on the chain; nothing if it is not.
    pub async fn search_message(&self, cid: &Cid) -> Result<Option<MessageLookup>, NodeError> {
        let params = json!([[], Form(*cid), -1, true]);
        match self.call("StateSearchMsg", &params).await {
            Err(error) if error.app() == Some(AppError::NotFound) => Ok(None),
            found => found,
        }
    }

    /// Waits until a message, or the one that took its place, is `confidence` epochs deep.
    pub async fn wait_message(&self, cid: &Cid, confidence: u64) -> Result<MessageLookup, NodeError> {
        let params = json!([Form(*cid), confidence, -1, true]);
        self.call_within("StateWaitMsg", &params, self.config().wait_timeout)
            .await
    }

    /// What an address has.
    pub async fn wallet_balance(&self, address: &Address) -> Result<TokenAmount, NodeError> {
        self.amount("WalletBalance", &(Form(*address),)).await
    }

    async fn amount(
        &self,
        method: &'static str,
        params: &impl serde::Serialize,
    ) -> Result<TokenAmount, NodeError> {
        let amount: Form<TokenAmount> = self.call(method, params).await?;
        Ok(amount.0)
    }
}

/// Nothing where the node says that the actor does not exist.
fn known<T>(found: Result<T, NodeError>) -> Result<Option<T>, NodeError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.app() == Some(AppError::ActorNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
