//! Tasks that nobody honest posts, worked on by a worker with the real passes between real trees.
//!
//! What they name is valid, so it reaches the passes; but the way leads through symlinks, out of both roots.

use super::*;
use crate::broker::amqp::{self, Followed, Follower, QueueType};
use crate::broker::{Delivery, Pool};
use crate::fs::Side;
use crate::fs::layers::Limiter as NodeLimiter;
use crate::model::fleet::JobEnd;
use crate::model::policy::DeletePolicy;
use crate::model::task::{Entry, Names, Part};
use crate::model::{Entries, Policy, RelPath, Report, Task, Timestamp};
use crate::pass::Run;
use crate::telemetry::Board;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// Kind, inode, mode, times and contents of everything in a directory.
fn state(dir: &Path) -> BTreeMap<PathBuf, (u64, u32, i64, i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let m = std::fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let contents = if m.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        all.insert(path, (m.ino(), m.mode(), m.mtime_nsec(), m.ctime_nsec(), contents));
    }
    all
}

fn hostile_tasks(ino: u64) -> Vec<Task> {
    let names = |tag: u8, all: &[&[u8]]| {
        let mut names = Names::default();
        all.iter().for_each(|name| names.push(tag, name).unwrap());
        names
    };
    let path = |text: &[u8]| RelPath::parse(text.to_vec()).unwrap();
    let mut entries = Entries::default();
    for name in [&b"secret"[..], b"new", b"sub"] {
        entries.push(&Entry { name, kind: None, metadata: None }).unwrap();
    }
    let t = Timestamp::default();
    let part =
        Part { key: 1, number: 1, size: u64::MAX, mtime: t, ctime: t, ino, first: u64::MAX - 1, count: u64::MAX };
    let all: &[&[u8]] = &[b"secret", b"sub", b"new"];
    let mut tasks = Vec::new();
    for dir in [path(b"way"), path(b"dir/way"), path(b"way/sub"), path(b"dir/way/sub")] {
        tasks.extend([
            Task::Dirs { parent: dir.clone(), names: Names::default() },
            Task::Dirs { parent: dir.clone(), names: names(0, all) },
            Task::Dirs { parent: dir.clone(), names: names(1, all) },
            Task::Dirs { parent: dir.clone(), names: names(4, all) },
            Task::Pick { dir: dir.clone(), names: names(0, all) },
            Task::Batch { dir: dir.clone(), entries: entries.clone(), tag: 0 },
            Task::Batch { dir: dir.clone(), entries: entries.clone(), tag: 1 },
            Task::Chunk { dir: dir.clone(), name: names(0, &[b"secret"]), part },
            Task::Finish { parent: dir.clone(), names: names(0, all) },
            Task::Finish { parent: dir.clone(), names: names(128, &[b"sub"]) },
            Task::Remove { dir: dir.clone(), names: names(0, all) },
            Task::Remove { dir, names: names(128, all) },
        ]);
    }
    let through = names(128, &[b"way"]);
    tasks.extend([
        Task::Dirs { parent: RelPath::root(), names: names(1, &[b"way"]) },
        Task::Dirs { parent: RelPath::root(), names: names(4, &[b"way"]) },
        Task::Finish { parent: RelPath::root(), names: through.clone() },
        Task::Remove { dir: RelPath::root(), names: through },
    ]);
    tasks
}

/// One actor for everything; with the first task it posts the hostile ones. How many tasks it ran.
fn work(worker: &Arc<Worker>, table: &Table, over: &AtomicBool, hostile: Vec<Task>) -> usize {
    let (start, mut hostile, mut ran) = (Instant::now(), Some(hostile), 0);
    while !over.load(Ordering::Relaxed) {
        assert!(start.elapsed() < PATIENCE, "the job never ended");
        for pool in [Pool::Dirs, Pool::Files] {
            let Some(delivery) = worker.take(pool, Duration::from_millis(10)) else { continue };
            let Delivery { job, task, redelivered, mut ticket, .. } = delivery;
            let pass = table.pass(job).unwrap();
            hostile.take().into_iter().flatten().for_each(|task| ticket.post(task).unwrap());
            let mut run = Run::new(ticket.as_mut(), redelivered);
            let done = pass.run(&task, &mut run);
            let report = run.report;
            ticket.report(report);
            if done.is_ok() {
                ticket.finish();
            }
            ran += 1;
        }
    }
    ran
}

/// Only the job of this test: tests share one broker.
struct OnlyThis(JobId, Arc<Table>);

