//! Sending one object: in one request if it is small, else in parts that a later attempt goes on from.
//!
//! Every request's body is hashed before it is signed (`x-amz-content-sha256`, and `content-md5`), so the server refuses
//! what changed on the way. An object gets its name when all of it is there, with its SHA-256 beside it
//! (`x-amz-meta-sha256`).
//!
//! What is known of an upload under way is an object in the store, `.uploads/HASH`: so any machine can go on with it, and
//! nobody has to look for what was left behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use s3::error::S3Error;
use s3::serde_types::Part;
use sealflow_engine::artifact::BytesDone;
use sealflow_engine::crash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::client::Client;
use super::fault::Fault;
use super::settings::S3Settings;

/// The most parts of an upload (S3 API reference).
const MOST_PARTS: u64 = 10_000;
/// What is known of an upload is written down again after so many parts.
const REMEMBER_EVERY: usize = 8;
/// The largest note about an upload.
const NOTE_LIMIT: usize = 2 << 20;
const TYPE: &str = "application/octet-stream";

/// Where the bytes come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A file here.
    File(Arc<PathBuf>),
    /// Another object of the bucket.
    Object(String),
}

/// What is sent.
pub(super) struct Upload<'a> {
    pub(super) object: &'a str,
    /// The object that remembers the upload.
    pub(super) note: &'a str,
    pub(super) source: Source,
    pub(super) bytes: u64,
    /// In hexadecimal.
    pub(super) sha256: &'a str,
}

/// What is known of an upload under way.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    object: String,
    upload: String,
    bytes: u64,
    sha256: String,
    part_bytes: u64,
    /// The parts that are there, by number, with their tags.
    parts: BTreeMap<u32, String>,
}

pub(super) fn metadata(sha256: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(sha256) {
        headers.insert(HeaderName::from_static("x-amz-meta-sha256"), value);
    }
    headers
}

pub(super) fn part_bytes(settings: &S3Settings, bytes: u64) -> u64 {
    let least = bytes.div_ceil(MOST_PARTS).next_multiple_of(1 << 20);
    settings.part_bytes.max(S3Settings::SMALLEST_PART).max(least)
}

