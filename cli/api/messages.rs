//! Messages to the chain: what was asked for, what became of it, and repairs.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use sealflow_chain::messager::{FeePolicy, Intent, Key, MessagerError, Record, Repair, State as Progress};
use sealflow_chain::params::Call;
use sealflow_chain::policy::FINALITY;
use sealflow_chain::types::RawBytes;
use sealflow_chain::wallet::parse_key_address;
use sealflow_chain::{address, amount};
use sealflow_engine::core::run_of;
use sealflow_engine::id::RunId;
use sealflow_engine::run::StepStatus;
use sealflow_storage::journal::Messages;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Problem;
use super::extract::{Json, Path, Query};
use super::server::{ApiError, Shared};
use crate::view::{self as views, ConditionView, ExplainView};

/// A message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MessageView {
    /// Its idempotency key.
    pub(crate) key: String,
    /// Its place in the order of submission.
    pub(crate) number: u64,
    /// `queued`, `published`, `landed`, `final`, `conflict` or `failed`.
    pub(crate) state: String,
    /// The sender.
    pub(crate) from: String,
    /// The destination.
    pub(crate) to: String,
    /// The method's name, or its number.
    pub(crate) method: String,
    /// What the destination is paid, in attoFIL.
    pub(crate) value: String,
    /// Its nonce, once it has one.
    pub(crate) nonce: Option<u64>,
    /// The CIDs of all versions that were signed, oldest first.
    pub(crate) cids: Vec<String>,
    /// The CID that is on the chain.
    pub(crate) landed: Option<String>,
    /// The epoch of the tipset that shows it.
    pub(crate) height: Option<i64>,
    /// Its exit code on the chain.
    pub(crate) exit_code: Option<u32>,
    /// What it returned on the chain: CBOR in hexadecimal.
    pub(crate) returned: Option<String>,
    /// The epoch from which on it is not to land.
    pub(crate) expires: Option<i64>,
    /// Why it waits, or was given up.
    pub(crate) note: String,
}

pub(crate) fn view(record: &Record) -> MessageView {
    let intent = &record.intent;
    let call = Call::decode(&intent.to, intent.method, intent.params.bytes());
    let (state, landing, note) = match &record.state {
        Progress::Queued => ("queued", None, record.note.clone()),
        Progress::Published => ("published", None, record.note.clone()),
        Progress::Landed(landing) => ("landed", Some(landing), String::new()),
        Progress::Final(landing) => ("final", Some(landing), String::new()),
        Progress::Conflict(landing) => ("conflict", Some(landing), record.note.clone()),
        Progress::Failed { code, reason } => ("failed", None, format!("{code}: {reason}")),
    };
    MessageView {
        key: intent.key.to_string(),
        number: record.number,
        state: state.to_owned(),
        from: intent.from.to_string(),
        to: intent.to.to_string(),
        method: call.map_or_else(|_| intent.method.to_string(), |call| call.name().to_owned()),
        value: intent.value.atto().to_string(),
        nonce: record.nonce,
        cids: record
            .versions
            .iter()
            .map(|version| version.cid.to_string())
            .collect(),
        landed: landing.map(|landing| landing.cid.to_string()),
        height: landing.map(|landing| landing.height),
        exit_code: landing.map(|landing| landing.receipt.exit_code.value()),
        returned: landing.map(|landing| hex::encode(&landing.receipt.returned)),
        expires: intent.expires,
        note,
    }
}

/// A message that is to be sent once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PushRequest {
    /// Its idempotency key: pushed again it is the same message.
    pub(crate) key: String,
    /// The sender, by its key address.
    pub(crate) from: String,
    /// The destination.
    pub(crate) to: String,
    /// What the destination is paid, in attoFIL.
    pub(crate) value_attofil: String,
    /// The method's number.
    pub(crate) method: u64,
    /// Its parameters: CBOR in hexadecimal.
    pub(crate) params: String,
    /// The epoch from which on it is not to land.
    #[serde(default)]
    pub(crate) expires: Option<i64>,
}

/// Sends a message, once. What it may be is the wallet's policy to say.
#[utoipa::path(
    post, path = "/api/v1/messages", request_body = PushRequest,
    responses((status = 200, body = MessageView), (status = 400, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn push_message(
    State(api): Shared,
    Json(request): Json<PushRequest>,
) -> Result<Json<MessageView>, ApiError> {
    let messager = api.messager.as_ref().ok_or_else(no_chain)?;
    let bad = |text: String| ApiError(StatusCode::BAD_REQUEST, "bad_request", text);
    let to = address::parse(&request.to).map_err(|error| bad(error.to_string()))?;
    let params = hex::decode(&request.params).map_err(|error| bad(format!("params: {error}")))?;
    // What the wallet would not understand is refused at once.
    Call::decode(&to, request.method, &params).map_err(|error| bad(error.to_string()))?;
    let intent = Intent {
        key: key(request.key)?,
        from: parse_key_address(&request.from).map_err(|error| bad(error.to_string()))?,
        to,
        value: amount::parse_atto(&request.value_attofil).map_err(|error| bad(error.to_string()))?,
        method: request.method,
        params: RawBytes::new(params),
        fees: FeePolicy::default(),
        expires: request.expires,
    };
    Ok(Json(view(&messager.submit(intent).await.map_err(refused)?)))
}

/// How the messager is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct MessagerView {
    /// The height up to which the chain was read.
    pub(crate) height: Option<i64>,
    /// What is wrong, if something is.
    pub(crate) trouble: Option<String>,
    /// Messages, the newest first.
    pub(crate) messages: Vec<MessageView>,
}

#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Limit {
    /// At most so many.
    #[serde(default = "some")]
    limit: u32,
}

