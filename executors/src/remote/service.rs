//! The service that executors on other machines call. Whoever calls has been let in ([`Access`]) under the name of one
//! machine, and sees nothing of others.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sealflow_engine::artifact::{Artifact, SCRATCH, Stores};
use sealflow_engine::dispatcher::{Handle, RequestError};
use sealflow_engine::executor::{Executor, News, Report, SUSPECT_AFTER_MS};
use sealflow_engine::failure::Failure;
use sealflow_executor::v1::executors_server::{Executors, ExecutorsServer};
use sealflow_executor::{CONTRACT, MAX_MESSAGE, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::link::{Link, QUEUE, RemoteExecutor};
use super::{DAEMON_SCRATCH, LOGS, convert};
use crate::inputs::{Fetch, Fetching};

/// Who may call.
pub trait Access: Send + Sync + 'static {
    /// Lets a caller in, or says why not. It has shown a token, or certificates (DER, its own first).
    ///
    /// # Errors
    /// Why it is refused, in words that do not repeat a secret.
    fn admit(&self, token: Option<&str>, certificates: &[Vec<u8>]) -> Result<Caller, String>;
}

/// A caller that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The machine that it may speak for; nothing: any.
    pub worker: Option<String>,
}

/// The service.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    handle: Handle,
    access: Arc<dyn Access>,
    stores: Stores,
    logs: PathBuf,
    links: Mutex<Links>,
}

#[derive(Default)]
struct Links {
    machines: BTreeMap<String, Arc<Link>>,
    sessions: HashMap<String, String>,
    transfers: HashMap<String, Transfer>,
}

/// Bytes that a machine was asked for.
struct Transfer {
    from: String,
    to: mpsc::Sender<Result<v1::Chunk, Status>>,
}

type Chunks = mpsc::Receiver<Result<v1::Chunk, Status>>;

/// Chunks on their way: each at most 256 KiB of ours, or a message of a machine.
const CHUNKS: usize = 8;

/// The most bytes of a log that a machine sends.
const LOG_LIMIT: usize = 16 << 20;

/// The most attempts that a machine may list.
const LISTED: usize = 100_000;

fn stopped(error: RequestError) -> Status {
    Status::unavailable(error.to_string())
}

