//! Deals of the built-in market, and the notification that brings a sector's data to them.

use serde_json::json;

use crate::address::MARKET_ACTOR;
use crate::commitment;
use crate::params::{self, Activation, Call, Require, precommit, prove_commit};
use crate::types::{Address, TokenAmount, market};

use super::sealing::{ALL, DATA, claim, manifest, ready, sector};
use super::verifier::seal_proof;
use super::{Net, fil};

/// A deal about the piece of these tests, signed by its client, the owner.
async fn deal(
    net: &Net,
    miner: Address,
    change: impl FnOnce(&mut market::DealProposal),
) -> market::ClientDealProposal {
    let client = net.key("owner");
    let now = net.height().await;
    let mut proposal = market::DealProposal {
        piece_cid: commitment::unsealed_cid(&DATA.comm_p).unwrap(),
        piece_size: DATA.size,
        verified_deal: false,
        client: client.address,
        provider: miner,
        label: market::Label::String("a test".into()),
        start_epoch: now + 1000,
        end_epoch: now + 1000 + crate::policy::LIFETIME_MIN,
        storage_price_per_epoch: TokenAmount::from_atto(1),
        provider_collateral: fil(1),
        client_collateral: TokenAmount::from_atto(0),
    };
    change(&mut proposal);
    let bytes = fvm_ipld_encoding::to_vec(&proposal).unwrap();
    let client_signature = client.key.secret().unwrap().sign(&bytes).unwrap();
    market::ClientDealProposal {
        proposal,
        client_signature,
    }
}

fn publish(deals: Vec<market::ClientDealProposal>) -> Call {
    Call::PublishStorageDeals(market::PublishStorageDealsParams { deals })
}

async fn pay_in(net: &Net, of: Address, amount: TokenAmount) -> u32 {
    let call = Call::AddBalance(market::AddBalanceParams {
        provider_or_client: of,
    });
    let sent = net.send("owner", MARKET_ACTOR, amount, &call).await;
    sent.receipt.exit_code.value()
}

#[tokio::test]
async fn a_deal_is_published_and_its_data_comes_with_a_sector() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let client = net.key("owner").address;
    // Nothing can be locked yet.
    let good = deal(&net, miner, |_| {}).await;
    let sent = net
        .send("worker", MARKET_ACTOR, fil(0), &publish(vec![good.clone()]))
        .await;
    assert_eq!(sent.receipt.exit_code.value(), 16);
    assert_eq!(pay_in(&net, client, fil(0)).await, 16);
    assert_eq!(pay_in(&net, client, fil(2)).await, 0);
    assert_eq!(pay_in(&net, miner, fil(3)).await, 0);
    // Who is no key of the miner publishes nothing.
    let sent = net
        .send("control-1", MARKET_ACTOR, fil(0), &publish(vec![good.clone()]))
        .await;
    assert_eq!(sent.receipt.exit_code.value(), 18);
    assert_eq!(
        net.send("worker", MARKET_ACTOR, fil(0), &publish(Vec::new()))
            .await
            .receipt
            .exit_code
            .value(),
        16
    );
    // What is wrong is left out, the rest is published.
    let mut forged = deal(&net, miner, |proposal| proposal.end_epoch += 1).await;
    forged.proposal.end_epoch += 1;
    let deals = vec![
        forged,
        deal(&net, miner, |proposal| proposal.end_epoch = proposal.start_epoch).await,
        deal(&net, miner, |proposal| proposal.start_epoch = 0).await,
        deal(&net, miner, |proposal| proposal.provider_collateral = fil(0)).await,
        good.clone(),
        good.clone(),
        deal(&net, miner, |proposal| proposal.piece_size.0 = 1024).await,
    ];
    let sent = net.send("worker", MARKET_ACTOR, fil(0), &publish(deals)).await;
    assert_eq!(sent.receipt.exit_code.value(), 0);
    let told: market::PublishStorageDealsReturn =
        fvm_ipld_encoding::from_slice(&sent.receipt.returned).unwrap();
    let valid: Vec<u64> = told.valid_deals.iter().collect();
    assert_eq!((told.ids.clone(), valid), (vec![0, 1], vec![4, 6]));
    let balance = net
        .command("StateMarketBalance", json!([super::text(miner), []]))
        .await;
    assert_eq!(balance["Escrow"], fil(3).atto().to_string(), "{balance}");
    assert_eq!(balance["Locked"], fil(2).atto().to_string(), "{balance}");

    // The sector's data is told of: of another piece, of no deal, and of its own.
    let call = precommit(&[sector(&net, 7, &[DATA]).await]).unwrap();
    assert_eq!(net.code(miner, &call).await, 0);
    ready(&net, miner, 7).await;
    let proof = seal_proof(&claim(&net, miner, 7).await);
    let with = |deal: u64| {
        let mut manifest = manifest(7, &[DATA]);
        manifest.pieces[0].notify = vec![params::market_notification(deal).unwrap()];
        let require = Require {
            notification: true,
            ..ALL
        };
        let proof = proof.clone();
        prove_commit(vec![Activation { manifest, proof }], require).unwrap()
    };
    for unknown in [1, 9] {
        let (code, text) = net.dry(miner, &with(unknown)).await;
        assert_eq!(code, 1004, "{text}");
    }
    let before = net.raw_deal(0).await;
    assert_eq!(before["State"]["SectorStartEpoch"], -1, "{before}");
    assert_eq!(net.code(miner, &with(0)).await, 0);
    let after = net.raw_deal(0).await;
    assert_eq!(after["State"]["SectorNumber"], 7, "{after}");
    assert!(after["State"]["SectorStartEpoch"].as_i64() > Some(0), "{after}");
    assert_eq!(after["Proposal"]["Label"], "a test");
    net.check().await;
}

#[tokio::test]
async fn a_deal_that_was_to_begin_earlier_is_rejected_and_the_sector_is_not() {
    let net = Net::start().await;
    let miner = net.miner().await;
    let client = net.key("owner").address;
    for of in [client, miner] {
        assert_eq!(pay_in(&net, of, fil(3)).await, 0);
    }
    let soon = net.height().await + 4;
    let late = deal(&net, miner, |proposal| {
        proposal.start_epoch = soon;
        proposal.end_epoch = soon + crate::policy::LIFETIME_MIN;
    })
    .await;
    assert_eq!(
        net.send("worker", MARKET_ACTOR, fil(0), &publish(vec![late]))
            .await
            .receipt
            .exit_code
            .value(),
        0
    );
    let call = precommit(&[sector(&net, 7, &[DATA]).await]).unwrap();
    assert_eq!(net.code(miner, &call).await, 0);
    ready(&net, miner, 7).await;
    let proof = seal_proof(&claim(&net, miner, 7).await);
    let mut manifest = manifest(7, &[DATA]);
    manifest.pieces[0].notify = vec![params::market_notification(0).unwrap()];
    let call = prove_commit(vec![Activation { manifest, proof }], ALL).unwrap();
    assert_eq!(net.code(miner, &call).await, 0);
    assert_eq!(net.raw_deal(0).await["State"]["SectorStartEpoch"], -1);
}
