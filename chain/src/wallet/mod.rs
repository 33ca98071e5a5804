//! The wallet: keys that are encrypted at rest, and signatures only over what was decoded and what a policy
//! allows.
//!
//! A folder holds one file a key and the record of every request. The wallet starts
//! locked. To sign it needs the key unlocked, a message whose parameters it understands to the last byte, and
//! a rule of the [`Policy`] that names key, type, method, destination and value; what no rule names is denied.
//! The record of a signature is durable before the signature leaves.

mod audit;
mod error;
mod folder;
mod key;
mod lotus;
mod passphrase;
mod policy;
mod sealed;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::address;
use crate::message::{self, SignedMessage};
use crate::params::Call;
use crate::types::{Address, Message, Protocol};

use audit::Audit;
use folder::Folder;
pub(crate) use key::SecretKey;

pub use audit::{AuditRecord, Verdict};
pub use error::WalletError;
pub use key::KeyType;
pub use lotus::LotusKey;
pub use passphrase::Passphrase;
pub use policy::{Policy, PolicyError, Request, SigningType};
pub use sealed::KdfCost;

/// Where a wallet is and what it may sign.
#[derive(Debug, Clone)]
pub struct WalletConfig {
    /// The folder with keys and audit log; made if it is not there, for its owner alone.
    pub dir: PathBuf,
    /// What may be signed.
    pub policy: Policy,
    /// What guessing a passphrase costs, for keys that are added from now on.
    pub kdf: KdfCost,
}

/// A key as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its address.
    pub address: Address,
    /// Its kind.
    pub key_type: KeyType,
    /// Whether it can sign now.
    pub unlocked: bool,
}

/// The wallet. Calls block for a file or for the work of a passphrase, so they belong on a blocking thread.
pub struct Wallet {
    policy: Policy,
    kdf: KdfCost,
    inner: Mutex<Inner>,
}

struct Inner {
    folder: Folder,
    audit: Audit,
    known: BTreeMap<Address, KeyType>,
    unlocked: BTreeMap<Address, SecretKey>,
}

