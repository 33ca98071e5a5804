//! The file of an archived run: the lines of a backup of that run alone, with a snapshot of its rows, in
//! gzip. It needs nothing else to be read, and proves itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use sealflow_engine::event::Entry;
use sealflow_engine::journal::{ArtifactRow, JournalError, StoredGraph};
use sealflow_engine::rows::{RunRow, StepRow, run_row};
use sealflow_engine::run::RunState;
use sha2::{Digest, Sha256};

use super::super::SurrealJournal;
use super::super::error::corrupt;
use super::super::export::write_run;
use super::super::lines::{Line, LineWriter, Lines, TransferError, Transferred, plain};
use super::super::replay::{Replay, Told, step_rows};
use super::ArchivedRow;

/// What the file of an archived run holds, verified and folded.
#[derive(Debug)]
pub struct Archive {
    /// The run.
    pub row: RunRow,
    /// Its steps and items.
    pub steps: Vec<StepRow>,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// The graphs that it kept, by hash.
    pub graphs: BTreeMap<String, Arc<StoredGraph>>,
    /// Its large outputs, by SHA-256.
    pub payloads: BTreeMap<String, Vec<u8>>,
    /// The artifacts that it made, as it stood by them last.
    pub artifacts: Vec<ArtifactRow>,
}

impl Archive {
    /// Reads a file. Its hashes must be right, its entries must be able to have happened, and they must give
    /// the rows that were recorded. With the row of the index, that must be about this file.
    ///
    /// # Errors
    /// The file is damaged, or another one.
    pub(in super::super) fn read(bytes: &[u8], known: Option<&ArchivedRow>) -> Result<Self, TransferError> {
        if let Some(known) = known {
            let sha256 = hex::encode(Sha256::digest(bytes));
            if sha256 != known.sha256 || bytes.len() as u64 != known.bytes {
                let run = &known.row.run;
                let what =
                    format!("the archive of {run} is not the file that was written (SHA-256 {sha256})");
                return Err(JournalError::Corrupt(what).into());
            }
        }
        let mut from = bytes;
        let mut lines = Lines::new(plain(&mut from)?);
        let mut replay = Replay::default();
        let (mut entries, mut payloads, mut artifacts) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        while let Some(line) = lines.next()? {
            if let Line::Archive { .. } = line {
                return Err(lines.refused("an archive in an archive"));
            }
            match replay.line(line).map_err(|what| lines.refused(what))? {
                Told::Payload(bytes) => {
                    payloads.insert(hex::encode(Sha256::digest(&bytes)), bytes);
                }
                Told::Append(append) => {
                    entries.push(append.entry);
                    let rows = append.artifacts.into_iter();
                    artifacts.extend(rows.map(|row| (row.kind.clone(), row)));
                }
                Told::Nothing | Told::Archive(..) | Told::Site(_) | Told::Messages(_) => {}
            }
        }
        let compared = replay.compared && replay.done.runs == 1;
        let state = replay.run.as_ref().filter(|_| compared);
        let state =
            state.ok_or_else(|| lines.refused("it is not the archive of a run: it lacks the snapshot"))?;
        let (row, steps) = (run_row(state), step_rows(state));
        if known.is_some_and(|known| known.row != row) {
            return Err(lines.refused(format!("it is about {}, which the index has otherwise", row.run)));
        }
        let graphs = replay.graphs();
        Ok(Self {
            row,
            steps,
            entries,
            graphs,
            payloads,
            artifacts: artifacts.into_values().collect(),
        })
    }
}

/// The bytes of the file of a run that has ended.
pub(super) async fn pack(journal: &SurrealJournal, state: &RunState) -> Result<Vec<u8>, TransferError> {
    let mut writer = LineWriter::begin(GzEncoder::new(Vec::new(), Compression::default())).await?;
    let of = (&state.id, state.seq);
    let (mut graphs, mut payloads) = (HashSet::new(), HashSet::new());
    let mut done = Transferred::default();
    write_run(journal, &mut writer, of, (&mut graphs, &mut payloads), &mut done).await?;
    let row = Box::new(run_row(state));
    let steps = step_rows(state);
    writer.line(&Line::Snapshot { row, steps }).await?;
    let packed = writer.end().await?.finish();
    packed.map_err(|error| corrupt(format!("an archive cannot be packed: {error}")).into())
}
