//! The chain on disk: one file to which every tipset is appended with all that its execution wrote, and its
//! checksum. Opening reads it from the start; nothing is executed again, so it needs no proofs.
//!
//! A record is written before anybody sees the tipset. A kill in the middle leaves a record that is cut: it is
//! put aside at the next start, and the chain ends before it. The file is synced once a second at most, so a
//! power cut can take the newest epochs.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple};
use fvm_ipld_encoding::{from_slice, to_vec};
use serde::{Deserialize, Serialize};

use crate::message::{SignedMessage, blake2b_256};
use crate::types::{BytesDe, Cid, TokenAmount};

use super::block::Block;
use super::chain::{Receipt, Tip};
use super::error::DevnetError;

const MAGIC: &[u8] = b"sealflow devnet 1\n";
/// Length before a record, and checksum behind it.
const LENGTH: usize = 4;
const CHECKSUM: usize = 8;
/// How long a written record may stay unsynced while others follow.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record {
    /// A tipset of one block, as chains have them that were begun when there were no others. Only read.
    Tip(Vec<(Cid, BytesDe)>, Box<OneBlock>),
    /// A tipset, with the objects that its execution wrote.
    Tipset(Vec<(Cid, BytesDe)>, Box<Tip>),
    /// The head from here on.
    Head(Cid),
    /// A message that was taken into the pool.
    Pending(Box<SignedMessage>),
    /// A message that was dropped from the pool.
    Dropped(Cid),
    /// The pool has nothing from here on.
    EmptyPool,
    /// The base fee of the next blocks.
    BaseFee(TokenAmount),
    /// The number of the branch on which new blocks are.
    Branch(u64),
}

/// A tipset of one block, in the order of its fields of old.
#[derive(Debug, Serialize_tuple, Deserialize_tuple)]
pub(super) struct OneBlock {
    cid: Cid,
    block: Block,
    messages: Vec<SignedMessage>,
    receipts: Vec<Receipt>,
    receipts_root: Cid,
    post_root: Cid,
}

