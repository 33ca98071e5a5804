//! Messages that wait for a block, by the rules of Lotus (chain.md §2.12).

use std::collections::{BTreeMap, HashMap};

use crate::message::{self, Gas, SignedMessage};
use crate::policy::BLOCK_GAS;
use crate::types::{Address, Cid, TokenAmount};

/// The most messages of a sender.
const PENDING: usize = 1000;
/// The same for a push that is not trusted.
const PENDING_UNTRUSTED: usize = 100;
/// The most nonces that may be missing before a message that is not trusted.
const GAP_UNTRUSTED: u64 = 4;
/// The most messages in all.
const ALL: usize = 100_000;
/// The most CIDs of messages that are remembered.
const KNOWN: usize = 2_000_000;

/// What an account has on the chain.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) nonce: u64,
    pub(super) balance: TokenAmount,
}

/// Messages that wait.
#[derive(Debug, Default)]
pub(super) struct Mempool {
    senders: HashMap<Address, BTreeMap<u64, SignedMessage>>,
    count: usize,
    /// Sender and nonce of all that ever waited: whoever asks for a message that was replaced learns of the one
    /// that took its place.
    known: HashMap<Cid, (Address, u64)>,
}

impl Mempool {
    /// Takes a message whose signature was checked. `trusted` is what our own node sends.
    pub(super) fn push(
        &mut self,
        signed: &SignedMessage,
        account: &Account,
        base_fee_floor: &TokenAmount,
        trusted: bool,
    ) -> Result<Cid, String> {
        let message = &signed.message;
        message::check(message).map_err(|e| format!("message will not be included: {e}"))?;
        let (from, nonce) = (message.from, message.sequence);
        let cid = signed.cid().map_err(|e| e.to_string())?;
        if nonce < account.nonce {
            return Err(format!(
                "minimum expected nonce is {}: message nonce too low",
                account.nonce
            ));
        }
        if message.gas_fee_cap < *base_fee_floor {
            return Err(format!(
                "gas fee cap {} is below the smallest base fee {}",
                message.gas_fee_cap.atto(),
                base_fee_floor.atto()
            ));
        }
        let required = Gas::of(message).max_fee() + &message.value;
        if account.balance < required {
            return Err(format!(
                "mpool: not enough funds: {} < {}",
                account.balance.atto(),
                required.atto()
            ));
        }
        let waiting = self.senders.get(&from);
        let old = waiting.and_then(|waiting| waiting.get(&nonce));
        if let Some(old) = old {
            replaces(old, signed, &cid)?;
        } else {
            let limit = if trusted { PENDING } else { PENDING_UNTRUSTED };
            if waiting.map_or(0, BTreeMap::len) >= limit || self.count >= ALL {
                return Err(format!("too many pending messages for actor {from}"));
            }
            let next = self.next_nonce(&from, account.nonce);
            if !trusted && nonce > next.saturating_add(GAP_UNTRUSTED) {
                return Err(format!(
                    "message nonce has too big a gap from expected nonce (Nonce: {nonce}, nextNonce: {next}): unfulfilled nonce gap"
                ));
            }
        }
        self.put(signed.clone());
        Ok(cid)
    }

    /// Takes a message without looking at it: what was in a tipset that is not on the chain any more.
    pub(super) fn put(&mut self, signed: SignedMessage) {
        if self.known.len() < KNOWN {
            let place = (signed.message.from, signed.message.sequence);
            let cids = super::chain::message_cids(&signed).into_iter();
            self.known.extend(cids.map(|cid| (cid, place)));
        }
        let sender = self.senders.entry(signed.message.from).or_default();
        if sender.insert(signed.message.sequence, signed).is_none() {
            self.count += 1;
        }
    }

    /// Forgets all that waits.
    pub(super) fn clear(&mut self) {
        self.senders.clear();
        self.count = 0;
    }

    /// Forgets what a tipset holds, with all that waited for its nonce.
    pub(super) fn included(&mut self, signed: &SignedMessage) {
        self.forget(&signed.message.from, signed.message.sequence);
    }

    fn forget(&mut self, from: &Address, nonce: u64) -> Option<SignedMessage> {
        let sender = self.senders.get_mut(from)?;
        let gone = sender.remove(&nonce)?;
        self.count -= 1;
        if sender.is_empty() {
            self.senders.remove(from);
        }
        Some(gone)
    }

