//! Gives data back from a sealed sector: a whole piece, or a range of it, byte for byte.
//!
//! **Reads** the replica and the description of the sector.
//!
//! **Writes** the output file, under a temporary name until it is whole; layers into the attempt's own
//! folder, removed at the end.
//!
//! **Costs** what PC1 costs: the layers are computed again to take them off the replica.
//!
//! **Fails**
//! - `no_such_piece`, `range_outside` (permanent): the sector has no such data.
//! - `output_exists` (permanent): a file that is not this one's earlier result is in the way.
//! - `artifact_missing`, `artifact_damaged` (permanent): the sector's files are not whole.
//! - `no_space` (transient): free space; it is tried again.
//! - `proofs_library` (transient): the library failed; tried again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use filecoin_proofs_api::seal::get_unsealed_range;
use filecoin_proofs_api::{UnpaddedByteIndex, UnpaddedBytesAmount};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Resources;
use sealflow_engine::stage::{Claim, Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::sector_info::SectorInfo;
use crate::types::LocalPath;
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The replica.
    pub sealed: Artifact,
    /// The description of the sector.
    pub sector_info: Artifact,
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

    fn costs(&self, input: &Value) -> Resources {
        // The replica's size is the sector's.
        proofs::pc1(input["sealed"]["bytes"].as_u64().unwrap_or(64 << 30))
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let sealed = cx.local_path(&input.sealed)?;
        let info = SectorInfo::read(&cx.local_path(&input.sector_info)?)?;
        let work = cx.attempt_dir()?;
        let cx2 = cx.clone();
        cx.blocking(move || {
            let result = unseal(&cx2, &sealed, &info, &work, &input);
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

fn unseal(
    cx: &StageContext,
    sealed: &Path,
    info: &SectorInfo,
    work: &Path,
    input: &Input,
) -> Result<Output, Failure> {
    let at = usize::try_from(input.piece).unwrap_or(usize::MAX);
    let piece = info.piece_infos.get(at).ok_or_else(|| {
        let text = format!(
            "the sector has {} pieces, counted from 0; there is none at {at}",
            info.piece_infos.len()
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
    let size = std::fs::metadata(sealed)
        .map_err(|error| Failure::io("read", sealed, &error))?
        .len();
    if size != info.proof_type.sector_bytes() {
        let text = format!(
            "{} has {size} bytes instead of {}",
            sealed.display(),
            info.proof_type.sector_bytes()
        );
        return Err(Failure::permanent("artifact_damaged", text));
    }
    // The library gives whole groups of 127 bytes.
    let start = piece.offset / 128 * 127 + input.offset;
    let first = start / 127 * 127;
    let last = (start + bytes).next_multiple_of(127);
    let groups = work.join("groups");
    progress::phase(cx, "computing the layers again");
    let count = get_unsealed_range(
        info.proof_type.0,
        work.to_path_buf(),
        sealed.to_path_buf(),
        groups.clone(),
        proofs::prover_id(info.miner),
        proofs::sector_id(info.sector),
        info.comm_d.0,
        info.ticket.0,
        UnpaddedByteIndex(first),
        UnpaddedBytesAmount(last - first),
    )
    .map_err(|error| proofs::library_failure("unseal", &error))?;
    if u64::from(count) != last - first {
        let text = format!("the library gave {} of {} bytes", u64::from(count), last - first);
        return Err(Failure::transient("proofs_library", text));
    }
    let partial = durable::temporary(&target);
    let failure = |error: io::Error| Failure::io("write", &partial, &error);
    let mut source = File::open(&groups).map_err(|error| Failure::io("open", &groups, &error))?;
    source.seek(SeekFrom::Start(start - first)).map_err(failure)?;
    let mut hasher = Hashing {
        inner: source.take(bytes),
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
