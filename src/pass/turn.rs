//! How long a task stays in the hands of one actor.
//!
//! Invariant: a task that can be cut is given back, but for what is done, when its turn is over; each turn does at least
//! one thing, so the work comes to its end however slow it is. So nobody waits long for an actor that is to retire, and
//! a broker never takes one for dead that is only slow.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// How long one is. A task costs far less to give back.
const LONGEST: Duration = Duration::from_secs(5);

/// The time since an actor took its task.
pub struct Turn {
    began: Duration,
    /// Another clock than the system's, in tests.
    clock: Option<Box<dyn Fn() -> Duration>>,
}

impl Turn {
    /// One that begins now.
    pub fn begin() -> Self {
        Turn { began: now(), clock: None }
    }

    /// One by a clock that shows how long it has been.
    #[cfg(test)]
    pub fn by(clock: impl Fn() -> Duration + 'static) -> Self {
        Turn { began: Duration::ZERO, clock: Some(Box::new(clock)) }
    }

    /// One that is over after so many looks.
    #[cfg(test)]
    pub fn of_looks(looks: u32) -> Self {
        let left = std::cell::Cell::new(looks);
        Turn::by(move || {
            let before = left.replace(left.get().saturating_sub(1));
            if before <= 1 { LONGEST } else { Duration::ZERO }
        })
    }

    /// Is it time to give the rest back?
    pub fn is_over(&self) -> bool {
        let time = self.clock.as_ref().map_or_else(now, |clock| clock());
        time.saturating_sub(self.began) >= LONGEST
    }
}

/// The coarse clock is asked for every entry: it costs a few nanoseconds and is right to some milliseconds.
fn now() -> Duration {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn a_turn_is_over_after_its_time_and_not_before() {
        let time = Rc::new(Cell::new(Duration::ZERO));
        let shown = Rc::clone(&time);
        let turn = Turn::by(move || shown.get());
        assert!(!turn.is_over());
        time.set(LONGEST.checked_sub(Duration::from_nanos(1)).unwrap());
        assert!(!turn.is_over());
        time.set(LONGEST);
        assert!(turn.is_over());
        assert!(!Turn::begin().is_over(), "the system's clock counts from the beginning of the turn");
    }
}
