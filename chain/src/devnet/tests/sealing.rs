//! How a sector comes onto the chain, and what refuses it (chain.md §6.7).

use crate::commitment;
use crate::devnet::{Piece, SealClaim};
use crate::node::MessageLookup;
use crate::params::{
    self, Activation, Aggregate, Call, Precommit, Require, precommit, prove_commit, prove_commit_aggregate,
};
use crate::randomness::Tag;
use crate::types::{Address, PaddedPieceSize, RegisteredSealProof, SectorNumber, TokenAmount, miner};

use super::verifier::{aggregate_proof, comm_d, seal_proof};
use super::{HEAD, Net, fil};

const SEAL: RegisteredSealProof = RegisteredSealProof::StackedDRG2KiBV1P1;
pub(super) const ALL: Require = Require {
    activation: true,
    notification: false,
};
/// A sector that is pre-committed only.
pub(super) const SAMPLE: SectorNumber = 9;
const SOME: Require = Require {
    activation: false,
    notification: false,
};
/// A whole sector of data.
pub(super) const DATA: Piece = Piece {
    comm_p: [0x22; 32],
    size: PaddedPieceSize(2048),
};

pub(super) fn comm_r(number: SectorNumber) -> [u8; 32] {
    [u8::try_from(number % 60).unwrap(); 32]
}

/// The longest that a pre-commit can wait, the shortest life, and some more.
pub(super) fn expiration(now: i64) -> i64 {
    now + 86_410 + crate::policy::LIFETIME_MIN + 2_000
}

/// A sector with a good ticket.
pub(super) async fn sector(net: &Net, number: SectorNumber, pieces: &[Piece]) -> Precommit {
    let now = net.height().await;
    Precommit {
        proof: SEAL,
        number,
        comm_r: comm_r(number),
        comm_d: (!pieces.is_empty()).then(|| comm_d(pieces)),
        ticket_epoch: now - 1,
        expiration: expiration(now),
    }
}

/// The claim of a pre-committed sector, by the chain's own randomness.
pub(super) async fn claim(net: &Net, miner: Address, number: SectorNumber) -> SealClaim {
    let on_chain = net
        .client
        .precommit(&miner, number, &HEAD)
        .await
        .unwrap()
        .unwrap();
    let delay = net
        .client
        .network_params()
        .await
        .unwrap()
        .pre_commit_challenge_delay;
    let id = miner.id().unwrap();
    let draw = |tag, epoch| net.client.randomness(tag, epoch, Some(id), &HEAD);
    let zeros = miner::CompactCommD::empty().get_cid(SEAL).unwrap();
    let unsealed = on_chain.info.unsealed_cid.unwrap_or(zeros);
    let ticket = draw(Tag::SealTicket, on_chain.info.seal_rand_epoch)
        .await
        .unwrap();
    SealClaim {
        proof_type: SEAL,
        miner: id,
        sector: number,
        comm_r: comm_r(number),
        comm_d: commitment::comm_d(&unsealed).unwrap(),
        ticket,
        seed: draw(Tag::SealSeed, on_chain.pre_commit_epoch + delay)
            .await
            .unwrap(),
    }
}

pub(super) fn manifest(number: SectorNumber, pieces: &[Piece]) -> miner::SectorActivationManifest {
    let pieces = pieces.iter();
    miner::SectorActivationManifest {
        sector_number: number,
        pieces: pieces
            .map(|piece| params::piece(&piece.comm_p, piece.size, Vec::new()).unwrap())
            .collect(),
    }
}

fn activation(
    number: SectorNumber,
    pieces: &[Piece],
    proof: Vec<u8>,
) -> Activation<miner::SectorActivationManifest> {
    Activation {
        manifest: manifest(number, pieces),
        proof,
    }
}

/// Waits until a pre-committed sector can be proved by the next block.
pub(super) async fn ready(net: &Net, miner: Address, number: SectorNumber) {
    let target = serde_json::json!([{"miner": super::text(miner), "precommit_ready": number}]);
    net.command("Devnet.AdvanceTo", target).await;
}

