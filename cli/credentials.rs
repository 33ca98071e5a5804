//! Who may be a worker: tokens and client certificates, by name. Only their hashes are kept, in `workers.json` of the
//! home, which the daemon reads again whenever somebody connects: what is revoked is refused at once.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rand::RngCore;
use sealflow_engine::durable;
use sealflow_executors::remote::{Access, Caller};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::exit::{CliError, Kind};
use crate::view::time;

/// What a worker shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shows {
    /// A token.
    Token,
    /// A client certificate.
    Certificate,
}

/// One credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credential {
    /// The worker that it is for.
    pub(crate) worker: String,
    /// What it is.
    pub(crate) shows: Shows,
    /// SHA-256 of the token, or of the certificate (DER), in hexadecimal.
    pub(crate) sha256: String,
    /// When it was made, milliseconds since 1970.
    pub(crate) made: u64,
    /// When it ends, milliseconds since 1970; nothing: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
}

/// All credentials of a home.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Credentials {
    pub(crate) workers: Vec<Credential>,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl Credentials {
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        durable::write_secret(path, &bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    fn add(&mut self, worker: &str, shows: Shows, secret: &[u8], valid: Option<Duration>) {
        let made = now_ms();
        let expires =
            valid.map(|valid| made.saturating_add(u64::try_from(valid.as_millis()).unwrap_or(u64::MAX)));
        self.workers.push(Credential {
            worker: worker.to_owned(),
            shows,
            sha256: hash(secret),
            made,
            expires,
        });
    }

    /// A new token for a worker. It is told once, and only its hash is kept.
    pub(crate) fn token(&mut self, worker: &str, valid: Option<Duration>) -> String {
        let mut bytes = [0; 32];
        rand::rngs::OsRng.fill_bytes(&mut bytes);
        let token = format!("sfw_{}", hex::encode(bytes));
        self.add(worker, Shows::Token, token.as_bytes(), valid);
        token
    }

    /// Lets a worker in that shows this certificate (DER).
    pub(crate) fn certificate(&mut self, worker: &str, der: &[u8], valid: Duration) {
        self.add(worker, Shows::Certificate, der, Some(valid));
    }

    /// Takes back everything that a worker was given. Says how much that was.
    pub(crate) fn revoke(&mut self, worker: &str) -> usize {
        let before = self.workers.len();
        self.workers.retain(|one| one.worker != worker);
        before - self.workers.len()
    }

    fn find(&self, shows: Shows, secret: &[u8]) -> Option<&Credential> {
        let wanted = hash(secret);
        let same = |one: &&Credential| {
            one.shows == shows && bool::from(one.sha256.as_bytes().ct_eq(wanted.as_bytes()))
        };
        self.workers.iter().find(same)
    }
}

/// Whether a worker may be called so.
pub(crate) fn check_name(worker: &str) -> anyhow::Result<()> {
    let letter = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if worker.is_empty() || worker.len() > 64 || !worker.chars().all(letter) {
        let text = format!("`{worker}` is no name: use 1 to 64 letters, digits, `_`, `-` and `.`");
        return Err(CliError::new(Kind::Usage, text).into());
    }
    Ok(())
}

/// Lets workers in by what the home says.
pub(crate) struct Door {
    pub(crate) credentials: PathBuf,
    /// The token of the API, which is none of a worker.
    pub(crate) api_token: String,
}

impl Access for Door {
    fn admit(&self, token: Option<&str>, certificates: &[Vec<u8>]) -> Result<Caller, String> {
        let known = Credentials::read(&self.credentials).map_err(|error| {
            tracing::error!(%error, "who may be a worker is not known");
            "the daemon cannot read who may be a worker".to_owned()
        })?;
        let shown = match (certificates.first(), token) {
            (Some(certificate), _) => known.find(Shows::Certificate, certificate),
            (None, Some(token)) => known.find(Shows::Token, token.as_bytes()),
            (None, None) => {
                return Err("show a token (--token-file) or a client certificate (--cert, --key)".to_owned());
            }
        };
        let Some(shown) = shown else {
            let api =
                token.is_some_and(|token| bool::from(token.as_bytes().ct_eq(self.api_token.as_bytes())));
            return Err(if api {
                "this is the token of the API, not one of the role executor; make one: sealflow executor token create \
                 WORKER"
                    .to_owned()
            } else {
                "these credentials are not known, or were revoked".to_owned()
            });
        };
        if let Some(expires) = shown.expires.filter(|expires| *expires <= now_ms()) {
            return Err(format!(
                "the credentials of `{}` ended at {}",
                shown.worker,
                time(expires)
            ));
        }
        Ok(Caller {
            worker: Some(shown.worker.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_let_in_by_what_they_show_until_it_ends_or_is_revoked() {
        let home = tempfile::tempdir().unwrap();
        let door = Door {
            credentials: home.path().join("workers.json"),
            api_token: "api".to_owned(),
        };
        let mut known = Credentials::default();
        let token = known.token("a", None);
        let old = known.token("b", Some(Duration::ZERO));
        known.certificate("c", b"certificate", Duration::from_secs(60));
        known.write(&door.credentials).unwrap();
        let text = std::fs::read_to_string(&door.credentials).unwrap();
        assert!(!text.contains(&token), "only the hash is kept");
        let admitted = |token: Option<&str>, certificates: &[Vec<u8>]| {
            door.admit(token, certificates)
                .map(|caller| caller.worker.unwrap())
        };
        assert_eq!(admitted(Some(&token), &[]).unwrap(), "a");
        assert_eq!(admitted(None, &[b"certificate".to_vec()]).unwrap(), "c");
        for (shown, part) in [
            (Some("api"), "role executor"),
            (Some("guess"), "not known"),
            (Some(&*old), "ended at"),
            (None, "show a token"),
        ] {
            let refused = admitted(shown, &[]).unwrap_err();
            assert!(refused.contains(part), "{refused}");
            assert!(
                !shown.is_some_and(|shown| refused.contains(shown) && shown != "api"),
                "{refused}"
            );
        }
        assert_eq!(known.revoke("a"), 1);
        known.write(&door.credentials).unwrap();
        assert!(admitted(Some(&token), &[]).is_err());
    }
}
