//! `sealflow worker`: offers this machine's executors to a daemon elsewhere; and, on the daemon's side, its workers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use sealflow_engine::artifact::SCRATCH;
use sealflow_executor::{Connection, Identity, Profile};
use sealflow_executors::remote::{Works, capacity};
use sealflow_storage::journal::DirectoryLock;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::hold::Hold;
use crate::api::{Client, WorkerView};
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::{credentials, output, wire};

/// Offer this machine's executors to a daemon elsewhere; or list and drain the workers of this home's daemon
///
/// The home is the worker's own: its `machine.toml` says what is offered, its `config.toml` where scratch space and stores
/// are. What runs goes on while the daemon is away, and results are kept in the home until the daemon has them. Before an
/// upgrade: `sealflow worker drain NAME --end` on the daemon's machine.
///
/// Example: sealflow --home /srv/worker worker --daemon https://10.0.0.1:7443 --name rack7 --token-file token --ca ca.pem
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    work: Work,
}

/// How a worker finds its daemon
#[derive(Debug, clap::Args)]
struct Work {
    /// Where the daemon listens for workers: http://HOST:PORT or https://HOST:PORT; of daemons that stand by for each other
    /// all of them, with commas between
    #[arg(long, value_name = "URL", env = "SEALFLOW_DAEMON", required = true)]
    daemon: Option<String>,
    /// The name of this machine; it stays the same over restarts [default: the host name]
    #[arg(long)]
    name: Option<String>,
    /// A file with the token that `sealflow executor token create` told
    #[arg(long, value_name = "FILE", env = "SEALFLOW_WORKER_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// The certificate of who signs the daemon's; by default those that the system trusts
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A client certificate, instead of a token
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Words for people, such as rack=7
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the workers of this home's daemon, and when they were last heard of
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one worker
    Show {
        /// The worker
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give a worker no new attempts; those that it runs go on
    #[command(visible_alias = "cordon")]
    Drain {
        #[command(flatten)]
        what: Hold,
        /// Return when it runs nothing any more
        #[arg(long)]
        wait: bool,
        /// And then let its process end, so that it can be upgraded
        #[arg(long)]
        end: bool,
    },
    /// Give a worker attempts again
    Resume(Hold),
}

pub(crate) async fn run(cx: Context, args: Args) -> anyhow::Result<()> {
    match args.command {
        None => work(&cx, args.work).await,
        Some(Command::List { json }) => {
            let workers = Client::need(&cx).await?.workers().await?;
            if json {
                return output::json(&workers);
            }
            let headings = ["worker", "executors", "attempts", "cores", "heard of", ""];
            output::table(&headings, workers.iter().map(row).collect());
            Ok(())
        }
        Some(Command::Show { name, json }) => {
            let one = find(&Client::need(&cx).await?, &name).await?;
            if json {
                return output::json(&one);
            }
            let headings = ["worker", "executors", "attempts", "cores", "heard of", ""];
            output::table(&headings, vec![row(&one)]);
            output::note("its attempts: sealflow executor show NAME@WORKER");
            Ok(())
        }
        Some(Command::Drain { what, wait, end }) => {
            let name = what.name.clone();
            let client = Client::need(&cx).await?;
            if find(&client, &name).await?.drained.is_none() {
                what.set(&cx, "worker", true).await?;
            }
            if end {
                client.end_worker(&name).await?;
            }
            loop {
                let workers = client.workers().await?;
                let left = workers
                    .iter()
                    .find(|one| one.worker == name)
                    .map_or(0, |one| one.attempts);
                if left == 0 || !wait {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Some(Command::Resume(what)) => what.set(&cx, "worker", false).await,
    }
}

fn row(one: &WorkerView) -> Vec<String> {
    let names = one
        .executors
        .iter()
        .map(|name| name.split('@').next().unwrap_or(name));
    let state = match (&one.drained, one.suspect) {
        (Some(hold), _) => format!("drained by {}", hold.who),
        (None, true) => "suspect".to_owned(),
        (None, false) => String::new(),
    };
    vec![
        one.worker.clone(),
        names.collect::<Vec<_>>().join(" "),
        one.attempts.to_string(),
        format!("{} of {}", one.held.cpu, one.capacity.cpu),
        format!("{:.0} s ago", one.silent_seconds),
        state,
    ]
}

async fn find(client: &Client, name: &str) -> anyhow::Result<WorkerView> {
    let mut workers = client.workers().await?.into_iter();
    workers.find(|one| one.worker == name).ok_or_else(|| {
        not_found(format!(
            "there is no worker `{name}`; `sealflow worker list` shows all"
        ))
    })
}

fn file(path: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| {
            let text = format!("cannot read {}: {error}", path.display());
            anyhow::Error::from(CliError::new(Kind::Usage, text))
        })
    };
    path.map(read).transpose()
}

fn connection(work: &Work) -> anyhow::Result<Connection> {
    let token = file(work.token_file.as_deref())?
        .map(String::from_utf8)
        .transpose();
    let token = token.map_err(|_| CliError::new(Kind::Usage, "the token file is not text"))?;
    let identity = match (file(work.cert.as_deref())?, file(work.key.as_deref())?) {
        (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
        _ => None,
    };
    Ok(Connection {
        url: work.daemon.clone().unwrap_or_default(),
        token: token.map(|token| token.trim().to_owned()),
        ca: file(work.ca.as_deref())?,
        identity,
    })
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

async fn work(cx: &Context, work: Work) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    cx.home.prepare()?;
    let _lock = DirectoryLock::take(cx.home.root()).map_err(|error| {
        CliError::new(Kind::InUse, error.to_string()).hint("give every worker a home of its own")
    })?;
    let name = work.name.clone().unwrap_or_else(host_name);
    credentials::check_name(&name)?;
    let connection = connection(&work)?;
    let registry = wire::registry(cx);
    let stores = wire::stores(cx)?;
    let executors = wire::executors(cx, &registry, &stores)?;
    let machine = executors
        .first()
        .map(|one| one.spec().machine.capacity)
        .unwrap_or_default();
    let works = Works::new(executors, stores.clone(), cx.home.logs());
    let label = |text: &String| {
        let pair = text
            .split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| CliError::new(Kind::Usage, format!("`{text}` is not NAME=VALUE")))
    };
    let profile = Profile {
        worker: name.clone(),
        program: format!("sealflow {}", env!("CARGO_PKG_VERSION")),
        capacity: capacity(machine),
        offers: works.offers(&registry),
        stores: stores
            .iter()
            .map(|store| store.name().to_owned())
            .filter(|store| store != SCRATCH)
            .collect(),
        labels: work.labels.iter().map(label).collect::<Result<_, _>>()?,
        outbox: Some(cx.home.outbox()),
    };
    output::note(&format!(
        "sealflow worker {name} on {}, for {}",
        cx.home.root().display(),
        connection.url
    ));
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let running = tokio::spawn(sealflow_executor::run(connection, profile, Arc::new(works), stop));
    tokio::pin!(running);
    let ended = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        ended = &mut running => Some(ended),
    };
    shutdown.cancel();
    let ended = match ended {
        Some(ended) => ended,
        None => running.await,
    };
    match ended.context("the worker broke")? {
        Ok(()) => Ok(()),
        Err(error @ (sealflow_executor::Error::Config(_) | sealflow_executor::Error::Refused(_))) => {
            Err(CliError::new(Kind::Config, error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}
