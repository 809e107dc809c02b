//! What holds a delivery open.
//!
//! Invariant: while one task derived from a delivery is not done, or one message published for it is not
//! confirmed, somebody holds its token. When the last holder lets go, the delivery is settled.

use super::messages::{Origin, Part};
use super::run::Run;
use crate::model::{Evidence, Queue, Report, Task, Totals};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A delivery that takes longer tells what it did so far before it is settled: somebody watches.
const REPORT_EARLY: Duration = Duration::from_secs(1);
/// What a report holds beside its totals, in bytes, is sent ahead when there is more.
const PART_BYTES: usize = 256 << 10;

/// One unacknowledged delivery.
pub(super) struct Token {
    pub run: Arc<Run>,
    /// The first tag that it had: names this attempt at its message.
    pub attempt: u64,
    /// Counted under this queue.
    queue: Queue,
    /// The message as it came: all that is needed to work on it anew.
    pub body: Vec<u8>,
    place: Mutex<Place>,
    arrived: Instant,
    begun: OnceLock<Begun>,
    posted: [AtomicU32; 3],
    /// Some of it was left undone, since the job is being ended.
    abandoned: AtomicBool,
    /// It is worked on alone.
    alone: AtomicBool,
    books: Mutex<Own>,
}

/// Where the broker keeps it.
struct Place {
    tag: u64,
    since: Instant,
    /// A copy is on its way to the queue where this run parks what takes long.
    moving: bool,
}

struct Begun {
    at: Instant,
    origin: Origin,
    queue: Queue,
    again: bool,
}

#[derive(Default)]
struct Own {
    report: Report,
    /// Bytes in the report, roughly.
    bytes: usize,
    /// Tasks that nobody needs before the walk is over: one message when the delivery is done.
    finish: Vec<Task>,
    finish_bytes: usize,
}

/// A delivery that nobody needs any more.
pub(super) struct Settled {
    /// Which message it was; none if nobody looked into it.
    pub origin: Option<Origin>,
    pub attempt: u64,
    /// What it is counted under.
    pub counted: Queue,
    /// What its tasks were for.
    pub queue: Queue,
    pub tag: u64,
    pub posted: [u32; 3],
    pub report: Report,
    /// To be published first.
    pub finish: Vec<Task>,
    /// Somebody may have worked on it before.
    pub again: bool,
}

