//! The daemon's side of the API. Every request shows the token of the home.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use sealflow_chain::messager::Messager;
use sealflow_chain::wallet::Wallet;
use sealflow_engine::core::{Holding, Refused, Verb};
use sealflow_engine::dispatcher::{Handle, NewRun, RequestError};
use sealflow_engine::event::By;
use sealflow_engine::executor::Executor;
use sealflow_engine::id::{RunId, WorkflowName};
use sealflow_engine::journal::{JournalError, RunFilter};
use sealflow_engine::resource::Resources;
use sealflow_engine::site::{Hold, HoldKind};
use sealflow_engine::trigger::Timetable;
use sealflow_engine::workflow::{Graph, GraphData};
use sealflow_executors::remote::Service;
use sealflow_storage::journal::{ArchiveError, ArchivedRow, SurrealJournal};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Json, Path, Query};
use super::{
    Amounts, BackupView, ByRequest, ExecutorDetail, ExecutorView, Health, HoldView, HoldingView, Problem,
    StartRequest, Started, TriggerRequest, TriggerView, VerbRequest,
};
use super::{events, logs, messages, migrate, wallet, workers};
use crate::archived::holder;
use crate::home::Home;
use crate::numbers::Numbers;
use crate::span::now_ms;
use crate::timeline::{self, TimelineView};
use crate::view::{self, EntryView, ExplainView, RunDetail, RunSummary};
use crate::{backup, builtin};

#[derive(OpenApi)]
#[openapi(info(
    title = "sealflow",
    description = "Durable workflows for Filecoin storage providers."
))]
struct Description;

/// What the API serves.
pub(crate) struct Api {
    pub(crate) handle: Handle,
    /// The same journal as the handle's, for what only this one can: archives and backups.
    pub(crate) journal: Arc<SurrealJournal>,
    /// The executors themselves, for what they say of themselves.
    pub(crate) executors: Vec<Arc<dyn Executor>>,
    pub(crate) token: String,
    pub(crate) home: Home,
    /// Whether backups are scheduled.
    pub(crate) backups: bool,
    /// Ends streams, and then the server.
    pub(crate) stop: CancellationToken,
    /// Room for clients that follow events.
    pub(crate) followers: Arc<Semaphore>,
    /// What workers are connected to, if they can connect.
    pub(crate) workers: Option<Service>,
    /// Who sends messages, if a chain is configured.
    pub(crate) messager: Option<Messager>,
    /// Who signs them.
    pub(crate) wallet: Option<Arc<Wallet>>,
    /// Gives numbers to new sectors.
    pub(crate) numbers: Arc<Numbers>,
}

impl Api {
    /// Room for as many followers as there may be.
    pub(crate) fn followers() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(events::FOLLOWERS))
    }
}

pub(super) type Shared = State<Arc<Api>>;

/// The most bytes of a request: a workflow file and its parameters.
const BODY_LIMIT: usize = 4 << 20;

fn router() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(health))
        .routes(routes!(list_runs, start_run))
        .routes(routes!(show_run))
        .routes(routes!(run_journal))
        .routes(routes!(explain_run))
        .routes(routes!(run_graph))
        .routes(routes!(run_timeline))
        .routes(routes!(run_verb))
        .routes(routes!(migrate::migrate_run))
        .routes(routes!(list_executors))
        .routes(routes!(logs::step_logs))
        .routes(routes!(logs::step_log))
        .routes(routes!(logs::executor_log_piece))
        .routes(routes!(messages::list_messages, messages::push_message))
        .routes(routes!(messages::show_message))
        .routes(routes!(messages::repair_message))
        .routes(routes!(wallet::operate_wallet))
        .routes(routes!(workers::list_workers))
        .routes(routes!(workers::end_worker))
        .routes(routes!(super::artifacts::list_artifacts))
        .routes(routes!(list_holds))
        .routes(routes!(hold, release))
        .routes(routes!(list_triggers))
        .routes(routes!(enable_trigger, disable_trigger))
        .routes(routes!(super::backup::backup))
        .routes(routes!(events::run_events))
        .routes(routes!(events::all_events))
        .routes(routes!(describe))
}

/// The OpenAPI description.
fn openapi() -> utoipa::openapi::OpenApi {
    router().split_for_parts().1
}

