//! The sector's cache directory: one folder from PC1 to C1, because the proofs library wants it so.
//! Each stage owns named files in it and removes them when an attempt starts, except counted layers.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::StageContext;

/// The name of the tree over the data, as the library looks for it.
pub(crate) const TREE_D: &str = "sc-02-data-tree-d.dat";

/// What PC1 says about the layers it has made.
pub(crate) const LAYERS: &str = "sealflow-layers.json";

/// What PC2 makes.
const PC2_FILES: [&str; 4] = ["sc-02-data-tree-c", "sc-02-data-tree-r-last", "p_aux", "t_aux"];

/// Held by the attempt that works in the directory.
const LOCK: &str = "lock";

/// The vanilla proofs that the synthetic feature makes.
const SYNTHETIC: &str = "syn-porep-vanilla-proofs";

/// The cache directory, locked for one attempt.
pub struct CacheDir {
    path: PathBuf,
    _lock: File,
}

impl CacheDir {
    /// Locks the directory of the run's subject, to change it.
    pub(crate) fn lock(cx: &StageContext) -> Result<Self, Failure> {
        Self::take(cx, File::try_lock)
    }

    /// Locks the directory of the run's subject, to read it beside others who read.
    pub(crate) fn lock_shared(cx: &StageContext) -> Result<Self, Failure> {
        Self::take(cx, File::try_lock_shared)
    }

    fn take(
        cx: &StageContext,
        lock_file: fn(&File) -> Result<(), fs::TryLockError>,
    ) -> Result<Self, Failure> {
        let path = cx.cache_dir()?;
        let lock_path = path.join(LOCK);
        let failure = |error: &std::io::Error| Failure::io("lock", &lock_path, error);
        let lock = File::create(&lock_path).map_err(|error| failure(&error))?;
        match lock_file(&lock) {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(Failure::transient(
                "cache_locked",
                format!("{} is used by another process", path.display()),
            )),
            Err(fs::TryLockError::Error(error)) => Err(failure(&error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn tree_d(&self) -> PathBuf {
        self.path.join(TREE_D)
    }

    /// The file of a layer, from 1.
    pub(crate) fn layer(&self, layer: u32) -> PathBuf {
        self.path.join(format!("sc-02-data-layer-{layer}.dat"))
    }

    /// Removes every file whose name begins with one of `prefixes`.
    pub(crate) fn remove(&self, prefixes: &[&str]) -> Result<(), Failure> {
        let failure = |error: &std::io::Error| Failure::io("clean", &self.path, error);
        for entry in fs::read_dir(&self.path).map_err(|error| failure(&error))? {
            let entry = entry.map_err(|error| failure(&error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if prefixes.iter().any(|prefix| name.starts_with(prefix)) {
                durable::remove(&entry.path())
                    .map_err(|error| Failure::io("remove", &entry.path(), &error))?;
            }
        }
        Ok(())
    }

    /// Removes what PC2 makes.
    pub(crate) fn remove_pc2(&self) -> Result<(), Failure> {
        self.remove(&PC2_FILES)
    }

    /// Removes what the synthetic feature makes.
    pub(crate) fn remove_synthetic(&self) -> Result<(), Failure> {
        self.remove(&[SYNTHETIC])
    }

    /// Whether the synthetic feature made what it makes.
    pub(crate) fn has_synthetic(&self) -> bool {
        // The library adds an ending to the name.
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with(SYNTHETIC))
    }

    /// Removes all but tree D and the lock, for a program that wants an empty directory.
    pub(crate) fn remove_all_but_tree_d(&self) -> Result<(), Failure> {
        let failure = |error: &std::io::Error| Failure::io("clean", &self.path, error);
        for entry in fs::read_dir(&self.path).map_err(|error| failure(&error))? {
            let entry = entry.map_err(|error| failure(&error))?;
            let name = entry.file_name();
            if name != TREE_D && name != LOCK {
                durable::remove(&entry.path())
                    .map_err(|error| Failure::io("remove", &entry.path(), &error))?;
            }
        }
        Ok(())
    }

    /// Removes layers and what is said about them.
    pub(crate) fn remove_layers(&self) -> Result<(), Failure> {
        self.remove(&["sc-02-data-layer-", LAYERS])
    }

    /// Makes all files durable whose names begin with one of `prefixes`, and the directory.
    fn sync(&self, prefixes: &[&str]) -> Result<(), Failure> {
        let failure = |error: &std::io::Error| Failure::io("make durable", &self.path, error);
        for entry in fs::read_dir(&self.path).map_err(|error| failure(&error))? {
            let entry = entry.map_err(|error| failure(&error))?;
            let name = entry.file_name();
            if prefixes
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                durable::sync_file(&entry.path()).map_err(|error| failure(&error))?;
            }
        }
        durable::sync_dir(&self.path).map_err(|error| failure(&error))
    }

    /// Makes what PC2 made durable.
    pub(crate) fn sync_pc2(&self) -> Result<(), Failure> {
        self.sync(&PC2_FILES)
    }

    /// Makes what the synthetic feature made durable.
    pub(crate) fn sync_synthetic(&self) -> Result<(), Failure> {
        self.sync(&[SYNTHETIC])
    }
}

/// Puts the files of a cache folder that proofs of spacetime and unsealing need (the auxiliary files and the
/// last tree) into a folder of their own, by link where the file system can.
pub(crate) fn stage_kept(from: &Path, to: &Path) -> Result<(), Failure> {
    durable::remove(to).map_err(|error| Failure::io("remove", to, &error))?;
    fs::create_dir_all(to).map_err(|error| Failure::io("make", to, &error))?;
    let failure = |error: &std::io::Error| Failure::io("list", from, error);
    for entry in fs::read_dir(from).map_err(|error| failure(&error))? {
        let file = entry.map_err(|error| failure(&error))?;
        let name = file.file_name();
        let text = name.to_string_lossy();
        if text.starts_with("sc-02-data-tree-r-last") || text == "p_aux" || text == "t_aux" {
            link(&file.path(), &to.join(&name))?;
        }
    }
    Ok(())
}

/// Links a file, or copies it where the file system cannot link.
pub(crate) fn link(from: &Path, to: &Path) -> Result<(), Failure> {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).map_err(|error| Failure::io("copy to", to, &error))?;
    }
    Ok(())
}
