//! Fuzzing by property tests: what arrives from outside is mutated from good examples, and must be read or refused, never
//! panic, and never be taken for something that it is not. Some hundreds of cases with the other tests;
//! `PROPTEST_CASES=1000000 cargo test --release --workspace --test hostile` runs as long as you like.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sealflow_chain::message::{self, SignedMessage};
use sealflow_chain::node::{
    ActorState, Endpoint, InvocationResult, MessageLookup, MinerInfo, MinerPower, Partition,
    PrecommitOnChain, SectorInfo, TipSet,
};
use sealflow_chain::params::Call;
use sealflow_chain::types::{Address, Message, TokenAmount};
use sealflow_chain::wallet::{LotusKey, Policy};
use sealflow_chain::{address, amount, outcome};

/// The golden parameters: `METHOD = HEX` lines, and a few others.
const PARAMS: &str = include_str!("data/params.txt");

/// A policy with everything in it.
const POLICY: &str = r#"
[[allow]]
keys      = ["any"]
methods   = ["PreCommitSectorBatch2", "ProveCommitSectors3", "Send"]
to        = ["f01000", "f01001"]
max_value = "10 FIL"
max_fee   = "0.5 FIL"

[[allow]]
keys      = ["f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za"]
methods   = ["SubmitWindowedPoSt"]
to        = ["f01000"]
max_value = "0 FIL"
"#;

/// Answers as nodes write them.
const ANSWERS: [&str; 6] = [
    r#"{"Cids":[{"/":"bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"}],"Blocks":[],"Height":7}"#,
    r#"{"Owner":"f0100","Worker":"f0101","ControlAddresses":["f0102"],"WindowPoStProofType":10,"SectorSize":2048,"WindowPoStPartitionSectors":2,"ConsensusFaultElapsed":-1,"WorkerChangeEpoch":-1}"#,
    r#"{"MsgRct":{"ExitCode":16,"Return":"ghIB","GasUsed":12},"Error":"too old"}"#,
    r#"{"MinerPower":{"RawBytePower":"2048","QualityAdjPower":"2048"},"TotalPower":{"RawBytePower":"1","QualityAdjPower":"1"},"HasMinPower":true}"#,
    r#"{"AllSectors":[1,4],"FaultySectors":[0],"RecoveringSectors":null,"LiveSectors":[3,9],"ActiveSectors":[3,9]}"#,
    r#"{"Code":{"/":"bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"},"Nonce":3,"Balance":"1000000000000000000"}"#,
];

/// One change of a text or of bytes.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, Index),
    Repeat(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, to)| Change::Set(at, to)),
        (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Change::Insert(at, new)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Cut(from, to)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
    ]
}

