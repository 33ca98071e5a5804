//! Blocks of miners with real election proofs, tickets and signatures (chain.md §2.6). Only the winning proof is one that
//! this folder's verifier makes of its claim.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::devnet::block::Block;
use crate::devnet::{Permission, PostClaim};
use crate::json::Form;
use crate::message::{SignedMessage, SignedMessageJson, blake2b_256};
use crate::node::{
    BlockMessage, BlockTemplate, ElectionProof, FullHeader, MiningBase, Ticket, TipSetKey, WinningProof,
};
use crate::params::{Call, declare_faults};
use crate::randomness::{self, Tag};
use crate::types::{Address, BigInt, BitField, ChainEpoch, Cid, RegisteredPoStProof, TokenAmount, miner};

use super::post::{active, next_window, prove};
use super::sealing::{comm_r, seal};
use super::verifier::post_proof;
use super::{HEAD, Net, config, fil, text};

/// What the worker signs of what is drawn.
fn vrf(net: &Net, base: &MiningBase, tag: Tag, epoch: ChainEpoch, entropy: &[u8]) -> Vec<u8> {
    let drawn = randomness::draw(&base.beacon().data, tag, epoch, entropy);
    let worker = net.key("worker").key.secret().unwrap();
    worker.sign(&drawn).unwrap().bytes
}

/// Wins of an election proof by the Poisson distribution in floating point: another way than the devnet's.
fn wins(proof: &[u8], share: f64) -> i64 {
    let hash = blake2b_256(proof);
    let high = u64::from_be_bytes(hash[..8].try_into().unwrap());
    let drawn = high as f64 / 2f64.powi(64);
    let lambda = 5.0 * share;
    let (mut chance, mut count) = ((-lambda).exp(), 0_i64);
    let mut above = 1.0 - chance;
    while drawn < above && count < 15 {
        count += 1;
        chance *= lambda / count as f64;
        above -= chance;
    }
    count
}

/// The headers of a tipset.
async fn headers(net: &Net, key: &TipSetKey) -> Vec<FullHeader> {
    let found = net.command("ChainGetTipSet", json!([key])).await;
    serde_json::from_value(found["Blocks"].clone()).unwrap()
}

async fn base(net: &Net, miner: Address) -> Option<MiningBase> {
    let head = net.client.chain_head().await.unwrap();
    net.client
        .mining_base(&miner, head.height + 1, &head.key)
        .await
        .unwrap()
}

/// What a miner makes its next block of, whether it won or not. It has sector 7, and whatever else was drawn.
async fn template(net: &Net, miner: Address, messages: &[SignedMessage]) -> BlockTemplate {
    let head = net.client.chain_head().await.unwrap();
    let (epoch, id) = (head.height + 1, miner.id().unwrap());
    let base = base(net, miner).await.unwrap();
    let entropy = randomness::miner_entropy(id);
    let mut ticket = entropy.clone();
    ticket.extend_from_slice(&headers(net, &head.key).await[0].ticket.vrf_proof);
    let election = vrf(net, &base, Tag::ElectionProof, epoch, &entropy);
    let power = |power: &BigInt| power.to_string().parse::<f64>().unwrap();
    let claim = PostClaim {
        proof_type: RegisteredPoStProof::StackedDRGWinning2KiBV1,
        miner: id,
        randomness: randomness::draw(&base.beacon().data, Tag::WinningPost, epoch, &entropy),
        sectors: base
            .sectors
            .iter()
            .map(|one| (one.sector_number, comm_r(one.sector_number)))
            .collect(),
    };
    BlockTemplate {
        miner,
        parents: head.key.clone(),
        ticket: Ticket {
            vrf_proof: vrf(net, &base, Tag::TicketProduction, epoch - 1, &ticket),
        },
        eproof: ElectionProof {
            win_count: wins(&election, power(&base.miner_power) / power(&base.network_power)),
            vrf_proof: election,
        },
        messages: messages.iter().map(SignedMessageJson::from).collect(),
        epoch,
        timestamp: head.timestamp() + 1,
        winning_post_proof: vec![WinningProof {
            post_proof: i64::from(claim.proof_type),
            proof_bytes: post_proof(&claim),
        }],
        beacon_values: base.beacon_entries,
    }
}

