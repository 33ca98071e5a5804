//! The site configuration: `config.toml` in the home. Unknown keys are errors; what is not set has the
//! value that `sealflow config default` shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use sealflow_chain::amount;
use sealflow_chain::control::ControlBook;
use sealflow_chain::messager::FeePolicy;
use sealflow_chain::wallet::parse_key_address;
use sealflow_engine::artifact::{SCRATCH, check_mark, placement};
use serde::{Deserialize, Serialize};

use crate::exit::{CliError, Kind};
use crate::span::Span;
use crate::stores::Store;

/// The commented default file. A test holds it against [`Config::default`].
pub(crate) const DEFAULT_TEXT: &str = include_str!("config.default.toml");

/// Which network the sectors are for. It chooses the folder of proof parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Network {
    /// A network of one's own, with parameters generated on this machine.
    #[default]
    Devnet,
    /// The calibration network, with published parameters.
    Calibration,
    /// The main network, with published parameters.
    Mainnet,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) network: Network,
    /// Names of stores that were emptied and removed: old records still say them.
    pub(crate) retired_stores: Vec<String>,
    pub(crate) daemon: Daemon,
    pub(crate) journal: Journal,
    pub(crate) scratch: Scratch,
    pub(crate) stores: BTreeMap<String, Store>,
    pub(crate) trash: Trash,
    pub(crate) params: Params,
    pub(crate) retention: Retention,
    pub(crate) backup: Backup,
    pub(crate) workers: Workers,
    pub(crate) chain: Chain,
    pub(crate) wallet: Wallet,
}

/// The network: which nodes tell about it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Chain {
    /// Nodes, as `http://HOST:PORT`, a multiaddress, or `TOKEN:` before either.
    pub(crate) nodes: Vec<String>,
    /// The token of all of them.
    pub(crate) token_file: Option<PathBuf>,
    /// How many epochs deep a message must be to be final.
    pub(crate) confidence: i64,
    /// The most that a message may cost, as `1 FIL`.
    pub(crate) max_fee: Option<String>,
    /// While the base fee is above this, nothing is sent.
    pub(crate) base_fee_max: Option<String>,
    /// Who sends what.
    pub(crate) control: Control,
}

/// Keys that send a miner's messages, by purpose, the preferred first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Control {
    /// Pre-commits.
    pub(crate) precommit: Vec<String>,
    /// Proofs of sectors, and updates.
    pub(crate) commit: Vec<String>,
    /// Window proofs, faults and recoveries.
    pub(crate) post: Vec<String>,
}

impl Control {
    /// The same, as the chain takes it.
    pub(crate) fn book(&self) -> anyhow::Result<ControlBook> {
        let keys = |name: &str, texts: &[String]| {
            let keys = texts.iter().map(|text| {
                parse_key_address(text).map_err(|error| {
                    CliError::new(Kind::Config, format!("[chain.control] {name}: `{text}`: {error}")).into()
                })
            });
            keys.collect::<anyhow::Result<Vec<_>>>()
        };
        Ok(ControlBook {
            precommit: keys("precommit", &self.precommit)?,
            commit: keys("commit", &self.commit)?,
            post: keys("post", &self.post)?,
        })
    }
}

impl Chain {
    /// What messages may cost.
    pub(crate) fn fees(&self) -> anyhow::Result<FeePolicy> {
        let fil = |name: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(amount::parse).transpose();
            parsed.map_err(|error| CliError::new(Kind::Config, format!("[chain] {name}: {error}")))
        };
        Ok(FeePolicy {
            max_fee: fil("max_fee", &self.max_fee)?,
            base_fee_max: fil("base_fee_max", &self.base_fee_max)?,
            ..FeePolicy::default()
        })
    }
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            token_file: None,
            confidence: 10,
            max_fee: None,
            base_fee_max: None,
            control: Control::default(),
        }
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A node may be named with its token.
        write!(
            f,
            "Chain({} nodes, confidence {})",
            self.nodes.len(),
            self.confidence
        )
    }
}

