//! The actor's side of a task.

use super::lanes::Lanes;
use super::publish;
use super::session::MAX_AGE;
use super::token::Held;
use crate::broker::{MAX_ATTEMPTS, Pool, Stopped, Ticket};
use crate::model::{Queue, Report, Task};
use std::sync::Arc;
use std::time::Instant;

/// Weight of finish tasks, in bytes, that make a message of their own.
const FINISH_BYTES: usize = 64 << 10;

pub(super) struct AmqpTicket {
    pub lanes: Arc<Lanes>,
    /// None once it is settled.
    pub held: Option<Held>,
    pub pool: Pool,
    /// When the actor got it.
    pub since: Instant,
}

impl AmqpTicket {
    fn post(&self, held: &Held, task: Task) -> Result<(), Stopped> {
        let run = &held.token.run;
        if run.is_over() {
            return Err(Stopped);
        }
        let queue = task.queue();
        // What a task posts may have been worked on before if the task itself was.
        // What may have killed workers stays alone; and nothing that it posts is worked on while it is held.
        let suspect = held.suspect && queue == Queue::Files;
        let child = |task| Held {
            task: Arc::new(task),
            attempts: 0,
            lost: 0,
            again: held.again,
            suspect,
            since: Instant::now(),
            token: Arc::clone(&held.token),
        };
        let outgoing = match queue {
            Queue::Finish => held.token.put_finish(task, FINISH_BYTES).into_iter().map(child).collect(),
            // An old delivery is not to grow older by what can be a message of its own. File actors make the room that
            // dir actors wait for, so they never wait themselves.
            _ if held.suspect || held.token.age() > MAX_AGE => vec![child(task)],
            _ => self.lanes.keep(child(task), self.pool == Pool::Dirs).into_iter().collect(),
        };
        publish::post(outgoing, true)
    }
}

impl Ticket for AmqpTicket {
    fn post(&mut self, task: Task) -> Result<(), Stopped> {
        match &self.held {
            Some(held) => AmqpTicket::post(self, held, task),
            None => Err(Stopped),
        }
    }

    fn is_hungry(&self, queue: Queue) -> bool {
        self.held.as_ref().is_some_and(|h| self.lanes.is_hungry(&h.token.run, queue))
    }

    fn report(&mut self, report: Report) {
        if let Some(held) = &self.held {
            held.token.report(report);
        }
    }

    fn finish(mut self: Box<Self>) {
        self.charge();
        // The token goes, and with the last one the delivery is settled.
        self.held = None;
    }

    fn give_back(mut self: Box<Self>, why: &str) {
        self.charge();
        let Some(mut held) = self.held.take() else { return };
        held.attempts += 1;
        held.again = true;
        if held.attempts >= MAX_ATTEMPTS {
            let reason = format!("gave up after {} attempts: {why}", held.attempts);
            publish::bury_task(held, &reason);
        } else if publish::post(vec![held], true).is_err() {
            tracing::debug!("the connection is gone; the broker delivers the task again by itself");
        }
    }
}

impl AmqpTicket {
    fn charge(&self) {
        if let Some(held) = &self.held {
            self.lanes.charge(&held.token.run, self.since.elapsed());
        }
    }
}

impl Drop for AmqpTicket {
    fn drop(&mut self) {
        self.charge();
        let Some(mut held) = self.held.take() else { return };
        if held.token.run.is_over() {
            return held.token.abandon();
        }
        held.again = true;
        let homeless = self.lanes.put_back(vec![held]);
        if publish::post(homeless, true).is_err() {
            tracing::debug!("the connection is gone; the broker delivers the task again by itself");
        }
    }
}