/// Serves until `stop` is cancelled.
pub(crate) async fn serve(listener: TcpListener, api: Api) -> std::io::Result<()> {
    let stop = api.stop.clone();
    let api = Arc::new(api);
    let (router, _) = router().split_for_parts();
    let router = router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(api.clone(), authorize))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(api);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn authorize(State(api): Shared, headers: HeaderMap, request: Request, next: Next) -> Response {
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if shown.is_some_and(|shown| bool::from(shown.ct_eq(api.token.as_bytes()))) {
        return next.run(request).await;
    }
    let text = "show the token in the home's file `token` as `Authorization: Bearer …`";
    ApiError(StatusCode::UNAUTHORIZED, "unauthorized", text.to_owned()).into_response()
}

async fn unknown_path() -> ApiError {
    let text = "there is no such path; GET /api/v1/openapi.json describes all";
    ApiError(StatusCode::NOT_FOUND, "not_found", text.to_owned())
}

async fn unknown_method() -> ApiError {
    let text = "this path has no such method; GET /api/v1/openapi.json describes all";
    ApiError(StatusCode::METHOD_NOT_ALLOWED, "bad_request", text.to_owned())
}

/// What every refusal is answered with: a status, and a [`Problem`].
pub(super) struct ApiError(pub(super) StatusCode, pub(super) &'static str, pub(super) String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(status, code, message) = self;
        (
            status,
            Json(Problem {
                code: code.to_owned(),
                message,
            }),
        )
            .into_response()
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::Refused(Refused::NoRun(_)) => Self(StatusCode::NOT_FOUND, "not_found", message),
            RequestError::Refused(Refused::Params(_)) => {
                Self(StatusCode::BAD_REQUEST, "bad_request", message)
            }
            RequestError::Refused(_) => Self(StatusCode::CONFLICT, "refused", message),
            RequestError::Journal(_) => Self(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
            RequestError::Stopped => Self(StatusCode::SERVICE_UNAVAILABLE, "internal", message),
        }
    }
}

impl From<ArchiveError> for ApiError {
    fn from(error: ArchiveError) -> Self {
        let message = error.to_string();
        match error {
            ArchiveError::NoRun(_) => Self(StatusCode::NOT_FOUND, "not_found", message),
            ArchiveError::Open { .. } | ArchiveError::Serves { .. } => {
                Self(StatusCode::CONFLICT, "refused", message)
            }
            _ => Self(StatusCode::INTERNAL_SERVER_ERROR, "internal", message),
        }
    }
}

impl From<JournalError> for ApiError {
    fn from(error: JournalError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
    }
}

pub(super) fn run_id(text: &str) -> Result<RunId, ApiError> {
    text.parse().map_err(|error: sealflow_engine::id::NameError| {
        ApiError(StatusCode::BAD_REQUEST, "bad_request", error.to_string())
    })
}

pub(super) fn no_run(text: &str) -> ApiError {
    ApiError(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is no {text}; `sealflow run list` shows all"),
    )
}

pub(super) fn by(request: ByRequest) -> By {
    let who = if request.who.is_empty() {
        "api".to_owned()
    } else {
        request.who
    };
    By {
        who: who.chars().take(200).collect(),
        why: request.why.chars().take(1000).collect(),
    }
}

/// The daemon's state and what its executors hold.
#[utoipa::path(get, path = "/api/v1/health", responses((status = 200, body = Health)))]
async fn health(State(api): Shared) -> Result<Json<Health>, ApiError> {
    let engine = api.handle.engine().await?;
    let executors = engine.executors.into_iter().map(|view| ExecutorView {
        name: view.spec.name,
        attempts: view.attempts.len(),
        cpu: view.capacity.cpu,
        cpu_held: view.machine_held.cpu,
        memory: view.capacity.memory,
        memory_held: view.machine_held.memory,
    });
    let backup = api.backups.then(|| {
        let record = backup::Record::read(&api.home);
        BackupView {
            taken_at: record.taken_at.map(view::time),
            file: record.file.map(|file| file.display().to_string()),
            problem: record.problem,
        }
    });
    Ok(Json(Health {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        open_runs: engine.open,
        set_aside: engine
            .damaged
            .iter()
            .map(|(run, why)| format!("{run}: {why}"))
            .collect(),
        executors: executors.collect(),
        backup,
    }))
}

pub(super) fn hold_view(kind: HoldKind, name: &str, hold: &Hold) -> HoldView {
    HoldView {
        kind: kind.as_str().to_owned(),
        name: name.to_owned(),
        who: hold.by.who.clone(),
        why: hold.by.why.clone(),
        since: view::time(hold.since),
    }
}

