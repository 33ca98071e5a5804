//! The messager against a model of the chain: kills between any two effects, nodes that lie, reverts; and each
//! rule by itself.

use rand::Rng;

use crate::types::{Address, TokenAmount};

use super::core::Core;
use super::fees::FeePolicy;
use super::memory::MemoryStore;
use super::model::{DEPTH, World};
use super::plan::{Account, MessagerConfig, PlanError, Submitted};
use super::record::{Intent, Key, Record, State};
use super::store::{MessageStore, conformance};

fn config() -> MessagerConfig {
    MessagerConfig {
        in_flight: 3,
        confidence: DEPTH as i64,
        rest: 1,
        ..MessagerConfig::default()
    }
}

/// Rounds without faults until everything ended.
async fn settle(world: &mut World) -> Core {
    (world.kills, world.faults) = (0, 0);
    let mut core = world.start().await;
    for _ in 0..200 {
        world.round(&mut core).await.unwrap();
        if core.records().next().is_none() {
            return core;
        }
        let mut rng = world.rng.clone();
        world.chain.mine(&mut rng, 100);
    }
    let open: Vec<_> = core
        .records()
        .map(|r| (r.intent.key.to_string(), r.nonce, r.state.clone()))
        .collect();
    panic!("these never end: {open:#?}");
}

fn times(world: &World, intent: &Intent) -> usize {
    let same = |message: &&crate::types::Message| {
        message.from == intent.from && message.to == intent.to && message.value == intent.value
    };
    world.chain.messages().filter(same).count()
}

