//! Calls and head changes over a WebSocket, by the channels of go-jsonrpc (chain.md §3.3).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use axum::http::{HeaderValue, Response, StatusCode};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::super::Shared;
use super::super::chain::Change;
use super::auth::Permission;
use super::server::{CALL_BYTES, Call, Reply, answer, frame};
use super::{RpcError, Way, admit, method, shapes};

/// Frames that may wait for a slow client before it is dropped.
const WAITING: usize = 1024;
/// Calls of one connection that run at a time.
const CALLS: usize = 64;
/// Connections at a time.
const CONNECTIONS: u64 = 256;
/// How often the other side is asked whether it is there.
const PING: Duration = Duration::from_secs(10);

static OPEN: AtomicU64 = AtomicU64::new(0);

/// Counts an open connection.
struct Counted;

impl Counted {
    fn one() -> Option<Self> {
        let before = OPEN.fetch_add(1, Ordering::Relaxed);
        let counted = Self;
        (before < CONNECTIONS).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes over a connection.
pub(super) fn accept(
    shared: Arc<Shared>,
    allowed: Vec<Permission>,
    mut request: Request,
    stop: CancellationToken,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let key = request.headers().get(SEC_WEBSOCKET_KEY);
    let accepted = key.map(|key| derive_accept_key(key.as_bytes()));
    let accepted = accepted.and_then(|text| HeaderValue::from_str(&text).ok());
    let (Some(accepted), Some(counted)) = (accepted, Counted::one()) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let config = WebSocketConfig::default()
            .max_message_size(Some(CALL_BYTES))
            .max_frame_size(Some(CALL_BYTES));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        session(shared, allowed, socket, stop).await;
        drop(counted);
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    response
}

/// What a task of a connection wants.
enum Out {
    Text(String),
    End,
}

/// One connection, until either side ends it. Its tasks end with it.
async fn session(
    shared: Arc<Shared>,
    allowed: Vec<Permission>,
    socket: WebSocketStream<TokioIo<Upgraded>>,
    stop: CancellationToken,
) {
    let (mut write, mut read) = socket.split();
    let (out, mut outgoing) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    let mut ping = tokio::time::interval(PING);
    let mut channels = 0_u64;
    loop {
        let sent = tokio::select! {
            () = stop.cancelled() => break,
            _ = ping.tick() => write.send(Message::Ping(Default::default())).await,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {
                running.retain(|_, task| !task.is_finished());
                continue;
            }
            frame = outgoing.recv() => match frame {
                Some(Out::Text(text)) => write.send(Message::text(text)).await,
                Some(Out::End) | None => break,
            },
            frame = read.next() => {
                let text = match frame {
                    Some(Ok(Message::Text(text))) => text,
                    Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                };
                let Ok(call) = serde_json::from_str::<Call>(&text) else { break };
                if call.method == "xrpc.cancel" {
                    cancel(&text, &mut running);
                    continue;
                }
                if tasks.len() >= CALLS {
                    break;
                }
                channels += 1;
                let id = call.id.clone().unwrap_or(Value::Null);
                let work = one(shared.clone(), allowed.clone(), call, channels, out.clone());
                running.insert(id.to_string(), tasks.spawn(work));
                continue;
            }
        };
        if sent.is_err() {
            break;
        }
    }
    // The other side may be gone.
    drop(write.close().await);
}

/// Ends what a request began.
fn cancel(text: &str, running: &mut HashMap<String, AbortHandle>) {
    let params = serde_json::from_str::<Value>(text).unwrap_or_default();
    let id = params["params"][0].to_string();
    if let Some(task) = running.remove(&id) {
        task.abort();
    }
}

/// One call of a connection.
async fn one(
    shared: Arc<Shared>,
    allowed: Vec<Permission>,
    call: Call,
    channel: u64,
    out: mpsc::Sender<Out>,
) {
    let id = call.id.clone().unwrap_or(Value::Null);
    let known = method(&call.method);
    if known.is_some_and(|known| matches!(known.way, Way::Channel)) {
        match admit(&call.method, known, &allowed, 0) {
            Ok(_) => notify(shared, &id, channel, out).await,
            Err(error) => drop(out.send(Out::Text(frame(&id, Err(error)))).await),
        }
        return;
    }
    let end = match answer(&shared, &allowed, call).await {
        Reply::Answer(answer) => Out::Text(frame(&id, answer)),
        Reply::Status(_) => Out::End,
    };
    // The connection may have ended.
    drop(out.send(end).await);
}

fn value(channel: u64, changes: &[Value]) -> String {
    json!({"jsonrpc": "2.0", "method": "xrpc.ch.val", "params": [channel, changes]}).to_string()
}

fn changes(change: &Change) -> Vec<Value> {
    let of = |kind: &'static str| move |tip| json!({"Type": kind, "Val": shapes::tipset(tip)});
    let reverted = change.reverted.iter().map(|tip| of("revert")(tip));
    reverted
        .chain(change.applied.iter().map(|tip| of("apply")(tip)))
        .collect()
}

/// Tells every change of the head, until the connection ends or the client is too slow.
async fn notify(shared: Arc<Shared>, id: &Value, channel: u64, out: mpsc::Sender<Out>) {
    let begun = shared
        .core()
        .map(|core| (core.changes.subscribe(), shapes::tipset(core.chain.head())));
    let (mut heard, head) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let error = RpcError::app(error);
            return drop(out.send(Out::Text(frame(id, Err(error)))).await);
        }
    };
    let first = value(channel, &[json!({"Type": "current", "Val": head})]);
    for text in [frame(id, Ok(json!(channel))), first] {
        if out.send(Out::Text(text)).await.is_err() {
            return;
        }
    }
    let mut told = 0_u32;
    loop {
        let change = match heard.recv().await {
            Ok(change) => change,
            // Too slow, or the devnet ends: the client subscribes again and makes up for what it missed.
            Err(RecvError::Lagged(_) | RecvError::Closed) => break,
        };
        let Ok(fault) = shared.core().map(|core| core.faults.notify) else {
            break;
        };
        if fault.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
        }
        let text = value(channel, &changes(&change));
        for _ in 0..=u8::from(fault.twice) {
            if out.try_send(Out::Text(text.clone())).is_err() {
                return drop(out.send(Out::End).await);
            }
        }
        told += 1;
        if fault.close_after > 0 && told >= fault.close_after {
            return drop(out.send(Out::End).await);
        }
    }
    let close = json!({"jsonrpc": "2.0", "method": "xrpc.ch.close", "params": [channel]});
    drop(out.send(Out::Text(close.to_string())).await);
}