impl Upload<'_> {
    pub(super) async fn send(&self, client: &Arc<Client>, done: BytesDone<'_>) -> Result<(), Fault> {
        if self.bytes <= part_bytes(client.settings(), self.bytes) {
            self.whole(client).await?;
            done(self.bytes);
            return Ok(());
        }
        // An upload that the server has forgotten is begun anew, once.
        match self.in_parts(client, done).await {
            Err(Fault::NoUpload) => self.in_parts(client, done).await,
            other => other,
        }
    }

    async fn whole(&self, client: &Client) -> Result<(), Fault> {
        let content = self.source.read(client, 0, self.bytes).await?;
        if hex::encode(Sha256::digest(&content)) != self.sha256 {
            return Err(Fault::Refused(
                "the file changed while it was read; try again".to_owned(),
            ));
        }
        let (content, object) = (&content, self.object);
        client
            .call(self.bytes, |bucket| async move {
                let headers = Some(metadata(self.sha256));
                bucket
                    .put_object_with_headers(object, content, headers)
                    .await
                    .map(drop)
            })
            .await
    }

    async fn in_parts(&self, client: &Arc<Client>, done: BytesDone<'_>) -> Result<(), Fault> {
        let mut note = self.begin(client).await?;
        let result = self.send_parts(client, &mut note, done).await;
        if matches!(result, Err(Fault::NoUpload)) {
            client.remove(self.note).await?;
        }
        result?;
        crash::point("store.s3.before_complete");
        self.complete(client, &note).await?;
        crash::point("store.s3.after_complete");
        client.remove(self.note).await
    }

    /// Takes up the upload that is under way, or begins one.
    async fn begin(&self, client: &Client) -> Result<Note, Fault> {
        let part_bytes = part_bytes(client.settings(), self.bytes);
        if let Some(note) = read_note(client, self.note).await? {
            let same = note.object == self.object
                && note.bytes == self.bytes
                && note.sha256 == self.sha256
                && note.part_bytes == part_bytes;
            if same {
                return Ok(note);
            }
            abort(client, self.note, &note).await?;
        }
        let object = self.object;
        let begun = client.call(0, |bucket| async move {
            let bucket = bucket.with_extra_headers(metadata(self.sha256))?;
            bucket.initiate_multipart_upload(object, TYPE).await
        });
        let note = Note {
            object: object.to_owned(),
            upload: begun.await?.upload_id,
            bytes: self.bytes,
            sha256: self.sha256.to_owned(),
            part_bytes,
            parts: BTreeMap::new(),
        };
        write_note(client, self.note, &note).await?;
        crash::point("store.s3.begun");
        Ok(note)
    }

    async fn send_parts(
        &self,
        client: &Arc<Client>,
        note: &mut Note,
        done: BytesDone<'_>,
    ) -> Result<(), Fault> {
        let size = note.part_bytes;
        let count = u32::try_from(self.bytes.div_ceil(size)).unwrap_or(u32::MAX);
        let length = |part: u32| {
            let start = u64::from(part - 1) * size;
            (start, size.min(self.bytes - start))
        };
        let mut sum: u64 = note.parts.keys().map(|part| length(*part).1).sum();
        done(sum);
        let missing: Vec<u32> = (1..=count)
            .filter(|part| !note.parts.contains_key(part))
            .collect();
        let mut missing = missing.into_iter().map(|part| {
            let (start, bytes) = length(part);
            let part = OnePart {
                client: client.clone(),
                object: self.object.to_owned(),
                upload: note.upload.clone(),
                source: self.source.clone(),
                number: part,
                start,
                bytes,
            };
            part.send()
        });
        // Each is a task of its own: what it is hashed for does not hold up the others.
        let mut sending = JoinSet::new();
        for part in missing.by_ref().take(client.settings().concurrency.max(1)) {
            sending.spawn(part);
        }
        let (mut unsaved, mut result) = (0, Ok(()));
        while let Some(one) = sending.join_next().await {
            let broken = |error| Err(Fault::Passing(format!("sending a part: {error}")));
            match one.unwrap_or_else(broken) {
                Ok((part, bytes, tag)) => {
                    note.parts.insert(part, tag);
                    unsaved += 1;
                    sum += bytes;
                    done(sum);
                    missing.next().map(|part| sending.spawn(part));
                }
                Err(fault) => {
                    result = Err(fault);
                    break;
                }
            }
            if unsaved >= REMEMBER_EVERY {
                write_note(client, self.note, note).await?;
                unsaved = 0;
                crash::point("store.s3.part");
            }
        }
        drop(sending);
        if unsaved > 0 && !matches!(result, Err(Fault::NoUpload)) {
            let written = write_note(client, self.note, note).await;
            result = result.and(written);
        }
        result
    }

    /// Puts the parts together. An answer that was lost is no failure if the object is there.
    async fn complete(&self, client: &Client, note: &Note) -> Result<(), Fault> {
        let (object, upload) = (self.object, note.upload.as_str());
        let completed = client.call(self.bytes, |bucket| async move {
            let parts = note.parts.iter();
            let parts = parts.map(|(part_number, etag)| Part {
                part_number: *part_number,
                etag: etag.clone(),
            });
            bucket
                .complete_multipart_upload(object, upload, parts.collect())
                .await
                .map(drop)
        });
        match completed.await {
            Err(Fault::NoUpload) => {
                let there = head(client, object).await?;
                let same = there.is_some_and(|(bytes, sha256)| {
                    bytes == self.bytes && sha256.as_deref() == Some(self.sha256)
                });
                if same {
                    return Ok(());
                }
                client.remove(self.note).await?;
                Err(Fault::NoUpload)
            }
            other => other,
        }
    }
}