/// The template of an epoch that all of these miners win.
async fn won(net: &Net, miners: &[Address]) -> Vec<BlockTemplate> {
    for _ in 0..200 {
        let mut all = Vec::new();
        for miner in miners {
            all.push(template(net, *miner, &[]).await);
        }
        if all.iter().all(|one| one.eproof.win_count > 0) {
            return all;
        }
        net.mine(1).await;
    }
    panic!("no epoch was won");
}

/// A miner with sector 7, active so long that it may make blocks.
async fn maker(net: &Net) -> Address {
    let miner = net.miner().await;
    active(net, miner, 7).await;
    // The lookback of the profile is 20.
    net.mine(22).await;
    miner
}

/// Two miners, both active at the same time: each is proved in its next window, whichever comes first.
async fn makers(net: &Net) -> [Address; 2] {
    let both = [net.miner().await, net.miner().await];
    let mut places = Vec::new();
    for miner in both {
        seal(net, miner, 7, &[]).await;
        places.push((miner, net.client.sector_location(&miner, 7, &HEAD).await.unwrap()));
    }
    let mut windows = Vec::new();
    for (miner, place) in places {
        windows.push((next_window(net, miner, place.deadline).await.open, miner, place));
    }
    windows.sort_by_key(|window| window.0);
    for (_, miner, place) in windows {
        prove(net, miner, place, &[(7, comm_r(7))]).await;
    }
    net.mine(22).await;
    both
}

/// The pool as a block would hold it.
async fn selected(net: &Net) -> Vec<SignedMessage> {
    let chosen = net.command("MpoolSelect", json!([[], 1.0])).await;
    let chosen: Vec<SignedMessageJson> = serde_json::from_value(chosen).unwrap();
    chosen.into_iter().map(|one| one.try_into().unwrap()).collect()
}

/// Signs a header anew, as a miner with its own wallet does.
fn signed(net: &Net, block: &BlockMessage) -> BlockMessage {
    let mut header = Block::try_from(block.header.clone()).unwrap();
    header.sign(&net.key("worker").key.secret().unwrap()).unwrap();
    BlockMessage {
        header: FullHeader::from(&header),
        ..block.clone()
    }
}

