//! `sealflow store add`, `store remove` and `store check NAME`: stores in the configuration, and whether they work.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;
use toml_edit::{Array, Table, value};

use crate::api::Source;
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::stores::edit::Edit;
use crate::stores::probe::{Line, probe};
use crate::{output, wire};

/// A store to add.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Its name, which workflows use
    name: String,
    /// A folder: a local disk, or a network file system that is mounted
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "bucket",
        conflicts_with = "bucket"
    )]
    path: Option<PathBuf>,
    /// A bucket of an S3 server
    #[arg(long)]
    bucket: Option<String>,
    /// The server, as https://HOST:PORT; Amazon's if nothing is said
    #[arg(long, requires = "bucket", value_name = "URL")]
    endpoint: Option<String>,
    /// The server's region
    #[arg(long, requires = "bucket")]
    region: Option<String>,
    /// What all names in the bucket begin with
    #[arg(long, requires = "bucket")]
    prefix: Option<String>,
    /// Where the credentials come from; never the credentials themselves
    #[arg(long, requires = "bucket", value_enum)]
    credentials: Option<CredentialsFrom>,
    /// The file with them, for `--credentials file`
    #[arg(long, requires = "bucket", value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// The profile in that file
    #[arg(long, requires = "bucket")]
    profile: Option<String>,
    /// How much goes to it against the others, where a step may choose
    #[arg(long)]
    weight: Option<u32>,
    /// The most that is stored in it, as 100TiB
    #[arg(long, value_name = "BYTES")]
    capacity: Option<String>,
    /// What stays free of that, or of the disk
    #[arg(long, value_name = "BYTES")]
    reserve: Option<String>,
    /// Nothing is written to it or removed from it
    #[arg(long)]
    read_only: bool,
    /// Only sectors of this miner may be put here; may be given several times
    #[arg(long, value_name = "MINER")]
    allow_miner: Vec<String>,
    /// No sectors of this miner may be put here; may be given several times
    #[arg(long, value_name = "MINER")]
    deny_miner: Vec<String>,
    /// Print what would be added, and do not write it
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CredentialsFrom {
    Environment,
    Profile,
    File,
    Instance,
    Anonymous,
}

impl Args {
    fn table(&self) -> Table {
        let mut table = Table::new();
        let mut text = |key: &str, given: Option<String>| {
            if let Some(given) = given {
                table.insert(key, value(given));
            }
        };
        text("kind", self.bucket.as_ref().map(|_| "s3".to_owned()));
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        text("path", path(&self.path));
        text("endpoint", self.endpoint.clone());
        text("region", self.region.clone());
        text("bucket", self.bucket.clone());
        text("prefix", self.prefix.clone());
        let source = self.credentials.and_then(|source| source.to_possible_value());
        text("credentials", source.map(|source| source.get_name().to_owned()));
        text("credentials_file", path(&self.credentials_file));
        text("profile", self.profile.clone());
        text("capacity", self.capacity.clone());
        text("reserve", self.reserve.clone());
        if let Some(weight) = self.weight {
            table.insert("weight", value(i64::from(weight)));
        }
        if self.read_only {
            table.insert("read_only", value(true));
        }
        for (key, miners) in [
            ("allow_miners", &self.allow_miner),
            ("deny_miners", &self.deny_miner),
        ] {
            if !miners.is_empty() {
                table.insert(key, value(Array::from_iter(miners)));
            }
        }
        table
    }
}

pub(super) async fn add(cx: &Context, args: &Args) -> anyhow::Result<()> {
    let name = &args.name;
    let edit = Edit::add(&cx.home, name, args.table())?;
    if args.dry_run {
        output::data(&format!("[stores.{name}]\n{}", args.table()));
    }
    let configured = edit.config.stores().remove(name);
    let configured = configured.ok_or_else(|| not_found(format!("there is no store `{name}`")))?;
    let store = configured.open(name, &cx.home)?;
    let lines = probe(&*store).await;
    for line in &lines {
        output::note(&text(line));
    }
    if let Some(wrong) = lines.iter().find(|line| !line.ok) {
        let text = format!(
            "store `{name}` does not work, so it was not added: {}: {}",
            wrong.what, wrong.note
        );
        return Err(CliError::new(Kind::CheckFailed, text).into());
    }
    if args.dry_run {
        return Ok(());
    }
    edit.write(&cx.home)?;
    output::note(&format!(
        "added [stores.{name}] to {}; a daemon that runs takes it up when it is started again",
        cx.home.config().display()
    ));
    Ok(())
}