impl JobGate for OnlyThis {
    fn admit(&self, spec: &JobSpec) -> Result<(), String> {
        if spec.id == self.0 { self.1.admit(spec) } else { Err("another test's".to_owned()) }
    }
    fn retire(&self, job: JobId) {
        self.1.retire(job);
    }
}

fn run_hostile(pass_name: &str) {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    for dir in ["src/dir", "dst/dir", "outside/sub", "open"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    std::fs::write(at("outside/secret"), "secret").unwrap();
    std::fs::write(at("outside/sub/deep"), "deep").unwrap();
    for way in ["src/way", "dst/way", "src/dir/way", "dst/dir/way"] {
        symlink(at("outside"), at(way)).unwrap();
    }
    // What could be copied into the target, or removed, through the symlinks.
    std::fs::write(at("src/plain"), "x").unwrap();
    let before = state(&at("outside"));
    let bytes = |path: PathBuf| path.as_os_str().as_bytes().to_vec();
    let delete = Some(DeletePolicy { allow_empty_source: true, ..DeletePolicy::default() });
    let spec = JobSpec {
        id: JobId::random(),
        pass: pass_name.to_owned(),
        source: bytes(at("src")),
        target: bytes(at("dst")),
        policy: Policy { delete, ..Policy::default() },
        submitted: Timestamp::default(),
        priority: 1,
        source_root: crate::model::RootIdentity::default(),
        target_root: crate::model::RootIdentity::default(),
    };
    let url = std::env::var("TREEHAUL_TEST_AMQP").expect("run `make test`, it starts RabbitMQ");
    let config = AmqpConfig::parse(&url, QueueType::Quorum).unwrap();
    let open = |side, path: &[u8]| fs::open(path, side, &Options::new(spec.id)).unwrap();
    let roots = Roots { source: open(Side::Source, &spec.source), target: open(Side::Target, &spec.target) };
    let spec = JobSpec {
        source_root: roots.source.identity().unwrap(),
        target_root: roots.target.identity().unwrap(),
        ..spec.clone()
    };
    let leading: Arc<dyn Pass> = Arc::from(row(pass_name).unwrap().prepare(&spec, roots, true).unwrap());
    leading.mark().unwrap();

    let allowed = Allowed::below(vec![place.path().to_owned()]);
    let limiter = Arc::new(NodeLimiter::new(Limits::default()));
    let (passes, spaces, desk) = (RwLock::default(), Arc::default(), OnceLock::new());
    let meters = Some(Meters::of_calls());
    let table = Arc::new(Table { passes, allowed, limiter, meters, spaces, desk });
    let board = Arc::new(Board::new(Box::new(|_| {})));
    let tasks = hostile_tasks(before[&at("outside/secret")].0);
    let reader = amqp::Reads::new();
    amqp::submit(&config, &spec, [Task::root()], Some(reader), &|_| {}).unwrap();
    let mut follower = Follower::new(&config, spec.id, reader, Arc::clone(&board)).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let gate = Arc::new(OnlyThis(spec.id, Arc::clone(&table)));
    let worker = Worker::connect(&config, format!("hostile {}", spec.id), gate).unwrap();
    let told = Arc::clone(&over);
    let leader = std::thread::spawn(move || {
        let ended = follower.run(&|| false).unwrap();
        told.store(true, Ordering::Relaxed);
        ended
    });
    let posted = tasks.len();
    assert!(work(&worker, &table, &over, tasks) > posted, "{pass_name}: all of them are run");
    let ended = leader.join().unwrap();
    assert!(worker.close(PATIENCE));
    leading.conclude(&mut Report::default());

    let seen = board.snapshot();
    let set_aside = seen.failures.iter().filter(|f| f.operation == crate::model::Operation::Run);
    let why: Vec<_> = set_aside.collect();
    assert_eq!(ended, Followed::Ended { end: JobEnd::Complete, letters: 0 }, "{pass_name}: {why:?}");
    assert_eq!(state(&at("outside")), before, "{pass_name}: something outside was touched");
    assert!(seen.totals.failed > 0, "{pass_name}: what cannot be done is said: {:?}", seen.totals);
    let copied = state(&at("dst"));
    let has_secret = |path: &Path| path.file_name().is_some_and(|n| n == "secret" || n == "deep");
    assert!(!copied.keys().any(|path| has_secret(path)), "{pass_name}: something outside was read: {copied:?}");
}

#[test]
fn tasks_that_lead_through_symlinks_touch_and_read_nothing_outside_the_roots() {
    for pass in ["copy", "sync", "delete", "dirtime", "verify"] {
        run_hostile(pass);
    }
}
