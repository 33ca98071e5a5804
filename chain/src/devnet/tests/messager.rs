//! The messager at work on this chain: whatever is killed, reverted or refused, each intent lands once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::devnet::FundedKey;
use crate::message::SignedMessage;
use crate::messager::{
    Batch, Intent, Key, Loaded, MemoryStore, MessageStore, MessagerConfig, Record, Running, Signer, State,
    StoreError, start,
};
use crate::node::{FollowConfig, TipSetKey};
use crate::types::{Message, TokenAmount};
use crate::wallet::WalletError;

use super::{Net, PATIENCE, sign};

/// A store that outlives the messagers on it.
#[derive(Clone, Default)]
struct Shared(Arc<MemoryStore>);

impl MessageStore for Shared {
    async fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.0.commit(batch).await
    }

    async fn load(&self) -> Result<Loaded, StoreError> {
        self.0.load().await
    }

    async fn record(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.0.record(key).await
    }
}

/// The keys of the devnet.
struct Keys(Vec<FundedKey>);

impl Signer for Keys {
    fn sign(&self, message: &Message) -> Result<SignedMessage, WalletError> {
        let found = self.0.iter().find(|key| key.address == message.from);
        let found = found.ok_or(WalletError::NoKey {
            address: message.from,
        })?;
        Ok(sign(found, message.clone()))
    }
}

async fn messager(net: &Net, store: &Shared) -> Running {
    let config = MessagerConfig {
        confidence: 5,
        ..MessagerConfig::default()
    };
    let follow = FollowConfig {
        poll: Duration::from_millis(100),
        pause: Duration::from_millis(20),
        ..FollowConfig::default()
    };
    let signer = Arc::new(Keys(net.devnet.keys().unwrap()));
    let running = start(
        config,
        follow,
        store.clone(),
        net.client.clone(),
        signer,
        CancellationToken::new(),
    );
    running.await.unwrap()
}

fn intent(net: &Net, number: u64) -> Intent {
    Intent {
        key: Key::try_from(format!("pay/{number}")).unwrap(),
        from: net.key("worker").address,
        to: net.key("faucet").address,
        // By this it is known on the chain.
        value: TokenAmount::from_atto(number),
        method: 0,
        params: Default::default(),
        fees: Default::default(),
        expires: None,
    }
}

/// How often each payment is on the chain.
async fn payments(net: &Net) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    let mut tipset = net.client.chain_head().await.unwrap();
    let (from, to) = (net.key("worker").address, net.key("faucet").address);
    while *tipset.parents() != TipSetKey::HEAD {
        for shown in net.client.parent_messages(&tipset.key.0[0]).await.unwrap() {
            if shown.message.from == from && shown.message.to == to {
                let value: u64 = shown.message.value.atto().to_string().parse().unwrap();
                *found.entry(value).or_default() += 1;
            }
        }
        tipset = net.client.tipset(tipset.parents()).await.unwrap();
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn each_intent_lands_once_whatever_happens() {
    const COUNT: u64 = 16;
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (net, store) = (Net::start().await, Shared::default());
        net.mine(10).await;
        let mut running = messager(&net, &store).await;
        for number in 1..=COUNT {
            running.messager.submit(intent(&net, number)).await.unwrap();
            match rng.gen_range(0..8) {
                // As `kill -9` does: nothing is said, nothing is finished.
                0 | 1 => {
                    running.task.abort();
                    drop(running.task.await);
                    running = messager(&net, &store).await;
                    // Whoever asked does not know what came of it, and asks again.
                    running.messager.submit(intent(&net, number)).await.unwrap();
                }
                2 => drop(
                    net.command("Devnet.Reorg", json!([rng.gen_range(1..4), rng.gen_bool(0.5)]))
                        .await,
                ),
                3 => drop(net.command("Devnet.SkipNull", json!([2])).await),
                4 => {
                    let error = json!({"code": 1, "message": "out of order"});
                    let fault = json!([{"method": "MpoolPush", "times": 2, "error": error}]);
                    net.command("Devnet.InjectFault", fault).await;
                }
                5 => {
                    let fault = json!([{"method": "MpoolPush", "times": 2, "lose_answer": true}]);
                    net.command("Devnet.InjectFault", fault).await;
                }
                _ => {}
            }
            net.mine(rng.gen_range(1..3)).await;
            tokio::time::sleep(Duration::from_millis(rng.gen_range(0..60))).await;
        }
        let all_final = async {
            loop {
                net.mine(1).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                if store.load().await.unwrap().records.is_empty() {
                    return;
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, all_final).await;
        assert!(
            ended.is_ok(),
            "seed {seed}: {:?}",
            running.messager.status().await
        );
        for number in 1..=COUNT {
            let record = running
                .messager
                .record(intent(&net, number).key)
                .await
                .unwrap()
                .unwrap();
            assert!(matches!(record.state, State::Final(_)), "seed {seed}: {record:?}");
        }
        let expected: BTreeMap<u64, usize> = (1..=COUNT).map(|number| (number, 1)).collect();
        assert_eq!(payments(&net).await, expected, "seed {seed}");
        running.task.abort();
    }
}
