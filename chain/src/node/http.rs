//! One call to one node over HTTP, bounded in time and in bytes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::bounded;

use super::endpoint::Endpoint;
use super::error::{NodeError, kind_of};
use super::frames::{self, Frame, Request, RpcError};

/// The namespace of all methods.
const NAMESPACE: &str = "Filecoin";

/// A node that is called over HTTP.
pub(super) struct Http {
    pub(super) endpoint: Endpoint,
    pub(super) client: reqwest::Client,
    next_id: AtomicU64,
    pub(super) limit: u64,
}

impl Http {
    pub(super) fn new(endpoint: Endpoint, client: reqwest::Client, limit: u64) -> Self {
        Self {
            endpoint,
            client,
            next_id: AtomicU64::new(1),
            limit,
        }
    }

    /// Calls a method and reads its result.
    pub(super) async fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
        timeout: Duration,
    ) -> Result<R, NodeError> {
        let node = self.endpoint.name();
        let late = NodeError::Timeout {
            node,
            method,
            seconds: timeout.as_secs(),
        };
        match tokio::time::timeout(timeout, self.exchange(method, params)).await {
            Ok(result) => result,
            Err(_) => Err(late),
        }
    }

    async fn exchange<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &P,
    ) -> Result<R, NodeError> {
        let node = self.endpoint.name();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let full = format!("{NAMESPACE}.{method}");
        let body = serde_json::to_vec(&Request::new(id, &full, params))
            .map_err(|e| malformed(&node, method, format!("the parameters: {e}")))?;
        let mut request = self
            .client
            .post(self.endpoint.http())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = self.endpoint.token() {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let broken = |e: reqwest::Error| NodeError::Connection {
            node: node.clone(),
            method,
            // The error's own text may hold the URL, and so more than the name.
            reason: bounded(&e.without_url().to_string()),
        };
        let response = request.body(body).send().await.map_err(broken)?;
        let status = response.status();
        if matches!(status.as_u16(), 401 | 403) {
            return Err(NodeError::Unauthorized {
                node,
                method,
                status: status.as_u16(),
            });
        }
        let body = self.body(method, response).await?;
        let frame = std::str::from_utf8(&body)
            .map_err(|e| e.to_string())
            .and_then(frames::read);
        match frame {
            Ok(Frame::Answer { id: told, result }) if told == id => answer(&node, method, result),
            // Proxies answer with pages of their own.
            _ if !status.is_success() => Err(NodeError::Connection {
                node,
                method,
                reason: format!("HTTP {}", status.as_u16()),
            }),
            Ok(_) => Err(malformed(&node, method, "it answers another call".into())),
            Err(reason) => Err(malformed(&node, method, reason)),
        }
    }

    async fn body(&self, method: &'static str, response: reqwest::Response) -> Result<Vec<u8>, NodeError> {
        let node = self.endpoint.name();
        let too_large = || NodeError::TooLarge {
            node: node.clone(),
            method,
            limit: self.limit,
        };
        if response
            .content_length()
            .is_some_and(|length| length > self.limit)
        {
            return Err(too_large());
        }
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|e| NodeError::Connection {
                node: node.clone(),
                method,
                reason: bounded(&e.without_url().to_string()),
            })?;
            if (body.len() + chunk.len()) as u64 > self.limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn answer<R: DeserializeOwned>(
    node: &str,
    method: &'static str,
    result: Result<Box<serde_json::value::RawValue>, RpcError>,
) -> Result<R, NodeError> {
    match result {
        Ok(value) => serde_json::from_str(value.get()).map_err(|e| malformed(node, method, e.to_string())),
        Err(error) => Err(refused(node, method, &error)),
    }
}

pub(super) fn refused(node: &str, method: &'static str, error: &RpcError) -> NodeError {
    let (node, message) = (node.to_owned(), bounded(&error.message));
    let code = error.code;
    if matches!(code, -32700 | -32600 | -32601 | -32602) {
        return NodeError::NotOffered {
            node,
            method,
            code,
            message,
        };
    }
    NodeError::App {
        node,
        method,
        code,
        kind: kind_of(code, &error.message),
        message,
    }
}

pub(super) fn malformed(node: &str, method: &'static str, reason: String) -> NodeError {
    NodeError::Malformed {
        node: node.to_owned(),
        method,
        reason: bounded(&reason),
    }
}