/// A part on its way.
struct OnePart {
    client: Arc<Client>,
    object: String,
    upload: String,
    source: Source,
    number: u32,
    start: u64,
    bytes: u64,
}

impl OnePart {
    /// Gives its number, its size and its tag.
    async fn send(self) -> Result<(u32, u64, String), Fault> {
        let content = self.source.read(&self.client, self.start, self.bytes).await?;
        let (content, part) = (&content, &self);
        let sent = self.client.call(self.bytes, |bucket| async move {
            let content = content.clone();
            bucket
                .put_multipart_chunk(content, &part.object, part.number, &part.upload, TYPE)
                .await
        });
        let tag = sent.await?.etag;
        Ok((self.number, self.bytes, tag))
    }
}

impl Source {
    async fn read(&self, client: &Client, start: u64, bytes: u64) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Object(object) => {
                let read = client.read(object, start, bytes).await?;
                if read.len() as u64 != bytes {
                    return Err(Fault::OutOfRange);
                }
                Ok(read)
            }
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut content = vec![0; usize::try_from(bytes).unwrap_or(0)];
                    File::open(&*path)?.read_exact_at(&mut content, start)?;
                    Ok::<_, std::io::Error>(content)
                });
                let read = read.await.map_err(std::io::Error::other).and_then(|read| read);
                let path = self.clone();
                read.map_err(|error| Fault::Refused(format!("reading {path:?}: {error}")))
            }
        }
    }
}

/// The size of an object, and its SHA-256 in hexadecimal if it is remembered. None if there is none.
pub(super) async fn head(client: &Client, object: &str) -> Result<Option<(u64, Option<String>)>, Fault> {
    let asked = client.call(0, |bucket| async move { bucket.head_object(object).await });
    let found = match asked.await {
        Ok((found, _)) => found,
        Err(Fault::Missing) => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let bytes = found.content_length.and_then(|bytes| u64::try_from(bytes).ok());
    let bytes =
        bytes.ok_or_else(|| Fault::Passing("the answer does not say the object's size".to_owned()))?;
    let sha256 = found.metadata.and_then(|mut all| all.remove("sha256"));
    Ok(Some((bytes, sha256.filter(|text| text.len() == 64))))
}

async fn read_note(client: &Client, at: &str) -> Result<Option<Note>, Fault> {
    match client.read_small(at, NOTE_LIMIT).await {
        // A note that cannot be read is as good as none: its upload stays until the bucket's own rules end it.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(Fault::Missing) => Ok(None),
        Err(fault) => Err(fault),
    }
}

async fn write_note(client: &Client, at: &str, note: &Note) -> Result<(), Fault> {
    let text = serde_json::to_vec(note).unwrap_or_default();
    let text = &text;
    let written = client.call(text.len() as u64, |bucket| async move {
        bucket
            .put_object_with_content_type(at, text, "application/json")
            .await
            .map(drop)
    });
    written.await
}

/// Ends the upload that a note tells of, if there is one, and forgets it.
pub(super) async fn forget(client: &Client, at: &str) -> Result<(), Fault> {
    match read_note(client, at).await? {
        Some(note) => abort(client, at, &note).await,
        None => Ok(()),
    }
}

/// Forgets the upload of an object that is there as it should be. One of another content is ended first.
pub(super) async fn settle(client: &Client, at: &str, sha256: &str) -> Result<(), Fault> {
    match read_note(client, at).await? {
        Some(note) if note.sha256 == sha256 => client.remove(at).await,
        Some(note) => abort(client, at, &note).await,
        None => Ok(()),
    }
}

async fn abort(client: &Client, at: &str, note: &Note) -> Result<(), Fault> {
    let (object, upload) = (note.object.as_str(), note.upload.as_str());
    let aborted = client.call(0, |bucket| async move {
        let result: Result<(), S3Error> = bucket.abort_upload(object, upload).await;
        result
    });
    match aborted.await {
        Ok(()) | Err(Fault::NoUpload | Fault::Missing) => client.remove(at).await,
        Err(fault) => Err(fault),
    }
}