/// Seals a sector.
pub(super) async fn seal(net: &Net, miner: Address, number: SectorNumber, pieces: &[Piece]) -> MessageLookup {
    let call = precommit(&[sector(net, number, pieces).await]).unwrap();
    let sent = net.send("worker", miner, fil(1), &call).await;
    assert_eq!(sent.receipt.exit_code.value(), 0, "pre-commit");
    ready(net, miner, number).await;
    let proof = seal_proof(&claim(net, miner, number).await);
    let call = prove_commit(vec![activation(number, pieces, proof)], ALL).unwrap();
    let sent = net.send("worker", miner, fil(1), &call).await;
    assert_eq!(sent.receipt.exit_code.value(), 0, "prove-commit");
    sent
}

#[tokio::test]
async fn a_sector_is_precommitted_and_proved() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let before = net.client.available_balance(&miner, &HEAD).await.unwrap();
    let call = precommit(&[sector(&net, 7, &[]).await]).unwrap();
    net.send("worker", miner, fil(1), &call).await;
    let on_chain = net.client.precommit(&miner, 7, &HEAD).await.unwrap().unwrap();
    // A block at H runs at H, and its receipt is in the next.
    assert_eq!(on_chain.pre_commit_epoch, net.height().await - 1);
    let deposit = on_chain.pre_commit_deposit;
    assert!(deposit > TokenAmount::from_atto(0));
    let available = net.client.available_balance(&miner, &HEAD).await.unwrap();
    assert_eq!(available, before.clone() + fil(1) - &deposit);
    assert_eq!(
        net.client
            .allocated(&miner, &HEAD)
            .await
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [7]
    );
    assert_eq!(net.client.sector(&miner, 7, &HEAD).await.unwrap(), None);
    ready(&net, miner, 7).await;
    let proof = seal_proof(&claim(&net, miner, 7).await);
    let call = prove_commit(vec![activation(7, &[], proof)], ALL).unwrap();
    let sent = net.send("worker", miner, fil(0), &call).await;
    assert_eq!(
        crate::outcome::batch_return(&sent.receipt.returned, 1).unwrap(),
        [None]
    );
    assert_eq!(net.client.precommit(&miner, 7, &HEAD).await.unwrap(), None);
    let info = net.client.sector(&miner, 7, &HEAD).await.unwrap().unwrap();
    assert_eq!((info.flags, info.activation), (3, net.height().await - 1));
    let available = net.client.available_balance(&miner, &HEAD).await.unwrap();
    assert_eq!(
        available,
        before + fil(1) - &info.initial_pledge,
        "the deposit is free, the pledge is locked"
    );
    // Power comes with the first window proof.
    assert_eq!(
        net.client
            .power(&miner, &HEAD)
            .await
            .unwrap()
            .miner_power
            .raw_byte_power,
        0.into()
    );
    net.check().await;
}

#[tokio::test]
async fn precommits_that_are_refused() {
    let net = Net::start().await;
    let miner = net.miner().await;
    net.until(600).await;
    let now = net.height().await + 1;
    let good = sector(&net, 1, &[]).await;
    let lifetime = crate::policy::LIFETIME_MIN;
    let changed = |change: &dyn Fn(&mut Precommit)| {
        let mut sector = good.clone();
        change(&mut sector);
        precommit(&[sector]).unwrap()
    };
    for (call, code, words) in [
        (changed(&|s| s.ticket_epoch = now), 16, "must be before now"),
        (changed(&|s| s.ticket_epoch = now - 501), 16, "too old"),
        (changed(&|s| s.expiration = now), 16, "must be after activation"),
        (
            changed(&|s| s.expiration = now + 86_410 + lifetime - 1),
            16,
            "must exceed",
        ),
        (
            changed(&|s| s.expiration = now + 3_680_641),
            16,
            "cannot be more than",
        ),
        (
            changed(&|s| s.proof = RegisteredSealProof::StackedDRG8MiBV1P1),
            16,
            "must match miner Window PoSt",
        ),
        (
            changed(&|s| s.proof = RegisteredSealProof::from(9)),
            16,
            "must match miner Window PoSt",
        ),
    ] {
        let (told, text) = net.dry(miner, &call).await;
        assert_eq!(told, code, "{text}");
        assert!(text.contains(words), "{text}");
    }
    let mut empty = precommit(std::slice::from_ref(&good)).unwrap();
    if let Call::PreCommitSectorBatch2(params) = &mut empty {
        params.sectors.clear();
    }
    assert!(net.dry(miner, &empty).await.1.contains("batch empty"));
    // A number is used once, even if nothing came of it.
    assert_eq!(
        net.code(miner, &precommit(std::slice::from_ref(&good)).unwrap())
            .await,
        0
    );
    let (code, text) = net
        .dry(miner, &precommit(std::slice::from_ref(&good)).unwrap())
        .await;
    assert!(code == 16 && text.contains("already allocated"), "{text}");
    assert_eq!(net.code(miner, &precommit(&[good]).unwrap()).await, 16);
}

