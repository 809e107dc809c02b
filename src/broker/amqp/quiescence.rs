//! Is a phase of a job over? The decision alone: pure, without a clock or a broker.
//!
//! Invariant: never said too early. A look is quiet if no message is ready in any queue of the phase or parked, every
//! consumer that the broker counts has answered after everything sent to it had arrived, and nobody holds a
//! delivery. Two quiet looks with the same counters mean that nothing moved in between, so nothing was on
//! its way unseen. Then the accounts must balance as well: every message that counts is done. If they do not though the
//! quiet lasts, the broker has lost messages. Neither is said before the broker must have noticed the death of every
//! worker that may have held deliveries when it fell silent.

use super::connection::Depth;
use super::messages::Tally;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

/// Without a balance, or without consumers, the quiet must last so long ...
const LONG_QUIET: Duration = Duration::from_secs(10);
/// ... and over so many looks.
const LONG_LOOKS: u32 = 5;

/// One look at queues and workers.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// By queue, in the order of [`crate::model::Queue::ALL`].
    pub depths: [Depth; 3],
    /// What the workers that take part answered, by session.
    pub tallies: BTreeMap<u64, Tally>,
    /// Deliveries that are parked because their workers died. To be counted before the queues that they go back to.
    pub holds: u32,
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
    /// Nothing is left, and yet messages are not done: the broker lost them.
    Lost,
}

/// What was seen so far.
pub(super) struct Watch {
    finishing: bool,
    /// Sessions that may have got deliveries since they were last heard of.
    partners: HashSet<u64>,
    /// Those of them that are silent, and since when.
    silent: HashMap<u64, Instant>,
    /// Nothing is known of who fell silent before the first look.
    took_over: bool,
    began: Option<Instant>,
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
    /// For the walk of a job. `took_over`: it began before, and somebody else watched it, or nobody.
    pub fn new(unnoticed: Duration, took_over: bool) -> Self {
        let (partners, silent) = Default::default();
        Watch { finishing: false, partners, silent, took_over, began: None, unnoticed, quiet: None }
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
        !ready && look.holds == 0 && complete && look.tallies.values().all(|t| t.unsettled == 0)
    }

    /// Takes note of who is silent. One that has consumers may get deliveries after it answered, so only one that has
    /// neither is not missed.
    fn mind_silence(&mut self, look: &Look, now: Instant) {
        for (session, tally) in &look.tallies {
            self.silent.remove(session);
            if tally.unsettled > 0 || tally.consumers != [0; 3] {
                self.partners.insert(*session);
            } else {
                self.partners.remove(session);
            }
        }
        for session in self.partners.extract_if(|s| !look.tallies.contains_key(s)) {
            self.silent.insert(session, now);
        }
    }

    /// Has the broker noticed by now whatever died unseen?
    fn is_noticed(&self, now: Instant) -> bool {
        let blind = self.began.filter(|_| self.took_over);
        self.silent.values().chain(&blind).all(|since| now.duration_since(*since) >= self.unnoticed)
    }

