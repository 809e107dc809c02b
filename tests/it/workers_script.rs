//! What runs workers on a node: the script, and the unit for systemd.

use crate::brokers::until;
use crate::hosts::{Host, Worker};
use crate::support::*;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/run-workers.sh");
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/treehaul-worker@.service");
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with settings of its own; what runs on it is stopped at the end.
struct Node {
    scratch: Scratch,
    run_dir: PathBuf,
    host: Host,
}

impl Node {
    fn new(name: &str) -> Self {
        let (scratch, host) = (Scratch::new(), Host::new(name));
        // As systemd reads it; nothing in it is run.
        let settings = format!(
            "# of this node\n\n  TREEHAUL_BROKER = no name has a blank in it\nTREEHAUL_BROKER=\"{}\"\n; more\n\
             TREEHAUL_NAME='{name}'\nTREEHAUL_LOG=info\nUNUSED=$(touch {})\n",
            host.url,
            scratch.join("ran").display()
        );
        fs::write(scratch.join("worker.env"), settings.replace("  TREEHAUL_BROKER = no name has a blank in it\n", ""))
            .expect("write");
        fs::write(scratch.join("bad.env"), settings).expect("write");
        Node { run_dir: scratch.join("run"), scratch, host }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut c = Command::new(SCRIPT);
        c.args(arguments).stdin(Stdio::null()).env_remove("TREEHAUL_BROKER").env_remove("TREEHAUL_NAME");
        c.env("TREEHAUL_BIN", env!("CARGO_BIN_EXE_treehaul")).env("TREEHAUL_RUN_DIR", &self.run_dir);
        c.env("TREEHAUL_WORKER_ENV", self.scratch.join("worker.env"));
        c.env("TREEHAUL_STATE_DIR", env!("CARGO_TARGET_TMPDIR"));
        c
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }

