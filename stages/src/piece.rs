//! Pieces before they are in a sector: their sizes, their CIDs, and fetching them over HTTP(S).

use std::path::{Path, PathBuf};
use std::time::Duration;

use cid::Cid;
use futures::StreamExt;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE};
use sealflow_engine::durable;
use sealflow_engine::failure::Failure;
use sealflow_engine::stage::StageContext;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::progress;
use crate::types::CommP;

/// The multicodec of unsealed Filecoin data, and the multihash of its commitment
/// (the public multicodec table: `fil-commitment-unsealed`, `sha2-256-trunc254-padded`).
const FIL_COMMITMENT_UNSEALED: u64 = 0xf101;
const SHA2_256_TRUNC254_PADDED: u64 = 0x1012;

/// The commitment that a piece CID stands for.
pub(crate) fn comm_p_of_cid(text: &str) -> Result<CommP, String> {
    let cid: Cid = text
        .parse()
        .map_err(|error| format!("`{text}` is not a CID: {error}"))?;
    if cid.codec() != FIL_COMMITMENT_UNSEALED || cid.hash().code() != SHA2_256_TRUNC254_PADDED {
        return Err(format!("`{text}` is not a piece CID; those begin with `baga`"));
    }
    let digest = cid.hash().digest().try_into();
    digest
        .map(CommP)
        .map_err(|_| format!("`{text}` does not hold 32 bytes"))
}

/// The size of a piece's data.
pub(crate) fn data_bytes(file: &Path, limit: u64) -> Result<u64, Failure> {
    let meta = std::fs::metadata(file).map_err(|error| Failure::io("read", file, &error))?;
    if !meta.is_file() {
        return Err(Failure::permanent(
            "path_missing",
            format!("{} is not a file", file.display()),
        ));
    }
    match meta.len() {
        0 => Err(Failure::permanent(
            "piece_empty",
            format!("{} is empty", file.display()),
        )),
        bytes if bytes > limit => {
            let text = format!(
                "{} has {bytes} bytes; a sector of this size holds {limit}",
                file.display()
            );
            Err(Failure::permanent("piece_too_large", text))
        }
        bytes => Ok(bytes),
    }
}

/// The padded size of a piece: the agreed one, or the smallest power of two that holds the data.
pub(crate) fn padded_bytes(data_bytes: u64, agreed: Option<u64>) -> Result<u64, String> {
    let smallest = data_bytes.div_ceil(127).saturating_mul(128).next_power_of_two();
    match agreed {
        Some(agreed) if agreed < smallest => Err(format!(
            "{data_bytes} bytes of data need {smallest} with padding, not {agreed}"
        )),
        Some(agreed) => Ok(agreed),
        None => Ok(smallest),
    }
}

/// A piece to fetch.
pub(crate) struct Download<'a> {
    pub(crate) url: &'a str,
    pub(crate) token_file: Option<&'a str>,
    /// The most bytes it may have.
    pub(crate) limit: u64,
}

/// What is remembered of a download that was broken off: the rest is only good for the same content.
#[derive(Serialize, Deserialize)]
struct Validator {
    url: String,
    validator: String,
}

