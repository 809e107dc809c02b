//! What every broker must do, run on each of them.
//!
//! The work is a made-up tree: from a task's name follows what it posts, so the whole job is known before,
//! and what was run can be compared with it.

use super::amqp::{self, AmqpConfig, Followed, Follower, JobGate, QueueType, Worker};
use super::embedded::Embedded;
use super::{Broker, Delivery, MAX_ATTEMPTS, Pool, Stopped};
use crate::model::fleet::JobEnd;
use crate::model::task::{Entry, Names};
use crate::model::{Entries, Failure, JobId, JobSpec, Operation, Policy, Queue, RelPath, Report, Task};
use crate::telemetry::Board;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Nothing here takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The RabbitMQ that tests use.
pub(super) fn test_config(queue_type: QueueType) -> AmqpConfig {
    let url = std::env::var("TREEHAUL_TEST_AMQP")
        .unwrap_or_else(|_| panic!("TREEHAUL_TEST_AMQP is not set; run `make test`: it starts RabbitMQ"));
    AmqpConfig::parse(&url, queue_type).unwrap()
}

/// Admits its own job, and no other: tests share one RabbitMQ.
pub(super) struct OneJob(pub JobId);

impl JobGate for OneJob {
    fn admit(&self, spec: &JobSpec) -> Result<(), String> {
        if spec.id == self.0 { Ok(()) } else { Err("another test's".to_owned()) }
    }
    fn retire(&self, _: JobId) {}
}

pub(super) fn spec(id: JobId) -> JobSpec {
    JobSpec {
        id,
        pass: "copy".to_owned(),
        source: b"/nowhere".to_vec(),
        target: b"/nowhere".to_vec(),
        policy: Policy::default(),
        submitted: crate::model::Timestamp::default(),
        priority: 10,
        source_root: crate::model::RootIdentity::default(),
        target_root: crate::model::RootIdentity::default(),
    }
}

pub(super) fn board() -> Arc<Board> {
    Arc::new(Board::new(Box::new(|_| {})))
}

/// A job that has begun.
struct Job {
    board: Arc<Board>,
    broker: Box<dyn Broker>,
    /// True once: complete. False: ended early.
    over: mpsc::Receiver<bool>,
    stop: Arc<dyn Fn() + Send + Sync>,
    end: Box<dyn FnOnce()>,
}

fn embedded(first: Task) -> Job {
    let board = board();
    let (tell, over) = mpsc::channel();
    let held: Arc<Mutex<Option<Arc<Embedded>>>> = Arc::default();
    let slot = Arc::clone(&held);
    let on_over = move || {
        let complete = slot.lock().unwrap().as_ref().is_some_and(|b| b.is_complete());
        let _ = tell.send(complete);
    };
    let broker = Embedded::new(JobId::random(), [first], Arc::clone(&board), Box::new(|_| Ok(())), Box::new(on_over));
    *held.lock().unwrap() = Some(Arc::clone(&broker));
    let stopper = Arc::clone(&broker);
    let end = Box::new(move || drop(held.lock().unwrap().take()));
    Job { board, broker: Box::new(broker), over, stop: Arc::new(move || stopper.stop()), end }
}

fn amqp(first: Task, queue_type: QueueType) -> Job {
    let config = test_config(queue_type);
    let (board, id) = (board(), JobId::random());
    let worker = Worker::connect(&config, format!("test {id}"), Arc::new(OneJob(id))).unwrap();
    let reader = amqp::Reads::new();
    amqp::submit(&config, &spec(id), [first], Some(reader), &|_| {}).unwrap();
    let (tell, over) = mpsc::channel();
    let mut follower = Follower::new(&config, id, reader, Arc::clone(&board)).unwrap();
    let following = std::thread::spawn(move || {
        let ended = follower.run(&|| false).unwrap();
        tell.send(matches!(ended, Followed::Ended { end: JobEnd::Complete, .. })).unwrap();
    });
    let broker = Arc::clone(&worker);
    let end = Box::new(move || {
        following.join().unwrap();
        assert!(worker.close(PATIENCE), "the worker left something unsettled");
    });
    let stop = Arc::new(move || amqp::Office::connect(&config).unwrap().cancel_job(id, "a test").unwrap());
    Job { board, broker: Box::new(broker), over, stop, end }
}

/// Runs a behaviour on every broker.
fn on_all(behaviour: impl Fn(&dyn Fn(Task) -> Job)) {
    behaviour(&embedded);
    behaviour(&|first| amqp(first, QueueType::Quorum));
    behaviour(&|first| amqp(first, QueueType::Classic));
}

