//! Carries what the meters count to where others read it.
//!
//! Invariant: it is a thread of its own, and no actor ever waits for it. What may have been written is never sent again;
//! what certainly was not goes with the next, as long as that is not too much.

use super::counts::{ActorCounts, CallTimes, Counts, Gauges};
use super::meters::Meters;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// How often counters are sent.
const EVERY: Duration = Duration::from_secs(5);
/// How long the end of a job or of a worker waits for the last of them.
const LAST: Duration = Duration::from_secs(2);
/// Actors and calls that are kept to be sent later: a few megabytes.
const KEPT: usize = 8192;

/// Where counters go.
pub trait Outlet: Send {
    /// Adds what was counted since the last time; the gauges are those of the moment.
    ///
    /// # Errors
    /// [`Unsent`].
    ///
    /// # Blocking
    /// As long as it likes.
    fn add(&mut self, counts: &Counts) -> Result<(), Unsent>;

    /// The node goes, and everything of it was sent.
    fn leave(&mut self) {}
}

/// Counters that did not arrive, or not all of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Unsent {
    /// Why.
    pub why: String,
    /// Nothing of them was written: they may be sent again.
    pub is_untouched: bool,
}

impl<F: FnMut(&Counts) -> Result<(), Unsent> + Send> Outlet for F {
    fn add(&mut self, counts: &Counts) -> Result<(), Unsent> {
        self(counts)
    }
}

/// What the node is doing at the moment.
pub type Look = Box<dyn FnMut() -> Gauges + Send>;

/// The thread that sends.
#[derive(Debug)]
pub struct Flusher {
    /// The thread ends when this is dropped and the last was sent.
    stop: Sender<()>,
    ended: Receiver<()>,
}

impl Flusher {
    /// Begins to send, at once and then every few seconds.
    ///
    /// # Errors
    /// The system's, if it gives no thread.
    pub fn start(meters: Arc<Meters>, look: Look, outlet: Box<dyn Outlet>) -> std::io::Result<Self> {
        Self::start_every(EVERY, meters, look, outlet)
    }

    fn start_every(every: Duration, meters: Arc<Meters>, look: Look, outlet: Box<dyn Outlet>) -> std::io::Result<Self> {
        let ((stop, told), (end, ended)) = (mpsc::channel(), mpsc::channel());
        let mut errand = Errand { meters, look, outlet, kept: Counts::default(), is_failing: false };
        std::thread::Builder::new().name("flusher".to_owned()).spawn(move || {
            errand.run(every, &told);
            // Who waited for it may have gone.
            let _ = end.send(());
        })?;
        Ok(Flusher { stop, ended })
    }

    /// Sends a last time. Call it when no actor counts any more. False if that did not end in time.
    ///
    /// # Blocking
    /// Two seconds at most.
    pub fn finish(self) -> bool {
        let Flusher { stop, ended } = self;
        drop(stop);
        let in_time = ended.recv_timeout(LAST) != Err(RecvTimeoutError::Timeout);
        if !in_time {
            tracing::warn!("the last counters were not sent in time");
        }
        in_time
    }
}

struct Errand {
    meters: Arc<Meters>,
    look: Look,
    outlet: Box<dyn Outlet>,
    /// What could not be sent, and was not.
    kept: Counts,
    is_failing: bool,
}

impl Errand {
    fn run(&mut self, every: Duration, told: &Receiver<()>) {
        self.send();
        while told.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            self.send();
        }
        self.send();
        if !self.is_failing {
            self.outlet.leave();
        }
    }

    fn send(&mut self) {
        let mut counts = merged(std::mem::take(&mut self.kept), self.meters.drain());
        counts.gauges = (self.look)();
        let sent = self.outlet.add(&counts);
        match &sent {
            Ok(()) if self.is_failing => tracing::info!("counters are sent again"),
            Err(e) if !self.is_failing => {
                tracing::warn!(error = %e, "counters cannot be sent; the work goes on without them");
            }
            Ok(()) | Err(_) => {}
        }
        self.is_failing = sent.is_err();
        if sent.is_err_and(|e| e.is_untouched) {
            counts.actors.truncate(KEPT);
            counts.calls.truncate(KEPT);
            self.kept = counts;
        }
    }
}

/// Both together. What is older comes first, and is the last to be given up.
fn merged(older: Counts, newer: Counts) -> Counts {
    if older == Counts::default() {
        return newer;
    }
    let Counts { mut actors, mut calls, .. } = older;
    let by_actor: BTreeMap<_, _> =
        actors.iter().enumerate().map(|(at, one)| ((one.job, one.pool, one.number), at)).collect();
    for one in newer.actors {
        match by_actor.get(&(one.job, one.pool, one.number)) {
            Some(at) => add_values(&mut actors[*at], &one),
            None => actors.push(one),
        }
    }
    let by_call: BTreeMap<_, _> = calls.iter().enumerate().map(|(at, one)| ((one.job, one.call), at)).collect();
    for one in newer.calls {
        let CallTimes { job, call, times } = one;
        match by_call.get(&(job, call)) {
            Some(at) => calls[*at].times.add(&times),
            None => calls.push(one),
        }
    }
    Counts { actors, calls, gauges: newer.gauges }
}

fn add_values(to: &mut ActorCounts, more: &ActorCounts) {
    to.values.iter_mut().zip(more.values).for_each(|(n, more)| *n = n.saturating_add(more));
}

#[cfg(test)]
mod tests {
    use super::super::counts::{COUNTED, COUNTERS};
    use super::*;
    use crate::model::latency::Call;
    use crate::model::{JobId, Totals};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::time::Instant;

