//! Test support: a node that says what a script tells it to, over real sockets, and chains to talk about.
//! It is no model of a node: what it says are literals of chain.md or of the test.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response as Handshake};

use crate::types::{Address, Cid, TokenAmount};

use super::endpoint::Endpoint;
use super::error::NodeError;
use super::types::{BlockHeader, TipSet, TipSetKey};

/// The CID of a name.
pub(super) fn cid(name: &str) -> Cid {
    crate::message::cid_of(name.as_bytes())
}

/// The key of a tipset of one block with that name.
pub(super) fn key(name: &str) -> TipSetKey {
    TipSetKey(vec![cid(name)])
}

/// A tree of tipsets with names.
#[derive(Debug, Clone, Default)]
pub(super) struct Chain {
    tipsets: BTreeMap<String, TipSet>,
}

impl Chain {
    /// Adds a tipset on top of `parent`; without one it is a genesis.
    pub(super) fn add(&mut self, name: &str, height: i64, parent: &str) {
        let parents = if parent.is_empty() {
            TipSetKey::HEAD
        } else {
            key(parent)
        };
        let block = BlockHeader {
            miner: Address::new_id(1000),
            parents,
            height,
            parent_state_root: cid("state"),
            timestamp: 1_760_000_000 + 30 * height.unsigned_abs(),
            parent_base_fee: TokenAmount::from_atto(100),
        };
        let tipset = TipSet {
            key: key(name),
            blocks: vec![block],
            height,
        };
        self.tipsets.insert(name.to_owned(), tipset);
    }

    /// Adds tipsets one after the other, from height 1.
    pub(super) fn line(&mut self, names: &[&str]) {
        let mut parent = "";
        for (at, name) in names.iter().enumerate() {
            self.add(name, at as i64 + 1, parent);
            parent = name;
        }
    }

    pub(super) fn get(&self, name: &str) -> TipSet {
        self.tipsets[name].clone()
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.tipsets.remove(name);
    }

    /// What a node says to `ChainGetTipSet`.
    pub(super) fn fetch(&self, wanted: &TipSetKey) -> Result<TipSet, NodeError> {
        let found = self.tipsets.values().find(|tipset| tipset.key == *wanted);
        found.cloned().ok_or_else(|| NodeError::App {
            node: "chain".into(),
            method: "ChainGetTipSet",
            code: 1,
            message: "ipld: could not find".into(),
            kind: super::AppError::Other,
        })
    }

    pub(super) fn names(&self, tipsets: &[TipSet]) -> Vec<String> {
        let name = |tipset: &TipSet| {
            let found = self.tipsets.iter().find(|(_, known)| known.key == tipset.key);
            found.map_or("?".to_owned(), |(name, _)| name.clone())
        };
        tipsets.iter().map(name).collect()
    }
}

/// What the node says to a call.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// A result, as JSON text.
    Result(String),
    /// An error of the method.
    Error(i64, &'static str),
    /// A status with a page instead of JSON-RPC.
    Status(u16),
    /// These bytes, whatever they are.
    Raw(Vec<u8>),
    /// Nothing, for so long.
    Silence(Duration),
    /// The tipset that was asked for.
    Tipset(Box<Chain>),
}

/// A call that arrived.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Call {
    pub(super) method: String,
    pub(super) params: Value,
    pub(super) token: Option<String>,
}

/// What the node does on a WebSocket connection, in order. At the end the connection stays open.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Reads the call to subscribe.
    Call,
    /// Sends a text.
    Send(String),
    /// Closes the connection.
    Close,
}

#[derive(Default)]
struct Script {
    replies: HashMap<&'static str, Reply>,
    once: HashMap<&'static str, VecDeque<Reply>>,
    calls: Vec<Call>,
    sockets: VecDeque<Vec<Step>>,
    socket_tokens: Vec<Option<String>>,
}

type Shared = Arc<Mutex<Script>>;

