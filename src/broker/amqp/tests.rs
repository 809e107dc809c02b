//! What only this broker can meet: lost connections, workers that die, messages from nowhere.

use super::messages::{Origin, TasksRef};
use super::{AmqpConfig, AmqpError, Followed, Follower, JobGate, QueueType, Worker, connection, topology};
use crate::broker::conformance::{OneJob, board, spec, test_config};
use crate::broker::{Broker, Delivery, Pool};
use crate::model::fleet::JobEnd;
use crate::model::{JobId, JobSpec, Queue, RelPath, Report, Task, task::Names};
use crate::telemetry::Board;
use lapin::options::{BasicGetOptions, BasicNackOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> AmqpConfig {
    test_config(QueueType::Quorum)
}

/// Stands between a client and the broker, and cuts connections when it is told.
struct Proxy {
    config: AmqpConfig,
    open: Arc<Mutex<Vec<TcpStream>>>,
    away: Arc<AtomicBool>,
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

impl Proxy {
    fn new() -> Self {
        let mut config = config();
        let authority = &mut config.uri.authority;
        let broker = (authority.host.clone(), authority.port);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        "127.0.0.1".clone_into(&mut authority.host);
        authority.port = listener.local_addr().unwrap().port();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (all, away) = (Arc::clone(&open), Arc::new(AtomicBool::new(false)));
        let is_away = Arc::clone(&away);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_away.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&broker) else { continue };
                let (a, b) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                all.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                std::thread::spawn(move || pump(a, server));
                std::thread::spawn(move || pump(b, client));
            }
        });
        Proxy { config, open, away }
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

const COMPLETE: Followed = Followed::Ended { end: JobEnd::Complete, letters: 0 };

/// A job that is followed on a thread of its own.
struct Led {
    id: JobId,
    board: Arc<Board>,
    leading: JoinHandle<Followed>,
}

fn lead(config: &AmqpConfig, first: &Task) -> Led {
    let (id, board) = (JobId::random(), board());
    let reader = super::Reads::new();
    super::submit(&self::config(), &spec(id), [first.clone()], Some(reader), &|_| {}).unwrap();
    let mut follower = Follower::new(config, id, reader, Arc::clone(&board)).unwrap();
    let leading = std::thread::spawn(move || follower.run(&|| false).unwrap());
    Led { id, board, leading }
}

fn join(config: &AmqpConfig, job: JobId) -> Arc<Worker> {
    Worker::connect(config, format!("test {job}"), Arc::new(OneJob(job))).unwrap()
}

fn take(worker: &Arc<Worker>, pool: Pool) -> Delivery {
    worker.take(pool, PATIENCE).expect("no task came")
}

fn dir(text: &str) -> Task {
    Task::Dirs { parent: RelPath::parse(text.as_bytes().to_vec()).unwrap(), names: Names::default() }
}

fn one() -> Report {
    let mut report = Report::default();
    report.totals.found = 1;
    report
}

/// Works as a single dir actor until the job is over.
fn work_until_over(led: &Led, worker: &Arc<Worker>) {
    let start = Instant::now();
    while !led.leading.is_finished() {
        assert!(start.elapsed() < PATIENCE, "the job never ended");
        let both = [Pool::Dirs, Pool::Files].into_iter();
        if let Some(mut delivery) = both.filter_map(|pool| worker.take(pool, Duration::from_millis(10))).next() {
            delivery.ticket.report(one());
            delivery.ticket.finish();
        }
    }
}

/// As [`work_until_over`]; the root posts so many again.
fn work_until_over_with(led: &Led, worker: &Arc<Worker>, children: usize) {
    let start = Instant::now();
    while !led.leading.is_finished() {
        assert!(start.elapsed() < PATIENCE, "the job never ended");
        let both = [Pool::Dirs, Pool::Files].into_iter();
        if let Some(mut delivery) = both.filter_map(|pool| worker.take(pool, Duration::from_millis(10))).next() {
            let root = delivery.task.directory().is_root();
            if (0..children).filter(|_| root).any(|n| delivery.ticket.post(dir(&format!("d{n}"))).is_err()) {
                continue;
            }
            delivery.ticket.report(one());
            delivery.ticket.finish();
        }
    }
}

