//! How keys are made, and what their values look like.
//!
//! Invariant: what is read was written by anybody; what is not exactly as it is written here is nothing.

use crate::model::JobId;
use crate::model::fleet::Space;
use crate::model::latency::Call;
use crate::telemetry::counts::{Gauges, TargetSpace};
use memcache::exp::GetResult;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Which life of the memcached it is.
pub const EPOCH: &str = "treehaul.epoch";
/// How many slots there are.
pub const INDEX: &str = "treehaul.index";
/// Kinds of actors, as they are in keys.
pub const POOLS: [&str; 2] = ["dirs", "files"];
/// A node's part of a key is no longer, so that no key is too long.
const MAX_NODE: usize = 128;
/// Actors of a kind, on a node, for a job: more cannot be there.
const MAX_ACTORS: u64 = 4096;
/// Targets of a node.
const MAX_TARGETS: usize = 256;

/// A node's name as it is in keys, paths and labels: what is no letter, digit, `-` or `_` becomes `_`.
pub fn node_part(name: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    name.bytes().take(MAX_NODE).map(|b| if is_plain(b) { char::from(b) } else { '_' }).collect()
}

/// The text of a value.
pub fn text(found: &GetResult) -> Option<String> {
    found.value.as_ref().and_then(|value| String::from_utf8(value.clone()).ok())
}

/// The number of a value; `decr` of other tools leaves spaces behind it.
pub fn number(found: &GetResult) -> Option<u64> {
    std::str::from_utf8(found.value.as_ref()?).ok()?.trim_end().parse().ok()
}

/// A slot's key.
pub fn slot(n: u64) -> String {
    format!("{INDEX}.{n}")
}

/// A counter's key.
pub fn counter(job: JobId, node: &str, pool: &str, number: u64, counter: &str) -> String {
    format!("treehaul.{job}.{node}.{pool}_{number}.{counter}")
}

/// The key of a bucket of a histogram.
pub fn bucket(job: JobId, node: &str, call: Call, bucket: usize) -> String {
    format!("treehaul.{job}.{node}.latency.{}.{bucket}", call.word())
}

/// The key of a histogram's sum.
pub fn sum(job: JobId, node: &str, call: Call) -> String {
    format!("treehaul.{job}.{node}.latency.{}.sum_ns", call.word())
}

/// The key of a node's gauges.
pub fn gauges(node: &str) -> String {
    format!("treehaul.node.{node}.gauges")
}

/// What a slot says: whose keys there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// The job; none: a node as such.
    pub job: Option<JobId>,
    /// The node's part of keys.
    pub node: String,
    /// Actors by pool: dirs, files.
    pub actors: [BTreeSet<u64>; 2],
    /// Calls that were timed.
    pub calls: BTreeSet<Call>,
}

impl Slot {
    /// Are both about the same node's part of the same job?
    pub fn is_of(&self, other: &Slot) -> bool {
        (self.job, &self.node) == (other.job, &other.node)
    }

    /// Adds what another says of the same. False if it said nothing new.
    pub fn merge(&mut self, other: &Slot) -> bool {
        let before = self.len();
        self.actors.iter_mut().zip(&other.actors).for_each(|(mine, more)| mine.extend(more));
        self.calls.extend(&other.calls);
        self.len() > before
    }

    /// Does the other say nothing new?
    pub fn holds(&self, other: &Slot) -> bool {
        self.actors.iter().zip(&other.actors).all(|(mine, more)| more.is_subset(mine))
            && other.calls.is_subset(&self.calls)
    }

    /// How many actors and calls it names.
    pub fn len(&self) -> usize {
        self.actors.iter().map(BTreeSet::len).sum::<usize>() + self.calls.len()
    }

    /// As it is written.
    pub fn write(&self) -> String {
        let mut out = self.job.map_or_else(|| "-".to_owned(), |job| job.to_string());
        let _ = write!(out, " {}", self.node); // a String takes everything
        for (pool, numbers) in POOLS.iter().zip(&self.actors) {
            if !numbers.is_empty() {
                let _ = write!(out, " {pool}={}", write_ranges(numbers));
            }
        }
        if !self.calls.is_empty() {
            let _ = write!(out, " calls={}", self.calls.iter().map(|call| call.word()).collect::<Vec<_>>().join(","));
        }
        out
    }

    /// Reads what was written.
    pub fn read(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let job = match words.next()? {
            "-" => None,
            job => Some(JobId::parse(job.as_bytes())?),
        };
        let node = words.next().filter(|node| !node.is_empty() && node_part(node) == **node)?.to_owned();
        let mut slot = Slot { job, node, ..Slot::default() };
        for word in words {
            match word.split_once('=')? {
                ("dirs", ranges) => slot.actors[0] = read_ranges(ranges)?,
                ("files", ranges) => slot.actors[1] = read_ranges(ranges)?,
                ("calls", calls) => slot.calls.extend(calls.split(',').filter_map(call_of)),
                _ => {} // a later version's
            }
        }
        Some(slot)
    }
}

fn call_of(word: &str) -> Option<Call> {
    Call::ALL.iter().copied().find(|call| call.word() == word)
}