fn some() -> u32 {
    100
}

fn refused(error: MessagerError) -> ApiError {
    let text = error.to_string();
    match error {
        MessagerError::Plan(_) => ApiError(StatusCode::CONFLICT, "refused", text),
        MessagerError::Store(_) | MessagerError::Stopped => {
            ApiError(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text)
        }
    }
}

fn no_chain() -> ApiError {
    let text = "no chain is configured: name a node under [chain] in config.toml, and start the daemon again";
    ApiError(StatusCode::NOT_FOUND, "not_found", text.to_owned())
}

fn key(text: String) -> Result<Key, ApiError> {
    Key::try_from(text).map_err(|error| ApiError(StatusCode::BAD_REQUEST, "bad_request", error.to_string()))
}

/// Messages, the newest first, ended ones too.
#[utoipa::path(get, path = "/api/v1/messages", params(Limit), responses((status = 200, body = MessagerView), (status = 404, body = Problem)))]
pub(super) async fn list_messages(
    State(api): Shared,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<MessagerView>, ApiError> {
    let messager = api.messager.as_ref().ok_or_else(no_chain)?;
    let status = messager.status().await.map_err(refused)?;
    let newest = Messages::of(api.journal.clone()).newest(limit.min(10_000)).await;
    let newest = newest.map_err(|error| refused(error.into()))?;
    Ok(Json(MessagerView {
        height: status.height,
        trouble: status.trouble,
        messages: newest.iter().map(view).collect(),
    }))
}

/// One message. Its key holds slashes, so it is a parameter.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct Named {
    /// The message's key.
    key: String,
}

/// A message.
#[utoipa::path(get, path = "/api/v1/message", params(Named), responses((status = 200, body = MessageView), (status = 404, body = Problem)))]
pub(super) async fn show_message(
    State(api): Shared,
    Query(Named { key: text }): Query<Named>,
) -> Result<Json<MessageView>, ApiError> {
    let messager = api.messager.as_ref().ok_or_else(no_chain)?;
    let found = messager.record(key(text.clone())?).await.map_err(refused)?;
    let none = || {
        ApiError(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no message `{text}`"),
        )
    };
    Ok(Json(view(&found.ok_or_else(none)?)))
}

/// What is asked for.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RepairRequest {
    /// The message's key, or the sender.
    pub(crate) of: String,
    /// Why.
    #[serde(default)]
    pub(crate) why: String,
}

/// Repairs: `replace` (pay more now), `cancel` (give up what has no nonce), `recover` (a new nonce after somebody else used
/// the old one), `forbid` and `allow` (a sender).
#[utoipa::path(
    post, path = "/api/v1/messages/{verb}", request_body = RepairRequest,
    responses((status = 200), (status = 404, body = Problem), (status = 409, body = Problem))
)]
pub(super) async fn repair_message(
    State(api): Shared,
    Path(verb): Path<String>,
    Json(RepairRequest { of, why }): Json<RepairRequest>,
) -> Result<Json<()>, ApiError> {
    let messager = api.messager.as_ref().ok_or_else(no_chain)?;
    let sender = |text: &str| {
        parse_key_address(text)
            .map_err(|error| ApiError(StatusCode::BAD_REQUEST, "bad_request", error.to_string()))
    };
    let repair = match verb.as_str() {
        "replace" => Repair::Replace(key(of)?),
        "cancel" => Repair::Cancel {
            key: key(of)?,
            reason: why,
        },
        "recover" => Repair::Recover {
            key: key(of)?,
            finality: FINALITY,
        },
        "forbid" | "allow" => Repair::Forbid {
            address: sender(&of)?,
            forbidden: verb == "forbid",
        },
        _ => {
            let text = format!("messages cannot be asked to `{verb}`");
            return Err(ApiError(StatusCode::NOT_FOUND, "not_found", text));
        }
    };
    messager.repair(repair).await.map_err(refused)?;
    Ok(Json(()))
}

/// Adds to the steps of a run what their messages wait for: of a step in a batch, the batch's.
pub(super) async fn explain(
    api: &super::server::Api,
    run: &RunId,
    told: &mut ExplainView,
) -> Result<(), ApiError> {
    let Some(messager) = &api.messager else {
        return Ok(());
    };
    let journal = api.handle.journal();
    for row in journal.steps(run).await? {
        let Some(step) = told.steps.iter_mut().find(|step| step.step == row.step.as_str()) else {
            continue;
        };
        let batch = row.current.as_ref().and_then(|current| run_of(&current.executor));
        let (of, visit) = match batch {
            None => (run.clone(), row.visit),
            Some(batch) => {
                let rows = journal.steps(&batch).await?;
                let visit = rows
                    .iter()
                    .find(|other| other.step == row.step)
                    .map(|other| other.visit);
                (batch, visit.unwrap_or(1))
            }
        };
        let key = key(format!("{of}/{}/{visit}", row.step))?;
        let record = messager.record(key).await.map_err(refused)?;
        let Some(shown) = record
            .as_ref()
            .map(view)
            .filter(|_| row.status != StepStatus::Failed)
        else {
            continue;
        };
        let why = match (shown.state.as_str(), shown.note.is_empty()) {
            ("final", _) => continue,
            (_, true) => String::new(),
            (_, false) => format!(": {}", shown.note),
        };
        step.conditions.push(ConditionView {
            kind: "message".to_owned(),
            text: format!("its message {} is {}{why}", shown.key, shown.state),
            since: views::time(row.since),
            numbers: BTreeMap::new(),
        });
    }
    Ok(())
}
