//! A model of a broker, its workers and a job's leaders in made-up time, with everything late that may be late, and
//! deaths at any moment. The real [`Watch`] and [`Accounts`] decide; the model knows what is true.
//!
//! What holds in it, and must hold of the broker:
//!
//! - What goes one way on one channel stays in order; between channels there is no order.
//! - What a dead worker published is in its queue, or lost, before the broker gives its deliveries to anybody.
//! - A queue takes back the deliveries of a dead worker at the moment in which it stops to count its consumer; of a
//!   classic queue a consumer may have been cancelled before, and nothing tells of its deliveries then.

mod broker;
mod leader;
mod plans;
mod worker;

use super::messages::{Done, Origin, Part, Tally};
use super::quiescence::Verdict;
use crate::model::Totals;
use broker::Broker;
use leader::Leader;
pub(super) use plans::{Dice, Plan, done_with, found, plans};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};
use worker::Worker;

const RUNS: u64 = 4000;
/// Milliseconds of made-up time after which a job has no end.
const TOO_LONG: u64 = 600_000;
/// From then on nothing is late any more.
const CALM: u64 = 60_000;
/// Deaths are noticed within so many milliseconds, and counted on so many.
const NOTICED: u64 = 40_000;
const UNNOTICED: Duration = Duration::from_secs(45);
/// How long a look waits for answers.
const ANSWER: u64 = 1000;

#[derive(Debug, Clone, Copy)]
struct Message {
    origin: Origin,
    plan: usize,
}

#[derive(Debug, Clone)]
struct Record {
    session: u64,
    number: u64,
    parts: Vec<Part>,
    done: Vec<Done>,
    in_progress: Totals,
}

/// What happens at a moment. `who` is a worker, from 0.
#[derive(Debug)]
enum Event {
    // At the broker.
    Publish { who: usize, message: Message, tag: u64 },
    Ack { who: usize, tag: u64 },
    Consume { who: usize, queue: usize },
    Cancel { who: usize, queue: usize },
    Ask { who: usize, round: u64 },
    Append { who: usize, record: Box<Record> },
    Notice { who: usize, queue: usize },
    Deliver,
    Unpark,
    Purge,
    // At a worker.
    Join { who: usize },
    Finishing { who: usize },
    Consuming { who: usize, queue: usize },
    Cancelled { who: usize, queue: usize },
    Arrive { who: usize, tag: u64, message: Message },
    Step { who: usize, tag: u64 },
    Confirm { who: usize, tag: u64 },
    Flush { who: usize },
    Told { who: usize, tags: Vec<u64> },
    Probe { who: usize, round: u64, deep: bool },
    Answer { who: usize, round: u64 },
    Drain { who: usize, kill: bool },
    Kill { who: usize },
    // At the leader; what was meant for one that is dead has an older number of a round.
    Look { round: u64 },
    Holds { round: u64 },
    DepthOf { round: u64, queue: usize },
    Reply { round: u64, who: usize, tally: Tally },
    Patience { round: u64 },
    Read { upto: usize },
    Hand,
    Lead,
}

/// Which way something goes: what goes the same way stays in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    /// Acknowledgements and questions.
    Asks(usize),
    /// Deliveries and answers.
    Answers(usize),
    Publishes(usize),
    Confirms(usize),
    Reports(usize),
    Reading,
    None,
}

