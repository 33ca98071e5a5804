//! Chains that change: null rounds and reorgs.

use serde_json::json;

use crate::node::AppError;
use crate::params::{Call, precommit};
use crate::randomness::Tag;

use super::sealing::sector;
use super::{HEAD, Net, config, fil};

#[tokio::test]
async fn a_reorg_takes_a_precommit_away() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 7, &[]).await]).unwrap();
    let sent = net.send("worker", miner, fil(1), &call).await;
    assert!(net.client.precommit(&miner, 7, &HEAD).await.unwrap().is_some());
    net.command("Devnet.Reorg", json!([2, false])).await;
    net.mine(2).await;
    assert_eq!(net.client.precommit(&miner, 7, &HEAD).await.unwrap(), None);
    assert_eq!(net.client.search_message(&sent.message).await.unwrap(), None);
    assert!(
        net.client.allocated(&miner, &HEAD).await.unwrap().is_empty(),
        "the number is free again"
    );
    // The tipset that left still answers for itself.
    let old = net.client.precommit(&miner, 7, &sent.tip_set).await.unwrap();
    assert!(old.is_some());
}

#[tokio::test]
async fn a_reorg_moves_a_message_and_changes_randomness() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 7, &[]).await]).unwrap();
    net.mine(3).await;
    let sent = net.send("worker", miner, fil(1), &call).await;
    let old_epoch = sent.height - 1;
    let ticket = |epoch| net.client.randomness(Tag::SealTicket, epoch, Some(1000), &HEAD);
    let (before, unchanged) = (
        ticket(old_epoch).await.unwrap(),
        ticket(old_epoch - 5).await.unwrap(),
    );
    net.command("Devnet.Reorg", json!([4, true])).await;
    net.mine(1).await;
    let again = net.found(&sent.message).await;
    assert_eq!(again.message, sent.message);
    assert_ne!(again.tip_set, sent.tip_set);
    let on_chain = net.client.precommit(&miner, 7, &HEAD).await.unwrap().unwrap();
    assert_eq!(on_chain.pre_commit_epoch, again.height - 1);
    assert_ne!(on_chain.pre_commit_epoch, old_epoch, "it landed at another epoch");
    assert_ne!(ticket(old_epoch).await.unwrap(), before);
    assert_eq!(ticket(old_epoch - 5).await.unwrap(), unchanged);
}

#[tokio::test]
async fn null_rounds() {
    let net = Net::start().await;
    net.mine(5).await;
    net.command("Devnet.SkipNull", json!([3])).await;
    net.mine(1).await;
    assert_eq!(net.height().await, 10);
    for (asked, before, after) in [(5, 5, 5), (6, 5, 9), (8, 5, 9), (9, 9, 9), (10, 10, 10)] {
        assert_eq!(net.client.tipset_at(asked, &HEAD).await.unwrap().height, before);
        assert_eq!(net.client.tipset_from(asked, &HEAD).await.unwrap().height, after);
    }
    let draw = |tag, epoch| net.client.randomness(tag, epoch, None, &HEAD);
    // A ticket of a null round is the next one's, drawn for the round; the beacon has every round.
    let mut seen = std::collections::BTreeSet::new();
    for epoch in 5..=10 {
        seen.insert(draw(Tag::SealTicket, epoch).await.unwrap());
        seen.insert(draw(Tag::SealSeed, epoch).await.unwrap());
    }
    assert_eq!(seen.len(), 12);
    let error = draw(Tag::SealSeed, 11).await.unwrap_err();
    assert_eq!(error.app(), Some(AppError::FutureRandomness), "{error}");
    let head = net.client.chain_head().await.unwrap();
    let parent = net.client.tipset(head.parents()).await.unwrap();
    assert_eq!(head.timestamp() - parent.timestamp(), 1);
    let before = net.client.tipset(parent.parents()).await.unwrap();
    assert_eq!(
        (
            parent.height,
            before.height,
            parent.timestamp() - before.timestamp()
        ),
        (9, 5, 4)
    );
}

#[tokio::test]
async fn a_snapshot_brings_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let data = config(Some(dir.path().join("chain")));
    let net = Net::open(data.clone()).await;
    let miner = net.miner().await;
    let waiting = net.signed("owner", miner, fil(1), &Call::Send).await;
    net.client.push(&waiting).await.unwrap();
    let before = net.client.chain_head().await.unwrap();
    net.command("Devnet.Snapshot", json!(["before"])).await;
    net.mine(2).await;
    let landed = net.found(&waiting.cid().unwrap()).await;
    net.command("Devnet.SetBaseFee", json!(["300"])).await;
    net.command("Devnet.Snapshot", json!(["after"])).await;
    let after = net.client.chain_head().await.unwrap();

    net.command("Devnet.Restore", json!(["before"])).await;
    assert_eq!(net.client.chain_head().await.unwrap(), before);
    assert_eq!(net.client.search_message(&landed.message).await.unwrap(), None);
    assert_eq!(net.client.mpool_pending(&HEAD).await.unwrap().len(), 1);
    net.mine(2).await;
    let other = net.client.chain_head().await.unwrap();
    assert!(other.height == after.height && other != after, "another branch");
    assert_eq!(other.base_fee().atto().to_string(), "100");
    assert_eq!(net.found(&landed.message).await.message, landed.message);

    net.command("Devnet.Restore", json!(["after"])).await;
    assert_eq!(net.client.chain_head().await.unwrap(), after);
    assert!(net.client.mpool_pending(&HEAD).await.unwrap().is_empty());
    net.mine(1).await;
    assert_eq!(
        net.client
            .chain_head()
            .await
            .unwrap()
            .base_fee()
            .atto()
            .to_string(),
        "300"
    );
    assert_eq!(net.found(&landed.message).await, landed);
    let answer = net
        .raw(
            crate::devnet::Permission::Admin,
            "Devnet.Restore",
            json!(["never"]),
        )
        .await;
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("no snapshot"),
        "{answer}"
    );
    // The chain on disk is that of the head, and the names are gone.
    let head = net.client.chain_head().await.unwrap();
    net.devnet.stop().await.unwrap();
    let net = Net::open(data).await;
    assert_eq!(net.client.chain_head().await.unwrap(), head);
    assert!(net.client.mpool_pending(&HEAD).await.unwrap().is_empty());
    net.mine(1).await;
    net.check().await;
}
