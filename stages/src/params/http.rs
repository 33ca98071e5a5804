//! The parts of HTTP that fetching needs: the client, the range headers, and what to say about a refusal.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};

use super::error::ParamsError;
use super::fetch::Source;

/// A client as patient as `source` says. Loopback addresses are never asked for through a proxy.
pub(crate) fn client(source: &Source) -> Result<Client, ParamsError> {
    let url = Url::parse(&source.base_url).map_err(|error| ParamsError::Http {
        url: source.base_url.clone(),
        status: format!("nothing ({error})"),
        advice: "name a gateway by its http or https URL",
    })?;
    let mut builder = Client::builder()
        .user_agent(concat!("sealflow/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(source.silence.min(Duration::from_secs(30)))
        .read_timeout(source.silence);
    let host = url.host_str().unwrap_or_default();
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| ParamsError::Http {
        url: source.base_url.clone(),
        status: format!("nothing ({error})"),
        advice: "the HTTP client could not be set up; check the system's certificates",
    })
}

pub(crate) fn http_error(url: &str, status: StatusCode) -> ParamsError {
    let advice = match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            "the gateway does not have this file; name another gateway"
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "the gateway refuses to serve it; name another gateway"
        }
        StatusCode::TOO_MANY_REQUESTS => "the gateway wants fewer requests; wait, or name another gateway",
        status if status.is_server_error() => {
            "the gateway is in trouble; try again later, or name another gateway"
        }
        _ => "check the gateway's URL",
    };
    ParamsError::Http {
        url: url.to_owned(),
        status: status.to_string(),
        advice,
    }
}

/// An error with everything that led to it: reqwest keeps the interesting part in the sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A `Content-Range` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// First byte; none in an answer that no range could be served.
    pub(crate) start: Option<u64>,
    /// Bytes of the whole file, if known.
    pub(crate) total: Option<u64>,
}

pub(crate) fn content_range(value: &str) -> Option<ContentRange> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let start = match range {
        "*" => None,
        range => Some(range.split_once('-')?.0.parse().ok()?),
    };
    Some(ContentRange {
        start,
        total: total.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let range = |start, total| Some(ContentRange { start, total });
        assert_eq!(content_range("bytes 5-9/10"), range(Some(5), Some(10)));
        assert_eq!(content_range("bytes 5-9/*"), range(Some(5), None));
        assert_eq!(content_range("bytes */10"), range(None, Some(10)));
        for nonsense in ["", "bytes", "bytes 5/10", "lines 5-9/10", "bytes x-9/10"] {
            assert_eq!(content_range(nonsense), None, "{nonsense}");
        }
    }
}
