//! Calls about a miner: who it is, its deadlines, its power and its money.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::json::Form;
use crate::types::state::{ActorError, Blockstore};
use crate::types::{
    Address, BigInt, BitField, ChainEpoch, Cid, RegisteredSealProof, SectorNumber, SectorSize, TokenAmount,
    miner,
};

use super::super::core::{Core, View};
use super::super::root::Claim;
use super::super::vm::{creation_deposit as deposit, deposit_for_power, pledge_for_power, sector_qa_power};
use super::shapes::{self, Key};
use super::state::resolve;
use super::{Answer, Args, RpcError};

/// A miner at a tipset.
pub(super) struct At<'a> {
    pub(super) id: u64,
    pub(super) view: View<'a>,
    pub(super) state: miner::State,
    pub(super) info: miner::MinerInfo,
}

/// Errors of the state library.
pub(super) fn broken(error: impl std::fmt::Display) -> RpcError {
    RpcError::app(error.to_string())
}

/// The miner that the first parameter names, at the tipset of parameter `key`.
pub(super) fn at<'c>(core: &'c Core, args: &Args<'_>, key: usize) -> Result<At<'c>, RpcError> {
    let (Form(address), key): (Form<Address>, Key) = (args.get(0)?, args.get(key)?);
    let view = shapes::view(core, &key)?;
    let id = resolve(&view, &address)?;
    let head = view.root.actors.get(&id).and_then(|actor| actor.head);
    let head =
        head.ok_or_else(|| RpcError::app(format!("failed to load miner actor f0{id}: actor not found")))?;
    let state: miner::State = view.store.load(&head)?;
    let info = state.get_info(&view.store).map_err(broken)?;
    Ok(At {
        id,
        view,
        state,
        info,
    })
}

/// How Go writes an address that is not there.
fn or_unset(address: Option<Address>) -> Value {
    address.map_or_else(|| json!("<empty>"), |address| json!(Form(address)))
}

pub(super) fn info(core: &mut Core, args: &Args<'_>) -> Answer {
    let At { info, .. } = at(core, args, 1)?;
    let pending = info.pending_worker_key.as_ref();
    let peer = (!info.peer_id.is_empty()).then(|| peer_text(&info.peer_id));
    let addresses: Vec<Value> = info
        .multi_address
        .iter()
        .map(|one| json!(Form(one.0.clone())))
        .collect();
    let term = &info.beneficiary_term;
    Ok(json!({
        "Owner": Form(info.owner),
        "Worker": Form(info.worker),
        "NewWorker": or_unset(pending.map(|change| change.new_worker)),
        "ControlAddresses": Form(info.control_addresses.clone()),
        "WorkerChangeEpoch": pending.map_or(-1, |change| change.effective_at),
        "PeerId": peer,
        "Multiaddrs": addresses,
        "WindowPoStProofType": i64::from(info.window_post_proof_type),
        "SectorSize": info.sector_size as u64,
        "WindowPoStPartitionSectors": info.window_post_partition_sectors,
        "ConsensusFaultElapsed": info.consensus_fault_elapsed,
        "PendingOwnerAddress": info.pending_owner_address.map(Form),
        "Beneficiary": Form(info.beneficiary),
        "BeneficiaryTerm": {
            "Quota": Form(term.quota.clone()),
            "UsedQuota": Form(term.used_quota.clone()),
            "Expiration": term.expiration,
        },
        "PendingBeneficiaryTerm": null,
    }))
}

/// A peer ID as text.
fn peer_text(peer: &[u8]) -> String {
    use cid::multibase::{Base, encode};
    // Base58 without the letter that names it.
    encode(Base::Base58Btc, peer).chars().skip(1).collect()
}

pub(super) fn proving_deadline(core: &mut Core, args: &Args<'_>) -> Answer {
    let At { view, state, .. } = at(core, args, 1)?;
    let deadline = state
        .deadline_info(&core.net.policy, view.epoch)
        .next_not_elapsed();
    super::json(&deadline)
}

/// Visits all deadlines.
fn each_deadline(
    at: &At<'_>,
    mut visit: impl FnMut(&miner::Deadline) -> Result<(), RpcError>,
) -> Result<(), RpcError> {
    let deadlines = at.state.load_deadlines(&at.view.store).map_err(broken)?;
    for index in 0..deadlines.due.len() as u64 {
        let deadline = deadlines.load_deadline(&at.view.store, index).map_err(broken)?;
        visit(&deadline)?;
    }
    Ok(())
}

