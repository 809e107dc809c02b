//! A node keeps within its limits, and its work comes out the same.

use crate::support::*;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn timed(command: &mut Command) -> (Ran, f64) {
    let began = Instant::now();
    let ran = run(command);
    (ran, began.elapsed().as_secs_f64())
}

fn limited(args: &[&str], source: &Path, target: &Path) -> (Ran, f64) {
    timed(treehaul().args(["copy", "--json"]).args(args).args([source, target]))
}

/// The rate is never exceeded by more than its burst; how far it is missed depends on the machine, so that bound is
/// loose.
fn assert_paced(what: &str, elapsed: f64, expected: f64) {
    assert!(elapsed >= expected * 0.95, "{what}: {elapsed:.2} s, and the limit allows {expected:.2} s at the fastest");
    assert!(elapsed <= expected * 2.0 + 10.0, "{what}: {elapsed:.2} s instead of {expected:.2} s");
}

#[test]
fn a_large_file_is_copied_at_the_limit() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), vec![7; 30 << 20]).unwrap();
    let (ran, elapsed) = limited(&["--bwlimit", "10M"], &source, &target);
    assert_eq!((ran.code, ran.total("bytes_copied")), (0, 30 << 20), "{}", ran.stderr);
    assert_paced("30 MiB at 10 MiB/s", elapsed, 3.0);
    assert_identical(&source, &target);
}

#[test]
fn many_files_and_actors_share_one_limit() {
    let s = Scratch::new();
    let target = s.join("dst");
    let source = Path::new("synth://?entries=400&size=50000-50000&depth=2");
    let (ran, elapsed) = limited(&["--bwlimit", "8M", "--file-actors", "8"], source, &target);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let expected = ran.total("bytes_copied") as f64 / f64::from(8 << 20);
    assert!(expected > 1.0, "{}", ran.stdout);
    assert_paced("made-up files at 8 MiB/s", elapsed, expected);
}

#[test]
fn contents_that_are_only_compared_count_too() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), vec![7; 8 << 20]).unwrap();
    copy_ok(&source, &target);
    let (ran, elapsed) = limited(&["--checksum", "--bwlimit", "8M"], &source, &target);
    assert_eq!((ran.code, ran.total("unchanged")), (0, 2), "{}", ran.stdout);
    assert_paced("8 MiB read on both sides at 8 MiB/s", elapsed, 2.0);
}

#[test]
fn operations_keep_to_their_limit() {
    let (source, target) = (Path::new("synth://?entries=600&size=0"), Path::new("null://"));
    let (free, _) = limited(&[], source, target);
    let (ran, elapsed) = limited(&["--ops-limit", "2000"], source, target);
    assert_eq!((ran.code, ran.total("copied")), (0, free.total("copied")), "{}", ran.stderr);
    // Each of the 600 entries takes two operations at the very least: a look and a publication.
    assert!(elapsed >= 0.95 * 2.0 * 600.0 / 2000.0, "{elapsed}");
    assert!(elapsed <= 60.0, "{elapsed}");
    let (_, twice) = limited(&["--ops-limit", "500"], source, target);
    assert!(twice >= 0.95 * 2.0 * 600.0 / 500.0, "{twice}");
}

#[test]
fn everything_is_kept_under_limits() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 77, 300);
    let ran = limited(&["--bwlimit", "1G", "--ops-limit", "1000000"], &source, &target).0;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.total("hard_links") > 10, "{}", ran.stdout);
    assert_identical(&source, &target);
    let before = snapshot(&target);
    // The root itself: the rendezvous of hard links comes and goes in it.
    let again = limited(&["--ops-limit", "1000000"], &source, &target).0;
    assert_eq!((again.total("copied"), again.total("updated")), (0, 0), "{}", again.stdout);
    assert!(snapshot(&target)[1..] == before[1..], "something was touched");
}

#[test]
fn a_signal_is_heard_while_the_limit_is_waited_for() {
    let s = Scratch::new();
    let mut c = treehaul();
    c.args(["copy", "-q", "--ops-limit", "20", "synth://?entries=100000&size=0"]).arg(s.join("dst"));
    let mut child = c.spawn().unwrap();
    let began = Instant::now();
    while fs::read_dir(s.join("dst")).map_or(0, Iterator::count) == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not begin");
        std::thread::yield_now();
    }
    // The second that it hears ends it; two at once may be heard as one, so it is told until it has ended.
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end");
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT);
        std::thread::yield_now();
    };
    assert_eq!(code, Some(130));
}

#[test]
fn wrong_limits_are_refused() {
    let s = Scratch::new();
    for (args, word) in [
        (["--bwlimit", "0"], "leave the option out"),
        (["--bwlimit", "10MB"], "is no size"),
        (["--bwlimit", "fast"], "is no size"),
        (["--ops-limit", "0"], "ops-limit"),
        (["--ops-limit", "-5"], "-5"),
    ] {
        let ran = run(treehaul().arg("copy").args(args).arg("synth://?entries=10").arg(s.join("dst")));
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(word), "{args:?}: {}", ran.stderr);
        assert!(!s.join("dst").exists(), "{args:?}");
    }
}

#[test]
fn nice_io_lowers_the_priority_of_every_thread() {
    assert_root();
    let s = Scratch::new();
    let mut c = treehaul();
    c.args(["copy", "-q", "--nice-io", "--ops-limit", "200", "synth://?entries=100000&size=0"]).arg(s.join("dst"));
    let mut child = c.spawn().unwrap();
    let pid = child.id();
    let tasks = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let began = Instant::now();
    while tasks() < 6 {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not begin");
        std::thread::yield_now();
    }
    let classes = sh(&format!("for t in /proc/{pid}/task/*; do ionice -p ${{t##*/}}; done"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(classes.lines().count() >= 6 && classes.lines().all(|line| line.trim() == "idle"), "{classes}");
}

#[test]
fn nice_io_is_the_workers_business_where_they_work() {
    let s = Scratch::new();
    let mut c = treehaul();
    c.args(["copy", "--nice-io", "--broker", "amqp://127.0.0.1:1/", "synth://?entries=10"]).arg(s.join("dst"));
    let ran = run(&mut c);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("treehaul worker"), "{}", ran.stderr);
}
