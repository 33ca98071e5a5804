//! Fetching published sets over HTTP.
//!
//! A file comes into `<name>.partial` and gets its name only after its digest was compared with the published one.
//! A transfer that breaks goes on where it stopped, in this process or the next: the partial file's validator (its
//! ETag) is kept beside it and sent as `If-Range`, so that the server starts over if its file is another one by now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Client, StatusCode, header};
use tokio::time::sleep;

use super::dir::{FileRecord, Origin, ParamsDir};
use super::error::ParamsError;
use super::http::{chain, client, content_range, http_error};
use super::partial::Partial;
use super::progress::{Meter, Phase, Progress};
use super::set::ParamSet;

/// Where published sets come from, and how patient to be.
#[derive(Clone, Debug)]
pub struct Source {
    /// The files lie under this URL, by their CIDs.
    pub base_url: String,
    /// Attempts in a row that may bring nothing before we give up.
    pub attempts: u32,
    /// Pause after the first such attempt; it doubles with each, up to a minute.
    pub backoff: Duration,
    /// How long a connection may be silent before it counts as broken.
    pub silence: Duration,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            base_url: "https://proofs.filecoin.io/ipfs".to_owned(),
            attempts: 6,
            backoff: Duration::from_secs(1),
            silence: Duration::from_secs(60),
        }
    }
}

/// What [`fetch`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchReport {
    /// The set.
    pub set: ParamSet,
    /// Its files, all of them checked.
    pub files: Vec<FileRecord>,
    /// Bytes that came over the network this time.
    pub downloaded: u64,
    /// Time in all.
    pub elapsed: Duration,
}

/// Fetches a published set into `dir`; files that are there and good are left alone, damaged ones are replaced.
///
/// `progress` is called about four times a second.
///
/// # Errors
/// A folder of generated parameters, a set that was never published, a full disk, an HTTP status that says no, a
/// transfer that stays broken, content with the wrong digest, I/O errors, and [`ParamsError::Cancelled`] soon after
/// `cancel` was set.
pub async fn fetch(
    set: ParamSet,
    dir: &ParamsDir,
    source: &Source,
    progress: impl Fn(Progress) + Send + Sync,
    cancel: &AtomicBool,
) -> Result<FetchReport, ParamsError> {
    dir.prepare(Origin::Published)?;
    let published = set.published()?.ok_or(ParamsError::NotPublished { set })?;
    let files = set.files()?;
    let meter = Meter::new(Phase::Waiting);
    let transfer = Transfer {
        source,
        client: client(source)?,
        dir,
        progress: &progress,
        meter: &meter,
        cancel,
    };
    let _lock = transfer.lock(set).await?;
    let mut report = FetchReport {
        set,
        files: Vec::new(),
        downloaded: 0,
        elapsed: Duration::ZERO,
    };
    for (name, data) in files.names().into_iter().zip(published) {
        let wanted = Wanted {
            name,
            cid: &data.cid,
            digest: &data.digest,
        };
        let (record, downloaded) = transfer.fetch(&wanted).await?;
        report.files.push(record);
        report.downloaded += downloaded;
    }
    report.elapsed = meter.elapsed();
    Ok(report)
}

/// A file to fetch.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    pub(crate) cid: &'a str,
    /// The first digits of its BLAKE2b-512.
    pub(crate) digest: &'a str,
}

/// What all files of a fetch share.
pub(crate) struct Transfer<'a> {
    pub(crate) source: &'a Source,
    pub(crate) client: Client,
    pub(crate) dir: &'a ParamsDir,
    pub(crate) progress: &'a (dyn Fn(Progress) + Send + Sync),
    pub(crate) meter: &'a Meter,
    pub(crate) cancel: &'a AtomicBool,
}

/// How often progress is reported and `cancel` is looked at while nothing comes.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// An attempt that did not bring the whole file.
enum Failure {
    /// It may work the next time, at the earliest after the pause the server asked for.
    Retry {
        reason: String,
        status: Option<StatusCode>,
        after: Option<Duration>,
    },
    /// It will not.
    Final(ParamsError),
}

impl From<ParamsError> for Failure {
    fn from(error: ParamsError) -> Self {
        Self::Final(error)
    }
}

