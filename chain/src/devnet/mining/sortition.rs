//! How often a miner wins an epoch: Poisson sortition over the hash of its election proof (chain.md §2.6). All is
//! integer arithmetic in Q.256, to the last bit as the network's nodes do it.

use crate::message::blake2b_256;
use crate::types::{BigInt, Zero};

/// The blocks that the network expects in an epoch.
pub(in crate::devnet) const EXPECTED_BLOCKS: u64 = 5;
/// The most that one block can win.
pub(super) const WINS_MAX: i64 = 15;

/// Bits behind the point.
const PRECISION: usize = 256;
/// Bits behind the point of the coefficients below.
const COEFFICIENT_PRECISION: usize = 128;

/// Numerator of the rational function that stands for exp(-x), highest power first.
const NUMERATOR: [&str; 8] = [
    "-648770010757830093818553637600",
    "67469480939593786226847644286976",
    "-3197587544499098424029388939001856",
    "89244641121992890118377641805348864",
    "-1579656163641440567800982336819953664",
    "17685496037279256458459817590917169152",
    "-115682590513835356866803355398940131328",
    "340282366920938463463374607431768211456",
];

/// Its denominator.
const DENOMINATOR: [&str; 14] = [
    "1225524182432722209606361",
    "114095592300906098243859450",
    "5665570424063336070530214243",
    "194450132448609991765137938448",
    "5068267641632683791026134915072",
    "104716890604972796896895427629056",
    "1748338658439454459487681798864896",
    "23704654329841312470660182937960448",
    "259380097567996910282699886670381056",
    "2250336698853390384720606936038375424",
    "14978272436876548034486263159246028800",
    "72144088983913131323343765784380833792",
    "224599776407103106596571252037123047424",
    "340282366920938463463374607431768211456",
];

/// How often a miner with this power of all power wins by its election proof; 0 is no block.
pub(super) fn wins(election_proof: &[u8], power: &BigInt, all_power: &BigInt) -> i64 {
    if *power <= BigInt::zero() || *all_power <= BigInt::zero() {
        return 0;
    }
    let drawn = BigInt::from_bytes_be(fvm_shared::bigint::Sign::Plus, &blake2b_256(election_proof));
    let lambda = ((power * BigInt::from(EXPECTED_BLOCKS)) << PRECISION) / all_power;
    let mut chance = exp_neg(&lambda);
    let mut above = (BigInt::from(1) << PRECISION) - &chance;
    let mut wins = 0;
    while drawn < above && wins < WINS_MAX {
        wins += 1;
        chance = ((chance / BigInt::from(wins)) * &lambda) >> PRECISION;
        above -= &chance;
    }
    wins
}

/// exp(-x) of a number in Q.256.
fn exp_neg(x: &BigInt) -> BigInt {
    (polynomial(&NUMERATOR, x) << PRECISION) / polynomial(&DENOMINATOR, x)
}

/// Horner's rule. A shift to the right rounds down, also below zero.
fn polynomial(coefficients: &[&str], x: &BigInt) -> BigInt {
    let mut coefficients = coefficients.iter().map(|text| coefficient(text));
    let first = coefficients.next().unwrap_or_default();
    coefficients.fold(first, |sum, next| ((sum * x) >> PRECISION) + next)
}

fn coefficient(text: &str) -> BigInt {
    let number: BigInt = text.parse().unwrap_or_default();
    number << (PRECISION - COEFFICIENT_PRECISION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(power: u64, all: u64, seed: u8) -> i64 {
        wins(&[seed; 96], &power.into(), &all.into())
    }

    /// Computed by another program from the Poisson distribution itself, with 140 digits; of all these draws none is
    /// nearer to a boundary than 10^-5, and the rational function is off by less than 10^-14.
    #[test]
    fn the_vectors() {
        for (power, all, expected) in [
            (1, 1, "74746556525495471382e2442334462530695663417566a5"),
            (1, 2, "42423333313253240151a012111223021035333120433363"),
            (1, 5, "212111111011311200206001000001010013111000212131"),
            (1, 10, "101010010000200100104000000001000012011000111120"),
            (1, 100, "000000000000100000002000000000000000000000000010"),
            (7, 3000, "000000000000000000001000000000000000000000000000"),
            (
                20_480,
                1 << 63,
                "000000000000000000000000000000000000000000000000",
            ),
            (61_440, 81_920, "53635445414374350261c133122334132057454230645484"),
        ] {
            let found: String = (0..48)
                .map(|seed| char::from_digit(u32::try_from(of(power, all, seed)).unwrap(), 16).unwrap())
                .collect();
            assert_eq!(found, expected, "{power} of {all}");
        }
    }

    /// exp(-5p/t) by another program with the same coefficients: equal to the last bit.
    #[test]
    fn the_rational_function_to_the_last_bit() {
        for (power, all, expected) in [
            (
                1_u64,
                1_u64,
                "780200960193843203865524721501305631184795994974723658032277935470179218480",
            ),
            (
                1,
                2,
                "9504793485703466392022779314467039857741751505144908248870008510107600532782",
            ),
            (
                1,
                10,
                "70231452274613512381056602985470642864132192178645582156052848257716456938065",
            ),
            (
                1,
                1000,
                "115214573782922294537428461934174935166253177911607334833888743131347143318290",
            ),
            (
                3,
                4,
                "2723168926819528721824460644469466140480138898088763267076085692900433747093",
            ),
        ] {
            let lambda = (BigInt::from(5 * power) << 256_usize) / BigInt::from(all);
            assert_eq!(exp_neg(&lambda).to_string(), expected, "{power} of {all}");
        }
        assert_eq!(exp_neg(&BigInt::zero()), BigInt::from(1) << 256_usize);
    }

    #[test]
    fn more_power_never_wins_less_and_nothing_wins_nothing() {
        let mut sum = 0;
        for seed in 0..=255 {
            let rows: Vec<i64> = [0, 1, 10, 50, 90, 100].map(|power| of(power, 100, seed)).into();
            assert!(rows.is_sorted(), "{seed}: {rows:?}");
            assert_eq!(rows[0], 0);
            assert!((0..=WINS_MAX).contains(&rows[5]));
            sum += rows[5];
        }
        // By the other program too; five of each of 256 are expected.
        assert_eq!(sum, 1_226);
        assert_eq!(of(1, 0, 1), 0);
        assert_eq!(wins(&[1; 96], &BigInt::from(-1), &BigInt::from(1)), 0);
    }
}
