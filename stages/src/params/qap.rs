//! A circuit as a quadratic arithmetic program, evaluated at a secret point.
//!
//! [`Assembly`] is the constraint system a circuit is synthesised into. It keeps the three matrices by rows, four
//! bytes a term, because nearly every coefficient is one or minus one and needs no more than a mark.
//! [`Assembly::evaluate`] then weighs every row with its Lagrange coefficient and adds it to the columns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bellpepper_core::{ConstraintSystem, Index, LinearCombination, SynthesisError, Variable};
use blstrs::Scalar;
use ff::{Field, PrimeField};
use rayon::prelude::*;

/// A term is one word: whether the variable is an input, what the coefficient is, and the variable's number.
const INPUT: u32 = 1 << 31;
const COEFFICIENT: u32 = 3 << 29;
const ONE: u32 = 0;
const MINUS_ONE: u32 = 1 << 29;
const OTHER: u32 = 2 << 29;
const NUMBER: u32 = (1 << 29) - 1;

/// One of the matrices A, B and C, stored by rows.
#[derive(Default)]
struct Matrix {
    terms: Vec<u32>,
    /// Terms of each row.
    lengths: Vec<u32>,
    /// The coefficients of the terms marked [`OTHER`], in order.
    others: Vec<Scalar>,
}

impl Matrix {
    fn push_row(&mut self, row: &LinearCombination<Scalar>, minus_one: &Scalar) {
        let before = self.terms.len();
        for (Variable(index), coefficient) in row.iter() {
            let variable = match index {
                Index::Input(i) => INPUT | i as u32,
                Index::Aux(i) => i as u32,
            };
            if coefficient == &Scalar::ONE {
                self.terms.push(variable | ONE);
            } else if coefficient == minus_one {
                self.terms.push(variable | MINUS_ONE);
            } else {
                self.terms.push(variable | OTHER);
                self.others.push(*coefficient);
            }
        }
        self.lengths.push((self.terms.len() - before) as u32);
    }

    /// Adds up every column, row `j` weighed with `weights[j]`: inputs first, then auxiliary variables.
    fn columns(&self, weights: &[Scalar], inputs: usize, aux: usize) -> Vec<Scalar> {
        let mut columns = vec![Scalar::ZERO; inputs + aux];
        let mut terms = self.terms.iter();
        let mut others = self.others.iter();
        for (&length, weight) in self.lengths.iter().zip(weights) {
            for &term in terms.by_ref().take(length as usize) {
                let number = (term & NUMBER) as usize;
                let column = &mut columns[if term & INPUT != 0 {
                    number
                } else {
                    inputs + number
                }];
                match term & COEFFICIENT {
                    ONE => *column += weight,
                    MINUS_ONE => *column -= weight,
                    _ => *column += others.next().map_or(Scalar::ZERO, |other| *weight * other),
                }
            }
        }
        columns
    }
}

/// The constraint system that a circuit is synthesised into to make its parameters.
pub(crate) struct Assembly<'a> {
    inputs: usize,
    aux: usize,
    a: Matrix,
    b: Matrix,
    c: Matrix,
    minus_one: Scalar,
    cancel: &'a AtomicBool,
    constraints: &'a AtomicU64,
}

impl<'a> Assembly<'a> {
    /// An empty system that holds only the constant one. `constraints` counts along for whoever watches; setting
    /// `cancel` makes the next allocation fail.
    pub(crate) fn new(cancel: &'a AtomicBool, constraints: &'a AtomicU64) -> Self {
        Self {
            inputs: 1,
            aux: 0,
            a: Matrix::default(),
            b: Matrix::default(),
            c: Matrix::default(),
            minus_one: -Scalar::ONE,
            cancel,
            constraints,
        }
    }

    /// Adds the constraint `x * 0 = 0` for every input, which keeps the inputs' columns independent of each other.
    /// To be called once, after synthesis.
    pub(crate) fn close(&mut self) {
        for i in 0..self.inputs {
            self.enforce(|| "", |lc| lc + Variable(Index::Input(i)), |lc| lc, |lc| lc);
        }
    }

    /// Number of constraints so far.
    pub(crate) fn rows(&self) -> usize {
        self.a.lengths.len()
    }

    /// The columns of the three matrices at the point whose Lagrange coefficients are `weights` (one a constraint).
    pub(crate) fn evaluate(self, weights: &[Scalar]) -> Evaluation {
        let Self {
            inputs, aux, a, b, c, ..
        } = self;
        let mut columns: Vec<Vec<Scalar>> = [a, b, c]
            .into_par_iter()
            .map(|matrix| matrix.columns(weights, inputs, aux))
            .collect();
        let c = columns.pop().unwrap_or_default();
        let b = columns.pop().unwrap_or_default();
        let a = columns.pop().unwrap_or_default();
        Evaluation { inputs, a, b, c }
    }

    fn allocate(&self, count: usize) -> Result<(), SynthesisError> {
        if count > NUMBER as usize {
            return Err(SynthesisError::PolynomialDegreeTooLarge);
        }
        if count.is_multiple_of(1024) && self.cancel.load(Ordering::Relaxed) {
            return Err(SynthesisError::IoError(std::io::ErrorKind::Interrupted.into()));
        }
        Ok(())
    }
}

