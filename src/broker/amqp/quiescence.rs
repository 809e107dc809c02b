//! Is a phase of a job over? The decision alone: pure, without a clock or a broker.
//!
//! Invariant: never said too early. A look is quiet if no message is ready in any queue of the phase, every
//! consumer that the broker counts has answered after everything sent to it had arrived, and nobody holds a
//! delivery. Two quiet looks with the same counters mean that nothing moved in between, so nothing was on
//! its way unseen. Then the sums must agree as well: as many tasks settled as were posted. They do not if a
//! worker died with its counters, and then the quiet has to last. Neither counts before the broker must have
//! noticed the death of every worker that held deliveries when it was last heard of.

use super::connection::Depth;
use super::messages::Tally;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Without agreeing sums the quiet must last so long ...
const LONG_QUIET: Duration = Duration::from_secs(2);
/// ... and over so many looks.
const LONG_LOOKS: u32 = 5;

/// One look at queues and workers.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// By queue, in the order of [`crate::model::Queue::ALL`].
    pub depths: [Depth; 3],
    /// What the workers that take part answered, by session.
    pub tallies: BTreeMap<u64, Tally>,
}

/// What a look means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// There is work.
    Busy,
    /// No work was seen; look again.
    Quiet,
    /// The phase is over.
    Over,
}

/// What was seen so far.
pub(super) struct Watch {
    finishing: bool,
    /// The last counters of every session that ever answered.
    sessions: HashMap<u64, Tally>,
    /// Sessions that held deliveries when they were last heard of, and since when they are silent.
    silent: HashMap<u64, Instant>,
    /// So long the broker may go on keeping what they held.
    unnoticed: Duration,
    quiet: Option<QuietTime>,
}

struct QuietTime {
    since: Instant,
    looks: u32,
    tallies: BTreeMap<u64, Tally>,
}

/// What does not count for being still: who waits is a matter of the moment.
fn still(tallies: &BTreeMap<u64, Tally>) -> BTreeMap<u64, Tally> {
    tallies.iter().map(|(s, t)| (*s, Tally { idle: [0; 2], results: 0, ..*t })).collect()
}

fn answered(look: &Look, queue: usize) -> u32 {
    look.tallies.values().map(|t| t.consumers[queue]).sum()
}

impl Watch {
    /// For the walk of a job that begins.
    pub fn new(unnoticed: Duration) -> Self {
        Watch { finishing: false, sessions: HashMap::new(), silent: HashMap::new(), unnoticed, quiet: None }
    }

    /// The walk is over; finish tasks run.
    pub fn enter_finishing(&mut self) {
        self.finishing = true;
        self.quiet = None;
    }

    pub fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// How many queues count now: finish tasks do not before the walk is over.
    pub fn queues(&self) -> usize {
        if self.finishing { 3 } else { 2 }
    }

    /// Have so many consumers answered that there is nobody to wait for? There may be more than the broker
    /// counted a moment before.
    pub fn is_answered(&self, look: &Look) -> bool {
        (0..self.queues()).all(|q| answered(look, q) >= look.depths[q].consumers)
    }

    fn is_quiet(&self, look: &Look) -> bool {
        let ready = look.depths[..self.queues()].iter().any(|d| d.ready > 0);
        let complete = (0..self.queues()).all(|q| answered(look, q) == look.depths[q].consumers);
        !ready && complete && look.tallies.values().all(|t| t.unsettled == 0)
    }

    /// Were as many tasks settled as posted? The leader posted one, the root.
    fn sums_agree(&self) -> bool {
        let sum = |of: fn(&Tally) -> &[u64; 3]| -> u64 {
            self.sessions.values().map(|t| of(t)[..self.queues()].iter().sum::<u64>()).sum()
        };
        sum(|t| &t.posted) + 1 == sum(|t| &t.settled)
    }

    /// Takes note of who is silent.
    fn mind_silence(&mut self, look: &Look, now: Instant) {
        self.silent.retain(|s, _| !look.tallies.contains_key(s));
        for (session, last) in &self.sessions {
            if last.unsettled > 0 && !look.tallies.contains_key(session) {
                self.silent.entry(*session).or_insert(now);
            }
        }
    }

