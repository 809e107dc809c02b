//! A fleet is looked at and told what to do while it works; the copy comes out right all the same.

use crate::hosts::*;
use crate::support::*;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);

/// `treehaul ARGS --broker URL`.
fn fleet(host: &Host, args: &[&str]) -> Ran {
    run(treehaul().args(args).args(["--broker", &host.url]))
}

/// The same, that must succeed, as JSON.
fn told(host: &Host, args: &[&str]) -> Value {
    let ran = fleet(host, &[args, &["--format", "json"]].concat());
    assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.stdout, ran.stderr);
    ran.json()
}

/// Looks until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no {name}: {value}"))
}

/// Waits until so many workers are there.
fn wait_for_workers(host: &Host, n: usize) {
    until("workers", || {
        let ran = fleet(host, &["ping", "--format", "json"]);
        ran.code == 0 && list(&ran.json(), "nodes").len() == n
    });
}

fn active(host: &Host) -> usize {
    list(&told(host, &["inspect", "active"]), "active").len()
}

/// A job in the background; it dies with the test.
struct Job(Option<Child>);

impl Job {
    fn begin(command: &mut Command) -> Self {
        Job(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")))
    }

    fn end(mut self) -> Ran {
        Ran::of(self.0.take().expect("once").wait_with_output().expect("it ends"))
    }

    fn is_running(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().expect("wait").is_none())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A copy that takes a while: so many operations a second on each node.
fn slow_copy(host: &Host, source: &Path, target: &Path, operations: u32) -> Job {
    Job::begin(host.copy(source, target).args(["--ops-limit", &operations.to_string()]))
}

/// Waits until a job is on its way and some of it is done.
fn wait_for_work(host: &Host, target: &Path) {
    until("work", || active(host) > 0 && count(target) > 5);
}

fn assert_done(job: Job, source: &Path, target: &Path) {
    let ran = job.end();
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(source, target);
}

#[test]
fn a_fleet_shows_what_it_is_and_does() {
    assert_root();
    let host = Host::new("shows");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 31, 600);
    let nobody = fleet(&host, &["ping"]);
    assert_eq!(nobody.code, 4, "{}", nobody.stderr);
    assert!(nobody.stderr.contains("nobody answered"), "{}", nobody.stderr);
    assert_eq!(fleet(&host, &["status"]).stdout, "no job is under way\n");
    let _workers = [host.worker("alpha"), host.worker("beta\u{202e}")];
    wait_for_workers(&host, 2);
    let mut job = slow_copy(&host, &source, &target, 400);
    wait_for_work(&host, &target);

    let nodes = told(&host, &["nodes"]);
    assert_eq!((list(&nodes, "nodes").len(), nodes["silent"].as_u64()), (2, Some(0)), "{nodes}");
    assert_eq!(nodes["nodes"][0]["node"], "alpha");
    assert_eq!(nodes["nodes"][1]["node"], "beta\\u{202e}", "names are escaped");
    let alpha = &nodes["nodes"][0];
    assert_eq!((alpha["actors"]["dirs"].as_u64(), alpha["actors"]["files"].as_u64()), (Some(16), Some(16)));
    assert!(alpha["rss_bytes"].as_u64() > Some(1 << 20) && alpha["pid"].as_u64() > Some(1), "{alpha}");
    assert!(list(alpha, "jobs").iter().any(|job| job["refused"].is_null()), "{alpha}");
    let text = fleet(&host, &["nodes", "--node", "al*"]).stdout;
    assert!(text.contains("alpha") && text.contains("1 ok") && !text.contains("beta"), "{text}");

    // What actors do changes while it is looked at; that they do something was seen.
    until("a task with a place", || {
        let doing = told(&host, &["inspect", "active"]);
        list(&doing, "active")
            .iter()
            .any(|one| ["dirs", "batch", "finish"].contains(&one["task"].as_str().unwrap()) && one["path"].is_string())
    });
    let stats = fleet(&host, &["inspect", "stats", "--node", "alpha"]).stdout;
    assert!(stats.contains("actors: ") && stats.contains("takes part"), "{stats}");

    let status = told(&host, &["status"]);
    let jobs = list(&status, "jobs");
    assert_eq!((jobs.len(), jobs[0]["standing"].as_str()), (1, Some("walking")), "{status}");
    assert_eq!(jobs[0]["source"].as_str(), source.to_str());
    assert!(jobs[0]["queues"]["files"]["consumers"].as_u64() >= Some(1), "{status}");
    let id = jobs[0]["job"].as_str().unwrap().to_owned();
    assert!(fleet(&host, &["status"]).stdout.contains(&id));

    assert!(job.is_running());
    told(&host, &["throttle", "--bwlimit", "none", "--ops-limit", "none"]); // the job's own limits are another matter
    assert_done(job, &source, &target);
    until("no job is left", || list(&told(&host, &["status"]), "jobs").iter().all(|job| job["over"] == true));
}

fn actors(host: &Host) -> Vec<(u64, u64)> {
    let nodes = told(host, &["nodes"]);
    let of = |node: &Value, kind: &str| node["actors"][kind].as_u64().unwrap();
    list(&nodes, "nodes").iter().map(|node| (of(node, "dirs"), of(node, "files"))).collect()
}

#[test]
fn pools_grow_and_shrink_under_load() {
    assert_root();
    let host = Host::new("resize");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 32, 800);
    let _workers = ["a", "b"].map(|name| host.worker(name));
    wait_for_workers(&host, 2);
    let mut job = slow_copy(&host, &source, &target, 600);
    wait_for_work(&host, &target);
    let grown = told(&host, &["grow", "48"]);
    assert_eq!(grown["answers"][0]["done"], "64 dir actors, 64 file actors", "{grown}");
    until("64 actors", || actors(&host) == [(64, 64), (64, 64)]);
    told(&host, &["shrink", "60", "--kind", "dirs", "--node", "a"]);
    until("fewer dir actors", || actors(&host) == [(4, 64), (64, 64)]);
    told(&host, &["shrink", "4096"]);
    until("one of a kind", || actors(&host) == [(1, 1), (1, 1)]);
    assert!(job.is_running(), "all of it was under load");
    told(&host, &["grow", "7", "--kind", "files"]);
    assert_done(job, &source, &target);
    assert_eq!(fleet(&host, &["grow", "0"]).code, 2);
    assert_eq!(fleet(&host, &["grow", "5000"]).code, 2);
}

