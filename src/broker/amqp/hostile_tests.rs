//! What somebody can do who may publish to the broker: without the key, and with it.

use super::messages::{JobEvent, Payload, Tasks};
use super::{AmqpConfig, Followed, Follower, QueueType, Seal, Worker, connection, joblog, topology};
use crate::broker::conformance::{OneJob, board, spec, test_config};
use crate::broker::{Broker, Pool};
use crate::model::fleet::JobEnd;
use crate::model::task::{Entry, Names};
use crate::model::{Entries, JobId, Queue, RelPath, Report, Task};
use crate::telemetry::Snapshot;
use lapin::options::{BasicGetOptions, BasicPublishOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing here expires by itself.
const FOR_EVER: u64 = u64::MAX;

fn config(key: u8) -> AmqpConfig {
    let mut config = test_config(QueueType::Quorum);
    config.seal = Seal::new(Some([key; 32]));
    config
}

fn on_broker<T>(act: impl AsyncFnOnce(&Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = connection::open(&config(0), "hostile test").await.unwrap();
        act(&connection::confirmed_channel(&connection).await.unwrap()).await
    })
}

/// Runs a job of one task while `attack` is made on it; how it ended, what it says, and how many tasks ran.
fn run_under(attack: impl FnOnce(JobId, &Seal)) -> (Followed, Snapshot, u32, JobId) {
    let (config, id, board) = (config(7), JobId::random(), board());
    let reader = super::Reads::new();
    super::submit(&config, &spec(id), [Task::root()], Some(reader), &|_| {}).unwrap();
    let mut follower = Follower::new(&config, id, reader, Arc::clone(&board)).unwrap();
    attack(id, &config.seal);
    let worker = Worker::connect(&config, format!("test {id}"), Arc::new(OneJob(id))).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let leading = std::thread::spawn(move || {
        let ended = follower.run(&|| false).unwrap();
        told.store(true, SeqCst);
        ended
    });
    let (start, mut ran) = (Instant::now(), 0);
    while !over.load(SeqCst) {
        assert!(start.elapsed() < PATIENCE && !leading.is_finished() || over.load(SeqCst), "the job never ended");
        for pool in [Pool::Dirs, Pool::Files] {
            let Some(mut delivery) = worker.take(pool, Duration::from_millis(10)) else { continue };
            assert_eq!(*delivery.task, Task::root(), "a hostile task reached an actor");
            let mut report = Report::default();
            report.totals.found = 1;
            delivery.ticket.report(report);
            delivery.ticket.finish();
            ran += 1;
        }
    }
    let ended = leading.join().unwrap();
    assert!(worker.close(PATIENCE));
    (ended, board.snapshot(), ran, id)
}

/// The job's dead letters with their reasons; they are gone then.
fn dead_letters(job: JobId) -> Vec<(Vec<u8>, String)> {
    on_broker(async |channel| {
        let (name, mut letters) = (topology::dead(job), Vec::new());
        while let Some(got) = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap() {
            let headers = got.delivery.properties.headers().clone().unwrap_or_else(FieldTable::default);
            let reason = headers.inner().get("x-treehaul-reason").and_then(|r| r.as_long_string()).unwrap();
            letters.push((got.delivery.data, reason.to_string()));
        }
        channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
        letters
    })
}

fn tasks(seal: &Seal, job: JobId, task: &Task) -> Vec<u8> {
    seal.seal_tasks(&super::messages::TasksRef {
        job,
        origin: super::messages::Origin::foreign(),
        attempts: 0,
        lost: 0,
        again: false,
        tasks: vec![task],
    })
    .unwrap()
}

/// As the key's holder would write it, with some bytes of it changed.
fn forged(seal: &Seal, message: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let body = Seal::body(message);
    let at = body.windows(from.len()).position(|w| w == from).unwrap();
    seal.seal_raw(Tasks::KIND, FOR_EVER, &[&body[..at], to, &body[at + from.len()..]].concat())
}

fn names(name: &[u8]) -> Names {
    let mut names = Names::default();
    names.push(0, name).unwrap();
    names
}

