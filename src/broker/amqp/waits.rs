//! How long tasks wait before an actor takes them.
//!
//! A message bears the second in which it was published, by the publisher's clock: what it waited at the broker is known
//! to the second below, and not at all if clocks differ by more. What a task waits in this worker is measured exactly.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What is older than two such spans does not count as lately.
const SPAN: Duration = Duration::from_secs(10);

/// The waits of the tasks that were taken lately.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<Spans>);

#[derive(Debug, Default)]
struct Spans {
    began: Option<Instant>,
    now: Sum,
    before: Sum,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    tasks: u32,
    waited: Duration,
}

impl Spans {
    fn advance(&mut self, now: Instant) {
        let age = self.began.map_or(Duration::MAX, |began| now.saturating_duration_since(began));
        if age >= SPAN {
            let last = std::mem::take(&mut self.now);
            self.before = if age < 2 * SPAN { last } else { Sum::default() };
            self.began = Some(now);
        }
    }
}

impl Waits {
    /// A task was taken at a moment, after it had waited so long.
    pub fn taken(&self, at: Instant, waited: Duration) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.advance(at);
        spans.now.tasks = spans.now.tasks.saturating_add(1);
        spans.now.waited = spans.now.waited.saturating_add(waited);
    }

    /// The average of those that were taken lately; zero if none was.
    pub fn lately(&self, at: Instant) -> Duration {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.advance(at);
        let waited = spans.now.waited.saturating_add(spans.before.waited);
        waited.checked_div(spans.now.tasks.saturating_add(spans.before.tasks)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_is_of_what_was_taken_lately() {
        let (waits, start) = (Waits::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(waits.lately(start), Duration::ZERO);
        waits.taken(at(0), Duration::from_millis(10));
        waits.taken(at(1), Duration::from_millis(30));
        assert_eq!(waits.lately(at(9)), Duration::from_millis(20));
        waits.taken(at(12), Duration::from_millis(80));
        assert_eq!(waits.lately(at(12)), Duration::from_millis(40), "the span before counts, too");
        assert_eq!(waits.lately(at(23)), Duration::from_millis(80));
        assert_eq!(waits.lately(at(200)), Duration::ZERO);
        waits.taken(at(201), Duration::MAX);
        waits.taken(at(201), Duration::MAX);
        assert!(waits.lately(at(201)) > Duration::from_secs(1 << 60));
    }
}
