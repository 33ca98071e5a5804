//! Calls that run a message without keeping it: dry runs and estimates.

use serde_json::{Value, json};

use crate::json::Form;
use crate::message::{Gas, MessageJson};
use crate::node::FeeSpec;
use crate::types::{Address, ChainEpoch, ExitCode, Message, TokenAmount};

use super::super::core::Core;
use super::super::vm::{Applied, Cost};
use super::shapes::{self, Key};
use super::{Answer, Args, RpcError};

/// What an estimate adds to the gas that was used.
const OVER: (u64, u64) = (125, 100);
/// What a message costs at most when nobody says.
const MAX_FEE_FIL: (u64, u64) = (7, 100);

pub(super) fn call(core: &mut Core, args: &Args<'_>) -> Answer {
    let (message, key): (MessageJson, Key) = (args.get(0)?, args.get(1)?);
    let message = Message::from(message);
    let tip = shapes::tip(core, &key)?;
    let Applied { receipt, error, .. } = core.dry_run(&message, Some(tip))?;
    let cid = crate::message::cid(&message).map_err(|e| RpcError::app(e.to_string()))?;
    let cost = Cost::default();
    let mut told = shapes::receipt(&receipt);
    if !receipt.exit_code.is_success() {
        told["Return"] = Value::Null;
    }
    let trace = json!({"Msg": shapes::message(&message), "MsgRct": told, "Subcalls": []});
    Ok(json!({
        "MsgCid": Form(cid),
        "Msg": shapes::message(&message),
        "MsgRct": told,
        "GasCost": {
            "Message": Form(cid),
            "GasUsed": "0",
            "BaseFeeBurn": Form(cost.base_fee_burn),
            "OverEstimationBurn": Form(cost.over_estimation_burn),
            "MinerPenalty": "0",
            "MinerTip": Form(cost.miner_tip),
            "Refund": Form(cost.refund),
            "TotalCost": "0",
        },
        "ExecutionTrace": trace,
        "Error": error,
        "Duration": 1000,
    }))
}

/// The gas limit that a message needs, or what its actor says.
fn limit(core: &Core, message: &Message) -> Result<u64, RpcError> {
    let Applied { receipt, error, .. } = core.dry_run(message, None)?;
    if receipt.exit_code == ExitCode::OK {
        return Ok(receipt.gas_used * OVER.0 / OVER.1);
    }
    let text = format!(
        "message execution failed (exit=[{}], gas=[{}]): estimating gas used: CallWithGas failed: {error}",
        receipt.exit_code.value(),
        receipt.gas_used
    );
    Err(RpcError::app(text))
}

/// A premium that gets a message into the next block, which is never full.
fn premium() -> TokenAmount {
    TokenAmount::from_atto(100_000)
}

/// The base fee after twenty full blocks, and the premium.
fn fee_cap(core: &Core, premium: &TokenAmount) -> TokenAmount {
    let mut fee = core.base_fee.clone();
    for _ in 0..20 {
        fee = (fee * 1125_u64).div_floor(1000_u64);
    }
    fee + premium
}

pub(super) fn estimate_message(core: &mut Core, args: &Args<'_>) -> Answer {
    let (message, spec): (MessageJson, Option<FeeSpec>) = (args.get(0)?, args.get(1)?);
    let filled = fill(core, Message::from(message), spec)?;
    Ok(shapes::message(&filled))
}

/// The message with its gas.
pub(super) fn fill(core: &Core, mut message: Message, spec: Option<FeeSpec>) -> Result<Message, RpcError> {
    if message.gas_limit == 0 {
        message.gas_limit = limit(core, &message)?;
    }
    if message.gas_premium.is_zero() {
        message.gas_premium = premium();
    }
    if message.gas_fee_cap.is_zero() {
        message.gas_fee_cap = fee_cap(core, &message.gas_premium);
    }
    let wanted = spec.map(|spec| spec.max_fee).filter(|fee| !fee.is_zero());
    let max = wanted.unwrap_or_else(|| (TokenAmount::from_whole(MAX_FEE_FIL.0)).div_floor(MAX_FEE_FIL.1));
    Gas::of(&message).capped(&max).put(&mut message);
    Ok(message)
}

pub(super) fn estimate_limit(core: &mut Core, args: &Args<'_>) -> Answer {
    let message: MessageJson = args.get(0)?;
    Ok(json!(limit(core, &Message::from(message))?))
}

pub(super) fn estimate_fee_cap(core: &mut Core, args: &Args<'_>) -> Answer {
    let (message, _): (MessageJson, ChainEpoch) = (args.get(0)?, args.get(1)?);
    Ok(json!(Form(fee_cap(core, &message.gas_premium))))
}

pub(super) fn estimate_premium(_: &mut Core, args: &Args<'_>) -> Answer {
    let (_, _): (u64, Form<Address>) = (args.get(0)?, args.get(1)?);
    Ok(json!(Form(premium())))
}
