//! `sealflow store drain` and `store collect`: emptying a store, and doing away with what nothing needs.

use bytesize::ByteSize;
use sealflow_engine::artifact::placement::Among;
use sealflow_engine::artifact::{DRAINING, SCRATCH};
use serde::Serialize;

use crate::api::Source;
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::sectors;
use crate::span::now_ms;
use crate::stores::garbage::{Collector, Found, Needed};
use crate::stores::moving::{Moved, Mover};
use crate::{output, wire};

/// What to empty, and where to.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    /// The store
    name: String,
    /// The stores that may take its sectors: names with commas between them, or `any`
    #[arg(long, value_name = "STORES", default_value = "any")]
    to: String,
    /// Also let a sector go that another store has too, where no further store can take it
    #[arg(long)]
    fewer_copies: bool,
    /// Only say that nothing new is to be put there; move nothing
    #[arg(long)]
    mark_only: bool,
    /// No longer drain it: sectors may be put there again
    #[arg(long, conflicts_with_all = ["fewer_copies", "mark_only", "dry_run"])]
    stop: bool,
    /// Say what would be moved, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What came of a sector.
#[derive(Debug, Serialize)]
struct Line {
    sector: String,
    bytes: u64,
    /// Where it is now.
    to: Option<String>,
    /// Why there, or why it was not moved.
    note: String,
    moved: bool,
}

pub(super) async fn drain(cx: &Context, args: &DrainArgs) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    let name = &args.name;
    let from = stores
        .get(name)
        .map_err(|error| not_found(error.to_string()))?
        .clone();
    if name == SCRATCH {
        return Err(not_found("the scratch folder is no store of sectors"));
    }
    if args.stop {
        from.set_mark(DRAINING, None).await?;
        output::note(&format!("store `{name}` is not drained any more"));
        return Ok(());
    }
    let among = Among::parse(&args.to).map_err(|why| CliError::new(Kind::Usage, format!("--to: {why}")))?;
    among.of(&stores).map_err(|error| not_found(error.to_string()))?;
    let _held = super::only_one(cx)?;
    if !args.dry_run {
        from.set_mark(DRAINING, Some(now_ms().to_string().as_bytes()))
            .await?;
    }
    if args.mark_only {
        output::note(&format!("nothing new is put into store `{name}`"));
        return Ok(());
    }
    let scan = sectors::refresh(&stores, &cx.home, false).await?;
    if let Some((_, error)) = scan.silent.iter().find(|(silent, _)| silent == name) {
        anyhow::bail!("{error}");
    }
    let source = Source::open(cx).await?;
    let lines = move_all(
        args,
        &scan.index,
        &source,
        &Mover {
            home: &cx.home,
            stores: &stores,
            from,
            among,
            fewer: args.fewer_copies,
        },
    )
    .await;
    source.close().await?;
    let lines = lines?;
    if !args.dry_run {
        // What was moved is where it is now, also for the next command.
        sectors::refresh(&stores, &cx.home, false).await?;
    }
    if args.json {
        output::json(&lines)?;
    }
    let left = lines.iter().filter(|line| !line.moved).count();
    if args.dry_run || left == 0 {
        output::note(&format!(
            "{} out of store `{name}`",
            output::count(lines.len(), "sector")
        ));
        return Ok(());
    }
    let text = format!(
        "{left} of {} are still in store `{name}`",
        output::count(lines.len(), "sector")
    );
    let hint = "what keeps each is said above; do it again when that is settled";
    Err(CliError::new(Kind::CheckFailed, text).hint(hint).into())
}

async fn move_all(
    args: &DrainArgs,
    index: &sectors::Index,
    source: &Source,
    mover: &Mover<'_>,
) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let all = index
        .sectors()
        .into_iter()
        .filter(|(_, held)| held.contains_key(&args.name));
    for (id, held) in all {
        // Asked anew for each: a move takes long.
        let needed = Needed::by(source).await?;
        let bytes = held.get(&args.name).map_or(0, sectors::Held::bytes);
        let result = if needed.is_busy(&id.to_string()) {
            Err(anyhow::anyhow!(
                "a run works on it; `sealflow run list` shows which"
            ))
        } else if args.dry_run {
            Ok(Moved::To(String::new(), "it would be moved".to_owned()))
        } else {
            mover.sector(id, held).await
        };
        let line = match result {
            Ok(Moved::To(to, note)) => (Some(to).filter(|to| !to.is_empty()), note, true),
            Ok(Moved::Fewer(to)) => (
                Some(to),
                "it was there too, so there is one copy less".to_owned(),
                true,
            ),
            Err(error) => (None, format!("{error:#}"), false),
        };
        let (to, note, moved) = line;
        let line = Line {
            sector: id.to_string(),
            bytes,
            to,
            note,
            moved,
        };
        if !args.json {
            output::data(&text(&line));
        }
        lines.push(line);
    }
    Ok(lines)
}

fn text(line: &Line) -> String {
    let bytes = ByteSize(line.bytes);
    match (&line.to, line.moved) {
        (Some(to), true) => format!("{} ({bytes}) is in `{to}` now: {}", line.sector, line.note),
        (None, true) => format!("{} ({bytes}): {}", line.sector, line.note),
        (_, false) => format!("{} ({bytes}) stays: {}", line.sector, line.note),
    }
}

/// What to look for.
#[derive(Debug, clap::Args)]
pub(super) struct CollectArgs {
    /// Only in this store
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn collect(cx: &Context, args: &CollectArgs) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    if let Some(name) = &args.store {
        stores.get(name).map_err(|error| not_found(error.to_string()))?;
    }
    let _held = super::only_one(cx)?;
    let scan = sectors::refresh(&stores, &cx.home, false).await?;
    let source = Source::open(cx).await?;
    let now = now_ms();
    let keep = u64::try_from(cx.config.trash.keep.0.as_millis()).unwrap_or(u64::MAX);
    let done = async {
        let needed = Needed::by(&source).await?;
        let collector = Collector {
            stores: &stores,
            index: &scan.index,
            needed: &needed,
            before_ms: now.saturating_sub(keep),
            now_ms: now,
            dry_run: args.dry_run,
        };
        let (mut found, mut failed) = (Vec::new(), Vec::new());
        let wanted = |name: &str| name != SCRATCH && args.store.as_deref().is_none_or(|only| only == name);
        for store in stores
            .iter()
            .filter(|store| wanted(store.name()) && !store.policy().read_only)
        {
            match collector.store(&**store).await {
                Ok(more) => found.extend(more),
                Err(error) => failed.push(format!("store `{}`: {error:#}", store.name())),
            }
        }
        Ok::<_, anyhow::Error>((found, failed))
    };
    let done = done.await;
    source.close().await?;
    let (found, failed) = done?;
    if !args.dry_run {
        sectors::refresh(&stores, &cx.home, false).await?;
    }
    if args.json {
        output::json(&found)?;
    } else {
        show(&found, args.dry_run);
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(CliError::new(Kind::Failed, failed.join("\n")).into())
}

fn show(found: &[Found], dry_run: bool) {
    let rows = found.iter().map(|one| {
        let key = match &one.trash {
            Some(id) => format!("{} ({id})", one.key),
            None => one.key.clone(),
        };
        let bytes = ByteSize(one.bytes).to_string();
        vec![
            one.store.clone(),
            one.action.to_owned(),
            key,
            bytes,
            one.why.clone(),
        ]
    });
    output::table(&["store", "does", "key", "size", "why"], rows.collect());
    if dry_run {
        output::note("nothing was changed");
    }
}
