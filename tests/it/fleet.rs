//! The same copy by workers over a real RabbitMQ.

use crate::hosts::*;
use crate::support::*;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

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
fn a_dry_run_by_workers_lists_everything_once_and_makes_nothing() {
    let host = Host::new("dry");
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 24, 1500);
    let workers = ["d1", "d2"].map(|n| host.worker(n));
    let dry = |target: &Path| {
        let mut c = treehaul();
        c.args(["copy", "--dry-run", "--broker", &host.url]).args([&source, target]);
        let ran = run(&mut c);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        let mut lines: Vec<String> =
            ran.stdout.lines().filter(|l| l.starts_with("would ")).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let lines = dry(&target);
    assert!(!target.exists(), "nothing is made");
    let mut once = lines.clone();
    once.dedup();
    assert_eq!(once.len(), lines.len(), "something is listed twice");
    let ran = run(&mut host.copy(&source, &target));
    assert_eq!((ran.code, ran.total("found")), (0, lines.len() as u64), "{}{}", ran.stdout, ran.stderr);
    let before = snapshot(&target);
    assert_eq!(dry(&target), Vec::<String>::new(), "what is right needs nothing");
    fs::write(source.join("dir 2-new"), "x").unwrap();
    assert_eq!(dry(&target), ["would copy dir 2-new", "would update ."]);
    assert!(snapshot(&target) == before, "something was touched");
    drop(workers);
}

#[test]
fn workers_keep_within_the_jobs_limits_and_their_own() {
    let host = Host::new("limits");
    let s = Scratch::new();
    let source = s.join("src");
    fs::create_dir(&source).unwrap();
    (0..24).for_each(|i| fs::write(source.join(format!("f{i}")), vec![i; 1 << 20]).unwrap());
    let timed = |worker: &[&str], job: &[&str], target: &str| {
        let mut c = treehaul();
        c.args(["worker", "-q", "--name", target, "--broker", &host.url]).args(worker).stdout(Stdio::null());
        let worker = Worker(c.process_group(0).spawn().expect("a worker starts"));
        let began = std::time::Instant::now();
        let ran = run(host.copy(&source, &s.join(target)).args(job));
        assert_eq!((ran.code, ran.total("bytes_copied")), (0, 24 << 20), "{}{}", ran.stdout, ran.stderr);
        assert_identical(&source, &s.join(target));
        assert_eq!(worker.stop(), Some(0));
        began.elapsed().as_secs_f64()
    };
    // 24 MiB at 8 MiB a second, whoever says so; the smaller of two counts.
    for (worker, job, name) in [
        (&["--bwlimit", "8M"][..], &[][..], "own"),
        (&[], &["--bwlimit", "8M"], "job"),
        (&["--bwlimit", "8M"], &["--bwlimit", "80M"], "smaller"),
    ] {
        let elapsed = timed(worker, job, name);
        assert!((0.95 * 3.0..30.0).contains(&elapsed), "{name}: {elapsed}");
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

#[test]
fn a_killed_follower_can_be_run_again_and_follows_the_same_job() {
    let host = Host::new("follower");
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 24, 3000);
    let _worker = host.worker("f");
    let copy = || {
        let mut c = host.copy(&source, &target);
        c.args(["--ops-limit", "4000"]);
        c
    };
    let mut job = copy().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while job.try_wait().unwrap().is_none() && count(&target) < 50 {
        std::thread::yield_now();
    }
    job.kill().unwrap();
    job.wait().unwrap();
    let ran = run(&mut copy());
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
    assert!(ran.stderr.contains("does this already: following it"), "{}", ran.stderr);
    let queues = host.queues_of("treehaul.");
    assert!(queues.iter().all(|q| !q.contains(".dirs")), "the job's queues are gone: {queues:?}");
}

#[test]
fn a_worker_without_the_target_mounted_takes_no_task_and_says_so() {
    a_blind_worker_takes_no_task("blind", "dst", "target");
}

#[test]
fn a_worker_without_the_source_mounted_takes_no_task_and_says_so() {
    a_blind_worker_takes_no_task("blind2", "src", "source");
}

/// One of the roots is hidden from a worker by what is mounted over it.
fn a_blind_worker_takes_no_task(name: &str, hide: &str, role: &str) {
    let host = Host::new(name);
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    for i in 0..200 {
        fs::write(source.join(format!("f{i}")), "x").unwrap();
    }
    // In a mount namespace of its own, where something else lies over it.
    let blind = format!(
        "mount -t tmpfs tmpfs {0}; exec {1} worker --name blind --broker '{2}'",
        q(&s.join(hide)),
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
    let job = host.copy(&source, &target.join("")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    read_until(&format!("{role} "));
    assert_eq!(count(&target.join("")), 3, "only the job's mark is in the target");
    let _sighted = host.worker("sighted");
    let output = job.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let why = "where the job was submitted";
    assert!(said.contains("blind") && said.contains(why), "the summary names the node that refused, and why: {said}");
    assert_identical(&source, &target);
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
    let _worker = host.worker("late");
    let mut c = treehaul();
    let ran = run(c.args(["copy", "--json", "--broker", &host.url]).args([&source, &target]));
    assert_eq!(ran.code, 0, "the job is still there: {}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);
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
