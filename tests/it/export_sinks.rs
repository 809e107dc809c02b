//! Where the exporter sends to: a listener for Graphite that dies, a real statsd, a real Prometheus.

use crate::export::*;
use crate::hosts::Worker;
use crate::support::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use treehaul::telemetry::counts::COUNTED;
use treehaul::telemetry::memcached::Memcached;

fn memcached(server: &Server) -> Memcached {
    Memcached::new(&server.address()).expect("an address")
}

#[test]
fn a_graphite_that_dies_and_comes_back_misses_no_cycle_and_gets_whole_lines() {
    let server = Server::start(&[]);
    memcached(&server).add("n", &counts(job(1), 300, 3)).unwrap();
    let s = Scratch::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let graphite = address.to_string();
    let exporter =
        daemon(&s, &["--memcached", &server.address(), "--every", "1s", "--graphite", &graphite, "--prefix", "a.b"]);
    let mut text = Vec::new();
    let (mut first, _) = listener.accept().unwrap();
    // It dies while it is being written to.
    while text.len() < 700_000 {
        let mut buffer = vec![0; 10_000];
        let n = first.read(&mut buffer).unwrap();
        assert!(n > 0);
        text.extend_from_slice(&buffer[..n]);
    }
    // What a Graphite does with a line that it has not got to the end of.
    text.truncate(text.iter().rposition(|b| *b == b'\n').unwrap() + 1);
    drop((first, listener));
    // A few cycles pass, as the memcached knows.
    let passed = |n: u64| {
        let reads = || server.stat("cmd_get");
        let (before, per_cycle) = (reads(), 300 * COUNTED as u64);
        until("cycles", || reads() > before + n * per_cycle);
    };
    passed(3);
    let listener = TcpListener::bind(address).unwrap();
    let (second, _) = listener.accept().unwrap();
    let reading = std::thread::spawn(move || {
        let mut rest = Vec::new();
        BufReader::new(second).read_to_end(&mut rest).map(|_| rest)
    });
    passed(3);
    assert_eq!(exporter.stop(), Some(0));
    text.extend(reading.join().unwrap().unwrap());
    text.truncate(text.iter().rposition(|b| *b == b'\n').unwrap() + 1);
    let text = String::from_utf8(text).unwrap();
    let mut seen: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(words.len() == 3 && words[0].starts_with("a.b.") && words[1].parse::<f64>().is_ok(), "{line:?}");
        seen.entry(words[2].parse().unwrap()).or_default().insert(words[0]);
    }
    let times: Vec<u64> = seen.keys().copied().collect();
    assert!(times.len() >= 6 && times.windows(2).all(|w| w[1] - w[0] <= 2), "cycles are missing: {times:?}");
    // The last one may have been cut by the end of the exporter.
    let complete = seen.values().take(times.len() - 1).all(|paths| paths.len() >= 300 * COUNTED);
    assert!(complete, "{:?}", seen.values().map(BTreeSet::len).collect::<Vec<_>>());
    assert!(seen[&times[0]].contains("a.b.0000000000001.n.files_299.bytes"));
}

/// A real statsd, whose counters a listener of the test takes as a Graphite.
struct Statsd {
    _process: Worker,
    port: u16,
    sums: Arc<Mutex<BTreeMap<String, f64>>>,
}

impl Statsd {
    fn start(s: &Scratch) -> Self {
        let graphite = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, management) = (free_udp_port(), free_port());
        let config = format!(
            "{{ address: '127.0.0.1', port: {port}, mgmt_address: '127.0.0.1', mgmt_port: {management}, flushInterval: 200, \
             backends: ['./backends/graphite'], graphiteHost: '127.0.0.1', graphitePort: {}, deleteCounters: true, \
             graphite: {{ legacyNamespace: false }} }}",
            graphite.local_addr().unwrap().port()
        );
        std::fs::write(s.join("statsd.js"), config).unwrap();
        let mut c = Command::new("statsd");
        c.arg(s.join("statsd.js")).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let process = Worker(c.spawn().expect("statsd: ops/install-test-deps.sh"));
        until("statsd", || TcpStream::connect(("127.0.0.1", management)).is_ok());
        let sums: Arc<Mutex<BTreeMap<String, f64>>> = Arc::default();
        let all = Arc::clone(&sums);
        std::thread::spawn(move || {
            for stream in graphite.incoming().map_while(Result::ok) {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let words: Vec<&str> = line.split(' ').collect();
                    let path = words[0].strip_prefix("stats.counters.").and_then(|p| p.strip_suffix(".count"));
                    if let Some(path) = path {
                        *all.lock().unwrap().entry(path.to_owned()).or_default() += words[1].parse::<f64>().unwrap();
                    } else if let Some(path) = words[0].strip_prefix("stats.gauges.") {
                        all.lock().unwrap().insert(path.to_owned(), words[1].parse().unwrap());
                    }
                }
            }
        });
        Statsd { _process: process, port, sums }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn value(&self, path: &str) -> f64 {
        self.sums.lock().unwrap().get(path).copied().unwrap_or(0.0)
    }
}

fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_statsd_is_told_everything_once_over_restarts_of_all() {
    let mut server = Server::start(&[]);
    let s = Scratch::new();
    let statsd = Statsd::start(&s);
    let mut node = memcached(&server);
    let path = "treehaul.0000000000001.n.files_1.bytes";
    let arrived = |value: f64| until(&format!("{path} {value}"), || statsd.value(path) >= value);
    let address = server.address();
    let once = || {
        let ran = run(&mut export(&s, &["--once", "--memcached", &address, "--statsd", &statsd.address()]));
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    };
    node.add("n", &counts(job(1), 2, 1000)).unwrap();
    once(); // what was before is the basis
    node.add("n", &counts(job(1), 2, 5)).unwrap();
    once();
    once();
    arrived(5.0);
    // By a daemon, which is killed and started again.
    for _ in 0..2 {
        let more = ["--memcached", &server.address(), "--statsd", &statsd.address(), "--every", "1s"];
        let exporter = daemon(&s, &more);
        node.add("n", &counts(job(1), 2, 10)).unwrap();
        let before = statsd.value(path);
        until("increments", || statsd.value(path) > before);
        let taken = run(&mut export(&s, &more));
        assert_eq!(taken.code, 2, "two would tell everything twice: {}", taken.stderr);
        exporter.kill();
    }
    arrived(25.0);
    // A memcached that starts again, and has grown beyond what it was.
    server.restart();
    node.add("n", &counts(job(1), 2, 5000)).unwrap();
    let exporter = daemon(&s, &["--memcached", &server.address(), "--statsd", &statsd.address(), "--every", "1s"]);
    arrived(5025.0);
    until("gauges", || statsd.value("treehaul.nodes.n.in_flight") == 7.0);
    assert_eq!(exporter.stop(), Some(0));
    // A restart of the worker.
    memcached(&server).add("n", &counts(job(1), 3, 1)).unwrap();
    once();
    arrived(5026.0);
    until("calls", || statsd.value("treehaul.0000000000001.n.latency.read.count") >= 5026.0);
    assert_eq!(statsd.value(path), 5026.0);
    assert_eq!(statsd.value("treehaul.0000000000001.n.files_2.bytes"), 1.0, "a new actor is told from 0");
}

#[test]
fn a_memcached_that_evicts_loses_counts_and_never_makes_any_up() {
    let server = Server::start(&["-m", "1", "-I", "512k"]);
    let s = Scratch::new();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let statsd = socket.local_addr().unwrap().to_string();
    let mut node = memcached(&server);
    let mut told = 0;
    let mut buffer = vec![0; 65_536];
    let mut flood = 0;
    let mut evicted = 0;
    for round in 0..6 {
        // Some of it may find no room; what is refused is not counted there.
        let _ = node.add("n", &counts(job(1), 2, 7));
        let ran = run(&mut export(&s, &["--once", "--memcached", &server.address(), "--statsd", &statsd]));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        while let Ok(n) = socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            let lines = text.lines().filter_map(|l| l.strip_prefix("treehaul.0000000000001.n.files_0.bytes:"));
            told += lines.map(|value| value.trim_end_matches("|c").parse::<u64>().unwrap()).sum::<u64>();
        }
        assert!(told <= 7 * round, "{told} were told, and {} counted since the first look", 7 * round);
        if round == 2 {
            assert_eq!(told, 14, "until then nothing was lost");
        }
        if round >= 2 {
            flood += 1;
            server.fill(flood);
            evicted = server.stat("evictions");
        }
    }
    assert!(evicted > 0, "nothing was evicted");
}