/// What the devnet says to a block.
async fn refusal(net: &Net, block: &BlockMessage) -> String {
    let answer = net
        .raw(Permission::Write, "Filecoin.SyncSubmitBlock", json!([block]))
        .await;
    assert_eq!(answer["error"]["code"], 1, "it is to be refused: {answer}");
    answer["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn answers_are_like_the_examples() {
    let net = Net::start().await;
    let miner = maker(&net).await;
    let message = net
        .signed("owner", Address::new_id(99), fil(1), &Call::Send)
        .await;
    won(&net, &[miner]).await;
    let made = template(&net, miner, &[message]).await;
    let asked = json!([text(miner), made.epoch, made.parents]);
    for (method, params, example) in [
        (
            "MinerGetBaseInfo",
            asked,
            r#"{"MinerPower":"20480","NetworkPower":"20480","Sectors":[{"SealProof":5,"SectorNumber":2,"SectorKey":null,"SealedCID":C}],"WorkerKey":"f3w","SectorSize":2048,"PrevBeaconEntry":{"Round":110,"Data":"AAE="},"BeaconEntries":[{"Round":111,"Data":"AAE="}],"EligibleForMining":true}"#,
        ),
        (
            "MinerCreateBlock",
            json!([made]),
            r#"{"Header":BLOCK,"BlsMessages":[C],"SecpkMessages":[C]}"#,
        ),
    ] {
        let value = net.command(&format!("Filecoin.{method}"), params).await;
        super::shapes::compare(method, &super::shapes::literal(example), &value);
    }
}

async fn balance(net: &Net, address: &Address) -> TokenAmount {
    net.client.wallet_balance(address).await.unwrap()
}

#[tokio::test]
async fn a_block_of_a_miner_becomes_the_tipset_and_is_paid() {
    let dir = tempfile::tempdir().unwrap();
    let data = config(Some(dir.path().join("chain")));
    let net = Net::open(data.clone()).await;
    let miner = maker(&net).await;
    won(&net, &[miner]).await;
    // Two kinds of signatures, which a block holds in two ways.
    let to = Address::new_id(99);
    for role in ["owner", "control-1"] {
        let message = net.signed(role, to, fil(3), &Call::Send).await;
        net.client.push(&message).await.unwrap();
    }
    let made = template(&net, miner, &selected(&net).await).await;
    let (before, wins) = (net.client.chain_head().await.unwrap(), made.eproof.win_count);
    let locked = || async {
        let free = net.client.available_balance(&miner, &HEAD).await.unwrap();
        balance(&net, &miner).await - free
    };
    let (had, had_locked) = (balance(&net, &miner).await, locked().await);
    let block = net.client.create_block(&made).await.unwrap();
    assert_eq!((block.bls_messages.len(), block.secpk_messages.len()), (1, 1));
    net.client.submit_block(&block).await.unwrap();
    // An answer may be lost, so the same may come again.
    net.client.submit_block(&block).await.unwrap();
    net.mine(1).await;

    let head = net.client.chain_head().await.unwrap();
    assert_eq!(
        (head.height, head.blocks.len(), head.blocks[0].miner),
        (made.epoch, 1, miner)
    );
    assert_eq!(*head.parents(), before.key);
    assert_eq!(
        headers(&net, &head.key).await,
        std::slice::from_ref(&block.header)
    );
    let cid = head.key.0[0];
    let shown = net.command("ChainGetBlockMessages", json!([Form(cid)])).await;
    assert_eq!(shown["BlsMessages"].as_array().unwrap().len(), 1);
    assert_eq!(shown["SecpkMessages"].as_array().unwrap().len(), 1);
    assert_eq!(net.client.mpool_pending(&HEAD).await.unwrap().len(), 0);
    net.mine(2).await;
    let found = net.found(&block.bls_messages[0]).await;
    assert!(found.receipt.exit_code.is_success() && found.height == made.epoch + 1);

    // Five FIL are for each win, and the tips of two messages; three quarters are locked.
    let tip = TokenAmount::from_atto(100) * 1_000_000_000_u64;
    let reward = fil(5) * wins + tip * 2_u64;
    assert_eq!(balance(&net, &miner).await - had, reward.clone());
    assert_eq!(locked().await - had_locked, (reward * 3_u64).div_floor(4_u64));
    // With more power and wins a chain weighs more: 20480 has 15 bits.
    let weight = |key: &TipSetKey| {
        let key = key.clone();
        let net = &net;
        async move {
            let told = net.command("ChainTipSetWeight", json!([key])).await;
            told.as_str().unwrap().parse::<i64>().unwrap()
        }
    };
    assert_eq!(
        weight(&head.key).await - weight(&before.key).await,
        (14 << 8) + (14 << 8) * wins / 10
    );
    net.check().await;
    let again = headers(&net, &head.key).await;
    net.devnet.stop().await.unwrap();
    let net = Net::open(data).await;
    assert_eq!(headers(&net, &head.key).await, again);
    net.mine(1).await;
}

#[tokio::test]
async fn blocks_of_two_miners_are_one_tipset_and_do_each_message_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = config(Some(dir.path().join("chain")));
    let net = Net::open(data.clone()).await;
    let [first, second] = makers(&net).await;
    let bases = [
        base(&net, first).await.unwrap(),
        base(&net, second).await.unwrap(),
    ];
    assert!(
        bases
            .iter()
            .all(|base| base.network_power == 40_960.into() && base.eligible_for_mining)
    );
    won(&net, &[first, second]).await;
    let to = Address::new_id(99);
    net.client
        .push(&net.signed("owner", to, fil(3), &Call::Send).await)
        .await
        .unwrap();
    let (pool, before) = (selected(&net).await, net.client.chain_head().await.unwrap());
    let (mut blocks, mut had) = (Vec::new(), Vec::new());
    for miner in [first, second] {
        let block = net
            .client
            .create_block(&template(&net, miner, &pool).await)
            .await
            .unwrap();
        net.client.submit_block(&block).await.unwrap();
        had.push(balance(&net, &miner).await);
        blocks.push(block);
    }
    let burnt = balance(&net, &to).await;
    net.mine(1).await;
    let head = net.client.chain_head().await.unwrap();
    assert_eq!((head.blocks.len(), head.key.0.len()), (2, 2));
    // Ordered by the hash of the ticket.
    let shown = headers(&net, &head.key).await;
    let hashes: Vec<_> = shown
        .iter()
        .map(|one| blake2b_256(&one.ticket.vrf_proof))
        .collect();
    assert!(hashes.is_sorted());
    let makers: BTreeSet<Address> = head.blocks.iter().map(|one| one.miner).collect();
    assert_eq!(makers, BTreeSet::from([first, second]));
    assert!(head.blocks.iter().all(|one| one.parents == before.key));
    // Each has the message, and it was done once.
    for cid in &head.key.0 {
        let held = net.command("ChainGetBlockMessages", json!([Form(*cid)])).await;
        assert_eq!(held["BlsMessages"].as_array().unwrap().len(), 1);
    }
    let all = net.command("ChainGetMessagesInTipset", json!([head.key])).await;
    assert_eq!(all.as_array().unwrap().len(), 1);
    net.mine(1).await;
    assert_eq!(net.client.chain_head().await.unwrap().parents(), &head.key);
    assert!((fil(3)..fil(4)).contains(&(balance(&net, &to).await - burnt)));
    // Each has its own wins; the tip is the first's.
    for (block, had) in blocks.iter().zip(had) {
        let wins = block.header.election_proof.as_ref().unwrap().win_count;
        let is_first = block.header == shown[0];
        let tip = TokenAmount::from_atto(if is_first { 100_000_000_000_i64 } else { 0 });
        assert_eq!(
            balance(&net, &block.header.miner).await - had,
            fil(5) * wins + tip
        );
    }
    // The key is the list in that order.
    let turned = TipSetKey(head.key.0.iter().rev().copied().collect());
    assert!(net.client.tipset(&turned).await.is_err());
    assert_eq!(net.client.tipset(&head.key).await.unwrap(), head);
    // A child tells the receipts of the whole tipset, and the next miner's block is on both.
    let child = net.client.chain_head().await.unwrap().key.0[0];
    assert_eq!(net.client.parent_receipts(&child).await.unwrap().len(), 1);
    let later = won(&net, &[first]).await;
    let later = net.client.create_block(&later[0]).await.unwrap();
    net.client.submit_block(&later).await.unwrap();
    net.mine(2).await;
    net.check().await;
    let last = net.client.chain_head().await.unwrap();
    net.devnet.stop().await.unwrap();
    let net = Net::open(data).await;
    assert_eq!(net.client.chain_head().await.unwrap(), last);
    assert_eq!(net.client.tipset(&head.key).await.unwrap(), head);
}

