//! The life of an executor: register, take orders, report, give signs of life, and again after every loss of contact.
//! What runs goes on meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::attempts::{Handler, Job, Table};
use crate::connection::{Client, Connection};
use crate::outbox::{Outbox, OutboxError, which};
use crate::{CONTRACT, v1};

/// What an executor offers.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// The name of the machine; it stays the same over restarts.
    pub worker: String,
    /// The program and its version, for people.
    pub program: String,
    /// What attempts on the machine may hold together.
    pub capacity: v1::Resources,
    /// The executors on it.
    pub offers: Vec<v1::Offer>,
    /// Stores that it reaches, by the daemon's names.
    pub stores: Vec<String>,
    /// Words for people.
    pub labels: std::collections::HashMap<String, String>,
    /// Where results are kept until the daemon has them; nothing: in memory only.
    pub outbox: Option<PathBuf>,
}

/// Why an executor ended, or why it has no contact.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it was told about itself or the daemon is wrong; waiting does not help.
    #[error("{0}")]
    Config(String),
    /// The daemon refuses it; waiting does not help.
    #[error("the daemon refuses this executor: {0}")]
    Refused(String),
    /// No contact.
    #[error("the daemon cannot be reached: {0}")]
    Unreachable(String),
    /// Results cannot be kept.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let text = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => {
                Self::Refused(text)
            }
            _ => Self::Unreachable(text),
        }
    }
}

/// The shortest and the longest wait before the daemon is tried again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Works for the daemon until `shutdown`, a goodbye of the daemon, or a refusal. On `shutdown` what runs is stopped, and
/// its attempts are done again elsewhere; to lose nothing, drain the worker first (`sealflow worker drain`).
///
/// # Errors
/// The daemon refuses this executor, or results cannot be kept.
pub async fn run<H: Handler>(
    connection: Connection,
    profile: Profile,
    handler: Arc<H>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let outbox = Outbox::open(profile.outbox.as_deref())?;
    let incarnation: [u8; 16] = rand::random();
    let session = Session {
        connection,
        profile,
        handler,
        table: Arc::new(Table::new(outbox)),
        incarnation: hex::encode(incarnation),
        shutdown,
    };
    let mut wait = BACK_OFF.0;
    loop {
        let begun = tokio::time::Instant::now();
        let ended = tokio::select! {
            () = session.shutdown.cancelled() => return Ok(()),
            ended = session.once() => ended,
        };
        match ended {
            Ok(()) => return Ok(()),
            Err(Error::Unreachable(why)) => tracing::warn!(why, "no contact; what runs goes on"),
            Err(error) => return Err(error),
        }
        if begun.elapsed() > BACK_OFF.1 {
            wait = BACK_OFF.0;
        }
        let jitter = rand::thread_rng().gen_range(0.5..1.5);
        tokio::select! {
            () = session.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait.mul_f64(jitter)) => {}
        }
        wait = (wait * 2).min(BACK_OFF.1);
    }
}

struct Session<H> {
    connection: Connection,
    profile: Profile,
    handler: Arc<H>,
    table: Arc<Table>,
    incarnation: String,
    shutdown: CancellationToken,
}

impl<H: Handler> Session<H> {
    /// One contact, from the registration to its loss. `Ok` after a goodbye.
    async fn once(&self) -> Result<(), Error> {
        let mut client = self.connection.open().await?;
        let registered = client.register(self.registration()).await?.into_inner();
        tracing::info!(worker = self.profile.worker, "registered");
        for attempt in &registered.superseded {
            self.table.stop(attempt, true);
        }
        let session = registered.session;
        let lost = CancellationToken::new();
        let _stop = lost.clone().drop_guard();
        let lease = Duration::from_millis(registered.lease_ms.max(300));
        beat(&self.connection, &session, lease / 4, lost.clone())?;
        let request = v1::AttendRequest {
            session: session.clone(),
        };
        let mut orders = client.attend(request).await?.into_inner();
        self.table.locked().contact = Some((client.clone(), session.clone()));
        let (mut reporter, table) = (client.clone(), self.table.clone());
        // Whatever is kept is reported first.
        self.table.news.notify_one();
        let reports = report(&mut reporter, &session, &table);
        tokio::pin!(reports);
        let mut draining = false;
        loop {
            if draining && self.table.is_idle() {
                let session = session.clone();
                client.leave(v1::LeaveRequest { session }).await?;
                return Ok(());
            }
            let ended = self.table.ended.notified();
            tokio::select! {
                order = orders.message() => match order? {
                    Some(v1::Order { what: Some(what) }) => draining |= self.obey(what),
                    Some(_) => tracing::warn!("an order that this version does not know"),
                    None => return Err(Error::Unreachable("the daemon closed the connection".to_owned())),
                },
                error = &mut reports => return Err(error),
                () = lost.cancelled() => return Err(Error::Unreachable("signs of life are not answered".to_owned())),
                () = ended, if draining => {}
                () = tokio::time::sleep(Duration::from_millis(200)), if draining => {}
            }
        }
    }

    fn registration(&self) -> v1::RegisterRequest {
        let profile = self.profile.clone();
        v1::RegisterRequest {
            contract: CONTRACT,
            worker: profile.worker,
            program: profile.program,
            capacity: Some(profile.capacity),
            offers: profile.offers,
            stores: profile.stores,
            attempts: self.table.listed(),
            labels: profile.labels,
            incarnation: self.incarnation.clone(),
        }
    }

