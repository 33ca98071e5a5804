//! The embedded devnet: a Filecoin network in one process, which serves the calls of §3 of chain.md over HTTP and
//! WebSocket, makes its own blocks on a clock you set, and refuses what the network refuses (§6).
//!
//! The state of miners is that of the published actor-state crates; written here are the entry points of the
//! actors with their checks (`vm/`), the chain around them, and the calls (`rpc/`). Every proof and signature is
//! verified: there is no devnet without a [`Verifier`]. Blocks of miners are taken (`mining/`). It is no consensus node:
//! no peers, no contracts, and one chain.

mod block;
mod chain;
mod clock;
mod core;
mod error;
mod faults;
mod folder;
mod genesis;
mod log;
mod mempool;
mod mining;
mod profile;
mod root;
mod rpc;
mod snapshots;
mod store;
mod verifier;
mod vm;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::types::Address;
use crate::wallet::LotusKey;

use self::core::Core;
use folder::{Folder, Genesis, Keys};
use log::Log;
use rpc::auth::Secret;
use vm::{Network, PostCheck};

pub use clock::Clock;
pub use error::DevnetError;
pub use profile::Profile;
pub use rpc::auth::Permission;
pub use verifier::{Piece, PostClaim, SealClaim, UpdateClaim, Verifier};

/// Calls over HTTP at a time.
const CALLS: usize = 1024;

/// What a devnet is started with.
#[derive(Debug, Clone)]
pub struct DevnetConfig {
    /// How time is scaled.
    pub profile: Profile,
    /// How epochs pass.
    pub clock: Clock,
    /// Where it listens; port 0 for any that is free.
    pub listen: SocketAddr,
    /// Where the chain is kept; nothing for one that ends with the process.
    pub data: Option<PathBuf>,
}

/// A key with FIL from the beginning.
#[derive(Debug)]
pub struct FundedKey {
    /// What it is meant for: `faucet`, `owner`, `worker`, `control-1` and so on.
    pub role: String,
    /// Its address.
    pub address: Address,
    /// The key. Who has it can spend what it has, which is worth nothing.
    pub key: LotusKey,
}

/// What the server and the clock share.
struct Shared {
    core: Mutex<Core>,
    secret: Secret,
    clock: clock::Control,
    /// Calls over HTTP that may still begin.
    calls: Semaphore,
}

impl Shared {
    /// The node. After a panic its state may be a half one, so it answers no more.
    fn core(&self) -> Result<MutexGuard<'_, Core>, String> {
        self.core
            .lock()
            .map_err(|_| "the devnet broke; start it again".to_owned())
    }
}

/// A running devnet. It ends when it is dropped; [`Devnet::stop`] waits until it did.
pub struct Devnet {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    token_files: Vec<(Permission, PathBuf)>,
    /// The folder is ours as long as this is.
    _folder: Option<Folder>,
}

impl Devnet {
    /// Starts a devnet: a new chain, or the one that is in the data folder.
    ///
    /// # Errors
    /// The folder cannot be used or is another devnet's, its chain has another profile, or the address is taken.
    pub async fn start(config: DevnetConfig, verifier: Box<dyn Verifier>) -> Result<Self, DevnetError> {
        let profile = config.profile;
        let folder = config.data.as_deref().map(Folder::open).transpose()?;
        let (genesis, keys, secret) = beginning(profile, folder.as_ref())?;
        let log = folder
            .as_ref()
            .map(|folder| Log::open(folder.chain()))
            .transpose()?;
        let net = Network {
            post_check: PostCheck::default(),
            policy: profile.policy(),
            economics: profile::Economics::new(),
            verifier,
        };
        let core = Core::open(net, profile, genesis, keys, log)?;
        let io = |source| DevnetError::Io {
            what: config.listen.to_string(),
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(io)?;
        let address = listener.local_addr().map_err(io)?;
        let mut token_files = Vec::new();
        if let Some(folder) = &folder {
            for permission in Permission::ALL {
                let file = folder.write_token(permission.name(), &secret.token(permission))?;
                token_files.push((permission, file));
            }
        }
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            secret,
            clock: clock::Control::new(config.clock),
            calls: Semaphore::new(CALLS),
        });
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(rpc::serve(shared.clone(), listener, stop.clone())),
            tokio::spawn(clock::run(shared.clone(), stop.clone())),
        ];
        Ok(Self {
            shared,
            address,
            stop,
            tasks,
            token_files,
            _folder: folder,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A token.
    pub fn token(&self, permission: Permission) -> String {
        self.shared.secret.token(permission)
    }

    /// The endpoint with a token, as [`crate::node::Endpoint`] reads it.
    pub fn endpoint(&self, permission: Permission) -> String {
        format!("{}:http://{}", self.token(permission), self.address)
    }

    /// The files that hold tokens, where there is a data folder.
    pub fn token_files(&self) -> &[(Permission, PathBuf)] {
        &self.token_files
    }

    /// The keys with FIL.
    ///
    /// # Errors
    /// The devnet broke.
    pub fn keys(&self) -> Result<Vec<FundedKey>, DevnetError> {
        let core = self.shared.core().map_err(DevnetError::Broken)?;
        let mut keys = Vec::new();
        for (at, key) in core.keys.funded.iter().enumerate() {
            let role = match at {
                0 => "faucet".into(),
                1 => "owner".into(),
                2 => "worker".into(),
                _ => format!("control-{}", at - 2),
            };
            keys.push(FundedKey {
                role,
                address: key.address().map_err(|e| DevnetError::Broken(e.to_string()))?,
                key: LotusKey::of(key),
            });
        }
        Ok(keys)
    }

    /// Stops the time, or lets it go on. While it stands, messages are taken and nothing lands.
    pub fn pause(&self, paused: bool) {
        self.shared.clock.pause(paused);
    }

    /// Ends it, and waits until all is on disk.
    ///
    /// # Errors
    /// The chain's file cannot be synced.
    pub async fn stop(mut self) -> Result<(), DevnetError> {
        self.stop.cancel();
        for task in std::mem::take(&mut self.tasks) {
            // A task that panicked has ended too.
            drop(task.await);
        }
        self.shared.core().map_err(DevnetError::Broken)?.sync()
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl std::fmt::Debug for Devnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devnet")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What the chain began with; a new beginning where there is none.
fn beginning(profile: Profile, folder: Option<&Folder>) -> Result<(Genesis, Keys, Secret), DevnetError> {
    if let Some(found) = folder
        .map(|folder| folder.genesis(profile))
        .transpose()?
        .flatten()
    {
        return Ok(found);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let genesis = Genesis {
        profile: profile.name().into(),
        timestamp: now.as_secs(),
    };
    let (keys, secret) = (Keys::generate()?, Secret::generate());
    if let Some(folder) = folder {
        folder.begin(&genesis, &keys, &secret)?;
    }
    Ok((genesis, keys, secret))
}
