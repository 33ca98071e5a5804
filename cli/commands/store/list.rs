//! `sealflow store list` and `sealflow store show`: where sealed sectors are kept, and whether it answers.

use bytesize::ByteSize;
use sealflow_engine::artifact::{ArtifactStore, SCRATCH};
use serde::Serialize;

use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::{output, wire};

/// A store, as the configuration has it.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    kind: &'static str,
    /// Its folder, or the address of its server, its bucket and its prefix.
    place: String,
    weight: u32,
    read_only: bool,
    capacity: Option<u64>,
    reserve: u64,
    allow_miners: Vec<String>,
    deny_miners: Vec<String>,
}

/// The same, asked whether it answers.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    /// Bytes that can still be stored, if it knows.
    free: Option<u64>,
    /// Descriptions of sectors and of updates that are in it.
    sectors: Option<u64>,
    /// Why it does not answer.
    error: Option<String>,
}

fn listed(cx: &Context, store: &dyn ArtifactStore) -> Listed {
    let policy = store.policy();
    let miners = |all: &[u64]| all.iter().map(|miner| format!("f0{miner}")).collect();
    let configured = cx.config.stores();
    let place = configured
        .get(store.name())
        .map(|one| one.place(store.name(), &cx.home));
    Listed {
        name: store.name().to_owned(),
        kind: store.kind(),
        place: place.unwrap_or_default(),
        weight: policy.weight,
        read_only: policy.read_only,
        capacity: policy.capacity,
        reserve: policy.reserve,
        allow_miners: miners(&policy.allow_miners),
        deny_miners: miners(&policy.deny_miners),
    }
}

pub(super) fn list(cx: &Context, json: bool) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    let all = stores.iter().filter(|store| store.name() != SCRATCH);
    let all: Vec<Listed> = all.map(|store| listed(cx, &**store)).collect();
    if json {
        return output::json(&all);
    }
    let rows = all.iter().map(|one| {
        let rights = if one.read_only { "reading" } else { "" };
        let capacity = one.capacity.map(|bytes| ByteSize(bytes).to_string());
        vec![
            one.name.clone(),
            one.kind.to_owned(),
            one.place.clone(),
            one.weight.to_string(),
            capacity.unwrap_or_default(),
            rights.to_owned(),
        ]
    });
    output::table(
        &["store", "kind", "place", "weight", "capacity", "only for"],
        rows.collect(),
    );
    Ok(())
}

pub(super) async fn show(cx: &Context, name: &str, json: bool) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    let store = stores.get(name).map_err(|error| not_found(error.to_string()))?;
    let asked = async {
        Ok::<_, sealflow_engine::artifact::StoreError>((sectors(&**store).await?, store.free().await?))
    };
    let asked = asked.await;
    let error = asked.as_ref().err().map(ToString::to_string);
    let (sectors, free) = asked.map_or((None, None), |(sectors, free)| (Some(sectors), free));
    let shown = Shown {
        listed: listed(cx, &**store),
        free,
        sectors,
        error: error.clone(),
    };
    if json {
        output::json(&shown)?;
    } else {
        output::data(&text(&shown));
    }
    match error {
        None => Ok(()),
        Some(error) => Err(CliError::new(Kind::CheckFailed, error).into()),
    }
}

/// How many descriptions are in a store.
async fn sectors(store: &dyn ArtifactStore) -> Result<u64, sealflow_engine::artifact::StoreError> {
    let (mut count, mut after) = (0, None);
    loop {
        let names = store.list("sector", after.as_deref()).await?;
        let Some(last) = names.last() else {
            return Ok(count);
        };
        count += names.len() as u64;
        after = Some(last.clone());
    }
}

fn text(shown: &Shown) -> String {
    let one = &shown.listed;
    let mut lines = vec![format!("{}: {} at {}", one.name, one.kind, one.place)];
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let mut say = |what: &str, text: Option<String>| {
        if let Some(text) = text {
            lines.push(format!("  {what}: {text}"));
        }
    };
    say("free", shown.free.map(size));
    say("capacity", one.capacity.map(size));
    say("reserve", (one.reserve > 0).then(|| size(one.reserve)));
    say(
        "descriptions of sectors",
        shown.sectors.map(|count| count.to_string()),
    );
    say("only for", one.read_only.then(|| "reading".to_owned()));
    say(
        "only miners",
        (!one.allow_miners.is_empty()).then(|| one.allow_miners.join(", ")),
    );
    say(
        "not miners",
        (!one.deny_miners.is_empty()).then(|| one.deny_miners.join(", ")),
    );
    lines.join("\n")
}
