//! What an executor implements, and the table of attempts that it has.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tonic::codegen::Bytes;

use crate::connection::Client;
use crate::outbox::{Outbox, OutboxError, Which, which};
use crate::v1;

/// The work of an executor. The same implementation is a remote executor by [`crate::run`] and an ext-processor child by
/// [`crate::run_child`].
pub trait Handler: Send + Sync + 'static {
    /// Does the work of one attempt. A panic is reported as a failure. When [`Context::cancelled`] says so the work
    /// is not wanted any more: end as soon as that is possible.
    fn run(&self, job: Job, cx: Context) -> impl Future<Output = End> + Send;

    /// The path of a file in this machine's scratch space (store `scratch`), which an attempt on another machine
    /// takes, or of a log here (store `logs`, key `executors/NAME.log`), which a person wants to see.
    ///
    /// # Errors
    /// Why it cannot be had; unless this is implemented, no file can.
    fn open(&self, artifact: &v1::Artifact) -> Result<std::path::PathBuf, String> {
        let _ = artifact;
        Err("this executor keeps no files for others".to_owned())
    }
}

/// An attempt to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The attempt: one try of one step.
    pub attempt: v1::Attempt,
    /// Which of the offered executors is meant.
    pub executor: String,
    /// What the run is about, for example `f01000/7`.
    pub subject: String,
    /// The stage.
    pub stage: String,
    /// Its version.
    pub version: u32,
    /// Whether the input is that of many members of a batch.
    pub many: bool,
    /// The input as JSON: that of the stage (`sealflow stage show`), or in a child the task of the line protocol.
    pub input: Bytes,
    /// What the attempt may use of the machine.
    pub held: v1::Resources,
}

/// The most logs, and the most ends, of one report.
const TOGETHER: usize = 64;

/// How long the next chunk of a file may take.
const CHUNK: std::time::Duration = std::time::Duration::from_secs(30);

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It did its work; the output as JSON.
    Done(Vec<u8>),
    /// It must wait; what for, as JSON.
    Park(Vec<u8>),
    /// It failed.
    Failed(Failure),
    /// It ended without a result, through no fault of the work.
    Lost(String),
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// `transient` (try again), `permanent` (a person must look), `rewind` (go back along the edge that the
    /// workflow declares for the code) or `critical` (this machine or disk is bad).
    pub class: &'static str,
    /// A slug, for example `no_space`.
    pub code: String,
    /// What happened, where, and what to do.
    pub message: String,
}

/// What an attempt may do while it runs.
#[derive(Clone)]
pub struct Context {
    attempt: v1::Attempt,
    cancel: CancellationToken,
    /// Nothing: this is a child, whose parent hears answers and standard error only.
    table: Option<Arc<Table>>,
}

impl Context {
    /// That of a request to a child.
    pub(crate) fn of_child() -> Self {
        Self {
            attempt: v1::Attempt::default(),
            cancel: CancellationToken::new(),
            table: None,
        }
    }

    /// Tells how far the attempt is. Only the latest word is sent. A child's parent is told nothing: its protocol has
    /// no word for it.
    pub fn progress(&self, progress: v1::Progress) {
        if let Some(table) = &self.table {
            table.locked().progress.insert(which(&self.attempt), progress);
            table.news.notify_one();
        }
    }

    /// Adds lines to the attempt's log, which is kept with the run. What is not sent yet is bounded: while there is no
    /// contact the oldest is dropped. A child writes to standard error.
    pub fn log(&self, text: &[u8]) {
        match &self.table {
            _ if text.is_empty() => {}
            Some(table) => {
                let mut inner = table.locked();
                inner.logs.entry(which(&self.attempt)).or_default().add(text);
                drop(inner);
                table.news.notify_one();
            }
            None => crate::child::say(text),
        }
    }

    /// Copies an artifact of the input that is on another machine into a file here.
    ///
    /// # Errors
    /// Why it cannot be had now.
    pub async fn fetch(&self, artifact: v1::Artifact, to: &std::path::Path) -> Result<(), String> {
        use tokio::io::AsyncWriteExt;
        let Some(table) = &self.table else {
            return Err("the inputs of a child are on its machine".to_owned());
        };
        let contact = table.locked().contact.clone();
        let Some((mut client, session)) = contact else {
            return Err("there is no contact with the daemon".to_owned());
        };
        let told = |status: tonic::Status| status.message().to_owned();
        let broken = |error: std::io::Error| format!("{}: {error}", to.display());
        let mut left = artifact.bytes;
        let request = v1::FetchRequest {
            session,
            attempt: Some(self.attempt.clone()),
            artifact: Some(artifact),
        };
        let mut chunks = client.fetch(request).await.map_err(told)?.into_inner();
        let mut file = tokio::fs::File::create(to).await.map_err(broken)?;
        while left > 0 {
            let chunk = tokio::time::timeout(CHUNK, chunks.message()).await;
            let chunk = chunk
                .map_err(|_| "nothing came for 30 s".to_owned())?
                .map_err(told)?;
            let data = chunk.ok_or("it ends too early")?.data;
            left = left
                .checked_sub(data.len() as u64)
                .ok_or("it is longer than was recorded")?;
            file.write_all(&data).await.map_err(broken)?;
        }
        file.flush().await.map_err(broken)
    }

