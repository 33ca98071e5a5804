//! Generating a parameter set, so that it can be killed at any instruction.
//!
//! Everything is written under temporary names and renamed once it is on disk; the manifest comes last, and a set
//! without one does not count. A lock file keeps two generators of one set apart: the second waits, and then finds
//! the set there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bellpepper_core::SynthesisError;
use bellperson::Circuit;
use blake2b_simd::State as Blake2b;
use blstrs::Scalar;
use rand::rngs::OsRng;
use sealflow_engine::durable;

use super::check::check_metered;
use super::dir::{
    FileRecord, GENERATING, Manifest, Origin, PARTIAL, ParamsDir, SetState, manifest_name, status,
};
use super::error::ParamsError;
use super::key::{Key, Secrets};
use super::progress::{Meter, Phase, Progress};
use super::qap::Assembly;
use super::set::{CircuitVisitor, ParamSet, SectorSize};

/// What [`generate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateReport {
    /// The set.
    pub set: ParamSet,
    /// False when the set was already there (another process may have made it while we waited).
    pub generated: bool,
    /// Its files.
    pub files: Vec<FileRecord>,
    /// Constraints of the circuit.
    pub constraints: u64,
    /// Points that were multiplied by scalars; zero when the set was already there.
    pub scalars: u64,
    /// Time in all, waiting included.
    pub elapsed: Duration,
}

/// Generates `set` into `dir` with fresh secrets, which are forgotten, unless it is already there and
/// good. A damaged or unfinished set is made anew.
///
/// Uses the global rayon pool. `progress` is called four times a second from another thread.
///
/// # Errors
/// A folder of published parameters, a sector size over 8 MiB, a full disk, I/O errors, and
/// [`ParamsError::Cancelled`] soon after `cancel` was set.
pub fn generate(
    set: ParamSet,
    dir: &ParamsDir,
    progress: impl Fn(Progress) + Sync,
    cancel: &AtomicBool,
) -> Result<GenerateReport, ParamsError> {
    if set.size > SectorSize::MiB8 {
        return Err(ParamsError::TooLargeToGenerate { set });
    }
    dir.prepare(Origin::Generated)?;
    let meter = Meter::new(Phase::Waiting);
    meter.watch(&progress, || generate_watched(set, dir, &meter, cancel))
}

fn generate_watched(
    set: ParamSet,
    dir: &ParamsDir,
    meter: &Meter,
    cancel: &AtomicBool,
) -> Result<GenerateReport, ParamsError> {
    let _lock = loop {
        match dir.try_lock(set)? {
            Some(lock) => break lock,
            None if cancel.load(Ordering::Relaxed) => return Err(cancelled(set)),
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    if status(dir, set)?.state == SetState::Present
        && let Some(manifest) = dir.read_manifest(set)?
        && check_metered(dir, set, meter, cancel)?.is_good()
    {
        return Ok(GenerateReport {
            set,
            generated: false,
            files: manifest.files,
            constraints: manifest.constraints,
            scalars: 0,
            elapsed: meter.elapsed(),
        });
    }
    clear(set, dir)?;
    let result = set.visit(Generator {
        set,
        dir,
        meter,
        cancel,
    })?;
    if result.is_err() {
        // The error matters more than what is left behind, which the next generator removes anyway.
        clear(set, dir).ok();
    }
    result
}

/// Removes what an interrupted generator left: the manifest first, so that what remains never looks complete.
fn clear(set: ParamSet, dir: &ParamsDir) -> Result<(), ParamsError> {
    let manifest = manifest_name(set);
    dir.remove(&manifest)?;
    dir.remove(&format!("{manifest}{PARTIAL}"))?;
    dir.sync()?;
    for name in set.files()?.names() {
        dir.remove(name)?;
        dir.remove(&format!("{name}{GENERATING}"))?;
    }
    Ok(())
}

fn cancelled(set: ParamSet) -> ParamsError {
    ParamsError::Cancelled {
        what: set.to_string(),
    }
}

/// Makes the parameters of whatever circuit it is shown.
struct Generator<'a> {
    set: ParamSet,
    dir: &'a ParamsDir,
    meter: &'a Meter,
    cancel: &'a AtomicBool,
}

impl CircuitVisitor for Generator<'_> {
    type Output = Result<GenerateReport, ParamsError>;

    fn visit<C: Circuit<Scalar>>(self, _: String, circuit: impl FnOnce() -> C) -> Self::Output {
        let failed = |source| {
            if self.cancel.load(Ordering::Relaxed) {
                return cancelled(self.set);
            }
            ParamsError::Synthesis {
                set: self.set,
                source,
            }
        };
        self.meter.begin(Phase::Synthesis, None, 0, 0);
        let mut assembly = Assembly::new(self.cancel, &self.meter.constraints);
        circuit().synthesize(&mut assembly).map_err(failed)?;
        let constraints = assembly.rows() as u64;
        self.meter.begin(Phase::Evaluation, None, 0, 0);
        let key = Key::new(assembly, &Secrets::random(&mut OsRng)).map_err(failed)?;
        if self.cancel.load(Ordering::Relaxed) {
            return Err(failed(SynthesisError::AssignmentMissing));
        }
        self.dir.require_space(&self.set, key.encoded_len() + RESERVE)?;

        let names = self.set.files()?;
        let (scalars, cost) = key.work();
        self.meter.begin(Phase::Multiplication, Some(scalars), cost, 0);
        let params = self.write(&names.params, |out| key.write(out, self.meter, self.cancel))?;
        self.meter.begin(Phase::Commit, None, 0, 0);
        let verifying_key = self.write(&names.verifying_key, |out| key.verifying_key().write(out))?;
        self.dir.sync()?;
        let files = vec![params, verifying_key];
        let manifest = Manifest {
            set: self.set.to_string(),
            sealflow: env!("CARGO_PKG_VERSION").to_owned(),
            constraints,
            files: files.clone(),
        };
        self.dir.write_manifest(self.set, &manifest)?;
        let elapsed = self.meter.elapsed();
        Ok(GenerateReport {
            set: self.set,
            generated: true,
            files,
            constraints,
            scalars,
            elapsed,
        })
    }
}

/// Bytes to leave free beside a set: its verifying key, its manifest, and some air.
const RESERVE: u64 = 16 << 20;

impl Generator<'_> {
    /// Writes one file under a temporary name, flushes it and renames it.
    fn write(
        &self,
        name: &str,
        content: impl FnOnce(&mut Hashing<BufWriter<File>>) -> io::Result<()>,
    ) -> Result<FileRecord, ParamsError> {
        let path = self.dir.path().join(name);
        let temporary = self.dir.path().join(format!("{name}{GENERATING}"));
        let write = || {
            let mut out = Hashing::new(BufWriter::with_capacity(1 << 20, File::create(&temporary)?));
            content(&mut out)?;
            out.flush()?;
            let record = FileRecord {
                name: name.to_owned(),
                bytes: out.bytes,
                blake2b: out.digest(),
            };
            durable::publish(&temporary, &path)?;
            Ok(record)
        };
        write().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::Interrupted if self.cancel.load(Ordering::Relaxed) => cancelled(self.set),
            _ => ParamsError::io("write", &path)(error),
        })
    }
}

/// A writer that takes the digest of what passes.
struct Hashing<W> {
    inner: W,
    hash: Blake2b,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hash: Blake2b::new(),
            bytes: 0,
        }
    }

    fn digest(&self) -> String {
        self.hash.finalize().to_hex().to_string()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
