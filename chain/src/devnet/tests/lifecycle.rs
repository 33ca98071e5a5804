//! A sector's later life: data goes into it, its life is lengthened, it is ended (chain.md §6.7).

use crate::commitment;
use crate::devnet::UpdateClaim;
use crate::node::SectorLocation;
use crate::params::{
    self, Activation, Call, ControlChange, Extension, Require, SectorSet, change_worker, extend,
    prove_update, terminate, withdraw,
};
use crate::types::{Address, BitField, RegisteredUpdateProof, SectorNumber, TokenAmount, miner};

use super::post::{active, next_window, open, prove};
use super::sealing::{ALL, DATA, comm_r};
use super::verifier::{comm_d, update_proof};
use super::{HEAD, Net, fil};

const UPDATE: RegisteredUpdateProof = RegisteredUpdateProof::StackedDRG2KiBV1;
const NEW: [u8; 32] = [0x33; 32];

fn update(number: SectorNumber, place: SectorLocation, require: Require, proof: Option<Vec<u8>>) -> Call {
    let claim = UpdateClaim {
        proof_type: UPDATE,
        old_comm_r: comm_r(number),
        new_comm_r: NEW,
        comm_d: comm_d(&[DATA]),
    };
    let manifest = miner::SectorUpdateManifest {
        sector: number,
        deadline: place.deadline,
        partition: place.partition,
        new_sealed_cid: commitment::sealed_cid(&NEW).unwrap(),
        pieces: vec![params::piece(&DATA.comm_p, DATA.size, Vec::new()).unwrap()],
    };
    let proof = proof.unwrap_or_else(|| update_proof(&claim));
    prove_update(vec![Activation { manifest, proof }], UPDATE, require).unwrap()
}

fn set(place: SectorLocation, number: SectorNumber) -> SectorSet {
    SectorSet {
        deadline: place.deadline,
        partition: place.partition,
        sectors: BitField::try_from_bits([number]).unwrap(),
    }
}

/// Waits until the deadline's window has passed, so that it can be changed.
async fn mutable(net: &Net, miner: Address, place: SectorLocation) {
    let window = next_window(net, miner, place.deadline).await;
    if window.open - window.challenge_window <= net.height().await + 1 {
        net.until(window.close).await;
    }
}

#[tokio::test]
async fn data_goes_into_a_sector_and_the_next_proof_is_of_the_new_replica() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    // In the open window, and in the one before it, nothing can be changed.
    let (code, text) = net.dry(miner, &update(7, place, ALL, None)).await;
    assert!(code == 16 && text.contains("immutable deadline"), "{text}");
    let window = next_window(&net, miner, place.deadline).await;
    net.until(window.close).await;
    let next = next_window(&net, miner, place.deadline).await;
    for (call, words) in [
        (
            update(7, place, ALL, Some(vec![1; 192])),
            "invalid proof for sector 7",
        ),
        (
            update(7, place, ALL, Some(vec![1; 4096])),
            "invalid proof for sector 7",
        ),
        (
            update(
                7,
                SectorLocation {
                    partition: 9,
                    ..place
                },
                ALL,
                None,
            ),
            "invalid update 0",
        ),
    ] {
        let (code, text) = net.dry(miner, &call).await;
        assert!(code == 16 && text.contains(words), "{text}");
    }
    assert_eq!(net.dry(miner, &update(8, place, ALL, None)).await.0, 17);
    assert_eq!(net.code(miner, &update(7, place, ALL, None)).await, 0);
    let info = net.client.sector(&miner, 7, &HEAD).await.unwrap().unwrap();
    assert_eq!(info.sealed_cid, commitment::sealed_cid(&NEW).unwrap());
    assert_eq!(
        info.sector_key_cid,
        Some(commitment::sealed_cid(&comm_r(7)).unwrap())
    );
    assert!(info.verified_deal_weight > 0.into());
    let power = net.client.power(&miner, &HEAD).await.unwrap().miner_power;
    assert_eq!(power.quality_adj_power, 20_480.into());
    net.check().await;
    let (code, text) = net.dry(miner, &update(7, place, ALL, None)).await;
    assert!(code == 16 && text.contains("non-zero data"), "{text}");
    // One window before its own the deadline stands.
    net.until(next.open - next.challenge_window).await;
    let (_, text) = net.dry(miner, &update(7, place, ALL, None)).await;
    assert!(text.contains("immutable deadline"), "{text}");
    prove(&net, miner, place, &[(7, NEW)]).await;
    net.until(next.close).await;
    assert!(net.client.faults(&miner, &HEAD).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_proof_of_the_old_replica_is_refused_after_the_update() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let window = next_window(&net, miner, place.deadline).await;
    net.until(window.close).await;
    assert_eq!(net.code(miner, &update(7, place, ALL, None)).await, 0);
    let window = open(&net, miner, place.deadline).await;
    let old = super::post::post(&net, miner, &window, place.partition, &[], &[(7, comm_r(7))]).await;
    let (code, text) = net.dry(miner, &params::submit_window_post(old).unwrap()).await;
    assert!(code == 16 && text.contains("invalid post"), "{text}");
}