fn on_broker<T>(act: impl AsyncFnOnce(Connection, Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = connection::open(&config(), "test").await.unwrap();
        let channel = connection::confirmed_channel(&connection).await.unwrap();
        act(connection, channel).await
    })
}

#[test]
fn a_lost_connection_brings_the_task_again_and_the_job_ends_right() {
    let proxy = Proxy::new();
    let led = lead(&config(), &Task::root());
    let worker = join(&proxy.config, led.id);
    let mut held = take(&worker, Pool::Dirs);
    assert!(!held.redelivered);
    held.ticket.post(dir("child")).unwrap();
    proxy.cut();
    let mut again = take(&worker, Pool::Dirs);
    while again.task != held.task {
        // The child may come before the loss is seen, and goes back where it came from.
        again = take(&worker, Pool::Dirs);
    }
    assert!(again.redelivered);
    // What the lost delivery still does has no effect.
    held.ticket.report(one());
    held.ticket.finish();
    again.ticket.post(dir("child")).unwrap();
    again.ticket.report(one());
    again.ticket.finish();
    work_until_over(&led, &worker);
    assert_eq!(led.leading.join().unwrap(), COMPLETE);
    assert_eq!(led.board.snapshot().totals.found, 2);
    assert!(worker.close(PATIENCE));
}

#[test]
fn a_worker_that_vanishes_leaves_its_tasks_to_others() {
    let proxy = Proxy::new();
    let led = lead(&config(), &Task::root());
    let dying = join(&proxy.config, led.id);
    let held = take(&dying, Pool::Dirs);
    let other = join(&config(), led.id);
    // Dropped without a goodbye, as by a kill: its threads end, its connection is cut.
    std::mem::forget(held);
    drop(dying);
    proxy.cut();
    let mut again = take(&other, Pool::Dirs);
    assert!(again.redelivered);
    again.ticket.report(one());
    again.ticket.finish();
    work_until_over(&led, &other);
    assert_eq!(led.leading.join().unwrap(), COMPLETE);
    assert_eq!(led.board.snapshot().totals.found, 1);
}

#[test]
fn a_leader_and_a_follower_that_lose_the_broker_come_back_and_count_nothing_twice() {
    let proxy = Proxy::new();
    let led = lead(&proxy.config, &Task::root());
    // The only worker leads the job as well.
    let worker = join(&proxy.config, led.id);
    let mut root = take(&worker, Pool::Dirs);
    for n in 0..50 {
        root.ticket.post(dir(&format!("d{n}"))).unwrap();
    }
    root.ticket.report(one());
    root.ticket.finish();
    // Not more often: what is lost four times is set aside.
    for _ in 0..3 {
        for _ in 0..8 {
            // What was lost twice is worked on alone, by file actors.
            let deadline = Instant::now() + PATIENCE;
            let mut delivery = loop {
                assert!(Instant::now() < deadline, "no task came");
                let both = [Pool::Dirs, Pool::Files].into_iter();
                let taken = both.filter_map(|pool| worker.take(pool, Duration::from_millis(10))).next();
                if let Some(delivery) = taken {
                    break delivery;
                }
            };
            let root = delivery.task.directory().is_root();
            // A connection that is lost meanwhile takes no more.
            if (0..50).filter(|_| root).any(|n| delivery.ticket.post(dir(&format!("d{n}"))).is_err()) {
                continue;
            }
            delivery.ticket.report(one());
            delivery.ticket.finish();
        }
        proxy.cut();
    }
    work_until_over_with(&led, &worker, 50);
    assert_eq!(led.leading.join().unwrap(), COMPLETE);
    assert_eq!(led.board.snapshot().totals.found, 51);
    assert!(worker.close(PATIENCE));
}

