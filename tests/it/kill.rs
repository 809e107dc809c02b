//! SIGKILL anywhere, then the same command again: the copy is whole and nothing is left over.

use crate::support::*;
use std::fs;
use std::path::Path;
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
    kill_and_finish(&s.join("src"), &s.join("dst"), &[], 11, 20);
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
