//! A bucket of an S3 server as a store of artifacts.
//!
//! A file is the object of its key. A folder is an object for each of its files, `KEY/PATH`, and a list of them with
//! their sizes and checksums, `KEY/.folder.json`, which is written last and removed first: a folder without it is not
//! there. What is not yet whole is never seen.

mod breaker;
mod client;
mod fault;
mod hidden;
mod pace;
mod settings;
#[cfg(test)]
mod tests;
mod transfer;
mod upload;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealflow_engine::artifact::{
    Artifact, ArtifactStore, BytesDone, FileStat, LIST_LIMIT, Policy, Stat, StoreError, StoreFuture, Trashed,
    check_file, check_key,
};
use sealflow_engine::crash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, MutexGuard};

use self::client::Client;
use self::fault::Fault;
pub use self::settings::{CredentialSource, S3Settings};
use self::upload::{Source, Upload};
use super::blocking;
use super::copy::{Content, FileContent, file_content, file_contents, folder_content, is_dir};

/// The list of a folder's files. No key can name it: keys' parts begin with no dot.
const MANIFEST: &str = ".folder.json";
/// Notes about uploads under way.
const UPLOADS: &str = ".uploads";
/// The largest list of a folder's files.
const MANIFEST_LIMIT: usize = 4 << 20;
/// The largest object that the server copies in one request (S3 API reference).
const COPY_LIMIT: u64 = 5 << 30;
/// How long the space in use is remembered. Counting it lists the whole store.
const COUNT_EVERY: Duration = Duration::from_secs(600);

/// A store in a bucket.
pub struct S3Store {
    name: String,
    policy: Policy,
    /// Empty, or ends with `/`.
    prefix: String,
    client: Arc<Client>,
    /// Two changes of one key take turns; other keys rarely wait.
    turns: [Mutex<()>; 16],
    used: Mutex<Option<(Instant, u64)>>,
}

/// The server and its bucket; never credentials.
impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("name", &self.name)
            .field("settings", self.client.settings())
            .finish_non_exhaustive()
    }
}

/// The list of a folder's files.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    files: Vec<FileContent>,
}

impl S3Store {
    /// Takes a bucket. Nothing is asked of the server before the store is used.
    ///
    /// # Errors
    /// A prefix that is no key.
    pub fn new(name: impl Into<String>, settings: S3Settings, policy: Policy) -> Result<Self, StoreError> {
        let trimmed = settings.prefix.trim_matches('/');
        let prefix = if trimmed.is_empty() {
            String::new()
        } else {
            check_key(trimmed)?;
            format!("{trimmed}/")
        };
        Ok(Self {
            name: name.into(),
            policy,
            prefix,
            client: Arc::new(Client::new(settings)),
            turns: std::array::from_fn(|_| Mutex::new(())),
            used: Mutex::new(None),
        })
    }

    /// What a failed request means to who asked for `key`.
    fn failed(&self, key: &str) -> impl Fn(Fault) -> StoreError {
        let (store, key) = (self.name.clone(), key.to_owned());
        move |fault| {
            let (store, key) = (store.clone(), key.clone());
            match fault {
                Fault::Missing => StoreError::Missing { store, key },
                Fault::OutOfRange => StoreError::Damaged {
                    store,
                    key,
                    what: "it is shorter than it should be".to_owned(),
                },
                Fault::NoUpload => StoreError::Unavailable {
                    store,
                    what: "it forgets uploads under way; try again".to_owned(),
                },
                Fault::Passing(what) | Fault::Resting(what) => StoreError::Unavailable { store, what },
                Fault::Full(what) => StoreError::Unavailable {
                    store,
                    what: format!("it has no room: {what}; make room, the step is tried again"),
                },
                Fault::Refused(what) => StoreError::Refused { store, what },
            }
        }
    }

    fn object(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn note(&self, key: &str) -> String {
        let name = hex::encode(Sha256::digest(key));
        format!("{}{UPLOADS}/{name}", self.prefix)
    }

    async fn turn(&self, key: &str) -> MutexGuard<'_, ()> {
        let at = usize::from(Sha256::digest(key)[0]) % self.turns.len();
        self.turns[at].lock().await
    }

    fn writable(&self) -> Result<(), StoreError> {
        super::writable(&self.name, &self.policy)
    }

