//! Taking in an export: verified as a whole before anything is written, then folded run by run, which
//! derives all rows and proves that what the export tells can have happened.

use std::collections::HashMap;
use std::io::{BufRead, Seek, SeekFrom};
use std::sync::Arc;

use sealflow_engine::core::accepted_artifacts;
use sealflow_engine::event::Entry;
use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Append, Batch, Journal, JournalError, RunFilter, StoredGraph};
use sealflow_engine::rows::{run_row, step_row};
use sealflow_engine::run::RunState;
use sealflow_engine::site::SiteState;
use sealflow_engine::workflow::Graph;
use sha2::{Digest, Sha256};

use super::SurrealJournal;
use super::export::{EXPORT_FORMAT, Line, TransferError, Transferred, payloads_of};

/// Entries that are committed together.
const GROUP: usize = 200;

/// Takes an export into an empty journal. When it fails half-way, which only a failing store or an
/// export that tells what cannot have happened can cause, the journal is to be thrown away.
///
/// # Errors
/// The journal has runs, the export is cut off, changed or of a newer format, or the journal fails.
pub async fn import(
    journal: &SurrealJournal,
    mut from: impl BufRead + Seek,
) -> Result<Transferred, TransferError> {
    let any = RunFilter {
        limit: Some(1),
        ..RunFilter::default()
    };
    if !journal.runs(&any).await?.is_empty() {
        return Err(TransferError::NotEmpty(journal.place().to_owned()));
    }
    let begin = from.stream_position().map_err(read_error)?;
    verify(&mut from)?;
    from.seek(SeekFrom::Start(begin)).map_err(read_error)?;
    let mut importer = Importer {
        journal,
        graphs: HashMap::new(),
        run: None,
        site: SiteState::default(),
        batch: Batch::default(),
        done: Transferred::default(),
    };
    let mut lines = Lines {
        from,
        number: 0,
        text: Vec::new(),
    };
    while let Some(line) = lines.next()? {
        let at = lines.number;
        importer.line(line).await.map_err(|error| match error {
            Failed::Journal(error) => TransferError::Journal(error),
            Failed::Refused(what) => TransferError::Refused { line: at, what },
        })?;
    }
    importer.flush().await?;
    Ok(importer.done)
}

fn read_error(source: std::io::Error) -> TransferError {
    TransferError::Io { what: "read", source }
}

struct Lines<R> {
    from: R,
    number: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The next line, as it is in `text` too.
    fn next(&mut self) -> Result<Option<Line>, TransferError> {
        self.text.clear();
        if self.from.read_until(b'\n', &mut self.text).map_err(read_error)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let refused = |what| TransferError::Refused {
            line: self.number,
            what,
        };
        if self.text.last() != Some(&b'\n') {
            return Err(refused("it is cut off".to_owned()));
        }
        serde_json::from_slice(&self.text)
            .map(Some)
            .map_err(|error| refused(error.to_string()))
    }
}

/// Reads the whole export and refuses one that is not as it was written.
fn verify(from: impl BufRead) -> Result<(), TransferError> {
    let mut lines = Lines {
        from,
        number: 0,
        text: Vec::new(),
    };
    let mut hash = Sha256::new();
    let mut ended = false;
    while let Some(line) = lines.next()? {
        let number = lines.number;
        let refuse = |what: String| Err(TransferError::Refused { line: number, what });
        match line {
            _ if ended => return refuse("it comes after the end".to_owned()),
            Line::SealflowExport { format } if number == 1 && (1..=EXPORT_FORMAT).contains(&format) => {}
            Line::SealflowExport { format } if number == 1 => {
                return refuse(format!(
                    "it has format {format}, this sealflow reads {EXPORT_FORMAT}"
                ));
            }
            _ if number == 1 => return refuse("it does not begin an export".to_owned()),
            Line::SealflowExport { .. } => return refuse("another export begins".to_owned()),
            Line::End { lines, sha256 } => {
                if lines != number - 1 || sha256 != hex::encode(hash.clone().finalize()) {
                    return refuse("the lines before it are not those that were written".to_owned());
                }
                ended = true;
            }
            _ => {}
        }
        hash.update(&lines.text);
    }
    if ended {
        Ok(())
    } else {
        Err(TransferError::Refused {
            line: lines.number,
            what: "it is cut off: the last line is missing".to_owned(),
        })
    }
}