/// The wallet of the home.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wallet {
    /// The file with the passphrase of its keys; without it they stay locked.
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// Workers: executors on other machines, which connect to the daemon.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Workers {
    /// Where they connect to; nowhere unless it is set.
    pub(crate) listen: Option<std::net::SocketAddr>,
    /// How they and the daemon know each other.
    pub(crate) tls: Tls,
}

/// How workers and the daemon know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tls {
    /// Not encrypted; only where nobody else can listen.
    #[default]
    Off,
    /// The daemon shows a certificate, workers a token.
    Server,
    /// Both show certificates.
    Mutual,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Daemon {
    pub(crate) listen: std::net::SocketAddr,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Journal {
    pub(crate) url: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password_file: Option<PathBuf>,
    /// The folder of what is too large for the database, and of archives; the home unless it is set.
    pub(crate) files: Option<PathBuf>,
    /// Whether other daemons share the journal: one decides, the others stand by.
    pub(crate) standby: bool,
    /// How long the one that decides may be silent before another takes over.
    pub(crate) takeover: Span,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            url: None,
            user: None,
            password_file: None,
            files: None,
            standby: false,
            takeover: Span(std::time::Duration::from_secs(15)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Scratch {
    pub(crate) path: PathBuf,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            path: "scratch".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Params {
    pub(crate) path: Option<PathBuf>,
}

/// How long history is kept. What is not set is kept for ever.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Retention {
    /// How long ended runs stay in the journal before they are archived.
    pub(crate) archive_after: Option<Span>,
    /// How long after a run's end its archive is removed.
    pub(crate) delete_archives_after: Option<Span>,
}

/// What happens to files that nothing needs any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Trash {
    /// How long they stay in a store's trash before `store collect` removes them.
    pub(crate) keep: Span,
}

impl Default for Trash {
    fn default() -> Self {
        Self {
            keep: Span(std::time::Duration::from_secs(7 * 86_400)),
        }
    }
}

/// Scheduled backups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Backup {
    /// How often; never unless it is set.
    pub(crate) every: Option<Span>,
    /// How many are kept.
    pub(crate) keep: u32,
    /// Where.
    pub(crate) path: PathBuf,
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            every: None,
            keep: 7,
            path: "backup".into(),
        }
    }
}

impl Config {
    /// Reads the file; one that is not there says nothing.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let config: Self = read(path, Self::parse)?;
        match config.contradiction() {
            None => Ok(config),
            Some(what) => {
                let message = format!("the configuration {} is wrong: {what}", path.display());
                Err(CliError::new(Kind::Config, message).into())
            }
        }
    }

    /// Reads a text that is about to be a file, and looks for contradictions.
    pub(crate) fn checked(text: &str) -> anyhow::Result<Self> {
        let wrong =
            |what: String| CliError::new(Kind::Config, format!("the configuration would be wrong: {what}"));
        let config = Self::parse(text).map_err(|error| wrong(error.message().to_owned()))?;
        match config.contradiction() {
            None => Ok(config),
            Some(what) => Err(wrong(what).into()),
        }
    }

    /// What no single setting shows.
    fn contradiction(&self) -> Option<String> {
        let retention = &self.retention;
        if let (Some(archive), Some(delete)) = (retention.archive_after, retention.delete_archives_after)
            && delete <= archive
        {
            let text =
                "`delete_archives_after` must be more than `archive_after`: both count from a run's end";
            return Some(text.to_owned());
        }
        if let Err(error) = self
            .chain
            .fees()
            .map(drop)
            .and(self.chain.control.book().map(drop))
        {
            return Some(error.to_string());
        }
        if self.chain.confidence < 1 {
            return Some("`[chain] confidence` must be 1 or more".to_owned());
        }
        for (name, store) in &self.stores {
            if name == SCRATCH {
                return Some(format!("[stores.{name}]: this name is for [scratch]"));
            }
            if name == placement::ANY || name.contains(',') || check_mark(name).is_err() {
                return Some(format!(
                    "[stores.{name}]: a store's name has no `,`, `/` or dot before it, and is not `{}`",
                    placement::ANY
                ));
            }
            if let Some(wrong) = store.contradiction() {
                return Some(format!("[stores.{name}]: {wrong}"));
            }
        }
        (self.backup.keep == 0).then(|| "`[backup] keep` must be 1 or more".to_owned())
    }

    /// Reads the text of a file.
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The stores by name, with the default one where none of its name is configured.
    pub(crate) fn stores(&self) -> BTreeMap<String, Store> {
        let mut stores = self.stores.clone();
        stores.entry("store".to_owned()).or_default();
        stores
    }
}

