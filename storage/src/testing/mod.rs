//! For tests: an S3 server in the process.

mod s3_server;

pub use s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Trouble};
