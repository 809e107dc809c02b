//! The exporter and its memcached: what is added is read, whatever becomes of the memcached.

use crate::hosts::*;
use crate::support::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use treehaul::model::JobId;
use treehaul::model::latency::{Call, Histogram};
use treehaul::telemetry::counts::{ActorCounts, COUNTED, COUNTERS, CallTimes, Counts, Gauges};
use treehaul::telemetry::memcached::{Memcached, MemcachedReader, Snapshot};

/// A memcached of a test's own.
pub struct Server {
    child: Child,
    pub port: u16,
    more: Vec<String>,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

/// Waits for something, and fails the test if it does not come.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(30));
    }
}

impl Server {
    pub fn start(more: &[&str]) -> Self {
        let more = more.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let port = free_port();
        Server { child: Self::spawn(port, &more), port, more }
    }

    fn spawn(port: u16, more: &[String]) -> Child {
        let mut c = Command::new("memcached");
        c.args(["-u", "nobody", "-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]).args(more);
        let child = c.stdin(Stdio::null()).spawn().expect("memcached: ops/install-test-deps.sh");
        until("memcached", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        child
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("it dies");
    }

    pub fn restart(&mut self) {
        self.kill();
        self.child = Self::spawn(self.port, &self.more);
    }

    /// What any other client could send.
    fn raw(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.write_all(format!("{text}quit\r\n").as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer
    }

    fn set(&self, key: &str, value: &str) {
        let said = self.raw(&format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()));
        assert_eq!(said, "STORED\r\n", "{key}");
    }

    /// One of its own counters.
    pub fn stat(&self, name: &str) -> u64 {
        let text = self.raw("stats\r\n");
        let line = text.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name}: {text}"))
    }

    /// Others use it, too: values of all sizes of ours, more than it holds.
    pub fn fill(&self, round: u32) {
        let mut text = String::new();
        for n in 0..40_000 {
            let value = "x".repeat(1 + n % 90);
            text.push_str(&format!("set flood.{round}.{n} 0 0 {} noreply\r\n{value}\r\n", value.len()));
        }
        self.raw(&text);
    }

    fn read(&self) -> Snapshot {
        MemcachedReader::new(&self.address()).expect("an address").read().expect("it answers")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn job(n: u8) -> JobId {
    JobId::parse(format!("000000000000{n}").as_bytes()).expect("an id")
}

/// Every counter of each file actor grows by so much; so many calls of 3 us.
pub fn counts(job: JobId, actors: u64, by: u64) -> Counts {
    let actor = |number| ActorCounts { job, pool: "files", number, values: [by; COUNTED] };
    let mut times = Histogram { sum_ns: 3000 * by + 1, ..Histogram::default() };
    times.counts[Histogram::bucket(3000)] = by;
    let gauges = Gauges { actors: [1, actors as u32], in_flight: 7, ..Gauges::default() };
    Counts { actors: (0..actors).map(actor).collect(), calls: vec![CallTimes { job, call: Call::Read, times }], gauges }
}

/// All that was counted, of all nodes, jobs and actors, of the first counter.
fn sum(snapshot: &Snapshot) -> u64 {
    let actors = snapshot.nodes.iter().flat_map(|node| &node.counts.actors);
    actors
        .map(|actor| {
            assert!(actor.values.iter().all(|value| *value == actor.values[0]), "{actor:?}");
            actor.values[0]
        })
        .sum()
}

/// `treehaul export` with its state in a directory of the test's.
pub fn export(scratch: &Scratch, more: &[&str]) -> Command {
    let mut c = treehaul();
    c.args(["export"]).args(more).env("TREEHAUL_STATE_DIR", scratch.join("state"));
    c
}

pub fn daemon(scratch: &Scratch, more: &[&str]) -> Worker {
    Worker(export(scratch, more).process_group(0).stderr(Stdio::null()).spawn().expect("an exporter starts"))
}

/// GET: status and body.
pub fn get(url: &str) -> (String, String) {
    let ran = run(Command::new("curl").args(["-sS", "--max-time", "5", "-w", "\n%{http_code}", url]));
    let (body, status) = ran.stdout.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

#[test]
fn what_nodes_add_is_read_back_exactly() {
    let server = Server::start(&[]);
    let mut a = Memcached::new(&server.address()).unwrap();
    let mut b = Memcached::new(&server.address()).unwrap();
    a.add("a.example", &counts(job(1), 3, 5)).unwrap();
    a.add("a.example", &counts(job(1), 4, 2)).unwrap();
    a.add("a.example", &counts(job(2), 1, 9)).unwrap();
    b.add("b\r\nset x 0 0 1", &counts(job(1), 2, 1)).unwrap();
    // The same node, started again: it goes on where it was.
    let mut again = Memcached::new(&server.address()).unwrap();
    again.add("a.example", &counts(job(1), 6, 1)).unwrap();
    let snapshot = server.read();
    let names: Vec<&str> = snapshot.nodes.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(names, ["a_example", "b__set_x_0_0_1"]);
    assert_eq!(sum(&snapshot), 3 * 5 + 4 * 2 + 9 + 2 + 6);
    let node = &snapshot.nodes[0];
    let of_job: Vec<u64> = node.counts.actors.iter().filter(|a| a.job == job(1)).map(|a| a.values[0]).collect();
    assert_eq!(of_job, [8, 8, 8, 3, 1, 1]);
    assert_eq!(node.counts.calls[0].times.count(), 5 + 2 + 1);
    assert_eq!(node.counts.calls[0].times.sum_ns, 3000 * 8 + 3);
    assert_eq!((node.counts.gauges.actors, node.counts.gauges.in_flight), ([1, 6], 7));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(node.seen.unwrap().abs_diff(now) < 60);

    again.leave("a.example").unwrap();
    let after = server.read();
    assert_eq!(after.nodes[0].seen, None, "it left in peace");
    assert_eq!(sum(&after), sum(&snapshot), "what it counted stays");
    assert_eq!(server.raw("get treehaul.index\r\n"), "VALUE treehaul.index 0 1\r\n5\r\nEND\r\n");
    b.add("c", &counts(job(1), 1, 1)).unwrap();
    let index = server.raw("get treehaul.index\r\n");
    assert!(index.contains("\r\n6\r\n"), "a slot that is free is taken first: {index}");
}

#[test]
fn nodes_that_come_at_once_are_all_found() {
    let server = Server::start(&[]);
    std::thread::scope(|scope| {
        for n in 0..16 {
            let address = server.address();
            scope.spawn(move || {
                let mut memcached = Memcached::new(&address).unwrap();
                for round in 0..5 {
                    memcached.add(&format!("n{n}"), &counts(job(1 + round % 2), 2, 1)).unwrap();
                }
            });
        }
    });
    let snapshot = server.read();
    assert_eq!((snapshot.nodes.len(), sum(&snapshot)), (16, 16 * 5 * 2));
}

#[test]
fn a_memcached_that_is_gone_or_hangs_or_starts_again_is_told_as_such() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut hanging = Memcached::new(&silent.local_addr().unwrap().to_string()).unwrap();
    for _ in 0..2 {
        let began = Instant::now();
        let error = hanging.add("n", &counts(job(1), 2, 1)).unwrap_err();
        assert!(error.is_nothing_written() && began.elapsed() < Duration::from_secs(4), "{error}");
    }
    let mut server = Server::start(&[]);
    let mut memcached = Memcached::new(&server.address()).unwrap();
    let mut reader = MemcachedReader::new(&server.address()).unwrap();
    memcached.add("n", &counts(job(1), 2, 3)).unwrap();
    let before = reader.read().unwrap();
    server.kill();
    let error = memcached.add("n", &counts(job(1), 2, 4)).unwrap_err();
    assert!(error.is_nothing_written() && reader.read().is_err(), "{error}");
    server.child = Server::spawn(server.port, &[]);
    memcached.add("n", &counts(job(1), 2, 4)).unwrap();
    let after = reader.read().unwrap();
    assert_eq!((sum(&before), sum(&after)), (6, 8), "it registers anew");
    assert_ne!(before.epoch, after.epoch);
    server.raw("delete treehaul.epoch\r\n");
    assert_eq!(reader.read().unwrap().epoch, after.epoch, "a key that is lost is no restart");
    server.raw("flush_all\r\n");
    assert_ne!(reader.read().unwrap().epoch, after.epoch, "everything is lost");
}

#[test]
fn an_index_or_a_slot_that_is_lost_is_made_again() {
    let server = Server::start(&[]);
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::new(&server.address()).unwrap()).collect();
    let mut add = |n: usize| nodes[n].add(&format!("n{n}"), &counts(job(1), 1, 1)).unwrap();
    (0..3).for_each(&mut add);
    server.raw("delete treehaul.index\r\ndelete treehaul.index.1\r\ndelete treehaul.index.4\r\n");
    (0..3).for_each(&mut add);
    assert_eq!(sum(&server.read()), 6);
    server.set("treehaul.index", "nonsense");
    (0..3).for_each(&mut add);
    assert_eq!(sum(&server.read()), 9);
}

#[test]
fn values_of_others_do_no_harm() {
    let server = Server::start(&[]);
    let mut memcached = Memcached::new(&server.address()).unwrap();
    memcached.add("n", &counts(job(1), 2, 3)).unwrap();
    for (slot, text) in [
        (3, "- \"}\n# evil"),
        (4, "0000000000001 x dirs=0-18446744073709551615"),
        (5, "0000000000001 y dirs=0-4095 files=0-4095 calls=read,write,evil"),
        (6, "\u{1b}[31m"),
        (7, "0000000000001 z files=18446744073709551615"),
    ] {
        server.set(&format!("treehaul.index.{slot}"), text);
    }
    server.set("treehaul.index", "99999999999999999999");
    server.set("treehaul.node.y.gauges", "at=99999999999999999999");
    server.set("treehaul.0000000000001.n.files_0.found", "many");
    server.set("treehaul.0000000000001.n.files_1.bytes", "18446744073709551615");
    server.set("treehaul.0000000000001.y.latency.read.3", "18446744073709551615");
    server.set("treehaul.0000000000001.y.latency.read.4", "18446744073709551615");
    server.set("treehaul.0000000000001.z.files_18446744073709551615.bytes", "18446744073709551615");
    assert_eq!(server.read().nodes.len(), 0, "an index that is no number has no slots");
    server.set("treehaul.index", "16000");
    let s = Scratch::new();
    let ran = run(&mut export(&s, &["--once", "--memcached", &server.address(), "--no-node-label"]));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let line = "treehaul_copied_bytes_total{job=\"0000000000001\",pool=\"files\"} 18446744073709551615";
    assert!(ran.stdout.lines().any(|l| l == line), "{}", ran.stdout);
    assert!(ran.stdout.contains("treehaul_found_entries_total{job=\"0000000000001\",pool=\"files\"} 3\n"));
    assert!(!ran.stdout.contains("evil") && !ran.stdout.contains('\u{1b}'), "{}", ran.stdout);
    let error = memcached.add("n", &counts(job(1), 2, 3)).unwrap_err();
    assert!(!error.is_nothing_written(), "a counter that is none is refused: {error}");
}

/// What `--once` prints passes Prometheus's own check, and its parser finds every counter under its name.
#[test]
fn one_look_is_printed_and_exit_codes_say_how_it_went() {
    let server = Server::start(&[]);
    let mut memcached = Memcached::new(&server.address()).unwrap();
    memcached.add("n", &counts(job(1), 2, 3)).unwrap();
    let s = Scratch::new();
    let address = server.address();
    let once = |more: &[&str]| run(export(&s, &["--once", "--memcached", &address]).args(more));
    let printed = once(&[]);
    assert_eq!((printed.code, printed.stderr.as_str()), (0, ""), "{}", printed.stdout);
    for counter in COUNTERS {
        let line = format!("{}_total{{job=\"0000000000001\",node=\"n\",pool=\"files\"}} 6", counter.metric);
        assert!(printed.stdout.lines().any(|l| l == line), "{line}\n{}", printed.stdout);
    }
    std::fs::write(s.join("metrics"), &printed.stdout).unwrap();
    let checked = run(Command::new("bash").args(["-c", &format!("promtool check metrics <{}", q(&s.join("metrics")))]));
    assert_eq!((checked.code, checked.stderr.as_str()), (0, ""), "{}", checked.stdout);
    let nobody = format!("127.0.0.1:{}", free_port());
    let failed = run(&mut export(&s, &["--once", "--memcached", &nobody]));
    assert_eq!(failed.code, 4, "{}", failed.stderr);
    assert!(failed.stdout.contains("treehaul_memcached_up 0.0\n"), "{}", failed.stdout);
    let undelivered = once(&["--graphite", &nobody]);
    assert_eq!((undelivered.code, undelivered.stderr.lines().count()), (4, 1), "{}", undelivered.stderr);
    assert!(undelivered.stderr.contains("is lost"), "{}", undelivered.stderr);
    assert_eq!(once(&["--broker", &format!("amqp://{nobody}/%2f")]).code, 4);
    for wrong in [&["--graphite", "x"][..], &["--prefix", "a b"], &["--prometheus", "127.0.0.1:0"], &["--every", "0"]] {
        assert_eq!(once(wrong).code, 2, "{wrong:?}");
    }
    assert_eq!(run(&mut export(&s, &["--memcached", &address])).code, 2, "nobody to tell");
    assert_eq!(run(&mut export(&s, &["--once"])).code, 2, "nothing to read");
}

#[test]
fn a_fleet_is_told_of_and_a_node_that_was_lost_is_missed() {
    let host = Host::new("export");
    let s = Scratch::new();
    let at = format!("127.0.0.1:{}", free_port());
    let (kept, lost) = (host.worker("kept.1"), host.worker("lost"));
    std::fs::create_dir(s.join("dst")).unwrap();
    let exporter = daemon(&s, &["--broker", &host.url, "--every", "1s", "--prometheus", &at]);
    let metrics = || get(&format!("http://{at}/metrics")).1;
    let has = |line: &str| metrics().lines().any(|l| l.starts_with(line));
    until("both nodes", || has("treehaul_nodes 2.0"));
    assert!(has("treehaul_broker_up 1.0") && has("treehaul_node_actors{node=\"kept_1\",pool=\"files\"} 16.0"));
    assert_eq!(get(&format!("http://{at}/readyz")).0, "200");
    // Slow enough to be seen at work.
    let mut job = host.copy(std::path::Path::new("synth://?entries=3000&latency=20ms"), &s.join("dst"));
    let mut job = Worker(job.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("the job", || has("treehaul_job_running{") && has("treehaul_job_entries_found{"));
    assert!(has("treehaul_job_info{") && has("treehaul_queue_ready_messages{") && has("treehaul_dead_letters{"));
    lost.kill();
    until("the loss", || has("treehaul_node_up{node=\"lost\"") && !has("treehaul_node_actors{node=\"lost\""));
    let text = metrics();
    assert!(text.lines().any(|l| l.starts_with("treehaul_node_up{node=\"lost\"") && l.ends_with(" 0.0")), "{text}");
    assert!(text.contains("treehaul_node_seen_timestamp_seconds{node=\"lost\"} "), "{text}");
    job.wait();
    let value = |name: &str, value: &str| metrics().lines().any(|l| l.starts_with(name) && l.ends_with(value));
    until("its end", || value("treehaul_job_running{", " 0.0") && value("treehaul_job_entries_done{", " 3001.0"));
    assert!(has("treehaul_job_info{") && metrics().contains("standing=\"complete\""), "{}", metrics());
    drop(kept);
    let began = Instant::now();
    assert_eq!(exporter.stop(), Some(0), "SIGTERM is how it ends");
    assert!(began.elapsed() < Duration::from_secs(2), "at once");
}

#[test]
fn every_metric_and_path_is_in_the_documentation_and_nothing_else() {
    use std::collections::BTreeSet;
    use treehaul::telemetry::export::{FLEET_GAUGES, JOB_GAUGES, NODE_GAUGES};
    let text = include_str!("../../ops/metrics.md");
    let mut names: BTreeSet<String> = COUNTERS.iter().map(|c| format!("{}_total", c.metric)).collect();
    let mut paths: BTreeSet<String> = COUNTERS.iter().map(|c| format!("<job>.<node>.<kind>_<n>.{}", c.key)).collect();
    let mut gauge = |metric: &str, folder: &str, path: &str| {
        names.insert(metric.to_owned());
        if !path.is_empty() {
            paths.insert(format!("{folder}.{path}"));
        }
    };
    NODE_GAUGES.iter().for_each(|g| gauge(g.metric, "nodes.<node>", g.path));
    JOB_GAUGES.iter().for_each(|g| gauge(g.metric, "jobs.<job>", g.path));
    FLEET_GAUGES.iter().for_each(|g| gauge(g.metric, "fleet", g.path));
    for own in ["job_info", "queue_ready_messages", "queue_consumers", "build_info", "operation_duration_seconds"] {
        names.insert(format!("treehaul_{own}"));
    }
    for own in ["ready", "consumers"] {
        paths.insert(format!("jobs.<job>.queues.<queue>.{own}"));
    }
    for own in ["count", "sum_seconds", "p50_seconds", "p99_seconds"] {
        paths.insert(format!("<job>.<node>.latency.<call>.{own}"));
    }
    let words = |is: fn(&str) -> bool| -> BTreeSet<String> {
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let words = rows.flat_map(|line| line.split('`').skip(1).step_by(2)).map(|w| w.split('{').next().unwrap_or(w));
        words.filter(|word| is(word)).map(str::to_owned).collect()
    };
    assert_eq!(words(|w| w.starts_with("treehaul_")), names);
    assert_eq!(words(|w| w.contains('.') && !w.contains(' ') && !w.starts_with("treehaul.")), paths);
}
