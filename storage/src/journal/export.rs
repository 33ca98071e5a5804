//! The backup: what happened, line by line, independent of the store and of its schema. Rows are not in
//! it; whoever restores it derives them, which proves it.

use std::collections::HashSet;

use sealflow_engine::id::RunId;
use sealflow_engine::journal::{Journal, JournalError};

use super::SurrealJournal;
use super::archive::ArchivedRow;
use super::lines::{Line, LineWriter, Sink, TransferError, Transferred, payloads_of};
use super::read::PAGE;

/// A run in a backup.
enum Item {
    /// In the journal: how far it was.
    Run(RunId, u64),
    /// In an archive.
    Archived(Box<ArchivedRow>),
}

impl Item {
    fn run(&self) -> &RunId {
        match self {
            Self::Run(run, ..) => run,
            Self::Archived(row) => &row.row.run,
        }
    }
}

/// Writes everything that happened, archived runs included. Commits may go on meanwhile: what is written
/// is how the journal was at one moment. Nothing is archived or removed until it has ended.
///
/// # Errors
/// The journal or an archive cannot be read, an entry lacks its graph or payload, or the lines cannot be
/// written.
pub async fn export(journal: &SurrealJournal, to: impl Sink) -> Result<Transferred, TransferError> {
    let _still = journal.housekeeping.lock().await;
    let mut writer = LineWriter::begin(to).await?;
    let mut done = Transferred::default();
    let (mut graphs, mut payloads) = (HashSet::new(), HashSet::new());
    let (items, site) = moment(journal).await?;
    let mut next = 1;
    while next <= site {
        let last = site.min(next + PAGE as u64 - 1);
        for entry in journal.site_between(next, last).await? {
            let entry = Box::new(entry);
            writer.line(&Line::Site { entry }).await?;
        }
        next = last + 1;
    }
    messages(journal, &mut writer, &mut done).await?;
    for item in items {
        match item {
            Item::Run(run, last) => {
                write_run(
                    journal,
                    &mut writer,
                    (&run, last),
                    (&mut graphs, &mut payloads),
                    &mut done,
                )
                .await?;
            }
            Item::Archived(row) => {
                // Verified here: a backup of a damaged archive would be none.
                let bytes = journal.archive_bytes(&row).await?;
                done.archives += 1;
                let hex = hex::encode(bytes);
                writer.line(&Line::Archive { row, hex }).await?;
            }
        }
    }
    writer.end().await?;
    Ok(done)
}

/// Writes what the messager remembers. The head is left out: whoever restores reads the chain anew. Senders come last:
/// their nonces must not be behind those of the messages before them.
async fn messages<S: Sink>(
    journal: &SurrealJournal,
    writer: &mut LineWriter<S>,
    done: &mut Transferred,
) -> Result<(), TransferError> {
    let mut next = 1;
    loop {
        let page = journal.read_messages_from(next).await?;
        let Some(last) = page.last() else { break };
        next = last.number + 1;
        for record in page {
            done.messages += 1;
            let record = Box::new(record);
            writer.line(&Line::Message { record }).await?;
        }
    }
    for row in journal.read_senders().await? {
        let row = Box::new(row);
        writer.line(&Line::Sender { row }).await?;
    }
    Ok(())
}

/// Writes the graphs, the payloads and the entries of a run, as far as they were not written before.
pub(super) async fn write_run<S: Sink>(
    journal: &SurrealJournal,
    writer: &mut LineWriter<S>,
    (run, last): (&RunId, u64),
    (graphs, payloads): (&mut HashSet<String>, &mut HashSet<String>),
    done: &mut Transferred,
) -> Result<(), TransferError> {
    let mut next = 1;
    while next <= last {
        let piece = u32::try_from((last - next + 1).min(PAGE as u64)).unwrap_or(u32::MAX);
        let entries = journal.entries(run, next, piece).await?;
        if entries.len() != piece as usize {
            return Err(JournalError::Corrupt(format!("{run} lacks entries up to {last}")).into());
        }
        for entry in entries {
            for hash in entry.graphs() {
                if graphs.insert(hash.to_string()) {
                    let missing = || JournalError::Corrupt(format!("graph {hash} of {run} is not stored"));
                    let stored = journal.graph(hash).await?.ok_or_else(missing)?;
                    let (hash, graph) = (hash.to_string(), Box::new(stored));
                    writer.line(&Line::Graph { hash, graph }).await?;
                    done.graphs += 1;
                }
            }
            for (sha256, _) in payloads_of(&entry) {
                if payloads.insert(sha256.to_owned()) {
                    let hex = hex::encode(journal.payload(sha256).await?);
                    let sha256 = sha256.to_owned();
                    writer.line(&Line::Payload { sha256, hex }).await?;
                    done.payloads += 1;
                }
            }
            next = entry.seq + 1;
            let (run, entry) = (run.clone(), Box::new(entry));
            writer.line(&Line::Entry { run, entry }).await?;
            done.entries += 1;
        }
    }
    done.runs += 1;
    Ok(())
}

/// All runs, the oldest first, and the number of the installation's last entry, at one moment between two
/// commits.
async fn moment(journal: &SurrealJournal) -> Result<(Vec<Item>, u64), JournalError> {
    let _no_commit = match &journal.writer {
        Some(writer) => Some(writer.lock().await),
        None => None,
    };
    let runs = journal.all_runs().await?.into_iter();
    let mut items: Vec<Item> = runs.map(|row| Item::Run(row.run, row.seq)).collect();
    items.extend(
        journal
            .all_archived()
            .await?
            .into_iter()
            .map(|row| Item::Archived(Box::new(row))),
    );
    items.sort_by(|a, b| a.run().cmp(b.run()));
    let site = journal.site_tail(1).await?.last().map_or(0, |entry| entry.seq);
    Ok((items, site))
}
