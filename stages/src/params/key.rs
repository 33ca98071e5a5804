//! Groth16 parameters from an evaluated circuit, written as a stream in the format the proofs library maps.
//!
//! Everything that is multiplied is known as scalars first, so the counts that stand before each section are known
//! too, and no more than one block of points is in memory at a time. The result is byte for byte what bellperson's
//! own generator gives for the same secrets (the tests hold us to it).

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use bellpepper_core::SynthesisError;
use bellperson::groth16::VerifyingKey;
use blstrs::{Bls12, G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use ff::Field;
use group::{Curve, Group};
use rand::RngCore;
use rayon::prelude::*;

use super::comb::{AffinePoint, Comb};
use super::progress::Meter;
use super::qap::{Assembly, domain_size, lagrange};

/// The secrets behind a parameter set. Whoever knows them can forge proofs, so they are overwritten when dropped.
pub(crate) struct Secrets {
    pub(crate) g1: G1Projective,
    pub(crate) g2: G2Projective,
    pub(crate) alpha: Scalar,
    pub(crate) beta: Scalar,
    pub(crate) gamma: Scalar,
    pub(crate) delta: Scalar,
    pub(crate) tau: Scalar,
}

impl Secrets {
    /// Draws fresh secrets.
    pub(crate) fn random(rng: &mut impl RngCore) -> Self {
        Self {
            g1: G1Projective::random(&mut *rng),
            g2: G2Projective::random(&mut *rng),
            alpha: Scalar::random(&mut *rng),
            beta: Scalar::random(&mut *rng),
            gamma: Scalar::random(&mut *rng),
            delta: Scalar::random(&mut *rng),
            tau: Scalar::random(&mut *rng),
        }
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        forget(&mut [
            &mut self.alpha,
            &mut self.beta,
            &mut self.gamma,
            &mut self.delta,
            &mut self.tau,
        ]);
    }
}

/// Overwrites secrets in a way the optimiser has to keep.
fn forget(secrets: &mut [&mut Scalar]) {
    for secret in secrets {
        **secret = Scalar::ZERO;
        std::hint::black_box(&**secret);
    }
}

/// The same for many.
fn overwrite(secrets: &mut [Scalar]) {
    secrets.fill(Scalar::ZERO);
    std::hint::black_box(&*secrets);
}

/// Scalars of one section of the file.
enum Scalars<'a> {
    /// Any scalars.
    Given(&'a [Scalar]),
    /// `first`, `first * ratio`, `first * ratio^2`, ...
    Powers {
        first: Scalar,
        ratio: Scalar,
        len: usize,
    },
}

impl Scalars<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Given(scalars) => scalars.len(),
            Self::Powers { len, .. } => *len,
        }
    }

    fn points<P: AffinePoint>(&self, comb: &Comb<P>, start: usize, count: usize) -> Vec<P> {
        match self {
            Self::Given(scalars) => comb.multiply(&scalars[start..start + count]),
            Self::Powers { first, ratio, .. } => {
                let mut power = *first * ratio.pow_vartime([start as u64]);
                let mut powers = Vec::with_capacity(count);
                for _ in 0..count {
                    powers.push(power);
                    power *= ratio;
                }
                comb.multiply(&powers)
            }
        }
    }
}

/// Parameters in the making: all scalars, and the tables to multiply them with.
pub(crate) struct Key {
    vk: VerifyingKey<Bls12>,
    h_first: Scalar,
    h_len: usize,
    tau: Scalar,
    l: Vec<Scalar>,
    a: Vec<Scalar>,
    b: Vec<Scalar>,
    g1: Comb<G1Affine>,
    g2: Comb<G2Affine>,
}

/// What a multiplication in G2 costs, in multiplications in G1.
const G2_COST: u64 = 3;
/// Scalars of one piece of work for one thread.
const PIECE: usize = 8192;
/// Scalars of one block: it is computed while the block before it is hashed and written.
const BLOCK: usize = 32 * PIECE;

