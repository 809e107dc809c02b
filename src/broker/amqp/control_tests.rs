//! Workers that are asked and told, over the real broker. Other tests use it at the same time, so workers have names of
//! their own.

use super::messages::Control;
use super::stranger::Stranger;
use super::{AmqpConfig, Follower, JobGate, Office, QueueType, Seal, Worker, connection, topology};
use crate::broker::conformance::{OneJob, board, spec, test_config};
use crate::broker::{Broker, Delivery, Pool};
use crate::model::fleet::{Answer, Order};
use crate::model::task::{Entry, Names};
use crate::model::{Entries, JobId, JobSpec, RelPath, Report, Task};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Dead workers of other tests are waited for so long.
const SHORT: Duration = Duration::from_secs(5);

fn config() -> AmqpConfig {
    test_config(QueueType::Quorum)
}

/// Notes its orders.
#[derive(Default)]
struct Obedient(Mutex<Vec<Order>>, Mutex<Vec<Order>>);

impl JobGate for Obedient {
    fn admit(&self, _: &JobSpec) -> Result<(), String> {
        Err("another test's".to_owned())
    }
    fn retire(&self, _: JobId) {}
    fn order(&self, order: Order) -> Answer {
        self.0.lock().unwrap().push(order);
        Answer::Done("done\x1b".to_owned())
    }
    fn answered(&self, order: &Order) {
        self.1.lock().unwrap().push(order.clone());
    }
}

fn unique(text: &str) -> String {
    format!("{text}-{}", JobId::random())
}

fn obedient(name: &str) -> (Arc<Worker>, Arc<Obedient>) {
    let gate = Arc::<Obedient>::default();
    let worker = Worker::connect(&config(), name.to_owned(), Arc::clone(&gate) as Arc<dyn JobGate>).unwrap();
    (worker, gate)
}

/// Asks until a worker answers that has just begun.
fn asked(office: &Office, name: &str, order: &Order) -> Answer {
    let start = Instant::now();
    loop {
        let answers = office.ask(&[name.to_owned()], order, SHORT).unwrap().answers;
        if let Some((who, answer)) = answers.into_iter().next() {
            assert_eq!(who, name);
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{name} never answered");
    }
}

#[test]
fn an_order_reaches_those_whom_it_is_for_and_they_answer() {
    let (one, two) = (unique("one"), unique("two"));
    let office = Office::connect(&config()).unwrap();
    let ((first, gate), (second, other)) = (obedient(&one), obedient(&two));
    assert_eq!(asked(&office, &one, &Order::Pause), Answer::Done("done\x1b".to_owned()));
    assert!(other.0.lock().unwrap().is_empty(), "it was not meant");
    asked(&office, &two, &Order::Stop { now: true });
    let both = office.ask(&[format!("{one}*"), two.clone()], &Order::Resume, SHORT).unwrap();
    let names: Vec<&str> = both.answers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [one.as_str(), two.as_str()]);
    assert_eq!(*gate.0.lock().unwrap(), [Order::Pause, Order::Resume]);
    // What follows the answer may come a moment later.
    let start = Instant::now();
    while *other.1.lock().unwrap() != [Order::Stop { now: true }, Order::Resume] {
        assert!(start.elapsed() < PATIENCE, "{:?}", other.1.lock().unwrap());
    }
    assert!(first.close(PATIENCE) && second.close(PATIENCE));
    assert!(office.ask(&[one], &Order::Pause, SHORT).unwrap().answers.is_empty(), "it is gone");
}