/// The polynomials of a circuit at a secret point, one value a variable: inputs first, then auxiliary variables.
pub(crate) struct Evaluation {
    /// How many of the variables are inputs.
    pub(crate) inputs: usize,
    pub(crate) a: Vec<Scalar>,
    pub(crate) b: Vec<Scalar>,
    pub(crate) c: Vec<Scalar>,
}

impl ConstraintSystem<Scalar> for Assembly<'_> {
    type Root = Self;

    fn alloc<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.allocate(self.aux)?;
        self.aux += 1;
        Ok(Variable(Index::Aux(self.aux - 1)))
    }

    fn alloc_input<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        self.allocate(self.inputs)?;
        self.inputs += 1;
        Ok(Variable(Index::Input(self.inputs - 1)))
    }

    fn enforce<A, AR, LA, LB, LC>(&mut self, _: A, a: LA, b: LB, c: LC)
    where
        A: FnOnce() -> AR,
        AR: Into<String>,
        LA: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LB: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LC: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
    {
        self.a.push_row(&a(LinearCombination::zero()), &self.minus_one);
        self.b.push_row(&b(LinearCombination::zero()), &self.minus_one);
        self.c.push_row(&c(LinearCombination::zero()), &self.minus_one);
        self.constraints.store(self.rows() as u64, Ordering::Relaxed);
    }

    fn push_namespace<NR, N>(&mut self, _: N)
    where
        NR: Into<String>,
        N: FnOnce() -> NR,
    {
    }

    fn pop_namespace(&mut self) {}

    fn get_root(&mut self) -> &mut Self {
        self
    }
}

/// Size of the evaluation domain for `rows` constraints: the next power of two.
///
/// # Errors
/// When the scalar field has no root of unity of that order.
pub(crate) fn domain_size(rows: usize) -> Result<usize, SynthesisError> {
    rows.checked_next_power_of_two()
        .filter(|size| size.ilog2() < Scalar::S)
        .ok_or(SynthesisError::PolynomialDegreeTooLarge)
}

/// The Lagrange coefficients of `tau` over the roots of unity of order `size`, for the first `rows` of them:
/// `(tau^size - 1) / size * root^j / (tau - root^j)`, and `tau^size - 1`, the vanishing polynomial at `tau`.
///
/// # Errors
/// When `tau` is itself one of the roots, which a random secret never is.
pub(crate) fn lagrange(
    tau: &Scalar,
    size: usize,
    rows: usize,
) -> Result<(Vec<Scalar>, Scalar), SynthesisError> {
    let vanishing = tau.pow_vartime([size as u64]) - Scalar::ONE;
    let mut root = Scalar::ROOT_OF_UNITY;
    for _ in size.ilog2()..Scalar::S {
        root = root.square();
    }
    let inverse: Option<Scalar> = Scalar::from(size as u64).invert().into();
    let scale = vanishing * inverse.ok_or(SynthesisError::DivisionByZero)?;
    if bool::from(vanishing.is_zero()) {
        return Err(SynthesisError::DivisionByZero);
    }
    let mut weights = vec![Scalar::ZERO; rows];
    weights
        .par_chunks_mut(CHUNK)
        .enumerate()
        .for_each(|(chunk, weights)| {
            let first = root.pow_vartime([(chunk * CHUNK) as u64]);
            // All the differences are inverted at once: the products before each one, then backwards.
            let mut power = first;
            let mut product = Scalar::ONE;
            let mut differences = Vec::with_capacity(weights.len());
            for weight in weights.iter_mut() {
                *weight = product * power * scale;
                let difference = *tau - power;
                differences.push(difference);
                product *= difference;
                power *= root;
            }
            let mut inverse = product.invert().unwrap_or(Scalar::ZERO);
            for (weight, difference) in weights.iter_mut().zip(differences).rev() {
                *weight *= inverse;
                inverse *= difference;
            }
        });
    Ok((weights, vanishing))
}

/// Coefficients that share one inversion.
const CHUNK: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn lagrange_coefficients_interpolate() {
        let tau = Scalar::random(ChaCha8Rng::seed_from_u64(3));
        for size in [1_usize, 2, 8, 8192] {
            let (weights, vanishing) = lagrange(&tau, size, size).unwrap();
            assert_eq!(vanishing, tau.pow_vartime([size as u64]) - Scalar::ONE);
            let mut root = Scalar::ROOT_OF_UNITY;
            for _ in size.ilog2()..Scalar::S {
                root = root.square();
            }
            // The constant one, and the identity polynomial (which has degree under `size` from two points up).
            assert_eq!(weights.iter().sum::<Scalar>(), Scalar::ONE);
            let identity = |j: usize| root.pow_vartime([j as u64]);
            let at_tau: Scalar = weights.iter().enumerate().map(|(j, w)| *w * identity(j)).sum();
            assert_eq!(at_tau, if size == 1 { Scalar::ONE } else { tau });
        }
    }

    #[test]
    fn a_root_of_unity_is_refused_as_secret() {
        assert!(lagrange(&Scalar::ONE, 8, 8).is_err());
    }

    #[test]
    fn a_cancelled_synthesis_stops() {
        let (cancel, count) = (AtomicBool::new(true), AtomicU64::new(0));
        let mut assembly = Assembly::new(&cancel, &count);
        assert!(assembly.alloc(|| "", || Ok(Scalar::ONE)).is_err());
    }
}