/// Connections of executors, whose small messages are not held back: an order must not wait for the next one. (What
/// tonic's builder sets for this does not reach sockets that are accepted elsewhere.)
pub fn connections(listener: tokio::net::TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

impl Service {
    /// A service for the executors of this engine; what their attempts say is kept in the folder of logs.
    pub fn new(handle: Handle, access: Arc<dyn Access>, stores: Stores, logs: PathBuf) -> Self {
        let links = Mutex::default();
        Self(Arc::new(Inner {
            handle,
            access,
            stores,
            logs,
            links,
        }))
    }

    /// The bytes of an artifact in somebody's scratch space.
    async fn bytes_of(&self, artifact: &Artifact) -> Result<Chunks, Status> {
        if artifact.store == DAEMON_SCRATCH {
            let (to, chunks) = mpsc::channel(CHUNKS);
            let here = Artifact {
                store: SCRATCH.to_owned(),
                ..artifact.clone()
            };
            let path = self
                .0
                .stores
                .local_path(&here)
                .map_err(|error| Status::not_found(error.to_string()))?;
            drop(tokio::spawn(read(path, to)));
            return Ok(chunks);
        }
        let Some((SCRATCH, machine)) = artifact.store.rsplit_once('@') else {
            return Err(Status::invalid_argument("only what is in scratch space is moved"));
        };
        let asked = v1::Artifact {
            store: SCRATCH.to_owned(),
            ..convert::from_artifact(artifact)
        };
        self.ask(machine, asked, 0)
    }

    /// What programs of a remote executor said, from some byte on.
    ///
    /// # Errors
    /// There is no such executor, its machine is not in contact, or it has no such log.
    pub async fn log_of(&self, executor: &str, machine: &str, from: u64) -> Result<Vec<u8>, String> {
        let asked = v1::Artifact {
            store: LOGS.to_owned(),
            key: format!("executors/{executor}.log"),
            ..v1::Artifact::default()
        };
        let told = |status: Status| status.message().to_owned();
        let mut chunks = self.ask(machine, asked, from).map_err(told)?;
        let mut text = Vec::new();
        loop {
            let chunk = tokio::time::timeout(CHUNK, chunks.recv()).await;
            match chunk.map_err(|_| "nothing came for 30 s".to_owned())? {
                Some(chunk) => text.extend(chunk.map_err(told)?.data),
                None => return Ok(text),
            }
            if text.len() > LOG_LIMIT {
                return Err("it is larger than a log may be".to_owned());
            }
        }
    }

    /// Asks a machine for bytes that it has.
    fn ask(&self, machine: &str, asked: v1::Artifact, first: u64) -> Result<Chunks, Status> {
        let (to, chunks) = mpsc::channel(CHUNKS);
        let transfer = hex::encode(rand::random::<[u8; 16]>());
        let link = {
            let mut links = self.links();
            links.transfers.retain(|_, transfer| !transfer.to.is_closed());
            let from = machine.to_owned();
            links.transfers.insert(transfer.clone(), Transfer { from, to });
            links.machines.get(machine).cloned()
        };
        if link.is_none_or(|link| !link.ask_for(&transfer, asked, first)) {
            self.links().transfers.remove(&transfer);
            return Err(Status::unavailable(format!(
                "worker `{machine}`, where it is, is not connected"
            )));
        }
        Ok(chunks)
    }

    /// The gRPC server of it.
    pub fn server(&self) -> ExecutorsServer<Self> {
        ExecutorsServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Asks a machine to end when nothing runs there any more. Says whether it is known.
    pub fn drain(&self, machine: &str) -> bool {
        let link = self.links().machines.get(machine).cloned();
        link.map(|link| link.drain()).is_some()
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let header = request.metadata().get("authorization");
        let token = header.and_then(|value| value.to_str().ok());
        let token = token.and_then(|text| text.strip_prefix("Bearer "));
        let certificates = request.peer_certs();
        let certificates: Vec<Vec<u8>> = certificates
            .iter()
            .flat_map(|all| all.iter())
            .map(|certificate| certificate.as_ref().to_vec())
            .collect();
        self.0
            .access
            .admit(token, &certificates)
            .map_err(Status::unauthenticated)
    }

    /// The link of a session, which must be the latest of its machine.
    fn link<T>(&self, request: &Request<T>, session: &str) -> Result<Arc<Link>, Status> {
        let caller = self.admit(request)?;
        let links = self.links();
        let machine = links.sessions.get(session);
        let link = machine.and_then(|machine| links.machines.get(machine)).cloned();
        let link =
            link.ok_or_else(|| Status::failed_precondition("this session has ended; register again"))?;
        if caller
            .worker
            .as_ref()
            .is_some_and(|worker| *worker != link.machine)
        {
            return Err(Status::permission_denied("this session is another machine's"));
        }
        Ok(link)
    }

    async fn one(&self, link: &Link, item: v1::Item) -> Result<v1::Verdict, Status> {
        let (key, token) = match item.news {
            Some(v1::item::News::Progress(_) | v1::item::News::Log(_)) => {
                // The token of these need not be told: they count only for what was given.
                let mut attempt = item.attempt.clone().unwrap_or_default();
                if attempt.token.is_empty() {
                    attempt.token = "0".repeat(32);
                }
                convert::key(Some(&attempt))
            }
            _ => convert::key(item.attempt.as_ref()),
        }
        .map_err(Status::invalid_argument)?;
        let news = match item.news {
            Some(v1::item::News::Progress(progress)) => {
                let counts = link.progress(&key, convert::progress(progress));
                return Ok(verdict(counts));
            }
            Some(v1::item::News::Log(log)) => {
                return Ok(verdict(link.log(&key, &log, &self.0.logs)));
            }
            Some(news) => news,
            None => return Err(Status::invalid_argument("a report without news")),
        };
        let work = link.work(&key);
        let (registry, machine) = (self.0.handle.registry(), &link.machine);
        let news = match news {
            v1::item::News::Output(bytes) => {
                let of = match &work {
                    Some((stage, many)) => Some((stage.clone(), *many)),
                    // It had it before our restart: the journal tells what it is of.
                    None => self.work_of(&key).await?,
                };
                News::Ended(match of {
                    Some((stage, many)) => convert::output(&bytes, (&stage, many), registry, machine),
                    None => Err(Failure::permanent("bad_output", "there is no such step")),
                })
            }
            v1::item::News::Park(bytes) => News::Ended(convert::park(&bytes)),
            v1::item::News::Failure(failure) => News::Ended(Err(convert::failure(failure))),
            v1::item::News::Lost(why) => News::Lost(why.chars().take(1000).collect()),
            v1::item::News::Progress(_) | v1::item::News::Log(_) => {
                return Err(Status::internal("this is no end"));
            }
        };
        let report = Report {
            key: key.clone(),
            token,
            news,
        };
        let counts = self.0.handle.report(report).await.map_err(stopped)?;
        link.forget(&[key]);
        Ok(verdict(counts))
    }

    /// The stage of a step of a run, from the journal.
    async fn work_of(
        &self,
        key: &sealflow_engine::id::AttemptKey,
    ) -> Result<Option<(sealflow_engine::id::StageName, bool)>, Status> {
        let Ok((state, _)) = self.0.handle.state_of(&key.run).await else {
            return Ok(None);
        };
        let stage = state.find(&key.step).and_then(|ix| state.spec(ix).stage.clone());
        Ok(stage.map(|stage| (stage.name, stage.many)))
    }
}

/// How long a machine may take to send the next chunk.
const CHUNK: Duration = Duration::from_secs(30);

impl Fetch for Service {
    fn fetch<'a>(&'a self, artifact: &'a Artifact, to: &'a Path) -> Fetching<'a> {
        Box::pin(async move {
            let failed = |why: String| {
                let what = format!("{} in {}: {why}", artifact.key, artifact.store);
                Failure::transient("artifact_unreachable", what)
            };
            let chunks = self.bytes_of(artifact).await;
            let mut chunks = chunks.map_err(|status| failed(status.message().to_owned()))?;
            let mut file = tokio::fs::File::create(to)
                .await
                .map_err(|error| Failure::io("write", to, &error))?;
            let mut left = artifact.bytes;
            while left > 0 {
                let chunk = tokio::time::timeout(CHUNK, chunks.recv()).await;
                let chunk = chunk.map_err(|_| failed("nothing came for 30 s".to_owned()))?;
                let chunk = chunk.ok_or_else(|| failed("it ends too early".to_owned()))?;
                let data = chunk.map_err(|status| failed(status.message().to_owned()))?.data;
                left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| failed("it is longer than was recorded".to_owned()))?;
                let written = file.write_all(&data).await;
                written.map_err(|error| Failure::io("write", to, &error))?;
            }
            file.flush()
                .await
                .map_err(|error| Failure::io("write", to, &error))
        })
    }
}

