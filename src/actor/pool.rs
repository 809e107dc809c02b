//! A pool: owns the actors of one kind, grows, shrinks, and replaces those that die.
//!
//! Each actor is a `SyncArbiter` of one thread, since an arbiter's threads cannot be changed and one that
//! panics is lost for good. Growing starts one more; shrinking sets its flag and drops its address.

use super::worker::{TaskActor, Work};
use super::{Jobs, Roster};
use crate::broker::{Broker, Pool};
use crate::telemetry::Meters;
use actix::prelude::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

/// Most actors of one kind in a process; room in the supervisor's mailbox for each one's farewell.
pub const MAX_ACTORS: usize = 4096;

/// Owns the actors of one kind.
pub struct PoolSupervisor {
    pool: Pool,
    broker: Arc<dyn Broker>,
    jobs: Arc<dyn Jobs>,
    roster: Arc<Roster>,
    meters: Option<Arc<Meters>>,
    wanted: usize,
    next_id: u64,
    at_work: BTreeMap<u64, Member>,
    retiring: usize,
    drained: Vec<oneshot::Sender<()>>,
}

struct Member {
    retire: Arc<AtomicBool>,
    /// The thread ends when this is dropped and its message is done.
    _addr: Addr<TaskActor>,
}

/// Changes the number of actors; those that are too many finish the task in their hands first. Answers with the number
/// that there will be: fewer, if the system gives no more threads.
#[derive(Message)]
#[rtype(result = "usize")]
pub struct Resize(pub usize);

/// Retires all actors; answers when the last one is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Is the pool alive, and has it the actors that it is to have?
#[derive(Message)]
#[rtype(result = "bool")]
pub struct IsAlive;

/// An actor's thread is done.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Gone {
    pub(super) id: u64,
    pub(super) panicked: bool,
}

impl PoolSupervisor {
    /// Starts a pool of `wanted` actors in the current actix system; who asks finds them in the roster, and what they
    /// count in the meters.
    pub fn start_pool(
        pool: Pool,
        wanted: usize,
        broker: Arc<dyn Broker>,
        jobs: Arc<dyn Jobs>,
        roster: Arc<Roster>,
        meters: Option<Arc<Meters>>,
    ) -> Addr<Self> {
        let supervisor = PoolSupervisor {
            pool,
            broker,
            jobs,
            roster,
            meters,
            wanted: wanted.min(MAX_ACTORS),
            next_id: 0,
            at_work: BTreeMap::new(),
            retiring: 0,
            drained: Vec::new(),
        };
        supervisor.start()
    }

    fn adjust(&mut self, ctx: &Context<Self>) {
        while self.at_work.len() < self.wanted {
            if !self.spawn(ctx) {
                self.wanted = self.at_work.len();
            }
        }
        while self.at_work.len() > self.wanted {
            let Some((_, member)) = self.at_work.pop_last() else { break };
            member.retire.store(true, Ordering::Relaxed);
            self.retiring += 1;
        }
        if self.at_work.is_empty() && self.retiring == 0 {
            for waiting in self.drained.drain(..) {
                let _ = waiting.send(()); // whoever asked may have gone
            }
        }
    }

    /// False: the system gives no thread.
    fn spawn(&mut self, ctx: &Context<Self>) -> bool {
        let id = self.next_id;
        self.next_id += 1;
        let retire = Arc::new(AtomicBool::new(false));
        let (pool, broker, jobs) = (self.pool, Arc::clone(&self.broker), Arc::clone(&self.jobs));
        let (flag, supervisor, roster) = (Arc::clone(&retire), ctx.address(), Arc::clone(&self.roster));
        let meters = self.meters.clone();
        // It panics where there is no thread.
        let started = catch_unwind(AssertUnwindSafe(|| {
            SyncArbiter::start_with_thread_builder(
                1,
                move || std::thread::Builder::new().name(format!("{}-{id}", pool.noun())),
                move || TaskActor {
                    id,
                    pool,
                    broker: Arc::clone(&broker),
                    jobs: Arc::clone(&jobs),
                    roster: Arc::clone(&roster),
                    meters: meters.clone(),
                    retire: Arc::clone(&flag),
                    supervisor: supervisor.clone(),
                },
            )
        }));
        let Ok(addr) = started.map_err(drop).and_then(|addr| addr.try_send(Work).map_err(drop).map(|()| addr)) else {
            tracing::error!(pool = pool.noun(), actors = self.at_work.len(), "cannot start another actor");
            return false;
        };
        self.at_work.insert(id, Member { retire, _addr: addr });
        true
    }
}

impl Actor for PoolSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAX_ACTORS);
        self.adjust(ctx);
    }
}

impl Handler<Resize> for PoolSupervisor {
    type Result = usize;

    fn handle(&mut self, Resize(wanted): Resize, ctx: &mut Self::Context) -> usize {
        if self.drained.is_empty() {
            self.wanted = wanted.min(MAX_ACTORS);
            self.adjust(ctx);
        }
        self.wanted
    }
}

