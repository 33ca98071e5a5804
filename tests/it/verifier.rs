//! The devnet's verifier on real proofs: it takes what was proved, and nothing else.
//!
//! The proofs library finds its keys by the environment of its process, so proofs are judged by a process of their own: this
//! same program, asked for the one test below.

use std::process::Command;

use sealflow_chain::devnet::{PostClaim, UpdateClaim, Verifier};
use sealflow_chain::types::{RegisteredPoStProof, RegisteredUpdateProof};
use sealflow_stages::ProofsVerifier;
use serde_json::{Value, json};

use crate::env::{Home, step};

const CLAIM: &str = "SEALFLOW_TEST_CLAIM";

/// What a run that proved 2 KiB sectors of miner 1000 claims: the type of its proof by number, and where its randomness and
/// its proof are.
pub(crate) fn claimed(shown: &Value, number: i64, challenge: &str, prove: &str) -> Value {
    let post = &step(shown, prove)["output"]["post"];
    json!({
        "type": number, "randomness": step(shown, challenge)["output"]["randomness"], "sectors": post["proved"],
        "proof": post["proof"],
    })
}

/// Has a proof judged: as it was made it must hold, and with anything else in it or in its claim it must not.
pub(crate) fn judges(home: &Home, claim: &Value) {
    let file = home.path().join("claim.json");
    std::fs::write(&file, claim.to_string()).unwrap();
    let sets = home.json(&["params", "list", "--json"]);
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "verifier::what_was_proved_holds",
        ])
        .env(CLAIM, file)
        .env("FIL_PROOFS_PARAMETER_CACHE", sets[0]["path"].as_str().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{claim}\n{output:?}"
    );
}

#[test]
#[ignore = "the tests that prove start it"]
fn what_was_proved_holds() {
    let file = std::env::var(CLAIM).expect("it names the claim's file");
    let claim: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let proof = bytes(&claim["proof"]);
    if claim["sectors"].is_array() {
        spacetime(&claim, &proof);
    } else {
        update(&claim, &proof);
    }
}

fn spacetime(claim: &Value, proof: &[u8]) {
    let verifier = ProofsVerifier::default();
    let kind = claim["type"].as_i64().unwrap();
    let sectors = claim["sectors"].as_array().unwrap().iter();
    let right = PostClaim {
        proof_type: RegisteredPoStProof::from(kind),
        miner: 1000,
        randomness: digest(&claim["randomness"]),
        sectors: sectors
            .map(|one| (one["sector"].as_u64().unwrap(), digest(&one["comm_r"])))
            .collect(),
    };
    // Winning proofs are 0 to 4.
    let holds = |claim: &PostClaim, proof: &[u8]| match kind < 5 {
        true => verifier.winning_post(claim, proof),
        false => verifier.window_post(claim, proof),
    };
    assert!(holds(&right, proof));
    assert!(!holds(&right, &damaged(proof)));
    // That it is this miner's only its randomness says, which is drawn for it; the circuit does not know miners.
    let (mut randomness, mut number, mut replica) = (right.clone(), right.clone(), right.clone());
    randomness.randomness[0] ^= 1;
    number.sectors[0].0 += 1;
    replica.sectors[0].1[0] ^= 1;
    for wrong in [randomness, number, replica] {
        assert!(!holds(&wrong, proof), "{wrong:?}");
    }
}

fn update(claim: &Value, proof: &[u8]) {
    let verifier = ProofsVerifier::default();
    let right = UpdateClaim {
        proof_type: RegisteredUpdateProof::from(claim["type"].as_i64().unwrap()),
        old_comm_r: digest(&claim["old_comm_r"]),
        new_comm_r: digest(&claim["new_comm_r"]),
        comm_d: digest(&claim["comm_d"]),
    };
    assert!(verifier.update(&right, proof));
    assert!(!verifier.update(&right, &damaged(proof)));
    let (mut old, mut new, mut data) = (right.clone(), right.clone(), right.clone());
    old.old_comm_r[0] ^= 1;
    new.new_comm_r[0] ^= 1;
    data.comm_d[0] ^= 1;
    for wrong in [old, new, data] {
        assert!(!verifier.update(&wrong, proof), "{wrong:?}");
    }
}

fn bytes(text: &Value) -> Vec<u8> {
    hex::decode(text.as_str().unwrap()).unwrap()
}

fn digest(text: &Value) -> [u8; 32] {
    bytes(text).try_into().unwrap()
}

fn damaged(proof: &[u8]) -> Vec<u8> {
    let mut proof = proof.to_vec();
    proof[100] ^= 1;
    proof
}
