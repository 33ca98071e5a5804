//! Fixed-base comb: many multiples of one curve point, computed from a table of its affine multiples.
//!
//! A scalar is cut into signed windows of `width` bits, and the table holds every multiple a window can ask for.
//! One scalar then costs one addition a window and no doubling. The additions are done in affine form for many
//! accumulators at a time, so that they share a single field inversion (about six multiplications an addition,
//! where a mixed addition in Jacobian form takes eleven), and the results need no normalisation.
//!
//! Nothing here runs in constant time: the scalars are the powers and evaluations of a secret that lives for one
//! process and is thrown away.

use blstrs::{Fp, Fp2, G1Affine, G2Affine, Scalar};
use ff::{Field, PrimeField};
use group::prime::PrimeCurveAffine;
use group::{Curve, Group, UncompressedEncoding};
use rayon::prelude::*;

/// An affine curve point whose coordinates can be taken out and put back.
pub(crate) trait AffinePoint:
    PrimeCurveAffine<Scalar = Scalar> + UncompressedEncoding + Send + Sync + 'static
{
    /// The field of the coordinates.
    type Coordinate: Field;

    /// Bytes of one point in the parameter files (uncompressed form).
    const ENCODED: usize;

    /// Takes the point apart. The point at infinity is `(0, 0)`, which is on neither curve.
    fn coordinates(&self) -> (Self::Coordinate, Self::Coordinate);

    /// Puts a point together again; trusts the caller that it is on the curve.
    fn from_coordinates(x: Self::Coordinate, y: Self::Coordinate) -> Self;
}

impl AffinePoint for G1Affine {
    type Coordinate = Fp;
    const ENCODED: usize = 96;

    fn coordinates(&self) -> (Fp, Fp) {
        (self.x(), self.y())
    }

    fn from_coordinates(x: Fp, y: Fp) -> Self {
        Self::from_raw_unchecked(x, y, false)
    }
}

impl AffinePoint for G2Affine {
    type Coordinate = Fp2;
    const ENCODED: usize = 192;

    fn coordinates(&self) -> (Fp2, Fp2) {
        (self.x(), self.y())
    }

    fn from_coordinates(x: Fp2, y: Fp2) -> Self {
        Self::from_raw_unchecked(x, y, false)
    }
}

/// Accumulators that share one inversion: large enough to make it cheap, small enough to stay in the caches.
const SHARED: usize = 512;
/// Scalars that pass one window of the table together, so that the window is read from the second-level cache.
const PASS: usize = 4096;

/// The table of multiples of one base point.
pub(crate) struct Comb<P> {
    /// `multiples[w * half + d - 1]` is `d * 2^(w * width) * base`.
    multiples: Vec<P>,
    width: usize,
    windows: usize,
    half: usize,
}

impl<P: AffinePoint> Comb<P> {
    /// Builds the table for about `expected` multiplications of `base` (which must not be the point at infinity).
    /// More multiplications make a larger table worth its cost; it stays under 8 MiB in G1 and 16 MiB in G2.
    pub(crate) fn new(base: &P, expected: usize) -> Self {
        let width = (4..=MAX_WIDTH)
            .min_by_key(|&width| windows(width) * (expected + (1 << (width - 1))))
            .unwrap_or(MAX_WIDTH);
        Self::with_width(base, width)
    }

    /// Builds the table with windows of `width` bits.
    pub(crate) fn with_width(base: &P, width: usize) -> Self {
        let windows = windows(width);
        let half = 1 << (width - 1);
        let mut bases = Vec::with_capacity(windows);
        let mut power = base.to_curve();
        for _ in 0..windows {
            bases.push(power.to_affine());
            for _ in 0..width {
                power = power.double();
            }
        }
        let mut multiples = vec![P::identity(); windows * half];
        multiples
            .par_chunks_mut(half)
            .zip(bases)
            .for_each(|(window, base)| fill_window(window, base));
        Self {
            multiples,
            width,
            windows,
            half,
        }
    }

