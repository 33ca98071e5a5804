//! Checking a set against the digests it should have: the published ones, or those its generator wrote down.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use blake2b_simd::State as Blake2b;

use super::dir::{Origin, ParamsDir};
use super::error::ParamsError;
use super::progress::{Meter, Phase, Progress};
use super::set::ParamSet;

/// Hex digits of BLAKE2b-512 that the network's table of digests keeps: the first 128 bits.
pub(crate) const PUBLISHED_DIGITS: usize = 32;

/// What was found out about one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what it should be.
    Good,
    /// It is not there.
    Missing,
    /// It is there, but nothing says that its generator ever finished.
    Unfinished,
    /// It was cut short or grew.
    WrongSize {
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// Its content changed.
    WrongDigest {
        /// The digest it should have, in hex.
        expected: String,
        /// The digest it has.
        found: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("good"),
            Self::Missing => f.write_str("missing"),
            Self::Unfinished => f.write_str("left by a generator that did not finish"),
            Self::WrongSize { expected, found } => write!(f, "has {found} bytes and should have {expected}"),
            Self::WrongDigest { expected, found } => {
                write!(f, "has digest {found} and should have {expected}")
            }
        }
    }
}

/// One file of a [`CheckReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCheck {
    /// The file.
    pub path: PathBuf,
    /// What was found out.
    pub verdict: Verdict,
}

/// What [`check`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The set.
    pub set: ParamSet,
    /// Which digests it was held against.
    pub origin: Origin,
    /// Its files.
    pub files: Vec<FileCheck>,
}

impl CheckReport {
    /// Whether every file is good.
    pub fn is_good(&self) -> bool {
        self.files.iter().all(|file| file.verdict == Verdict::Good)
    }

    /// What to do when the set is not good.
    pub fn advice(&self) -> Option<String> {
        let verb = match self.origin {
            Origin::Generated => "generate",
            Origin::Published => "fetch",
        };
        (!self.is_good()).then(|| format!("make it good again: sealflow params {verb} {}", self.set))
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_good() {
            return write!(f, "{} is good", self.set);
        }
        write!(f, "{} is not good", self.set)?;
        for file in self.files.iter().filter(|file| file.verdict != Verdict::Good) {
            write!(f, "; {} {}", file.path.display(), file.verdict)?;
        }
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

/// Reads all files of a set and compares their digests.
///
/// # Errors
/// I/O errors, and [`ParamsError::NotPublished`] for a set that should be a published one and is none. Files that
/// are missing or damaged are no errors but part of the report.
pub fn check(dir: &ParamsDir, set: ParamSet) -> Result<CheckReport, ParamsError> {
    check_with(dir, set, |_| (), &AtomicBool::new(false))
}

/// [`check`] for sets that take minutes to read: reports progress in bytes and can be cancelled.
///
/// # Errors
/// As [`check`], and [`ParamsError::Cancelled`] soon after `cancel` was set.
pub fn check_with(
    dir: &ParamsDir,
    set: ParamSet,
    progress: impl Fn(Progress) + Sync,
    cancel: &AtomicBool,
) -> Result<CheckReport, ParamsError> {
    let meter = Meter::new(Phase::Digest);
    meter.watch(&progress, || check_metered(dir, set, &meter, cancel))
}

pub(crate) fn check_metered(
    dir: &ParamsDir,
    set: ParamSet,
    meter: &Meter,
    cancel: &AtomicBool,
) -> Result<CheckReport, ParamsError> {
    let expected = expectations(dir, set)?;
    let mut total = 0;
    for file in &expected {
        total += dir.size_of(&file.name)?.unwrap_or(0);
    }
    meter.begin(Phase::Digest, Some(total), total, 0);
    let mut files = Vec::new();
    for Expected { name, bytes, digest } in expected {
        let path = dir.path().join(&name);
        let verdict = match (dir.size_of(&name)?, bytes, digest) {
            (None, ..) => Verdict::Missing,
            (Some(_), _, None) => Verdict::Unfinished,
            (Some(found), Some(expected), _) if found != expected => Verdict::WrongSize { expected, found },
            (Some(_), _, Some(expected)) => {
                let mut found = digest_of(&path, meter, cancel).map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => ParamsError::Cancelled {
                        what: format!("the check of {set}"),
                    },
                    _ => ParamsError::io("read", &path)(error),
                })?;
                found.truncate(expected.len());
                if found == expected {
                    Verdict::Good
                } else {
                    Verdict::WrongDigest { expected, found }
                }
            }
        };
        files.push(FileCheck { path, verdict });
    }
    Ok(CheckReport {
        set,
        origin: dir.origin(),
        files,
    })
}

/// What a file should be, as far as anything says.
struct Expected {
    name: String,
    bytes: Option<u64>,
    digest: Option<String>,
}

fn expectations(dir: &ParamsDir, set: ParamSet) -> Result<Vec<Expected>, ParamsError> {
    let files = set.files()?;
    let names = files.names();
    if dir.origin() == Origin::Published {
        let published = set.published()?.ok_or(ParamsError::NotPublished { set })?;
        let expected = names.into_iter().zip(published);
        return Ok(expected
            .map(|(name, data)| Expected {
                name: name.to_owned(),
                bytes: None,
                digest: Some(data.digest.clone()),
            })
            .collect());
    }
    // A manifest of another set says nothing about this one.
    let manifest = dir
        .read_manifest(set)?
        .filter(|manifest| manifest.set == set.to_string());
    Ok(names
        .into_iter()
        .map(|name| {
            let record = manifest
                .iter()
                .flat_map(|manifest| &manifest.files)
                .find(|file| file.name == name);
            Expected {
                name: name.to_owned(),
                bytes: record.map(|record| record.bytes),
                digest: record.map(|record| record.blake2b.clone()),
            }
        })
        .collect())
}

/// BLAKE2b-512 of a file, in hex.
fn digest_of(path: &Path, meter: &Meter, cancel: &AtomicBool) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Blake2b::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().to_hex().to_string()),
            Ok(read) => {
                hash.update(&buffer[..read]);
                meter.advance(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
