//! Messages: their CBOR, CIDs and signatures (chain.md §2.11), and the JSON of nodes.

mod gas;
mod json;
mod signature;

use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple};
use fvm_ipld_encoding::{from_slice, to_vec};

use crate::params::{BuildError, Call};
use crate::policy::{BLOCK_GAS, MESSAGE_BYTES};
use crate::types::{Address, Cid, Message, RawBytes, Signature, SignatureType, TokenAmount, Zero};

pub use gas::{Gas, GasError};
pub use json::{MessageJson, SignatureJson, SignedMessageJson};
pub use signature::{SignatureError, verify};

const DAG_CBOR: u64 = 0x71;
const BLAKE2B_256: u64 = 0xb220;

/// Why a message is not well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The CBOR is no message.
    #[error("the bytes are no message: {0}")]
    Undecodable(String),
    /// Other bytes mean the same, or there are bytes left over.
    #[error("the message is not in the canonical form")]
    NotCanonical,
    /// It cannot be encoded.
    #[error("the message cannot be encoded: {0}")]
    Unencodable(String),
    /// A field has a value that no node takes.
    #[error("{0}")]
    Field(String),
}

/// A message and what its sender signed it with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct SignedMessage {
    /// The message.
    pub message: Message,
    /// The signature over the message's CID.
    pub signature: Signature,
}

/// A message from `from` to `to` with no nonce and no gas yet.
///
/// # Errors
/// The parameters cannot be encoded.
pub fn unsent(from: Address, to: Address, value: TokenAmount, call: &Call) -> Result<Message, BuildError> {
    Ok(Message {
        version: 0,
        from,
        to,
        sequence: 0,
        value,
        method_num: call.number(),
        params: call.params()?,
        gas_limit: 0,
        gas_fee_cap: TokenAmount::zero(),
        gas_premium: TokenAmount::zero(),
    })
}

/// The message's CBOR, which its CID is made of.
///
/// # Errors
/// The encoder refuses.
pub fn encode(message: &Message) -> Result<Vec<u8>, MessageError> {
    to_vec(message).map_err(|e| MessageError::Unencodable(e.to_string()))
}

/// Reads a message's CBOR, strictly: the bytes must be exactly what [`encode`] makes.
///
/// # Errors
/// The bytes are no message, too many, or not canonical.
pub fn decode(bytes: &[u8]) -> Result<Message, MessageError> {
    if bytes.len() > MESSAGE_BYTES {
        return Err(MessageError::Undecodable(format!("{} bytes", bytes.len())));
    }
    let message: Message = from_slice(bytes).map_err(|e| MessageError::Undecodable(e.to_string()))?;
    if encode(&message)? != bytes {
        return Err(MessageError::NotCanonical);
    }
    Ok(message)
}

/// What a message returned on the chain.
///
/// # Errors
/// The bytes are no such value.
pub fn returned<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    from_slice(bytes).map_err(|e| MessageError::Undecodable(e.to_string()))
}

/// The message's own CID.
///
/// # Errors
/// The encoder refuses.
pub fn cid(message: &Message) -> Result<Cid, MessageError> {
    Ok(cid_of(&encode(message)?))
}

/// The bytes that a sender signs: the 38 bytes of the message's CID.
///
/// # Errors
/// The encoder refuses.
pub fn signing_bytes(message: &Message) -> Result<Vec<u8>, MessageError> {
    Ok(cid(message)?.to_bytes())
}

/// The CID of dag-cbor bytes by blake2b-256.
pub(crate) fn cid_of(bytes: &[u8]) -> Cid {
    let hash = blake2b_256(bytes);
    let multihash = cid::multihash::Multihash::wrap(BLAKE2B_256, &hash).expect("32 bytes fit a multihash");
    Cid::new_v1(DAG_CBOR, multihash)
}

/// The hash that addresses, signatures and CIDs use.
pub(crate) fn blake2b_256(bytes: &[u8]) -> [u8; 32] {
    let hash = blake2b_simd::Params::new().hash_length(32).hash(bytes);
    let mut out = [0; 32];
    out.copy_from_slice(hash.as_bytes());
    out
}

