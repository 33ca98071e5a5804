//! What programs said: of an attempt, or of an executor. The daemon tells it; where none runs it is read in the home.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sealflow_engine::id::RunId;
use sealflow_executors::log::{attempt_logs, executor_log, read_from};

use crate::api::{Client, LogPiece, LogView};
use crate::environment::Context;
use crate::exit::not_found;
use crate::output;

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Who has the logs.
enum Logs {
    Daemon(Client),
    Home(PathBuf),
}

impl Logs {
    async fn open(cx: &Context) -> anyhow::Result<Self> {
        let client = Client::find(cx).await?;
        Ok(client.map_or_else(|| Self::Home(cx.home.logs()), Self::Daemon))
    }

    async fn of_step(&self, run: &RunId, step: &str) -> anyhow::Result<Vec<LogView>> {
        match self {
            Self::Daemon(client) => client.step_logs(run, step).await,
            Self::Home(folder) => Ok(attempt_logs(folder, run, step)
                .into_iter()
                .map(|(visit, attempt, path)| LogView {
                    visit,
                    attempt,
                    bytes: path.metadata().map_or(0, |meta| meta.len()),
                })
                .collect()),
        }
    }

    async fn piece(&self, of: &Of<'_>, from: u64) -> anyhow::Result<LogPiece> {
        let folder = match self {
            Self::Daemon(client) => return client.log_piece(&of.path(), from).await,
            Self::Home(folder) => folder,
        };
        let (text, next) = read_from(&of.file(folder)?, from)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Ok(LogPiece { text, next })
    }

    /// Prints a log; with `follow` also what is added to it.
    async fn print(&self, of: &Of<'_>, follow: bool) -> anyhow::Result<()> {
        let mut at = 0;
        loop {
            let piece = self.piece(of, at).await?;
            at = piece.next;
            let text = piece.text.trim_end_matches('\n');
            if !text.is_empty() {
                output::data(text);
            }
            if !follow {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whose log.
enum Of<'a> {
    Attempt {
        run: &'a RunId,
        step: &'a str,
        visit: u32,
        attempt: u32,
    },
    Executor(&'a str),
}

impl Of<'_> {
    /// Its path in the API.
    fn path(&self) -> String {
        match self {
            Self::Attempt {
                run,
                step,
                visit,
                attempt,
            } => format!("/api/v1/runs/{run}/steps/{step}/logs/{visit}/{attempt}"),
            Self::Executor(name) => format!("/api/v1/executors/{name}/log"),
        }
    }

    /// Its file.
    fn file(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        match self {
            Self::Attempt {
                run,
                step,
                visit,
                attempt,
            } => {
                let mut all = attempt_logs(folder, run, step).into_iter();
                let found = all.find(|one| (one.0, one.1) == (*visit, *attempt));
                found
                    .map(|(_, _, path)| path)
                    .ok_or_else(|| not_found("that log was removed".to_owned()))
            }
            Self::Executor(name) => {
                let path = executor_log(folder, name);
                if name.contains('/') || !path.exists() {
                    return Err(not_found(format!(
                        "executor `{name}` has no log; only executors of kind ext-processor have one"
                    )));
                }
                Ok(path)
            }
        }
    }
}

/// Prints the logs of a step's attempts, or of one, the oldest first. With `follow` the newest goes on until it is
/// interrupted.
pub(super) async fn of_step(
    cx: &Context,
    run: &RunId,
    step: &str,
    attempt: Option<u32>,
    follow: bool,
) -> anyhow::Result<()> {
    let logs = Logs::open(cx).await?;
    let mut found = logs.of_step(run, step).await?;
    found.retain(|one| attempt.is_none_or(|wanted| wanted == one.attempt));
    let Some(last) = found.len().checked_sub(1) else {
        return Err(not_found(format!(
            "no program said anything about step {step} of {run}; only children and vendors' executors have logs"
        )));
    };
    for (at, LogView { visit, attempt, .. }) in found.into_iter().enumerate() {
        output::note(&format!("attempt {attempt} of visit {visit}:"));
        let of = Of::Attempt {
            run,
            step,
            visit,
            attempt,
        };
        logs.print(&of, follow && at == last).await?;
    }
    Ok(())
}

/// Prints the log of an executor.
pub(super) async fn of_executor(cx: &Context, name: &str, follow: bool) -> anyhow::Result<()> {
    Logs::open(cx).await?.print(&Of::Executor(name), follow).await
}
