//! A subscription to head changes: `ChainNotify` over WebSocket, by the channels of go-jsonrpc (chain.md
//! §3.3). The connection begins as an HTTP call, so certificates and token are those of all calls.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rand::RngCore;
use reqwest::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::failure::bounded;

use super::client::NO_PARAMS;
use super::error::NodeError;
use super::frames::{self, Frame, Request};
use super::http::{Http, malformed, refused};
use super::types::TipSet;

const METHOD: &str = "ChainNotify";
/// The id of the one call on a connection.
const CALL: u64 = 1;
/// The most bytes of a notification.
const FRAME_BYTES: usize = 16 * 1024 * 1024;
/// The most values that are kept while their channel is not known.
const EARLY: usize = 64;
/// The most changes in one notification.
const CHANGES: usize = 10_000;

/// What happened to the node's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChangeType {
    /// The head when the subscription began.
    Current,
    /// The tipset is not on the chain any more.
    Revert,
    /// The tipset is the head now.
    Apply,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Change {
    #[serde(rename = "Type")]
    pub(super) kind: ChangeType,
    #[serde(rename = "Val")]
    pub(super) tipset: TipSet,
}

/// The state of the channel: which one is ours, and what came before we knew. Pure.
#[derive(Default)]
struct Channel {
    ours: Option<u64>,
    early: Vec<(u64, Box<RawValue>)>,
    ready: VecDeque<Box<RawValue>>,
}

impl Channel {
    /// Takes a frame; an error ends the subscription.
    fn take(&mut self, node: &str, frame: Frame) -> Result<(), NodeError> {
        match frame {
            Frame::Answer { id: CALL, result } => {
                let value = result.map_err(|error| refused(node, METHOD, &error))?;
                let ours: u64 = serde_json::from_str(value.get())
                    .map_err(|e| malformed(node, METHOD, format!("the channel's number: {e}")))?;
                self.ours = Some(ours);
                let early = std::mem::take(&mut self.early).into_iter();
                self.ready.extend(
                    early
                        .filter(|(channel, _)| *channel == ours)
                        .map(|(_, value)| value),
                );
                Ok(())
            }
            Frame::Value { channel, value } => {
                match self.ours {
                    Some(ours) if ours == channel => self.ready.push_back(value),
                    Some(_) => {}
                    None if self.early.len() < EARLY => self.early.push((channel, value)),
                    None => return Err(malformed(node, METHOD, "values without a channel".into())),
                }
                Ok(())
            }
            Frame::Close { channel } if self.ours.is_none_or(|ours| ours == channel) => {
                Err(ended(node, "the node closed the channel"))
            }
            Frame::Answer { .. } | Frame::Close { .. } | Frame::Other => Ok(()),
        }
    }
}

/// A running subscription.
pub(super) struct Subscription {
    node: String,
    socket: WebSocketStream<reqwest::Upgraded>,
    channel: Channel,
    silence: Duration,
}

impl Subscription {
    /// Connects and subscribes. A connection on which nothing arrives for `silence` counts as dead.
    pub(super) async fn open(http: &Http, silence: Duration) -> Result<Self, NodeError> {
        let node = http.endpoint.name();
        let open = Self::connect(http, silence);
        match tokio::time::timeout(silence, open).await {
            Ok(opened) => opened,
            Err(_) => Err(NodeError::Timeout {
                node,
                method: METHOD,
                seconds: silence.as_secs(),
            }),
        }
    }