impl Job {
    /// Runs actors until the job is over; true if it is complete.
    fn run(self, actors: [usize; 2], work: impl Fn(Delivery) + Sync) -> (bool, Arc<Board>) {
        let done = AtomicBool::new(false);
        let complete = std::thread::scope(|scope| {
            for (pool, count) in [(Pool::Dirs, actors[0]), (Pool::Files, actors[1])] {
                for _ in 0..count {
                    let (broker, done, work) = (&self.broker, &done, &work);
                    scope.spawn(move || {
                        while !done.load(SeqCst) {
                            if let Some(delivery) = broker.take(pool, Duration::from_millis(20)) {
                                work(delivery);
                            }
                        }
                    });
                }
            }
            let complete = self.over.recv_timeout(PATIENCE);
            done.store(true, SeqCst);
            complete.expect("the job never ended")
        });
        drop(self.broker);
        (self.end)();
        (complete, self.board)
    }
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes().to_vec()).unwrap()
}

fn name(task: &Task) -> String {
    String::from_utf8(task.directory().as_bytes().to_vec()).unwrap()
}

fn dir(text: &str) -> Task {
    Task::Dirs { parent: path(text), names: Names::default() }
}

fn finish(text: &str) -> Task {
    Task::Finish { parent: path(text), names: Names::default() }
}

fn batch(text: &str, entries: usize) -> Task {
    let mut all = Entries::default();
    for n in 0..entries {
        let name = format!("{n:0>200}");
        all.push(&Entry { name: name.as_bytes(), kind: None, metadata: None }).unwrap();
    }
    Task::Batch { dir: path(text), entries: all, tag: 0 }
}

fn one(found: u64) -> Report {
    let mut report = Report::default();
    report.totals.found = found;
    report
}

/// Some number that follows from a name.
fn dice(name: &str, salt: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), salt)
}

/// What a task posts.
fn children(task: &Task, seed: u64) -> Vec<Task> {
    if task.queue() != Queue::Dirs {
        return Vec::new();
    }
    let here = name(task);
    let depth = if here.is_empty() { 0 } else { here.split('/').count() as u64 };
    let below = |kind: &str, n: u64| if here.is_empty() { format!("{kind}{n}") } else { format!("{here}/{kind}{n}") };
    let dirs = if depth == 0 { 5 } else { (dice(&here, seed) % 8).saturating_sub(depth) };
    let mut posted: Vec<Task> = (0..dirs).map(|n| dir(&below("d", n))).collect();
    posted.extend((0..dice(&here, seed + 1) % 4).map(|n| batch(&below("f", n), 1)));
    posted.push(finish(&below("t", 0)));
    posted
}

/// Names of all tasks of the job, by queue.
fn plan(first: &Task, seed: u64) -> BTreeMap<String, Queue> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![first.clone()];
    while let Some(task) = waiting.pop() {
        waiting.extend(children(&task, seed));
        all.insert(name(&task), task.queue());
    }
    all
}

#[test]
fn every_task_runs_and_the_job_ends_exactly_then() {
    for seed in [1, 2, 3] {
        on_all(|begin| {
            let first = Task::root();
            let plan = plan(&first, seed);
            let walk = plan.values().filter(|q| **q != Queue::Finish).count();
            let (seen, walked) = (Mutex::new(BTreeMap::new()), AtomicUsize::new(0));
            let job = begin(first);
            let board = Arc::clone(&job.board);
            let (complete, _) = job.run([2, 2], |mut delivery| {
                let task = Arc::clone(&delivery.task);
                for child in children(&task, seed) {
                    delivery.ticket.post(child).unwrap();
                }
                // Work takes its time, so that all are idle but one now and then.
                std::thread::sleep(Duration::from_micros(dice(&name(&task), seed + 2) % 3000));
                if task.queue() == Queue::Finish {
                    assert_eq!(walked.load(SeqCst), walk, "a finish task ran before the walk was over");
                    // Who follows a job of others may hear of it a moment later.
                    let heard = Instant::now() + PATIENCE;
                    while !board.snapshot().walk_over {
                        assert!(Instant::now() < heard, "the board never hears that the walk is over");
                    }
                } else {
                    walked.fetch_add(1, SeqCst);
                }
                seen.lock().unwrap().insert(name(&task), task.queue());
                delivery.ticket.report(one(1));
                delivery.ticket.finish();
            });
            assert!(complete);
            assert_eq!(*seen.lock().unwrap(), plan);
            assert_eq!(board.snapshot().totals.found, plan.len() as u64);
        });
    }
}