    /// Drops a message by its CID.
    pub(super) fn drop_message(&mut self, cid: &Cid) -> Option<SignedMessage> {
        let found = self.find(cid)?;
        let (from, nonce) = (found.message.from, found.message.sequence);
        self.forget(&from, nonce)
    }

    /// A message that waits.
    pub(super) fn find(&self, cid: &Cid) -> Option<&SignedMessage> {
        let mut all = self.senders.values().flat_map(BTreeMap::values);
        all.find(|signed| super::chain::message_cids(signed).contains(cid))
    }

    /// All that waits, by the CIDs under which it is known.
    pub(super) fn by_cid(&self) -> HashMap<Cid, &SignedMessage> {
        let all = self.senders.values().flat_map(BTreeMap::values);
        all.flat_map(|signed| {
            super::chain::message_cids(signed)
                .into_iter()
                .map(move |cid| (cid, signed))
        })
        .collect()
    }

    /// Sender and nonce of a message that waits or once did.
    pub(super) fn place(&self, cid: &Cid) -> Option<(Address, u64)> {
        self.known.get(cid).copied()
    }

    /// All, by sender and nonce.
    pub(super) fn pending(&self) -> Vec<&SignedMessage> {
        let mut all: Vec<_> = self.senders.values().flat_map(BTreeMap::values).collect();
        all.sort_by_key(|signed| (signed.message.from.to_string(), signed.message.sequence));
        all
    }

    /// Those of a sender, by nonce, from the first that is executable and without a gap.
    pub(super) fn executable(&self, from: &Address, nonce: u64) -> Vec<&SignedMessage> {
        let waiting = self.senders.get(from).into_iter().flatten();
        let from_here = waiting.filter(|(at, _)| **at >= nonce);
        let run = (nonce..).zip(from_here).take_while(|(next, (at, _))| next == *at);
        run.map(|(_, (_, signed))| signed).collect()
    }

    /// The nonce after all that is without a gap.
    pub(super) fn next_nonce(&self, from: &Address, nonce: u64) -> u64 {
        nonce + self.executable(from, nonce).len() as u64
    }

    /// What a block would hold: of every sender a run of nonces that it can pay, dearest premium first.
    pub(super) fn select(
        &self,
        account: impl Fn(&Address) -> Option<Account>,
        base_fee: &TokenAmount,
    ) -> Vec<SignedMessage> {
        let mut runs: Vec<Vec<&SignedMessage>> = Vec::new();
        for from in self.senders.keys() {
            let Some(Account { nonce, mut balance }) = account(from) else {
                continue;
            };
            let mut run = Vec::new();
            for signed in self.executable(from, nonce) {
                let required = Gas::of(&signed.message).max_fee() + &signed.message.value;
                if signed.message.gas_fee_cap < *base_fee || balance < required {
                    break;
                }
                balance -= required;
                run.push(signed);
            }
            if !run.is_empty() {
                runs.push(run);
            }
        }
        runs.sort_by_key(|run| {
            let first = &run[0].message;
            (
                std::cmp::Reverse(first.gas_premium.clone()),
                first.from.to_string(),
            )
        });
        let mut gas = 0;
        let mut chosen = Vec::new();
        for run in runs {
            for signed in run {
                if gas + signed.message.gas_limit > BLOCK_GAS {
                    break;
                }
                gas += signed.message.gas_limit;
                chosen.push(signed.clone());
            }
        }
        chosen
    }
}

/// Whether a message may take another's place.
fn replaces(old: &SignedMessage, new: &SignedMessage, cid: &Cid) -> Result<(), String> {
    let (from, nonce) = (new.message.from, new.message.sequence);
    if old.cid().is_ok_and(|old| old == *cid) {
        return Err(format!(
            "message from {from} with nonce {nonce} already in mpool: message with nonce already exists"
        ));
    }
    // A tenth more, and one.
    let least =
        old.message.gas_premium.clone() + (old.message.gas_premium.clone() * 10_u64).div_floor(100_u64);
    let least = least + TokenAmount::from_atto(1);
    if new.message.gas_premium < least {
        return Err(format!(
            "message from {from} with nonce {nonce} already in mpool, increase GasPremium to {} from {} to trigger replace by fee: replace by fee has too low GasPremium",
            least.atto(),
            new.message.gas_premium.atto()
        ));
    }
    Ok(())
}