#[tokio::test]
async fn what_is_wrong_with_a_block_is_said() {
    let net = Net::start().await;
    let miner = maker(&net).await;
    let made = won(&net, &[miner]).await.remove(0);
    let good = net.client.create_block(&made).await.unwrap();
    let changed = |change: &dyn Fn(&mut FullHeader)| {
        let mut block = good.clone();
        change(&mut block.header);
        signed(&net, &block)
    };
    let won_by = |header: &mut FullHeader, change: &dyn Fn(&mut ElectionProof)| {
        change(header.election_proof.as_mut().unwrap());
    };
    let genesis = net.client.chain_genesis().await.unwrap();
    let old = net.client.tipset_at(made.epoch - 3, &HEAD).await.unwrap().key;
    let other: Cid = Cid::try_from("bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4").unwrap();
    let wrong_proof = good.header.win_post_proof[0]
        .proof_bytes
        .iter()
        .rev()
        .copied()
        .collect::<Vec<u8>>();
    for (block, words) in [
        (
            changed(&|h| h.height -= 1),
            "it comes too late: the head is at epoch",
        ),
        (
            changed(&|h| h.height += 1),
            "it comes too early: the next epoch is",
        ),
        (changed(&|h| h.timestamp += 1), "the timestamp is"),
        (
            changed(&|h| h.parents = old.clone()),
            "the parents are the tipset of epoch",
        ),
        (
            changed(&|h| h.parents = genesis.key.clone()),
            "the parents are the tipset of epoch 0",
        ),
        (
            changed(&|h| h.parents = TipSetKey(vec![other])),
            "the parents are no tipset",
        ),
        (
            changed(&|h| h.parents = TipSetKey::HEAD),
            "the parents are no tipset",
        ),
        (changed(&|h| h.parent_weight += 1), "the parents' weight is"),
        (changed(&|h| h.parent_state_root = other), "the parents' state is"),
        (
            changed(&|h| h.parent_message_receipts = other),
            "the parents' list of receipts is",
        ),
        (
            changed(&|h| h.parent_base_fee += TokenAmount::from_atto(1)),
            "the base fee is 101 attoFIL, not 100",
        ),
        (
            changed(&|h| h.miner = Address::new_id(99)),
            "f099 is not eligible",
        ),
        (
            changed(&|h| h.miner = net.key("worker").address),
            "is named by no ID",
        ),
        (
            changed(&|h| h.beacon_entries.clear()),
            "the beacon entries are not those",
        ),
        (
            changed(&|h| h.beacon_entries[0].data[0] ^= 1),
            "the beacon entries are not those",
        ),
        (changed(&|h| h.election_proof = None), "it has no election proof"),
        (
            changed(&|h| won_by(h, &|won| won.vrf_proof[50] ^= 1)),
            "the election proof is not the worker's",
        ),
        (
            changed(&|h| won_by(h, &|won| won.vrf_proof.truncate(95))),
            "the election proof is not the worker's",
        ),
        // The worker's own signature, of another draw.
        (
            changed(&|h| h.election_proof.as_mut().unwrap().vrf_proof = made.ticket.vrf_proof.clone()),
            "the election proof is not the worker's",
        ),
        (
            changed(&|h| won_by(h, &|won| won.win_count += 1)),
            "it claims to win",
        ),
        (
            changed(&|h| won_by(h, &|won| won.win_count = 0)),
            "it does not claim to win",
        ),
        (
            changed(&|h| won_by(h, &|won| won.win_count = -1)),
            "it does not claim to win",
        ),
        (
            changed(&|h| h.ticket.vrf_proof = made.eproof.vrf_proof.clone()),
            "the ticket is not the worker's",
        ),
        (
            changed(&|h| h.ticket.vrf_proof.clear()),
            "the ticket is not the worker's",
        ),
        (
            changed(&|h| h.win_post_proof.clear()),
            "it has 0 winning proofs, not one",
        ),
        (
            changed(&|h| h.win_post_proof[0].proof_bytes = wrong_proof.clone()),
            "the winning proof does not hold; sector [7] was drawn",
        ),
        (
            changed(&|h| h.win_post_proof[0].post_proof = 3),
            "the winning proof is of type",
        ),
        (changed(&|h| h.messages = other), "the root of its messages is"),
        (changed(&|h| h.bls_aggregate = None), "it has no BLS aggregate"),
        (
            changed(&|h| h.bls_aggregate.as_mut().unwrap().data = made.ticket.vrf_proof.clone()),
            "the BLS aggregate is not that of its messages",
        ),
    ] {
        let told = refusal(&net, &block).await;
        assert!(told.contains(words), "{words}: {told}");
        assert!(
            told.contains(&format!("for epoch {} is refused", block.header.height)),
            "{told}"
        );
    }
    // What the worker did not sign.
    for change in [
        |h: &mut FullHeader| h.fork_signaling += 1,
        |h: &mut FullHeader| {
            h.block_sig.as_mut().unwrap().data[40] ^= 1;
        },
    ] {
        let mut block = good.clone();
        change(&mut block.header);
        let told = refusal(&net, &block).await;
        assert!(told.contains("the signature is not that of the worker"), "{told}");
    }
    let mut block = good.clone();
    block.header.block_sig = None;
    assert!(refusal(&net, &block).await.contains("it is not signed"));
    // One for an epoch is right, two are a consensus fault.
    net.client.submit_block(&good).await.unwrap();
    let told = refusal(&net, &changed(&|h| h.fork_signaling = 1)).await;
    assert!(told.contains("double-fork mining"), "{told}");
    net.mine(1).await;
    assert_eq!(net.client.chain_head().await.unwrap().blocks[0].miner, miner);
    assert!(refusal(&net, &good).await.contains("it comes too late"));
}