impl Token {
    /// For a delivery that has just arrived; counts it.
    pub fn new(run: &Arc<Run>, queue: Queue, tag: u64, body: Vec<u8>) -> Arc<Self> {
        run.delivered(queue);
        let token = Arc::new(Token {
            run: Arc::clone(run),
            attempt: tag,
            queue,
            body,
            place: Mutex::new(Place { tag, since: Instant::now(), moving: false }),
            arrived: Instant::now(),
            begun: OnceLock::new(),
            posted: Default::default(),
            abandoned: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            books: Mutex::default(),
        });
        run.add_token(&token);
        token
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn books(&self) -> MutexGuard<'_, Own> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work on it begins now.
    pub fn begin(&self, origin: Origin, queue: Queue, again: bool) {
        let _ = self.begun.set(Begun { at: Instant::now(), origin, queue, again });
    }

    /// The run that published its message, and which of that run's it is, once it is known.
    pub fn message(&self) -> Option<(u64, u64)> {
        let origin = self.begun.get()?.origin;
        (!origin.is_foreign()).then_some((origin.session, origin.number))
    }

    /// How long it has been worked on, or has waited for that.
    pub fn age(&self) -> Duration {
        self.begun.get().map_or(self.arrived, |b| b.at).elapsed()
    }

    /// Must it be moved on before the broker takes it for forgotten? True once; then a copy is on its way.
    pub fn must_move(&self, after: Duration) -> bool {
        let mut place = self.place();
        let must = !place.moving && place.since.elapsed() > after;
        place.moving |= must;
        must
    }

    /// The broker keeps it under another tag from now on; gives back the one that is to be acknowledged.
    pub fn moved(&self, tag: u64) -> u64 {
        let mut place = self.place();
        (place.since, place.moving) = (Instant::now(), false);
        std::mem::replace(&mut place.tag, tag)
    }

    /// Some of it is left undone: it does not count as done.
    pub fn abandon(&self) {
        self.abandoned.store(true, SeqCst);
    }

    /// Nothing else that may have killed workers is worked on here meanwhile.
    pub fn set_alone(&self) {
        if !self.alone.swap(true, SeqCst) {
            self.run.alone(true);
        }
    }

    pub fn is_alone(&self) -> bool {
        self.alone.load(SeqCst)
    }

    /// A message published for it is safe.
    pub fn posted(&self, queue: Queue) {
        self.posted[queue as usize].fetch_add(1, SeqCst);
    }

    /// Adds to what is told when the delivery is settled.
    pub fn report(&self, report: Report) {
        if let Some(why) = &report.abort {
            self.run.abort(why);
        }
        self.run.progressed(&report.totals, self.age() > REPORT_EARLY);
        let mut books = self.books();
        books.bytes += lists_bytes(&report);
        books.report.add(report);
        if books.bytes > PART_BYTES {
            books.bytes = 0;
            let report = take_lists(&mut books.report);
            drop(books);
            self.run.put_part(Part { attempt: self.attempt, report });
        }
    }

    /// Puts a finish task aside; gives back a message's worth when there is one.
    pub fn put_finish(&self, task: Task, limit_bytes: usize) -> Vec<Task> {
        let mut books = self.books();
        books.finish_bytes += task.weight_bytes();
        books.finish.push(task);
        if books.finish_bytes < limit_bytes {
            return Vec::new();
        }
        books.finish_bytes = 0;
        std::mem::take(&mut books.finish)
    }
}

/// What a report holds beside its totals, in bytes, roughly.
pub(super) fn lists_bytes(report: &Report) -> usize {
    let failures: usize = report.failures.iter().map(|f| 128 + f.path.len() + f.message.len()).sum();
    let findings: usize =
        report.findings.iter().map(|f| 96 + f.path.len() + f.what.len() + f.expected.len() + f.found.len()).sum();
    let slow: usize = report.slow.iter().map(|s| 48 + s.directory.len()).sum();
    failures + findings + slow + 12 * report.placed.len() + report.evidence.as_ref().map_or(0, |e| 160 * e.marks.len())
}

/// Takes the lists out of a report; the totals and sums stay.
fn take_lists(report: &mut Report) -> Report {
    let marks = report.evidence.as_mut().map(|e| std::mem::take(&mut e.marks)).unwrap_or_default();
    let evidence = (!marks.is_empty()).then(|| Box::new(Evidence { marks, ..Evidence::default() }));
    Report {
        totals: Totals::default(),
        failures: std::mem::take(&mut report.failures),
        findings: std::mem::take(&mut report.findings),
        slow: std::mem::take(&mut report.slow),
        placed: std::mem::take(&mut report.placed),
        evidence,
        abort: None,
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.run.drop_token(self.attempt);
        if *self.alone.get_mut() {
            self.run.alone(false);
        }
        let own = std::mem::take(self.books.get_mut().unwrap_or_else(PoisonError::into_inner));
        let begun = self.begun.get();
        self.run.settle(Settled {
            origin: begun.filter(|_| !self.abandoned.load(SeqCst)).map(|b| b.origin),
            attempt: self.attempt,
            counted: self.queue,
            queue: begun.map_or(self.queue, |b| b.queue),
            tag: self.place.get_mut().unwrap_or_else(PoisonError::into_inner).tag,
            posted: [0, 1, 2].map(|i| self.posted[i].load(SeqCst)),
            report: own.report,
            finish: own.finish,
            again: begun.is_some_and(|b| b.again),
        });
    }
}

/// A delivery of which only the last message is not safe yet.
pub(super) struct Closing {
    pub run: Arc<Run>,
    /// Taken when it is settled.
    pub settled: Option<Settled>,
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(settled) = self.settled.take() {
            self.run.settle(settled);
        }
    }
}

/// What keeps a delivery from being settled while a message is on its way.
pub(super) enum Holder {
    Token(Arc<Token>),
    Closing(Box<Closing>),
}

impl Holder {
    /// The message is safe; lets go.
    pub fn let_go(self, posted: Option<Queue>) {
        match (self, posted) {
            (Holder::Token(token), Some(queue)) => token.posted(queue),
            (Holder::Closing(mut closing), Some(queue)) => {
                if let Some(settled) = &mut closing.settled {
                    settled.posted[queue as usize] += 1;
                }
            }
            (_, None) => {}
        }
    }
}

/// A task in this worker's memory, and the delivery it came from.
#[derive(Clone)]
pub(super) struct Held {
    pub task: Arc<Task>,
    /// How often it killed its actor.
    pub attempts: u32,
    /// How many workers were lost with it.
    pub lost: u32,
    /// Somebody may have worked on it before.
    pub again: bool,
    /// Workers died with it: it is worked on alone.
    pub suspect: bool,
    /// It waits for an actor.
    pub since: Instant,
    pub token: Arc<Token>,
}
