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
//! - `bad_answer` (transient): another program wrote, and the sector's size, the pieces' sizes or the
//!   commitment of zeros are not right; whether pieces and data agree `tree_d` finds out. Tried again.
//! - `no_space` (transient): free space; it is tried again.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filecoin_proofs_api::{PieceInfo as PieceInfoOfLibrary, RegisteredSealProof, UnpaddedBytesAmount};
use schemars::JsonSchema;
use sealflow_engine::artifact::Artifact;
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::resource::Need;
use sealflow_engine::stage::{Outcome, Stage, StageContext};
use sealflow_engine::wire::{self, Dialect, Next, Place, Reporter, WireStage};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::comm_p::{self, Target};
use crate::piece::{self, Download};
use crate::types::{CommP, PieceInfo, PieceSource, Pieces, SealProof};
use crate::{progress, proofs, tree};

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
#[derive(Clone)]
pub struct AddPieces;

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
        wire::in_process(self, cx, input).await
    }
}

/// The task as `vc-processors` has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// The seal proof type, which gives the sector's size.
    pub seal_proof_type: RegisteredSealProof,
    /// The pieces, which fill the sector; none for committed capacity.
    pub pieces: Vec<TaskPiece>,
    /// The file to write.
    pub staged_filepath: PathBuf,
}

/// A piece of a task.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskPiece {
    /// Where its data is.
    pub piece_file: PieceFile,
    /// Bytes of data.
    pub payload_size: u64,
    /// Bytes with the zeros that fill it up, without padding.
    pub piece_size: u64,
}

/// Where the data of a piece is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PieceFile {
    /// Behind an HTTP or HTTPS address. We download ourselves, so only other programs send this.
    Url(String),
    /// In a file.
    Local(PathBuf),
    /// It is all zeros.
    Pledge,
}

/// A piece as it will lie in the sector.
struct Placed {
    source: PieceSource,
    file: PathBuf,
    data_bytes: u64,
    padded: u64,
    offset: u64,
    /// Which of the task's pieces it is; the others fill gaps.
    at: usize,
}

/// What is kept until the sector is written.
pub struct Held {
    target: PathBuf,
    /// The size with padding of each of the task's pieces.
    sizes: Vec<u64>,
    pieces: Vec<Placed>,
}

impl WireStage for AddPieces {
    const DIALECT: Dialect = Dialect::Damocles;
    type Task = Task;
    type Answer = Vec<PieceInfoOfLibrary>;
    type Held = Held;

    async fn prepare(&self, cx: &StageContext, input: &Arc<Input>, _: Place) -> Result<Next<Self>, Failure> {
        let limit = input.proof_type.data_bytes();
        let target = cx.attempt_dir()?.join("unsealed");
        let mut found = Vec::new();
        for source in &input.pieces.0 {
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
            found.push((source.clone(), file, data_bytes));
        }
        let (sizes, pieces) = place(input.proof_type, found)?;
        let mut own = pieces.iter().peekable();
        let task_pieces = sizes.iter().enumerate().map(|(at, padded)| {
            let piece_size = padded / 128 * 127;
            match own.next_if(|piece| piece.at == at) {
                Some(piece) => TaskPiece {
                    piece_file: PieceFile::Local(piece.file.clone()),
                    payload_size: piece.data_bytes,
                    piece_size,
                },
                None => TaskPiece {
                    piece_file: PieceFile::Pledge,
                    payload_size: piece_size,
                    piece_size,
                },
            }
        });
        let task = Task {
            seal_proof_type: input.proof_type.0,
            pieces: task_pieces.collect(),
            staged_filepath: target.clone(),
        };
        let held = Held {
            target,
            sizes,
            pieces,
        };
        Ok(Next::Compute { task, held })
    }

    fn compute(&self, task: Task, reporter: &Reporter) -> Result<Vec<PieceInfoOfLibrary>, Failure> {
        write_sector(&task, reporter)
    }

    fn finish(
        &self,
        cx: &StageContext,
        input: &Input,
        held: Held,
        answer: Vec<PieceInfoOfLibrary>,
    ) -> Result<Next<Self>, Failure> {
        let sector = input.proof_type.sector_bytes();
        let piece_infos = checked(&held, &answer, sector)?;
        let target = &held.target;
        let failure = |error: &io::Error| Failure::io("make durable", target, error);
        let bytes = std::fs::metadata(target).map_err(|error| failure(&error))?.len();
        if bytes != sector {
            let text = format!("{} has {bytes} bytes instead of {sector}", target.display());
            return Err(Failure::transient("bad_answer", text));
        }
        durable::sync_file(target).map_err(|error| failure(&error))?;
        let folder = target.parent().unwrap_or(target);
        durable::sync_dir(folder).map_err(|error| failure(&error))?;
        let unsealed = cx.scratch_artifact(target, None)?;
        Ok(Next::End(Outcome::Done(Output {
            unsealed,
            piece_infos,
        })))
    }
}