#[test]
fn a_worker_says_how_the_jobs_stand_that_it_leads() {
    let led = lead(Task::root());
    let worker = join(led.id, [8, 8]);
    let office = Office::connect(&config()).unwrap();
    let name = worker.name().to_owned();
    let mut held = take(&worker, Pool::Dirs);
    let mut report = Report::default();
    report.totals.found = 7;
    held.ticket.report(report);
    let start = Instant::now();
    let found = loop {
        assert!(start.elapsed() < PATIENCE, "what is in hand is shown after a while");
        let Answer::Leading(led) = asked(&office, &name, &Order::Leading) else { panic!("another answer") };
        if let Some(job) = led.first().filter(|job| job.totals.found > 0) {
            break (job.job, job.totals.found, job.walk_over);
        }
        let mut report = Report::default();
        report.totals.copied = 1;
        held.ticket.report(report);
    };
    assert_eq!(found, (led.id, 7, false));
    held.ticket.finish();
    work_until_over(led, &worker);
    assert_eq!(worker.leading(), []);
    assert!(worker.close(PATIENCE));
}

#[test]
fn of_two_workers_of_one_name_the_second_gets_another() {
    let name = unique("twin");
    let (first, _) = obedient(&name);
    let (second, _) = obedient(&name);
    assert_eq!((first.name(), second.name()), (name.as_str(), format!("{name}-{}", std::process::id()).as_str()));
    assert!(first.close(PATIENCE) && second.close(PATIENCE));
    let (again, _) = obedient(&name);
    assert_eq!(again.name(), name, "the name is free again");
    assert!(again.close(PATIENCE));
}

/// Somebody who knows AMQP and nothing else of ours.
fn by_hand<T>(act: impl AsyncFnOnce(Connection, Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = connection::open(&config(), "test").await.unwrap();
        let channel = connection::confirmed_channel(&connection).await.unwrap();
        act(connection, channel).await
    })
}

async fn mailbox(channel: &Channel, name: &str, control: bool) -> Consumer {
    topology::declare_mailbox(channel, name, control).await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(name.into(), "".into(), options, FieldTable::default()).await.unwrap()
}

async fn tell_all(channel: &Channel, body: &[u8], reply_to: Option<&str>) {
    let mut properties = BasicProperties::default();
    if let Some(name) = reply_to {
        properties = properties.with_reply_to(name.into());
    }
    let options = BasicPublishOptions::default();
    channel.basic_publish(topology::CONTROL.into(), "".into(), options, body, properties).await.unwrap().await.unwrap();
}

/// The frame of one worker; others hear the message, too.
async fn frame_of(replies: &mut Consumer, name: &str) -> Stranger {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let delivery = tokio::time::timeout_at(deadline.into(), replies.next()).await.expect("no frame came");
        let stranger = Stranger::read(&delivery.unwrap().unwrap().data).expect("a frame");
        if stranger.name == name {
            return stranger;
        }
    }
}

#[test]
fn who_cannot_read_a_control_message_says_so() {
    let name = unique("deaf");
    let (worker, gate) = obedient(&name);
    asked(&Office::connect(&config()).unwrap(), &name, &Order::Active);
    let errand = super::messages::Errand {
        nodes: Vec::new(),
        order: Order::Stop { now: true },
        reply_to: "treehaul.replies.nobody".into(),
        id: 1,
    };
    let mut newer = Seal::new(None).seal(&Control::Order(errand)).unwrap();
    newer[2] = 200;
    let mut forged = newer.clone();
    forged[2] = super::envelope::WIRE_VERSION;
    forged[20] ^= 1;
    by_hand(async |_connection, channel| {
        let (to, not) = (unique("treehaul.replies.test"), unique("other"));
        let (mut replies, mut elsewhere) = (mailbox(&channel, &to, false).await, mailbox(&channel, &not, false).await);
        tell_all(&channel, b"rubbish", Some(&to)).await;
        tell_all(&channel, &newer, None).await;
        tell_all(&channel, &newer, Some(&not)).await;
        tell_all(&channel, &newer, Some(&to)).await;
        let said = frame_of(&mut replies, &name).await;
        assert_eq!((said.wire, said.key), (super::envelope::WIRE_VERSION, true));
        assert_eq!(said.version, env!("TREEHAUL_VERSION"));
        tell_all(&channel, &forged, Some(&to)).await;
        assert!(!frame_of(&mut replies, &name).await.key);
        // All before was heard by now.
        let nothing = tokio::time::timeout(Duration::from_millis(1), elsewhere.next()).await;
        assert!(nothing.is_err(), "only mailboxes are written to");
    });
    assert_eq!(*gate.0.lock().unwrap(), [Order::Active], "nothing of it was done");
    assert!(worker.close(PATIENCE));
}

