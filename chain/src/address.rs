//! Addresses as people and nodes write them, and the actors that have a fixed one.
//!
//! Text is read with `f` and with `t` in front, on every network, because nodes of test networks print
//! `t`. One form is printed: `f`.

use fvm_shared::address::Network;

use crate::types::{ActorID, Address};

/// The actor that makes miners and keeps their power.
pub const POWER_ACTOR: Address = Address::new_id(4);
/// The built-in market.
pub const MARKET_ACTOR: Address = Address::new_id(5);

/// The longest text that can be an address; the longest real one is some 115 characters.
const TEXT_LIMIT: usize = 160;

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a Filecoin address: {reason}")]
pub struct AddressError {
    text: String,
    reason: String,
}

/// Reads an address with the prefix of any network.
///
/// # Errors
/// The text is no address: wrong prefix, protocol, alphabet, length or checksum.
pub fn parse(text: &str) -> Result<Address, AddressError> {
    let error = |reason: String| AddressError {
        text: text.chars().take(TEXT_LIMIT).collect(),
        reason,
    };
    if text.len() > TEXT_LIMIT {
        return Err(error(format!("it is longer than {TEXT_LIMIT} characters")));
    }
    let network = match text.as_bytes().first() {
        Some(b'f') => Network::Mainnet,
        Some(b't') => Network::Testnet,
        Some(b'0') if text.starts_with("0x") => {
            return Err(error(
                "Ethereum addresses are not taken; write the f4 form".into(),
            ));
        }
        _ => return Err(error("it begins neither with f nor with t".into())),
    };
    network
        .parse_address(text)
        .map_err(|problem| error(problem.to_string()))
}

/// Reads the address of a miner, which must be an ID address such as `f01000`.
///
/// # Errors
/// The text is no address, or one of another protocol.
pub fn parse_miner(text: &str) -> Result<ActorID, AddressError> {
    let address = parse(text)?;
    address.id().map_err(|_| AddressError {
        text: text.into(),
        reason: "a miner is named by its ID address, for example f01000".into(),
    })
}

/// The 32 bytes by which proofs know a miner: the ID as unsigned LEB128, then zeros (chain.md §2.8).
pub fn prover_id(miner: ActorID) -> [u8; 32] {
    let mut prover = [0; 32];
    // A 64-bit number is at most ten bytes of LEB128.
    for (place, byte) in prover.iter_mut().zip(Address::new_id(miner).payload_bytes()) {
        *place = byte;
    }
    prover
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_prefixes_are_read_and_one_is_printed() {
        for text in ["f01000", "t01000"] {
            assert_eq!(parse(text).unwrap(), Address::new_id(1000), "{text}");
        }
        assert_eq!(parse("t01000").unwrap().to_string(), "f01000");
        let key = "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y";
        assert_eq!(
            parse(&key.replacen('f', "t", 1)).unwrap().to_string(),
            key,
            "the checksum does not cover the prefix"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "begins neither"),
            ("x01000", "begins neither"),
            ("0x52963EF50e27e06D72D59fcB4F3c2a687BE3cfEf", "f4 form"),
            ("f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jl4y", "hecksum"),
            ("f9abc", ""),
            ("f0abc", ""),
            ("f", ""),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("f0{}", "1".repeat(1000));
        let error = parse(&long).unwrap_err().to_string();
        assert!(error.contains("longer than 160"), "{error}");
        assert!(error.len() < 300, "the error does not repeat a hostile text");
    }

    #[test]
    fn a_miner_is_an_id() {
        assert_eq!(parse_miner("t01000").unwrap(), 1000);
        let error = parse_miner("f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y")
            .unwrap_err()
            .to_string();
        assert!(error.contains("ID address"), "{error}");
    }

    #[test]
    fn proofs_know_a_miner_by_leb128() {
        let mut expected = [0; 32];
        expected[..2].copy_from_slice(&[0xe8, 0x07]);
        assert_eq!(prover_id(1000), expected);
        assert_eq!(
            prover_id(u64::MAX)[..10],
            [255, 255, 255, 255, 255, 255, 255, 255, 255, 1]
        );
    }
}
