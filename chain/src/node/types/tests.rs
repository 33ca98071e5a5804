//! Literal answers of chain.md §3.2, and what is wrong with others.

use serde::de::DeserializeOwned;

use super::*;

const C: &str = r#"{"/":"bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"}"#;

/// A literal of the contract with its abbreviations written out.
fn literal(text: &str) -> String {
    let sealed = crate::commitment::sealed_cid(&[0x11; 32]).unwrap().to_string();
    let block = r#"{"Miner":"f01000","Ticket":{"VRFProof":"AAE="},"ElectionProof":{"WinCount":1,"VRFProof":"AAE="},"BeaconEntries":[{"Round":110,"Data":"AAE="}],"WinPoStProof":[{"PoStProof":0,"ProofBytes":"AAE="}],"Parents":TSK,"ParentWeight":"2048","Height":10,"ParentStateRoot":C,"ParentMessageReceipts":C,"Messages":C,"BLSAggregate":{"Type":2,"Data":"wAAA"},"Timestamp":1760000300,"BlockSig":{"Type":2,"Data":"AAE="},"ForkSignaling":0,"ParentBaseFee":"100"}"#;
    text.replace("TIPSET", r#"{"Cids":TSK,"Blocks":[BLOCK],"Height":10}"#)
        .replace("BLOCK", block)
        .replace("TSK", "[C]")
        .replace(":C,", &format!(":{C},"))
        .replace(":C}", &format!(":{C}}}"))
        .replace("[C]", &format!("[{C}]"))
        .replace("bagboea4…", &sealed)
        .replace("bagboea4b5abc…", &sealed)
}

fn read<T: DeserializeOwned>(text: &str) -> T {
    let text = literal(text);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn chain() {
    let tipset: TipSet = read("TIPSET");
    assert_eq!((tipset.height, tipset.timestamp()), (10, 1_760_000_300));
    assert_eq!(tipset.base_fee().atto().to_string(), "100");
    assert_eq!((tipset.age(1_760_000_391), tipset.age(0)), (91, 0));
    assert_eq!(tipset.key, *tipset.parents());
    let again: TipSet = serde_json::from_str(&serde_json::to_string(&tipset).unwrap()).unwrap();
    assert_eq!(again, tipset);
    assert_eq!(serde_json::to_string(&TipSetKey::HEAD).unwrap(), "[]");
    let version: Version =
        read(r#"{"Version":"1.37.0+mainnet","APIVersion":131840,"BlockDelay":30,"Agent":"lotus"}"#);
    assert_eq!(version.block_delay, 30);
}

#[test]
fn a_genesis_has_no_parents() {
    let genesis: TipSet = read(&literal("TIPSET").replace(&format!("\"Parents\":[{C}]"), "\"Parents\":null"));
    assert_eq!(*genesis.parents(), TipSetKey::HEAD);
}

#[test]
fn tipsets_that_make_no_sense() {
    let good = literal("TIPSET");
    for bad in [
        literal(r#"{"Cids":TSK,"Blocks":[],"Height":10}"#),
        literal(r#"{"Cids":TSK,"Blocks":null,"Height":10}"#),
        good.replace("\"Height\":10}", "\"Height\":11}"),
        good.replacen(&format!("[{C}]"), "[]", 1),
        good.replace("\"Height\":10", "\"Height\":-1"),
    ] {
        assert!(serde_json::from_str::<TipSet>(&bad).is_err(), "{bad}");
    }
}

#[test]
fn miners() {
    let info: MinerInfo = read(
        r#"{"Owner":"f0100","Worker":"f0101","NewWorker":"<empty>","ControlAddresses":["f0102"],"WorkerChangeEpoch":-1,"PeerId":null,"Multiaddrs":[],
            "WindowPoStProofType":10,"SectorSize":2048,"WindowPoStPartitionSectors":2,"ConsensusFaultElapsed":-1,"PendingOwnerAddress":null,"Beneficiary":"f0100",
            "BeneficiaryTerm":{"Quota":"0","UsedQuota":"0","Expiration":0},"PendingBeneficiaryTerm":null}"#,
    );
    assert_eq!(
        (info.sector_size, info.new_worker, info.pending_owner_address),
        (2048, None, None)
    );
    assert_eq!(info.control_addresses.len(), 1);
    let deadline: ProvingDeadline = read(
        r#"{"CurrentEpoch":10,"PeriodStart":-50,"Index":1,"Open":10,"Close":70,"Challenge":-10,"FaultCutoff":-60,"WPoStPeriodDeadlines":48,"WPoStProvingPeriod":2880,
            "WPoStChallengeWindow":60,"WPoStChallengeLookback":20,"FaultDeclarationCutoff":70}"#,
    );
    assert_eq!(
        (
            deadline.open,
            deadline.challenge_window,
            deadline.fault_declaration_cutoff
        ),
        (10, 60, 70)
    );
    let deadlines: Vec<Deadline> =
        read(r#"[{"PostSubmissions":[0,1],"DisputableProofCount":1,"DailyFee":"0"}]"#);
    assert_eq!(deadlines[0].post_submissions.iter().collect::<Vec<_>>(), [0]);
    let partitions: Vec<Partition> = read(
        r#"[{"AllSectors":[1,2],"FaultySectors":[0],"RecoveringSectors":[0],"LiveSectors":[1,2],"ActiveSectors":[1,2]}]"#,
    );
    assert_eq!(partitions[0].live_sectors.iter().collect::<Vec<_>>(), [1, 2]);
    assert!(partitions[0].faulty_sectors.is_empty());
    let power: MinerPower = read(
        r#"{"MinerPower":{"RawBytePower":"2048","QualityAdjPower":"20480"},"TotalPower":{"RawBytePower":"2048","QualityAdjPower":"20480"},"HasMinPower":true}"#,
    );
    assert_eq!(power.miner_power.quality_adj_power, 20480.into());
}

/// What is read is written again as it was.
fn both_ways<T: DeserializeOwned + serde::Serialize>(text: &str) -> T {
    let value: T = read(text);
    let again = serde_json::to_string(&value).unwrap();
    assert_eq!(again, literal(text).split_whitespace().collect::<String>());
    value
}

#[test]
fn blocks() {
    let header: FullHeader = both_ways("BLOCK ");
    assert_eq!((header.height, header.parents.0.len()), (10, 1));
    assert_eq!(header.election_proof.unwrap().win_count, 1);
    let block: BlockMessage = both_ways(r#"{"Header":BLOCK,"BlsMessages":[C],"SecpkMessages":[C]}"#);
    assert_eq!(block.bls_messages, block.secpk_messages);
    // Go writes an empty list as null.
    let block: BlockMessage = read(r#"{"Header":BLOCK,"BlsMessages":null,"SecpkMessages":null}"#);
    assert!(block.bls_messages.is_empty() && block.header.block_sig.is_some());
    let unsigned = r#"{"Type":2,"Data":"AAE="},"ForkSignaling""#;
    let unsigned = literal("BLOCK").replace(unsigned, r#"null,"ForkSignaling""#);
    assert_eq!(read::<FullHeader>(&unsigned).block_sig, None);
    let template: BlockTemplate = both_ways(
        r#"{"Miner":"f01000","Parents":TSK,"Ticket":{"VRFProof":"AAE="},"Eproof":{"WinCount":1,"VRFProof":"AAE="},"BeaconValues":[{"Round":111,"Data":"AAE="}],"Messages":[],"Epoch":11,"Timestamp":1760000330,
            "WinningPoStProof":[{"PoStProof":0,"ProofBytes":"AAE="}]}"#,
    );
    assert_eq!(
        (template.epoch, template.winning_post_proof[0].proof_bytes.len()),
        (11, 2)
    );
    let base: Option<MiningBase> = both_ways(
        r#"{"MinerPower":"20480","NetworkPower":"20480","Sectors":[{"SealProof":5,"SectorNumber":2,"SectorKey":null,"SealedCID":{"/":"bagboea4…"}}],
            "WorkerKey":"f01001","SectorSize":2048,"PrevBeaconEntry":{"Round":110,"Data":"AAE="},"BeaconEntries":[{"Round":111,"Data":"AAE="}],"EligibleForMining":true}"#,
    );
    let mut base = base.unwrap();
    assert_eq!((base.beacon().round, base.sectors[0].sector_number), (111, 2));
    base.beacon_entries.clear();
    assert_eq!(base.beacon().round, 110);
    assert_eq!(read::<Option<MiningBase>>("null"), None);
}

#[test]
fn sectors() {
    let sector: Option<SectorInfo> = read(
        r#"{"SectorNumber":2,"SealProof":5,"SealedCID":{"/":"bagboea4b5abc…"},"Activation":100,"Expiration":1555300,"DealWeight":"0","VerifiedDealWeight":"0","InitialPledge":"1","ExpectedDayReward":null,
            "ExpectedStoragePledge":null,"PowerBaseEpoch":100,"ReplacedDayReward":null,"SectorKeyCID":null,"Flags":3,"DailyFee":"0"}"#,
    );
    let sector = sector.unwrap();
    assert_eq!((sector.flags, sector.sector_key_cid), (3, None));
    assert_eq!(crate::commitment::comm_r(&sector.sealed_cid).unwrap(), [0x11; 32]);
    let precommit: Option<PrecommitOnChain> = read(
        r#"{"Info":{"SealProof":5,"SectorNumber":2,"SealedCID":{"/":"bagboea4…"},"SealRandEpoch":9,"DealIDs":[],"Expiration":1555300,"UnsealedCid":null},
            "PreCommitDeposit":"1","PreCommitEpoch":12}"#,
    );
    assert_eq!(precommit.unwrap().pre_commit_epoch, 12);
    assert_eq!(read::<Option<PrecommitOnChain>>("null"), None);
    let place: SectorLocation = read(r#"{"Deadline":3,"Partition":0}"#);
    assert_eq!(place.deadline, 3);
    let end: SectorExpiration = read(r#"{"OnTime":1555300,"Early":0}"#);
    assert_eq!(end.on_time, 1_555_300);
}

#[test]
fn state_and_messages() {
    let actor: ActorState = read(r#"{"Code":C,"Head":C,"Nonce":5,"Balance":"1000","DelegatedAddress":null}"#);
    assert_eq!(actor.nonce, 5);
    let params: NetworkParams = read(
        r#"{"NetworkName":"lotus","BlockDelaySecs":4,"ConsensusMinerMinPower":"2048","PreCommitChallengeDelay":10,"ForkUpgradeParams":{"UpgradeSmokeHeight":-1},"Eip155ChainID":31415926,"GenesisTimestamp":1760000000}"#,
    );
    assert_eq!(
        (params.pre_commit_challenge_delay, params.genesis_timestamp),
        (10, Some(1_760_000_000))
    );
    let lookup: Option<MessageLookup> = read(
        r#"{"Message":C,"Receipt":{"ExitCode":0,"Return":"ggKA","GasUsed":1000,"EventsRoot":null},"ReturnDec":null,"TipSet":TSK,"Height":13}"#,
    );
    let lookup = lookup.unwrap();
    assert_eq!((lookup.height, lookup.receipt.returned.len()), (13, 3));
    let call: InvocationResult = read(
        r#"{"MsgCid":C,"MsgRct":{"ExitCode":16,"Return":null,"GasUsed":1000,"EventsRoot":null},"GasCost":{"GasUsed":"0"},
            "ExecutionTrace":{},"Error":"… (RetCode=16)","Duration":1000}"#,
    );
    assert_eq!(call.msg_rct.exit_code.value(), 16);
    let spec = FeeSpec {
        max_fee: crate::types::TokenAmount::from_atto(0),
    };
    assert_eq!(serde_json::to_string(&spec).unwrap(), r#"{"MaxFee":"0"}"#);
}
