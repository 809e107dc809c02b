//! The keys of a `synth://` URL, read strictly.

use crate::fs::{RootError, latency};
use crate::model::escaped;
use std::time::Duration;

/// Most entries of a tree; numbers and sums stay far from overflow.
pub const MAX_ENTRIES: u64 = 1_000_000_000_000_000;
/// Most bytes in a file: what an offset can hold.
pub const MAX_SIZE_BYTES: u64 = i64::MAX as u64;
/// Deepest tree. 10 000 components of at most 17 bytes stay below the longest accepted path (1 MiB).
pub const MAX_DEPTH: u32 = 10_000;

/// From `min` to `max`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Smallest.
    pub min: u64,
    /// Largest.
    pub max: u64,
}

impl Range {
    /// The middle, rounded down.
    pub fn mean(self) -> u64 {
        self.min + (self.max - self.min) / 2
    }
}

/// What a `synth://` URL asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Entries below the root, exactly.
    pub entries: u64,
    /// Another seed is another tree.
    pub seed: u64,
    /// Files in a directory.
    pub files: Range,
    /// Child directories of a directory that needs any.
    pub dirs: Range,
    /// Directories this far below the root hold only files.
    pub depth: u32,
    /// Bytes in a file.
    pub size: Range,
    /// Are all orders of magnitude of size equally likely?
    pub log: bool,
    /// What each operation takes at least.
    pub latency: Duration,
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            entries: 1_000_000,
            seed: 0,
            files: Range { min: 32, max: 96 },
            dirs: Range { min: 4, max: 12 },
            depth: 64,
            size: Range { min: 0, max: 2048 },
            log: false,
            latency: Duration::ZERO,
        }
    }
}

/// Takes the value of one key.
type Take = fn(&mut Spec, &str) -> Result<(), String>;

/// Every key and what takes its value.
const KEYS: &[(&str, Take)] = &[
    ("entries", |s, v| number(v, MAX_ENTRIES).map(|n| s.entries = n)),
    ("seed", |s, v| number(v, u64::MAX).map(|n| s.seed = n)),
    ("files", |s, v| range(v, MAX_ENTRIES).map(|r| s.files = r)),
    ("dirs", |s, v| range(v, MAX_ENTRIES).map(|r| s.dirs = r)),
    ("depth", |s, v| number(v, MAX_DEPTH.into()).map(|n| s.depth = n as u32)),
    ("size", |s, v| range(v, MAX_SIZE_BYTES).map(|r| s.size = r)),
    ("sizes", |s, v| match v {
        "uniform" | "log" => {
            s.log = v == "log";
            Ok(())
        }
        _ => Err("expected 'uniform' or 'log'".to_owned()),
    }),
    ("latency", |s, v| latency::parse(v).map(|latency| s.latency = latency)),
];

/// Reads what stands after `synth://`.
///
/// # Errors
/// [`RootError::BadUrl`], which names the key and what it should be.
pub fn parse(rest: &[u8]) -> Result<Spec, RootError> {
    let bad = |why: String| RootError::BadUrl(format!("synth://{}: {why}", escaped(rest)));
    let mut spec = Spec::default();
    if rest.is_empty() || rest == b"?" {
        return Ok(spec);
    }
    let Some(query) = rest.strip_prefix(b"?") else {
        return Err(bad("a made-up tree has no host or path: write synth://?key=value&key=value".to_owned()));
    };
    let query = std::str::from_utf8(query).map_err(|_| bad("not UTF-8".to_owned()))?;
    let mut seen: Vec<&str> = Vec::new();
    for pair in query.split('&') {
        let shown = escaped(pair.as_bytes());
        let Some((key, value)) = pair.split_once('=') else {
            return Err(bad(format!("'{shown}' has no value: write key=value")));
        };
        let Some((known, take)) = KEYS.iter().find(|(k, _)| *k == key) else {
            return Err(bad(format!("unknown key '{}': did you mean '{}'?", escaped(key.as_bytes()), nearest(key))));
        };
        if seen.contains(known) {
            return Err(bad(format!("key '{known}' is given twice")));
        }
        seen.push(known);
        take(&mut spec, value).map_err(|why| bad(format!("'{shown}': {why}")))?;
    }
    Ok(spec)
}

fn number(text: &str, max: u64) -> Result<u64, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parsed = if digits { text.parse().ok().filter(|n| *n <= max) } else { None };
    parsed.ok_or_else(|| format!("'{}' is not a whole number from 0 to {max}", escaped(text.as_bytes())))
}

fn range(text: &str, max: u64) -> Result<Range, String> {
    let (min, max) = match text.split_once('-') {
        Some((from, to)) => (number(from, max)?, number(to, max)?),
        None => number(text, max).map(|n| (n, n))?,
    };
    if min > max {
        return Err("the range is empty: write smallest-largest".to_owned());
    }
    Ok(Range { min, max })
}

/// The known key that takes the fewest edits (Levenshtein distance) to reach.
fn nearest(key: &str) -> &'static str {
    let by_distance = KEYS.iter().min_by_key(|(known, _)| distance(key.as_bytes(), known.as_bytes()));
    by_distance.map_or("entries", |(known, _)| known)
}

fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let here = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], here);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(rest: &str) -> String {
        parse(rest.as_bytes()).expect_err(rest).to_string()
    }

    #[test]
    fn every_key_is_taken() {
        let all = b"?entries=5&seed=18446744073709551615&files=1-2&dirs=3&depth=4&size=0-9&sizes=log&latency=7us";
        let (files, dirs, size) = (Range { min: 1, max: 2 }, Range { min: 3, max: 3 }, Range { min: 0, max: 9 });
        let want = Spec {
            entries: 5,
            seed: u64::MAX,
            files,
            dirs,
            depth: 4,
            size,
            log: true,
            latency: Duration::from_micros(7),
        };
        assert_eq!(parse(all), Ok(want));
        assert_eq!(parse(b""), Ok(Spec::default()));
    }

    #[test]
    fn what_is_wrong_is_named_with_the_way_out() {
        for (url, word) in [
            ("?entrys=1", "unknown key 'entrys': did you mean 'entries'?"),
            ("?latencies=1", "did you mean 'latency'?"),
            ("?latency=1", "'1' is no time from 0 to 60s"),
            ("?seed", "'seed' has no value"),
            ("?seed=1&seed=2", "key 'seed' is given twice"),
            ("?entries=1e6", "'entries=1e6': '1e6' is not a whole number from 0 to 1000000000000000"),
            ("?entries=", "'' is not a whole number"),
            ("?entries=-1", "'-1' is not a whole number"),
            ("?entries=99999999999999999999", "is not a whole number from 0"),
            ("?depth=10001", "from 0 to 10000"),
            ("?size=9-1", "the range is empty"),
            ("?sizes=normal", "expected 'uniform' or 'log'"),
            ("host/path", "no host or path"),
            ("?seed=\u{1b}[31m", "'\\x1b[31m' is not a whole number"),
            ("?", ""),
        ] {
            if word.is_empty() {
                assert_eq!(parse(url.as_bytes()), Ok(Spec::default()));
            } else {
                let got = message(url);
                assert!(got.contains(word), "{got}");
            }
        }
        assert!(parse(b"?seed=\xff").is_err());
    }
}
