//! Requests to one bucket: few at once, each bounded in time, tried again where that makes sense, and none for a while
//! to a server that does not answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use s3::Bucket;
use s3::creds::Credentials;
use s3::error::S3Error;
use s3::region::Region;
use tokio::sync::{OnceCell, Semaphore};

use super::breaker::Breaker;
use super::fault::Fault;
use super::pace::Pace;
use super::settings::{CredentialSource, S3Settings};

/// The pause before the second try; before each other it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How a bucket is spoken to.
pub(super) struct Client {
    settings: S3Settings,
    bucket: OnceCell<Arc<Bucket>>,
    slots: Semaphore,
    pace: Pace,
    breaker: Breaker,
    requests: AtomicU64,
}

impl Client {
    pub(super) fn new(settings: S3Settings) -> Self {
        // Tries are counted and paused here; the library would add its own to each.
        s3::set_retries(0);
        Self {
            bucket: OnceCell::new(),
            slots: Semaphore::new(settings.concurrency.max(1)),
            pace: Pace::new(settings.bandwidth),
            breaker: Breaker::new(settings.attempts.max(3)),
            requests: AtomicU64::new(0),
            settings,
        }
    }

    pub(super) fn settings(&self) -> &S3Settings {
        &self.settings
    }

    /// Makes a request that moves about `bytes`. It is made again when it failed in passing, so it must be one that
    /// can be repeated.
    pub(super) async fn call<T, F>(&self, bytes: u64, request: impl Fn(Arc<Bucket>) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, S3Error>>,
    {
        let mut pause = FIRST_PAUSE;
        let mut tried = 1;
        loop {
            let fault = match self.once(bytes, &request).await {
                Err(Fault::Passing(text)) if tried < self.settings.attempts => text,
                other => return other,
            };
            tracing::debug!(bucket = self.settings.bucket, tried, fault, "trying again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            tried += 1;
        }
    }

    async fn once<T, F>(&self, bytes: u64, request: impl Fn(Arc<Bucket>) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, S3Error>>,
    {
        let _slot = self.slots.acquire().await;
        if let Err((rest, why)) = self.breaker.pass(Instant::now()) {
            let text = format!("it is left alone for {} s more: {why}", rest.as_secs() + 1);
            return Err(Fault::Resting(text));
        }
        let limit = self.settings.timeout + Duration::from_secs(bytes / S3Settings::SLOWEST);
        let bucket = tokio::time::timeout(limit, self.bucket.get_or_try_init(|| open(&self.settings)));
        let bucket = match bucket.await {
            Ok(opened) => opened?.clone(),
            Err(_) => return Err(Fault::Passing(format!("no credentials in {} s", limit.as_secs()))),
        };
        self.pace.wait(bytes).await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let result = match tokio::time::timeout(limit, request(bucket)).await {
            Ok(result) => result.map_err(Fault::of),
            Err(_) => Err(Fault::Passing(format!("no answer in {} s", limit.as_secs()))),
        };
        match &result {
            Err(Fault::Passing(why)) => self.breaker.failed(Instant::now(), why),
            _ => self.breaker.succeeded(),
        }
        result
    }

    /// Reads `bytes` of an object from `start` on; fewer come only if it ends before. More than were asked for are
    /// never taken.
    pub(super) async fn read(&self, object: &str, start: u64, bytes: u64) -> Result<Vec<u8>, Fault> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let limit = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.call(bytes, |bucket| async move {
            let mut taken = Bounded::new(limit);
            let end = Some(start + bytes - 1);
            bucket
                .get_object_range_to_writer(object, start, end, &mut taken)
                .await?;
            Ok(taken.bytes)
        })
        .await
    }

    /// Reads a whole object of at most `limit` bytes.
    pub(super) async fn read_small(&self, object: &str, limit: usize) -> Result<Vec<u8>, Fault> {
        self.call(0, |bucket| async move {
            let mut taken = Bounded::new(limit);
            bucket.get_object_to_writer(object, &mut taken).await?;
            Ok(taken.bytes)
        })
        .await
    }

    /// Removes an object; it is no error if it is not there.
    pub(super) async fn remove(&self, object: &str) -> Result<(), Fault> {
        let removed = self
            .call(
                0,
                |bucket| async move { bucket.delete_object(object).await.map(drop) },
            )
            .await;
        match removed {
            Err(Fault::Missing) => Ok(()),
            other => other,
        }
    }
}

/// The pause, up to a quarter shorter, so that those who were refused together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let noise = now.map_or(0, |now| now.subsec_nanos() % 1000);
    pause - pause * noise / 4000
}

/// Opens the bucket: reads the credentials, which may ask the network.
async fn open(settings: &S3Settings) -> Result<Arc<Bucket>, Fault> {
    let source = settings.credentials.clone();
    let read = tokio::task::spawn_blocking(move || credentials(&source)).await;
    let credentials =
        read.map_err(|_| Fault::Passing("reading the credentials was broken off".to_owned()))??;
    let region = match &settings.endpoint {
        Some(endpoint) => Region::Custom {
            region: settings.region.clone(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
        },
        None => settings
            .region
            .parse()
            .map_err(|error| Fault::Refused(format!("region `{}`: {error}", settings.region)))?,
    };
    let mut bucket = Bucket::new(&settings.bucket, region, credentials).map_err(Fault::of)?;
    if settings.path_style {
        bucket.set_path_style();
    }
    // Each request has a limit of its own.
    bucket.set_request_timeout(None);
    Ok(Arc::new(*bucket))
}

fn credentials(source: &CredentialSource) -> Result<Credentials, Fault> {
    let (read, place) = match source {
        CredentialSource::Environment => (
            Credentials::from_env(),
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name another source".to_owned(),
        ),
        CredentialSource::Profile(profile) => (
            Credentials::from_profile(profile.as_deref()),
            format!(
                "put profile `{}` into ~/.aws/credentials",
                profile.as_deref().unwrap_or("default")
            ),
        ),
        CredentialSource::File { path, profile } => (
            Credentials::from_credentials_file(path, profile.as_deref()),
            format!(
                "{} must have a profile `{}` with aws_access_key_id and aws_secret_access_key",
                path.display(),
                profile.as_deref().unwrap_or("default")
            ),
        ),
        CredentialSource::Instance => (
            Credentials::from_container_credentials_provider()
                .or_else(|_| Credentials::from_instance_metadata_v2(true)),
            "this machine must have a role that its cloud gives credentials for".to_owned(),
        ),
        CredentialSource::Anonymous => (Credentials::anonymous(), String::new()),
    };
    // The library's errors name places and what is missing there, never what is written there.
    read.map_err(|error| Fault::Refused(format!("no credentials: {error}; {place}")))
}

/// Takes bytes up to a limit, and refuses more.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    fn new(limit: usize) -> Self {
        let bytes = Vec::with_capacity(limit.min(1 << 20));
        Self { bytes, limit }
    }
}

impl tokio::io::AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        more: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.bytes.len() + more.len() > self.limit {
            let text = format!("the server sends more than the {} bytes asked for", self.limit);
            return Poll::Ready(Err(std::io::Error::other(text)));
        }
        self.bytes.extend_from_slice(more);
        Poll::Ready(Ok(more.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