#[tokio::test]
async fn messages_that_no_block_may_hold() {
    let net = Net::start().await;
    let miner = maker(&net).await;
    won(&net, &[miner]).await;
    let to = Address::new_id(99);
    let next = net.signed("owner", to, fil(1), &Call::Send).await;
    let with = |role: &str, from: &SignedMessage, change: &dyn Fn(&mut crate::types::Message)| {
        let mut message = from.message.clone();
        change(&mut message);
        super::sign(net.key(role), message)
    };
    let twice = template(&net, miner, &[next.clone(), next.clone()]).await;
    let poor = with("owner", &next, &|m| m.value = fil(2_000_000));
    let cheap = with("owner", &next, &|m| {
        m.gas_fee_cap = TokenAmount::from_atto(99);
        m.gas_premium = TokenAmount::from_atto(0);
    });
    let big = |sequence| {
        with("owner", &next, &|m| {
            m.sequence += sequence;
            m.gas_limit = 6_000_000_000;
        })
    };
    let (later, heavy) = (with("owner", &next, &|m| m.sequence += 1), [big(0), big(1)]);
    for (messages, words) in [
        (vec![later], "its nonce is 2, not 1"),
        (
            vec![next.clone(), with("owner", &next, &|m| m.value = fil(2))],
            "its nonce is 1, not 2",
        ),
        (vec![poor], "its sender has"),
        (vec![cheap], "its fee cap is 99 attoFIL, and the base fee 100"),
        (heavy.to_vec(), "its messages may use 12000000000 gas"),
    ] {
        let made = template(&net, miner, &messages).await;
        let block = net.client.create_block(&made).await.unwrap();
        let told = refusal(&net, &block).await;
        assert!(told.contains(words), "{words}: {told}");
    }
    let block = net.client.create_block(&twice).await.unwrap();
    let told = refusal(&net, &block).await;
    assert!(told.contains("is in it twice"), "{told}");
    // A stranger's signature, a message that nobody knows, and one in the wrong list.
    let forged = SignedMessage {
        signature: next.signature.clone(),
        ..with("owner", &next, &|m| m.value = fil(5))
    };
    let made = json!([template(&net, miner, &[forged]).await]);
    let answer = net
        .raw(Permission::Write, "Filecoin.MinerCreateBlock", made)
        .await;
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("signature verification failed"),
        "{answer}"
    );
    let good = net
        .client
        .create_block(&template(&net, miner, std::slice::from_ref(&next)).await)
        .await
        .unwrap();
    let mut unknown = good.clone();
    unknown.bls_messages = net.client.chain_head().await.unwrap().key.0;
    assert!(refusal(&net, &unknown).await.contains("is not known here"));
    let mut wrong = good.clone();
    wrong.secpk_messages = std::mem::take(&mut wrong.bls_messages);
    assert!(refusal(&net, &wrong).await.contains("is in the wrong list"));
    let mut fewer = good.clone();
    fewer.bls_messages.clear();
    assert!(
        refusal(&net, &fewer)
            .await
            .contains("the root of its messages is")
    );
    net.client.submit_block(&good).await.unwrap();
}