pub(super) fn amounts(resources: Resources) -> Amounts {
    Amounts {
        cpu: resources.cpu,
        memory: resources.memory,
        disk: Some(resources.disk).filter(|bytes| *bytes < u64::MAX),
        gpus: resources.gpus.into(),
    }
}

/// Executors, and who holds what of them.
#[utoipa::path(get, path = "/api/v1/executors", responses((status = 200, body = Vec<ExecutorDetail>)))]
async fn list_executors(State(api): Shared) -> Result<Json<Vec<ExecutorDetail>>, ApiError> {
    let engine = api.handle.engine().await?;
    let holding = |holding: Holding| HoldingView {
        run: holding.key.run.to_string(),
        step: holding.key.step.to_string(),
        attempt: holding.key.attempt,
        held: amounts(holding.held),
        since: view::time(holding.since),
        given_up: holding.given_up,
    };
    let notes = |name: &str| {
        let found = api.executors.iter().find(|one| one.spec().name == name);
        found.map(|one| one.notes()).unwrap_or_default()
    };
    let detail = |view: sealflow_engine::core::ExecutorView| {
        let drained = view.hold.as_ref();
        let drained = drained.map(|hold| hold_view(HoldKind::Executor, &view.spec.name, hold));
        ExecutorDetail {
            drained,
            machine: view.spec.machine.name,
            stages: view
                .spec
                .stages
                .map(|stages| stages.iter().map(ToString::to_string).collect()),
            concurrency: view.spec.slots,
            capacity: amounts(view.capacity),
            machine_held: amounts(view.machine_held),
            held: amounts(view.held),
            locks: view.spec.locks,
            stagger_seconds: std::time::Duration::from_millis(view.spec.stagger_ms).as_secs_f64(),
            attempts: view.attempts.into_iter().map(holding).collect(),
            notes: notes(&view.spec.name),
            name: view.spec.name,
        }
    };
    Ok(Json(engine.executors.into_iter().map(detail).collect()))
}

/// What is held back: workflows and stages that are paused, executors that are drained.
#[utoipa::path(get, path = "/api/v1/holds", responses((status = 200, body = Vec<HoldView>)))]
async fn list_holds(State(api): Shared) -> Result<Json<Vec<HoldView>>, ApiError> {
    let holds = api.handle.engine().await?.holds;
    let views = holds
        .iter()
        .map(|(kind, name, hold)| hold_view(*kind, name, hold));
    Ok(Json(views.collect()))
}

/// Triggers that are switched on, with the next time of each.
#[utoipa::path(get, path = "/api/v1/triggers", responses((status = 200, body = Vec<TriggerView>)))]
async fn list_triggers(State(api): Shared) -> Result<Json<Vec<TriggerView>>, ApiError> {
    let mut views = Vec::new();
    for (workflow, enabled) in api.handle.triggers().await? {
        for (index, trigger) in (0..).zip(&enabled.graph.data.triggers) {
            let fired = enabled.last.get(&index);
            let last = fired.map_or(enabled.since, |fired| fired.due);
            views.push(TriggerView {
                workflow: workflow.to_string(),
                index,
                cron: trigger.cron.clone(),
                policy: trigger.policy(),
                params: trigger.params.clone(),
                next: Timetable::of(&trigger.cron)
                    .ok()
                    .and_then(|times| times.next(last))
                    .map(view::time),
                last: fired.map(|fired| view::time(fired.due)),
                run: fired.and_then(|fired| fired.run.as_ref().map(ToString::to_string)),
                skipped: fired.and_then(|fired| fired.skipped.clone()),
                missed: fired.map_or(0, |fired| fired.missed),
                who: enabled.by.text(),
                since: view::time(enabled.since),
            });
        }
    }
    Ok(Json(views))
}

/// Switches the triggers of a workflow on, as its file says now.
#[utoipa::path(put, path = "/api/v1/triggers/{workflow}", request_body = TriggerRequest, responses((status = 200), (status = 409, body = Problem)))]
async fn enable_trigger(
    State(api): Shared,
    Path(workflow): Path<String>,
    Json(request): Json<TriggerRequest>,
) -> Result<Json<()>, ApiError> {
    let bad = |code, what: String| ApiError(StatusCode::BAD_REQUEST, code, what);
    let found = match request.source {
        Some(text) => builtin::Found {
            label: workflow.clone(),
            path: None,
            text,
        },
        None if workflow.contains('/') || workflow.ends_with(".toml") => {
            return Err(bad(
                "bad_request",
                format!("`{workflow}` is a path; send the file's text as `source`"),
            ));
        }
        None => builtin::find(&workflow, &api.home.workflows())
            .map_err(|error| ApiError(StatusCode::NOT_FOUND, "not_found", error.to_string()))?,
    };
    let (graph, _) = builtin::graph(&found, api.handle.registry(), &api.home.workflows())
        .map_err(|error| bad("bad_workflow", format!("{error:#}")))?;
    if graph.data().name.as_str() != workflow {
        let what = format!("the file is of workflow `{}`", graph.data().name);
        return Err(bad("bad_request", what));
    }
    api.handle
        .enable_triggers(graph, found.text, by(request.by))
        .await?;
    Ok(Json(()))
}