#[test]
fn a_worker_that_leaves_in_order_gives_its_backlog_back() {
    let led = lead(&config(), &Task::root());
    let leaving = join(&config(), led.id);
    let mut root = take(&leaving, Pool::Dirs);
    for n in 0..100 {
        root.ticket.post(dir(&format!("d{n}"))).unwrap();
    }
    leaving.drain();
    root.ticket.post(dir("late")).unwrap();
    root.ticket.report(one());
    root.ticket.finish();
    assert!(leaving.take(Pool::Dirs, PATIENCE).is_none());
    assert!(leaving.close(PATIENCE));
    let staying = join(&config(), led.id);
    work_until_over(&led, &staying);
    assert_eq!(led.leading.join().unwrap(), COMPLETE);
    assert_eq!(led.board.snapshot().totals.found, 102);
    assert!(staying.close(PATIENCE));
}

#[test]
fn messages_that_cannot_be_understood_are_set_aside_with_a_reason() {
    let led = lead(&config(), &Task::root());
    let root = Task::root();
    let origin = Origin { session: 7, number: 1, attempt: 1 };
    let foreign = |job| {
        let tasks = vec![&root];
        super::Seal::new(None).seal_tasks(&TasksRef { job, origin, attempts: 0, lost: 0, again: false, tasks }).unwrap()
    };
    let mut newer = foreign(led.id);
    newer[2] = 200;
    let bad =
        [b"rubbish".to_vec(), newer, foreign(JobId::random()), b"th\x01\x01\xff\xff\xff\xff".to_vec(), Vec::new()];
    on_broker(async |_connection, channel| {
        for body in &bad {
            connection::publish_safely(&channel, &topology::tasks(led.id, Queue::Dirs), body).await.unwrap();
        }
    });
    let worker = join(&config(), led.id);
    work_until_over(&led, &worker);
    let letters = u32::try_from(bad.len()).unwrap();
    assert_eq!(led.leading.join().unwrap(), Followed::Ended { end: JobEnd::Complete, letters });
    let dead = letters;
    let seen = led.board.snapshot();
    assert_eq!((seen.totals.found, seen.totals.failed), (1, u64::from(dead)));
    let reasons = on_broker(async |_connection, channel| {
        let mut reasons = Vec::new();
        let name = topology::dead(led.id);
        while let Some(got) = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap() {
            assert!(bad.contains(&got.delivery.data));
            let headers = got.delivery.properties.headers().clone().unwrap_or_else(FieldTable::default);
            let reason = headers.inner().get("x-treehaul-reason").and_then(|r| r.as_long_string());
            reasons.push(reason.unwrap().to_string());
        }
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        reasons
    });
    assert_eq!(reasons.len(), bad.len());
    assert!(reasons.iter().all(|r| r.contains("cannot be understood")), "{reasons:?}");
    assert!(worker.close(PATIENCE));
}

#[test]
fn a_task_with_which_worker_after_worker_is_lost_is_set_aside() {
    let led = lead(&config(), &dir("killer"));
    on_broker(async |_connection, channel| {
        let name = topology::tasks(led.id, Queue::Dirs);
        for _ in 0..2 {
            let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap();
            let requeue = BasicNackOptions { requeue: true, multiple: false };
            channel.basic_nack(got.unwrap().delivery.delivery_tag, requeue).await.unwrap();
        }
    });
    for _ in 0..2 {
        let proxy = Proxy::new();
        let dying = join(&proxy.config, led.id);
        // It is worked on alone now, by whoever works on single entries.
        let held = take(&dying, Pool::Files);
        assert_eq!(held.task.directory().as_bytes(), b"killer");
        // The message that it came in is acknowledged by now.
        while dying.live() > 1 {
            std::thread::yield_now();
        }
        std::mem::forget(held);
        drop(dying);
        proxy.cut();
    }
    let worker = join(&config(), led.id);
    work_until_over(&led, &worker);
    assert_eq!(led.leading.join().unwrap(), Followed::Ended { end: JobEnd::Complete, letters: 1 });
    let seen = led.board.snapshot();
    assert_eq!((seen.totals.found, seen.totals.failed), (0, 1));
    assert_eq!(seen.failures[0].path, b"killer");
    assert!(seen.failures[0].message.contains("4 workers"), "{}", seen.failures[0].message);
    assert!(worker.close(PATIENCE));
    on_broker(async |connection, _channel| {
        topology::delete(&connection, vec![topology::dead(led.id), topology::results(led.id)]).await.unwrap();
    });
}

