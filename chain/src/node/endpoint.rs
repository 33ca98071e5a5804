//! Where a node is and how it knows us, as `lotus auth api-info` prints it.

use url::Url;
use zeroize::Zeroizing;

/// A node's address and token.
#[derive(Clone)]
pub struct Endpoint {
    url: Url,
    token: Option<Zeroizing<String>>,
}

/// Why a text is not the address of a node. It never repeats the text, which holds a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not the address of a node: {0}; write for example `http://127.0.0.1:1234/rpc/v1` or `TOKEN:/ip4/127.0.0.1/tcp/1234/http`"
)]
pub struct EndpointError(String);

/// The path of the API where none is given.
const PATH: &str = "/rpc/v1";

impl Endpoint {
    /// Reads `TOKEN:/ip4/127.0.0.1/tcp/1234/http`, `TOKEN:http://…`, or either without a token. Schemes are
    /// http, https, ws and wss.
    ///
    /// # Errors
    /// The text has another form, or a token that no header can hold.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let error = |reason: &str| EndpointError(reason.into());
        let text = text.trim();
        let schemes = ["http://", "https://", "ws://", "wss://", "/"];
        let (token, address) = match text.split_once(':') {
            Some((token, address)) if schemes.iter().any(|s| address.starts_with(s)) => {
                // `http://…` itself is split at its colon too.
                if address.starts_with("//") {
                    (None, text)
                } else {
                    (Some(token), address)
                }
            }
            _ => (None, text),
        };
        let address = if address.starts_with('/') {
            multiaddr(address)
                .ok_or_else(|| error("its multiaddress is not /ip4|ip6|dns…/tcp/PORT/http|https|ws|wss"))?
        } else {
            address.to_owned()
        };
        let mut url = Url::parse(&address).map_err(|_| error("it has no URL"))?;
        if !["http", "https", "ws", "wss"].contains(&url.scheme()) || url.host().is_none() {
            return Err(error("its scheme is not http, https, ws or wss"));
        }
        if url.path().is_empty() || url.path() == "/" {
            url.set_path(PATH);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(error("it has a user or password; nodes take a token"));
        }
        let token = token.filter(|token| !token.is_empty());
        if token.is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(error("its token has characters that no token has"));
        }
        Ok(Self {
            url,
            token: token.map(|token| Zeroizing::new(token.to_owned())),
        })
    }

    /// The same node with another token.
    #[must_use]
    pub fn with_token(mut self, token: Zeroizing<String>) -> Self {
        self.token = Some(token);
        self
    }

    /// The URL for calls, and for subscriptions, which begin as a call.
    pub(super) fn http(&self) -> Url {
        let scheme = if matches!(self.url.scheme(), "https" | "wss") {
            "https"
        } else {
            "http"
        };
        // `Url::set_scheme` keeps to pairs of its own; the text after the scheme is the same in any case.
        let (_, rest) = self.url.as_str().split_once(':').unwrap_or_default();
        Url::parse(&format!("{scheme}:{rest}")).unwrap_or_else(|_| self.url.clone())
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref().map(String::as_str)
    }

    /// The node's name in messages: host and port.
    pub fn name(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = if self.token.is_some() {
            "with token"
        } else {
            "no token"
        };
        write!(f, "{} ({token})", self.name())
    }
}

fn multiaddr(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split('/').skip(1).collect();
    let [kind, host, "tcp", port, scheme] = parts[..] else {
        return None;
    };
    let host = match kind {
        "ip4" | "dns" | "dns4" | "dns6" => host.to_owned(),
        "ip6" => format!("[{host}]"),
        _ => return None,
    };
    let port: u16 = port.parse().ok()?;
    ["http", "https", "ws", "wss"]
        .contains(&scheme)
        .then(|| format!("{scheme}://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_an_address() {
        for (text, http, token) in [
            (
                "tok.en:/ip4/127.0.0.1/tcp/1234/http",
                "http://127.0.0.1:1234/rpc/v1",
                Some("tok.en"),
            ),
            (
                "tok:https://node.example/rpc/v1",
                "https://node.example/rpc/v1",
                Some("tok"),
            ),
            ("http://127.0.0.1:2345", "http://127.0.0.1:2345/rpc/v1", None),
            ("wss://node.example:9/x", "https://node.example:9/x", None),
            ("/dns/node.example/tcp/80/ws", "http://node.example/rpc/v1", None),
            ("/ip6/::1/tcp/1234/http", "http://[::1]:1234/rpc/v1", None),
            (":/ip4/127.0.0.1/tcp/1/http", "http://127.0.0.1:1/rpc/v1", None),
        ] {
            let endpoint = Endpoint::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(endpoint.http().as_str(), http, "{text}");
            assert_eq!(endpoint.token(), token, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_without_the_token() {
        for text in [
            "",
            "SECRET",
            "SECRET:ftp://x",
            "SECRET:/ip4/127.0.0.1/udp/1/http",
            "SECRET:/ip4/1.2.3.4/tcp/99999/http",
            "SEC RET:http://x",
            "http://user:SECRET@x",
            "SECRET:/unix/x",
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(!error.contains("SECRET") && !error.contains("SEC RET"), "{error}");
        }
        let endpoint = Endpoint::parse("SECRET:http://x:1").unwrap();
        assert_eq!(format!("{endpoint:?}"), "x:1 (with token)");
    }
}
