//! What goes wrong with calls, and who is asked then.

use std::time::Duration;

use crate::failure::FailureClass;
use crate::message::{SignedMessage, tests::vector};
use crate::node::testing::{Chain, Reply, Server, nobody};
use crate::node::{AppError, ClientConfig, NodeError, TipSetKey};
use crate::types::{Address, Signature};

use super::{Client, client, one};

const HEAD: TipSetKey = TipSetKey::HEAD;

async fn two() -> (Server, Server, Client) {
    let (first, second) = (Server::start().await, Server::start().await);
    let client = client(vec![first.endpoint(), second.endpoint()]);
    (first, second, client)
}

fn head(height: i64) -> String {
    let mut chain = Chain::default();
    chain.add("x", height, "");
    serde_json::to_string(&chain.get("x")).unwrap()
}

#[tokio::test]
async fn another_node_answers_for_one_that_is_down() {
    let second = Server::start().await;
    second.result("StateNetworkVersion", "29");
    let client = client(vec![nobody().await, second.endpoint()]);
    assert_eq!(client.network_version(&HEAD).await.unwrap(), 29);
    assert_eq!(client.status()[0].failures, 1);
    // The node that failed rests, so it is not asked again.
    assert_eq!(client.network_version(&HEAD).await.unwrap(), 29);
    assert_eq!(client.status()[0].failures, 1);
}

#[tokio::test]
async fn failures_of_a_node_go_to_the_next_and_refusals_do_not() {
    for reply in [
        Reply::Status(502),
        Reply::Raw(b"<html>".to_vec()),
        Reply::Raw(br#"{"jsonrpc":"2.0","id":999,"result":29}"#.to_vec()),
        Reply::Raw(br#"{"jsonrpc":"2.0","id":1,"result":"29"}"#.to_vec()),
        Reply::Raw(vec![0xff; 10]),
        Reply::Error(-32601, "method 'Filecoin.StateNetworkVersion' not found"),
        Reply::Error(
            1,
            "missing permission to invoke 'StateNetworkVersion' (need 'read')",
        ),
        Reply::Error(-32005, "limit exceeded"),
        Reply::Status(401),
    ] {
        let (first, second, client) = two().await;
        first.on("StateNetworkVersion", reply.clone());
        second.result("StateNetworkVersion", "29");
        assert_eq!(client.network_version(&HEAD).await.unwrap(), 29, "{reply:?}");
    }
    let (first, second, client) = two().await;
    first.on("StateNetworkVersion", Reply::Error(1, "something of its own"));
    second.result("StateNetworkVersion", "29");
    let error = client.network_version(&HEAD).await.unwrap_err();
    assert_eq!(error.app(), Some(AppError::Other));
    assert!(second.calls().is_empty() && first.calls().len() == 1);
}

#[tokio::test]
async fn tries_are_counted() {
    let (first, second, client) = two().await;
    for node in [&first, &second] {
        node.on("StateNetworkVersion", Reply::Status(503));
    }
    let error = client.network_version(&HEAD).await.unwrap_err();
    assert!(matches!(error, NodeError::Connection { .. }), "{error}");
    assert_eq!(
        first.calls().len() + second.calls().len(),
        4,
        "two rounds of two nodes"
    );
    // Once it works again, it works.
    first.once("StateNetworkVersion", Reply::Status(503));
    first.result("StateNetworkVersion", "29");
    second.on("StateNetworkVersion", Reply::Status(503));
    assert_eq!(client.network_version(&HEAD).await.unwrap(), 29);
}

#[tokio::test]
async fn a_refused_token_is_told_once_and_never_shown() {
    let (server, client) = one().await;
    server.on("StateNetworkVersion", Reply::Status(401));
    let error = client.network_version(&HEAD).await.unwrap_err();
    assert!(matches!(error, NodeError::Unauthorized { status: 401, .. }));
    assert_eq!(error.failure().class, FailureClass::Permanent);
    assert_eq!(server.calls().len(), 1, "another round cannot help");
    let shown = format!("{error} {error:?} {client:?} {:?}", client.config());
    assert!(!shown.contains("tok.en"), "{shown}");
}

#[tokio::test]
async fn a_silent_node_is_left_after_the_timeout() {
    let server = Server::start().await;
    server.on("StateNetworkVersion", Reply::Silence(Duration::from_secs(60)));
    let client = Client::new(ClientConfig {
        timeout: Duration::from_millis(50),
        rounds: 1,
        ..ClientConfig::new(vec![server.endpoint()])
    })
    .unwrap();
    let error = client.network_version(&HEAD).await.unwrap_err();
    assert!(matches!(error, NodeError::Timeout { .. }), "{error}");
    assert_eq!(error.failure().class, FailureClass::Transient);
}

#[tokio::test]
async fn hostile_sizes_are_refused() {
    let (server, client) = one().await;
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"result":"{}"}}"#, "9".repeat(100_000));
    server.on("StateNetworkVersion", Reply::Raw(long.into_bytes()));
    let error = client.network_version(&HEAD).await.unwrap_err();
    assert!(
        matches!(error, NodeError::TooLarge { limit: 65536, .. }),
        "{error}"
    );
    assert_eq!(server.calls().len(), 1);
    let deep = "[".repeat(60_000);
    server.on("StateNetworkVersion", Reply::Raw(deep.into_bytes()));
    assert!(matches!(
        client.network_version(&HEAD).await,
        Err(NodeError::Malformed { .. })
    ));
    server.result("StateGetRandomnessFromTickets", "\"AAE=\"");
    let short = client
        .randomness(crate::randomness::Tag::SealTicket, 1, None, &HEAD)
        .await;
    assert!(matches!(short, Err(NodeError::Malformed { .. })));
}

