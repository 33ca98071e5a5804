//! A store in memory, without local paths, as a server elsewhere is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::artifact::{
    Artifact, ArtifactStore, BytesDone, FileStat, LIST_LIMIT, Policy, READ_LIMIT, Stat, StoreError,
    StoreFuture, Trashed, check_file, check_key, check_mark, key_in_use,
};

/// A file, or the files of a folder by their paths.
#[derive(Debug, Clone)]
struct Content {
    is_folder: bool,
    files: BTreeMap<String, Vec<u8>>,
}

impl Content {
    fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.len() as u64).sum()
    }

    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (path, content) in &self.files {
            if self.is_folder {
                hash.update(format!("{} {path} {}\n", path.len(), content.len()));
            }
            hash.update(content);
        }
        format!("sha256:{}", hex::encode(hash.finalize()))
    }
}

/// The store. It counts what is read.
#[derive(Debug)]
pub struct MemoryStore {
    name: String,
    policy: Policy,
    all: Mutex<BTreeMap<String, Content>>,
    marks: Mutex<BTreeMap<String, Vec<u8>>>,
    trash: Mutex<BTreeMap<String, (String, Content)>>,
    bytes_read: AtomicU64,
}

impl MemoryStore {
    /// An empty one.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            policy: Policy::default(),
            all: Mutex::default(),
            marks: Mutex::default(),
            trash: Mutex::default(),
            bytes_read: AtomicU64::new(0),
        }
    }

    /// With what the operator says of it.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Bytes that were read by ranges.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::SeqCst)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Content>> {
        self.all.lock().expect("nobody panics with it")
    }

    fn find(&self, key: &str) -> Result<Content, StoreError> {
        check_key(key)?;
        self.all().get(key).cloned().ok_or_else(|| self.missing(key))
    }

    fn missing(&self, key: &str) -> StoreError {
        StoreError::Missing {
            store: self.name.clone(),
            key: key.to_owned(),
        }
    }

    fn damaged(&self, key: &str, what: &str) -> StoreError {
        StoreError::Damaged {
            store: self.name.clone(),
            key: key.to_owned(),
            what: what.to_owned(),
        }
    }

    fn check(&self, artifact: &Artifact) -> Result<Content, StoreError> {
        let found = self.find(&artifact.key)?;
        if found.bytes() != artifact.bytes {
            return Err(self.damaged(&artifact.key, "it has another size"));
        }
        match &artifact.digest {
            Some(wanted) if wanted.starts_with("sha256:") && *wanted != found.digest() => {
                Err(self.damaged(&artifact.key, "its content is another"))
            }
            _ => Ok(found),
        }
    }

    fn insert(&self, key: &str, content: Content) -> Artifact {
        let artifact = Artifact {
            store: self.name.clone(),
            key: key.to_owned(),
            bytes: content.bytes(),
            digest: Some(content.digest()),
        };
        self.all().insert(key.to_owned(), content);
        artifact
    }

    fn read_now(&self, key: &str, file: &str, range: &Range<u64>) -> Result<Vec<u8>, StoreError> {
        if !file.is_empty() {
            check_file(file)?;
        }
        let found = self.find(key)?;
        let content = found.files.get(file).ok_or_else(|| self.missing(key))?;
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let read = content.get(at(range.start)..at(range.end));
        let read = read.filter(|_| range.end - range.start <= READ_LIMIT);
        let read = read.ok_or_else(|| self.damaged(key, "it is shorter than it should be"))?;
        self.bytes_read.fetch_add(read.len() as u64, Ordering::SeqCst);
        Ok(read.to_vec())
    }

    fn list_now(&self, folder: &str, after: Option<&str>) -> Result<Vec<String>, StoreError> {
        let prefix = if folder.is_empty() {
            String::new()
        } else {
            check_key(folder)?;
            format!("{folder}/")
        };
        let mut names: Vec<String> = Vec::new();
        for key in self.all().keys() {
            let name = key.strip_prefix(&prefix).and_then(|rest| rest.split('/').next());
            if let Some(name) = name.filter(|name| after.is_none_or(|after| *name > after))
                && names.last().is_none_or(|last| last != name)
            {
                names.push(name.to_owned());
            }
        }
        names.truncate(LIST_LIMIT);
        Ok(names)
    }
}

fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().expect("nobody panics with it")
}

fn load(from: &Path) -> std::io::Result<Content> {
    let is_folder = from.is_dir();
    let mut files = BTreeMap::new();
    let mut open = vec![(from.to_owned(), String::new())];
    while let Some((path, name)) = open.pop() {
        if !path.is_dir() {
            files.insert(name, std::fs::read(&path)?);
            continue;
        }
        for entry in std::fs::read_dir(&path)? {
            let own = entry?.file_name().to_string_lossy().into_owned();
            let inside = if name.is_empty() {
                own.clone()
            } else {
                format!("{name}/{own}")
            };
            open.push((path.join(own), inside));
        }
    }
    Ok(Content { is_folder, files })
}

