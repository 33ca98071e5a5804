//! Where parameter sets lie, and which of them are there.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use sealflow_engine::durable;
use serde::{Deserialize, Serialize};

use super::error::ParamsError;
use super::set::ParamSet;

/// Where the parameters of a folder come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Made in the network's ceremonies; the only ones that a public network accepts.
    Published,
    /// Made on this machine, for a devnet or tests.
    Generated,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Published => "published",
            Self::Generated => "generated",
        })
    }
}

/// A folder of parameter sets, all of one origin. This is what the library's `FIL_PROOFS_PARAMETER_CACHE` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamsDir {
    path: PathBuf,
    origin: Origin,
}

impl ParamsDir {
    /// The folder of published sets under `base`.
    pub fn published(base: impl AsRef<Path>) -> Self {
        Self {
            path: base.as_ref().join("published"),
            origin: Origin::Published,
        }
    }

    /// The same in another folder.
    #[must_use]
    pub fn in_folder(self, path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            ..self
        }
    }

    /// The folder of locally generated sets under `base`.
    pub fn generated(base: impl AsRef<Path>) -> Self {
        Self {
            path: base.as_ref().join("generated"),
            origin: Origin::Generated,
        }
    }

    /// The base folder when none is named: `sealflow/params` in the user's cache (`XDG_CACHE_HOME`, or `~/.cache`).
    ///
    /// # Errors
    /// [`ParamsError::NoCacheFolder`] when neither variable holds an absolute path.
    pub fn default_base() -> Result<PathBuf, ParamsError> {
        let absolute = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .map(|cache| cache.join("sealflow").join("params"))
            .ok_or(ParamsError::NoCacheFolder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its sets come from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Makes the folder, after checking that parameters of this origin belong there.
    pub(crate) fn prepare(&self, wanted: Origin) -> Result<(), ParamsError> {
        if self.origin != wanted {
            return Err(ParamsError::WrongFolder {
                path: self.path.clone(),
                is: self.origin,
                wanted,
            });
        }
        fs::create_dir_all(&self.path).map_err(ParamsError::io("create the folder", &self.path))
    }

    /// Refuses to start what cannot fit.
    pub(crate) fn require_space(&self, what: &dyn fmt::Display, needed: u64) -> Result<(), ParamsError> {
        let stat = rustix::fs::statvfs(&self.path)
            .map_err(io::Error::from)
            .map_err(ParamsError::io("ask for the free space of", &self.path))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < needed {
            return Err(ParamsError::NoSpace {
                path: self.path.clone(),
                what: what.to_string(),
                needed,
                free,
            });
        }
        Ok(())
    }

    /// Takes the lock of a set, which is held until the file is dropped; `None` when another process has it.
    pub(crate) fn try_lock(&self, set: ParamSet) -> Result<Option<File>, ParamsError> {
        let path = self.path.join(format!("{set}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ParamsError::io("open the lock", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(ParamsError::io("lock", &path)(error)),
        }
    }

    /// Makes renames in the folder survive a power cut.
    pub(crate) fn sync(&self) -> Result<(), ParamsError> {
        durable::sync_dir(&self.path).map_err(ParamsError::io("flush the folder", &self.path))
    }

    /// Removes a file that may not be there.
    pub(crate) fn remove(&self, name: &str) -> Result<(), ParamsError> {
        let path = self.path.join(name);
        durable::remove(&path).map_err(ParamsError::io("remove", &path))
    }

    /// The file that says that a generated set is complete.
    pub(crate) fn manifest_path(&self, set: ParamSet) -> PathBuf {
        self.path.join(manifest_name(set))
    }

    /// Reads the manifest of a generated set; `None` when there is none or it makes no sense.
    pub(crate) fn read_manifest(&self, set: ParamSet) -> Result<Option<Manifest>, ParamsError> {
        let path = self.manifest_path(set);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ParamsError::io("read", &path)(error)),
        }
    }

    /// Writes the manifest, which makes the set count. Everything it names must already be on disk.
    pub(crate) fn write_manifest(&self, set: ParamSet, manifest: &Manifest) -> Result<(), ParamsError> {
        let path = self.manifest_path(set);
        let write = || durable::write(&path, &serde_json::to_vec_pretty(manifest)?);
        write().map_err(ParamsError::io("write", &path))
    }

    /// Bytes of a file in the folder, if it is there.
    pub(crate) fn size_of(&self, name: &str) -> Result<Option<u64>, ParamsError> {
        let path = self.path.join(name);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ParamsError::io("read the size of", &path)(error)),
        }
    }
}