fn write_ranges(numbers: &BTreeSet<u64>) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &n in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(n) => *last = n,
            _ => ranges.push((n, n)),
        }
    }
    let words = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    words.collect::<Vec<_>>().join(",")
}

fn read_ranges(text: &str) -> Option<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for word in text.split(',') {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        // However many slots are put together, there are no more of them.
        if last < first || last >= MAX_ACTORS {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

/// Gauges as they are written, with the time of writing.
pub fn write_gauges(gauges: &Gauges, at: u64) -> String {
    let mut out = format!(
        "at={at} actors_dirs={} actors_files={} busy_dirs={} busy_files={} in_flight={} queue_wait_us={} blocked={} rss_bytes={}",
        gauges.actors[0],
        gauges.actors[1],
        gauges.busy[0],
        gauges.busy[1],
        gauges.in_flight,
        gauges.queue_wait_us,
        u8::from(gauges.blocked),
        gauges.rss_bytes,
    );
    for TargetSpace { job, space } in &gauges.targets {
        let Space { bytes, free_bytes, inodes, free_inodes } = space;
        let _ = write!(out, " target.{job}={bytes},{free_bytes},{inodes},{free_inodes}");
    }
    out
}

/// Reads them, and the time.
pub fn read_gauges(text: &str) -> Option<(Gauges, u64)> {
    let mut gauges = Gauges::default();
    let mut at = None;
    for (name, value) in text.split(' ').filter_map(|word| word.split_once('=')) {
        if let Some(job) = name.strip_prefix("target.") {
            let has_room = gauges.targets.len() < MAX_TARGETS;
            gauges.targets.extend(read_space(job, value).filter(|_| has_room));
            continue;
        }
        let number: u64 = value.parse().ok()?;
        let small = u32::try_from(number).unwrap_or(u32::MAX);
        match name {
            "at" => at = Some(number),
            "actors_dirs" => gauges.actors[0] = small,
            "actors_files" => gauges.actors[1] = small,
            "busy_dirs" => gauges.busy[0] = small,
            "busy_files" => gauges.busy[1] = small,
            "in_flight" => gauges.in_flight = number,
            "queue_wait_us" => gauges.queue_wait_us = number,
            "blocked" => gauges.blocked = number > 0,
            "rss_bytes" => gauges.rss_bytes = number,
            _ => {} // a later version's
        }
    }
    Some((gauges, at?))
}

fn read_space(job: &str, value: &str) -> Option<TargetSpace> {
    let job = JobId::parse(job.as_bytes())?;
    let numbers: Vec<u64> = value.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [bytes, free_bytes, inodes, free_inodes] = numbers.try_into().ok()?;
    Some(TargetSpace { job, space: Space { bytes, free_bytes, inodes, free_inodes } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slot_reads_back() {
        let slot = Slot {
            job: Some(JobId::random()),
            node: "a_b".into(),
            actors: [(0..16).chain([18]).collect(), [4000].into()],
            calls: [Call::Open, Call::Stat].into(),
        };
        assert_eq!(Slot::read(&slot.write()), Some(slot.clone()));
        assert!(slot.write().ends_with(" a_b dirs=0-15,18 files=4000 calls=stat,open"), "{}", slot.write());
        let node = Slot { node: "n".into(), ..Slot::default() };
        assert_eq!((node.write(), Slot::read("- n")), ("- n".to_owned(), Some(node)));
    }

    #[test]
    fn a_damaged_slot_is_none() {
        let job = JobId::random();
        for text in [
            String::new(),
            "-".into(),
            "- ".into(),
            "- a.b".into(),
            "- a\r\nb".into(),
            "x n dirs=0-3".into(),
            format!("{job} n dirs=3-0"),
            format!("{job} n dirs=0-18446744073709551615"),
            format!("{job} n dirs=-"),
            format!("{job} n dirs"),
            format!("{job} n files=0-4095,5000-5001"),
            format!("{job} n files=4096"),
        ] {
            assert_eq!(Slot::read(&text), None, "{text:?}");
        }
    }

    #[test]
    fn gauges_read_back_and_damaged_ones_are_none() {
        let space = Space { bytes: 1, free_bytes: 2, inodes: 3, free_inodes: u64::MAX };
        let gauges = Gauges {
            actors: [1, 2],
            busy: [3, 4],
            in_flight: 5,
            queue_wait_us: 6,
            blocked: true,
            rss_bytes: 7,
            targets: vec![TargetSpace { job: JobId::random(), space }],
        };
        assert_eq!(read_gauges(&write_gauges(&gauges, 99)), Some((gauges, 99)));
        for text in ["", "at=", "at=x", "actors_dirs=3", "at=5 busy_dirs=-1"] {
            assert_eq!(read_gauges(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_too_strange(text in ".{0,200}") {
            let _ = (Slot::read(&text), read_gauges(&text));
        }

        #[test]
        fn a_name_becomes_a_part_that_stays_itself(name in ".{0,200}") {
            let part = node_part(&name);
            prop_assert_eq!(node_part(&part), part.clone());
            prop_assert!(part.len() <= 128 && part.bytes().all(|b| b.is_ascii_graphic() && b != b'.'));
        }
    }
}
