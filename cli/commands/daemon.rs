//! `sealflow daemon`: decides, owns the store, and serves the API.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::environment::Context;
use crate::home::Listening;
use crate::numbers::Numbers;
use crate::{api, housekeeping, output, successor, wire, workers};

/// Run the daemon: it starts, watches and resumes runs, and answers the other commands
///
/// Stop it with Ctrl-C or SIGTERM at any time, or kill it: the next start resumes every run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen for the other commands, instead of the configured address
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
}

pub(crate) async fn run(cx: Context, args: Args) -> anyhow::Result<()> {
    // First: who reads that it is there may stop it at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // It may have to wait for its turn.
    let mut engine = tokio::select! {
        engine = wire::Engine::start(&cx) => engine?,
        _ = interrupt.recv() => return cx.home.set_listening(None),
        _ = terminate.recv() => return cx.home.set_listening(None),
    };
    let address = args.listen.unwrap_or(cx.config.daemon.listen);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let local = listener.local_addr()?;
    let url = format!("http://{local}");
    let stop = CancellationToken::new();
    let client = engine.chain.as_ref().map(|chain| chain.client.clone());
    let numbers = Arc::new(Numbers::new(engine.handle.clone(), client));
    let successor = successor::start(engine.handle.clone(), numbers.clone(), stop.clone());
    let served = api::Api {
        numbers,
        handle: engine.handle.clone(),
        journal: engine.journal.clone(),
        executors: engine.executors.clone(),
        token: cx.home.token()?,
        home: cx.home.clone(),
        backups: cx.config.backup.every.is_some(),
        stop: stop.clone(),
        followers: api::Api::followers(),
        workers: None,
        messager: engine.chain.as_ref().map(|chain| chain.messager.clone()),
        wallet: engine.chain.as_ref().map(|chain| chain.wallet.clone()),
    };
    let workers = workers::start(&cx, &engine, &stop).await?;
    let served = api::Api {
        workers: workers.as_ref().map(|workers| workers.service.clone()),
        ..served
    };
    let workers_url = workers.as_ref().map(|workers| workers.url.clone());
    let server = tokio::spawn(api::serve(listener, served));
    let housekeeping = housekeeping::start(&cx, &engine.journal, &stop);
    let listening = Listening {
        url: url.clone(),
        pid: std::process::id(),
        workers: workers_url.clone(),
        standby: false,
    };
    cx.home.set_listening(Some(&listening))?;
    engine.listens(&listening);
    let open = engine.handle.engine().await?.open;
    tracing::info!(home = %cx.home.root().display(), url, open_runs = open, journal = engine.journal.place(), "daemon ready");
    output::note(&format!(
        "sealflow daemon on {}, listening on {url}",
        cx.home.root().display()
    ));
    if let Some(url) = &workers_url {
        output::note(&format!("workers connect to {url}"));
    }
    let failure = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        error = engine.failed() => Some(error),
    };
    cx.home.set_listening(None)?;
    stop.cancel();
    if let Some(workers) = workers {
        workers.end().await;
    }
    match failure {
        Some(error) => Err(error),
        None => {
            tracing::info!("daemon stops; runs go on at the next start");
            server.await??;
            housekeeping.join_all().await;
            successor.await?;
            engine.stop().await
        }
    }
}
