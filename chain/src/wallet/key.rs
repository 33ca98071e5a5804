//! Secret keys in memory: BLS and secp256k1. Both wipe themselves when they are dropped.

use blst::min_pk;
use k256::ecdsa::SigningKey;
use rand::RngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::message::blake2b_256;
use crate::types::{Address, Signature};

use super::error::WalletError;

/// Domain of BLS signatures on this network.
const DST: &[u8] = b"BLS_SIG_BLS12381G2_XMD:SHA-256_SSWU_RO_NUL_";

/// The kind of a key, by the name that Lotus gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// `bls`, addresses `f3…`. Workers need one.
    Bls,
    /// `secp256k1`, addresses `f1…`.
    Secp256k1,
}

/// A secret key.
pub(crate) enum SecretKey {
    Bls(min_pk::SecretKey),
    Secp256k1(Box<SigningKey>),
}

impl SecretKey {
    /// A new key from the system's randomness.
    pub(crate) fn generate(key_type: KeyType) -> Result<Self, WalletError> {
        match key_type {
            KeyType::Bls => {
                let mut seed = Zeroizing::new([0; 32]);
                OsRng.fill_bytes(&mut *seed);
                min_pk::SecretKey::key_gen(&*seed, &[])
                    .map(Self::Bls)
                    .map_err(|e| WalletError::Key(format!("{e:?}")))
            }
            KeyType::Secp256k1 => Ok(Self::Secp256k1(Box::new(SigningKey::random(&mut OsRng)))),
        }
    }

    /// Reads the 32 bytes of a key as Lotus keeps them: little-endian for BLS, big-endian for secp256k1.
    pub(crate) fn from_bytes(key_type: KeyType, bytes: &[u8]) -> Result<Self, WalletError> {
        let invalid = |reason: &str| WalletError::Key(reason.into());
        if bytes.len() != 32 {
            return Err(invalid("a private key has 32 bytes"));
        }
        match key_type {
            KeyType::Bls => {
                let mut big_endian = Zeroizing::new([0; 32]);
                big_endian.copy_from_slice(bytes);
                big_endian.reverse();
                min_pk::SecretKey::from_bytes(&*big_endian)
                    .map(Self::Bls)
                    .map_err(|_| invalid("it is no BLS private key (zero, or not below the group's order)"))
            }
            KeyType::Secp256k1 => SigningKey::from_slice(bytes)
                .map(|key| Self::Secp256k1(Box::new(key)))
                .map_err(|_| {
                    invalid("it is no secp256k1 private key (zero, or not below the group's order)")
                }),
        }
    }

    /// The bytes that [`SecretKey::from_bytes`] reads.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Bls(key) => {
                let big_endian = Zeroizing::new(key.to_bytes());
                Zeroizing::new(big_endian.iter().rev().copied().collect())
            }
            Self::Secp256k1(key) => {
                let bytes = Zeroizing::new(<[u8; 32]>::from(key.to_bytes()));
                Zeroizing::new(bytes.to_vec())
            }
        }
    }

    pub(crate) fn key_type(&self) -> KeyType {
        match self {
            Self::Bls(_) => KeyType::Bls,
            Self::Secp256k1(_) => KeyType::Secp256k1,
        }
    }

    /// The address that the key controls.
    pub(crate) fn address(&self) -> Result<Address, WalletError> {
        let address = match self {
            Self::Bls(key) => Address::new_bls(&key.sk_to_pk().compress()),
            Self::Secp256k1(key) => {
                Address::new_secp256k1(key.verifying_key().to_encoded_point(false).as_bytes())
            }
        };
        address.map_err(|e| WalletError::Key(e.to_string()))
    }

    /// Signs bytes as the network does: BLS over the bytes, secp256k1 over their blake2b-256, recoverable and
    /// without randomness (RFC 6979).
    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<Signature, WalletError> {
        match self {
            Self::Bls(key) => Ok(Signature::new_bls(key.sign(bytes, DST, &[]).compress().to_vec())),
            Self::Secp256k1(key) => {
                let (signature, recovery) = key
                    .sign_prehash_recoverable(&blake2b_256(bytes))
                    .map_err(|e| WalletError::Key(e.to_string()))?;
                let mut out = signature.to_bytes().to_vec();
                out.push(recovery.to_byte());
                Ok(Signature::new_secp256k1(out))
            }
        }
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} key (secret)", self.key_type())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{SignedMessage, signing_bytes, tests::vector, verify};

    /// The keys of the golden vectors (chain.md §2.11).
    fn keys() -> [(SecretKey, &'static str, &'static str); 2] {
        // The scalar 0x0201, little-endian.
        let mut le = [0; 32];
        le[0] = 1;
        le[1] = 2;
        let secp = SecretKey::from_bytes(KeyType::Secp256k1, &[7; 32]).unwrap();
        let bls = SecretKey::from_bytes(KeyType::Bls, &le).unwrap();
        [
            (
                bls,
                "f3wtvfjmsmhwxeyxihfz2steew7hb5jruqeejl3nc66gbidp6ecq5sibtc2rkdcyesvtv27xd7wqt4w6vl3wiq",
                "a1ba68414a1f745068a94fed769c9010749eceb2564aca1d34d661426b70216b735addde67e3bc348ad6fdb13ba6fc2a05b18df682d386c197d377194bb473712dbf1fa49adf88df5642723977932c33e43f883e53b6ee9e91d1a7214115c84c",
            ),
            (
                secp,
                "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y",
                "87db41ed4f4d6711480632ec0f301cf237b7377db5e0a10b103cd901105a282e4773c6d499c5d5d8b630756ac9b905d5f0658566c17854564aa2b7dc3a9f41cd00",
            ),
        ]
    }

    #[test]
    fn addresses_and_signatures_of_the_vectors() {
        for (key, address, signature) in keys() {
            assert_eq!(key.address().unwrap().to_string(), address);
            let message = vector(address);
            let ours = key.sign(&signing_bytes(&message).unwrap()).unwrap();
            assert_eq!(hex::encode(&ours.bytes), signature, "{address}");
        }
    }

    #[test]
    fn new_keys_differ_and_sign() {
        for key_type in [KeyType::Bls, KeyType::Secp256k1] {
            let key = SecretKey::generate(key_type).unwrap();
            let other = SecretKey::generate(key_type).unwrap();
            assert_ne!(key.address().unwrap(), other.address().unwrap());
            let again = SecretKey::from_bytes(key_type, &key.to_bytes()).unwrap();
            assert_eq!(again.address().unwrap(), key.address().unwrap());
            let message = vector(&key.address().unwrap().to_string());
            let signature = key.sign(&signing_bytes(&message).unwrap()).unwrap();
            verify(&SignedMessage { message, signature }).unwrap();
        }
    }

    #[test]
    fn bytes_that_are_no_key() {
        for key_type in [KeyType::Bls, KeyType::Secp256k1] {
            for bad in [&[][..], &[1; 31], &[1; 33], &[0; 32], &[0xff; 32]] {
                assert!(
                    SecretKey::from_bytes(key_type, bad).is_err(),
                    "{key_type:?} {bad:?}"
                );
            }
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let [(key, ..), _] = keys();
        assert_eq!(format!("{key:?}"), "Bls key (secret)");
    }
}
