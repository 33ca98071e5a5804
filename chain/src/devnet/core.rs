//! The devnet's node: chain, pool and state behind one lock. Tipsets are made here, and nowhere else: of the blocks that
//! miners handed in, or of one of its own.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::message::SignedMessage;
use crate::types::state::Amtv0;
use crate::types::{Address, BytesDe, ChainEpoch, Cid, TokenAmount};

use super::block::{self, Block, Parts};
use super::chain::{self, Chain, Change, Receipt, Tip};
use super::error::DevnetError;
use super::faults::Faults;
use super::folder::{Genesis, Keys};
use super::genesis::genesis_tip;
use super::log::{Log, Record};
use super::mempool::{Account, Mempool};
use super::mining::{Given, Submitted};
use super::profile::Profile;
use super::root::{PRODUCER, Root};
use super::snapshots::Snapshots;
use super::store::{Overlay, Store};
use super::vm::{self, Charge, Network, Vm};

/// The base fee below which the network never goes, and at which the devnet begins.
pub(super) const BASE_FEE_MIN: i64 = 100;
/// Changes that a slow listener may be behind.
const BEHIND: usize = 4096;

/// The node.
pub(super) struct Core {
    pub(super) net: Network,
    pub(super) profile: Profile,
    pub(super) genesis: Genesis,
    pub(super) keys: Keys,
    pub(super) store: Store,
    pub(super) chain: Chain,
    pub(super) mempool: Mempool,
    pub(super) base_fee: TokenAmount,
    pub(super) faults: Faults,
    pub(super) changes: broadcast::Sender<Arc<Change>>,
    pub(super) height: watch::Sender<ChainEpoch>,
    /// Blocks for the epoch after the head. A stop forgets them, as it does the epoch they were for.
    pub(super) submitted: Vec<Submitted>,
    pub(super) given: Given,
    pub(super) snapshots: Snapshots,
    branch: u64,
    log: Option<Log>,
}

/// The state that a call about a tipset sees.
pub(super) struct View<'a> {
    pub(super) epoch: ChainEpoch,
    pub(super) root: Root,
    pub(super) store: Overlay<'a>,
}

impl Core {
    /// A node at its genesis, or where its log ends.
    pub(super) fn open(
        net: Network,
        profile: Profile,
        genesis: Genesis,
        keys: Keys,
        log: Option<(Log, Vec<Record>)>,
    ) -> Result<Self, DevnetError> {
        let mut store = Store::default();
        let (mut log, records) = match log {
            Some((log, records)) => (Some(log), records),
            None => (None, Vec::new()),
        };
        let mut records = records.into_iter();
        let first = match records.next() {
            Some(Record::Tip(objects, tip)) => {
                keep(&mut store, objects);
                Tip::from(*tip)
            }
            Some(Record::Tipset(objects, tip)) => {
                keep(&mut store, objects);
                *tip
            }
            Some(_) => {
                return Err(DevnetError::Broken(
                    "the chain's file does not begin with a genesis".into(),
                ));
            }
            None => {
                let (tip, fresh) = genesis_tip(&genesis, &keys)?;
                if let Some(log) = &mut log {
                    log.append(&[Record::Tipset(as_bytes(&fresh), Box::new(tip.clone()))])?;
                    log.sync()?;
                }
                fresh.into_iter().for_each(|(cid, bytes)| store.add(cid, bytes));
                tip
            }
        };
        let mut core = Self {
            net,
            profile,
            genesis,
            keys,
            store,
            chain: Chain::new(first),
            mempool: Mempool::default(),
            base_fee: TokenAmount::from_atto(BASE_FEE_MIN),
            faults: Faults::default(),
            changes: broadcast::Sender::new(BEHIND),
            height: watch::Sender::new(0),
            submitted: Vec::new(),
            given: Given::default(),
            snapshots: Snapshots::default(),
            branch: 0,
            log,
        };
        records.try_for_each(|record| core.replay(record))?;
        core.height.send_replace(core.chain.head().height());
        Ok(core)
    }

