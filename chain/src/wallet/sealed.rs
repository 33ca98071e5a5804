//! A key at rest: XChaCha20-Poly1305 under a key that argon2id derives from the passphrase, in a JSON file.
//!
//! All that the file says beside the ciphertext (address, type, costs, salt) is authenticated with it.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::RngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::types::Address;

use super::error::WalletError;
use super::key::{KeyType, SecretKey};
use super::passphrase::Passphrase;

const VERSION: u32 = 1;
const KDF: &str = "argon2id";
const CIPHER: &str = "xchacha20poly1305";

/// The most that a file may ask of this machine: a hostile file must not take all memory.
const COST_LIMIT: KdfCost = KdfCost {
    memory_kib: 1024 * 1024,
    passes: 32,
    lanes: 16,
};

/// What guessing a passphrase costs: the parameters of argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for KdfCost {
    /// The second choice of RFC 9106: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self {
            memory_kib: 64 * 1024,
            passes: 3,
            lanes: 4,
        }
    }
}

/// An encrypted key.
pub(super) struct SealedKey {
    pub(super) address: Address,
    pub(super) key_type: KeyType,
    header: Header,
    nonce: [u8; 24],
    ciphertext: Vec<u8>,
}

/// What is authenticated beside the secret. Its JSON is the associated data, so fields keep their order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    address: String,
    #[serde(rename = "type")]
    key_type: KeyType,
    kdf: String,
    cost: KdfCost,
    salt: String,
    cipher: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    header: Header,
    nonce: String,
    ciphertext: String,
}

impl SealedKey {
    /// Encrypts a key.
    pub(super) fn seal(key: &SecretKey, passphrase: &Passphrase, cost: KdfCost) -> Result<Self, WalletError> {
        let (mut salt, mut nonce) = ([0; 32], [0; 24]);
        OsRng.fill_bytes(&mut salt);
        OsRng.fill_bytes(&mut nonce);
        let address = key.address()?;
        let header = Header {
            version: VERSION,
            address: address.to_string(),
            key_type: key.key_type(),
            kdf: KDF.into(),
            cost,
            salt: hex::encode(salt),
            cipher: CIPHER.into(),
        };
        let derived = derive(passphrase, cost, &salt)?;
        let secret = key.to_bytes();
        let payload = Payload {
            msg: &secret,
            aad: &header.associated_data()?,
        };
        let ciphertext = XChaCha20Poly1305::new((&*derived).into())
            .encrypt(XNonce::from_slice(&nonce), payload)
            .map_err(|_| WalletError::Key("it cannot be encrypted".into()))?;
        Ok(Self {
            address,
            key_type: key.key_type(),
            header,
            nonce,
            ciphertext,
        })
    }

    /// Decrypts the key, and checks that it is the one that the file names.
    pub(super) fn open(&self, passphrase: &Passphrase) -> Result<SecretKey, WalletError> {
        let address = self.address;
        let wrong = || WalletError::WrongPassphrase { address };
        let salt = hex::decode(&self.header.salt).map_err(|_| wrong())?;
        let derived = derive(passphrase, self.header.cost, &salt)?;
        let payload = Payload {
            msg: &self.ciphertext,
            aad: &self.header.associated_data()?,
        };
        let secret = XChaCha20Poly1305::new((&*derived).into())
            .decrypt(XNonce::from_slice(&self.nonce), payload)
            .map_err(|_| wrong())?;
        let key = SecretKey::from_bytes(self.key_type, &Zeroizing::new(secret))?;
        if key.address()? != address {
            return Err(wrong());
        }
        Ok(key)
    }

    pub(super) fn to_json(&self) -> Result<String, WalletError> {
        let file = File {
            header: self.header.clone(),
            nonce: hex::encode(self.nonce),
            ciphertext: hex::encode(&self.ciphertext),
        };
        serde_json::to_string_pretty(&file).map_err(|e| WalletError::Key(e.to_string()))
    }

    /// Reads a file, or says what is wrong with it.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let file: File = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let header = file.header;
        if header.version != VERSION || header.kdf != KDF || header.cipher != CIPHER {
            return Err(format!(
                "version {}, {} and {} are not known to this program; it may be too old",
                header.version, header.kdf, header.cipher
            ));
        }
        let (cost, limit) = (header.cost, COST_LIMIT);
        if cost.memory_kib > limit.memory_kib || cost.passes > limit.passes || cost.lanes > limit.lanes {
            return Err(format!("its costs {cost:?} are above the limits {limit:?}"));
        }
        let address = super::parse_key_address(&header.address).map_err(|e| e.to_string())?;
        let mut nonce = [0; 24];
        hex::decode_to_slice(&file.nonce, &mut nonce).map_err(|e| format!("nonce: {e}"))?;
        let ciphertext = hex::decode(&file.ciphertext).map_err(|e| format!("ciphertext: {e}"))?;
        if hex::decode(&header.salt).map_err(|e| format!("salt: {e}"))?.len() < 16 {
            return Err("salt: it is too short".into());
        }
        Ok(Self {
            address,
            key_type: header.key_type,
            header,
            nonce,
            ciphertext,
        })
    }
}

impl Header {
    fn associated_data(&self) -> Result<Vec<u8>, WalletError> {
        serde_json::to_vec(self).map_err(|e| WalletError::Key(e.to_string()))
    }
}

fn derive(passphrase: &Passphrase, cost: KdfCost, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, WalletError> {
    let error = |e: argon2::Error| WalletError::Key(format!("argon2id with {cost:?}: {e}"));
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(error)?;
    let mut derived = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.bytes(), salt, &mut *derived)
        .map_err(error)?;
    Ok(derived)
}