/// Checks what every node checks before it takes a message.
///
/// # Errors
/// The field and what it should be.
pub fn check(message: &Message) -> Result<(), MessageError> {
    let field = |text: String| Err(MessageError::Field(text));
    if message.version != 0 {
        return field(format!("message version {} is not 0", message.version));
    }
    if message.value.is_negative() {
        return field(format!("the value {} is negative", message.value));
    }
    if message.gas_limit == 0 || message.gas_limit > BLOCK_GAS {
        return field(format!("gas limit {} is not 1 to {BLOCK_GAS}", message.gas_limit));
    }
    if message.gas_premium.is_negative() || message.gas_premium > message.gas_fee_cap {
        return field(format!(
            "gas premium {} attoFIL is not 0 to the fee cap {} attoFIL",
            message.gas_premium.atto(),
            message.gas_fee_cap.atto()
        ));
    }
    let size = encode(message)?.len();
    if size > MESSAGE_BYTES {
        return field(format!(
            "the message has {size} bytes; a node takes at most {MESSAGE_BYTES}"
        ));
    }
    Ok(())
}

impl SignedMessage {
    /// The CBOR of message and signature.
    ///
    /// # Errors
    /// The encoder refuses.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        to_vec(self).map_err(|e| MessageError::Unencodable(e.to_string()))
    }

    /// Reads message and signature, strictly.
    ///
    /// # Errors
    /// The bytes are no signed message, too many, or not canonical.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_BYTES {
            return Err(MessageError::Undecodable(format!("{} bytes", bytes.len())));
        }
        let signed: Self = from_slice(bytes).map_err(|e| MessageError::Undecodable(e.to_string()))?;
        if signed.encode()? != bytes {
            return Err(MessageError::NotCanonical);
        }
        Ok(signed)
    }

    /// The CID under which nodes know it: of the message alone for BLS, whose signatures are put together in
    /// a block, and of message and signature for secp256k1.
    ///
    /// # Errors
    /// The encoder refuses.
    pub fn cid(&self) -> Result<Cid, MessageError> {
        match self.signature.signature_type() {
            SignatureType::BLS => cid(&self.message),
            SignatureType::Secp256k1 => Ok(cid_of(&self.encode()?)),
        }
    }
}

