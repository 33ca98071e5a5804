//! The chain of this installation: the nodes that are asked, the wallet that signs, and the messager, as the configuration
//! says.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sealflow_chain::control::ControlBook;
use sealflow_chain::messager::{self, FeeBook, Messager, MessagerConfig, StoreError};
use sealflow_chain::node::{Client, ClientConfig, Endpoint, FollowConfig};
use sealflow_chain::wallet::{KdfCost, Passphrase, Policy, Wallet, WalletConfig};
use sealflow_stages::chain::Chain as Stages;
use sealflow_storage::journal::{Messages, SurrealJournal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::environment::Context;
use crate::exit::{CliError, Kind};

/// How often nodes are asked for their head, beside the subscription.
const POLL: Duration = Duration::from_secs(5);

/// What a wallet may sign where nobody has said otherwise.
pub(crate) const NOTHING: &str = "\
# What the wallet may sign. What no rule names is denied. A rule names keys, methods and destinations; `value` and fees
# that are not allowed are denied too. See docs/chain.md.
#
# [[allow]]
# keys      = [\"any\"]
# methods   = [\"PreCommitSectorBatch2\", \"ProveCommitSectors3\"]
# to        = [\"f01000\"]
# max_value = \"10 FIL\"
# max_fee   = \"1 FIL\"
";

/// The chain, as long as it is used.
pub(crate) struct Chain {
    pub(crate) messager: Messager,
    pub(crate) client: Arc<Client>,
    pub(crate) wallet: Arc<Wallet>,
    control: ControlBook,
    task: JoinHandle<Result<(), StoreError>>,
    stop: CancellationToken,
}

/// The nodes of the configuration; nothing if it names none.
pub(crate) fn client(cx: &Context) -> anyhow::Result<Option<Arc<Client>>> {
    let config = &cx.config.chain;
    if config.nodes.is_empty() {
        return Ok(None);
    }
    let wrong = |text: String| CliError::new(Kind::Config, text);
    let token = match &config.token_file {
        None => None,
        Some(path) => {
            let path = cx.home.resolve(path);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(Zeroizing::new(text.trim().to_owned()))
        }
    };
    let mut nodes = Vec::new();
    for (at, text) in config.nodes.iter().enumerate() {
        // The text may hold a token, so it is not repeated.
        let node = Endpoint::parse(text)
            .map_err(|error| wrong(format!("[chain] nodes, number {}: {error}", at + 1)))?;
        nodes.push(match &token {
            Some(token) => node.with_token(token.clone()),
            None => node,
        });
    }
    let client = Client::new(ClientConfig::new(nodes)).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Arc::new(client)))
}

/// The wallet of the home, locked.
pub(crate) fn wallet(cx: &Context) -> anyhow::Result<Wallet> {
    let policy_file = cx.home.wallet_policy();
    let policy = match std::fs::read_to_string(&policy_file) {
        Ok(text) => Policy::parse(&text)
            .map_err(|error| CliError::new(Kind::Config, format!("{}: {error}", policy_file.display())))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Policy::default(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", policy_file.display())),
    };
    Ok(Wallet::open(WalletConfig {
        dir: cx.home.wallet(),
        policy,
        kdf: KdfCost::default(),
    })?)
}

/// The passphrase in a file.
pub(crate) fn passphrase(path: &Path) -> anyhow::Result<Passphrase> {
    Ok(Passphrase::from_file(path)?)
}

/// Starts the messager, if a node is configured. What it has to do it finds in the journal.
pub(crate) async fn start(cx: &Context, journal: &Arc<SurrealJournal>) -> anyhow::Result<Option<Chain>> {
    let Some(client) = client(cx)? else {
        return Ok(None);
    };
    let wallet = wallet(cx)?;
    let wallet = match &cx.config.wallet.passphrase_file {
        None => wallet,
        Some(path) => {
            let passphrase = passphrase(&cx.home.resolve(path))?;
            tokio::task::spawn_blocking(move || wallet.unlock(&passphrase).map(|_| wallet)).await??
        }
    };
    let wallet = Arc::new(wallet);
    let control = cx.config.chain.control.book()?;
    let config = MessagerConfig {
        confidence: cx.config.chain.confidence,
        fees: FeeBook {
            global: cx.config.chain.fees()?,
            ..FeeBook::default()
        },
        ..MessagerConfig::default()
    };
    let follow = FollowConfig {
        poll: POLL,
        ..FollowConfig::default()
    };
    let stop = CancellationToken::new();
    let store = Messages::of(journal.clone());
    let running = messager::start(
        config,
        follow,
        store,
        client.clone(),
        wallet.clone(),
        stop.clone(),
    );
    let running = running.await.context("the messager cannot start")?;
    Ok(Some(Chain {
        messager: running.messager,
        client,
        wallet,
        control,
        task: running.task,
        stop,
    }))
}

impl Chain {
    /// What stages have of it.
    pub(crate) fn stages(&self) -> Stages {
        Stages::new(self.client.clone(), self.messager.clone(), self.control.clone())
    }

    /// Waits until the messager fails, which only a failing journal makes it do.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the messager stopped"),
            Ok(Err(error)) => {
                anyhow::Error::new(error).context("the messager stopped; start it again, the journal decides")
            }
            Err(error) => anyhow::Error::new(error)
                .context("the messager panicked; start it again, the journal decides"),
        }
    }

    /// Ends it. What is on its way is pushed again at the next start, until the chain shows it.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        if let Ok(Err(error)) = self.task.await {
            tracing::warn!(%error, "the messager");
        }
    }
}