/// No actor has a task, and workers hold no delivery, though there is something to do.
fn wait_for_rest(host: &Host) {
    until("rest", || {
        let status = told(host, &["status"]);
        let job = &list(&status, "jobs")[0];
        let ready: u64 = ["dirs", "files"].iter().filter_map(|q| job["queues"][q]["ready"].as_u64()).sum();
        active(host) == 0 && job["unacknowledged"] == 0 && ready > 0
    });
}

/// Nothing is done while it is looked at twice.
fn assert_at_rest(host: &Host, target: &Path) {
    let before = count(target);
    for _ in 0..3 {
        assert_eq!(active(host), 0);
        told(host, &["nodes"]);
    }
    assert_eq!(count(target), before);
}

#[test]
fn a_paused_fleet_rests_and_goes_on_when_it_is_resumed() {
    assert_root();
    let host = Host::new("pause");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 33, 900);
    let _workers = ["a", "b"].map(|name| host.worker(name));
    wait_for_workers(&host, 2);
    let mut job = slow_copy(&host, &source, &target, 500);
    wait_for_work(&host, &target);

    told(&host, &["pause", "--node", "*"]);
    wait_for_rest(&host);
    assert_at_rest(&host, &target);
    assert_eq!(told(&host, &["nodes"])["nodes"][0]["state"], "paused");
    told(&host, &["resume", "--node", "[ab]"]);
    until("work again", || active(&host) > 0);

    let paused = told(&host, &["pause"]);
    assert_eq!(list(&paused, "paused").len(), 1, "{paused}");
    wait_for_rest(&host);
    assert_eq!(told(&host, &["status"])["jobs"][0]["standing"], "paused");
    // Durable: who comes later rests as well.
    let _late = host.worker("late");
    wait_for_workers(&host, 3);
    until("it has heard of the job", || {
        list(&told(&host, &["nodes", "--node", "late"]), "nodes").iter().any(|node| !list(node, "jobs").is_empty())
    });
    assert_at_rest(&host, &target);
    assert!(job.is_running());
    let id = paused["paused"][0].as_str().unwrap().to_owned();
    assert_eq!(fleet(&host, &["resume", "nojob"]).code, 2);
    assert_eq!(fleet(&host, &["resume", &id[..10], "--node", "a"]).code, 2, "a job or nodes, not both");
    told(&host, &["resume", &id[..10]]);
    assert_done(job, &source, &target);
}

