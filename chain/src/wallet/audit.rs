//! The record of every request to sign or export: a file that is only appended to, a JSON object a line,
//! durable before the answer leaves.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::failure::bounded;
use crate::message;
use crate::params::Call;
use crate::types::{Address, Message};

use super::error::WalletError;
use super::folder::{self, Folder};

const NAME: &str = "audit.jsonl";

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// A signature was made.
    Signed,
    /// None was made; the reason says why.
    Refused,
    /// A secret key was handed out.
    Exported,
    /// The keys were unlocked.
    Unlocked,
    /// The keys were locked.
    Locked,
}

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// The key.
    pub key: String,
    /// The method's name, or its number where it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The destination.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub to: String,
    /// The value in attoFIL.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The nonce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<u64>,
    /// The message's CID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cid: String,
    /// The policy's rule that allowed it, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<usize>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl AuditRecord {
    pub(super) fn of_message(message: &Message, judged: Result<usize, &WalletError>) -> Self {
        let call = Call::decode(&message.to, message.method_num, message.params.bytes());
        Self {
            at_ms: now_ms(),
            verdict: if judged.is_ok() {
                Verdict::Signed
            } else {
                Verdict::Refused
            },
            key: message.from.to_string(),
            method: call.map_or_else(|_| message.method_num.to_string(), |call| call.name().into()),
            to: message.to.to_string(),
            value: message.value.atto().to_string(),
            nonce: Some(message.sequence),
            cid: message::cid(message)
                .map(|cid| cid.to_string())
                .unwrap_or_default(),
            rule: judged.ok().map(|rule| rule + 1),
            reason: judged
                .err()
                .map(|error| bounded(&error.to_string()))
                .unwrap_or_default(),
        }
    }

    pub(super) fn export(key: &Address, done: bool) -> Self {
        let reason = if done {
            ""
        } else {
            "export with a wrong passphrase"
        };
        let verdict = if done { Verdict::Exported } else { Verdict::Refused };
        Self::of_key(key.to_string(), verdict, reason)
    }

    pub(super) fn unlock(done: bool) -> Self {
        let reason = if done {
            ""
        } else {
            "unlock with a wrong passphrase"
        };
        let verdict = if done { Verdict::Unlocked } else { Verdict::Refused };
        Self::of_key("all".to_owned(), verdict, reason)
    }

    pub(super) fn lock() -> Self {
        Self::of_key("all".to_owned(), Verdict::Locked, "")
    }

    fn of_key(key: String, verdict: Verdict, reason: &str) -> Self {
        Self {
            at_ms: now_ms(),
            verdict,
            key,
            method: String::new(),
            to: String::new(),
            value: String::new(),
            nonce: None,
            cid: String::new(),
            rule: None,
            reason: reason.to_owned(),
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The file.
pub(super) struct Audit {
    path: PathBuf,
    file: File,
}

impl Audit {
    pub(super) fn open(folder: &Folder) -> Result<Self, WalletError> {
        let path = folder.path(NAME);
        let io = WalletError::io;
        let new = !path.exists();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(io(&path))?;
        folder::check_private(&path)?;
        if new {
            folder::sync_dir(&folder.path(""))?;
        } else if ends_inside_a_line(&mut file).map_err(io(&path))? {
            // A power cut left half a line. What it was about got no answer.
            file.write_all(b"\n").map_err(io(&path))?;
        }
        Ok(Self { path, file })
    }

    /// A record on a disk that is full.
    #[cfg(test)]
    pub(super) fn full() -> Self {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("/dev/full is there");
        Self { path, file }
    }

    /// Appends a line and makes it durable.
    pub(super) fn append(&mut self, record: &AuditRecord) -> Result<(), WalletError> {
        let io = WalletError::io;
        let mut line = serde_json::to_vec(record).map_err(|e| WalletError::Key(e.to_string()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(io(&self.path))?;
        self.file.sync_data().map_err(io(&self.path))
    }
}

fn ends_inside_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
