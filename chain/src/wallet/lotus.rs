//! Keys as `lotus wallet export` prints them: the hex of the JSON `{"Type":"bls","PrivateKey":"base64"}`.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::error::WalletError;
use super::key::{KeyType, SecretKey};

/// More than any export has.
const TEXT_LIMIT: usize = 4096;

/// A key in Lotus form. Its memory is wiped when it is dropped, and it prints nothing of itself.
pub struct LotusKey {
    key_type: KeyType,
    bytes: Zeroizing<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Json {
    #[serde(rename = "Type")]
    key_type: String,
    private_key: String,
}

impl Drop for Json {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

impl LotusKey {
    /// Reads the text of an export: hex of JSON, or the JSON itself.
    ///
    /// # Errors
    /// The text is neither, the type is not one that the wallet has, or the key is none.
    pub fn parse(text: &str) -> Result<Self, WalletError> {
        // The text is a secret, so errors say nothing of it.
        let bad = |reason: &str| WalletError::Key(format!("the text is no Lotus key: {reason}"));
        let text = text.trim();
        if text.len() > TEXT_LIMIT {
            return Err(bad("it is too long"));
        }
        let json = if text.starts_with('{') {
            Zeroizing::new(text.as_bytes().to_vec())
        } else {
            Zeroizing::new(hex::decode(text).map_err(|_| bad("it is neither hex nor JSON"))?)
        };
        let json: Json =
            serde_json::from_slice(&json).map_err(|_| bad("its JSON has no `Type` and `PrivateKey`"))?;
        let key_type = match json.key_type.as_str() {
            "bls" => KeyType::Bls,
            "secp256k1" => KeyType::Secp256k1,
            _ => return Err(bad("its type is neither `bls` nor `secp256k1`")),
        };
        let bytes = BASE64
            .decode(json.private_key.as_bytes())
            .map_err(|_| bad("`PrivateKey` is not base64"))?;
        let key = Self {
            key_type,
            bytes: Zeroizing::new(bytes),
        };
        key.secret()?;
        Ok(key)
    }

    /// The text that `lotus wallet import` takes. Whoever has it has the key.
    pub fn export(&self) -> Zeroizing<String> {
        let json = Json {
            key_type: match self.key_type {
                KeyType::Bls => "bls".into(),
                KeyType::Secp256k1 => "secp256k1".into(),
            },
            private_key: BASE64.encode(&self.bytes),
        };
        // Two strings cannot fail to be written.
        let text = Zeroizing::new(serde_json::to_vec(&json).unwrap_or_default());
        Zeroizing::new(hex::encode(&*text))
    }

    pub(crate) fn of(key: &SecretKey) -> Self {
        Self {
            key_type: key.key_type(),
            bytes: key.to_bytes(),
        }
    }

    pub(crate) fn secret(&self) -> Result<SecretKey, WalletError> {
        SecretKey::from_bytes(self.key_type, &self.bytes)
    }
}

impl std::fmt::Debug for LotusKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} key (secret)", self.key_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hex of the export of the secp256k1 key 07*32 (chain.md §2.11).
    fn export() -> String {
        let key = BASE64.encode(&[7; 32]);
        hex::encode(format!(r#"{{"Type":"secp256k1","PrivateKey":"{key}"}}"#))
    }

    #[test]
    fn an_export_is_read_and_made_again() {
        let key = LotusKey::parse(&format!("{}\n", export())).unwrap();
        assert_eq!(
            key.secret().unwrap().address().unwrap().to_string(),
            "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y"
        );
        assert_eq!(*key.export(), export());
        let json = String::from_utf8(hex::decode(export()).unwrap()).unwrap();
        assert_eq!(*LotusKey::parse(&json).unwrap().export(), export());
    }

    #[test]
    fn texts_that_are_no_key() {
        let zero = BASE64.encode(&[0; 32]);
        for (text, reason) in [
            ("".to_owned(), "no Lotus key"),
            ("zz".into(), "neither hex nor JSON"),
            (hex::encode("{}"), "no `Type`"),
            (
                "{\"Type\":\"delegated\",\"PrivateKey\":\"\"}".into(),
                "neither `bls`",
            ),
            ("{\"Type\":\"bls\",\"PrivateKey\":\"%\"}".into(), "base64"),
            ("{\"Type\":\"bls\",\"PrivateKey\":\"AQID\"}".into(), "32 bytes"),
            (
                format!("{{\"Type\":\"bls\",\"PrivateKey\":\"{zero}\"}}"),
                "no BLS private key",
            ),
            ("ab".repeat(5000), "too long"),
        ] {
            let error = LotusKey::parse(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn errors_and_debug_say_nothing_of_the_secret() {
        let key = LotusKey::parse(&export()).unwrap();
        assert!(!format!("{key:?}").contains("BwcH"));
        let broken = hex::encode(r#"{"Type":"bls","PrivateKey":"c2VjcmV0c2VjcmV0"}"#);
        let error = format!("{:?}", LotusKey::parse(&broken).unwrap_err());
        assert!(!error.contains("c2Vj") && !error.contains("secret"), "{error}");
    }
}
