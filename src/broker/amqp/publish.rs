//! Publishing with confirms, many at a time.
//!
//! Invariant: a message counts as posted when the broker has confirmed it, and only then lets go of the
//! deliveries it came from. What is on its way is bounded in number and in bytes.

use super::connection::{self, Published};
use super::envelope::EnvelopeError;
use super::messages::TasksRef;
use super::run::Run;
use super::token::{Closing, Held, Holder, Settled, Token};
use super::topology;
use crate::broker::Stopped;
use crate::model::{Failure, Operation, Queue, Report, Task};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, PublisherConfirm};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Messages on their way at a time: enough to hide the broker's disk.
const WINDOW_MESSAGES: usize = 256;
/// Bytes on their way at a time.
const WINDOW_BYTES: usize = 16 << 20;
/// Weight of tasks, in bytes, that go into one message.
const BUNDLE_BYTES: usize = 64 << 10;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// A queue of tasks.
    Tasks(Queue),
    /// Tasks of that queue that are worked on alone, since workers died with them.
    Suspects(Queue),
    /// What nobody could work on.
    Dead,
    /// Where this run parks what takes long.
    Hold,
}

/// Which delivery a parked copy belongs to.
pub(super) const ATTEMPT_HEADER: &str = "x-treehaul-attempt";
/// A parked copy is of a message that was worked on alone.
pub(super) const ALONE_HEADER: &str = "x-treehaul-alone";
/// Why a message was set aside.
pub(super) const REASON_HEADER: &str = "x-treehaul-reason";

/// A message and what depends on it.
pub(super) struct Outgoing {
    run: Arc<Run>,
    to: To,
    body: Vec<u8>,
    headers: FieldTable,
    /// Held until the message is safe.
    holder: Holder,
}

#[derive(Default)]
struct Window {
    messages: usize,
    bytes: usize,
    broken: bool,
}

/// The way out of one connection.
pub(super) struct Publisher {
    window: Mutex<Window>,
    room: Condvar,
    out: UnboundedSender<Outgoing>,
}

