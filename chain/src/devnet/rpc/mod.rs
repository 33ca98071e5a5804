//! The node's calls (chain.md §3): one table says name, permission and number of parameters of each, and which
//! function answers.

pub(super) mod auth;
mod chain;
mod control;
mod gas;
mod market;
mod miner;
mod mining;
mod mpool;
mod sector;
mod server;
mod shapes;
mod socket;
mod state;
mod wallet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use Permission::{Admin, Read, Sign, Write};
use auth::Permission;

use super::core::Core;

pub(super) use server::serve;

/// An error as JSON-RPC has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) message: String,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// What a method refuses; nodes tell all of that by the same code.
    fn app(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }
}

impl From<String> for RpcError {
    fn from(message: String) -> Self {
        Self::app(message)
    }
}

impl From<super::DevnetError> for RpcError {
    fn from(error: super::DevnetError) -> Self {
        Self::app(error.to_string())
    }
}

pub(super) type Answer = Result<Value, RpcError>;

/// The parameters of a call.
pub(super) struct Args<'a> {
    method: &'a str,
    params: &'a [Value],
}

impl Args<'_> {
    /// A parameter; one that is missing is null.
    fn get<T: DeserializeOwned>(&self, at: usize) -> Result<T, RpcError> {
        let value = self.params.get(at).cloned().unwrap_or(Value::Null);
        serde_json::from_value(value).map_err(|e| {
            let text = format!("unmarshaling params for '{}' (param: {at}): {e}", self.method);
            RpcError::new(-32602, text)
        })
    }
}