    /// Says whether the daemon wants us to end.
    fn obey(&self, what: v1::order::What) -> bool {
        match what {
            v1::order::What::Start(start) => {
                let v1::Start {
                    attempt: Some(attempt),
                    executor,
                    subject,
                    stage,
                    version,
                    many,
                    input,
                    held,
                } = start
                else {
                    tracing::warn!("an order to start nothing");
                    return false;
                };
                let held = held.unwrap_or_default();
                let job = Job {
                    attempt,
                    executor,
                    subject,
                    stage,
                    version,
                    many,
                    input,
                    held,
                };
                self.table.start(&self.handler, job);
                false
            }
            v1::order::What::Stop(v1::Stop { attempt, superseded }) => {
                if let Some(attempt) = attempt {
                    self.table.stop(&attempt, superseded);
                }
                false
            }
            v1::order::What::Send(order) => {
                let contact = self.table.locked().contact.clone();
                if let (Some((client, session)), Some(artifact)) = (contact, order.artifact) {
                    let path = self.handler.open(&artifact);
                    drop(tokio::spawn(send(
                        client,
                        session,
                        order.transfer,
                        path,
                        order.from,
                    )));
                }
                false
            }
            v1::order::What::Drain(_) => true,
        }
    }
}

/// Sends a file that another machine waits for, or says why not.
async fn send(
    mut client: Client,
    session: String,
    transfer: String,
    path: Result<PathBuf, String>,
    from: u64,
) {
    let (to, chunks) = tokio::sync::mpsc::channel(4);
    let chunk = move |data: Vec<u8>, error: String| v1::SendChunk {
        session: session.clone(),
        transfer: transfer.clone(),
        data: data.into(),
        error,
    };
    let read = async move {
        let open = async |path: PathBuf| {
            let mut file = tokio::fs::File::open(&path).await?;
            file.seek(std::io::SeekFrom::Start(from)).await?;
            Ok(file)
        };
        let mut file = match path {
            Ok(path) => open(path)
                .await
                .map_err(|error: std::io::Error| error.to_string()),
            Err(why) => Err(why),
        };
        loop {
            let mut data = vec![0; 256 << 10];
            let read = match &mut file {
                Ok(file) => file.read(&mut data).await.map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            let (message, last) = match read {
                Ok(0) => return,
                Ok(read) => {
                    data.truncate(read);
                    (chunk(data, String::new()), false)
                }
                Err(why) => (chunk(Vec::new(), why), true),
            };
            if to.send(message).await.is_err() || last {
                return;
            }
        }
    };
    let sent = client.send(tokio_stream::wrappers::ReceiverStream::new(chunks));
    let ((), sent) = tokio::join!(read, sent);
    if let Err(status) = sent {
        tracing::warn!(why = status.message(), "a file that another machine takes");
    }
}

/// Reports whatever there is, and again when there is more. Comes to an end only when contact is lost.
async fn report(client: &mut Client, session: &str, table: &Table) -> Error {
    loop {
        let items = table.unreported();
        if items.is_empty() {
            table.news.notified().await;
            continue;
        }
        let request = v1::ReportRequest {
            session: session.to_owned(),
            items: items.clone(),
        };
        let verdicts = match client.report(request).await {
            Ok(answer) => answer.into_inner().verdicts,
            Err(status) => return status.into(),
        };
        for (item, verdict) in items.iter().zip(verdicts) {
            let Some(attempt) = &item.attempt else { continue };
            let superseded = verdict == v1::Verdict::Superseded as i32;
            match &item.news {
                Some(v1::item::News::Progress(_)) if superseded => table.stop(attempt, true),
                Some(v1::item::News::Progress(_)) => {}
                Some(v1::item::News::Log(log)) => table.logged(attempt, log),
                _ => table.locked().outbox.remove(&which(attempt)),
            }
        }
        table.ended.notify_waiters();
    }
}

/// Gives signs of life from a thread with a connection of its own, so that no computation starves it. Cancels `lost`
/// when they are not answered; ends when `lost` is cancelled.
fn beat(
    connection: &Connection,
    session: &str,
    every: Duration,
    lost: CancellationToken,
) -> Result<(), Error> {
    let (connection, session) = (connection.clone(), session.to_owned());
    let beats = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else {
            return lost.cancel();
        };
        let beats = async {
            let mut client = connection.open().await?;
            loop {
                let request = v1::BeatRequest {
                    session: session.clone(),
                };
                let answer = client.beat(request);
                match tokio::time::timeout(every * 3, answer).await {
                    Ok(answer) => drop(answer?),
                    Err(_) => return Err(Error::Unreachable("no answer".to_owned())),
                }
                tokio::time::sleep(every).await;
            }
        };
        let ended: Option<Result<std::convert::Infallible, Error>> = runtime.block_on(async {
            tokio::select! {
                ended = beats => Some(ended),
                () = lost.cancelled() => None,
            }
        });
        if let Some(Err(error)) = ended {
            tracing::warn!(%error, "signs of life");
        }
        lost.cancel();
    };
    let thread = std::thread::Builder::new().name("beat".to_owned()).spawn(beats);
    thread
        .map(drop)
        .map_err(|error| Error::Config(format!("cannot start a thread: {error}")))
}
