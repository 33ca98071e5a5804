//! The head as the crate's own follower sees it, with notifications that come twice, late, or not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::node::{FollowConfig, HeadEvent, HeadFollower};

use super::{Net, PATIENCE};

fn follow(net: &Net) -> HeadFollower {
    let config = FollowConfig {
        poll: Duration::from_millis(500),
        pause: Duration::from_millis(10),
        silence: Duration::from_secs(30),
        ..FollowConfig::default()
    };
    HeadFollower::start(Arc::clone(&net.client), config)
}

/// Follows until a height, and tells the heights that were applied and how many were reverted.
async fn until(follower: &mut HeadFollower, height: i64) -> (Vec<i64>, usize) {
    let (mut applied_heights, mut reverts) = (Vec::new(), 0);
    let follow = async {
        loop {
            match follower.next().await.expect("the task runs") {
                HeadEvent::Changed { reverted, applied } => {
                    reverts += reverted.len();
                    applied_heights.extend(applied.iter().map(|tipset| tipset.height));
                }
                HeadEvent::Lost { head } => applied_heights.push(head.height),
            }
            if applied_heights.last() == Some(&height) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, follow)
        .await
        .expect("the head in time");
    (applied_heights, reverts)
}

#[tokio::test]
async fn every_head_comes_once_and_a_reorg_is_told() {
    let net = Net::start().await;
    let mut follower = follow(&net);
    assert_eq!(until(&mut follower, 0).await, (vec![0], 0));
    net.mine(3).await;
    assert_eq!(until(&mut follower, 3).await, (vec![1, 2, 3], 0));
    net.command("Devnet.SkipNull", json!([4])).await;
    assert_eq!(until(&mut follower, 8).await, (vec![8], 0));
    net.command("Devnet.Reorg", json!([2, true])).await;
    // Two tipsets went, three came.
    assert_eq!(until(&mut follower, 5).await, (vec![3, 4, 5], 2));
}

#[tokio::test]
async fn notifications_that_are_late_doubled_or_cut() {
    let net = Net::start().await;
    for fault in [
        json!({"twice": true}),
        json!({"delay_ms": 30}),
        json!({"close_after": 2}),
        json!({"twice": true, "delay_ms": 5, "close_after": 3}),
    ] {
        net.command("Devnet.InjectNotifyFault", json!([fault])).await;
        let mut follower = follow(&net);
        let start = net.height().await;
        until(&mut follower, start).await;
        for _ in 0..6 {
            net.mine(1).await;
        }
        let (heights, reverts) = until(&mut follower, start + 6).await;
        assert_eq!(heights, (start + 1..=start + 6).collect::<Vec<_>>(), "{fault}");
        assert_eq!(reverts, 0);
    }
}
