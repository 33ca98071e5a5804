//! Inputs that are on another machine: small files, known by their SHA-256, are brought here before the stage runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use sealflow_engine::artifact::{Artifact, SCRATCH, Stores, attempt_folder};
use sealflow_engine::executor::{Executor, ExecutorSpec, Job, News, Report, Reports};
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{AttemptKey, Token};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// A future of a fetch.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// Brings files from other machines.
pub trait Fetch: Send + Sync + 'static {
    /// Copies an artifact, which is a file, to a path here.
    fn fetch<'a>(&'a self, artifact: &'a Artifact, to: &'a Path) -> Fetching<'a>;
}

/// Brings every input here that can only be had so, and names the copies in the input instead.
///
/// # Errors
/// A file cannot be had, or is not what was recorded.
pub async fn bring(job: &mut Job, stores: &Stores, fetch: &dyn Fetch) -> Result<(), Failure> {
    let mut found = Vec::new();
    foreign(&job.input, stores, &mut found);
    for (number, artifact) in found.into_iter().enumerate() {
        let key = format!("{}/inputs/{number}", attempt_folder(&job.subject, &job.key));
        let missing = || Failure::permanent("unknown_store", "this machine has no scratch space");
        let path = stores.get(SCRATCH)?.local_path(&key)?.ok_or_else(missing)?;
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failure::io("make the folder", folder, &error))?;
        }
        fetch.fetch(&artifact, &path).await?;
        let (at, wanted) = (path.clone(), artifact.clone());
        let checked = tokio::task::spawn_blocking(move || check(&at, &wanted)).await;
        checked.map_err(|error| Failure::transient("artifact_unreachable", error.to_string()))??;
        let here = Artifact {
            store: SCRATCH.to_owned(),
            key,
            ..artifact.clone()
        };
        replace(&mut job.input, &artifact, &here);
    }
    Ok(())
}

fn check(path: &Path, artifact: &Artifact) -> Result<(), Failure> {
    let mut file = std::fs::File::open(path).map_err(|error| Failure::io("read", path, &error))?;
    let mut hash = Sha256::new();
    let bytes = std::io::copy(&mut file, &mut hash).map_err(|error| Failure::io("read", path, &error))?;
    let digest = format!("sha256:{}", hex::encode(hash.finalize()));
    if bytes != artifact.bytes
        || artifact
            .digest
            .as_ref()
            .is_some_and(|recorded| *recorded != digest)
    {
        let what = format!(
            "{} in {} is not what was recorded ({bytes} bytes, {digest})",
            artifact.key, artifact.store
        );
        return Err(Failure::transient("artifact_damaged", what));
    }
    Ok(())
}

fn foreign(value: &Value, stores: &Stores, found: &mut Vec<Artifact>) {
    if let Ok(artifact) = serde_json::from_value::<Artifact>(value.clone())
        && value.is_object()
    {
        // What was in a store that was emptied and removed is in another one, and the stage finds it there.
        let elsewhere = artifact.store.contains('@') && stores.get(&artifact.store).is_err();
        if artifact.is_movable() && elsewhere && !found.contains(&artifact) {
            found.push(artifact);
        }
        return;
    }
    match value {
        Value::Object(fields) => fields.values().for_each(|field| foreign(field, stores, found)),
        Value::Array(items) => items.iter().for_each(|item| foreign(item, stores, found)),
        _ => {}
    }
}

fn replace(value: &mut Value, old: &Artifact, new: &Artifact) {
    if value.is_object() && serde_json::from_value::<Artifact>(value.clone()).is_ok_and(|found| found == *old)
    {
        if let Ok(new) = serde_json::to_value(new) {
            *value = new;
        }
        return;
    }
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|field| replace(field, old, new)),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, old, new)),
        _ => {}
    }
}

/// An executor of this machine that gets its inputs from others too.
pub struct WithInputs {
    inner: Arc<dyn Executor>,
    stores: Stores,
    fetch: Arc<dyn Fetch>,
    /// Attempts whose inputs are on their way.
    fetching: Arc<Mutex<BTreeMap<AttemptKey, CancellationToken>>>,
}

impl WithInputs {
    /// Around an executor.
    pub fn new(inner: Arc<dyn Executor>, stores: Stores, fetch: Arc<dyn Fetch>) -> Self {
        Self {
            inner,
            stores,
            fetch,
            fetching: Arc::default(),
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<AttemptKey, CancellationToken>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Executor for WithInputs {
    fn spec(&self) -> &ExecutorSpec {
        self.inner.spec()
    }

    fn start(&self, mut job: Job, reports: Reports) {
        let mut found = Vec::new();
        foreign(&job.input, &self.stores, &mut found);
        if found.is_empty() {
            return self.inner.start(job, reports);
        }
        let cancel = CancellationToken::new();
        if self.locked().insert(job.key.clone(), cancel.clone()).is_some() {
            return;
        }
        let (inner, stores, fetch) = (self.inner.clone(), self.stores.clone(), self.fetch.clone());
        let fetching = self.fetching.clone();
        drop(tokio::spawn(async move {
            let (key, token) = (job.key.clone(), job.token.clone());
            let news = tokio::select! {
                () = cancel.cancelled() => Some(News::Lost("stopped before it began".to_owned())),
                brought = bring(&mut job, &stores, &*fetch) => brought.err().map(|failure| News::Ended(Err(failure))),
            };
            fetching
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
            match news {
                None => inner.start(job, reports),
                Some(news) => reports.send(Report { key, token, news }).await,
            }
        }));
    }

    fn stop(&self, key: &AttemptKey) {
        if let Some(cancel) = self.locked().get(key) {
            return cancel.cancel();
        }
        self.inner.stop(key);
    }

    fn attach(&self, key: &AttemptKey, token: &Token, reports: &Reports) -> bool {
        self.locked().contains_key(key) || self.inner.attach(key, token, reports)
    }

    fn notes(&self) -> Vec<String> {
        self.inner.notes()
    }

    fn resume(&self) -> bool {
        self.inner.resume()
    }
}
