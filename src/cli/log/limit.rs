//! The same again and again is held back, and counted.
//!
//! Invariant: what is held back is said to be, with its number. The first lines of each kind always come out: a kind is a
//! place in the program and a job, so that no job's trouble hides another's. `debug` and `trace` are not limited: they
//! are off unless somebody asked for them, and whoever did wants all of it.

use super::line::Line;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};
use tracing::Level;

/// So many lines of a kind come out ...
pub const MOST: u32 = 20;
/// ... in so long, from the first on.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are told apart at a time.
const KINDS: usize = 4096;

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It comes out.
    Out,
    /// It is held back; nothing else is at the moment if it is the first.
    Held {
        /// Nothing else is held back.
        first: bool,
    },
}

/// Counts lines by kind.
#[derive(Debug)]
pub struct Limiter<K> {
    kinds: HashMap<K, Kind>,
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    lines: u32,
    held: u64,
    /// The last one that was held back.
    last: Option<Line>,
}

impl<K: Eq + Hash> Limiter<K> {
    /// Nothing was said yet.
    pub fn new() -> Self {
        Limiter { kinds: HashMap::new() }
    }

    /// Judges a line. [`Limiter::due`] is to be asked first.
    pub fn judge(&mut self, kind: K, line: &Line, now: Instant) -> Verdict {
        if line.level > Level::INFO || (self.kinds.len() >= KINDS && !self.kinds.contains_key(&kind)) {
            return Verdict::Out;
        }
        let holds = self.holds();
        let kind = self.kinds.entry(kind).or_insert(Kind { since: now, lines: 0, held: 0, last: None });
        if kind.lines < MOST {
            kind.lines += 1;
            return Verdict::Out;
        }
        kind.held += 1;
        kind.last = Some(line.clone());
        Verdict::Held { first: !holds }
    }

    /// Is anything held back?
    pub fn holds(&self) -> bool {
        self.kinds.values().any(|kind| kind.held > 0)
    }

    /// Forgets the kinds whose time is over; what to say of those of which something was held back.
    pub fn due(&mut self, now: Instant) -> Vec<Line> {
        self.sum_up(|since| now.saturating_duration_since(since) >= WINDOW, now)
    }

    /// The same of all of them.
    pub fn rest(&mut self, now: Instant) -> Vec<Line> {
        self.sum_up(|_| true, now)
    }

    fn sum_up(&mut self, is_over: impl Fn(Instant) -> bool, now: Instant) -> Vec<Line> {
        let over = self.kinds.extract_if(|_, kind| is_over(kind.since));
        over.filter_map(|(_, kind)| summary(kind, now)).collect()
    }
}

/// None if all came out.
fn summary(kind: Kind, now: Instant) -> Option<Line> {
    let last = kind.last?;
    let seconds = now.saturating_duration_since(kind.since).as_secs_f64().round().max(1.0) as u64;
    let message = format!("{}: {} more of the same in {seconds} s", last.message, kind.held);
    Some(last.summed_up(message, kind.held, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: Level, message: &str) -> Line {
        Line::new(level, "treehaul::test", message.to_owned())
    }

    /// Says the same so often, a millisecond apart; how many came out.
    fn repeat(limiter: &mut Limiter<u8>, kind: u8, line: &Line, times: u32, start: Instant) -> u32 {
        let out = |i: u32| limiter.judge(kind, line, start + Duration::from_millis(i.into())) == Verdict::Out;
        (0..times).map(out).map(u32::from).sum()
    }

    #[test]
    fn the_same_is_held_back_and_counted() {
        let (mut limiter, start, lost) = (Limiter::new(), Instant::now(), line(Level::WARN, "lost"));
        assert_eq!(repeat(&mut limiter, 1, &lost, MOST, start), MOST);
        assert!(!limiter.holds());
        assert_eq!(limiter.judge(1, &lost, start), Verdict::Held { first: true });
        assert_eq!(limiter.judge(1, &lost, start), Verdict::Held { first: false });
        assert_eq!(repeat(&mut limiter, 2, &line(Level::ERROR, "bad"), MOST + 5, start), MOST, "another kind");
        assert!(limiter.due(start + WINDOW - Duration::from_millis(1)).is_empty(), "not yet");
        let mut said: Vec<String> = limiter.due(start + WINDOW).into_iter().map(|l| l.message).collect();
        said.sort();
        assert_eq!(said, ["bad: 5 more of the same in 10 s", "lost: 2 more of the same in 10 s"]);
        assert!(!limiter.holds() && limiter.due(start + 9 * WINDOW).is_empty(), "said once");
        assert_eq!(repeat(&mut limiter, 1, &lost, 3, start + WINDOW), 3, "it begins anew");
    }

    #[test]
    fn what_is_left_at_the_end_is_summed_up() {
        let (mut limiter, start) = (Limiter::new(), Instant::now());
        repeat(&mut limiter, 1, &line(Level::INFO, "ping"), MOST + 1, start);
        repeat(&mut limiter, 2, &line(Level::INFO, "pong"), MOST, start);
        let rest = limiter.rest(start + Duration::from_secs(3));
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].message, "ping: 1 more of the same in 3 s");
        assert!(rest[0].to_json().contains(r#""more":1,"seconds":3"#), "{}", rest[0].to_json());
    }

    #[test]
    fn what_was_asked_for_is_not_limited() {
        let (mut limiter, start) = (Limiter::new(), Instant::now());
        for level in [Level::DEBUG, Level::TRACE] {
            assert_eq!(repeat(&mut limiter, 1, &line(level, "entry failed"), 10 * MOST, start), 10 * MOST);
        }
        assert!(limiter.rest(start).is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let (mut limiter, start, bad) = (Limiter::new(), Instant::now(), line(Level::ERROR, "bad"));
        for kind in 0..10 * KINDS {
            assert_eq!(limiter.judge(kind, &bad, start), Verdict::Out);
        }
        assert_eq!(limiter.kinds.len(), KINDS);
    }
}
