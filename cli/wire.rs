//! The one place where everything is put together: stages, stores, the journal, the executor and the
//! dispatcher.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use rand::RngCore;
use sealflow_engine::artifact::{Artifact, ArtifactStore, SCRATCH, Stores};
use sealflow_engine::clock::SystemClock;
use sealflow_engine::dispatcher::{self, Dispatcher, Handle, Parts};
use sealflow_engine::executor::{Executor, ExecutorSpec};
use sealflow_engine::failure::Failure;
use sealflow_engine::journal::{Journal, JournalError};
use sealflow_engine::stage::StageRegistry;
use sealflow_executors::inputs::{Fetch, Fetching, WithInputs};
use sealflow_executors::remote::Service;
use sealflow_executors::{ExtProcessor, InProcess};
use sealflow_storage::journal::{Credentials, DirectoryLock, OpenError, OpenOptions, SurrealJournal};
use sealflow_storage::store::FilesystemStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chain::{self, Chain};
use crate::config::read;
use crate::durations::Keeper;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::home::Listening;
use crate::lease::{self, Lease};
use crate::machine::{self, Profile};

/// The stages of this process.
pub(crate) fn registry(cx: &Context) -> Arc<StageRegistry> {
    Arc::new(sealflow_stages::registry(&cx.params))
}

/// The same, with the chain if there is one.
fn registry_on(cx: &Context, chain: Option<&Chain>) -> Arc<StageRegistry> {
    let chain = chain.map(Chain::stages).unwrap_or_default();
    Arc::new(sealflow_stages::registry_on(&cx.params, &chain))
}

/// The stores of the configuration, and the scratch folder.
pub(crate) fn stores(cx: &Context) -> anyhow::Result<Stores> {
    let root = cx.home.resolve(&cx.config.scratch.path);
    let scratch = FilesystemStore::new(SCRATCH, &root)
        .with_context(|| format!("store `{SCRATCH}` at {}", root.display()))?;
    let mut stores: Vec<Arc<dyn ArtifactStore>> = vec![Arc::new(scratch)];
    for (name, store) in cx.config.stores() {
        stores.push(store.open(&name, &cx.home)?);
    }
    Ok(Stores::new(stores))
}

/// Opens the journal; `fence` takes it over from any daemon that had it.
pub(crate) async fn journal(cx: &Context, fence: bool) -> anyhow::Result<Arc<SurrealJournal>> {
    if cx.home.restoring().exists() {
        let home = cx.home.root().display();
        let text = format!("a restore into {home} did not come to its end: what is there is not whole");
        let hint = format!("remove {home}/{{journal,payloads,archive,restore.unfinished}} and restore again");
        return Err(CliError::new(Kind::Failed, text).hint(hint).into());
    }
    open_journal(cx, fence).await
}

/// The same, also while the home is being restored.
pub(crate) async fn open_journal(cx: &Context, fence: bool) -> anyhow::Result<Arc<SurrealJournal>> {
    let config = &cx.config.journal;
    let url = match &config.url {
        None => format!("surrealkv://{}", cx.home.journal().display()),
        Some(url) => match url.split_once("://") {
            Some((kind @ ("surrealkv" | "rocksdb"), path)) => {
                format!(
                    "{kind}://{}",
                    cx.home.resolve(std::path::Path::new(path)).display()
                )
            }
            _ => url.clone(),
        },
    };
    let password = match &config.password_file {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(text.trim().to_owned())
        }
        None => None,
    };
    let (payloads, archives) = files(cx);
    let mut options = OpenOptions::new(payloads);
    options.archives = archives;
    options.fence = fence;
    if let (Some(user), Some(password)) = (&config.user, password) {
        options = options.credentials(Credentials::Password {
            user: user.clone(),
            password,
        });
    }
    let opened = if fence && config.standby {
        lease::in_turn(cx, &url, options).await
    } else {
        patiently(|| SurrealJournal::open(&url, options.clone())).await
    };
    opened
        .map(Arc::new)
        .map_err(|error| unopened(error, "the journal"))
}

/// The folders of payloads and of archives.
pub(crate) fn files(cx: &Context) -> (PathBuf, PathBuf) {
    match &cx.config.journal.files {
        None => (cx.home.payloads(), cx.home.archive()),
        Some(folder) => {
            let folder = cx.home.resolve(folder);
            (folder.join("payloads"), folder.join("archive"))
        }
    }
}

/// A process that was killed in the middle of a proof takes a moment to end, and holds its locks until
/// then.
async fn patiently<T>(take: impl AsyncFn() -> Result<T, OpenError>) -> Result<T, OpenError> {
    const TRIES: u32 = 12;
    for _ in 0..TRIES {
        match take().await {
            Err(OpenError::Locked { .. }) => tokio::time::sleep(PATIENCE).await,
            other => return other,
        }
    }
    take().await
}

/// How long to wait before a lock is tried again.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_millis(250);

fn unopened(error: OpenError, what: &str) -> anyhow::Error {
    if matches!(error, OpenError::Locked { .. }) {
        let hint = "stop that process, or use another --home; `sealflow run list` asks a running daemon";
        return CliError::new(Kind::InUse, error.to_string()).hint(hint).into();
    }
    anyhow::Error::new(error).context(format!("cannot open {what}"))
}

