//! Made-up jobs, and the dice that make them up.

use crate::broker::amqp::messages::{Done, Origin};
use crate::model::{Failure, Operation, Queue, Report, Totals};

/// Random numbers that are the same every time (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// How long something takes: mostly nothing, sometimes longer than many looks.
    pub(super) fn delay(&mut self) -> u64 {
        match self.below(100) {
            0..60 => self.below(3),
            60..90 => self.below(40),
            90..99 => self.below(400),
            _ => self.below(3000),
        }
    }
}

/// What is in a message: what is found, and what it makes its worker publish.
#[derive(Debug, Clone)]
pub struct Plan {
    pub queue: Queue,
    pub entries: u64,
    pub children: Vec<usize>,
}

/// A made-up job, and how many of its messages are there at the beginning: the first ones.
pub fn plans(dice: &mut Dice) -> (Vec<Plan>, usize) {
    let (count, roots) = (2 + dice.below(30) as usize, 1 + dice.below(2) as usize);
    // Some are narrow and deep.
    let deep = dice.chance(30);
    let mut plans: Vec<Plan> = Vec::new();
    for at in 0..count {
        let queue = match dice.below(10) {
            0..=4 => Queue::Dirs,
            5..=7 => Queue::Files,
            _ if at < roots => Queue::Dirs,
            _ => Queue::Finish,
        };
        plans.push(Plan { queue, entries: 1 + dice.below(5), children: Vec::new() });
        if at >= roots {
            let parent = if deep && dice.chance(90) { at - 1 } else { dice.below(at as u64) as usize };
            plans[parent].children.push(at);
        }
    }
    (plans, roots)
}

/// A report of so many entries, each a directory on an MDT, and a line for each.
pub fn found(entries: u64) -> Report {
    let failure = Failure::new(Vec::new(), Operation::Run, None, String::new());
    let totals = Totals { found: entries, ..Totals::default() };
    let placed = if entries > 0 { vec![(2, entries)] } else { Vec::new() };
    Report { totals, failures: vec![failure; entries as usize], placed, ..Report::default() }
}

/// The end of a delivery of which so many entries were told before.
pub fn done_with(plans: &[Plan], plan: usize, origin: Origin, attempt: u64, told: u64) -> Done {
    let mut posted = [0; 3];
    for child in &plans[plan].children {
        posted[plans[*child].queue as usize] += 1;
    }
    Done { origin, attempt, queue: plans[plan].queue, posted, report: found(plans[plan].entries - told) }
}

/// Entries of a plan and of all below it that is not for a later phase.
pub(super) fn entries_below(plans: &[Plan], plan: usize, queues: usize) -> u64 {
    if plans[plan].queue as usize >= queues {
        return 0;
    }
    plans[plan].entries + plans[plan].children.iter().map(|c| entries_below(plans, *c, queues)).sum::<u64>()
}