    /// Asked to stop.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }
}

/// What an attempt logged and the daemon does not have yet.
#[derive(Default)]
pub(crate) struct Unsent {
    /// How much came before it.
    pub(crate) offset: u64,
    pub(crate) text: Vec<u8>,
}

/// The most of it, in bytes. The least of it that is kept when more comes is half of that.
const UNSENT: usize = 256 << 10;

impl Unsent {
    fn add(&mut self, text: &[u8]) {
        self.text.extend_from_slice(text);
        if self.text.len() > UNSENT {
            self.sent(self.offset + (self.text.len() - UNSENT / 2) as u64);
        }
    }

    /// Everything before this place need not be kept.
    pub(crate) fn sent(&mut self, until: u64) {
        let gone = usize::try_from(until.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let gone = gone.min(self.text.len());
        self.text.drain(..gone);
        self.offset += gone as u64;
    }
}

struct Running {
    attempt: v1::Attempt,
    cancel: CancellationToken,
    /// Nobody wants its end.
    superseded: bool,
}

/// Attempts that this process has, and what is to be told about them.
pub(crate) struct Table {
    inner: Mutex<Inner>,
    /// Something is to be reported.
    pub(crate) news: tokio::sync::Notify,
    /// An attempt ended.
    pub(crate) ended: tokio::sync::Notify,
}

pub(crate) struct Inner {
    running: BTreeMap<Which, Running>,
    pub(crate) progress: BTreeMap<Which, v1::Progress>,
    pub(crate) logs: BTreeMap<Which, Unsent>,
    pub(crate) outbox: Outbox,
    /// The way to the daemon, while there is one.
    pub(crate) contact: Option<(Client, String)>,
}

impl Table {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self {
            inner: Mutex::new(Inner {
                running: BTreeMap::new(),
                progress: BTreeMap::new(),
                logs: BTreeMap::new(),
                outbox,
                contact: None,
            }),
            news: tokio::sync::Notify::new(),
            ended: tokio::sync::Notify::new(),
        }
    }

    pub(crate) fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that a registration lists: what runs and counts, and ends that are not acknowledged.
    pub(crate) fn listed(&self) -> Vec<v1::Attempt> {
        let inner = self.locked();
        let running = inner.running.values().filter(|one| !one.superseded);
        let running = running.map(|one| one.attempt.clone());
        let ended = inner.outbox.all().filter_map(|item| item.attempt.clone());
        running.chain(ended).collect()
    }

    /// What the daemon is to be told next: how far attempts are, what they logged, and then ends.
    pub(crate) fn unreported(&self) -> Vec<v1::Item> {
        let mut inner = self.locked();
        let told = |which: &Which, news| {
            let (run, step, visit, attempt) = which.clone();
            let attempt = v1::Attempt {
                run,
                step,
                visit,
                attempt,
                token: String::new(),
            };
            v1::Item {
                attempt: Some(attempt),
                news: Some(news),
            }
        };
        let progress = std::mem::take(&mut inner.progress);
        let progress = progress.into_iter();
        let progress = progress.map(|(which, progress)| told(&which, v1::item::News::Progress(progress)));
        let logs = inner.logs.iter().filter(|(_, unsent)| !unsent.text.is_empty());
        let logs = logs.map(|(which, Unsent { offset, text })| {
            let log = v1::Log {
                offset: *offset,
                text: text.clone().into(),
            };
            told(which, v1::item::News::Log(log))
        });
        let logs: Vec<_> = logs.take(TOGETHER).collect();
        // The daemon takes no more of what has ended: an end waits for the log before it.
        let ends = inner.outbox.all().filter(|item| {
            let unsent = item
                .attempt
                .as_ref()
                .and_then(|attempt| inner.logs.get(&which(attempt)));
            logs.len() < TOGETHER || unsent.is_none_or(|unsent| unsent.text.is_empty())
        });
        let ends: Vec<_> = ends.take(TOGETHER).cloned().collect();
        progress.chain(logs).chain(ends).collect()
    }

