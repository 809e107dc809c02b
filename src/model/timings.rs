//! Calls while they are timed: histograms that many threads add to at once.
//!
//! Invariant: what was added is never lost and can be read at any time. A thread adds to a shard of its own, as far as
//! there are shards, and touches no memory that others write, reference counts included.

use super::latency::{BUCKETS, Call, Histogram};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Kinds of calls.
const CALLS: usize = Call::ALL.len();
/// Most shards: with more threads, several share one. A shard takes 5 KiB.
const SHARDS: usize = 64;

/// The calls of one job on this node.
#[derive(Debug)]
pub struct Timings {
    /// Tells them from all others of the process.
    id: u64,
    shards: Mutex<BTreeMap<usize, Arc<Shard>>>,
    me: Weak<Timings>,
}

#[derive(Debug)]
struct Shard {
    of: u64,
    home: Weak<Timings>,
    /// By call: a histogram's buckets, and behind them its sum in nanoseconds.
    cells: [[AtomicU64; BUCKETS + 1]; CALLS],
}

impl Shard {
    fn add(&self, call: Call, ns: u64) {
        let cells = &self.cells[call as usize];
        cells[Histogram::bucket(ns)].fetch_add(1, Relaxed);
        cells[BUCKETS].fetch_add(ns, Relaxed);
    }
}

thread_local! {
    /// This thread's number.
    static NUMBER: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Relaxed)
    };
    /// The shard that this thread added to last.
    static LAST: RefCell<Option<Arc<Shard>>> = const { RefCell::new(None) };
}

/// Where a handle's calls are added: to the [`Timings`] it came from.
#[derive(Debug, Clone)]
pub struct Watch(Arc<Shard>);

impl Timings {
    /// Of a job of which nothing was timed.
    pub fn new() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Relaxed);
        Arc::new_cyclic(|me| Timings { id, shards: Mutex::default(), me: Weak::clone(me) })
    }

    /// For what this thread opens.
    pub fn watch(&self) -> Watch {
        Watch(self.shard())
    }

    fn shard(&self) -> Arc<Shard> {
        let number = NUMBER.with(|number| *number) % SHARDS;
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let cells = std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0)));
            Arc::new(Shard { of: self.id, home: Weak::clone(&self.me), cells })
        };
        let shard = Arc::clone(shards.entry(number).or_insert_with(fresh));
        drop(shards);
        LAST.set(Some(Arc::clone(&shard)));
        shard
    }

    /// All that was timed so far, by call; those that nobody made are not named.
    pub fn read(&self) -> Vec<(Call, Histogram)> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |call: Call| {
            let mut all = Histogram::default();
            for shard in shards.values() {
                let cells = &shard.cells[call as usize];
                let counts = std::array::from_fn(|i| cells[i].load(Relaxed));
                all.add(&Histogram { counts, sum_ns: cells[BUCKETS].load(Relaxed) });
            }
            all
        };
        Call::ALL.iter().map(|call| (*call, of(*call))).filter(|(_, times)| times.count() > 0).collect()
    }
}

impl Watch {
    /// The same for what this thread opens.
    pub fn here(&self) -> Watch {
        self.with_own(|own| Watch(Arc::clone(own)))
    }

    /// A call took so long.
    pub fn add(&self, call: Call, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.with_own(|own| own.add(call, ns));
    }

    fn with_own<T>(&self, f: impl FnOnce(&Arc<Shard>) -> T) -> T {
        LAST.with_borrow(|last| match last {
            Some(last) if last.of == self.0.of => Ok(f(last)),
            _ => Err(f),
        })
        .unwrap_or_else(|f| match self.0.home.upgrade() {
            Some(home) => f(&home.shard()),
            // Nobody reads them any more.
            None => f(&self.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_add_to_two_jobs_is_all_there() {
        let jobs = [Timings::new(), Timings::new()];
        // Opened by one thread, used by all.
        let watches = [jobs[0].watch(), jobs[1].watch()];
        std::thread::scope(|scope| {
            for thread in 0..100_u64 {
                let watches = &watches;
                scope.spawn(move || {
                    for i in 0..200 {
                        let watch = &watches[(thread + i) as usize % 2];
                        watch.add(Call::Stat, Duration::from_micros(1));
                        watch.here().add(Call::Open, Duration::from_millis(i % 2));
                    }
                });
            }
        });
        for job in &jobs {
            let read = job.read();
            assert_eq!(read.iter().map(|(call, _)| *call).collect::<Vec<_>>(), [Call::Stat, Call::Open]);
            assert_eq!(read.iter().map(|(_, times)| times.count()).collect::<Vec<_>>(), [10_000, 10_000]);
            assert_eq!(read[0].1.sum_ns, 10_000_000);
            assert_eq!(read[0].1.counts[1], 10_000);
            assert!(job.shards.lock().unwrap().len() <= SHARDS);
        }
    }

    #[test]
    fn a_handle_may_outlive_what_it_is_timed_for() {
        let timings = Timings::new();
        let watch = timings.watch();
        drop(timings);
        LAST.set(None);
        watch.here().add(Call::Close, Duration::MAX);
        assert_eq!(watch.0.cells[Call::Close as usize][BUCKETS - 1].load(Relaxed), 1);
    }
}
