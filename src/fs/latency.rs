//! Made-up filesystems that answer as slowly as a server does: how a fleet of actors hides that can be measured.

use crate::model::escaped;
use std::time::Duration;

/// Longest latency: what is longer is a mistake.
const MAX: Duration = Duration::from_secs(60);
/// Units and their nanoseconds.
const UNITS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// Reads a number with its unit: `2ms`.
///
/// # Errors
/// What it should be.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ns)| *ns);
    let unit = unit.or_else(|| (number == "0" && digits == text.len()).then_some(1));
    let time = unit.zip(number.parse::<u64>().ok()).and_then(|(ns, n)| ns.checked_mul(n)).map(Duration::from_nanos);
    time.filter(|time| *time <= MAX).ok_or_else(|| {
        format!("'{}' is no time from 0 to {}s: write 2ms, 500us", escaped(text.as_bytes()), MAX.as_secs())
    })
}

/// Waits for the answer. Without a latency there is nothing to wait for.
pub(super) fn round_trip(latency: Duration) {
    if !latency.is_zero() {
        sleep(latency);
    }
}

/// Calls of the port block, and blocking is what a latency is.
#[cold]
fn sleep(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_bounds() {
        for (text, ns) in
            [("0", 0), ("0ms", 0), ("2ms", 2_000_000), ("500us", 500_000), ("7ns", 7), ("60s", 60_000_000_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        for text in ["", "2", "ms", "2 ms", "-2ms", "2.5ms", "61s", "2m", "99999999999999999999s", "\u{1b}ms"] {
            assert!(parse(text).is_err_and(|why| why.contains("write 2ms")), "{text}");
        }
    }
}
