//! Amounts of FIL as people write them. A unit is required: a bare number is FIL in one tool and attoFIL
//! in another, and a mistake there is 18 digits large.

use std::str::FromStr;

use crate::types::{BigInt, TokenAmount};

/// Units from large to small, with the number of decimal places that each has.
const UNITS: [(&str, usize); 6] = [
    ("FIL", 18),
    ("milliFIL", 15),
    ("microFIL", 12),
    ("nanoFIL", 9),
    ("picoFIL", 6),
    ("attoFIL", 0),
];

/// More digits than the whole supply has in attoFIL.
const DIGITS: usize = 40;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an amount: {reason}; write for example `0.5 FIL` or `100 attoFIL`")]
pub struct AmountError {
    text: String,
    reason: String,
}

/// Reads an amount that is zero or more, with its unit: `FIL`, `milliFIL`, `microFIL`, `nanoFIL`, `picoFIL`
/// or `attoFIL`.
///
/// # Errors
/// There is no unit or an unknown one, the number is no decimal number, it is negative, or it has more
/// places than the unit.
pub fn parse(text: &str) -> Result<TokenAmount, AmountError> {
    let error = |reason: &str| AmountError {
        text: text.chars().take(DIGITS).collect(),
        reason: reason.into(),
    };
    let trimmed = text.trim();
    let split = trimmed
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .ok_or_else(|| error("it has no unit"))?;
    let (number, unit) = trimmed.split_at(split);
    let unit = unit.trim();
    if number.is_empty() {
        return Err(error("it does not begin with a digit"));
    }
    let (_, places) = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(|| error("its unit is not one of FIL, milliFIL, microFIL, nanoFIL, picoFIL, attoFIL"))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.ends_with('.') || whole.is_empty() || fraction.contains('.') {
        return Err(error("its number is not a decimal number"));
    }
    if fraction.len() > *places {
        return Err(error("it has more decimal places than its unit"));
    }
    if number.len() > DIGITS {
        return Err(error("it has too many digits"));
    }
    let digits = format!("{whole}{fraction:0<places$}");
    let atto = BigInt::from_str(&digits).map_err(|_| error("its number is not a decimal number"))?;
    Ok(TokenAmount::from_atto(atto))
}

/// Reads a whole number of attoFIL as nodes write it in JSON: an optional sign and digits.
///
/// # Errors
/// The text is no such number, or longer than any amount.
pub fn parse_atto(text: &str) -> Result<TokenAmount, AmountError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.len() <= 100 && digits.bytes().all(|b| b.is_ascii_digit());
    let error = || AmountError {
        text: text.chars().take(DIGITS).collect(),
        reason: "it is not a whole number of attoFIL".into(),
    };
    if !plain {
        return Err(error());
    }
    let atto = BigInt::from_str(text).map_err(|_| error())?;
    Ok(TokenAmount::from_atto(atto))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_with_units() {
        for (text, atto) in [
            ("1 FIL", "1000000000000000000"),
            ("0.5FIL", "500000000000000000"),
            ("0.000000000000000001 FIL", "1"),
            ("1.5 nanofil", "1500000000"),
            ("100 attoFIL", "100"),
            ("0 FIL", "0"),
            (" 2 milliFIL ", "2000000000000000"),
        ] {
            assert_eq!(parse(text).unwrap().atto().to_string(), atto, "{text}");
        }
    }

    #[test]
    fn typing_mistakes_are_refused() {
        for (text, reason) in [
            ("1", "no unit"),
            ("", "no unit"),
            ("1.5", "no unit"),
            ("1,5 FIL", "unit is not one of"),
            ("1 FILL", "unit is not one of"),
            ("-1 FIL", "does not begin with a digit"),
            ("1..5 FIL", "decimal number"),
            ("1. FIL", "decimal number"),
            (".5 FIL", "decimal number"),
            ("1e18 attoFIL", "unit is not one of"),
            ("0.5 attoFIL", "more decimal places"),
            ("0.0000000000000000001 FIL", "more decimal places"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("{} FIL", "9".repeat(1000));
        assert!(parse(&long).unwrap_err().to_string().contains("too many digits"));
    }

    #[test]
    fn numbers_of_nodes() {
        assert_eq!(parse_atto("110").unwrap(), TokenAmount::from_atto(110));
        assert_eq!(parse_atto("-1").unwrap(), TokenAmount::from_atto(-1));
        for bad in ["", "-", "1.5", "0x10", "1 ", "+1", "--1"] {
            assert!(parse_atto(bad).is_err(), "{bad}");
        }
        assert!(parse_atto(&"9".repeat(101)).is_err());
    }
}