    fn pid(&self, name: &str) -> String {
        let text = fs::read_to_string(self.run_dir.join(format!("{name}.pid"))).expect("a pid file");
        text.split_once(' ').expect("a pid and a time").0.to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.command(&["stop", "--now"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn lines(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().collect()
}

#[test]
fn workers_of_a_node_are_started_once_seen_and_stopped() {
    let node = Node::new("node");
    let (source, target) = (node.scratch.join("src"), node.scratch.join("dst"));
    fs::create_dir(&source).unwrap();
    (0..50).for_each(|i| fs::write(source.join(format!("f{i}")), "x").unwrap());

    let ran = node.run(&["status"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "no worker runs\n"), "{}", ran.stderr);
    let ran = node.run(&["start", "-n", "2", "--", "--file-actors", "3"]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    let first = node.pid("node");
    let arguments = fs::read(format!("/proc/{first}/cmdline")).unwrap();
    assert!(String::from_utf8_lossy(&arguments).ends_with("--name\0node\0--file-actors\x003\0"), "{arguments:?}");
    assert!(!node.scratch.join("ran").exists(), "settings were run");

    // Again, and two at a time: those that run stay, and no name is there twice.
    let twice = [node.command(&["start", "-n", "3"]), node.command(&["start", "-n", "3"])];
    let twice = twice.map(|mut c| c.stdout(Stdio::piped()).spawn().unwrap());
    let twice = twice.map(|c| Ran::of(c.wait_with_output().unwrap()));
    assert!(twice.iter().all(|ran| ran.code == 0 && ran.stdout.contains(&format!("node runs already, pid {first}"))));
    assert_eq!(twice.iter().filter(|ran| ran.stdout.contains("node-3 works")).count(), 1);
    let ran = node.run(&["status"]);
    assert_eq!((ran.code, lines(&ran).len()), (0, 3), "{}", ran.stdout);
    assert!(lines(&ran).iter().all(|l| l.contains(" runs, pid ") && l.contains(", since ")), "{}", ran.stdout);
    let ran = run(&mut node.host.copy(&source, &target));
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    assert_identical(&source, &target);

    // One dies; its number may be somebody else's by now.
    sh(&format!("kill -KILL {}", node.pid("node-2")));
    until("a dead one shows", PATIENCE, || node.run(&["status"]).code == 1);
    assert!(node.run(&["status"]).stdout.contains("node-2 died"));
    fs::write(node.run_dir.join("node-2.pid"), format!("{} 12345\n", std::process::id())).unwrap();
    assert_eq!(node.run(&["status"]).code, 1);
    let ran = node.run(&["stop"]);
    let mut stopped = lines(&ran);
    // In whichever order they end.
    stopped.sort_unstable();
    assert_eq!((ran.code, stopped), (0, vec!["node has stopped", "node-3 has stopped"]), "{}", ran.stderr);
    let log = fs::read_to_string(node.run_dir.join("node.log")).unwrap();
    assert!(log.contains("working"), "{log}");
    assert_eq!((node.run(&["status"]).code, node.run(&["stop"]).code), (3, 0));
}

#[test]
fn a_worker_that_does_not_start_or_stop_is_told_of() {
    let node = Node::new("stuck");
    for wrong in
        [&["start", "-n", "0"][..], &["start", "-n"], &["start", "x"], &["stop", "--wait", "x"], &["bogus"], &[]]
    {
        let ran = node.run(wrong);
        assert_eq!(ran.code, 2, "{wrong:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("run-workers.sh start"), "{}", ran.stderr);
    }
    let ran = run(node.command(&["start"]).env("TREEHAUL_WORKER_ENV", node.scratch.join("bad.env")));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("bad.env: no NAME=VALUE: 'TREEHAUL_BROKER '"), "{}", ran.stderr);
    let ran = run(node.command(&["start"]).env("TREEHAUL_BROKER", "amqp://guest:guest@127.0.0.1:1/"));
    assert_eq!(ran.code, 1, "the environment wins over the file");
    assert!(ran.stderr.contains("stuck ended:") && ran.stderr.contains("127.0.0.1:1"), "{}", ran.stderr);
    assert_eq!(node.run(&["status"]).code, 3);

    assert_eq!(node.run(&["start"]).code, 0);
    let pid = node.pid("stuck");
    sh(&format!("kill -STOP {pid}"));
    let ran = node.run(&["stop", "--wait", "1"]);
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(ran.stderr.contains(&format!("stuck still runs, pid {pid}")), "{}", ran.stderr);
    assert_eq!(node.run(&["status"]).code, 0);
    let ran = node.run(&["stop", "--now"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "stuck has stopped\n"), "{}", ran.stderr);
}

#[test]
fn one_actor_of_each_kind_can_be_watched() {
    let node = Node::new("watch");
    let (source, target) = (node.scratch.join("src"), node.scratch.join("dst"));
    exotic_tree(&source, 43, 200);
    let watched = |verb: &str| {
        let log = node.scratch.join(verb);
        let mut c = node.command(&[verb, "--", "--bwlimit", "1G"]);
        c.env_remove("TREEHAUL_LOG").env("TREEHAUL_WORKER_ENV", node.scratch.join("watch.env"));
        c.stderr(fs::File::create(&log).unwrap()).stdout(Stdio::null());
        (Worker(c.process_group(0).spawn().unwrap()), log)
    };
    fs::write(node.scratch.join("watch.env"), format!("TREEHAUL_BROKER={}\n", node.host.url)).unwrap();
    let (mut dirs, dirs_log) = watched("try_dir");
    let mut job = node.host.copy(&source, &target);
    let mut job = Worker(job.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap());
    let said = || fs::read_to_string(&dirs_log).unwrap();
    // Directories are made, and files wait for somebody who works on them.
    let made = || crate::hosts::count(&target) > 5;
    let mut ended = || [&mut dirs, &mut job].into_iter().any(|w| w.0.try_wait().unwrap().is_some());
    until("directories are made", PATIENCE, || made() || ended());
    assert!(!ended(), "{}", said());
    assert!(said().contains("DEBUG") && said().contains("-try-dirs"), "{}", said());
    let files_made = sh(&format!("find {} -type f -size +0 -not -path '*/.treehaul*' | wc -l", q(&target)));
    assert_eq!(files_made.trim(), "0", "it worked on files");
    let (files, files_log) = watched("try_file");
    let code = job.0.wait().unwrap().code();
    assert_eq!(code, Some(0), "{}{}", said(), fs::read_to_string(&files_log).unwrap());
    assert_identical(&source, &target);
    assert_eq!((dirs.stop(), files.stop()), (Some(0), Some(0)));
}

#[test]
fn scripts_have_no_known_pitfalls() {
    sh(concat!("shellcheck ", env!("CARGO_MANIFEST_DIR"), "/ops/*.sh"));
}

/// Values of all lines of the unit that set something.
fn unit_values(name: &str) -> Vec<String> {
    let unit = fs::read_to_string(UNIT).unwrap();
    let lines = unit.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    lines.map(str::to_owned).collect()
}

#[test]
fn the_unit_is_understood_by_systemd() {
    let s = Scratch::new();
    let unit = fs::read_to_string(UNIT).unwrap();
    let here = unit.replace("/usr/local/bin/treehaul", env!("CARGO_BIN_EXE_treehaul"));
    assert_ne!(here, unit);
    fs::write(s.join("treehaul-worker@.service"), here).unwrap();
    let ran = run(Command::new("systemd-analyze").arg("verify").arg(s.join("treehaul-worker@1.service")));
    // Units that the system has are read as well, and complained about.
    let of_ours: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("treehaul")).collect();
    assert_eq!((ran.code, ran.stdout.as_str(), of_ours), (0, "", vec![]));
}

/// System calls of a filter like `@system-service`.
fn calls_of(filter: &str, calls: &mut BTreeSet<String>) {
    let listed = sh(&format!("systemd-analyze syscall-filter {filter}"));
    for word in listed.lines().skip(1).map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if word.starts_with('@') {
            calls_of(word, calls);
        } else {
            calls.insert(word.to_owned());
        }
    }
}

/// System calls that an `strace -f` log shows.
fn calls_in(log: &Path) -> BTreeSet<String> {
    let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    let name = |line: &str| {
        let (_, call) = line.split_once(' ')?;
        let (name, _) = call.trim_start().split_once('(')?;
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then(|| name.to_owned())
    };
    log.lines().filter_map(name).collect()
}

#[test]
fn a_worker_needs_no_more_than_the_unit_allows() {
    assert_root();
    let host = Host::new("unit");
    let s = Scratch::new();
    let (source, target, log) = (s.join("src"), s.join("dst"), s.join("calls"));
    exotic_tree(&source, 41, 1200);
    fs::write(source.join("large"), vec![7; 5 << 20]).unwrap();

    let capabilities = unit_values("CapabilityBoundingSet").join(" ").to_lowercase().replace("cap_", "+");
    let bounds = format!("-all,{}", capabilities.split_whitespace().collect::<Vec<_>>().join(","));
    let mut c = Command::new("strace");
    // Calls that systemd may not know yet are refused, as the filter would do, where strace knows them.
    c.args(["-f", "-qq", "-e", "inject=?getxattrat,?listxattrat:error=EPERM", "-o"]).arg(&log);
    c.args(["setpriv", "--no-new-privs", "--bounding-set", &bounds, "--"]);
    c.args([env!("CARGO_BIN_EXE_treehaul"), "worker", "-q", "--name", "bound", "--broker", &host.url]);
    let worker = Worker(c.stdout(Stdio::null()).process_group(0).spawn().unwrap());
    let chunks = ["--chunk-from", "2M", "--chunk-size", "1M"];
    for pass in [&["copy"][..], &["sync", "--delete"], &["verify", "--content"]] {
        let mut c = treehaul();
        c.args(pass).args(["--json", "--broker", &host.url]);
        if pass[0] != "verify" {
            c.args(chunks);
        }
        let ran = run(c.args([&source, &target]));
        assert_eq!(ran.code, 0, "{pass:?}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.json()["notes"].as_array().map(Vec::len), Some(0), "{pass:?}: {}", ran.stdout);
        assert_identical(&source, &target);
    }
    drop(worker);

    let mut allowed = BTreeSet::new();
    for filter in unit_values("SystemCallFilter") {
        let mut calls = BTreeSet::new();
        filter.trim_start_matches('~').split_whitespace().for_each(|f| calls_of(f, &mut calls));
        if filter.starts_with('~') {
            allowed = &allowed - &calls;
        } else {
            allowed.append(&mut calls);
        }
    }
    assert!(allowed.contains("mknodat") && !allowed.contains("mount"), "the filter was not read: {allowed:?}");
    let used = calls_in(&log);
    assert!(used.contains("linkat") && used.contains("mknodat"), "the log was not read: {used:?}");
    // What setpriv does to itself before; and what is refused, by all its names.
    let excused = ["capset", "prctl", "getxattrat", "listxattrat", "syscall_0x1d0", "syscall_0x1d1"];
    let excused: BTreeSet<String> = excused.map(str::to_owned).into();
    let refused = &(&used - &allowed) - &excused;
    assert!(refused.is_empty(), "{refused:?} of {used:?}");
}
