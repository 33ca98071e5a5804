//! What became of a message: exit codes and batch returns as failures with a class and a code.
//!
//! A receipt has only a number. A dry run (`StateCall`, gas estimation) has a text too, from which more can
//! be told. State is the truth in any case: a stage reads it before it believes a receipt.

use fvm_ipld_encoding::from_slice;

use crate::failure::{Failure, FailureClass, bounded};
use crate::types::{BatchReturn, ExitCode};

use FailureClass::{Permanent, Rewind, Transient};

/// A rule for what an actor says: exit code (or any), fragment of its text, class, code, what to do.
type TextRule = (
    Option<u32>,
    &'static str,
    FailureClass,
    &'static str,
    &'static str,
);

/// Texts of the miner actor that mean more than their exit code (chain.md §6.3). The first that fits counts.
const TEXTS: [TextRule; 15] = [
    (
        Some(16),
        "too old",
        Rewind,
        "ticket_expired",
        "the ticket is too old; seal again with a new one",
    ),
    (
        Some(16),
        "already allocated",
        Permanent,
        "sector_number_taken",
        "the sector number was used before; take another",
    ),
    (
        Some(16),
        "invalid proof for sector",
        Rewind,
        "invalid_proof",
        "the proof does not verify; make it again",
    ),
    (
        Some(16),
        "aggregate seal verify failed",
        Rewind,
        "invalid_proof",
        "the aggregate does not verify; make the proofs again",
    ),
    (
        Some(16),
        "unsealed CID does not match pieces",
        Permanent,
        "comm_d_mismatch",
        "the pieces are not those that were pre-committed",
    ),
    (
        Some(18),
        "too early to prove",
        Transient,
        "too_early",
        "the seed is not final; wait",
    ),
    (
        Some(18),
        "consensus fault",
        Transient,
        "consensus_fault",
        "the miner is excluded for 900 epochs after a consensus fault",
    ),
    (
        Some(18),
        "not be the current or next deadline",
        Transient,
        "deadline_immutable",
        "the deadline is open or opens next; choose another or wait",
    ),
    (
        Some(16),
        "immutable deadline",
        Transient,
        "deadline_immutable",
        "the deadline is open or opens next; wait until it has passed",
    ),
    (
        Some(16),
        "late fault or recovery declaration",
        Transient,
        "declared_late",
        "the deadline's cutoff has passed; declare for the next period",
    ),
    (
        Some(16),
        "partition already proven",
        Permanent,
        "already_proven",
        "the partition is proven; nothing is to be done",
    ),
    (
        Some(16),
        "post commit randomness mismatch",
        Rewind,
        "reverted",
        "the chain changed under the proof; make it again",
    ),
    (
        Some(16),
        "invalid post was submitted",
        Rewind,
        "invalid_proof",
        "the window proof does not verify; make it again",
    ),
    (
        Some(19),
        "fee debt",
        Transient,
        "fee_debt",
        "the miner has fee debt; send FIL to the miner",
    ),
    (
        None,
        "not enough funds",
        Transient,
        "insufficient_funds",
        "the sender's balance is too small; send FIL to it",
    ),
];

