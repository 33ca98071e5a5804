//! Stages that ask the chain and send messages to it. They wait by coming back later: no thread is held.

pub mod chain_seed;
pub mod chain_ticket;
mod send;
pub mod submit_commit;
pub mod submit_precommit;
mod together;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use filecoin_proofs_api::RegisteredSealProof as LibraryProof;
use sealflow_chain::control::ControlBook;
use sealflow_chain::failure as chain_failure;
use sealflow_chain::messager::Messager;
use sealflow_chain::node::{Client, NodeError, TipSet};
use sealflow_chain::types::{Address, ChainEpoch, RegisteredSealProof};
use sealflow_engine::failure::{Failure, FailureClass};
use sealflow_engine::stage::{Outcome, Wake};

use crate::types::{ActorId, SealProof};

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

/// The proof type as the chain names it: V1_1 of the five sizes are 5 to 9, with synthetic proofs 10 to 14.
fn seal_proof(proof: SealProof) -> RegisteredSealProof {
    let number = match proof.0 {
        LibraryProof::StackedDrg2KiBV1_1 => 5,
        LibraryProof::StackedDrg8MiBV1_1 => 6,
        LibraryProof::StackedDrg512MiBV1_1 => 7,
        LibraryProof::StackedDrg32GiBV1_1 => 8,
        LibraryProof::StackedDrg64GiBV1_1 => 9,
        LibraryProof::StackedDrg2KiBV1_1_Feat_SyntheticPoRep => 10,
        LibraryProof::StackedDrg8MiBV1_1_Feat_SyntheticPoRep => 11,
        LibraryProof::StackedDrg512MiBV1_1_Feat_SyntheticPoRep => 12,
        LibraryProof::StackedDrg32GiBV1_1_Feat_SyntheticPoRep => 13,
        LibraryProof::StackedDrg64GiBV1_1_Feat_SyntheticPoRep => 14,
        // No other can be sealed (`SealProof`).
        _ => -1,
    };
    RegisteredSealProof::from(number)
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

/// A pre-commit is gone: its number was given for ever where it expired, and is free where the chain forgot it.
fn precommit_gone(burned: bool, sector: u64) -> Failure {
    if burned {
        let text = format!("the pre-commit of sector {sector} expired, and its number cannot be used again");
        return Failure::permanent("number_burned", text);
    }
    Failure::rewind(
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
