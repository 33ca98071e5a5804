//! Randomness of the chain: how it is drawn, and what provers do to it (chain.md §2.2). A node draws it for us
//! ([`crate::node::Client::randomness`]); whoever has only the base draws it here.

use crate::message::blake2b_256;
use crate::types::{ActorID, Address, ChainEpoch};

/// What randomness is drawn for. The number goes into the draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum Tag {
    /// Ticket of a block, from the beacon.
    TicketProduction = 1,
    /// Election of a block's maker, from the beacon.
    ElectionProof = 2,
    /// Winning proof challenge, from the beacon.
    WinningPost = 3,
    /// Window proof challenge, from the beacon.
    WindowPost = 4,
    /// Ticket of a seal, from tickets.
    SealTicket = 5,
    /// Seed of a seal, from the beacon.
    SealSeed = 6,
    /// What a window proof commits to, from tickets.
    PostChainCommit = 9,
}

/// Draws 32 bytes from a base: the VRF proof of a tipset's smallest ticket, or a beacon entry's data.
pub fn draw(base: &[u8], tag: Tag, epoch: ChainEpoch, entropy: &[u8]) -> [u8; 32] {
    let mut input = Vec::with_capacity(48 + entropy.len());
    input.extend_from_slice(&(tag as i64).to_be_bytes());
    input.extend_from_slice(&blake2b_256(base));
    input.extend_from_slice(&epoch.to_be_bytes());
    input.extend_from_slice(entropy);
    blake2b_256(&input)
}

/// What a miner adds to a draw: its ID address as a CBOR byte string.
pub fn miner_entropy(miner: ActorID) -> Vec<u8> {
    let address = Address::new_id(miner).to_bytes();
    // An ID address has at most 11 bytes, so the length fits into the first byte.
    let mut entropy = vec![0x40 | address.len() as u8];
    entropy.extend_from_slice(&address);
    entropy
}

/// Randomness as the proofs of spacetime take it: an element of the field, so the two highest bits are cleared.
/// Tickets and seeds of seals are used as they are.
#[must_use]
pub fn for_post(mut randomness: [u8; 32]) -> [u8; 32] {
    randomness[31] &= 0x3f;
    randomness
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector() {
        let base: Vec<u8> = (0..32).collect();
        assert_eq!(miner_entropy(1000), [0x43, 0x00, 0xe8, 0x07]);
        assert_eq!(
            hex::encode(draw(&base, Tag::SealTicket, 1000, &miner_entropy(1000))),
            "65ffc2b4608d5870b57e94ecc47e657709d3daf93ea6eeee5ea971e2813b88b4"
        );
        for (tag, epoch, miner) in [
            (Tag::SealSeed, 1000, 1000),
            (Tag::SealTicket, 1001, 1000),
            (Tag::SealTicket, 1000, 1001),
        ] {
            let other = draw(&base, tag, epoch, &miner_entropy(miner));
            assert_ne!(hex::encode(other)[..8], *"65ffc2b4");
        }
    }

    #[test]
    fn entropy_is_the_addresses_cbor() {
        for miner in [0, 127, 128, 1000, u64::MAX] {
            let cbor = fvm_ipld_encoding::to_vec(&Address::new_id(miner)).unwrap();
            assert_eq!(miner_entropy(miner), cbor);
        }
    }

    #[test]
    fn posts_take_field_elements() {
        let masked = for_post([0xff; 32]);
        assert_eq!((masked[30], masked[31]), (0xff, 0x3f));
    }
}
