//! Money, the pool, permissions, the clock and faults.

use std::time::Duration;

use serde_json::json;

use crate::devnet::{Clock, Permission};
use crate::node::{AppError, NodeError};
use crate::params::Call;
use crate::types::{Address, Message, TokenAmount};

use super::{HEAD, Net, PATIENCE, config, fil, sign, text};

fn new_key() -> Address {
    crate::wallet::SecretKey::generate(crate::wallet::KeyType::Secp256k1)
        .and_then(|key| key.address())
        .unwrap()
}

#[tokio::test]
async fn a_payment_is_seen_one_tipset_later() {
    let net = Net::start().await;
    let to = new_key();
    let signed = net.signed("owner", to, fil(3), &Call::Send).await;
    let cid = signed.cid().unwrap();
    net.client.push(&signed).await.unwrap();
    assert_eq!(net.client.search_message(&cid).await.unwrap(), None);
    net.mine(1).await;
    // It is in the head, whose state is that before it.
    assert_eq!(net.client.search_message(&cid).await.unwrap(), None);
    assert_eq!(net.client.lookup_id(&to, &HEAD).await.unwrap(), None);
    let held = net.height().await;
    net.mine(1).await;
    let found = net.found(&cid).await;
    assert_eq!((found.message, found.height), (cid, held + 1));
    assert_eq!(
        net.client
            .actor(&to, &found.tip_set)
            .await
            .unwrap()
            .unwrap()
            .balance,
        fil(3)
    );
    let id = net.client.lookup_id(&to, &HEAD).await.unwrap().unwrap();
    assert_eq!(net.client.account_key(&id, &HEAD).await.unwrap(), to);
    let block = net.client.chain_head().await.unwrap().key.0[0];
    let (messages, receipts) = (
        net.client.parent_messages(&block).await.unwrap(),
        net.client.parent_receipts(&block).await.unwrap(),
    );
    assert_eq!((messages.len(), receipts.len()), (1, 1));
    assert_eq!(
        (messages[0].cid, receipts[0].gas_used),
        (cid, found.receipt.gas_used)
    );
    assert_eq!(net.client.message(&cid).await.unwrap(), signed.message);
    assert_eq!(net.client.wait_message(&cid, 0).await.unwrap(), found);
}

#[tokio::test]
async fn money_is_neither_made_nor_lost() {
    let net = Net::start().await;
    let miner = net.miner().await;
    net.send("owner", new_key(), fil(3), &Call::Send).await;
    let mut total = TokenAmount::from_atto(0);
    for id in (0..=110).chain(1000..1020) {
        let actor = net.client.actor(&Address::new_id(id), &HEAD).await.unwrap();
        total += actor.map_or_else(TokenAmount::default, |actor| actor.balance);
    }
    assert_eq!(total, fil(6 * 1_000_000));
    assert!(net.client.actor(&miner, &HEAD).await.unwrap().is_some());
}

