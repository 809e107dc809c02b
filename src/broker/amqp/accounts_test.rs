//! Books of made-up jobs: workers take messages, publish, report and die at random; what is counted is what one
//! undisturbed worker would have counted.

use super::accounts::Accounts;
use super::messages::{Done, Origin, Part};
use super::model_test::{Dice, Plan, done_with, found, plans};
use crate::model::{Queue, Report, Totals};

const SEEDS: u64 = 2000;

/// A report as it stands in the stream.
#[derive(Debug, Clone, Default)]
struct Record {
    session: u64,
    number: u64,
    parts: Vec<Part>,
    done: Vec<Done>,
    in_progress: Totals,
}

/// A delivery.
#[derive(Debug, Clone)]
struct Held {
    origin: Origin,
    plan: usize,
    tag: u64,
    published: usize,
    /// Entries that were told in parts.
    told: u64,
    is_done: bool,
}

/// A worker's run.
#[derive(Default)]
struct Session {
    record: Record,
    held: Vec<Held>,
    last_tag: u64,
    last_message: u64,
}

struct Job {
    plans: Vec<Plan>,
    ready: Vec<(Origin, usize)>,
    sessions: Vec<Session>,
    /// Reports of sessions that the broker takes for dead.
    late: Vec<Record>,
    stream: Vec<Record>,
    seeds: [u64; 3],
    opened: u64,
    deaths: u64,
}

impl Job {
    fn new(dice: &mut Dice, deaths: u64) -> Self {
        let (plans, roots) = plans(dice);
        let (ready, sessions, late, stream) = Default::default();
        let mut job = Job { plans, ready, sessions, late, stream, seeds: [0; 3], opened: 0, deaths };
        for plan in 0..roots {
            job.seeds[job.plans[plan].queue as usize] += 1;
            job.ready.push((Origin { session: 0, number: plan as u64 + 1, attempt: 0 }, plan));
        }
        for _ in 0..=dice.below(3) {
            job.open();
        }
        job
    }

    fn open(&mut self) {
        let mut session = Session::default();
        self.opened += 1;
        session.record.session = self.opened;
        self.sessions.push(session);
    }

    fn is_over(&self) -> bool {
        self.ready.is_empty() && self.late.is_empty() && self.sessions.iter().all(|s| s.held.is_empty())
    }

    fn step(&mut self, dice: &mut Dice) {
        let who = dice.below(self.sessions.len() as u64) as usize;
        match dice.below(10) {
            0..=2 => self.deliver(who, dice),
            3..=6 => self.work(who, dice),
            7 => self.report(who, dice),
            8 => self.sessions[who].held.retain(|h| !(h.is_done && dice.chance(50) && told(&self.stream, h))),
            _ if self.deaths > 0 && dice.chance(30) => self.die(who, dice),
            _ if !self.late.is_empty() => {
                let late = self.late.swap_remove(dice.below(self.late.len() as u64) as usize);
                self.stream.push(late);
            }
            _ => {}
        }
    }

    fn deliver(&mut self, who: usize, dice: &mut Dice) {
        if self.ready.is_empty() {
            return;
        }
        let (origin, plan) = self.ready.swap_remove(dice.below(self.ready.len() as u64) as usize);
        let session = &mut self.sessions[who];
        session.last_tag += 1;
        session.held.push(Held { origin, plan, tag: session.last_tag, published: 0, told: 0, is_done: false });
    }

    fn work(&mut self, who: usize, dice: &mut Dice) {
        let Session { record, held, last_message, .. } = &mut self.sessions[who];
        if held.is_empty() {
            return;
        }
        let at = dice.below(held.len() as u64) as usize;
        let held = &mut held[at];
        let plan = &self.plans[held.plan];
        let part = dice.below(plan.entries - held.told + 1);
        if held.is_done {
        } else if part > 0 && dice.chance(30) {
            held.told += part;
            record.parts.push(Part { attempt: held.tag, report: found(part) });
        } else if let Some(child) = plan.children.get(held.published) {
            held.published += 1;
            *last_message += 1;
            self.ready.push((Origin { session: record.session, number: *last_message, attempt: held.tag }, *child));
        } else {
            held.is_done = true;
            record.done.push(done_with(&self.plans, held.plan, held.origin, held.tag, held.told));
        }
    }