enum Failed {
    Journal(JournalError),
    Refused(String),
}

impl From<JournalError> for Failed {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

struct Importer<'a> {
    journal: &'a SurrealJournal,
    graphs: HashMap<String, (Arc<Graph>, Arc<StoredGraph>)>,
    run: Option<RunState>,
    site: SiteState,
    batch: Batch,
    done: Transferred,
}

impl Importer<'_> {
    async fn line(&mut self, line: Line) -> Result<(), Failed> {
        match line {
            Line::SealflowExport { .. } | Line::End { .. } => {}
            Line::Graph { hash, graph } => {
                let made = Graph::new(graph.data.clone()).map_err(Failed::Refused)?;
                if **made.hash() != *hash {
                    return Err(Failed::Refused(format!(
                        "the graph's hash is {}, not {hash}",
                        made.hash()
                    )));
                }
                self.graphs.insert(hash, (Arc::new(made), Arc::from(graph)));
                self.done.graphs += 1;
            }
            Line::Payload { sha256, hex } => {
                let bytes = hex::decode(hex).map_err(|error| Failed::Refused(error.to_string()))?;
                let stored = self.journal.put_payload(&bytes).await?;
                if stored != sha256 {
                    return Err(Failed::Refused(format!(
                        "the payload's hash is {stored}, not {sha256}"
                    )));
                }
                self.done.payloads += 1;
            }
            Line::Site { entry } => {
                self.site.apply_entry(&entry).map_err(Failed::Refused)?;
                self.batch.site.push(*entry);
                if self.batch.site.len() >= GROUP {
                    self.flush().await?;
                }
            }
            Line::Entry { run, entry } => {
                for sha256 in payloads_of(&entry) {
                    self.journal.payload(sha256).await?;
                }
                let append = self.apply(run, *entry)?;
                self.batch.push(append);
                self.done.entries += 1;
                if self.batch.entries.len() >= GROUP {
                    self.flush().await?;
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, run: RunId, entry: Entry) -> Result<Append, Failed> {
        let illegal = |error: sealflow_engine::run::Illegal| Failed::Refused(error.to_string());
        let mut new_graph = None;
        if self.run.as_ref().is_none_or(|state| state.id != run) {
            let Some(sealflow_engine::event::Event::RunStarted { graph, .. }) = entry.events.first() else {
                return Err(Failed::Refused(format!("{run} does not begin with its start")));
            };
            let known = self.graphs.get(&**graph);
            let (made, stored) =
                known.ok_or_else(|| Failed::Refused(format!("graph {graph} did not come before it")))?;
            new_graph = Some((made.hash().clone(), stored.clone()));
            self.run = Some(RunState::start(run, made.clone(), &entry).map_err(illegal)?);
            self.done.runs += 1;
        } else if let Some(state) = &mut self.run {
            state.apply(&entry).map_err(illegal)?;
        }
        let Some(state) = &mut self.run else {
            return Err(Failed::Refused("it belongs to no run".to_owned()));
        };
        let steps = state
            .take_touched()
            .into_iter()
            .map(|ix| step_row(state, ix))
            .collect();
        let artifacts = accepted_artifacts(state, &entry);
        Ok(Append {
            row: run_row(state),
            steps,
            artifacts,
            graph: new_graph,
            entry,
        })
    }

    async fn flush(&mut self) -> Result<(), JournalError> {
        let batch = std::mem::take(&mut self.batch);
        self.journal.commit(&batch).await
    }
}
