//! What programs say beside their results, in files: one for each attempt, one for each executor. Bounded: a full
//! file is kept once as `….1` and begun anew. What attempts on other machines say is kept here too.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sealflow_engine::id::{AttemptKey, RunId};

/// Bytes of a file before it is begun anew.
const LIMIT: u64 = 8 << 20;

/// Bytes of a line that are kept.
const LINE: usize = 16 << 10;

/// The log of an attempt, below the folder of logs.
pub fn attempt_log(logs: &Path, key: &AttemptKey) -> PathBuf {
    let name = format!("{}.{}.{}.log", key.step, key.visit, key.attempt);
    logs.join(key.run.to_string()).join(name)
}

/// The log of an executor, below the folder of logs.
pub fn executor_log(logs: &Path, name: &str) -> PathBuf {
    logs.join("executors").join(format!("{name}.log"))
}

/// The logs of a step's attempts, by visit and attempt, below the folder of logs.
pub fn attempt_logs(logs: &Path, run: &RunId, step: &str) -> Vec<(u32, u32, PathBuf)> {
    let folder = logs.join(run.to_string());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let Some((visit, attempt)) = name.to_str().and_then(|name| numbers(name, step)) {
            found.push((visit, attempt, entry.path()));
        }
    }
    found.sort();
    found
}

/// The visit and the attempt in the name of a log of this step.
fn numbers(name: &str, step: &str) -> Option<(u32, u32)> {
    let rest = name.strip_prefix(step)?.strip_prefix('.')?.strip_suffix(".log")?;
    let (visit, attempt) = rest.split_once('.')?;
    Some((visit.parse().ok()?, attempt.parse().ok()?))
}

/// A log that grows, read piece by piece.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    at: u64,
}

impl Tail {
    /// The log in this file, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, at: 0 }
    }

    /// What was added since the last look; nothing while there is no file. A file that was full and begun anew is
    /// read from its beginning.
    pub fn more(&mut self) -> Vec<u8> {
        let (text, next) = read_from(&self.path, self.at).unwrap_or_default();
        if next > 0 {
            self.at = next;
        }
        text
    }
}

/// The bytes of a log from one place on, and the place after them. Where the log is shorter than that it was begun anew,
/// and is read from its beginning.
///
/// # Errors
/// The file cannot be read.
pub fn read_from(path: &Path, from: u64) -> std::io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let from = if file.metadata()?.len() < from { 0 } else { from };
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(2 * LIMIT).read_to_end(&mut text)?;
    let next = from + text.len() as u64;
    Ok((text, next))
}

/// Removes logs of runs, the oldest first, until what is left has at most so many bytes. Those that were written to
/// within the last day stay. Gives the number of runs.
///
/// # Errors
/// A folder cannot be read or removed.
pub fn prune(logs: &Path, most: u64) -> std::io::Result<usize> {
    const FRESH: Duration = Duration::from_secs(86_400);
    let mut runs = Vec::new();
    if !logs.is_dir() {
        return Ok(0);
    }
    for entry in std::fs::read_dir(logs)? {
        let path = entry?.path();
        if path.ends_with("executors") || !path.is_dir() {
            continue;
        }
        let (mut bytes, mut newest) = (0, SystemTime::UNIX_EPOCH);
        for file in std::fs::read_dir(&path)? {
            let meta = file?.metadata()?;
            bytes += meta.len();
            newest = newest.max(meta.modified()?);
        }
        runs.push((newest, bytes, path));
    }
    runs.sort();
    let mut sum: u64 = runs.iter().map(|(_, bytes, _)| bytes).sum();
    let mut removed = 0;
    for (newest, bytes, path) in runs {
        let fresh = newest.elapsed().is_ok_and(|age| age < FRESH);
        if sum <= most || fresh {
            break;
        }
        std::fs::remove_dir_all(path)?;
        sum -= bytes;
        removed += 1;
    }
    Ok(removed)
}

/// A log file. Made when there is something to write.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    limit: u64,
    open: Mutex<Option<(File, u64)>>,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            limit: LIMIT,
            open: Mutex::new(None),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line with the time and its source. A log that cannot be written is said in ours, and stops nothing.
    pub(crate) fn line(&self, source: &str, text: &[u8]) {
        let time = humantime::format_rfc3339_millis(SystemTime::now());
        let text = String::from_utf8_lossy(&text[..text.len().min(LINE)]);
        self.text(format!("{time} {source}| {text}\n").as_bytes());
    }

    /// Adds lines that have their times already.
    pub(crate) fn text(&self, text: &[u8]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.write(&mut open, text) {
            tracing::warn!(path = %self.path.display(), %error, "a log cannot be written");
        }
    }

    fn write(&self, open: &mut Option<(File, u64)>, line: &[u8]) -> std::io::Result<()> {
        if open.as_ref().is_some_and(|(_, bytes)| *bytes >= self.limit) {
            *open = None;
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.path, old)?;
        }
        if open.is_none() {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file = File::options().create(true).append(true).open(&self.path)?;
            let bytes = file.metadata()?.len();
            *open = Some((file, bytes));
        }
        if let Some((file, bytes)) = open {
            file.write_all(line)?;
            *bytes += line.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_runs_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_secs(10 * 86_400);
        for (at, run) in ["run_a", "run_b", "run_c", "run_d"].into_iter().enumerate() {
            std::fs::create_dir(dir.path().join(run)).unwrap();
            let file = File::create(dir.path().join(run).join("x.1.1.log")).unwrap();
            file.set_len(100).unwrap();
            if run != "run_d" {
                file.set_modified(old + Duration::from_secs(at as u64)).unwrap();
            }
        }
        std::fs::create_dir(dir.path().join("executors")).unwrap();
        assert_eq!(prune(dir.path(), 250).unwrap(), 2);
        assert!(!dir.path().join("run_b").exists() && dir.path().join("run_c").exists());
        // What is fresh stays, whatever it takes.
        assert_eq!(prune(dir.path(), 0).unwrap(), 1);
        assert!(dir.path().join("run_d").exists() && dir.path().join("executors").exists());
        assert_eq!(prune(&dir.path().join("none"), 0).unwrap(), 0);
    }

    #[test]
    fn logs_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log {
            limit: 1000,
            ..Log::new(dir.path().join("run/step.log"))
        };
        for at in 0..200 {
            log.line("err", format!("line {at}").as_bytes());
        }
        log.line("out", &vec![b'x'; 1 << 20]);
        let size = |name: &str| {
            std::fs::metadata(dir.path().join("run").join(name))
                .unwrap()
                .len()
        };
        assert!(size("step.log") <= 1000 + LINE as u64 + 100);
        assert!(size("step.log.1") <= 1100);
        let text = std::fs::read_to_string(dir.path().join("run/step.log.1")).unwrap();
        assert!(text.contains("err| line 1"), "{text}");
    }
}