    fn replay(&mut self, record: Record) -> Result<(), DevnetError> {
        match record {
            Record::Tip(objects, tip) => {
                keep(&mut self.store, objects);
                self.chain.add(Tip::from(*tip));
            }
            Record::Tipset(objects, tip) => {
                keep(&mut self.store, objects);
                self.chain.add(*tip);
            }
            Record::Head(cid) => {
                let moved = self.chain.set_head(&cid);
                let Change { applied, .. } =
                    moved.ok_or_else(|| DevnetError::Broken(format!("no tipset {cid}")))?;
                let held = applied.iter().flat_map(|tip| &tip.messages);
                held.for_each(|signed| self.mempool.included(signed));
            }
            Record::Pending(signed) => self.mempool.put(*signed),
            Record::EmptyPool => self.mempool.clear(),
            Record::Dropped(cid) => drop(self.mempool.drop_message(&cid)),
            Record::BaseFee(fee) => self.base_fee = fee,
            Record::Branch(branch) => self.branch = branch,
        }
        Ok(())
    }

    pub(super) fn write(&mut self, records: &[Record]) -> Result<(), DevnetError> {
        self.log.as_mut().map_or(Ok(()), |log| log.append(records))
    }

    /// Makes what was written safe.
    pub(super) fn sync(&mut self) -> Result<(), DevnetError> {
        self.log.as_mut().map_or(Ok(()), Log::sync)
    }

    /// Makes the next tipset, after so many rounds without one: of the blocks that were handed in for its epoch, or of
    /// one of the devnet's own.
    pub(super) fn mine(&mut self, nulls: u64) -> Result<(), DevnetError> {
        let parent = self.chain.head().clone();
        let mut submitted = std::mem::take(&mut self.submitted);
        let height = after(&parent, nulls);
        submitted.retain(|one| one.block.height == height);
        let tip = self.extend(&parent, nulls, submitted)?;
        self.set_head(&tip)
    }

    /// Takes `depth` tipsets off the chain and puts one more in their place. The messages of those that left go
    /// back to the pool, or are forgotten.
    pub(super) fn reorg(&mut self, depth: u64, keep: bool) -> Result<(), DevnetError> {
        let mut parent = self.chain.head().clone();
        let mut gone = Vec::new();
        for _ in 0..depth {
            let Some(before) = self.chain.parent(&parent).cloned() else {
                break;
            };
            gone.push(parent);
            parent = before;
        }
        self.next_branch()?;
        for signed in gone.iter().flat_map(|tip| tip.messages.clone()) {
            if keep {
                self.write(&[Record::Pending(Box::new(signed.clone()))])?;
                self.mempool.put(signed);
            }
        }
        for _ in 0..=gone.len() {
            parent = self.extend(&parent, 0, Vec::new())?;
        }
        self.set_head(&parent)
    }

    /// New blocks of the devnet's own have other tickets from here on.
    pub(super) fn next_branch(&mut self) -> Result<(), DevnetError> {
        self.branch += 1;
        self.write(&[Record::Branch(self.branch)])
    }

    /// Makes and executes a tipset on another. The head stays.
    fn extend(
        &mut self,
        parent: &Arc<Tip>,
        nulls: u64,
        submitted: Vec<Submitted>,
    ) -> Result<Arc<Tip>, DevnetError> {
        let executed = self.execute(parent, after(parent, nulls), submitted);
        let (tip, fresh) = executed.map_err(DevnetError::Broken)?;
        self.write(&[Record::Tipset(as_bytes(&fresh), Box::new(tip.clone()))])?;
        for (cid, bytes) in fresh {
            self.store.add(cid, bytes);
        }
        for signed in &tip.messages {
            self.mempool.included(signed);
        }
        Ok(self.chain.add(tip))
    }

    /// A block of the devnet's own with what the pool has.
    fn produce(
        &self,
        parent: &Arc<Tip>,
        height: ChainEpoch,
        root: &Root,
        store: &Overlay<'_>,
    ) -> Result<Submitted, String> {
        let account = |address: &Address| account(root, address);
        let messages = block::in_order(self.mempool.select(account, &self.base_fee));
        let parts = Parts {
            parent: Some((parent, self.weight(parent)?)),
            height,
            state_root: parent.post_root,
            receipts: parent.receipts_root,
            messages: &messages,
            timestamp: self.timestamp(height),
            branch: self.branch,
            base_fee: self.base_fee.clone(),
        };
        let (block, cid) = block::make(&self.keys.producer, parts, store)?;
        Ok(Submitted { cid, block, messages })
    }

    /// The time of an epoch's blocks, in seconds since 1970.
    pub(super) fn timestamp(&self, height: ChainEpoch) -> u64 {
        self.genesis.timestamp + self.profile.epoch_seconds() * height.unsigned_abs()
    }

