//! The network of the demo: a devnet in this process, with a key, a policy and a miner made for it. All of it is in the
//! home of the demo, so that it never mixes with a real chain's, and a demo that was killed finds it again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use rand::RngCore as _;
use sealflow_chain::address::POWER_ACTOR;
use sealflow_chain::devnet::{Clock, Devnet, DevnetConfig, DevnetError, FundedKey, Permission, Profile};
use sealflow_chain::messager::{FeePolicy, Intent, Key, Messager, State};
use sealflow_chain::node::Client;
use sealflow_chain::types::Address;
use sealflow_chain::wallet::LotusKey;
use sealflow_engine::durable;
use sealflow_stages::ProofsVerifier;

use super::super::devnet::failure;
use super::super::miner::{creation, made};
use crate::builtin;
use crate::chain;
use crate::config::Config;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::home::Home;
use crate::wire::PATIENCE;

/// How long an epoch takes.
const EPOCH: Duration = Duration::from_millis(100);

/// Epochs until a message is final. There is nobody else who could make blocks.
const CONFIDENCE: u32 = 3;

/// What the demo's wallet may sign.
const POLICY: &str = "\
# What the demo sends, and nothing else.
[[allow]]
keys      = [\"any\"]
methods   = [\"CreateMiner\", \"PreCommitSectorBatch2\", \"ProveCommitSectors3\"]
to        = [\"any\"]
max_value = \"1000 FIL\"
max_fee   = \"10 FIL\"
";

/// The network, as long as the demo runs.
pub(super) struct Network {
    devnet: Devnet,
    /// Who owns the miner, pays and signs.
    owner: Address,
}

impl Network {
    /// Starts it: a new chain, or the one that an earlier demo left. Gives what the engine is to be started with.
    pub(super) async fn start(cx: &Context) -> anyhow::Result<(Self, Context)> {
        let port = port(&cx.config);
        let devnet = match open(&cx.home, port).await {
            // Somebody else listens there by now.
            Err(DevnetError::Io { .. }) if port != 0 => open(&cx.home, 0).await,
            other => other,
        };
        let devnet = devnet.map_err(failure)?;
        let owner = owner(&devnet)?;
        let (mut cx, address) = (cx.clone(), owner.address);
        prepare(&cx.home, devnet.address())?;
        cx.config = Config::read(&cx.home.config())?;
        cx.config.chain.nodes = vec![devnet.endpoint(Permission::Write)];
        cx.config.chain.token_file = None;
        let (inner, key) = (cx.clone(), owner.key);
        tokio::task::spawn_blocking(move || take_key(&inner, address, &key)).await??;
        let network = Self {
            devnet,
            owner: address,
        };
        Ok((network, cx))
    }

    /// Lets the time go on, or has it stand while nothing waits for the chain: a slow machine seals as well as a fast one.
    pub(super) fn time(&self, goes: bool) {
        self.devnet.pause(!goes);
    }

    /// The miner for sectors of this size, made by a message the first time.
    pub(super) async fn miner(
        &self,
        client: &Client,
        messager: &Messager,
        bytes: u64,
    ) -> anyhow::Result<Address> {
        let key = Key::try_from(format!("demo/miner/{bytes}"))?;
        let known = messager.record(key.clone()).await?;
        if known.is_none() {
            let head = client.chain_head().await?;
            let call = creation(self.owner, self.owner, bytes)?;
            let intent = Intent {
                key: key.clone(),
                from: self.owner,
                to: POWER_ACTOR,
                value: client.creation_deposit(&head.key).await?,
                method: call.number(),
                params: call.params()?,
                fees: FeePolicy::default(),
                expires: None,
            };
            messager.submit(intent).await?;
        }
        match messager.wait(&key, false).await?.state {
            State::Final(landing) if landing.receipt.exit_code.is_success() => {
                made(&landing.receipt.returned)
            }
            other => {
                let text = format!("the miner could not be made: {other:?}");
                Err(CliError::new(Kind::Failed, text).into())
            }
        }
    }

    /// Ends it; the next demo, or `sealflow devnet`, goes on with the same chain.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.devnet.stop().await.map_err(failure)
    }
}

/// The command that starts the same network again, with its time standing still.
pub(super) fn command(cx: &Context) -> String {
    format!(
        "sealflow --home {} devnet --listen 127.0.0.1:{} --clock manual",
        cx.home.root().display(),
        port(&cx.config)
    )
}

/// A process that was killed in the middle of a proof takes a moment to end, and holds the chain until then.
async fn open(home: &Home, port: u16) -> Result<Devnet, DevnetError> {
    const TRIES: u32 = 12;
    let mut tries = 0;
    loop {
        let config = DevnetConfig {
            profile: Profile::Fast,
            clock: Clock::Timed(EPOCH),
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            data: Some(home.devnet()),
        };
        match Devnet::start(config, Box::new(ProofsVerifier::default())).await {
            Err(DevnetError::InUse { .. }) if tries < TRIES => tries += 1,
            other => return other,
        }
        tokio::time::sleep(PATIENCE).await;
    }
}

/// The port that the configuration names; 0 where there is none yet.
fn port(config: &Config) -> u16 {
    let node = config.chain.nodes.first();
    let text = node.and_then(|node| node.rsplit(':').next());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// The workflow for one who seals a single sector, and need not wait for others to share a message with.
fn alone(workflow: &str) -> anyhow::Result<String> {
    let text = workflow.replace("wait = \"1h\"", "wait = \"1s\"");
    anyhow::ensure!(text != workflow, "the workflow `seal` waits for nobody");
    Ok(text)
}

fn passphrase(home: &Home) -> std::path::PathBuf {
    home.root().join("passphrase")
}

fn owner(devnet: &Devnet) -> anyhow::Result<FundedKey> {
    let keys = devnet.keys().map_err(failure)?.into_iter();
    // The worker of a miner has a BLS key.
    keys.into_iter()
        .find(|key| key.role == "worker")
        .context("the devnet has no worker's key")
}

/// Puts the key into the wallet, if it is not there, and says what it may sign. It makes the wallet's folder.
fn take_key(cx: &Context, address: Address, key: &LotusKey) -> anyhow::Result<()> {
    let wallet = chain::wallet(cx)?;
    if wallet.list().iter().all(|known| known.address != address) {
        wallet.import(key, &chain::passphrase(&passphrase(&cx.home))?)?;
    }
    if !cx.home.wallet_policy().exists() {
        durable::write(&cx.home.wallet_policy(), POLICY.as_bytes())?;
    }
    Ok(())
}

/// Writes what the home needs, if it is not there.
fn prepare(home: &Home, address: SocketAddr) -> anyhow::Result<()> {
    let secret = passphrase(home);
    if !secret.exists() {
        let mut bytes = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut bytes);
        durable::write_secret(&secret, hex::encode(bytes).as_bytes())?;
    }
    let seal = home.workflows().join("seal.toml");
    if !seal.exists() {
        durable::make_dir(&home.workflows())?;
        durable::write(
            &seal,
            alone(&builtin::find("seal", &home.workflows())?.text)?.as_bytes(),
        )?;
    }
    if !home.config().exists() {
        let text = format!(
            "# The home of `sealflow demo`. Its network is in devnet/, and runs while the demo does, or when you start it:\n\
             #   sealflow --home {} devnet --listen {address} --clock manual\n\
             [chain]\n\
             nodes      = [\"http://{address}\"]\n\
             token_file = \"devnet/token-write\"\n\
             confidence = {CONFIDENCE}\n\n\
             [wallet]\n\
             passphrase_file = \"passphrase\"\n",
            home.root().display(),
        );
        durable::write(&home.config(), text.as_bytes())?;
    }
    Ok(())
}
