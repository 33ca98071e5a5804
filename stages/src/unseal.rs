//! Gives data back from a sealed sector: a whole piece, or a range of it, byte for byte. Of a sector that took
//! data by an update it gives that data.
//!
//! **Reads** the replica and the description of the sector; its update, if there is one. What is not to be had in its
//! store is taken from the next one that has it. Of a store without local
//! paths only the range that is asked for.
//!
//! **Writes** the output file, under a temporary name until it is whole; layers into the attempt's own
//! folder, removed at the end.
//!
//! **Costs** what PC1 costs: the layers are computed again to take them off the replica. From an update data
//! comes as fast as it is read.
//!
//! **Fails**
//! - `no_such_piece`, `range_outside` (permanent): the sector has no such data.
//! - `not_described` (permanent): the sector was imported without its ticket; import it again with `--info`.
//! - `output_exists` (permanent): a file that is not this one's earlier result is in the way.
//! - `artifact_missing`, `artifact_damaged` (permanent): the sector's files are not whole.
//! - `store_refused` (permanent): the store refuses to be read; the message says why.
//! - `store_unavailable` (transient): the store does not answer; tried again.
//! - `no_space` (transient): free space; it is tried again.
//! - `bad_answer` (transient): another program gave too little; tried again. What it gave is not compared with
//!   the piece's commitment.
//! - `proofs_library` (transient): the library failed; tried again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filecoin_proofs_api::seal::get_unsealed_range;
use filecoin_proofs_api::{ProverId, RegisteredSealProof, SectorId, UnpaddedByteIndex, UnpaddedBytesAmount};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::remote::{self, Counter, Work};
use crate::sector_info::{SectorInfo, UpdateInfo, missing};
use crate::snap::decode::decode;
use crate::types::{LocalPath, PieceInfo};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The replica.
    pub sealed: Artifact,
    /// The description of the sector.
    pub sector_info: Artifact,
    /// The updated replica.
    #[serde(default)]
    pub update: Option<Artifact>,
    /// The description of the update; without it an update does not count.
    #[serde(default)]
    pub update_info: Option<Artifact>,
    /// Where to write the data.
    pub output: LocalPath,
    /// Which piece, from 0.
    #[serde(default)]
    pub piece: u64,
    /// The first byte of the piece's data to give.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes; to the end of the piece's data if nothing is said.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// Where the data is.
    pub unsealed_file: LocalPath,
    /// How many bytes it has.
    pub unsealed_bytes: u64,
    /// SHA-256 of the data, in hexadecimal.
    pub unsealed_sha256: String,
}

/// See the module.
#[derive(Clone)]
pub struct Unseal;

impl Stage for Unseal {
    const NAME: &'static str = "unseal";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("unseal.rs");
    const CLAIM: Claim = Claim::Read;
    type Input = Input;
    type Output = Output;

    fn costs(&self, input: &Value) -> Need {
        if !input["update_info"].is_null() {
            return proofs::one_core();
        }
        // The replica's size is the sector's.
        proofs::pc1(input["sealed"]["bytes"].as_u64().unwrap_or(64 << 30))
    }

