//! What to open: the URL of a store, and how.

use std::path::PathBuf;

use super::error::OpenError;

/// How to open a journal.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The folder of values that are too large for the store. With several hosts it must be shared.
    pub payloads: PathBuf,
    /// The folder of archived runs: beside that of the payloads unless told otherwise.
    pub archives: PathBuf,
    /// Whether to take over: only the newest journal that was opened so may commit. Without it the
    /// journal can only be read, and nothing is created where there is none.
    pub fence: bool,
    /// Take over only from this epoch: if another daemon followed it meanwhile, the opening is refused.
    pub after: Option<u64>,
    /// For a remote store.
    pub credentials: Option<Credentials>,
    /// Bytes that an embedded store keeps of what it read.
    pub cache_bytes: u64,
    /// Bytes of changes that an embedded store has in its log and in memory before it makes a table of them. One
    /// commit may be some four times as large.
    pub log_bytes: u64,
    /// Whether a commit of an embedded store returns only when it is synced to disk. It always is, but for the control of
    /// the test of power cuts.
    pub synced: bool,
}

impl OpenOptions {
    /// Opens for writing, with the payloads in this folder. An embedded store is capped so that an
    /// idle daemon stays under 300 MiB: 32 MiB of cache, 64 MiB of what was written last.
    pub fn new(payloads: impl Into<PathBuf>) -> Self {
        let payloads = payloads.into();
        Self {
            archives: payloads.with_file_name("archive"),
            payloads,
            fence: true,
            after: None,
            credentials: None,
            cache_bytes: 32 << 20,
            log_bytes: 64 << 20,
            synced: true,
        }
    }

    /// Opens only to read. An embedded store must not be in use by a daemon.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.fence = false;
        self
    }

    /// Logs in to a remote store.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }
}

/// Who we are to a remote store.
#[derive(Clone)]
pub enum Credentials {
    /// A root user of the server.
    Password {
        /// The user.
        user: String,
        /// Its password.
        password: String,
    },
    /// A token that the server issued.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// A store, as its URL names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// In this process's memory: gone when it ends.
    Memory,
    /// Embedded, in a directory.
    Directory { scheme: &'static str, path: PathBuf },
    /// A server.
    Remote(String),
}

impl Target {
    /// Reads a URL.
    pub(super) fn parse(url: &str) -> Result<Self, OpenError> {
        let fail = |why: &str| {
            Err(OpenError::Url {
                url: redact(url),
                why: why.to_owned(),
            })
        };
        if matches!(url, "memory" | "mem://") {
            return Ok(Self::Memory);
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return fail("it has no scheme; for a directory write surrealkv:///the/path");
        };
        match scheme {
            "surrealkv" if rest.is_empty() => fail("it names no directory"),
            // What follows a question mark would be read as settings of the store.
            "surrealkv" | "rocksdb" if rest.contains('?') => {
                fail("a path with `?` cannot be opened, and settings are not part of the URL")
            }
            "surrealkv" => Ok(Self::Directory {
                scheme: "surrealkv",
                path: rest.into(),
            }),
            #[cfg(feature = "rocksdb")]
            "rocksdb" if rest.is_empty() => fail("it names no directory"),
            #[cfg(feature = "rocksdb")]
            "rocksdb" => Ok(Self::Directory {
                scheme: "rocksdb",
                path: rest.into(),
            }),
            #[cfg(not(feature = "rocksdb"))]
            "rocksdb" => fail(
                "this sealflow was built without RocksDB; build it with `cargo build --release --features rocksdb` \
                 (needs a C++ toolchain and libclang), or use surrealkv://",
            ),
            "ws" | "wss" if rest.contains('@') => {
                fail("the password does not belong in the URL; give user and password in the configuration")
            }
            "ws" | "wss" => match url::Url::parse(url) {
                Ok(parsed) if parsed.host_str().is_some() => Ok(Self::Remote(url.to_owned())),
                Ok(_) => fail("it names no host"),
                Err(error) => fail(&error.to_string()),
            },
            _ => {
                fail("known are surrealkv://PATH, rocksdb://PATH, ws://HOST:PORT, wss://HOST:PORT and memory")
            }
        }
    }
}

/// The URL without what may be a password.
pub(super) fn redact(url: &str) -> String {
    match (url.split_once("://"), url.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let directory = Target::Directory {
            scheme: "surrealkv",
            path: "/a/b".into(),
        };
        assert_eq!(Target::parse("surrealkv:///a/b").unwrap(), directory);
        assert_eq!(Target::parse("memory").unwrap(), Target::Memory);
        assert!(matches!(
            Target::parse("wss://db.example:8000").unwrap(),
            Target::Remote(_)
        ));
        for bad in [
            "/a/b",
            "surrealkv://",
            "surrealkv:///a?sync=never",
            "http://a",
            "ws://",
            "",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_repeated() {
        let error = Target::parse("ws://root:secret@host:1").unwrap_err().to_string();
        assert!(
            error.contains("does not belong") && !error.contains("secret"),
            "{error}"
        );
    }

    #[cfg(not(feature = "rocksdb"))]
    #[test]
    fn rocksdb_says_how_to_get_it() {
        let error = Target::parse("rocksdb:///a").unwrap_err().to_string();
        assert!(error.contains("--features rocksdb"), "{error}");
    }
}
