//! Brokers of a test's own: one that may be killed, starved and started again on its data, or a cluster of them.
//!
//! Invariant: whatever was started here carries a mark in its environment and is gone soon after this process is,
//! however that ended: the reaper of `tests/with-services.sh` waits at the end of a pipe that only this process holds.

use crate::support::*;
use std::collections::HashSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A broker on a machine that does much else may take its time.
pub const START: Duration = Duration::from_secs(120);

/// How a broker differs from a plain one.
#[derive(Default)]
pub struct Options<'a> {
    /// After so long without an acknowledgement RabbitMQ closes a channel; looked at once a second then.
    pub consumer_timeout_ms: Option<u32>,
    /// Addresses beside 127.0.0.1 at which it listens.
    pub addresses: &'a [&'a str],
    /// Further lines of `rabbitmq.conf`.
    pub extra_conf: &'a str,
}

/// Ports that this process gave away.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that is free on all addresses, below the range from which the kernel gives ports to clients: a broker that is
/// started again needs the same.
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().expect("not poisoned");
    let taken = taken.get_or_insert_with(HashSet::new);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let mut random = Random(now.as_nanos() as u64 ^ u64::from(std::process::id()));
    loop {
        let port = 15_000 + random.below(17_000) as u16;
        if !taken.contains(&port) && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
}

/// Waits until something holds.
pub fn until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < deadline, "after {patience:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose environment has this entry.
fn marked(entry: &str) -> Vec<rustix::process::Pid> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = all.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| env.split(|b| *b == 0).any(|e| e == entry.as_bytes()))
    };
    numbers.filter(has).filter_map(rustix::process::Pid::from_raw).collect()
}

/// A directory for brokers, an epmd, and the process that takes both away.
struct Place {
    dir: PathBuf,
    epmd: u16,
    epmd_process: Option<Child>,
    reaper: Child,
    alive: Option<ChildStdin>,
}

impl Place {
    fn new() -> Self {
        assert_root();
        let temporary = tempfile::Builder::new().prefix("treehaul-brokers-").tempdir().expect("a temporary directory");
        let dir = temporary.keep();
        let mut reaper = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/with-services.sh"));
        reaper.arg("--reap").arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        // Out of reach of the terminal's signals.
        let mut reaper = reaper.process_group(0).spawn().expect("the reaper starts");
        let alive = reaper.stdin.take();
        let mut place = Place { epmd: free_port(), epmd_process: None, dir, reaper, alive };
        sh(&format!(
            "cd {0}; chmod 711 .; mkdir home; head -c 32 /dev/urandom | sha256sum | head -c 32 >home/.erlang.cookie
             chmod 400 home/.erlang.cookie; chown -R 65534:65534 home",
            q(&place.dir)
        ));
        let mut epmd = place.nobody();
        epmd.args(["epmd", "-port", &place.epmd.to_string(), "-address", "127.0.0.1"]);
        epmd.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        place.epmd_process = Some(epmd.spawn().expect("epmd starts"));
        until("epmd answers", START, || std::net::TcpStream::connect(("127.0.0.1", place.epmd)).is_ok());
        place
    }

    /// The beginning of a command that runs as nobody and carries the mark.
    fn nobody(&self) -> Command {
        let mut c = Command::new("setpriv");
        c.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        c.env("TREEHAUL_SERVICES", &self.dir).env("HOME", self.dir.join("home")).current_dir(self.dir.join("home"));
        c.env("ERL_EPMD_PORT", self.epmd.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        c.env("RABBITMQ_CONF_ENV_FILE", "/dev/null").env("RABBITMQ_USE_LONGNAME", "true").stdin(Stdio::null());
        c
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.alive = None;
        let _ = self.reaper.wait();
        let _ = self.epmd_process.as_mut().map(Child::wait);
    }
}

/// One RabbitMQ.
struct Node {
    name: String,
    dir: PathBuf,
    distribution: u16,
    amqp: u16,
    management: u16,
    /// Of the last start.
    child: Option<Child>,
}

impl Node {
    /// Its directory and settings; `peers` are all nodes of its cluster.
    fn new(place: &Place, name: &str, peers: &[String], options: &Options<'_>) -> Self {
        let [distribution, amqp, management] = [free_port(), free_port(), free_port()];
        let dir = place.dir.join(name.split_once('@').expect("a node's name").0);
        let mut conf = format!(
            "loopback_users = none\nlog.console = false\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n\
             listeners.tcp.1 = 127.0.0.1:{amqp}\n"
        );
        for (i, address) in options.addresses.iter().enumerate() {
            conf += &format!("listeners.tcp.{} = {address}:{amqp}\n", i + 2);
        }
        if peers.len() > 1 {
            conf += "cluster_formation.peer_discovery_backend = classic_config\n";
        }
        for (i, peer) in peers.iter().enumerate().filter(|_| peers.len() > 1) {
            conf += &format!("cluster_formation.classic_config.nodes.{} = {peer}\n", i + 1);
        }
        for part in ["", "mnesia", "log"] {
            fs::create_dir(dir.join(part)).expect("mkdir");
        }
        fs::write(dir.join("rabbitmq.conf"), conf + options.extra_conf).expect("write");
        fs::write(dir.join("enabled_plugins"), "[rabbitmq_management].").expect("write");
        if let Some(ms) = options.consumer_timeout_ms {
            let settings = format!("[{{rabbit, [{{consumer_timeout, {ms}}}, {{channel_tick_interval, 1000}}]}}].");
            fs::write(dir.join("advanced.config"), settings).expect("write");
        }
        sh(&format!("chown -R 65534:65534 {}", q(&dir)));
        Node { name: name.to_owned(), dir, distribution, amqp, management, child: None }
    }

