//! `sealflow devnet`: a Filecoin network of one's own, in one process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use sealflow_chain::devnet::{Clock, Devnet, DevnetConfig, DevnetError, Permission, Profile};
use sealflow_stages::ProofsVerifier;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::output;

/// Run a Filecoin network of your own, which verifies real proofs
///
/// One process serves the calls of a Lotus node and makes its own blocks. It keeps real miner state and refuses what
/// the network refuses. FIL on it is worth nothing; keys with FIL, and tokens for each permission, are in its folder.
/// Stop it or kill it at any time: the next start goes on with the same chain.
///
/// Example: sealflow devnet --profile fast --block-time 200ms
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1234")]
    listen: SocketAddr,
    /// How time is scaled; it belongs to the chain and stays
    #[arg(long, value_name = "PROFILE", default_value = "fast")]
    profile: ProfileName,
    /// How epochs pass
    #[arg(long, value_name = "CLOCK", default_value = "timed")]
    clock: ClockName,
    /// How long an epoch takes on a clock that is not manual, for example 200ms [default: 30s for mainnet, else 200ms]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    block_time: Option<Duration>,
    /// The folder of the chain [default: devnet in the data directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print where it listens, its tokens' files and its keys as JSON
    #[arg(long)]
    json: bool,
}

/// How time is scaled.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileName {
    /// The windows and delays of mainnet
    Mainnet,
    /// The same, but seeds come after 10 epochs
    Fast,
    /// Windows of 10 epochs, for tests
    Tiny,
}

/// How epochs pass.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ClockName {
    /// One every block time
    Timed,
    /// The same, but not while a client holds the epoch (Devnet.Hold)
    OnDemand,
    /// Only by Devnet.Mine and its like
    Manual,
}

impl Args {
    fn config(&self, cx: &Context) -> anyhow::Result<DevnetConfig> {
        let (profile, default) = match self.profile {
            ProfileName::Mainnet => (Profile::Mainnet, Duration::from_secs(30)),
            ProfileName::Fast => (Profile::Fast, Duration::from_millis(200)),
            ProfileName::Tiny => (Profile::Tiny, Duration::from_millis(200)),
        };
        let time = self.block_time.unwrap_or(default);
        if time < Duration::from_millis(10) {
            let text = "a block time is 10ms at least; for no time at all take `--clock manual`";
            return Err(CliError::new(Kind::Usage, text).into());
        }
        let clock = match self.clock {
            ClockName::Timed => Clock::Timed(time),
            ClockName::OnDemand => Clock::OnDemand(time),
            ClockName::Manual => Clock::Manual,
        };
        let data = self.data.clone().unwrap_or_else(|| cx.home.devnet());
        Ok(DevnetConfig {
            profile,
            clock,
            listen: self.listen,
            data: Some(data),
        })
    }
}

/// Why a devnet does not run, with its exit code.
pub(super) fn failure(error: DevnetError) -> anyhow::Error {
    let kind = match &error {
        DevnetError::InUse { .. } => Kind::InUse,
        DevnetError::OtherProfile { .. } => Kind::Usage,
        _ => Kind::Failed,
    };
    CliError::new(kind, error.to_string()).into()
}

pub(crate) async fn run(cx: Context, args: Args) -> anyhow::Result<()> {
    // First: who reads that it is there may stop it at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let config = args.config(&cx)?;
    let (profile, data) = (config.profile, config.data.clone().unwrap_or_default());
    let started = Devnet::start(config, Box::new(ProofsVerifier::default())).await;
    let devnet = started.map_err(failure)?;
    let keys = devnet.keys().map_err(failure)?;
    let url = format!("http://{}/rpc/v1", devnet.address());
    let token = |wanted| devnet.token_files().iter().find(|(one, _)| *one == wanted);
    if args.json {
        let mut tokens = Map::new();
        for (permission, file) in devnet.token_files() {
            tokens.insert(permission.name().into(), Value::from(file.display().to_string()));
        }
        let keys: Vec<Value> = keys
            .iter()
            .map(|key| json!({"role": key.role, "address": key.address.to_string()}))
            .collect();
        output::json_line(&json!({
            "url": url,
            "network": profile.network_name(),
            "data": data.display().to_string(),
            "tokens": tokens,
            "keys": keys,
            "key_file": data.join("keys.json").display().to_string(),
        }))?;
    } else {
        let rows = keys
            .iter()
            .map(|key| vec![key.role.clone(), key.address.to_string()]);
        output::table(&["key with FIL", "address"], rows.collect());
        output::note(&format!("{} is at {url}", profile.network_name()));
        if let Some((_, file)) = token(Permission::Admin) {
            output::note(&format!("a token that allows everything: {}", file.display()));
        }
        output::note(&format!(
            "the keys, as `lotus wallet import` takes them: {}",
            data.join("keys.json").display()
        ));
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    devnet.stop().await.map_err(failure)
}