impl Download<'_> {
    /// Fetches into the subject's own folder and gives the file's path. What is there already is kept.
    pub(crate) async fn fetch(&self, cx: &StageContext) -> Result<PathBuf, Failure> {
        let url: url::Url = self
            .url
            .parse()
            .map_err(|error| Failure::permanent("bad_url", format!("`{}`: {error}", self.url)))?;
        if url.password().is_some() || !url.username().is_empty() {
            let text = "the address holds a password; use `token_file`, which never reaches the journal";
            return Err(Failure::permanent("bad_url", text));
        }
        let folder = cx.cache_dir()?.with_file_name("downloads");
        std::fs::create_dir_all(&folder).map_err(|error| Failure::io("make", &folder, &error))?;
        let name = hex::encode(&Sha256::digest(self.url)[..16]);
        let target = folder.join(&name);
        if target.exists() {
            return Ok(target);
        }
        let partial = durable::temporary(&target);
        let state = folder.join(format!("{name}.json"));
        self.transfer(cx, url, &partial, &state).await?;
        durable::publish(&partial, &target).map_err(|error| Failure::io("publish", &target, &error))?;
        durable::remove(&state).map_err(|error| Failure::io("remove", &state, &error))?;
        Ok(target)
    }

    async fn transfer(
        &self,
        cx: &StageContext,
        url: url::Url,
        partial: &Path,
        state: &Path,
    ) -> Result<(), Failure> {
        let remembered = std::fs::read(state)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Validator>(&bytes).ok());
        let have = std::fs::metadata(partial).map_or(0, |meta| meta.len());
        let resume = remembered.filter(|known| known.url == self.url && have > 0);
        let http = |error: reqwest::Error| {
            Failure::transient("http_failed", format!("{}: {}", self.url, chain(&error)))
        };
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(30))
            .read_timeout(Duration::from_secs(60))
            .build()
            .map_err(http)?;
        let mut request = client.get(url);
        if let Some(path) = self.token_file {
            let path = Path::new(path);
            let token =
                std::fs::read_to_string(path).map_err(|error| Failure::io("read the token", path, &error))?;
            request = request.bearer_auth(token.trim());
        }
        if let Some(known) = &resume {
            request = request
                .header(RANGE, format!("bytes={have}-"))
                .header(IF_RANGE, &known.validator);
        }
        let response = request.send().await.map_err(http)?;
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT && resume.is_some();
        if !resumed && response.status() != StatusCode::OK {
            return Err(refused(self.url, response.status()));
        }
        if resumed && !continues_at(response.headers(), have) {
            let text = format!(
                "{}: the server sent another range than the one asked for",
                self.url
            );
            return Err(Failure::transient("http_failed", text));
        }
        let start = if resumed { have } else { 0 };
        let total = response.content_length().map(|rest| start + rest);
        self.check_size(total.unwrap_or(0))?;
        if !resumed {
            remember(response.headers(), self.url, state)?;
        }
        let failure = |error: &std::io::Error| Failure::io("write", partial, error);
        let mut file = tokio::fs::File::options()
            .create(true)
            .write(true)
            .truncate(!resumed)
            .open(partial)
            .await
            .map_err(|error| failure(&error))?;
        tokio::io::AsyncSeekExt::seek(&mut file, std::io::SeekFrom::Start(start))
            .await
            .map_err(|error| failure(&error))?;
        let mut done = start;
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    // What has come is kept for the next attempt.
                    file.flush().await.map_err(|error| failure(&error))?;
                    return Err(http(error));
                }
            };
            done += chunk.len() as u64;
            self.check_size(done)?;
            file.write_all(&chunk).await.map_err(|error| failure(&error))?;
            progress::bytes(cx, "downloading", done, total.unwrap_or(done));
        }
        file.flush().await.map_err(|error| failure(&error))?;
        match total {
            Some(total) if total != done => {
                let text = format!("{}: {done} of {total} bytes came", self.url);
                Err(Failure::transient("http_failed", text))
            }
            _ => Ok(()),
        }
    }

    fn check_size(&self, bytes: u64) -> Result<(), Failure> {
        if bytes <= self.limit {
            return Ok(());
        }
        let text = format!(
            "{} has more than the {} bytes that the sector holds",
            self.url, self.limit
        );
        Err(Failure::permanent("piece_too_large", text))
    }
}

/// Downloads a piece as programs that a Damocles worker drives do: without a token first; where that is answered
/// with another address, that one with the token of `PIECE_FETCHER_TOKEN`. Blocks; needs a runtime.
pub(crate) fn fetch_as_damocles(url: &str, to: &Path, limit: u64) -> Result<(), Failure> {
    let runtime = tokio::runtime::Handle::try_current()
        .map_err(|error| Failure::permanent("bad_url", format!("{url}: {error}")))?;
    runtime.block_on(fetch_redirected(url, to, limit))
}

