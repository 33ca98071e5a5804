//! `sector list`, `sector show`, `sector find` and `sector export`.

use std::collections::BTreeMap;

use bytesize::ByteSize;
use sealflow_stages::sectors::{self, SectorId};
use sealflow_stages::types::CommR;
use sealflow_stages::{SectorInfo, UpdateInfo};
use serde::Serialize;

use super::{Format, Which, scan, unknown};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::sectors::{Check, Held, Size};
use crate::{output, view, wire};

/// A sector in a store.
#[derive(Debug, Serialize)]
struct Line {
    sector: String,
    miner: String,
    number: u64,
    store: String,
    /// What is there: `sealed cache sector`.
    parts: String,
    bytes: u64,
    /// Whether a description is there, without which nothing finds it.
    described: bool,
    #[serde(flatten)]
    check: CheckView,
}

/// The last look at it.
#[derive(Debug, Default, Serialize)]
struct CheckView {
    checked_at: Option<String>,
    checked_deep: Option<bool>,
    /// What was wrong; nothing if it was whole.
    fault: Option<String>,
}

impl CheckView {
    fn of(check: Option<&Check>) -> Self {
        check.map_or_else(Self::default, |check| Self {
            checked_at: Some(view::time(check.at_ms)),
            checked_deep: Some(check.deep),
            fault: check.fault.clone(),
        })
    }

    fn text(&self) -> String {
        match (&self.fault, &self.checked_at) {
            (Some(fault), _) => format!("NOT WHOLE: {fault}"),
            (None, Some(at)) if self.checked_deep == Some(true) => format!("every byte, {at}"),
            (None, Some(at)) => format!("can be proved, {at}"),
            (None, None) => "not checked".to_owned(),
        }
    }
}

fn line(id: SectorId, store: &str, held: &Held) -> Line {
    Line {
        sector: id.to_string(),
        miner: id.miner.to_string(),
        number: id.number.0,
        store: store.to_owned(),
        parts: held.parts(),
        bytes: held.bytes(),
        described: held.is_described(id),
        check: CheckView::of(held.checked.as_ref()),
    }
}

pub(super) async fn list(cx: &Context, which: &Which, refresh: bool, json: bool) -> anyhow::Result<()> {
    let scan = scan(cx, refresh).await?;
    let mut lines = Vec::new();
    for (id, stores) in scan.index.sectors() {
        let own = stores.iter().filter(|(store, _)| which.has(id, store));
        lines.extend(own.map(|(store, held)| line(id, store, held)));
    }
    if json {
        return output::json(&lines);
    }
    let rows = lines.iter().map(|line| {
        let check = match line.described {
            true => line.check.text(),
            false => "nothing describes it (sealflow sector import)".to_owned(),
        };
        vec![
            line.sector.clone(),
            line.store.clone(),
            line.parts.clone(),
            ByteSize(line.bytes).to_string(),
            check,
        ]
    });
    output::table(&["sector", "store", "files", "size", "check"], rows.collect());
    Ok(())
}

pub(super) async fn find(cx: &Context, id: SectorId, json: bool) -> anyhow::Result<()> {
    let scan = scan(cx, false).await?;
    let held = scan.index.sector(id).ok_or_else(|| unknown(id))?;
    let names: Vec<&String> = held
        .iter()
        .filter(|(_, held)| held.is_described(id))
        .map(|(store, _)| store)
        .collect();
    if json {
        output::json(&names)?;
    } else {
        for name in &names {
            output::data(name);
        }
    }
    if names.is_empty() {
        let all: Vec<&str> = held.keys().map(String::as_str).collect();
        let text = format!(
            "files of {id} are in {}, but nothing describes them",
            all.join(", ")
        );
        let hint = format!("sealflow sector import {} {id}", all.first().unwrap_or(&"STORE"));
        return Err(CliError::new(Kind::NotFound, text).hint(hint).into());
    }
    Ok(())
}

/// A sector, in all its stores.
#[derive(Debug, Serialize)]
struct Shown {
    sector: String,
    stores: BTreeMap<String, InStore>,
    /// What is not as it should be between stores.
    problems: Vec<String>,
}

/// A sector in one store.
#[derive(Debug, Serialize)]
struct InStore {
    files: BTreeMap<String, Size>,
    info: Option<SectorInfo>,
    update: Option<UpdateInfo>,
    /// Why its description cannot be read.
    error: Option<String>,
    #[serde(flatten)]
    check: CheckView,
}