    fn missing(&self, key: &str) -> StoreError {
        self.failed(key)(Fault::Missing)
    }

    fn artifact(&self, key: &str, content: Content) -> Artifact {
        Artifact {
            store: self.name.clone(),
            key: key.to_owned(),
            bytes: content.bytes,
            digest: Some(content.digest),
        }
    }

    /// The list of the folder under a key, if there is one.
    async fn manifest(&self, key: &str) -> Result<Option<Manifest>, StoreError> {
        self.manifest_of(key, &self.object(key)).await
    }

    /// The same, where the objects have names that begin with `base`.
    async fn manifest_of(&self, key: &str, base: &str) -> Result<Option<Manifest>, StoreError> {
        let object = format!("{base}/{MANIFEST}");
        let text = match self.client.read_small(&object, MANIFEST_LIMIT).await {
            Ok(text) => text,
            Err(Fault::Missing) => return Ok(None),
            Err(fault) => return Err(self.failed(key)(fault)),
        };
        let damaged = |what: String| StoreError::Damaged {
            store: self.name.clone(),
            key: key.to_owned(),
            what,
        };
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| damaged(format!("its list of files: {error}")))?;
        if manifest.version != 1 {
            let what = format!(
                "its list of files has version {}; this sealflow knows 1",
                manifest.version
            );
            return Err(damaged(what));
        }
        for file in &manifest.files {
            check_file(&file.path)?;
        }
        Ok(Some(manifest))
    }

    async fn put_now(&self, key: &str, from: &Path, done: BytesDone<'_>) -> Result<Artifact, StoreError> {
        check_key(key)?;
        self.writable()?;
        let _turn = self.turn(key).await;
        let (folder, files) =
            blocking(|| Ok::<_, StoreError>((is_dir(from)?, file_contents(from, &|_| {})?)))?;
        self.check_room(files.iter().map(|file| file.bytes).sum()).await?;
        if folder {
            let source = |path: &str| Source::File(Arc::new(from.join(path)));
            self.put_folder(key, &files, &source, done).await
        } else {
            let source = Source::File(Arc::new(from.to_owned()));
            let file = files.into_iter().next().ok_or_else(|| self.missing(key))?;
            self.put_file(key, &file, source, done).await
        }
    }

    async fn put_file(
        &self,
        key: &str,
        file: &FileContent,
        source: Source,
        done: BytesDone<'_>,
    ) -> Result<Artifact, StoreError> {
        let folder = self.manifest(key).await?;
        self.send(key, &self.object(key), file, source, done).await?;
        if let Some(manifest) = folder {
            self.remove_folder(key, &manifest).await?;
        }
        Ok(self.artifact(key, file_content(file)))
    }

    /// Sends one object, unless it is there as it should be.
    async fn send(
        &self,
        key: &str,
        object: &str,
        file: &FileContent,
        source: Source,
        done: BytesDone<'_>,
    ) -> Result<(), StoreError> {
        let there = upload::head(&self.client, object)
            .await
            .map_err(self.failed(key))?;
        if there == Some((file.bytes, Some(file.sha256.clone()))) {
            // A kill between the end of an upload and that of its note leaves the note.
            if file.bytes > upload::part_bytes(self.client.settings(), file.bytes) {
                let settled = upload::settle(&self.client, &self.note(object), &file.sha256).await;
                settled.map_err(self.failed(key))?;
            }
            done(file.bytes);
            return Ok(());
        }
        let sending = Upload {
            object,
            note: &self.note(object),
            source,
            bytes: file.bytes,
            sha256: &file.sha256,
        };
        sending.send(&self.client, done).await.map_err(self.failed(key))?;
        if let Some((_, used)) = &mut *self.used.lock().await {
            *used += file.bytes;
        }
        Ok(())
    }

    async fn put_folder(
        &self,
        key: &str,
        files: &[FileContent],
        source: &(dyn Fn(&str) -> Source + Sync),
        done: BytesDone<'_>,
    ) -> Result<Artifact, StoreError> {
        let content = folder_content(files);
        let old = self.manifest(key).await?;
        if old.as_ref().is_some_and(|old| old.files == files) {
            done(content.bytes);
            return Ok(self.artifact(key, content));
        }
        let base = self.object(key);
        let manifest = format!("{base}/{MANIFEST}");
        // While its files change there is no folder.
        if old.is_some() {
            self.client.remove(&manifest).await.map_err(self.failed(key))?;
            crash::point("store.s3.folder_hidden");
        }
        let mut sum = 0;
        for file in files {
            let path = &file.path;
            let object = format!("{base}/{path}");
            if path == MANIFEST || self.prefix.len() + object.len() > 1024 {
                return Err(StoreError::BadKey(path.chars().take(80).collect()));
            }
            self.send(key, &object, file, source(path), &|bytes| done(sum + bytes))
                .await?;
            sum += file.bytes;
            crash::point("store.s3.folder_file");
        }
        let keep: BTreeSet<String> = files.iter().map(|file| format!("{base}/{}", file.path)).collect();
        self.remove_below(key, &keep).await?;
        let list = Manifest {
            version: 1,
            files: files.to_vec(),
        };
        let text = serde_json::to_vec(&list).unwrap_or_default();
        let (text, object) = (&text, &manifest);
        crash::point("store.s3.before_manifest");
        self.client
            .call(text.len() as u64, |bucket| async move {
                bucket
                    .put_object_with_content_type(object, text, "application/json")
                    .await
                    .map(drop)
            })
            .await
            .map_err(self.failed(key))?;
        // A file that had the name before goes last: the folder counts from its list on.
        self.client.remove(&base).await.map_err(self.failed(key))?;
        done(content.bytes);
        Ok(self.artifact(key, content))
    }

    async fn remove_folder(&self, key: &str, manifest: &Manifest) -> Result<(), StoreError> {
        let base = self.object(key);
        let list = format!("{base}/{MANIFEST}");
        self.client.remove(&list).await.map_err(self.failed(key))?;
        crash::point("store.s3.folder_hidden");
        for file in &manifest.files {
            let object = format!("{base}/{}", file.path);
            self.client.remove(&object).await.map_err(self.failed(key))?;
        }
        Ok(())
    }

    /// Removes all objects below a key, but those that are kept.
    async fn remove_below(&self, key: &str, keep: &BTreeSet<String>) -> Result<(), StoreError> {
        let prefix = format!("{}/", self.object(key));
        let mut after = None;
        loop {
            let page = self.page(&prefix, None, after).await.map_err(self.failed(key))?;
            let last = page.objects.last().map(|(object, _)| object.clone());
            for (object, _) in page.objects {
                if !keep.contains(&object) {
                    self.client.remove(&object).await.map_err(self.failed(key))?;
                }
            }
            match last {
                Some(last) if page.more => after = Some(last),
                _ => return Ok(()),
            }
        }
    }

    async fn delete_now(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        self.writable()?;
        let _turn = self.turn(key).await;
        let base = self.object(key);
        let failed = self.failed(key);
        let list = format!("{base}/{MANIFEST}");
        self.client.remove(&list).await.map_err(&failed)?;
        crash::point("store.s3.folder_hidden");
        self.remove_below(key, &BTreeSet::new()).await?;
        self.client.remove(&base).await.map_err(&failed)?;
        upload::forget(&self.client, &self.note(&base))
            .await
            .map_err(&failed)?;
        *self.used.lock().await = None;
        Ok(())
    }

    async fn stat_now(&self, key: &str) -> Result<Option<Stat>, StoreError> {
        check_key(key)?;
        self.stat_object(key, &self.object(key)).await
    }

    /// What is in the object `base`, or in those whose names begin with it.
    async fn stat_object(&self, key: &str, base: &str) -> Result<Option<Stat>, StoreError> {
        if let Some(manifest) = self.manifest_of(key, base).await? {
            let files = manifest.files.into_iter().map(|file| FileStat {
                digest: Some(format!("sha256:{}", file.sha256)),
                path: file.path,
                bytes: file.bytes,
            });
            return Ok(Some(Stat {
                is_folder: true,
                files: files.collect(),
            }));
        }
        let head = upload::head(&self.client, base).await;
        let file = head.map_err(self.failed(key))?.map(|(bytes, sha256)| FileStat {
            path: String::new(),
            bytes,
            digest: sha256.map(|sha256| format!("sha256:{sha256}")),
        });
        Ok(file.map(|file| Stat {
            is_folder: false,
            files: vec![file],
        }))
    }

    async fn read_now(&self, key: &str, file: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let object = self.object(&super::file_key(key, file)?);
        super::check_range(&self.name, key, &range)?;
        let wanted = range.end - range.start;
        let read = self.client.read(&object, range.start, wanted).await;
        let read = read.map_err(self.failed(key))?;
        if read.len() as u64 != wanted {
            return Err(self.failed(key)(Fault::OutOfRange));
        }
        Ok(read)
    }

    async fn list_now(&self, folder: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        let prefix = if folder.is_empty() {
            self.prefix.clone()
        } else {
            check_key(folder)?;
            format!("{}/", self.object(folder))
        };
        let mut names = BTreeSet::new();
        let mut from = after.map(|after| format!("{prefix}{after}"));
        loop {
            let page = self
                .page(&prefix, Some("/"), from)
                .await
                .map_err(self.failed(folder))?;
            let all = page
                .objects
                .iter()
                .map(|(object, _)| object)
                .chain(&page.prefixes);
            let last = all.clone().max().cloned();
            for object in all {
                let name = object
                    .strip_prefix(&prefix)
                    .unwrap_or_default()
                    .trim_end_matches('/');
                if check_key(name).is_ok() && after.is_none_or(|after| name > after) {
                    names.insert(name.to_owned());
                }
            }
            while names.len() > LIST_LIMIT {
                names.pop_last();
            }
            // The server sorts a folder as if its name ended in `/`, so a smaller name may come a little later.
            let enough = names.len() == LIST_LIMIT
                && names
                    .last()
                    .zip(last.as_ref())
                    .is_some_and(|(name, last)| *last > format!("{prefix}{name}/"));
            match last {
                Some(last) if page.more && !enough => from = Some(last),
                _ => return Ok(names.into_iter().collect()),
            }
        }
    }

    /// One page of a listing. Folders count as their name with all that can follow it.
    async fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<String>,
    ) -> Result<Page, Fault> {
        let after = after.map(|after| match after.strip_suffix('/') {
            // Behind everything in that folder.
            Some(folder) => format!("{folder}0"),
            None => after,
        });
        let listed = self.client.call(0, |bucket| {
            let (prefix, delimiter) = (prefix.to_owned(), delimiter.map(str::to_owned));
            let after = after.clone();
            async move {
                bucket
                    .list_page(prefix, delimiter, None, after, Some(LIST_LIMIT))
                    .await
            }
        });
        let (listed, _) = listed.await?;
        let objects = listed
            .contents
            .into_iter()
            .map(|object| (object.key, object.size));
        let prefixes = listed.common_prefixes.unwrap_or_default();
        Ok(Page {
            objects: objects.collect(),
            prefixes: prefixes.into_iter().map(|one| one.prefix).collect(),
            more: listed.is_truncated,
        })
    }

    async fn copy_now(&self, from: &str, to: &str) -> Result<Artifact, StoreError> {
        check_key(to)?;
        self.writable()?;
        let stat = self.stat_now(from).await?.ok_or_else(|| self.missing(from))?;
        let _turn = self.turn(to).await;
        self.check_room(stat.bytes()).await?;
        let mut files = Vec::new();
        for file in &stat.files {
            files.push(self.known(from, file).await?);
        }
        let base = self.object(from);
        if stat.is_folder {
            let source = |path: &str| Source::Object(format!("{base}/{path}"));
            return self.put_folder(to, &files, &source, &|_| {}).await;
        }
        let file = files.into_iter().next().ok_or_else(|| self.missing(from))?;
        let target = self.object(to);
        let folder = self.manifest(to).await?;
        if file.bytes <= COPY_LIMIT {
            let (source, object) = (&base, &target);
            self.client
                .call(file.bytes, |bucket| async move {
                    bucket.copy_object_internal(source, object).await.map(drop)
                })
                .await
                .map_err(self.failed(to))?;
        } else {
            self.send(to, &target, &file, Source::Object(base), &|_| {})
                .await?;
        }
        if let Some(manifest) = folder {
            self.remove_folder(to, &manifest).await?;
        }
        let copied = self.artifact(to, file_content(&file));
        self.verify_now(&copied).await?;
        Ok(copied)
    }

    /// What a file is; it is read if its checksum is not remembered.
    async fn known(&self, key: &str, file: &FileStat) -> Result<FileContent, StoreError> {
        let (path, bytes) = (file.path.clone(), file.bytes);
        let digest = file
            .digest
            .as_deref()
            .and_then(|digest| digest.strip_prefix("sha256:"));
        let sha256 = match digest {
            Some(digest) => digest.to_owned(),
            None => self.hash(key, &path, bytes).await?,
        };
        Ok(FileContent { path, bytes, sha256 })
    }

    async fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        match self.free_now().await? {
            Some(free) if free < bytes => Err(super::no_room(&self.name, bytes, free)),
            _ => Ok(()),
        }
    }

    async fn free_now(&self) -> Result<Option<u64>, StoreError> {
        let Some(capacity) = self.policy.capacity else {
            return Ok(None);
        };
        let mut used = self.used.lock().await;
        let counted = match *used {
            Some((when, counted)) if when.elapsed() < COUNT_EVERY => counted,
            _ => self.count().await.map_err(self.failed(""))?,
        };
        if used.is_none_or(|(when, _)| when.elapsed() >= COUNT_EVERY) {
            *used = Some((Instant::now(), counted));
        }
        Ok(Some(
            capacity
                .saturating_sub(counted)
                .saturating_sub(self.policy.reserve),
        ))
    }

    /// The bytes of all objects of the store.
    async fn count(&self) -> Result<u64, Fault> {
        let (mut sum, mut after) = (0_u64, None);
        loop {
            let page = self.page(&self.prefix, None, after).await?;
            sum = page
                .objects
                .iter()
                .fold(sum, |sum, (_, bytes)| sum.saturating_add(*bytes));
            match page.objects.into_iter().next_back() {
                Some((last, _)) if page.more => after = Some(last),
                _ => return Ok(sum),
            }
        }
    }
}