async fn record(world: &World, intent: &Intent) -> Record {
    world.store.record(&intent.key).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_memory_store_obeys_the_law() {
    conformance(&MemoryStore::default()).await;
}

#[tokio::test]
async fn kills_between_any_two_effects_double_nothing_and_lose_nothing() {
    let (mut killed, mut replaced) = (0, 0);
    for seed in 0..150 {
        let mut world = World::new(seed, config());
        world.config.fees.global.replace_after = (seed % 2 == 0).then_some(2);
        let mut submitted: Vec<Intent> = Vec::new();
        let mut core = world.start().await;
        for round in 0..60u64 {
            (world.kills, world.faults) = (3, 20);
            // An intent that is new, and one that somebody submits again after a kill.
            if round < 20 {
                submitted.push(world.intent((round % 2) as usize, round + 1));
            }
            let again = world.rng.gen_range(0..submitted.len());
            let mut alive = Ok(());
            for intent in [submitted.last().cloned(), submitted.get(again).cloned()]
                .into_iter()
                .flatten()
            {
                if alive.is_ok() {
                    alive = world.submit(&mut core, intent).await.map(|_| ());
                }
            }
            if alive.is_ok() {
                alive = world.round(&mut core).await;
            }
            if alive.is_err() {
                core = world.start().await;
            }
            let mut rng = world.rng.clone();
            world.rng.r#gen::<u64>();
            world.chain.mine(&mut rng, 60);
            if world.rng.gen_bool(0.15) {
                let depth = world.rng.gen_range(1..=DEPTH);
                world.chain.revert(&mut rng, depth);
            }
        }
        (world.kills, world.faults) = (0, 0);
        let mut core = world.start().await;
        for intent in &submitted {
            world.submit(&mut core, intent.clone()).await.unwrap();
        }
        settle(&mut world).await;
        for intent in &submitted {
            assert_eq!(times(&world, intent), 1, "seed {seed}: {}", intent.key);
            let record = record(&world, intent).await;
            assert!(matches!(record.state, State::Final(_)), "seed {seed}: {record:?}");
            replaced += usize::from(record.versions.len() > 1);
        }
        assert_eq!(
            world.chain.messages().count(),
            submitted.len(),
            "seed {seed}: nothing else was sent"
        );
        killed += world.killed;
    }
    assert!(
        killed > 1000 && replaced > 100,
        "only {killed} kills, {replaced} replaced"
    );
}

#[tokio::test]
async fn an_intent_that_expires_lands_never_or_once_and_the_record_says_which() {
    let (mut landed, mut given_up) = (0, 0);
    for seed in 0..100 {
        let mut world = World::new(seed, config());
        let mut core = world.start().await;
        world.round(&mut core).await.unwrap();
        let intents: Vec<Intent> = (1..=6)
            .map(|name| Intent {
                expires: Some(2 + name as i64 % 4),
                ..world.intent(0, name)
            })
            .collect();
        for intent in &intents {
            world.submit(&mut core, intent.clone()).await.unwrap();
        }
        for _ in 0..12 {
            (world.kills, world.faults) = (2, 30);
            if world.round(&mut core).await.is_err() {
                core = world.start().await;
            }
            let mut rng = world.rng.clone();
            world.rng.r#gen::<u64>();
            world.chain.mine(&mut rng, 40);
        }
        settle(&mut world).await;
        for intent in &intents {
            let count = times(&world, intent);
            match record(&world, intent).await.state {
                State::Final(_) => {
                    assert_eq!(count, 1, "seed {seed}: {}", intent.key);
                    landed += 1;
                }
                State::Failed { code, .. } => {
                    assert_eq!(
                        (count, code.as_str()),
                        (0, "expired"),
                        "seed {seed}: {}",
                        intent.key
                    );
                    given_up += 1;
                }
                other => panic!("seed {seed}: {other:?}"),
            }
        }
    }
    assert!(
        landed > 20 && given_up > 20,
        "{landed} landed, {given_up} given up"
    );
}

#[tokio::test]
async fn a_key_means_one_message_for_ever() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    let intent = world.intent(0, 7);
    world.submit(&mut core, intent.clone()).await.unwrap();
    assert!(matches!(
        core.submit(intent.clone(), None),
        Ok(Submitted::Known(_))
    ));
    let other = Intent {
        value: TokenAmount::from_atto(8),
        ..intent.clone()
    };
    assert_eq!(
        core.submit(other.clone(), None),
        Err(PlanError::KeyReused(intent.key.clone()))
    );
    let core = settle(&mut world).await;
    let stored = world.store.record(&intent.key).await.unwrap();
    assert!(matches!(core.submit(intent, stored.clone()), Ok(Submitted::Known(r)) if !r.is_live()));
    assert!(core.submit(other, stored).is_err());
    for bad in ["", "with space", "ü", &"x".repeat(257)] {
        assert!(Key::try_from(bad.to_owned()).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn nonces_wait_for_the_chain_and_for_the_cap() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    for name in 1..=5 {
        let intent = world.intent(0, name);
        world.submit(&mut core, intent).await.unwrap();
    }
    assert!(core.next().is_empty(), "nobody said what nonce is next");
    world.follow(&mut core).await.unwrap();
    let sender = world.accounts[0].address;
    let stale = Account {
        nonce: 0,
        at: crate::node::TipSetKey::HEAD,
    };
    assert_eq!(core.saw_account(sender, &stale), None);
    assert!(core.next().is_empty(), "what another head says does not count");
    world.round(&mut core).await.unwrap();
    let nonces: Vec<u64> = core.records().filter_map(|record| record.nonce).collect();
    assert_eq!(nonces, [0, 1, 2], "three at once, in their order");
    let batch = core.forbid(sender, true);
    core.apply(&batch);
    let mut rng = world.rng.clone();
    world.chain.mine(&mut rng, 100);
    world.round(&mut core).await.unwrap();
    assert_eq!(
        core.records()
            .filter(|record| record.state == State::Queued)
            .count(),
        2
    );
    core.apply(&core.forbid(sender, false));
    settle(&mut world).await;
    assert_eq!(world.chain.messages().count(), 5);
}

#[tokio::test]
async fn what_was_said_of_a_sender_at_an_earlier_head_does_not_count() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    let (first, second) = (world.intent(0, 1), world.intent(0, 2));
    world.submit(&mut core, first.clone()).await.unwrap();
    world.round(&mut core).await.unwrap();
    let mut rng = world.rng.clone();
    for _ in 0..DEPTH + 3 {
        world.chain.mine(&mut rng, 100);
    }
    world.submit(&mut core, second.clone()).await.unwrap();
    world.follow(&mut core).await.unwrap();
    assert!(matches!(record(&world, &first).await.state, State::Final(_)));
    assert!(core.next().is_empty(), "by the old word nonce 0 would be free");
    world.round(&mut core).await.unwrap();
    assert_eq!(record(&world, &second).await.nonce, Some(1));
}

#[tokio::test]
async fn a_high_base_fee_holds_back_what_says_so() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    let patient = Intent {
        fees: FeePolicy {
            base_fee_max: Some(TokenAmount::from_atto(100)),
            ..FeePolicy::default()
        },
        ..world.intent(0, 1)
    };
    let urgent = world.intent(0, 2);
    world.submit(&mut core, patient.clone()).await.unwrap();
    world.submit(&mut core, urgent.clone()).await.unwrap();
    core.saw_base_fee(TokenAmount::from_atto(101));
    world.round(&mut core).await.unwrap();
    assert_eq!(record(&world, &patient).await.state, State::Queued);
    assert_eq!(
        record(&world, &urgent).await.state,
        State::Published,
        "it does not wait behind the other"
    );
    core.saw_base_fee(TokenAmount::from_atto(100));
    world.round(&mut core).await.unwrap();
    assert_eq!(record(&world, &patient).await.state, State::Published);
}

