//! Measures putting a file into a store and getting it back, each in a process of its own, so that its peak memory is
//! its own: `just long-stores` runs it beside `cp` and an S3 client.
//!
//! `serve FOLDER` is an S3 server on a folder; it prints its address and runs until it is killed. `put` and `get` print one
//! line of JSON: seconds, bytes, the most memory that the process had.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sealflow_engine::artifact::{Artifact, ArtifactStore, Policy};
use sealflow_storage::store::{CredentialSource, FilesystemStore, S3Settings, S3Store};
use sealflow_storage::testing::{BUCKET, S3Server, SECRET_KEY};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const USAGE: &str = "serve FOLDER | put|get folder PLACE FILE | put|get s3 PLACE FILE (PLACE: a folder, or ADDRESS,CREDENTIALS)";

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["serve", folder] => serve(Path::new(folder)).await,
        [what @ ("put" | "get"), kind, place, file] => measure(what, kind, place, Path::new(file)).await,
        _ => Err(USAGE.into()),
    }
}

async fn serve(folder: &Path) -> Result<(), Failed> {
    let server = S3Server::start(folder).await;
    std::fs::write(folder.join("credentials"), server.credentials(SECRET_KEY))?;
    std::fs::write(folder.join("address"), &server.endpoint)?;
    std::future::pending().await
}

fn open(kind: &str, place: &str) -> Result<Arc<dyn ArtifactStore>, Failed> {
    if kind == "folder" {
        return Ok(Arc::new(FilesystemStore::new("folder", place)?));
    }
    let (address, credentials) = place.split_once(',').ok_or(USAGE)?;
    let settings = S3Settings {
        endpoint: Some(address.to_owned()),
        path_style: true,
        credentials: CredentialSource::File {
            path: PathBuf::from(credentials),
            profile: None,
        },
        ..S3Settings::new(BUCKET.to_owned())
    };
    Ok(Arc::new(S3Store::new("bucket", settings, Policy::default())?))
}

async fn measure(what: &str, kind: &str, place: &str, file: &Path) -> Result<(), Failed> {
    let store = open(kind, place)?;
    let key = "bench/file";
    let begun = Instant::now();
    let bytes = if what == "put" {
        store.put(key, file, &|_| {}).await?.bytes
    } else {
        let stat = store.stat(key).await?.ok_or("put it first")?;
        let artifact = Artifact {
            store: store.name().to_owned(),
            key: key.to_owned(),
            bytes: stat.bytes(),
            digest: stat.files.first().and_then(|file| file.digest.clone()),
        };
        store.get(&artifact, file, &|_| {}).await?;
        artifact.bytes
    };
    let seconds = begun.elapsed().as_secs_f64();
    let line = serde_json::json!({ "seconds": seconds, "bytes": bytes, "peak_memory": peak()? });
    #[expect(clippy::print_stdout, reason = "it is what the caller reads")]
    {
        println!("{line}");
    }
    Ok(())
}

/// The most memory that this process had, in bytes.
fn peak() -> Result<u64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no VmHWM")?
        .parse()?;
    Ok(kib << 10)
}