#[tokio::test]
async fn a_deposit_must_be_there() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 1, &[]).await]).unwrap();
    let sent = net.send("worker", miner, fil(0), &call).await;
    assert_eq!(sent.receipt.exit_code.value(), 19);
    assert_eq!(net.client.precommit(&miner, 1, &HEAD).await.unwrap(), None);
    assert!(
        net.client.allocated(&miner, &HEAD).await.unwrap().is_empty(),
        "what fails leaves nothing"
    );
}

#[tokio::test]
async fn strangers_may_not() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 1, &[]).await]).unwrap();
    let sent = net.send("control-1", miner, fil(1), &call).await;
    assert_eq!(sent.receipt.exit_code.value(), 18);
}

#[tokio::test]
async fn one_epoch_too_early() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 1, &[]).await]).unwrap();
    net.send("worker", miner, fil(1), &call).await;
    let epoch = net
        .client
        .precommit(&miner, 1, &HEAD)
        .await
        .unwrap()
        .unwrap()
        .pre_commit_epoch;
    net.until(epoch + 9).await;
    let call = prove_commit(vec![activation(1, &[], vec![1; 192])], ALL).unwrap();
    let (code, text) = net.dry(miner, &call).await;
    assert!(
        code == 18 && text.contains("too early to prove sector 1"),
        "{text}"
    );
    assert_eq!(net.code(miner, &call).await, 18);
    // Two epochs later it is the proof that is refused.
    assert_eq!(net.code(miner, &call).await, 16);
}

#[tokio::test]
async fn proofs_that_do_not_hold() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let sectors = [sector(&net, 1, &[]).await, sector(&net, 2, &[]).await];
    net.send("worker", miner, fil(1), &precommit(&sectors).unwrap())
        .await;
    ready(&net, miner, 2).await;
    let (one, two) = (claim(&net, miner, 1).await, claim(&net, miner, 2).await);
    let mut wrong_seed = two.clone();
    wrong_seed.seed[0] ^= 1;
    let batch = |proof: &SealClaim, require| {
        let proofs = vec![
            activation(1, &[], seal_proof(&one)),
            activation(2, &[], seal_proof(proof)),
        ];
        prove_commit(proofs, require).unwrap()
    };
    // With everything required one bad proof fails all.
    let (code, text) = net.dry(miner, &batch(&wrong_seed, ALL)).await;
    assert!(
        code == 16 && text.contains("invalid proof for sector 2"),
        "{text}"
    );
    // The proof of another sector is none of this one.
    assert_eq!(net.dry(miner, &batch(&one, ALL)).await.0, 16);
    let long = activation(1, &[], vec![0; 193]);
    let (code, text) = net.dry(miner, &prove_commit(vec![long], ALL).unwrap()).await;
    assert!(code == 16 && text.contains("exceeds max 192"), "{text}");
    // Otherwise the good one counts, and the return tells.
    let sent = net.send("worker", miner, fil(1), &batch(&wrong_seed, SOME)).await;
    let told = crate::outcome::batch_return(&sent.receipt.returned, 2).unwrap();
    assert_eq!(
        told.iter()
            .map(|code| code.map(|code| code.value()))
            .collect::<Vec<_>>(),
        [None, Some(16)]
    );
    assert!(net.client.sector(&miner, 1, &HEAD).await.unwrap().is_some());
    assert!(
        net.client.precommit(&miner, 2, &HEAD).await.unwrap().is_some(),
        "it can be proved later"
    );
    // A sector that is proved has no pre-commit.
    let (code, text) = net.dry(miner, &batch(&two, ALL)).await;
    assert!(code == 17 && text.contains("sector 1 not found"), "{text}");
}

