//! Several nodes as one: the best is asked first, another where that can help, again after a pause, and not
//! for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::types::ChainEpoch;

use super::endpoint::Endpoint;
use super::error::NodeError;
use super::health::{self, Health, NodeStatus};
use super::http::Http;
use super::types::TipSet;

/// The nodes and the limits.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The nodes, best first.
    pub nodes: Vec<Endpoint>,
    /// How long an ordinary call may take.
    pub timeout: Duration,
    /// How long a call may take that waits for the chain (`StateWaitMsg`, a beacon entry).
    pub wait_timeout: Duration,
    /// The most bytes of an answer.
    pub answer_bytes: u64,
    /// How often all nodes are tried before a call fails.
    pub rounds: u32,
    /// The pause after a round, doubled each time.
    pub pause: Duration,
    /// How many epochs a node may be behind the best one before others are preferred.
    pub lag: ChainEpoch,
}

impl ClientConfig {
    /// Limits for nodes of a public network.
    pub fn new(nodes: Vec<Endpoint>) -> Self {
        Self {
            nodes,
            timeout: Duration::from_secs(30),
            wait_timeout: Duration::from_secs(600),
            answer_bytes: 256 * 1024 * 1024,
            rounds: 3,
            pause: Duration::from_millis(500),
            lag: 2,
        }
    }
}

/// The longest pause between rounds.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// A client of one or several nodes of one network.
pub struct Client {
    nodes: Vec<Http>,
    health: Mutex<Vec<Health>>,
    config: ClientConfig,
}

impl Client {
    /// A client; nothing is sent yet. Call [`Client::check_network`] before relying on the nodes.
    ///
    /// # Errors
    /// There are no nodes, or the system's certificates cannot be read.
    pub fn new(config: ClientConfig) -> Result<Self, NodeError> {
        if config.nodes.is_empty() {
            return Err(NodeError::NoNode("none is configured".into()));
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            // A token must not follow to another place.
            .redirect(reqwest::redirect::Policy::none())
            // Subscriptions take over their connection, which HTTP/2 has no use for.
            .http1_only()
            .build()
            .map_err(|e| NodeError::NoNode(e.to_string()))?;
        let nodes = config.nodes.iter().cloned();
        Ok(Self {
            nodes: nodes
                .map(|node| Http::new(node, http.clone(), config.answer_bytes))
                .collect(),
            health: Mutex::new(vec![Health::default(); config.nodes.len()]),
            config,
        })
    }

    fn health(&self) -> MutexGuard<'_, Vec<Health>> {
        // Counters are whole after every statement.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each node.
    pub fn status(&self) -> Vec<NodeStatus> {
        let names: Vec<String> = self.nodes.iter().map(|node| node.endpoint.name()).collect();
        health::status(&names, &self.health())
    }

    /// The nodes that may be asked now, best first.
    pub(super) fn order(&self) -> Vec<usize> {
        health::order(&self.health(), self.config.lag, Instant::now())
    }

    pub(super) fn node(&self, node: usize) -> &Http {
        &self.nodes[node]
    }

    /// Notes how something went that was no call, such as a subscription.
    pub(super) fn note<T>(&self, node: usize, result: &Result<T, NodeError>) {
        let mut health = self.health();
        match result {
            Err(error) if error.is_node_trouble() => health[node].failed(Instant::now()),
            _ => health[node].succeeded(),
        }
    }

    /// Notes a node's head.
    pub(super) fn saw_head(&self, node: usize, height: ChainEpoch) {
        self.health()[node].saw_head(height);
    }

    pub(super) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Calls one node, once.
    pub(super) async fn call_node<R: DeserializeOwned>(
        &self,
        node: usize,
        method: &'static str,
        params: &impl Serialize,
        timeout: Duration,
    ) -> Result<R, NodeError> {
        let result = self.nodes[node].call(method, params, timeout).await;
        self.note(node, &result);
        result
    }

    /// Calls the best node, and others where that can help. Every method that goes through here may be
    /// repeated: reading does no harm, and a message that is pushed twice is one message.
    ///
    /// # Errors
    /// A node refuses, or none answers within the configured rounds.
    pub(super) async fn call<R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &impl Serialize,
    ) -> Result<R, NodeError> {
        self.call_within(method, params, self.config.timeout).await
    }

