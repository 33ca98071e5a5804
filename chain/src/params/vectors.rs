//! The golden vectors (chain.md §1.8, appendix A): every line of the data file is built by the builders,
//! compared byte by byte, decoded and encoded again.

use std::collections::BTreeMap;

use crate::commitment;
use crate::outcome::batch_return;
use crate::types::{
    Address, BitField, ChainEpoch, MethodNum, PaddedPieceSize, RegisteredPoStProof, RegisteredSealProof,
    RegisteredUpdateProof, TokenAmount, miner,
};

use super::*;

const DATA: &str = include_str!("../../tests/data/params.txt");
const R: [u8; 32] = [0x11; 32];
const D: [u8; 32] = [0x22; 32];

fn vectors() -> BTreeMap<&'static str, &'static str> {
    let lines = DATA
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once(" = ").unwrap()).collect()
}

fn sector(comm_d: Option<[u8; 32]>) -> Precommit {
    Precommit {
        proof: RegisteredSealProof::from(8),
        number: 7,
        comm_r: R,
        comm_d,
        ticket_epoch: 1000,
        expiration: 2_000_000,
    }
}

fn data_piece() -> miner::PieceActivationManifest {
    piece(&D, PaddedPieceSize(2048), vec![]).unwrap()
}

fn batch() -> Call {
    let mut second = data_piece();
    second.verified_allocation_key = Some(miner::VerifiedAllocationKey { client: 1001, id: 42 });
    second.notify = vec![market_notification(9).unwrap()];
    let manifest = miner::SectorActivationManifest {
        sector_number: 7,
        pieces: vec![data_piece(), second],
    };
    let require = Require {
        activation: true,
        notification: false,
    };
    let proof = vec![0xaa, 0xbb];
    prove_commit(vec![Activation { manifest, proof }], require).unwrap()
}

fn aggregate() -> Call {
    let sectors = (0..4).map(|sector_number| miner::SectorActivationManifest {
        sector_number,
        pieces: vec![],
    });
    let aggregate = Aggregate {
        sectors: sectors.collect(),
        proof: vec![0xcc],
    };
    prove_commit_aggregate(aggregate, Require::default()).unwrap()
}

fn update() -> Call {
    let manifest = miner::SectorUpdateManifest {
        sector: 7,
        deadline: 3,
        partition: 0,
        new_sealed_cid: commitment::sealed_cid(&R).unwrap(),
        pieces: vec![data_piece()],
    };
    let require = Require {
        activation: true,
        notification: true,
    };
    let proof = vec![0xaa];
    let kind = RegisteredUpdateProof::from(3);
    prove_update(vec![Activation { manifest, proof }], kind, require).unwrap()
}

fn window_post() -> Call {
    submit_window_post(WindowPost {
        deadline: 3,
        partitions: vec![PartitionPost {
            index: 0,
            skipped: BitField::new(),
        }],
        proof_type: RegisteredPoStProof::from(13),
        proof: vec![1, 2, 3],
        commit_epoch: 1234,
        commit_rand: [9; 32],
    })
    .unwrap()
}

fn set() -> SectorSet {
    SectorSet {
        deadline: 3,
        partition: 0,
        sectors: BitField::try_from_bits([1, 2, 3, 10]).unwrap(),
    }
}

fn extension() -> Call {
    let claims = SectorClaims {
        sector: 1,
        maintain: vec![1],
        drop: vec![],
    };
    extend(vec![Extension {
        set: set(),
        with_claims: vec![claims],
        expiration: 2_500_000,
    }])
    .unwrap()
}

fn quality(expiration: Option<ChainEpoch>) -> Call {
    upgrade_quality(vec![(set(), expiration)]).unwrap()
}