#[tokio::test]
async fn what_does_not_exist_is_nothing() {
    let (server, client) = one().await;
    let miner = Address::new_id(1000);
    server.on(
        "StateLookupID",
        Reply::Error(1, "resolution lookup failed: actor not found"),
    );
    assert_eq!(client.lookup_id(&miner, &HEAD).await, Ok(None));
    server.on("StateGetActor", Reply::Error(11, "x"));
    assert_eq!(client.actor(&miner, &HEAD).await, Ok(None));
    server.on(
        "StateSectorPreCommitInfo",
        Reply::Error(1, "precommit info is not found"),
    );
    assert_eq!(client.precommit(&miner, 2, &HEAD).await, Ok(None));
    server.on("StateMinerInfo", Reply::Error(1, "actor not found"));
    let error = client.miner_info(&miner, &HEAD).await.unwrap_err();
    assert_eq!(error.failure().code, "actor_not_found");
}

#[tokio::test]
async fn a_node_that_lags_is_asked_last() {
    let (first, second, client) = two().await;
    first.result("ChainHead", head(10));
    second.result("ChainHead", head(13));
    assert_eq!(client.check_heads().await.unwrap().height, 13);
    assert_eq!(client.status()[0].behind, Some(3));
    first.calls();
    second.calls();
    assert_eq!(client.chain_head().await.unwrap().height, 13);
    assert!(first.calls().is_empty());
    first.result("ChainHead", head(13));
    client.check_heads().await.unwrap();
    second.calls();
    client.chain_head().await.unwrap();
    assert!(
        second.calls().is_empty(),
        "it keeps up again, and it is the first"
    );
}

#[tokio::test]
async fn a_node_of_another_network_is_not_used() {
    let (first, second, client) = two().await;
    first.result("StateNetworkName", "\"calibrationnet\"");
    second.result("StateNetworkName", "\"mainnet\"");
    assert_eq!(client.check_network(Some("mainnet")).await.unwrap(), "mainnet");
    assert!(
        client.status()[0]
            .excluded
            .as_deref()
            .is_some_and(|why| why.contains("calibrationnet"))
    );
    second.on("StateNetworkVersion", Reply::Status(502));
    first.result("StateNetworkVersion", "29");
    first.calls();
    assert!(client.network_version(&HEAD).await.is_err());
    assert!(first.calls().is_empty(), "not even when no other is left");
    let alone = super::client(vec![first.endpoint()]);
    let error = alone.check_network(Some("mainnet")).await.unwrap_err();
    assert_eq!(
        (error.failure().class, error.failure().code),
        (FailureClass::Critical, "wrong_network")
    );
    let error = alone.network_version(&HEAD).await.unwrap_err();
    assert!(
        error.to_string().contains("is on the network `calibrationnet`"),
        "{error}"
    );
}

fn signed() -> SignedMessage {
    SignedMessage {
        message: vector("f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y"),
        signature: Signature::new_secp256k1(vec![0; 65]),
    }
}

#[tokio::test]
async fn a_push_goes_to_every_node_and_one_is_enough() {
    let cid = format!(r#"{{"/":"{}"}}"#, crate::node::testing::cid("m"));
    let (first, second, client) = two().await;
    first.result("MpoolPush", &cid);
    second.result("MpoolPush", &cid);
    client.push(&signed()).await.unwrap();
    assert_eq!(
        (first.methods(), second.methods()),
        (vec!["MpoolPush".to_owned()], vec!["MpoolPush".into()])
    );
    second.on("MpoolPush", Reply::Status(502));
    client.push(&signed()).await.unwrap();
    second.on("MpoolPush", Reply::Error(1, "message nonce too low"));
    client.push(&signed()).await.unwrap();
    first.on(
        "MpoolPush",
        Reply::Error(1, "validation failure: already in mpool"),
    );
    client.push(&signed()).await.unwrap();
    first.on("MpoolPush", Reply::Status(502));
    let error = client.push(&signed()).await.unwrap_err();
    assert_eq!(
        error.app(),
        Some(AppError::NonceTooLow),
        "what a working node says"
    );
    second.on("MpoolPush", Reply::Status(502));
    assert!(matches!(
        client.push(&signed()).await,
        Err(NodeError::Connection { .. })
    ));
}

#[tokio::test]
async fn no_nodes_is_an_error() {
    let none = Client::new(ClientConfig::new(vec![]));
    assert!(matches!(none, Err(NodeError::NoNode(_))));
}
