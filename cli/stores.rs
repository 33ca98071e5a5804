//! Stores in the configuration: `[stores.NAME]` in `config.toml`, what contradicts itself there, and opening them.

pub(crate) mod edit;
pub(crate) mod garbage;
pub(crate) mod moving;
pub(crate) mod probe;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use sealflow_engine::artifact::{ArtifactStore, Policy};
use sealflow_storage::store::{CredentialSource, FilesystemStore, S3Settings, S3Store};
use serde::{Deserialize, Serialize};

use crate::exit::{CliError, Kind as ExitKind};
use crate::home::Home;
use crate::span::Span;

/// What kind of store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A folder: a local disk, or a network file system that is mounted.
    #[default]
    Filesystem,
    /// A bucket of an S3 server.
    S3,
}

/// Where the credentials of a bucket come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Credentials {
    /// Variables of the daemon.
    #[default]
    Environment,
    /// A profile of the user's own file.
    Profile,
    /// A file of the store's own.
    File,
    /// What the cloud gives this machine.
    Instance,
    /// None: the bucket is public.
    Anonymous,
}

/// `[stores.NAME]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) kind: Kind,
    /// Of a folder: where it is; by default the folder of its name in the home.
    pub(crate) path: Option<PathBuf>,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) bucket: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) path_style: Option<bool>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) credentials_file: Option<PathBuf>,
    pub(crate) profile: Option<String>,
    pub(crate) concurrency: Option<usize>,
    pub(crate) bandwidth: Option<ByteSize>,
    pub(crate) timeout: Option<Span>,
    pub(crate) attempts: Option<u32>,
    pub(crate) part_size: Option<ByteSize>,
    pub(crate) weight: Option<u32>,
    pub(crate) capacity: Option<ByteSize>,
    pub(crate) reserve: Option<ByteSize>,
    pub(crate) read_only: bool,
    pub(crate) allow_miners: Vec<String>,
    pub(crate) deny_miners: Vec<String>,
}

impl Store {
    /// Where a folder is.
    pub(crate) fn folder(&self, name: &str) -> Option<PathBuf> {
        let path = || self.path.clone().unwrap_or_else(|| name.into());
        (self.kind == Kind::Filesystem).then(path)
    }

    /// Where it is, for people.
    pub(crate) fn place(&self, name: &str, home: &Home) -> String {
        if let Some(path) = self.folder(name) {
            return home.resolve(&path).display().to_string();
        }
        let settings = self.s3(home);
        let server = settings
            .endpoint
            .unwrap_or_else(|| format!("amazonaws ({})", settings.region));
        let parts = [server.as_str(), &settings.bucket, &settings.prefix];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("/")
    }

