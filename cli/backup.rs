//! Backup files: written from a journal or from a daemon's answer, made durable, and read again before
//! they count; and the folder of the scheduled ones, of which the newest are kept.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use sealflow_engine::{crash, durable};
use sealflow_storage::journal::{SurrealJournal, Transferred, export, verify};
use serde::{Deserialize, Serialize};

use crate::api::Client;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::home::Home;

/// Where a backup comes from.
pub(crate) enum From<'a> {
    /// A journal that this process has open.
    Journal(&'a SurrealJournal),
    /// A daemon that runs.
    Daemon(&'a Client),
}

/// A file that is being written: gzipped if its name says so.
enum Out {
    Plain(BufWriter<File>),
    Packed(GzEncoder<BufWriter<File>>),
}

impl Out {
    fn finish(self) -> std::io::Result<()> {
        match self {
            Self::Plain(mut file) => file.flush(),
            Self::Packed(packed) => packed.finish()?.flush(),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Packed(packed) => packed.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Packed(packed) => packed.flush(),
        }
    }
}

/// The end of the names of backups in a folder.
const SUFFIX: &str = ".jsonl.gz";

/// The file of a backup that is taken now: `path` itself, or a name with the time in the folder `path`.
pub(crate) fn file_at(path: &Path, now_ms: u64) -> PathBuf {
    if !path.is_dir() {
        return path.to_owned();
    }
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(now_ms)).to_string();
    path.join(format!("sealflow-{}{SUFFIX}", time.replace(':', "-")))
}

/// Writes a backup into a new file. When this returns it is durable, and was read again as a whole.
pub(crate) async fn write(from: From<'_>, file: &Path) -> anyhow::Result<Transferred> {
    if file.exists() {
        let text = format!("{} is already there; name another file", file.display());
        return Err(CliError::new(Kind::Usage, text).into());
    }
    let partial = durable::temporary(file);
    let cannot = || format!("cannot write {}", partial.display());
    let open = BufWriter::new(File::create(&partial).with_context(cannot)?);
    let mut out = match file.extension() {
        Some(extension) if extension == "gz" => Out::Packed(GzEncoder::new(open, Compression::default())),
        _ => Out::Plain(open),
    };
    let written = match from {
        From::Journal(journal) => export(journal, &mut out)
            .await
            .map(drop)
            .map_err(anyhow::Error::new),
        From::Daemon(client) => client.backup(&mut out).await,
    };
    let written = match written {
        Ok(()) => out.finish().with_context(cannot),
        Err(error) => Err(error),
    };
    crash::point("backup.written");
    let read = match written {
        Ok(()) => read(&partial).await,
        Err(error) => Err(error),
    };
    if read.is_err() {
        durable::remove(&partial)?;
    } else {
        durable::publish(&partial, file).with_context(cannot)?;
    }
    read
}

/// Reads a backup as a whole, and folds every run in it.
async fn read(file: &Path) -> anyhow::Result<Transferred> {
    let (path, name) = (file.to_owned(), file.display().to_string());
    let read = move || -> anyhow::Result<Transferred> { Ok(verify(BufReader::new(File::open(path)?))?) };
    tokio::task::spawn_blocking(read)
        .await?
        .with_context(|| format!("the backup {name} does not hold what it should"))
}

/// How scheduled backups went. Kept in the home, so that `doctor` can tell without a daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// When the last one that succeeded was taken, milliseconds since 1970.
    pub(crate) taken_at: Option<u64>,
    /// Its file.
    pub(crate) file: Option<PathBuf>,
    /// Why the last one failed, if it did.
    pub(crate) problem: Option<String>,
}

impl Record {
    /// What is recorded in a home.
    pub(crate) fn read(home: &Home) -> Self {
        let text = std::fs::read(home.backup_record()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, home: &Home) -> anyhow::Result<()> {
        Ok(durable::write(&home.backup_record(), &serde_json::to_vec(self)?)?)
    }
}

/// Takes a scheduled backup, records how it went, and removes those beyond the number that is kept.
pub(crate) async fn take(cx: &Context, journal: &SurrealJournal, now_ms: u64) -> anyhow::Result<PathBuf> {
    let mut record = Record::read(&cx.home);
    let taken = take_into(cx, journal, now_ms).await;
    match &taken {
        Ok(file) => {
            record = Record {
                taken_at: Some(now_ms),
                file: Some(file.clone()),
                problem: None,
            };
        }
        Err(error) => record.problem = Some(format!("{error:#}")),
    }
    record.write(&cx.home)?;
    taken
}

async fn take_into(cx: &Context, journal: &SurrealJournal, now_ms: u64) -> anyhow::Result<PathBuf> {
    let folder = cx.home.resolve(&cx.config.backup.path);
    durable::make_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = file_at(&folder, now_ms);
    write(From::Journal(journal), &file).await?;
    prune(&folder, cx.config.backup.keep as usize)?;
    Ok(file)
}

/// Removes the oldest backups of a folder but for `keep` of them, and what a kill left half-written.
fn prune(folder: &Path, keep: usize) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(folder)? {
        let path = file?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if !name.starts_with("sealflow-") {
            continue;
        }
        if name.ends_with(SUFFIX) {
            files.push(path);
        } else if name.ends_with(durable::TEMPORARY) {
            durable::remove(&path)?;
        }
    }
    // Their names are times.
    files.sort();
    for old in files.iter().rev().skip(keep.max(1)) {
        durable::remove(old).with_context(|| format!("cannot remove {}", old.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_backups_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for n in 1..=4 {
            let at = file_at(folder.path(), n * 1000);
            assert_eq!(at, file(&format!("sealflow-1970-01-01T00-00-0{n}Z.jsonl.gz")));
            std::fs::write(at, "").unwrap();
        }
        for other in ["mine.jsonl.gz", "sealflow-1970-01-01T00-00-05Z.jsonl.gz.partial"] {
            std::fs::write(file(other), "").unwrap();
        }
        prune(folder.path(), 2).unwrap();
        let mut left: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "mine.jsonl.gz",
                "sealflow-1970-01-01T00-00-03Z.jsonl.gz",
                "sealflow-1970-01-01T00-00-04Z.jsonl.gz"
            ]
        );
        // A file is taken as it is named.
        assert_eq!(file_at(&file("x.jsonl"), 0), file("x.jsonl"));
    }
}
