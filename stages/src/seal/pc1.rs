//! PreCommit1: computes the layers of the sector's graph (SDR), each from the one before. The longest
//! stage: hours at 32 GiB. Lotus calls it PreCommit1, Curio SDR.
//!
//! **Reads** `sc-02-data-tree-d.dat` in the sector's cache directory.
//!
//! **Writes** the layers into the cache directory. A layer counts once it is durable and listed in
//! `sealflow-layers.json` beside it; an attempt after a crash goes on behind the last counted layer, so
//! a crash costs at most the layer that was being computed. Layers of another ticket, sector or data
//! are removed. Another program whose executor does not say `resume_layers` gets a folder without layers,
//! and its layers count when it has answered.
//!
//! **Costs** one core (more with the feature `multicore-sdr`), two layers of memory, one sector's size
//! on disk for every layer.
//!
//! **Fails**
//! - `tree_d_missing` (permanent): the tree is not there or not that of comm_d; retry `tree_d`.
//! - `cache_locked` (transient): another process works in the cache directory.
//! - `no_space` (transient): free space; it is tried again and goes on where it was.
//! - `bad_answer` (transient): another program computed, and comm_d, the layers' sizes or their folder are
//!   not right; the layers themselves are looked at by PC2 and C1. Tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use filecoin_proofs_api::seal::{SealPreCommitPhase1Output, seal_pre_commit_phase1};
use filecoin_proofs_api::{PieceInfo as PieceInfoOfLibrary, ProverId, RegisteredSealProof, SectorId};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Progress, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use sealflow_engine::{crash, durable};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cache::{CacheDir, LAYERS};
use crate::types::{ActorId, CommD, PieceInfo, SealProof, SectorNumber, Ticket};
use crate::{progress, proofs, tree};

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
    /// The data, padded, with the sector's size: for other programs, which may look at it.
    #[serde(default)]
    pub unsealed: Option<Artifact>,
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
#[derive(Clone)]
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
fn watch(layers: &mut Layers, cache: &CacheDir, cx: &StageContext, stop: &AtomicBool) -> Result<(), Failure> {
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
    const BOUND: bool = true;
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        proofs::pc1(proofs::sector_bytes(input))
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        wire::in_process(self, cx, input).await
    }
}

/// The task as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The seal proof type.
    pub registered_proof: RegisteredSealProof,
    /// The folder with tree D, which gets the layers.
    pub cache_path: PathBuf,
    /// The data, padded, with the sector's size.
    pub in_path: PathBuf,
    /// An empty file that the data may be copied to.
    pub out_path: PathBuf,
    /// The miner, as the proofs library names it.
    pub prover_id: ProverId,
    /// The sector.
    pub sector_id: SectorId,
    /// The randomness that the replica is bound to.
    pub ticket: [u8; 32],
    /// The pieces, which fill the sector.
    pub piece_infos: Vec<PieceInfoOfLibrary>,
}

/// What is kept while the layers are computed.
pub struct Held {
    cache: CacheDir,
    /// Whether a layer that has its name is whole.
    resumes: bool,
    layers: Mutex<Layers>,
    resumed_layers: u32,
    /// The file that the library wants to copy the data to.
    unread: PathBuf,
}

impl WireStage for Pc1 {
    const DIALECT: Dialect = Dialect::Damocles;
    const WATCHES: bool = true;
    type Task = Task;
    type Answer = SealPreCommitPhase1Output;
    type Held = Held;

