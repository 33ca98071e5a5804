//! A chain that is closed and opened again, and one whose process was killed.

use serde_json::json;

use crate::devnet::{Devnet, DevnetError, Profile};
use crate::params::{Call, precommit};

use super::sealing::sector;
use super::verifier::ClaimVerifier;
use super::{HEAD, Net, config, fil};

#[tokio::test]
async fn everything_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = Some(dir.path().join("chain"));
    let net = Net::open(config(data.clone())).await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 7, &[]).await]).unwrap();
    let sent = net.send("worker", miner, fil(1), &call).await;
    net.command("Devnet.Reorg", json!([1, true])).await;
    net.command("Devnet.SetBaseFee", json!(["200"])).await;
    net.mine(2).await;
    let waiting = net.signed("owner", miner, fil(1), &Call::Send).await;
    net.client.push(&waiting).await.unwrap();
    let (head, token) = (
        net.client.chain_head().await.unwrap(),
        net.devnet.token(crate::devnet::Permission::Admin),
    );
    let owner = net.key("owner").address;
    // Nobody else may use the folder meanwhile.
    let second = Devnet::start(config(data.clone()), Box::new(ClaimVerifier)).await;
    assert!(matches!(second, Err(DevnetError::InUse { .. })));
    net.devnet.stop().await.unwrap();

    let net = Net::open(config(data.clone())).await;
    assert_eq!(net.client.chain_head().await.unwrap(), head);
    assert_eq!(net.devnet.token(crate::devnet::Permission::Admin), token);
    assert_eq!(net.key("owner").address, owner);
    assert!(net.client.precommit(&miner, 7, &HEAD).await.unwrap().is_some());
    let old = net.client.tipset(&sent.tip_set).await;
    assert!(old.is_ok(), "tipsets that left the chain are there too");
    assert_eq!(net.client.mpool_pending(&HEAD).await.unwrap().len(), 1);
    net.mine(2).await;
    net.found(&waiting.cid().unwrap()).await;
    assert_eq!(
        net.client
            .chain_head()
            .await
            .unwrap()
            .base_fee()
            .atto()
            .to_string(),
        "200"
    );
    net.devnet.stop().await.unwrap();

    let mut other = config(data);
    other.profile = Profile::Fast;
    let refused = Devnet::start(other, Box::new(ClaimVerifier)).await;
    assert!(matches!(refused, Err(DevnetError::OtherProfile { .. })));
}

/// What a kill leaves of the file is a part of it: each such chain opens, and goes on.
#[tokio::test]
async fn a_kill_at_any_write_leaves_a_chain_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let net = Net::open(config(Some(whole.clone()))).await;
    let miner = net.miner().await;
    net.mine(3).await;
    let tip = net.height().await;
    net.devnet.stop().await.unwrap();
    let log = std::fs::read(whole.join("chain.log")).unwrap();
    let mut heights = std::collections::BTreeSet::new();
    for part in 0..=24 {
        let cut = log.len() * part / 24;
        let folder = dir.path().join(format!("cut-{part}"));
        std::fs::create_dir(&folder).unwrap();
        for name in ["genesis.json", "keys.json", "jwt_secret"] {
            std::fs::copy(whole.join(name), folder.join(name)).unwrap();
        }
        std::fs::write(folder.join("chain.log"), &log[..cut]).unwrap();
        let net = Net::open(config(Some(folder))).await;
        let height = net.height().await;
        heights.insert(height);
        net.mine(2).await;
        assert_eq!(net.height().await, height + 2);
        if height == tip {
            assert!(net.client.miner_info(&miner, &HEAD).await.is_ok());
        }
        net.check().await;
        net.devnet.stop().await.unwrap();
    }
    assert!(heights.contains(&0) && heights.contains(&tip), "{heights:?}");
}

#[tokio::test]
async fn secrets_are_for_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("chain");
    let net = Net::open(config(Some(data.clone()))).await;
    assert_eq!(net.devnet.token_files().len(), 4);
    for name in ["keys.json", "jwt_secret", "token-admin", "token-read"] {
        let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(
        std::fs::metadata(&data).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let (_, file) = &net.devnet.token_files()[3];
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        net.devnet.token(crate::devnet::Permission::Admin)
    );
}
