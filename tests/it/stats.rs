//! What actors count adds up to what the job says, and what is timed is shown; the trees come out right all the same.

use crate::hosts::*;
use crate::support::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use treehaul::broker::amqp::{Access, AmqpConfig, QueueType};
use treehaul::model::policy::Limits;
use treehaul::model::{JobId, JobSpec, Policy, Task, Timestamp};
use treehaul::node::{Allowed, Ended, PoolSizes, Prepared, Stats};
use treehaul::telemetry::counts::{COUNTERS, Counts};
use treehaul::telemetry::{Board, Outlet, Unsent};

const PATIENCE: Duration = Duration::from_secs(90);

/// Names the helper's errand, and where it writes what it saw.
const ERRAND: &str = "TREEHAUL_TEST_STATS";
const SAW: &str = "TREEHAUL_TEST_STATS_FILE";

/// Adds up what it is given, and writes that to a file.
struct Sums {
    file: PathBuf,
    sums: BTreeMap<String, u64>,
    calls: u64,
    actors: u64,
    peak: u64,
}

impl Sums {
    fn into(file: &Path) -> Self {
        Sums { file: file.to_owned(), sums: BTreeMap::new(), calls: 0, actors: 0, peak: 0 }
    }
}

impl Outlet for Sums {
    fn add(&mut self, counts: &Counts) -> Result<(), Unsent> {
        for actor in &counts.actors {
            assert!(["dirs", "files"].contains(&actor.pool));
            for (counter, value) in COUNTERS.iter().zip(actor.values) {
                *self.sums.entry(counter.key.to_owned()).or_default() += value;
            }
        }
        self.calls += counts.calls.iter().map(|one| one.times.count()).sum::<u64>();
        self.actors = self.actors.max(counts.gauges.actors.iter().map(|n| u64::from(*n)).sum());
        self.peak = self.peak.max(counts.gauges.rss_bytes);
        Ok(())
    }

    fn leave(&mut self) {
        let saw = json!({ "sums": self.sums, "calls": self.calls, "actors": self.actors, "rss": self.peak });
        fs::write(&self.file, saw.to_string()).unwrap();
    }
}

/// Not a test: a process of its own for those below, which start it. It waits for signals, and the test's own process
/// must not.
#[test]
#[ignore = "started by other tests"]
fn helper() {
    let errand = std::env::var(ERRAND).expect("started by other tests");
    let file = PathBuf::from(std::env::var_os(SAW).expect("a file"));
    treehaul::node::prepare_process();
    let sums =
        |name: &str| Stats::sent(name.to_owned(), Box::new(move |_| Box::new(Sums::into(&file)) as Box<dyn Outlet>));
    match errand.split(' ').collect::<Vec<_>>()[..] {
        ["worker", url, name] => {
            let config = AmqpConfig::new(url, QueueType::default(), Access::default()).expect("a broker");
            let sizes = PoolSizes { dirs: 3, files: 4 };
            let allowed = Allowed::everything();
            let ended = treehaul::node::run_worker(
                &config,
                name,
                sizes,
                Limits::default(),
                allowed,
                sums(name),
                &treehaul::node::Health::new(),
            );
            assert!(matches!(ended, Ok(Ended::Signalled(_))), "{ended:?}");
        }
        ["alone", source, target] => copy_alone(source.as_bytes(), target.as_bytes(), sums("alone")),
        _ => panic!("{errand}"),
    }
}

/// Copies as the command does, and prints the totals.
fn copy_alone(source: &[u8], target: &[u8], stats: Stats) {
    let row = treehaul::pass::row("copy").expect("a pass");
    let (id, policy) = (JobId::random(), Policy::default());
    let timings = stats.meters.as_ref().map(|meters| meters.timings(id));
    let prepared = treehaul::node::prepare(source, target, id, row.access, &policy, timings.as_ref());
    let Ok(Prepared::Tree(roots)) = prepared else { panic!("no tree") };
    let [source_root, target_root] = [&roots.source, &roots.target].map(|root| root.identity().expect("identity"));
    let spec = JobSpec {
        id,
        pass: "copy".into(),
        source: source.to_vec(),
        target: target.to_vec(),
        policy,
        priority: 10,
        submitted: Timestamp::now(),
        source_root,
        target_root,
    };
    let board = Arc::new(Board::new(Box::new(|_| ())));
    let sizes = PoolSizes { dirs: 3, files: 5 };
    let live = treehaul::node::Live::new(spec, Arc::clone(&board));
    let ended = treehaul::node::run_alone(&live, row, roots, [Task::root()], sizes, stats);
    assert!(matches!(ended, Ok(Ended::Complete)), "{ended:?}");
    let totals: BTreeMap<_, _> = board.snapshot().totals.iter().collect();
    fs::write(std::env::var_os("TREEHAUL_TEST_TOTALS").expect("a file"), json!(totals).to_string()).unwrap();
}