#[test]
fn a_fleet_with_another_key_or_version_is_named() {
    let name = unique("keyless");
    let (worker, gate) = obedient(&name);
    asked(&Office::connect(&config()).unwrap(), &name, &Order::Active);
    let mut other = config();
    other.seal = Seal::new(Some([9; 32]));
    let stop = Arc::new(AtomicBool::new(false));
    let (fake, stopped) = (unique("newer"), Arc::clone(&stop));
    let (told, heard) = std::sync::mpsc::channel();
    let fake_name = fake.clone();
    let newer = std::thread::spawn(move || {
        by_hand(async |_connection, channel| {
            let mut control = mailbox(&channel, &unique("treehaul.control.test"), true).await;
            told.send(()).unwrap();
            while !stopped.load(SeqCst) {
                let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(20), control.next()).await else {
                    continue;
                };
                let message = message.unwrap();
                let Some(to) = message.properties.reply_to().clone() else { continue };
                let body = [
                    b"th\xc8\x00".as_slice(),
                    format!(r#"{{"name":"{fake_name}","version":"99","wire":200}}"#).as_bytes(),
                ]
                .concat();
                let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
                channel.basic_publish("".into(), to, options, &body, properties).await.unwrap();
            }
        });
    });
    heard.recv().unwrap();
    let office = Office::connect(&other).unwrap();
    let asked = office.ask(&[], &Order::Stop { now: true }, SHORT).unwrap();
    assert!(asked.answers.is_empty(), "{:?}", asked.answers);
    let of = |name: &str| asked.strangers.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("{asked:?}")).why();
    assert!(of(&name).contains("another fleet key"), "{}", of(&name));
    assert!(of(&fake).starts_with("speaks wire version 200, this is "), "{}", of(&fake));
    stop.store(true, SeqCst);
    newer.join().unwrap();
    assert_eq!(*gate.0.lock().unwrap(), [Order::Active]);
    assert!(worker.close(PATIENCE));
}

/// A job that is followed from here until it is over.
struct Led {
    id: JobId,
    leading: JoinHandle<()>,
}

fn lead(first: Task) -> Led {
    let id = JobId::random();
    let reader = super::Reads::new();
    super::submit(&config(), &spec(id), [first], Some(reader), &|_| {}).unwrap();
    let mut follower = Follower::new(&config(), id, reader, board()).unwrap();
    let leading = std::thread::spawn(move || {
        follower.run(&|| false).unwrap();
    });
    Led { id, leading }
}

fn join(job: JobId, prefetch: [u16; 2]) -> Arc<Worker> {
    let mut config = config();
    config.prefetch = prefetch;
    Worker::connect(&config, format!("test {job}"), Arc::new(OneJob(job))).unwrap()
}

fn take(worker: &Arc<Worker>, pool: Pool) -> Delivery {
    worker.take(pool, PATIENCE).expect("no task came")
}

fn work_until_over(led: Led, worker: &Arc<Worker>) {
    let start = Instant::now();
    while !led.leading.is_finished() {
        assert!(start.elapsed() < PATIENCE, "the job never ended");
        for pool in [Pool::Dirs, Pool::Files] {
            if let Some(delivery) = worker.take(pool, Duration::from_millis(10)) {
                delivery.ticket.finish();
            }
        }
    }
    led.leading.join().unwrap();
}

