//! What a subject owns, as the journal has it.

use axum::extract::State;
use sealflow_engine::id::Subject;
use sealflow_engine::journal::Journal as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Problem;
use super::extract::{Json, Query};
use super::server::{ApiError, Shared};

/// An artifact that a subject owns.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ArtifactView {
    /// Its kind, for example `sealed`.
    pub(crate) kind: String,
    /// Where it was put: store, key, bytes, digest. It may have been moved since.
    pub(crate) artifact: Value,
    /// The run that made it.
    pub(crate) run: String,
}

#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Whose {
    /// The subject, for example `f01000/7`.
    subject: String,
}

/// The artifacts that a subject owns.
#[utoipa::path(get, path = "/api/v1/artifacts", params(Whose),
    responses((status = 200, body = Vec<ArtifactView>), (status = 400, body = Problem)))]
pub(super) async fn list_artifacts(
    State(api): Shared,
    Query(whose): Query<Whose>,
) -> Result<Json<Vec<ArtifactView>>, ApiError> {
    let subject = Subject::new(&whose.subject).map_err(|error| {
        ApiError(
            axum::http::StatusCode::BAD_REQUEST,
            "bad_request",
            error.to_string(),
        )
    })?;
    let rows = api.journal.artifacts(&subject).await?;
    Ok(Json(rows.into_iter().map(view).collect()))
}

/// A row for people.
pub(super) fn view(row: sealflow_engine::journal::ArtifactRow) -> ArtifactView {
    ArtifactView {
        kind: row.kind,
        artifact: row.artifact,
        run: row.run.to_string(),
    }
}