fn helper_on(errand: &str, saw: &Path) -> Command {
    let mut c = Command::new(std::env::current_exe().expect("this program"));
    c.args(["--exact", "stats::helper", "--ignored", "--nocapture"]).env(ERRAND, errand).env(SAW, saw);
    c.stdin(Stdio::null()).stdout(Stdio::null());
    c
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).expect("it was written")).expect("JSON")
}

/// Every total of the job is what its actors counted.
fn assert_adds_up(totals: &Value, saw: &[Value]) {
    let names: Vec<&str> = treehaul::model::Totals::default().iter().map(|(name, _)| name).collect();
    for (name, counter) in names.iter().zip(COUNTERS) {
        let sum: u64 = saw.iter().map(|one| one["sums"][counter.key].as_u64().unwrap_or(0)).sum();
        assert_eq!(totals[name].as_u64(), Some(sum), "{name}: {totals} {saw:?}");
    }
    let tasks: u64 = saw.iter().map(|one| one["sums"]["tasks"].as_u64().unwrap_or(0)).sum();
    assert!(tasks > 10, "{saw:?}");
    assert!(saw.iter().all(|one| one["sums"]["panicked"].as_u64().unwrap_or(0) == 0), "{saw:?}");
}

#[test]
fn what_the_actors_of_a_run_count_adds_up_to_its_totals() {
    assert_root();
    let s = Scratch::new();
    let (source, target, saw, totals) = (s.join("src"), s.join("dst"), s.join("saw"), s.join("totals"));
    exotic_tree(&source, 61, 2500);
    for round in 0..2 {
        let errand = format!("alone {} {}", source.display(), target.display());
        let ran = run(helper_on(&errand, &saw).env("TREEHAUL_TEST_TOTALS", &totals));
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        let (totals, saw) = (read(&totals), read(&saw));
        assert_adds_up(&totals, std::slice::from_ref(&saw));
        assert_eq!(totals["copied"] == 0, round == 1, "{totals}");
        assert!(totals["found"].as_u64() > Some(2500) && saw["sums"]["skipped"] == totals["unchanged"], "{totals}");
        assert!(saw["calls"].as_u64() > totals["found"].as_u64(), "each entry was looked at: {saw}");
        assert!(saw["actors"].as_u64() <= Some(8) && saw["rss"].as_u64() > Some(1 << 20), "{saw}");
        assert_identical(&source, &target);
    }
}

#[test]
fn what_the_actors_of_a_fleet_count_adds_up_to_the_jobs_totals() {
    assert_root();
    let (host, s) = (Host::new("adds-up"), Scratch::new());
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 62, 3000);
    let fleet = ["a", "b"].map(|name| {
        let saw = s.join(name);
        let mut c = helper_on(&format!("worker {} {name}", host.url), &saw);
        (Worker(c.process_group(0).spawn().expect("a worker starts")), saw)
    });
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let saw = fleet.map(|(worker, saw)| {
        assert_eq!(worker.stop(), Some(0));
        read(&saw)
    });
    assert_adds_up(&ran.json()["totals"], &saw);
    assert!(saw.iter().any(|one| one["calls"].as_u64() > Some(1000)), "{saw:?}");
    assert_identical(&source, &target);
}

/// `treehaul inspect WHAT --format json`.
fn inspect(host: &Host, args: &[&str]) -> Value {
    let ran = run(treehaul().arg("inspect").args(args).args(["--format", "json", "--broker", &host.url]));
    assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.stdout, ran.stderr);
    ran.json()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap_or_else(|| panic!("no {name}: {value}"))
}

/// Looks until something is so.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
    }
}

fn count_of(latency: &Value, operation: &str) -> u64 {
    let of = |one: &&Value| one["operation"] == operation;
    list(latency, "latency").iter().filter(of).map(|one| one["count"].as_u64().unwrap()).sum()
}