    fn report(&mut self, who: usize, dice: &mut Dice) {
        let Session { record, held, .. } = &mut self.sessions[who];
        record.number += 1;
        let open = held.iter().filter(|h| !h.is_done).map(|h| self.plans[h.plan].entries - h.told);
        let sent = Record { in_progress: found(open.sum()).totals, ..record.clone() };
        (record.parts, record.done) = (Vec::new(), Vec::new());
        // A report may come twice.
        self.stream.extend(std::iter::repeat_n(sent, 1 + usize::from(dice.chance(10))));
    }

    /// The broker gives what the session holds to others; what it was about to report may come later, or never.
    fn die(&mut self, who: usize, dice: &mut Dice) {
        self.deaths -= 1;
        let mut dead = self.sessions.swap_remove(who);
        self.ready.extend(dead.held.iter().map(|h| (h.origin, h.plan)));
        if dice.chance(60) {
            dead.record.number += 1;
            self.late.push(dead.record);
        }
        self.open();
    }
}

/// Is it in the stream that the delivery is done?
fn told(stream: &[Record], held: &Held) -> bool {
    stream.iter().flat_map(|r| &r.done).any(|d| d.origin == held.origin && d.attempt == held.tag)
}

fn run(seed: u64, deaths: u64) -> Job {
    let mut dice = Dice::new(seed);
    let mut job = Job::new(&mut dice, deaths);
    let mut steps = 0;
    while !job.is_over() {
        job.step(&mut dice);
        steps += 1;
        assert!(steps < 1_000_000, "seed {seed} has no end");
    }
    job
}

/// Adds up what a reader of the stream counts.
fn fold(job: &Job, seed: u64) -> (Accounts, Report) {
    let (mut accounts, mut sum) = (Accounts::default(), Report::default());
    accounts.seed(job.seeds);
    let entries = job.plans.iter().map(|p| p.entries).sum();
    for r in &job.stream {
        sum.add(accounts.take(r.session, r.number, r.parts.clone(), r.done.clone(), r.in_progress));
        assert!(sum.totals.found <= entries, "seed {seed}: counted too much");
    }
    (accounts, sum)
}

#[test]
fn every_entry_counts_once_whatever_dies() {
    for seed in 0..SEEDS {
        let job = run(seed, seed % 7);
        let (accounts, sum) = fold(&job, seed);
        let entries: u64 = job.plans.iter().map(|p| p.entries).sum();
        assert_eq!((sum.totals.found, sum.failures.len() as u64), (entries, entries), "seed {seed}");
        assert_eq!(sum.placed, [(2, entries)], "seed {seed}");
        assert_eq!(accounts.outstanding(), [0; 3], "seed {seed}");
        assert_eq!((accounts, sum), fold(&job, seed), "seed {seed}: another reader sees something else");
    }
}

#[test]
fn it_balances_at_the_moment_at_which_the_last_message_that_counts_is_done() {
    for seed in 0..300 {
        let job = run(seed, seed % 7);
        let entries: u64 = job.plans.iter().map(|p| p.entries).sum();
        let (mut accounts, mut found) = (Accounts::default(), 0);
        accounts.seed(job.seeds);
        for r in &job.stream {
            found += accounts.take(r.session, r.number, r.parts.clone(), r.done.clone(), r.in_progress).totals.found;
            // A plan has an entry at least, so the totals say whether one is missing.
            assert_eq!(accounts.is_balanced(3), found == entries, "seed {seed}");
        }
    }
}

