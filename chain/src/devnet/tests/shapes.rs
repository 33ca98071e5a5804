//! The answers have the fields of the literal examples of chain.md §3.2, with values of the same kind.

use serde_json::{Value, json};

use super::post::active;
use super::sealing::{SAMPLE, sector};
use super::{Net, fil, text};
use crate::devnet::Permission;

const CID: &str = r#"{"/":"bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"}"#;

/// The examples' shorthands written out.
pub(super) fn literal(text: &str) -> Value {
    let block = r#"{"Miner":"f01000","Ticket":{"VRFProof":"AAE="},"ElectionProof":{"WinCount":1,"VRFProof":"AAE="},"BeaconEntries":[{"Round":110,"Data":"AAE="}],"WinPoStProof":[{"PoStProof":0,"ProofBytes":"AAE="}],"Parents":TSK,"ParentWeight":"2048","Height":10,"ParentStateRoot":C,"ParentMessageReceipts":C,"Messages":C,"BLSAggregate":{"Type":2,"Data":"wAAA"},"Timestamp":1760000300,"BlockSig":{"Type":2,"Data":"AAE="},"ForkSignaling":0,"ParentBaseFee":"100"}"#;
    let message = r#"{"Version":0,"To":"f01000","From":"f3w","Nonce":5,"Value":"0","GasLimit":1000000,"GasFeeCap":"1000","GasPremium":"100","Method":28,"Params":"gYA=","CID":C}"#;
    let written = text
        .replace("LOOKUP", r#"{"Message":C,"Receipt":{"ExitCode":0,"Return":"ggKA","GasUsed":1000,"EventsRoot":null},"ReturnDec":null,"TipSet":TSK,"Height":13}"#)
        .replace("SECTOR", r#"{"SectorNumber":2,"SealProof":5,"SealedCID":C,"Activation":100,"Expiration":1555300,"DealWeight":"0","VerifiedDealWeight":"0","InitialPledge":"1","ExpectedDayReward":null,"ExpectedStoragePledge":null,"PowerBaseEpoch":100,"ReplacedDayReward":null,"SectorKeyCID":null,"Flags":3,"DailyFee":"0"}"#)
        .replace("TIPSET", r#"{"Cids":TSK,"Blocks":[BLOCK],"Height":10}"#)
        .replace("BLOCK", block)
        .replace("SMSG", r#"{"Message":MSG,"Signature":{"Type":2,"Data":"oaa="},"CID":C}"#)
        .replace("MSG", message)
        .replace("TSK", "[C]");
    // A lone letter: the only capital C between punctuation.
    let mut whole = String::new();
    let mut before = ' ';
    let mut letters = written.chars().peekable();
    while let Some(letter) = letters.next() {
        let alone = letter == 'C'
            && "[:,".contains(before)
            && letters.peek().is_none_or(|next| ",]}".contains(*next));
        if alone || (letter == 'C' && written.len() == 1) {
            whole.push_str(CID);
        } else {
            whole.push(letter);
        }
        before = letter;
    }
    serde_json::from_str(&whole).unwrap_or_else(|e| panic!("{e}: {whole}"))
}

/// Whether a value has the form of the example. What is null on one side can be anything on the other.
pub(super) fn compare(path: &str, example: &Value, value: &Value) {
    match (example, value) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(wanted), Value::Object(told)) => {
            let names = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            let (mut a, mut b) = (names(wanted), names(told));
            a.sort();
            b.sort();
            assert_eq!(a, b, "{path}");
            for (name, example) in wanted {
                compare(&format!("{path}.{name}"), example, &told[name]);
            }
        }
        (Value::Array(wanted), Value::Array(told)) => {
            if let (Some(example), Some(value)) = (wanted.first(), told.first()) {
                compare(&format!("{path}[0]"), example, value);
            }
        }
        (Value::String(_), Value::String(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::Bool(_), Value::Bool(_)) => {}
        _ => panic!("{path}: {value} is not like {example}"),
    }
}

#[tokio::test]
async fn answers_are_like_the_examples() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 2).await;
    let call = crate::params::precommit(&[sector(&net, SAMPLE, &[]).await]).unwrap();
    let sent = net.send("worker", miner, fil(1), &call).await;
    let waiting = net
        .signed("worker", miner, fil(1), &crate::params::Call::Send)
        .await;
    let head = net.command("Filecoin.ChainHead", json!([])).await;
    let block = head["Cids"][0].clone();
    let (m, cid) = (text(miner), json!(crate::json::Form(sent.message)));
    let owner = text(net.key("owner").address);
    let message = json!(crate::message::MessageJson::from(&waiting.message));
    let precommit_info = json!({"SealProof": 5, "SectorNumber": 2});
    let (height, entropy) = (head["Height"].clone(), "QwDoBw==");
    for (method, params, example) in [
        (
            "Version",
            json!([]),
            r#"{"Version":"1.37.0+mainnet","APIVersion":131840,"BlockDelay":30,"Agent":"lotus"}"#,
        ),
        ("ChainHead", json!([]), "TIPSET"),
        ("ChainGetGenesis", json!([]), "TIPSET"),
        ("ChainGetTipSet", json!([[block]]), "TIPSET"),
        ("ChainGetTipSetByHeight", json!([3, []]), "TIPSET"),
        ("ChainGetTipSetAfterHeight", json!([3, null]), "TIPSET"),
        ("ChainGetBlock", json!([block]), "BLOCK"),
        (
            "ChainGetBlockMessages",
            json!([head["Blocks"][0]["Parents"][0]]),
            r#"{"BlsMessages":[MSG],"SecpkMessages":[SMSG],"Cids":[C]}"#,
        ),
        (
            "ChainGetMessagesInTipset",
            json!([head["Blocks"][0]["Parents"]]),
            r#"[{"Cid":C,"Message":MSG}]"#,
        ),
        (
            "ChainGetParentMessages",
            json!([block]),
            r#"[{"Cid":C,"Message":MSG}]"#,
        ),
        (
            "ChainGetParentReceipts",
            json!([block]),
            r#"[{"ExitCode":0,"Return":"","GasUsed":1,"EventsRoot":null}]"#,
        ),
        ("ChainGetMessage", json!([cid]), "MSG"),
        ("ChainReadObj", json!([block]), r#""gYA=""#),
        ("ChainHasObj", json!([block]), "true"),
        ("ChainTipSetWeight", json!([[]]), r#""2048""#),
        (
            "SyncState",
            json!([]),
            r#"{"ActiveSyncs":[{"WorkerID":1,"Base":TIPSET,"Target":TIPSET,"Stage":4,"Height":10,"Start":"","End":"","Message":""}],"VMApplied":1}"#,
        ),
        (
            "StateMinerInfo",
            json!([m, []]),
            r#"{"Owner":"f0100","Worker":"f0101","NewWorker":"<empty>","ControlAddresses":["f0102"],"WorkerChangeEpoch":-1,"PeerId":null,"Multiaddrs":[],"WindowPoStProofType":10,"SectorSize":2048,"WindowPoStPartitionSectors":2,"ConsensusFaultElapsed":-1,"PendingOwnerAddress":null,"Beneficiary":"f0100","BeneficiaryTerm":{"Quota":"0","UsedQuota":"0","Expiration":0},"PendingBeneficiaryTerm":null}"#,
        ),
        (
            "StateMinerProvingDeadline",
            json!([m, []]),
            r#"{"CurrentEpoch":10,"PeriodStart":-50,"Index":1,"Open":10,"Close":70,"Challenge":-10,"FaultCutoff":-60,"WPoStPeriodDeadlines":48,"WPoStProvingPeriod":2880,"WPoStChallengeWindow":60,"WPoStChallengeLookback":20,"FaultDeclarationCutoff":70}"#,
        ),
        (
            "StateMinerDeadlines",
            json!([m, []]),
            r#"[{"PostSubmissions":[0,1],"DisputableProofCount":1,"DailyFee":"0"}]"#,
        ),
        (
            "StateMinerPartitions",
            json!([m, place.deadline, []]),
            r#"[{"AllSectors":[1,2],"FaultySectors":[0],"RecoveringSectors":[0],"LiveSectors":[1,2],"ActiveSectors":[1,2]}]"#,
        ),
        ("StateMinerSectors", json!([m, [2, 1], []]), "[SECTOR]"),
        ("StateMinerSectors", json!([m, null, []]), "[SECTOR]"),
        ("StateMinerActiveSectors", json!([m, []]), "[SECTOR]"),
        ("StateMinerFaults", json!([m, []]), "[0]"),
        ("StateMinerRecoveries", json!([m, []]), "[0]"),
        (
            "StateMinerSectorCount",
            json!([m, []]),
            r#"{"Live":2,"Active":2,"Faulty":0}"#,
        ),
        (
            "StateMinerPower",
            json!([m, []]),
            r#"{"MinerPower":{"RawBytePower":"2048","QualityAdjPower":"20480"},"TotalPower":{"RawBytePower":"2048","QualityAdjPower":"20480"},"HasMinPower":true}"#,
        ),
        ("StateMinerAvailableBalance", json!([m, []]), r#""1000""#),
        ("StateMinerAllocated", json!([m, []]), "[0,3]"),
        ("StateMinerSectorAllocated", json!([m, 2, []]), "true"),
        (
            "StateMinerPreCommitDepositForPower",
            json!([m, precommit_info, []]),
            r#""110""#,
        ),
        (
            "StateMinerInitialPledgeForSector",
            json!([1_555_200, 2048, 0, []]),
            r#""110""#,
        ),
        ("StateMinerCreationDeposit", json!([[]]), r#""110""#),
        ("StateSectorGetInfo", json!([m, 2, []]), "SECTOR"),
        (
            "StateSectorPreCommitInfo",
            json!([m, SAMPLE, []]),
            r#"{"Info":{"SealProof":5,"SectorNumber":2,"SealedCID":C,"SealRandEpoch":9,"DealIDs":[],"Expiration":1555300,"UnsealedCid":null},"PreCommitDeposit":"1","PreCommitEpoch":12}"#,
        ),
        (
            "StateSectorPartition",
            json!([m, 2, []]),
            r#"{"Deadline":3,"Partition":0}"#,
        ),
        (
            "StateSectorExpiration",
            json!([m, 2, []]),
            r#"{"OnTime":1555300,"Early":0}"#,
        ),
        ("StateNetworkName", json!([]), r#""mainnet""#),
        ("StateNetworkVersion", json!([[]]), "29"),
        ("StateLookupID", json!([owner, []]), r#""f0101""#),
        ("StateAccountKey", json!(["f01001", []]), r#""f3w""#),
        ("StateLookupRobustAddress", json!([m, []]), r#""f2""#),
        (
            "StateGetActor",
            json!([owner, []]),
            r#"{"Code":C,"Head":C,"Nonce":5,"Balance":"1000","DelegatedAddress":null}"#,
        ),
        ("StateListMiners", json!([[]]), r#"["f01000"]"#),
        ("StateCirculatingSupply", json!([[]]), r#""1""#),
        (
            "StateGetRandomnessFromTickets",
            json!([5, height, entropy, []]),
            r#""AAEC""#,
        ),
        (
            "StateGetRandomnessFromBeacon",
            json!([6, height, entropy, []]),
            r#""AAEC""#,
        ),
        (
            "StateGetBeaconEntry",
            json!([height]),
            r#"{"Round":1150,"Data":"AAE="}"#,
        ),
        ("StateSearchMsg", json!([[], cid, -1, true]), "LOOKUP"),
        ("StateWaitMsg", json!([cid, 0, -1, true]), "LOOKUP"),
        (
            "MpoolPush",
            json!([crate::message::SignedMessageJson::from(&waiting)]),
            "C",
        ),
        ("MpoolGetNonce", json!([owner]), "5"),
        ("MpoolPending", json!([[]]), "[SMSG]"),
        ("MpoolSelect", json!([[], 0.9]), "[SMSG]"),
        (
            "GasEstimateMessageGas",
            json!([message, {"MaxFee": "0"}, []]),
            "MSG",
        ),
        ("GasEstimateGasLimit", json!([message, []]), "1000000"),
        ("GasEstimateFeeCap", json!([message, 20, []]), r#""1000""#),
        (
            "GasEstimateGasPremium",
            json!([10, owner, 1_000_000, []]),
            r#""100""#,
        ),
        ("WalletList", json!([]), r#"["f3w"]"#),
        ("WalletHas", json!([owner]), "true"),
        ("WalletBalance", json!([owner]), r#""0""#),
        (
            "WalletSign",
            json!([owner, "AXGg"]),
            r#"{"Type":2,"Data":"oaa="}"#,
        ),
        (
            "AuthVerify",
            json!([net.devnet.token(Permission::Write)]),
            r#"["read","write"]"#,
        ),
        (
            "StateCall",
            json!([message, []]),
            r#"{"MsgCid":C,"Msg":MSG,"MsgRct":{"ExitCode":16,"Return":null,"GasUsed":1000,"EventsRoot":null},"GasCost":{"Message":C,"GasUsed":"0","BaseFeeBurn":"0","OverEstimationBurn":"0","MinerPenalty":"0","MinerTip":"0","Refund":"0","TotalCost":"0"},"ExecutionTrace":null,"Error":"text","Duration":1000}"#,
        ),
    ] {
        let value = net.command(&format!("Filecoin.{method}"), params).await;
        assert!(!value.is_null(), "{method}");
        compare(method, &literal(example), &value);
    }
}

#[tokio::test]
async fn what_is_not_there() {
    let net = Net::start().await;
    let miner = text(net.miner().await);
    for (method, params) in [
        ("StateSectorGetInfo", json!([miner, 9, []])),
        ("StateSectorPreCommitInfo", json!([miner, 9, []])),
    ] {
        assert!(net.command(method, params).await.is_null(), "{method}");
    }
    for (method, params, code, words) in [
        ("StateLookupID", json!(["f05000", []]), 1, "actor not found"),
        ("StateMinerInfo", json!(["f05000", []]), 1, "actor not found"),
        ("StateMinerInfo", json!(["f01001", []]), 1, "actor not found"),
        (
            "ChainGetTipSet",
            json!([[serde_json::from_str::<Value>(CID).unwrap()]]),
            1,
            "could not find",
        ),
        (
            "ChainGetTipSetByHeight",
            json!([1000, []]),
            1,
            "greater than start point",
        ),
        (
            "StateGetRandomnessFromBeacon",
            json!([6, 1000, "", []]),
            1,
            "cannot draw randomness from the future",
        ),
        ("StateMinerInfo", json!([miner]), -32602, "wrong param count"),
        ("StateMinerInfo", json!([7, []]), -32602, "unmarshaling params"),
        ("StateNothing", json!([]), -32601, "not found"),
        ("F3GetManifest", json!([]), 4, "disabled"),
    ] {
        let answer = net
            .raw(Permission::Admin, &format!("Filecoin.{method}"), params)
            .await;
        assert_eq!(answer["error"]["code"], code, "{method}: {answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(words),
            "{answer}"
        );
    }
}