    /// The daemon has this much of a log.
    pub(crate) fn logged(&self, attempt: &v1::Attempt, log: &v1::Log) {
        let mut inner = self.locked();
        let key = which(attempt);
        let running = inner.running.contains_key(&key);
        if let Some(unsent) = inner.logs.get_mut(&key) {
            unsent.sent(log.offset + log.text.len() as u64);
            if unsent.text.is_empty() && !running {
                inner.logs.remove(&key);
            }
        }
    }

    /// The work is not wanted: it is stopped, and its end is not reported if nobody waits for that.
    pub(crate) fn stop(&self, attempt: &v1::Attempt, superseded: bool) {
        let mut inner = self.locked();
        let key = which(attempt);
        if superseded {
            inner.progress.remove(&key);
            inner.logs.remove(&key);
            if inner.outbox.contains(&key) {
                inner.outbox.remove(&key);
            }
        }
        if let Some(running) = inner.running.get_mut(&key) {
            running.superseded |= superseded;
            running.cancel.cancel();
        }
        drop(inner);
        self.ended.notify_waiters();
    }

    /// Whether nothing runs and nothing is to be reported.
    pub(crate) fn is_idle(&self) -> bool {
        let inner = self.locked();
        inner.running.is_empty() && inner.outbox.is_empty()
    }

    /// Whether what nobody wants any more still runs for this run: it may write where a new attempt would.
    fn in_the_way(&self, run: &str) -> bool {
        let inner = self.locked();
        let mut running = inner.running.values();
        running.any(|one| one.superseded && one.attempt.run == run)
    }

    /// Starts an attempt, unless it is here already.
    pub(crate) fn start<H: Handler>(self: &Arc<Self>, handler: &Arc<H>, job: Job) {
        let cancel = CancellationToken::new();
        let key = which(&job.attempt);
        {
            let mut inner = self.locked();
            if inner.running.contains_key(&key) || inner.outbox.contains(&key) {
                return;
            }
            let running = Running {
                attempt: job.attempt.clone(),
                cancel: cancel.clone(),
                superseded: false,
            };
            inner.running.insert(key.clone(), running);
        }
        let v1::Attempt {
            run, step, attempt, ..
        } = &job.attempt;
        tracing::info!(run, step, attempt, stage = job.stage, "an attempt begins");
        let (table, handler) = (self.clone(), handler.clone());
        drop(tokio::spawn(async move {
            while table.in_the_way(&job.attempt.run) && !cancel.is_cancelled() {
                let ended = table.ended.notified();
                if table.in_the_way(&job.attempt.run) {
                    ended.await;
                }
            }
            let attempt = job.attempt.clone();
            let cx = Context {
                attempt: attempt.clone(),
                cancel: cancel.clone(),
                table: Some(table.clone()),
            };
            let end = if cancel.is_cancelled() {
                End::Lost("stopped before it began".to_owned())
            } else {
                // A task of its own, so that a panic ends there.
                match tokio::spawn(async move { handler.run(job, cx).await }).await {
                    Ok(end) => end,
                    Err(error) => End::Failed(Failure {
                        class: "permanent",
                        code: "panicked".to_owned(),
                        message: format!("the executor's code panicked: {error}; this is a bug of it"),
                    }),
                }
            };
            if let Err(error) = table.end(attempt, end) {
                tracing::error!(%error, "a result cannot be kept; it is lost if this process ends now");
            }
        }));
    }

    fn end(&self, attempt: v1::Attempt, end: End) -> Result<(), OutboxError> {
        let key = which(&attempt);
        let news = match end {
            End::Done(output) => v1::item::News::Output(output.into()),
            End::Park(wake) => v1::item::News::Park(wake.into()),
            End::Failed(Failure { class, code, message }) => v1::item::News::Failure(v1::Failure {
                class: class.to_owned(),
                code,
                message,
            }),
            End::Lost(why) => v1::item::News::Lost(why),
        };
        let item = v1::Item {
            attempt: Some(attempt),
            news: Some(news),
        };
        let mut inner = self.locked();
        inner.progress.remove(&key);
        let running = inner.running.remove(&key);
        let kept = match running {
            Some(Running { superseded: true, .. }) | None => {
                inner.logs.remove(&key);
                Ok(())
            }
            Some(_) => inner.outbox.put(item),
        };
        drop(inner);
        self.ended.notify_waiters();
        self.news.notify_one();
        kept
    }
}
