//! What nodes do: they add.

use super::keys::{self, POOLS, Slot, node_part};
use super::{LIFE_SECONDS, MAX_SLOTS, MemcachedError, Server, life};
use crate::model::JobId;
use crate::telemetry::counts::{ActorCounts, COUNTERS, CallTimes, Counts};
use memcache::exp::{Arithmetic, Delete, Get, GetResult, Meta, Set};
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// How often a slot is tried for that somebody else was quicker to take.
const TRIES: usize = 64;

/// A node's side of a memcached.
#[derive(Debug)]
pub struct Memcached {
    server: Server,
    /// Slots of this process by (job, node), with their numbers; 0: not taken yet.
    slots: BTreeMap<(Option<JobId>, String), (u64, Slot)>,
}

impl Memcached {
    /// A memcached at HOST:PORT. Connects when it is first used.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(address: &str) -> Result<Self, MemcachedError> {
        Ok(Memcached { server: Server::new(address)?, slots: BTreeMap::new() })
    }

    /// Adds what a node counted since the last time, and says what it is doing.
    ///
    /// # Errors
    /// [`MemcachedError`], which says whether the same may be added again. What may have been written is never sent
    /// again: after a time-out some of it is lost.
    ///
    /// # Blocking
    /// A second or two where the memcached does not answer.
    pub fn add(&mut self, node: &str, counts: &Counts) -> Result<(), MemcachedError> {
        let node = node_part(node);
        // Slots are no counts: whatever became of them may be done again.
        self.register(&node, counts).map_err(|e| MemcachedError { nothing_written: true, ..e })?;
        let mut refused = None;
        let actors = counts.actors.iter().flat_map(|actor| counters_of(&node, actor));
        let increments = actors.chain(counts.calls.iter().flat_map(|call| times_of(&node, call)));
        let increments =
            increments.map(|(key, delta)| Arithmetic::new(key).delta(delta).initial(delta, LIFE_SECONDS).ttl(life()));
        self.server.run(increments, |result| {
            if let Err(e) = result {
                refused.get_or_insert_with(|| e.to_string());
            }
        })?;
        let written = |e: MemcachedError| MemcachedError { nothing_written: false, ..e };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
        let gauges = keys::write_gauges(&counts.gauges, at);
        self.server.set(Set::new(keys::gauges(&node), gauges).ttl(life())).map_err(written)?;
        match refused {
            None => Ok(()),
            Some(why) => Err(written(self.server.error(why))),
        }
    }

    /// A node goes in peace: it is not missed. What it counted stays.
    ///
    /// # Errors
    /// [`MemcachedError`].
    pub fn leave(&mut self, node: &str) -> Result<(), MemcachedError> {
        let node = node_part(node);
        let slot = Slot { node: node.clone(), ..Slot::default() };
        let mut doomed = vec![keys::gauges(&node)];
        let known = self.slots.remove(&(None, node)).map_or(0, |(n, _)| n);
        // A slot that is somebody else's by now stays.
        let found = self.server.get((known > 0).then(|| Get::new(keys::slot(known))))?;
        let is_ours = found.iter().flatten().filter_map(read_slot).any(|theirs| theirs.is_of(&slot));
        doomed.extend(is_ours.then(|| keys::slot(known)));
        self.slots.clear();
        self.server.run(doomed.into_iter().map(Delete::new), |_| {})
    }

    /// Sees to it that whoever reads finds the keys that these counts have.
    fn register(&mut self, node: &str, counts: &Counts) -> Result<(), MemcachedError> {
        self.server.epoch()?;
        for slot in slots_of(node, counts) {
            let (_, known) = self.slots.entry((slot.job, slot.node.clone())).or_insert_with(|| (0, slot.clone()));
            known.merge(&slot);
        }
        let looked_at: Vec<u64> = self.slots.values().map(|(n, _)| *n).collect();
        let gets = looked_at.iter().map(|n| Get::new(keys::slot(*n)).touch(life()));
        let index = Get::new(keys::INDEX).meta(Meta::NONE.cas()).touch(life());
        let mut found = self.server.get(std::iter::once(index).chain(gets))?.into_iter();
        let index = found.next().flatten();
        let mut all: Vec<(u64, Slot)> = self.slots.values().cloned().collect();
        for ((n, slot), found) in all.iter_mut().zip(found) {
            match found.as_ref().filter(|_| *n > 0).and_then(read_slot) {
                Some(theirs) if theirs.is_of(slot) => self.refresh(*n, slot, theirs)?,
                _ => *n = self.take(slot)?,
            }
        }
        let highest = all.iter().map(|(n, _)| *n).max().unwrap_or(0);
        self.slots = all.into_iter().map(|(n, slot)| ((slot.job, slot.node.clone()), (n, slot))).collect();
        self.raise_index(index.as_ref(), highest)
    }

    /// A slot that is ours says all that is known: of this process, and of one of the same name before it.
    fn refresh(&mut self, n: u64, slot: &mut Slot, theirs: Slot) -> Result<(), MemcachedError> {
        slot.merge(&theirs);
        if *slot != theirs {
            self.server.set(Set::new(keys::slot(n), slot.write()).ttl(life()))?;
        }
        Ok(())
    }

    /// Takes a slot: the one that says the same already, the first that is free, or a further one.
    fn take(&mut self, slot: &mut Slot) -> Result<u64, MemcachedError> {
        for _ in 0..TRIES {
            let index = self.server.get([Get::new(keys::INDEX)])?;
            let count = index.iter().flatten().find_map(keys::number).unwrap_or(0).min(MAX_SLOTS);
            let (mut n, mut same, mut free) = (0, None, None);
            self.server.look((1..=count).map(|n| Get::new(keys::slot(n))), |found| {
                n += 1;
                match found {
                    None => drop(free.get_or_insert(n)),
                    Some(found) if same.is_none() => {
                        same = read_slot(&found).filter(|theirs| theirs.is_of(slot)).map(|theirs| (n, theirs));
                    }
                    Some(_) => {}
                }
            })?;
            if let Some((n, theirs)) = same {
                self.refresh(n, slot, theirs)?;
                return Ok(n);
            }
            let n = match free {
                Some(n) => n,
                None => self.further()?,
            };
            if n <= MAX_SLOTS && self.server.set(Set::new(keys::slot(n), slot.write()).add().ttl(life()))? {
                return Ok(n);
            }
        }
        Err(self.server.error("no slot is free"))
    }

    fn further(&mut self) -> Result<u64, MemcachedError> {
        let mut n = None;
        let one_more = Arithmetic::new(keys::INDEX).initial(1, LIFE_SECONDS).ttl(life());
        self.server.run([one_more], |result| n = result.ok().and_then(|result| result.value))?;
        if n.is_none() {
            // What is there is no number.
            self.server.run([Delete::new(keys::INDEX)], |_| {})?;
        }
        n.ok_or_else(|| self.server.error("it does not count slots"))
    }

    /// An index that was lost knows of this process's slots again.
    fn raise_index(&mut self, found: Option<&GetResult>, highest: u64) -> Result<(), MemcachedError> {
        let index = found.and_then(keys::number).unwrap_or(0);
        if index >= highest {
            return Ok(());
        }
        let set = Set::new(keys::INDEX, highest.to_string()).ttl(life());
        let set = match found.and_then(|found| found.item.cas) {
            Some(cas) => set.compare_cas(cas),
            None => set.add(),
        };
        self.server.set(set).map(drop) // who was quicker knows more; the next time it is looked at again
    }
}