impl Transfer<'_> {
    /// Takes the lock of the set, waiting for another fetch of it.
    async fn lock(&self, set: ParamSet) -> Result<std::fs::File, ParamsError> {
        loop {
            if let Some(lock) = self.dir.try_lock(set)? {
                return Ok(lock);
            }
            self.tick(&set.to_string())?;
            sleep(TICK).await;
        }
    }

    /// Brings one file; says how many bytes came over the network.
    pub(crate) async fn fetch(&self, wanted: &Wanted<'_>) -> Result<(FileRecord, u64), ParamsError> {
        if let Some(record) = Partial::existing(self, wanted).await? {
            return Ok((record, 0));
        }
        let url = format!("{}/{}", self.source.base_url.trim_end_matches('/'), wanted.cid);
        let mut partial = Partial::open(self, wanted).await?;
        let (mut downloaded, mut fruitless) = (0, 0);
        loop {
            let before = downloaded;
            let failure = match self.attempt(&url, wanted, &mut partial, &mut downloaded).await {
                Ok(()) => break,
                Err(failure) => failure,
            };
            let (reason, status, after) = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Retry {
                    reason,
                    status,
                    after,
                } => (reason, status, after),
            };
            fruitless = if downloaded > before { 0 } else { fruitless + 1 };
            if fruitless >= self.source.attempts.max(1) {
                partial.flush().await?;
                return Err(match status {
                    Some(status) => http_error(&url, status),
                    None => ParamsError::Transfer {
                        url,
                        attempts: fruitless,
                        have: partial.bytes(),
                        reason,
                    },
                });
            }
            let pause = self
                .source
                .backoff
                .saturating_mul(1 << fruitless.saturating_sub(1).min(10));
            self.pause(
                pause.max(after.unwrap_or_default()).min(Duration::from_secs(60)),
                wanted.name,
            )
            .await?;
        }
        Ok((partial.finish(self, wanted, &url).await?, downloaded))
    }

    /// One request, from where the partial file ends.
    async fn attempt(
        &self,
        url: &str,
        wanted: &Wanted<'_>,
        partial: &mut Partial,
        downloaded: &mut u64,
    ) -> Result<(), Failure> {
        let broken = |error: reqwest::Error| Failure::Retry {
            reason: chain(&error),
            status: None,
            after: None,
        };
        let mut request = self.client.get(url).header(header::ACCEPT_ENCODING, "identity");
        if partial.bytes() > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", partial.bytes()));
            if let Some(validator) = partial.validator() {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let mut response = self
            .patiently(wanted.name, request.send())
            .await?
            .map_err(broken)?;
        let status = response.status();
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let range = text(header::CONTENT_RANGE).and_then(content_range);
        match status {
            StatusCode::PARTIAL_CONTENT
                if range.is_some_and(|range| range.start == Some(partial.bytes())) => {}
            // The whole file was there already; its digest decides.
            StatusCode::RANGE_NOT_SATISFIABLE
                if range.is_some_and(|range| range.total == Some(partial.bytes())) =>
            {
                return Ok(());
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.restart(None).await?;
                let reason = "the server sent another range than was asked for".to_owned();
                return Err(Failure::Retry {
                    reason,
                    status: None,
                    after: None,
                });
            }
            StatusCode::OK => {
                let validator = text(header::ETAG)
                    .filter(|tag| !tag.starts_with("W/"))
                    .map(str::to_owned);
                partial.restart(validator).await?;
            }
            status
                if status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    ) =>
            {
                let after = text(header::RETRY_AFTER)
                    .and_then(|value| value.parse().ok())
                    .map(Duration::from_secs);
                return Err(Failure::Retry {
                    reason: status.to_string(),
                    status: Some(status),
                    after,
                });
            }
            status => return Err(Failure::Final(http_error(url, status))),
        }

        let total = range
            .and_then(|range| range.total)
            .or_else(|| response.content_length().map(|length| length + partial.bytes()));
        if let Some(total) = total {
            self.dir
                .require_space(&wanted.name, total.saturating_sub(partial.bytes()))?;
        }
        self.meter
            .begin(Phase::Download, total, total.unwrap_or(0), partial.bytes());
        while let Some(chunk) = self
            .patiently(wanted.name, response.chunk())
            .await?
            .map_err(broken)?
        {
            partial.append(&chunk).await?;
            *downloaded += chunk.len() as u64;
            self.meter.advance(chunk.len() as u64);
        }
        match total {
            Some(total) if partial.bytes() < total => {
                let reason = "the connection ended early".to_owned();
                Err(Failure::Retry {
                    reason,
                    status: None,
                    after: None,
                })
            }
            _ => Ok(()),
        }
    }

    /// Awaits something while reporting progress and looking at `cancel`.
    async fn patiently<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, ParamsError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => {
                    if self.cancel.load(Ordering::Relaxed) {
                        return Err(ParamsError::Cancelled { what: what.to_owned() });
                    }
                    return Ok(result);
                }
                () = sleep(TICK) => self.tick(what)?,
            }
        }
    }

    async fn pause(&self, pause: Duration, what: &str) -> Result<(), ParamsError> {
        self.patiently(what, sleep(pause)).await
    }

    /// Reports progress; fails when `cancel` was set.
    pub(crate) fn tick(&self, what: &str) -> Result<(), ParamsError> {
        (self.progress)(self.meter.snapshot());
        if self.cancel.load(Ordering::Relaxed) {
            return Err(ParamsError::Cancelled {
                what: what.to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
