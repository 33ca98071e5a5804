//! Commands to the devnet itself, which no real node has: `Devnet.*` (chain.md §6.5).

use serde::Deserialize;
use serde_json::{Value, json};

use crate::json::Form;
use crate::message;
use crate::params::Call;
use crate::types::{Address, ChainEpoch, Cid, Message, SectorNumber, TokenAmount, Zero, miner};

use super::super::core::Core;
use super::super::faults::{CallFault, NotifyFault};
use super::super::root::Kind;
use super::miner::{broken, check_claims};
use super::{Answer, Args, RpcError, gas, mpool, shapes, wallet};

/// The most epochs that one command makes.
const EPOCHS: u64 = 10_000;
/// The most rounds in a row without a block.
const NULLS: u64 = 1_000;
/// The most tipsets that one reorg takes away.
const DEPTH: u64 = 900;

fn bounded(number: u64, most: u64, what: &str) -> Result<u64, RpcError> {
    if number <= most {
        return Ok(number);
    }
    Err(RpcError::app(format!(
        "{number} {what}; one command makes at most {most}"
    )))
}

fn head(core: &Core) -> Answer {
    Ok(shapes::tipset(core.chain.head()))
}

pub(super) fn mine(core: &mut Core, args: &Args<'_>) -> Answer {
    for _ in 0..bounded(args.get(0)?, EPOCHS, "epochs")? {
        core.mine(0)?;
    }
    head(core)
}

pub(super) fn skip_null(core: &mut Core, args: &Args<'_>) -> Answer {
    core.mine(bounded(args.get(0)?, NULLS, "null rounds")?)?;
    head(core)
}

/// Where time is to go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    /// To an epoch.
    #[serde(default)]
    epoch: Option<ChainEpoch>,
    /// Of this miner.
    #[serde(default)]
    miner: Option<Form<Address>>,
    /// To the opening of a deadline.
    #[serde(default)]
    deadline: Option<u64>,
    /// To the first epoch at which a pre-committed sector can be proved.
    #[serde(default)]
    precommit_ready: Option<SectorNumber>,
    /// In rounds without blocks, which is faster; 0 for a block in every epoch.
    #[serde(default)]
    null_rounds: u64,
}

/// Mines until the head is at the target's epoch, or before it by one where the next block shall be at it.
pub(super) fn advance_to(core: &mut Core, args: &Args<'_>) -> Answer {
    let target: Target = args.get(0)?;
    let nulls = bounded(target.null_rounds, NULLS, "null rounds")?;
    let epoch = target_epoch(core, &target)?;
    let now = core.chain.head().height();
    let step = ChainEpoch::try_from(nulls).unwrap_or(0) + 1;
    let blocks = u64::try_from((epoch - now).max(0) / step).unwrap_or(u64::MAX);
    bounded(blocks, EPOCHS, "blocks")?;
    while core.chain.head().height() < epoch {
        let left = epoch - core.chain.head().height() - 1;
        core.mine(nulls.min(u64::try_from(left).unwrap_or(0)))?;
    }
    head(core)
}

fn target_epoch(core: &Core, target: &Target) -> Result<ChainEpoch, RpcError> {
    if let Some(epoch) = target.epoch {
        return Ok(epoch);
    }
    let Some(Form(address)) = target.miner else {
        return Err(RpcError::app(
            "say `epoch`, or `miner` with `deadline` or `precommit_ready`",
        ));
    };
    let root = core.head_root()?;
    let store = core.store.overlay();
    let state = root.resolve(&address).and_then(|id| root.actors.get(&id)?.head);
    let state = state.ok_or_else(|| RpcError::app(format!("{address}: actor not found")))?;
    let state: miner::State = store.load(&state)?;
    let (policy, now) = (&core.net.policy, core.chain.head().height());
    match (target.deadline, target.precommit_ready) {
        (Some(index), _) if index < policy.wpost_period_deadlines => {
            let start = state.current_proving_period_start(policy, now);
            Ok(miner::new_deadline_info(policy, start, index, now)
                .next_not_elapsed()
                .open)
        }
        (None, Some(sector)) => {
            let found = state.get_precommitted_sector(&store, sector).map_err(broken)?;
            let found =
                found.ok_or_else(|| RpcError::app(format!("sector {sector} is not pre-committed")))?;
            // The next block is the first that may prove it.
            Ok(found.pre_commit_epoch + policy.pre_commit_challenge_delay)
        }
        _ => Err(RpcError::app("say a deadline from 0 to 47, or `precommit_ready`")),
    }
}

pub(super) fn reorg(core: &mut Core, args: &Args<'_>) -> Answer {
    let depth = bounded(args.get(0)?, DEPTH, "tipsets")?;
    core.reorg(depth, args.get(1)?)?;
    head(core)
}

pub(super) fn snapshot(core: &mut Core, args: &Args<'_>) -> Answer {
    core.snapshot(args.get(0)?)?;
    head(core)
}

