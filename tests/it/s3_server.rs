//! An S3 server beside a home, and the configuration that makes its bucket a store.

use sealflow_storage::testing::{BUCKET, S3Server, SECRET_KEY};

use crate::env::Home;

/// A server whose credentials are in the file `credentials` of a home.
pub(crate) struct Server {
    s3: S3Server,
    // Ends last: the server lives in it.
    _runtime: tokio::runtime::Runtime,
}

impl std::ops::Deref for Server {
    type Target = S3Server;

    fn deref(&self) -> &S3Server {
        &self.s3
    }
}

impl Server {
    pub(crate) fn beside(home: &Home) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let s3 = runtime.block_on(S3Server::start(&home.path().join("server")));
        std::fs::write(home.path().join("credentials"), s3.credentials(SECRET_KEY)).unwrap();
        Self {
            s3,
            _runtime: runtime,
        }
    }

    /// The block of the store `bucket`, with credentials from a file of the home.
    pub(crate) fn block(&self, credentials: &str, more: &str) -> String {
        format!(
            "[stores.bucket]\nkind = \"s3\"\nendpoint = \"{}\"\nbucket = \"{BUCKET}\"\ncredentials = \"file\"\n\
             credentials_file = \"{credentials}\"\ntimeout = \"5s\"\npart_size = \"5MiB\"\n{more}",
            self.s3.endpoint
        )
    }
}
