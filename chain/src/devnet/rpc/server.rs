//! The server: HTTP and WebSocket on one port. Everything from outside is bounded: bytes, connections, time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::json::Form;
use crate::types::{ChainEpoch, Cid};

use super::super::Shared;
use super::super::block::{BeaconEntry, beacon_json};
use super::super::faults::CallFault;
use super::auth::Permission;
use super::{Answer, Args, Method, RpcError, Way, admit, method, socket, state};

/// The most bytes of a call.
pub(super) const CALL_BYTES: usize = 8 * 1024 * 1024;
/// How long a call may wait for the chain.
const WAIT: Duration = Duration::from_secs(3600);

/// Serves until it is told to end.
pub(in crate::devnet) async fn serve(shared: Arc<Shared>, listener: TcpListener, stop: CancellationToken) {
    let app = Router::new()
        .route("/rpc/v1", post(http).get(upgrade))
        .route("/rpc/v0", post(http).get(upgrade))
        .layer(DefaultBodyLimit::max(CALL_BYTES))
        .with_state((shared, stop.clone()));
    let served = axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the devnet's server ended");
    }
}

type Serving = (Arc<Shared>, CancellationToken);

/// A call as it comes.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    #[serde(default)]
    pub(super) id: Option<Value>,
    pub(super) method: String,
    #[serde(default)]
    params: Option<Vec<Value>>,
}

/// What goes back: an answer, or an HTTP status that a fault asks for.
pub(super) enum Reply {
    Answer(Answer),
    Status(u16),
}