struct Refuses;

impl JobGate for Refuses {
    fn admit(&self, _: &JobSpec) -> Result<(), String> {
        Err("source is not mounted\x1b[2J".to_owned())
    }
    fn retire(&self, _: JobId) {
        panic!("it never took part");
    }
}

#[test]
fn a_refusing_worker_and_an_empty_fleet_are_noted() {
    let refusing = Worker::connect(&config(), "picky".to_owned(), Arc::new(Refuses)).unwrap();
    let led = lead(&config(), &Task::root());
    let start = Instant::now();
    let noted = |words: &str| led.board.snapshot().notes.iter().any(|n| n.contains(words));
    while !(noted("picky") && noted("no worker takes part")) {
        assert!(start.elapsed() < PATIENCE);
        assert!(refusing.take(Pool::Dirs, Duration::from_millis(50)).is_none());
    }
    // Nobody leads it: whoever takes it up ends it.
    super::Office::connect(&config()).unwrap().cancel_job(led.id, "a test").unwrap();
    let worker = join(&config(), led.id);
    let end = JobEnd::Cancelled("a test".to_owned());
    assert_eq!(led.leading.join().unwrap(), Followed::Ended { end, letters: 0 });
    assert!(worker.close(PATIENCE));
    let notes = led.board.snapshot().notes.join("\n");
    assert!(notes.contains(r"worker picky takes no part in the job: source is not mounted\x1b[2J"), "{notes}");
    assert!(notes.contains("start `treehaul worker --broker amqp://"), "{notes}");
    assert!(!notes.contains("guest:guest"), "{notes}");
}

#[test]
fn a_broker_that_does_not_let_in_is_told_apart_and_named_without_its_password() {
    let error = |change: &dyn Fn(&mut AmqpConfig)| {
        let mut config = config();
        change(&mut config);
        let error = Worker::connect(&config, "w".to_owned(), Arc::new(Refuses)).err().unwrap();
        let text = error.to_string();
        assert!(text.contains(":***@") && !text.contains("s3cret"), "{text}");
        error
    };
    let wrong = error(&|c| "s3cret".clone_into(&mut c.uri.authority.userinfo.password));
    assert!(matches!(wrong, AmqpError::Credentials { .. }), "{wrong}");
    let vhost = error(&|c| "nowhere".clone_into(&mut c.uri.vhost));
    assert!(matches!(vhost, AmqpError::Vhost { .. }), "{vhost}");
    let nobody = error(&|c| c.uri.authority.port = 1);
    assert!(matches!(nobody, AmqpError::Unreachable { .. }), "{nobody}");
}

/// Refuses its job at first.
struct Late(JobId, AtomicUsize);

impl JobGate for Late {
    fn admit(&self, spec: &JobSpec) -> Result<(), String> {
        let asked = spec.id == self.0 && self.1.fetch_add(1, SeqCst) > 0;
        if asked { Ok(()) } else { Err("not mounted yet".to_owned()) }
    }
    fn retire(&self, _: JobId) {}
}

#[test]
fn a_worker_that_refused_a_job_looks_again() {
    let led = lead(&config(), &Task::root());
    let worker = Worker::connect(&config(), "late".to_owned(), Arc::new(Late(led.id, AtomicUsize::new(0)))).unwrap();
    work_until_over(&led, &worker);
    assert!(led.board.snapshot().notes.iter().any(|n| n.contains("not mounted yet")));
    assert_eq!(led.leading.join().unwrap(), COMPLETE);
    assert_eq!(led.board.snapshot().totals.found, 1);
    assert!(worker.close(PATIENCE));
}