/// Waits for a state of a queue: ready messages, consumers. A quorum queue counts a consumer that was ended until what it
/// holds is acknowledged.
fn wait_for(office: &Office, job: JobId, queue: &str, is_so: impl Fn(u32, u32) -> bool) {
    let start = Instant::now();
    loop {
        let depths = office.depths(job).unwrap();
        let depth = depths.iter().find(|d| d.name == queue).unwrap();
        if is_so(depth.ready, depth.consumers) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{depths:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn child(n: u32) -> Task {
    Task::Dirs { parent: RelPath::parse(format!("d{n}").into_bytes()).unwrap(), names: Names::default() }
}

/// What a pause does, however it is asked for.
fn pauses(pause: impl Fn(&Office, &Arc<Worker>, JobId, bool)) {
    let led = lead(Task::root());
    let office = Office::connect(&config()).unwrap();
    let worker = join(led.id, [4, 4]);
    let mut root = take(&worker, Pool::Dirs);
    for n in 0..30 {
        root.ticket.post(child(n)).unwrap();
    }
    pause(&office, &worker, led.id, true);
    wait_for(&office, led.id, "dirs", |ready, _| ready > 0);
    assert!(worker.take(Pool::Dirs, Duration::from_millis(300)).is_none(), "a paused worker gives no task");
    root.ticket.post(child(99)).unwrap();
    root.ticket.finish();
    wait_for(&office, led.id, "dirs", |ready, consumers| ready > 1 && consumers == 0);
    pause(&office, &worker, led.id, false);
    for _ in 0..31 {
        take(&worker, Pool::Dirs).ticket.finish();
    }
    let id = led.id;
    work_until_over(led, &worker);
    assert!(worker.close(PATIENCE));
    let state = office.jobs().unwrap().into_iter().find(|job| job.spec.id == id).unwrap();
    assert!(state.removed && state.is_over() && !state.paused);
    assert_eq!(office.depths(id).unwrap(), []);
}

#[test]
fn a_paused_worker_keeps_nothing_and_goes_on_when_it_is_told() {
    pauses(|_, worker, _, paused| {
        worker.pause(paused);
        assert_eq!(worker.is_paused(), paused);
    });
}

#[test]
fn a_paused_job_is_left_alone_until_it_is_resumed() {
    pauses(|office, _, job, paused| {
        if paused {
            office.pause_job(job).unwrap()
        } else {
            office.resume_job(job).unwrap()
        }
        let state = office.jobs().unwrap().into_iter().find(|state| state.spec.id == job).unwrap();
        assert_eq!(state.paused, paused);
    });
}

#[test]
fn a_worker_that_joins_later_finds_a_job_paused() {
    let led = lead(Task::root());
    let office = Office::connect(&config()).unwrap();
    office.pause_job(led.id).unwrap();
    let worker = join(led.id, [4, 4]);
    assert!(worker.take(Pool::Dirs, Duration::from_millis(500)).is_none());
    wait_for(&office, led.id, "dirs", |ready, consumers| (ready, consumers) == (1, 0));
    office.resume_job(led.id).unwrap();
    take(&worker, Pool::Dirs).ticket.finish();
    work_until_over(led, &worker);
    assert!(worker.close(PATIENCE));
}

#[test]
fn a_worker_without_file_actors_leaves_files_to_others() {
    let led = lead(Task::root());
    let office = Office::connect(&config()).unwrap();
    let worker = join(led.id, [4, 0]);
    let mut root = take(&worker, Pool::Dirs);
    let mut entries = Entries::default();
    entries.push(&Entry { name: b"f", kind: None, metadata: None }).unwrap();
    root.ticket.post(Task::Batch { dir: RelPath::root(), entries, tag: 0 }).unwrap();
    root.ticket.finish();
    wait_for(&office, led.id, "files", |ready, consumers| (ready, consumers) == (1, 0));
    worker.set_prefetch([4, 4]);
    take(&worker, Pool::Files).ticket.finish();
    work_until_over(led, &worker);
    assert!(worker.close(PATIENCE));
}
