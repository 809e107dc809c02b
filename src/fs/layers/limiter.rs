//! A bound on how fast something may be used up, shared by threads.
//!
//! Invariant: over any stretch of time no more is granted than the rate allows, and a burst of a tenth of a second
//! on top. Who comes first is served first; what is larger than a burst is paid for afterwards, by waiting.

use crate::model::policy::Limits;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So much may be used at once after a pause.
const BURST: Duration = Duration::from_millis(100);
/// Longest single wait, so that a rate close to nothing is no number that a clock cannot hold.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// What one node may do in a second, for both sides of a job together. Its figures can be changed at any time.
#[derive(Debug)]
pub struct Limiter {
    bytes: Bucket,
    operations: Bucket,
}

impl Limiter {
    /// With these limits to begin with.
    pub fn new(limits: Limits) -> Self {
        Limiter { bytes: Bucket::new(limits.bytes_per_second), operations: Bucket::new(limits.operations_per_second) }
    }

    /// Changes the limits; who waits by the old ones waits by the new ones from now on.
    pub fn set(&self, limits: Limits) {
        self.bytes.set(limits.bytes_per_second);
        self.operations.set(limits.operations_per_second);
    }

    /// The limits as they are.
    pub fn limits(&self) -> Limits {
        Limits { bytes_per_second: self.bytes.rate(), operations_per_second: self.operations.rate() }
    }

    /// So many bytes of data were moved: waits until they are paid for.
    pub fn moved(&self, bytes: u64) {
        self.bytes.take(bytes);
    }

    /// Waits for the turn of so many operations.
    pub fn operations(&self, n: u64) {
        self.operations.take(n);
    }
}

#[derive(Debug)]
struct Bucket {
    /// Units a second; 0 is no limit.
    rate: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

/// Units are counted from the beginning: what was asked for, and what the rate has granted.
#[derive(Debug)]
struct State {
    asked: f64,
    granted: f64,
    at: Instant,
}

impl State {
    /// Grants what the time since the last look is worth.
    fn advance(&mut self, rate: u64, now: Instant) {
        let rate = rate as f64;
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        self.granted = (self.granted + earned).min(self.asked + rate * BURST.as_secs_f64());
        self.at = now;
    }
}

impl Bucket {
    fn new(rate: Option<u64>) -> Self {
        let state = State { asked: 0.0, granted: 0.0, at: Instant::now() };
        Bucket { rate: AtomicU64::new(rate.unwrap_or(0)), state: Mutex::new(state), changed: Condvar::new() }
    }

    fn rate(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|rate| *rate > 0)
    }

    fn set(&self, rate: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.rate.swap(rate.unwrap_or(0), Ordering::Relaxed);
        let now = Instant::now();
        if before == 0 {
            // Nothing was counted meanwhile, so nothing was earned.
            (state.granted, state.at) = (state.asked, now);
        } else {
            state.advance(before, now);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn take(&self, n: u64) {
        if n == 0 || self.rate().is_none() {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = self.rate() else { return };
        state.advance(rate, Instant::now());
        state.asked += n as f64;
        let mine = state.asked;
        while let Some(rate) = self.rate() {
            state.advance(rate, Instant::now());
            let missing = mine - state.granted;
            // A thousandth of a unit is the error of the sum, not a debt.
            if missing <= 1e-3 {
                return;
            }
            let wait = Duration::try_from_secs_f64(missing / rate as f64).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(bytes: u64) -> Limiter {
        Limiter::new(Limits { bytes_per_second: Some(bytes), operations_per_second: None })
    }

    fn seconds(f: impl FnOnce()) -> f64 {
        let began = Instant::now();
        f();
        began.elapsed().as_secs_f64()
    }

    #[test]
    fn threads_together_get_what_one_would_get() {
        let limiter = limiter(100_000);
        let work = || (0..50).for_each(|_| limiter.moved(250));
        let elapsed = seconds(|| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(work);
                }
            });
        });
        assert!(elapsed >= 0.39, "50 000 bytes at 100 000 a second and a burst of a tenth took {elapsed} s");
        assert!(elapsed < 2.0, "{elapsed}");
    }

    #[test]
    fn what_is_larger_than_a_burst_is_paid_for_afterwards() {
        let limiter = limiter(1_000_000);
        let elapsed = seconds(|| limiter.moved(400_000));
        assert!((0.29..2.0).contains(&elapsed), "{elapsed}");
    }

    #[test]
    fn a_pause_earns_no_more_than_a_burst() {
        let limiter = limiter(1_000_000);
        std::thread::sleep(Duration::from_millis(300)); // the pause that is meant
        let elapsed = seconds(|| limiter.moved(300_000));
        assert!(elapsed >= 0.19, "{elapsed}");
    }

    #[test]
    fn who_waits_hears_of_a_new_limit() {
        let limiter = limiter(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| seconds(|| limiter.moved(1_000_000)));
            while limiter.bytes.state.lock().unwrap().asked == 0.0 {
                std::thread::yield_now();
            }
            limiter.set(Limits::default());
            assert!(waiting.join().unwrap() < 60.0, "the old limit would have been eleven days");
        });
        assert_eq!(limiter.limits(), Limits::default());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let limiter = Limiter::new(Limits::default());
        assert!(seconds(|| (0..100_000).for_each(|_| limiter.operations(1000))) < 5.0);
    }
}