struct World {
    seed: u64,
    dice: Dice,
    now: u64,
    start: Instant,
    last_event: u64,
    is_over: bool,
    agenda: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    lines: HashMap<Way, u64>,
    plans: Vec<Plan>,
    roots: usize,
    classic: bool,
    /// Work goes on faster than anybody can look.
    brisk: bool,
    purges: bool,
    broker: Broker,
    workers: Vec<Worker>,
    round: u64,
    leader: Option<Leader>,
    lost: u64,
    said: Vec<Verdict>,
    leaders: u64,
    /// Ends of deliveries in the stream.
    done: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let (plans, roots) = plans(&mut dice);
        let (agenda, events, lines, broker) = Default::default();
        let (classic, brisk, purges) = (dice.chance(50), dice.chance(50), dice.chance(8));
        let (now, last_event, round, lost, is_over) = (0, 0, 0, 0, false);
        let (start, leader, workers, said) = (Instant::now(), None, Vec::new(), Vec::new());
        let mut world = World {
            seed,
            dice,
            now,
            start,
            last_event,
            is_over,
            agenda,
            events,
            lines,
            plans,
            roots,
            classic,
            brisk,
            purges,
            broker,
            workers,
            round,
            leader,
            lost,
            said,
            leaders: 0,
            done: 0,
        };
        world.set_out();
        world
    }

    /// Who comes, and who dies.
    fn set_out(&mut self) {
        for plan in 0..self.roots {
            let origin = Origin { session: 0, number: plan as u64 + 1, attempt: 0 };
            self.broker.ready[self.plans[plan].queue as usize].push_back(Message { origin, plan });
        }
        self.at(Way::None, 0, Event::Lead);
        for _ in 0..=self.dice.below(3) {
            let when = if self.dice.chance(70) { self.dice.below(20) } else { self.dice.below(4000) };
            self.join(when);
        }
        for _ in 0..self.dice.below(6) {
            let soon = self.dice.chance(70);
            let when = self.dice.below(match soon {
                true if self.brisk => 30,
                true => 600,
                false => 4000,
            });
            // The first worker stays, so that there is an end.
            let who = self.dice.below(self.workers.len() as u64) as usize;
            match self.dice.below(8) {
                0 => self.at(Way::None, when, Event::Hand),
                1 if who > 0 => self.at(Way::None, when, Event::Drain { who, kill: self.classic }),
                2 if who > 0 => self.at(Way::None, when, Event::Drain { who, kill: false }),
                _ if who > 0 => {
                    self.at(Way::None, when, Event::Kill { who });
                    self.join(when + 1);
                }
                _ => self.join(when),
            }
        }
        if self.purges {
            let when = self.dice.below(2000);
            self.at(Way::None, when, Event::Purge);
        }
    }

    fn join(&mut self, when: u64) {
        self.workers.push(Worker::default());
        self.at(Way::None, when, Event::Join { who: self.workers.len() - 1 });
    }

    fn at(&mut self, way: Way, delay: u64, event: Event) {
        let mut time = self.now + delay;
        if way != Way::None {
            let last = self.lines.entry(way).or_default();
            time = time.max(*last);
            *last = time;
        }
        self.last_event += 1;
        self.agenda.push(Reverse((time, self.last_event)));
        self.events.insert(self.last_event, event);
    }

    /// Long after the last death everything is in time.
    fn is_calm(&self) -> bool {
        self.now > CALM
    }

    fn later(&mut self, way: Way, event: Event) {
        use Event::{DepthOf, Holds, Probe, Reply};
        let is_asked = matches!(event, Holds { .. } | DepthOf { .. } | Probe { .. } | Reply { .. });
        let is_quick = self.is_calm() || self.brisk && !is_asked;
        let delay = if is_quick { self.dice.below(3) } else { self.dice.delay() };
        self.at(way, delay, event);
    }

    fn run(&mut self) {
        while !self.is_over {
            let Reverse((time, number)) = self.agenda.pop().expect("somebody always looks");
            self.now = time;
            assert!(
                time < TOO_LONG,
                "seed {}: no end; outstanding {:?}",
                self.seed,
                self.leader.as_ref().map(|l| l.accounts.outstanding())
            );
            let event = self.events.remove(&number).expect("it was put there");
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        use Event::*;
        match event {
            Publish { who, message, tag } => self.publish(who, message, tag),
            Ack { who, tag } => self.ack(who, tag),
            Consume { who, queue } => self.consume(who, queue),
            Cancel { who, queue } => self.cancel(who, queue),
            Ask { who, round } if !self.is_cut(who, 0) => self.later(Way::Answers(who), Answer { who, round }),
            Append { who, record } => self.append(who, *record),
            Notice { who, queue } => self.notice(who, queue),
            Deliver => self.deliver(),
            Unpark => self.unpark(),
            Purge => self.purge(),
            Look { round } if round == self.round => self.look(),
            Holds { round } if round == self.round => self.holds(),
            DepthOf { round, queue } if round == self.round => self.depth(queue),
            Reply { round, who, tally } if round == self.round => self.reply(who, tally),
            Patience { round } if round == self.round => self.conclude(),
            Read { upto } => {
                if let Some(leader) = &mut self.leader {
                    leader.read(&self.broker.stream, upto);
                }
            }
            Hand => self.hand_over(),
            Lead => self.lead(),
            at_worker => self.happen_at_worker(at_worker),
        }
    }

    fn happen_at_worker(&mut self, event: Event) {
        use Event::*;
        match event {
            Join { who } => self.start_worker(who),
            Drain { who, kill } if self.is_alive(who) => self.drain(who, kill),
            Kill { who } if self.is_alive(who) => self.kill(who),
            Finishing { who } if self.is_alive(who) && !self.workers[who].draining => {
                self.later(Way::Asks(who), Consume { who, queue: 2 });
            }
            Consuming { who, queue } => self.workers[who].tally.consumers[queue] = 1,
            Cancelled { who, queue } => self.workers[who].tally.consumers[queue] = 0,
            Arrive { who, tag, message } if self.is_alive(who) => self.arrive(who, tag, message),
            Step { who, tag } if self.is_alive(who) => self.step(who, tag),
            Confirm { who, tag } if self.is_alive(who) => {
                if let Some(held) = self.workers[who].held.get_mut(&tag) {
                    held.unconfirmed -= 1;
                }
                self.finish(who, tag);
            }
            Flush { who } if self.is_alive(who) => self.flush(who),
            Told { who, tags } if self.is_alive(who) => self.told(who, &tags),
            Probe { who, round, deep } if self.is_alive(who) => match deep {
                _ if !self.is_calm() && self.dice.chance(3) => {}
                true => self.later(Way::Asks(who), Ask { who, round }),
                false => self.answer(who, round),
            },
            Answer { who, round } if self.is_alive(who) => self.answer(who, round),
            _ => {}
        }
    }
}

