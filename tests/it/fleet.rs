//! The same copy by workers over a real RabbitMQ.

use crate::support::*;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A virtual host of the test's own on the broker, so that no other test's workers take its tasks.
pub struct Host {
    name: String,
    url: String,
}

impl Host {
    pub fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let management = management_url();
        sh(&format!(
            "curl -fsS -X PUT {management}/api/vhosts/{name}; curl -fsS -X PUT -H 'content-type: application/json' \
             -d '{{\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}}' {management}/api/permissions/{name}/guest"
        ));
        let (server, _) =
            amqp_url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a URL with a host");
        Host { url: format!("{server}/{name}"), name }
    }

    pub fn worker(&self, name: &str) -> Worker {
        let mut c = treehaul();
        c.args(["worker", "-q", "--name", name, "--broker", &self.url]).stdout(Stdio::null());
        Worker(c.process_group(0).spawn().expect("a worker starts"))
    }

    pub fn copy(&self, source: &Path, target: &Path) -> Command {
        let mut c = treehaul();
        c.args(["copy", "--json", "--broker", &self.url]).args([source, target]);
        c
    }

    /// Queues of a job that the broker still has.
    fn queues_of(&self, job: &str) -> Vec<String> {
        let listed = sh(&format!("curl -fsS {}/api/queues/{}", management_url(), self.name));
        let all: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
        let names = all.as_array().expect("a list").iter().filter_map(|q| q["name"].as_str());
        names.filter(|n| n.contains(job)).map(str::to_owned).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("curl")
            .args(["-fsS", "-X", "DELETE"])
            .arg(format!("{}/api/vhosts/{}", management_url(), self.name))
            .status();
    }
}

fn management_url() -> String {
    std::env::var("TREEHAUL_TEST_AMQP_MANAGEMENT").expect("run `make test`, it starts RabbitMQ")
}

/// A worker process that is stopped at the end.
pub struct Worker(Child);

impl Worker {
    pub fn kill(mut self) {
        self.0.kill().expect("SIGKILL");
        self.0.wait().expect("it dies");
    }

    /// SIGTERM; the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("SIGTERM");
        self.0.wait().expect("it ends").code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The whole group: killing a tracer would leave what it traces.
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
    }
}

#[test]
fn three_workers_make_the_same_copy_and_leave_nothing_on_the_broker() {
    let host = Host::new("three");
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 21, 2500);
    let workers = ["a", "b", "c"].map(|n| host.worker(n));
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    assert_eq!(ran.total("found"), ran.total("copied") + ran.total("updated"), "{}", ran.stdout);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    assert_eq!(host.queues_of(&job), Vec::<String>::new());

    let again = run(&mut host.copy(&source, &target));
    assert_eq!((again.code, again.total("copied"), again.total("updated")), (0, 0, 0), "{}", again.stdout);
    for worker in workers {
        assert_eq!(worker.stop(), Some(0), "a worker that is told to stop ends well");
    }
}

#[test]
fn workers_may_be_killed_and_join_late_and_the_copy_is_whole() {
    let host = Host::new("killed");
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    exotic_tree(&source, 22, 4000);
    let mut r = Random(23);
    println!("seed 23");
    let mut fleet: Vec<Worker> = ["k1", "k2"].map(|n| host.worker(n)).into();
    for round in 0..3 {
        let target = s.join(format!("dst{round}"));
        let mut job = host.copy(&source, &target).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for kill in 0..4 {
            // Wait for some progress, not for time: until the target has grown a little more.
            let goal = r.below(1200) as usize;
            while job.try_wait().unwrap().is_none() && count(&target) < goal {
                std::thread::yield_now();
            }
            let victim = fleet.remove(r.below(fleet.len() as u64) as usize);
            victim.kill();
            fleet.push(host.worker(&format!("late-{round}-{kill}")));
        }
        let output = job.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "round {round}: {said}{}", String::from_utf8_lossy(&output.stdout));
        assert_identical(&source, &target);
    }
}

fn count(root: &Path) -> usize {
    let Ok(entries) = fs::read_dir(root) else { return 0 };
    entries.filter_map(Result::ok).map(|e| 1 + if e.path().is_dir() { count(&e.path()) } else { 0 }).sum()
}

#[test]
fn a_killed_follower_can_be_run_again_and_the_copy_converges() {
    let host = Host::new("follower");
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 24, 3000);
    let _worker = host.worker("f");
    let mut job = host.copy(&source, &target).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while job.try_wait().unwrap().is_none() && count(&target) < 50 {
        std::thread::yield_now();
    }
    job.kill().unwrap();
    job.wait().unwrap();
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    assert!(ran.stderr.contains("lost its leader"), "{}", ran.stderr);
    let queues = host.queues_of("treehaul.");
    assert!(queues.iter().all(|q| !q.contains(".dirs")), "the abandoned job's queues are gone: {queues:?}");
}

#[test]
fn a_worker_without_the_target_mounted_takes_no_task_and_says_so() {
    let host = Host::new("blind");
    assert_root();
    let s = Scratch::new();
    let (source, hidden) = (s.join("src"), s.join("hidden"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&hidden).unwrap();
    for i in 0..200 {
        fs::write(source.join(format!("f{i}")), "x").unwrap();
    }
    // In a mount namespace of its own, where something else lies over the target.
    let blind = format!(
        "mount -t tmpfs tmpfs {0}; exec {1} worker --name blind --broker '{2}'",
        q(&hidden),
        env!("CARGO_BIN_EXE_treehaul"),
        host.url
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-c", &blind]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut worker = Worker(command.process_group(0).spawn().unwrap());
    let mut log = std::io::BufReader::new(worker.0.stderr.take().unwrap());
    let mut read_until = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "it ended without saying '{text}'");
        }
    };
    read_until("working");
    let job = host.copy(&source, &hidden.join("")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    read_until("mark");
    assert_eq!(count(&hidden.join("")), 2, "only the job's mark is in the target");
    let _sighted = host.worker("sighted");
    let output = job.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("blind"), "the summary names the node that refused: {said}");
    assert_identical(&source, &hidden);
}

#[test]
fn a_job_waits_for_workers_and_says_that_there_is_none() {
    let host = Host::new("waits");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    let mut c = treehaul();
    c.args(["copy", "--broker", &host.url]).args([&source, &target]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut job = Worker(c.process_group(0).spawn().unwrap());
    let mut log = std::io::BufReader::new(job.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("treehaul worker") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "it ended without a word");
    }
    assert!(!line.contains("guest:guest"), "{line}");
    assert_eq!(job.stop(), Some(143));
    assert_no_leftovers(&target);
}

#[test]
fn failed_entries_of_a_fleet_are_listed_like_those_of_one() {
    let host = Host::new("faulty");
    assert_root();
    let s = Scratch::new();
    let (source, target, report) = (s.join("src"), s.join("dst"), s.join("report"));
    fs::create_dir(&source).unwrap();
    for i in 0..30 {
        fs::write(source.join(format!("f{i}")), "x").unwrap();
    }
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EIO", env!("CARGO_BIN_EXE_treehaul")]);
    c.args(["worker", "-q", "--name", "faulty", "--broker", &host.url]).stdout(Stdio::null());
    let _worker = Worker(c.process_group(0).spawn().unwrap());
    let ran = run(host.copy(&source, &target).arg("--report").arg(&report));
    assert_eq!((ran.code, ran.total("failed")), (3, 30), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(fs::read_to_string(&report).unwrap().lines().count(), 30);
    assert!(ran.stderr.contains("link: Input/output error"), "{}", ran.stderr);
}