/// The bytes of empty parameters: none.
pub(crate) fn no_params() -> RawBytes {
    RawBytes::default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::address::parse;

    const BLS: &str =
        "f3wtvfjmsmhwxeyxihfz2steew7hb5jruqeejl3nc66gbidp6ecq5sibtc2rkdcyesvtv27xd7wqt4w6vl3wiq";
    const SECP: &str = "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y";

    /// The message of the golden vectors (chain.md §2.11).
    pub(crate) fn vector(from: &str) -> Message {
        Message {
            version: 0,
            from: parse(from).unwrap(),
            to: Address::new_id(1000),
            sequence: 5,
            value: TokenAmount::zero(),
            method_num: 28,
            params: RawBytes::new(vec![0x81, 0x80]),
            gas_limit: 1_000_000,
            gas_fee_cap: TokenAmount::from_atto(1000),
            gas_premium: TokenAmount::from_atto(100),
        }
    }

    #[test]
    fn cbor_and_cid_of_the_vectors() {
        let message = vector(BLS);
        let cbor = encode(&message).unwrap();
        assert_eq!(
            hex::encode(&cbor),
            "8a004300e807583103b4ea54b24c3dae4c5d072e75299096f9c3d4c6902112bdb45ef18281bfc4143b240662d454316092acebafdc7fb427cb05401a000f4240430003e8420064181c428180"
        );
        assert_eq!(decode(&cbor).unwrap(), message);
        assert_eq!(
            hex::encode(signing_bytes(&message).unwrap()),
            "0171a0e402209103aad8bbd8bf386e66d6b28bf3e2668b9dbea404fcffd1d901c4f50354cc2f"
        );
        assert_eq!(
            cid(&message).unwrap().to_string(),
            "bafy2bzaceciqhkwyxpml6odom3llfc7t4jtixhn6uqcpz76r3ea4j5idktgc6"
        );
        assert_eq!(
            cid(&vector(SECP)).unwrap().to_string(),
            "bafy2bzacecvmlpubz37zd3gs5vudi7tabycleyheaupwww6makw75hgur6wfq"
        );
    }

    #[test]
    fn signatures_of_the_vectors_verify() {
        let bls = SignedMessage {
            message: vector(BLS),
            signature: Signature::new_bls(hex::decode("a1ba68414a1f745068a94fed769c9010749eceb2564aca1d34d661426b70216b735addde67e3bc348ad6fdb13ba6fc2a05b18df682d386c197d377194bb473712dbf1fa49adf88df5642723977932c33e43f883e53b6ee9e91d1a7214115c84c").unwrap()),
        };
        let secp = SignedMessage {
            message: vector(SECP),
            signature: Signature::new_secp256k1(hex::decode("87db41ed4f4d6711480632ec0f301cf237b7377db5e0a10b103cd901105a282e4773c6d499c5d5d8b630756ac9b905d5f0658566c17854564aa2b7dc3a9f41cd00").unwrap()),
        };
        assert_eq!(bls.cid().unwrap(), cid(&bls.message).unwrap());
        assert_eq!(
            secp.cid().unwrap().to_string(),
            "bafy2bzacebmwhdxx622437nc2e3t6qfwc6aj2xacf3frnw7v7pxwxtkkewfum"
        );
        for signed in [bls, secp] {
            verify(&signed).unwrap();
            assert_eq!(SignedMessage::decode(&signed.encode().unwrap()).unwrap(), signed);
            let mut other = signed.clone();
            other.message.sequence = 6;
            assert!(verify(&other).is_err());
            let mut cut = signed.clone();
            cut.signature.bytes.pop();
            assert!(verify(&cut).is_err());
            let mut flipped = signed.clone();
            flipped.signature.bytes[40] ^= 1;
            assert!(verify(&flipped).is_err());
            let mut stranger = signed;
            stranger.message.from = Address::new_id(1000);
            assert!(verify(&stranger).is_err(), "an ID address has no key");
        }
    }

    #[test]
    fn fields_that_no_node_takes() {
        let good = vector(SECP);
        assert_eq!(check(&good), Ok(()));
        let atto = TokenAmount::from_atto;
        type Change = fn(&mut Message);
        let bad: [(&str, Change); 6] = [
            ("version", |m| m.version = 1),
            ("negative", |m| m.value = TokenAmount::from_atto(-1)),
            ("gas limit 0", |m| m.gas_limit = 0),
            ("gas limit", |m| m.gas_limit = BLOCK_GAS + 1),
            ("gas premium", |m| m.gas_premium = TokenAmount::from_atto(1001)),
            ("bytes", |m| m.params = RawBytes::new(vec![0; MESSAGE_BYTES])),
        ];
        assert_eq!(good.gas_fee_cap, atto(1000));
        for (reason, change) in bad {
            let mut message = good.clone();
            change(&mut message);
            let error = check(&message).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn bytes_that_are_no_message() {
        let good = encode(&vector(SECP)).unwrap();
        let mut longer = good.clone();
        longer.push(0);
        for bad in [
            &good[1..],
            &good[..good.len() - 1],
            &longer[..],
            &[],
            &[0; 70_000],
        ] {
            assert!(decode(bad).is_err());
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_messages_never_panic(at in 0usize..76, bits in 1u8..) {
            let mut bytes = encode(&vector(SECP)).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= bits;
            if let Ok(message) = decode(&bytes) {
                assert_eq!(encode(&message).unwrap(), bytes);
                assert!(cid(&message).is_ok());
                // Whether it is well formed is another question, which must have an answer.
                assert!(check(&message).is_ok() || check(&message).is_err());
            }
        }
    }
}