/// Where each piece will lie, and the sizes of all that fill the sector: the gaps are filled with pieces of
/// zeros, so that nobody has to guess how they are padded.
fn place(
    proof_type: SealProof,
    found: Vec<(PieceSource, PathBuf, u64)>,
) -> Result<(Vec<u64>, Vec<Placed>), Failure> {
    let sector = proof_type.sector_bytes();
    let (mut sizes, mut placed, mut end) = (Vec::new(), Vec::new(), 0_u64);
    let fill = |sizes: &mut Vec<u64>, end: &mut u64, to: u64| {
        while *end > 0 && *end < to {
            // The largest piece that may begin here and does not reach too far.
            let size = (1 << end.trailing_zeros()).min(1 << (to - *end).ilog2());
            sizes.push(size);
            *end += size;
        }
    };
    for (source, file, data_bytes) in found {
        let name = file.display();
        let padded = piece::padded_bytes(data_bytes, source.padded_bytes)
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
        fill(&mut sizes, &mut end, offset);
        placed.push(Placed {
            source,
            file,
            data_bytes,
            padded,
            offset,
            at: sizes.len(),
        });
        sizes.push(padded);
        end = offset + padded;
    }
    fill(&mut sizes, &mut end, sector);
    Ok((sizes, placed))
}

/// Holds what was written against what was asked for and agreed on.
fn checked(held: &Held, answer: &[PieceInfoOfLibrary], sector: u64) -> Result<Vec<PieceInfo>, Failure> {
    let bad = |what: String| Failure::transient("bad_answer", what);
    // A sector of zeros is one piece.
    let whole = [sector];
    let sizes = if held.sizes.is_empty() {
        &whole[..]
    } else {
        &held.sizes
    };
    if answer.len() != sizes.len() {
        return Err(bad(format!(
            "{} pieces were asked for, not {}",
            sizes.len(),
            answer.len()
        )));
    }
    for (at, (info, padded)) in answer.iter().zip(sizes).enumerate() {
        if u64::from(info.size) != padded / 128 * 127 {
            return Err(bad(format!(
                "piece {at} has {} bytes, not {}",
                u64::from(info.size),
                padded / 128 * 127
            )));
        }
        let ours = held.pieces.iter().any(|piece| piece.at == at);
        if !ours && info.commitment != tree::zeros_root(*padded) {
            return Err(bad(format!("piece {at} is not all zeros")));
        }
    }
    let mut piece_infos = Vec::new();
    for piece in &held.pieces {
        let comm_p = CommP(answer[piece.at].commitment);
        agreed(piece, comm_p)?;
        piece_infos.push(PieceInfo {
            comm_p,
            padded_bytes: piece.padded,
            offset: piece.offset,
            data_bytes: piece.data_bytes,
        });
    }
    Ok(piece_infos)
}

/// Compares a commitment with the CID that was agreed on.
fn agreed(piece: &Placed, comm_p: CommP) -> Result<(), Failure> {
    let Some(cid) = &piece.source.cid else {
        return Ok(());
    };
    let agreed = piece::comm_p_of_cid(cid).map_err(|why| Failure::permanent("bad_cid", why))?;
    if agreed == comm_p {
        return Ok(());
    }
    if piece.source.url.is_some() {
        // The server may have something else next time.
        durable::remove(&piece.file).map_err(|error| Failure::io("remove", &piece.file, &error))?;
    }
    let text = format!(
        "{} has commitment {comm_p}, but {cid} stands for {agreed}",
        piece.file.display()
    );
    Err(Failure::permanent("comm_p_mismatch", text))
}

/// Writes the pieces of a task one behind the other.
fn write_sector(task: &Task, reporter: &Reporter) -> Result<Vec<PieceInfoOfLibrary>, Failure> {
    let target = &task.staged_filepath;
    let sector = u64::from(task.seal_proof_type.sector_size());
    let failure = |error: &io::Error| Failure::io("write", target, error);
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(target)
        .map_err(|error| failure(&error))?;
    let data = |piece: &TaskPiece| match piece.piece_file {
        PieceFile::Pledge => 0,
        _ => piece.payload_size,
    };
    let total: u64 = task.pieces.iter().map(data).sum();
    let (mut before, mut end, mut infos) = (0, 0_u64, Vec::new());
    for (at, piece) in task.pieces.iter().enumerate() {
        let padded = piece.piece_size / 127 * 128;
        let wrong = piece.piece_size % 127 != 0 || !padded.is_power_of_two() || padded < 128;
        if wrong || piece.payload_size > piece.piece_size {
            let text = format!(
                "piece {at} has {} bytes in {}",
                piece.payload_size, piece.piece_size
            );
            return Err(Failure::permanent("piece_too_large", text));
        }
        let offset = end.next_multiple_of(padded);
        if offset + padded > sector {
            let text = format!("piece {at} reaches beyond the sector's {sector} bytes");
            return Err(Failure::permanent("sector_full", text));
        }
        let tell = |done: u64| reporter.progress(progress::of_bytes("writing pieces", before + done, total));
        let source = match &piece.piece_file {
            PieceFile::Local(path) => Some(path.clone()),
            PieceFile::Url(url) => {
                let path = target.with_extension(format!("download-{at}"));
                piece::fetch_as_damocles(url, &path, piece.piece_size)?;
                Some(path)
            }
            // The file is zeros where nothing is written.
            PieceFile::Pledge => None,
        };
        let comm_p = match &source {
            Some(path) => {
                let to = Target { file: &file, offset };
                write_piece(path, piece.payload_size, padded, (target, &to), &tell)?
            }
            None => tree::zeros_root(padded),
        };
        if let (PieceFile::Url(_), Some(path)) = (&piece.piece_file, &source) {
            durable::remove(path).map_err(|error| Failure::io("remove", path, &error))?;
        }
        infos.push(info(comm_p, padded)?);
        before += data(piece);
        end = offset + padded;
    }
    if infos.is_empty() {
        infos.push(info(tree::zeros_root(sector), sector)?);
    }
    file.set_len(sector).map_err(|error| failure(&error))?;
    Ok(infos)
}