    fn class(&self, input: &Value) -> String {
        // Decoding an update is other work than making a replica again.
        let kind = if input["update_info"].is_null() {
            "sealed"
        } else {
            "updated"
        };
        match input["sealed"]["bytes"].as_u64() {
            Some(bytes) => format!("{kind} {bytes} bytes"),
            None => String::new(),
        }
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
    /// The miner, as the proofs library names it.
    pub prover_id: ProverId,
    /// The sector.
    pub sector_id: SectorId,
    /// The commitment to the data.
    pub comm_d: [u8; 32],
    /// The randomness that the replica is bound to.
    pub ticket: [u8; 32],
    /// A folder for layers.
    pub cache_dir: PathBuf,
    /// The replica.
    pub sealed_file: PathBuf,
    /// The file that gets the data.
    pub unsealed_output: PathBuf,
    /// The first byte, without padding.
    pub offset: u64,
    /// How many bytes, without padding.
    pub num_bytes: u64,
}

/// What is kept until the data is there.
pub struct Held {
    work: Work,
    range: Wanted,
}

/// Where the groups that hold the range are written.
fn groups(work: &Work) -> PathBuf {
    work.0.join("groups")
}

impl WireStage for Unseal {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    /// Bytes written, without padding.
    type Answer = u64;
    type Held = Held;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let work = Work(cx.attempt_dir()?);
        let input = &Arc::new(to_be_had(cx, input).await?);
        let source = Source::open(cx, input, &work).await?;
        let range = wanted(&source, input)?;
        source.bring(cx, input, &range).await?;
        let (cx2, input) = (cx.clone(), input.clone());
        cx.blocking(move || {
            if let Some((update, of)) = &source.update {
                progress::phase(&cx2, "taking the data off the update");
                decode(update, &source.sealed, of, range.groups.clone(), &groups(&work))?;
                return publish(&work, &range, &input).map(|output| Next::End(Outcome::Done(output)));
            }
            progress::phase(&cx2, "computing the layers again");
            let info = &source.info;
            let (Some(ticket), Some(comm_d)) = (info.ticket, info.comm_d) else {
                let text = format!(
                    "{}/{} was imported without its ticket or data commitment; import it again with `--info`",
                    info.miner, info.sector.0
                );
                return Err(Failure::permanent("not_described", text));
            };
            let task = Task {
                registered_proof: info.proof_type.0,
                prover_id: proofs::prover_id(info.miner),
                sector_id: proofs::sector_id(info.sector),
                comm_d: comm_d.0,
                ticket: ticket.0,
                cache_dir: work.0.clone(),
                sealed_file: source.sealed.clone(),
                unsealed_output: groups(&work),
                offset: range.groups.start,
                num_bytes: range.groups.end - range.groups.start,
            };
            let held = Held { work, range };
            Ok(Next::Compute { task, held })
        })
        .await
    }

    fn compute(&self, task: Task, _: &Reporter) -> Result<u64, Failure> {
        let count = get_unsealed_range(
            task.registered_proof,
            task.cache_dir,
            task.sealed_file,
            task.unsealed_output,
            task.prover_id,
            task.sector_id,
            task.comm_d,
            task.ticket,
            UnpaddedByteIndex(task.offset),
            UnpaddedBytesAmount(task.num_bytes),
        )
        .map_err(|error| proofs::library_failure("unseal", &error))?;
        Ok(u64::from(count))
    }

    fn finish(&self, _: &StageContext, input: &Input, held: Held, count: u64) -> Result<Next<Self>, Failure> {
        let Held { work, range } = held;
        let bytes = range.groups.end - range.groups.start;
        let written = std::fs::metadata(groups(&work)).map_or(0, |meta| meta.len());
        if count != bytes || written != bytes {
            let text = format!("{count} of {bytes} bytes were given, and {written} written");
            return Err(Failure::transient("bad_answer", text));
        }
        publish(&work, &range, input).map(|output| Next::End(Outcome::Done(output)))
    }
}

/// The input with its artifacts where they can be had now: what was moved to another store or is not to be had in one
/// is found in the next that has it.
async fn to_be_had(cx: &StageContext, input: &Input) -> Result<Input, Failure> {
    let find = async |artifact: &Option<Artifact>| match artifact {
        Some(artifact) => cx.stores.find(artifact).await.map(Some),
        None => Ok(None),
    };
    Ok(Input {
        sealed: cx.stores.find(&input.sealed).await?,
        sector_info: cx.stores.find(&input.sector_info).await?,
        update: find(&input.update).await?,
        update_info: find(&input.update_info).await?,
        output: input.output.clone(),
        ..*input
    })
}

/// Where the data comes from.
struct Source {
    sealed: PathBuf,
    info: SectorInfo,
    update: Option<(PathBuf, UpdateInfo)>,
}