    /// Takes a look into account.
    pub fn observe(&mut self, look: &Look, now: Instant) -> Verdict {
        self.sessions.extend(look.tallies.iter().map(|(s, t)| (*s, *t)));
        self.mind_silence(look, now);
        if !self.is_quiet(look) {
            self.quiet = None;
            return Verdict::Busy;
        }
        let tallies = still(&look.tallies);
        let quiet = match self.quiet.take() {
            Some(before) if before.tallies == tallies => QuietTime { looks: before.looks + 1, ..before },
            _ => QuietTime { since: now, looks: 1, tallies },
        };
        // A queue whose leader is away looks empty and without consumers, so nobody there proves nothing.
        let served = look.depths[..self.queues()].iter().all(|d| d.consumers > 0);
        let lasts = quiet.looks >= LONG_LOOKS && now.duration_since(quiet.since) >= LONG_QUIET;
        let noticed = self.silent.values().all(|since| now.duration_since(*since) >= self.unnoticed);
        let over = quiet.looks >= 2 && noticed && (lasts || (served && self.sums_agree()));
        self.quiet = Some(quiet);
        if over { Verdict::Over } else { Verdict::Quiet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(posted: u64, settled: u64) -> Tally {
        Tally {
            consumers: [1, 1, 0],
            delivered: [settled, 0, 0],
            posted: [posted, 0, 0],
            settled: [settled, 0, 0],
            ..Tally::default()
        }
    }

    fn look(tallies: &[(u64, Tally)]) -> Look {
        let consumers = u32::try_from(tallies.len()).unwrap();
        let depth = Depth { ready: 0, consumers };
        Look { depths: [depth, depth, Depth { ready: 9, consumers: 0 }], tallies: tallies.iter().copied().collect() }
    }

    fn verdicts(looks: &[Look]) -> Vec<Verdict> {
        let (mut watch, now) = (Watch::new(Duration::ZERO), Instant::now());
        looks.iter().map(|l| watch.observe(l, now)).collect()
    }

    use Verdict::{Busy, Over, Quiet};

    #[test]
    fn two_equal_quiet_looks_end_a_walk() {
        let quiet = || look(&[(1, tally(4, 3)), (2, tally(0, 2))]);
        assert_eq!(verdicts(&[quiet(), quiet()]), [Quiet, Over]);
    }

    #[test]
    fn a_counter_that_moved_starts_anew() {
        assert_eq!(verdicts(&[look(&[(1, tally(2, 3))]), look(&[(1, tally(3, 4))])]), [Quiet, Quiet]);
    }

    #[test]
    fn whatever_is_ready_or_held_or_unanswered_is_work() {
        let mut ready = look(&[(1, tally(0, 1))]);
        ready.depths[1].ready = 1;
        let held = look(&[(1, Tally { unsettled: 1, ..tally(0, 1) })]);
        let mut silent = look(&[(1, tally(0, 1))]);
        silent.depths[0].consumers = 2;
        assert_eq!(verdicts(&[ready, held, silent]), [Busy, Busy, Busy]);
    }

    #[test]
    fn finish_tasks_count_when_the_walk_is_over() {
        let (mut watch, now) = (Watch::new(Duration::ZERO), Instant::now());
        watch.enter_finishing();
        assert_eq!(watch.observe(&look(&[(1, tally(0, 1))]), now), Busy);
    }

    #[test]
    fn with_a_worker_lost_the_quiet_has_to_last() {
        let (mut watch, start) = (Watch::new(Duration::ZERO), Instant::now());
        let quiet = look(&[(1, tally(7, 5))]);
        for n in 0..10 {
            assert_eq!(watch.observe(&quiet, start + n * Duration::from_millis(100)), Quiet);
        }
        assert_eq!(watch.observe(&quiet, start + LONG_QUIET), Over);
    }

    #[test]
    fn what_a_silent_worker_held_is_waited_for_until_its_death_is_noticed() {
        let (mut watch, start) = (Watch::new(Duration::from_secs(45)), Instant::now());
        watch.observe(&look(&[(1, tally(7, 5)), (2, Tally { unsettled: 1, ..tally(0, 0) })]), start);
        let quiet = look(&[(1, tally(4, 5))]);
        for second in 1..45 {
            assert_eq!(watch.observe(&quiet, start + Duration::from_secs(second)), Quiet);
        }
        assert_eq!(watch.observe(&quiet, start + Duration::from_secs(46)), Over);
    }

    #[test]
    fn nobody_there_proves_nothing_at_once() {
        assert_eq!(verdicts(&[look(&[]), look(&[])]), [Quiet, Quiet]);
    }
}
