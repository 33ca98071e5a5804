//! What an operator says of an S3 store.

use std::path::PathBuf;
use std::time::Duration;

/// Where a store is and how it is spoken to. It holds no secrets, only where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    /// The server's address, `https://HOST[:PORT]`; Amazon's own of the region if nothing is said.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with; empty, or parts between `/`.
    pub prefix: String,
    /// Whether the bucket is in the path of addresses, not in the host's name.
    pub path_style: bool,
    /// Where the credentials come from.
    pub credentials: CredentialSource,
    /// Requests at once.
    pub concurrency: usize,
    /// Bytes in a second, both ways together; without a limit if nothing is said.
    pub bandwidth: Option<u64>,
    /// How long one request may take, but for the time that its bytes need (see [`S3Settings::SLOWEST`]).
    pub timeout: Duration,
    /// How often a request is tried before it counts as failed.
    pub attempts: u32,
    /// The size of the parts that large files are sent and read in.
    pub part_bytes: u64,
}

impl S3Settings {
    /// A transfer that is slower than this, in bytes a second, runs into the timeout.
    pub const SLOWEST: u64 = 256 << 10;

    /// The smallest part of an upload that S3 takes, but for the last.
    pub const SMALLEST_PART: u64 = 5 << 20;

    /// A store with defaults for all that can have one.
    pub fn new(bucket: impl Into<String>) -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: bucket.into(),
            prefix: String::new(),
            path_style: false,
            credentials: CredentialSource::Environment,
            concurrency: 4,
            bandwidth: None,
            timeout: Duration::from_secs(30),
            attempts: 5,
            part_bytes: 16 << 20,
        }
    }
}

/// Where the access key and its secret come from. They are read when the store is first used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, of temporary ones, `AWS_SESSION_TOKEN`.
    Environment,
    /// A profile of the user's `~/.aws/credentials`; `default` if nothing is said.
    Profile(Option<String>),
    /// A file of one's own in the form of `~/.aws/credentials`, and the profile in it.
    File {
        /// The file.
        path: PathBuf,
        /// The profile in it; `default` if nothing is said.
        profile: Option<String>,
    },
    /// What the machine that this runs on is given by its cloud.
    Instance,
    /// None: the bucket is public.
    Anonymous,
}
