//! The lines that backups and archives are made of: JSON, one thing a line, closed by a count and a
//! SHA-256 of all that came before. Plain or gzipped.

use std::future::Future;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};

use flate2::bufread::MultiGzDecoder;
use sealflow_chain::messager::{Record, SenderRow};
use sealflow_engine::event::{Entry, Event, Output};
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{JournalError, StoredGraph};
use sealflow_engine::rows::{RunRow, StepRow};
use sealflow_engine::site::SiteEntry;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::archive::ArchivedRow;

/// The format that this program writes. It reads this one and all earlier ones: 1 had no archives and no
/// history of the installation, 2 no messages.
pub const EXPORT_FORMAT: u32 = 3;

/// The most bytes of one line. What is longer was not written by us.
const LONGEST: u64 = 1 << 30;

/// A line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first line.
    SealflowExport { format: u32 },
    /// A graph, before the first run that keeps it.
    Graph { hash: String, graph: Box<StoredGraph> },
    /// A payload, before the entry that names it.
    Payload { sha256: String, hex: String },
    /// An entry; those of one run are together and in order.
    Entry { run: RunId, entry: Box<Entry> },
    /// An entry of the installation, in order, before the first run.
    Site { entry: Box<SiteEntry> },
    /// A message to the chain, as it is now; in the order of submission, before the first run.
    Message { record: Box<Record> },
    /// A sender of messages, and above which nonces.
    Sender { row: Box<SenderRow> },
    /// The rows that the entries before it give: what an archive is compared with.
    Snapshot { row: Box<RunRow>, steps: Vec<StepRow> },
    /// An archived run: its row in the index, and its file.
    Archive { row: Box<ArchivedRow>, hex: String },
    /// The last line: how many lines came before it, and the SHA-256 of them.
    End { lines: u64, sha256: String },
}

/// Why a backup or an archive was not written, or not taken in.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The file.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file is not whole.
    #[error("line {line} of the backup: {what}; take another copy of it")]
    Refused {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// A newer sealflow wrote the file.
    #[error(
        "the backup has format {found}, this sealflow reads formats up to {EXPORT_FORMAT}: install a newer sealflow"
    )]
    Newer {
        /// The format of the file.
        found: u32,
    },
    /// The journal has runs already.
    #[error("the journal at {0} is not empty; a backup is restored into a new one")]
    NotEmpty(String),
}

/// How much was written or read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transferred {
    /// Runs.
    pub runs: u64,
    /// Entries.
    pub entries: u64,
    /// Graphs.
    pub graphs: u64,
    /// Payloads.
    pub payloads: u64,
    /// Archived runs.
    pub archives: u64,
    /// Messages to the chain.
    #[serde(default)]
    pub messages: u64,
}

/// Where lines go. Everything that is [`Write`] is one; others may make the writer of the lines wait.
pub trait Sink: Send {
    /// Takes some lines.
    fn put(&mut self, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>> + Send;

    /// All was put.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

impl<W: Write + Send> Sink for W {
    async fn put(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.write_all(&bytes)
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// Writes lines and what closes them.
pub(super) struct LineWriter<S> {
    to: S,
    lines: u64,
    hash: Sha256,
}

impl<S: Sink> LineWriter<S> {
    /// Begins with the first line.
    pub(super) async fn begin(to: S) -> Result<Self, TransferError> {
        let (lines, hash) = (0, Sha256::new());
        let mut writer = Self { to, lines, hash };
        let format = EXPORT_FORMAT;
        writer.line(&Line::SealflowExport { format }).await?;
        Ok(writer)
    }

    pub(super) async fn line(&mut self, line: &Line) -> Result<(), TransferError> {
        let io = |source| TransferError::Io {
            what: "write the backup",
            source,
        };
        let mut text = serde_json::to_vec(line).map_err(|error| io(error.into()))?;
        text.push(b'\n');
        self.hash.update(&text);
        self.lines += 1;
        self.to.put(text).await.map_err(io)
    }

    /// Ends with the last line.
    pub(super) async fn end(mut self) -> Result<S, TransferError> {
        let end = Line::End {
            lines: self.lines,
            sha256: hex::encode(self.hash.clone().finalize()),
        };
        self.line(&end).await?;
        self.to.finish().await.map_err(|source| TransferError::Io {
            what: "write the backup",
            source,
        })?;
        Ok(self.to)
    }
}

/// What is read, whether it is gzipped or not.
pub(super) fn plain<'a, R: BufRead + Send>(
    from: &'a mut R,
) -> Result<Box<dyn BufRead + Send + 'a>, TransferError> {
    let begin = from.fill_buf().map_err(unread)?;
    Ok(if begin.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::new(MultiGzDecoder::new(from)))
    } else {
        Box::new(from)
    })
}

