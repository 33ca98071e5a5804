//! The data directory: one folder holds everything that one sealflow owns.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::RngCore;
use sealflow_engine::durable;
use serde::{Deserialize, Serialize};

/// The data directory.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    root: PathBuf,
}

/// Where the daemon of a home listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) url: String,
    pub(crate) pid: u32,
    /// Where workers connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workers: Option<String>,
    /// Whether it is another daemon that listens there, and this one stands by.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) standby: bool,
}

impl Home {
    /// `--home`, `SEALFLOW_HOME`, or `~/.sealflow`.
    pub(crate) fn find(given: Option<&Path>) -> anyhow::Result<Self> {
        let root = match given {
            Some(path) => path.to_owned(),
            None => {
                let user = std::env::var_os("HOME").context("neither --home nor HOME is set")?;
                PathBuf::from(user).join(".sealflow")
            }
        };
        Ok(Self {
            root: std::path::absolute(root)?,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    pub(crate) fn machine(&self) -> PathBuf {
        self.root.join("machine.toml")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(crate) fn payloads(&self) -> PathBuf {
        self.root.join("payloads")
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.root.join("archive")
    }

    /// What attempts and executors in child processes say.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// How long work took.
    pub(crate) fn durations(&self) -> PathBuf {
        self.root.join("durations.json")
    }

    /// How scheduled backups went.
    pub(crate) fn backup_record(&self) -> PathBuf {
        self.root.join("backup.json")
    }

    /// There while a restore is under way: what is in the home is not to be used.
    pub(crate) fn restoring(&self) -> PathBuf {
        self.root.join("restore.unfinished")
    }

    pub(crate) fn workflows(&self) -> PathBuf {
        self.root.join("workflows")
    }

    /// The home of `sealflow demo`: one of its own, so that nothing of its network mixes with a real one's.
    pub(crate) fn of_demo(&self) -> Self {
        Self {
            root: self.root.join("demo"),
        }
    }

    /// The network of `sealflow demo`, and of `sealflow devnet` where nothing else is said.
    pub(crate) fn devnet(&self) -> PathBuf {
        self.root.join("devnet")
    }

    /// Keys that messages are signed with.
    pub(crate) fn wallet(&self) -> PathBuf {
        self.root.join("wallet")
    }

    /// What they may sign.
    pub(crate) fn wallet_policy(&self) -> PathBuf {
        self.wallet().join("policy.toml")
    }

    fn token_file(&self) -> PathBuf {
        self.root.join("token")
    }

    fn listening_file(&self) -> PathBuf {
        self.root.join("daemon.json")
    }

    /// Who may be a worker.
    pub(crate) fn credentials(&self) -> PathBuf {
        self.root.join("workers.json")
    }

    /// Certificates of the daemon, and of who signs them.
    pub(crate) fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// Results that a worker keeps until the daemon has them.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.root.join("outbox")
    }

    /// A path from the configuration: relative ones are inside the home.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Makes the folder and the token, if they are not there.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        for dir in [&self.root, &self.workflows()] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let path = self.token_file();
        if !path.exists() {
            let mut bytes = [0; 32];
            rand::rngs::OsRng.fill_bytes(&mut bytes);
            durable::write_secret(&path, hex::encode(bytes).as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// The secret that clients of this home's daemon show.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        let path = self.token_file();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Where a daemon said that it listens. Only the process that holds the home now is to be believed.
    pub(crate) fn listening(&self) -> Option<Listening> {
        serde_json::from_slice(&fs::read(self.listening_file()).ok()?).ok()
    }

    pub(crate) fn set_listening(&self, listening: Option<&Listening>) -> anyhow::Result<()> {
        let path = self.listening_file();
        match listening {
            Some(listening) => durable::write(&path, &serde_json::to_vec(listening)?)?,
            None => durable::remove(&path)?,
        }
        Ok(())
    }
}