/// What an exit code means by itself: code, class, slug, what happened.
const CODES: [(u32, FailureClass, &str, &str); 23] = [
    (
        1,
        Permanent,
        "sender_invalid",
        "the sender is no account on the chain; send FIL to it first",
    ),
    (
        2,
        Transient,
        "sender_state_invalid",
        "the sender's nonce or balance did not fit",
    ),
    (4, Permanent, "actor_crashed", "the actor crashed"),
    (5, Permanent, "receiver_invalid", "the destination does not exist"),
    (
        6,
        Transient,
        "insufficient_funds",
        "the sender's balance is too small; send FIL to it",
    ),
    (
        7,
        Transient,
        "out_of_gas",
        "the gas limit was too low; estimate again",
    ),
    (
        9,
        Permanent,
        "actor_crashed",
        "the actor ended with a code that it may not use",
    ),
    (
        10,
        Permanent,
        "actor_crashed",
        "an assertion of the network's machine failed",
    ),
    (11, Permanent, "actor_crashed", "the actor returned nothing"),
    (
        16,
        Permanent,
        "illegal_argument",
        "the actor refuses the parameters",
    ),
    (
        17,
        Permanent,
        "not_found",
        "the chain does not know what the message names",
    ),
    (
        18,
        Permanent,
        "forbidden",
        "the actor does not allow it now or to this sender",
    ),
    (
        19,
        Transient,
        "insufficient_funds",
        "the miner's available balance is too small; send FIL to the miner",
    ),
    (
        20,
        Permanent,
        "illegal_state",
        "the actor's state does not allow it",
    ),
    (
        21,
        Permanent,
        "serialization",
        "the actor cannot decode the parameters",
    ),
    (
        22,
        Permanent,
        "unhandled_method",
        "the network's version has no such method",
    ),
    (23, Permanent, "unspecified", "the actor gives no reason"),
    (24, Permanent, "actor_crashed", "an assertion of the actor failed"),
    (
        25,
        Permanent,
        "read_only",
        "the message would change what it may only read",
    ),
    (26, Permanent, "not_payable", "the method takes no value"),
    (
        1000,
        Permanent,
        "balance_invariants",
        "the miner's balances do not add up",
    ),
    (
        1001,
        Permanent,
        "notification_failed",
        "a notification of a piece could not be sent",
    ),
    (
        1002,
        Permanent,
        "notification_failed",
        "the receiver of a piece's notification failed",
    ),
];

/// The failure that an exit code is, or nothing for success. `text` is what a dry run said, if there was one.
pub fn failure(method: &str, exit: ExitCode, text: Option<&str>) -> Option<Failure> {
    if exit.is_success() {
        return None;
    }
    let value = exit.value();
    let text = text.map(bounded);
    let by_text = text.as_deref().and_then(|text| {
        TEXTS
            .iter()
            .find(|(code, fragment, ..)| code.is_none_or(|code| code == value) && text.contains(fragment))
    });
    let (class, code, meaning) = match by_text {
        Some((_, _, class, code, meaning)) => (*class, *code, *meaning),
        None => by_code(value),
    };
    let detail = text.map(|text| format!(": {text}")).unwrap_or_default();
    Some(Failure {
        class,
        code,
        message: format!("{method} ended with exit code {value}: {meaning}{detail}"),
    })
}

fn by_code(value: u32) -> (FailureClass, &'static str, &'static str) {
    let known = CODES.iter().find(|(code, ..)| *code == value);
    match known {
        Some((_, class, code, meaning)) => (*class, *code, *meaning),
        None if (1003..=1004).contains(&value) => (
            Permanent,
            "notification_failed",
            "the receiver of a piece's notification refuses",
        ),
        None => (Permanent, "unknown_exit_code", "this code is not known"),
    }
}

/// Why the return of a batch is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the batch's return cannot be used: {reason}; read the sectors from the chain's state instead")]
pub struct BatchReturnError {
    reason: String,
}

/// Reads the return of a batch message: for each of its `inputs`, in their order, nothing if it succeeded or
/// the code with which it failed.
///
/// # Errors
/// The bytes are no batch return, or one for another number of inputs.
pub fn batch_return(bytes: &[u8], inputs: usize) -> Result<Vec<Option<ExitCode>>, BatchReturnError> {
    let error = |reason: String| BatchReturnError { reason };
    let read: BatchReturn = from_slice(bytes).map_err(|e| error(e.to_string()))?;
    let told = u64::from(read.success_count) + read.fail_codes.len() as u64;
    if told != inputs as u64 {
        return Err(error(format!("it tells of {told} inputs, {inputs} were sent")));
    }
    let mut verdicts = vec![None; inputs];
    for fail in &read.fail_codes {
        let verdict = usize::try_from(fail.idx).ok().and_then(|at| verdicts.get_mut(at));
        match verdict {
            Some(verdict) if verdict.is_none() && !fail.code.is_success() => *verdict = Some(fail.code),
            _ => {
                return Err(error(format!("the failure of input {} makes no sense", fail.idx)));
            }
        }
    }
    Ok(verdicts)
}

