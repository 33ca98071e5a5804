//! Stages that ask the chain and send messages to it. They wait by coming back later: no thread is held.

pub mod chain_seed;
pub mod chain_ticket;
mod send;
pub mod submit_commit;
pub mod submit_precommit;
mod together;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sealflow_chain::control::ControlBook;
use sealflow_chain::failure as chain_failure;
use sealflow_chain::messager::Messager;
use sealflow_chain::node::{Client, NodeError, TipSet};
use sealflow_chain::policy::prove_commit_by;
use sealflow_chain::types::{Address, ChainEpoch, RegisteredSealProof};
use sealflow_engine::failure::{Failure, FailureClass};
use sealflow_engine::stage::{Outcome, Wake};

use crate::types::{ActorId, SealProof};
use crate::verifier::seal_type;

/// A node to ask and a messager to send by; none where no chain is configured. Cheap to clone.
#[derive(Clone, Default)]
pub struct Chain(Option<Arc<Access>>);

/// What there is where a chain is configured.
pub struct Access {
    /// Asks nodes.
    pub client: Arc<Client>,
    /// Sends messages.
    pub messager: Messager,
    /// Who sends what.
    control: ControlBook,
    /// When a height was last seen: a network of one's own may be faster than its blocks say.
    seen: Mutex<Option<(Instant, ChainEpoch)>>,
}

impl Access {
    fn new(client: Arc<Client>, messager: Messager, control: ControlBook) -> Self {
        Self {
            client,
            messager,
            control,
            seen: Mutex::new(None),
        }
    }

    /// How long epochs took since the last look, if there were any.
    fn pace(&self, height: ChainEpoch) -> Option<Duration> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *seen;
        if before.is_some_and(|(_, last)| last == height) {
            return None;
        }
        *seen = Some((now, height));
        let (at, last) = before?;
        let epochs = u32::try_from(height - last).ok()?;
        now.duration_since(at).checked_div(epochs)
    }
}

impl Chain {
    /// A chain.
    pub fn new(client: Arc<Client>, messager: Messager, control: ControlBook) -> Self {
        Self(Some(Arc::new(Access::new(client, messager, control))))
    }

    fn access(&self) -> Result<&Access, Failure> {
        self.0.as_deref().ok_or_else(|| {
            let text = "no chain is configured: name a node under [chain] in config.toml, or use a workflow without a chain";
            Failure::permanent("no_chain", text)
        })
    }
}

/// A failure of the chain as one of the engine.
fn failed(failure: chain_failure::Failure) -> Failure {
    let class = match failure.class {
        chain_failure::FailureClass::Transient => FailureClass::Transient,
        chain_failure::FailureClass::Permanent => FailureClass::Permanent,
        chain_failure::FailureClass::Rewind => FailureClass::Rewind,
        chain_failure::FailureClass::Critical => FailureClass::Critical,
    };
    // One word for one thing: what `verify_seal` says of a proof.
    let code = match failure.code {
        "invalid_proof" => "proof_invalid",
        code => code,
    };
    Failure::new(class, code, failure.message)
}

fn node(error: NodeError) -> Failure {
    failed(error.failure())
}

/// The address of a miner.
fn address(miner: ActorId) -> Address {
    Address::new_id(miner.0)
}

/// The proof type as the chain names it: V1_1 of the five sizes are 5 to 9, with synthetic proofs 10 to 14. No other can be
/// sealed.
fn seal_proof(proof: SealProof) -> RegisteredSealProof {
    let mut numbers = (5..=14).map(RegisteredSealProof::from);
    let found = numbers.find(|one| seal_type(*one) == Some(proof.0));
    found.unwrap_or_else(|| RegisteredSealProof::from(-1))
}

/// The longest and the shortest time between two looks at the chain.
const LOOK: (Duration, Duration) = (Duration::from_secs(600), Duration::from_millis(250));

/// Comes back when the chain should have reached an epoch, by the head's own clock; soon if that has passed.
async fn until<T>(access: &Access, head: &TipSet, epoch: ChainEpoch) -> Result<Outcome<T>, Failure> {
    let params = access.client.network_params().await.map_err(node)?;
    let told = Duration::from_secs(params.block_delay_secs.max(1));
    let pace = access.pace(head.height).map_or(told, |pace| pace.min(told));
    let epochs = u32::try_from(epoch - head.height).unwrap_or(0).max(1);
    Ok(after(pace.saturating_mul(epochs).clamp(LOOK.1, LOOK.0)))
}

/// Comes back when a node may answer again.
fn in_a_while<T>() -> Outcome<T> {
    after(Duration::from_secs(10))
}

fn after<T>(wait: Duration) -> Outcome<T> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from((now + wait).as_millis()).unwrap_or(u64::MAX);
    Outcome::Park(Wake::At(at))
}

/// How long after the last epoch at which it may land a message may still come to its end.
const AFTERWARDS: Duration = Duration::from_secs(3 * 24 * 3600);

/// When a message that may land until an epoch must have come to its end, in milliseconds since 1970: some days later, because
/// it may not be final yet, and nodes may be away. By this machine's clock: a network of one's own may stand still.
fn expires_at(head: &TipSet, last: ChainEpoch, block_secs: u64) -> u64 {
    let left = u64::try_from(last - head.height).unwrap_or(0);
    let left = Duration::from_secs(left.saturating_mul(block_secs)) + AFTERWARDS;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from((now + left).as_millis()).unwrap_or(u64::MAX)
}

/// Whether no block after this head may prove a sector that was pre-committed at an epoch.
fn too_late(head: &TipSet, precommit_epoch: ChainEpoch, challenge_delay: ChainEpoch) -> bool {
    head.height >= prove_commit_by(precommit_epoch, challenge_delay)
}

/// A pre-commit is gone: its number was given for ever where it expired, and is free where the chain forgot it. Nodes put the
/// messages of reverted tipsets back into their pools, so it may come again.
fn precommit_gone(burned: bool, sector: u64) -> Failure {
    if burned {
        let text = format!("the pre-commit of sector {sector} expired, and its number cannot be used again");
        return Failure::permanent("number_burned", text);
    }
    Failure::transient(
        "precommit_gone",
        format!("the chain has no pre-commit of sector {sector}"),
    )
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod numbers {
    use super::*;

    #[test]
    fn proof_types_have_the_chains_numbers() {
        for (text, number) in [
            ("StackedDrg2KiBV1_1", 5_i64),
            ("StackedDrg32GiBV1_1", 8),
            ("StackedDrg64GiBV1_1_Feat_SyntheticPoRep", 14),
        ] {
            let proof: SealProof = text.parse().unwrap();
            assert_eq!(i64::from(seal_proof(proof)), number, "{text}");
        }
    }
}
