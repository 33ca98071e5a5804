//! Calls about the built-in market.

use serde_json::{Value, json};

use crate::json::Form;
use crate::types::{Address, market};

use super::super::core::{Core, View};
use super::super::root::MARKET;
use super::miner::broken;
use super::shapes::{self, Key};
use super::{Answer, Args, RpcError, state};

fn market(view: &View<'_>) -> Result<Option<market::State>, RpcError> {
    let head = view.root.actors.get(&MARKET).and_then(|actor| actor.head);
    let loaded = head.map(|head| view.store.load(&head)).transpose();
    loaded.map_err(RpcError::app)
}

pub(super) fn storage_deal(core: &mut Core, args: &Args<'_>) -> Answer {
    let (id, key): (u64, Key) = (args.get(0)?, args.get(1)?);
    let view = shapes::view(core, &key)?;
    let missing = || {
        RpcError::app(format!(
            "deal {id} not found - deal may not have completed sealing before deal proposal start epoch, or deal may have been slashed"
        ))
    };
    let market = market(&view)?.ok_or_else(missing)?;
    let proposal = market.find_proposal(&view.store, id).map_err(broken)?;
    let proposal = proposal.ok_or_else(missing)?;
    let begun = market.find_deal_state(&view.store, id).map_err(broken)?;
    let begun = begun.unwrap_or(market::DealState {
        sector_number: 0,
        sector_start_epoch: -1,
        last_updated_epoch: -1,
        slash_epoch: -1,
    });
    let label = match &proposal.label {
        market::Label::String(text) => Value::String(text.clone()),
        market::Label::Bytes(bytes) => json!(Form(bytes.clone())),
    };
    Ok(json!({
        "Proposal": {
            "PieceCID": Form(proposal.piece_cid),
            "PieceSize": proposal.piece_size.0,
            "VerifiedDeal": proposal.verified_deal,
            "Client": Form(proposal.client),
            "Provider": Form(proposal.provider),
            "Label": label,
            "StartEpoch": proposal.start_epoch,
            "EndEpoch": proposal.end_epoch,
            "StoragePricePerEpoch": Form(proposal.storage_price_per_epoch),
            "ProviderCollateral": Form(proposal.provider_collateral),
            "ClientCollateral": Form(proposal.client_collateral),
        },
        "State": {
            "SectorNumber": begun.sector_number,
            "SectorStartEpoch": begun.sector_start_epoch,
            "LastUpdatedEpoch": begun.last_updated_epoch,
            "SlashEpoch": begun.slash_epoch,
        },
    }))
}

pub(super) fn balance(core: &mut Core, args: &Args<'_>) -> Answer {
    let (Form(address), key): (Form<Address>, Key) = (args.get(0)?, args.get(1)?);
    let view = shapes::view(core, &key)?;
    let id = Address::new_id(state::resolve(&view, &address)?);
    let market = match market(&view)? {
        Some(market) => market,
        None => market::State::new(&view.store).map_err(broken)?,
    };
    let table = |root, name| {
        let table = market::balance_table::BalanceTable::from_root(&view.store, root, name);
        table.and_then(|table| table.get(&id)).map_err(broken)
    };
    let escrow = table(&market.escrow_table, "escrow table")?;
    let locked = table(&market.locked_table, "locked table")?;
    Ok(json!({"Escrow": Form(escrow), "Locked": Form(locked)}))
}
