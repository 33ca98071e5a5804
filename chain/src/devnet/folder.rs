//! The data folder: keys, tokens and the chain. Secrets are readable by their owner alone.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::wallet::{KeyType, LotusKey, SecretKey};

use super::error::DevnetError;
use super::profile::Profile;
use super::rpc::auth::Secret;

const GENESIS: &str = "genesis.json";
const KEYS: &str = "keys.json";
const JWT: &str = "jwt_secret";
const LOCK: &str = "lock";
const CHAIN: &str = "chain.log";
/// The most bytes of a file that is read whole.
const READ_LIMIT: u64 = 1 << 20;

/// What a chain begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Genesis {
    pub(super) profile: String,
    /// Seconds since 1970.
    pub(super) timestamp: u64,
}

/// The keys that a chain begins with: the producer's, then those with FIL.
pub(super) struct Keys {
    pub(super) producer: SecretKey,
    pub(super) funded: Vec<SecretKey>,
}

impl Keys {
    /// New keys: a faucet, an owner, a worker and three control addresses.
    pub(super) fn generate() -> Result<Self, DevnetError> {
        let new = |key_type| SecretKey::generate(key_type).map_err(|e| DevnetError::Broken(e.to_string()));
        let kinds = [
            KeyType::Secp256k1,
            KeyType::Bls,
            KeyType::Bls,
            KeyType::Secp256k1,
            KeyType::Secp256k1,
            KeyType::Secp256k1,
        ];
        Ok(Self {
            producer: new(KeyType::Bls)?,
            funded: kinds.into_iter().map(new).collect::<Result<_, _>>()?,
        })
    }
}

/// An open data folder, which nobody else has.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens or makes the folder and takes it.
    pub(super) fn open(path: &Path) -> Result<Self, DevnetError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| DevnetError::io(path, error))?;
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|error| DevnetError::io(&lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DevnetError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(DevnetError::io(&lock_path, error)),
        }
    }

    /// The file of the chain.
    pub(super) fn chain(&self) -> PathBuf {
        self.path.join(CHAIN)
    }

    /// What the chain began with, if it did. The genesis is written last, so with it everything is there.
    pub(super) fn genesis(&self, profile: Profile) -> Result<Option<(Genesis, Keys, Secret)>, DevnetError> {
        let path = self.path.join(GENESIS);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = self.read(GENESIS)?;
        let damaged = |name: &str, reason: String| DevnetError::Damaged {
            path: self.path.join(name),
            reason,
        };
        let genesis: Genesis = serde_json::from_slice(&bytes).map_err(|e| damaged(GENESIS, e.to_string()))?;
        if genesis.profile != profile.name() {
            return Err(DevnetError::OtherProfile {
                path: self.path.clone(),
                found: genesis.profile,
                wanted: profile.name().into(),
            });
        }
        let texts = self.read(KEYS)?;
        // The text is a secret, so errors say nothing of it.
        let texts: Vec<String> =
            serde_json::from_slice(&texts).map_err(|_| damaged(KEYS, "it is no list of keys".into()))?;
        let mut keys = Vec::with_capacity(texts.len());
        for text in texts.into_iter().map(Zeroizing::new) {
            let key = LotusKey::parse(&text).and_then(|key| key.secret());
            keys.push(key.map_err(|e| damaged(KEYS, e.to_string()))?);
        }
        if keys.is_empty() {
            return Err(damaged(KEYS, "it has no keys".into()));
        }
        let producer = keys.remove(0);
        let secret = Secret::read(&self.read(JWT)?).ok_or_else(|| damaged(JWT, "it is no secret".into()))?;
        Ok(Some((
            genesis,
            Keys {
                producer,
                funded: keys,
            },
            secret,
        )))
    }

    /// Writes what a chain begins with. A chain of which only a part was written is begun anew.
    pub(super) fn begin(&self, genesis: &Genesis, keys: &Keys, secret: &Secret) -> Result<(), DevnetError> {
        let chain = self.chain();
        if chain.exists() {
            // Without a genesis nobody has seen it.
            std::fs::remove_file(&chain).map_err(|error| DevnetError::io(&chain, error))?;
        }
        let all = std::iter::once(&keys.producer).chain(&keys.funded);
        let texts: Vec<Zeroizing<String>> = all.map(|key| LotusKey::of(key).export()).collect();
        let plain: Vec<&str> = texts.iter().map(|text| text.as_str()).collect();
        let json = |e: serde_json::Error| DevnetError::Broken(e.to_string());
        self.write(KEYS, &Zeroizing::new(serde_json::to_vec(&plain).map_err(json)?))?;
        self.write(JWT, secret.bytes())?;
        self.write(GENESIS, &serde_json::to_vec_pretty(genesis).map_err(json)?)
    }

    /// Writes a token where a person or a test finds it. Returns the file.
    pub(super) fn write_token(&self, name: &str, token: &str) -> Result<PathBuf, DevnetError> {
        let name = format!("token-{name}");
        self.write(&name, token.as_bytes())?;
        Ok(self.path.join(name))
    }

    fn read(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, DevnetError> {
        use std::io::Read;
        let path = self.path.join(name);
        let io = |error| DevnetError::io(&path, error);
        let file = File::open(&path).map_err(io)?;
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(READ_LIMIT).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    /// Whole or not at all, and on disk when it returns.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DevnetError> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let io = |error| DevnetError::io(&new, error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)
            .map_err(io)?;
        file.write_all(bytes).map_err(io)?;
        file.sync_all().map_err(io)?;
        std::fs::rename(&new, &path).map_err(io)?;
        let folder = File::open(&self.path).and_then(|folder| folder.sync_all());
        folder.map_err(|error| DevnetError::io(&self.path, error))
    }
}