#[tokio::test]
async fn who_may_make_blocks_and_when() {
    let net = Net::start().await;
    let miner = net.miner().await;
    assert_eq!(base(&net, miner).await, None, "it has no sectors");
    let place = active(&net, miner, 7).await;
    assert_eq!(base(&net, miner).await, None, "it had none at the lookback");
    net.mine(22).await;
    let found = base(&net, miner).await.unwrap();
    assert!(found.eligible_for_mining);
    assert_eq!(
        (found.miner_power, found.network_power),
        (20_480.into(), 20_480.into())
    );
    assert_eq!(
        (found.sector_size, found.worker_key),
        (2048, net.key("worker").address)
    );
    assert_eq!(found.sectors[0].sector_number, 7);
    assert_eq!(found.beacon_entries.len(), 1);
    assert_eq!(found.prev_beacon_entry.round + 1, found.beacon_entries[0].round);
    // Of null rounds the block holds the entries too.
    let head = net.client.chain_head().await.unwrap();
    let later = net
        .client
        .mining_base(&miner, head.height + 4, &head.key)
        .await
        .unwrap();
    assert_eq!(later.unwrap().beacon_entries.len(), 4);
    for (params, words) in [
        (json!([text(miner), head.height + 1, []]), "could not find"),
        (json!([text(miner), head.height, head.key]), "is not after"),
        (
            json!([text(miner), i64::MAX, head.key]),
            "is more than 1000 after",
        ),
        (json!(["f09999", head.height + 1, head.key]), "actor not found"),
    ] {
        let answer = net
            .raw(Permission::Read, "Filecoin.MinerGetBaseInfo", params)
            .await;
        assert!(
            answer["error"]["message"].as_str().unwrap().contains(words),
            "{words}: {answer}"
        );
    }
    for method in ["MinerCreateBlock", "SyncSubmitBlock"] {
        let answer = net
            .raw(Permission::Read, &format!("Filecoin.{method}"), json!([null]))
            .await;
        assert!(
            answer["error"]["message"]
                .as_str()
                .unwrap()
                .contains("need 'write'"),
            "{answer}"
        );
    }
    // What was won does not count once the sector is known to be faulty, though it was not at the lookback.
    let made = won(&net, &[miner]).await.remove(0);
    let good = net.client.create_block(&made).await.unwrap();
    let fault = declare_faults(vec![crate::params::SectorSet {
        deadline: place.deadline,
        partition: place.partition,
        sectors: BitField::try_from_bits([7]).unwrap(),
    }]);
    net.client.submit_block(&good).await.unwrap();
    net.mine(1).await;
    assert_eq!(net.client.chain_head().await.unwrap().blocks[0].miner, miner);
    assert_eq!(net.code(miner, &fault.unwrap()).await, 0);
    assert!(!base(&net, miner).await.unwrap().eligible_for_mining);
    let made = template(&net, miner, &[]).await;
    let block = net.client.create_block(&made).await.unwrap();
    let told = refusal(&net, &block).await;
    assert!(
        told.contains("is not eligible: it has no power any more"),
        "{told}"
    );
    net.mine(25).await;
    assert_eq!(base(&net, miner).await, None);
    let told = refusal(&net, &block).await;
    assert!(told.contains("it comes too late"), "{told}");
}