fn info(comm_p: [u8; 32], padded: u64) -> Result<PieceInfoOfLibrary, Failure> {
    PieceInfoOfLibrary::new(comm_p, UnpaddedBytesAmount(padded / 128 * 127))
        .map_err(|error| Failure::permanent("bad_piece", format!("{error:#}")))
}

fn write_piece(
    from: &Path,
    data_bytes: u64,
    padded: u64,
    (path, target): (&Path, &Target<'_>),
    tell: &dyn Fn(u64),
) -> Result<[u8; 32], Failure> {
    let open = File::open(from).map_err(|error| Failure::io("open", from, &error))?;
    let mut read = 0;
    let mut broken = None;
    let counted = Counted {
        inner: open.take(data_bytes),
        read: &mut read,
        broken: &mut broken,
        tell,
    };
    let result = comm_p::write(counted, padded, Some(target));
    if let Some(error) = broken {
        return Err(Failure::io("read", from, &error));
    }
    let commitment = result.map_err(|error| Failure::io("write", path, &error))?;
    if read != data_bytes {
        let text = format!("{} had {data_bytes} bytes and then {read}", from.display());
        return Err(Failure::transient("piece_changed", text));
    }
    Ok(commitment)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form() {
        let ints = |byte: u8| serde_json::to_string(&[byte; 32]).unwrap();
        let answer = format!(
            r#"[{{"commitment":{},"size":1016}},{{"commitment":{},"size":1016}}]"#,
            ints(171),
            ints(172)
        );
        crate::golden::both_ways::<AddPieces>(
            r#"{"seal_proof_type":"StackedDrg2KiBV1_1","pieces":[{"piece_file":{"url":"http://10.0.0.5:1789/piecestore/baga6ea4seaqexample"},"payload_size":1000,"piece_size":1016},{"piece_file":"pledge","payload_size":1016,"piece_size":1016}],"staged_filepath":"/mnt/nvme1/store/data/unsealed/s-t01000-7"}"#,
            &answer,
        );
        crate::golden::task::<AddPieces>(
            r#"{"seal_proof_type":"StackedDrg2KiBV1","pieces":[{"piece_file":{"local":"/a"},"payload_size":1,"piece_size":127}],"staged_filepath":"/b"}"#,
        );
    }

    #[test]
    fn gaps_are_filled() {
        let proof = SealProof::for_size(2048).unwrap();
        let source: PieceSource = serde_json::from_str(r#""/a""#).unwrap();
        let of = |bytes: u64| (source.clone(), PathBuf::from("/a"), bytes);
        let (sizes, placed) = place(proof, vec![of(100), of(500)]).unwrap();
        assert_eq!(sizes, [128, 128, 256, 512, 1024]);
        let offsets: Vec<_> = placed.iter().map(|piece| (piece.at, piece.offset)).collect();
        assert_eq!(offsets, [(0, 0), (3, 512)]);
        assert!(place(proof, Vec::new()).unwrap().0.is_empty());
        assert_eq!(
            place(proof, vec![of(1000), of(1100)]).err().unwrap().code,
            "sector_full"
        );
    }

    #[test]
    fn a_program_that_lies_about_zeros_is_found_out() {
        let proof = SealProof::for_size(2048).unwrap();
        let held = Held {
            target: PathBuf::new(),
            sizes: Vec::new(),
            pieces: Vec::new(),
        };
        let good = [info(tree::zeros_root(2048), 2048).unwrap()];
        assert!(checked(&held, &good, proof.sector_bytes()).unwrap().is_empty());
        for bad in [
            vec![],
            vec![info([1; 32], 2048).unwrap()],
            vec![info(tree::zeros_root(1024), 1024).unwrap()],
        ] {
            assert_eq!(
                checked(&held, &bad, proof.sector_bytes()).unwrap_err().code,
                "bad_answer"
            );
        }
    }
}
