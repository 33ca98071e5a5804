//! The logical export: what happened, line by line, independent of the store and of its schema. Rows
//! are not in it; whoever imports it derives them, which proves it.

use std::collections::HashSet;
use std::io::Write;

use sealflow_engine::event::{Entry, Event, Output};
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Journal, JournalError, StoredGraph};
use sealflow_engine::site::SiteEntry;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::SurrealJournal;
use super::read::PAGE;

/// The format that this program writes and reads.
pub const EXPORT_FORMAT: u32 = 2;

/// A line of an export.
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
    /// The last line: how many lines came before it, and the SHA-256 of them.
    End { lines: u64, sha256: String },
}

/// Why an export or import was not done.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The file.
    #[error("cannot {what} the export: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not a whole export.
    #[error("line {line} of the export: {what}; take another copy of it")]
    Refused {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
    /// The journal has runs already.
    #[error("the journal at {0} is not empty; an export is imported into a new one")]
    NotEmpty(String),
}

/// How much was written or read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Transferred {
    /// Runs.
    pub runs: u64,
    /// Entries.
    pub entries: u64,
    /// Graphs.
    pub graphs: u64,
    /// Payloads.
    pub payloads: u64,
}

struct Writer<W> {
    to: W,
    lines: u64,
    hash: Sha256,
}

impl<W: Write> Writer<W> {
    fn line(&mut self, line: &Line) -> Result<(), TransferError> {
        let io = |source| TransferError::Io {
            what: "write",
            source,
        };
        let mut text = serde_json::to_vec(line).map_err(|error| io(error.into()))?;
        text.push(b'\n');
        self.hash.update(&text);
        self.lines += 1;
        self.to.write_all(&text).map_err(io)
    }
}

/// Writes everything that happened. Commits may go on meanwhile: what is written is how the journal
/// was at one moment. The writer is written to from the calling task and should be buffered.
///
/// # Errors
/// The journal cannot be read, an entry lacks its graph or payload, or the file cannot be written.
pub async fn export(journal: &SurrealJournal, to: impl Write) -> Result<Transferred, TransferError> {
    let mut writer = Writer {
        to,
        lines: 0,
        hash: Sha256::new(),
    };
    let mut done = Transferred::default();
    let (mut graphs, mut payloads) = (HashSet::new(), HashSet::new());
    writer.line(&Line::SealflowExport {
        format: EXPORT_FORMAT,
    })?;
    let (runs, site) = moment(journal).await?;
    let mut next = 1;
    while next <= site {
        let last = site.min(next + PAGE as u64 - 1);
        for entry in journal.site_between(next, last).await? {
            let entry = Box::new(entry);
            writer.line(&Line::Site { entry })?;
        }
        next = last + 1;
    }
    for (run, graph, last) in runs {
        if graphs.insert(graph.clone()) {
            let missing = || JournalError::Corrupt(format!("graph {graph} of {run} is not stored"));
            let stored = journal.graph(&graph).await?.ok_or_else(missing)?;
            writer.line(&Line::Graph {
                hash: graph,
                graph: Box::new(stored),
            })?;
            done.graphs += 1;
        }
        let mut next = 1;
        while next <= last {
            let piece = u32::try_from((last - next + 1).min(PAGE as u64)).unwrap_or(u32::MAX);
            let entries = journal.entries(&run, next, piece).await?;
            if entries.len() != piece as usize {
                return Err(JournalError::Corrupt(format!("{run} lacks entries up to {last}")).into());
            }
            for entry in entries {
                for sha256 in payloads_of(&entry) {
                    if payloads.insert(sha256.to_owned()) {
                        let hex = hex::encode(journal.payload(sha256).await?);
                        writer.line(&Line::Payload {
                            sha256: sha256.to_owned(),
                            hex,
                        })?;
                        done.payloads += 1;
                    }
                }
                next = entry.seq + 1;
                writer.line(&Line::Entry {
                    run: run.clone(),
                    entry: Box::new(entry),
                })?;
                done.entries += 1;
            }
        }
        done.runs += 1;
    }
    let end = Line::End {
        lines: writer.lines,
        sha256: hex::encode(writer.hash.clone().finalize()),
    };
    writer.line(&end)?;
    writer.to.flush().map_err(|source| TransferError::Io {
        what: "flush",
        source,
    })?;
    Ok(done)
}

/// The payloads that an entry names.
pub(super) fn payloads_of(entry: &Entry) -> impl Iterator<Item = &str> {
    entry.events.iter().filter_map(|event| match event {
        Event::AttemptSucceeded {
            output: Output::Payload { sha256, .. },
            ..
        } => Some(sha256.as_str()),
        _ => None,
    })
}

/// All runs with their graphs and how far they are, and the number of the installation's last entry.
type Moment = (Vec<(RunId, String, u64)>, u64);

/// How far everything is at one moment between two commits.
async fn moment(journal: &SurrealJournal) -> Result<Moment, JournalError> {
    let _no_commit = match &journal.writer {
        Some(writer) => Some(writer.lock().await),
        None => None,
    };
    let runs = journal.all_runs().await?.into_iter();
    let runs = runs.map(|row| (row.run, row.graph, row.seq)).collect();
    let site = journal.site_tail(1).await?.last().map_or(0, |entry| entry.seq);
    Ok((runs, site))
}