    async fn connect(http: &Http, silence: Duration) -> Result<Self, NodeError> {
        let node = http.endpoint.name();
        let mut nonce = [0; 16];
        rand::rngs::OsRng.fill_bytes(&mut nonce);
        let key = data_encoding::BASE64.encode(&nonce);
        let mut request = http
            .client
            .get(http.endpoint.http())
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", &key);
        if let Some(token) = http.endpoint.token() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let broken = |e: reqwest::Error| ended(&node, &e.without_url().to_string());
        let response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        if matches!(status, 401 | 403) {
            return Err(NodeError::Unauthorized {
                node,
                method: METHOD,
                status,
            });
        }
        let accept = response
            .headers()
            .get("Sec-WebSocket-Accept")
            .map(|value| value.as_bytes());
        if status != 101 || accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(ended(
                &node,
                &format!("HTTP {status}: it offers no WebSocket here"),
            ));
        }
        let socket = response.upgrade().await.map_err(broken)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAME_BYTES))
            .max_frame_size(Some(FRAME_BYTES));
        let mut socket = WebSocketStream::from_raw_socket(socket, Role::Client, Some(config)).await;
        let call = serde_json::to_string(&Request::new(CALL, "Filecoin.ChainNotify", NO_PARAMS))
            .map_err(|e| malformed(&node, METHOD, e.to_string()))?;
        socket
            .send(Message::text(call))
            .await
            .map_err(|e| ended(&node, &e.to_string()))?;
        Ok(Self {
            node,
            socket,
            channel: Channel::default(),
            silence,
        })
    }

    /// The next notification. An error ends the subscription. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Vec<Change>, NodeError> {
        loop {
            if let Some(value) = self.channel.ready.pop_front() {
                let changes: Vec<Change> = serde_json::from_str(value.get())
                    .map_err(|e| malformed(&self.node, METHOD, e.to_string()))?;
                if changes.len() > CHANGES {
                    return Err(malformed(
                        &self.node,
                        METHOD,
                        format!("{} changes at once", changes.len()),
                    ));
                }
                return Ok(changes);
            }
            let arrived = tokio::time::timeout(self.silence, self.socket.next()).await;
            let message = match arrived {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(e))) => return Err(ended(&self.node, &e.to_string())),
                Ok(None) => return Err(ended(&self.node, "the connection ended")),
                Err(_) => return Err(ended(&self.node, "nothing arrives any more")),
            };
            match message {
                Message::Text(text) => {
                    let frame =
                        frames::read(&text).map_err(|reason| malformed(&self.node, METHOD, reason))?;
                    self.channel.take(&self.node, frame)?;
                }
                Message::Close(_) => return Err(ended(&self.node, "the node closed the connection")),
                // Pings are answered by the library.
                _ => {}
            }
        }
    }
}

fn ended(node: &str, reason: &str) -> NodeError {
    NodeError::Connection {
        node: node.to_owned(),
        method: METHOD,
        reason: bounded(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(channel: &mut Channel, text: &str) -> Result<(), NodeError> {
        channel.take("n", frames::read(text).unwrap())
    }

    fn value(channel: u64, value: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","method":"xrpc.ch.val","params":[{channel},{value}]}}"#)
    }

    #[test]
    fn values_may_come_before_the_channels_number() {
        let mut channel = Channel::default();
        take(&mut channel, &value(7, "[1]")).unwrap();
        take(&mut channel, &value(8, "[2]")).unwrap();
        take(&mut channel, r#"{"jsonrpc":"2.0","id":1,"result":7}"#).unwrap();
        take(&mut channel, &value(7, "[3]")).unwrap();
        take(&mut channel, &value(8, "[4]")).unwrap();
        let ready: Vec<&str> = channel.ready.iter().map(|value| value.get()).collect();
        assert_eq!(ready, ["[1]", "[3]"]);
    }

    #[test]
    fn what_ends_a_subscription() {
        let mut channel = Channel::default();
        let refused = take(
            &mut channel,
            r#"{"id":1,"error":{"code":-32601,"message":"method not found"}}"#,
        );
        assert!(matches!(refused, Err(NodeError::NotOffered { .. })));
        assert!(take(&mut channel, r#"{"id":1,"result":"seven"}"#).is_err());
        take(&mut channel, r#"{"id":1,"result":7}"#).unwrap();
        take(&mut channel, r#"{"method":"xrpc.ch.close","params":[8]}"#).unwrap();
        assert!(take(&mut channel, r#"{"method":"xrpc.ch.close","params":[7]}"#).is_err());
        let mut flooded = Channel::default();
        let flood = (0..=EARLY).map(|_| take(&mut flooded, &value(7, "[]")));
        assert!(flood.collect::<Result<Vec<_>, _>>().is_err());
    }
}
