//! The data directory: one folder holds everything that one sealflow owns.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
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

    pub(crate) fn demo(&self) -> PathBuf {
        self.root.join("demo")
    }

    fn token_file(&self) -> PathBuf {
        self.root.join("token")
    }

    fn listening_file(&self) -> PathBuf {
        self.root.join("daemon.json")
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
            let partial = durable::temporary(&path);
            durable::remove(&partial)?;
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(hex::encode(bytes).as_bytes())?;
            durable::publish(&partial, &path).with_context(|| format!("cannot write {}", path.display()))?;
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
