//! What an exporter does: it reads.

use super::keys::{self, POOLS, Slot};
use super::{LIFE_SECONDS, MAX_SLOTS, MemcachedError, Server};
use crate::model::JobId;
use crate::model::latency::{BUCKETS, Call, Histogram};
use crate::telemetry::counts::{ActorCounts, COUNTED, COUNTERS, CallTimes, Counts};
use memcache::exp::{Get, GetResult};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Actors of all nodes and jobs that are read; anybody can write a slot.
const MAX_ACTORS: usize = 100_000;
/// Whoever answers in drops is waited for no longer.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// What there was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Which life of the memcached it is from: with another one, counters began anew.
    pub epoch: String,
    /// By name.
    pub nodes: Vec<NodeCounts>,
    /// There was more than is ever read.
    pub is_cut: bool,
}

/// What a node counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeCounts {
    /// Its part of keys.
    pub node: String,
    /// All since the epoch began, or since keys were evicted; what is at 0 was looked for.
    pub counts: Counts,
    /// When it last said what it does, in seconds since 1970; none of one that left.
    pub seen: Option<u64>,
}

/// A reader's side of a memcached.
#[derive(Debug)]
pub struct MemcachedReader {
    server: Server,
    epoch: String,
    /// Slots that were seen, and when last: one that is evicted is looked for all the same.
    known: BTreeMap<(JobId, String), (Slot, Instant)>,
    /// There was more than is kept.
    is_cut: bool,
}