impl From<OneBlock> for Tip {
    fn from(old: OneBlock) -> Self {
        Self {
            cid: old.cid,
            blocks: vec![(old.cid, old.block)],
            messages: old.messages,
            receipts: old.receipts,
            receipts_root: old.receipts_root,
            post_root: old.post_root,
        }
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Where the last whole record ends.
    end: u64,
    synced: Instant,
}

impl Log {
    /// Opens or makes the file, and reads all that is whole.
    pub(super) fn open(path: PathBuf) -> Result<(Self, Vec<Record>), DevnetError> {
        let io = |error| DevnetError::io(&path, error);
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() < MAGIC.len() && MAGIC.starts_with(&bytes) {
            // Nothing was ever written, or the first line was cut.
            file.set_len(0).map_err(io)?;
            file.write_all(MAGIC).map_err(io)?;
            file.sync_all().map_err(io)?;
            bytes = MAGIC.to_vec();
        }
        if !bytes.starts_with(MAGIC) {
            return Err(DevnetError::Damaged {
                path,
                reason: "it is no chain of this version".into(),
            });
        }
        let (records, whole) = read(&bytes);
        if whole < bytes.len() {
            put_aside(&path, &bytes[whole..])?;
            file.set_len(whole as u64).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        let log = Self {
            path,
            file,
            end: whole as u64,
            synced: Instant::now(),
        };
        Ok((log, records))
    }

    /// Appends records, all in one write.
    pub(super) fn append(&mut self, records: &[Record]) -> Result<(), DevnetError> {
        let mut bytes = Vec::new();
        for record in records {
            encode(record, &mut bytes).map_err(|reason| DevnetError::Damaged {
                path: self.path.clone(),
                reason,
            })?;
        }
        let io = |error| DevnetError::io(&self.path, error);
        // What an append before could not write whole is cut off first: nothing counts behind it.
        if self.file.metadata().map_err(io)?.len() != self.end {
            self.file.set_len(self.end).map_err(io)?;
        }
        self.file.write_all(&bytes).map_err(io)?;
        self.end += bytes.len() as u64;
        if self.synced.elapsed() >= SYNC_EVERY {
            self.file.sync_data().map_err(io)?;
            self.synced = Instant::now();
        }
        Ok(())
    }

    /// Makes all that was written safe.
    pub(super) fn sync(&mut self) -> Result<(), DevnetError> {
        self.file
            .sync_data()
            .map_err(|error| DevnetError::io(&self.path, error))
    }
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&blake2b_256(payload)[..CHECKSUM]);
    sum
}

fn encode(record: &Record, bytes: &mut Vec<u8>) -> Result<(), String> {
    let payload = to_vec(record).map_err(|e| e.to_string())?;
    let length = u32::try_from(payload.len()).map_err(|_| "a record of more than 4 GiB".to_owned())?;
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(&checksum(&payload));
    Ok(())
}

/// The records from the start on that are whole, and where they end.
fn read(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    let mut at = MAGIC.len();
    while let Some((record, end)) = read_one(bytes, at) {
        records.push(record);
        at = end;
    }
    (records, at)
}

fn read_one(bytes: &[u8], at: usize) -> Option<(Record, usize)> {
    let start = at + LENGTH;
    let mut length = [0; LENGTH];
    length.copy_from_slice(bytes.get(at..start)?);
    let end = start.checked_add(usize::try_from(u32::from_le_bytes(length)).ok()?)?;
    let payload = bytes.get(start..end)?;
    let after = end.checked_add(CHECKSUM)?;
    if bytes.get(end..after)? != checksum(payload) {
        return None;
    }
    Some((from_slice(payload).ok()?, after))
}

/// Keeps what is cut off, for whoever wants to look.
fn put_aside(path: &Path, tail: &[u8]) -> Result<(), DevnetError> {
    let aside = path.with_extension("cut");
    tracing::warn!(
        "{}: the last {} bytes are no whole record; they are put into {}",
        path.display(),
        tail.len(),
        aside.display()
    );
    std::fs::write(&aside, tail).map_err(|error| DevnetError::io(&aside, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_cut_the_rest_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.log");
        let (mut log, none) = Log::open(path.clone()).unwrap();
        assert!(none.is_empty());
        let records: Vec<Record> = (0..3).map(Record::Branch).collect();
        log.append(&records).unwrap();
        log.sync().unwrap();
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut log, records) = Log::open(path.clone()).unwrap();
            for (at, record) in records.iter().enumerate() {
                assert!(matches!(record, Record::Branch(number) if *number == at as u64));
            }
            seen.insert(records.len());
            // It can be written to again.
            log.append(&[Record::Branch(9)]).unwrap();
            drop(log);
            let (_, again) = Log::open(path.clone()).unwrap();
            assert_eq!(again.len(), records.len() + 1, "cut at {cut}");
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_chain_from_before_there_were_tipsets_of_several_blocks_is_read() {
        use crate::devnet::folder::{Genesis, Keys};
        let genesis = Genesis {
            profile: "tiny".into(),
            timestamp: 7,
        };
        let keys = Keys::generate().unwrap();
        let (tip, _) = crate::devnet::genesis::genesis_tip(&genesis, &keys).unwrap();
        let (cid, block) = tip.blocks[0].clone();
        let old = OneBlock {
            cid,
            block,
            messages: Vec::new(),
            receipts: Vec::new(),
            receipts_root: tip.receipts_root,
            post_root: tip.post_root,
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.log");
        let (mut log, _) = Log::open(path.clone()).unwrap();
        log.append(&[Record::Tip(Vec::new(), Box::new(old))]).unwrap();
        drop(log);
        let (_, mut records) = Log::open(path).unwrap();
        let Some(Record::Tip(_, read)) = records.pop() else {
            panic!("it is not read as it was written");
        };
        let read = Tip::from(*read);
        assert_eq!((read.cid, read.key()), (cid, vec![cid]));
        assert_eq!((read.height(), read.parent()), (0, None));
        assert_eq!(read.post_root, tip.post_root);
    }

    #[test]
    fn what_was_written_in_part_is_cut_off_before_more_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.log");
        let (mut log, _) = Log::open(path.clone()).unwrap();
        log.append(&[Record::Branch(1)]).unwrap();
        // As a full disk leaves it.
        log.file.write_all(&[9, 0, 0]).unwrap();
        log.append(&[Record::Branch(2)]).unwrap();
        drop(log);
        let (_, records) = Log::open(path).unwrap();
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn a_bit_that_flips_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.log");
        let (mut log, _) = Log::open(path.clone()).unwrap();
        log.append(&[Record::Branch(1), Record::Branch(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in MAGIC.len()..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let (_, records) = Log::open(path.clone()).unwrap();
            assert!(records.len() < 2, "byte {at}");
        }
        std::fs::write(&path, b"something else entirely").unwrap();
        assert!(Log::open(path).is_err());
    }
}