/// Reads a file of ours in chunks.
async fn read(path: PathBuf, to: mpsc::Sender<Result<v1::Chunk, Status>>) {
    let failed = |error: std::io::Error| Status::unavailable(format!("cannot be read: {error}"));
    let mut file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(error) => return drop(to.send(Err(failed(error))).await),
    };
    loop {
        let mut data = vec![0; 256 << 10];
        let chunk = match file.read(&mut data).await {
            Ok(0) => return,
            Ok(read) => {
                data.truncate(read);
                Ok(v1::Chunk { data: data.into() })
            }
            Err(error) => Err(failed(error)),
        };
        if to.send(chunk).await.is_err() {
            return;
        }
    }
}

fn verdict(counts: bool) -> v1::Verdict {
    if counts {
        v1::Verdict::Accepted
    } else {
        v1::Verdict::Superseded
    }
}

#[tonic::async_trait]
impl Executors for Service {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let caller = self.admit(&request)?;
        let request = request.into_inner();
        if request.contract < CONTRACT {
            let what = format!(
                "contract {} is too old; this daemon speaks {CONTRACT}",
                request.contract
            );
            return Err(Status::invalid_argument(what));
        }
        let offered = convert::offers(&request, self.0.handle.registry());
        let (machine, specs) = offered.map_err(Status::invalid_argument)?;
        if caller
            .worker
            .as_ref()
            .is_some_and(|worker| *worker != machine.name)
        {
            let what = format!("these credentials are not those of worker `{}`", machine.name);
            return Err(Status::permission_denied(what));
        }
        if request.attempts.len() > LISTED {
            return Err(Status::invalid_argument("too many attempts are listed"));
        }
        let mut listed = BTreeMap::new();
        for attempt in &request.attempts {
            let (key, token) = convert::key(Some(attempt)).map_err(Status::invalid_argument)?;
            listed.insert(key, token);
        }
        let session = hex::encode(rand::random::<[u8; 16]>());
        let link = {
            let mut links = self.links();
            let link = links.machines.entry(machine.name.clone());
            let link = link.or_insert_with(|| Arc::new(Link::new(&machine.name))).clone();
            links.sessions.retain(|_, of| *of != machine.name);
            links.sessions.insert(session.clone(), machine.name.clone());
            link
        };
        link.register(&session, &request.incarnation, listed.clone());
        let executor = |spec| {
            let link = link.clone();
            Arc::new(RemoteExecutor { spec, link }) as Arc<dyn Executor>
        };
        let executors = specs.into_iter().map(executor).collect();
        tracing::info!(worker = machine.name, program = request.program, "registered");
        self.0.handle.join(machine, executors).await.map_err(stopped)?;
        // Of what it was given, and of what it has: whatever nobody waits for is worthless.
        let mut all: BTreeMap<_, _> = link.all().into_iter().collect();
        all.extend(listed.clone());
        let all: Vec<_> = all.into_iter().collect();
        let counts = self.0.handle.counts(all.clone()).await.map_err(stopped)?;
        let worthless = all.into_iter().zip(counts).filter(|(_, counts)| !counts);
        let worthless: Vec<_> = worthless.map(|(one, _)| one).collect();
        link.forget(&worthless.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
        let superseded = worthless.iter().filter(|(key, _)| listed.contains_key(key));
        let superseded = superseded
            .map(|(key, token)| convert::attempt(key, token))
            .collect();
        Ok(Response::new(v1::RegisterResponse {
            session,
            lease_ms: SUSPECT_AFTER_MS,
            contract: CONTRACT,
            superseded,
            max_message: MAX_MESSAGE as u64,
        }))
    }