/// A scripted node on a port of its own.
pub(super) struct Server {
    script: Shared,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Shared::default();
        let split = Split {
            listener,
            script: script.clone(),
        };
        let app = axum::Router::new()
            .route("/rpc/v1", axum::routing::post(answer))
            .with_state(script.clone());
        let task = tokio::spawn(async move {
            axum::serve(split, app).await.unwrap();
        });
        Self {
            script,
            address,
            task,
        }
    }

    /// What a method answers from now on.
    pub(super) fn on(&self, method: &'static str, reply: Reply) {
        self.script.lock().unwrap().replies.insert(method, reply);
    }

    /// What a method answers once, before what it answers always.
    pub(super) fn once(&self, method: &'static str, reply: Reply) {
        self.script
            .lock()
            .unwrap()
            .once
            .entry(method)
            .or_default()
            .push_back(reply);
    }

    /// A method that answers with a result, always.
    pub(super) fn result(&self, method: &'static str, result: impl Into<String>) {
        self.on(method, Reply::Result(result.into()));
    }

    /// What happens on the next WebSocket connection. Without a script there is no WebSocket.
    pub(super) fn socket(&self, steps: Vec<Step>) {
        self.script.lock().unwrap().sockets.push_back(steps);
    }

    /// The calls that arrived, which are forgotten.
    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.script.lock().unwrap().calls)
    }

    pub(super) fn methods(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.method).collect()
    }

    /// The tokens with which WebSocket connections came.
    pub(super) fn socket_tokens(&self) -> Vec<Option<String>> {
        self.script.lock().unwrap().socket_tokens.clone()
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&format!("tok.en:http://{}", self.address)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where nothing listens.
pub(super) async fn nobody() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    Endpoint::parse(&format!("http://{address}")).unwrap()
}

/// Gives HTTP calls to axum and WebSocket connections to their scripts.
struct Split {
    listener: TcpListener,
    script: Shared,
}

impl axum::serve::Listener for Split {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            let mut start = [0; 3];
            match stream.peek(&mut start).await {
                Ok(3) if start == *b"GET" => {
                    tokio::spawn(socket(stream, self.script.clone()));
                }
                _ => return (stream, address),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

async fn socket(stream: TcpStream, script: Shared) {
    let Some(steps) = script.lock().unwrap().sockets.pop_front() else {
        // The connection ends without an answer.
        return;
    };
    #[expect(clippy::result_large_err, reason = "the library's callback has this type")]
    let note = |request: &Request, response: Handshake| {
        let token = request
            .headers()
            .get("authorization")
            .map(|token| token.to_str().unwrap().to_owned());
        script.lock().unwrap().socket_tokens.push(token);
        Ok(response)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, note).await else {
        return;
    };
    for step in steps {
        match step {
            Step::Call => {
                let Some(Ok(Message::Text(text))) = socket.next().await else {
                    return;
                };
                let call: Value = serde_json::from_str(&text).unwrap();
                let literal = r#"{"jsonrpc":"2.0","id":1,"method":"Filecoin.ChainNotify","params":[]}"#;
                assert_eq!(call, serde_json::from_str::<Value>(literal).unwrap());
            }
            // The other side may be gone.
            Step::Send(text) => drop(socket.send(Message::text(text)).await),
            Step::Close => {
                drop(socket.close(None).await);
                return;
            }
        }
    }
    while socket.next().await.is_some() {}
}

async fn answer(State(script): State<Shared>, headers: HeaderMap, body: String) -> Response<Body> {
    let request: Value = serde_json::from_str(&body).unwrap();
    let method = request["method"]
        .as_str()
        .unwrap()
        .strip_prefix("Filecoin.")
        .unwrap()
        .to_owned();
    assert_eq!(request["jsonrpc"], "2.0");
    let params = request["params"].clone();
    let reply = {
        let mut script = script.lock().unwrap();
        let token = headers
            .get("authorization")
            .map(|token| token.to_str().unwrap().to_owned());
        script.calls.push(Call {
            method: method.clone(),
            params: params.clone(),
            token,
        });
        let once = script.once.get_mut(method.as_str()).and_then(VecDeque::pop_front);
        once.or_else(|| script.replies.get(method.as_str()).cloned())
    };
    let id = &request["id"];
    let error =
        |code: i64, text: &str| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}});
    let (status, body) = match reply {
        Some(Reply::Result(result)) => (
            200,
            format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into_bytes(),
        ),
        Some(Reply::Error(code, text)) => (200, error(code, text).to_string().into_bytes()),
        Some(Reply::Status(status)) => (status, b"<html>no</html>".to_vec()),
        Some(Reply::Raw(bytes)) => (200, bytes),
        Some(Reply::Silence(time)) => {
            tokio::time::sleep(time).await;
            (200, Vec::new())
        }
        Some(Reply::Tipset(chain)) => {
            let wanted: TipSetKey = serde_json::from_value(params[0].clone()).unwrap();
            let answer = match chain.fetch(&wanted) {
                Ok(tipset) => json!({"jsonrpc": "2.0", "id": id, "result": tipset}),
                Err(_) => error(1, "ipld: could not find"),
            };
            (200, answer.to_string().into_bytes())
        }
        None => (
            500,
            error(-32601, &format!("method '{method}' not found"))
                .to_string()
                .into_bytes(),
        ),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    // So that a subscription comes on a connection of its own, where `Split` sees it.
    response
        .headers_mut()
        .insert("connection", axum::http::HeaderValue::from_static("close"));
    response
}