#[test]
fn a_node_keeps_to_the_limit_that_it_is_told() {
    let host = Host::new("throttle");
    let s = Scratch::new();
    let source = s.join("src");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), vec![7; 12 << 20]).unwrap();
    let _worker = host.worker("a");
    wait_for_workers(&host, 1);
    told(&host, &["throttle", "--bwlimit", "4M"]);
    let nodes = told(&host, &["nodes"]);
    assert_eq!((nodes["nodes"][0]["bwlimit"].as_u64(), nodes["nodes"][0]["ops_limit"].as_u64()), (Some(4 << 20), None));
    let began = Instant::now();
    let ran = run(&mut host.copy(&source, &s.join("one")));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // A burst of a tenth of a second is allowed.
    assert!(began.elapsed().as_secs_f64() >= 2.85, "12 MiB at 4 MiB/s in {:?}", began.elapsed());
    assert_identical(&source, &s.join("one"));

    // At this rate it would take hours; taking the limit off is heard at once.
    told(&host, &["throttle", "--bwlimit", "1K", "--ops-limit", "100000"]);
    let mut job = Job::begin(&mut host.copy(&source, &s.join("two")));
    until("it begins", || active(&host) > 0);
    assert!(job.is_running());
    told(&host, &["throttle", "--bwlimit", "none", "--ops-limit", "none"]);
    assert!(told(&host, &["nodes"])["nodes"][0]["bwlimit"].is_null());
    assert_done(job, &source, &s.join("two"));
    assert_eq!(fleet(&host, &["throttle", "--bwlimit", "0"]).code, 2);
}

#[test]
fn a_stopped_worker_ends_well_and_others_finish() {
    assert_root();
    let host = Host::new("stop");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 34, 900);
    let [mut drained, mut cut, mut stays] = ["node1", "node2", "other"].map(|name| host.worker(name));
    wait_for_workers(&host, 3);
    let mut job = slow_copy(&host, &source, &target, 300);
    wait_for_work(&host, &target);
    let one = told(&host, &["stop", "--node", "node1"]);
    assert_eq!(list(&one, "answers").len(), 1, "{one}");
    assert_eq!(drained.0.wait().unwrap().code(), Some(0), "it finishes what is in hand");
    told(&host, &["stop", "--now", "--node", "node?"]);
    let began = Instant::now();
    assert_eq!(cut.0.wait().unwrap().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(30), "it does not wait for its actors");
    assert!(job.is_running(), "all of it was under load");
    wait_for_workers(&host, 1);
    assert_done(job, &source, &target);
    let all = fleet(&host, &["stop"]);
    assert_eq!(all.stdout, "other: finishes what is in hand, and ends\n", "{}", all.stderr);
    assert_eq!(stays.0.wait().unwrap().code(), Some(0));
    assert_eq!(fleet(&host, &["stop"]).code, 4);
}

#[test]
fn workers_of_one_kind_of_actors_do_a_job_together() {
    assert_root();
    let host = Host::new("queues");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 35, 400);
    let _workers = ["dirs", "files"].map(|kind| host.worker_with(kind, &["--queues", kind]));
    wait_for_workers(&host, 2);
    assert_eq!(actors(&host), [(16, 0), (0, 16)]);
    let refused = fleet(&host, &["grow", "1", "--kind", "files", "--node", "dirs"]);
    assert_eq!(refused.code, 4, "{}", refused.stdout);
    assert!(refused.stderr.contains("dirs refuses: it has no actors of that kind"), "{}", refused.stderr);
    let grown = told(&host, &["grow", "4"]);
    assert_eq!(grown["answers"][1]["done"], "0 dir actors, 20 file actors", "{grown}");
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_identical(&source, &target);
}

#[test]
fn what_is_no_name_is_refused_and_a_name_is_one_workers_own() {
    let host = Host::new("names");
    let _twins = [host.worker("twin"), host.worker("twin")];
    wait_for_workers(&host, 2);
    let nodes = told(&host, &["ping"]);
    let names: Vec<&str> = list(&nodes, "nodes").iter().map(|node| node["node"].as_str().unwrap()).collect();
    let later = list(&nodes, "nodes").iter().find(|node| node["node"] != "twin").unwrap();
    assert_eq!(names, ["twin".to_owned(), format!("twin-{}", later["pid"])]);
    assert_eq!(list(&told(&host, &["ping", "--node", "twin"]), "nodes").len(), 1);
    assert_eq!(fleet(&host, &["ping", "--node", "none*"]).code, 4);
    let bad = fleet(&host, &["ping", "--node", "["]);
    assert_eq!(bad.code, 2, "{}", bad.stderr);
    assert_eq!(fleet(&host, &["worker", "--name", "a/b"]).code, 2);
    assert_eq!(fleet(&host, &["cancel", "nojob"]).code, 2);
    assert_eq!(run(treehaul().args(["ping", "--broker", "amqp://127.0.0.1:1"])).code, 4);
}

