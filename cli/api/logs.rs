//! What programs said: the logs of a step's attempts, wherever they ran, and those of executors.

use axum::extract::State;
use axum::http::StatusCode;
use sealflow_engine::executor::machine_of;
use sealflow_engine::id::RunId;
use sealflow_executors::log::{attempt_logs, executor_log, read_from};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Problem;
use super::extract::{Json, Path, Query};
use super::server::{ApiError, Shared};

/// The log of one attempt.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LogView {
    /// The visit of the step.
    pub(crate) visit: u32,
    /// The attempt.
    pub(crate) attempt: u32,
    /// Its bytes so far. A log of more than 8 MiB is begun anew; the last full one is beside it in the home.
    pub(crate) bytes: u64,
}

/// A piece of a log.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct LogPiece {
    /// The text.
    pub(crate) text: String,
    /// Where the next piece begins.
    pub(crate) next: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct From {
    /// The first byte that is wanted.
    #[serde(default)]
    from: u64,
}

fn none(what: String) -> ApiError {
    ApiError(StatusCode::NOT_FOUND, "not_found", what)
}

/// The logs of a step's attempts.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/steps/{step}/logs",
    responses((status = 200, body = Vec<LogView>), (status = 400, body = Problem))
)]
pub(super) async fn step_logs(
    State(api): Shared,
    Path((run, step)): Path<(RunId, String)>,
) -> Json<Vec<LogView>> {
    let views = attempt_logs(&api.home.logs(), &run, &step)
        .into_iter()
        .map(|(visit, attempt, path)| LogView {
            visit,
            attempt,
            bytes: path.metadata().map_or(0, |meta| meta.len()),
        });
    Json(views.collect())
}

/// A piece of the log of an attempt.
#[utoipa::path(
    get, path = "/api/v1/runs/{run}/steps/{step}/logs/{visit}/{attempt}", params(From),
    responses((status = 200, body = LogPiece), (status = 404, body = Problem))
)]
pub(super) async fn step_log(
    State(api): Shared,
    Path((run, step, visit, attempt)): Path<(RunId, String, u32, u32)>,
    Query(From { from }): Query<From>,
) -> Result<Json<LogPiece>, ApiError> {
    let logs = attempt_logs(&api.home.logs(), &run, &step).into_iter();
    let found = logs.into_iter().find(|one| (one.0, one.1) == (visit, attempt));
    let (_, _, path) =
        found.ok_or_else(|| none(format!("attempt {attempt} of visit {visit} of {step} has no log")))?;
    piece(&path, from)
}

/// A piece of the log of an executor's programs.
#[utoipa::path(
    get, path = "/api/v1/executors/{executor}/log", params(From),
    responses((status = 200, body = LogPiece), (status = 404, body = Problem))
)]
pub(super) async fn executor_log_piece(
    State(api): Shared,
    Path(executor): Path<String>,
    Query(From { from }): Query<From>,
) -> Result<Json<LogPiece>, ApiError> {
    let engine = api.handle.engine().await?;
    if !engine.executors.iter().any(|view| view.spec.name == executor) {
        return Err(none(format!("there is no executor `{executor}`")));
    }
    let Some(machine) = machine_of(&executor) else {
        return piece(&executor_log(&api.home.logs(), &executor), from);
    };
    let name = executor.split('@').next().unwrap_or_default();
    let service = api.workers.as_ref();
    let service = service.ok_or_else(|| none("no workers connect here".to_owned()))?;
    let asked = service.log_of(name, machine, from).await;
    let text = asked.map_err(|why| none(format!("executor `{executor}` gives no log: {why}")))?;
    Ok(Json(LogPiece {
        next: from + text.len() as u64,
        text: String::from_utf8_lossy(&text).into_owned(),
    }))
}

fn piece(path: &std::path::Path, from: u64) -> Result<Json<LogPiece>, ApiError> {
    let (text, next) = read_from(path, from).map_err(|error| none(format!("there is no log: {error}")))?;
    Ok(Json(LogPiece {
        text: String::from_utf8_lossy(&text).into_owned(),
        next,
    }))
}