    /// Multiplies the base by every scalar. Runs on the calling thread.
    pub(crate) fn multiply(&self, scalars: &[Scalar]) -> Vec<P> {
        let mut sums = vec![P::identity(); scalars.len()];
        let mut adder = Adder::new();
        let mut digits = vec![0_i32; PASS.min(scalars.len()) * self.windows];
        for (sums, scalars) in sums.chunks_mut(PASS).zip(scalars.chunks(PASS)) {
            for (i, scalar) in scalars.iter().enumerate() {
                self.recode(scalar, &mut digits[i..], scalars.len());
            }
            for (w, window) in self.multiples.chunks(self.half).enumerate() {
                let digits = &digits[w * scalars.len()..][..scalars.len()];
                for (sums, digits) in sums.chunks_mut(SHARED).zip(digits.chunks(SHARED)) {
                    adder.add(sums, |i| match digits[i] {
                        0 => None,
                        d => Some((&window[d.unsigned_abs() as usize - 1], d < 0)),
                    });
                }
            }
        }
        sums
    }

    /// Writes the signed digits of a scalar, lowest first, to every `stride`-th place of `digits`.
    fn recode(&self, scalar: &Scalar, digits: &mut [i32], stride: usize) {
        let bytes = scalar.to_repr();
        let mut words = [0_u64; 5];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, &byte| word << 8 | u64::from(byte));
        }
        let mut carry = 0;
        for w in 0..self.windows {
            let bit = w * self.width;
            let (word, shift) = (bit / 64, bit % 64);
            let low = words[word] >> shift;
            let high = if shift == 0 {
                0
            } else {
                words[word + 1] << (64 - shift)
            };
            let value = ((low | high) & ((1 << self.width) - 1)) as i32 + carry;
            carry = i32::from(value > self.half as i32);
            digits[w * stride] = value - (carry << self.width);
        }
    }
}

/// The widest window that is worth its misses in the second-level cache.
const MAX_WIDTH: usize = 13;

/// Windows of `width` bits that a scalar and the sign of its highest digit need.
fn windows(width: usize) -> usize {
    (Scalar::NUM_BITS as usize + 1).div_ceil(width)
}

/// Fills `window` with 1, 2, 3, ... times `base`: each round adds the last multiple so far to all before it.
fn fill_window<P: AffinePoint>(window: &mut [P], base: P) {
    let mut adder = Adder::new();
    window[0] = base;
    let mut filled = 1;
    while filled < window.len() {
        let (done, rest) = window.split_at_mut(filled);
        let fresh = filled.min(rest.len());
        let step = done[filled - 1];
        rest[..fresh].copy_from_slice(&done[..fresh]);
        // Adding the last multiple to itself is a doubling.
        let (sums, double) = rest[..fresh].split_at_mut(fresh.min(filled - 1));
        for chunk in sums.chunks_mut(SHARED) {
            adder.add(chunk, |_| Some((&step, false)));
        }
        if let Some(double) = double.first_mut() {
            *double = step.to_curve().double().to_affine();
        }
        filled += fresh;
    }
}

/// Additions in affine form with one shared inversion, and the buffers they need.
struct Adder<P: AffinePoint> {
    /// The accumulators of this round, with the differences of the x coordinates to divide by.
    pending: Vec<(usize, P::Coordinate)>,
    /// `products[k]` is the product of the first `k` differences.
    products: Vec<P::Coordinate>,
}

impl<P: AffinePoint> Adder<P> {
    fn new() -> Self {
        Self {
            pending: Vec::with_capacity(SHARED),
            products: Vec::with_capacity(SHARED),
        }
    }