#[test]
fn a_prometheus_scrapes_checks_and_sees_a_reset_as_one() {
    let mut server = Server::start(&[]);
    let s = Scratch::new();
    let mut node = memcached(&server);
    node.add("n.1", &counts(job(1), 2, 10)).unwrap();
    let (at, own) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let exporter = daemon(&s, &["--memcached", &server.address(), "--every", "1s", "--prometheus", &at]);
    until("it serves", || get(&format!("http://{at}/readyz")).0 == "200");
    let ran = run(Command::new("curl").args(["-sSi", &format!("http://{at}/metrics")]));
    assert!(ran.stdout.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"));
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: treehaul\n  honor_labels: true\n  static_configs: \
         [{{targets: ['{at}']}}]\n"
    );
    std::fs::write(s.join("prometheus.yml"), config).unwrap();
    let mut c = Command::new("prometheus");
    c.arg(format!("--config.file={}", s.join("prometheus.yml").display()));
    c.arg(format!("--storage.tsdb.path={}", s.join("tsdb").display())).arg(format!("--web.listen-address={own}"));
    let log = std::fs::File::create(s.join("prometheus.log")).unwrap();
    let _prometheus = Worker(c.stderr(log).stdout(Stdio::null()).process_group(0).spawn().expect("prometheus"));
    let query = |query: &str| -> Option<f64> {
        let asked = run(Command::new("curl")
            .args(["-sS", "-G", &format!("http://{own}/api/v1/query")])
            .args(["--data-urlencode", &format!("query={query}")]));
        let json: serde_json::Value = serde_json::from_str(&asked.stdout).ok()?;
        json["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    let bytes = "treehaul_copied_bytes_total{job=\"0000000000001\",node=\"n_1\",pool=\"files\"}";
    until("a scrape", || query(bytes) == Some(20.0));
    assert_eq!(
        query("histogram_quantile(0.5, treehaul_operation_duration_seconds_bucket)").map(|s| s < 1e-5),
        Some(true)
    );
    assert_eq!(query("treehaul_node_in_flight_tasks"), Some(7.0));
    server.restart();
    node.add("n.1", &counts(job(1), 2, 50)).unwrap();
    until("what came since", || query(bytes) == Some(100.0));
    assert_eq!(query(&format!("resets({bytes}[5m])")), Some(1.0), "a reset is seen as one");
    server.kill();
    until("its loss", || query("treehaul_memcached_up") == Some(0.0));
    assert_eq!(
        (get(&format!("http://{at}/readyz")).0, get(&format!("http://{at}/healthz")).0),
        ("503".into(), "200".into())
    );
    let health = get(&format!("http://{own}/api/v1/targets")).1;
    assert!(health.contains("\"health\":\"up\""), "{health}");
    assert_eq!(exporter.stop(), Some(0));
}

/// A memcached that takes questions and answers none holds up nobody.
#[test]
fn with_a_memcached_that_hangs_the_rest_goes_on() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut held = Vec::new();
    silent.set_nonblocking(true).unwrap();
    let s = Scratch::new();
    let at = format!("127.0.0.1:{}", free_port());
    let address = silent.local_addr().unwrap().to_string();
    let exporter = daemon(&s, &["--memcached", &address, "--every", "1s", "--prometheus", &at]);
    let mut seconds = BTreeSet::new();
    until("cycles", || {
        held.extend(silent.accept());
        let text = get(&format!("http://{at}/metrics")).1;
        assert!(!text.contains("treehaul_memcached_up 1.0"));
        seconds.extend(text.lines().find(|l| l.starts_with("treehaul_export_cycle_seconds ")).map(str::to_owned));
        seconds.len() >= 3
    });
    let slow = seconds.iter().any(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() > 3.0);
    assert!(!slow, "{seconds:?}");
    assert_eq!(exporter.stop(), Some(0));
    let _ = held.iter_mut().map(|(stream, _): &mut (TcpStream, _)| stream.flush()).count();
}