#[tokio::test]
async fn nonces_come_in_order_and_a_gap_waits() {
    let net = Net::start().await;
    let key = net.key("owner");
    let first = net.signed("owner", new_key(), fil(1), &Call::Send).await;
    let later = |nonce| {
        let message = Message {
            sequence: nonce,
            ..first.message.clone()
        };
        sign(key, message)
    };
    let second = later(1);
    net.client.push(&second).await.unwrap();
    net.mine(2).await;
    assert_eq!(
        net.client.search_message(&second.cid().unwrap()).await.unwrap(),
        None
    );
    assert_eq!(
        net.client.mpool_nonce(&key.address).await.unwrap(),
        0,
        "the gap is to be filled"
    );
    assert_eq!(net.client.mpool_pending(&HEAD).await.unwrap().len(), 1);
    net.client.push(&first).await.unwrap();
    assert_eq!(net.client.mpool_nonce(&key.address).await.unwrap(), 2);
    net.mine(2).await;
    net.found(&second.cid().unwrap()).await;
    let refused = net.client.push(&first).await.unwrap_err();
    assert_eq!(refused.app(), Some(AppError::NonceTooLow), "{refused}");
    let far = json!([crate::message::SignedMessageJson::from(&later(20))]);
    let answer = net
        .raw(Permission::Write, "Filecoin.MpoolPushUntrusted", far)
        .await;
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("unfulfilled nonce gap"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_higher_premium_takes_the_place() {
    let net = Net::start().await;
    let first = net.signed("owner", new_key(), fil(1), &Call::Send).await;
    net.client.push(&first).await.unwrap();
    // The very same is known, which is as good as taken.
    net.client.push(&first).await.unwrap();
    let with = |premium| {
        let message = Message {
            gas_premium: TokenAmount::from_atto(premium),
            ..first.message.clone()
        };
        sign(net.key("owner"), message)
    };
    let refused = net.client.push(&with(110)).await.unwrap_err();
    assert_eq!(refused.app(), Some(AppError::PremiumTooLow), "{refused}");
    let second = with(111);
    net.client.push(&second).await.unwrap();
    net.mine(2).await;
    // Whoever asks for the first learns of the second.
    let found = net.found(&first.cid().unwrap()).await;
    assert_eq!(found.message, second.cid().unwrap());
}

#[tokio::test]
async fn what_the_pool_refuses() {
    let net = Net::start().await;
    let good = net.signed("owner", new_key(), fil(1), &Call::Send).await;
    let mut forged = good.clone();
    forged.message.value = fil(2);
    let poor = sign(
        net.key("owner"),
        Message {
            value: fil(2_000_000),
            ..good.message.clone()
        },
    );
    let cheap = sign(
        net.key("owner"),
        Message {
            gas_fee_cap: TokenAmount::from_atto(99),
            gas_premium: TokenAmount::from_atto(0),
            ..good.message.clone()
        },
    );
    for (signed, words) in [
        (forged, "signature"),
        (poor, "not enough funds"),
        (cheap, "smallest base fee"),
    ] {
        let refused = net.client.push(&signed).await.unwrap_err().to_string();
        assert!(refused.contains(words), "{refused}");
    }
}

#[tokio::test]
async fn a_fee_cap_below_the_base_fee_waits() {
    let net = Net::start().await;
    let signed = net.signed("owner", new_key(), fil(1), &Call::Send).await;
    net.client.push(&signed).await.unwrap();
    net.command("Devnet.SetBaseFee", json!(["2001"])).await;
    net.mine(2).await;
    let cid = signed.cid().unwrap();
    assert_eq!(net.client.search_message(&cid).await.unwrap(), None);
    assert_eq!(
        net.client.chain_head().await.unwrap().base_fee(),
        &TokenAmount::from_atto(2001)
    );
    net.command("Devnet.SetBaseFee", json!(["100"])).await;
    net.mine(2).await;
    net.found(&cid).await;
}

#[tokio::test]
async fn too_little_gas() {
    let net = Net::start().await;
    let good = net.signed("owner", new_key(), fil(1), &Call::Send).await;
    let tight = sign(
        net.key("owner"),
        Message {
            gas_limit: 1000,
            ..good.message.clone()
        },
    );
    net.client.push(&tight).await.unwrap();
    net.mine(2).await;
    let found = net.found(&tight.cid().unwrap()).await;
    assert_eq!(
        (found.receipt.exit_code.value(), found.receipt.gas_used),
        (7, 1000)
    );
    assert_eq!(net.client.lookup_id(&good.message.to, &HEAD).await.unwrap(), None);
    // What the node estimates is enough.
    let unsent = Message {
        sequence: 1,
        gas_limit: 0,
        ..good.message
    };
    let estimate = net
        .client
        .estimate_gas(&unsent, &TokenAmount::from_atto(0), &HEAD)
        .await
        .unwrap();
    let enough = sign(net.key("owner"), estimate);
    net.client.push(&enough).await.unwrap();
    net.mine(2).await;
    assert!(
        net.found(&enough.cid().unwrap())
            .await
            .receipt
            .exit_code
            .is_success()
    );
}

#[tokio::test]
async fn exit_codes_of_the_system() {
    let net = Net::start().await;
    let to = |to, method_num, value: u64| {
        let net = &net;
        async move {
            let mut signed = net.signed("owner", to, fil(value), &Call::Send).await;
            signed.message.method_num = method_num;
            let signed = sign(net.key("owner"), signed.message);
            net.client.push(&signed).await.unwrap();
            net.mine(2).await;
            net.found(&signed.cid().unwrap()).await.receipt.exit_code.value()
        }
    };
    let miner = net.miner().await;
    assert_eq!(to(Address::new_id(5000), 0, 1).await, 5);
    assert_eq!(to(miner, 99, 0).await, 22);
    assert_eq!(to(miner, 7, 0).await, 22, "removed");
    assert_eq!(to(new_key(), 2, 0).await, 22);
    assert_eq!(to(miner, 28, 0).await, 21, "parameters that cannot be read");
}

#[tokio::test]
async fn tokens_and_permissions() {
    let net = Net::start().await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.ChainHead", "params": []});
    let url = format!("http://{}/rpc/v1", net.devnet.address());
    let http = reqwest::Client::new();
    let status = |token: Option<&str>| {
        let request = http.post(&url).json(&call);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(status(None).await, 200);
    assert_eq!(status(Some("no.to.ken")).await, 401);
    let token = net.devnet.token(Permission::Read);
    assert_eq!(status(Some(&token)).await, 200);
    let with_query = http
        .post(format!("{url}?token={token}"))
        .json(&call)
        .send()
        .await
        .unwrap();
    assert_eq!(with_query.status().as_u16(), 200);
    for (permission, method, need) in [
        (Permission::Read, "Filecoin.MpoolPush", "write"),
        (Permission::Write, "Filecoin.MpoolPushMessage", "sign"),
        (Permission::Sign, "Devnet.Mine", "admin"),
    ] {
        let answer = net.raw(permission, method, json!([])).await;
        let text = answer["error"]["message"].as_str().unwrap();
        assert!(text.contains(&format!("(need '{need}')")), "{text}");
    }
    let large = http.post(&url).body(vec![b' '; 9 << 20]).send().await.unwrap();
    assert_eq!(large.status().as_u16(), 413);
    for bad in ["", "{", "[]", "7"] {
        assert_eq!(
            http.post(&url).body(bad).send().await.unwrap().status().as_u16(),
            400,
            "{bad}"
        );
    }
}

#[tokio::test]
async fn money_and_messages_from_the_nodes_own_wallet() {
    let net = Net::start().await;
    let to = new_key();
    net.command("Devnet.Fund", json!([text(to), "5"])).await;
    net.mine(2).await;
    assert_eq!(
        net.client.wallet_balance(&to).await.unwrap(),
        TokenAmount::from_atto(5)
    );
    let message = json!({
        "To": text(to), "From": text(net.key("owner").address), "Value": "7", "Method": 0,
        "GasFeeCap": "0", "GasPremium": "0",
    });
    let sent = net
        .raw(
            Permission::Sign,
            "Filecoin.MpoolPushMessage",
            json!([message, null]),
        )
        .await;
    assert_eq!(sent["result"]["Message"]["Nonce"], 0, "{sent}");
    net.mine(2).await;
    assert_eq!(
        net.client.wallet_balance(&to).await.unwrap(),
        TokenAmount::from_atto(12)
    );
}

#[tokio::test]
async fn faults_of_calls() {
    let net = Net::start().await;
    net.command(
        "Devnet.InjectFault",
        json!([{"method": "ChainHead", "times": 2, "error": {"code": 1, "message": "broken"}}]),
    )
    .await;
    net.command(
        "Devnet.InjectFault",
        json!([{"method": "ChainHead", "status": 503}]),
    )
    .await;
    for _ in 0..2 {
        let error = net.client.chain_head().await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
    assert!(matches!(
        net.client.chain_head().await,
        Err(NodeError::Connection { .. })
    ));
    net.client.chain_head().await.unwrap();
    // The message is taken and the answer lost: to send it again is right and has no effect.
    net.command(
        "Devnet.InjectFault",
        json!([{"method": "MpoolPush", "lose_answer": true}]),
    )
    .await;
    let signed = net.signed("owner", new_key(), fil(1), &Call::Send).await;
    assert!(net.client.push(&signed).await.is_err());
    net.client.push(&signed).await.unwrap();
    assert_eq!(net.client.mpool_pending(&HEAD).await.unwrap().len(), 1);
    let refused = net
        .raw(
            Permission::Admin,
            "Devnet.InjectFault",
            json!([{"method": "Nothing"}]),
        )
        .await;
    assert!(refused.get("error").is_some());
}

#[tokio::test]
async fn a_message_can_be_lost() {
    let net = Net::start().await;
    let signed = net.signed("owner", new_key(), fil(1), &Call::Send).await;
    net.client.push(&signed).await.unwrap();
    let cid = json!([crate::json::Form(signed.cid().unwrap())]);
    assert_eq!(net.command("Devnet.DropMessage", cid.clone()).await, true);
    assert_eq!(net.command("Devnet.DropMessage", cid).await, false);
    assert!(net.client.mpool_pending(&HEAD).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_clock_on_demand_stands_while_it_is_held() {
    let mut config = config(None);
    config.clock = Clock::OnDemand(Duration::from_millis(10));
    let net = Net::open(config).await;
    let passed = async {
        while net.height().await < 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, passed).await.expect("epochs pass");
    net.command("Devnet.Hold", json!(["test", 600])).await;
    // A block that was being made may still come.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let held = net.height().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(net.height().await, held);
    // By command time passes all the same.
    net.mine(3).await;
    assert_eq!(net.height().await, held + 3);
    assert_eq!(net.command("Devnet.Release", json!(["test"])).await, true);
    let passed = async {
        while net.height().await < held + 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, passed)
        .await
        .expect("epochs pass again");
}
