//! The model's workers.

use super::plans::{done_with, found};
use super::{Event, Message, NOTICED, Record, Way, World};
use crate::broker::amqp::messages::{Done, Origin, Part, Tally};
use std::collections::HashMap;

pub(super) struct Held {
    pub message: Message,
    pub published: usize,
    pub unconfirmed: usize,
    pub told: u64,
    pub is_done: bool,
}

#[derive(Default)]
pub(super) struct Worker {
    pub joined: bool,
    pub dead: bool,
    /// What it sent on a channel is lost if it arrives later.
    pub cut: [Option<u64>; 3],
    pub held: HashMap<u64, Held>,
    pub tally: Tally,
    pub draining: bool,
    pub flushing: bool,
    pub last_message: u64,
    pub record: (u64, Vec<Part>, Vec<Done>),
}

impl World {
    pub(super) fn is_alive(&self, who: usize) -> bool {
        self.workers[who].joined && !self.workers[who].dead
    }

    pub(super) fn start_worker(&mut self, who: usize) {
        self.workers[who].joined = true;
        for queue in 0..if self.broker.finishing_logged { 3 } else { 2 } {
            self.later(Way::Asks(who), Event::Consume { who, queue });
        }
    }

    pub(super) fn arrive(&mut self, who: usize, tag: u64, message: Message) {
        let queue = self.queue_of(&message);
        self.workers[who].tally.delivered[queue] += 1;
        let held = Held { message, published: 0, unconfirmed: 0, told: 0, is_done: false };
        self.workers[who].held.insert(tag, held);
        self.later(Way::None, Event::Step { who, tag });
    }

    /// Publishes one child, and sometimes tells a part.
    pub(super) fn step(&mut self, who: usize, tag: u64) {
        let worker = &mut self.workers[who];
        let Some(held) = worker.held.get_mut(&tag).filter(|held| !held.is_done) else { return };
        let plan = &self.plans[held.message.plan];
        let part = self.dice.below(2 * plan.entries);
        let (left, child) = (plan.entries - held.told, plan.children.get(held.published).copied());
        if part > 0 && part <= left {
            held.told += part;
            worker.record.1.push(Part { attempt: tag, report: found(part) });
        }
        if let Some(plan) = child {
            (held.published, held.unconfirmed) = (held.published + 1, held.unconfirmed + 1);
            worker.last_message += 1;
            let origin = Origin { session: who as u64 + 1, number: worker.last_message, attempt: tag };
            self.later(Way::Publishes(who), Event::Publish { who, message: Message { origin, plan }, tag });
            self.later(Way::None, Event::Step { who, tag });
        }
        self.finish(who, tag);
    }

    /// If all is published and confirmed, a delivery is done.
    pub(super) fn finish(&mut self, who: usize, tag: u64) {
        let worker = &mut self.workers[who];
        let Some(held) = worker.held.get_mut(&tag) else { return };
        let plan = held.message.plan;
        if held.is_done || held.unconfirmed > 0 || held.published < self.plans[plan].children.len() {
            return;
        }
        held.is_done = true;
        worker.record.2.push(done_with(&self.plans, plan, held.message.origin, tag, held.told));
        self.later(Way::None, Event::Flush { who });
    }

    pub(super) fn flush(&mut self, who: usize) {
        let worker = &mut self.workers[who];
        if worker.flushing || worker.record.2.is_empty() {
            return;
        }
        worker.flushing = true;
        worker.record.0 += 1;
        let open = worker.held.values().filter(|h| !h.is_done).map(|h| self.plans[h.message.plan].entries - h.told);
        let in_progress = found(open.sum()).totals;
        let (number, parts, done) = std::mem::take(&mut worker.record);
        worker.record.0 = number;
        let record = Record { session: who as u64 + 1, number, parts, done, in_progress };
        self.later(Way::Reports(who), Event::Append { who, record: Box::new(record) });
    }

    /// A report is safe, so its deliveries are acknowledged.
    pub(super) fn told(&mut self, who: usize, tags: &[u64]) {
        for tag in tags {
            // A report that came twice is confirmed twice.
            let Some(held) = self.workers[who].held.remove(tag) else { continue };
            let queue = self.queue_of(&held.message);
            self.workers[who].tally.settled[queue] += 1;
            self.later(Way::Asks(who), Event::Ack { who, tag: *tag });
        }
        self.workers[who].flushing = false;
        self.later(Way::None, Event::Flush { who });
    }

    pub(super) fn answer(&mut self, who: usize, round: u64) {
        let mut tally = self.workers[who].tally;
        tally.unsettled = tally.delivered.iter().sum::<u64>() - tally.settled.iter().sum::<u64>();
        self.later(Way::None, Event::Reply { round, who, tally });
    }

    /// A worker takes nothing more. Who gives up its consumers and dies without ever having been heard of by the leader
    /// cannot be known of in a classic queue.
    pub(super) fn drain(&mut self, who: usize, kill: bool) {
        let is_heard = self.leader.as_ref().is_some_and(|l| l.partners.contains(&(who as u64 + 1)));
        // A death matters if there is something to lose.
        if !is_heard || kill && self.workers[who].held.is_empty() {
            return self.at(Way::None, 20, Event::Drain { who, kill });
        }
        self.workers[who].draining = true;
        for queue in 0..3 {
            self.later(Way::Asks(who), Event::Cancel { who, queue });
        }
        if kill {
            let soon = self.dice.chance(70);
            let when = self.dice.below(if soon { 10 } else { 500 });
            self.at(Way::None, when, Event::Kill { who });
        }
    }

    /// A worker dies; the broker sees it later.
    pub(super) fn kill(&mut self, who: usize) {
        let unseen = if self.dice.chance(60) { self.dice.below(300) } else { self.dice.below(NOTICED) };
        let mut cut = || Some(self.now + self.dice.below(unseen + 1));
        let cut = [cut(), cut(), cut()];
        self.workers[who].dead = true;
        self.workers[who].cut = cut;
        for queue in 0..3 {
            let more = self.dice.below(100);
            self.at(Way::None, unseen + more, Event::Notice { who, queue });
        }
    }
}