    fn execute(
        &self,
        parent: &Arc<Tip>,
        height: ChainEpoch,
        mut blocks: Vec<Submitted>,
    ) -> Result<(Tip, Fresh), String> {
        let store = self.store.overlay();
        let root: Root = store.load(&parent.post_root)?;
        if blocks.is_empty() {
            blocks.push(self.produce(parent, height, &root, &store)?);
        }
        blocks.sort_by_key(Submitted::order);
        for one in &blocks {
            block::message_meta(&one.messages, &store)?;
        }
        let own_ticket = blocks[0].block.ticket.vrf_proof.clone();
        let tickets = |epoch: ChainEpoch| {
            if epoch > parent.height() && epoch <= height {
                // A round without a block: the next one's ticket counts.
                return Ok(own_ticket.clone());
            }
            self.chain.ticket(parent, epoch)
        };
        let workers = |id, epoch| self.worker_of(id, parent, epoch);
        let mut vm = Vm {
            net: &self.net,
            store: &store,
            tickets: &tickets,
            workers: &workers,
            root,
            epoch: parent.height(),
            base_fee: self.base_fee.clone(),
            tips_to: PRODUCER,
        };
        for null in parent.height() + 1..height {
            vm.epoch = null;
            vm.cron();
        }
        vm.epoch = height;
        let (mut messages, mut receipts) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for one in &blocks {
            // What another block of the tipset did is not done again.
            let (mut fresh, all) = (Vec::new(), one.messages.iter());
            for signed in all {
                if seen.insert(signed.cid().map_err(|e| e.to_string())?) {
                    fresh.push(signed.clone());
                }
            }
            receipts.extend(apply_block(&mut vm, &one.block, &fresh));
            messages.extend(fresh);
        }
        vm.cron();
        let (post_root, receipts_root) = (store.save(&vm.root)?, receipts_root(&store, &receipts)?);
        let blocks: Vec<(Cid, Block)> = blocks.into_iter().map(|one| (one.cid, one.block)).collect();
        let key: Vec<Cid> = blocks.iter().map(|(cid, _)| *cid).collect();
        let tip = Tip {
            cid: chain::name(&key).ok_or("a tipset without blocks")?,
            blocks,
            messages,
            receipts,
            receipts_root,
            post_root,
        };
        Ok((tip, store.into_fresh()))
    }

    pub(super) fn set_head(&mut self, tip: &Arc<Tip>) -> Result<(), DevnetError> {
        self.write(&[Record::Head(tip.cid)])?;
        // They were for the epoch after another head.
        self.submitted.clear();
        let moved = self.chain.set_head(&tip.cid);
        let change = moved.ok_or_else(|| DevnetError::Broken("a tipset without parents".into()))?;
        self.height.send_replace(tip.height());
        // Nobody may be listening.
        drop(self.changes.send(Arc::new(change)));
        Ok(())
    }

    /// Takes a message into the pool. Its signature was checked.
    pub(super) fn push(&mut self, signed: &SignedMessage, trusted: bool) -> Result<Cid, String> {
        let root = self.head_root()?;
        let from = &signed.message.from;
        let account = account(&root, from).unwrap_or(Account {
            nonce: 0,
            balance: TokenAmount::from_atto(0),
        });
        let floor = TokenAmount::from_atto(BASE_FEE_MIN);
        let cid = self.mempool.push(signed, &account, &floor, trusted)?;
        self.write(&[Record::Pending(Box::new(signed.clone()))])
            .map_err(|e| e.to_string())?;
        Ok(cid)
    }

    /// Takes a message out of the pool.
    pub(super) fn drop_message(&mut self, cid: &Cid) -> Result<bool, DevnetError> {
        if self.mempool.drop_message(cid).is_none() {
            return Ok(false);
        }
        self.write(&[Record::Dropped(*cid)])?;
        Ok(true)
    }

    /// The base fee of the next blocks.
    pub(super) fn set_base_fee(&mut self, fee: TokenAmount) -> Result<(), DevnetError> {
        self.write(&[Record::BaseFee(fee.clone())])?;
        self.base_fee = fee;
        // They have the base fee of before.
        self.submitted.clear();
        Ok(())
    }

    /// The state after the head's own messages.
    pub(super) fn head_root(&self) -> Result<Root, String> {
        self.store.overlay().load(&self.chain.head().post_root)
    }