#[tokio::test]
async fn a_life_is_lengthened_and_never_shortened() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let before = net.client.sector(&miner, 7, &HEAD).await.unwrap().unwrap();
    let to = |expiration| {
        let extension = Extension {
            set: set(place, 7),
            with_claims: Vec::new(),
            expiration,
        };
        extend(vec![extension]).unwrap()
    };
    for (expiration, words) in [
        (before.expiration - 1, "cannot reduce sector 7 expiration"),
        (net.height().await + 3_690_000, "cannot be more than"),
    ] {
        let (code, text) = net.dry(miner, &to(expiration)).await;
        assert!(code == 16 && text.contains(words), "{text}");
    }
    // In any deadline, also in the open one.
    assert_eq!(net.code(miner, &to(before.expiration + 10_000)).await, 0);
    let after = net.client.sector(&miner, 7, &HEAD).await.unwrap().unwrap();
    assert_eq!(
        (after.expiration, after.activation),
        (before.expiration + 10_000, before.activation)
    );
    let told = net.client.sector_expiration(&miner, 7, &HEAD).await.unwrap();
    assert!(
        told.on_time >= after.expiration && told.on_time < after.expiration + 480,
        "{told:?}"
    );
    net.check().await;
}

#[tokio::test]
async fn a_sector_is_ended_for_a_fee() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let call = terminate(vec![set(place, 7)]).unwrap();
    let (code, text) = net.dry(miner, &call).await;
    assert!(
        code == 16 && text.contains("cannot terminate sectors in immutable deadline"),
        "{text}"
    );
    let window = next_window(&net, miner, place.deadline).await;
    net.until(window.close).await;
    mutable(&net, miner, place).await;
    let ashes = Address::new_id(99);
    let burnt = net.client.wallet_balance(&ashes).await.unwrap();
    let pledge = net
        .client
        .sector(&miner, 7, &HEAD)
        .await
        .unwrap()
        .unwrap()
        .initial_pledge;
    let available = net.client.available_balance(&miner, &HEAD).await.unwrap();
    let sent = net.send("worker", miner, fil(0), &call).await;
    let done: miner::TerminateSectorsReturn = fvm_ipld_encoding::from_slice(&sent.receipt.returned).unwrap();
    assert!(sent.receipt.exit_code.is_success() && done.done);
    let power = net.client.power(&miner, &HEAD).await.unwrap().miner_power;
    assert_eq!(power.raw_byte_power, 0.into());
    let fee = net.client.wallet_balance(&ashes).await.unwrap() - burnt;
    assert!(fee > TokenAmount::from_atto(0));
    let now = net.client.available_balance(&miner, &HEAD).await.unwrap();
    assert!(
        now > available && now < available + pledge,
        "the pledge is free, less the fee"
    );
    let partitions = net
        .client
        .partitions(&miner, place.deadline, &HEAD)
        .await
        .unwrap();
    assert!(partitions[0].live_sectors.is_empty());
    let again = net.dry(miner, &call).await;
    assert_eq!(again.0, 16, "{}", again.1);
    net.check().await;
}

#[tokio::test]
async fn keys_and_money_of_a_miner() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let info = net.client.miner_info(&miner, &HEAD).await.unwrap();
    let control = net.key("control-1").address;
    let change = |worker| {
        change_worker(ControlChange {
            worker,
            control: vec![control],
        })
        .unwrap()
    };
    let stranger = net.send("worker", miner, fil(0), &change(info.worker)).await;
    assert_eq!(stranger.receipt.exit_code.value(), 18, "the owner's to do");
    let sent = net.send("owner", miner, fil(0), &change(info.worker)).await;
    assert!(sent.receipt.exit_code.is_success());
    let info = net.client.miner_info(&miner, &HEAD).await.unwrap();
    let id = net.client.lookup_id(&control, &HEAD).await.unwrap().unwrap();
    assert_eq!((info.control_addresses, info.new_worker), (vec![id], None));
    // A new worker comes later, and only when it is confirmed.
    let new = net.key("owner").address;
    net.send("owner", miner, fil(0), &change(new)).await;
    net.send("owner", miner, fil(0), &Call::ConfirmChangeWorkerAddress)
        .await;
    let info = net.client.miner_info(&miner, &HEAD).await.unwrap();
    assert!(info.new_worker.is_some() && info.worker != info.owner);
    net.until(info.worker_change_epoch).await;
    net.send("owner", miner, fil(0), &Call::ConfirmChangeWorkerAddress)
        .await;
    let info = net.client.miner_info(&miner, &HEAD).await.unwrap();
    assert_eq!((info.worker, info.new_worker), (info.owner, None));
    // A worker has a BLS key.
    let refused = net.send("owner", miner, fil(0), &change(control)).await;
    assert_eq!(refused.receipt.exit_code.value(), 16);
    net.send("owner", miner, fil(5), &Call::Send).await;
    let sent = net.send("owner", miner, fil(0), &withdraw(fil(2)).unwrap()).await;
    let paid: TokenAmount = fvm_ipld_encoding::from_slice(&sent.receipt.returned).unwrap();
    assert_eq!(paid, fil(2));
    assert_eq!(net.client.available_balance(&miner, &HEAD).await.unwrap(), fil(3));
}