    /// Takes a look into account. `balanced`: every message that counts is done, in the [queues](Watch::queues) that
    /// count now.
    pub fn observe(&mut self, look: &Look, balanced: bool, now: Instant) -> Verdict {
        self.began.get_or_insert(now);
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
        let proven = quiet.looks >= 2 && self.is_noticed(now);
        self.quiet = Some(quiet);
        match (proven, balanced) {
            (true, true) if served || lasts => Verdict::Over,
            (true, false) if served && lasts => Verdict::Lost,
            _ => Verdict::Quiet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSIC: Duration = Duration::from_secs(45);

    fn tally(settled: u64) -> Tally {
        Tally { consumers: [1, 1, 0], delivered: [settled, 0, 0], settled: [settled, 0, 0], ..Tally::default() }
    }

    fn look(tallies: &[(u64, Tally)]) -> Look {
        let consumers = u32::try_from(tallies.len()).unwrap();
        let depth = Depth { ready: 0, consumers };
        let depths = [depth, depth, Depth { ready: 9, consumers: 0 }];
        Look { depths, tallies: tallies.iter().copied().collect(), holds: 0 }
    }

    fn verdicts(looks: &[Look], balanced: bool) -> Vec<Verdict> {
        let (mut watch, now) = (Watch::new(Duration::ZERO, false), Instant::now());
        looks.iter().map(|l| watch.observe(l, balanced, now)).collect()
    }

    /// Looks once a second until something else than `Quiet` is said, and tells when.
    fn until_said(watch: &mut Watch, look: &Look, balanced: bool, start: Instant, from: u64) -> (u64, Verdict) {
        let mut said = (from..100).map(|s| (s, watch.observe(look, balanced, start + Duration::from_secs(s))));
        said.find(|(_, verdict)| *verdict != Quiet).unwrap()
    }

    use Verdict::{Busy, Lost, Over, Quiet};

    #[test]
    fn two_equal_quiet_looks_end_a_walk() {
        let quiet = || look(&[(1, tally(3)), (2, tally(2))]);
        assert_eq!(verdicts(&[quiet(), quiet()], true), [Quiet, Over]);
    }

    #[test]
    fn a_counter_that_moved_starts_anew() {
        assert_eq!(verdicts(&[look(&[(1, tally(3))]), look(&[(1, tally(4))])], true), [Quiet, Quiet]);
    }

    #[test]
    fn whatever_is_ready_or_parked_or_held_or_unanswered_is_work() {
        let mut ready = look(&[(1, tally(1))]);
        ready.depths[1].ready = 1;
        let parked = Look { holds: 1, ..look(&[(1, tally(1))]) };
        let held = look(&[(1, Tally { unsettled: 1, ..tally(1) })]);
        let mut silent = look(&[(1, tally(1))]);
        silent.depths[0].consumers = 2;
        assert_eq!(verdicts(&[ready, parked, held, silent], true), [Busy; 4]);
    }

    #[test]
    fn finish_tasks_count_when_the_walk_is_over() {
        let (mut watch, now) = (Watch::new(Duration::ZERO, false), Instant::now());
        watch.enter_finishing();
        assert_eq!(watch.observe(&look(&[(1, tally(1))]), true, now), Busy);
    }

    #[test]
    fn what_was_quiet_before_a_phase_says_nothing_about_it() {
        let (mut watch, now) = (Watch::new(Duration::ZERO, false), Instant::now());
        let depths = [Depth { ready: 0, consumers: 1 }; 3];
        let quiet = Look { depths, ..look(&[(1, Tally { consumers: [1; 3], ..tally(1) })]) };
        assert_eq!([(); 2].map(|()| watch.observe(&quiet, true, now)), [Quiet, Over]);
        watch.enter_finishing();
        assert_eq!([(); 2].map(|()| watch.observe(&quiet, true, now)), [Quiet, Over]);
    }

    #[test]
    fn without_a_balance_messages_are_lost_when_the_quiet_lasts() {
        let (mut watch, start) = (Watch::new(Duration::ZERO, false), Instant::now());
        let quiet = look(&[(1, tally(5))]);
        assert_eq!(until_said(&mut watch, &quiet, false, start, 0), (LONG_QUIET.as_secs(), Lost));
    }

    #[test]
    fn a_balance_that_comes_late_ends_the_walk_at_once() {
        let (mut watch, start) = (Watch::new(Duration::ZERO, false), Instant::now());
        let quiet = look(&[(1, tally(5))]);
        assert_eq!([false, false, true].map(|b| watch.observe(&quiet, b, start)), [Quiet, Quiet, Over]);
    }

    #[test]
    fn what_a_silent_worker_held_is_waited_for_until_its_death_is_noticed() {
        for held in [Tally { unsettled: 1, consumers: [0; 3], ..tally(0) }, tally(0)] {
            for (balanced, verdict) in [(true, Over), (false, Lost)] {
                let (mut watch, start) = (Watch::new(CLASSIC, false), Instant::now());
                watch.observe(&look(&[(1, tally(5)), (2, held)]), balanced, start);
                let quiet = look(&[(1, tally(4))]);
                assert_eq!(until_said(&mut watch, &quiet, balanced, start, 1), (46, verdict));
            }
        }
    }

    #[test]
    fn who_left_with_empty_hands_is_not_waited_for() {
        let (mut watch, start) = (Watch::new(CLASSIC, false), Instant::now());
        let left = Tally { consumers: [0; 3], ..tally(3) };
        watch.observe(&look(&[(1, tally(5)), (2, tally(3))]), true, start);
        watch.observe(&look(&[(1, tally(5)), (2, left)]), true, start);
        assert_eq!(until_said(&mut watch, &look(&[(1, tally(5))]), true, start, 1), (2, Over));
    }

    #[test]
    fn who_took_over_waits_for_those_whom_it_never_heard() {
        let quiet = look(&[(1, tally(5))]);
        for (unnoticed, second) in [(CLASSIC, 45), (Duration::ZERO, 1)] {
            let (mut watch, start) = (Watch::new(unnoticed, true), Instant::now());
            assert_eq!(until_said(&mut watch, &quiet, true, start, 0), (second, Over));
        }
    }

    #[test]
    fn nobody_there_proves_nothing_at_once() {
        assert_eq!(verdicts(&[look(&[]), look(&[])], true), [Quiet, Quiet]);
        let (mut watch, start) = (Watch::new(Duration::ZERO, false), Instant::now());
        assert_eq!(until_said(&mut watch, &look(&[]), true, start, 0), (LONG_QUIET.as_secs(), Over));
    }

    #[test]
    fn nobody_there_loses_nothing() {
        let (mut watch, start) = (Watch::new(Duration::ZERO, false), Instant::now());
        let said = (0..100).map(|second| watch.observe(&look(&[]), false, start + Duration::from_secs(second)));
        assert!(said.into_iter().all(|verdict| verdict == Quiet));
    }
}