type Handler = fn(&mut Core, &Args<'_>) -> Answer;

/// How a call is answered.
#[derive(Clone, Copy)]
enum Way {
    /// At once, under the lock.
    Now(Handler),
    /// Before the lock is taken: work that needs no state.
    Alone(fn(&Args<'_>) -> Answer),
    /// By the server, because it waits: see `server.rs`.
    Waits,
    /// On a connection that stays.
    Channel,
}

/// A call.
struct Method {
    name: &'static str,
    permission: Permission,
    params: usize,
    way: Way,
}

const fn now(name: &'static str, permission: Permission, params: usize, handler: Handler) -> Method {
    Method {
        name,
        permission,
        params,
        way: Way::Now(handler),
    }
}

const fn waits(name: &'static str, permission: Permission, params: usize) -> Method {
    Method {
        name,
        permission,
        params,
        way: Way::Waits,
    }
}

/// Calls by name, without the namespace but for `Devnet.`.
static METHODS: &[Method] = &[
    now("Version", Read, 0, chain::version),
    now("ChainHead", Read, 0, chain::head),
    Method {
        name: "ChainNotify",
        permission: Read,
        params: 0,
        way: Way::Channel,
    },
    now("ChainGetGenesis", Read, 0, chain::genesis),
    now("ChainGetTipSet", Read, 1, chain::tipset),
    now("ChainGetTipSetByHeight", Read, 2, chain::tipset_by_height),
    now("ChainGetTipSetAfterHeight", Read, 2, chain::tipset_after_height),
    now("ChainGetBlock", Read, 1, chain::block),
    now("ChainGetBlockMessages", Read, 1, chain::block_messages),
    now("ChainGetMessagesInTipset", Read, 1, chain::messages_in_tipset),
    now("ChainGetParentMessages", Read, 1, chain::parent_messages),
    now("ChainGetParentReceipts", Read, 1, chain::parent_receipts),
    now("ChainGetMessage", Read, 1, chain::message),
    now("ChainReadObj", Read, 1, chain::read_object),
    now("ChainHasObj", Read, 1, chain::has_object),
    now("ChainTipSetWeight", Read, 1, chain::weight),
    now("SyncState", Read, 0, chain::sync_state),
    now("StateNetworkName", Read, 0, state::network_name),
    now("StateNetworkVersion", Read, 1, state::network_version),
    now("StateGetNetworkParams", Read, 0, state::network_params),
    now("StateLookupID", Read, 2, state::lookup_id),
    now("StateAccountKey", Read, 2, state::account_key),
    now("StateLookupRobustAddress", Read, 2, state::robust_address),
    now("StateGetActor", Read, 2, state::actor),
    now("StateListMiners", Read, 1, state::miners),
    now("StateCirculatingSupply", Read, 1, state::circulating),
    now("StateGetRandomnessFromTickets", Read, 4, state::from_tickets),
    now("StateGetRandomnessFromBeacon", Read, 4, state::from_beacon),
    now("StateSearchMsg", Read, 4, state::search),
    now("StateCall", Read, 2, gas::call),
    waits("StateWaitMsg", Read, 4),
    waits("StateGetBeaconEntry", Read, 1),
    now("StateMinerInfo", Read, 2, miner::info),
    now("StateMinerProvingDeadline", Read, 2, miner::proving_deadline),
    now("StateMinerDeadlines", Read, 2, miner::deadlines),
    now("StateMinerPartitions", Read, 3, miner::partitions),
    now("StateMinerFaults", Read, 2, miner::faults),
    now("StateMinerRecoveries", Read, 2, miner::recoveries),
    now("StateMinerSectorCount", Read, 2, miner::sector_count),
    now("StateMinerPower", Read, 2, miner::power),
    now("StateMinerAvailableBalance", Read, 2, miner::available_balance),
    now("StateMinerAllocated", Read, 2, miner::allocated),
    now("StateMinerSectorAllocated", Read, 3, miner::sector_allocated),
    now(
        "StateMinerPreCommitDepositForPower",
        Read,
        3,
        miner::precommit_deposit,
    ),
    now("StateMinerInitialPledgeForSector", Read, 4, miner::initial_pledge),
    now("StateMinerCreationDeposit", Read, 1, miner::creation_deposit),
    now("StateMarketStorageDeal", Read, 2, market::storage_deal),
    now("StateMarketBalance", Read, 2, market::balance),
    now("StateMinerSectors", Read, 3, sector::sectors),
    now("StateMinerActiveSectors", Read, 2, sector::active),
    now("StateSectorGetInfo", Read, 3, sector::info),
    now("StateSectorPreCommitInfo", Read, 3, sector::precommit),
    now("StateSectorPartition", Read, 3, sector::partition),
    now("StateSectorExpiration", Read, 3, sector::expiration),
    now("MpoolPush", Write, 1, mpool::push),
    now("MpoolPushUntrusted", Write, 1, mpool::push_untrusted),
    now("MpoolBatchPush", Write, 1, mpool::batch_push),
    now("MpoolPushMessage", Sign, 2, mpool::push_message),
    now("MpoolGetNonce", Read, 1, mpool::nonce),
    now("MpoolPending", Read, 1, mpool::pending),
    now("MpoolSelect", Read, 2, mpool::select),
    now("GasEstimateMessageGas", Read, 3, gas::estimate_message),
    now("GasEstimateGasLimit", Read, 2, gas::estimate_limit),
    now("GasEstimateFeeCap", Read, 3, gas::estimate_fee_cap),
    now("GasEstimateGasPremium", Read, 4, gas::estimate_premium),
    now("MinerGetBaseInfo", Read, 3, mining::base_info),
    now("MinerCreateBlock", Write, 1, mining::create),
    now("SyncSubmitBlock", Write, 1, mining::submit),
    now("WalletBalance", Read, 1, wallet::balance),
    now("WalletList", Write, 0, wallet::list),
    now("WalletHas", Write, 1, wallet::has),
    now("WalletSign", Sign, 2, wallet::sign),
    Method {
        name: "WalletVerify",
        permission: Read,
        params: 3,
        way: Way::Alone(wallet::verify),
    },
    waits("AuthVerify", Read, 1),
    Method {
        name: "F3IsRunning",
        permission: Read,
        params: 0,
        way: Way::Alone(chain::f3_is_running),
    },
    Method {
        name: "F3GetManifest",
        permission: Read,
        params: 0,
        way: Way::Alone(chain::f3_disabled),
    },
    Method {
        name: "F3GetProgress",
        permission: Read,
        params: 0,
        way: Way::Alone(chain::f3_disabled),
    },
    Method {
        name: "F3GetOrRenewParticipationTicket",
        permission: Sign,
        params: 3,
        way: Way::Alone(chain::f3_disabled),
    },
    now("Devnet.Mine", Admin, 1, control::mine),
    now("Devnet.SkipNull", Admin, 1, control::skip_null),
    now("Devnet.AdvanceTo", Admin, 1, control::advance_to),
    now("Devnet.Reorg", Admin, 2, control::reorg),
    now("Devnet.Snapshot", Admin, 1, control::snapshot),
    now("Devnet.Restore", Admin, 1, control::restore),
    now("Devnet.DropMessage", Admin, 1, control::drop_message),
    now("Devnet.Fund", Admin, 2, control::fund),
    now("Devnet.SetBaseFee", Admin, 1, control::set_base_fee),
    now("Devnet.Dispute", Admin, 0, control::dispute),
    now("Devnet.SetPostCheck", Admin, 1, control::set_post_check),
    now("Devnet.InjectFault", Admin, 1, control::inject_fault),
    now("Devnet.InjectNotifyFault", Admin, 1, control::inject_notify_fault),
    now("Devnet.ClearFaults", Admin, 0, control::clear_faults),
    now("Devnet.Checks", Admin, 0, control::checks),
    waits("Devnet.SetBlockTime", Admin, 1),
    waits("Devnet.Pause", Admin, 0),
    waits("Devnet.Resume", Admin, 0),
    waits("Devnet.Hold", Admin, 2),
    waits("Devnet.Release", Admin, 1),
];

/// The method that a call names.
fn method(name: &str) -> Option<&'static Method> {
    let name = name.strip_prefix("Filecoin.").unwrap_or(name);
    METHODS.iter().find(|method| method.name == name)
}

/// Checks permission and number of parameters.
fn admit(
    name: &str,
    method: Option<&'static Method>,
    allowed: &[Permission],
    params: usize,
) -> Result<&'static Method, RpcError> {
    let method = method.ok_or_else(|| RpcError::new(-32601, format!("method '{name}' not found")))?;
    if !allowed.contains(&method.permission) {
        let (name, need) = (method.name, method.permission.name());
        return Err(RpcError::app(format!(
            "missing permission to invoke '{name}' (need '{need}')"
        )));
    }
    if params != method.params {
        let text = format!(
            "wrong param count (method '{name}'): {params} != {}",
            method.params
        );
        return Err(RpcError::new(-32602, text));
    }
    Ok(method)
}

fn json<T: Serialize>(value: &T) -> Answer {
    serde_json::to_value(value).map_err(|e| RpcError::app(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_there_once_and_found_with_its_namespace() {
        for (at, one) in METHODS.iter().enumerate() {
            assert!(
                METHODS[..at].iter().all(|other| other.name != one.name),
                "{}",
                one.name
            );
            let full = match one.name.starts_with("Devnet.") {
                true => one.name.to_owned(),
                false => format!("Filecoin.{}", one.name),
            };
            assert_eq!(method(&full).map(|found| found.name), Some(one.name));
        }
        assert!(method("Filecoin.Nothing").is_none());
    }

    #[test]
    fn who_may_not_is_told_what_is_needed() {
        let told = |name, allowed: &[Permission], params| admit(name, method(name), allowed, params).err();
        let refused = told("MpoolPush", &[Read], 1).unwrap();
        assert_eq!(
            refused.message,
            "missing permission to invoke 'MpoolPush' (need 'write')"
        );
        assert_eq!((refused.code, told("ChainHead", &[Read], 0)), (1, None));
        assert_eq!(told("ChainHead", &[Read], 1).unwrap().code, -32602);
        assert_eq!(told("No", &[Read], 0).unwrap().code, -32601);
    }
}
