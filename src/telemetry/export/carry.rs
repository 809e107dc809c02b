//! Sums that only grow, though what they are sums of comes and goes.
//!
//! Invariant: while the memcached lives on, no sum falls, whichever labels it has: a key that was evicted, or is no longer
//! there, takes nothing back of what it once held.

use super::{Actor, Cycle, Labels, Part};
use crate::model::JobId;
use crate::model::latency::{Call, Histogram};
use crate::telemetry::counts::COUNTED;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// What was not seen for so long is gone: keys live no longer.
const FORGOTTEN_SECONDS: u64 = 24 * 3600;
/// So many actors and calls are remembered; anybody can make up names.
const MAX_REMEMBERED: usize = 200_000;

/// Job and node, unless they are left out, and pool or call.
pub(super) type Key<T> = (Option<JobId>, Option<String>, T);
/// A sum with all its labels.
type Whole<T> = (JobId, String, T);

/// What grows.
pub(super) trait Count: Copy {
    /// Nothing.
    const NONE: Self;
    /// Adds.
    fn add(&mut self, more: &Self);
    /// What came since; a number below the one before began anew.
    fn since(&self, before: &Self) -> Self;
}

impl<const N: usize> Count for [u64; N] {
    const NONE: Self = [0; N];
    fn add(&mut self, more: &Self) {
        self.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.saturating_add(*more));
    }
    fn since(&self, before: &Self) -> Self {
        let mut more = *self;
        more.iter_mut().zip(before).for_each(|(n, before)| *n = n.checked_sub(*before).unwrap_or(*n));
        more
    }
}

impl Count for Histogram {
    const NONE: Self = Histogram { counts: Count::NONE, sum_ns: 0 };
    fn add(&mut self, more: &Self) {
        Histogram::add(self, more);
    }
    fn since(&self, before: &Self) -> Self {
        let [sum_ns] = [self.sum_ns].since(&[before.sum_ns]);
        Histogram { counts: self.counts.since(&before.counts), sum_ns }
    }
}

/// Sums of one kind: of parts that have a key `K` and belong to a pool or call `T`.
#[derive(Debug)]
struct Sums<K, T, V> {
    /// As it was last seen, and when.
    last: HashMap<(Whole<T>, K), (u64, V)>,
    /// All that ever came, and when it was last seen.
    sums: BTreeMap<Whole<T>, (u64, V)>,
    /// What was in sums that are forgotten, by fewer labels.
    base: BTreeMap<Key<T>, V>,
}

impl<K, T, V> Default for Sums<K, T, V> {
    fn default() -> Self {
        Sums { last: HashMap::new(), sums: BTreeMap::new(), base: BTreeMap::new() }
    }
}

impl<K: Eq + Hash, T: Copy + Ord + Hash, V: Count> Sums<K, T, V> {
    fn take(&mut self, at: u64, whole: Whole<T>, key: K, now: V) {
        let (seen, sum) = self.sums.entry(whole.clone()).or_insert((at, V::NONE));
        *seen = at;
        let before = self.last.insert((whole, key), (at, now)).map_or(V::NONE, |(_, before)| before);
        sum.add(&now.since(&before));
    }

    /// Forgets what is gone, and whatever is not in this look where there is too much.
    fn forget(&mut self, at: u64) {
        let life = if self.last.len() > MAX_REMEMBERED { 1 } else { FORGOTTEN_SECONDS };
        let is_gone = |seen: u64| seen.saturating_add(life) <= at;
        self.last.retain(|_, (seen, _)| !is_gone(*seen));
        let base = &mut self.base;
        let before = self.sums.len();
        self.sums.retain(|whole, (seen, sum)| {
            if is_gone(*seen) {
                fewer(whole).into_iter().for_each(|key| base.entry(key).or_insert(V::NONE).add(sum));
            }
            !is_gone(*seen)
        });
        if self.sums.len() < before {
            // What shows nothing any more begins anew, should it ever.
            let shown: BTreeSet<Key<T>> = self.sums.keys().flat_map(fewer).collect();
            self.base.retain(|key, _| (key.0.is_none() && key.1.is_none()) || shown.contains(key));
        }
    }

    fn by(&self, labels: Labels) -> BTreeMap<Key<T>, V> {
        let mut all: BTreeMap<Key<T>, V> = BTreeMap::new();
        for ((job, node, of), (_, sum)) in &self.sums {
            let key = (labels.job.then_some(*job), labels.node.then(|| node.clone()), *of);
            all.entry(key).or_insert(V::NONE).add(sum);
        }
        let is_of = |key: &Key<T>| (key.0.is_some(), key.1.is_some()) == (labels.job, labels.node);
        self.base.iter().filter(|(key, _)| is_of(key)).for_each(|(key, sum)| {
            all.entry(key.clone()).or_insert(V::NONE).add(sum);
        });
        all
    }
}

