//! The model's leaders, and what they must not say.

use super::broker::Broker;
use super::plans::entries_below;
use super::{ANSWER, Event, Message, Record, UNNOTICED, Way, World};
use crate::broker::amqp::accounts::Accounts;
use crate::broker::amqp::connection::Depth;
use crate::broker::amqp::messages::Tally;
use crate::broker::amqp::quiescence::{Look, Verdict, Watch};
use std::collections::HashSet;
use std::time::Duration;

pub(super) struct Leader {
    pub watch: Watch,
    pub accounts: Accounts,
    pub read: usize,
    pub found: u64,
    pub look: Look,
    pub depths_seen: usize,
    pub partners: HashSet<u64>,
    pub quiet_looks: u32,
}

impl Leader {
    pub(super) fn read(&mut self, records: &[Record], upto: usize) {
        for r in records.get(self.read..upto).unwrap_or_default() {
            let (parts, done) = (r.parts.clone(), r.done.clone());
            self.found += self.accounts.take(r.session, r.number, parts, done, r.in_progress).totals.found;
        }
        self.read = self.read.max(upto);
    }
}

impl World {
    pub(super) fn lead(&mut self) {
        self.leaders += 1;
        let mut accounts = Accounts::default();
        let mut seeds = [0; 3];
        self.plans[..self.roots].iter().for_each(|p| seeds[p.queue as usize] += 1);
        accounts.seed(seeds);
        let unnoticed = if self.classic { UNNOTICED } else { Duration::ZERO };
        let mut watch = Watch::new(unnoticed, self.round > 0);
        if self.broker.finishing_logged {
            watch.enter_finishing();
        }
        let (look, partners) = Default::default();
        self.leader =
            Some(Leader { watch, accounts, read: 0, found: 0, look, depths_seen: 0, partners, quiet_looks: 0 });
        let upto = self.broker.stream.len();
        self.later(Way::Reading, Event::Read { upto });
        self.round += 1;
        self.later(Way::None, Event::Look { round: self.round });
    }

    pub(super) fn hand_over(&mut self) {
        self.leader = None;
        self.round += 1;
        self.later(Way::None, Event::Lead);
    }

    pub(super) fn leader(&mut self) -> &mut Leader {
        self.leader.as_mut().expect("its events have its round")
    }

    pub(super) fn look(&mut self) {
        self.round += 1;
        let leader = self.leader();
        leader.look = Look::default();
        leader.depths_seen = 0;
        self.later(Way::None, Event::Holds { round: self.round });
    }

    pub(super) fn holds(&mut self) {
        self.leader().look.holds = self.broker.parked.len() as u32;
        for queue in 0..3 {
            self.later(Way::None, Event::DepthOf { round: self.round, queue });
        }
    }

    pub(super) fn depth(&mut self, queue: usize) {
        let depth = Depth { ready: self.broker.ready[queue].len() as u32, consumers: self.consumers(queue) };
        let round = self.round;
        let leader = self.leader();
        leader.look.depths[queue] = depth;
        leader.depths_seen += 1;
        if leader.depths_seen < 3 {
            return;
        }
        let deep = leader.look.depths.iter().take(leader.watch.queues()).all(|d| d.ready == 0);
        for who in 0..self.workers.len() {
            self.later(Way::None, Event::Probe { who, round, deep });
        }
        self.at(Way::None, ANSWER, Event::Patience { round });
    }

    pub(super) fn reply(&mut self, who: usize, tally: Tally) {
        let leader = self.leader();
        leader.look.tallies.insert(who as u64 + 1, tally);
        let Leader { look, partners, watch, .. } = leader;
        if watch.is_answered(look) && partners.iter().all(|p| look.tallies.contains_key(p)) {
            self.conclude();
        }
    }

    pub(super) fn conclude(&mut self) {
        self.round += 1;
        let now = self.start + Duration::from_millis(self.now);
        let Leader { watch, accounts, look, partners, .. } = self.leader();
        *partners = look.tallies.keys().copied().collect();
        let verdict = watch.observe(look, accounts.is_balanced(watch.queues()), now);
        let pause = match verdict {
            Verdict::Busy => 5 + self.dice.below(200),
            Verdict::Quiet if self.leader().quiet_looks > 30 => 400,
            Verdict::Quiet => 1 + self.dice.below(10),
            Verdict::Over | Verdict::Lost => 1,
        };
        let leader = self.leader();
        leader.quiet_looks = if verdict == Verdict::Quiet { leader.quiet_looks + 1 } else { 0 };
        match verdict {
            Verdict::Over => self.over(),
            Verdict::Lost => {
                assert!(self.lost > 0, "seed {}: nothing was lost", self.seed);
                self.is_over = true;
            }
            Verdict::Busy | Verdict::Quiet => {}
        }
        self.said.push(verdict);
        self.at(Way::None, pause, Event::Look { round: self.round });
    }

    pub(super) fn over(&mut self) {
        self.check();
        if self.leader().watch.is_finishing() {
            self.is_over = true;
            return self.replay();
        }
        self.broker.finishing_logged = true;
        self.leader().watch.enter_finishing();
        for who in (0..self.workers.len()).filter(|who| self.is_alive(*who)).collect::<Vec<_>>() {
            self.later(Way::None, Event::Finishing { who });
        }
    }

    /// The entries that a job has up to the end of a phase.
    pub(super) fn entries(&self, queues: usize) -> u64 {
        (0..self.roots).map(|root| entries_below(&self.plans, root, queues)).sum()
    }

    /// Is the phase over indeed?
    pub(super) fn check(&mut self) {
        let (seed, queues, found) = (self.seed, self.leader().watch.queues(), self.leader().found);
        let counts = |m: &&Message| self.queue_of(m) < queues;
        let Broker { ready, parked, unacked, .. } = &self.broker;
        assert_eq!(ready.iter().flatten().filter(counts).count(), 0, "seed {seed}: something is ready");
        assert_eq!(parked.iter().filter(counts).count(), 0, "seed {seed}: something is parked");
        assert_eq!(unacked.values().filter(counts).count(), 0, "seed {seed}: something is in hands");
        let coming = self.events.values().filter(
            |event| matches!(event, Event::Publish { who, message, .. } if counts(&message) && !self.is_cut(*who, 1)),
        );
        assert_eq!(coming.count(), 0, "seed {seed}: something is on its way");
        assert_eq!(found, self.entries(queues), "seed {seed}: totals at the end of the phase");
    }

    /// Whoever reads the stream from its beginning sees the same.
    pub(super) fn replay(&mut self) {
        self.lead();
        self.leaders -= 1;
        let stream = std::mem::take(&mut self.broker.stream);
        let all = self.entries(3);
        let leader = self.leader();
        leader.read(&stream, stream.len());
        assert_eq!((leader.found, leader.accounts.outstanding()), (all, [0; 3]), "of whoever comes later");
    }
}