/// One page of a listing.
struct Page {
    objects: Vec<(String, u64)>,
    prefixes: Vec<String>,
    more: bool,
}

impl ArtifactStore for S3Store {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "s3"
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn local_path(&self, key: &str) -> Result<Option<std::path::PathBuf>, StoreError> {
        check_key(key).map(|()| None)
    }

    fn staging(&self, key: &str) -> Result<Option<std::path::PathBuf>, StoreError> {
        check_key(key).map(|()| None)
    }

    fn put<'a>(&'a self, key: &'a str, from: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, Artifact> {
        Box::pin(self.put_now(key, from, done))
    }

    fn get<'a>(&'a self, artifact: &'a Artifact, to: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, ()> {
        Box::pin(self.get_now(artifact, to, done))
    }

    fn verify<'a>(&'a self, artifact: &'a Artifact) -> StoreFuture<'a, ()> {
        Box::pin(self.verify_now(artifact))
    }

    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(self.delete_now(key))
    }

    fn stat<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stat>> {
        Box::pin(self.stat_now(key))
    }

    fn read<'a>(&'a self, key: &'a str, file: &'a str, range: Range<u64>) -> StoreFuture<'a, Vec<u8>> {
        Box::pin(self.read_now(key, file, range))
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> StoreFuture<'a, Vec<String>> {
        Box::pin(self.list_now(folder, after))
    }

    fn copy<'a>(&'a self, from: &'a str, to: &'a str) -> StoreFuture<'a, Artifact> {
        Box::pin(self.copy_now(from, to))
    }

    fn free(&self) -> StoreFuture<'_, Option<u64>> {
        Box::pin(self.free_now())
    }

    fn marks(&self) -> StoreFuture<'_, Vec<String>> {
        Box::pin(self.marks_now())
    }

    fn mark<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        Box::pin(self.mark_now(name))
    }

    fn set_mark<'a>(&'a self, name: &'a str, content: Option<&'a [u8]>) -> StoreFuture<'a, ()> {
        Box::pin(self.set_mark_now(name, content))
    }

    fn trash<'a>(&'a self, key: &'a str, at_ms: u64) -> StoreFuture<'a, ()> {
        Box::pin(self.trash_now(key, at_ms))
    }

    fn trashed(&self) -> StoreFuture<'_, Vec<Trashed>> {
        Box::pin(self.trashed_now())
    }

    fn untrash<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(self.untrash_now(id))
    }

    fn discard<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(self.discard_now(id))
    }
}