/// Ending of a file that a generator is writing. Without the generator's lock it is a leftover.
pub(crate) const GENERATING: &str = ".generating";
/// Ending of a file that is coming over the network; the next fetch goes on with it.
pub(crate) const PARTIAL: &str = ".partial";

pub(crate) fn manifest_name(set: ParamSet) -> String {
    format!("{set}.manifest.json")
}

/// What a complete generated set consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The set's name, against files put in the wrong place.
    pub(crate) set: String,
    /// Version of the generator.
    pub(crate) sealflow: String,
    /// Constraints of the circuit.
    pub(crate) constraints: u64,
    /// The files.
    pub(crate) files: Vec<FileRecord>,
}

/// A file of a set as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Name in the folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE2b-512 of the content, in hex. The published digests are the first 128 bits of the same.
    pub blake2b: String,
}

/// How much of a set is there. Sizes and names are looked at, digests are not; [`check`](super::check()) does that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetState {
    /// All of it.
    Present,
    /// Some of it, or a generated set that was not finished.
    Partial,
    /// Nothing.
    Missing,
}

/// One line of [`list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetStatus {
    /// The set.
    pub set: ParamSet,
    /// How much of it is there.
    pub state: SetState,
    /// Bytes on disk, incomplete downloads included.
    pub bytes: u64,
    /// Bytes it should have: known for generated sets; the network publishes digests without sizes.
    pub expected_bytes: Option<u64>,
    /// The folder it is in.
    pub path: PathBuf,
    /// Names of its files in that folder.
    pub files: Vec<String>,
}

/// Says of every set whether it is in `dir`, by sector size and kind.
///
/// # Errors
/// When the folder cannot be read; a folder that does not exist is an empty one.
pub fn list(dir: &ParamsDir) -> Result<Vec<SetStatus>, ParamsError> {
    ParamSet::all().map(|set| status(dir, set)).collect()
}

/// Says whether one set is in `dir`.
///
/// # Errors
/// As [`list`].
pub fn status(dir: &ParamsDir, set: ParamSet) -> Result<SetStatus, ParamsError> {
    let files = set.files()?;
    let names = files.names();
    let mut bytes = 0;
    let mut complete = true;
    for name in names {
        match dir.size_of(name)? {
            Some(size) => bytes += size,
            None => complete = false,
        }
        for ending in [GENERATING, PARTIAL] {
            bytes += dir.size_of(&format!("{name}{ending}"))?.unwrap_or(0);
        }
    }
    let mut expected_bytes = None;
    if dir.origin == Origin::Generated {
        let manifest = dir.read_manifest(set)?;
        expected_bytes = manifest
            .as_ref()
            .map(|manifest| manifest.files.iter().map(|file| file.bytes).sum());
        complete = match &manifest {
            Some(manifest) => manifest.describes(dir, set, names)?,
            None => false,
        };
    }
    let state = match (complete, bytes) {
        (true, _) => SetState::Present,
        (false, 0) => SetState::Missing,
        (false, _) => SetState::Partial,
    };
    let files = names.map(str::to_owned).to_vec();
    Ok(SetStatus {
        set,
        state,
        bytes,
        expected_bytes,
        path: dir.path.clone(),
        files,
    })
}

impl Manifest {
    /// Whether it is about `set` and the files are there with the sizes it says.
    fn describes(&self, dir: &ParamsDir, set: ParamSet, names: [&str; 2]) -> Result<bool, ParamsError> {
        if self.set != set.to_string() || !self.files.iter().map(|file| file.name.as_str()).eq(names) {
            return Ok(false);
        }
        for file in &self.files {
            if dir.size_of(&file.name)? != Some(file.bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
