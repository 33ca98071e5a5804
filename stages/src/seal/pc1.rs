//! PreCommit1: computes the layers of the sector's graph (SDR), each from the one before. The longest
//! stage: hours at 32 GiB. Lotus calls it PreCommit1, Curio SDR.
//!
//! **Reads** `sc-02-data-tree-d.dat` in the sector's cache directory.
//!
//! **Writes** the layers into the cache directory. A layer counts once it is durable and listed in
//! `sealflow-layers.json` beside it; an attempt after a crash goes on behind the last counted layer, so
//! a crash costs at most the layer that was being computed. Layers of another ticket, sector or data
//! are removed.
//!
//! **Costs** one core (more with the feature `multicore-sdr`), two layers of memory, one sector's size
//! on disk for every layer.
//!
//! **Fails**
//! - `tree_d_missing` (permanent): the tree is not there or not that of comm_d; retry `tree_d`.
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `no_space` (transient): free space; it is tried again and goes on where it was.
//! - `proofs_library` (transient): the library failed; tried again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use filecoin_proofs_api::seal::seal_pre_commit_phase1;
use schemars::JsonSchema;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Progress, Stage, StageContext};
use sealflow_engine::{crash, durable};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{CacheDir, LAYERS};
use crate::types::{ActorId, CommD, PieceInfo, SealProof, SectorNumber, Ticket};
use crate::{proofs, tree};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type.
    pub proof_type: SealProof,
    /// The miner.
    pub miner: ActorId,
    /// The sector.
    pub sector: SectorNumber,
    /// The randomness that the replica is bound to.
    pub ticket: Ticket,
    /// The pieces in the sector.
    pub piece_infos: Vec<PieceInfo>,
    /// The data commitment.
    pub comm_d: CommD,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// What PC2 needs to know, in the proofs library's own form.
    pub pc1_output: Value,
    /// Layers that an earlier attempt had computed.
    pub resumed_layers: u32,
}

/// See the module.
pub struct Pc1;

/// Whose layers lie in the cache directory, and which of them count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Layers {
    proof_type: SealProof,
    miner: ActorId,
    sector: SectorNumber,
    ticket: Ticket,
    comm_d: CommD,
    /// Since this boot of the machine no power was lost, so a file is as it was written.
    boot: String,
    /// Layers that are durable.
    durable: Vec<u32>,
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Layers {
    fn of(input: &Input) -> Self {
        Self {
            proof_type: input.proof_type,
            miner: input.miner,
            sector: input.sector,
            ticket: input.ticket,
            comm_d: input.comm_d,
            boot: boot_id(),
            durable: Vec::new(),
        }
    }

    fn write(&self, cache: &CacheDir) -> Result<(), Failure> {
        let path = cache.path().join(LAYERS);
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        durable::write(&path, &bytes).map_err(|error| Failure::io("write", &path, &error))
    }

    /// Keeps the layers that an earlier attempt at the same replica made, and removes all others.
    fn take_over(input: &Input, cache: &CacheDir) -> Result<Self, Failure> {
        let found = std::fs::read(cache.path().join(LAYERS)).ok();
        let found = found.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let mut layers = Self::of(input);
        let same = found.filter(|found| {
            Self {
                boot: String::new(),
                durable: Vec::new(),
                ..found.clone()
            } == Self {
                boot: String::new(),
                durable: Vec::new(),
                ..layers.clone()
            }
        });
        let Some(found) = same else {
            cache.remove_layers()?;
            layers.write(cache)?;
            return Ok(layers);
        };
        let size = input.proof_type.sector_bytes();
        let mut counts = true;
        for layer in 1..=input.proof_type.layers() {
            let path = cache.layer(layer);
            let whole = std::fs::metadata(&path).is_ok_and(|meta| meta.len() == size);
            // The library renames a layer when it is written; only a power cut can undo that.
            let trusted =
                found.durable.contains(&layer) || (!found.boot.is_empty() && found.boot == layers.boot);
            counts &= whole && trusted;
            if counts {
                durable::sync_file(&path).map_err(|error| Failure::io("make durable", &path, &error))?;
                layers.durable.push(layer);
            } else {
                durable::remove(&path).map_err(|error| Failure::io("remove", &path, &error))?;
            }
        }
        layers.write(cache)?;
        Ok(layers)
    }

    /// Counts every layer that is there now.
    fn count(&mut self, cache: &CacheDir) -> Result<(), Failure> {
        for layer in 1..=self.proof_type.layers() {
            let path = cache.layer(layer);
            if self.durable.contains(&layer) || !path.exists() {
                continue;
            }
            crash::point("pc1.layer.before_sync");
            durable::sync_file(&path).map_err(|error| Failure::io("make durable", &path, &error))?;
            durable::sync_dir(cache.path())
                .map_err(|error| Failure::io("make durable", cache.path(), &error))?;
            self.durable.push(layer);
            self.write(cache)?;
            crash::point("pc1.layer.counted");
        }
        Ok(())
    }
}