#[tokio::test]
async fn a_block_that_waits_is_not_for_another_chain() {
    let net = Net::start().await;
    let miner = maker(&net).await;
    let submit = || async {
        let made = won(&net, &[miner]).await.remove(0);
        let block = net.client.create_block(&made).await.unwrap();
        net.client.submit_block(&block).await.unwrap();
    };
    let by = || async { net.client.chain_head().await.unwrap().blocks[0].miner };
    let producer = Address::new_id(100);
    submit().await;
    net.command("Devnet.SetBaseFee", json!(["200"])).await;
    net.mine(1).await;
    assert_eq!(by().await, producer, "its base fee was not that of the epoch");
    submit().await;
    net.command("Devnet.Reorg", json!([1, true])).await;
    net.mine(1).await;
    assert_eq!(by().await, producer, "its parents left the chain");
    submit().await;
    net.command("Devnet.SkipNull", json!([2])).await;
    assert_eq!(by().await, producer, "its epoch had no block");
    submit().await;
    net.mine(1).await;
    assert_eq!(by().await, miner);
}

#[tokio::test]
async fn a_worker_whose_key_the_node_lacks_is_told_so() {
    let net = Net::start().await;
    let miner = maker(&net).await;
    let key = crate::wallet::SecretKey::generate(crate::wallet::KeyType::Bls).unwrap();
    let change = Call::ChangeWorkerAddress(miner::ChangeWorkerAddressParams {
        new_worker: key.address().unwrap(),
        new_control_addresses: Vec::new(),
    });
    net.send("owner", miner, fil(0), &change).await;
    // The delay of the profile, and the lookback.
    net.mine(20).await;
    net.send("owner", miner, fil(0), &Call::ConfirmChangeWorkerAddress)
        .await;
    let before = base(&net, miner).await.unwrap().worker_key;
    assert_eq!(before, net.key("worker").address, "a finality is between");
    net.mine(22).await;
    assert_eq!(
        base(&net, miner).await.unwrap().worker_key,
        key.address().unwrap()
    );
    let made = json!([template(&net, miner, &[]).await]);
    let answer: Value = net
        .raw(Permission::Write, "Filecoin.MinerCreateBlock", made)
        .await;
    let told = answer["error"]["message"].as_str().unwrap();
    assert!(told.contains("key not found"), "{told}");
}

/// The CBOR of a header, as a report holds it.
fn cbor(block: &BlockMessage) -> Vec<u8> {
    fvm_ipld_encoding::to_vec(&Block::try_from(block.header.clone()).unwrap()).unwrap()
}

fn report(first: &BlockMessage, second: &BlockMessage, witness: Option<&BlockMessage>) -> Call {
    Call::ReportConsensusFault(miner::ReportConsensusFaultParams {
        header1: cbor(first),
        header2: cbor(second),
        header_extra: witness.map(cbor).unwrap_or_default(),
    })
}

