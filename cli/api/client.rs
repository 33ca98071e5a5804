//! The commands' side of the API, and where they read when no daemon runs: from the store itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use sealflow_engine::id::{RunId, Subject};
use sealflow_engine::journal::{Journal as _, RunFilter};
use sealflow_engine::run::RunStatus;
use sealflow_engine::workflow::GraphData;
use sealflow_storage::journal::{ArchivedRow, DirectoryLock, SurrealJournal};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    ArtifactView, ByRequest, Events, ExecutorDetail, Health, HoldView, LogPiece, LogView, MessageView,
    MessagerView, MigrateRequest, MigrationView, Problem, PushRequest, RepairRequest, StartRequest, Started,
    TriggerRequest, TriggerView, VerbRequest, WalletRequest, WalletView, WorkerView,
};
use crate::archived::holder;
use crate::environment::Context;
use crate::exit::{CliError, Kind, not_found};
use crate::home::Listening;
use crate::timeline::{self, TimelineView};
use crate::view::{self, EntryView, ExplainView, RunDetail, RunSummary};
use crate::wire;

/// How long a daemon may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// How long it may take to say that it is there: the machine may be busy with a proof.
const HELLO: Duration = Duration::from_secs(20);
/// How long it may take to answer anything else. A request that waits for something sets its own limit.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a backup or a stream may take.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
/// How long one that holds the home but does not listen is looked for: it starts or ends just now.
const SETTLING: Duration = Duration::from_secs(3);

