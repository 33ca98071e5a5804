//! Window proofs that are accepted unseen, and those who look at them later.

use serde_json::json;

use crate::json::Form;
use crate::params::{Call, submit_window_post};
use crate::types::{Address, Cid, miner};

use super::post::{active, next_window, open, post};
use super::sealing::comm_r;
use super::{HEAD, Net, fil};

fn dispute(deadline: u64) -> Call {
    Call::DisputeWindowedPoSt(miner::DisputeWindowedPoStParams {
        deadline,
        post_index: 0,
    })
}

/// What the devnet disputes by itself when it is told to look.
async fn disputed(net: &Net) -> Vec<Cid> {
    let sent = net.command("Devnet.Dispute", json!([])).await;
    let sent: Vec<Form<Cid>> = serde_json::from_value(sent).unwrap();
    net.mine(2).await;
    sent.into_iter().map(|cid| cid.0).collect()
}

#[tokio::test]
async fn a_bad_proof_that_nobody_looked_at_is_disputed() {
    let net = Net::start().await;
    net.command("Devnet.SetPostCheck", json!(["optimistic"])).await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let window = next_window(&net, miner, place.deadline).await;
    // While the window is open nobody can.
    let (code, text) = net.dry(miner, &dispute(place.deadline)).await;
    assert!(code == 18 && text.contains("during the dispute window"), "{text}");
    assert_eq!(net.dry(miner, &dispute(48)).await.0, 16);
    net.until(window.close + 1).await;
    let (code, text) = net.dry(miner, &dispute(place.deadline)).await;
    assert!(
        code == 16 && text.contains("failed to dispute valid post"),
        "{text}"
    );
    assert!(disputed(&net).await.is_empty());

    let window = open(&net, miner, place.deadline).await;
    let mut bad = post(&net, miner, &window, place.partition, &[], &[(7, comm_r(7))]).await;
    bad.proof[0] ^= 1;
    assert_eq!(net.code(miner, &submit_window_post(bad).unwrap()).await, 0);
    let power = || async { net.client.power(&miner, &HEAD).await.unwrap().miner_power };
    assert_eq!(power().await.raw_byte_power, 2048.into());
    net.until(window.close + 1).await;
    // Of a poor miner whoever disputed gets all that there is.
    net.send("owner", miner, fil(100), &Call::Send).await;
    let ashes = Address::new_id(99);
    let burnt = net.client.wallet_balance(&ashes).await.unwrap();
    let sent = disputed(&net).await;
    assert_eq!(sent.len(), 1);
    assert!(net.found(&sent[0]).await.receipt.exit_code.is_success());
    let faults = net.client.faults(&miner, &HEAD).await.unwrap();
    assert_eq!(faults.iter().collect::<Vec<_>>(), [7]);
    assert_eq!(power().await.raw_byte_power, 0.into());
    assert!(net.client.wallet_balance(&ashes).await.unwrap() > burnt + fil(1));
    net.check().await;
    // Once is enough.
    assert!(disputed(&net).await.is_empty());
    assert_eq!(net.dry(miner, &dispute(place.deadline)).await.0, 16);
}