/// The executors of this machine, as its profile says.
pub(crate) fn executors(
    cx: &Context,
    registry: &Arc<StageRegistry>,
    stores: &Stores,
) -> anyhow::Result<Vec<Arc<dyn Executor>>> {
    let mut names: Vec<String> = stores.iter().map(|store| store.name().to_owned()).collect();
    // What was in them is found in other stores.
    names.extend(cx.config.retired_stores.iter().cloned());
    let profile = read(&cx.home.machine(), Profile::parse)?;
    let specs = profile.executors(registry)?.into_iter();
    let logs = cx.home.logs();
    let executors = specs.map(|(spec, declared)| -> anyhow::Result<Arc<dyn Executor>> {
        let spec = ExecutorSpec {
            stores: Some(names.clone()),
            ..spec
        };
        let (registry, stores) = (registry.clone(), stores.clone());
        Ok(match declared.kind {
            machine::Kind::InProcess => Arc::new(InProcess::new(spec, registry, stores)),
            machine::Kind::ExtProcessor => {
                let settings = declared.settings(cx.home.root(), logs.clone())?;
                Arc::new(ExtProcessor::new(spec, settings, registry, stores))
            }
        })
    });
    executors.collect()
}

/// Files on other machines, once those can connect.
#[derive(Default)]
pub(crate) struct Elsewhere(OnceLock<Service>);

impl Elsewhere {
    /// Other machines connect to this service.
    pub(crate) fn connect(&self, service: Service) {
        // There is one service a daemon.
        drop(self.0.set(service));
    }
}

impl Fetch for Elsewhere {
    fn fetch<'a>(&'a self, artifact: &'a Artifact, to: &'a Path) -> Fetching<'a> {
        match self.0.get() {
            Some(service) => service.fetch(artifact, to),
            None => Box::pin(async move {
                let what = format!(
                    "{} is in {}, and no workers connect here",
                    artifact.key, artifact.store
                );
                Err(Failure::permanent("artifact_unreachable", what))
            }),
        }
    }
}

/// An engine that runs.
pub(crate) struct Engine {
    pub(crate) handle: Handle,
    pub(crate) journal: Arc<SurrealJournal>,
    pub(crate) executors: Vec<Arc<dyn Executor>>,
    pub(crate) stores: Stores,
    /// Files on other machines.
    pub(crate) elsewhere: Arc<Elsewhere>,
    /// The chain, if one is configured.
    pub(crate) chain: Option<Chain>,
    lease: Lease,
    /// Tells others that this home is looked after. Also where the journal is on a server.
    _lock: DirectoryLock,
    durations: Keeper,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), JournalError>>,
}

impl Engine {
    /// Opens the home and starts what its journal says is under way.
    pub(crate) async fn start(cx: &Context) -> anyhow::Result<Self> {
        cx.home.prepare()?;
        let lock = patiently(async || DirectoryLock::take(cx.home.root())).await;
        let lock = lock.map_err(|error| unopened(error, "the data directory"))?;
        // Of a daemon that was killed.
        cx.home.set_listening(None)?;
        if cx.config.journal.standby {
            lease::check(cx)?;
        }
        let journal = journal(cx, true).await?;
        let lease = Lease::hold(&journal, cx.config.journal.takeover.0);
        let chain = chain::start(cx, &journal).await?;
        let registry = registry_on(cx, chain.as_ref());
        let stores = stores(cx)?;
        let elsewhere = Arc::new(Elsewhere::default());
        let executors = executors(cx, &registry, &stores)?.into_iter();
        let with_inputs = |one| {
            let fetch: Arc<dyn Fetch> = elsewhere.clone();
            Arc::new(WithInputs::new(one, stores.clone(), fetch)) as Arc<dyn Executor>
        };
        let executors: Vec<Arc<dyn Executor>> = executors.map(with_inputs).collect();
        let mut seed = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut seed);
        let as_trait: Arc<dyn Journal> = journal.clone();
        let parts = Parts {
            journal: as_trait,
            registry,
            executors: executors.clone(),
            clock: Arc::new(SystemClock::default()),
            seed,
        };
        let (dispatcher, handle): (Dispatcher, Handle) = dispatcher::open(parts).await?;
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(dispatcher.run(shutdown.clone()));
        let durations = Keeper::start(handle.clone(), cx.home.durations());
        Ok(Self {
            handle,
            journal,
            executors,
            stores,
            elsewhere,
            chain,
            lease,
            _lock: lock,
            durations,
            shutdown,
            task,
        })
    }

    /// Says to daemons that stand by where this one is.
    pub(crate) fn listens(&self, listening: &Listening) {
        self.lease.listens(listening);
    }

    /// Waits until the engine fails, which only a failing journal makes it do.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let chain = async {
            match &mut self.chain {
                Some(chain) => chain.failed().await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = &mut self.task => ended,
            error = chain => return error,
            error = self.lease.lost() => return error,
        };
        match ended {
            Ok(Ok(())) => anyhow::anyhow!("the engine stopped"),
            Ok(Err(error)) => {
                anyhow::Error::new(error).context("the engine stopped; start it again, the journal decides")
            }
            Err(error) => {
                anyhow::Error::new(error).context("the engine panicked; start it again, the journal decides")
            }
        }
    }

    /// Stops starting things, and closes the journal. Attempts under way are taken up at the next start.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.durations.end().await;
        self.shutdown.cancel();
        self.task.await??;
        if let Some(chain) = self.chain {
            chain.end().await;
        }
        drop(self.handle);
        self.lease.end().await;
        Ok(self.journal.close().await?)
    }
}