/// The inputs of §1.8 under their names in appendix A, with the method numbers of §1.2.
fn calls() -> BTreeMap<&'static str, (MethodNum, Call)> {
    let id = Address::new_id;
    let ni = NiAggregate {
        miner: 1001,
        proof_type: RegisteredSealProof::from(18),
        sectors: vec![(7, R, 1000, 2_000_000)],
        proof: vec![0xdd],
        deadline: 5,
    };
    let new_miner = MinerCreation {
        owner: id(1000),
        worker: id(1001),
        post_proof: RegisteredPoStProof::from(13),
        peer: vec![0, 1],
        multiaddrs: vec![],
    };
    let control = ControlChange {
        worker: id(1001),
        control: vec![id(1002)],
    };
    let partitions = BitField::try_from_bits([0]).unwrap();
    let quota = TokenAmount::from_atto(5);
    BTreeMap::from([
        (
            "PreCommitSectorBatch2/CC",
            (28, precommit(&[sector(None)]).unwrap()),
        ),
        (
            "PreCommitSectorBatch2/data",
            (28, precommit(&[sector(Some(D))]).unwrap()),
        ),
        ("ProveCommitSectors3/batch", (34, batch())),
        ("ProveCommitSectors3/aggregate", (34, aggregate())),
        ("ProveReplicaUpdates3", (35, update())),
        ("ProveCommitSectorsNI", (36, prove_commit_ni(ni, true).unwrap())),
        ("SubmitWindowedPoSt", (5, window_post())),
        ("DeclareFaults", (10, declare_faults(vec![set()]).unwrap())),
        (
            "DeclareFaultsRecovered",
            (11, declare_recovered(vec![set()]).unwrap()),
        ),
        ("TerminateSectors", (9, terminate(vec![set()]).unwrap())),
        ("ExtendSectorExpiration2", (32, extension())),
        ("UpgradeSectorQuality/none", (37, quality(None))),
        ("UpgradeSectorQuality/2500000", (37, quality(Some(2_500_000)))),
        (
            "CompactPartitions",
            (19, compact_partitions(3, partitions).unwrap()),
        ),
        (
            "WithdrawBalance",
            (16, withdraw(TokenAmount::from_whole(1)).unwrap()),
        ),
        ("ChangeWorkerAddress", (3, change_worker(control).unwrap())),
        ("ChangeOwnerAddress", (23, change_owner(id(1003)).unwrap())),
        (
            "ChangeBeneficiary",
            (30, change_beneficiary(id(1003), quota, 99).unwrap()),
        ),
        ("CreateMiner", (2, create_miner(new_miner).unwrap())),
    ])
}

#[test]
fn every_vector_is_built_byte_by_byte() {
    let mut vectors = vectors();
    for (name, (number, call)) in calls() {
        let hex = vectors
            .remove(name)
            .unwrap_or_else(|| panic!("{name} is not in the data file"));
        assert_eq!(hex::encode(call.params().unwrap().bytes()), hex, "{name}");
        assert_eq!(call.number(), number, "{name}");
        assert_eq!(name.split('/').next(), Some(call.name()));
        let to = if call.actor() == Some(Actor::Power) {
            crate::address::POWER_ACTOR
        } else {
            Address::new_id(1000)
        };
        let again = Call::decode(&to, number, &hex::decode(hex).unwrap()).unwrap();
        assert_eq!(again, call, "{name}");
    }
    let left: Vec<_> = vectors
        .keys()
        .filter(|name| !name.starts_with("BatchReturn"))
        .collect();
    assert!(left.is_empty(), "vectors that nothing builds: {left:?}");
}

#[test]
fn batch_returns() {
    let vectors = vectors();
    let read = |name, inputs| batch_return(&hex::decode(vectors[name]).unwrap(), inputs).unwrap();
    assert_eq!(read("BatchReturn/ok2", 2), [None, None]);
    let one = read("BatchReturn/ok+16", 2);
    assert_eq!(one.len(), 2);
    assert_eq!(one[0], None);
    assert_eq!(one[1].map(|code| code.value()), Some(16));
    assert_eq!(
        vectors
            .keys()
            .filter(|name| name.starts_with("BatchReturn"))
            .count(),
        2
    );
}

#[test]
fn small_messages_that_have_no_vector() {
    let check = Call::CheckSectorProven(miner::CheckSectorProvenParams { sector_number: 7 });
    let numbers = compact_sector_numbers(BitField::try_from_bits(0..100).unwrap()).unwrap();
    let fault = Call::ReportConsensusFault(miner::ReportConsensusFaultParams {
        header1: vec![1],
        header2: vec![2],
        header_extra: vec![],
    });
    for (call, number, hex) in [
        (check, 13, "8107"),
        (numbers, 20, "8142840c"),
        (dispute(3, 1).unwrap(), 24, "820301"),
        (fault, 15, "834101410240"),
        (change_peer_id(vec![7]).unwrap(), 4, "814107"),
        (change_multiaddrs(vec![vec![7]]).unwrap(), 18, "81814107"),
        (Call::RepayDebt, 22, ""),
        (Call::Send, 0, ""),
    ] {
        assert_eq!(call.number(), number, "{call:?}");
        assert_eq!(hex::encode(call.params().unwrap().bytes()), hex, "{call:?}");
        let bytes = hex::decode(hex).unwrap();
        assert_eq!(
            Call::decode(&Address::new_id(1000), number, &bytes).unwrap(),
            call
        );
    }
}
