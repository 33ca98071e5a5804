//! Tokens: JWT with HS256 as Lotus makes them, and the four permissions.

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use rand::RngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What a token allows. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Reading; nobody needs a token for it.
    Read,
    /// Pushing messages.
    Write,
    /// Signing with the devnet's own keys.
    Sign,
    /// Commanding the devnet.
    Admin,
}

impl Permission {
    /// All of them, from small to large.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Sign, Self::Admin];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sign => "sign",
            Self::Admin => "admin",
        }
    }
}

/// The header of all tokens.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
/// The most bytes of a token.
const TOKEN_LIMIT: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Payload {
    #[serde(rename = "Allow")]
    allow: Vec<Permission>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

/// What tokens are signed with.
pub(in crate::devnet) struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    pub(in crate::devnet) fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(&mut *bytes);
        Self(bytes)
    }

    pub(in crate::devnet) fn read(bytes: &[u8]) -> Option<Self> {
        <[u8; 32]>::try_from(bytes)
            .ok()
            .map(|bytes| Self(Zeroizing::new(bytes)))
    }

    pub(in crate::devnet) fn bytes(&self) -> &[u8] {
        &*self.0
    }

    fn mac(&self, text: &str) -> Hmac<Sha256> {
        // HMAC takes keys of any length.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&*self.0).expect("HMAC takes any key");
        mac.update(text.as_bytes());
        mac
    }

    /// A token for a permission and those that it includes.
    pub(in crate::devnet) fn token(&self, permission: Permission) -> String {
        let allow = Permission::ALL
            .into_iter()
            .filter(|one| *one <= permission)
            .collect();
        let payload = serde_json::to_vec(&Payload { allow }).unwrap_or_default();
        let (header, payload) = (
            BASE64URL_NOPAD.encode(HEADER.as_bytes()),
            BASE64URL_NOPAD.encode(&payload),
        );
        let signed = format!("{header}.{payload}");
        let signature = BASE64URL_NOPAD.encode(&self.mac(&signed).finalize().into_bytes());
        format!("{signed}.{signature}")
    }

    /// What a token allows; nothing where it is not ours.
    pub(in crate::devnet) fn verify(&self, token: &str) -> Option<Vec<Permission>> {
        if token.len() > TOKEN_LIMIT {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
        self.mac(signed).verify_slice(&signature).ok()?;
        let (header, payload) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).ok()?).ok()?;
        let payload = BASE64URL_NOPAD.decode(payload.as_bytes()).ok()?;
        let payload: Payload = serde_json::from_slice(&payload).ok()?;
        (header.alg == "HS256").then_some(payload.allow)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_allows_what_it_says_and_no_other_is_taken() {
        let secret = Secret::generate();
        let token = secret.token(Permission::Sign);
        use Permission::{Read, Sign, Write};
        assert_eq!(secret.verify(&token), Some(vec![Read, Write, Sign]));
        assert_eq!(Secret::generate().verify(&token), None);
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(bytes).unwrap();
            assert_eq!(secret.verify(&other), None, "{other}");
        }
        let (signed, _) = token.rsplit_once('.').unwrap();
        for bad in ["", ".", "..", signed, &format!("{signed}.")] {
            assert_eq!(secret.verify(bad), None);
        }
        // The form of RFC 7515, by hand.
        let none = BASE64URL_NOPAD.encode(br#"{"alg":"none"}"#);
        let payload = token.split('.').nth(1).unwrap();
        assert_eq!(secret.verify(&format!("{none}.{payload}.")), None);
    }
}
