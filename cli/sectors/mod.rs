//! The index of sectors: which store holds which files of which sector. What there is tell the stores alone, by their
//! lists of keys; the file `sectors.json` in the home only saves asking again for sizes, and remembers checks. So it is
//! right after a kill, and nothing is lost when it is removed.

pub(crate) mod check;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;

use anyhow::Context as _;
use sealflow_engine::durable;
use sealflow_stages::sectors::SectorId;
use serde::{Deserialize, Serialize};

pub(crate) use self::check::{Depth, check};
pub(crate) use self::scan::{Scan, refresh};
use crate::home::Home;

/// The version of the file.
const VERSION: u32 = 1;

/// Which store holds which files of which sector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    version: u32,
    /// By sector (`f01000/7`), then by store.
    sectors: BTreeMap<String, BTreeMap<String, Held>>,
}

/// What a store holds of a sector.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Its files and folders, by their keys.
    pub(crate) files: BTreeMap<String, Size>,
    /// The last look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checked: Option<Check>,
}

/// How large something in a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// Bytes; of a folder of all its files.
    pub(crate) bytes: u64,
    /// SHA-256 of its content, if it is a file and its store remembers that, or it was read once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
}

/// A look at a sector in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Whether every byte was read.
    pub(crate) deep: bool,
    /// What is wrong; nothing if it is whole and can be proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<String>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            version: VERSION,
            sectors: BTreeMap::new(),
        }
    }
}

impl Held {
    /// Whether the store tells what the sector is: without that nothing finds it.
    pub(crate) fn is_described(&self, id: SectorId) -> bool {
        [id.description(), id.update_description()]
            .iter()
            .any(|key| self.files.contains_key(key))
    }

    /// The bytes of all its files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|size| size.bytes).sum()
    }

    /// What is there, in words: `sealed cache`.
    pub(crate) fn parts(&self) -> String {
        let folders: BTreeSet<&str> = self
            .files
            .keys()
            .filter_map(|key| key.split('/').next())
            .collect();
        let all = sealflow_stages::sectors::FOLDERS
            .iter()
            .filter(|folder| folders.contains(**folder));
        all.copied().collect::<Vec<_>>().join(" ")
    }
}

impl Index {
    /// The index as it was left; an empty one if there is none, or it cannot be read: the stores tell all of it.
    pub(crate) fn read(home: &Home) -> Self {
        let found = std::fs::read(path(home))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        found.filter(|index| index.version == VERSION).unwrap_or_default()
    }

    /// All sectors, in order.
    pub(crate) fn sectors(&self) -> Vec<(SectorId, &BTreeMap<String, Held>)> {
        let all = self.sectors.iter();
        let mut all: Vec<_> = all
            .filter_map(|(id, held)| Some((SectorId::parse(id).ok()?, held)))
            .collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    /// Where one sector is.
    pub(crate) fn sector(&self, id: SectorId) -> Option<&BTreeMap<String, Held>> {
        self.sectors.get(&id.to_string())
    }

    fn held(&mut self, id: SectorId, store: &str) -> &mut Held {
        self.sectors
            .entry(id.to_string())
            .or_default()
            .entry(store.to_owned())
            .or_default()
    }

    /// Notes a look at a sector, and the digests that were learnt by it.
    pub(crate) fn note(&mut self, id: SectorId, store: &str, seen: &Held, check: Check) {
        let held = self.held(id, store);
        for (key, size) in &seen.files {
            if let Some(own) = held.files.get_mut(key).filter(|own| own.bytes == size.bytes) {
                own.digest.clone_from(&size.digest);
            }
        }
        held.checked = Some(check);
    }

    /// Changes the file: what another process changed meanwhile stays.
    pub(crate) fn change<T>(home: &Home, change: impl FnOnce(&mut Self) -> T) -> anyhow::Result<T> {
        let path = path(home);
        let lock = path.with_extension("lock");
        let held = File::create(&lock).and_then(|file| file.lock().map(|()| file));
        let _held = held.with_context(|| format!("cannot lock {}", lock.display()))?;
        let before = Self::read(home);
        let mut index = before.clone();
        let done = change(&mut index);
        index.sectors.retain(|_, stores| {
            stores.retain(|_, held| !held.files.is_empty());
            !stores.is_empty()
        });
        if index != before {
            let text = serde_json::to_vec(&index)?;
            durable::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(done)
    }
}

fn path(home: &Home) -> PathBuf {
    home.root().join("sectors.json")
}
