//! Brokers that die, starve, lose patience, are far away or cut off: the job ends by itself, and right.

use crate::brokers::*;
use crate::hosts::{Worker, count};
use crate::support::*;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A job with trouble in it takes seconds; this is for machines that do much else.
const PATIENCE: Duration = Duration::from_secs(150);

/// What needs nothing but a few seconds.
const SOON: Duration = Duration::from_secs(20);
/// Operations a second on each of two nodes, with which a job of some thousand files takes seconds.
const PACE: &str = "2500";

/// A tree, the places for its copies, and what everybody says, which is shown if the test fails.
struct Bench {
    scratch: Scratch,
    entries: u64,
}

impl Bench {
    fn new(files: u64) -> Self {
        Self::of(|source| exotic_tree(source, 31, files))
    }

    fn of(make: impl Fn(&Path)) -> Self {
        assert_root();
        let scratch = Scratch::new();
        make(&scratch.join("src"));
        fs::create_dir(scratch.join("said")).expect("mkdir");
        Bench { entries: entries_of(&scratch.join("src")), scratch }
    }

    fn source(&self) -> PathBuf {
        self.scratch.join("src")
    }

    fn target(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("dst-{name}"))
    }

    fn worker(&self, mut command: Command, name: &str, url: &str) -> Worker {
        let said = fs::File::create(self.scratch.join("said").join(name)).expect("create");
        // Not all of them are on this host, and it is a password that everybody knows.
        command.args(["worker", "--insecure", "--name", name]).env("TREEHAUL_BROKER", url);
        Worker(command.stdout(Stdio::null()).stderr(said).process_group(0).spawn().expect("a worker starts"))
    }

    fn copy(&self, name: &str, url: &str) -> Job {
        self.copy_with(name, url, &[])
    }

    /// At a pace at which the test can do something in the middle of it: operations a second on each node.
    fn slow_copy(&self, name: &str, url: &str, pace: &str) -> Job {
        self.copy_with(name, url, &["--ops-limit", pace])
    }

    fn copy_with(&self, name: &str, url: &str, arguments: &[&str]) -> Job {
        let open = |kind| fs::File::create(self.scratch.join("said").join(format!("{name}.{kind}"))).expect("create");
        let mut c = treehaul();
        c.args(["copy", "--json", "--broker", url]).args(arguments).args([self.source(), self.target(name)]);
        let child = c.stdout(open("stdout")).stderr(open("stderr")).process_group(0).spawn().expect("it starts");
        Job { child: Some(child), said: self.scratch.join("said"), name: name.to_owned(), target: self.target(name) }
    }

    /// Waits until a part of the target is there and the job goes on.
    fn await_middle(&self, job: &mut Job) {
        let goal = self.entries as usize / 4;
        until("the target has grown", PATIENCE, || count(&job.target) > goal || job.is_over());
        assert!(!job.is_over(), "it was over before its middle was seen");
    }

    /// The job is complete and right; its name.
    fn assert_right(&self, mut job: Job) -> String {
        until("the job is over", PATIENCE, || job.is_over());
        let ran = job.ran();
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        assert_identical(&self.source(), &job.target);
        assert_eq!(ran.total("found"), self.entries, "something was counted twice or not at all: {}", ran.stdout);
        ran.json()["job"].as_str().expect("a name").to_owned()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", sh(&format!("cd {} && tail -n 60 *", q(&self.scratch.join("said")))));
        }
    }
}

/// Waits until the broker has what all jobs share: RabbitMQ 3.10 can fail when two clients make a stream at once.
fn await_shared(queues: impl Fn(&str) -> Vec<String>) {
    until("the log of jobs is there", PATIENCE, || !queues("treehaul.jobs").is_empty());
}

/// A command that follows its job.
struct Job {
    child: Option<Child>,
    said: PathBuf,
    name: String,
    target: PathBuf,
}

impl Job {
    fn is_over(&mut self) -> bool {
        self.child.as_mut().is_none_or(|c| c.try_wait().expect("a child").is_some())
    }

