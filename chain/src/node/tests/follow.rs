//! The head, over subscriptions that break.

use std::sync::Arc;
use std::time::Duration;

use crate::node::testing::{Chain, Reply, Server, Step, nobody};
use crate::node::{FollowConfig, HeadEvent, HeadFollower};

use super::client;

fn chain() -> Chain {
    let mut chain = Chain::default();
    chain.line(&["a1", "a2", "a3", "a4", "a5"]);
    chain.add("b3", 3, "a2");
    chain.add("b4", 4, "b3");
    chain
}

fn text(chain: &Chain, name: &str) -> String {
    serde_json::to_string(&chain.get(name)).unwrap()
}

/// A notification, as chain.md §3.3 has it.
fn value(chain: &Chain, changes: &[(&str, &str)]) -> Step {
    let changes: Vec<String> = changes
        .iter()
        .map(|(kind, name)| format!(r#"{{"Type":"{kind}","Val":{}}}"#, text(chain, name)))
        .collect();
    let changes = changes.join(",");
    Step::Send(format!(
        r#"{{"jsonrpc":"2.0","method":"xrpc.ch.val","params":[7,[{changes}]]}}"#
    ))
}

fn channel() -> Step {
    Step::Send(r#"{"jsonrpc":"2.0","id":1,"result":7}"#.into())
}

fn quick() -> FollowConfig {
    FollowConfig {
        poll: Duration::from_secs(3600),
        silence: Duration::from_secs(5),
        pause: Duration::from_millis(1),
        ..FollowConfig::default()
    }
}

/// The next event: names of reverted and applied tipsets.
async fn next(follower: &mut HeadFollower, chain: &Chain) -> (Vec<String>, Vec<String>) {
    let event = tokio::time::timeout(Duration::from_secs(20), follower.next()).await;
    match event.expect("an event in time").expect("the task runs") {
        HeadEvent::Changed { reverted, applied } => (chain.names(&reverted), chain.names(&applied)),
        HeadEvent::Lost { head } => (vec!["lost".into()], chain.names(&[head])),
    }
}

fn step(reverted: &[&str], applied: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
    (owned(reverted), owned(applied))
}

async fn node(chain: &Chain, head: &str) -> Server {
    let server = Server::start().await;
    server.result("ChainHead", text(chain, head));
    server.on("ChainGetTipSet", Reply::Tipset(Box::new(chain.clone())));
    server
}

#[tokio::test]
async fn applies_and_reverts_with_the_token_of_calls() {
    let chain = chain();
    let server = node(&chain, "a2").await;
    server.socket(vec![
        Step::Call,
        // The value before the channel's number.
        value(&chain, &[("current", "a2")]),
        channel(),
        value(&chain, &[("apply", "a3"), ("apply", "a4")]),
        value(&chain, &[("apply", "a4")]),
        value(&chain, &[("revert", "a4"), ("revert", "a3"), ("apply", "b3")]),
        value(&chain, &[("revert", "b3")]),
        value(&chain, &[("apply", "a3"), ("apply", "a4"), ("apply", "a5")]),
    ]);
    let client = Arc::new(client(vec![server.endpoint()]));
    let mut follower = HeadFollower::start(client, quick());
    assert_eq!(next(&mut follower, &chain).await, step(&[], &["a2"]));
    assert_eq!(next(&mut follower, &chain).await, step(&[], &["a3", "a4"]));
    assert_eq!(next(&mut follower, &chain).await, step(&["a4", "a3"], &["b3"]));
    assert_eq!(
        next(&mut follower, &chain).await,
        step(&["b3"], &["a3", "a4", "a5"])
    );
    assert_eq!(server.socket_tokens(), [Some("Bearer tok.en".to_owned())]);
}

#[tokio::test]
async fn a_missed_head_is_made_up_for() {
    for end in [
        Step::Close,
        Step::Send(r#"{"jsonrpc":"2.0","method":"xrpc.ch.close","params":[7]}"#.into()),
        Step::Send("this is no frame".into()),
        Step::Send(
            r#"{"jsonrpc":"2.0","method":"xrpc.ch.val","params":[7,[{"Type":"apply","Val":null}]]}"#.into(),
        ),
    ] {
        let chain = chain();
        let server = node(&chain, "a1").await;
        server.socket(vec![
            Step::Call,
            channel(),
            value(&chain, &[("current", "a1")]),
            value(&chain, &[("apply", "a2")]),
            end,
        ]);
        // While nobody was connected a3, a4 were applied, reverted, and b3, b4 took their place.
        server.socket(vec![Step::Call, channel(), value(&chain, &[("current", "b4")])]);
        let client = Arc::new(client(vec![server.endpoint()]));
        let mut follower = HeadFollower::start(client, quick());
        assert_eq!(next(&mut follower, &chain).await, step(&[], &["a1"]));
        assert_eq!(next(&mut follower, &chain).await, step(&[], &["a2"]));
        assert_eq!(next(&mut follower, &chain).await, step(&[], &["b3", "b4"]));
    }
}

#[tokio::test]
async fn it_goes_on_where_it_was_after_a_restart() {
    let chain = chain();
    let server = node(&chain, "b4").await;
    server.socket(vec![Step::Call, channel(), value(&chain, &[("current", "b4")])]);
    let known = Some(chain.get("a5"));
    let client = Arc::new(client(vec![server.endpoint()]));
    let mut follower = HeadFollower::start(client, FollowConfig { known, ..quick() });
    assert_eq!(
        next(&mut follower, &chain).await,
        step(&["a5", "a4", "a3"], &["b3", "b4"])
    );
}

#[tokio::test]
async fn without_websocket_the_head_is_asked_for() {
    let chain = chain();
    let server = node(&chain, "a1").await;
    let client = Arc::new(client(vec![server.endpoint()]));
    let mut follower = HeadFollower::start(client, quick());
    assert_eq!(next(&mut follower, &chain).await, step(&[], &["a1"]));
    server.result("ChainHead", text(&chain, "a3"));
    assert_eq!(next(&mut follower, &chain).await, step(&[], &["a2", "a3"]));
}

#[tokio::test]
async fn a_dead_connection_is_left() {
    let chain = chain();
    let server = node(&chain, "a1").await;
    server.socket(vec![Step::Call, channel()]);
    server.socket(vec![Step::Call, channel(), value(&chain, &[("current", "a2")])]);
    let client = Arc::new(client(vec![server.endpoint()]));
    let silence = Duration::from_millis(100);
    let mut follower = HeadFollower::start(client, FollowConfig { silence, ..quick() });
    assert_eq!(next(&mut follower, &chain).await, step(&[], &["a1"]));
    assert_eq!(next(&mut follower, &chain).await, step(&[], &["a2"]));
}

#[tokio::test]
async fn a_lagging_node_is_left_for_a_better_one() {
    let chain = chain();
    let (slow, fast) = (node(&chain, "a1").await, node(&chain, "a1").await);
    slow.socket(vec![Step::Call, channel(), value(&chain, &[("current", "a1")])]);
    fast.socket(vec![Step::Call, channel(), value(&chain, &[("current", "a5")])]);
    let client = Arc::new(client(vec![nobody().await, slow.endpoint(), fast.endpoint()]));
    let poll = Duration::from_millis(50);
    let mut follower = HeadFollower::start(client, FollowConfig { poll, ..quick() });
    assert_eq!(next(&mut follower, &chain).await, step(&[], &["a1"]));
    fast.result("ChainHead", text(&chain, "a5"));
    assert_eq!(
        next(&mut follower, &chain).await,
        step(&[], &["a2", "a3", "a4", "a5"])
    );
    // Asked for it, and then subscribed to it.
    for _ in 0..200 {
        if !fast.socket_tokens().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody subscribed to the node that keeps up");
}