impl MemcachedReader {
    /// A memcached at HOST:PORT. Connects when it is first used.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(address: &str) -> Result<Self, MemcachedError> {
        Ok(MemcachedReader {
            server: Server::new(address)?,
            epoch: String::new(),
            known: BTreeMap::new(),
            is_cut: false,
        })
    }

    /// Reads everything.
    ///
    /// # Errors
    /// [`MemcachedError`]: it did not answer, or not all, in a few seconds, or was restarted meanwhile.
    pub fn read(&mut self) -> Result<Snapshot, MemcachedError> {
        self.server.deadline = Some(Instant::now() + READ_PATIENCE);
        self.read_in_one_life()
    }

    fn read_in_one_life(&mut self) -> Result<Snapshot, MemcachedError> {
        for _ in 0..2 {
            let epoch = self.server.epoch()?;
            if std::mem::replace(&mut self.epoch, epoch.clone()) != epoch {
                self.known.clear();
            }
            let mut snapshot = self.read_all()?;
            // Of two lives nothing can be said.
            if self.server.epoch()? == epoch {
                snapshot.epoch = epoch;
                return Ok(snapshot);
            }
        }
        Err(self.server.error("it is being restarted all the time"))
    }

    fn read_all(&mut self) -> Result<Snapshot, MemcachedError> {
        let named = self.look_up()?;
        let mut all: BTreeMap<String, NodeCounts> =
            named.into_iter().map(|node| (node.clone(), NodeCounts { node, ..NodeCounts::default() })).collect();
        let mut budget = MAX_ACTORS;
        let mut is_cut = self.is_cut;
        let slots: Vec<Slot> = self.known.values().map(|(slot, _)| slot.clone()).collect();
        for slot in slots {
            let Some(rest) = budget.checked_sub(slot.len()) else {
                is_cut = true;
                continue;
            };
            budget = rest;
            let node = all.entry(slot.node.clone()).or_default();
            node.node.clone_from(&slot.node);
            if let Some(job) = slot.job {
                self.read_actors(job, &slot, &mut node.counts)?;
                self.read_calls(job, &slot, &mut node.counts)?;
            }
        }
        let mut gauges = Vec::with_capacity(all.len());
        self.server.look(all.keys().map(|node| Get::new(keys::gauges(node))), |found| {
            gauges.push(found.as_ref().and_then(keys::text).and_then(|text| keys::read_gauges(&text)));
        })?;
        for (node, read) in all.values_mut().zip(gauges) {
            if let Some((gauges, at)) = read {
                node.counts.gauges = gauges;
                node.seen = Some(at);
            }
        }
        Ok(Snapshot { epoch: String::new(), nodes: all.into_values().collect(), is_cut })
    }

    /// Reads slots; what is left are names of nodes.
    fn look_up(&mut self) -> Result<BTreeSet<String>, MemcachedError> {
        let index = self.server.get([Get::new(keys::INDEX)])?;
        let count = index.iter().flatten().find_map(keys::number).unwrap_or(0).min(MAX_SLOTS);
        let now = Instant::now();
        let mut nodes = BTreeSet::new();
        let known = &mut self.known;
        let mut kept: usize = known.values().map(|(slot, _)| slot.len()).sum();
        let mut is_cut = false;
        self.server.look((1..=count).map(|n| Get::new(keys::slot(n))), |found| {
            let Some(slot) = found.and_then(|found| Slot::read(&keys::text(&found)?)) else { return };
            match slot.job {
                None => drop(nodes.insert(slot.node)),
                Some(job) => match meet(known, job, slot, kept, now) {
                    Some(more) => kept += more,
                    None => is_cut = true,
                },
            }
        })?;
        self.is_cut = is_cut;
        let life = Duration::from_secs(LIFE_SECONDS.into());
        self.known.retain(|_, (_, seen)| seen.elapsed() < life);
        while self.known.len() as u64 > MAX_SLOTS {
            self.known.pop_first();
        }
        Ok(nodes)
    }

    fn read_actors(&mut self, job: JobId, slot: &Slot, counts: &mut Counts) -> Result<(), MemcachedError> {
        let actors = || POOLS.into_iter().zip(&slot.actors).flat_map(|(pool, all)| all.iter().map(move |n| (pool, *n)));
        let gets = actors().flat_map(|(pool, number)| {
            COUNTERS.iter().map(move |counter| Get::new(keys::counter(job, &slot.node, pool, number, counter.key)))
        });
        let mut values = Vec::with_capacity(slot.len() * COUNTED);
        self.server.look(gets, |found| values.push(value_of(found.as_ref())))?;
        for ((pool, number), values) in actors().zip(values.chunks_exact(COUNTED)) {
            if let Ok(values) = values.try_into() {
                counts.actors.push(ActorCounts { job, pool, number, values });
            }
        }
        Ok(())
    }

    fn read_calls(&mut self, job: JobId, slot: &Slot, counts: &mut Counts) -> Result<(), MemcachedError> {
        let gets = slot.calls.iter().flat_map(|call| times_of(job, &slot.node, *call));
        let mut values = Vec::new();
        self.server.look(gets, |found| values.push(value_of(found.as_ref())))?;
        for (call, values) in slot.calls.iter().zip(values.chunks_exact(BUCKETS + 1)) {
            let mut times = Histogram { sum_ns: values[BUCKETS], ..Histogram::default() };
            times.counts.copy_from_slice(&values[..BUCKETS]);
            counts.calls.push(CallTimes { job, call: *call, times });
        }
        Ok(())
    }
}

/// Keeps what a slot says: so many actors and calls more. None if there would be too many.
fn meet(
    all: &mut BTreeMap<(JobId, String), (Slot, Instant)>,
    job: JobId,
    slot: Slot,
    kept: usize,
    now: Instant,
) -> Option<usize> {
    let key = (job, slot.node.clone());
    let Some((known, seen)) = all.get_mut(&key) else {
        let more = slot.len();
        (kept + more <= MAX_ACTORS).then(|| all.insert(key, (slot, now)))?;
        return Some(more);
    };
    *seen = now;
    let before = known.len();
    if kept + slot.len() > MAX_ACTORS && !known.holds(&slot) {
        return None;
    }
    known.merge(&slot);
    Some(known.len() - before)
}

fn times_of(job: JobId, node: &str, call: Call) -> impl Iterator<Item = Get> {
    let buckets = (0..BUCKETS).map(move |i| Get::new(keys::bucket(job, node, call, i)));
    buckets.chain(std::iter::once_with(move || Get::new(keys::sum(job, node, call))))
}

/// What is missing, or no number, is 0.
fn value_of(found: Option<&GetResult>) -> u64 {
    found.and_then(keys::number).unwrap_or(0)
}