fn read_slot(found: &GetResult) -> Option<Slot> {
    Slot::read(&keys::text(found)?)
}

/// The slots that counts need: one of the node, one a job.
fn slots_of(node: &str, counts: &Counts) -> Vec<Slot> {
    let mut jobs: BTreeMap<JobId, Slot> = BTreeMap::new();
    let slot = |job| Slot { job: Some(job), node: node.to_owned(), ..Slot::default() };
    for actor in &counts.actors {
        if let Some(pool) = POOLS.iter().position(|pool| *pool == actor.pool) {
            jobs.entry(actor.job).or_insert_with(|| slot(actor.job)).actors[pool].insert(actor.number);
        }
    }
    for call in &counts.calls {
        jobs.entry(call.job).or_insert_with(|| slot(call.job)).calls.insert(call.call);
    }
    std::iter::once(Slot { node: node.to_owned(), ..Slot::default() }).chain(jobs.into_values()).collect()
}

fn counters_of(node: &str, actor: &ActorCounts) -> impl Iterator<Item = (String, u64)> {
    let changed = COUNTERS.iter().zip(actor.values).filter(|(_, value)| *value > 0);
    changed.map(|(counter, value)| (keys::counter(actor.job, node, actor.pool, actor.number, counter.key), value))
}

fn times_of(node: &str, call: &CallTimes) -> impl Iterator<Item = (String, u64)> {
    let buckets = call.times.counts.iter().enumerate();
    let buckets = buckets.map(|(i, n)| (keys::bucket(call.job, node, call.call, i), *n));
    let sum = (keys::sum(call.job, node, call.call), call.times.sum_ns);
    buckets.chain([sum]).filter(|(_, n)| *n > 0)
}
