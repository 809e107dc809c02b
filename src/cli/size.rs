//! Sizes as people write them.

use crate::model::escaped;
use anyhow::Context;

/// Letters of the units, each 1024 of the one before.
const UNITS: [char; 5] = ['K', 'M', 'G', 'T', 'P'];

/// Reads bytes, or a number with K, M, G, T or P (KiB and so on), which are binary.
///
/// # Errors
/// What was expected instead.
pub fn parse_size(text: &str) -> anyhow::Result<u64> {
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.find(|c: char| !c.is_ascii_digit()).unwrap_or(upper.len());
    let (number, unit) = upper.split_at(digits);
    let shown = || escaped(text.as_bytes());
    let letter = unit.strip_suffix("IB").or((unit != "B").then_some(unit)).unwrap_or_default();
    let power = match letter {
        "" if unit != "IB" => Some(0),
        letter => UNITS.iter().position(|u| letter.chars().eq([*u])).map(|at| at + 1),
    };
    let (Ok(number), Some(power)) = (number.parse::<u128>(), power) else {
        anyhow::bail!(
            "'{}' is no size: write bytes, or a whole number with K, M, G, T or P (KiB and so on: 1024)",
            shown()
        );
    };
    let bytes = number.checked_mul(1 << (10 * power)).and_then(|bytes| u64::try_from(bytes).ok());
    bytes.with_context(|| format!("'{}' is more than any file has", shown()))
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_binary() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("1k", 1024),
            ("3M", 3 << 20),
            ("2GiB", 2 << 30),
            ("1T", 1 << 40),
            ("5P", 5 << 50),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "K",
            "iB",
            "1iB",
            "-1",
            "1KB",
            "1.5G",
            "1X",
            "1KK",
            "99999999999999999999999999999999999999999",
            "99999P",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
