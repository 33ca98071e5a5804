//! Runs messages on a state: accounts, payments, gas, and the actors behind them. Pure but for the objects that
//! it writes into its overlay.

mod cron;
mod gas;
mod market;
mod miner;
mod power;
mod reward;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::message::encode;
use crate::params::{Call, DecodeError};
use crate::randomness::{self, Tag};
use crate::types::state::{ActorError, Policy};
use crate::types::{
    ActorID, Address, BigInt, ChainEpoch, ExitCode, Message, MethodNum, Protocol, RawBytes, TokenAmount, Zero,
};

use super::block::BeaconEntry;
use super::chain::Receipt;
use super::profile::Economics;
use super::root::{Actor, BURNT, CronKind, Kind, MARKET, POWER, PRODUCER, Root};
use super::store::Overlay;
use super::verifier::Verifier;

pub(super) use gas::{Cost, OUT_OF_GAS_TEXT};
pub(super) use miner::{deposit_for_power, pledge_for_power, sector_qa_power};
pub(super) use power::creation_deposit;

/// What does not change while the devnet runs.
pub(super) struct Network {
    pub(super) policy: Policy,
    pub(super) economics: Economics,
    pub(super) verifier: Box<dyn Verifier>,
    pub(super) post_check: PostCheck,
}

/// When a window proof that recovers nothing is verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PostCheck {
    /// When it comes.
    #[default]
    Strict,
    /// When somebody disputes it, as on the network; the devnet disputes what does not hold.
    Optimistic,
}

/// The proof of the ticket that randomness of an epoch is drawn from.
pub(super) type Tickets<'a> = &'a dyn Fn(ChainEpoch) -> Result<Vec<u8>, String>;

/// The worker key by which a miner's block of an epoch is judged.
pub(super) type Workers<'a> = &'a dyn Fn(ActorID, ChainEpoch) -> Result<Address, String>;

/// A state in work.
pub(super) struct Vm<'a> {
    pub(super) net: &'a Network,
    pub(super) store: &'a Overlay<'a>,
    pub(super) tickets: Tickets<'a>,
    pub(super) workers: Workers<'a>,
    pub(super) root: Root,
    pub(super) epoch: ChainEpoch,
    pub(super) base_fee: TokenAmount,
    /// Who gets the tips of messages.
    pub(super) tips_to: ActorID,
}

/// What became of a message.
#[derive(Debug, Clone)]
pub(super) struct Applied {
    pub(super) receipt: Receipt,
    /// What the actor says; empty for success.
    pub(super) error: String,
}

/// How a message is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// As in a block.
    Gas,
    /// A dry run: no nonce, no fee, any limit.
    Nothing,
}

