//! The devnet over real sockets with the crate's own client: what §6.7 of chain.md asks for.

mod calls;
mod dispute;
mod follow;
mod lifecycle;
mod market;
mod messager;
mod persistence;
mod post;
mod reorg;
mod sealing;
mod shapes;
mod upkeep;
mod verifier;
mod winning;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::json::Form;
use crate::message::{self, SignedMessage};
use crate::node::{Client, ClientConfig, Endpoint, MessageLookup, TipSetKey};
use crate::params::{Call, MinerCreation, create_miner};
use crate::types::{Address, Cid, Message, RegisteredPoStProof, TokenAmount};

use super::{Clock, Devnet, DevnetConfig, FundedKey, Permission, Profile};
use verifier::ClaimVerifier;

/// The head, wherever it is.
static HEAD: TipSetKey = TipSetKey::HEAD;

fn config(data: Option<PathBuf>) -> DevnetConfig {
    DevnetConfig {
        profile: Profile::Tiny,
        clock: Clock::Manual,
        listen: ([127, 0, 0, 1], 0).into(),
        data,
    }
}

/// A devnet and a client of it.
struct Net {
    devnet: Devnet,
    client: Arc<Client>,
    keys: Vec<FundedKey>,
}

impl Net {
    async fn start() -> Self {
        Self::open(config(None)).await
    }

    async fn open(config: DevnetConfig) -> Self {
        let devnet = Devnet::start(config, Box::new(ClaimVerifier)).await.unwrap();
        let endpoint = Endpoint::parse(&devnet.endpoint(Permission::Write)).unwrap();
        let client = Client::new(ClientConfig {
            rounds: 1,
            ..ClientConfig::new(vec![endpoint])
        });
        let keys = devnet.keys().unwrap();
        Self {
            devnet,
            client: Arc::new(client.unwrap()),
            keys,
        }
    }

    /// A call without the client: what it answers as it stands on the wire.
    async fn raw(&self, permission: Permission, method: &str, params: Value) -> Value {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let sent = reqwest::Client::new()
            .post(format!("http://{}/rpc/v1", self.devnet.address()))
            .bearer_auth(self.devnet.token(permission))
            .json(&call);
        sent.send().await.unwrap().json().await.unwrap()
    }

    /// A command that works.
    async fn command(&self, method: &str, params: Value) -> Value {
        let mut answer = self.raw(Permission::Admin, method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    async fn mine(&self, epochs: u64) {
        self.command("Devnet.Mine", json!([epochs])).await;
    }

    /// Mines until the head is at an epoch.
    async fn until(&self, epoch: i64) {
        self.command("Devnet.AdvanceTo", json!([{"epoch": epoch}])).await;
    }

    async fn height(&self) -> i64 {
        self.client.chain_head().await.unwrap().height
    }

    fn key(&self, role: &str) -> &FundedKey {
        self.keys.iter().find(|key| key.role == role).unwrap()
    }

    /// A signed message with the next nonce.
    async fn signed(&self, role: &str, to: Address, value: TokenAmount, call: &Call) -> SignedMessage {
        let key = self.key(role);
        let nonce = self.client.mpool_nonce(&key.address).await.unwrap();
        let message = Message {
            sequence: nonce,
            gas_limit: 1_000_000_000,
            gas_fee_cap: TokenAmount::from_atto(2_000),
            gas_premium: TokenAmount::from_atto(100),
            ..message::unsent(key.address, to, value, call).unwrap()
        };
        sign(key, message)
    }

    /// Sends a message and waits for its receipt.
    async fn send(&self, role: &str, to: Address, value: TokenAmount, call: &Call) -> MessageLookup {
        let signed = self.signed(role, to, value, call).await;
        self.client.push(&signed).await.unwrap();
        self.mine(2).await;
        self.found(&signed.cid().unwrap()).await
    }

    async fn found(&self, cid: &Cid) -> MessageLookup {
        let found = self.client.search_message(cid).await.unwrap();
        found.expect("the message is on the chain")
    }

    /// Sends a message of the worker, and tells its exit code.
    async fn code(&self, miner: Address, call: &Call) -> u32 {
        let told = self.dry(miner, call).await;
        let sent = self.send("worker", miner, fil(1), call).await;
        assert_eq!(
            told.0,
            sent.receipt.exit_code.value(),
            "a dry run tells the same: {}",
            told.1
        );
        told.0
    }

    /// What the next block would do with a message of the worker, with its text.
    async fn dry(&self, miner: Address, call: &Call) -> (u32, String) {
        let message = message::unsent(self.key("worker").address, miner, fil(1), call).unwrap();
        let estimate = self
            .client
            .estimate_gas(&message, &TokenAmount::from_atto(0), &HEAD)
            .await;
        match estimate {
            Ok(_) => (0, String::new()),
            Err(error) => {
                let text = error.to_string();
                (crate::outcome::exit_code_in(&text).unwrap().value(), text)
            }
        }
    }

    /// A new miner with sectors of 2 KiB.
    async fn miner(&self) -> Address {
        let creation = create_miner(MinerCreation {
            owner: self.key("owner").address,
            worker: self.key("worker").address,
            post_proof: RegisteredPoStProof::StackedDRGWindow2KiBV1P1,
            peer: vec![1, 2],
            multiaddrs: Vec::new(),
        });
        let deposit = self.client.creation_deposit(&HEAD).await.unwrap();
        let made = self
            .send("owner", crate::address::POWER_ACTOR, deposit, &creation.unwrap())
            .await;
        assert!(made.receipt.exit_code.is_success(), "{made:?}");
        let made: crate::types::power::CreateMinerReturn =
            fvm_ipld_encoding::from_slice(&made.receipt.returned).unwrap();
        made.id_address
    }

    /// A deal as a node shows it.
    async fn raw_deal(&self, deal: u64) -> Value {
        self.command("StateMarketStorageDeal", json!([deal, []])).await
    }

    /// Every claim is what its sectors are worth.
    async fn check(&self) {
        let checks = self.command("Devnet.Checks", json!([])).await;
        assert_eq!(checks["ClaimsMatchSectors"], true, "{checks}");
    }
}

fn sign(key: &FundedKey, message: Message) -> SignedMessage {
    let bytes = message::signing_bytes(&message).unwrap();
    let signature = key.key.secret().unwrap().sign(&bytes).unwrap();
    SignedMessage { message, signature }
}

fn fil(whole: u64) -> TokenAmount {
    TokenAmount::from_whole(whole)
}

fn text(address: Address) -> Value {
    json!(Form(address))
}

/// Long enough for a slow machine, and not for ever.
const PATIENCE: Duration = Duration::from_secs(60);
