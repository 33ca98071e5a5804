//! Finds the replicas of sectors that are named by number: the descriptions beside them in the store tell
//! where they are and what they commit to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::{StreamExt, TryStreamExt, stream};
use sealflow_engine::artifact::Stores;
use sealflow_engine::artifact::placement::Among;
use sealflow_engine::failure::Failure;

use crate::sector_info::{SectorInfo, UpdateInfo, store_name};
use crate::sectors::DESCRIPTIONS;
use crate::types::{ActorId, Place, Replica, SectorNumber, SectorRef, Sectors};

/// The local path of a place.
pub(super) fn local_path(stores: &Stores, place: &Place) -> Result<PathBuf, Failure> {
    stores.get(&place.store)?.local_path(&place.key)?.ok_or_else(|| {
        let text = format!("store `{}` has no local paths", place.store);
        Failure::permanent("no_local_path", text)
    })
}

/// Sectors that are looked for at once.
const AT_ONCE: usize = 32;

/// The replicas, by number, and their size. `store` names one store, several, or all.
pub(super) async fn replicas(
    stores: &Stores,
    miner: ActorId,
    sectors: &Sectors,
    store: &str,
) -> Result<(u64, Vec<Replica>), Failure> {
    let mut found: BTreeMap<u64, (u64, Replica)> = BTreeMap::new();
    let mut unknown = Vec::new();
    let look = |one: &SectorRef| {
        let one = one.clone();
        async move {
            let number = one.sector();
            let replica = match one {
                SectorRef::Whole { proof_type, replica } => Some((proof_type.sector_bytes(), replica)),
                SectorRef::Described { store: own, .. } => {
                    anywhere(stores, miner, number, own.as_deref().unwrap_or(store)).await?
                }
            };
            Ok::<_, Failure>((number, replica))
        }
    };
    let looked: Vec<_> = stream::iter(&sectors.0)
        .map(look)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    for (number, replica) in looked {
        let Some(replica) = replica else {
            unknown.push(number.0.to_string());
            continue;
        };
        if found.insert(number.0, replica).is_some() {
            let text = format!("sector {} is named twice", number.0);
            return Err(Failure::permanent("sector_twice", text));
        }
    }
    if !unknown.is_empty() {
        let text = format!(
            "store `{store}` has no description of sector {}; name another `store` (`any` looks in all), take what is \
             not there out of `sectors`, or give proof_type, comm_r, sealed and cache of it",
            unknown.join(", ")
        );
        return Err(Failure::permanent("unknown_sector", text));
    }
    let mut sizes = found.values().map(|(bytes, _)| *bytes);
    let Some(bytes) = sizes.next() else {
        return Err(Failure::permanent(
            "no_sectors",
            "`sectors` is empty: there is nothing to prove",
        ));
    };
    if let Some(other) = sizes.find(|other| *other != bytes) {
        let text = format!("sectors of {bytes} and {other} bytes cannot be proved together");
        return Err(Failure::permanent("mixed_sizes", text));
    }
    Ok((bytes, found.into_values().map(|(_, replica)| replica).collect()))
}

/// The replica that the first of some stores tells of. One that cannot be asked is only an error if no other tells.
async fn anywhere(
    stores: &Stores,
    miner: ActorId,
    sector: SectorNumber,
    among: &str,
) -> Result<Option<(u64, Replica)>, Failure> {
    let bad = |why: String| Failure::permanent("bad_input", format!("`store`: {why}"));
    let among = Among::parse(among).map_err(bad)?;
    let mut failed = None;
    let mut all = among.of(stores)?;
    // What is in local files is read without a request.
    all.sort_by_key(|store| !matches!(store.local_path(DESCRIPTIONS), Ok(Some(_))));
    for store in all {
        match described(stores, miner, sector, store.name()).await {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => {}
            Err(failure) => drop(failed.get_or_insert(failure)),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// The replica that the descriptions in a store tell of; the update, if there is one.
async fn described(
    stores: &Stores,
    miner: ActorId,
    sector: SectorNumber,
    store: &str,
) -> Result<Option<(u64, Replica)>, Failure> {
    let name = store_name(miner, sector);
    let replica = |comm_r, sealed: &str, cache: &str| {
        let place = |kind: &str| Place {
            store: store.to_owned(),
            key: format!("{kind}/{name}"),
        };
        Replica {
            sector,
            comm_r,
            sealed: place(sealed),
            cache: place(cache),
        }
    };
    if let Some(info) = UpdateInfo::read(stores, store, &format!("sector/{name}.update.json")).await? {
        let replica = replica(info.comm_r_new, "update", "update-cache");
        return Ok(Some((info.update_proof_type.sector_bytes(), replica)));
    }
    let info = SectorInfo::read(stores, store, &format!("sector/{name}.json")).await?;
    Ok(info.map(|info| {
        (
            info.proof_type.sector_bytes(),
            replica(info.comm_r, "sealed", "cache"),
        )
    }))
}
