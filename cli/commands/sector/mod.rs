//! `sealflow sector`: where sectors are, whether they are whole, and taking in those that were sealed elsewhere.

mod check;
mod import;
mod list;

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use sealflow_stages::sectors::SectorId;
use sealflow_stages::types::ActorId;

use crate::environment::Context;
use crate::exit::not_found;
use crate::sectors::{self, Scan};
use crate::{output, wire};

/// Say where sectors are and whether they are whole; take in sectors that were sealed elsewhere
///
/// What there is tell the stores: these commands list them each time, and need no daemon. A sector is
/// written f01000/7: the miner and the number.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List sectors: in which stores they are, how large, and what the last check said
    List {
        #[command(flatten)]
        which: Which,
        /// Ask the stores for every size again, not only for those of new files
        #[arg(long)]
        refresh: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one sector: every file in every store, what it commits to, its pieces
    Show {
        /// The sector, as f01000/7
        #[arg(value_parser = SectorId::parse)]
        sector: SectorId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the names of the stores that have a sector
    Find {
        /// The sector, as f01000/7
        #[arg(value_parser = SectorId::parse)]
        sector: SectorId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say of each sector whether it is whole, and whether a proof of spacetime would succeed now
    ///
    /// The quick check looks at sizes, and makes a vanilla proof for random challenges in each store: a few
    /// kilobytes of a sector are read. What is missing, truncated or corrupt is named, as WindowPoSt would
    /// name it. With --deep every byte is read, and compared with the checksum that was taken when it was
    /// stored; where none was taken, it is now. The answer is 7 when a sector is not whole.
    ///
    /// Example: sealflow sector check f01000/7 --deep
    Check {
        /// The sectors, as f01000/7; all if none is named
        #[arg(value_parser = SectorId::parse)]
        sectors: Vec<SectorId>,
        #[command(flatten)]
        which: Which,
        /// Read every byte, and compare checksums
        #[arg(long)]
        deep: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take in sectors that lie in a store in the layout of Lotus and Damocles
    ///
    /// They are sealed/s-t01000-7 and cache/s-t01000-7 (and update/, update-cache/). Each is checked first, as
    /// `sector check` does; then a description is written beside it, sector/s-t01000-7.json, and PoSt finds it
    /// by its number. Nothing else is touched. Without --info neither the ticket nor the pieces are known: such a
    /// sector can be proved, and not be unsealed.
    ///
    /// Example: sealflow sector import archive --info sectors.json
    Import {
        /// The store that they lie in
        store: String,
        /// The sectors, as f01000/7; all that nothing describes yet if none is named
        #[arg(value_parser = SectorId::parse)]
        sectors: Vec<SectorId>,
        /// A JSON list of what is known of them: miner, sector, ticket, comm_d, comm_r, piece_infos, as
        /// `sector export` writes it
        #[arg(long, value_name = "FILE")]
        info: Option<PathBuf>,
        /// Check them, and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print all sectors with what describes them, for other tools
    ///
    /// The JSON is what `sector import --info` reads. CSV has one line for a sector in a store.
    Export {
        #[command(flatten)]
        which: Which,
        /// The form
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
    },
}

/// Only some sectors.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only those of this miner
    #[arg(long, value_name = "MINER")]
    miner: Option<ActorId>,
    /// Only what is in this store
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Csv,
}

impl Which {
    fn has(&self, id: SectorId, store: &str) -> bool {
        self.miner.is_none_or(|miner| miner == id.miner)
            && self.store.as_ref().is_none_or(|name| name == store)
    }
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::List { which, refresh, json } => list::list(cx, &which, refresh, json).await,
        Command::Show { sector, json } => list::show(cx, sector, json).await,
        Command::Find { sector, json } => list::find(cx, sector, json).await,
        Command::Check {
            sectors,
            which,
            deep,
            json,
        } => check::run(cx, &sectors, &which, deep, json).await,
        Command::Import {
            store,
            sectors,
            info,
            dry_run,
            json,
        } => import::run(cx, &store, &sectors, info.as_deref(), dry_run, json).await,
        Command::Export { which, format } => list::export(cx, &which, format).await,
    }
}

/// Lists the stores. Those that do not answer are told of.
async fn scan(cx: &Context, anew: bool) -> anyhow::Result<Scan> {
    let stores = wire::stores(cx)?;
    let scan = sectors::refresh(&stores, &cx.home, anew).await?;
    for (_, error) in &scan.silent {
        output::note(&format!("warning: {error}; what was known of it before is shown"));
    }
    Ok(scan)
}

fn unknown(id: SectorId) -> anyhow::Error {
    not_found(format!(
        "no store has sector {id}; `sealflow sector list` shows what there is, `sealflow store list` where it was looked"
    ))
}