    /// What no single setting shows.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let wrong = match self.kind {
            Kind::Filesystem => self.not_for_folders(),
            Kind::S3 => self.not_for_buckets(),
        };
        wrong.or_else(|| self.policy().err())
    }

    fn not_for_folders(&self) -> Option<String> {
        let set = [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("bucket", self.bucket.is_some()),
            ("prefix", self.prefix.is_some()),
            ("path_style", self.path_style.is_some()),
            ("credentials", self.credentials.is_some()),
            ("credentials_file", self.credentials_file.is_some()),
            ("profile", self.profile.is_some()),
            ("concurrency", self.concurrency.is_some()),
            ("bandwidth", self.bandwidth.is_some()),
            ("timeout", self.timeout.is_some()),
            ("attempts", self.attempts.is_some()),
            ("part_size", self.part_size.is_some()),
        ];
        let (key, _) = set.into_iter().find(|(_, is_set)| *is_set)?;
        Some(format!(
            "`{key}` is for buckets: add `kind = \"s3\"`, or remove it"
        ))
    }

    fn not_for_buckets(&self) -> Option<String> {
        let given = self.credentials.unwrap_or_default();
        let parts = S3Settings::SMALLEST_PART..=sealflow_engine::artifact::READ_LIMIT;
        let wrong = [
            (
                self.path.is_some(),
                "`path` is for folders; a bucket has `prefix`",
            ),
            (
                self.bucket.as_deref().is_none_or(str::is_empty),
                "`bucket` is missing",
            ),
            (
                self.credentials_file.is_some() && given != Credentials::File,
                "`credentials_file` is only read with `credentials = \"file\"`",
            ),
            (
                self.credentials_file.is_none() && given == Credentials::File,
                "`credentials = \"file\"` needs `credentials_file`",
            ),
            (
                self.profile.is_some() && !matches!(given, Credentials::File | Credentials::Profile),
                "`profile` is only for `credentials = \"profile\"` and \"file\"",
            ),
            (
                self.endpoint.as_deref().is_some_and(bad_endpoint),
                "`endpoint` must be http://HOST[:PORT] or https://HOST[:PORT], without a password",
            ),
            (
                self.part_size.is_some_and(|size| !parts.contains(&size.as_u64())),
                "`part_size` must be 5 MiB to 32 MiB",
            ),
            (
                self.concurrency.is_some_and(|n| !(1..=256).contains(&n)),
                "`concurrency` must be 1 to 256",
            ),
            (
                self.attempts.is_some_and(|n| !(1..=20).contains(&n)),
                "`attempts` must be 1 to 20",
            ),
            (
                self.bandwidth.is_some_and(|rate| rate.as_u64() == 0),
                "`bandwidth` must be more than 0",
            ),
            (
                self.timeout.is_some_and(|span| span.0 < Duration::from_secs(1)),
                "`timeout` must be 1s or more",
            ),
        ];
        let found = wrong.into_iter().find(|(is_wrong, _)| *is_wrong);
        found.map(|(_, text)| text.to_owned())
    }

    fn policy(&self) -> Result<Policy, String> {
        let miners = |texts: &[String]| {
            let number = |text: &String| {
                let digits = text.strip_prefix("f0").or_else(|| text.strip_prefix("t0"));
                let parsed = digits.and_then(|digits| digits.parse().ok());
                parsed.ok_or_else(|| format!("`{text}` is no miner; write it as f01000"))
            };
            texts.iter().map(number).collect::<Result<Vec<u64>, _>>()
        };
        let defaults = Policy::default();
        Ok(Policy {
            weight: self.weight.unwrap_or(defaults.weight),
            capacity: self.capacity.map(|size| size.as_u64()),
            reserve: self.reserve.map_or(0, |size| size.as_u64()),
            read_only: self.read_only,
            allow_miners: miners(&self.allow_miners)?,
            deny_miners: miners(&self.deny_miners)?,
        })
    }

    fn s3(&self, home: &Home) -> S3Settings {
        let defaults = S3Settings::new(self.bucket.clone().unwrap_or_default());
        let profile = self.profile.clone();
        let credentials = match self.credentials.unwrap_or_default() {
            Credentials::Environment => CredentialSource::Environment,
            Credentials::Profile => CredentialSource::Profile(profile),
            Credentials::File => {
                let path = home.resolve(self.credentials_file.as_deref().unwrap_or(Path::new("")));
                CredentialSource::File { path, profile }
            }
            Credentials::Instance => CredentialSource::Instance,
            Credentials::Anonymous => CredentialSource::Anonymous,
        };
        S3Settings {
            // A server of one's own seldom has a name for each bucket.
            path_style: self.path_style.unwrap_or(self.endpoint.is_some()),
            endpoint: self.endpoint.clone(),
            region: self.region.clone().unwrap_or(defaults.region),
            prefix: self.prefix.clone().unwrap_or_default(),
            credentials,
            concurrency: self.concurrency.unwrap_or(defaults.concurrency),
            bandwidth: self.bandwidth.map(|rate| rate.as_u64()),
            timeout: self.timeout.map_or(defaults.timeout, |span| span.0),
            attempts: self.attempts.unwrap_or(defaults.attempts),
            part_bytes: self.part_size.map_or(defaults.part_bytes, |size| size.as_u64()),
            bucket: defaults.bucket,
        }
    }

    /// Opens the store. Nothing is asked of a server before it is used.
    pub(crate) fn open(&self, name: &str, home: &Home) -> anyhow::Result<Arc<dyn ArtifactStore>> {
        let wrong = |why: String| CliError::new(ExitKind::Config, format!("[stores.{name}]: {why}"));
        let policy = self.policy().map_err(wrong)?;
        match self.folder(name) {
            Some(path) => {
                let root = home.resolve(&path);
                let store = FilesystemStore::new(name, &root)
                    .with_context(|| format!("store `{name}` at {}", root.display()))?;
                Ok(Arc::new(store.with_policy(policy)))
            }
            None => {
                let store = S3Store::new(name, self.s3(home), policy);
                Ok(Arc::new(
                    store.map_err(|error| wrong(format!("`prefix`: {error}")))?,
                ))
            }
        }
    }
}

fn bad_endpoint(text: &str) -> bool {
    let parsed = text.parse::<url::Url>();
    !parsed.is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Option<String> {
        toml::from_str::<Store>(text).unwrap().contradiction()
    }

    #[test]
    fn contradictions_are_found() {
        assert_eq!(wrong("path = \"/mnt/a\"\nweight = 3\nreserve = \"1 TiB\""), None);
        assert_eq!(
            wrong("kind = \"s3\"\nbucket = \"b\"\nendpoint = \"http://minio:9000\""),
            None
        );
        for (text, says) in [
            ("bucket = \"b\"", "kind = \"s3\""),
            ("kind = \"s3\"", "`bucket` is missing"),
            ("kind = \"s3\"\nbucket = \"b\"\npath = \"x\"", "`path`"),
            (
                "kind = \"s3\"\nbucket = \"b\"\ncredentials = \"file\"",
                "needs `credentials_file`",
            ),
            (
                "kind = \"s3\"\nbucket = \"b\"\ncredentials_file = \"x\"",
                "only read with",
            ),
            ("kind = \"s3\"\nbucket = \"b\"\nprofile = \"x\"", "`profile`"),
            (
                "kind = \"s3\"\nbucket = \"b\"\nendpoint = \"https://a:b@host\"",
                "without a password",
            ),
            (
                "kind = \"s3\"\nbucket = \"b\"\nendpoint = \"ftp://host\"",
                "`endpoint`",
            ),
            (
                "kind = \"s3\"\nbucket = \"b\"\npart_size = \"1 MiB\"",
                "`part_size`",
            ),
            ("kind = \"s3\"\nbucket = \"b\"\nconcurrency = 0", "`concurrency`"),
            ("allow_miners = [\"1000\"]", "f01000"),
        ] {
            let found = wrong(text).unwrap_or_default();
            assert!(found.contains(says), "{text}: {found}");
        }
        assert!(
            toml::from_str::<Store>("secret_key = \"x\"").is_err(),
            "no secrets in this file"
        );
    }

    #[test]
    fn miners_are_let_in_or_not() {
        let store: Store =
            toml::from_str("allow_miners = [\"f01000\", \"t02\"]\ndeny_miners = [\"f02\"]").unwrap();
        let policy = store.policy().unwrap();
        assert!(policy.admits(1000) && !policy.admits(2) && !policy.admits(3));
    }
}
