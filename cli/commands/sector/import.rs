//! `sector import`: sectors that lie in a store without a description are checked, and described.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use sealflow_engine::artifact::ArtifactStore;
use sealflow_engine::crash;
use sealflow_stages::sectors::{self, SectorId, Undescribed};
use sealflow_stages::types::{ActorId, CommD, CommR, PieceInfo, SealProof, SectorNumber, Ticket};
use sealflow_stages::{SectorInfo, UpdateInfo};
use serde::{Deserialize, Serialize};

use super::{scan, unknown};
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::sectors::check;
use crate::{output, wire};

/// The largest file of `--info`.
const LARGEST: u64 = 256 << 20;

/// What is known of a sector.
#[derive(Debug, Clone, Deserialize)]
struct Known {
    miner: ActorId,
    sector: SectorNumber,
    #[serde(default)]
    proof_type: Option<SealProof>,
    #[serde(default)]
    ticket: Option<Ticket>,
    #[serde(default)]
    comm_d: Option<CommD>,
    #[serde(default)]
    comm_r: Option<CommR>,
    #[serde(default)]
    piece_infos: Vec<PieceInfo>,
    #[serde(default)]
    update: Option<UpdateInfo>,
}

/// What came of a sector.
#[derive(Debug, Serialize)]
struct Done {
    sector: String,
    imported: bool,
    /// Why not; or, of one that was imported, what is not known of it.
    note: Option<String>,
}

pub(super) async fn run(
    cx: &Context,
    name: &str,
    only: &[SectorId],
    info: Option<&Path>,
    dry_run: bool,
    json: bool,
) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    let store = stores.get(name).map_err(|error| not_found(error.to_string()))?;
    if store.policy().read_only && !dry_run {
        let text = format!(
            "store `{name}` is for reading only, and a description must be written beside each sector"
        );
        let hint = "take `read_only` away for the import, or write the descriptions by other means";
        return Err(CliError::new(Kind::Config, text).hint(hint).into());
    }
    let known = known(info)?;
    let scan = scan(cx, false).await?;
    if let Some((_, error)) = scan.silent.iter().find(|(silent, _)| silent == name) {
        anyhow::bail!("{error}");
    }
    let there = scan
        .index
        .sectors()
        .into_iter()
        .filter_map(|(id, held)| Some((id, held.get(name)?.is_described(id))));
    let there: BTreeMap<SectorId, bool> = there.collect();
    if let Some(id) = only.iter().find(|id| !there.contains_key(id)) {
        return Err(unknown(*id));
    }
    let wanted = |id: SectorId, described: bool| match only {
        [] => !described,
        only => only.contains(&id),
    };
    let mut all = Vec::new();
    for (id, _) in there.iter().filter(|(id, described)| wanted(**id, **described)) {
        let result = one(cx, &**store, *id, known.get(id), dry_run).await;
        let done = Done {
            sector: id.to_string(),
            imported: result.is_ok(),
            note: result.unwrap_or_else(Some),
        };
        if !json {
            output::data(&text(&done, dry_run));
        }
        all.push(done);
    }
    if json {
        output::json(&all)?;
    }
    let failed = all.iter().filter(|done| !done.imported).count();
    if failed > 0 {
        let text = format!(
            "{failed} of {} were not taken in",
            output::count(all.len(), "sector")
        );
        let hint = "what is wrong with each is said above; the others were taken in";
        return Err(CliError::new(Kind::CheckFailed, text).hint(hint).into());
    }
    Ok(())
}

fn text(done: &Done, dry_run: bool) -> String {
    let state = match (done.imported, dry_run) {
        (true, false) => "taken in",
        (true, true) => "would be taken in",
        (false, _) => "NOT taken in",
    };
    let note = done
        .note
        .as_ref()
        .map(|note| format!(": {note}"))
        .unwrap_or_default();
    format!("{}: {state}{note}", done.sector)
}

