//! Writes the pieces of a sector, padded and aligned, into one file with the sector's size, and
//! computes the commitment of each piece. Lotus calls it AddPiece.
//!
//! **Reads** local files or HTTP(S) addresses; a download that was broken off goes on where it stopped.
//!
//! **Writes** a new `unsealed` file into the attempt's own folder. What no piece covers is zeros: a
//! sector with no pieces, or only `"pledge"`, is committed capacity.
//!
//! **Costs** one core for hashing; one sector's size on disk, and the size of what is downloaded.
//!
//! **Fails**
//! - `piece_empty`, `piece_too_large`, `sector_full` (permanent): the piece does not fit; start again
//!   with other pieces or a larger sector.
//! - `comm_p_mismatch`, `bad_cid` (permanent): the data is not the piece that was agreed on.
//! - `path_missing`, `no_permission` (permanent): put the file where the run looks for it, then retry.
//! - `http_refused` (permanent), `http_failed` (transient): what the server says.
//! - `piece_changed` (transient): the file became shorter while it was read.
//! - `no_space` (transient): free space; it is tried again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use filecoin_proofs_api::UnpaddedBytesAmount;
use filecoin_proofs_api::seal::add_piece;
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::piece::{self, Download};
use crate::types::{CommP, PieceInfo, PieceSource, Pieces, SealProof};
use crate::{progress, proofs};

/// What it takes.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Input {
    /// The seal proof type, which gives the sector's size.
    pub proof_type: SealProof,
    /// The pieces, in the order in which they lie in the sector.
    pub pieces: Pieces,
}

/// What it gives.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Output {
    /// The data, padded, with the sector's size.
    pub unsealed: Artifact,
    /// The pieces in it; none for committed capacity.
    pub piece_infos: Vec<PieceInfo>,
}

/// See the module.
pub struct AddPieces;

/// A piece whose data is at hand.
struct Ready {
    source: PieceSource,
    file: PathBuf,
    data_bytes: u64,
}

impl Stage for AddPieces {
    const NAME: &'static str = "add_pieces";
    const VERSION: u32 = 1;
    const SOURCE: &'static str = include_str!("add_pieces.rs");
    type Input = Input;
    type Output = Output;

    fn costs(&self, _: &Value) -> Need {
        proofs::one_core()
    }

    fn class(&self, input: &Value) -> String {
        proofs::class(input)
    }

    async fn run(&self, cx: &StageContext, input: Input) -> Result<Outcome<Output>, Failure> {
        let limit = input.proof_type.data_bytes();
        let folder = cx.attempt_dir()?;
        let mut pieces = Vec::new();
        for source in input.pieces.0 {
            let file = match (&source.path, &source.url) {
                (Some(path), _) => PathBuf::from(path),
                (None, Some(url)) => {
                    let download = Download {
                        url,
                        token_file: source.token_file.as_deref(),
                        limit,
                    };
                    download.fetch(cx).await?
                }
                // Committed capacity is what no piece covers.
                (None, None) => continue,
            };
            let data_bytes = piece::data_bytes(&file, limit)?;
            pieces.push(Ready {
                source,
                file,
                data_bytes,
            });
        }
        let cx2 = cx.clone();
        let proof_type = input.proof_type;
        let fetched: Vec<PathBuf> = pieces
            .iter()
            .filter(|piece| piece.source.url.is_some())
            .map(|piece| piece.file.clone())
            .collect();
        let result = cx
            .blocking(move || write_sector(&cx2, &folder.join("unsealed"), proof_type, &pieces))
            .await;
        if result
            .as_ref()
            .is_err_and(|failure| failure.code == "comm_p_mismatch")
        {
            // The server may have something else next time.
            for file in fetched {
                durable::remove(&file).map_err(|error| Failure::io("remove", &file, &error))?;
            }
        }
        result
    }
}