impl Publisher {
    pub fn new() -> (Arc<Self>, UnboundedReceiver<Outgoing>) {
        let (out, inbox) = mpsc::unbounded_channel();
        (Arc::new(Publisher { window: Mutex::default(), room: Condvar::new(), out }), inbox)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends; an actor's thread waits for room in the window, the connection's own thread must not.
    fn send(&self, outgoing: Outgoing, may_wait: bool) -> Result<(), Stopped> {
        let mut window = self.lock();
        while may_wait && !window.broken && (window.messages >= WINDOW_MESSAGES || window.bytes >= WINDOW_BYTES) {
            window = self.room.wait(window).unwrap_or_else(PoisonError::into_inner);
        }
        if window.broken {
            return Err(Stopped);
        }
        window.messages += 1;
        window.bytes += outgoing.body.len();
        drop(window);
        self.out.send(outgoing).map_err(|_| Stopped)
    }

    fn confirmed(&self, bytes: usize) {
        let mut window = self.lock();
        window.messages -= 1;
        window.bytes -= bytes;
        drop(window);
        self.room.notify_one();
    }

    /// The connection is gone: nobody waits for it any more.
    pub fn set_broken(&self) {
        self.lock().broken = true;
        self.room.notify_all();
    }
}

struct Unconfirmed {
    confirm: PublisherConfirm,
    run: Arc<Run>,
    to: To,
    bytes: usize,
    holder: Holder,
}

/// Publishes what comes until the connection fails. `lost` is called then, while the holders of what was not
/// confirmed are still there: nobody may take their deliveries for settled.
pub(super) async fn serve(
    publisher: &Publisher,
    channel: &Channel,
    mut inbox: UnboundedReceiver<Outgoing>,
    lost: &(dyn Fn() + Sync),
) -> lapin::Result<()> {
    let (unconfirmed, mut waiting) = mpsc::unbounded_channel::<Unconfirmed>();
    let send = async move {
        while let Some(Outgoing { run, to, body, headers, holder }) = inbox.recv().await {
            let name = match to {
                To::Tasks(queue) => topology::tasks(run.job, queue),
                To::Suspects(_) => topology::suspects(run.job),
                To::Dead => topology::dead(run.job),
                To::Hold => topology::hold(run.job, run.session),
            };
            let confirm = connection::publish(channel, &name, &body, headers).await.inspect_err(|_| lost())?;
            // The receiver lives as long as this future.
            let _ = unconfirmed.send(Unconfirmed { confirm, run, to, bytes: body.len(), holder });
        }
        Ok(())
    };
    let confirm = async {
        while let Some(sent) = waiting.recv().await {
            let answer = sent.confirm.await.and_then(|answer| connection::published(&answer));
            let posted = match (answer.inspect_err(|_| lost())?, sent.to) {
                (Published::Safe, To::Tasks(queue) | To::Suspects(queue)) => Some(queue),
                (Published::Safe, To::Dead | To::Hold) => None,
                (Published::NoQueue, To::Tasks(_) | To::Suspects(_) | To::Hold) => {
                    sent.run.set_gone();
                    None
                }
                // It counts as failed in its report, which is all that can be done.
                (Published::NoQueue, To::Dead) => {
                    tracing::warn!(job = %sent.run.job, "the job's dead letters are gone");
                    None
                }
            };
            publisher.confirmed(sent.bytes);
            sent.holder.let_go(posted);
        }
        Ok(())
    };
    tokio::try_join!(send, confirm).map(drop)
}

/// Publishes tasks, several small ones of one delivery in a message; each dir task goes alone, so that it can be shared.
///
/// # Errors
/// [`Stopped`]: the connection is gone, and with it the deliveries that these came from.
pub(super) fn post(mut tasks: Vec<Held>, may_wait: bool) -> Result<(), Stopped> {
    tasks.sort_by_key(|held| held.token.attempt);
    let mut bundle: Vec<Held> = Vec::new();
    let mut bytes = 0;
    for held in tasks {
        let fits = bundle.first().is_some_and(|first| bytes < BUNDLE_BYTES && goes_with(first, &held));
        if !fits && !bundle.is_empty() {
            send_bundle(std::mem::take(&mut bundle), may_wait)?;
            bytes = 0;
        }
        bytes += held.task.weight_bytes();
        bundle.push(held);
    }
    if bundle.is_empty() { Ok(()) } else { send_bundle(bundle, may_wait) }
}

fn goes_with(a: &Held, b: &Held) -> bool {
    let queue = a.task.queue();
    queue != Queue::Dirs
        && queue == b.task.queue()
        && !a.suspect
        && !b.suspect
        && (a.attempts, a.lost, a.again) == (b.attempts, b.lost, b.again)
        && Arc::ptr_eq(&a.token, &b.token)
}

fn send_bundle(bundle: Vec<Held>, may_wait: bool) -> Result<(), Stopped> {
    let Some(first) = bundle.first() else { return Ok(()) };
    let queue = first.task.queue();
    let to = if first.suspect { To::Suspects(queue) } else { To::Tasks(queue) };
    let (attempts, lost, again) = (first.attempts, first.lost, first.again);
    let token = Arc::clone(&first.token);
    let tasks: Vec<Arc<Task>> = bundle.into_iter().map(|h| h.task).collect();
    let run = Arc::clone(&token.run);
    match sealed(&run, token.attempt, [attempts, lost], again, &tasks) {
        Ok(body) => send(&run, to, body, Holder::Token(token), may_wait),
        Err(e) => {
            for task in tasks {
                token.report(failed(task.directory().as_bytes(), format!("cannot be posted: {e}")));
            }
            Ok(())
        }
    }
}

fn sealed(
    run: &Run,
    attempt: u64,
    [attempts, lost]: [u32; 2],
    again: bool,
    tasks: &[Arc<Task>],
) -> Result<Vec<u8>, EnvelopeError> {
    let tasks = tasks.iter().map(|t| &**t).collect();
    run.seal.seal_tasks(&TasksRef { job: run.job, origin: run.next_origin(attempt), attempts, lost, again, tasks })
}

fn send(run: &Arc<Run>, to: To, body: Vec<u8>, holder: Holder, may_wait: bool) -> Result<(), Stopped> {
    let outgoing = Outgoing { run: Arc::clone(run), to, body, headers: FieldTable::default(), holder };
    run.publisher.send(outgoing, may_wait)
}

/// Publishes the finish tasks of a delivery that is done otherwise; it is settled when they are safe.
pub(super) fn post_finish(run: &Arc<Run>, mut settled: Settled) -> Result<(), Stopped> {
    let tasks: Vec<Arc<Task>> = std::mem::take(&mut settled.finish).into_iter().map(Arc::new).collect();
    match sealed(run, settled.attempt, [0; 2], settled.again, &tasks) {
        Ok(body) => {
            let closing = Box::new(Closing { run: Arc::clone(run), settled: Some(settled) });
            send(run, To::Tasks(Queue::Finish), body, Holder::Closing(closing), false)
        }
        Err(e) => {
            for task in tasks {
                settled.report.add(failed(task.directory().as_bytes(), format!("cannot be posted: {e}")));
            }
            run.settle(settled);
            Ok(())
        }
    }
}

/// Moves a delivery that takes long to the queue where this run parks such: its message goes there as it came.
pub(super) fn park(token: Arc<Token>) -> Result<(), Stopped> {
    let run = Arc::clone(&token.run);
    let mut headers = FieldTable::default();
    headers.insert(ATTEMPT_HEADER.into(), AMQPValue::LongLongInt(token.attempt.cast_signed()));
    if token.is_alone() {
        headers.insert(ALONE_HEADER.into(), AMQPValue::Boolean(true));
    }
    let body = token.body.clone();
    let outgoing = Outgoing { run: Arc::clone(&run), to: To::Hold, body, headers, holder: Holder::Token(token) };
    run.publisher.send(outgoing, false)
}

/// Sets a message aside for good: to the job's dead letters, with the reason, and into its report.
pub(super) fn bury(body: Vec<u8>, directory: &[u8], reason: &str, token: Arc<Token>, may_wait: bool) {
    let run = Arc::clone(&token.run);
    // Of all tasks in it.
    let task = token.message().map(|(session, number)| format!("{session:x}:{number:x}"));
    tracing::error!(job = %run.job, task, reason, "a message was set aside in the job's dead letters");
    token.report(failed(directory, reason.to_owned()));
    let mut headers = FieldTable::default();
    headers.insert(REASON_HEADER.into(), AMQPValue::LongString(LongString::from(reason)));
    // When the connection is gone the message is delivered again, and set aside then.
    let outgoing = Outgoing { run: Arc::clone(&run), to: To::Dead, body, headers, holder: Holder::Token(token) };
    let _ = run.publisher.send(outgoing, may_wait);
}

/// Sets a task aside for good.
pub(super) fn bury_task(held: Held, reason: &str) {
    let run = Arc::clone(&held.token.run);
    let counts = [held.attempts, held.lost];
    let sealed = sealed(&run, held.token.attempt, counts, true, &[Arc::clone(&held.task)]);
    let body = sealed.unwrap_or_else(|e| e.to_string().into_bytes());
    let about = super::consume::what_of(&held.task);
    bury(body, &about, reason, held.token, true);
}

fn failed(directory: &[u8], message: String) -> Report {
    let mut report = Report::default();
    report.totals.failed = 1;
    report.failures.push(Failure::new(directory.to_vec(), Operation::Run, None, message));
    report
}