pub(super) fn unread(source: io::Error) -> TransferError {
    let what = "read the backup";
    TransferError::Io { what, source }
}

/// Reads lines. The first must be a header that is understood and the last one must fit all others: what
/// came before it is only to be believed once [`Lines::next`] has given nothing more.
pub(super) struct Lines<R> {
    from: R,
    /// Of the line that was read last, from 1.
    pub(super) number: u64,
    text: Vec<u8>,
    hash: Sha256,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(from: R) -> Self {
        Self {
            from,
            number: 0,
            text: Vec::new(),
            hash: Sha256::new(),
            ended: false,
        }
    }

    /// What is wrong with the line that was read last.
    pub(super) fn refused(&self, what: impl Into<String>) -> TransferError {
        TransferError::Refused {
            line: self.number,
            what: what.into(),
        }
    }

    /// The next line; nothing behind the last one, if that fits all others.
    pub(super) fn next(&mut self) -> Result<Option<Line>, TransferError> {
        self.text.clear();
        let read = (&mut self.from).take(LONGEST).read_until(b'\n', &mut self.text);
        let cut_off = |lines: &Self| lines.refused("it is cut off: the last line is missing");
        match read {
            Ok(0) if self.ended => return Ok(None),
            Ok(0) => return Err(cut_off(self)),
            Ok(_) => {}
            // Of gzipped files.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(cut_off(self)),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                return Err(self.refused(format!("behind it the file is damaged: {error}")));
            }
            Err(error) => return Err(unread(error)),
        }
        self.number += 1;
        if self.text.last() != Some(&b'\n') {
            return Err(self.refused("it is cut off"));
        }
        if self.number == 1 {
            let found = header(&self.text).ok_or_else(|| self.refused("it does not begin a backup"))?;
            if found > EXPORT_FORMAT {
                return Err(TransferError::Newer { found });
            }
        }
        let line: Line =
            serde_json::from_slice(&self.text).map_err(|error| self.refused(error.to_string()))?;
        match &line {
            _ if self.ended => return Err(self.refused("it comes after the end")),
            Line::SealflowExport { .. } if self.number > 1 => {
                return Err(self.refused("another backup begins"));
            }
            Line::End { lines, sha256 } => {
                if *lines != self.number - 1 || *sha256 != hex::encode(self.hash.clone().finalize()) {
                    return Err(self.refused("the lines before it are not those that were written"));
                }
                self.ended = true;
            }
            _ => {}
        }
        self.hash.update(&self.text);
        Ok(Some(line))
    }
}

/// The format that a first line names. A newer one may have fields that we do not know.
fn header(text: &[u8]) -> Option<u32> {
    let value: serde_json::Value = serde_json::from_slice(text).ok()?;
    let format = value.get("sealflow_export")?.get("format")?.as_u64()?;
    Some(u32::try_from(format).unwrap_or(u32::MAX)).filter(|format| *format > 0)
}

/// The payloads that an entry names.
pub(super) fn payloads_of(entry: &Entry) -> impl Iterator<Item = (&str, u64)> {
    entry.events.iter().filter_map(|event| match event {
        Event::AttemptSucceeded { output, .. }
        | Event::StepOverridden { output, .. }
        | Event::StepAdopted { output, .. } => match output {
            Output::Payload { sha256, bytes, .. } => Some((sha256.as_str(), *bytes)),
            Output::Inline(_) => None,
        },
        _ => None,
    })
}
