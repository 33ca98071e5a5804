//! The client against a scripted node: shapes, failures, several nodes, and the head.

mod calls;
mod follow;
mod shapes;

use std::time::Duration;

use super::testing::Server;
use super::{Client, ClientConfig, Endpoint};

/// A client that does not wait long.
fn client(nodes: Vec<Endpoint>) -> Client {
    Client::new(ClientConfig {
        timeout: Duration::from_secs(5),
        wait_timeout: Duration::from_secs(5),
        answer_bytes: 64 * 1024,
        rounds: 2,
        pause: Duration::from_millis(1),
        ..ClientConfig::new(nodes)
    })
    .unwrap()
}

async fn one() -> (Server, Client) {
    let server = Server::start().await;
    let client = client(vec![server.endpoint()]);
    (server, client)
}