#[tokio::test]
async fn two_blocks_that_exclude_each_other_are_reported() {
    let net = Net::start().await;
    let miner = maker(&net).await;
    let made = won(&net, &[miner]).await.remove(0);
    let first = net.client.create_block(&made).await.unwrap();
    let changed = |block: &BlockMessage, change: &dyn Fn(&mut FullHeader)| {
        let mut block = block.clone();
        change(&mut block.header);
        signed(&net, &block)
    };
    let sibling = changed(&first, &|h| h.fork_signaling = 1);
    let later = changed(&first, &|h| h.height += 1);
    let name = |block: &BlockMessage| Block::try_from(block.header.clone()).unwrap().cid().unwrap();
    let grinding = changed(&later, &|h| h.parents = TipSetKey(vec![name(&sibling)]));
    let honest = changed(&later, &|h| h.parents = TipSetKey(vec![name(&first)]));
    let (code, text) = net.dry(miner, &report(&first, &sibling, None)).await;
    assert!(code == 16 && text.contains("ahead of current"), "{text}");
    net.mine(3).await;

    let mut forged = sibling.clone();
    forged.header.block_sig = first.header.block_sig.clone();
    let mut unsigned = sibling.clone();
    unsigned.header.block_sig = None;
    let stranger = changed(&sibling, &|h| h.miner = Address::new_id(9_999));
    for (call, words) in [
        (report(&first, &first, None), "submitted blocks are the same"),
        (report(&first, &stranger, None), "not mined by the same miner"),
        (report(&later, &first, None), "must not be of a later epoch"),
        (report(&first, &honest, None), "do not exclude each other"),
        (
            report(&first, &honest, Some(&sibling)),
            "do not exclude each other",
        ),
        // Without the witness nobody knows that it is a sibling.
        (report(&first, &grinding, None), "do not exclude each other"),
        (
            report(&first, &grinding, Some(&later)),
            "do not exclude each other",
        ),
        (report(&first, &forged, None), "fault not verified"),
        (report(&first, &unsigned, None), "it is not signed"),
    ] {
        let (code, text) = net.dry(miner, &call).await;
        assert!(code == 16 && text.contains(words), "{words}: {text}");
    }
    let garbage = Call::ReportConsensusFault(miner::ReportConsensusFaultParams {
        header1: vec![0x80],
        header2: cbor(&first),
        header_extra: Vec::new(),
    });
    assert!(net.dry(miner, &garbage).await.1.contains("cannot be decoded"));
    let other = net.miner().await;
    let (code, text) = net.dry(other, &report(&first, &sibling, None)).await;
    assert!(code == 16 && text.contains("reported to miner"), "{text}");
    // Each of the three kinds counts.
    for call in [
        report(&first, &sibling, None),
        report(&first, &later, None),
        report(&first, &grinding, Some(&sibling)),
    ] {
        assert_eq!(net.dry(miner, &call).await, (0, String::new()));
    }

    // Anybody reports, and gets a twentieth of an epoch's reward of 25 FIL; the rest is burnt.
    net.send("owner", miner, fil(100), &Call::Send).await;
    let (reporter, ashes) = (net.key("control-2").address, Address::new_id(99));
    let had = [
        balance(&net, &reporter).await,
        balance(&net, &miner).await,
        balance(&net, &ashes).await,
    ];
    let call = report(&first, &sibling, None);
    let sent = net.send("control-2", miner, fil(0), &call).await;
    assert!(sent.receipt.exit_code.is_success());
    let (gained, lost) = (
        balance(&net, &reporter).await - had[0].clone(),
        had[1].clone() - balance(&net, &miner).await,
    );
    let reward = TokenAmount::from_nano(1_250_000_000);
    assert!(gained <= reward && gained > reward - fil(1), "{gained}");
    assert_eq!(lost, fil(25));
    assert!(balance(&net, &ashes).await - had[2].clone() >= fil(25) - TokenAmount::from_nano(1_250_000_000));
    let info = net.client.miner_info(&miner, &HEAD).await.unwrap();
    assert_eq!(info.consensus_fault_elapsed, sent.height - 1 + 20);
    net.check().await;
    // Once is enough, and meanwhile it makes no blocks.
    let (code, text) = net.dry(miner, &call).await;
    assert!(code == 18 && text.contains("is too old"), "{text}");
    let made = template(&net, miner, &[]).await;
    let block = net.client.create_block(&made).await.unwrap();
    let told = refusal(&net, &block).await;
    assert!(
        told.contains("after a consensus fault it is excluded until"),
        "{told}"
    );
    net.until(info.consensus_fault_elapsed).await;
    let made = won(&net, &[miner]).await.remove(0);
    net.client
        .submit_block(&net.client.create_block(&made).await.unwrap())
        .await
        .unwrap();
}