/// A store, and how it answered.
#[derive(Debug, Serialize)]
struct Probed<'a> {
    store: &'a str,
    works: bool,
    lines: Vec<Line>,
}

pub(super) async fn check(cx: &Context, name: &str, json: bool) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    let store = stores.get(name).map_err(|error| not_found(error.to_string()))?;
    let lines = probe(&**store).await;
    let works = lines.iter().all(|line| line.ok);
    if json {
        output::json(&Probed {
            store: name,
            works,
            lines,
        })?;
    } else {
        output::data(&lines.iter().map(text).collect::<Vec<_>>().join("\n"));
    }
    if works {
        return Ok(());
    }
    Err(CliError::new(Kind::CheckFailed, format!("store `{name}` does not work")).into())
}

fn text(line: &Line) -> String {
    let state = if line.ok { "ok    " } else { "FAILED" };
    format!("{state}  {}: {}", line.what, line.note)
}

pub(super) async fn remove(cx: &Context, name: &str) -> anyhow::Result<()> {
    let stores = wire::stores(cx)?;
    let store = stores.get(name).map_err(|error| not_found(error.to_string()))?;
    let refused = |why: String, hint: String| CliError::new(Kind::Failed, why).hint(hint);
    if !cx.config.stores.contains_key(name) {
        let why = format!(
            "store `{name}` is there without being configured: it is what takes sectors if no other is named"
        );
        return Err(refused(
            why,
            "give its table `weight = 0` if nothing is to go there".to_owned(),
        )
        .into());
    }
    let _held = super::only_one(cx)?;
    let there = store.list("", None).await;
    let there = there.map_err(|error| {
        let why = format!("store `{name}` cannot be asked whether something is in it: {error}");
        refused(
            why,
            format!(
                "take [stores.{name}] out of {} by hand if it is lost",
                cx.home.config().display()
            ),
        )
    })?;
    if !there.is_empty() {
        let why = format!("store `{name}` is not empty: it has {}", there.join(", "));
        let hint = format!("move sectors away first: sealflow store drain {name}; other files by hand");
        return Err(refused(why, hint).into());
    }
    let source = Source::open(cx).await?;
    let users = users(&source, name).await;
    source.close().await?;
    let users = users?;
    if !users.is_empty() {
        let why = format!(
            "runs that have not ended name store `{name}`: {}",
            users.join(", ")
        );
        return Err(refused(why, "let them end, or cancel them".to_owned()).into());
    }
    Edit::remove(&cx.home, name, true)?.write(&cx.home)?;
    let trashed = store.trashed().await.map(|all| all.len()).unwrap_or(0);
    let left = match trashed {
        0 => String::new(),
        count => format!(
            "; {} in its trash are left as they are",
            output::count(count, "thing")
        ),
    };
    output::note(&format!(
        "took [stores.{name}] out of {}{left}; a daemon that runs lets go of it when it is started again",
        cx.home.config().display()
    ));
    Ok(())
}

/// Open runs that name a store in their parameters.
async fn users(source: &Source, name: &str) -> anyhow::Result<Vec<String>> {
    let mut users = Vec::new();
    for run in source.open_runs().await? {
        let detail = source.run(&run.run.parse()?).await?;
        let names = |text: &str| text.split(',').any(|one| one.trim() == name);
        let params = detail.params.as_object();
        let named =
            params.is_some_and(|params| params.values().any(|value| value.as_str().is_some_and(names)));
        if named {
            users.push(run.run);
        }
    }
    Ok(users)
}