pub(super) fn restore(core: &mut Core, args: &Args<'_>) -> Answer {
    let name: String = args.get(0)?;
    core.restore(&name)?;
    head(core)
}

pub(super) fn drop_message(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(cid): Form<Cid> = args.get(0)?;
    Ok(json!(core.drop_message(&cid)?))
}

/// Sends FIL from the devnet's faucet. It is there after the next block.
pub(super) fn fund(core: &mut Core, args: &Args<'_>) -> Answer {
    let (Form(to), Form(value)): (Form<Address>, Form<TokenAmount>) = (args.get(0)?, args.get(1)?);
    let message = of_faucet(core, to, value, &Call::Send)?;
    Ok(json!(Form(push(core, message)?)))
}

/// A message of the devnet's faucet, without nonce and gas.
fn of_faucet(core: &Core, to: Address, value: TokenAmount, call: &Call) -> Result<Message, RpcError> {
    let faucet = core
        .keys
        .funded
        .first()
        .ok_or_else(|| RpcError::app("there is no faucet"))?;
    let from = faucet.address().map_err(|e| RpcError::app(e.to_string()))?;
    message::unsent(from, to, value, call).map_err(|e| RpcError::app(e.to_string()))
}

fn push(core: &mut Core, message: Message) -> Result<Cid, RpcError> {
    let mut message = gas::fill(core, message, None)?;
    message.sequence = mpool::next_nonce(core, &message.from)?;
    let signed = wallet::sign_message(core, message)?;
    Ok(core.push(&signed, true)?)
}

/// The most proofs of a deadline that are looked at.
const PROOFS: u64 = 1000;

/// Disputes the window proofs that were accepted unseen and do not hold, as others do on the network. Tells the messages.
pub(super) fn dispute(core: &mut Core, _: &Args<'_>) -> Answer {
    let mut sent = Vec::new();
    for (miner, params) in disputable(core)? {
        let call = Call::DisputeWindowedPoSt(params);
        let message = of_faucet(core, miner, TokenAmount::zero(), &call)?;
        // A proof that holds cannot be disputed.
        if core.dry_run(&message, None)?.receipt.exit_code.is_success() {
            sent.push(json!(Form(push(core, message)?)));
        }
    }
    Ok(Value::Array(sent))
}

/// The proofs of the last period that were accepted unseen.
fn disputable(core: &Core) -> Result<Vec<(Address, miner::DisputeWindowedPoStParams)>, RpcError> {
    let (root, store) = (core.head_root()?, core.store.overlay());
    let mut found = Vec::new();
    for (id, actor) in root.actors.iter().filter(|(_, actor)| actor.kind == Kind::Miner) {
        let Some(head) = actor.head else { continue };
        let state: miner::State = store.load(&head)?;
        let deadlines = state.load_deadlines(&store).map_err(broken)?;
        for index in 0..core.net.policy.wpost_period_deadlines {
            let deadline = deadlines.load_deadline(&store, index).map_err(broken)?;
            let proofs = deadline.optimistic_proofs_snapshot_amt(&store).map_err(broken)?;
            for post_index in 0..proofs.count().min(PROOFS) {
                let params = miner::DisputeWindowedPoStParams {
                    deadline: index,
                    post_index,
                };
                found.push((Address::new_id(*id), params));
            }
        }
    }
    Ok(found)
}

pub(super) fn set_base_fee(core: &mut Core, args: &Args<'_>) -> Answer {
    let Form(fee): Form<TokenAmount> = args.get(0)?;
    let least = TokenAmount::from_atto(super::super::core::BASE_FEE_MIN);
    if fee < least {
        return Err(RpcError::app(format!(
            "the base fee is {} attoFIL at least",
            least.atto()
        )));
    }
    core.set_base_fee(fee)?;
    Ok(Value::Null)
}

pub(super) fn inject_fault(core: &mut Core, args: &Args<'_>) -> Answer {
    let mut fault: CallFault = args.get(0)?;
    let found = super::method(&fault.method);
    let found = found.ok_or_else(|| RpcError::app(format!("there is no method {}", fault.method)))?;
    fault.method = found.name.into();
    core.faults.inject(fault)?;
    Ok(Value::Null)
}

pub(super) fn inject_notify_fault(core: &mut Core, args: &Args<'_>) -> Answer {
    let fault: NotifyFault = args.get(0)?;
    core.faults.notify = fault;
    Ok(Value::Null)
}

pub(super) fn clear_faults(core: &mut Core, _: &Args<'_>) -> Answer {
    core.faults.clear();
    Ok(Value::Null)
}

/// Whether window proofs are verified when they come, or when they are disputed.
pub(super) fn set_post_check(core: &mut Core, args: &Args<'_>) -> Answer {
    core.net.post_check = args.get(0)?;
    Ok(Value::Null)
}

pub(super) fn checks(core: &mut Core, _: &Args<'_>) -> Answer {
    let wrong = check_claims(core)?;
    Ok(json!({"ClaimsMatchSectors": wrong.is_empty(), "Differences": wrong}))
}
