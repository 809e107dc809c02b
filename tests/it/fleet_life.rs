//! A job of a fleet lives through whatever becomes of its workers, and ends by itself: the copy is right, the totals are
//! exact, the exit code says it, and nothing is left on the broker or in the target.

use crate::brokers::entries_of;
use crate::hosts::*;
use crate::support::*;
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// A tree, a fleet's virtual host, and a copy by it.
struct Life {
    host: Host,
    scratch: Scratch,
    entries: u64,
}

impl Life {
    fn new(name: &str, files: u64) -> Self {
        assert_root();
        let (host, scratch) = (Host::new(name), Scratch::new());
        exotic_tree(&scratch.join("src"), 41, files);
        let entries = entries_of(&scratch.join("src"));
        Life { host, scratch, entries }
    }

    fn source(&self) -> PathBuf {
        self.scratch.join("src")
    }

    fn target(&self) -> PathBuf {
        self.scratch.join("dst")
    }

    /// So many operations a second on each node, so that something can happen in the middle.
    fn copy(&self, pace: u32) -> Running {
        Running::begin(self.host.copy(&self.source(), &self.target()).args(["--ops-limit", &pace.to_string()]))
    }

    fn fleet(&self, args: &[&str]) -> Ran {
        run(treehaul().args(args).args(["--broker", &self.host.url]))
    }