    fn mark(&self) -> String {
        format!("TREEHAUL_BROKER_NODE={}", self.dir.display())
    }

    /// Starts it on what it has; [`Node::await_answer`] waits.
    fn start(&mut self, place: &Place) {
        let out = fs::File::create(self.dir.join("out")).expect("create");
        let mut c = place.nobody();
        c.arg("/usr/lib/rabbitmq/bin/rabbitmq-server").current_dir(&self.dir);
        for (name, value) in [
            ("TREEHAUL_BROKER_NODE", self.dir.as_path()),
            ("RABBITMQ_CONFIG_FILE", &self.dir.join("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", &self.dir.join("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", &self.dir.join("enabled_plugins")),
            ("RABBITMQ_MNESIA_BASE", &self.dir.join("mnesia")),
            ("RABBITMQ_LOG_BASE", &self.dir.join("log")),
            ("RABBITMQ_PID_FILE", &self.dir.join("pid")),
        ] {
            c.env(name, value);
        }
        c.env("RABBITMQ_NODENAME", &self.name).env("RABBITMQ_DIST_PORT", self.distribution.to_string());
        // Waiting threads that spin would take the processor from what is tested.
        let erlang = "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none";
        c.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang);
        c.stdout(out.try_clone().expect("a descriptor")).stderr(out).process_group(0);
        self.child = Some(c.spawn().expect("RabbitMQ starts"));
    }

    /// Waits until clients and management are answered.
    fn await_answer(&mut self) {
        let child = self.child.as_mut().expect("started");
        let (amqp, url) = (self.amqp, format!("http://guest:guest@127.0.0.1:{}/api/overview", self.management));
        let (log, deadline) = (self.dir.join("out"), Instant::now() + START);
        let answers = || {
            std::net::TcpStream::connect(("127.0.0.1", amqp)).is_ok()
                && Command::new("curl").args(["-fso", "/dev/null", &url]).status().is_ok_and(|s| s.success())
        };
        while !answers() {
            let ended = child.try_wait().expect("a child");
            let said = || fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "RabbitMQ does not answer: {ended:?}\n{}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// SIGKILL to all of it; returns when nothing of it is left.
    fn kill9(&mut self) {
        until("the broker is dead", START, || {
            let rest = marked(&self.mark());
            for pid in &rest {
                let _ = rustix::process::kill_process(*pid, rustix::process::Signal::KILL);
            }
            rest.is_empty()
        });
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.amqp)
    }

    /// What the management answers; while queues come and go it may answer with nothing.
    fn management(&self, path: &str) -> serde_json::Value {
        let url = format!("http://guest:guest@127.0.0.1:{}/api/{path}", self.management);
        let mut answer = None;
        until("the management answers", START, || {
            answer = serde_json::from_str(&sh(&format!("curl -sS '{url}'"))).ok();
            answer.is_some()
        });
        answer.expect("awaited")
    }

    /// `rabbitmqctl`, which must succeed.
    fn ctl(&self, place: &Place, args: &[&str]) -> String {
        let ran = run(place.nobody().args(["/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", &self.name]).args(args));
        assert_eq!(ran.code, 0, "rabbitmqctl {args:?}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// What it wrote into its log.
    fn log(&self) -> String {
        let files = fs::read_dir(self.dir.join("log")).expect("list").filter_map(Result::ok);
        files.map(|f| String::from_utf8_lossy(&fs::read(f.path()).unwrap_or_default()).into_owned()).collect()
    }
}

/// Names of queues that belong to a job.
fn queues_of(management: &serde_json::Value, job: &str) -> Vec<String> {
    let names = management.as_array().expect("a list of queues").iter().filter_map(|q| q["name"].as_str());
    names.filter(|n| n.contains(job)).map(str::to_owned).collect()
}

/// A single broker.
pub struct OwnBroker {
    node: Node,
    place: Place,
}

impl OwnBroker {
    pub fn start(options: &Options<'_>) -> Self {
        let place = Place::new();
        let mut node = Node::new(&place, "own@127.0.0.1", &[], options);
        node.start(&place);
        node.await_answer();
        OwnBroker { node, place }
    }

    pub fn kill9(&mut self) {
        self.node.kill9();
    }

    /// On its data, at its ports.
    pub fn start_again(&mut self) {
        self.node.start(&self.place);
        self.node.await_answer();
    }

    pub fn url(&self) -> String {
        self.node.url()
    }

    /// As [`OwnBroker::url`], at another of its addresses.
    pub fn url_at(&self, address: &str) -> String {
        self.url().replace("127.0.0.1", address)
    }

    /// `rabbitmqctl ARGS`, which takes a second or two.
    pub fn ctl(&self, args: &[&str]) -> String {
        self.node.ctl(&self.place, args)
    }

    /// What `/api/PATH` answers, good or bad.
    pub fn management(&self, path: &str) -> serde_json::Value {
        self.node.management(path)
    }

    pub fn queues_of(&self, job: &str) -> Vec<String> {
        queues_of(&self.management("queues"), job)
    }

    pub fn log(&self) -> String {
        self.node.log()
    }
}

/// Several brokers that are one.
pub struct Cluster {
    nodes: Vec<Node>,
    place: Place,
}

impl Cluster {
    /// Queues are led by the node that leads fewest, not by the one that was asked to make them.
    pub fn start(size: usize) -> Self {
        let place = Place::new();
        let names: Vec<String> = (1..=size).map(|i| format!("n{i}@127.0.0.1")).collect();
        let options = Options { extra_conf: "queue_leader_locator = balanced\n", ..Options::default() };
        let mut nodes: Vec<Node> = names.iter().map(|n| Node::new(&place, n, &names, &options)).collect();
        nodes.iter_mut().for_each(|n| n.start(&place));
        nodes.iter_mut().for_each(Node::await_answer);
        let cluster = Cluster { nodes, place };
        until("all nodes are one cluster", START, || cluster.running(0) == size);
        cluster
    }

    /// How many nodes run, as one of them sees it.
    pub fn running(&self, node: usize) -> usize {
        let nodes = self.nodes[node].management("nodes");
        nodes.as_array().map_or(0, |all| all.iter().filter(|n| n["running"] == true).count())
    }

    pub fn url(&self, node: usize) -> String {
        self.nodes[node].url()
    }

    pub fn kill9(&mut self, node: usize) {
        self.nodes[node].kill9();
    }

    pub fn start_again(&mut self, node: usize) {
        self.nodes[node].start(&self.place);
        self.nodes[node].await_answer();
    }

    /// The node that leads a job's queue, as another one knows it.
    pub fn leader_of(&self, asked: usize, job_queue: &str) -> Option<usize> {
        // Known some seconds after the queue was made. `rabbitmqctl list_queues` asks every queue, and waits for each.
        let all = self.nodes[asked].management("queues?columns=name,node");
        let queue = all.as_array()?.iter().find(|q| q["name"].as_str().is_some_and(|n| n.ends_with(job_queue)))?;
        self.nodes.iter().position(|n| queue["node"] == n.name.as_str())
    }

    pub fn queues_of(&self, asked: usize, job: &str) -> Vec<String> {
        queues_of(&self.nodes[asked].management("queues"), job)
    }
}

/// Two ends of a cable: this machine's, and a network namespace's.
pub struct Cable {
    name: String,
    pub here: String,
}

impl Cable {
    pub fn new() -> Self {
        assert_root();
        let pid = std::process::id();
        // What a killed run left goes first.
        sh(
            "for n in $(ip netns | grep -oE '^treehaul[0-9]+' || true); do [ -e /proc/${n#treehaul} ] || ip netns del $n; done",
        );
        let name = format!("treehaul{pid}");
        let net = format!("10.{}.{}", 192 + (pid >> 8 & 31), pid & 255);
        let here = format!("{net}.1");
        sh(&format!(
            "ip netns add {name}; ip link add {name} type veth peer name far netns {name}
             ip addr add {here}/30 dev {name}; ip link set {name} up
             ip -n {name} addr add {net}.2/30 dev far; ip -n {name} link set far up; ip -n {name} link set lo up"
        ));
        Cable { name, here }
    }

    /// `treehaul`, to be run at the far end.
    pub fn treehaul(&self) -> Command {
        let usual = treehaul();
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(usual.get_program());
        c.stdin(Stdio::null());
        for (name, value) in usual.get_envs() {
            match value {
                Some(value) => c.env(name, value),
                None => c.env_remove(name),
            };
        }
        c
    }

    pub fn pull(&self) {
        sh(&format!("ip link set {} down", self.name));
    }

    pub fn plug_in(&self) {
        sh(&format!("ip link set {} up", self.name));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.name]).status();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Everything of a directory, itself too.
pub fn entries_of(root: &Path) -> u64 {
    sh(&format!("find {} -printf x | wc -c", q(root))).trim().parse().expect("a number")
}
