//! A local source of randomness for rehearsals without a chain. It is deterministic, so nobody can take
//! its tickets and seeds for a chain's: a sector sealed with them cannot be committed to a network.

use sealflow_engine::id::AttemptKey;
use sha2::{Digest, Sha256};

use crate::types::{ActorId, SectorNumber};

/// What outputs say about where randomness came from.
pub(crate) const LOCAL: &str = "local beacon";

/// 32 bytes for a purpose, a sector and a passage through the step: another visit draws other bytes.
pub(crate) fn draw(purpose: &str, miner: ActorId, sector: SectorNumber, key: &AttemptKey) -> [u8; 32] {
    hash(&[
        purpose.as_bytes(),
        &miner.0.to_be_bytes(),
        &sector.0.to_be_bytes(),
        &key.visit.to_be_bytes(),
    ])
}

/// 32 bytes for a purpose, something of a miner, a run and a passage through the step: what comes round
/// again and again is asked for something else every time.
pub(crate) fn draw_for_run(purpose: &str, miner: ActorId, number: u64, key: &AttemptKey) -> [u8; 32] {
    hash(&[
        purpose.as_bytes(),
        &miner.0.to_be_bytes(),
        &number.to_be_bytes(),
        &key.visit.to_be_bytes(),
        key.run.as_str().as_bytes(),
    ])
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(b"sealflow local beacon\0");
    for part in parts {
        hash.update(part);
    }
    let mut bytes: [u8; 32] = hash.finalize().into();
    // The library takes randomness for a field element in some places.
    bytes[31] &= 0x3f;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealflow_engine::id::{RunId, StepName};

    #[test]
    fn what_comes_round_again_is_asked_for_something_else() {
        let key = |run: u8, visit: u32| AttemptKey {
            run: RunId::new(u64::from(run), &[run; 10]),
            step: StepName::new("post_challenge").unwrap(),
            visit,
            attempt: 1,
        };
        let draw =
            |run, visit, deadline| draw_for_run("window post", ActorId(1000), deadline, &key(run, visit));
        assert_eq!(draw(1, 1, 3), draw(1, 1, 3), "a restart asks for the same");
        for other in [draw(2, 1, 3), draw(1, 2, 3), draw(1, 1, 4)] {
            assert_ne!(draw(1, 1, 3), other);
        }
        assert!((0..20).all(|run| draw(run, 1, 0)[31] < 0x40));
    }
}