    /// The state that a call about a tipset sees: that before its own messages.
    pub(super) fn view(&self, tip: Arc<Tip>) -> Result<View<'_>, String> {
        let store = self.store.overlay();
        let root = store.load(&tip.first().parent_state_root)?;
        Ok(View {
            epoch: tip.height(),
            root,
            store,
        })
    }

    /// Runs a message without keeping what it does: on the state before `tip`, or on the state after the
    /// head together with what the sender has in the pool.
    pub(super) fn dry_run(
        &self,
        message: &crate::types::Message,
        tip: Option<Arc<Tip>>,
    ) -> Result<vm::Applied, String> {
        let store = self.store.overlay();
        let head = self.chain.head().clone();
        let (root, epoch, base, before) = match &tip {
            Some(tip) => (
                &tip.first().parent_state_root,
                tip.height(),
                tip,
                sent_in(tip, message),
            ),
            None => (&head.post_root, head.height() + 1, &head, self.waiting(message)),
        };
        let tickets = |epoch: ChainEpoch| self.chain.ticket(base, epoch);
        let workers = |id, epoch| self.worker_of(id, base, epoch);
        let mut vm = Vm {
            net: &self.net,
            store: &store,
            tickets: &tickets,
            workers: &workers,
            root: store.load(root)?,
            epoch,
            base_fee: self.base_fee.clone(),
            tips_to: PRODUCER,
        };
        for signed in before {
            vm.apply(&signed.message, Charge::Gas);
        }
        Ok(vm.apply(message, Charge::Nothing))
    }

    fn waiting(&self, message: &crate::types::Message) -> Vec<SignedMessage> {
        let nonce = self
            .head_root()
            .ok()
            .and_then(|root| account(&root, &message.from));
        let run = self
            .mempool
            .executable(&message.from, nonce.map_or(0, |account| account.nonce));
        let earlier = run.into_iter().filter(|one| {
            // A message that is there already does not run before itself.
            message.sequence == 0 || one.message.sequence < message.sequence
        });
        earlier.cloned().collect()
    }
}

fn sent_in(tip: &Tip, message: &crate::types::Message) -> Vec<SignedMessage> {
    let own = tip
        .messages
        .iter()
        .filter(|signed| signed.message.from == message.from);
    own.cloned().collect()
}

/// Objects that an execution wrote.
pub(super) type Fresh = Vec<(Cid, Vec<u8>)>;

fn as_bytes(fresh: &Fresh) -> Vec<(Cid, BytesDe)> {
    fresh
        .iter()
        .map(|(cid, bytes)| (*cid, BytesDe(bytes.clone())))
        .collect()
}

fn keep(store: &mut Store, objects: Vec<(Cid, BytesDe)>) {
    for (cid, bytes) in objects {
        store.add(cid, bytes.0);
    }
}

/// The epoch after so many rounds without a block.
fn after(parent: &Tip, nulls: u64) -> ChainEpoch {
    parent.height() + 1 + ChainEpoch::try_from(nulls).unwrap_or(ChainEpoch::MAX / 2)
}

/// Runs the messages of a block, and pays its miner.
fn apply_block(vm: &mut Vm<'_>, block: &Block, messages: &[SignedMessage]) -> Vec<Receipt> {
    let miner = block.miner.id().unwrap_or(PRODUCER);
    if miner == PRODUCER {
        return apply_all(vm, messages);
    }
    let (receipts, tips) = vm.collecting_tips(|vm| apply_all(vm, messages));
    vm.award(miner, block.wins(), &tips);
    receipts
}

fn apply_all(vm: &mut Vm<'_>, messages: &[SignedMessage]) -> Vec<Receipt> {
    let mut receipts = Vec::with_capacity(messages.len());
    for signed in messages {
        let applied = vm.apply(&signed.message, Charge::Gas);
        if !applied.error.is_empty() {
            let (method, from, nonce) = (
                signed.message.method_num,
                signed.message.from,
                signed.message.sequence,
            );
            tracing::info!(epoch = vm.epoch, method, %from, nonce, "a message failed: {}", applied.error);
        }
        receipts.push(applied.receipt);
    }
    receipts
}

pub(super) fn receipts_root(store: &Overlay<'_>, receipts: &[Receipt]) -> Result<Cid, String> {
    Amtv0::new_from_iter(store, receipts.iter().cloned()).map_err(|e| e.to_string())
}

/// Nonce and balance of an address.
pub(super) fn account(root: &Root, address: &Address) -> Option<Account> {
    let actor = root.actors.get(&root.resolve(address)?)?;
    Some(Account {
        nonce: actor.nonce,
        balance: actor.balance.clone(),
    })
}