/// Visits all partitions of a deadline.
fn each_partition(
    at: &At<'_>,
    deadline: &miner::Deadline,
    mut visit: impl FnMut(&miner::Partition),
) -> Result<(), RpcError> {
    deadline
        .for_each(&at.view.store, |_, partition: &miner::Partition| {
            visit(partition);
            Ok(())
        })
        .map_err(broken)
}

pub(super) fn deadlines(core: &mut Core, args: &Args<'_>) -> Answer {
    let at = at(core, args, 1)?;
    let mut all = Vec::new();
    each_deadline(&at, |deadline| {
        let proofs = deadline
            .optimistic_proofs_snapshot_amt(&at.view.store)
            .map_err(broken)?;
        all.push(json!({
            "PostSubmissions": Form(deadline.partitions_posted.clone()),
            "DisputableProofCount": proofs.count(),
            "DailyFee": Form(deadline.daily_fee.clone()),
        }));
        Ok(())
    })?;
    Ok(Value::Array(all))
}

pub(super) fn partitions(core: &mut Core, args: &Args<'_>) -> Answer {
    let index: u64 = args.get(1)?;
    let at = at(core, args, 2)?;
    let deadlines = at.state.load_deadlines(&at.view.store).map_err(broken)?;
    let deadline = deadlines.load_deadline(&at.view.store, index).map_err(broken)?;
    let mut all = Vec::new();
    each_partition(&at, &deadline, |partition| {
        all.push(json!({
            "AllSectors": Form(partition.sectors.clone()),
            "FaultySectors": Form(partition.faults.clone()),
            "RecoveringSectors": Form(partition.recoveries.clone()),
            "LiveSectors": Form(partition.live_sectors()),
            "ActiveSectors": Form(partition.active_sectors()),
        }));
    })?;
    Ok(Value::Array(all))
}

/// Sectors of all partitions.
pub(super) fn gather(at: &At<'_>, of: impl Fn(&miner::Partition) -> BitField) -> Result<BitField, RpcError> {
    let mut all = BitField::new();
    each_deadline(at, |deadline| {
        each_partition(at, deadline, |partition| all |= &of(partition))
    })?;
    Ok(all)
}

pub(super) fn faults(core: &mut Core, args: &Args<'_>) -> Answer {
    let at = at(core, args, 1)?;
    Ok(json!(Form(gather(&at, |partition| partition.faults.clone())?)))
}

pub(super) fn recoveries(core: &mut Core, args: &Args<'_>) -> Answer {
    let at = at(core, args, 1)?;
    Ok(json!(Form(gather(&at, |partition| partition
        .recoveries
        .clone())?)))
}

pub(super) fn sector_count(core: &mut Core, args: &Args<'_>) -> Answer {
    let at = at(core, args, 1)?;
    let live = gather(&at, miner::Partition::live_sectors)?.len();
    let active = gather(&at, miner::Partition::active_sectors)?.len();
    let faulty = gather(&at, |partition| partition.faults.clone())?.len();
    Ok(json!({"Live": live, "Active": active, "Faulty": faulty}))
}

pub(super) fn power(core: &mut Core, args: &Args<'_>) -> Answer {
    let At { id, view, .. } = at(core, args, 1)?;
    let shape = |raw: &BigInt, qa: &BigInt| json!({"RawBytePower": raw.to_string(), "QualityAdjPower": qa.to_string()});
    let (raw, qa) = view.root.total_power();
    let none = BigInt::default();
    let claim = view.root.power.claims.get(&id);
    let (own_raw, own_qa) = claim.map_or((&none, &none), |Claim { raw, qa, .. }| (raw, qa));
    let enough = *own_raw >= core.net.policy.minimum_consensus_power;
    Ok(json!({"MinerPower": shape(own_raw, own_qa), "TotalPower": shape(&raw, &qa), "HasMinPower": enough}))
}

pub(super) fn available_balance(core: &mut Core, args: &Args<'_>) -> Answer {
    let At {
        id, view, mut state, ..
    } = at(core, args, 1)?;
    let balance = view
        .root
        .actors
        .get(&id)
        .map(|actor| actor.balance.clone())
        .unwrap_or_default();
    // What is vested counts, though it is not unlocked yet.
    state
        .unlock_vested_funds(&view.store, view.epoch)
        .map_err(broken)?;
    let available = state.get_available_balance(&balance).map_err(broken)?;
    Ok(json!(Form(available)))
}