impl Handler<IsAlive> for PoolSupervisor {
    type Result = bool;

    fn handle(&mut self, _: IsAlive, _: &mut Self::Context) -> bool {
        self.wanted == 0 || !self.at_work.is_empty()
    }
}

impl Handler<Drain> for PoolSupervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) -> Self::Result {
        let (sender, receiver) = oneshot::channel();
        self.wanted = 0;
        self.drained.push(sender);
        self.adjust(ctx);
        Box::pin(async move {
            let _ = receiver.await; // an error means that the pool is gone, which is as good
        })
    }
}

impl Handler<Gone> for PoolSupervisor {
    type Result = ();

    fn handle(&mut self, gone: Gone, ctx: &mut Self::Context) {
        if self.at_work.remove(&gone.id).is_none() {
            self.retiring -= 1;
        } else if gone.panicked {
            tracing::warn!(pool = self.pool.noun(), actor = gone.id, "replacing an actor that died");
        }
        self.adjust(ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Delivery, Stopped, Ticket};
    use crate::model::{JobId, Queue, Report, Task, TaskId, Totals};
    use crate::pass::{Pass, Run};
    use crate::telemetry::counts::COUNTERS;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    /// Hands out a number of tasks, the first few of which panic.
    struct Source {
        left: Mutex<usize>,
        finished: Arc<AtomicUsize>,
        given_back: Arc<AtomicUsize>,
    }

    struct CountingTicket(Arc<AtomicUsize>, Arc<AtomicUsize>);

    impl Ticket for CountingTicket {
        fn post(&mut self, _: Task) -> Result<(), Stopped> {
            Ok(())
        }
        fn is_hungry(&self, _: Queue) -> bool {
            false
        }
        fn report(&mut self, _: Report) {}
        fn finish(self: Box<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        fn give_back(self: Box<Self>, _: &str) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Broker for Source {
        fn take(&self, _: Pool, patience: Duration) -> Option<Delivery> {
            let mut left = self.left.lock().unwrap();
            if *left == 0 {
                drop(left);
                std::thread::park_timeout(patience);
                return None;
            }
            *left -= 1;
            let ticket = CountingTicket(Arc::clone(&self.finished), Arc::clone(&self.given_back));
            Some(Delivery {
                id: TaskId { message: None, number: *left as u64 },
                job: JobId::random(),
                task: Arc::new(Task::root()),
                redelivered: left.is_multiple_of(2),
                ticket: Box::new(ticket),
            })
        }
    }

    struct Panics(AtomicUsize);

    impl Pass for Panics {
        fn run(&self, _: &Task, run: &mut Run<'_>) -> Result<(), Stopped> {
            assert!(self.0.fetch_add(1, Ordering::SeqCst) >= 3, "one of the first three");
            run.ticket.report(Report { totals: Totals { copied: 1, ..Totals::default() }, ..Report::default() });
            run.report.totals.files = 1;
            Ok(())
        }
        fn mark(&self) -> Result<(), crate::fs::FsError> {
            Ok(())
        }
        fn conclude(&self, _: &mut Report) {}
    }

    struct One(Arc<Panics>);

    impl Jobs for One {
        fn pass(&self, _: JobId) -> Option<Arc<dyn Pass>> {
            Some(Arc::clone(&self.0) as Arc<dyn Pass>)
        }
    }

    #[test]
    fn a_pool_survives_panicking_tasks_and_resizing_and_drains() {
        let (finished, given_back) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let source = Arc::new(Source {
            left: Mutex::new(500),
            finished: Arc::clone(&finished),
            given_back: Arc::clone(&given_back),
        });
        let roster = Roster::new(Pool::Files);
        let meters = Meters::new();
        System::new().block_on(async {
            let jobs = Arc::new(One(Arc::new(Panics(AtomicUsize::new(0)))));
            let pool = PoolSupervisor::start_pool(
                Pool::Files,
                4,
                Arc::clone(&source) as Arc<dyn Broker>,
                jobs,
                Arc::clone(&roster),
                Some(Arc::clone(&meters)),
            );
            assert!(pool.send(IsAlive).await.unwrap());
            for wanted in [16, 1, 8] {
                pool.send(Resize(wanted)).await.unwrap();
            }
            while finished.load(Ordering::SeqCst) < 497 {
                tokio::task::yield_now().await;
            }
            pool.send(Drain).await.unwrap();
        });
        assert_eq!((finished.load(Ordering::SeqCst), given_back.load(Ordering::SeqCst)), (497, 3));
        assert_eq!(roster.count(), (0, 0), "who is gone is in no roster");
        let counts = meters.drain().actors;
        let sum = |key: &str| -> u64 {
            let at = COUNTERS.iter().position(|counter| counter.key == key).unwrap();
            counts.iter().map(|actor| actor.values[at]).sum()
        };
        // Each task reports on its way and at its end; those that panicked had told nothing.
        assert_eq!(["tasks", "panicked", "retried", "copied", "files"].map(sum), [500, 3, 250, 497, 497]);
    }
}
