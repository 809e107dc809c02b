//! Sizes on the command line.

/// Bytes of `N`, `NK`, `NM`, `NG` or `NT`: powers of 1024.
///
/// # Errors
/// What is wrong with the text, for the user.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no size: give bytes, or a number with K, M, G or T (powers of 1024)");
    let (digits, shift) = match text.as_bytes().last().ok_or_else(wrong)?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    // `parse` would take a sign too.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let too_large = || format!("'{text}' is more than 2^64 bytes");
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    number.checked_mul(1 << shift).ok_or_else(too_large)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_powers_of_1024_and_nothing_else_is_one() {
        for (text, bytes) in [("0", 0), ("17", 17), ("1K", 1024), ("3m", 3 << 20), ("2G", 2 << 30), ("1T", 1 << 40)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "+1", "1.5G", "1 G", "1GiB", "ten", "1\u{e9}", "20000000000000000000", "16777216T"]
        {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