    /// Adds to each accumulator the point that `addend` names for it, negated when the flag is set.
    fn add<'t>(&mut self, sums: &mut [P], addend: impl Fn(usize) -> Option<(&'t P, bool)>) {
        self.pending.clear();
        self.products.clear();
        let mut product = P::Coordinate::ONE;
        for (i, sum) in sums.iter_mut().enumerate() {
            let Some((point, negative)) = addend(i) else {
                continue;
            };
            if bool::from(sum.is_identity()) {
                *sum = if negative { -*point } else { *point };
                continue;
            }
            let difference = point.coordinates().0 - sum.coordinates().0;
            self.products.push(product);
            product *= difference;
            self.pending.push((i, difference));
        }
        let Some(mut inverse) = Option::<P::Coordinate>::from(product.invert()) else {
            // One of the differences is zero: the same point, or its opposite. Rare enough to do it the slow way.
            for (i, _) in self.pending.drain(..) {
                if let Some((point, negative)) = addend(i) {
                    let point = if negative { -*point } else { *point };
                    sums[i] = (sums[i].to_curve() + point).to_affine();
                }
            }
            return;
        };
        while let (Some((i, difference)), Some(before)) = (self.pending.pop(), self.products.pop()) {
            let reciprocal = inverse * before;
            inverse *= difference;
            let Some((point, negative)) = addend(i) else {
                continue;
            };
            let (x1, y1) = sums[i].coordinates();
            let (x2, y2) = point.coordinates();
            let rise = if negative { -y2 - y1 } else { y2 - y1 };
            let slope = rise * reciprocal;
            let x3 = slope.square() - x1 - x2;
            sums[i] = P::from_coordinates(x3, slope * (x1 - x3) - y1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blstrs::{G1Projective, G2Projective};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn agrees<P: AffinePoint>(base: P::Curve)
    where
        P::Curve: Group<Scalar = Scalar> + Curve<AffineRepr = P>,
    {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut scalars: Vec<Scalar> = (0..SHARED + 40).map(|_| Scalar::random(&mut rng)).collect();
        scalars.extend([
            Scalar::ZERO,
            Scalar::ONE,
            -Scalar::ONE,
            Scalar::from(2),
            -Scalar::from(2),
        ]);
        // Digits on the edge between two windows, and long runs of ones.
        for width in [4, 7, 13, 14] {
            for shift in [width - 1, width, 2 * width - 1, 250, 254] {
                let power = Scalar::from(2).pow_vartime([shift as u64]);
                scalars.extend([power, power - Scalar::ONE, power + Scalar::ONE, -power]);
            }
        }
        for width in [1, 2, 4, 7, 13, 14] {
            let comb = Comb::<P>::with_width(&base.to_affine(), width);
            let products = comb.multiply(&scalars);
            for (scalar, product) in scalars.iter().zip(products) {
                assert_eq!(
                    product,
                    (base * scalar).to_affine(),
                    "width {width}, scalar {scalar:?}"
                );
            }
        }
    }

    #[test]
    fn multiples_in_g1_equal_plain_multiplication() {
        agrees::<G1Affine>(G1Projective::random(ChaCha8Rng::seed_from_u64(1)));
    }

    #[test]
    fn multiples_in_g2_equal_plain_multiplication() {
        agrees::<G2Affine>(G2Projective::random(ChaCha8Rng::seed_from_u64(2)));
    }

    #[test]
    fn adding_a_point_to_itself_and_to_its_opposite_works() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let points: Vec<G1Projective> = (0..4).map(|_| G1Projective::random(&mut rng)).collect();
        let step = points[1].to_affine();
        for negative in [false, true] {
            let signed = if negative { -points[1] } else { points[1] };
            let mut starts = points.clone();
            starts.extend([-points[1], G1Projective::identity()]);
            let mut sums: Vec<G1Affine> = starts.iter().map(|point| point.to_affine()).collect();
            Adder::new().add(&mut sums, |i| (i != 2).then_some((&step, negative)));
            for (i, (sum, start)) in sums.iter().zip(starts).enumerate() {
                let expected = if i == 2 { start } else { start + signed };
                assert_eq!(*sum, expected.to_affine(), "{i} {negative}");
            }
        }
    }

    #[test]
    fn the_window_grows_with_the_work() {
        let base = G1Affine::generator();
        assert!(Comb::new(&base, 100).width < Comb::new(&base, 100_000).width);
        assert!(Comb::new(&base, usize::MAX >> 16).width <= MAX_WIDTH);
    }

    #[test]
    fn no_scalars_give_no_points() {
        assert!(
            Comb::with_width(&G1Affine::generator(), 4)
                .multiply(&[])
                .is_empty()
        );
    }
}