/// The exit code that a text of a node names, as in `… (RetCode=16)` or `… exit code 16`.
pub fn exit_code_in(text: &str) -> Option<ExitCode> {
    let places = ["RetCode=", "exit code ", "exit status "];
    places.iter().find_map(|mark| {
        let (_, after) = text.split_once(mark)?;
        let digits: String = after.chars().take_while(char::is_ascii_digit).take(10).collect();
        digits.parse().ok().map(ExitCode::new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(exit: u32, text: Option<&str>) -> (FailureClass, &'static str) {
        let failure = failure("M", ExitCode::new(exit), text).unwrap();
        assert!(failure.message.starts_with("M ended with exit code"), "{failure}");
        (failure.class, failure.code)
    }

    #[test]
    fn success_is_no_failure() {
        assert_eq!(failure("M", ExitCode::OK, Some("anything")), None);
    }

    #[test]
    fn texts_say_more_than_codes() {
        for (exit, text, expected) in [
            (
                16,
                "seal challenge epoch 5 too old, must be after 9",
                (Rewind, "ticket_expired"),
            ),
            (
                16,
                "sector numbers [7] already allocated",
                (Permanent, "sector_number_taken"),
            ),
            (
                16,
                "invalid proof for sector 7 while requiring activation success",
                (Rewind, "invalid_proof"),
            ),
            (18, "too early to prove sector 7", (Transient, "too_early")),
            (18, "caller f0101 is not one of", (Permanent, "forbidden")),
            (
                19,
                "unlocked balance can not repay fee debt",
                (Transient, "fee_debt"),
            ),
            (
                19,
                "insufficient funds 1 for pre-commit deposit",
                (Transient, "insufficient_funds"),
            ),
            (
                16,
                "cannot upgrade sectors in immutable deadline",
                (Transient, "deadline_immutable"),
            ),
            (
                16,
                "seal challenge epoch 9 must be before now 9",
                (Permanent, "illegal_argument"),
            ),
            (17, "sector 7 not found", (Permanent, "not_found")),
            // A fragment counts only with its own code.
            (20, "too early to prove sector 7", (Permanent, "illegal_state")),
        ] {
            assert_eq!(told(exit, Some(text)), expected, "{text}");
        }
    }

    #[test]
    fn codes_alone() {
        assert_eq!(told(7, None), (Transient, "out_of_gas"));
        assert_eq!(told(16, None), (Permanent, "illegal_argument"));
        assert_eq!(told(22, None), (Permanent, "unhandled_method"));
        assert_eq!(told(1004, None), (Permanent, "notification_failed"));
        assert_eq!(told(4242, None), (Permanent, "unknown_exit_code"));
    }

    #[test]
    fn a_hostile_text_is_cut_and_cleaned() {
        let text = format!("\u{1b}[2J{}", "x".repeat(1 << 20));
        let failure = failure("M", ExitCode::new(16), Some(&text)).unwrap();
        assert!(failure.message.len() < 3000);
        assert!(!failure.message.contains('\u{1b}'));
    }

    #[test]
    fn returns_that_do_not_fit_are_refused() {
        let refused = |hex: &str, inputs| {
            batch_return(&hex::decode(hex).unwrap(), inputs)
                .unwrap_err()
                .to_string()
        };
        assert!(refused("820280", 3).contains("tells of 2 inputs, 3 were sent"));
        assert!(refused("820181820510", 2).contains("input 5"));
        assert!(refused("82008282001082001 0".replace(' ', "").as_str(), 2).contains("input 0"));
        assert!(refused("820181820100", 2).contains("input 1"));
        assert!(refused("", 1).contains("cannot be used"));
        // An index of four billion costs no memory.
        assert!(refused("820081821affffffff10", 1).contains("makes no sense"));
    }

    #[test]
    fn exit_codes_in_texts() {
        let code = |text| exit_code_in(text).map(|code| code.value());
        assert_eq!(code("message execution failed (RetCode=16)"), Some(16));
        assert_eq!(code("call failed with exit code 33, vm error"), Some(33));
        assert_eq!(code("nothing here"), None);
        assert_eq!(code("RetCode=99999999999999"), None);
    }

    proptest::proptest! {
        #[test]
        fn hostile_returns_never_panic(bytes in proptest::collection::vec(0u8.., 0..64), inputs in 0usize..5) {
            if let Ok(verdicts) = batch_return(&bytes, inputs) {
                assert_eq!(verdicts.len(), inputs);
            }
        }
    }
}