impl Vm<'_> {
    /// Runs a message. What fails leaves nothing but the nonce and the fee.
    pub(super) fn apply(&mut self, message: &Message, charge: Charge) -> Applied {
        let Some(sender) = self.root.resolve(&message.from) else {
            let text = format!("sender {} not found", message.from);
            return refused(ExitCode::SYS_SENDER_INVALID, text);
        };
        if let Err((code, text)) = self.sender(sender, message, charge) {
            return refused(code, text);
        }
        let before = self.root.clone();
        let used = gas::used(message, encode(message).map_or(0, |bytes| bytes.len()));
        let result = if charge == Charge::Gas && used > message.gas_limit {
            let text = format!("{OUT_OF_GAS_TEXT}: {used} needed, {} allowed", message.gas_limit);
            Err(ActorError::unchecked(ExitCode::SYS_OUT_OF_GAS, text))
        } else {
            self.execute(
                sender,
                &message.to,
                &message.value,
                message.method_num,
                &message.params,
            )
        };
        let used = match charge {
            Charge::Gas => used.min(message.gas_limit),
            Charge::Nothing => used,
        };
        let (exit_code, returned, error) = match result {
            Ok(returned) => (ExitCode::OK, returned, String::new()),
            Err(e) => {
                self.root = before;
                let text = format!("{} (RetCode={})", e.msg(), e.exit_code().value());
                (e.exit_code(), RawBytes::default(), text)
            }
        };
        if charge == Charge::Gas {
            let cost = gas::settle(message, used, &self.base_fee);
            self.refund(sender, &cost);
        }
        let receipt = Receipt {
            exit_code,
            returned,
            gas_used: used,
            events_root: None,
        };
        Applied { receipt, error }
    }

    /// Checks the sender, and takes nonce and gas.
    fn sender(
        &mut self,
        sender: ActorID,
        message: &Message,
        charge: Charge,
    ) -> Result<(), (ExitCode, String)> {
        let Some(actor) = self.root.actors.get_mut(&sender) else {
            return Err((
                ExitCode::SYS_SENDER_INVALID,
                format!("sender f0{sender} not found"),
            ));
        };
        if actor.kind != Kind::Account {
            let text = format!("sender f0{sender} is no account");
            return Err((ExitCode::SYS_SENDER_INVALID, text));
        }
        if charge == Charge::Nothing {
            return Ok(());
        }
        if actor.nonce != message.sequence {
            let text = format!("nonce {} is not {}", message.sequence, actor.nonce);
            return Err((ExitCode::SYS_SENDER_STATE_INVALID, text));
        }
        let fee = message.gas_fee_cap.clone() * message.gas_limit;
        if actor.balance < fee {
            let text = format!("balance {} is less than the gas {fee}", actor.balance);
            return Err((ExitCode::SYS_SENDER_STATE_INVALID, text));
        }
        actor.balance -= fee;
        actor.nonce += 1;
        Ok(())
    }

    fn refund(&mut self, sender: ActorID, cost: &Cost) {
        for (id, amount) in [
            (sender, &cost.refund),
            (BURNT, &(&cost.base_fee_burn + &cost.over_estimation_burn)),
            (self.tips_to, &cost.miner_tip),
        ] {
            if let Some(actor) = self.root.actors.get_mut(&id) {
                actor.balance += amount;
            }
        }
    }

    /// Pays and calls.
    fn execute(
        &mut self,
        from: ActorID,
        to: &Address,
        value: &TokenAmount,
        method: MethodNum,
        params: &RawBytes,
    ) -> Result<RawBytes, ActorError> {
        let id = match self.root.resolve(to) {
            Some(id) => id,
            None if matches!(to.protocol(), Protocol::BLS | Protocol::Secp256k1) => {
                self.root.add(Kind::Account, *to, TokenAmount::zero())
            }
            None => {
                let text = format!("receiver {to} not found");
                return Err(ActorError::unchecked(ExitCode::SYS_INVALID_RECEIVER, text));
            }
        };
        self.transfer(from, id, value)?;
        if method == 0 {
            return Ok(RawBytes::default());
        }
        let kind = self.root.actors.get(&id).map(|actor| actor.kind);
        // The table of calls tells actors apart by their address.
        let decoded_for = match (kind, id) {
            (Some(Kind::Miner), _) => Address::new_id(super::root::FIRST_USER),
            (Some(Kind::Singleton), POWER | MARKET) => Address::new_id(id),
            _ => return Err(unhandled(to, method)),
        };
        let call = Call::decode(&decoded_for, method, params.bytes()).map_err(|e| match e {
            DecodeError::UnknownMethod { .. } => unhandled(to, method),
            other => ActorError::serialization(other.to_string()),
        })?;
        match call {
            Call::CreateMiner(params) => self.create_miner(from, value, params),
            Call::AddBalance(params) => self.add_market_balance(value, &params.provider_or_client),
            Call::PublishStorageDeals(params) => self.publish_deals(from, params),
            call => self.call_miner(id, from, call),
        }
    }

    /// Pays.
    fn transfer(&mut self, from: ActorID, to: ActorID, value: &TokenAmount) -> Result<(), ActorError> {
        let insufficient = |text: String| ActorError::unchecked(ExitCode::SYS_INSUFFICIENT_FUNDS, text);
        if value.is_zero() {
            return Ok(());
        }
        let balance = self.balance(from);
        if value.is_negative() || balance < *value {
            return Err(insufficient(format!("f0{from} has {balance}, {value} is sent")));
        }
        for (id, amount) in [(from, -value.clone()), (to, value.clone())] {
            match self.root.actors.get_mut(&id) {
                Some(actor) => actor.balance += amount,
                None => return Err(insufficient(format!("actor f0{id} not found"))),
            }
        }
        Ok(())
    }

    fn balance(&self, id: ActorID) -> TokenAmount {
        let actor = self.root.actors.get(&id);
        actor.map_or_else(TokenAmount::zero, |actor| actor.balance.clone())
    }

    /// Randomness from a ticket of the chain.
    fn ticket_randomness(&self, tag: Tag, epoch: ChainEpoch, entropy: &[u8]) -> Result<[u8; 32], ActorError> {
        let base = (self.tickets)(epoch).map_err(ActorError::illegal_argument)?;
        Ok(randomness::draw(&base, tag, epoch, entropy))
    }

    /// Randomness from the beacon.
    fn beacon_randomness(&self, tag: Tag, epoch: ChainEpoch, entropy: &[u8]) -> Result<[u8; 32], ActorError> {
        if epoch > self.epoch {
            let text = "cannot draw randomness from the future".to_owned();
            return Err(ActorError::illegal_argument(text));
        }
        Ok(randomness::draw(
            &BeaconEntry::of(epoch).data,
            tag,
            epoch,
            entropy,
        ))
    }

    fn enroll(&mut self, miner: ActorID, epoch: ChainEpoch, kind: CronKind) {
        self.root.power.cron.entry(epoch).or_default().push((miner, kind));
    }

    /// What a miner's claim changes by.
    fn update_power(&mut self, miner: ActorID, raw: &BigInt, qa: &BigInt) -> Result<(), ActorError> {
        if raw.is_zero() && qa.is_zero() {
            return Ok(());
        }
        let claim = self.root.power.claims.get_mut(&miner);
        let claim = claim.ok_or_else(|| ActorError::not_found(format!("no claim for actor f0{miner}")))?;
        claim.raw += raw;
        claim.qa += qa;
        if claim.raw < BigInt::zero() || claim.qa < BigInt::zero() {
            return Err(ActorError::illegal_state(format!("negative claim of f0{miner}")));
        }
        Ok(())
    }
}

fn unhandled(to: &Address, method: MethodNum) -> ActorError {
    ActorError::unhandled_message(format!("{to} has no method {method}"))
}

/// A message that no block could hold.
fn refused(exit_code: ExitCode, text: String) -> Applied {
    Applied {
        receipt: Receipt {
            exit_code,
            returned: RawBytes::default(),
            gas_used: 0,
            events_root: None,
        },
        error: format!("{text} (RetCode={})", exit_code.value()),
    }
}

/// The actors of a genesis: the network's own, the producer, and keys with their balances.
pub(super) fn genesis(producer: Address, accounts: &[(Address, TokenAmount)]) -> Root {
    let mut root = Root::new();
    let actor = Actor {
        kind: Kind::Account,
        address: Some(producer),
        nonce: 0,
        balance: TokenAmount::zero(),
        head: None,
    };
    root.actors.extend(BTreeMap::from([(PRODUCER, actor)]));
    for (address, balance) in accounts {
        root.add(Kind::Account, *address, balance.clone());
    }
    root
}
