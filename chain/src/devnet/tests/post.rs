//! Window proofs: power comes and goes with them (chain.md §6.7).

use crate::devnet::PostClaim;
use crate::node::{ProvingDeadline, SectorLocation};
use crate::params::{
    Call, PartitionPost, SectorSet, WindowPost, declare_faults, declare_recovered, submit_window_post,
};
use crate::randomness::Tag;
use crate::types::{Address, BitField, RegisteredPoStProof, SectorNumber};

use super::sealing::{comm_r, seal};
use super::verifier::post_proof;
use super::{HEAD, Net, fil};

const POST: RegisteredPoStProof = RegisteredPoStProof::StackedDRGWindow2KiBV1P1;

/// The next opening of a deadline, seen from the head.
pub(super) async fn next_window(net: &Net, miner: Address, index: u64) -> ProvingDeadline {
    let now = net.client.proving_deadline(&miner, &HEAD).await.unwrap();
    let steps = i64::try_from((index + now.period_deadlines - now.index) % now.period_deadlines).unwrap();
    let open = now.open + steps * now.challenge_window;
    ProvingDeadline {
        index,
        open,
        close: open + now.challenge_window,
        challenge: open - now.challenge_lookback,
        fault_cutoff: open - now.fault_declaration_cutoff,
        ..now
    }
}

/// Waits until the next block is in a window of that deadline, which was not open before.
pub(super) async fn open(net: &Net, miner: Address, index: u64) -> ProvingDeadline {
    let mut window = next_window(net, miner, index).await;
    if window.open <= net.height().await {
        net.until(window.close).await;
        window = next_window(net, miner, index).await;
    }
    net.until(window.open).await;
    window
}

/// The claim of a window proof over sectors with their commitments.
async fn claim(
    net: &Net,
    miner: Address,
    window: &ProvingDeadline,
    sectors: &[(SectorNumber, [u8; 32])],
) -> PostClaim {
    let id = miner.id().unwrap();
    let drawn = net
        .client
        .randomness(Tag::WindowPost, window.challenge, Some(id), &HEAD)
        .await;
    PostClaim {
        proof_type: POST,
        miner: id,
        randomness: drawn.unwrap(),
        sectors: sectors.to_vec(),
    }
}

fn skipped(sectors: &[u64]) -> BitField {
    BitField::try_from_bits(sectors.iter().copied()).unwrap()
}

/// A proof of a partition.
pub(super) async fn post(
    net: &Net,
    miner: Address,
    window: &ProvingDeadline,
    partition: u64,
    skip: &[u64],
    sectors: &[(SectorNumber, [u8; 32])],
) -> WindowPost {
    let proof = post_proof(&claim(net, miner, window, sectors).await);
    let commit_epoch = window.challenge;
    let commit_rand = net
        .client
        .randomness(Tag::PostChainCommit, commit_epoch, None, &HEAD)
        .await;
    WindowPost {
        deadline: window.index,
        partitions: vec![PartitionPost {
            index: partition,
            skipped: skipped(skip),
        }],
        proof_type: POST,
        proof,
        commit_epoch,
        commit_rand: commit_rand.unwrap(),
    }
}

fn call(post: &WindowPost) -> Call {
    submit_window_post(post.clone()).unwrap()
}

async fn raw_power(net: &Net, miner: Address) -> (String, String) {
    let power = net.client.power(&miner, &HEAD).await.unwrap().miner_power;
    (
        power.raw_byte_power.to_string(),
        power.quality_adj_power.to_string(),
    )
}

/// Seals a sector and proves it once.
pub(super) async fn active(net: &Net, miner: Address, number: SectorNumber) -> SectorLocation {
    seal(net, miner, number, &[]).await;
    let place = net.client.sector_location(&miner, number, &HEAD).await.unwrap();
    // The actor may have put it beside others.
    let partitions = net
        .client
        .partitions(&miner, place.deadline, &HEAD)
        .await
        .unwrap();
    let all = &partitions[usize::try_from(place.partition).unwrap()].all_sectors;
    let sectors: Vec<_> = all.iter().map(|number| (number, comm_r(number))).collect();
    prove(net, miner, place, &sectors).await;
    place
}

/// Proves a partition in the next window of its deadline.
pub(super) async fn prove(
    net: &Net,
    miner: Address,
    place: SectorLocation,
    sectors: &[(SectorNumber, [u8; 32])],
) {
    let window = open(net, miner, place.deadline).await;
    let post = post(net, miner, &window, place.partition, &[], sectors).await;
    let sent = net.send("worker", miner, fil(0), &call(&post)).await;
    assert_eq!(sent.receipt.exit_code.value(), 0);
}

fn set(place: SectorLocation, sectors: &[u64]) -> Vec<SectorSet> {
    vec![SectorSet {
        deadline: place.deadline,
        partition: place.partition,
        sectors: skipped(sectors),
    }]
}

#[tokio::test]
async fn the_first_proof_gives_ten_times_the_power() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    assert_eq!(raw_power(&net, miner).await, ("2048".into(), "20480".into()));
    let power = net.client.power(&miner, &HEAD).await.unwrap();
    assert!(power.has_min_power && power.total_power == power.miner_power);
    let deadlines = net.client.deadlines(&miner, &HEAD).await.unwrap();
    assert!(
        deadlines[usize::try_from(place.deadline).unwrap()]
            .post_submissions
            .get(place.partition)
    );
    let partitions = net
        .client
        .partitions(&miner, place.deadline, &HEAD)
        .await
        .unwrap();
    assert_eq!(partitions[0].active_sectors.iter().collect::<Vec<_>>(), [7]);
    net.check().await;
}

