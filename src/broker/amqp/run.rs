//! One job on one connection: its counters, what waits to be reported, and whether it still matters.

use super::envelope::Seal;
use super::messages::{Origin, Part, Tally};
use super::publish::Publisher;
use super::token::{Settled, Token};
use crate::model::{JobId, Queue, Totals};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Notify;

/// A job as this worker sees it through one channel.
pub(super) struct Run {
    pub job: JobId,
    /// Tells it from all other runs, here and elsewhere; never 0.
    pub session: u64,
    pub publisher: Arc<Publisher>,
    pub seal: Seal,
    /// Share of this worker that the job gets, compared with other jobs.
    pub weight: u32,
    /// Something waits to be reported or acknowledged.
    pub wake: Notify,
    /// Suspects in actors' hands.
    suspects: AtomicU32,
    gone: AtomicBool,
    stopping: AtomicBool,
    counters: Counters,
    books: Mutex<Books>,
    tokens: Mutex<HashMap<u64, Weak<Token>>>,
}

#[derive(Default)]
struct Counters {
    consumers: [AtomicU32; 3],
    delivered: [AtomicU64; 3],
    settled: [AtomicU64; 3],
    published: AtomicU64,
    results: AtomicU64,
}

/// What waits for the next report.
#[derive(Default)]
pub(super) struct Books {
    pub settled: Vec<Settled>,
    pub parts: Vec<Part>,
    /// Tags that nobody needs any more: their deliveries have others.
    pub moved: Vec<u64>,
    pub abort: Option<String>,
    /// All that was done for deliveries that are not settled.
    in_progress: Totals,
    /// Somebody should hear of that.
    progressed: bool,
}

fn sum(counters: &[AtomicU64; 3]) -> u64 {
    counters.iter().map(|c| c.load(SeqCst)).sum()
}

fn read<T>(counters: &[AtomicU64; 3], with: impl Fn(u64) -> T) -> [T; 3] {
    [0, 1, 2].map(|i| with(counters[i].load(SeqCst)))
}

impl Books {
    /// Should somebody hear of what is in progress?
    pub fn progressed(&self) -> bool {
        self.progressed
    }
}

impl Run {
    pub fn new(job: JobId, session: u64, weight: u32, publisher: Arc<Publisher>, seal: Seal) -> Arc<Self> {
        Arc::new(Run {
            job,
            session,
            publisher,
            seal,
            weight,
            wake: Notify::new(),
            suspects: AtomicU32::new(0),
            gone: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            counters: Counters::default(),
            books: Mutex::default(),
            tokens: Mutex::default(),
        })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, HashMap<u64, Weak<Token>>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A suspect is begun, or done with.
    pub fn alone(&self, begins: bool) {
        if begins {
            self.suspects.fetch_add(1, SeqCst)
        } else {
            self.suspects.fetch_sub(1, SeqCst)
        };
    }

    /// Is a suspect in somebody's hands?
    pub fn has_suspect(&self) -> bool {
        self.suspects.load(SeqCst) > 0
    }

    pub fn add_token(&self, token: &Arc<Token>) {
        self.tokens().insert(token.attempt, Arc::downgrade(token));
    }

    pub fn drop_token(&self, attempt: u64) {
        self.tokens().remove(&attempt);
    }

    /// A delivery that is not settled.
    pub fn token(&self, attempt: u64) -> Option<Arc<Token>> {
        self.tokens().get(&attempt).and_then(Weak::upgrade)
    }

    /// All deliveries that are not settled.
    pub fn open_tokens(&self) -> Vec<Arc<Token>> {
        self.tokens().values().filter_map(Weak::upgrade).collect()
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

    /// Names the next message that is published for a delivery.
    pub fn next_origin(&self, attempt: u64) -> Origin {
        let number = self.counters.published.fetch_add(1, SeqCst) + 1;
        Origin { session: self.session, number, attempt }
    }

    pub fn acknowledged(&self, queue: Queue) {
        self.counters.settled[queue as usize].fetch_add(1, SeqCst);
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

    /// What was done for a delivery that is not settled; `tell` if somebody should hear of it soon.
    pub fn progressed(&self, totals: &Totals, tell: bool) {
        if !self.is_gone() {
            let mut books = self.books();
            books.in_progress.add(totals);
            books.progressed |= tell;
            drop(books);
            if tell {
                self.wake.notify_one();
            }
        }
    }

    /// A part of a report that is too large to be sent at once.
    pub fn put_part(&self, part: Part) {
        if !self.is_gone() {
            self.books().parts.push(part);
            self.wake.notify_one();
        }
    }

    /// A tag is to be acknowledged; its delivery goes on under another.
    pub fn acknowledge(&self, tag: u64) {
        self.books().moved.push(tag);
        self.wake.notify_one();
    }

    /// There is no use in going on with the job.
    pub fn abort(&self, why: &str) {
        self.books().abort.get_or_insert_with(|| why.to_owned());
        self.wake.notify_one();
    }

    /// What waits to be told, and what is in progress beside it.
    pub fn take_books(&self) -> (Books, Totals) {
        let mut books = self.books();
        let mut in_progress = books.in_progress;
        for settled in &books.settled {
            in_progress.take_back(&settled.report.totals);
        }
        let taken = std::mem::take(&mut *books);
        books.in_progress = in_progress;
        (taken, in_progress)
    }

    /// A delivery that was taken out is not settled after all.
    pub fn still_open(&self, totals: &Totals) {
        self.books().in_progress.add(totals);
    }

    pub fn has_news(&self) -> bool {
        let books = self.books();
        !books.settled.is_empty()
            || !books.parts.is_empty()
            || !books.moved.is_empty()
            || books.abort.is_some()
            || books.progressed
    }

    /// Must the leader hear at once?
    pub fn is_urgent(&self) -> bool {
        self.books().abort.is_some()
    }

    /// Deliveries that are not acknowledged.
    pub fn live(&self) -> u64 {
        // What shrinks the difference is read first, so it is never too small.
        let done = sum(&self.counters.settled);
        sum(&self.counters.delivered).saturating_sub(done)
    }

    /// The counters for the leader.
    pub fn tally(&self, idle: [u32; 2]) -> Tally {
        let c = &self.counters;
        let settled = read(&c.settled, |n| n);
        let results = c.results.load(SeqCst);
        let delivered = read(&c.delivered, |n| n);
        let unsettled = delivered.iter().sum::<u64>().saturating_sub(settled.iter().sum());
        let consumers = [0, 1, 2].map(|i| c.consumers[i].load(SeqCst));
        Tally { consumers, unsettled, delivered, settled, results, idle }
    }
}