fn changed(good: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for change in changes {
        if bytes.is_empty() {
            bytes.push(0);
        }
        let place = |index: &Index, bytes: &[u8]| index.index(bytes.len());
        match change {
            Change::Set(at, to) => {
                let at = place(at, &bytes);
                bytes[at] = *to;
            }
            Change::Insert(at, new) => {
                let at = place(at, &bytes);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Cut(one, other) => {
                let (one, other) = (place(one, &bytes), place(other, &bytes));
                bytes.drain(one.min(other)..one.max(other));
            }
            Change::Repeat(one, other) => {
                let (one, other) = (place(one, &bytes), place(other, &bytes));
                let piece: Vec<u8> = bytes[one.min(other)..one.max(other)].to_vec();
                bytes.extend(piece.into_iter().take(4096));
            }
        }
    }
    bytes
}

fn text(good: &str, changes: &[Change]) -> String {
    String::from_utf8_lossy(&changed(good.as_bytes(), changes)).into_owned()
}

/// The golden parameters.
fn golden() -> Vec<Vec<u8>> {
    let lines = PARAMS.lines().filter_map(|line| line.split_once(" = "));
    let found: Vec<Vec<u8>> = lines
        .filter_map(|(_, value)| hex::decode(value.trim()).ok())
        .collect();
    assert!(found.len() > 10, "the vectors are there");
    found
}

/// The methods of the miner actor that have parameters.
const METHODS: [u64; 21] = [
    28, 34, 35, 36, 5, 10, 11, 9, 32, 37, 19, 20, 13, 24, 15, 3, 23, 30, 16, 4, 18,
];

proptest! {
    /// What a wallet signs it has understood to the last byte.
    #[test]
    fn parameters(which in any::<Index>(), method in any::<Index>(), changes in vec(change(), 0..6)) {
        let golden = golden();
        let bytes = changed(&golden[which.index(golden.len())], &changes);
        let method = METHODS[method.index(METHODS.len())];
        if let Ok(call) = Call::decode(&Address::new_id(1000), method, &bytes) {
            prop_assert_eq!(call.number(), method);
            let again = call.params().unwrap();
            prop_assert_eq!(again.bytes(), bytes.as_slice());
        }
        drop(outcome::batch_return(&bytes, changes.len()));
    }

    /// A signed message that is read is written as it was.
    #[test]
    fn messages(which in any::<Index>(), nonce in any::<u64>(), changes in vec(change(), 0..6)) {
        let golden = golden();
        let message = Message {
            version: 0,
            from: address::parse("f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za").unwrap(),
            to: Address::new_id(1000),
            sequence: nonce,
            value: TokenAmount::from_atto(7),
            method_num: 28,
            params: sealflow_chain::types::RawBytes::new(golden[which.index(golden.len())].clone()),
            gas_limit: 9,
            gas_fee_cap: TokenAmount::from_atto(5),
            gas_premium: TokenAmount::from_atto(5),
        };
        let bytes = changed(&message::encode(&message).unwrap(), &changes);
        if let Ok(read) = message::decode(&bytes) {
            let again = message::encode(&read).unwrap();
            prop_assert_eq!(message::decode(&again).unwrap(), read);
        }
        if let Ok(read) = SignedMessage::decode(&bytes) {
            prop_assert_eq!(SignedMessage::decode(&read.encode().unwrap()).unwrap(), read);
        }
    }

    /// Answers of nodes: unknown, missing and hostile fields.
    #[test]
    fn answers(which in 0..ANSWERS.len(), changes in vec(change(), 0..6)) {
        let json = text(ANSWERS[which], &changes);
        drop(serde_json::from_str::<TipSet>(&json));
        drop(serde_json::from_str::<MinerInfo>(&json));
        drop(serde_json::from_str::<InvocationResult>(&json));
        drop(serde_json::from_str::<MinerPower>(&json));
        drop(serde_json::from_str::<Partition>(&json));
        drop(serde_json::from_str::<ActorState>(&json));
        drop(serde_json::from_str::<SectorInfo>(&json));
        drop(serde_json::from_str::<PrecommitOnChain>(&json));
        drop(serde_json::from_str::<MessageLookup>(&json));
    }

    /// Policies and other texts that people write.
    #[test]
    fn policies(changes in vec(change(), 0..6)) {
        drop(Policy::parse(&text(POLICY, &changes)));
        drop(Endpoint::parse(&text("token:/ip4/127.0.0.1/tcp/1234/http", &changes)));
        drop(address::parse(&text("f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za", &changes)));
        drop(amount::parse(&text("12.5 nanoFIL", &changes)));
        drop(LotusKey::parse(&text("7b2254797065223a22626c73222c22507269766174654b6579223a22227d", &changes)));
    }
}

#[test]
fn the_examples_are_good() {
    assert!(Policy::parse(POLICY).is_ok());
    assert!(serde_json::from_str::<MinerInfo>(ANSWERS[1]).is_ok());
    assert!(serde_json::from_str::<InvocationResult>(ANSWERS[2]).is_ok());
    assert!(serde_json::from_str::<MinerPower>(ANSWERS[3]).is_ok());
    let golden = golden();
    let read = golden.iter().filter(|bytes| {
        METHODS
            .iter()
            .any(|method| Call::decode(&Address::new_id(1000), *method, bytes).is_ok())
    });
    assert!(read.count() > 10);
}