#[tokio::test]
async fn proofs_that_are_refused() {
    let net = Net::start().await;
    let miner = net.miner().await;
    seal(&net, miner, 7, &[]).await;
    let place = net.client.sector_location(&miner, 7, &HEAD).await.unwrap();
    let window = open(&net, miner, place.deadline).await;
    let sectors = [(7, comm_r(7))];
    let good = post(&net, miner, &window, place.partition, &[], &sectors).await;
    let changed = |change: &dyn Fn(&mut WindowPost)| {
        let mut post = good.clone();
        change(&mut post);
        call(&post)
    };
    for (call, code, words) in [
        (
            changed(&|p| p.deadline = (p.deadline + 1) % 48),
            16,
            "invalid deadline",
        ),
        (
            changed(&|p| p.commit_rand[0] ^= 1),
            16,
            "post commit randomness mismatched",
        ),
        (
            changed(&|p| p.commit_epoch = window.challenge - 1),
            16,
            "to be after",
        ),
        (
            changed(&|p| p.commit_epoch = window.close),
            16,
            "must be less than",
        ),
        (changed(&|p| p.proof[0] ^= 1), 16, "invalid post was submitted"),
        (changed(&|p| p.proof.push(0)), 16, "smaller than 192 bytes"),
        (
            changed(&|p| p.proof_type = RegisteredPoStProof::StackedDRGWindow8MiBV1P1),
            16,
            "expected proof of type",
        ),
        (
            changed(&|p| p.proof_type = RegisteredPoStProof::from(5)),
            16,
            "not allowed",
        ),
        (changed(&|p| p.partitions[0].index = 1), 17, "no such partition 1"),
        (
            changed(&|p| p.partitions[0].skipped = skipped(&[7])),
            16,
            "no active sectors",
        ),
        (changed(&|p| p.partitions[0].skipped = skipped(&[8])), 16, ""),
    ] {
        let (told, text) = net.dry(miner, &call).await;
        assert_eq!(told, code, "{text}");
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(net.code(miner, &call(&good)).await, 0);
    let (code, text) = net.dry(miner, &call(&good)).await;
    assert!(code == 16 && text.contains("partition already proven"), "{text}");
    // When the window is over it is too late.
    net.until(window.close).await;
    assert_eq!(net.code(miner, &call(&good)).await, 16);
}

#[tokio::test]
async fn who_misses_a_proof_is_faulty_and_can_recover() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let window = next_window(&net, miner, place.deadline).await;
    let second = window.open.max(net.height().await) + window.proving_period;
    net.until(second + window.challenge_window).await;
    assert_eq!(
        net.client
            .faults(&miner, &HEAD)
            .await
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [7]
    );
    assert_eq!(raw_power(&net, miner).await, ("0".into(), "0".into()));
    assert!(
        net.client
            .sector_expiration(&miner, 7, &HEAD)
            .await
            .unwrap()
            .early
            > 0
    );
    net.check().await;
    // Within the cutoff it is too late to say that it will be proved.
    let window = next_window(&net, miner, place.deadline).await;
    net.until(window.fault_cutoff - 1).await;
    let late = declare_recovered(set(place, &[7])).unwrap();
    let (code, text) = net.dry(miner, &late).await;
    assert!(
        code == 16 && text.contains("late fault or recovery declaration"),
        "{text}"
    );
    net.until(window.close).await;
    assert_eq!(
        net.code(miner, &declare_recovered(set(place, &[7])).unwrap())
            .await,
        0
    );
    assert_eq!(
        net.client
            .recoveries(&miner, &HEAD)
            .await
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        [7]
    );
    assert_eq!(raw_power(&net, miner).await.0, "0", "it is a promise only");
    prove(&net, miner, place, &[(7, comm_r(7))]).await;
    assert_eq!(raw_power(&net, miner).await, ("2048".into(), "20480".into()));
    assert!(net.client.faults(&miner, &HEAD).await.unwrap().is_empty());
    net.check().await;
}

#[tokio::test]
async fn faults_are_declared_and_skipped() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let second = active(&net, miner, 8).await;
    assert_eq!(raw_power(&net, miner).await.0, "4096");
    let window = next_window(&net, miner, place.deadline).await;
    net.until(window.close).await;
    assert_eq!(
        net.code(miner, &declare_faults(set(place, &[7])).unwrap()).await,
        0
    );
    assert_eq!(raw_power(&net, miner).await.0, "2048", "at once");
    let stranger = declare_faults(set(place, &[99])).unwrap();
    assert_eq!(net.dry(miner, &stranger).await.0, 16);
    let elsewhere = declare_faults(set(
        SectorLocation {
            partition: 9,
            ..place
        },
        &[7],
    ))
    .unwrap();
    assert_eq!(net.dry(miner, &elsewhere).await.0, 17);
    assert!(
        net.client
            .active_sectors(&miner, &HEAD)
            .await
            .unwrap()
            .iter()
            .all(|one| one.sector_number == 8)
    );
    net.check().await;
    assert!(second.deadline < 48);
}
