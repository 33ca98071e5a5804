//! Moving a run to an edited workflow: what would become of each step, and the move itself.

use axum::extract::State;
use sealflow_engine::core::{Core, Migration, Verb};
use sealflow_engine::id::RunId;
use sealflow_engine::migrate::{Plan, StepVerdict};
use sealflow_engine::workflow::Changed;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Json, Path};
use super::server::{ApiError, Shared, by, run_id, workflow_of};
use super::{ByRequest, Problem};

/// Another workflow for a run.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MigrateRequest {
    /// A name in the daemon's home, or an embedded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workflow: Option<String>,
    /// The text of a workflow file, instead of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// Steps that are done may be done again, with all that need them.
    #[serde(default)]
    pub(crate) redo: bool,
    /// Only say what would happen.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// Who asks, and why.
    #[serde(default)]
    pub(crate) by: ByRequest,
}

/// What becomes of a run that is moved to another workflow.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MigrationView {
    /// The run.
    pub(crate) run: String,
    /// Whether it was moved.
    pub(crate) done: bool,
    /// Whether nothing stands in the way.
    pub(crate) safe: bool,
    /// What stands in the way of the whole run.
    pub(crate) refused: Vec<String>,
    /// What becomes of each step.
    pub(crate) steps: Vec<MigrationStep>,
}

/// What becomes of a step.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MigrationStep {
    /// The step.
    pub(crate) step: String,
    /// Where it stands.
    pub(crate) status: String,
    /// `kept`, `settings` (kept; its next attempt has the new settings), `new_form` (it has not begun), `again`
    /// (done again), `added`, `dropped` or `refused`.
    pub(crate) fate: String,
    /// Why.
    pub(crate) why: String,
    /// What changed of it.
    pub(crate) keys: Vec<MigrationKey>,
}

/// A key of a step with its two values.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MigrationKey {
    /// The key, as the file writes it.
    pub(crate) key: String,
    /// Its value so far; empty if it had none.
    pub(crate) before: String,
    /// Its value from now on.
    pub(crate) after: String,
}

fn view(run: &RunId, plan: &Plan, done: bool) -> MigrationView {
    let key = |key: &Changed| MigrationKey {
        key: key.key.clone(),
        before: key.before.clone(),
        after: key.after.clone(),
    };
    let step = |step: &StepVerdict| MigrationStep {
        step: step.step.to_string(),
        status: step.status.as_str().to_owned(),
        fate: step.fate.as_str().to_owned(),
        why: step.why.clone(),
        keys: step.keys.iter().map(key).collect(),
    };
    MigrationView {
        run: run.to_string(),
        done,
        safe: plan.is_safe(),
        refused: plan.refused.clone(),
        steps: plan.steps.iter().map(step).collect(),
    }
}

/// Moves an open run to an edited workflow, or says what stands in the way; then nothing changes.
#[utoipa::path(post, path = "/api/v1/migrations/{run}", request_body = MigrateRequest, responses((status = 200, body = MigrationView), (status = 409, body = Problem)))]
pub(super) async fn migrate_run(
    State(api): Shared,
    Path(run): Path<String>,
    Json(request): Json<MigrateRequest>,
) -> Result<Json<MigrationView>, ApiError> {
    let id = run_id(&run)?;
    let (graph, source) = workflow_of(&api, request.workflow, request.source)?;
    let (state, _) = api.handle.state_of(&id).await?;
    let redo = request.redo;
    let plan = Core::plan_migration(api.handle.registry(), &state, &graph, redo);
    let done = plan.is_safe() && !request.dry_run;
    if done {
        let migration = Box::new(Migration { graph, source, redo });
        let verb = Verb::Migrate(migration);
        api.handle.operate(&id, verb, by(request.by)).await?;
    }
    Ok(Json(view(&id, &plan, done)))
}
