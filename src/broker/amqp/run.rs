//! One job on one connection: its counters, what waits to be reported, and whether it still matters.

use super::envelope::Seal;
use super::messages::Tally;
use super::publish::Publisher;
use super::token::{Held, Settled, merge};
use crate::model::{JobId, Queue, Report};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Weight of finish tasks, in bytes, that make a message of their own.
const OUTBOX_BYTES: usize = 64 << 10;

/// A job as this worker sees it through one channel.
pub(super) struct Run {
    pub job: JobId,
    /// Tells it from all other runs, here and elsewhere.
    pub session: u64,
    pub publisher: Arc<Publisher>,
    pub seal: Seal,
    /// Something waits to be reported or acknowledged.
    pub wake: Notify,
    gone: AtomicBool,
    stopping: AtomicBool,
    counters: Counters,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Counters {
    consumers: [AtomicU32; 3],
    delivered: [AtomicU64; 3],
    posted: [AtomicU64; 3],
    settled: [AtomicU64; 3],
    forsaken: AtomicU64,
    results: AtomicU64,
}

/// What waits for the next report.
#[derive(Default)]
pub(super) struct Books {
    pub settled: Vec<Settled>,
    pub early: Report,
    /// Finish tasks that nobody needs before the walk is over: a few messages for many of them.
    pub outbox: Vec<Held>,
    outbox_bytes: usize,
}

fn sum(counters: &[AtomicU64; 3]) -> u64 {
    counters.iter().map(|c| c.load(SeqCst)).sum()
}

fn read<T>(counters: &[AtomicU64; 3], with: impl Fn(u64) -> T) -> [T; 3] {
    [0, 1, 2].map(|i| with(counters[i].load(SeqCst)))
}

impl Run {
    pub fn new(job: JobId, session: u64, publisher: Arc<Publisher>, seal: Seal) -> Arc<Self> {
        Arc::new(Run {
            job,
            session,
            publisher,
            seal,
            wake: Notify::new(),
            gone: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            counters: Counters::default(),
            books: Mutex::default(),
        })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection or the job is gone: what is left of it has no effect any more.
    pub fn set_gone(&self) {
        self.gone.store(true, SeqCst);
        self.wake.notify_one();
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }

    /// The job is being ended early.
    pub fn set_stopping(&self) {
        self.stopping.store(true, SeqCst);
        self.wake.notify_one();
    }

    /// Is there no use in going on?
    pub fn is_over(&self) -> bool {
        self.is_gone() || self.stopping.load(SeqCst)
    }

    pub fn delivered(&self, queue: Queue) {
        self.counters.delivered[queue as usize].fetch_add(1, SeqCst);
    }

    /// Messages of tasks are safe with the broker. Counted before the tokens they carry are let go.
    pub fn posted(&self, queue: Queue) {
        self.counters.posted[queue as usize].fetch_add(1, SeqCst);
    }

    pub fn acknowledged(&self, queue: Queue) {
        self.counters.settled[queue as usize].fetch_add(1, SeqCst);
    }

    pub fn forsaken(&self) {
        self.counters.forsaken.fetch_add(1, SeqCst);
    }

    pub fn set_consumer(&self, queue: Queue, consumes: bool) {
        self.counters.consumers[queue as usize].store(u32::from(consumes), SeqCst);
    }

    /// The number of the next report.
    pub fn next_result(&self) -> u64 {
        self.counters.results.fetch_add(1, SeqCst) + 1
    }

    /// A delivery has no holder any more.
    pub fn settle(&self, settled: Settled) {
        if !self.is_gone() {
            self.books().settled.push(settled);
            self.wake.notify_one();
        }
    }

    /// What was done for a delivery that goes on.
    pub fn report_early(&self, report: Report) {
        if !self.is_gone() {
            merge(&mut self.books().early, report);
            self.wake.notify_one();
        }
    }

    /// Puts a finish task aside; gives back a message's worth when there is one.
    pub fn put_finish(&self, held: Held) -> Vec<Held> {
        let mut books = self.books();
        books.outbox_bytes += held.task.weight_bytes();
        books.outbox.push(held);
        if books.outbox_bytes < OUTBOX_BYTES {
            drop(books);
            self.wake.notify_one();
            return Vec::new();
        }
        books.outbox_bytes = 0;
        std::mem::take(&mut books.outbox)
    }

    pub fn take_books(&self) -> Books {
        std::mem::take(&mut self.books())
    }

    pub fn has_news(&self) -> bool {
        let books = self.books();
        !books.settled.is_empty() || !books.outbox.is_empty() || !books.early.is_empty()
    }

    /// Must the leader hear at once?
    pub fn is_urgent(&self) -> bool {
        self.books().early.abort.is_some()
    }

    /// Deliveries that are not acknowledged and not left to the broker.
    pub fn live(&self) -> u64 {
        // What shrinks the difference is read first, so it is never too small.
        let done = sum(&self.counters.settled) + self.counters.forsaken.load(SeqCst);
        sum(&self.counters.delivered).saturating_sub(done)
    }

    /// The counters for the leader.
    pub fn tally(&self, idle: [u32; 2]) -> Tally {
        let c = &self.counters;
        let settled = read(&c.settled, |n| n);
        let posted = read(&c.posted, |n| n);
        let results = c.results.load(SeqCst);
        let delivered = read(&c.delivered, |n| n);
        let unsettled = delivered.iter().sum::<u64>().saturating_sub(settled.iter().sum());
        let consumers = [0, 1, 2].map(|i| c.consumers[i].load(SeqCst));
        Tally { consumers, unsettled, delivered, posted, settled, results, idle }
    }
}
