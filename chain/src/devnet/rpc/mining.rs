//! Calls of who makes blocks.

use std::sync::Arc;

use serde_json::Value;

use crate::json::Form;
use crate::node::{BeaconEntry as BeaconJson, BlockMessage, BlockTemplate, ChallengedSector, MiningBase};
use crate::types::{Address, ChainEpoch, Cid, miner};

use super::super::block::BeaconEntry;
use super::super::core::Core;
use super::shapes;
use super::state::resolve;
use super::{Answer, Args, RpcError};

/// The most epochs between a block and its parents that are thought of.
const AHEAD: ChainEpoch = 1_000;

pub(super) fn base_info(core: &mut Core, args: &Args<'_>) -> Answer {
    let (Form(address), epoch): (Form<Address>, ChainEpoch) = (args.get(0)?, args.get(1)?);
    let key: Vec<Form<Cid>> = args.get(2)?;
    // As on the network, no key is no tipset: two calls in a row must speak of the same.
    let key: Vec<Cid> = key.into_iter().map(|cid| cid.0).collect();
    let tip = shapes::named(core, &key)?;
    if epoch <= tip.height() {
        let height = tip.height();
        return Err(RpcError::app(format!(
            "epoch {epoch} is not after the tipset's, {height}"
        )));
    }
    if epoch - tip.height() > AHEAD {
        return Err(RpcError::app(format!(
            "epoch {epoch} is more than {AHEAD} after the tipset's, {}",
            tip.height()
        )));
    }
    // It is an error that there is no such miner, and none that it had no power at the lookback.
    let id = resolve(&core.view(Arc::clone(&tip))?, &address)?;
    let Some(base) = core.mining_base(id, &tip, epoch)? else {
        return Ok(Value::Null);
    };
    let entries = BeaconEntry::since(tip.height(), epoch);
    super::json(&MiningBase {
        miner_power: base.power,
        network_power: base.all_power,
        sectors: base.sectors.iter().map(sector).collect(),
        worker_key: base.worker,
        sector_size: base.sector_size as u64,
        prev_beacon_entry: BeaconJson::from(&BeaconEntry::of(tip.height())),
        beacon_entries: entries.iter().map(BeaconJson::from).collect(),
        eligible_for_mining: base.ineligible.is_none(),
    })
}

fn sector(sector: &miner::SectorOnChainInfo) -> ChallengedSector {
    ChallengedSector {
        seal_proof: i64::from(sector.seal_proof),
        sector_number: sector.sector_number,
        sector_key: sector.sector_key_cid,
        sealed_cid: sector.sealed_cid,
    }
}

pub(super) fn create(core: &mut Core, args: &Args<'_>) -> Answer {
    let template: BlockTemplate = args.get(0)?;
    super::json(&core.create_block(template)?)
}

pub(super) fn submit(core: &mut Core, args: &Args<'_>) -> Answer {
    let block: BlockMessage = args.get(0)?;
    core.submit_block(block)?;
    Ok(Value::Null)
}