#[test]
fn a_dropped_ticket_is_delivered_again_and_says_so() {
    on_all(|begin| {
        let runs = Mutex::new(Vec::new());
        let (complete, _) = begin(dir("once")).run([1, 1], |delivery| {
            let mut runs = runs.lock().unwrap();
            runs.push(delivery.redelivered);
            if runs.len() > 1 {
                delivery.ticket.finish();
            }
        });
        assert!(complete);
        assert_eq!(runs.lock().unwrap().len(), 2);
    });
}

#[test]
fn a_task_that_kills_its_actors_is_set_aside_and_counted() {
    on_all(|begin| {
        let runs = AtomicUsize::new(0);
        let (complete, board) = begin(Task::root()).run([1, 1], |mut delivery| {
            if delivery.task.queue() == Queue::Dirs {
                delivery.ticket.post(batch("poison", 1)).unwrap();
                delivery.ticket.finish();
            } else {
                runs.fetch_add(1, SeqCst);
                delivery.ticket.give_back("it panicked");
            }
        });
        assert!(complete);
        assert_eq!(runs.load(SeqCst), MAX_ATTEMPTS as usize);
        let seen = board.snapshot();
        assert_eq!(seen.totals.failed, 1);
        assert!(seen.failures[0].path.starts_with(b"poison"));
        assert_eq!(seen.failures[0].operation, Operation::Run);
        assert!(seen.failures[0].message.contains("it panicked"), "{}", seen.failures[0].message);
    });
}

#[test]
fn reports_reach_the_board_whole() {
    on_all(|begin| {
        let (complete, board) = begin(Task::root()).run([1, 1], |mut delivery| {
            for n in 0..10u64 {
                let mut report = one(n);
                let path = format!("bad{n}").into_bytes();
                let message = "no".to_owned();
                report.failures.push(Failure::new(path, Operation::Read, Some(5), message));
                report.place(n as u32 % 3, 2);
                delivery.ticket.report(report);
            }
            delivery.ticket.finish();
        });
        assert!(complete);
        let seen = board.snapshot();
        assert_eq!((seen.totals.found, seen.failures.len()), (45, 10));
        assert_eq!(seen.placed, BTreeMap::from([(0, 8), (1, 6), (2, 6)]));
        assert_eq!((seen.failures[9].path.as_slice(), seen.failures[9].errno), (&b"bad9"[..], Some(5)));
    });
}

#[test]
fn one_actor_of_each_kind_gets_through_more_than_memory_holds() {
    on_all(|begin| {
        let (complete, board) = begin(Task::root()).run([1, 1], |mut delivery| {
            if delivery.task.directory().is_root() {
                for n in 0..60 {
                    delivery.ticket.post(batch(&format!("b{n}"), 1000)).unwrap();
                    for m in 0..20 {
                        delivery.ticket.post(dir(&format!("d{n}.{m}"))).unwrap();
                    }
                }
            }
            delivery.ticket.report(one(1));
            delivery.ticket.finish();
        });
        assert!(complete);
        assert_eq!(board.snapshot().totals.found, 1 + 60 + 60 * 20);
    });
}

#[test]
fn an_abort_ends_the_job_with_its_reason() {
    on_all(|begin| {
        let (complete, board) = begin(Task::root()).run([1, 1], |mut delivery| {
            // A walk without an end.
            let below = delivery.task.directory().join(b"x").unwrap();
            let far = below.as_bytes().len() > 20;
            let posted = delivery.ticket.post(Task::Dirs { parent: below, names: Names::default() });
            if far {
                delivery.ticket.report(Report { abort: Some("the target is full".to_owned()), ..Report::default() });
            }
            if posted == Ok(()) {
                delivery.ticket.finish();
            }
        });
        assert!(!complete);
        assert_eq!(board.snapshot().abort.as_deref(), Some("the target is full"));
    });
}

#[test]
fn a_stopped_job_ends_and_tells_its_actors() {
    on_all(|begin| {
        let told = AtomicBool::new(false);
        let job = begin(Task::root());
        let stop = Arc::clone(&job.stop);
        let (complete, _) = job.run([2, 1], |mut delivery| {
            stop();
            // Posts until it is told, as a long listing does.
            while delivery.ticket.post(batch("more", 100)) != Err(Stopped) {}
            told.store(true, SeqCst);
        });
        assert!(!complete);
        assert!(told.load(SeqCst));
    });
}