/// A connection to the daemon of a home. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    /// Finds the daemon of the home; nothing if none runs. That is told by the lock on the home, which
    /// ends with its holder: the file alone may name a port that is somebody else's by now.
    ///
    /// # Errors
    /// A process holds the home but does not answer.
    pub(crate) async fn find(cx: &Context) -> anyhow::Result<Option<Self>> {
        let begun = Instant::now();
        loop {
            let Some(holder) = DirectoryLock::holder(cx.home.root())? else {
                return Ok(None);
            };
            let said = cx.home.listening().filter(|said| said.pid.to_string() == holder);
            let why = match said {
                Some(Listening { url, standby, .. }) => {
                    let client = Self::new(url.clone(), cx.home.token()?)?;
                    match client.hello().await {
                        Ok(()) => return Ok(Some(client)),
                        Err(error) if error.is::<CliError>() => return Err(error),
                        Err(error) if standby => {
                            let term = humantime::format_duration(cx.config.journal.takeover.0);
                            format!(
                                "it stands by for the daemon at {url}, which does not answer ({error:#}); it takes over \
                                 when that one was not heard for {term}"
                            )
                        }
                        Err(error) => format!("{error:#}"),
                    }
                }
                None => "it does not listen (a `demo`, or a daemon that starts or ends)".to_owned(),
            };
            if begun.elapsed() > SETTLING {
                let home = cx.home.root().display();
                let text = format!("process {holder} has {home} open, but cannot be asked: {why}");
                let hint = "wait until it has ended, or stop it, and try again";
                return Err(CliError::new(Kind::InUse, text).hint(hint).into());
            }
            tokio::time::sleep(wire::PATIENCE).await;
        }
    }

    fn new(url: String, token: String) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .read_timeout(ANSWER)
            .build()?;
        Ok(Self { http, url, token })
    }

    async fn hello(&self) -> anyhow::Result<()> {
        let answer = self.call::<(), Health>(Method::GET, "/api/v1/health", None);
        tokio::time::timeout(HELLO, answer)
            .await
            .with_context(|| format!("the daemon at {} does not answer", self.url))?
            .map(drop)
    }

    /// The daemon of the home.
    ///
    /// # Errors
    /// Exit code 5, and the command that starts one.
    pub(crate) async fn need(cx: &Context) -> anyhow::Result<Self> {
        match Self::find(cx).await? {
            Some(client) => Ok(client),
            None => {
                let text = format!("no daemon runs on {}", cx.home.root().display());
                let hint = format!("start one: sealflow --home {} daemon", cx.home.root().display());
                Err(CliError::new(Kind::NoDaemon, text).hint(hint).into())
            }
        }
    }

    async fn call<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> anyhow::Result<T> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        Ok(self.answer(request).await?.json().await?)
    }

    /// The answer to a request, unless it is a refusal.
    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let response = request
            .send()
            .await
            .with_context(|| format!("the daemon at {} does not answer", self.url))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Problem = response.json().await.unwrap_or_else(|_| Problem {
            code: "internal".to_owned(),
            message: format!("the daemon answers {status}"),
        });
        let kind = match (status, problem.code.as_str()) {
            (StatusCode::NOT_FOUND, _) => Kind::NotFound,
            (_, "bad_workflow") => Kind::Config,
            (StatusCode::BAD_REQUEST, _) => Kind::Usage,
            _ => Kind::Failed,
        };
        Err(CliError::new(kind, problem.message).into())
    }

    /// Writes the daemon's backup, as it comes.
    pub(crate) async fn backup(&self, to: &mut (impl std::io::Write + Send)) -> anyhow::Result<()> {
        let request = self
            .http
            .get(format!("{}/api/v1/backup", self.url))
            .bearer_auth(&self.token)
            // As long as it takes; a daemon that says nothing any more is noticed by `read_timeout`.
            .timeout(LONGEST);
        let mut response = self.answer(request).await?;
        while let Some(piece) = response
            .chunk()
            .await
            .context("the daemon stopped in the middle")?
        {
            to.write_all(&piece).context("cannot write the backup")?;
        }
        Ok(())
    }

    /// Follows a stream of events behind the one that was seen last.
    pub(crate) async fn events(&self, path: &str, since: Option<&str>) -> anyhow::Result<Events> {
        let mut request = self
            .http
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.token);
        if let Some(since) = since {
            request = request.header("Last-Event-ID", since);
        }
        // A stream has no end; the daemon says every few seconds that it is there.
        Ok(Events::new(self.answer(request.timeout(LONGEST)).await?))
    }

    pub(crate) async fn start(&self, request: &StartRequest) -> anyhow::Result<Started> {
        self.call(Method::POST, "/api/v1/runs", Some(request)).await
    }

    pub(crate) async fn explain(&self, run: &RunId) -> anyhow::Result<ExplainView> {
        self.call::<(), _>(Method::GET, &format!("/api/v1/runs/{run}/explain"), None)
            .await
    }

    pub(crate) async fn workers(&self) -> anyhow::Result<Vec<WorkerView>> {
        self.call::<(), _>(Method::GET, "/api/v1/workers", None).await
    }

    pub(crate) async fn end_worker(&self, worker: &str) -> anyhow::Result<()> {
        let path = format!("/api/v1/workers/{worker}/end");
        self.call::<(), _>(Method::POST, &path, None).await
    }

    pub(crate) async fn messages(&self, limit: u32) -> anyhow::Result<MessagerView> {
        let path = format!("/api/v1/messages?limit={limit}");
        self.call::<(), _>(Method::GET, &path, None).await
    }

    pub(crate) async fn message(&self, key: &str) -> anyhow::Result<MessageView> {
        let key: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
        self.call::<(), _>(Method::GET, &format!("/api/v1/message?key={key}"), None)
            .await
    }

    pub(crate) async fn push_message(&self, push: &PushRequest) -> anyhow::Result<MessageView> {
        self.call(Method::POST, "/api/v1/messages", Some(push)).await
    }

    pub(crate) async fn repair_message(&self, verb: &str, of: &str, why: &str) -> anyhow::Result<()> {
        let body = RepairRequest {
            of: of.to_owned(),
            why: why.to_owned(),
        };
        self.call(Method::POST, &format!("/api/v1/messages/{verb}"), Some(&body))
            .await
    }

    pub(crate) async fn operate_wallet(
        &self,
        verb: &str,
        body: &WalletRequest,
    ) -> anyhow::Result<WalletView> {
        self.call(Method::POST, &format!("/api/v1/wallet/{verb}"), Some(body))
            .await
    }

    pub(crate) async fn step_logs(&self, run: &RunId, step: &str) -> anyhow::Result<Vec<LogView>> {
        let path = format!("/api/v1/runs/{run}/steps/{step}/logs");
        self.call::<(), _>(Method::GET, &path, None).await
    }

    /// A piece of the log at this path.
    pub(crate) async fn log_piece(&self, path: &str, from: u64) -> anyhow::Result<LogPiece> {
        self.call::<(), _>(Method::GET, &format!("{path}?from={from}"), None)
            .await
    }

    pub(crate) async fn executors(&self) -> anyhow::Result<Vec<ExecutorDetail>> {
        self.call::<(), _>(Method::GET, "/api/v1/executors", None).await
    }

    pub(crate) async fn triggers(&self) -> anyhow::Result<Vec<TriggerView>> {
        self.call::<(), _>(Method::GET, "/api/v1/triggers", None).await
    }

    /// Switches the triggers of a workflow on or off.
    pub(crate) async fn trigger(
        &self,
        workflow: &str,
        on: bool,
        request: &TriggerRequest,
    ) -> anyhow::Result<()> {
        let method = if on { Method::PUT } else { Method::DELETE };
        self.call(method, &format!("/api/v1/triggers/{workflow}"), Some(request))
            .await
    }

    pub(crate) async fn holds(&self) -> anyhow::Result<Vec<HoldView>> {
        self.call::<(), _>(Method::GET, "/api/v1/holds", None).await
    }

    /// Holds something back, or releases it.
    pub(crate) async fn hold(
        &self,
        kind: &str,
        name: &str,
        hold: bool,
        by: &ByRequest,
    ) -> anyhow::Result<()> {
        let method = if hold { Method::PUT } else { Method::DELETE };
        let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        self.call(method, &format!("/api/v1/holds/{kind}/{name}"), Some(by))
            .await
    }

    /// Moves a run to another workflow, or says what that would do.
    pub(crate) async fn migrate(
        &self,
        run: &RunId,
        request: &MigrateRequest,
    ) -> anyhow::Result<MigrationView> {
        let path = format!("/api/v1/migrations/{run}");
        self.call(Method::POST, &path, Some(request)).await
    }

    pub(crate) async fn verb(
        &self,
        run: &RunId,
        verb: &str,
        request: &VerbRequest,
    ) -> anyhow::Result<Started> {
        self.call(Method::POST, &format!("/api/v1/runs/{run}/{verb}"), Some(request))
            .await
    }
}