/// Messages for the queue of dir tasks, each with a word of the reason for which it is set aside.
fn hostile(job: JobId, seal: &Seal) -> Vec<(Vec<u8>, &'static str)> {
    let path = |text: &[u8]| RelPath::parse(text.to_vec()).unwrap();
    let dirs = |parent: &[u8], name: &[u8]| tasks(seal, job, &Task::Dirs { parent: path(parent), names: names(name) });
    let good = dirs(b"PPPP/PPPP", b"NN");
    let wide = dirs(&[&[b'W'; 150][..], b"/", &[b'W'; 150]].concat(), b"NN");
    let mut entries = Entries::default();
    entries.push(&Entry { name: b"EE", kind: None, metadata: None }).unwrap();
    let batch = tasks(seal, job, &Task::Batch { dir: RelPath::root(), entries, tag: 0 });
    let (mut newer, mut torn) = (good.clone(), good.clone());
    newer[2] ^= 0x40;
    torn.pop();
    let mut all = vec![
        (b"rubbish".to_vec(), "not a message"),
        (Vec::new(), "not a message"),
        (vec![0xff; 5 << 20], "not a message"),
        (newer, "wire version"),
        (torn, "not written with this fleet's key"),
        (tasks(&Seal::new(Some([8; 32])), job, &Task::root()), "not written with this fleet's key"),
        (tasks(&Seal::new(None), job, &Task::root()), "not written with this fleet's key"),
        (tasks(seal, JobId::random(), &Task::root()), "belongs to job"),
        (batch, "does not hold tasks of queue dirs"),
        (seal.seal(&JobEvent::Removed(job)).unwrap(), "kind 3"),
        (seal.seal_raw(Tasks::KIND, 1_000_000_000, Seal::body(&good)), "expired"),
        (seal.seal_raw(Tasks::KIND, FOR_EVER, &[Seal::body(&good), b"\0"].concat()), "malformed"),
        (seal.seal_raw(Tasks::KIND, FOR_EVER, &vec![0; 5 << 20]), "malformed"),
    ];
    for bad in [&b"../../etc"[..], b"/etc/pass", b"PPPP//PPP", b"PPPP/\0PPP", b"PPPP/PPP/", b"./././.P."] {
        all.push((forged(seal, &good, b"PPPP/PPPP", bad), "malformed"));
    }
    for bad in [&b".."[..], b"/N", b"N/", b"\0N"] {
        all.push((forged(seal, &good, b"NN", bad), "malformed"));
    }
    all.push((forged(seal, &wide, b"W/W", b"WWW"), "malformed"));
    // A path, and a list of names, that promise 2^63 bytes.
    let huge = [253, 0, 0, 0, 0, 0, 0, 0, 128];
    all.push((forged(seal, &good, b"\x09PPPP", &[&huge[..], b"PPPP"].concat()), "malformed"));
    all.push((forged(seal, &good, b"\x04\0\x02NN", &[&huge[..], b"\0\x02NN"].concat()), "malformed"));
    all.push((forged(seal, &good, b"\0\x02NN", b"\0\xffNN"), "malformed"));
    // What was changed is what is wrong: the same with nothing changed is understood.
    let unchanged = forged(seal, &good, b"PPPP/PPPP", b"PPPP/PPPP");
    assert!(seal.open_tasks(&unchanged, job, Queue::Dirs).is_ok());
    all
}

#[test]
fn hostile_tasks_are_set_aside_with_their_reasons_and_the_job_ends() {
    let mut sent = Vec::new();
    let (ended, seen, ran, job) = run_under(|job, seal| {
        sent = hostile(job, seal);
        on_broker(async |channel| {
            for (body, _) in &sent {
                connection::publish_safely(channel, &topology::tasks(job, Queue::Dirs), body).await.unwrap();
            }
        });
    });
    let count = u32::try_from(sent.len()).unwrap();
    assert_eq!(ended, Followed::Ended { end: JobEnd::Complete, letters: count });
    assert_eq!((ran, seen.totals.found, seen.totals.failed), (1, 1, u64::from(count)));
    let letters = dead_letters(job);
    for (body, says) in &sent {
        let reason = letters.iter().find(|(letter, _)| letter == body).map(|(_, reason)| reason.as_str());
        assert!(reason.is_some_and(|r| r.contains("cannot be understood") && r.contains(says)), "{says}: {reason:?}");
    }
}

#[test]
fn a_log_and_orders_that_others_wrote_change_nothing() {
    let (ended, seen, ran, _) = run_under(|job, seal| {
        on_broker(async |channel| {
            let stranger = Seal::new(Some([8; 32]));
            for forger in [&stranger, &Seal::new(None)] {
                for event in [JobEvent::Stopping(job), JobEvent::Removed(job), JobEvent::Finishing(job)] {
                    joblog::append(channel, forger, &event).await.unwrap();
                }
            }
            let removed = seal.seal(&JobEvent::Removed(job)).unwrap();
            let old = seal.seal_raw(JobEvent::KIND, 1_000_000_000, Seal::body(&removed));
            for body in [old, b"rubbish".to_vec(), Vec::new(), tasks(seal, job, &Task::root())] {
                connection::publish_safely(channel, topology::JOB_LOG, &body).await.unwrap();
                let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
                let sent = channel.basic_publish(topology::CONTROL.into(), "".into(), options, &body, properties);
                sent.await.unwrap().await.unwrap();
            }
        });
    });
    assert_eq!(ended, Followed::Ended { end: JobEnd::Complete, letters: 0 });
    assert_eq!((ran, seen.totals.found, seen.totals.failed), (1, 1, 0));
}