/// How often the cache directory is looked at for a finished layer.
const LOOK: Duration = Duration::from_millis(50);

/// Counts layers while the library computes, and tells how far it is.
fn watch(mut layers: Layers, cache: &CacheDir, cx: &StageContext, stop: &AtomicBool) -> Result<(), Failure> {
    let total = layers.proof_type.layers();
    let mut told = None;
    let mut started = Instant::now();
    let mut layer_seconds: Option<f64> = None;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let before = layers.durable.len();
        layers.count(cache)?;
        let done = u32::try_from(layers.durable.len()).unwrap_or(u32::MAX);
        if layers.durable.len() > before && told.is_some() {
            layer_seconds = Some(started.elapsed().as_secs_f64());
            started = Instant::now();
        }
        if told != Some(done) {
            told = Some(done);
            let left = f64::from(total.saturating_sub(done));
            // One layer takes as long as the next: the first one measured gives the estimate.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "seconds, positive and small"
            )]
            let estimate_seconds = layer_seconds.map(|seconds| (seconds * left).round() as u64);
            cx.progress(Progress {
                phase: format!("layer {} of {total}", (done + 1).min(total)),
                done: Some(u64::from(done)),
                total: Some(u64::from(total)),
                unit: "layers".to_owned(),
                estimate_seconds,
            });
        }
        if stopping {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

impl Stage for Pc1 {
    const NAME: &'static str = "pc1";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("pc1.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::pc1(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let attempt = cx.attempt_dir()?;
        let cx2 = cx.clone();
        cx.blocking(move || compute(&cx2, &attempt, &input)).await
    }
}

fn compute(cx: &StageContext, attempt: &Path, input: &Input) -> Result<Outcome<Output>, Failure> {
    let cache = Arc::new(CacheDir::lock(cx)?);
    if !tree::ends_with_root(&cache.tree_d(), input.proof_type.sector_bytes(), &input.comm_d.0) {
        let text = format!(
            "{} is not the tree of {}; retry step tree_d",
            cache.tree_d().display(),
            input.comm_d
        );
        return Err(Failure::permanent("tree_d_missing", text));
    }
    let layers = Layers::take_over(input, &cache)?;
    let resumed_layers = u32::try_from(layers.durable.len()).unwrap_or(u32::MAX);
    // The library wants a data file to copy and map, although the tree is there already. Zeros do:
    // it reads the tree and checks its root against the pieces, so no sector is copied.
    let unread = attempt.join("unread");
    std::fs::File::create(&unread).map_err(|error| Failure::io("make", &unread, &error))?;
    let pieces = proofs::library_pieces(&input.piece_infos, input.proof_type)?;
    let stop = AtomicBool::new(false);
    let (result, watched) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(layers, &cache, cx, &stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            seal_pre_commit_phase1(
                input.proof_type.0,
                cache.path(),
                Path::new("/dev/zero"),
                &unread,
                proofs::prover_id(input.miner),
                proofs::sector_id(input.sector),
                input.ticket.0,
                &pieces,
            )
        }));
        stop.store(true, Ordering::Release);
        (result, watcher.join())
    });
    durable::remove(&unread).map_err(|error| Failure::io("remove", &unread, &error))?;
    let output = match result {
        Ok(result) => result.map_err(|error| proofs::library_failure("PC1", &error))?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    match watched {
        Ok(counted) => counted?,
        Err(panic) => std::panic::resume_unwind(panic),
    }
    let pc1_output = serde_json::to_value(&output)
        .map_err(|error| Failure::permanent("bad_output", format!("PC1 output: {error}")))?;
    Ok(Outcome::Done(Output {
        pc1_output,
        resumed_layers,
    }))
}