#[tokio::test]
async fn data_must_be_what_was_precommitted() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 1, &[DATA]).await]).unwrap();
    net.send("worker", miner, fil(1), &call).await;
    ready(&net, miner, 1).await;
    let proof = seal_proof(&claim(&net, miner, 1).await);
    let with = |pieces: &[Piece]| prove_commit(vec![activation(1, pieces, proof.clone())], SOME).unwrap();
    let other = Piece {
        comm_p: [0x23; 32],
        ..DATA
    };
    for pieces in [&[][..], &[other]] {
        let (code, text) = net.dry(miner, &with(pieces)).await;
        assert!(
            code == 16 && text.contains("unsealed CID does not match pieces"),
            "{text}"
        );
    }
    assert_eq!(net.code(miner, &with(&[DATA])).await, 0);
    let info = net.client.sector(&miner, 1, &HEAD).await.unwrap().unwrap();
    assert!(info.verified_deal_weight > 0.into() && info.deal_weight == 0.into());
}

#[tokio::test]
async fn notifications_that_nobody_takes() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 1, &[DATA]).await]).unwrap();
    net.send("worker", miner, fil(1), &call).await;
    ready(&net, miner, 1).await;
    let proof = seal_proof(&claim(&net, miner, 1).await);
    let with = |notification| {
        let mut one = activation(1, &[DATA], proof.clone());
        one.manifest.pieces[0].notify = vec![params::market_notification(9).unwrap()];
        let require = Require { notification, ..ALL };
        prove_commit(vec![one], require).unwrap()
    };
    assert_eq!(net.code(miner, &with(true)).await, 1004);
    assert_eq!(net.code(miner, &with(false)).await, 0);
}

#[tokio::test]
async fn aggregates() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let mut sectors = Vec::new();
    for number in 1..=4 {
        sectors.push(sector(&net, number, &[]).await);
    }
    net.send("worker", miner, fil(1), &precommit(&sectors).unwrap())
        .await;
    ready(&net, miner, 4).await;
    let mut claims = Vec::new();
    for number in 1..=4 {
        claims.push(claim(&net, miner, number).await);
    }
    let with = |proof| {
        let sectors = (1..=4).map(|number| manifest(number, &[])).collect();
        prove_commit_aggregate(Aggregate { sectors, proof }, ALL).unwrap()
    };
    let (code, text) = net.dry(miner, &with(vec![1])).await;
    assert!(
        code == 16 && text.contains("aggregate seal verify failed"),
        "{text}"
    );
    claims.swap(0, 1);
    assert_eq!(
        net.dry(miner, &with(aggregate_proof(&claims))).await.0,
        16,
        "the order counts"
    );
    claims.swap(0, 1);
    assert_eq!(net.code(miner, &with(aggregate_proof(&claims))).await, 0);
    assert_eq!(net.client.sectors(&miner, None, &HEAD).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_precommit_that_is_forgotten_costs_its_deposit() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let call = precommit(&[sector(&net, 1, &[]).await]).unwrap();
    net.send("worker", miner, fil(1), &call).await;
    let before = net.client.precommit(&miner, 1, &HEAD).await.unwrap().unwrap();
    let ashes = Address::new_id(99);
    let burnt = || net.client.wallet_balance(&ashes);
    let burnt_before = burnt().await.unwrap();
    let due = before.pre_commit_epoch + 86_410 + 960 + 20;
    let target = serde_json::json!([{"epoch": due, "null_rounds": 900}]);
    net.command("Devnet.AdvanceTo", target).await;
    net.mine(1).await;
    assert_eq!(net.client.precommit(&miner, 1, &HEAD).await.unwrap(), None);
    let gone = burnt().await.unwrap() - burnt_before;
    assert!(gone >= before.pre_commit_deposit, "{gone}");
    let text = net
        .dry(
            miner,
            &prove_commit(vec![activation(1, &[], vec![1])], ALL).unwrap(),
        )
        .await;
    assert_eq!(text.0, 17);
}