#[tokio::test]
async fn a_stranger_on_the_same_address_is_noticed() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    let ours = world.intent(0, 1);
    world.submit(&mut core, ours.clone()).await.unwrap();
    world.faults = 0;
    world.follow(&mut core).await.unwrap();
    // The stranger is quicker: its message has our nonce and a better premium.
    world.round(&mut core).await.unwrap();
    let theirs = Intent {
        to: Address::new_id(9),
        ..world.intent(0, 99)
    };
    let mut message = theirs.message(0);
    message.gas_limit = 1_000_000;
    message.gas_fee_cap = TokenAmount::from_atto(1_000_000);
    message.gas_premium = TokenAmount::from_atto(1_000_000);
    let stranger = world.accounts[0].sign(message);
    world.chain.push(&stranger).unwrap();
    let mut rng = world.rng.clone();
    for _ in 0..2 {
        world.chain.mine(&mut rng, 100);
    }
    world.round(&mut core).await.unwrap();
    let conflict = record(&world, &ours).await;
    assert!(matches!(conflict.state, State::Conflict(_)), "{conflict:?}");
    assert!(
        conflict.note.contains("nonce 0") && conflict.note.contains("none of ours"),
        "{}",
        conflict.note
    );
    let key = ours.key.clone();
    assert!(
        core.recover(&key, DEPTH as i64).is_err(),
        "it could still be reverted"
    );
    for _ in 0..=DEPTH {
        world.chain.mine(&mut rng, 100);
    }
    world.round(&mut core).await.unwrap();
    let batch = core.recover(&key, DEPTH as i64).unwrap();
    world.store.commit(&batch).await.unwrap();
    core.apply(&batch);
    settle(&mut world).await;
    assert_eq!((times(&world, &ours), times(&world, &theirs)), (1, 1));
    assert_eq!(record(&world, &ours).await.nonce, Some(1));
}

#[tokio::test]
async fn a_stranger_whose_message_is_reverted_leaves_no_gap() {
    let mut world = World::new(3, config());
    let mut core = world.start().await;
    let mut message = world.intent(0, 99).message(0);
    message.gas_limit = 1_000_000;
    let stranger = world.accounts[0].sign(message);
    world.chain.push(&stranger).unwrap();
    let mut rng = world.rng.clone();
    for _ in 0..2 {
        world.chain.mine(&mut rng, 100);
    }
    let ours = world.intent(0, 1);
    world.submit(&mut core, ours.clone()).await.unwrap();
    world.round(&mut core).await.unwrap();
    assert_eq!(record(&world, &ours).await.nonce, Some(1));
    // The stranger's message is gone for good, and ours has a nonce that nobody reaches.
    while world.chain.messages().count() > 0 {
        world.chain.tipsets.pop();
    }
    world.chain.mine(&mut rng, 0);
    settle(&mut world).await;
    assert_eq!(times(&world, &ours), 1);
    let filler = world
        .chain
        .messages()
        .find(|message| message.sequence == 0)
        .unwrap();
    assert_eq!(
        (filler.to, filler.value.clone()),
        (filler.from, TokenAmount::from_atto(0))
    );
}

#[tokio::test]
async fn after_a_lost_head_messages_are_searched_for() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    let (known, open) = (world.intent(0, 1), world.intent(0, 2));
    let mut rng = world.rng.clone();
    world.submit(&mut core, known.clone()).await.unwrap();
    world.round(&mut core).await.unwrap();
    for _ in 0..2 {
        world.chain.mine(&mut rng, 100);
    }
    world.submit(&mut core, open.clone()).await.unwrap();
    world.round(&mut core).await.unwrap();
    assert!(matches!(record(&world, &known).await.state, State::Landed(_)));
    // The second lands where nobody looks.
    for _ in 0..3 {
        world.chain.mine(&mut rng, 100);
    }
    let head = world.chain.tipsets.last().unwrap().head.clone();
    let lost = core.lost(&head);
    world.store.commit(&lost).await.unwrap();
    core.apply(&lost);
    assert!(core.records().all(|record| record.state == State::Published));
    assert!(
        core.to_search().is_empty(),
        "nobody said yet which nonces were used"
    );
    let sender = world.accounts[0].address;
    let place = world.chain.place(&head).unwrap();
    let nonce = world.chain.nonce(&sender, place);
    assert_eq!(
        core.saw_account(
            sender,
            &Account {
                nonce,
                at: head.key.clone()
            }
        ),
        None
    );
    let wanted: Vec<_> = core
        .to_search()
        .into_iter()
        .map(|record| record.versions[0].signed_cid)
        .collect();
    assert_eq!(wanted.len(), 2);
    for at in 0..=place {
        for mut seen in world.chain.shows(at) {
            // A node may name it with its signature.
            let signed = core
                .records()
                .flat_map(|r| &r.versions)
                .find(|v| v.cid == seen.cid);
            seen.cid = signed.unwrap().signed_cid;
            assert!(wanted.contains(&seen.cid));
            let batch = core.found(&seen, &world.chain.tipsets[at].head).unwrap();
            world.store.commit(&batch).await.unwrap();
            core.apply(&batch);
            assert_eq!(core.found(&seen, &head), None, "found once");
        }
    }
    assert!(core.to_search().is_empty());
    world.path = vec![head];
    settle(&mut world).await;
    assert_eq!((times(&world, &known), times(&world, &open)), (1, 1));
}