fn allocated_numbers(at: &At<'_>) -> Result<BitField, RpcError> {
    Ok(at.view.store.load(&at.state.allocated_sectors)?)
}

pub(super) fn allocated(core: &mut Core, args: &Args<'_>) -> Answer {
    let at = at(core, args, 1)?;
    Ok(json!(Form(allocated_numbers(&at)?)))
}

pub(super) fn sector_allocated(core: &mut Core, args: &Args<'_>) -> Answer {
    let number: SectorNumber = args.get(1)?;
    let at = at(core, args, 2)?;
    Ok(json!(allocated_numbers(&at)?.get(number)))
}

/// A tenth more, because it grows until the message lands.
fn with_reserve(amount: &TokenAmount) -> Value {
    json!(Form((amount * 110_u64).div_floor(100_u64)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SealOf {
    seal_proof: i64,
}

pub(super) fn precommit_deposit(core: &mut Core, args: &Args<'_>) -> Answer {
    let wanted: SealOf = args.get(1)?;
    let size = RegisteredSealProof::from(wanted.seal_proof)
        .sector_size()
        .map_err(RpcError::app)?;
    Ok(with_reserve(&deposit_for_power(
        &core.net,
        &sector_qa_power(size),
    )))
}

pub(super) fn initial_pledge(core: &mut Core, args: &Args<'_>) -> Answer {
    let (duration, size): (ChainEpoch, u64) = (args.get(0)?, args.get(1)?);
    if duration <= 0 {
        return Err(RpcError::app(format!("a duration of {duration} epochs")));
    }
    let sizes = [
        SectorSize::_2KiB,
        SectorSize::_8MiB,
        SectorSize::_512MiB,
        SectorSize::_32GiB,
        SectorSize::_64GiB,
    ];
    let size = sizes.into_iter().find(|known| *known as u64 == size);
    let size = size.ok_or_else(|| RpcError::app("no sector has this size"))?;
    Ok(with_reserve(&pledge_for_power(&core.net, &sector_qa_power(size))))
}

pub(super) fn creation_deposit(core: &mut Core, _: &Args<'_>) -> Answer {
    Ok(json!(Form(deposit(&core.net))))
}

/// Whether claims are what sectors are worth: the count that the power actor never does.
pub(super) fn check_claims(core: &Core) -> Result<Vec<Value>, RpcError> {
    let root = core.head_root()?;
    let store = core.store.overlay();
    let mut wrong = Vec::new();
    for (id, claim) in &root.power.claims {
        let head = root.actors.get(id).and_then(|actor| actor.head);
        let head: Cid = head.ok_or_else(|| RpcError::app(format!("f0{id} has a claim and no state")))?;
        let counted = count(&store, &head).map_err(broken)?;
        if counted != (claim.raw.clone(), claim.qa.clone()) {
            wrong.push(json!({
                "Miner": Form(Address::new_id(*id)),
                "ClaimedRaw": claim.raw.to_string(), "CountedRaw": counted.0.to_string(),
                "ClaimedQA": claim.qa.to_string(), "CountedQA": counted.1.to_string(),
            }));
        }
    }
    Ok(wrong)
}

fn count<S: Blockstore>(store: &S, head: &Cid) -> anyhow::Result<(BigInt, BigInt)> {
    use crate::types::state::CborStore;
    let state: miner::State = store
        .get_cbor(head)?
        .ok_or_else(|| ActorError::not_found(format!("state {head}")))?;
    let size = state.get_info(store)?.sector_size;
    let sectors = miner::Sectors::load(store, &state.sectors)?;
    let deadlines = state.load_deadlines(store)?;
    let mut total = miner::PowerPair::zero();
    for index in 0..deadlines.due.len() as u64 {
        let deadline = deadlines.load_deadline(store, index)?;
        deadline.for_each(store, |_, partition: &miner::Partition| {
            let active = sectors.load_sectors(&partition.active_sectors())?;
            total += &miner::power_for_sectors(size, &active);
            Ok(())
        })?;
    }
    Ok((total.raw, total.qa))
}