    pub(super) async fn call_within<R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &impl Serialize,
        timeout: Duration,
    ) -> Result<R, NodeError> {
        let mut last = None;
        for round in 0..self.config.rounds.max(1) {
            if round > 0 {
                let pause = self.config.pause.saturating_mul(1 << (round - 1).min(10));
                tokio::time::sleep(pause.min(PAUSE_MAX)).await;
            }
            for node in self.order() {
                match self.call_node(node, method, params, timeout).await {
                    Err(error) if error.is_node_trouble() => {
                        tracing::debug!(%error, "the next node is asked");
                        last = Some(error);
                    }
                    result => return result,
                }
            }
            if last.as_ref().is_some_and(hopeless) {
                break;
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    fn nobody(&self) -> NodeError {
        let health = self.health();
        let reasons: Vec<&str> = health.iter().filter_map(Health::excluded).collect();
        NodeError::NoNode(reasons.join("; "))
    }

    /// Calls all usable nodes at once, each once, and gives each answer with the node's place.
    pub(super) async fn call_all<R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &impl Serialize,
    ) -> Vec<(usize, Result<R, NodeError>)> {
        let calls = self.order().into_iter().map(|node| async move {
            let answer = self.call_node(node, method, params, self.config.timeout).await;
            (node, answer)
        });
        join_all(calls).await
    }

    /// Asks all nodes for their heads, so that those that lag are asked last, and returns the heaviest known
    /// head: the highest, of those the first.
    ///
    /// # Errors
    /// No node answers.
    pub async fn check_heads(&self) -> Result<TipSet, NodeError> {
        let answers = self.call_all::<TipSet>("ChainHead", &NO_PARAMS).await;
        let mut best: Option<TipSet> = None;
        let mut last = None;
        for (node, answer) in answers {
            match answer {
                Ok(head) => {
                    self.saw_head(node, head.height);
                    if best.as_ref().is_none_or(|best| head.height > best.height) {
                        best = Some(head);
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        best.ok_or_else(|| last.unwrap_or_else(|| self.nobody()))
    }

    /// Asks every node for its network, and excludes those of another than `wanted`; without it, those of
    /// another than the first node that answers. Returns the network's name.
    ///
    /// # Errors
    /// No node of the network is left.
    pub async fn check_network(&self, wanted: Option<&str>) -> Result<String, NodeError> {
        let answers = self.call_all::<String>("StateNetworkName", &NO_PARAMS).await;
        let mut wanted = wanted.map(str::to_owned);
        let mut last = None;
        let mut found = None;
        for (node, answer) in answers {
            let name = match answer {
                Ok(name) => crate::failure::bounded(&name),
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            let wanted = wanted.get_or_insert_with(|| name.clone());
            if name == *wanted {
                found = Some(name);
                continue;
            }
            let error = NodeError::WrongNetwork {
                node: self.nodes[node].endpoint.name(),
                found: name,
                wanted: wanted.clone(),
            };
            tracing::warn!(%error, "the node is not used");
            self.health()[node].exclude(error.to_string());
            last = Some(error);
        }
        found.ok_or_else(|| last.unwrap_or_else(|| self.nobody()))
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("nodes", &self.status())
            .finish_non_exhaustive()
    }
}

/// Whether trying the same nodes again cannot help.
fn hopeless(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::Unauthorized { .. } | NodeError::NotOffered { .. } | NodeError::Malformed { .. }
    )
}

/// The parameters of a method that takes none.
pub(super) const NO_PARAMS: [&RawValue; 0] = [];