/// What the file tells, by sector.
fn known(file: Option<&Path>) -> anyhow::Result<BTreeMap<SectorId, Known>> {
    let Some(file) = file else {
        return Ok(BTreeMap::new());
    };
    let place = file.display();
    let bytes = std::fs::metadata(file)
        .with_context(|| format!("cannot read {place}"))?
        .len();
    if bytes > LARGEST {
        anyhow::bail!("{place} has {bytes} bytes; the list of sectors may have {LARGEST}");
    }
    let text = std::fs::read(file).with_context(|| format!("cannot read {place}"))?;
    let list: Vec<Known> = serde_json::from_slice(&text).map_err(|error| {
        let hint = "a JSON list of { miner, sector, ticket, comm_d, comm_r, piece_infos }; `sealflow sector export` writes one";
        CliError::new(Kind::Config, format!("{place}: {error}")).hint(hint)
    })?;
    let id = |known: &Known| SectorId {
        miner: known.miner,
        number: known.sector,
    };
    Ok(list.into_iter().map(|known| (id(&known), known)).collect())
}

/// Checks and describes one. Gives what is not known of it; or, as the error, why it is not taken in.
async fn one(
    cx: &Context,
    store: &dyn ArtifactStore,
    id: SectorId,
    known: Option<&Known>,
    dry_run: bool,
) -> Result<Option<String>, String> {
    let found = sectors::look(store, id).await?;
    let (info, update) = describe(id, &found, known)?;
    let failed = |error: anyhow::Error| format!("{error:#}");
    // It is looked at with its description before that is where others find it.
    let stores = wire::stores(cx).map_err(failed)?;
    let own = stores.get(store.name()).map_err(|error| error.to_string())?;
    let checked = check::provable_as(own, id, &info, update.as_ref())
        .await
        .map_err(failed)?;
    if let Some(fault) = checked {
        return Err(fault);
    }
    if !dry_run {
        if let Some(update) = &update {
            write(store, &id.update_description(), update)
                .await
                .map_err(failed)?;
        }
        crash::point("import.update_described");
        write(store, &id.description(), &info).await.map_err(failed)?;
    }
    let missing = info.ticket.is_none() || info.comm_d.is_none();
    Ok(missing.then(|| {
        "its ticket or data commitment is not known, so it can be proved and not be unsealed".to_owned()
    }))
}

/// The descriptions of a sector that was found.
fn describe(
    id: SectorId,
    found: &Undescribed,
    known: Option<&Known>,
) -> Result<(SectorInfo, Option<UpdateInfo>), String> {
    if let Some(comm_r) = known
        .and_then(|known| known.comm_r)
        .filter(|comm_r| *comm_r != found.comm_r)
    {
        return Err(format!("it is the replica {}, not {comm_r}", found.comm_r));
    }
    let proof_type = known
        .and_then(|known| known.proof_type)
        .unwrap_or(found.proof_type);
    if proof_type.sector_bytes() != found.proof_type.sector_bytes() {
        let (own, said) = (found.proof_type.sector_bytes(), proof_type.sector_bytes());
        return Err(format!(
            "its replica has {own} bytes, not the {said} of {proof_type}"
        ));
    }
    let (ticket, comm_d) = (
        known.and_then(|known| known.ticket),
        known.and_then(|known| known.comm_d),
    );
    let info = SectorInfo {
        version: SectorInfo::version_of(ticket, comm_d),
        miner: id.miner,
        sector: id.number,
        proof_type,
        ticket,
        comm_d,
        comm_r: found.comm_r,
        piece_infos: known.map(|known| known.piece_infos.clone()).unwrap_or_default(),
    };
    let Some((_, comm_r_new)) = found.update else {
        return Ok((info, None));
    };
    let update = known.and_then(|known| known.update.clone());
    let update = update.ok_or("it has an update, and `--info` does not tell what is in that")?;
    if update.comm_r_new != comm_r_new || update.comm_r_old != found.comm_r {
        let (said, of) = (update.comm_r_new, update.comm_r_old);
        return Err(format!(
            "its update is the replica {comm_r_new}, not {said}, or not one of {of}"
        ));
    }
    Ok((info, Some(update)))
}

async fn write<T: Serialize>(store: &dyn ArtifactStore, key: &str, description: &T) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("description.json");
    std::fs::write(&file, serde_json::to_vec_pretty(description)?)?;
    store.put(key, &file, &|_| {}).await?;
    Ok(())
}
