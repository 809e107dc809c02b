//! The books of a job: what was done for it, each message once, whatever died on the way.
//!
//! Invariants:
//!
//! - Of one message only the first [`Done`] of the stream counts, and it counts only if the attempt that the
//!   message was published for counts. So what counts is one tree of attempts, and the totals are those of a job
//!   in which nothing died.
//! - The state follows from the order of the stream alone: whoever reads it gets the same.
//! - What is kept grows with what is open, not with the number of messages.
//!
//! A message may be done before the attempt that published it. Then its report waits in that attempt's *group*, which
//! has one attempt that is not done, the root, and those below it that are done already. When the root is done, the
//! group counts, is void, or joins the group above it. What was published for an attempt whose worker died waits
//! for ever, and that is right: the message of that attempt is delivered again, and all below it published again.

use super::intervals::Intervals;
use super::messages::{Done, Origin, Part};
use crate::model::{Report, Totals};
use std::collections::{BTreeSet, HashMap};

/// A delivery: the session that it went to, and its tag.
type Attempt = (u64, u64);

/// What is kept of a session.
#[derive(Debug, Default, PartialEq)]
struct Session {
    /// Its reports that were taken, by number.
    reports: Intervals,
    /// Messages published by it that are done.
    messages: Intervals,
    /// Its attempts that count, and those that nobody can ask for any more.
    counts: Intervals,
    /// What its attempts that are not done say.
    in_progress: Totals,
}

/// An attempt that is not decided, or does not count.
#[derive(Debug, PartialEq)]
struct Node {
    /// Its group, or [`VOID`].
    group: u64,
    is_done: bool,
    /// Messages published for it that are not done; below zero while it is not known how many there are.
    left: i64,
}

/// Attempts that are decided together.
#[derive(Debug, Default, PartialEq)]
struct Group {
    attempts: BTreeSet<Attempt>,
    report: Report,
    /// Messages published less messages done, by queue.
    balance: [i64; 3],
}

/// The group of what does not count.
const VOID: u64 = 0;

enum Fate {
    Counts,
    Void,
    Open,
}

/// The books of one job.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Accounts {
    sessions: HashMap<u64, Session>,
    nodes: HashMap<Attempt, Node>,
    groups: HashMap<u64, Group>,
    last_group: u64,
    outstanding: [i64; 3],
    /// Sum over all groups.
    pending: Totals,
    /// Sum over all sessions.
    running: Totals,
}

fn add(balance: &mut [i64; 3], more: &[i64; 3]) {
    for (sum, more) in balance.iter_mut().zip(more) {
        *sum += more;
    }
}

/// What a delivery adds to the messages that are not done: those published for it, less its own.
fn balance_of(done: &Done) -> [i64; 3] {
    let mut balance = done.posted.map(i64::from);
    balance[done.queue as usize] -= 1;
    balance
}

impl Accounts {
    /// The submitter posted so many messages, by queue.
    pub fn seed(&mut self, posted: [u64; 3]) {
        add(&mut self.outstanding, &posted.map(|n| i64::try_from(n).unwrap_or(i64::MAX)));
    }

    /// Takes a report of the stream. Gives back what counts for good from now on; it may be nothing, or more than the
    /// report says, for what waited. A report that was taken before gives nothing. `in_progress` is what the session's
    /// deliveries that are not done have told to nobody yet, without their parts.
    pub fn take(
        &mut self,
        session: u64,
        number: u64,
        parts: Vec<Part>,
        done: Vec<Done>,
        in_progress: Totals,
    ) -> Report {
        let mut counted = Report::default();
        let from = self.sessions.entry(session).or_default();
        let is_newest = from.reports.last().is_none_or(|last| last < number);
        if !from.reports.insert(number) {
            return counted;
        }
        if is_newest {
            self.running.sub(&from.in_progress);
            self.running.add(&in_progress);
            from.in_progress = in_progress;
        }
        for Part { attempt, report } in parts {
            self.take_part((session, attempt), report);
        }
        for done in done {
            self.take_done((session, done.attempt), done, &mut counted);
        }
        counted
    }

    /// What may count, but is not certain yet.
    pub fn provisional(&self) -> Totals {
        let mut totals = self.pending;
        totals.add(&self.running);
        totals
    }

    /// Messages that count and are not done, by queue.
    pub fn outstanding(&self) -> [i64; 3] {
        self.outstanding
    }

    /// Is every message done that counts, in the first so many queues? When nothing is ready and nothing in hands, a no
    /// says that messages were lost. A yes is for good, unless messages of other queues are let go.
    pub fn is_balanced(&self, queues: usize) -> bool {
        self.outstanding.iter().take(queues).all(|n| *n == 0)
    }

    fn take_part(&mut self, attempt: Attempt, report: Report) {
        if self.is_done(attempt) {
            return;
        }
        self.pending.add(&report.totals);
        let group = self.group_of(attempt);
        self.groups.entry(group).or_default().report.add(report);
    }