    type AttendStream = ReceiverStream<Result<v1::Order, Status>>;

    async fn attend(
        &self,
        request: Request<v1::AttendRequest>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let link = self.link(&request, &request.get_ref().session)?;
        let (orders, stream) = mpsc::channel(QUEUE);
        link.attend(orders);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn beat(&self, request: Request<v1::BeatRequest>) -> Result<Response<v1::BeatResponse>, Status> {
        let link = self.link(&request, &request.get_ref().session)?;
        self.0.handle.heard(&link.machine).await.map_err(stopped)?;
        Ok(Response::new(v1::BeatResponse {}))
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        const ITEMS: usize = 1024;
        let link = self.link(&request, &request.get_ref().session)?;
        let items = request.into_inner().items;
        if items.len() > ITEMS {
            return Err(Status::invalid_argument(format!(
                "a report has at most {ITEMS} items"
            )));
        }
        // Together, so that they share a commit.
        let verdicts = items.into_iter().map(|item| self.one(&link, item));
        let verdicts = futures::future::try_join_all(verdicts).await?;
        Ok(Response::new(v1::ReportResponse {
            verdicts: verdicts.into_iter().map(|verdict| verdict as i32).collect(),
        }))
    }

    type FetchStream = ReceiverStream<Result<v1::Chunk, Status>>;

    async fn fetch(&self, request: Request<v1::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let link = self.link(&request, &request.get_ref().session)?;
        let request = request.into_inner();
        let (key, token) = convert::key(request.attempt.as_ref()).map_err(Status::invalid_argument)?;
        let artifact = request.artifact.map(convert::to_artifact);
        let artifact = artifact.ok_or_else(|| Status::invalid_argument("it names no artifact"))?;
        if !artifact.is_movable() || !link.takes(&key, &token, &artifact) {
            return Err(Status::permission_denied(
                "that attempt does not take this artifact",
            ));
        }
        let stream = self.bytes_of(&artifact).await?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn send(
        &self,
        request: Request<tonic::Streaming<v1::SendChunk>>,
    ) -> Result<Response<v1::SendResponse>, Status> {
        let caller = self.admit(&request)?;
        let mut stream = request.into_inner();
        let mut to = None;
        while let Some(chunk) = stream.message().await? {
            if to.is_none() {
                let transfer = self.links().transfers.remove(&chunk.transfer);
                let transfer = transfer.ok_or_else(|| Status::not_found("nobody waits for this transfer"))?;
                if caller
                    .worker
                    .as_ref()
                    .is_some_and(|worker| *worker != transfer.from)
                {
                    return Err(Status::permission_denied("this transfer is another machine's"));
                }
                to = Some(transfer.to);
            }
            let Some(to) = &to else { break };
            let passed = if chunk.error.is_empty() {
                Ok(v1::Chunk { data: chunk.data })
            } else {
                Err(Status::unavailable(
                    chunk.error.chars().take(1000).collect::<String>(),
                ))
            };
            // Whoever waited may have gone.
            if to.send(passed).await.is_err() {
                break;
            }
        }
        Ok(Response::new(v1::SendResponse {}))
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveResponse>, Status> {
        let link = self.link(&request, &request.get_ref().session)?;
        self.links().sessions.remove(&request.get_ref().session);
        self.0.handle.leave(&link.machine).await.map_err(stopped)?;
        tracing::info!(worker = link.machine, "said goodbye");
        Ok(Response::new(v1::LeaveResponse {}))
    }
}