#[test]
fn a_job_is_cancelled_by_the_beginning_of_its_name() {
    let host = Host::new("cancel");
    let s = Scratch::new();
    let _worker = host.worker("a");
    wait_for_workers(&host, 1);
    let _job = slow_copy(&host, Path::new("synth://?entries=100000&size=0"), &s.join("dst"), 100);
    until("the job", || !list(&told(&host, &["status"]), "jobs").is_empty());
    let id = told(&host, &["status"])["jobs"][0]["job"].as_str().unwrap().to_owned();
    let cancelled = told(&host, &["cancel", &id[..8], "--no-wait", "--reason", "enough\x1b"]);
    assert_eq!(cancelled["job"].as_str(), Some(id.as_str()));
    until("it is heard of", || {
        let status = told(&host, &["status"]);
        let standing = list(&status, "jobs").iter().find(|job| job["job"] == id.as_str()).map(|job| &job["standing"]);
        standing.is_none_or(|standing| standing == "stopping" || standing == "cancelled: enough\\x1b")
    });
}

/// Runs `status --watch` on a terminal of its own: waits for words, then presses a key or sends a signal, step by step.
/// What it wrote, and its code.
fn watched(host: &Host, steps: &[(&str, &str)]) -> (String, i64) {
    let script = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time
program, broker = sys.argv[1:3]
steps = list(zip(sys.argv[3::2], sys.argv[4::2]))
pid, fd = pty.fork()
if pid == 0:
    os.environ['TERM'] = 'xterm'
    os.execv(program, [program, 'status', '--watch', '--broker', broker])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
out, all, deadline = b'', b'', time.time() + 60
while time.time() < deadline:
    if select.select([fd], [], [], 0.1)[0]:
        try: data = os.read(fd, 65536)
        except OSError: break
        if not data: break
        out += data
    if steps and steps[0][0].encode() in out:
        (_, key), out, all = steps.pop(0), b'', all + out
        if key == 'term': os.kill(pid, signal.SIGTERM)
        else: os.write(fd, key.encode())
else:
    os.kill(pid, signal.SIGKILL)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
sys.stderr.write(str(code))
sys.stdout.buffer.write(all + out)
"#;
    let mut c = Command::new("python3");
    c.args(["-c", script, env!("CARGO_BIN_EXE_treehaul"), &host.url]);
    c.args(steps.iter().flat_map(|(words, key)| [words, key]));
    let ran = run(c.env_remove("TREEHAUL_BROKER"));
    (ran.stdout, ran.stderr.parse().unwrap_or_else(|_| panic!("{}", ran.stderr)))
}

#[test]
fn the_display_shows_the_fleet_and_gives_the_terminal_back() {
    let host = Host::new("watch");
    let s = Scratch::new();
    let _worker = host.worker("nodex");
    wait_for_workers(&host, 1);
    let _job = slow_copy(&host, Path::new("synth://?entries=100000&size=0"), &s.join("dst"), 50);
    until("the job", || !list(&told(&host, &["status"]), "jobs").is_empty());
    for (end, code) in [("q", 0), ("\x03", 130), ("term", 143)] {
        let (seen, ended) = watched(&host, &[("nodex", end)]);
        assert_eq!(ended, code, "{end:?}: {seen:?}");
        assert!(seen.contains("\x1b[?1049h") && seen.contains("walking: copy"), "{seen:?}");
        let (_, after) = seen.rsplit_once("\x1b[?1049l").expect("it leaves the other screen");
        assert!(!after.contains("\x1b[?1049h"), "and does not come back: {after:?}");
    }
    // With `p` the job is paused, which the next looks show.
    // Only what differs from "walking" is drawn.
    let (seen, ended) = watched(&host, &[("walking", "p"), ("used: copy", "q")]);
    assert_eq!(ended, 0, "{seen:?}");
    assert_eq!(told(&host, &["status"])["jobs"][0]["standing"], "paused");
    let plain = fleet(&host, &["status", "--watch"]);
    assert_eq!(plain.code, 2);
    assert!(plain.stderr.contains("needs a terminal"), "{}", plain.stderr);
}
