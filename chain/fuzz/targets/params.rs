//! Parameters of messages (CBOR): what a wallet would sign it has understood to the last byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealflow_chain::address::{MARKET_ACTOR, POWER_ACTOR};
use sealflow_chain::outcome;
use sealflow_chain::params::Call;
use sealflow_chain::types::Address;

// The first byte chooses the method.
fuzz_target!(|input: &[u8]| {
    let Some((method, bytes)) = input.split_first() else {
        return;
    };
    let method = u64::from(*method);
    for to in [Address::new_id(1000), POWER_ACTOR, MARKET_ACTOR] {
        if let Ok(call) = Call::decode(&to, method, bytes) {
            assert_eq!(call.number(), method);
            assert_eq!(call.params().expect("what was read can be written").bytes(), bytes);
        }
    }
    drop(outcome::batch_return(bytes, usize::from(bytes.len() as u8)));
});