    fn take_done(&mut self, attempt: Attempt, done: Done, counted: &mut Report) {
        if self.is_done(attempt) {
            return;
        }
        let Origin { session, number, attempt: published_for } = done.origin;
        let parent = (session, published_for);
        let is_first = self.sessions.entry(session).or_default().messages.insert(number);
        match if is_first { self.fate(parent) } else { Fate::Void } {
            Fate::Open => self.join(attempt, parent, done),
            Fate::Void => self.discard(attempt, &done),
            Fate::Counts => self.count(attempt, done, counted),
        }
        if is_first && let Some(node) = self.nodes.get_mut(&parent) {
            node.left -= 1;
            self.close(parent);
        }
    }

    fn fate(&self, (session, tag): Attempt) -> Fate {
        if session == 0 || self.sessions.get(&session).is_some_and(|s| s.counts.contains(tag)) {
            return Fate::Counts;
        }
        match self.nodes.get(&(session, tag)) {
            Some(node) if node.group == VOID => Fate::Void,
            _ => Fate::Open,
        }
    }

    /// Has the attempt told that it is done?
    fn is_done(&self, attempt: Attempt) -> bool {
        match self.nodes.get(&attempt) {
            Some(node) => node.is_done,
            None => !matches!(self.fate(attempt), Fate::Open),
        }
    }

    /// The group of an attempt that is not decided; it gets one of its own if it has none.
    fn group_of(&mut self, attempt: Attempt) -> u64 {
        if let Some(node) = self.nodes.get(&attempt) {
            return node.group;
        }
        self.last_group += 1;
        self.nodes.insert(attempt, Node { group: self.last_group, is_done: false, left: 0 });
        let group = Group { attempts: BTreeSet::from([attempt]), ..Group::default() };
        self.groups.insert(self.last_group, group);
        self.last_group
    }

    /// An attempt is done, and what it hangs on is not decided.
    fn join(&mut self, attempt: Attempt, parent: Attempt, done: Done) {
        let (above, own) = (self.group_of(parent), self.group_of(attempt));
        let id = self.unite(above, own);
        self.pending.add(&done.report.totals);
        let group = self.groups.entry(id).or_default();
        add(&mut group.balance, &balance_of(&done));
        group.report.add(done.report);
        self.end(attempt, &done.posted);
    }

    /// An attempt is done and does not count, nor does anything below it.
    fn discard(&mut self, attempt: Attempt, done: &Done) {
        let id = self.group_of(attempt);
        let group = self.groups.remove(&id).unwrap_or_default();
        self.pending.sub(&group.report.totals);
        for attempt in &group.attempts {
            if let Some(node) = self.nodes.get_mut(attempt) {
                node.group = VOID;
            }
        }
        self.end(attempt, &done.posted);
    }

    /// An attempt is done and counts, and with it all that waited for it.
    fn count(&mut self, attempt: Attempt, done: Done, counted: &mut Report) {
        let node = self.nodes.get(&attempt);
        let mut group = node.and_then(|node| self.groups.remove(&node.group)).unwrap_or_default();
        self.pending.sub(&group.report.totals);
        group.attempts.insert(attempt);
        for (session, tag) in group.attempts {
            self.nodes.remove(&(session, tag));
            self.sessions.entry(session).or_default().counts.insert(tag);
        }
        add(&mut self.outstanding, &group.balance);
        add(&mut self.outstanding, &balance_of(&done));
        counted.add(group.report);
        counted.add(done.report);
    }

    /// It is known now how many messages an attempt posted.
    fn end(&mut self, attempt: Attempt, posted: &[u32; 3]) {
        if let Some(node) = self.nodes.get_mut(&attempt) {
            node.is_done = true;
            node.left += posted.iter().copied().map(i64::from).sum::<i64>();
            self.close(attempt);
        }
    }

    /// Makes one group of two, and says which.
    fn unite(&mut self, a: u64, b: u64) -> u64 {
        let size = |id| self.groups.get(&id).map_or(0, |g| g.attempts.len());
        let (small, large) = if size(a) < size(b) { (a, b) } else { (b, a) };
        if small != large
            && let Some(group) = self.groups.remove(&small)
        {
            for attempt in &group.attempts {
                if let Some(node) = self.nodes.get_mut(attempt) {
                    node.group = large;
                }
            }
            let into = self.groups.entry(large).or_default();
            into.attempts.extend(group.attempts);
            into.report.add(group.report);
            add(&mut into.balance, &group.balance);
        }
        large
    }

    /// Forgets an attempt that is done and below which all is done: of a message only the first counts, so nobody
    /// asks for it any more.
    fn close(&mut self, attempt: Attempt) {
        let Some(node) = self.nodes.get(&attempt) else { return };
        if !node.is_done || node.left > 0 {
            return;
        }
        if let Some(group) = self.groups.get_mut(&node.group) {
            group.attempts.remove(&attempt);
        }
        self.nodes.remove(&attempt);
        self.sessions.entry(attempt.0).or_default().counts.insert(attempt.1);
    }

    /// Attempts, groups, and gaps between numbers that are kept.
    #[cfg(test)]
    pub fn size(&self) -> (usize, usize, usize) {
        let runs = |s: &Session| [&s.reports, &s.messages, &s.counts].map(Intervals::runs).iter().sum::<usize>();
        (self.nodes.len(), self.groups.len(), self.sessions.values().map(runs).sum())
    }
}