    /// SIGTERM.
    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("not waited for"));
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
    }

    fn read(&self, kind: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.said.join(format!("{}.{kind}", self.name))).expect("read")).into_owned()
    }

    fn ran(&mut self) -> Ran {
        let status = self.child.take().expect("once").wait().expect("a child");
        Ran { code: status.code().unwrap_or(-1), stdout: self.read("stdout"), stderr: self.read("stderr") }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_broker_that_dies_costs_time_and_nothing_else() {
    let mut broker = OwnBroker::start(&Options::default());
    let bench = Bench::new(2500);
    // Nobody used it before, and everybody comes at once.
    let _fleet = ["w1", "w2", "w3"].map(|n| bench.worker(treehaul(), n, &broker.url()));
    let mut job = bench.slow_copy("killed", &broker.url(), PACE);
    bench.await_middle(&mut job);
    broker.kill9();
    assert!(!job.is_over(), "a dead broker is waited for");
    broker.start_again();
    let id = bench.assert_right(job);
    assert_eq!(broker.queues_of(&id), Vec::<String>::new());
}

#[test]
fn a_broker_without_room_costs_time_and_nothing_else() {
    let broker = OwnBroker::start(&Options::default());
    let bench = Bench::new(2500);
    let _fleet = ["w1", "w2"].map(|n| bench.worker(treehaul(), n, &broker.url()));
    await_shared(|name| broker.queues_of(name));
    for (name, starve, feed) in [
        ("memory", ["set_vm_memory_high_watermark", "0.0000001"], ["set_vm_memory_high_watermark", "0.4"]),
        ("disk", ["set_disk_free_limit", "1000000GB"], ["set_disk_free_limit", "1MB"]),
    ] {
        let mut job = bench.slow_copy(name, &broker.url(), PACE);
        bench.await_middle(&mut job);
        broker.ctl(&starve);
        let alarmed = || broker.management("health/checks/alarms")["status"] == "failed";
        until("the alarm is on", PATIENCE, alarmed);
        // Whoever publishes is not read from any more, and a job cannot end without a report.
        until("a client is blocked", PATIENCE, || {
            let all = broker.management("connections");
            all.as_array().is_some_and(|all| all.iter().any(|c| c["state"] == "blocked"))
        });
        assert!(alarmed() && !job.is_over(), "it ended without the broker");
        until("who waits is told why", SOON, || job.read("stderr").contains("blocked"));
        // Nor does it keep anybody who does not want to wait.
        let mut impatient = bench.copy(&format!("{name}-impatient"), &broker.url());
        until("who comes late is told why", SOON, || impatient.read("stderr").contains("blocked"));
        impatient.interrupt();
        until("the command ends when it is told to", SOON, || impatient.is_over());
        broker.ctl(&feed);
        let id = bench.assert_right(job);
        assert_eq!(broker.queues_of(&id), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_worker_that_is_cut_off_is_replaced_and_comes_back() {
    let cable = Cable::new();
    let options = Options { addresses: &[&cable.here], consumer_timeout_ms: Some(20_000), ..Options::default() };
    let broker = OwnBroker::start(&options);
    let bench = Bench::new(2000);
    let near = format!("{}?heartbeat=2", broker.url());
    let far = format!("{}?heartbeat=2", broker.url_at(&cable.here));
    let far_worker = bench.worker(cable.treehaul(), "far", &far);
    let near_worker = bench.worker(treehaul(), "near", &near);
    await_shared(|name| broker.queues_of(name));

    let mut job = bench.slow_copy("cut", &near, PACE);
    bench.await_middle(&mut job);
    cable.pull();
    let id = bench.assert_right(job);
    assert_eq!(broker.queues_of(&id), Vec::<String>::new());

    // It comes back by itself and is of use: nobody else is left.
    assert_eq!(near_worker.stop(), Some(0));
    cable.plug_in();
    bench.assert_right(bench.copy("again", &near));
    assert_identical(&bench.source(), &bench.target("cut"));
    assert_eq!(far_worker.stop(), Some(0));
}

#[test]
fn a_file_that_takes_longer_than_the_broker_waits_is_copied_once() {
    let broker = OwnBroker::start(&Options { consumer_timeout_ms: Some(20_000), ..Options::default() });
    let bench = Bench::of(|source| {
        fs::create_dir(source).expect("mkdir");
        (0..40).for_each(|i| fs::write(source.join(format!("f{i}")), [i; 3000]).expect("write"));
    });
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=linkat", "-e", "inject=linkat:delay_enter=35s:when=1"]);
    c.args([env!("CARGO_BIN_EXE_treehaul"), "worker", "--file-actors", "1", "--name", "slow", "--broker"]);
    let slow = c.arg(broker.url()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn();
    let _slow = Worker(slow.expect("a worker starts"));
    await_shared(|name| broker.queues_of(name));
    let mut job = bench.copy("slow", &broker.url());
    // A file that has no name yet is open: its name is what takes so long.
    until("the slow worker has a file in hand", PATIENCE, || has_nameless(&job.target) || job.is_over());
    let began = Instant::now();
    let _quick = bench.worker(treehaul(), "quick", &broker.url());
    until("the job is over", PATIENCE, || job.is_over());
    let elapsed = began.elapsed();
    bench.assert_right(job);
    assert!(!broker.log().contains("timed out waiting for delivery acknowledgement"), "the broker lost its patience");
    assert!(elapsed > Duration::from_secs(30), "others did what was in hand: {elapsed:?}");
}

/// Does any process hold a file without a name below a directory?
fn has_nameless(dir: &Path) -> bool {
    let begin = format!("{}/#", dir.display());
    let all = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let files = all.filter_map(|process| fs::read_dir(process.path().join("fd")).ok()).flatten().filter_map(Result::ok);
    files.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.to_string_lossy().starts_with(&begin))
}

#[test]
fn a_cluster_may_lose_any_node_and_get_it_back() {
    let mut cluster = Cluster::start(3);
    let bench = Bench::new(2500);
    // Nobody is connected to the first node.
    let _fleet = [1, 2].map(|i| bench.worker(treehaul(), &format!("w{i}"), &cluster.url(i)));
    await_shared(|name| cluster.queues_of(1, name));

    let mut job = bench.slow_copy("leader", &cluster.url(1), "1000");
    bench.await_middle(&mut job);
    let mut leader = None;
    until("somebody leads the queue", PATIENCE, || {
        leader = cluster.leader_of(1, ".files");
        leader.is_some()
    });
    let victim = leader.expect("awaited");
    println!("node {victim} leads");
    cluster.kill9(victim);
    assert!(!job.is_over(), "it was over too early");
    if victim != 0 {
        cluster.start_again(victim);
    }
    let id = bench.assert_right(job);
    assert_eq!(cluster.queues_of(1, &id), Vec::<String>::new());
    if victim == 0 {
        cluster.start_again(0);
    }

    // The node of a worker and of the one who follows the job.
    let mut job = bench.slow_copy("connected", &cluster.url(2), PACE);
    bench.await_middle(&mut job);
    cluster.kill9(2);
    assert!(!job.is_over(), "it was over too early");
    cluster.start_again(2);
    let id = bench.assert_right(job);
    assert_eq!(cluster.queues_of(0, &id), Vec::<String>::new());
}

#[test]
fn a_broker_that_is_far_away_changes_nothing() {
    let delayed = Delay::before(&amqp_url(), Duration::from_millis(50));
    let host = crate::hosts::Host::new("far");
    let bench = Bench::new(1200);
    let far = |url: &str| delayed.url(url);
    let fleet = ["a", "b"].map(|n| bench.worker(treehaul(), n, &far(&host.url)));
    let id = bench.assert_right(bench.copy("far", &far(&host.url)));
    assert_eq!(host.queues_of(&id), Vec::<String>::new());
    for worker in fleet {
        assert_eq!(worker.stop(), Some(0));
    }
}

/// A line to a broker on which everything takes its time, either way.
struct Delay {
    port: u16,
    broker: String,
}

impl Delay {
    fn before(url: &str, delay: Duration) -> Self {
        let (_, rest) = url.rsplit_once('@').expect("a URL with a user");
        let broker = rest.split('/').next().expect("a host and a port").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let to = broker.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&to) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let ends = from.try_clone().and_then(|from| Ok((from, to.try_clone()?)));
                    let Ok((from, to)) = ends else { continue };
                    std::thread::spawn(move || late(from, to, delay));
                }
            }
        });
        Delay { port, broker }
    }

    fn url(&self, url: &str) -> String {
        url.replace(&self.broker, &format!("127.0.0.1:{}", self.port))
    }
}

/// Passes on what comes, each piece as much later.
fn late(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (put, got) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (due, piece) in got {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if put.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
            break;
        }
    }
}