impl Key {
    /// Evaluates a synthesised circuit (before [`Assembly::close`]) at the secrets and builds the tables.
    ///
    /// # Errors
    /// An unconstrained variable, a circuit that is too large for the field, or secrets that are zero or a root of
    /// unity.
    pub(crate) fn new(mut assembly: Assembly<'_>, secrets: &Secrets) -> Result<Self, SynthesisError> {
        assembly.close();
        let rows = assembly.rows();
        let size = domain_size(rows)?;
        let (mut weights, vanishing) = lagrange(&secrets.tau, size, rows)?;
        let mut evaluation = assembly.evaluate(&weights);
        overwrite(&mut weights);
        drop(weights);

        let invert =
            |scalar: &Scalar| Option::from(scalar.invert()).ok_or(SynthesisError::UnexpectedIdentity);
        let gamma_inverse: Scalar = invert(&secrets.gamma)?;
        let delta_inverse: Scalar = invert(&secrets.delta)?;
        let inputs = evaluation.inputs;
        // From here on `c` holds (beta * a + alpha * b + c), over gamma for inputs and over delta for the rest.
        evaluation
            .c
            .par_iter_mut()
            .zip(&evaluation.a)
            .zip(&evaluation.b)
            .enumerate()
            .for_each(|(i, ((c, a), b))| {
                let inverse = if i < inputs { gamma_inverse } else { delta_inverse };
                *c = (*a * secrets.beta + *b * secrets.alpha + *c) * inverse;
            });
        let l = evaluation.c.split_off(inputs);
        if l.par_iter().any(|scalar| scalar.is_zero().into()) {
            return Err(SynthesisError::UnconstrainedVariable);
        }
        // Points at infinity are left out of these two.
        evaluation.a.retain(|scalar| !bool::from(scalar.is_zero()));
        evaluation.b.retain(|scalar| !bool::from(scalar.is_zero()));

        let h_len = size - 1;
        let in_g1 = h_len + l.len() + evaluation.a.len() + evaluation.b.len();
        let g1 = Comb::new(&secrets.g1.to_affine(), in_g1);
        let g2 = Comb::new(&secrets.g2.to_affine(), evaluation.b.len());
        let vk = VerifyingKey {
            alpha_g1: (secrets.g1 * secrets.alpha).to_affine(),
            beta_g1: (secrets.g1 * secrets.beta).to_affine(),
            beta_g2: (secrets.g2 * secrets.beta).to_affine(),
            gamma_g2: (secrets.g2 * secrets.gamma).to_affine(),
            delta_g1: (secrets.g1 * secrets.delta).to_affine(),
            delta_g2: (secrets.g2 * secrets.delta).to_affine(),
            ic: g1.multiply(&evaluation.c),
        };
        let h_first = vanishing * delta_inverse;
        Ok(Self {
            vk,
            h_first,
            h_len,
            tau: secrets.tau,
            l,
            a: evaluation.a,
            b: evaluation.b,
            g1,
            g2,
        })
    }

    /// The verifying key.
    pub(crate) fn verifying_key(&self) -> &VerifyingKey<Bls12> {
        &self.vk
    }

    /// Multiplications that [`Self::write`] does, and their cost in multiplications in G1.
    pub(crate) fn work(&self) -> (u64, u64) {
        let in_g1 = (self.h_len + self.l.len() + self.a.len() + self.b.len()) as u64;
        let in_g2 = self.b.len() as u64;
        (in_g1 + in_g2, in_g1 + G2_COST * in_g2)
    }

    /// Bytes that [`Self::write`] writes.
    pub(crate) fn encoded_len(&self) -> u64 {
        let in_g1 = (3 + self.vk.ic.len() + self.h_len + self.l.len() + self.a.len() + self.b.len()) as u64;
        let in_g2 = (3 + self.b.len()) as u64;
        let counts = 6 * 4;
        counts + in_g1 * G1Affine::ENCODED as u64 + in_g2 * G2Affine::ENCODED as u64
    }

    /// Multiplies everything and writes the parameter file.
    ///
    /// # Errors
    /// What `out` says; [`io::ErrorKind::Interrupted`] when `cancel` was set.
    pub(crate) fn write(
        &self,
        out: &mut (impl Write + Send),
        meter: &Meter,
        cancel: &AtomicBool,
    ) -> io::Result<()> {
        self.vk.write(&mut *out)?;
        let h = Scalars::Powers {
            first: self.h_first,
            ratio: self.tau,
            len: self.h_len,
        };
        write_section(out, &self.g1, &h, 1, meter, cancel)?;
        write_section(out, &self.g1, &Scalars::Given(&self.l), 1, meter, cancel)?;
        write_section(out, &self.g1, &Scalars::Given(&self.a), 1, meter, cancel)?;
        write_section(out, &self.g1, &Scalars::Given(&self.b), 1, meter, cancel)?;
        write_section(out, &self.g2, &Scalars::Given(&self.b), G2_COST, meter, cancel)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // Two neighbours in `h` or a few of the others give tau away.
        forget(&mut [&mut self.tau, &mut self.h_first]);
        for scalars in [&mut self.l, &mut self.a, &mut self.b] {
            overwrite(scalars);
        }
    }
}

/// Writes one counted list of points.
fn write_section<P: AffinePoint>(
    out: &mut (impl Write + Send),
    comb: &Comb<P>,
    scalars: &Scalars<'_>,
    cost: u64,
    meter: &Meter,
    cancel: &AtomicBool,
) -> io::Result<()> {
    let len = scalars.len();
    let count =
        u32::try_from(len).map_err(|_| io::Error::other("more points than the file format can count"))?;
    out.write_all(&count.to_be_bytes())?;
    let mut ready = Vec::new();
    for start in (0..len).step_by(BLOCK) {
        let mut block = vec![0; BLOCK.min(len - start) * P::ENCODED];
        let compute = || {
            block
                .par_chunks_mut(PIECE * P::ENCODED)
                .enumerate()
                .for_each(|(piece, bytes)| {
                    if cancel.load(Ordering::Relaxed) {
                        return;
                    }
                    let count = bytes.len() / P::ENCODED;
                    let points = scalars.points(comb, start + piece * PIECE, count);
                    for (point, bytes) in points.iter().zip(bytes.chunks_exact_mut(P::ENCODED)) {
                        bytes.copy_from_slice(point.to_uncompressed().as_ref());
                    }
                    meter.multiplied(count as u64, count as u64 * cost);
                });
        };
        let (written, ()) = rayon::join(|| out.write_all(&ready), compute);
        written?;
        if cancel.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        ready = block;
    }
    out.write_all(&ready)
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