fn write_sector(
    cx: &StageContext,
    target: &Path,
    proof_type: SealProof,
    pieces: &[Ready],
) -> Result<Outcome<Output>, Failure> {
    let sector = proof_type.sector_bytes();
    let failure = |error: &io::Error| Failure::io("write", target, error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(target)
        .map_err(|error| failure(&error))?;
    let total: u64 = pieces.iter().map(|piece| piece.data_bytes).sum();
    let mut before = 0;
    let mut end = 0_u64;
    let mut piece_infos = Vec::new();
    for piece in pieces {
        let name = piece.file.display();
        let padded = piece::padded_bytes(piece.data_bytes, piece.source.padded_bytes)
            .map_err(|why| Failure::permanent("piece_too_large", format!("{name}: {why}")))?;
        // A piece begins at a multiple of its size, as the tree of the sector wants it.
        let offset = end.next_multiple_of(padded);
        if offset + padded > sector {
            let text = format!(
                "{name} takes {padded} bytes with padding, but {} of the sector's {sector} are free",
                sector.saturating_sub(offset)
            );
            return Err(Failure::permanent("sector_full", text));
        }
        file.seek(SeekFrom::Start(offset))
            .map_err(|error| failure(&error))?;
        let tell = |done: u64| progress::bytes(cx, "writing pieces", before + done, total);
        let comm_p = write_piece(proof_type, piece, padded, &mut file, &tell)?;
        if let Some(cid) = &piece.source.cid {
            let agreed = piece::comm_p_of_cid(cid).map_err(|why| Failure::permanent("bad_cid", why))?;
            if agreed != comm_p {
                let text = format!("{name} has commitment {comm_p}, but {cid} stands for {agreed}");
                return Err(Failure::permanent("comm_p_mismatch", text));
            }
        }
        piece_infos.push(PieceInfo {
            comm_p,
            padded_bytes: padded,
            offset,
            data_bytes: piece.data_bytes,
        });
        before += piece.data_bytes;
        end = offset + padded;
    }
    file.set_len(sector).map_err(|error| failure(&error))?;
    file.sync_all().map_err(|error| failure(&error))?;
    let folder = target.parent().unwrap_or(target);
    durable::sync_dir(folder).map_err(|error| Failure::io("make durable", folder, &error))?;
    let unsealed = cx.scratch_artifact(target, None)?;
    Ok(Outcome::Done(Output {
        unsealed,
        piece_infos,
    }))
}

fn write_piece(
    proof_type: SealProof,
    piece: &Ready,
    padded: u64,
    target: &mut File,
    tell: &dyn Fn(u64),
) -> Result<CommP, Failure> {
    let open = File::open(&piece.file).map_err(|error| Failure::io("open", &piece.file, &error))?;
    let unpadded = padded / 128 * 127;
    let mut read = 0;
    let mut broken = None;
    let counted = Counted {
        inner: open.take(piece.data_bytes),
        read: &mut read,
        broken: &mut broken,
        tell,
    };
    let source = counted.chain(io::repeat(0)).take(unpadded);
    let result = add_piece(proof_type.0, source, target, UnpaddedBytesAmount(unpadded), &[]);
    if let Some(error) = broken {
        return Err(Failure::io("read", &piece.file, &error));
    }
    let (info, _) = result.map_err(|error| proofs::library_failure("add the piece", &error))?;
    if read != piece.data_bytes {
        let text = format!(
            "{} had {} bytes and then {read}",
            piece.file.display(),
            piece.data_bytes
        );
        return Err(Failure::transient("piece_changed", text));
    }
    Ok(CommP(info.commitment))
}

/// Counts what is read, tells about it, and keeps the first error, which the library would wrap.
struct Counted<'a, R> {
    inner: R,
    read: &'a mut u64,
    broken: &'a mut Option<io::Error>,
    tell: &'a dyn Fn(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                let before = *self.read >> 24;
                *self.read += count as u64;
                if *self.read >> 24 != before {
                    (self.tell)(*self.read);
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                *self.broken = Some(error);
                Err(copy)
            }
        }
    }
}