/// What a token allows; nothing if it is not ours.
fn permissions(shared: &Shared, headers: &HeaderMap, uri: &Uri) -> Option<Vec<Permission>> {
    if let Some(header) = headers.get(AUTHORIZATION) {
        return shared
            .secret
            .verify(header.to_str().ok()?.strip_prefix("Bearer ")?);
    }
    let mut pairs = uri.query().unwrap_or_default().split('&');
    match pairs.find_map(|pair| pair.strip_prefix("token=")) {
        Some(token) => shared.secret.verify(token),
        None => Some(vec![Permission::Read]),
    }
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

async fn http(
    State((shared, _)): State<Serving>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Response<Body> {
    let Some(allowed) = permissions(&shared, &headers, &uri) else {
        return status(401);
    };
    let Ok(_one) = shared.calls.try_acquire() else {
        return status(503);
    };
    let call: Call = match serde_json::from_slice(&body) {
        Ok(call) => call,
        Err(e) => {
            let error = RpcError::new(-32700, format!("parse error: {e}"));
            return written(&Value::Null, Err(error), 400);
        }
    };
    let id = call.id.clone().unwrap_or(Value::Null);
    match answer(&shared, &allowed, call).await {
        Reply::Status(code) => status(code),
        Reply::Answer(answer) => {
            let code = match &answer {
                Err(error) if error.code == -32600 => 400,
                Err(error) if (-32700..=-32601).contains(&error.code) => 500,
                _ => 200,
            };
            written(&id, answer, code)
        }
    }
}

/// An answer as text.
pub(super) fn frame(id: &Value, answer: Answer) -> String {
    let frame = match answer {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": error.code, "message": error.message}})
        }
    };
    frame.to_string()
}

fn written(id: &Value, answer: Answer, code: u16) -> Response<Body> {
    let mut response = status(code);
    *response.body_mut() = Body::from(frame(id, answer));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

async fn upgrade(State((shared, stop)): State<Serving>, request: Request) -> Response<Body> {
    let Some(allowed) = permissions(&shared, request.headers(), request.uri()) else {
        return status(401);
    };
    if !request.headers().contains_key(UPGRADE) {
        return status(426);
    }
    socket::accept(shared, allowed, request, stop)
}

/// Answers a call, with the faults that are wanted.
pub(super) async fn answer(shared: &Arc<Shared>, allowed: &[Permission], call: Call) -> Reply {
    let params = call.params.unwrap_or_default();
    let method = match admit(&call.method, method(&call.method), allowed, params.len()) {
        Ok(method) => method,
        Err(error) => return Reply::Answer(Err(error)),
    };
    let fault = match shared.core() {
        Ok(mut core) => core.faults.hit(method.name),
        Err(error) => return Reply::Answer(Err(error.into())),
    };
    if let Some(CallFault { delay_ms, .. }) = fault {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    match fault {
        Some(CallFault {
            status: Some(code), ..
        }) => return Reply::Status(code),
        Some(CallFault {
            error: Some(error), ..
        }) => {
            return Reply::Answer(Err(RpcError::new(error.code, error.message)));
        }
        _ => {}
    }
    let answer = run(shared, method, params).await;
    if fault.is_some_and(|fault| fault.lose_answer) {
        return Reply::Status(502);
    }
    Reply::Answer(answer)
}

async fn run(shared: &Arc<Shared>, method: &'static Method, params: Vec<Value>) -> Answer {
    match method.way {
        Way::Waits => tokio::time::timeout(WAIT, wait(shared, method.name, &params))
            .await
            .unwrap_or_else(|_| Err(RpcError::app("context deadline exceeded"))),
        Way::Channel => Err(RpcError::app(
            "method not supported in this mode (no out channel support)",
        )),
        Way::Now(_) | Way::Alone(_) => {
            let shared = shared.clone();
            // A dry run verifies proofs, and mining takes its time.
            let work = tokio::task::spawn_blocking(move || at_once(&shared, method, &params));
            work.await
                .unwrap_or_else(|e| Err(RpcError::app(format!("panic in rpc method: {e}"))))
        }
    }
}

fn at_once(shared: &Shared, method: &Method, params: &[Value]) -> Answer {
    let args = Args {
        method: method.name,
        params,
    };
    match method.way {
        Way::Now(handler) => handler(&mut *shared.core()?, &args),
        Way::Alone(handler) => handler(&args),
        Way::Waits | Way::Channel => Err(RpcError::app("it waits")),
    }
}

/// Calls that wait, and those about what is not the node's.
async fn wait(shared: &Arc<Shared>, name: &str, params: &[Value]) -> Answer {
    let args = Args { method: name, params };
    match name {
        "StateWaitMsg" => wait_message(shared, &args).await,
        "StateGetBeaconEntry" => {
            let epoch: ChainEpoch = args.get(0)?;
            let mut heights = shared.core()?.height.subscribe();
            let reached = heights.wait_for(|height| *height >= epoch).await;
            reached.map_err(|_| RpcError::app("the devnet ended"))?;
            Ok(beacon_json(&BeaconEntry::of(epoch)))
        }
        "AuthVerify" => {
            let token: String = args.get(0)?;
            let allowed = shared.secret.verify(&token);
            super::json(&allowed.ok_or_else(|| RpcError::app("JWT Verification failed"))?)
        }
        "Devnet.SetBlockTime" => Ok(json!(shared.clock.set_block_time(args.get(0)?)?)),
        "Devnet.Pause" => Ok(json!(shared.clock.pause(true))),
        "Devnet.Resume" => Ok(json!(shared.clock.pause(false))),
        "Devnet.Hold" => Ok(json!(shared.clock.hold(args.get(0)?, args.get(1)?)?)),
        "Devnet.Release" => {
            let name: String = args.get(0)?;
            Ok(json!(shared.clock.release(&name)))
        }
        other => Err(RpcError::new(-32601, format!("method '{other}' not found"))),
    }
}

async fn wait_message(shared: &Arc<Shared>, args: &Args<'_>) -> Answer {
    let (Form(cid), confidence): (Form<Cid>, ChainEpoch) = (args.get(0)?, args.get(1)?);
    let (limit, replaced): (ChainEpoch, bool) = (args.get(2)?, args.get(3)?);
    let mut heights = shared.core()?.height.subscribe();
    loop {
        let head = *heights.borrow_and_update();
        let found = state::lookup(&*shared.core()?, &None, &cid, limit, replaced)?;
        if found["Height"]
            .as_i64()
            .is_some_and(|height| head - height >= confidence)
        {
            return Ok(found);
        }
        heights
            .changed()
            .await
            .map_err(|_| RpcError::app("the devnet ended"))?;
    }
}