    const QUICK: Duration = Duration::from_millis(1);

    fn quick(meters: &Arc<Meters>, outlet: impl Outlet + 'static) -> Flusher {
        let look = Box::new(|| Gauges { in_flight: 7, ..Gauges::default() });
        Flusher::start_every(QUICK, Arc::clone(meters), look, Box::new(outlet)).unwrap()
    }

    fn of(counts: &Counts, key: &str) -> u64 {
        let at = COUNTERS.iter().position(|counter| counter.key == key).unwrap();
        counts.actors.iter().map(|actor| actor.values[at]).sum()
    }

    fn count(meters: &Arc<Meters>, job: JobId, n: u64) {
        let mut own = Meters::join(Some(meters), "files", 0);
        own.begin(job, false).reported(&Totals { copied: n, ..Totals::default() });
        meters.timings(job).watch().add(Call::Stat, Duration::ZERO);
    }

    #[test]
    fn everything_arrives_once_though_the_outlet_fails_now_and_then() {
        let (meters, job) = (Meters::new(), JobId::random());
        let sums = Arc::new([const { AtomicU64::new(0) }; 3]);
        let calls = Arc::new(AtomicU64::new(0));
        let (seen, tries) = (Arc::clone(&sums), Arc::clone(&calls));
        let flusher = quick(&meters, move |counts: &Counts| {
            assert_eq!(counts.gauges.in_flight, 7);
            let n = tries.fetch_add(1, SeqCst);
            if n % 3 != 0 {
                return Err(Unsent { why: "away".into(), is_untouched: true });
            }
            seen[0].fetch_add(of(counts, "copied"), SeqCst);
            seen[1].fetch_add(of(counts, "tasks"), SeqCst);
            seen[2].fetch_add(counts.calls.iter().map(|one| one.times.count()).sum(), SeqCst);
            Ok(())
        });
        for n in 0..30 {
            count(&meters, job, n);
            let goal = calls.load(SeqCst) + 1;
            while calls.load(SeqCst) < goal {
                std::thread::yield_now();
            }
        }
        let sum = |i: usize| sums[i].load(SeqCst);
        while sum(2) < 30 {
            std::thread::yield_now();
        }
        assert!(flusher.finish());
        assert_eq!((sum(0), sum(1), sum(2)), (29 * 30 / 2, 30, 30));
        assert_eq!(meters.drain(), Counts::default());
    }

    #[test]
    fn what_may_have_been_written_is_not_sent_again() {
        let (meters, job) = (Meters::new(), JobId::random());
        let copied = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&copied);
        let (tell, told) = mpsc::channel();
        let flusher = quick(&meters, move |counts: &Counts| {
            let n = of(counts, "copied");
            if n > 0 {
                seen.lock().unwrap().push(n);
                tell.send(()).unwrap();
            }
            Err(Unsent { why: "half of it".into(), is_untouched: false })
        });
        for n in [3, 5] {
            count(&meters, job, n);
            told.recv().unwrap();
        }
        assert!(flusher.finish());
        assert_eq!(*copied.lock().unwrap(), [3, 5]);
    }

    #[test]
    fn a_clean_end_sends_the_rest_and_says_goodbye() {
        struct Farewell(Arc<Mutex<Vec<String>>>);
        impl Outlet for Farewell {
            fn add(&mut self, counts: &Counts) -> Result<(), Unsent> {
                self.0.lock().unwrap().push(of(counts, "copied").to_string());
                Ok(())
            }
            fn leave(&mut self) {
                self.0.lock().unwrap().push("goodbye".to_owned());
            }
        }
        let (meters, said) = (Meters::new(), Arc::default());
        let look = Box::new(Gauges::default);
        let outlet = Box::new(Farewell(Arc::clone(&said)));
        let flusher = Flusher::start_every(Duration::from_secs(3600), Arc::clone(&meters), look, outlet).unwrap();
        while said.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        count(&meters, JobId::random(), 4);
        assert!(flusher.finish());
        assert_eq!(*said.lock().unwrap(), ["0", "4", "goodbye"]);
    }

    #[test]
    fn an_outlet_that_hangs_holds_up_neither_actors_nor_the_end() {
        let meters = Meters::new();
        let (_never, block) = mpsc::channel::<()>();
        let flusher = quick(&meters, move |_: &Counts| {
            let _ = block.recv();
            Ok(())
        });
        let began = Instant::now();
        (0..1000).for_each(|n| count(&meters, JobId::random(), n));
        assert!(!flusher.finish());
        assert!(began.elapsed() < LAST + Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn what_is_kept_is_bounded_and_its_oldest_part_stays() {
        let meters = Meters::new();
        let away = |_: &Counts| Err(Unsent { why: "away".into(), is_untouched: true });
        let mut errand = Errand {
            meters: Arc::clone(&meters),
            look: Box::new(Gauges::default),
            outlet: Box::new(away),
            kept: Counts::default(),
            is_failing: false,
        };
        let first = JobId::random();
        count(&meters, first, 1);
        errand.send();
        (0..=KEPT).for_each(|_| count(&meters, JobId::random(), 1));
        errand.send();
        count(&meters, first, 1);
        errand.send();
        assert_eq!((errand.kept.actors.len(), errand.kept.calls.len()), (KEPT, KEPT));
        let kept = &errand.kept.actors[0];
        assert_eq!((kept.job, kept.values[1], kept.values.len()), (first, 2, COUNTED));
    }
}