pub(super) async fn show(cx: &Context, id: SectorId, json: bool) -> anyhow::Result<()> {
    let scan = scan(cx, false).await?;
    let stores = wire::stores(cx)?;
    let held = scan.index.sector(id).ok_or_else(|| unknown(id))?;
    let mut shown = Shown {
        sector: id.to_string(),
        stores: BTreeMap::new(),
        problems: Vec::new(),
    };
    for (store, held) in held {
        let described = sectors::described(&stores, store, id).await;
        let error = described.as_ref().err().map(|failure| failure.message.clone());
        let (info, update) = described.map_or((None, None), |found| (found.info, found.update));
        let one = InStore {
            files: held.files.clone(),
            info,
            update,
            error,
            check: CheckView::of(held.checked.as_ref()),
        };
        shown.stores.insert(store.clone(), one);
    }
    shown.problems = differences(&shown.stores);
    if json {
        return output::json(&shown);
    }
    output::data(&text(&shown));
    Ok(())
}

/// Copies that are not of the same replica: one of them is left from an earlier try.
fn differences(stores: &BTreeMap<String, InStore>) -> Vec<String> {
    let replicas = stores
        .iter()
        .filter_map(|(store, one)| Some((store, one.info.as_ref()?.comm_r)));
    let all: Vec<_> = replicas.collect();
    let Some((first, comm_r)) = all.first() else {
        return Vec::new();
    };
    let others = all.iter().filter(|(_, other)| other != comm_r);
    let text = |(store, other): &(&String, CommR)| {
        format!("`{store}` has the replica {other}, `{first}` has {comm_r}: one is left from an earlier try")
    };
    others.map(text).collect()
}

fn text(shown: &Shown) -> String {
    let mut lines = vec![shown.sector.clone()];
    for (store, one) in &shown.stores {
        lines.push(format!("  in {store}: {}", one.check.text()));
        for (key, size) in &one.files {
            let digest = size.digest.as_deref().unwrap_or("");
            lines.push(
                format!("    {key}  {}  {digest}", ByteSize(size.bytes))
                    .trim_end()
                    .to_owned(),
            );
        }
        if let Some(info) = &one.info {
            lines.push(format!("    proof type: {}", info.proof_type));
            lines.push(format!("    comm_r: {}", info.comm_r));
            let comm_d = info.comm_d.map(|comm_d| comm_d.to_string());
            lines.push(format!(
                "    comm_d: {}",
                comm_d.unwrap_or_else(|| "not known (imported)".to_owned())
            ));
            for piece in &info.piece_infos {
                lines.push(format!(
                    "    piece: {} of {} bytes",
                    piece.comm_p, piece.padded_bytes
                ));
            }
        }
        if let Some(update) = &one.update {
            lines.push(format!("    updated: comm_r {}", update.comm_r_new));
            for piece in &update.piece_infos {
                lines.push(format!(
                    "    piece: {} of {} bytes",
                    piece.comm_p, piece.padded_bytes
                ));
            }
        }
        lines.extend(one.error.iter().map(|error| format!("    {error}")));
    }
    lines.extend(
        shown
            .problems
            .iter()
            .map(|problem| format!("  PROBLEM: {problem}")),
    );
    lines.join("\n")
}

/// A sector in a store, with what describes it.
#[derive(Debug, Serialize)]
struct Exported {
    store: String,
    #[serde(flatten)]
    info: Option<SectorInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<UpdateInfo>,
}

pub(super) async fn export(cx: &Context, which: &Which, format: Format) -> anyhow::Result<()> {
    let scan = scan(cx, false).await?;
    let stores = wire::stores(cx)?;
    let mut all = Vec::new();
    let mut rows =
        vec!["miner,number,store,bytes,proof_type,comm_r,update_comm_r,checked_at,fault".to_owned()];
    for (id, held) in scan.index.sectors() {
        for (store, held) in held
            .iter()
            .filter(|(store, held)| which.has(id, store) && held.is_described(id))
        {
            let described = sectors::described(&stores, store, id).await;
            let described = described.map_err(|failure| anyhow::anyhow!("{}", failure.message))?;
            let check = CheckView::of(held.checked.as_ref());
            let info = described.info.as_ref();
            let fields = [
                id.miner.to_string(),
                id.number.0.to_string(),
                store.clone(),
                held.bytes().to_string(),
                info.map(|info| info.proof_type.to_string()).unwrap_or_default(),
                info.map(|info| info.comm_r.to_string()).unwrap_or_default(),
                described
                    .update
                    .as_ref()
                    .map(|update| update.comm_r_new.to_string())
                    .unwrap_or_default(),
                check.checked_at.unwrap_or_default(),
                check.fault.unwrap_or_default(),
            ];
            rows.push(
                fields
                    .iter()
                    .map(|field| quoted(field))
                    .collect::<Vec<_>>()
                    .join(","),
            );
            all.push(Exported {
                store: store.clone(),
                info: described.info,
                update: described.update,
            });
        }
    }
    match format {
        Format::Json => output::json(&all),
        Format::Csv => {
            output::data(&rows.join("\n"));
            Ok(())
        }
    }
}

/// A field as CSV has it (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(super::quoted("plain"), "plain");
        assert_eq!(super::quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
    }
}