/// What became of some runs.
#[derive(Debug, Default)]
struct Tried {
    over: u64,
    lost: u64,
    /// More was done than there was to do, for somebody died.
    repeated: u64,
    /// The last leader was not the first one.
    handed_over: u64,
    /// A worker died.
    died: u64,
}

fn run(seeds: impl Iterator<Item = u64>) -> Tried {
    let mut tried = Tried::default();
    for seed in seeds {
        let mut world = World::new(seed);
        world.run();
        let is_over = world.said.last() == Some(&Verdict::Over);
        tried.over += u64::from(is_over);
        tried.lost += u64::from(!is_over);
        tried.repeated += u64::from(world.done > world.plans.len());
        tried.handed_over += u64::from(world.leaders > 1);
        tried.died += u64::from(world.workers.iter().any(|w| w.dead));
    }
    tried
}

#[test]
fn the_end_of_a_phase_is_said_exactly_when_it_is_over() {
    let halves: Vec<_> = (0..2).map(|half| std::thread::spawn(move || run((half..RUNS).step_by(2)))).collect();
    for half in halves {
        let tried = half.join().expect("a run failed; its seed is above");
        let Tried { over, lost, repeated, handed_over, died } = tried;
        let enough =
            over > RUNS / 3 && lost > 10 && repeated > RUNS / 40 && handed_over > RUNS / 20 && died > RUNS / 20;
        assert!(enough, "too little happens in the runs: {tried:?}");
    }
}
