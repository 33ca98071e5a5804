//! What programs in child processes said, from the files of this home: of an attempt, or of an executor.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sealflow_engine::id::RunId;
use sealflow_executors::processor::executor_log;

use crate::environment::Context;
use crate::exit::not_found;
use crate::output;

/// Prints the logs of a step's attempts, or of one, the oldest first. With `follow` the newest goes on until it is
/// interrupted.
pub(super) async fn of_step(
    cx: &Context,
    run: &RunId,
    step: &str,
    attempt: Option<u32>,
    follow: bool,
) -> anyhow::Result<()> {
    let folder = cx.home.logs().join(run.to_string());
    let mut found: Vec<(u32, u32, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((visit, number)) = name.to_str().and_then(|name| numbers(name, step)) else {
            continue;
        };
        if attempt.is_none_or(|wanted| wanted == number) {
            found.push((visit, number, entry.path()));
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(not_found(format!(
            "no program said anything about step {step} of {run}; only children with something to say have a log"
        )));
    }
    let last = found.len() - 1;
    for (at, (visit, number, path)) in found.iter().enumerate() {
        output::note(&format!("attempt {number} of visit {visit}: {}", path.display()));
        print(path, follow && at == last).await?;
    }
    Ok(())
}

/// The visit and the attempt in the name of a log of this step.
fn numbers(name: &str, step: &str) -> Option<(u32, u32)> {
    let rest = name.strip_prefix(step)?.strip_prefix('.')?.strip_suffix(".log")?;
    let (visit, attempt) = rest.split_once('.')?;
    Some((visit.parse().ok()?, attempt.parse().ok()?))
}

/// Prints the log of an executor.
pub(super) async fn of_executor(cx: &Context, name: &str, follow: bool) -> anyhow::Result<()> {
    let path = executor_log(&cx.home.logs(), name);
    if name.contains('/') || !path.exists() {
        return Err(not_found(format!(
            "executor `{name}` has no log; only executors of kind ext-processor have one"
        )));
    }
    print(&path, follow).await
}

/// Prints a file; with `follow` also what is added to it.
async fn print(path: &Path, follow: bool) -> anyhow::Result<()> {
    let mut at = 0;
    loop {
        let mut file = std::fs::File::open(path)?;
        if file.metadata()?.len() < at {
            // It was full, and begun anew.
            at = 0;
        }
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(64 << 20).read_to_end(&mut bytes)?;
        at += bytes.len() as u64;
        if !bytes.is_empty() {
            output::data(&String::from_utf8_lossy(&bytes));
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