/// Switches the triggers of a workflow off.
#[utoipa::path(delete, path = "/api/v1/triggers/{workflow}", request_body = TriggerRequest, responses((status = 200), (status = 409, body = Problem)))]
async fn disable_trigger(
    State(api): Shared,
    Path(workflow): Path<String>,
    Json(request): Json<TriggerRequest>,
) -> Result<Json<()>, ApiError> {
    let name = WorkflowName::new(&workflow)
        .map_err(|error| ApiError(StatusCode::BAD_REQUEST, "bad_request", error.to_string()))?;
    api.handle.disable_triggers(name, by(request.by)).await?;
    Ok(Json(()))
}

fn hold_kind(text: &str) -> Result<HoldKind, ApiError> {
    let kinds = [
        HoldKind::Workflow,
        HoldKind::Stage,
        HoldKind::Executor,
        HoldKind::Worker,
    ];
    let found = kinds.into_iter().find(|kind| kind.as_str() == text);
    found.ok_or_else(|| {
        let what = format!("`{text}` cannot be held back; workflow, stage, executor and worker can");
        ApiError(StatusCode::BAD_REQUEST, "bad_request", what)
    })
}

/// Holds a `workflow`, a `stage` or an `executor` back: nothing that it covers starts until it is released.
/// What runs goes on.
#[utoipa::path(put, path = "/api/v1/holds/{kind}/{name}", request_body = ByRequest, responses((status = 200), (status = 409, body = Problem)))]
async fn hold(
    State(api): Shared,
    Path((kind, name)): Path<(String, String)>,
    Json(request): Json<ByRequest>,
) -> Result<Json<()>, ApiError> {
    api.handle.hold(hold_kind(&kind)?, name, by(request)).await?;
    Ok(Json(()))
}

/// Ends a hold.
#[utoipa::path(delete, path = "/api/v1/holds/{kind}/{name}", request_body = ByRequest, responses((status = 200), (status = 409, body = Problem)))]
async fn release(
    State(api): Shared,
    Path((kind, name)): Path<(String, String)>,
    Json(request): Json<ByRequest>,
) -> Result<Json<()>, ApiError> {
    let kind = hold_kind(&kind)?;
    let executor = api.executors.iter().find(|one| one.spec().name == name);
    // One that refuses by itself goes on, whether or not somebody drained it too.
    let refused = kind == HoldKind::Executor && executor.is_some_and(|one| one.resume());
    match api.handle.release(kind, name, by(request)).await {
        Err(_) if refused => {}
        released => released?,
    }
    Ok(Json(()))
}

#[derive(Debug, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only runs of this workflow.
    workflow: Option<String>,
    /// Only runs that stand so.
    status: Option<String>,
    /// Only runs about this.
    subject: Option<String>,
    /// At most so many, the newest first.
    limit: Option<u32>,
    /// Those that were archived, instead of those in the journal.
    #[serde(default)]
    archived: bool,
}