    async fn prepare(
        &self,
        cx: &StageContext,
        input: &Arc<Input>,
        place: Place,
    ) -> Result<Next<Self>, Failure> {
        let unread = cx.attempt_dir()?.join("unread");
        // The library wants a data file to copy and map, although the tree is there already. Zeros do:
        // it reads the tree and checks its root against the pieces, so no sector is copied. Another
        // program gets the data.
        let in_path = match (place, &input.unsealed) {
            (Place::Away { .. }, Some(unsealed)) => cx.local_path(unsealed)?,
            _ => PathBuf::from("/dev/zero"),
        };
        let resumes = match place {
            Place::Here => true,
            Place::Away { resume_layers } => resume_layers,
        };
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            let cache = CacheDir::lock(&cx2)?;
            if !tree::ends_with_root(&cache.tree_d(), input.proof_type.sector_bytes(), &input.comm_d.0) {
                let text = format!(
                    "{} is not the tree of {}; retry step tree_d",
                    cache.tree_d().display(),
                    input.comm_d
                );
                return Err(Failure::permanent("tree_d_missing", text));
            }
            let layers = if resumes {
                Layers::take_over(&input, &cache)?
            } else {
                cache.remove_all_but_tree_d()?;
                Layers::of(&input)
            };
            std::fs::File::create(&unread).map_err(|error| Failure::io("make", &unread, &error))?;
            let task = Task {
                registered_proof: input.proof_type.0,
                cache_path: cache.path().to_owned(),
                in_path,
                out_path: unread.clone(),
                prover_id: proofs::prover_id(input.miner),
                sector_id: proofs::sector_id(input.sector),
                ticket: input.ticket.0,
                piece_infos: proofs::library_pieces(&input.piece_infos, input.proof_type)?,
            };
            let held = Held {
                cache,
                resumes,
                resumed_layers: u32::try_from(layers.durable.len()).unwrap_or(u32::MAX),
                layers: Mutex::new(layers),
                unread,
            };
            Ok(Next::Compute { task, held })
        })
        .await
    }

    fn watch(&self, cx: &StageContext, _: &Input, held: &Held, stop: &AtomicBool) -> Result<(), Failure> {
        let mut layers = held.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if held.resumes {
            watch(&mut layers, &held.cache, cx, stop)
        } else {
            look(layers.proof_type.layers(), &held.cache, cx, stop);
            Ok(())
        }
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<SealPreCommitPhase1Output, Failure> {
        seal_pre_commit_phase1(
            task.registered_proof,
            task.cache_path,
            task.in_path,
            task.out_path,
            task.prover_id,
            task.sector_id,
            task.ticket,
            &task.piece_infos,
        )
        .map_err(|error| proofs::library_failure("PC1", &error))
    }

    fn finish(
        &self,
        _: &StageContext,
        input: &Input,
        held: Held,
        output: SealPreCommitPhase1Output,
    ) -> Result<Next<Self>, Failure> {
        let Held {
            cache,
            layers,
            resumed_layers,
            unread,
            ..
        } = held;
        durable::remove(&unread).map_err(|error| Failure::io("remove", &unread, &error))?;
        let bad = |what: String| Err(Failure::transient("bad_answer", what));
        if output.comm_d != input.comm_d.0 || output.registered_proof != input.proof_type.0 {
            return bad(format!(
                "PC1 answers for comm_d {} and {:?}, not for {} and {}",
                CommD(output.comm_d),
                output.registered_proof,
                input.comm_d,
                input.proof_type
            ));
        }
        let size = input.proof_type.sector_bytes();
        for layer in 1..=input.proof_type.layers() {
            let path = cache.layer(layer);
            if !std::fs::metadata(&path).is_ok_and(|meta| meta.len() == size) {
                return bad(format!("{} does not have {size} bytes", path.display()));
            }
        }
        let pc1_output = serde_json::to_value(&output)
            .map_err(|error| Failure::permanent("bad_output", format!("PC1 output: {error}")))?;
        if let Some(path) = strange_path(&pc1_output, cache.path()) {
            return bad(format!(
                "PC1 says that layers are in {path}, which is not the cache directory"
            ));
        }
        // A program that does not resume layers has written them all by now.
        let mut layers = layers.into_inner().unwrap_or_else(PoisonError::into_inner);
        layers.count(&cache)?;
        Ok(Next::End(Outcome::Done(Output {
            pc1_output,
            resumed_layers,
        })))
    }
}

/// A folder in PC1's answer that is not the cache directory. PC2 reads, and later steps remove, what lies there.
fn strange_path(pc1_output: &Value, cache: &Path) -> Option<String> {
    let labels = pc1_output["labels"].as_object()?.values().next()?;
    let stores = labels["labels"].as_array()?.iter();
    let mut paths = stores.chain([&pc1_output["config"]]).map(|store| &store["path"]);
    let strange = paths.find(|path| path.as_str().map(Path::new) != Some(cache))?;
    Some(strange.to_string())
}

/// Tells how many layers there are, of a program that may not have finished those that have their name.
fn look(total: u32, cache: &CacheDir, cx: &StageContext, stop: &AtomicBool) {
    let mut told = None;
    while !stop.load(Ordering::Acquire) {
        let begun = (1..=total).filter(|layer| cache.layer(*layer).exists()).count();
        if told != Some(begun) {
            told = Some(begun);
            progress::phase(cx, format!("layer {} of {total}", begun.max(1)));
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let mut prover = [0_u8; 32];
        (prover[0], prover[1]) = (232, 7);
        let task = format!(
            r#"{{"registered_proof":"StackedDrg2KiBV1_1","cache_path":"/mnt/nvme1/store/data/cache/s-t01000-7","in_path":"/mnt/nvme1/store/data/unsealed/s-t01000-7","out_path":"/mnt/nvme1/store/data/sealed/s-t01000-7","prover_id":{},"sector_id":7,"ticket":{},"piece_infos":[{{"commitment":{},"size":1016}},{{"commitment":{},"size":1016}}]}}"#,
            serde_json::to_string(&prover).unwrap(),
            ints(1),
            ints(171),
            ints(172)
        );
        let answer = format!(
            r#"{{"registered_proof":"StackedDrg2KiBV1_1","labels":{{"StackedDrg2KiBV1":{{"labels":[{{"path":"/mnt/nvme1/store/data/cache/s-t01000-7","id":"layer-1","size":64,"rows_to_discard":0}},{{"path":"/mnt/nvme1/store/data/cache/s-t01000-7","id":"layer-2","size":64,"rows_to_discard":0}}],"_h":null}}}},"config":{{"path":"/mnt/nvme1/store/data/cache/s-t01000-7","id":"tree-d","size":127,"rows_to_discard":0}},"comm_d":{}}}"#,
            ints(21)
        );
        crate::golden::both_ways::<Pc1>(&task, &answer);
        let mut answer: Value = serde_json::from_str(&answer).unwrap();
        let cache = Path::new("/mnt/nvme1/store/data/cache/s-t01000-7");
        assert_eq!(strange_path(&answer, cache), None);
        answer["labels"]["StackedDrg2KiBV1"]["labels"][1]["path"] = "/etc".into();
        assert_eq!(strange_path(&answer, cache).as_deref(), Some("\"/etc\""));
    }
}
