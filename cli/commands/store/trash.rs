//! `sealflow store trash`: what is in the trash of stores, and taking something back.

use bytesize::ByteSize;
use sealflow_engine::artifact::{SCRATCH, Trashed};
use serde::Serialize;

use crate::environment::Context;
use crate::exit::not_found;
use crate::{output, view, wire};

/// Something in the trash of a store.
#[derive(Debug, Serialize)]
struct Line {
    store: String,
    #[serde(flatten)]
    what: Trashed,
    /// When it may be removed.
    until: String,
}

pub(super) async fn run(
    cx: &Context,
    restore: Option<&str>,
    only: Option<&str>,
    json: bool,
) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    if let Some(name) = only {
        let store = stores.get(name).map_err(|error| not_found(error.to_string()))?;
        if let Some(id) = restore {
            let _held = super::only_one(cx)?;
            store.untrash(id).await?;
            output::note(&format!("took {id} out of the trash of store `{name}`"));
            return Ok(());
        }
    }
    let keep = u64::try_from(cx.config.trash.keep.0.as_millis()).unwrap_or(u64::MAX);
    let mut lines = Vec::new();
    let wanted = |name: &str| name != SCRATCH && only.is_none_or(|only| only == name);
    for store in stores.iter().filter(|store| wanted(store.name())) {
        let line = |what: Trashed| Line {
            store: store.name().to_owned(),
            until: view::time(what.at_ms.saturating_add(keep)),
            what,
        };
        lines.extend(store.trashed().await?.into_iter().map(line));
    }
    if json {
        return output::json(&lines);
    }
    let rows = lines.into_iter().map(|line| {
        let bytes = ByteSize(line.what.bytes).to_string();
        vec![line.store, line.what.id, line.what.key, bytes, line.until]
    });
    output::table(&["store", "id", "key", "size", "kept until"], rows.collect());
    Ok(())
}