#[test]
fn workers_tell_how_long_their_calls_took_unless_they_keep_no_statistics() {
    assert_root();
    let (host, s) = (Host::new("latency"), Scratch::new());
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 63, 1200);
    let timed = host.worker("timed");
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    let job = ran.json()["job"].as_str().unwrap().to_owned();

    let all = inspect(&host, &["latency", "--job", &job[..12]]);
    assert!(list(&all, "latency").iter().all(|one| one["node"] == "timed"), "{all}");
    let made = ran.total("copied") - ran.total("directories");
    let names = count_of(&all, "publish") + count_of(&all, "link");
    assert!(names >= made, "each of {made} entries got its name: {all}");
    assert_eq!(count_of(&all, "readlink"), ran.total("symlinks"), "{all}");
    assert!(count_of(&all, "list") >= ran.total("directories") && count_of(&all, "write") > 0, "{all}");
    for one in list(&all, "latency") {
        let number = |name: &str| one[name].as_f64().unwrap();
        assert!(number("mean_seconds") > 0.0 && number("p50_seconds") <= number("p99_seconds"), "{one}");
        assert!((number("sum_seconds") / number("count") - number("mean_seconds")).abs() < 1e-6, "{one}");
    }
    let text = run(treehaul().args(["inspect", "latency", "--sum", "--broker", &host.url])).stdout;
    assert!(text.contains("OPERATION") && text.contains("(all)  opendir"), "{text}");
    assert_eq!(list(&inspect(&host, &["latency", "--job", "zz"]), "latency").len(), 0);
    assert_eq!(timed.stop(), Some(0));

    let _silent = host.worker_with("silent", &["--no-stats"]);
    fs::remove_dir_all(&target).unwrap();
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    let none = inspect(&host, &["latency"]);
    assert_eq!((list(&none, "latency").len(), none["answered"][0].as_str()), (0, Some("silent")), "{none}");
}

#[test]
fn a_worker_tells_what_it_moves_how_long_tasks_wait_and_how_full_the_target_is() {
    let (host, s) = (Host::new("moves"), Scratch::new());
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), vec![7; 48 << 20]).unwrap();
    (0..4).for_each(|i| fs::write(source.join(format!("f{i}")), vec![i; 4 << 20]).unwrap());
    let _worker = host.worker_with("slow", &["--bwlimit", "8M", "--file-actors", "2"]);
    until("a worker", || (run(treehaul().args(["ping", "--broker", &host.url])).code == 0).then_some(()));
    let mut job = host.copy(&source, &target);
    let job = job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut seen = 0;
    let grew = until("bytes of a task that grow", || {
        let active = inspect(&host, &["active"]);
        let bytes = list(&active, "active").iter().filter_map(|one| one["bytes"].as_u64()).max().unwrap_or(0);
        let before = std::mem::replace(&mut seen, bytes);
        (before > 0 && bytes > before).then_some(bytes)
    });
    assert!(grew <= 48 << 20, "{grew}");
    let node = until("how full the target is", || {
        let node = inspect(&host, &["stats"])["nodes"][0].clone();
        (!list(&node, "jobs").is_empty() && node["jobs"][0]["target"].is_object()).then_some(node)
    });
    let space = &node["jobs"][0]["target"];
    let size: u64 = sh(&format!("stat -f -c '%b * %S' {} | bc", q(s.path()))).trim().parse().unwrap();
    assert_eq!(space["bytes"].as_u64(), Some(size), "{node}");
    assert!(space["free_bytes"].as_u64() < Some(size) && space["inodes"].is_u64(), "{node}");
    assert_eq!(node["broker_blocked"], false);
    // Two actors and 64 MiB at 8 MiB a second: what comes later waits.
    let waited = until("tasks that waited", || {
        let node = inspect(&host, &["stats"])["nodes"][0].clone();
        node["queue_wait_seconds"].as_f64().filter(|seconds| *seconds > 0.0)
    });
    assert!(waited < 60.0, "{waited}");
    let text = run(treehaul().args(["inspect", "stats", "--broker", &host.url])).stdout;
    assert!(text.contains("tasks taken lately had waited for ") && text.contains("of its target's "), "{text}");
    let ran = Ran::of(job.wait_with_output().expect("it ends"));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
}

#[test]
fn statistics_are_the_business_of_who_does_the_work() {
    let (host, s) = (Host::new("whose"), Scratch::new());
    fs::create_dir(s.join("src")).unwrap();
    for flags in [&["--no-stats"][..], &["--memcached", "127.0.0.1:1"]] {
        let ran = run(host.copy(&s.join("src"), &s.join("dst")).args(flags));
        assert_eq!(ran.code, 2, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("give them to `treehaul worker`"), "{}", ran.stderr);
    }
    assert!(!s.join("dst").exists(), "nothing was touched");
    let ran = run(treehaul().args(["copy", "-q", "--no-stats"]).args([s.join("src"), s.join("dst")]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}
