//! Partitions without what is dead, and sectors of better quality.

use crate::node::SectorLocation;
use crate::params::{Call, SectorSet, terminate};
use crate::types::{BitField, ChainEpoch, miner};

use super::post::{active, next_window};
use super::{HEAD, Net};

fn compact(deadline: u64, partitions: &[u64]) -> Call {
    Call::CompactPartitions(miner::CompactPartitionsParams {
        deadline,
        partitions: BitField::try_from_bits(partitions.iter().copied()).unwrap(),
    })
}

#[tokio::test]
async fn dead_sectors_are_taken_out() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let window = next_window(&net, miner, place.deadline).await;
    net.until(window.close).await;
    let set = SectorSet {
        deadline: place.deadline,
        partition: place.partition,
        sectors: BitField::try_from_bits([7]).unwrap(),
    };
    assert_eq!(net.code(miner, &terminate(vec![set]).unwrap()).await, 0);
    let call = compact(place.deadline, &[place.partition]);
    let (code, text) = net.dry(miner, &call).await;
    assert!(code == 18 && text.contains("cannot compact deadline"), "{text}");
    assert_eq!(net.dry(miner, &compact(48, &[0])).await.0, 16);
    net.until(window.close + 310).await;
    assert_eq!(net.dry(miner, &compact(place.deadline, &[9])).await.0, 16);
    assert_eq!(net.code(miner, &call).await, 0);
    let partitions = net.client.partitions(&miner, place.deadline, &HEAD).await;
    assert!(partitions.unwrap().is_empty());
    assert_eq!(net.client.sector(&miner, 7, &HEAD).await.unwrap(), None);
    net.check().await;
}

fn upgrade(place: SectorLocation, sectors: &[u64], new_expiration: Option<ChainEpoch>) -> Call {
    Call::UpgradeSectorQuality(miner::UpgradeSectorQualityParams {
        upgrades: vec![miner::UpgradeSectorQuality {
            deadline: place.deadline,
            partition: place.partition,
            sectors: BitField::try_from_bits(sectors.iter().copied()).unwrap(),
            new_expiration,
        }],
    })
}

#[tokio::test]
async fn quality_is_never_lost_and_a_life_never_shortened() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let place = active(&net, miner, 7).await;
    let before = net.client.sector(&miner, 7, &HEAD).await.unwrap().unwrap();
    let nowhere = SectorLocation {
        partition: 9,
        ..place
    };
    let late = SectorLocation {
        deadline: 48,
        ..place
    };
    let empty = Call::UpgradeSectorQuality(miner::UpgradeSectorQualityParams { upgrades: Vec::new() });
    for (call, code, words) in [
        (empty, 16, "no extension declarations"),
        (upgrade(place, &[], None), 16, "no sectors selected"),
        (upgrade(late, &[7], None), 16, "not in range"),
        (upgrade(place, &[7], Some(1)), 16, "must be after current epoch"),
        (
            upgrade(place, &[7], Some(net.height().await + 3_690_000)),
            16,
            "cannot be more than",
        ),
        (upgrade(nowhere, &[7], None), 17, "no such partition 9"),
        (upgrade(place, &[8], None), 17, ""),
        (
            upgrade(place, &[7], Some(before.expiration - 1)),
            16,
            "cannot reduce sector 7 expiration",
        ),
    ] {
        let (told, text) = net.dry(miner, &call).await;
        assert_eq!(told, code, "{words}: {text}");
        assert!(text.contains(words), "{text}");
    }
    // New sectors have all of it, so only their life changes.
    assert_eq!(net.code(miner, &upgrade(place, &[7], None)).await, 0);
    let same = net.client.sector(&miner, 7, &HEAD).await.unwrap().unwrap();
    assert_eq!((same.expiration, same.flags), (before.expiration, before.flags));
    let longer = upgrade(place, &[7], Some(before.expiration + 5000));
    assert_eq!(net.code(miner, &longer).await, 0);
    let after = net.client.sector(&miner, 7, &HEAD).await.unwrap().unwrap();
    assert_eq!(after.expiration, before.expiration + 5000);
    net.check().await;
}