fn save(content: &Content, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    for (name, bytes) in &content.files {
        let path = if content.is_folder {
            to.join(name)
        } else {
            to.to_owned()
        };
        std::fs::create_dir_all(path.parent().unwrap_or(to))?;
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        what: "copy",
        path,
        source,
    }
}

impl ArtifactStore for MemoryStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }

    fn local_path(&self, key: &str) -> Result<Option<PathBuf>, StoreError> {
        check_key(key).map(|()| None)
    }

    fn put<'a>(&'a self, key: &'a str, from: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, Artifact> {
        Box::pin(async move {
            check_key(key)?;
            let content = load(from).map_err(io(from))?;
            done(content.bytes());
            Ok(self.insert(key, content))
        })
    }

    fn get<'a>(&'a self, artifact: &'a Artifact, to: &'a Path, done: BytesDone<'a>) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let content = self.check(artifact)?;
            done(content.bytes());
            save(&content, to).map_err(io(to))
        })
    }

    fn verify<'a>(&'a self, artifact: &'a Artifact) -> StoreFuture<'a, ()> {
        Box::pin(async move { self.check(artifact).map(drop) })
    }

    fn delete<'a>(&'a self, key: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_key(key)?;
            self.all().remove(key);
            Ok(())
        })
    }

    fn stat<'a>(&'a self, key: &'a str) -> StoreFuture<'a, Option<Stat>> {
        Box::pin(async move {
            check_key(key)?;
            let found = self.all().get(key).cloned();
            Ok(found.map(|content| Stat {
                is_folder: content.is_folder,
                files: content
                    .files
                    .iter()
                    .map(|(path, bytes)| FileStat {
                        path: path.clone(),
                        bytes: bytes.len() as u64,
                        digest: None,
                    })
                    .collect(),
            }))
        })
    }

    fn read<'a>(&'a self, key: &'a str, file: &'a str, range: Range<u64>) -> StoreFuture<'a, Vec<u8>> {
        Box::pin(async move { self.read_now(key, file, &range) })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> StoreFuture<'a, Vec<String>> {
        Box::pin(async move { self.list_now(folder, after) })
    }

    fn copy<'a>(&'a self, from: &'a str, to: &'a str) -> StoreFuture<'a, Artifact> {
        Box::pin(async move {
            let content = self.find(from)?;
            check_key(to)?;
            Ok(self.insert(to, content))
        })
    }

    fn free(&self) -> StoreFuture<'_, Option<u64>> {
        Box::pin(async {
            let used: u64 = self.all().values().map(Content::bytes).sum();
            let free = self.policy.capacity.map(|capacity| capacity.saturating_sub(used));
            Ok(free.map(|free| free.saturating_sub(self.policy.reserve)))
        })
    }

    fn marks(&self) -> StoreFuture<'_, Vec<String>> {
        Box::pin(async { Ok(lock(&self.marks).keys().cloned().collect()) })
    }

    fn mark<'a>(&'a self, name: &'a str) -> StoreFuture<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            check_mark(name)?;
            Ok(lock(&self.marks).get(name).cloned())
        })
    }

    fn set_mark<'a>(&'a self, name: &'a str, content: Option<&'a [u8]>) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_mark(name)?;
            match content {
                Some(content) => drop(lock(&self.marks).insert(name.to_owned(), content.to_vec())),
                None => drop(lock(&self.marks).remove(name)),
            }
            Ok(())
        })
    }

    fn trash<'a>(&'a self, key: &'a str, at_ms: u64) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_key(key)?;
            if let Some(content) = self.all().remove(key) {
                lock(&self.trash).insert(Trashed::id(key, at_ms), (key.to_owned(), content));
            }
            Ok(())
        })
    }

    fn trashed(&self) -> StoreFuture<'_, Vec<Trashed>> {
        Box::pin(async {
            let trash = lock(&self.trash);
            let one = |(id, (key, content)): (&String, &(String, Content))| Trashed {
                id: id.clone(),
                key: key.clone(),
                at_ms: Trashed::time(id).unwrap_or(0),
                bytes: content.bytes(),
            };
            Ok(trash.iter().map(one).collect())
        })
    }

    fn untrash<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            Trashed::check(id)?;
            let mut trash = lock(&self.trash);
            let (key, content) = trash.get(id).cloned().ok_or_else(|| self.missing(id))?;
            if self.all().contains_key(&key) {
                return Err(key_in_use(&self.name, &key));
            }
            self.all().insert(key, content);
            trash.remove(id);
            Ok(())
        })
    }

    fn discard<'a>(&'a self, id: &'a str) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            Trashed::check(id)?;
            lock(&self.trash).remove(id);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn obeys_the_law_of_artifact_stores() {
        let folder = tempfile::tempdir().unwrap();
        crate::testing::artifact_store_suite(async || MemoryStore::new("elsewhere"), folder.path()).await;
    }
}
