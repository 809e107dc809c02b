//! Publishing with confirms, many at a time.
//!
//! Invariant: a message counts as posted when the broker has confirmed it, and only then lets go of the
//! deliveries it came from. What is on its way is bounded in number and in bytes.

use super::connection::{self, Published};
use super::envelope::EnvelopeError;
use super::messages::TasksRef;
use super::run::Run;
use super::token::{Held, Token};
use super::topology;
use crate::broker::Stopped;
use crate::model::{Failure, Operation, Queue, Report};
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

/// A message and what depends on it.
pub(super) struct Outgoing {
    run: Arc<Run>,
    /// The queue of tasks it is for; none for dead letters.
    queue: Option<Queue>,
    body: Vec<u8>,
    headers: FieldTable,
    /// Held until the message is safe.
    tokens: Vec<Arc<Token>>,
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
    queue: Option<Queue>,
    bytes: usize,
    tokens: Vec<Arc<Token>>,
}

/// Publishes what comes until the connection fails. `lost` is called then, while the tokens of what was not
/// confirmed are still held: nobody may take them for settled.
pub(super) async fn serve(
    publisher: &Publisher,
    channel: &Channel,
    mut inbox: UnboundedReceiver<Outgoing>,
    lost: &(dyn Fn() + Sync),
) -> lapin::Result<()> {
    let (unconfirmed, mut waiting) = mpsc::unbounded_channel::<Unconfirmed>();
    let send = async move {
        while let Some(Outgoing { run, queue, body, headers, tokens }) = inbox.recv().await {
            let name = queue.map_or_else(|| topology::dead(run.job), |q| topology::tasks(run.job, q));
            let confirm = connection::publish(channel, &name, &body, headers).await.inspect_err(|_| lost())?;
            // The receiver lives as long as this future.
            let _ = unconfirmed.send(Unconfirmed { confirm, run, queue, bytes: body.len(), tokens });
        }
        Ok(())
    };
    let confirm = async {
        while let Some(sent) = waiting.recv().await {
            let answer = sent.confirm.await.and_then(|answer| connection::published(&answer));
            match (answer.inspect_err(|_| lost())?, sent.queue) {
                (Published::Safe, Some(queue)) => sent.run.posted(queue),
                (Published::Safe, None) => {}
                (Published::NoQueue, Some(_)) => sent.run.set_gone(),
                // It counts as failed in its report, which is all that can be done.
                (Published::NoQueue, None) => tracing::warn!(job = %sent.run.job, "the job's dead letters are gone"),
            }
            publisher.confirmed(sent.bytes);
            drop(sent.tokens);
        }
        Ok(())
    };
    tokio::try_join!(send, confirm).map(drop)
}

/// Publishes tasks, several small ones in a message; each dir task goes alone, so that it can be shared.
///
/// # Errors
/// [`Stopped`]: the connection is gone, and with it the deliveries that these came from.
pub(super) fn post(tasks: Vec<Held>, may_wait: bool) -> Result<(), Stopped> {
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
        && (a.attempts, a.again) == (b.attempts, b.again)
        && Arc::ptr_eq(&a.token.run, &b.token.run)
}

fn send_bundle(bundle: Vec<Held>, may_wait: bool) -> Result<(), Stopped> {
    let Some(first) = bundle.first() else { return Ok(()) };
    let (run, queue) = (Arc::clone(&first.token.run), first.task.queue());
    let tasks = bundle.iter().map(|h| &*h.task).collect();
    let message = TasksRef { job: run.job, attempts: first.attempts, again: first.again, tasks };
    let body = match run.seal.seal_tasks(&message) {
        Ok(body) => body,
        Err(e) => {
            for held in &bundle {
                held.token.report(failed(held.task.directory().as_bytes(), format!("cannot be posted: {e}")));
            }
            return Ok(());
        }
    };
    let headers = FieldTable::default();
    let tokens = bundle.into_iter().map(|h| h.token).collect();
    run.publisher.send(Outgoing { run: Arc::clone(&run), queue: Some(queue), body, headers, tokens }, may_wait)
}

/// Sets a message aside for good: to the job's dead letters, with the reason, and into its report.
pub(super) fn bury(body: Vec<u8>, directory: &[u8], reason: &str, token: Arc<Token>, may_wait: bool) {
    let run = Arc::clone(&token.run);
    tracing::error!(job = %run.job, reason, "a message was set aside in the job's dead letters");
    token.report(failed(directory, reason.to_owned()));
    let mut headers = FieldTable::default();
    headers.insert("x-treehaul-reason".into(), AMQPValue::LongString(LongString::from(reason)));
    // When the connection is gone the message is delivered again, and set aside then.
    let outgoing = Outgoing { run: Arc::clone(&run), queue: None, body, headers, tokens: vec![token] };
    let _ = run.publisher.send(outgoing, may_wait);
}

/// Sets a task aside for good.
pub(super) fn bury_task(held: Held, reason: &str) {
    let run = &held.token.run;
    let tasks = vec![&*held.task];
    let message = TasksRef { job: run.job, attempts: held.attempts, again: true, tasks };
    let body = run.seal.seal_tasks(&message).unwrap_or_else(|e: EnvelopeError| e.to_string().into_bytes());
    bury(body, held.task.directory().as_bytes(), reason, held.token, true);
}

fn failed(directory: &[u8], message: String) -> Report {
    let mut report = Report::default();
    report.totals.failed = 1;
    report.failures.push(Failure::new(directory.to_vec(), Operation::Run, None, message));
    report
}
