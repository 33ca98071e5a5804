//! Sectors in batches on a devnet with a messager and a wallet, whatever the chain does meanwhile. Proofs are made of their
//! claims, and the verifier below knows only those: what is tested is messages; real proofs are tested with the binary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sealflow_chain::commitment;
use sealflow_chain::control::ControlBook;
use sealflow_chain::devnet::{
    Clock, Devnet, DevnetConfig, Permission, Piece, PostClaim, Profile, SealClaim, UpdateClaim, Verifier,
};
use sealflow_chain::json::Form;
use sealflow_chain::messager::{
    Batch, FeeBook, FeePolicy, Intent, Key, Landing, Loaded, MemoryStore, MessageStore, Messager,
    MessagerConfig, Record, State, StoreError, start,
};
use sealflow_chain::node::{Client, ClientConfig, Endpoint, FollowConfig, TipSetKey};
use sealflow_chain::params::{Call, MinerCreation, create_miner};
use sealflow_chain::randomness::Tag;
use sealflow_chain::types::{
    Address, PaddedPieceSize, RegisteredPoStProof, RegisteredSealProof, Signature, TokenAmount, market,
    miner, power,
};
use sealflow_chain::wallet::{KdfCost, KeyType, Passphrase, Policy, Wallet, WalletConfig};
use sealflow_engine::artifact::Stores;
use sealflow_engine::failure::Failure;
use sealflow_engine::id::{AttemptKey, RunId, StepName, Subject};
use sealflow_engine::stage::{BatchStage, Outcome, Stage, StageContext};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::chain_seed::ChainSeed;
use super::submit_commit::SubmitCommit;
use super::submit_precommit::SubmitPrecommit;
use super::{Access, Chain};

const SEAL: RegisteredSealProof = RegisteredSealProof::StackedDRG2KiBV1P1;

/// The head, wherever it is.
static HEAD: TipSetKey = TipSetKey::HEAD;

/// By this `tests/it/house.rs` knows that the binary lacks this verifier.
const MARK: &str = "sealflow-verifier-of-claims-for-tests";

/// Takes the proof that is made of the claim, and no other.
struct Claims;

fn proof_of(claim: &SealClaim) -> Vec<u8> {
    let hash = Sha256::digest(format!("{MARK}{claim:?}"));
    hash.iter().copied().cycle().take(192).collect()
}

impl Verifier for Claims {
    fn seal(&self, claim: &SealClaim, proof: &[u8]) -> bool {
        proof == proof_of(claim)
    }

    fn aggregate(&self, _: &[SealClaim], _: &[u8]) -> bool {
        false
    }

    fn update(&self, _: &UpdateClaim, _: &[u8]) -> bool {
        false
    }

    fn window_post(&self, _: &PostClaim, _: &[u8]) -> bool {
        false
    }

    fn winning_post(&self, _: &PostClaim, _: &[u8]) -> bool {
        false
    }

    fn winning_challenge(&self, _: RegisteredPoStProof, _: u64, _: [u8; 32], _: u64) -> Option<Vec<u64>> {
        None
    }

    fn comm_d(&self, _: RegisteredSealProof, pieces: &[Piece]) -> Option<[u8; 32]> {
        let mut comm: [u8; 32] = Sha256::digest(format!("{pieces:?}")).into();
        comm[31] &= 0x3f;
        Some(comm)
    }
}

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