#[tokio::test]
async fn what_was_signed_must_be_what_was_asked() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    let intent = world.intent(0, 5);
    world.submit(&mut core, intent.clone()).await.unwrap();
    world.follow(&mut core).await.unwrap();
    let head = core.head().unwrap().clone();
    let sender = world.accounts[0].address;
    assert_eq!(
        core.saw_account(
            sender,
            &Account {
                nonce: 0,
                at: head.key
            }
        ),
        None
    );
    let prepare = core.next().remove(0);
    let gas = crate::message::Gas {
        limit: 1_000_000,
        fee_cap: TokenAmount::from_atto(1000),
        premium: TokenAmount::from_atto(100),
    };
    let good = prepare.with_gas(&gas).unwrap();
    let sign = |change: &dyn Fn(&mut crate::types::Message)| {
        let mut message = good.clone();
        change(&mut message);
        world.accounts[0].sign(message)
    };
    for bad in [
        sign(&|message| message.sequence = 1),
        sign(&|message| message.value = TokenAmount::from_atto(6)),
        sign(&|message| message.to = Address::new_id(1)),
        sign(&|message| message.gas_fee_cap = TokenAmount::from_whole(1)),
        sign(&|message| message.gas_limit = 0),
        world.accounts[1].sign(good.clone()),
    ] {
        let refused = core.assign(&intent.key, &bad);
        assert!(
            matches!(refused, Err(PlanError::NotTheMessage { .. })),
            "{refused:?}"
        );
    }
    let signed = sign(&|_| {});
    let batch = core.assign(&intent.key, &signed).unwrap();
    assert!(core.to_push().is_empty(), "nothing is pushed that is not durable");
    core.apply(&batch);
    assert_eq!(core.to_push().len(), 1);
    assert!(matches!(
        core.assign(&intent.key, &signed),
        Err(PlanError::State { .. })
    ));
    assert!(matches!(
        core.cancel(&intent.key, "x"),
        Err(PlanError::State { .. })
    ));
    let replacing = core.replace_now(&intent.key).unwrap();
    assert!(core.replace(&replacing, &signed).is_err(), "it pays no more");
    let dearer = world.accounts[0].sign(replacing.with_gas(&gas).unwrap());
    core.apply(&core.replace(&replacing, &dearer).unwrap());
    assert_eq!(core.to_push().len(), 2, "all versions are remembered and pushed");
}

#[tokio::test]
async fn refusals_end_or_rest() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    let (one, two) = (world.intent(0, 1), world.intent(0, 2));
    for intent in [&one, &two] {
        world.submit(&mut core, intent.clone()).await.unwrap();
    }
    world.follow(&mut core).await.unwrap();
    let failure = |class| crate::failure::Failure {
        class,
        code: "some_code",
        message: "why".into(),
    };
    let ended = core
        .refuse(&one.key, &failure(crate::failure::FailureClass::Permanent))
        .unwrap();
    core.apply(&ended);
    assert!(matches!(&ended.records[0].state, State::Failed { code, .. } if code == "some_code"));
    let rests = core
        .refuse(&two.key, &failure(crate::failure::FailureClass::Transient))
        .unwrap();
    core.apply(&rests);
    assert!(rests.records[0].note.contains("why"));
    let head = core.head().unwrap().clone();
    core.saw_account(
        world.accounts[0].address,
        &Account {
            nonce: 0,
            at: head.key,
        },
    );
    assert!(core.next().is_empty(), "it rests for an epoch");
}

#[tokio::test]
async fn records_survive_their_json() {
    let mut world = World::new(1, config());
    let mut core = world.start().await;
    for name in 1..=2 {
        let intent = world.intent(0, name);
        world.submit(&mut core, intent).await.unwrap();
    }
    world.round(&mut core).await.unwrap();
    let mut rng = world.rng.clone();
    for _ in 0..2 {
        world.chain.mine(&mut rng, 100);
    }
    world.round(&mut core).await.unwrap();
    let records: Vec<Record> = core.records().cloned().collect();
    assert!(
        records
            .iter()
            .any(|record| matches!(record.state, State::Landed(_)))
    );
    let text = serde_json::to_string(&records).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Record>>(&text).unwrap(), records);
}