/// Where reading commands read.
pub(crate) enum Source {
    /// The daemon.
    Daemon(Client),
    /// The store, because no daemon runs.
    Store(Arc<SurrealJournal>),
}

impl Source {
    /// The daemon of the home if one runs, else its store.
    pub(crate) async fn open(cx: &Context) -> anyhow::Result<Self> {
        if let Some(client) = Client::find(cx).await? {
            return Ok(Self::Daemon(client));
        }
        if cx.config.journal.url.is_none() && !cx.home.journal().exists() {
            let text = format!("there is no sealflow data in {}", cx.home.root().display());
            let error = CliError::new(Kind::NotFound, text);
            return Err(error
                .hint("name the data directory with --home, or make one with `sealflow init`")
                .into());
        }
        let journal = wire::journal(cx, false).await?;
        crate::output::note("no daemon runs; this is how things stood when it ended");
        Ok(Self::Store(journal))
    }

    /// Lets go of what was opened.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        if let Self::Store(journal) = self {
            journal.close().await?;
        }
        Ok(())
    }

    /// Runs of the journal, or archived ones.
    pub(crate) async fn runs(&self, filter: &RunFilter, archived: bool) -> anyhow::Result<Vec<RunSummary>> {
        match self {
            Self::Store(journal) if archived => {
                let found = journal.archived_runs(filter).await?;
                let summary = |found: &ArchivedRow| view::archived(view::summary(&found.row));
                Ok(found.iter().map(summary).collect())
            }
            Self::Store(journal) => Ok(view::list(&**journal, filter).await?),
            Self::Daemon(client) => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                let value = serde_json::to_value(filter)?;
                for (name, value) in value.as_object().into_iter().flatten() {
                    match value {
                        serde_json::Value::String(text) => query.append_pair(name, text),
                        other => query.append_pair(name, &other.to_string()),
                    };
                }
                if archived {
                    query.append_pair("archived", "true");
                }
                client
                    .call::<(), _>(Method::GET, &format!("/api/v1/runs?{}", query.finish()), None)
                    .await
            }
        }
    }

    /// The artifacts that a subject owns.
    pub(crate) async fn artifacts(&self, subject: &Subject) -> anyhow::Result<Vec<ArtifactView>> {
        match self {
            Self::Store(journal) => {
                let rows = journal.artifacts(subject).await?;
                Ok(rows.into_iter().map(super::artifacts::view).collect())
            }
            Self::Daemon(client) => {
                let subject: String =
                    url::form_urlencoded::byte_serialize(subject.as_str().as_bytes()).collect();
                let path = format!("/api/v1/artifacts?subject={subject}");
                client.call::<(), _>(Method::GET, &path, None).await
            }
        }
    }

    /// Runs that have not ended.
    pub(crate) async fn open_runs(&self) -> anyhow::Result<Vec<RunSummary>> {
        let mut open = Vec::new();
        for status in [RunStatus::Running, RunStatus::Paused, RunStatus::Cancelling] {
            let filter = RunFilter {
                status: Some(status),
                ..RunFilter::default()
            };
            open.extend(self.runs(&filter, false).await?);
        }
        Ok(open)
    }

    pub(crate) async fn run(&self, run: &RunId) -> anyhow::Result<RunDetail> {
        match self {
            Self::Store(journal) => {
                let none = || not_found(format!("there is no run {run}"));
                let (journal, archived) = holder(journal, run).await?.ok_or_else(none)?;
                let mut detail = view::detail(&*journal, run, None).await?.ok_or_else(none)?;
                detail.summary.archived = archived;
                Ok(detail)
            }
            Self::Daemon(client) => {
                client
                    .call::<(), _>(Method::GET, &format!("/api/v1/runs/{run}"), None)
                    .await
            }
        }
    }

    /// When each step of a run stood how.
    pub(crate) async fn timeline(&self, run: &RunId) -> anyhow::Result<TimelineView> {
        match self {
            Self::Store(journal) => {
                let none = || not_found(format!("there is no run {run}"));
                let (journal, _) = holder(journal, run).await?.ok_or_else(none)?;
                timeline::view(&*journal, run).await?.ok_or_else(none)
            }
            Self::Daemon(client) => {
                let path = format!("/api/v1/runs/{run}/timeline");
                client.call::<(), _>(Method::GET, &path, None).await
            }
        }
    }

    /// The graph that a run keeps.
    pub(crate) async fn graph(&self, run: &RunId) -> anyhow::Result<GraphData> {
        match self {
            Self::Store(journal) => {
                let none = || not_found(format!("there is no run {run}"));
                let (journal, _) = holder(journal, run).await?.ok_or_else(none)?;
                let row = journal.run(run).await?.ok_or_else(none)?;
                Ok(view::graph(&*journal, &row).await?.data)
            }
            Self::Daemon(client) => {
                let path = format!("/api/v1/runs/{run}/graph");
                client.call::<(), _>(Method::GET, &path, None).await
            }
        }
    }

    /// At most 1000 entries of a run's journal from number `from` on.
    pub(crate) async fn entries(&self, run: &RunId, from: u64) -> anyhow::Result<Vec<EntryView>> {
        match self {
            Self::Store(journal) => {
                let none = || not_found(format!("there is no run {run}"));
                let (journal, _) = holder(journal, run).await?.ok_or_else(none)?;
                Ok(journal
                    .entries(run, from, 1000)
                    .await?
                    .iter()
                    .map(view::entry)
                    .collect())
            }
            Self::Daemon(client) => {
                let path = format!("/api/v1/runs/{run}/journal?from={from}&limit=1000");
                client.call::<(), _>(Method::GET, &path, None).await
            }
        }
    }
}
