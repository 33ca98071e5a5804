//! Calls about sectors.

use serde_json::{Value, json};

use crate::json::Form;
use crate::types::{BitField, ChainEpoch, SectorNumber, TokenAmount, miner};

use super::super::core::Core;
use super::miner::{at, broken, gather};
use super::{Answer, Args, RpcError};

fn shape(sector: &miner::SectorOnChainInfo) -> Value {
    let amount = |amount: &Option<TokenAmount>| amount.clone().map(Form);
    json!({
        "SectorNumber": sector.sector_number,
        "SealProof": i64::from(sector.seal_proof),
        "SealedCID": Form(sector.sealed_cid),
        "Activation": sector.activation,
        "Expiration": sector.expiration,
        "DealWeight": sector.deal_weight.to_string(),
        "VerifiedDealWeight": sector.verified_deal_weight.to_string(),
        "InitialPledge": Form(sector.initial_pledge.clone()),
        "ExpectedDayReward": amount(&sector.expected_day_reward),
        "ExpectedStoragePledge": amount(&sector.expected_storage_pledge),
        "PowerBaseEpoch": sector.power_base_epoch,
        "ReplacedDayReward": amount(&sector.replaced_day_reward),
        "SectorKeyCID": sector.sector_key_cid.map(Form),
        "Flags": sector.flags.bits(),
        "DailyFee": Form(sector.daily_fee.clone()),
    })
}

pub(super) fn sectors(core: &mut Core, args: &Args<'_>) -> Answer {
    let filter: Option<Form<BitField>> = args.get(1)?;
    let at = at(core, args, 2)?;
    let mut all = Vec::new();
    at.state
        .for_each_sector(&at.view.store, |sector| {
            if filter
                .as_ref()
                .is_none_or(|filter| filter.0.get(sector.sector_number))
            {
                all.push(shape(sector));
            }
            Ok(())
        })
        .map_err(broken)?;
    Ok(Value::Array(all))
}

pub(super) fn active(core: &mut Core, args: &Args<'_>) -> Answer {
    let at = at(core, args, 1)?;
    let active = gather(&at, miner::Partition::active_sectors)?;
    let infos = at
        .state
        .load_sector_infos(&at.view.store, &active)
        .map_err(broken)?;
    Ok(infos.iter().map(shape).collect())
}

pub(super) fn info(core: &mut Core, args: &Args<'_>) -> Answer {
    let number: SectorNumber = args.get(1)?;
    let at = at(core, args, 2)?;
    let found = at.state.get_sector(&at.view.store, number).map_err(broken)?;
    Ok(found.map_or(Value::Null, |sector| shape(&sector)))
}

pub(super) fn precommit(core: &mut Core, args: &Args<'_>) -> Answer {
    let number: SectorNumber = args.get(1)?;
    let at = at(core, args, 2)?;
    let found = at
        .state
        .get_precommitted_sector(&at.view.store, number)
        .map_err(broken)?;
    let Some(found) = found else {
        return Ok(Value::Null);
    };
    let info = found.info;
    Ok(json!({
        "Info": {
            "SealProof": i64::from(info.seal_proof),
            "SectorNumber": info.sector_number,
            "SealedCID": Form(info.sealed_cid),
            "SealRandEpoch": info.seal_rand_epoch,
            "DealIDs": info.deal_ids,
            "Expiration": info.expiration,
            "UnsealedCid": info.unsealed_cid.0.map(Form),
        },
        "PreCommitDeposit": Form(found.pre_commit_deposit),
        "PreCommitEpoch": found.pre_commit_epoch,
    }))
}

pub(super) fn partition(core: &mut Core, args: &Args<'_>) -> Answer {
    let number: SectorNumber = args.get(1)?;
    let at = at(core, args, 2)?;
    let (deadline, partition) = at
        .state
        .find_sector(&at.view.store, number)
        .map_err(|e| RpcError::app(format!("sector {number} not found: {e}")))?;
    Ok(json!({"Deadline": deadline, "Partition": partition}))
}

/// When a sector ends: by the queue of its partition, which knows of faults.
pub(super) fn expiration(core: &mut Core, args: &Args<'_>) -> Answer {
    let number: SectorNumber = args.get(1)?;
    let at = at(core, args, 2)?;
    let (index, partition) = at.state.find_sector(&at.view.store, number).map_err(broken)?;
    let deadlines = at.state.load_deadlines(&at.view.store).map_err(broken)?;
    let deadline = deadlines.load_deadline(&at.view.store, index).map_err(broken)?;
    let partition = deadline
        .load_partition(&at.view.store, partition)
        .map_err(broken)?;
    let quant = at.state.quant_spec_for_deadline(&core.net.policy, index);
    let queue =
        miner::ExpirationQueue::new(&at.view.store, &partition.expirations_epochs, quant).map_err(broken)?;
    let (mut on_time, mut early): (ChainEpoch, ChainEpoch) = (0, 0);
    queue
        .amt
        .for_each_while(|epoch, set: &miner::ExpirationSet| {
            let epoch = ChainEpoch::try_from(epoch).unwrap_or(ChainEpoch::MAX);
            if set.on_time_sectors.get(number) {
                on_time = epoch;
                return Ok(false);
            }
            if set.early_sectors.get(number) {
                early = epoch;
            }
            Ok(true)
        })
        .map_err(broken)?;
    Ok(json!({"OnTime": on_time, "Early": early}))
}
