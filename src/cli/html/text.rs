//! Numbers, times and names as they stand in the page.
//!
//! Invariant: what comes from outside gets into the page through [`words`] or [`name`] alone.

use crate::model::{Timestamp, escaped};
use indicatif::HumanCount;
use std::time::Duration;

/// Text in the page, also between quotes; it may hold names that are escaped already.
pub fn words(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let pieces: Vec<String> = text.split('\\').map(|piece| escaped(piece.as_bytes())).collect();
    for c in pieces.join("\\").chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No character at all, and no parser of XML takes them.
            '\u{fffe}' | '\u{ffff}' => out.push_str(&format!("\\u{{{:x}}}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// A name or path in the page.
pub fn name(bytes: &[u8]) -> String {
    words(&if bytes.is_empty() { ".".to_owned() } else { escaped(bytes) })
}

/// With a capital at its beginning.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A number, with separators.
pub fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// So many of a thing.
pub fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A size, in binary units with three digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in UNITS {
        // 1023.7 would be rounded to four digits.
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    let digits = match value {
        _ if unit == "B" || value.fract() == 0.0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

/// So much a second, of anything.
pub fn rate(n: u64, time: Duration) -> f64 {
    n as f64 / time.as_secs_f64().max(1e-3)
}

/// A part of a whole, in percent.
pub fn percent(part: u64, whole: u64) -> String {
    match part as f64 * 100.0 / whole.max(1) as f64 {
        0.0 => "0 %".to_owned(),
        p if p < 0.1 => "&lt; 0.1 %".to_owned(),
        p if p < 10.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// How long something took, in its two or three largest units.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (d, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match time.as_secs_f64() {
        t if t < 1.0 => format!("{:.0} ms", t * 1000.0),
        t if t < 60.0 => format!("{t:.1} s"),
        _ if d > 0 => format!("{d} d {h} h {m} min"),
        _ if h > 0 => format!("{h} h {m} min {s} s"),
        _ => format!("{m} min {s} s"),
    }
}

/// A point in time by this machine's zone; by UTC where it has none.
pub fn moment(time: Timestamp) -> String {
    let ns = i32::try_from(time.ns).unwrap_or_default();
    let Ok(time) = jiff::Timestamp::new(time.sec, ns) else { return format!("@{}", time.sec) };
    let zone = jiff::tz::TimeZone::try_system().unwrap_or(jiff::tz::TimeZone::UTC);
    time.to_zoned(zone).strftime("%a %-d %b %Y, %H:%M:%S UTC%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(name(b"<script>&\"'"), "&lt;script&gt;&amp;&quot;&#39;");
        assert_eq!(name(b"a\x1b]0;x\x07\xff\n"), "a\\x1b]0;x\\x07\\xff\\n");
        assert_eq!(name("x\u{202e}y\u{ffff}".as_bytes()), "x\\u{202e}y\\u{ffff}");
        assert_eq!(name(b""), ".");
        assert_eq!(words("\u{fffe}\x07"), "\\u{fffe}\\x07");
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1024, "1 KiB"),
            (1536, "1.50 KiB"),
            (1023 * 1024, "1.00 MiB"),
            (123 << 20, "123 MiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        for (ms, text) in [(7, "7 ms"), (1500, "1.5 s"), (61_000, "1 min 1 s"), (90_061_000, "1 d 1 h 1 min")] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        assert_eq!([percent(0, 5), percent(1, 100_000), percent(1, 3)], ["0 %", "&lt; 0.1 %", "33 %"]);
    }
}
