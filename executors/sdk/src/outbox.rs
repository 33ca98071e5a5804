//! Ends of attempts that the daemon has not acknowledged yet: one file each, durable before it is reported, so that a
//! result survives the loss of contact, of the daemon, and of this process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::v1;

/// Results cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct OutboxError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Which attempt: its run, step, visit and number.
pub(crate) type Which = (String, String, u32, u32);

pub(crate) fn which(attempt: &v1::Attempt) -> Which {
    let v1::Attempt {
        run,
        step,
        visit,
        attempt,
        ..
    } = attempt;
    (run.clone(), step.clone(), *visit, *attempt)
}

/// The ends that are kept.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Nothing: they are kept in memory only.
    folder: Option<PathBuf>,
    ends: BTreeMap<Which, v1::Item>,
}

impl Outbox {
    /// Opens a folder, and reads what an earlier process left there. What is no whole result is removed: the attempt
    /// counts as lost then, and is done again.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, OutboxError> {
        let mut ends = BTreeMap::new();
        if let Some(folder) = folder {
            let failed = |what, path: &Path| {
                let path = path.to_owned();
                move |source| OutboxError { what, path, source }
            };
            std::fs::create_dir_all(folder).map_err(failed("cannot make", folder))?;
            let files = std::fs::read_dir(folder).map_err(failed("cannot read", folder))?;
            for file in files {
                let path = file.map_err(failed("cannot read", folder))?.path();
                let bytes = std::fs::read(&path).map_err(failed("cannot read", &path))?;
                let whole = path.extension().is_some_and(|extension| extension == "end");
                match v1::Item::decode(&*bytes) {
                    Ok(v1::Item {
                        attempt: Some(attempt),
                        news: Some(news),
                    }) if whole => {
                        let item = v1::Item {
                            attempt: Some(attempt.clone()),
                            news: Some(news),
                        };
                        ends.insert(which(&attempt), item);
                    }
                    _ => {
                        tracing::warn!(path = %path.display(), "not a whole result; removed");
                        std::fs::remove_file(&path).map_err(failed("cannot remove", &path))?;
                    }
                }
            }
        }
        let folder = folder.map(Path::to_owned);
        Ok(Self { folder, ends })
    }

    /// Keeps the end of an attempt. When this returns it is durable.
    pub(crate) fn put(&mut self, item: v1::Item) -> Result<(), OutboxError> {
        let Some(attempt) = &item.attempt else {
            return Ok(());
        };
        let key = which(attempt);
        if let Some(path) = self.path(&key) {
            let failed = |source| OutboxError {
                what: "cannot write",
                path: path.clone(),
                source,
            };
            let new = path.with_extension("new");
            let mut file = File::create(&new).map_err(failed)?;
            file.write_all(&item.encode_to_vec()).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            std::fs::rename(&new, &path).map_err(failed)?;
            self.sync_folder().map_err(failed)?;
        }
        self.ends.insert(key, item);
        Ok(())
    }

    /// The daemon has it, or does not want it.
    pub(crate) fn remove(&mut self, key: &Which) {
        self.ends.remove(key);
        if let Some(path) = self.path(key)
            && let Err(error) = std::fs::remove_file(&path)
        {
            // It is reported again after a restart, and answered as superseded.
            tracing::warn!(path = %path.display(), %error, "an acknowledged result stays");
        }
    }

    pub(crate) fn contains(&self, key: &Which) -> bool {
        self.ends.contains_key(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// What is to be reported.
    pub(crate) fn all(&self) -> impl Iterator<Item = &v1::Item> {
        self.ends.values()
    }

    /// One file an attempt; names are hashed, because they come from the daemon.
    fn path(&self, (run, step, visit, attempt): &Which) -> Option<PathBuf> {
        let name = format!("{run}/{step}.{visit}.{attempt}");
        let name = hex::encode(name);
        // File names have at most 255 bytes; runs and steps have bounded names.
        Some(
            self.folder
                .as_ref()?
                .join(format!("{}.end", &name[..name.len().min(240)])),
        )
    }

    fn sync_folder(&self) -> io::Result<()> {
        match &self.folder {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(n: u32) -> v1::Item {
        v1::Item {
            attempt: Some(v1::Attempt {
                run: "run_1".to_owned(),
                step: "pc1".to_owned(),
                visit: 1,
                attempt: n,
                token: "00".repeat(16),
            }),
            news: Some(v1::item::News::Output(bytes(n))),
        }
    }

    fn bytes(n: u32) -> tonic::codegen::Bytes {
        format!("{{\"n\":{n}}}").into_bytes().into()
    }

    #[test]
    fn results_survive_this_process_and_go_when_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(Some(folder.path())).unwrap();
        for n in 1..=3 {
            outbox.put(end(n)).unwrap();
        }
        outbox.remove(&which(end(2).attempt.as_ref().unwrap()));
        // A kill in the middle of a write leaves half a file under another name.
        std::fs::write(folder.path().join("half.new"), b"\x0a\x05").unwrap();
        std::fs::write(folder.path().join("bad.end"), b"nonsense").unwrap();
        let again = Outbox::open(Some(folder.path())).unwrap();
        let kept: Vec<&v1::Item> = again.all().collect();
        assert_eq!(kept, [&end(1), &end(3)]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