impl Wallet {
    /// Opens the wallet, locked.
    ///
    /// # Errors
    /// The folder cannot be made or read, others may read it, or a key file is damaged.
    pub fn open(config: WalletConfig) -> Result<Self, WalletError> {
        let folder = Folder::open(config.dir)?;
        let audit = Audit::open(&folder)?;
        let mut known = BTreeMap::new();
        for sealed in folder.keys()? {
            known.insert(sealed.address, sealed.key_type);
        }
        Ok(Self {
            policy: config.policy,
            kdf: config.kdf,
            inner: Mutex::new(Inner {
                folder,
                audit,
                known,
                unlocked: BTreeMap::new(),
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves maps of keys, which are whole after every statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All keys, by address.
    pub fn list(&self) -> Vec<KeyInfo> {
        let inner = self.inner();
        let known = inner.known.iter().map(|(address, key_type)| KeyInfo {
            address: *address,
            key_type: *key_type,
            unlocked: inner.unlocked.contains_key(address),
        });
        known.collect()
    }

    /// Makes a key. The wallet's other keys must have the same passphrase. The new key is unlocked.
    ///
    /// # Errors
    /// The passphrase is not that of the wallet, or the file cannot be written.
    pub fn create(&self, key_type: KeyType, passphrase: &Passphrase) -> Result<Address, WalletError> {
        self.add(SecretKey::generate(key_type)?, passphrase)
    }

    /// Takes a key in Lotus form. The wallet's other keys must have the same passphrase. The key is unlocked.
    ///
    /// # Errors
    /// The passphrase is not that of the wallet, the key is there already, or the file cannot be written.
    pub fn import(&self, key: &LotusKey, passphrase: &Passphrase) -> Result<Address, WalletError> {
        self.add(key.secret()?, passphrase)
    }

    fn add(&self, key: SecretKey, passphrase: &Passphrase) -> Result<Address, WalletError> {
        let address = key.address()?;
        let mut inner = self.inner();
        if inner.known.contains_key(&address) {
            return Err(WalletError::KeyExists { address });
        }
        if let Some(other) = inner.known.keys().next() {
            // One passphrase for all, so that one unlock is enough.
            inner.folder.key(other)?.open(passphrase)?;
        }
        let sealed = sealed::SealedKey::seal(&key, passphrase, self.kdf)?;
        inner.folder.write_key(&sealed)?;
        inner.known.insert(address, key.key_type());
        inner.unlocked.insert(address, key);
        Ok(address)
    }

    /// The key in Lotus form. The passphrase is asked for again, even when the key is unlocked, and the export
    /// is recorded.
    ///
    /// # Errors
    /// There is no such key, the passphrase is wrong, or the record cannot be written.
    pub fn export(&self, address: &Address, passphrase: &Passphrase) -> Result<LotusKey, WalletError> {
        let mut inner = self.inner();
        if !inner.known.contains_key(address) {
            return Err(WalletError::NoKey { address: *address });
        }
        let opened = inner.folder.key(address)?.open(passphrase);
        inner
            .audit
            .append(&AuditRecord::export(address, opened.is_ok()))?;
        Ok(LotusKey::of(&opened?))
    }

    /// Unlocks all keys that the passphrase opens, and returns how many that are. Keys that came into the folder meanwhile
    /// are taken up. The request is recorded.
    ///
    /// # Errors
    /// There are keys and it opens none of them, a file cannot be read, or the record cannot be written.
    pub fn unlock(&self, passphrase: &Passphrase) -> Result<usize, WalletError> {
        let mut inner = self.inner();
        for sealed in inner.folder.keys()? {
            inner.known.insert(sealed.address, sealed.key_type);
        }
        let mut refused = None;
        let addresses: Vec<Address> = inner.known.keys().copied().collect();
        for address in addresses {
            match inner.folder.key(&address)?.open(passphrase) {
                Ok(key) => {
                    inner.unlocked.insert(address, key);
                }
                Err(error @ WalletError::WrongPassphrase { .. }) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        let refused = refused.filter(|_| inner.unlocked.is_empty());
        inner.audit.append(&AuditRecord::unlock(refused.is_none()))?;
        refused.map_or(Ok(inner.unlocked.len()), Err)
    }

    /// Forgets all keys; their memory is wiped. The request is recorded.
    ///
    /// # Errors
    /// The record cannot be written. The keys are locked all the same.
    pub fn lock(&self) -> Result<(), WalletError> {
        let mut inner = self.inner();
        inner.unlocked.clear();
        inner.audit.append(&AuditRecord::lock())
    }

    /// Signs a message with its sender's key.
    ///
    /// # Errors
    /// The message is not well formed or not understood, no rule of the policy allows it, the key is locked or
    /// not here, or the record cannot be written. Each is recorded as far as the disk allows.
    pub fn sign(&self, message: &Message) -> Result<SignedMessage, WalletError> {
        let mut inner = self.inner();
        let judged = self.judge(message).and_then(|rule| {
            let signed = inner.signed(message)?;
            Ok((rule, signed))
        });
        inner.audit.append(&AuditRecord::of_message(
            message,
            judged.as_ref().map(|(rule, _)| *rule),
        ))?;
        judged.map(|(_, signed)| signed)
    }

    /// Which rule allows the message; without a key, without signing.
    ///
    /// # Errors
    /// As for [`Wallet::sign`], but for the key.
    pub fn judge(&self, message: &Message) -> Result<usize, WalletError> {
        message::check(message)?;
        if !matches!(message.from.protocol(), Protocol::BLS | Protocol::Secp256k1) {
            return Err(WalletError::NotAKey {
                address: message.from,
            });
        }
        let call = Call::decode(&message.to, message.method_num, message.params.bytes())?;
        let request = Request {
            key: message.from,
            signing_type: SigningType::Message,
            method: call.name(),
            to: message.to,
            value: message.value.clone(),
            max_fee: message::Gas::of(message).max_fee(),
        };
        self.policy.allows(&request).map_err(WalletError::Denied)
    }
}

impl Inner {
    fn signed(&self, message: &Message) -> Result<SignedMessage, WalletError> {
        let address = message.from;
        let Some(key) = self.unlocked.get(&address) else {
            return Err(if self.known.contains_key(&address) {
                WalletError::Locked { address }
            } else {
                WalletError::NoKey { address }
            });
        };
        let signature = key.sign(&message::signing_bytes(message)?)?;
        let signed = SignedMessage {
            message: message.clone(),
            signature,
        };
        // A signature that was computed wrongly can give the key away.
        message::verify(&signed).map_err(|e| WalletError::Key(e.to_string()))?;
        Ok(signed)
    }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wallet")
            .field("keys", &self.list())
            .finish_non_exhaustive()
    }
}

/// Reads an address that holds a key.
///
/// # Errors
/// It is no address, or one without a key.
pub fn parse_key_address(text: &str) -> Result<Address, WalletError> {
    let address = address::parse(text)?;
    match address.protocol() {
        Protocol::BLS | Protocol::Secp256k1 => Ok(address),
        _ => Err(WalletError::NotAKey { address }),
    }
}

#[cfg(test)]
mod tests;