impl Source {
    async fn open(cx: &StageContext, input: &Input, work: &Work) -> Result<Self, Failure> {
        let (stores, described) = (&cx.stores, &input.sector_info);
        let info = SectorInfo::read(stores, &described.store, &described.key).await?;
        let info = info.ok_or_else(|| missing(described))?;
        let mut update = None;
        if let (Some(artifact), Some(described)) = (&input.update, &input.update_info) {
            let of = UpdateInfo::read(stores, &described.store, &described.key).await?;
            let of = of.ok_or_else(|| missing(described))?;
            if of.comm_r_old != info.comm_r {
                let text = format!(
                    "`{}` is an update of the replica {}, not of {}",
                    described.key, of.comm_r_old, info.comm_r
                );
                return Err(Failure::permanent("artifact_damaged", text));
            }
            update = Some((local_or_hole(cx, artifact, &work.0.join("update")).await?, of));
        }
        let sealed = local_or_hole(cx, &input.sealed, &work.0.join("sealed")).await?;
        Ok(Self { sealed, info, update })
    }

    /// Brings the range out of stores without local paths.
    async fn bring(&self, cx: &StageContext, input: &Input, range: &Wanted) -> Result<(), Failure> {
        let padded = range.groups.start / 127 * 128..range.groups.end / 127 * 128;
        let ranges = std::slice::from_ref(&padded);
        let update = input.update.as_ref().zip(self.update.as_ref());
        let update = update.map(|(artifact, (path, _))| (artifact, path));
        let counter = Counter::default();
        for (artifact, path) in std::iter::once((&input.sealed, &self.sealed)).chain(update) {
            let store = cx.stores.get(&artifact.store)?;
            if store.local_path(&artifact.key)?.is_some() {
                continue;
            }
            progress::phase(cx, format!("reading the range from `{}`", artifact.store));
            remote::fill(&**store, (&artifact.key, ""), ranges, path, &counter).await?;
        }
        let reads = counter.reads(1);
        if reads.bytes > 0 {
            tracing::info!(
                bytes = reads.bytes,
                requests = reads.requests,
                "read the range of a sector"
            );
        }
        Ok(())
    }

    fn pieces(&self) -> &[PieceInfo] {
        match &self.update {
            Some((_, update)) => &update.piece_infos,
            None => &self.info.piece_infos,
        }
    }

    /// Each replica has the sector's size.
    fn check_sizes(&self) -> Result<(), Failure> {
        let wanted = self.info.proof_type.sector_bytes();
        for path in std::iter::once(&self.sealed).chain(self.update.as_ref().map(|(path, _)| path)) {
            let size = std::fs::metadata(path)
                .map_err(|error| Failure::io("read", path, &error))?
                .len();
            if size != wanted {
                let text = format!("{} has {size} bytes instead of {wanted}", path.display());
                return Err(Failure::permanent("artifact_damaged", text));
            }
        }
        Ok(())
    }
}

/// The local path of an artifact; of one in a store without such paths, a file of its size with nothing in it.
async fn local_or_hole(cx: &StageContext, artifact: &Artifact, hole: &Path) -> Result<PathBuf, Failure> {
    let store = cx.stores.get(&artifact.store)?;
    if let Some(path) = store.local_path(&artifact.key)? {
        return Ok(path);
    }
    let stat = store.stat(&artifact.key).await?;
    remote::hole(hole, stat.ok_or_else(|| missing(artifact))?.bytes())?;
    Ok(hole.to_owned())
}

/// A range of the sector's data.
struct Wanted {
    target: PathBuf,
    /// Without padding, and from the beginning of the sector.
    start: u64,
    bytes: u64,
    /// The same, widened to whole groups of 127 bytes, which is what the library gives.
    groups: Range<u64>,
}