#[test]
fn missing_dead_letters_do_not_hold_a_job_up_and_rubbish_in_its_stream_is_passed_over() {
    let led = lead(&config(), &Task::root());
    on_broker(async |_connection, channel| {
        channel.queue_delete(topology::dead(led.id).into(), QueueDeleteOptions::default()).await.unwrap();
        for queue in [topology::tasks(led.id, Queue::Dirs), topology::results(led.id)] {
            connection::publish_safely(&channel, &queue, b"rubbish").await.unwrap();
        }
    });
    let worker = join(&config(), led.id);
    work_until_over(&led, &worker);
    assert_eq!(led.leading.join().unwrap(), COMPLETE);
    let totals = led.board.snapshot().totals;
    assert_eq!((totals.found, totals.failed), (1, 1));
    assert!(worker.close(PATIENCE));
    on_broker(async |connection, _channel| {
        topology::delete(&connection, vec![topology::results(led.id)]).await.unwrap();
    });
}

#[test]
fn a_job_whose_messages_somebody_purged_ends_and_says_so() {
    let led = lead(&config(), &Task::root());
    let worker = join(&config(), led.id);
    let mut root = take(&worker, Pool::Dirs);
    worker.drain();
    for n in 0..20 {
        root.ticket.post(dir(&format!("d{n}"))).unwrap();
    }
    root.ticket.report(one());
    root.ticket.finish();
    assert!(worker.close(PATIENCE));
    on_broker(async |_connection, channel| {
        let name = topology::tasks(led.id, Queue::Dirs);
        channel.queue_purge(name.into(), QueuePurgeOptions::default()).await.unwrap();
    });
    let worker = join(&config(), led.id);
    work_until_over(&led, &worker);
    let Followed::Ended { end: JobEnd::Aborted(why), .. } = led.leading.join().unwrap() else { panic!() };
    assert!(why.contains("20 messages of the job are lost"), "{why}");
    assert!(worker.close(PATIENCE));
}

#[test]
fn another_worker_leads_the_job_when_its_leader_is_gone() {
    let proxy = Proxy::new();
    let led = lead(&config(), &Task::root());
    let dying = join(&proxy.config, led.id);
    let mut root = take(&dying, Pool::Dirs);
    for n in 0..20 {
        root.ticket.post(dir(&format!("d{n}"))).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while dying.leading().is_empty() {
        assert!(Instant::now() < deadline, "nobody leads");
        std::thread::yield_now();
    }
    let other = join(&config(), led.id);
    std::mem::forget(root);
    drop(dying);
    proxy.cut();
    work_until_over_with(&led, &other, 20);
    assert_eq!(led.leading.join().unwrap(), COMPLETE);
    assert_eq!(led.board.snapshot().totals.found, 21);
    assert!(other.close(PATIENCE));
}

#[test]
fn a_follower_can_leave_while_the_broker_is_away_and_the_job_goes_on() {
    let proxy = Proxy::new();
    let id = JobId::random();
    let reader = super::Reads::new();
    super::submit(&config(), &spec(id), [Task::root()], Some(reader), &|_| {}).unwrap();
    let mut follower = Follower::new(&proxy.config, id, reader, board()).unwrap();
    proxy.away.store(true, SeqCst);
    proxy.cut();
    let begun = Instant::now();
    assert_eq!(follower.run(&|| begun.elapsed() > Duration::from_secs(1)).unwrap(), Followed::Left);
    let worker = join(&config(), id);
    let mut root = take(&worker, Pool::Dirs);
    root.ticket.report(one());
    root.ticket.finish();
    let board = board();
    assert_eq!(Follower::new(&config(), id, reader, Arc::clone(&board)).unwrap().run(&|| false).unwrap(), COMPLETE);
    assert_eq!(board.snapshot().totals.found, 1);
    assert!(worker.close(PATIENCE));
}
