//! Taking in a backup: verified as a whole before anything is written, then folded run by run, which
//! derives all rows and proves that what the backup tells can have happened.

use std::io::{BufRead, Seek, SeekFrom};

use sealflow_engine::crash;
use sealflow_engine::journal::{Batch, Journal, RunFilter};

use super::SurrealJournal;
use super::lines::{Lines, TransferError, Transferred, plain, unread};
use super::replay::{Replay, Told};

/// Entries that are committed together.
const GROUP: usize = 200;

/// Reads a whole backup and folds every run, without storing anything.
///
/// # Errors
/// It is cut off, changed or of a newer format, or tells what cannot have happened.
pub fn verify(mut from: impl BufRead + Send) -> Result<Transferred, TransferError> {
    let mut lines = Lines::new(plain(&mut from)?);
    let mut replay = Replay::default();
    while let Some(line) = lines.next()? {
        replay.line(line).map_err(|what| lines.refused(what))?;
    }
    Ok(replay.done)
}

/// Takes a backup into an empty journal. When it fails half-way, which only a failing store can cause,
/// the journal is to be thrown away.
///
/// # Errors
/// The journal has runs, the backup is cut off, changed or of a newer format, or tells what cannot have
/// happened, or the journal fails.
pub async fn import(
    journal: &SurrealJournal,
    mut from: impl BufRead + Seek + Send,
) -> Result<Transferred, TransferError> {
    let any = RunFilter {
        limit: Some(1),
        ..RunFilter::default()
    };
    if !journal.runs(&any).await?.is_empty() || !journal.archived_runs(&any).await?.is_empty() {
        return Err(TransferError::NotEmpty(journal.place().to_owned()));
    }
    let begin = from.stream_position().map_err(unread)?;
    verify(&mut from)?;
    crash::point("import.verified");
    from.seek(SeekFrom::Start(begin)).map_err(unread)?;
    let mut lines = Lines::new(plain(&mut from)?);
    let mut replay = Replay::default();
    let mut batch = Batch::default();
    while let Some(line) = lines.next()? {
        match replay.line(line).map_err(|what| lines.refused(what))? {
            Told::Nothing => {}
            Told::Payload(bytes) => {
                journal.put_payload(&bytes).await?;
            }
            Told::Append(append) => {
                batch.push(*append);
                if batch.entries.len() >= GROUP {
                    journal.commit(&std::mem::take(&mut batch)).await?;
                    crash::point("import.committed");
                }
            }
            Told::Messages(messages) => journal.write_messages(&messages).await?,
            Told::Site(entry) => {
                batch.site.push(*entry);
                if batch.site.len() >= GROUP {
                    journal.commit(&std::mem::take(&mut batch)).await?;
                }
            }
            Told::Archive(row, bytes, archive) => {
                // Artifacts are those of the run that started last, so the order is kept.
                journal.commit(&std::mem::take(&mut batch)).await?;
                journal.take_archive(&row, &bytes, &archive).await?;
            }
        }
    }
    journal.commit(&batch).await?;
    Ok(replay.done)
}
