//! What the actors of this process count, and how long their calls take.
//!
//! Invariant: what was counted is handed out once by [`Meters::drain`]. An actor adds under a lock of its own that nobody
//! else holds for long. What nobody can add to any more is forgotten once it was handed out, so memory is bounded by
//! the actors and by the jobs at work.

use super::counts::{ActorCounts, CallTimes, Counts, Gauges, Tally};
use crate::model::fleet::JobLatencies;
use crate::model::latency::{Call, Histogram};
use crate::model::timings::Timings;
use crate::model::{JobId, Totals};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Jobs that are over and whose latencies are still shown.
const OVER_SHOWN: usize = 8;

/// The job, the pool and the number of an actor.
type Who = (JobId, &'static str, u64);
/// What an actor counted for a job since it was last handed out.
type Own = Arc<Mutex<Tally>>;

/// The meters of a process.
#[derive(Debug)]
pub struct Meters {
    /// Somebody drains them; else nothing is counted an actor.
    counts: bool,
    actors: Mutex<BTreeMap<Who, Own>>,
    timed: Mutex<Timed>,
}

#[derive(Debug, Default)]
struct Timed {
    jobs: BTreeMap<JobId, Timer>,
    /// Those that are over, the oldest first.
    over: VecDeque<JobId>,
}

#[derive(Debug)]
struct Timer {
    timings: Arc<Timings>,
    /// What was handed out of it.
    drained: BTreeMap<Call, Histogram>,
}

impl Meters {
    /// Meters that somebody drains.
    pub fn new() -> Arc<Self> {
        Arc::new(Meters { counts: true, actors: Mutex::default(), timed: Mutex::default() })
    }

    /// Meters that nobody drains: calls are timed, and nothing is counted an actor.
    pub fn of_calls() -> Arc<Self> {
        Arc::new(Meters { counts: false, actors: Mutex::default(), timed: Mutex::default() })
    }

    fn actors(&self) -> MutexGuard<'_, BTreeMap<Who, Own>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn timed(&self) -> MutexGuard<'_, Timed> {
        self.timed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job is, or is again, worked on here: where its calls are timed.
    pub fn timings(&self, job: JobId) -> Arc<Timings> {
        let mut timed = self.timed();
        timed.over.retain(|over| *over != job);
        let fresh = || Timer { timings: Timings::new(), drained: BTreeMap::new() };
        Arc::clone(&timed.jobs.entry(job).or_insert_with(fresh).timings)
    }

    /// A job is over here, but for what is in actors' hands.
    pub fn over(&self, job: JobId) {
        let mut timed = self.timed();
        if timed.jobs.contains_key(&job) && !timed.over.contains(&job) {
            timed.over.push_back(job);
        }
        if !self.counts {
            timed.forget();
        }
    }

    /// An actor begins to count.
    pub fn join(meters: Option<&Arc<Meters>>, pool: &'static str, number: u64) -> ActorMeter {
        ActorMeter { meters: meters.filter(|meters| meters.counts).cloned(), pool, number, last: None }
    }

    /// What was counted and timed since this was called last. The gauges are left to the caller.
    pub fn drain(&self) -> Counts {
        let mut actors = Vec::new();
        self.actors().retain(|(job, pool, number), own| {
            // Looked at first: who holds it may add to it, and let go of it, until the last moment.
            let may_grow = Arc::strong_count(own) > 1;
            let tally = std::mem::take(&mut *own.lock().unwrap_or_else(PoisonError::into_inner));
            if tally != Tally::default() {
                actors.push(ActorCounts { job: *job, pool, number: *number, values: tally.values() });
            }
            may_grow
        });
        let mut timed = self.timed();
        let mut calls = Vec::new();
        for (job, timer) in &mut timed.jobs {
            calls.extend(timer.drain().map(|(call, times)| CallTimes { job: *job, call, times }));
        }
        timed.forget();
        Counts { actors, calls, gauges: Gauges::default() }
    }

    /// How long calls took since the process began, of jobs at work and of the last ones that are over.
    pub fn latencies(&self) -> Vec<JobLatencies> {
        let timers: Vec<_> = self.timed().jobs.iter().map(|(job, timer)| (*job, Arc::clone(&timer.timings))).collect();
        timers.into_iter().map(|(job, timings)| JobLatencies { job, calls: timings.read() }).collect()
    }
}

impl Timed {
    fn forget(&mut self) {
        while self.over.len() > OVER_SHOWN {
            let oldest = self.over.pop_front();
            oldest.and_then(|job| self.jobs.remove(&job));
        }
    }
}

impl Timer {
    /// What was timed since it was drained last.
    fn drain(&mut self) -> impl Iterator<Item = (Call, Histogram)> {
        let drained = &mut self.drained;
        self.timings.read().into_iter().filter_map(move |(call, now)| {
            let before = drained.insert(call, now).unwrap_or_default();
            let counts = std::array::from_fn(|i| now.counts[i].saturating_sub(before.counts[i]));
            let fresh = Histogram { counts, sum_ns: now.sum_ns.saturating_sub(before.sum_ns) };
            (fresh != Histogram::default()).then_some((call, fresh))
        })
    }
}

/// What an actor counts with.
#[derive(Debug)]
pub struct ActorMeter {
    meters: Option<Arc<Meters>>,
    pool: &'static str,
    number: u64,
    /// For which job it counted last.
    last: Option<(JobId, Own)>,
}

impl ActorMeter {
    /// A task of a job begins, on which somebody may have worked before.
    pub fn begin(&mut self, job: JobId, redelivered: bool) -> Counter {
        let Some(meters) = &self.meters else { return Counter(None) };
        let own = match self.last.take() {
            Some((last, own)) if last == job => own,
            _ => Arc::clone(meters.actors().entry((job, self.pool, self.number)).or_default()),
        };
        self.last = Some((job, Arc::clone(&own)));
        let counter = Counter(Some(own));
        counter.with(|tally| {
            tally.tasks = tally.tasks.saturating_add(1);
            tally.retried = tally.retried.saturating_add(redelivered.into());
        });
        counter
    }

    /// There is nothing to do.
    pub fn rest(&mut self) {
        self.last = None;
    }
}

/// Counts for one task.
#[derive(Debug)]
pub struct Counter(Option<Own>);

impl Counter {
    fn with(&self, f: impl FnOnce(&mut Tally)) {
        if let Some(own) = &self.0 {
            f(&mut own.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// A report was given.
    pub fn reported(&self, totals: &Totals) {
        self.with(|tally| tally.totals.add(totals));
    }

    /// The task panicked its actor.
    pub fn panicked(&self) {
        self.with(|tally| tally.panicked = tally.panicked.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::{COUNTED, COUNTERS};
    use super::*;
    use std::time::Duration;

    fn value(values: &[u64; COUNTED], key: &str) -> u64 {
        values[COUNTERS.iter().position(|counter| counter.key == key).unwrap()]
    }

    fn copied(n: u64) -> Totals {
        Totals { copied: n, ..Totals::default() }
    }

    #[test]
    fn what_actors_count_while_it_is_drained_is_handed_out_once() {
        let (meters, jobs) = (Meters::new(), [JobId::random(), JobId::random()]);
        let mut sums = BTreeMap::new();
        let mut drain = |meters: &Meters| {
            for actor in meters.drain().actors {
                let sum: &mut [u64; 4] = sums.entry((actor.job, actor.pool, actor.number)).or_default();
                let keys = ["copied", "tasks", "retried", "panicked"];
                sum.iter_mut().zip(keys).for_each(|(sum, key)| *sum += value(&actor.values, key));
            }
        };
        std::thread::scope(|scope| {
            let actors: Vec<_> = (0..4)
                .map(|number| {
                    let meters = &meters;
                    scope.spawn(move || {
                        let mut own = Meters::join(Some(meters), "files", number);
                        for i in 0..3000 {
                            let counter = own.begin(jobs[i % 2], i % 3 == 0);
                            counter.reported(&copied(2));
                            if i % 7 == 0 {
                                own.rest();
                            }
                            if i % 1000 == 0 {
                                counter.panicked();
                            }
                        }
                    })
                })
                .collect();
            while !actors.iter().all(|actor| actor.is_finished()) {
                drain(&meters);
            }
        });
        drain(&meters);
        assert_eq!(sums.len(), 8);
        for ((job, ..), sum) in sums {
            // Every thousandth is an even one.
            assert_eq!(sum, [3000, 1500, 500, if job == jobs[0] { 3 } else { 0 }]);
        }
        assert!(meters.actors().is_empty(), "nobody adds to them any more");
    }

    #[test]
    fn latencies_are_drained_as_what_came_since_and_shown_as_a_whole() {
        let (meters, job) = (Meters::new(), JobId::random());
        let watch = meters.timings(job).watch();
        watch.add(Call::Stat, Duration::from_micros(3));
        let first = meters.drain().calls;
        assert_eq!(
            (first.len(), first[0].call, first[0].times.count(), first[0].times.sum_ns),
            (1, Call::Stat, 1, 3000)
        );
        assert_eq!(meters.drain(), Counts::default());
        watch.add(Call::Stat, Duration::from_micros(5));
        watch.add(Call::Link, Duration::from_micros(1));
        let counts: Vec<_> = meters.drain().calls.iter().map(|one| (one.call, one.times.count())).collect();
        assert_eq!(counts, [(Call::Stat, 1), (Call::Link, 1)]);
        let all = meters.latencies();
        assert_eq!((all.len(), all[0].job, all[0].calls[0].1.count(), all[0].calls[0].1.sum_ns), (1, job, 2, 8000));
    }

    #[test]
    fn the_last_jobs_that_are_over_are_shown_and_none_is_lost() {
        for meters in [Meters::new(), Meters::of_calls()] {
            let jobs: Vec<JobId> = (0..20).map(|_| JobId::random()).collect();
            for job in &jobs {
                meters.timings(*job).watch().add(Call::Open, Duration::ZERO);
                meters.over(*job);
            }
            if meters.counts {
                assert_eq!(meters.drain().calls.len(), 20, "none is forgotten before it was handed out");
            }
            // One begins again.
            drop(meters.timings(jobs[19]));
            meters.over(JobId::random());
            let mut shown: Vec<JobId> = meters.latencies().iter().map(|one| one.job).collect();
            let mut last = jobs[20 - OVER_SHOWN..].to_vec();
            shown.sort();
            last.sort();
            assert_eq!(shown, last);
            meters.over(jobs[19]);
            meters.over(jobs[19]);
            assert_eq!(meters.timed().over.len(), OVER_SHOWN);
        }
    }

    #[test]
    fn meters_that_nobody_drains_count_nothing() {
        let meters = Meters::of_calls();
        for meters in [Some(&meters), None] {
            let mut own = Meters::join(meters, "dirs", 0);
            own.begin(JobId::random(), false).reported(&copied(1));
        }
        assert!(meters.actors().is_empty());
    }
}
