//! Every typed method sends the parameters of chain.md §3.2, literally, and reads its literal answer.

use serde_json::{Value, json};

use crate::message::{SignedMessage, tests::vector};
use crate::node::testing::{Call, cid, key};
use crate::node::{PrecommitInfo, TipSetKey};
use crate::randomness::Tag;
use crate::types::{Address, BitField, Signature, TokenAmount};

use super::one;

const HEAD: TipSetKey = TipSetKey::HEAD;
const MINER: Address = Address::new_id(1000);
const SECP: &str = "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y";

/// Runs one call against the literal `$answer`, and checks what was sent.
macro_rules! sends {
    ($server:ident, $client:ident, $method:literal $answer:expr, $call:ident($($arg:expr),*), $params:expr) => {{
        $server.result($method, $answer);
        let found = $client.$call($($arg),*).await.unwrap_or_else(|e| panic!("{}: {e}", $method));
        let params: Value = $params;
        let token = Some("Bearer tok.en".to_owned());
        assert_eq!($server.calls(), [Call { method: $method.into(), params, token }]);
        found
    }};
}

#[tokio::test]
async fn chain_and_state() {
    let (server, client) = one().await;
    let actor = json!({"Code": {"/": cid("c").to_string()}, "Head": {"/": cid("h").to_string()}, "Nonce": 5, "Balance": "1000", "DelegatedAddress": null});
    let version = sends!(server, client, "Version" r#"{"Version":"1.37.0+mainnet","APIVersion":131840,"BlockDelay":30,"Agent":"lotus"}"#, version(), json!([]));
    assert_eq!(version.block_delay, 30);
    let nv = sends!(server, client, "StateNetworkVersion" "29", network_version(&HEAD), json!([[]]));
    assert_eq!(nv, 29);
    let id =
        sends!(server, client, "StateLookupID" "\"f0101\"", lookup_id(&MINER, &HEAD), json!(["f01000", []]));
    assert_eq!(id, Some(Address::new_id(101)));
    let found = sends!(server, client, "StateAccountKey" format!("\"{SECP}\""), account_key(&Address::new_id(101), &HEAD), json!(["f0101", []]));
    assert_eq!(found.to_string(), SECP);
    let found = sends!(server, client, "StateGetActor" actor.to_string(), actor(&MINER, &HEAD), json!(["f01000", []]));
    assert_eq!(found.unwrap().nonce, 5);
    let at = key("x");
    let tsk = json!([{"/": cid("x").to_string()}]);
    let drawn = "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"";
    let ticket = sends!(server, client, "StateGetRandomnessFromTickets" drawn, randomness(Tag::SealTicket, 900, Some(1000), &at), json!([5, 900, "QwDoBw==", tsk]));
    assert_eq!(ticket[..4], [0, 1, 2, 3]);
    sends!(server, client, "StateGetRandomnessFromBeacon" drawn, randomness(Tag::SealSeed, 1050, Some(1000), &HEAD), json!([6, 1050, "QwDoBw==", []]));
    sends!(server, client, "StateGetRandomnessFromTickets" drawn, randomness(Tag::PostChainCommit, 900, None, &HEAD), json!([9, 900, "", []]));
    let params = sends!(server, client, "StateGetNetworkParams" r#"{"NetworkName":"lotus","BlockDelaySecs":4,"ConsensusMinerMinPower":"2048","PreCommitChallengeDelay":10,"Eip155ChainID":31415926,"GenesisTimestamp":1760000000}"#, network_params(), json!([]));
    assert_eq!(params.pre_commit_challenge_delay, 10);
}

#[tokio::test]
async fn tipsets() {
    let (server, client) = one().await;
    let mut chain = crate::node::testing::Chain::default();
    chain.line(&["a", "b"]);
    let (b, text) = (chain.get("b"), serde_json::to_string(&chain.get("b")).unwrap());
    let tsk = json!([{"/": cid("b").to_string()}]);
    assert_eq!(
        sends!(server, client, "ChainHead" & text, chain_head(), json!([])),
        b
    );
    assert_eq!(
        sends!(
            server,
            client,
            "ChainGetGenesis" & text,
            chain_genesis(),
            json!([])
        ),
        b
    );
    assert_eq!(
        sends!(
            server,
            client,
            "ChainGetTipSet" & text,
            tipset(&b.key),
            json!([tsk])
        ),
        b
    );
    assert_eq!(
        sends!(
            server,
            client,
            "ChainGetTipSetByHeight" & text,
            tipset_at(10, &HEAD),
            json!([10, []])
        ),
        b
    );
    assert_eq!(
        sends!(
            server,
            client,
            "ChainGetTipSetAfterHeight" & text,
            tipset_from(10, &HEAD),
            json!([10, []])
        ),
        b
    );
}

#[tokio::test]
async fn miners() {
    let (server, client) = one().await;
    let info = r#"{"Owner":"f0100","Worker":"f0101","NewWorker":"<empty>","ControlAddresses":null,"WorkerChangeEpoch":-1,"PeerId":null,"Multiaddrs":[],"WindowPoStProofType":10,"SectorSize":2048,"WindowPoStPartitionSectors":2,"ConsensusFaultElapsed":-1,"PendingOwnerAddress":null,"Beneficiary":"f0100"}"#;
    let miner = json!(["f01000", []]);
    assert!(
        sends!(server, client, "StateMinerInfo" info, miner_info(&MINER, &HEAD), miner.clone())
            .control_addresses
            .is_empty()
    );
    let deadline = r#"{"CurrentEpoch":10,"PeriodStart":-50,"Index":1,"Open":10,"Close":70,"Challenge":-10,"FaultCutoff":-60,"WPoStPeriodDeadlines":48,"WPoStProvingPeriod":2880,"WPoStChallengeWindow":60,"WPoStChallengeLookback":20,"FaultDeclarationCutoff":70}"#;
    assert_eq!(sends!(server, client, "StateMinerProvingDeadline" deadline, proving_deadline(&MINER, &HEAD), miner.clone()).close, 70);
    let deadlines = r#"[{"PostSubmissions":[0,1],"DisputableProofCount":1,"DailyFee":"0"}]"#;
    assert_eq!(
        sends!(server, client, "StateMinerDeadlines" deadlines, deadlines(&MINER, &HEAD), miner.clone())
            .len(),
        1
    );
    let none = sends!(server, client, "StateMinerPartitions" "null", partitions(&MINER, 3, &HEAD), json!(["f01000", 3, []]));
    assert!(none.is_empty());
    let filter = BitField::try_from_bits([1, 2]).unwrap();
    let none = sends!(server, client, "StateMinerSectors" "[]", sectors(&MINER, Some(&filter), &HEAD), json!(["f01000", [1, 2], []]));
    assert!(none.is_empty());
    sends!(server, client, "StateMinerSectors" "null", sectors(&MINER, None, &HEAD), json!(["f01000", null, []]));
    sends!(server, client, "StateMinerActiveSectors" "null", active_sectors(&MINER, &HEAD), miner.clone());
    let faults = sends!(server, client, "StateMinerFaults" "[0,1]", faults(&MINER, &HEAD), miner.clone());
    assert_eq!(faults.iter().collect::<Vec<_>>(), [0]);
    sends!(server, client, "StateMinerRecoveries" "[0]", recoveries(&MINER, &HEAD), miner.clone());
    let used = sends!(server, client, "StateMinerAllocated" "[0,3]", allocated(&MINER, &HEAD), miner.clone());
    assert_eq!(used.len(), 3);
    let power = r#"{"MinerPower":{"RawBytePower":"2048","QualityAdjPower":"20480"},"TotalPower":{"RawBytePower":"2048","QualityAdjPower":"20480"},"HasMinPower":true}"#;
    assert!(
        sends!(server, client, "StateMinerPower" power, power(&MINER, &HEAD), miner.clone()).has_min_power
    );
    let fil = sends!(server, client, "StateMinerAvailableBalance" "\"1000000000000000000\"", available_balance(&MINER, &HEAD), miner);
    assert_eq!(fil, TokenAmount::from_whole(1));
}

#[tokio::test]
async fn sectors() {
    let (server, client) = one().await;
    let sealed = crate::commitment::sealed_cid(&[0x11; 32]).unwrap();
    let info = PrecommitInfo {
        seal_proof: 5,
        sector_number: 2,
        sealed_cid: sealed,
        seal_rand_epoch: 9,
        deal_ids: vec![],
        expiration: 1_555_300,
        unsealed_cid: None,
    };
    let info_json = json!({"SealProof": 5, "SectorNumber": 2, "SealedCID": {"/": sealed.to_string()}, "SealRandEpoch": 9, "DealIDs": [], "Expiration": 1_555_300, "UnsealedCid": null});
    let sector = json!(["f01000", 2, []]);
    let deposit = sends!(server, client, "StateMinerPreCommitDepositForPower" "\"110\"", precommit_deposit(&MINER, &info, &HEAD), json!(["f01000", info_json, []]));
    assert_eq!(deposit, TokenAmount::from_atto(110));
    sends!(server, client, "StateMinerInitialPledgeForSector" "\"110\"", initial_pledge(1_555_200, 34_359_738_368, 0, &HEAD), json!([1_555_200, 34_359_738_368u64, 0, []]));
    sends!(server, client, "StateMinerCreationDeposit" "\"1000000000000000000\"", creation_deposit(&HEAD), json!([[]]));
    assert_eq!(
        sends!(server, client, "StateSectorGetInfo" "null", sector(&MINER, 2, &HEAD), sector.clone()),
        None
    );
    let on_chain = json!({"Info": info_json, "PreCommitDeposit": "1", "PreCommitEpoch": 12}).to_string();
    let found = sends!(server, client, "StateSectorPreCommitInfo" on_chain, precommit(&MINER, 2, &HEAD), sector.clone());
    assert_eq!(
        found.map(|found| (found.info, found.pre_commit_epoch)),
        Some((info, 12))
    );
    let place = sends!(server, client, "StateSectorPartition" r#"{"Deadline":3,"Partition":0}"#, sector_location(&MINER, 2, &HEAD), sector.clone());
    assert_eq!(place.deadline, 3);
    let end = sends!(server, client, "StateSectorExpiration" r#"{"OnTime":1555300,"Early":0}"#, sector_expiration(&MINER, 2, &HEAD), sector);
    assert_eq!(end.early, 0);
}

#[tokio::test]
async fn blocks() {
    let (server, client) = one().await;
    let c = json!({"/": cid("c").to_string()});
    let vrf = json!({"VRFProof": "AAE="});
    let won = json!({"WinCount": 1, "VRFProof": "AAE="});
    let beacons = json!([{"Round": 111, "Data": "AAE="}]);
    let proofs = json!([{"PoStProof": 0, "ProofBytes": "AAE="}]);
    let signature = json!({"Type": 2, "Data": "AAE="});
    let base = json!({"MinerPower": "20480", "NetworkPower": "20480", "Sectors": null, "WorkerKey": SECP, "SectorSize": 2048,
        "PrevBeaconEntry": {"Round": 110, "Data": "AAE="}, "BeaconEntries": beacons, "EligibleForMining": true});
    let asked = json!(["f01000", 11, [c]]);
    let found = sends!(server, client, "MinerGetBaseInfo" base.to_string(), mining_base(&MINER, 11, &key("c")), asked.clone());
    assert_eq!(found.unwrap().miner_power, 20480.into());
    let none = sends!(server, client, "MinerGetBaseInfo" "null", mining_base(&MINER, 11, &key("c")), asked);
    assert_eq!(none, None);
    let template = json!({"Miner": "f01000", "Parents": [c], "Ticket": vrf, "Eproof": won, "BeaconValues": beacons, "Messages": [],
        "Epoch": 11, "Timestamp": 1_760_000_330, "WinningPoStProof": proofs});
    let header = json!({"Miner": "f01000", "Ticket": vrf, "ElectionProof": won, "BeaconEntries": beacons, "WinPoStProof": proofs, "Parents": [c],
        "ParentWeight": "2048", "Height": 11, "ParentStateRoot": c, "ParentMessageReceipts": c, "Messages": c, "BLSAggregate": signature,
        "Timestamp": 1_760_000_330, "BlockSig": signature, "ForkSignaling": 0, "ParentBaseFee": "100"});
    let block = json!({"Header": header, "BlsMessages": [c], "SecpkMessages": []});
    let to_make = serde_json::from_value(template.clone()).unwrap();
    let made = sends!(server, client, "MinerCreateBlock" block.to_string(), create_block(&to_make), json!([template]));
    assert_eq!((made.header.height, made.bls_messages.len()), (11, 1));
    sends!(server, client, "SyncSubmitBlock" "null", submit_block(&made), json!([block]));
}

#[tokio::test]
async fn messages() {
    let (server, client) = one().await;
    let message = vector(SECP);
    let msg = json!({"Version": 0, "To": "f01000", "From": SECP, "Nonce": 5, "Value": "0", "GasLimit": 1_000_000, "GasFeeCap": "1000", "GasPremium": "100", "Method": 28, "Params": "gYA="});
    let c = json!({"/": cid("m").to_string()});
    let call = json!({"MsgCid": c, "Msg": msg, "MsgRct": {"ExitCode": 16, "Return": null, "GasUsed": 1000, "EventsRoot": null}, "Error": "… (RetCode=16)", "Duration": 1000});
    let run =
        sends!(server, client, "StateCall" call.to_string(), dry_run(&message, &HEAD), json!([msg, []]));
    assert_eq!(run.msg_rct.exit_code.value(), 16);
    let max = TokenAmount::from_atto(0);
    let filled = sends!(server, client, "GasEstimateMessageGas" msg.to_string(), estimate_gas(&message, &max, &HEAD), json!([msg, {"MaxFee": "0"}, []]));
    assert_eq!(filled, message);
    assert_eq!(
        sends!(server, client, "MpoolGetNonce" "5", mpool_nonce(&message.from), json!([SECP])),
        5
    );
    assert!(sends!(server, client, "MpoolPending" "null", mpool_pending(&HEAD), json!([[]])).is_empty());
    let signed = SignedMessage {
        message,
        signature: Signature::new_secp256k1(vec![0, 1]),
    };
    let smsg = json!({"Message": msg, "Signature": {"Type": 1, "Data": "AAE="}});
    sends!(server, client, "MpoolPush" c.to_string(), push(&signed), json!([smsg]));
    let lookup = json!({"Message": c, "Receipt": {"ExitCode": 0, "Return": "ggKA", "GasUsed": 1000, "EventsRoot": null}, "ReturnDec": null, "TipSet": [c], "Height": 13});
    let found = sends!(server, client, "StateSearchMsg" lookup.to_string(), search_message(&cid("m")), json!([[], c, -1, true]));
    assert_eq!(found.unwrap().height, 13);
    assert_eq!(
        sends!(server, client, "StateSearchMsg" "null", search_message(&cid("m")), json!([[], c, -1, true])),
        None
    );
    let found = sends!(server, client, "StateWaitMsg" lookup.to_string(), wait_message(&cid("m"), 5), json!([c, 5, -1, true]));
    assert_eq!(found.message, cid("m"));
    assert_eq!(
        sends!(server, client, "ChainGetMessage" msg.to_string(), message(&cid("m")), json!([c])).sequence,
        5
    );
    let fil =
        sends!(server, client, "WalletBalance" "\"7\"", wallet_balance(&signed.message.from), json!([SECP]));
    assert_eq!(fil, TokenAmount::from_atto(7));
    let parents = json!([{"Cid": c, "Message": msg}]).to_string();
    let found = sends!(
        server,
        client,
        "ChainGetParentMessages" parents,
        parent_messages(&cid("m")),
        json!([c])
    );
    assert_eq!((found[0].cid, found[0].message.nonce), (cid("m"), 5));
    let receipts = r#"[{"ExitCode":0,"Return":"","GasUsed":1,"EventsRoot":null}]"#;
    let found = sends!(
        server,
        client,
        "ChainGetParentReceipts" receipts,
        parent_receipts(&cid("m")),
        json!([c])
    );
    assert_eq!(found[0].gas_used, 1);
}