#[test]
fn without_a_death_nothing_is_shown_twice_and_nothing_is_kept_in_the_end() {
    for seed in 0..300 {
        let job = run(seed, 0);
        let entries: u64 = job.plans.iter().map(|p| p.entries).sum();
        let (mut accounts, mut found) = (Accounts::default(), 0);
        accounts.seed(job.seeds);
        for r in &job.stream {
            found += accounts.take(r.session, r.number, r.parts.clone(), r.done.clone(), r.in_progress).totals.found;
            assert!(found + accounts.provisional().found <= entries, "seed {seed}");
        }
        assert_eq!(accounts.provisional(), Totals::default(), "seed {seed}");
        let (nodes, groups, runs) = accounts.size();
        assert!((nodes, groups) == (0, 0) && runs <= 3 * (job.sessions.len() + 1), "seed {seed}: {accounts:?}");
    }
}

#[test]
fn what_is_kept_after_deaths_hangs_on_attempts_without_an_end() {
    for seed in 0..SEEDS {
        let job = run(seed, 6);
        let (accounts, _) = fold(&job, seed);
        let (nodes, groups, _) = accounts.size();
        assert_eq!(nodes, groups, "seed {seed}: all below them is done, so nothing else is asked for");
    }
}

fn done(from: (u64, u64, u64), attempt: u64, posted: [u32; 3], entries: u64) -> Done {
    let origin = Origin { session: from.0, number: from.1, attempt: from.2 };
    Done { origin, attempt, queue: Queue::Dirs, posted, report: found(entries) }
}

fn tell(accounts: &mut Accounts, session: u64, number: u64, done: Done) -> u64 {
    accounts.take(session, number, Vec::new(), vec![done], Totals::default()).totals.found
}

#[test]
fn a_child_waits_for_its_parent_and_is_shown_meanwhile() {
    let mut accounts = Accounts::default();
    accounts.seed([1, 0, 0]);
    let in_progress = found(5).totals;
    let part = Part { attempt: 1, report: found(2) };
    assert!(accounts.take(7, 1, vec![part], Vec::new(), in_progress).is_empty());
    assert_eq!(tell(&mut accounts, 8, 1, done((7, 1, 1), 1, [0; 3], 10)), 0);
    assert_eq!((accounts.provisional().found, accounts.outstanding()), (17, [1, 0, 0]));
    assert_eq!(tell(&mut accounts, 7, 2, done((0, 1, 0), 1, [1, 0, 0], 3)), 15);
    assert_eq!((accounts.provisional().found, accounts.outstanding()), (0, [0; 3]));
}

#[test]
fn below_a_second_end_of_a_message_nothing_counts() {
    let mut accounts = Accounts::default();
    accounts.seed([1, 0, 0]);
    assert_eq!(tell(&mut accounts, 7, 1, done((0, 1, 0), 1, [0, 0, 1], 3)), 3);
    // The other delivery's child is done before it, its grandchild later.
    assert_eq!(tell(&mut accounts, 9, 1, done((8, 1, 1), 1, [1, 0, 0], 10)), 0);
    assert_eq!(tell(&mut accounts, 8, 1, done((0, 1, 0), 1, [1, 0, 0], 3)), 0);
    assert_eq!(tell(&mut accounts, 9, 2, done((9, 1, 1), 2, [0; 3], 20)), 0);
    assert_eq!((accounts.provisional().found, accounts.outstanding()), (0, [0, 0, 1]));
    assert!(accounts.is_balanced(2) && !accounts.is_balanced(3));
}

#[test]
fn a_report_counts_once() {
    let mut accounts = Accounts::default();
    accounts.seed([2, 0, 0]);
    assert_eq!(tell(&mut accounts, 7, 1, done((0, 1, 0), 1, [0; 3], 3)), 3);
    assert_eq!(tell(&mut accounts, 7, 1, done((0, 2, 0), 2, [0; 3], 3)), 0);
    assert_eq!(accounts.outstanding(), [1, 0, 0]);
}
