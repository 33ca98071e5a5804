//! Workers: the machines that executors are on, when they were heard of, and sending them home.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use sealflow_engine::executor::machine_of;
use sealflow_engine::site::HoldKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Json, Path};
use super::server::{ApiError, Shared, amounts, hold_view};
use super::{Amounts, HoldView, Problem};

/// A machine that executors connected from.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct WorkerView {
    /// Its name.
    pub(crate) worker: String,
    /// The executors on it, as the daemon calls them.
    pub(crate) executors: Vec<String>,
    /// Attempts that it has, or had when it was last heard of.
    pub(crate) attempts: usize,
    /// What it has.
    pub(crate) capacity: Amounts,
    /// What attempts hold of it.
    pub(crate) held: Amounts,
    /// Seconds since it was last heard of.
    pub(crate) silent_seconds: f64,
    /// Whether that is so long that something may have happened to it.
    pub(crate) suspect: bool,
    /// Who drains it, if somebody does.
    pub(crate) drained: Option<HoldView>,
}

/// Machines that executors connected from.
#[utoipa::path(get, path = "/api/v1/workers", responses((status = 200, body = Vec<WorkerView>)))]
pub(super) async fn list_workers(State(api): Shared) -> Result<Json<Vec<WorkerView>>, ApiError> {
    let engine = api.handle.engine().await?;
    let mut workers: BTreeMap<String, WorkerView> = BTreeMap::new();
    for view in engine.executors {
        let Some(machine) = machine_of(&view.spec.name).map(str::to_owned) else {
            continue;
        };
        let silent = view
            .contact
            .map_or(0, |heard| engine.now_mono_ms.saturating_sub(heard));
        let drained = view.machine_hold.as_ref();
        let drained = drained.map(|hold| hold_view(HoldKind::Worker, &machine, hold));
        let worker = workers.entry(machine.clone()).or_insert_with(|| WorkerView {
            worker: machine,
            executors: Vec::new(),
            attempts: 0,
            capacity: amounts(view.capacity),
            held: amounts(view.machine_held),
            silent_seconds: Duration::from_millis(silent).as_secs_f64(),
            suspect: view.suspect,
            drained,
        });
        worker.executors.push(view.spec.name);
        worker.attempts += view.attempts.len();
    }
    Ok(Json(workers.into_values().collect()))
}

/// Asks a worker to end when nothing runs there any more. Drain it first (`PUT /api/v1/holds/worker/NAME`).
#[utoipa::path(post, path = "/api/v1/workers/{worker}/end", responses((status = 200), (status = 404, body = Problem)))]
pub(super) async fn end_worker(State(api): Shared, Path(worker): Path<String>) -> Result<Json<()>, ApiError> {
    let known = api.workers.as_ref().is_some_and(|service| service.drain(&worker));
    if !known {
        let what = format!("there is no worker `{worker}`");
        return Err(ApiError(StatusCode::NOT_FOUND, "not_found", what));
    }
    Ok(Json(()))
}