fn fewer<T: Copy>((job, node, of): &Whole<T>) -> [Key<T>; 3] {
    [(Some(*job), None, *of), (None, Some(node.clone()), *of), (None, None, *of)]
}

/// Sums over all cycles of one life of a memcached.
#[derive(Debug, Default)]
pub struct Carry {
    epoch: Option<String>,
    /// Nothing was read in the last cycle: there is nothing to show.
    is_away: bool,
    counters: Sums<u64, &'static str, [u64; COUNTED]>,
    calls: Sums<(), Call, Histogram>,
}

impl Carry {
    /// Takes a cycle's counters.
    pub fn advance(&mut self, cycle: &Cycle) {
        self.is_away = cycle.epoch.is_none() && cycle.parts.is_empty();
        if self.is_away {
            return;
        }
        if self.epoch != cycle.epoch {
            *self = Carry { epoch: cycle.epoch.clone(), ..Carry::default() };
        }
        for Part { job, node, actors, calls } in &cycle.parts {
            for Actor { pool, number, values } in actors {
                self.counters.take(cycle.at, (*job, node.clone(), *pool), *number, *values);
            }
            for (call, times) in calls {
                self.calls.take(cycle.at, (*job, node.clone(), *call), (), *times);
            }
        }
        self.counters.forget(cycle.at);
        self.calls.forget(cycle.at);
    }

    /// Sums of counters.
    pub(super) fn counters(&self, labels: Labels) -> BTreeMap<Key<&'static str>, [u64; COUNTED]> {
        if self.is_away { BTreeMap::new() } else { self.counters.by(labels) }
    }

    /// Sums of durations.
    pub(super) fn calls(&self, labels: Labels) -> BTreeMap<Key<Call>, Histogram> {
        if self.is_away { BTreeMap::new() } else { self.calls.by(labels) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::cycle;
    use super::*;

    const NONE: Labels = Labels { job: false, node: false };
    const ALL: Labels = Labels { job: true, node: true };
    const JOB: Labels = Labels { job: true, node: false };

    fn files(carry: &Carry, labels: Labels) -> Vec<u64> {
        carry.counters(labels).iter().filter(|(key, _)| key.2 == "files").map(|(_, values)| values[0]).collect()
    }

    fn opened(carry: &Carry) -> u64 {
        carry.calls(NONE).values().map(Histogram::count).sum()
    }

    #[test]
    fn what_vanishes_or_falls_takes_nothing_back() {
        let mut carry = Carry::default();
        let mut now = cycle();
        carry.advance(&now);
        assert_eq!((files(&carry, NONE), files(&carry, ALL), opened(&carry)), (vec![24], vec![12, 12], 10));
        now.parts[0].actors[2].values[0] = 0;
        now.parts[0].calls[0].1.counts[3] = 1;
        carry.advance(&now);
        assert_eq!((files(&carry, NONE), files(&carry, ALL), opened(&carry)), (vec![24], vec![12, 12], 11), "evicted");
        now.parts[0].actors[2].values[0] = 2;
        let lost = now.parts.pop();
        carry.advance(&now);
        assert_eq!((files(&carry, NONE), files(&carry, JOB)), (vec![26], vec![26]), "one began anew, one is lost");
        now.parts.extend(lost);
        carry.advance(&now);
        assert_eq!(files(&carry, ALL), vec![14, 12], "and is back");
        carry.advance(&Cycle::default());
        assert!(files(&carry, NONE).is_empty(), "nobody can say");
        carry.advance(&now);
        assert_eq!(files(&carry, NONE), vec![26]);
        now.epoch = Some("another".into());
        carry.advance(&now);
        assert_eq!(files(&carry, NONE), vec![2 + 1 + 12]);
    }

    #[test]
    fn what_is_forgotten_stays_in_sums_with_fewer_labels() {
        let mut carry = Carry::default();
        let mut now = cycle();
        carry.advance(&now);
        now.parts.pop();
        now.at += FORGOTTEN_SECONDS;
        carry.advance(&now);
        assert_eq!((files(&carry, ALL), files(&carry, JOB), files(&carry, NONE)), (vec![12], vec![24], vec![24]));
        now.parts.clear();
        now.at += FORGOTTEN_SECONDS;
        carry.advance(&now);
        assert!(carry.counters.last.is_empty() && files(&carry, JOB).is_empty());
        assert_eq!(files(&carry, NONE), vec![24]);
    }
}