    fn job(&self) -> Option<Value> {
        let ran = self.fleet(&["status", "--format", "json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.json()["jobs"].as_array().expect("jobs").iter().find(|j| j["over"] == false).cloned()
    }

    /// Waits until the target holds so many entries, while the job goes on.
    fn grown(&self, job: &mut Running, entries: usize) {
        until("the target has grown", || count(&self.target()) >= entries || job.is_over());
        assert!(!job.is_over(), "it was over before its middle was seen");
    }

    /// The job is complete and right, and nothing is left of it.
    fn assert_right(&self, job: Running) -> Ran {
        let ran = job.end();
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        self.assert_copied(&ran);
        ran
    }

    fn assert_copied(&self, ran: &Ran) {
        assert_identical(&self.source(), &self.target());
        assert_no_leftovers(&self.target());
        let done = ran.total("copied") + ran.total("updated") + ran.total("unchanged");
        assert_eq!((ran.total("found"), done), (self.entries, self.entries), "{}", ran.stdout);
        let job = ran.json()["job"].as_str().expect("a name").to_owned();
        assert_eq!(self.host.queues_of(&job), Vec::<String>::new());
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
    }
}

/// A command in the background; it dies with the test.
struct Running(Option<Child>);

impl Running {
    fn begin(command: &mut Command) -> Self {
        Running(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")))
    }

    fn is_over(&mut self) -> bool {
        self.0.as_mut().is_none_or(|c| c.try_wait().expect("a child").is_some())
    }

    fn end(mut self) -> Ran {
        until("the job is over", || self.is_over());
        Ran::of(self.0.take().expect("once").wait_with_output().expect("it ends"))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.0.as_ref().expect("not waited for"));
        rustix::process::kill_process(pid, signal).expect("a signal");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn every_worker_may_be_killed_twice_while_others_join() {
    let life = Life::new("twice", 2500);
    let mut workers = ["a", "b", "c"].map(|n| Some(life.host.worker(n)));
    let mut job = life.copy(4000);
    for round in 0..6 {
        life.grown(&mut job, life.entries as usize * (round + 1) / 9);
        let at = round % 3;
        if let Some(worker) = workers[at].take() {
            worker.kill();
        }
        workers[at] = Some(life.host.worker(&format!("late-{round}")));
    }
    let ran = life.assert_right(job);
    // What a killed worker had copied counts as copied; only directories are made once and seen again.
    let files = ran.total("files") + ran.total("symlinks") + ran.total("specials");
    assert!(ran.total("copied") >= files * 9 / 10, "{}", ran.stdout);
}

#[test]
fn all_workers_may_be_killed_and_started_again_later() {
    let life = Life::new("all", 1200);
    let workers = ["a", "b", "c"].map(|n| life.host.worker(n));
    let mut job = life.copy(3000);
    life.grown(&mut job, life.entries as usize / 3);
    workers.into_iter().for_each(Worker::kill);
    // The follower sees that nobody is there.
    until("the job is without workers", || {
        let nodes = life.fleet(&["nodes", "--format", "json"]);
        nodes.code == 4 || nodes.json()["nodes"].as_array().is_some_and(Vec::is_empty)
    });
    assert!(!job.is_over(), "a job without workers is not over");
    let _workers = ["d", "e"].map(|n| life.host.worker(n));
    life.assert_right(job);
}

/// Kills the workers that lead the job, one after the other, when it stands like that; gives those who are left.
fn kill_leader_when(
    life: &Life,
    job: &mut Running,
    standing: &str,
    fleet: Vec<(String, Worker)>,
) -> Vec<(String, Worker)> {
    let mut leader = None;
    until("somebody leads it then", || {
        let seen = life.job().filter(|j| j["standing"] == standing);
        leader = seen.and_then(|j| j["leader"].as_str().map(str::to_owned));
        leader.is_some() || job.is_over()
    });
    let leader = leader.unwrap_or_else(|| panic!("it was over before it was seen {standing}"));
    let mut left = Vec::new();
    for (name, worker) in fleet {
        if name == leader { worker.kill() } else { left.push((name, worker)) }
    }
    left
}

#[test]
fn the_leader_may_be_killed_in_the_walk_and_in_the_finish() {
    let life = Life::new("leader", 1500);
    let mut fleet: Vec<_> = ["a", "b", "c"].map(|n| (n.to_owned(), life.host.worker(n))).into();
    let mut job = life.copy(1500);
    life.grown(&mut job, life.entries as usize / 4);
    fleet = kill_leader_when(&life, &mut job, "walking", fleet);
    assert_eq!(fleet.len(), 2);
    // Directories get their attributes slowly, so that this is seen.
    let slow = life.fleet(&["throttle", "--ops-limit", "60"]);
    assert_eq!(slow.code, 0, "{}", slow.stderr);
    until("the walk is over", || {
        if life.job().is_some_and(|j| j["standing"] == "walking") {
            assert_eq!(life.fleet(&["throttle", "--ops-limit", "3000"]).code, 0);
        }
        life.job().is_none_or(|j| j["standing"] == "finishing")
    });
    assert_eq!(life.fleet(&["throttle", "--ops-limit", "100"]).code, 0);
    fleet = kill_leader_when(&life, &mut job, "finishing", fleet);
    assert_eq!(fleet.len(), 1);
    assert_eq!(life.fleet(&["throttle", "--ops-limit", "none"]).code, 0);
    life.assert_right(job);
}

#[test]
fn the_leader_may_be_killed_while_it_clears_up() {
    let life = Life::new("clears", 400);
    // Nothing is unlinked before the job's folder, when all is done: then it dies.
    let mut doomed = life.host.doomed_worker("unlinkat", 1);
    let mut job = Running::begin(&mut life.host.copy(&life.source(), &life.target()));
    until("it leads", || life.job().is_some_and(|j| j["leader"] == "doomed") || job.is_over());
    let _other = life.host.worker("other");
    doomed.wait();
    life.assert_right(job);
}

#[test]
fn a_node_that_loses_its_target_takes_no_more_tasks_of_the_next_job_and_says_so() {
    let life = Life::new("unmounted", 300);
    fs::create_dir(life.target()).unwrap();
    // In a mount namespace of its own, where something else lies over the target.
    let blind = format!(
        "mount -t tmpfs tmpfs {0}; exec {1} worker -q --name blind --broker '{2}'",
        q(&life.target()),
        env!("CARGO_BIN_EXE_treehaul"),
        life.host.url
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-c", &blind]).stdout(Stdio::null()).stderr(Stdio::null());
    let _blind = Worker(command.process_group(0).spawn().unwrap());
    let _sighted = life.host.worker("sighted");
    let job = life.copy(2000);
    let mut refused = None;
    until("it refuses", || {
        let nodes = life.fleet(&["nodes", "--format", "json"]);
        let nodes = nodes.json()["nodes"].as_array().cloned().unwrap_or_default();
        let blind = nodes.into_iter().find(|n| n["node"] == "blind");
        refused = blind.and_then(|n| n["jobs"][0]["refused"].as_str().map(str::to_owned));
        refused.is_some()
    });
    assert!(refused.as_ref().is_some_and(|why| why.contains("target")), "{refused:?}");
    let ran = life.assert_right(job);
    assert!(ran.stderr.contains("blind takes no part"), "{}", ran.stderr);
}

#[test]
fn a_node_without_the_source_deletes_nothing() {
    let life = Life::new("sourceless", 300);
    copy_ok(&life.source(), &life.target());
    let extra = life.target().join("extra");
    fs::create_dir(&extra).unwrap();
    (0..200).for_each(|i| fs::write(extra.join(format!("e{i}")), "x").unwrap());
    let blind = format!(
        "mount -t tmpfs tmpfs {0}; exec {1} worker -q --name blind --broker '{2}'",
        q(&life.source()),
        env!("CARGO_BIN_EXE_treehaul"),
        life.host.url
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "bash", "-c", &blind]).stdout(Stdio::null()).stderr(Stdio::null());
    let _blind = Worker(command.process_group(0).spawn().unwrap());
    let job = Running::begin(&mut life.host.pass("delete", &life.source(), &life.target()));
    until("it refuses", || {
        let nodes = life.fleet(&["nodes", "--format", "json"]);
        nodes.stdout.contains("\"refused\":\"source")
    });
    assert_eq!(count(&extra), 200, "nothing is gone");
    let _sighted = life.host.worker("sighted");
    let ran = job.end();
    assert_eq!((ran.code, ran.total("deleted"), ran.total("failed")), (0, 201, 0), "{}{}", ran.stdout, ran.stderr);
    assert!(!extra.exists() && entries_of(&life.target()) == life.entries, "nothing else is gone");
}

/// Workers that die when they make a fifo, over and over.
fn dying_workers(host: &Host) -> Worker {
    let line = format!(
        "while :; do strace -f -qq -o /dev/null -e inject=mknodat:signal=SIGKILL {} worker -q --name dying --broker '{}'; \
         done",
        env!("CARGO_BIN_EXE_treehaul"),
        host.url
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &line]).stdout(Stdio::null()).stderr(Stdio::null());
    Worker(bash.process_group(0).spawn().expect("it starts"))
}

#[test]
fn one_entry_that_kills_its_workers_is_set_aside_alone_and_can_be_tried_again() {
    assert_root();
    let host = Host::new("poison");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    (0..300).for_each(|i| fs::write(source.join(format!("f{i}")), "x").unwrap());
    sh(&format!("mkfifo {}", q(&source.join("poison"))));
    let dying = dying_workers(&host);
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!((ran.code, ran.total("failed")), (3, 1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("poison: run task"), "{}", ran.stderr);
    assert_eq!(count(&target), 300, "the others are all there");
    drop(dying);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    let fleet = |args: &[&str]| run(treehaul().args(args).args(["--broker", &host.url]));
    let failed = fleet(&["failed", &job]);
    assert!(failed.code == 0 && failed.stdout.contains("poison: run task"), "{}{}", failed.stdout, failed.stderr);
    let _worker = host.worker("sound");
    let again = fleet(&["retry", &job, "--all", "--json"]);
    assert_eq!(
        (again.code, again.total("failed"), again.total("found")),
        (0, 0, 302),
        "{}{}",
        again.stdout,
        again.stderr
    );
    assert_identical(&source, &target);
    assert_eq!(host.queues_of(&job), Vec::<String>::new());
}

#[test]
fn what_failed_is_kept_and_a_retry_makes_the_totals_right() {
    assert_root();
    let host = Host::new("retry");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 43, 300);
    let entries = entries_of(&source);
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=symlinkat,mknodat:error=EIO"]);
    c.args([env!("CARGO_BIN_EXE_treehaul"), "worker", "-q", "--name", "faulty", "--broker", &host.url]);
    let faulty = Worker(c.stdout(Stdio::null()).process_group(0).spawn().unwrap());
    let ran = run(&mut host.copy(&source, &target));
    let failed = ran.total("failed");
    assert!(ran.code == 3 && failed > 10, "{}{}", ran.stdout, ran.stderr);
    drop(faulty);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    let fleet = |args: &[&str]| run(treehaul().args(args).args(["--broker", &host.url]));
    let lines = |ran: &Ran| ran.stdout.lines().map(str::to_owned).collect::<Vec<_>>();
    let list = lines(&fleet(&["failed", &job, "--format", "jsonl"]));
    assert_eq!(list.len() as u64, failed);
    let first: Value = serde_json::from_str(&list[0]).unwrap();
    assert_eq!((first["id"].as_u64(), first["errno"].as_i64()), (Some(1), Some(5)), "{first}");
    let status = fleet(&["status"]);
    assert!(
        status.stdout.contains(&job) && status.stdout.contains("failed"),
        "what is kept is shown: {}",
        status.stdout
    );

    let _worker = host.worker("sound");
    let some = fleet(&["retry", &job[..6], "1", "2", "--json"]);
    assert_eq!((some.code, some.total("failed")), (3, failed - 2), "{}{}", some.stdout, some.stderr);
    assert_eq!(lines(&fleet(&["failed", &job])).len() as u64, failed - 2);
    let report = s.join("report");
    let all = fleet(&["retry", &job, "--all", "--json", "--report", report.to_str().unwrap()]);
    assert_eq!((all.code, all.total("failed"), all.total("found")), (0, 0, entries), "{}{}", all.stdout, all.stderr);
    assert_eq!(fs::read_to_string(&report).unwrap(), "", "what failed before is not told again");
    assert_identical(&source, &target);
    assert_no_leftovers(&target);
    assert_eq!(host.queues_of(&job), Vec::<String>::new());
    let nothing = fleet(&["retry", &job, "--all"]);
    assert_eq!(nothing.code, 2, "{}", nothing.stderr);
}

#[test]
fn what_failed_can_be_cleared() {
    let host = Host::new("reset");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EIO", env!("CARGO_BIN_EXE_treehaul")]);
    c.args(["worker", "-q", "--name", "faulty", "--broker", &host.url]).stdout(Stdio::null());
    let _worker = Worker(c.process_group(0).spawn().unwrap());
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    assert!(!host.queues_of(&job).is_empty());
    let fleet = |args: &[&str]| run(treehaul().args(args).args(["--broker", &host.url]).stdin(Stdio::null()));
    let asked = fleet(&["reset", &job]);
    assert!(asked.code == 2 && asked.stderr.contains("-y"), "{}", asked.stderr);
    assert_eq!(fleet(&["reset", "--all", "-y"]).code, 0);
    assert_eq!(host.queues_of(&job), Vec::<String>::new());
    assert_eq!(fleet(&["failed", &job]).stdout, "");
}

#[test]
fn a_job_is_submitted_left_and_followed_again() {
    let life = Life::new("follow", 1200);
    let target = life.target();
    let mut c = treehaul();
    c.args(["start", "copy", "--ops-limit", "1500", "--broker", &life.host.url]).args([&life.source(), &target]);
    let started = run(&mut c);
    assert_eq!(started.code, 0, "{}", started.stderr);
    let job = started.stdout.trim().to_owned();
    let follow = || {
        let mut c = treehaul();
        c.args(["follow", &job, "--json", "--broker", &life.host.url]);
        c
    };
    let mut first = Running::begin(&mut follow());
    let _workers = ["a", "b"].map(|n| life.host.worker(n));
    life.grown(&mut first, 20);
    first.signal(rustix::process::Signal::INT);
    let left = first.end();
    assert_eq!(left.code, 130, "{}{}", left.stdout, left.stderr);
    assert!(left.stderr.contains(&format!("treehaul follow {job}")), "{}", left.stderr);
    // The same command again comes back to the same job; another one between the same roots is refused.
    let again = Running::begin(life.host.copy(&life.source(), &target).args(["--ops-limit", "1500"]));
    let other = run(&mut life.host.pass("sync", &life.source(), &target));
    assert!(other.code == 2 && other.stderr.contains(&job), "{}{}", other.stdout, other.stderr);
    let mut second = Running::begin(&mut follow());
    second.signal(rustix::process::Signal::KILL);
    until("it is dead", || second.is_over());
    let ran = life.assert_right(again);
    assert_eq!(ran.json()["job"], job);
    let late = run(&mut follow());
    assert_eq!((late.code, late.total("found")), (0, life.entries), "{}{}", late.stdout, late.stderr);
}

#[test]
fn a_cancelled_job_ends_and_leaves_nothing() {
    let life = Life::new("cancel", 1500);
    let _workers = ["a", "b"].map(|n| life.host.worker(n));
    let mut job = life.copy(800);
    life.grown(&mut job, 30);
    let id = life.job().expect("it is under way")["job"].as_str().unwrap().to_owned();
    let cancel = life.fleet(&["cancel", &id[..8], "--reason", "enough"]);
    assert_eq!(cancel.code, 0, "{}{}", cancel.stdout, cancel.stderr);
    let ran = job.end();
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("cancelled: ") && ran.stderr.contains("enough"), "{}", ran.stderr);
    assert_no_leftovers(&life.target());
    assert_eq!(life.host.queues_of(&id), Vec::<String>::new());
    let ran = run(&mut life.host.copy(&life.source(), &life.target()));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    life.assert_copied(&ran);
}

#[test]
fn a_job_without_any_worker_can_be_cancelled() {
    let life = Life::new("nobody", 10);
    let mut c = treehaul();
    c.args(["start", "copy", "--broker", &life.host.url]).args([&life.source(), &life.target()]);
    let started = run(&mut c);
    assert_eq!(started.code, 0, "{}", started.stderr);
    let job = started.stdout.trim();
    let cancel = life.fleet(&["cancel", job]);
    assert_eq!(cancel.code, 0, "{}{}", cancel.stdout, cancel.stderr);
    assert_eq!(life.host.queues_of(job), Vec::<String>::new());
}

#[test]
fn jobs_share_the_fleet_by_their_priorities() {
    assert_root();
    let host = Host::new("share");
    let start = |priority: &str, made_up: &str| {
        let mut c = treehaul();
        c.args(["start", "copy", "--priority", priority, "--broker", &host.url, made_up, "null://"]);
        let ran = run(&mut c);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.trim().to_owned()
    };
    let low = start("5", "synth://?entries=60000&latency=10ms");
    let high = start("50", "synth://?entries=60001&latency=10ms");
    let _worker = host.worker("w");
    let done = |jobs: &Value, id: &str| {
        let job = jobs.as_array().and_then(|all| all.iter().find(|j| j["job"] == id).cloned());
        job.map_or(u64::MAX, |j| j["totals"]["found"].as_u64().unwrap_or(0))
    };
    let mut seen = (0, 0);
    until("the one is far", || {
        let jobs = run(treehaul().args(["status", "--format", "json", "--broker", &host.url])).json()["jobs"].clone();
        seen = (done(&jobs, &low), done(&jobs, &high));
        seen.1 > 12_000
    });
    assert!(seen.0 < seen.1 / 2, "ten times the share: {seen:?}");
    for job in [&low, &high] {
        let cancel = run(treehaul().args(["cancel", job, "--broker", &host.url]));
        assert_eq!(cancel.code, 0, "{}", cancel.stderr);
    }
}

#[test]
fn a_node_on_which_everything_fails_is_taken_off_the_job() {
    assert_root();
    let host = Host::new("quarantine");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    for d in 0..120 {
        let dir = source.join(format!("d{d}"));
        fs::create_dir_all(&dir).unwrap();
        (0..60).for_each(|i| fs::write(dir.join(format!("f{i}")), "x").unwrap());
    }
    let _sound = host.worker("sound");
    let job = Running::begin(host.copy(&source, &target).args(["--ops-limit", "2500"]));
    // A node is judged by others, which must have done something.
    until("some of it is done", || count(&target) > 500);
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EIO", env!("CARGO_BIN_EXE_treehaul")]);
    c.args(["worker", "-q", "--name", "sick", "--broker", &host.url]).stdout(Stdio::null());
    let _sick = Worker(c.process_group(0).spawn().unwrap());
    let ran = job.end();
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("worker sick is in quarantine"), "{}", ran.stderr);
    let failed = ran.total("failed");
    assert!(failed < ran.total("found") / 2, "it went on without it: {}", ran.stdout);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    drop(_sick);
    let again = run(treehaul().args(["retry", &job, "--all", "--json", "--broker", &host.url]));
    assert_eq!((again.code, again.total("failed")), (0, 0), "{}{}", again.stdout, again.stderr);
    assert_identical(&source, &target);
}

#[test]
fn a_worker_that_starts_while_failures_are_tried_again_works_on_them_once() {
    assert_root();
    let host = Host::new("late-retry");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    (0..400).for_each(|i| std::os::unix::fs::symlink("x", source.join(format!("l{i}"))).unwrap());
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=symlinkat:error=EIO", env!("CARGO_BIN_EXE_treehaul")]);
    c.args(["worker", "-q", "--name", "faulty", "--broker", &host.url]).stdout(Stdio::null());
    let faulty = Worker(c.process_group(0).spawn().unwrap());
    let ran = run(host.copy(&source, &target).args(["--ops-limit", "600"]));
    assert_eq!((ran.code, ran.total("failed")), (3, 400), "{}{}", ran.stdout, ran.stderr);
    drop(faulty);
    let job = ran.json()["job"].as_str().unwrap().to_owned();
    let _early = host.worker("early");
    let mut c = treehaul();
    c.args(["retry", &job, "--all", "--json", "--broker", &host.url]);
    let mut again = Running::begin(&mut c);
    until("some of it is done", || count(&target) > 20 || again.is_over());
    let _late = ["x", "y"].map(|n| host.worker(n));
    let ran = again.end();
    assert_eq!((ran.code, ran.total("failed"), ran.total("found")), (0, 0, 401), "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    assert_eq!(host.queues_of(&job), Vec::<String>::new());
}

#[test]
fn what_failed_in_a_job_that_was_ended_early_is_no_substitute_for_another_pass() {
    let host = Host::new("early-end");
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    (0..300).for_each(|i| fs::write(source.join(format!("f{i}")), "x").unwrap());
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EIO", env!("CARGO_BIN_EXE_treehaul")]);
    c.args(["worker", "-q", "--name", "faulty", "--broker", &host.url]).stdout(Stdio::null());
    let _worker = Worker(c.process_group(0).spawn().unwrap());
    let fleet = |args: &[&str]| run(treehaul().args(args).args(["--broker", &host.url]));
    let mut c = treehaul();
    c.args(["start", "copy", "--ops-limit", "300", "--broker", &host.url]);
    let job = run(c.args([&source, &target])).stdout.trim().to_owned();
    until("something failed", || {
        let jobs = fleet(&["status", "--format", "json"]).json()["jobs"].clone();
        jobs[0]["totals"]["failed"].as_u64().is_some_and(|n| n > 0)
    });
    assert_eq!(fleet(&["cancel", &job]).code, 0);
    let retry = fleet(&["retry", &job, "--all"]);
    assert!(retry.code == 2 && retry.stderr.contains("run the pass again"), "{}", retry.stderr);
}

#[test]
fn what_others_write_into_the_log_of_jobs_stops_nobody() {
    let life = Life::new("garbage", 30);
    let _worker = life.host.worker("w");
    life.assert_right(life.copy(10_000));
    life.host.publish("treehaul.jobs", "garbage");
    life.assert_right(life.copy(10_000));
    life.host.publish("treehaul.jobs", "more garbage");
    let began = Instant::now();
    let status = life.fleet(&["status"]);
    assert_eq!(status.code, 0, "{}", status.stderr);
    assert!(began.elapsed() < Duration::from_secs(8), "it waits for nothing");
}

#[test]
fn a_job_without_a_worker_for_its_files_says_so_and_a_paused_one_too() {
    let life = Life::new("one-sided", 100);
    let mut c = treehaul();
    c.args(["worker", "-q", "--name", "dirs", "--queues", "dirs", "--broker", &life.host.url]).stdout(Stdio::null());
    let _dirs = Worker(c.process_group(0).spawn().unwrap());
    let mut c = treehaul();
    c.args(["copy", "--broker", &life.host.url]).args([&life.source(), &life.target()]);
    let mut job = Worker(c.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).spawn().unwrap());
    let mut log = std::io::BufReader::new(job.0.stderr.take().unwrap());
    let mut read_until = |text: &str| {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "it ended without '{text}'");
        }
    };
    read_until("nobody works on files");
    assert_eq!(life.fleet(&["pause"]).code, 0);
    read_until("is paused");
    assert_eq!(life.fleet(&["resume"]).code, 0);
    let _files = life.host.worker("files");
    assert_eq!(job.0.wait().unwrap().code(), Some(0));
    assert_identical(&life.source(), &life.target());
}
