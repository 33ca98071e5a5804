//! `sector check`: is each sector whole, in each store that has it.

use futures::{StreamExt, stream};
use sealflow_stages::sectors::SectorId;
use serde::Serialize;

use super::{Which, scan, unknown};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::sectors::{self, Check, Depth, Held, Index};
use crate::{output, wire};

/// Sectors that are looked at at once.
const AT_ONCE: usize = 4;

/// What a look at a sector in a store gave.
#[derive(Debug, Serialize)]
struct Found {
    sector: String,
    store: String,
    deep: bool,
    whole: bool,
    /// What is wrong with it, as a proof of spacetime would say it.
    fault: Option<String>,
    /// Why it could not be looked at.
    error: Option<String>,
}

pub(super) async fn run(
    cx: &Context,
    only: &[SectorId],
    which: &Which,
    deep: bool,
    json: bool,
) -> anyhow::Result<()> {
    let scan = scan(cx, false).await?;
    let stores = wire::stores(cx)?;
    if let Some(id) = only.iter().find(|id| scan.index.sector(**id).is_none()) {
        return Err(unknown(*id));
    }
    let depth = if deep { Depth::Deep } else { Depth::Quick };
    let all = scan
        .index
        .sectors()
        .into_iter()
        .filter(|(id, _)| only.is_empty() || only.contains(id));
    let all: Vec<(SectorId, String, Held)> = all
        .flat_map(|(id, held)| {
            held.iter()
                .map(move |(store, held)| (id, store.clone(), held.clone()))
        })
        .filter(|(id, store, _)| which.has(*id, store))
        .collect();
    let one = |(id, name, mut held): (SectorId, String, Held)| {
        let stores = stores.clone();
        async move {
            let checked = match stores.get(&name) {
                Ok(store) => sectors::check(&stores, store, id, &mut held, depth).await,
                Err(error) => Err(error.into()),
            };
            (id, name, held, checked)
        }
    };
    let mut found = Vec::new();
    let mut looks = stream::iter(all).map(one).buffered(AT_ONCE);
    while let Some((id, store, held, checked)) = looks.next().await {
        if let Ok(check) = &checked {
            Index::change(&cx.home, |index| index.note(id, &store, &held, check.clone()))?;
        }
        let one = report(id, store, depth, checked);
        if !json {
            output::data(&text(&one));
        }
        found.push(one);
    }
    if json {
        output::json(&found)?;
    }
    let wrong = found.iter().filter(|one| !one.whole).count();
    if wrong == 0 {
        if !json {
            output::note(&format!("{}: all whole", output::count(found.len(), "copy")));
        }
        return Ok(());
    }
    let text = format!(
        "{wrong} of {} not whole, or not to be looked at",
        output::count(found.len(), "copy")
    );
    let hint = "another copy is taken where there is one; `sealflow sector find` tells. One that is lost is sealed again, or its fault declared";
    Err(CliError::new(Kind::CheckFailed, text).hint(hint).into())
}

fn report(id: SectorId, store: String, depth: Depth, checked: anyhow::Result<Check>) -> Found {
    let error = checked.as_ref().err().map(|error| format!("{error:#}"));
    let fault = checked.ok().and_then(|check| check.fault);
    Found {
        sector: id.to_string(),
        store,
        deep: depth == Depth::Deep,
        whole: fault.is_none() && error.is_none(),
        fault,
        error,
    }
}

fn text(one: &Found) -> String {
    let state = match (&one.fault, &one.error) {
        (Some(fault), _) => format!("NOT WHOLE: {fault}"),
        (None, Some(error)) => format!("not looked at: {error}"),
        (None, None) if one.deep => "whole, every byte".to_owned(),
        (None, None) => "whole: WindowPoSt could prove it now".to_owned(),
    };
    format!("{} in {}: {state}", one.sector, one.store)
}