/// Runs, the newest first.
#[utoipa::path(get, path = "/api/v1/runs", params(ListQuery), responses((status = 200, body = Vec<RunSummary>)))]
async fn list_runs(
    State(api): Shared,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<RunSummary>>, ApiError> {
    let bad = |what: String| ApiError(StatusCode::BAD_REQUEST, "bad_request", what);
    let filter = serde_json::json!({
        "workflow": query.workflow, "status": query.status, "subject": query.subject, "limit": query.limit,
    });
    let filter: RunFilter = serde_json::from_value(filter).map_err(|error| bad(error.to_string()))?;
    if query.archived {
        let found = api.journal.archived_runs(&filter).await?;
        let summary = |found: &ArchivedRow| view::archived(view::summary(&found.row));
        return Ok(Json(found.iter().map(summary).collect()));
    }
    Ok(Json(view::list(&**api.handle.journal(), &filter).await?))
}

/// The graph of a workflow that a request names or brings, and the text of its file.
pub(super) fn workflow_of(
    api: &Api,
    workflow: Option<String>,
    source: Option<String>,
) -> Result<(Arc<Graph>, String), ApiError> {
    let bad = |code, what: String| ApiError(StatusCode::BAD_REQUEST, code, what);
    let found = match (workflow, source) {
        (None, Some(text)) => builtin::Found {
            label: "workflow".to_owned(),
            path: None,
            text,
        },
        // A path would let a client read files as the daemon.
        (Some(name), None) if name.contains('/') || name.ends_with(".toml") => {
            return Err(bad(
                "bad_request",
                format!("`{name}` is a path; send the file's text as `source`"),
            ));
        }
        (Some(name), None) => builtin::find(&name, &api.home.workflows())
            .map_err(|error| ApiError(StatusCode::NOT_FOUND, "not_found", error.to_string()))?,
        _ => {
            return Err(bad(
                "bad_request",
                "give one of `workflow` and `source`".to_owned(),
            ));
        }
    };
    let (graph, _) = builtin::graph(&found, api.handle.registry(), &api.home.workflows())
        .map_err(|error| bad("bad_workflow", format!("{error:#}")))?;
    Ok((graph, found.text))
}

/// Starts a run.
#[utoipa::path(post, path = "/api/v1/runs", request_body = StartRequest, responses((status = 200, body = Started), (status = 409, body = Problem)))]
async fn start_run(State(api): Shared, Json(request): Json<StartRequest>) -> Result<Json<Started>, ApiError> {
    let (graph, source) = workflow_of(&api, request.workflow, request.source)?;
    let new = NewRun {
        graph,
        source,
        params: request.params,
        key: request.key,
        priority: request.priority,
        by: by(request.by),
    };
    let run = api
        .numbers
        .start(new)
        .await
        .map_err(|error| match error.downcast::<RequestError>() {
            Ok(refused) => ApiError::from(refused),
            Err(error) => ApiError(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                format!("{error:#}"),
            ),
        });
    let run = run?;
    Ok(Json(Started { run: run.to_string() }))
}

/// A run with its steps.
#[utoipa::path(get, path = "/api/v1/runs/{run}", responses((status = 200, body = RunDetail), (status = 404, body = Problem)))]
async fn show_run(State(api): Shared, Path(run): Path<String>) -> Result<Json<RunDetail>, ApiError> {
    let id = run_id(&run)?;
    let (journal, archived) = holder(&api.journal, &id).await?.ok_or_else(|| no_run(&run))?;
    if archived {
        let detail = view::detail(&*journal, &id, None)
            .await?
            .ok_or_else(|| no_run(&run))?;
        let summary = view::archived(detail.summary);
        return Ok(Json(RunDetail { summary, ..detail }));
    }
    let live = api.handle.live(&id).await?;
    let detail = view::detail(&*journal, &id, Some(&live)).await?;
    detail.map(Json).ok_or_else(|| no_run(&run))
}

#[derive(Debug, Deserialize, ToSchema, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct JournalQuery {
    /// The first entry.
    #[serde(default)]
    from: u64,
    /// At most so many, 1000 unless told otherwise.
    limit: Option<u32>,
}

/// The journal of a run.
#[utoipa::path(get, path = "/api/v1/runs/{run}/journal", params(JournalQuery), responses((status = 200, body = Vec<EntryView>)))]
async fn run_journal(
    State(api): Shared,
    Path(run): Path<String>,
    Query(query): Query<JournalQuery>,
) -> Result<Json<Vec<EntryView>>, ApiError> {
    let id = run_id(&run)?;
    let (journal, _) = holder(&api.journal, &id).await?.ok_or_else(|| no_run(&run))?;
    let limit = query.limit.unwrap_or(1000).min(1000);
    let entries = journal.entries(&id, query.from.max(1), limit).await?;
    Ok(Json(entries.iter().map(view::entry).collect()))
}

/// Why a run does not move: every condition that is not met, with its numbers and since when.
#[utoipa::path(get, path = "/api/v1/runs/{run}/explain", responses((status = 200, body = ExplainView), (status = 404, body = Problem)))]
async fn explain_run(State(api): Shared, Path(run): Path<String>) -> Result<Json<ExplainView>, ApiError> {
    let id = run_id(&run)?;
    let row = api.handle.journal().run(&id).await?.ok_or_else(|| no_run(&run))?;
    let live = api.handle.live(&id).await?;
    let mut told = view::explain(&row, &live);
    messages::explain(&api, &id, &mut told).await?;
    Ok(Json(told))
}

