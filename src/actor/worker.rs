//! One actor: takes a task, runs it, settles it; again.

use super::pool::{Gone, PoolSupervisor};
use super::roster::Place;
use super::slow::Spending;
use super::{Jobs, Roster};
use crate::broker::{Broker, Delivery, Pool, Stopped, Ticket};
use crate::model::{Queue, Report, Task, escaped};
use crate::pass::Run;
use crate::telemetry::{self, ActorMeter, Counter, Meters};
use actix::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an actor waits for a task before it looks whether it is to retire.
const PATIENCE: Duration = Duration::from_millis(100);

/// An actor on a thread of its own.
pub(super) struct TaskActor {
    pub(super) id: u64,
    pub(super) pool: Pool,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) jobs: Arc<dyn Jobs>,
    pub(super) roster: Arc<Roster>,
    pub(super) meters: Option<Arc<Meters>>,
    pub(super) retire: Arc<AtomicBool>,
    pub(super) supervisor: Addr<PoolSupervisor>,
}

impl Actor for TaskActor {
    type Context = SyncContext<Self>;
}

/// Works until retired.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Work;

/// Tells the pool that the actor is gone, however it went.
struct Farewell<'a> {
    actor: &'a TaskActor,
    panicked: bool,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let gone = Gone { id: self.actor.id, panicked: self.panicked };
        // The mailbox has room for every actor; it is closed only when the pool itself is gone.
        if let Err(e) = self.actor.supervisor.try_send(gone) {
            tracing::debug!(error = %e, "pool did not hear of an actor's end");
        }
    }
}

impl Handler<Work> for TaskActor {
    type Result = ();

    fn handle(&mut self, _: Work, _: &mut Self::Context) {
        let mut farewell = Farewell { actor: self, panicked: true };
        // Given up before the pool hears of the end.
        let place = self.roster.join(self.id);
        let mut meter = Meters::join(self.meters.as_ref(), self.pool.noun(), self.id);
        let mut spending = Spending::default();
        while !self.retire.load(Ordering::Relaxed) {
            let Some(delivery) = self.broker.take(self.pool, PATIENCE) else {
                meter.rest();
                continue;
            };
            if !self.run(delivery, &place, &mut meter, &mut spending) {
                return; // a fresh thread takes over
            }
        }
        farewell.panicked = false;
    }
}

impl TaskActor {
    /// False if the task panicked.
    fn run(&self, delivery: Delivery, place: &Place, meter: &mut ActorMeter, spending: &mut Spending) -> bool {
        let Delivery { id, job, task, redelivered, mut ticket } = delivery;
        let _working = telemetry::begin(job, id);
        let Some(pass) = self.jobs.pass(job) else {
            return true; // dropping the ticket gives the task back
        };
        let _busy = place.begin(job, &task);
        tracing::debug!(kind = task.noun(), directory = escaped(task.directory().as_bytes()), redelivered, "begins");
        let counter = meter.begin(job, redelivered);
        let mut counted = Counted { ticket: ticket.as_mut(), counter: &counter };
        let mut run = Run::new(&mut counted, redelivered);
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| pass.run(&task, &mut run)));
        let slow = spending.take(job, &task, began.elapsed(), run.spent());
        let mut report = run.report;
        report.slow.extend(slow);
        match outcome {
            Ok(done) => {
                if !report.is_empty() {
                    counted.report(report);
                }
                if done.is_ok() {
                    ticket.finish();
                }
                true
            }
            Err(panic) => {
                let why = panic_text(panic.as_ref());
                counter.panicked();
                tracing::error!(kind = task.noun(), why, "a task panicked its actor");
                ticket.give_back(&format!("the actor panicked: {why}"));
                false
            }
        }
    }
}

/// Counts what a task reports. Its own ticket is settled by its actor.
struct Counted<'a> {
    ticket: &'a mut dyn Ticket,
    counter: &'a Counter,
}

impl Ticket for Counted<'_> {
    fn post(&mut self, task: Task) -> Result<(), Stopped> {
        self.ticket.post(task)
    }

    fn is_hungry(&self, queue: Queue) -> bool {
        self.ticket.is_hungry(queue)
    }

    fn report(&mut self, report: Report) {
        self.counter.reported(&report.totals);
        self.ticket.report(report);
    }

    fn finish(self: Box<Self>) {}

    fn give_back(self: Box<Self>, _why: &str) {}
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    crate::model::escaped(text.unwrap_or("no message").as_bytes())
}