/// A network, and what sends to it.
struct World {
    devnet: Devnet,
    client: Arc<Client>,
    wallet: Arc<Wallet>,
    store: Shared,
    config: MessagerConfig,
    chain: Chain,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

fn passphrase(folder: &std::path::Path) -> Passphrase {
    use std::os::unix::fs::PermissionsExt;
    let file = folder.join("passphrase");
    std::fs::write(&file, "only for a test").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    Passphrase::from_file(&file).unwrap()
}

impl World {
    async fn new() -> Self {
        let config = DevnetConfig {
            profile: Profile::Fast,
            clock: Clock::Manual,
            listen: ([127, 0, 0, 1], 0).into(),
            data: None,
        };
        let devnet = Devnet::start(config, Box::new(Claims)).await.unwrap();
        let endpoint = Endpoint::parse(&devnet.endpoint(Permission::Write)).unwrap();
        let client = Arc::new(Client::new(ClientConfig::new(vec![endpoint])).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let policy = "[[allow]]\nkeys = [\"any\"]\nto = [\"any\"]\nmax_value = \"1000 FIL\"\n\
                      methods = [\"CreateMiner\", \"PreCommitSectorBatch2\", \"ProveCommitSectors3\", \"AddBalance\", \"PublishStorageDeals\"]\n";
        let wallet = Wallet::open(WalletConfig {
            dir: folder.path().join("wallet"),
            policy: Policy::parse(policy).unwrap(),
            kdf: KdfCost {
                memory_kib: 64,
                passes: 1,
                lanes: 1,
            },
        })
        .unwrap();
        let secret = passphrase(folder.path());
        for key in devnet.keys().unwrap() {
            wallet.import(&key.key, &secret).unwrap();
        }
        let mut world = Self {
            devnet,
            client,
            wallet: Arc::new(wallet),
            store: Shared::default(),
            config: MessagerConfig {
                confidence: 3,
                ..MessagerConfig::default()
            },
            chain: Chain::default(),
            stop: CancellationToken::new(),
            folder,
        };
        world.restart().await;
        world
    }

    /// As if the process were killed and started again.
    async fn restart(&mut self) {
        self.stop.cancel();
        self.stop = CancellationToken::new();
        let follow = FollowConfig {
            poll: Duration::from_millis(50),
            ..FollowConfig::default()
        };
        let running = start(
            self.config.clone(),
            follow,
            self.store.clone(),
            self.client.clone(),
            self.wallet.clone(),
            self.stop.clone(),
        );
        self.chain = Chain::new(
            self.client.clone(),
            running.await.unwrap().messager,
            ControlBook::default(),
        );
    }

    fn access(&self) -> &Access {
        self.chain.access().unwrap()
    }

    fn messager(&self) -> &Messager {
        &self.access().messager
    }

    async fn command(&self, method: &str, params: Value) -> Value {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let sent = reqwest::Client::new()
            .post(format!("http://{}/rpc/v1", self.devnet.address()))
            .bearer_auth(self.devnet.token(Permission::Admin))
            .json(&call);
        let mut answer: Value = sent.send().await.unwrap().json().await.unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    async fn mine(&self, epochs: u64) {
        self.command("Devnet.Mine", json!([epochs])).await;
        // The messager hears of it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    async fn height(&self) -> i64 {
        self.client.chain_head().await.unwrap().height
    }

    fn address(&self, role: &str) -> Address {
        let keys = self.devnet.keys().unwrap();
        keys.iter().find(|key| key.role == role).unwrap().address
    }

    /// A new miner, whose worker is this key.
    async fn miner(&self, name: &str, worker: Address) -> Address {
        let owner = self.address("worker");
        let creation = create_miner(MinerCreation {
            owner,
            worker,
            post_proof: RegisteredPoStProof::StackedDRGWindow2KiBV1P1,
            peer: Vec::new(),
            multiaddrs: Vec::new(),
        })
        .unwrap();
        let deposit = self.client.creation_deposit(&HEAD).await.unwrap();
        let to = sealflow_chain::address::POWER_ACTOR;
        let landing = self
            .sent(&format!("miner/{name}"), (owner, to), deposit, &creation)
            .await;
        let made: power::CreateMinerReturn =
            sealflow_chain::message::returned(&landing.receipt.returned).unwrap();
        made.id_address
    }

    /// Sends a message, and waits until it is final.
    async fn sent(
        &self,
        name: &str,
        (from, to): (Address, Address),
        value: TokenAmount,
        call: &Call,
    ) -> Landing {
        let key = Key::try_from(name.to_owned()).unwrap();
        let intent = Intent {
            key: key.clone(),
            from,
            to,
            value,
            method: call.number(),
            params: call.params().unwrap(),
            fees: FeePolicy::default(),
            expires: None,
        };
        self.messager().submit(intent).await.unwrap();
        for _ in 0..1000 {
            self.mine(1).await;
            if let State::Final(landing) = self.record(&key).await.state {
                assert!(landing.receipt.exit_code.is_success(), "{landing:?}");
                return landing;
            }
        }
        panic!("{name} does not land");
    }

    async fn record(&self, key: &Key) -> Record {
        self.messager().record(key.clone()).await.unwrap().unwrap()
    }

    /// One look of a batch: its verdicts, if it has come to its end.
    async fn look<S: BatchStage>(
        &self,
        stage: &S,
        batch: u8,
        inputs: &[Value],
    ) -> Option<Vec<Result<Value, Failure>>> {
        let inputs = inputs.iter().cloned();
        let inputs = inputs
            .map(|input| serde_json::from_value(input).unwrap())
            .collect();
        match stage.run_many(&context(batch, S::NAME), inputs).await {
            Ok(Outcome::Done(verdicts)) => {
                let verdicts = verdicts.into_iter();
                Some(
                    verdicts
                        .map(|verdict| verdict.map(|output| json!(output_of::<S>(output))))
                        .collect(),
                )
            }
            Ok(Outcome::Park(_)) => None,
            Err(failure) => {
                assert_eq!(
                    failure.class,
                    sealflow_engine::failure::FailureClass::Transient,
                    "{failure}"
                );
                None
            }
        }
    }

    /// Looks and mines until a batch has come to its end.
    async fn settle<S: BatchStage>(
        &self,
        stage: &S,
        batch: u8,
        inputs: &[Value],
    ) -> Vec<Result<Value, Failure>> {
        for _ in 0..500 {
            if let Some(verdicts) = self.look(stage, batch, inputs).await {
                return verdicts;
            }
            self.mine(1).await;
        }
        panic!("batch {batch} does not end: {:?}", self.messager().status().await);
    }

    fn precommits(&self) -> SubmitPrecommit {
        SubmitPrecommit {
            chain: self.chain.clone(),
        }
    }

    fn commits(&self) -> SubmitCommit {
        SubmitCommit {
            chain: self.chain.clone(),
        }
    }

    /// What a run of this sector gives to the pre-commit.
    async fn sealed(&self, miner: Address, sector: u64) -> Value {
        let ticket = self.height().await - 1;
        json!({
            "proof_type": "StackedDrg2KiBV1_1", "miner": miner.to_string(), "sector": sector,
            "comm_d": hex::encode(comm_d()), "comm_r": hex::encode(comm_r(sector)),
            "ticket_epoch": ticket, "piece_infos": [],
        })
    }

    /// One look for the seed of a sector that was pre-committed at an epoch; nothing while it is waited for.
    async fn seed(
        &self,
        miner: Address,
        sector: u64,
        precommit_epoch: i64,
    ) -> Option<Result<Value, Failure>> {
        let stage = ChainSeed {
            chain: self.chain.clone(),
        };
        let input = json!({"miner": miner.to_string(), "sector": sector, "precommit_epoch": precommit_epoch});
        let input = serde_json::from_value(input).unwrap();
        match stage.run(&context(1, "seed"), input).await {
            Ok(Outcome::Done(output)) => Some(Ok(serde_json::to_value(output).unwrap())),
            Ok(Outcome::Park(_)) => None,
            Err(failure) => Some(Err(failure)),
        }
    }

    /// What a run of this sector gives to the commit.
    async fn proved(&self, miner: Address, sector: u64) -> Value {
        let id = miner.id().unwrap();
        let found = self
            .client
            .precommit(&miner, sector, &HEAD)
            .await
            .unwrap()
            .unwrap();
        let draw = |tag, epoch| self.client.randomness(tag, epoch, Some(id), &HEAD);
        let delay = self
            .client
            .network_params()
            .await
            .unwrap()
            .pre_commit_challenge_delay;
        let declared = found.info.unsealed_cid;
        let claim = SealClaim {
            proof_type: RegisteredSealProof::from(found.info.seal_proof),
            miner: id,
            sector,
            comm_r: comm_r(sector),
            comm_d: declared.map_or_else(comm_d, |cid| commitment::comm_d(&cid).unwrap()),
            ticket: draw(Tag::SealTicket, found.info.seal_rand_epoch).await.unwrap(),
            seed: draw(Tag::SealSeed, found.pre_commit_epoch + delay).await.unwrap(),
        };
        json!({
            "proof_type": "StackedDrg2KiBV1_1", "miner": miner.to_string(), "sector": sector,
            "proof": hex::encode(proof_of(&claim)), "piece_infos": [], "seed": hex::encode(claim.seed),
        })
    }

    /// The messages of the chain's blocks that name sectors: method, and miner with sectors, and whether the exit code is 0.
    async fn on_chain(&self) -> Vec<(u64, Address, Vec<u64>, bool)> {
        let mut found = Vec::new();
        let mut at = self.client.chain_head().await.unwrap();
        while at.height > 0 {
            let block = *at.key.0.first().unwrap();
            let messages = self.client.parent_messages(&block).await.unwrap();
            let receipts = self.client.parent_receipts(&block).await.unwrap();
            for (shown, receipt) in messages.into_iter().zip(receipts) {
                let message: sealflow_chain::types::Message = shown.message.into();
                let intent = Intent {
                    key: Key::try_from("seen".to_owned()).unwrap(),
                    from: message.from,
                    to: message.to,
                    value: message.value,
                    method: message.method_num,
                    params: message.params,
                    fees: FeePolicy::default(),
                    expires: None,
                };
                let sectors = super::together::sectors(&intent);
                if !sectors.is_empty() {
                    found.push((intent.method, intent.to, sectors, receipt.exit_code.is_success()));
                }
            }
            at = self.client.tipset(at.parents()).await.unwrap();
        }
        found
    }

    /// Each sector's message of a method is on the chain once, and none failed.
    async fn each_once(&self, method: u64, miner: Address, sectors: &[u64], messages: usize) {
        let found = self.on_chain().await;
        let own: Vec<_> = found
            .iter()
            .filter(|one| one.0 == method && one.1 == miner)
            .collect();
        assert_eq!(own.len(), messages, "messages of method {method}: {found:?}");
        assert!(own.iter().all(|one| one.3), "{found:?}");
        let mut times: BTreeMap<u64, u32> = BTreeMap::new();
        for sector in own.iter().flat_map(|one| &one.2) {
            *times.entry(*sector).or_default() += 1;
        }
        let wanted: BTreeMap<u64, u32> = sectors.iter().map(|sector| (*sector, 1)).collect();
        assert_eq!(times, wanted, "{found:?}");
    }
}

fn output_of<S: BatchStage>(output: S::Output) -> Value {
    serde_json::to_value(output).unwrap()
}

fn comm_r(sector: u64) -> [u8; 32] {
    [u8::try_from(sector % 60).unwrap(); 32]
}

/// Of zeros.
fn comm_d() -> [u8; 32] {
    let zeros = miner::CompactCommD::empty().get_cid(SEAL).unwrap();
    commitment::comm_d(&zeros).unwrap()
}

fn context(batch: u8, step: &str) -> StageContext {
    let run = RunId::new(1, &[batch; 10]);
    let subject = Subject::new(&format!("batch/{run}")).unwrap();
    let key = AttemptKey {
        run,
        step: StepName::new(step).unwrap(),
        visit: 1,
        attempt: 1,
    };
    StageContext::new(
        key,
        subject,
        Stores::new(Vec::new()),
        CancellationToken::new(),
        |_| {},
    )
}

fn code(verdict: &Result<Value, Failure>) -> &str {
    verdict.as_ref().err().map_or("", |failure| &failure.code)
}

#[tokio::test]
async fn ten_sectors_of_two_miners_in_four_messages() {
    let mut world = World::new().await;
    let worker = world.address("worker");
    let miners = [world.miner("one", worker).await, world.miner("two", worker).await];
    let numbers: Vec<u64> = (1..=5).collect();
    let mut sealed = Vec::new();
    for miner in miners {
        let mut inputs = Vec::new();
        for number in &numbers {
            inputs.push(world.sealed(miner, *number).await);
        }
        sealed.push(inputs);
    }
    // Both batches at once, and the process is killed all the time.
    let mut verdicts: [Option<Vec<Result<Value, Failure>>>; 2] = [None, None];
    for turn in 0..500 {
        for (at, inputs) in sealed.iter().enumerate() {
            if verdicts[at].is_none() {
                let batch = u8::try_from(at).unwrap() + 1;
                verdicts[at] = world.look(&world.precommits(), batch, inputs).await;
            }
        }
        if verdicts.iter().all(Option::is_some) {
            break;
        }
        if turn % 3 == 1 {
            world.restart().await;
        }
        world.mine(1).await;
    }
    for verdict in verdicts.iter().flatten().flatten() {
        assert!(
            verdict.as_ref().unwrap()["precommit_cid"].is_string(),
            "{verdict:?}"
        );
    }
    assert!(verdicts.iter().all(Option::is_some));
    for miner in miners {
        world.each_once(28, miner, &numbers, 1).await;
    }

    world.mine(12).await;
    for (at, miner) in miners.into_iter().enumerate() {
        let mut inputs = Vec::new();
        for number in &numbers {
            inputs.push(world.proved(miner, *number).await);
        }
        // One bad proof does not sink the others.
        let bad = (at == 0).then_some(2);
        if let Some(bad) = bad {
            inputs[bad]["proof"] = json!("00".repeat(192));
        }
        let batch = 10 + u8::try_from(at).unwrap();
        let told = world.settle(&world.commits(), batch, &inputs).await;
        for (place, verdict) in told.iter().enumerate() {
            if Some(place) == bad {
                assert_eq!(code(verdict), "proof_invalid", "{verdict:?}");
            } else {
                assert!(
                    verdict.as_ref().unwrap()["activation_epoch"].as_i64() > Some(0),
                    "{verdict:?}"
                );
            }
        }
        let mut landed = numbers.clone();
        bad.map(|bad| landed.remove(bad));
        world.each_once(34, miner, &landed, 1).await;
    }
}

#[tokio::test]
async fn an_expired_ticket_fails_alone() {
    let world = World::new().await;
    let miner = world.miner("one", world.address("worker")).await;
    world
        .command("Devnet.AdvanceTo", json!([{"epoch": 4000, "null_rounds": 500}]))
        .await;
    let mut inputs = vec![
        world.sealed(miner, 1).await,
        world.sealed(miner, 2).await,
        world.sealed(miner, 3).await,
    ];
    inputs[1]["ticket_epoch"] = json!(1);
    let told = world.settle(&world.precommits(), 1, &inputs).await;
    let codes: Vec<&str> = told.iter().map(code).collect();
    assert_eq!(codes, ["", "ticket_expired", ""], "{told:?}");
    world.each_once(28, miner, &[1, 3], 1).await;
}

#[tokio::test]
async fn an_expired_precommit_burned_its_number() {
    let world = World::new().await;
    let miner = world.miner("one", world.address("worker")).await;
    let input = world.sealed(miner, 1).await;
    let told = world
        .settle(&world.precommits(), 1, std::slice::from_ref(&input))
        .await;
    assert_eq!(code(&told[0]), "");
    world.mine(12).await;
    let proof = world.proved(miner, 1).await;
    let late = world.height().await + 86_600;
    world
        .command("Devnet.AdvanceTo", json!([{"epoch": late, "null_rounds": 500}]))
        .await;
    let told = world
        .settle(&world.commits(), 2, std::slice::from_ref(&proof))
        .await;
    assert_eq!(code(&told[0]), "number_burned", "{told:?}");
    // Nor can the number be given again.
    let mut again = world.sealed(miner, 1).await;
    again["comm_r"] = json!("05".repeat(32));
    let far = world.height().await + 10_000;
    world
        .command("Devnet.AdvanceTo", json!([{"epoch": far, "null_rounds": 500}]))
        .await;
    again["ticket_epoch"] = json!(far - 1);
    let told = world.settle(&world.precommits(), 3, &[again]).await;
    assert_eq!(code(&told[0]), "number_burned", "{told:?}");
    world.each_once(34, miner, &[], 0).await;
}

#[tokio::test]
async fn synthetic_and_other_proofs_go_in_messages_of_their_own() {
    let world = World::new().await;
    let miner = world.miner("one", world.address("worker")).await;
    let mut inputs = [world.sealed(miner, 1).await, world.sealed(miner, 2).await];
    let synthetic = json!("StackedDrg2KiBV1_1_Feat_SyntheticPoRep");
    inputs[1]["proof_type"] = synthetic.clone();
    let told = world.settle(&world.precommits(), 1, &inputs).await;
    assert!(told.iter().all(|verdict| code(verdict).is_empty()), "{told:?}");
    world.each_once(28, miner, &[1, 2], 1).await;
    world.mine(12).await;
    let mut proofs = [world.proved(miner, 1).await, world.proved(miner, 2).await];
    proofs[1]["proof_type"] = synthetic;
    let told = world.settle(&world.commits(), 2, &proofs).await;
    let codes: Vec<&str> = told.iter().map(code).collect();
    assert_eq!(codes, ["", "left_out"], "{told:?}");
    let told = world.settle(&world.commits(), 3, &proofs[1..]).await;
    assert_eq!(code(&told[0]), "", "{told:?}");
    world.each_once(34, miner, &[1, 2], 2).await;
}

#[tokio::test]
async fn a_piece_begins_the_deal_that_it_is_for() {
    let world = World::new().await;
    let (worker, client) = (world.address("worker"), world.address("owner"));
    let miner = world.miner("one", worker).await;
    let market_actor = sealflow_chain::address::MARKET_ACTOR;
    for of in [client, miner] {
        let call = Call::AddBalance(market::AddBalanceParams {
            provider_or_client: of,
        });
        let name = format!("balance/{of}");
        world
            .sent(&name, (worker, market_actor), TokenAmount::from_whole(3), &call)
            .await;
    }
    let piece = Piece {
        comm_p: [7; 32],
        size: PaddedPieceSize(2048),
    };
    let begin = world.height().await + 1000;
    let proposal = market::DealProposal {
        piece_cid: commitment::unsealed_cid(&piece.comm_p).unwrap(),
        piece_size: piece.size,
        verified_deal: false,
        client,
        provider: miner,
        label: market::Label::String(String::new()),
        start_epoch: begin,
        end_epoch: begin + sealflow_chain::policy::LIFETIME_MIN,
        storage_price_per_epoch: TokenAmount::from_atto(1),
        provider_collateral: TokenAmount::from_whole(1),
        client_collateral: TokenAmount::from_atto(0),
    };
    let bytes = sealflow_chain::types::RawBytes::serialize(&proposal).unwrap();
    let asked = json!([client.to_string(), Form(bytes.bytes().to_vec())]);
    let signature = world.command("WalletSign", asked).await;
    let Form(bytes): Form<Vec<u8>> = serde_json::from_value(signature["Data"].clone()).unwrap();
    let client_signature = Signature::new_bls(bytes);
    let deals = vec![market::ClientDealProposal {
        proposal,
        client_signature,
    }];
    let call = Call::PublishStorageDeals(market::PublishStorageDealsParams { deals });
    world
        .sent(
            "publish",
            (worker, market_actor),
            TokenAmount::from_atto(0),
            &call,
        )
        .await;
    // A sector with the piece.
    let info =
        json!([{"comm_p": hex::encode(piece.comm_p), "padded_bytes": 2048, "offset": 0, "data_bytes": 2032}]);
    let mut input = world.sealed(miner, 1).await;
    input["comm_d"] = json!(hex::encode(Claims.comm_d(SEAL, &[piece]).unwrap()));
    input["piece_infos"] = info.clone();
    let told = world.settle(&world.precommits(), 1, &[input]).await;
    assert_eq!(code(&told[0]), "", "{told:?}");
    world.mine(12).await;
    let mut proof = world.proved(miner, 1).await;
    proof["piece_infos"] = info;
    proof["require_deals"] = json!(true);
    let deal = || async { world.command("StateMarketStorageDeal", json!([0, []])).await };
    // Of another deal, and of a list that does not fit.
    proof["pieces"] = json!([{"path": "a", "deal": 9}]);
    let told = world.settle(&world.commits(), 2, &[proof.clone()]).await;
    assert!(!code(&told[0]).is_empty(), "{told:?}");
    proof["pieces"] = json!([{"path": "a", "deal": 0}, "b"]);
    let told = world.settle(&world.commits(), 3, &[proof.clone()]).await;
    assert_eq!(code(&told[0]), "bad_message", "{told:?}");
    assert_eq!(deal().await["State"]["SectorStartEpoch"], -1);
    proof["pieces"] = json!([{"path": "a", "deal": 0}, "pledge"]);
    let told = world.settle(&world.commits(), 4, &[proof]).await;
    assert_eq!(code(&told[0]), "", "{told:?}");
    let begun = deal().await;
    assert_eq!(begun["State"]["SectorNumber"], 1, "{begun}");
    assert!(begun["State"]["SectorStartEpoch"].as_i64() > Some(0), "{begun}");
    world.each_once(34, miner, &[1], 1).await;
}

/// The last epoch at which a sector may be proved, on this network.
async fn latest(world: &World, miner: Address, sector: u64) -> i64 {
    let found = world.client.precommit(&miner, sector, &HEAD).await.unwrap();
    let params = world.client.network_params().await.unwrap();
    let delay = params.pre_commit_challenge_delay;
    sealflow_chain::policy::prove_commit_by(found.unwrap().pre_commit_epoch, delay)
}

#[tokio::test]
async fn a_proof_that_cannot_be_in_time_is_neither_made_nor_sent() {
    let world = World::new().await;
    let miner = world.miner("one", world.address("worker")).await;
    let inputs = [world.sealed(miner, 1).await, world.sealed(miner, 2).await];
    let told = world.settle(&world.precommits(), 1, &inputs).await;
    let epoch = told[0].as_ref().unwrap()["precommit_epoch"].as_i64().unwrap();
    assert!(world.seed(miner, 1, epoch).await.is_none(), "it is not known yet");
    world.mine(16).await;
    let proofs = [world.proved(miner, 1).await, world.proved(miner, 2).await];
    let latest = latest(&world, miner, 1).await;
    let advance = async |epoch: i64| {
        let target = json!([{"epoch": epoch, "null_rounds": 500}]);
        world.command("Devnet.AdvanceTo", target).await;
    };
    advance(latest - 20).await;
    let told = world.settle(&world.commits(), 2, &proofs[..1]).await;
    assert_eq!(code(&told[0]), "", "{told:?}");
    // The next block is the last that takes a proof: it is still worth while.
    advance(latest - 1).await;
    let seed = world.seed(miner, 2, epoch).await.unwrap().unwrap();
    assert_eq!(seed["seed_epoch"].as_i64().unwrap(), epoch + 10);
    world.mine(1).await;
    // One epoch later it is not, long before the chain clears the pre-commit away.
    let cleared = world.client.precommit(&miner, 2, &HEAD).await.unwrap();
    assert!(cleared.is_some() && world.height().await >= latest);
    let burned = world.seed(miner, 2, epoch).await.unwrap().unwrap_err();
    assert_eq!(burned.code, "number_burned", "{burned}");
    let told = world.settle(&world.commits(), 3, &proofs[1..]).await;
    assert_eq!(code(&told[0]), "number_burned", "{told:?}");
    world.each_once(34, miner, &[1], 1).await;
}

#[tokio::test]
async fn a_proof_that_waits_for_too_long_is_not_sent_late() {
    let world = World::new().await;
    let miner = world.miner("one", world.address("worker")).await;
    let input = world.sealed(miner, 1).await;
    world
        .settle(&world.precommits(), 1, std::slice::from_ref(&input))
        .await;
    world.mine(16).await;
    let proof = world.proved(miner, 1).await;
    let latest = latest(&world, miner, 1).await;
    let key = super::send::key(&context(2, "submit_commit").key).unwrap();
    world.wallet.lock().unwrap();
    for _ in 0..3 {
        let told = world
            .look(&world.commits(), 2, std::slice::from_ref(&proof))
            .await;
        assert!(told.is_none(), "{told:?}");
        world.mine(1).await;
    }
    assert_eq!(world.record(&key).await.intent.expires, Some(latest));
    let target = json!([{"epoch": latest + 5, "null_rounds": 500}]);
    world.command("Devnet.AdvanceTo", target).await;
    // The key comes back too late.
    world.wallet.unlock(&passphrase(world.folder.path())).unwrap();
    let told = world.settle(&world.commits(), 2, &[proof]).await;
    assert_eq!(code(&told[0]), "number_burned", "{told:?}");
    world.each_once(34, miner, &[], 0).await;
}

#[tokio::test]
async fn a_pre_commit_that_moved_gives_another_seed_and_another_proof() {
    // Deeper than what counts as final: before the seed is drawn, after the proof is made, and while it is on its way.
    for moment in ["seed", "proof", "message"] {
        let world = World::new().await;
        let miner = world.miner("one", world.address("worker")).await;
        let input = world.sealed(miner, 1).await;
        world.mine(5).await;
        let told = world.settle(&world.precommits(), 1, &[input]).await;
        let epoch = told[0].as_ref().unwrap()["precommit_epoch"].as_i64().unwrap();
        // It lands again, some epochs earlier.
        let moved = async || {
            let depth = world.height().await - epoch + 3;
            world.command("Devnet.Reorg", json!([depth, true])).await;
            world.mine(18).await;
        };
        if moment == "seed" {
            moved().await;
        } else {
            world.mine(16).await;
        }
        let seed = world.seed(miner, 1, epoch).await.unwrap().unwrap();
        let mut proof = world.proved(miner, 1).await;
        assert_eq!(seed["seed"], proof["seed"], "{moment}");
        let mut sent = 1;
        match moment {
            "proof" => {
                moved().await;
                let told = world.settle(&world.commits(), 2, &[proof.clone()]).await;
                assert_eq!(code(&told[0]), "seed_changed", "{told:?}");
            }
            "message" => {
                let told = world.look(&world.commits(), 2, &[proof.clone()]).await;
                assert!(told.is_none());
                moved().await;
                let told = world.settle(&world.commits(), 2, &[proof.clone()]).await;
                assert_eq!(code(&told[0]), "seed_changed", "{told:?}");
                sent = world.on_chain().await.iter().filter(|one| one.0 == 34).count() + 1;
            }
            _ => {}
        }
        if moment != "seed" {
            let again = world.seed(miner, 1, epoch).await.unwrap().unwrap();
            assert_ne!(again["seed"], seed["seed"], "{moment}");
            proof = world.proved(miner, 1).await;
            assert_eq!(again["seed"], proof["seed"], "{moment}");
        }
        let told = world.settle(&world.commits(), 3, &[proof]).await;
        assert_eq!(code(&told[0]), "", "{moment}: {told:?}");
        let found = world.on_chain().await;
        let own = |method| found.iter().filter(move |one| one.0 == method);
        assert_eq!(own(28).count(), 1, "{moment}: {found:?}");
        assert_eq!(own(34).count(), sent, "{moment}: {found:?}");
        assert_eq!(own(34).filter(|one| one.3).count(), 1, "{moment}: {found:?}");
    }
}

#[tokio::test]
async fn a_batch_that_was_cancelled_leaves_no_second_message() {
    let world = World::new().await;
    let miner = world.miner("one", world.address("worker")).await;
    let inputs = [world.sealed(miner, 1).await, world.sealed(miner, 2).await];
    assert!(world.look(&world.precommits(), 1, &inputs).await.is_none());
    // Its members are collected again, and wait for the first message.
    let told = world.settle(&world.precommits(), 2, &inputs).await;
    assert!(told.iter().all(|verdict| code(verdict).is_empty()), "{told:?}");
    world.each_once(28, miner, &[1, 2], 1).await;
}

#[tokio::test]
async fn reorgs_of_several_depths_leave_one_message() {
    for depth in 1..=3_u64 {
        let world = World::new().await;
        let miner = world.miner("one", world.address("worker")).await;
        let inputs = [world.sealed(miner, 1).await, world.sealed(miner, 2).await];
        let mut told = None;
        for turn in 0..60 {
            told = told.or(world.look(&world.precommits(), 1, &inputs).await);
            world.mine(1).await;
            if turn % 5 == 2 && told.is_none() {
                // Messages go back to the pool, or are forgotten.
                world.command("Devnet.Reorg", json!([depth, turn % 2 == 0])).await;
            }
        }
        let told = told.expect("the batch ends when the chain is at rest");
        assert!(told.iter().all(|verdict| code(verdict).is_empty()), "{told:?}");
        world.each_once(28, miner, &[1, 2], 1).await;
        world.mine(12).await;
        let proofs = [world.proved(miner, 1).await, world.proved(miner, 2).await];
        let told = world.settle(&world.commits(), 2, &proofs).await;
        assert!(told.iter().all(|verdict| code(verdict).is_empty()), "{told:?}");
        world.each_once(34, miner, &[1, 2], 1).await;
    }
}

/// What a message waits for, and that it lands when that has come.
async fn waits_then_lands(world: &World, miner: Address, reason: &str, mend: impl AsyncFnOnce(&World)) {
    let inputs = [world.sealed(miner, 1).await];
    let key = super::send::key(&context(1, "submit_precommit").key).unwrap();
    for _ in 0..20 {
        assert!(world.look(&world.precommits(), 1, &inputs).await.is_none());
        world.mine(1).await;
    }
    let record = world.record(&key).await;
    assert!(
        record.nonce.is_none() && record.note.contains(reason),
        "{}: {record:?}",
        record.note
    );
    mend(world).await;
    let told = world.settle(&world.precommits(), 1, &inputs).await;
    assert_eq!(code(&told[0]), "", "{told:?}");
    world.each_once(28, miner, &[1], 1).await;
}

#[tokio::test]
async fn a_locked_wallet_is_waited_for() {
    let world = World::new().await;
    let miner = world.miner("one", world.address("worker")).await;
    world.wallet.lock().unwrap();
    waits_then_lands(&world, miner, "wallet_locked", async |world: &World| {
        world.wallet.unlock(&passphrase(world.folder.path())).unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_empty_wallet_is_waited_for() {
    let world = World::new().await;
    let secret = passphrase(world.folder.path());
    let poor = world.wallet.create(KeyType::Bls, &secret).unwrap();
    // The network knows it, and it has nothing to speak of.
    world.command("Devnet.Fund", json!([poor.to_string(), "1"])).await;
    world.mine(2).await;
    let miner = world.miner("poor", poor).await;
    waits_then_lands(&world, miner, "insufficient_funds", async |world: &World| {
        let much = TokenAmount::from_whole(100).atto().to_string();
        world
            .command("Devnet.Fund", json!([poor.to_string(), much]))
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_spike_of_the_base_fee_is_waited_out() {
    let mut world = World::new().await;
    let most = TokenAmount::from_nano(5);
    world.config.fees = FeeBook {
        global: FeePolicy {
            base_fee_max: Some(most.clone()),
            ..FeePolicy::default()
        },
        ..FeeBook::default()
    };
    world.restart().await;
    let miner = world.miner("one", world.address("worker")).await;
    let spike = TokenAmount::from_nano(50).atto().to_string();
    world.command("Devnet.SetBaseFee", json!([spike])).await;
    world.mine(2).await;
    waits_then_lands(&world, miner, "base fee", async |world: &World| {
        world.command("Devnet.SetBaseFee", json!(["100"])).await;
    })
    .await;
}
