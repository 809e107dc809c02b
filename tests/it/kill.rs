//! SIGKILL anywhere, then the same command again: the copy is whole and nothing is left over.

use crate::hosts::*;
use crate::support::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Kills copies at random moments of their run, over and over into the same target, then lets one finish.
fn kill_and_finish(source: &Path, target: &Path, extra: &[&str], seed: u64, kills: u64) {
    let mut r = Random(seed);
    let started = Instant::now();
    let dry = source.with_file_name("timing");
    copy_ok(source, &dry);
    let whole = started.elapsed();
    println!("seed {seed}, {kills} kills within {whole:?}");
    for _ in 0..kills {
        let mut child = treehaul()
            .args(["copy", "-q"])
            .args(extra)
            .args([source, target])
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts");
        let wait = Duration::from_nanos(r.below(whole.as_nanos() as u64 * 6 / 5));
        let deadline = Instant::now() + wait;
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        if r.below(4) == 0 {
            // Nobody finds half a file under a final name, whenever they look.
            whole_or_absent(source, target);
        }
    }
    let ran = run(treehaul().args(["copy", "-q"]).args(extra).args([source, target]));
    assert_eq!(ran.code, 0, "seed {seed}: {}", ran.stderr);
    assert_identical(source, target);
}

fn whole_or_absent(source: &Path, target: &Path) {
    let listed = run(Command::new("find").arg(target).args([
        "-type",
        "f",
        "-not",
        "-name",
        ".treehaul*",
        "-not",
        "-path",
        "*/.treehaul/*",
        "-printf",
        "%P\\0",
    ]));
    for name in listed.stdout.split('\0').filter(|n| !n.is_empty() && !n.contains('\u{fffd}')) {
        let (a, b) = (source.join(name), target.join(name));
        let (Ok(x), Ok(y)) = (fs::metadata(&a), fs::metadata(&b)) else { continue };
        assert_eq!(x.len(), y.len(), "{name} is not whole");
        assert_eq!(x.modified().unwrap(), y.modified().unwrap(), "{name} has not got its time");
        if x.len() < 1 << 20 {
            assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap(), "{name} has other contents");
        }
    }
}

#[test]
fn killed_anywhere_a_rerun_converges() {
    assert_root();
    let s = Scratch::new();
    exotic_tree(&s.join("src"), 3, 2500);
    kill_and_finish(&s.join("src"), &s.join("dst"), &[], 11, 30);
}

