//! Messages and signed messages (CBOR): what is read is written as it was.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealflow_chain::message::{self, SignedMessage};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(read) = message::decode(bytes) {
        let again = message::encode(&read).expect("what was read can be written");
        assert_eq!(message::decode(&again).expect("what was written can be read"), read);
    }
    if let Ok(read) = SignedMessage::decode(bytes) {
        let again = read.encode().expect("what was read can be written");
        assert_eq!(SignedMessage::decode(&again).expect("what was written can be read"), read);
        drop(message::verify(&read));
    }
});