/// When each step of a run stood how, and where it ran.
#[utoipa::path(get, path = "/api/v1/runs/{run}/timeline", responses((status = 200, body = TimelineView), (status = 404, body = Problem)))]
async fn run_timeline(State(api): Shared, Path(run): Path<String>) -> Result<Json<TimelineView>, ApiError> {
    let id = run_id(&run)?;
    let (journal, _) = holder(&api.journal, &id).await?.ok_or_else(|| no_run(&run))?;
    let view = timeline::view(&*journal, &id).await?;
    view.map(Json).ok_or_else(|| no_run(&run))
}

/// The graph that a run keeps, with every default filled in.
#[utoipa::path(get, path = "/api/v1/runs/{run}/graph", responses((status = 200, body = serde_json::Value), (status = 404, body = Problem)))]
async fn run_graph(State(api): Shared, Path(run): Path<String>) -> Result<Json<GraphData>, ApiError> {
    let id = run_id(&run)?;
    let (journal, _) = holder(&api.journal, &id).await?.ok_or_else(|| no_run(&run))?;
    let row = journal.run(&id).await?.ok_or_else(|| no_run(&run))?;
    Ok(Json(view::graph(&*journal, &row).await?.data))
}

/// Asks something of a run: `pause`, `resume`, `cancel`, `retry`, `rewind`, `skip`, `override`, `approve`,
/// `prioritize`, `signal`; `fork`, which answers with the new run; or `archive`, which moves an ended run out of
/// the journal.
#[utoipa::path(post, path = "/api/v1/runs/{run}/{verb}", request_body = VerbRequest, responses((status = 200, body = Started), (status = 409, body = Problem)))]
async fn run_verb(
    State(api): Shared,
    Path((run, verb)): Path<(String, String)>,
    Json(request): Json<VerbRequest>,
) -> Result<Json<Started>, ApiError> {
    let id = run_id(&run)?;
    let bad = |what: String| ApiError(StatusCode::BAD_REQUEST, "bad_request", what);
    let step = request.step.as_deref().map(str::parse).transpose();
    let step = step.map_err(|error: sealflow_engine::id::NameError| bad(error.to_string()))?;
    let named = || step.clone().ok_or_else(|| bad(format!("`{verb}` needs a step")));
    let verb = match verb.as_str() {
        "pause" => Verb::Pause,
        "resume" => Verb::Resume,
        "cancel" => Verb::Cancel,
        "retry" => Verb::Retry(step),
        "rewind" => Verb::Rewind(named()?),
        "skip" => Verb::Skip(named()?),
        "override" => Verb::Override(named()?, request.data),
        "approve" => Verb::Approve(named()?),
        "prioritize" => {
            let priority = request
                .priority
                .filter(|priority| (-1000..=1000).contains(priority));
            Verb::Prioritize(priority.ok_or_else(|| bad("a priority is from -1000 to 1000".to_owned()))?)
        }
        "signal" => {
            let name = request
                .signal
                .ok_or_else(|| bad("a signal needs a name".to_owned()))?;
            Verb::Signal(name, request.data)
        }
        "fork" => {
            let forked = api
                .handle
                .fork_run(&id, &named()?, request.key, by(request.by))
                .await?;
            return Ok(Json(Started {
                run: forked.to_string(),
            }));
        }
        "archive" => {
            let by = by(request.by);
            let archived = api.journal.archive_run(&id, now_ms()).await?;
            tracing::info!(run, by = by.text(), bytes = archived.bytes, "archived");
            return Ok(Json(Started { run }));
        }
        other => return Err(bad(format!("a run cannot be asked to `{other}`"))),
    };
    match api.handle.operate(&id, verb, by(request.by)).await {
        Ok(()) => Ok(Json(Started { run })),
        Err(RequestError::Refused(Refused::NoRun(id))) => match api.handle.journal().run(&id).await? {
            Some(row) => {
                let text = format!("{id} has ended ({})", row.status.as_str());
                Err(ApiError(StatusCode::CONFLICT, "refused", text))
            }
            None if api.journal.archived_row(&id).await?.is_some() => {
                let text = format!("{id} has ended and is archived; it can only be looked at");
                Err(ApiError(StatusCode::CONFLICT, "refused", text))
            }
            None => Err(no_run(&run)),
        },
        Err(error) => Err(error.into()),
    }
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", responses((status = 200)))]
async fn describe() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi())
}