#[test]
fn killed_anywhere_on_a_filesystem_without_nameless_files_a_rerun_converges() {
    assert_root();
    let s = Scratch::new();
    let (backing, mount) = (s.join("backing"), s.join("mount"));
    fs::create_dir(&backing).unwrap();
    fs::create_dir(&mount).unwrap();
    sh(&format!("bindfs --multithreaded {} {}", q(&backing), q(&mount)));
    exotic_tree(&s.join("src"), 4, 600);
    // A filesystem in user space tells no holes, and the comparator would read all of the terabyte.
    fs::remove_file(s.join("src/hole")).unwrap();
    // bindfs itself knows no numbers from 2^31 on.
    sh(&format!("find {} -uid 4000000000 -exec chown -h 77:78 {{}} +", q(&s.join("src"))));
    let done = std::panic::catch_unwind(|| kill_and_finish(&s.join("src"), &mount.join("dst"), &[], 12, 12));
    sh(&format!("umount -l {}", q(&mount)));
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn killed_anywhere_a_direct_copy_converges() {
    assert_root();
    let s = Scratch::new();
    exotic_tree(&s.join("src"), 5, 800);
    let mut r = Random(13);
    for _ in 0..8 {
        let mut child =
            treehaul().args(["copy", "-q", "--direct"]).args([s.join("src"), s.join("dst")]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_millis(r.below(120));
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
    copy_ok(&s.join("src"), &s.join("dst"));
    assert_identical(&s.join("src"), &s.join("dst"));
}

#[test]
fn the_first_interrupt_finishes_what_is_in_hand_and_leaves_nothing() {
    let s = Scratch::new();
    fs::create_dir(s.join("dst")).unwrap();
    let child = treehaul()
        .args(["copy", "synth://?entries=400000&seed=1"])
        .arg(s.join("dst"))
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    while fs::read_dir(s.join("dst")).unwrap().next().is_none() {
        std::thread::yield_now();
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("interrupted"), "{said}");
    assert_no_leftovers(&s.join("dst"));
}

/// A pass that removes, killed over and over on targets full of other things.
struct Removal {
    scratch: Scratch,
    pass: &'static str,
    args: &'static [&'static str],
}

impl Removal {
    fn new(pass: &'static str, args: &'static [&'static str], seed: u64) -> Self {
        let scratch = Scratch::new();
        exotic_tree(&scratch.join("src"), seed, 600);
        exotic_tree(&scratch.join("other"), seed + 1000, 900);
        exotic_tree(&scratch.join("sentinel"), seed + 2000, 40);
        // What the target has too much of, and one way out of it.
        sh(&format!(
            "cd {}; mkdir mess; cp -a other mess/extra; cp -a other src/kept; rm -rf src/kept/dir*; \
             ln -s $PWD/sentinel mess/way-out; ln -s $PWD/sentinel mess/extra/way-out",
            q(scratch.path())
        ));
        Removal { scratch, pass, args }
    }

    /// A target with everything that the source has, unless the pass copies, and with much else.
    fn target(&self) -> PathBuf {
        let target = self.scratch.join("dst");
        sh(&format!("cd {}; rm -rf dst; cp -a mess dst", q(self.scratch.path())));
        if self.pass == "delete" {
            sh(&format!("cd {}; cp -a src/. dst", q(self.scratch.path())));
        } else {
            // An older state of some of it.
            sh(&format!("cd {}; cp -a other/. dst", q(self.scratch.path())));
        }
        target
    }

    fn command(&self, target: &Path) -> Command {
        let mut c = treehaul();
        c.args([self.pass, "-q"]).args(self.args).args([&self.scratch.join("src"), target]);
        c
    }

    /// Lets the pass come to its end, alone, and looks at everything.
    fn check(&self, target: &Path, seed: u64) {
        let source = self.scratch.join("src");
        let ran = run(&mut self.command(target));
        assert_eq!(ran.code, 0, "seed {seed}: {}", ran.stderr);
        self.compare(&source, target);
    }

    fn compare(&self, source: &Path, target: &Path) {
        if self.pass == "delete" {
            // Removing changes the times of directories, which another pass sets.
            let ran = run(treehaul().args(["dirtime", "-q"]).args([source, target]));
            assert_eq!(ran.code, 0, "{}", ran.stderr);
        }
        assert_identical(source, target);
    }

    /// Kills the whole process `rounds` times `kills` times.
    fn kill_alone(&self, seed: u64, rounds: u64, kills: u64) {
        let outside = snapshot(&self.scratch.join("sentinel"));
        let mut r = Random(seed);
        let whole = self.time();
        println!("seed {seed}: {rounds} times {kills} kills within {whole:?}");
        for _ in 0..rounds {
            let target = self.target();
            for _ in 0..kills {
                let mut child = self.command(&target).stdout(Stdio::null()).spawn().expect("the program starts");
                let deadline = Instant::now() + Duration::from_nanos(r.below(whole.as_nanos() as u64));
                while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                    std::thread::yield_now();
                }
                let _ = child.kill();
                child.wait().unwrap();
            }
            self.check(&target, seed);
        }
        assert_eq!(snapshot(&self.scratch.join("sentinel")), outside, "seed {seed}: something outside was touched");
    }

    fn time(&self) -> Duration {
        let target = self.target();
        let started = Instant::now();
        self.check(&target, 0);
        started.elapsed()
    }

    /// Kills one of three workers, `kills` times in each of `rounds` jobs, others joining late.
    fn kill_workers(&self, name: &str, seed: u64, rounds: u64, kills: u64) {
        let host = Host::new(name);
        let outside = snapshot(&self.scratch.join("sentinel"));
        let source = self.scratch.join("src");
        let mut r = Random(seed);
        let whole = self.time();
        println!("seed {seed}: {rounds} times {kills} kills within {whole:?}");
        let mut fleet: Vec<Worker> = ["k1", "k2", "k3"].map(|n| host.worker(n)).into();
        for round in 0..rounds {
            let target = self.target();
            let mut job = host.pass(self.pass, &source, &target);
            let mut job = job.args(self.args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            for kill in 0..kills {
                let deadline = Instant::now() + Duration::from_nanos(r.below(whole.as_nanos() as u64));
                while job.try_wait().unwrap().is_none() && Instant::now() < deadline {
                    std::thread::yield_now();
                }
                fleet.remove(r.below(fleet.len() as u64) as usize).kill();
                fleet.push(host.worker(&format!("late-{round}-{kill}")));
            }
            let output = job.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(0), "seed {seed}, round {round}: {said}");
            self.compare(&source, &target);
        }
        assert_eq!(snapshot(&self.scratch.join("sentinel")), outside, "seed {seed}: something outside was touched");
    }
}

#[test]
fn a_sync_that_deletes_killed_anywhere_converges() {
    assert_root();
    Removal::new("sync", &["--delete"], 61).kill_alone(61, 6, 5);
}

#[test]
fn a_delete_killed_anywhere_converges() {
    assert_root();
    Removal::new("delete", &[], 62).kill_alone(62, 6, 5);
}

#[test]
fn a_sync_that_deletes_survives_its_workers() {
    assert_root();
    Removal::new("sync", &["--delete"], 63).kill_workers("kill-sync", 63, 4, 4);
}

#[test]
fn a_delete_survives_its_workers() {
    assert_root();
    Removal::new("delete", &[], 64).kill_workers("kill-delete", 64, 4, 4);
}
