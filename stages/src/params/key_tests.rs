//! The strongest test of the generator: with the same secrets it writes the very bytes bellperson writes.

use std::sync::atomic::AtomicU64;

use bellpepper_core::{Circuit, ConstraintSystem};
use bellperson::groth16::{self, Parameters, Proof};
use ff::PrimeField;
use group::prime::PrimeCurveAffine;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::params::progress::Phase;

/// Knows `x` with `x^2` and a few sums of multiples of it as public inputs. It has what can go wrong: inputs allocated
/// between auxiliary variables, coefficients that are one, minus one, zero and others, variables absent from A or B,
/// and a term named twice.
struct Tiny {
    x: Option<Scalar>,
    rounds: usize,
}

impl Circuit<Scalar> for Tiny {
    fn synthesize<CS: ConstraintSystem<Scalar>>(self, cs: &mut CS) -> Result<(), SynthesisError> {
        let mut value = self.x;
        let mut variable = cs.alloc(|| "x", || value.ok_or(SynthesisError::AssignmentMissing))?;
        for round in 0..self.rounds {
            let factor = Scalar::from(round as u64 + 2);
            let square = value.map(|v| v.square());
            let squared = cs.alloc(|| "square", || square.ok_or(SynthesisError::AssignmentMissing))?;
            cs.enforce(
                || "square",
                |lc| lc + variable,
                |lc| lc + variable,
                |lc| lc + squared,
            );
            let sum = square.and_then(|s| value.map(|v| s * factor - v + Scalar::ONE));
            let next = if round % 3 == 0 {
                cs.alloc_input(|| "sum", || sum.ok_or(SynthesisError::AssignmentMissing))?
            } else {
                cs.alloc(|| "sum", || sum.ok_or(SynthesisError::AssignmentMissing))?
            };
            cs.enforce(
                || "sum",
                |lc| {
                    lc + (factor, squared) - variable + CS::one() + (Scalar::ZERO, squared) + squared
                        - squared
                },
                |lc| lc + CS::one(),
                |lc| lc + next,
            );
            (variable, value) = (next, sum);
        }
        Ok(())
    }
}

fn secrets(seed: u64) -> Secrets {
    Secrets::random(&mut ChaCha8Rng::seed_from_u64(seed))
}

fn ours(circuit: Tiny, secrets: &Secrets) -> Result<Vec<u8>, SynthesisError> {
    let (cancel, constraints) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut assembly = Assembly::new(&cancel, &constraints);
    circuit.synthesize(&mut assembly)?;
    let key = Key::new(assembly, secrets)?;
    let mut bytes = Vec::new();
    key.write(&mut bytes, &Meter::new(Phase::Multiplication), &cancel)?;
    assert_eq!(bytes.len() as u64, key.encoded_len());
    Ok(bytes)
}

fn theirs(circuit: Tiny, s: &Secrets) -> Vec<u8> {
    let parameters = groth16::generate_parameters::<Bls12, _>(
        circuit, s.g1, s.g2, s.alpha, s.beta, s.gamma, s.delta, s.tau,
    );
    let mut bytes = Vec::new();
    parameters.unwrap().write(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_same_secrets_give_the_bytes_of_bellperson() {
    for (seed, rounds) in [(1, 1), (2, 2), (3, 3), (4, 31), (5, 100), (6, 700)] {
        let secrets = secrets(seed);
        let (ours, theirs) = (
            ours(Tiny { x: None, rounds }, &secrets).unwrap(),
            theirs(Tiny { x: None, rounds }, &secrets),
        );
        assert!(
            ours == theirs,
            "{rounds} rounds: {} and {} bytes",
            ours.len(),
            theirs.len()
        );
    }
}

#[test]
fn a_proof_made_with_our_parameters_verifies_and_a_tampered_one_does_not() {
    let bytes = ours(Tiny { x: None, rounds: 9 }, &secrets(8)).unwrap();
    let parameters = Parameters::<Bls12>::read(&bytes[..], true).unwrap();
    let vk = groth16::prepare_verifying_key(&parameters.vk);
    let x = Scalar::from(5);
    let proof: Proof<Bls12> = groth16::create_random_proof(
        Tiny {
            x: Some(x),
            rounds: 9,
        },
        &parameters,
        &mut rand::rngs::OsRng,
    )
    .unwrap();

    let (mut value, mut inputs) = (x, Vec::new());
    for round in 0..9_u64 {
        value = value.square() * Scalar::from(round + 2) - value + Scalar::ONE;
        if round % 3 == 0 {
            inputs.push(value);
        }
    }
    assert!(groth16::verify_proof(&vk, &proof, &inputs).unwrap());
    let mut tampered = proof.clone();
    tampered.c = (tampered.c.to_curve() + tampered.a).to_affine();
    assert!(!groth16::verify_proof(&vk, &tampered, &inputs).unwrap());
    inputs[1] += Scalar::ONE;
    assert!(!groth16::verify_proof(&vk, &proof, &inputs).unwrap());
}

/// Allocates a variable and never uses it.
struct Unconstrained;

impl Circuit<Scalar> for Unconstrained {
    fn synthesize<CS: ConstraintSystem<Scalar>>(self, cs: &mut CS) -> Result<(), SynthesisError> {
        cs.alloc(|| "idle", || Ok(Scalar::ONE))?;
        Ok(())
    }
}

#[test]
fn an_unconstrained_variable_is_refused() {
    let (cancel, constraints) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut assembly = Assembly::new(&cancel, &constraints);
    Unconstrained.synthesize(&mut assembly).unwrap();
    assert!(matches!(
        Key::new(assembly, &secrets(9)),
        Err(SynthesisError::UnconstrainedVariable)
    ));
}

#[test]
fn cancelling_stops_the_multiplication() {
    let (cancel, constraints) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut assembly = Assembly::new(&cancel, &constraints);
    Tiny { x: None, rounds: 5 }.synthesize(&mut assembly).unwrap();
    let key = Key::new(assembly, &secrets(10)).unwrap();
    cancel.store(true, Ordering::Relaxed);
    let stopped = key
        .write(&mut Vec::new(), &Meter::new(Phase::Multiplication), &cancel)
        .unwrap_err();
    assert_eq!(stopped.kind(), io::ErrorKind::Interrupted);
}

#[test]
fn secrets_are_overwritten() {
    let mut secrets = secrets(11);
    forget(&mut [&mut secrets.tau, &mut secrets.alpha]);
    assert_eq!((secrets.tau, secrets.alpha), (Scalar::ZERO, Scalar::ZERO));
    assert_ne!(secrets.beta.to_repr(), Scalar::ZERO.to_repr());
}
