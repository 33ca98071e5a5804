//! What people write: policies, addresses of nodes, addresses, amounts and keys. An amount that is read is printed as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealflow_chain::node::Endpoint;
use sealflow_chain::wallet::{LotusKey, Policy};
use sealflow_chain::{address, amount};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    drop(Policy::parse(text));
    drop(Endpoint::parse(text));
    drop(LotusKey::parse(text));
    if let Ok(read) = address::parse(text) {
        assert_eq!(address::parse(&read.to_string()).expect("what was printed can be read"), read);
    }
    if let Ok(read) = amount::parse(text) {
        let atto = format!("{} attoFIL", read.atto());
        assert_eq!(amount::parse(&atto).expect("what was printed can be read"), read);
    }
});
