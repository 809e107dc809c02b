//! The one function through which names reach a terminal, a log or a report.

use std::fmt::Write as _;

/// Renders arbitrary bytes so that no terminal, log viewer or pager can be attacked by them.
///
/// Printable Unicode stays as it is. Control characters (C0, DEL, C1), line and paragraph
/// separators, bidirectional and zero-width formatting, and bytes that are not UTF-8 become
/// `\xNN` or `\u{N}`; a backslash becomes `\\`, so that the result can be read back without doubt.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c => push_harmless(&mut out, c),
            }
        }
        for b in chunk.invalid() {
            push_hex(&mut out, *b);
        }
    }
    out
}

/// As [`escaped`], for words in which names are escaped already: what it put there stays as it is.
pub fn defused(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push_harmless(&mut out, c));
    out
}

fn push_harmless(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        c if (c as u32) < 0x20 || c as u32 == 0x7f => push_hex(out, c as u8),
        c if is_deceptive(c) => {
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        }
        c => out.push(c),
    }
}

fn push_hex(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02x}");
}

/// C1 controls and the format characters that reorder or hide text (Unicode general category Cf,
/// the part that terminals honour).
fn is_deceptive(c: char) -> bool {
    matches!(c as u32,
        0x80..=0x9f | 0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x2069
        | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::{defused, escaped};
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_stay_readable() {
        assert_eq!(escaped("naïve file – 日本語 😀".as_bytes()), "naïve file – 日本語 😀");
    }

    #[test]
    fn controls_bidi_and_invalid_bytes_are_spelled_out() {
        assert_eq!(escaped(b"a\x1b[31m\n\xff\\"), "a\\x1b[31m\\n\\xff\\\\");
        assert_eq!(escaped("x\u{202e}y\u{9b}".as_bytes()), "x\\u{202e}y\\u{9b}");
    }

    #[test]
    fn what_is_escaped_once_is_not_escaped_again() {
        let shown = escaped("a\\b\n\u{202e}".as_bytes());
        assert_eq!(defused(&shown), shown);
        assert_eq!(defused("a\\b\n\u{202e}\u{9b}"), "a\\b\\n\\u{202e}\\u{9b}");
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_obeys_survives(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!escaped(&bytes).chars().any(char::is_control));
        }
    }
}
