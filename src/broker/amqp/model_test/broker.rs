//! The model's broker.

use super::{Event, Message, Record, Way, World};
use std::collections::{BTreeMap, HashMap, VecDeque};

#[derive(Default)]
pub(super) struct Broker {
    pub ready: [VecDeque<Message>; 3],
    pub parked: Vec<Message>,
    /// By worker and queue: does it consume?
    pub consumers: BTreeMap<(usize, usize), bool>,
    pub unacked: BTreeMap<(usize, u64), Message>,
    pub last_tag: HashMap<usize, u64>,
    pub stream: Vec<Record>,
    pub finishing_logged: bool,
}

impl World {
    /// Is what a worker sent on a channel lost by now?
    pub(super) fn is_cut(&self, who: usize, channel: usize) -> bool {
        self.workers[who].cut[channel].is_some_and(|cut| cut <= self.now)
    }

    pub(super) fn queue_of(&self, message: &Message) -> usize {
        self.plans[message.plan].queue as usize
    }

    pub(super) fn publish(&mut self, who: usize, message: Message, tag: u64) {
        if !self.is_cut(who, 1) {
            self.broker.ready[self.queue_of(&message)].push_back(message);
            self.later(Way::Confirms(who), Event::Confirm { who, tag });
            self.later(Way::None, Event::Deliver);
        }
    }

    pub(super) fn ack(&mut self, who: usize, tag: u64) {
        if !self.is_cut(who, 0) {
            self.broker.unacked.remove(&(who, tag));
            self.later(Way::None, Event::Deliver);
        }
    }

    pub(super) fn consume(&mut self, who: usize, queue: usize) {
        if !self.is_cut(who, 0) {
            self.broker.consumers.insert((who, queue), true);
            self.later(Way::Answers(who), Event::Consuming { who, queue });
            self.later(Way::None, Event::Deliver);
        }
    }

    pub(super) fn cancel(&mut self, who: usize, queue: usize) {
        if !self.is_cut(who, 0) && self.broker.consumers.contains_key(&(who, queue)) {
            self.broker.consumers.insert((who, queue), false);
            self.later(Way::Answers(who), Event::Cancelled { who, queue });
        }
    }

    pub(super) fn unacked(&self, who: usize, queue: usize) -> usize {
        let own = self.broker.unacked.range((who, 0)..(who + 1, 0));
        own.filter(|(_, m)| self.queue_of(m) == queue).count()
    }

    /// Gives what is ready to those who have room.
    pub(super) fn deliver(&mut self) {
        for queue in 0..3 {
            while !self.broker.ready[queue].is_empty() {
                let consuming = self.broker.consumers.iter().filter(|((_, q), on)| *q == queue && **on);
                let free = consuming.map(|((who, _), _)| *who).filter(|who| self.unacked(*who, queue) < 2);
                let free: Vec<usize> = free.collect();
                if free.is_empty() {
                    break;
                }
                let who = free[self.dice.below(free.len() as u64) as usize];
                let message = self.broker.ready[queue].pop_front().expect("one is ready");
                let tag = self.broker.last_tag.entry(who).or_default();
                *tag += 1;
                let tag = *tag;
                self.broker.unacked.insert((who, tag), message);
                self.later(Way::Answers(who), Event::Arrive { who, tag, message });
            }
        }
    }

    pub(super) fn append(&mut self, who: usize, record: Record) {
        if self.is_cut(who, 2) {
            return;
        }
        self.done += record.done.len();
        let tags = record.done.iter().map(|d| d.attempt).collect();
        self.broker.stream.extend(std::iter::repeat_n(record, 1 + usize::from(self.dice.chance(5))));
        self.later(Way::None, Event::Told { who, tags });
        let upto = self.broker.stream.len();
        self.later(Way::Reading, Event::Read { upto });
    }

    /// A queue learns that a worker is dead.
    pub(super) fn notice(&mut self, who: usize, queue: usize) {
        self.broker.consumers.remove(&(who, queue));
        let own: Vec<u64> = self.broker.unacked.range((who, 0)..(who + 1, 0)).map(|((_, tag), _)| *tag).collect();
        for tag in own {
            let message = self.broker.unacked[&(who, tag)];
            if self.queue_of(&message) != queue {
                continue;
            }
            self.broker.unacked.remove(&(who, tag));
            if self.dice.chance(30) {
                self.broker.parked.push(message);
                self.later(Way::None, Event::Unpark);
            } else {
                self.broker.ready[queue].push_front(message);
            }
        }
        self.later(Way::None, Event::Deliver);
    }

    pub(super) fn unpark(&mut self) {
        let message = self.broker.parked.pop().expect("as many go back as were parked");
        self.broker.ready[self.queue_of(&message)].push_back(message);
        self.later(Way::None, Event::Deliver);
    }

    /// Somebody empties a queue.
    pub(super) fn purge(&mut self) {
        let queue = self.dice.below(3) as usize;
        if self.broker.ready[queue].is_empty() {
            self.at(Way::None, 1, Event::Purge);
        } else {
            self.lost += self.broker.ready[queue].drain(..).count() as u64;
        }
    }

    pub(super) fn consumers(&self, queue: usize) -> u32 {
        let own = self.broker.consumers.iter().filter(|((_, q), _)| *q == queue);
        own.filter(|((who, _), on)| **on || !self.classic && self.unacked(*who, queue) > 0).count() as u32
    }
}
