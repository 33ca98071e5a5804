//! Gives data back from a sealed sector: a whole piece, or a range of it, byte for byte. Of a sector that took
//! data by an update it gives that data.
//!
//! **Reads** the replica and the description of the sector; its update, if there is one.
//!
//! **Writes** the output file, under a temporary name until it is whole; layers into the attempt's own
//! folder, removed at the end.
//!
//! **Costs** what PC1 costs: the layers are computed again to take them off the replica. From an update data
//! comes as fast as it is read.
//!
//! **Fails**
//! - `no_such_piece`, `range_outside` (permanent): the sector has no such data.
//! - `output_exists` (permanent): a file that is not this one's earlier result is in the way.
//! - `artifact_missing`, `artifact_damaged` (permanent): the sector's files are not whole.
//! - `no_space` (transient): free space; it is tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use filecoin_proofs_api::seal::get_unsealed_range;
use filecoin_proofs_api::{UnpaddedByteIndex, UnpaddedBytesAmount};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::sector_info::{SectorInfo, UpdateInfo};
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
        let source = Source::open(cx, &input)?;
        let work = cx.attempt_dir()?;
        let cx2 = cx.clone();
        cx.blocking(move || {
            let result = unseal(&cx2, &source, &work, &input);
            durable::remove(&work).map_err(|error| Failure::io("remove", &work, &error))?;
            // The run's and the sector's folders go too, if nothing else is in them.
            for folder in work.ancestors().skip(1).take(2) {
                if std::fs::remove_dir(folder).is_err() {
                    break;
                }
            }
            result.map(Outcome::Done)
        })
        .await
    }
}

/// Where the data comes from.
struct Source {
    sealed: PathBuf,
    info: SectorInfo,
    update: Option<(PathBuf, UpdateInfo)>,
}

impl Source {
    fn open(cx: &StageContext, input: &Input) -> Result<Self, Failure> {
        let described = cx.local_path(&input.sector_info)?;
        let info = SectorInfo::read(&described)?;
        let mut update = None;
        if let (Some(artifact), Some(described)) = (&input.update, &input.update_info) {
            let described = cx.local_path(described)?;
            let of = UpdateInfo::read(&described)?;
            if of.comm_r_old != info.comm_r {
                let text = format!(
                    "{} is an update of the replica {}, not of {}",
                    described.display(),
                    of.comm_r_old,
                    info.comm_r
                );
                return Err(Failure::permanent("artifact_damaged", text));
            }
            update = Some((cx.local_path(artifact)?, of));
        }
        let sealed = cx.local_path(&input.sealed)?;
        Ok(Self { sealed, info, update })
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

    /// Writes a range of the sector's data that begins and ends between groups of 127 bytes.
    fn groups(&self, cx: &StageContext, work: &Path, range: Range<u64>, to: &Path) -> Result<(), Failure> {
        if let Some((update, of)) = &self.update {
            progress::phase(cx, "taking the data off the update");
            return decode(update, &self.sealed, of, range, to);
        }
        progress::phase(cx, "computing the layers again");
        let bytes = range.end - range.start;
        let count = get_unsealed_range(
            self.info.proof_type.0,
            work.to_path_buf(),
            self.sealed.clone(),
            to.to_path_buf(),
            proofs::prover_id(self.info.miner),
            proofs::sector_id(self.info.sector),
            self.info.comm_d.0,
            self.info.ticket.0,
            UnpaddedByteIndex(range.start),
            UnpaddedBytesAmount(bytes),
        )
        .map_err(|error| proofs::library_failure("unseal", &error))?;
        if u64::from(count) != bytes {
            let text = format!("the library gave {} of {bytes} bytes", u64::from(count));
            return Err(Failure::transient("proofs_library", text));
        }
        Ok(())
    }
}

fn unseal(cx: &StageContext, source: &Source, work: &Path, input: &Input) -> Result<Output, Failure> {
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
    // The library gives whole groups of 127 bytes.
    let start = piece.offset / 128 * 127 + input.offset;
    let first = start / 127 * 127;
    let last = (start + bytes).next_multiple_of(127);
    let groups = work.join("groups");
    source.groups(cx, work, first..last, &groups)?;
    let partial = durable::temporary(&target);
    let failure = |error: io::Error| Failure::io("write", &partial, &error);
    let mut file = File::open(&groups).map_err(|error| Failure::io("open", &groups, &error))?;
    file.seek(SeekFrom::Start(start - first)).map_err(failure)?;
    let mut hasher = Hashing {
        inner: file.take(bytes),
        hash: Sha256::new(),
    };
    let mut out = File::create(&partial).map_err(failure)?;
    io::copy(&mut hasher, &mut out).map_err(failure)?;
    drop(out);
    let unsealed_sha256 = hex::encode(hasher.hash.finalize());
    refuse_to_overwrite(&target, bytes, &unsealed_sha256)?;
    durable::publish(&partial, &target).map_err(|error| Failure::io("publish", &target, &error))?;
    Ok(Output {
        unsealed_file: input.output.clone(),
        unsealed_bytes: bytes,
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