/// Reads a TOML file; one that is not there says nothing.
pub(crate) fn read<T: Default>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, toml::de::Error>,
) -> anyhow::Result<T> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            return Err(CliError::new(Kind::Config, message).into());
        }
    };
    parse(&text).map_err(|error| {
        let wrong = CliError::new(Kind::Config, render(path, &text, &error));
        if error.message().contains("unknown field `executor`") {
            let hint = "[executor] has moved to machine.toml: cpu and memory to [machine], slots to concurrency of an executor; take the table away here";
            return wrong.hint(hint).into();
        }
        wrong.into()
    })
}

fn render(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let span = error.span().unwrap_or(0..0);
    let name = path.display().to_string();
    let snippet = Snippet::source(text)
        .path(&name)
        .annotation(AnnotationKind::Primary.span(span));
    let report = &[Level::ERROR.primary_title(error.message()).element(snippet)];
    let renderer = if console::colors_enabled_stderr() {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    format!("the configuration is wrong\n{}", renderer.render(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_says_the_defaults() {
        let shipped = Config::parse(DEFAULT_TEXT).unwrap();
        assert_eq!(
            shipped.stores(),
            Config::default().stores(),
            "as `init` writes it, all commented out"
        );
        assert_eq!(
            Config {
                stores: BTreeMap::new(),
                ..shipped
            },
            Config::default()
        );
        let live: String = DEFAULT_TEXT
            .lines()
            .filter_map(|line| match line.strip_prefix("#: ") {
                Some(setting) => Some(format!("{setting}\n")),
                None if line.starts_with('[') => Some(format!("{line}\n")),
                None => None,
            })
            .collect();
        let mut config = Config::parse(&live).unwrap();
        assert_eq!(
            config.stores.remove("store"),
            Some(Store {
                path: Some("store".into()),
                weight: Some(1),
                capacity: Some(bytesize::ByteSize::tib(100)),
                reserve: Some(bytesize::ByteSize(0)),
                ..Store::default()
            })
        );
        // What there is one of only where it is wanted has an example.
        let bucket = config.stores.remove("bucket").unwrap();
        assert_eq!(bucket.contradiction(), None);
        assert!(config.stores.is_empty());
        // What depends on the machine has an example in the file instead of a default.
        config.journal = Journal::default();
        config.params = Params::default();
        config.chain = Chain::default();
        config.wallet = Wallet::default();
        // What is off has an example too.
        assert!(config.workers.listen.take().is_some());
        assert!(config.backup.every.take().is_some());
        assert!(config.retention.archive_after.take().is_some());
        assert!(config.retention.delete_archives_after.take().is_some());
        assert_eq!(config, Config::default());
    }

    #[test]
    fn contradictions_are_found() {
        let wrong = |text: &str| Config::parse(text).unwrap().contradiction();
        assert_eq!(wrong("[retention]\narchive_after = \"90d\"\n"), None);
        assert!(
            wrong("[retention]\narchive_after = \"90d\"\ndelete_archives_after = \"90d\"\n")
                .is_some_and(|what| what.contains("delete_archives_after"))
        );
        assert!(wrong("[backup]\nkeep = 0\n").is_some());
        assert!(Config::parse("[backup]\nevery = \"often\"\n").is_err());
    }

    #[test]
    fn unknown_keys_are_errors() {
        let error = Config::parse("[daemon]\nlisten_on = 3\n").unwrap_err();
        assert!(error.message().contains("unknown field `listen_on`"), "{error}");
    }
}