fn wanted(source: &Source, input: &Input) -> Result<Wanted, Failure> {
    let at = usize::try_from(input.piece).unwrap_or(usize::MAX);
    let pieces = source.pieces();
    let piece = pieces.get(at).ok_or_else(|| {
        let text = format!(
            "the sector has {} pieces, counted from 0; there is none at {at}",
            pieces.len()
        );
        Failure::permanent("no_such_piece", text)
    })?;
    let rest = piece
        .data_bytes
        .checked_sub(input.offset)
        .filter(|rest| *rest > 0);
    let bytes = input.bytes.or(rest).unwrap_or(0);
    if bytes == 0 || rest.is_none_or(|rest| bytes > rest) {
        let text = format!(
            "bytes {} to {} are not in the piece, whose data has {}",
            input.offset,
            input.offset.saturating_add(bytes),
            piece.data_bytes
        );
        return Err(Failure::permanent("range_outside", text));
    }
    let target = PathBuf::from(&input.output.0);
    if !target.is_absolute() {
        let text = format!(
            "{} is relative; the daemon needs an absolute path",
            target.display()
        );
        return Err(Failure::permanent("bad_path", text));
    }
    source.check_sizes()?;
    let start = piece.offset / 128 * 127 + input.offset;
    let first = start / 127 * 127;
    let last = (start + bytes).next_multiple_of(127);
    Ok(Wanted {
        target,
        start,
        bytes,
        groups: first..last,
    })
}

/// Cuts the range out of the groups, and gives it its name.
fn publish(work: &Work, range: &Wanted, input: &Input) -> Result<Output, Failure> {
    let (groups, target) = (groups(work), &range.target);
    let partial = durable::temporary(target);
    let failure = |error: io::Error| Failure::io("write", &partial, &error);
    let mut file = File::open(&groups).map_err(|error| Failure::io("open", &groups, &error))?;
    let skipped = range.start - range.groups.start;
    file.seek(SeekFrom::Start(skipped)).map_err(failure)?;
    let mut hasher = Hashing {
        inner: file.take(range.bytes),
        hash: Sha256::new(),
    };
    let mut out = File::create(&partial).map_err(failure)?;
    io::copy(&mut hasher, &mut out).map_err(failure)?;
    drop(out);
    let unsealed_sha256 = hex::encode(hasher.hash.finalize());
    refuse_to_overwrite(target, range.bytes, &unsealed_sha256)?;
    durable::publish(&partial, target).map_err(|error| Failure::io("publish", target, &error))?;
    Ok(Output {
        unsealed_file: input.output.clone(),
        unsealed_bytes: range.bytes,
        unsealed_sha256,
    })
}

/// An earlier attempt of ours may have left the very same file; anything else is the user's.
fn refuse_to_overwrite(target: &Path, bytes: u64, sha256: &str) -> Result<(), Failure> {
    let Ok(meta) = std::fs::metadata(target) else {
        return Ok(());
    };
    let same = meta.len() == bytes
        && std::fs::read(target).is_ok_and(|found| hex::encode(Sha256::digest(found)) == sha256);
    if same {
        return Ok(());
    }
    durable::remove(&durable::temporary(target)).map_err(|error| Failure::io("remove", target, &error))?;
    let text = format!(
        "{} is already there and is another file; move it away or name another output",
        target.display()
    );
    Err(Failure::permanent("output_exists", text))
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let mut prover = [0_u8; 32];
        (prover[0], prover[1]) = (232, 7);
        let task = format!(
            r#"{{"registered_proof":"StackedDrg2KiBV1_1","prover_id":{},"sector_id":7,"comm_d":{},"ticket":{},"cache_dir":"/mnt/remote/store1/cache/s-t01000-7","sealed_file":"/mnt/remote/store1/sealed/s-t01000-7","unsealed_output":"/mnt/nvme1/store/data/unsealed/baga6ea4seaqexample","offset":0,"num_bytes":2032}}"#,
            serde_json::to_string(&prover).unwrap(),
            ints(21),
            ints(1)
        );
        crate::golden::both_ways::<super::Unseal>(&task, "2032");
    }
}