async fn fetch_redirected(url: &str, to: &Path, limit: u64) -> Result<(), Failure> {
    let http = |error: reqwest::Error| Failure::transient("http_failed", format!("{url}: {}", chain(&error)));
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(http)?;
    let mut response = client.get(url).send().await.map_err(http)?;
    if response.status().is_redirection() {
        let place = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let place = place.and_then(|place| response.url().join(place).ok());
        let place = place.ok_or_else(|| refused(url, response.status()))?;
        let mut request = client.get(place).header("X-VENUS-API-NAMESPACE", "v1.IMarket");
        if let Ok(token) = std::env::var("PIECE_FETCHER_TOKEN") {
            request = request.bearer_auth(token);
        }
        response = request.send().await.map_err(http)?;
    }
    if !response.status().is_success() {
        return Err(refused(url, response.status()));
    }
    let failure = |error: &std::io::Error| Failure::io("write", to, error);
    let mut file = tokio::fs::File::create(to)
        .await
        .map_err(|error| failure(&error))?;
    let mut stream = response.bytes_stream();
    let mut done = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(http)?;
        done += chunk.len() as u64;
        if done > limit {
            let text = format!("{url} has more than the {limit} bytes of the piece");
            return Err(Failure::permanent("piece_too_large", text));
        }
        file.write_all(&chunk).await.map_err(|error| failure(&error))?;
    }
    file.flush().await.map_err(|error| failure(&error))
}

/// Remembers what tells whether the content is still the same; without it a download starts afresh.
fn remember(headers: &HeaderMap, url: &str, state: &Path) -> Result<(), Failure> {
    let validator = [ETAG, LAST_MODIFIED]
        .iter()
        .find_map(|name| headers.get(name))
        .and_then(|value| value.to_str().ok());
    let strong = validator.filter(|text| !text.starts_with("W/"));
    let written = match strong {
        Some(validator) => {
            let known = Validator {
                url: url.to_owned(),
                validator: validator.to_owned(),
            };
            durable::write(state, &serde_json::to_vec(&known).unwrap_or_default())
        }
        None => durable::remove(state),
    };
    written.map_err(|error| Failure::io("write", state, &error))
}

fn continues_at(headers: &HeaderMap, have: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {have}-")))
}

fn refused(url: &str, status: StatusCode) -> Failure {
    let text = format!("{url} answers {status}");
    if status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
    {
        return Failure::transient("http_failed", text);
    }
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; give the piece a `token_file`",
        _ => "",
    };
    Failure::permanent("http_refused", format!("{text}{hint}"))
}

/// An error with its causes: the outermost alone often says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_padded() {
        assert_eq!(padded_bytes(1, None), Ok(128));
        assert_eq!(padded_bytes(127, None), Ok(128));
        assert_eq!(padded_bytes(128, None), Ok(256));
        assert_eq!(padded_bytes(2032, None), Ok(2048));
        assert_eq!(padded_bytes(100, Some(1024)), Ok(1024));
        assert!(padded_bytes(1017, Some(1024)).is_err());
    }

    #[test]
    fn piece_cids() {
        // The CID of a 32 GiB piece of zeros, as every node prints it.
        let cid = "baga6ea4seaqao7s73y24kcutaosvacpdjgfe5pw76ooefnyqw4ynr3d2y6x2mpq";
        let comm_p = comm_p_of_cid(cid).unwrap();
        assert_eq!(
            comm_p.to_string(),
            "077e5fde35c50a9303a55009e3498a4ebedff39c42b710b730d8ec7ac7afa63e"
        );
        assert!(comm_p_of_cid("bafkqaaa").is_err());
        assert!(comm_p_of_cid("nonsense").is_err());
    }
}
