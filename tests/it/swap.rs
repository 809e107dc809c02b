//! A hostile user exchanges a directory with a symlink, all the time, while a pass runs as root: what the symlink leads
//! to is never read into the target, written, or removed.

use crate::support::*;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SECRET: &str = "what nobody but root may read";

/// A tree with something that would show wherever it is copied to.
fn sentinel(at: &Path) {
    for sub in ["sub", "sub/deeper", "gone"] {
        fs::create_dir_all(at.join(sub)).unwrap();
        for i in 0..20 {
            fs::write(at.join(sub).join(format!("f{i}")), SECRET).unwrap();
            fs::write(at.join(sub).join(format!("secret{i}")), SECRET).unwrap();
        }
    }
}

/// A tree whose directories have the sentinel's names.
fn decoy(at: &Path, directories: usize) {
    for d in 0..directories {
        for sub in ["sub", "sub/deeper"] {
            let dir = at.join(format!("d{d}")).join(sub);
            fs::create_dir_all(&dir).unwrap();
            for i in 0..20 {
                fs::write(dir.join(format!("f{i}")), "harmless").unwrap();
            }
        }
    }
}

/// Exchanges directories with symlinks to the sentinel until told to stop.
fn exchange(pairs: &[(PathBuf, PathBuf)], stop: &AtomicBool, swaps: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        for (dir, link) in pairs {
            // The directory may be gone for a moment, or for good: then there is nothing to exchange.
            if renameat_with(CWD, dir, CWD, link, RenameFlags::EXCHANGE).is_ok() {
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Runs passes while directories of `attacked` are exchanged; says how often they were.
fn under_attack(s: &Scratch, attacked: &Path, directories: usize, mut pass: impl FnMut()) -> u64 {
    let links = attacked.parent().unwrap().join("links");
    fs::create_dir_all(&links).unwrap();
    let pairs: Vec<(PathBuf, PathBuf)> = (0..directories)
        .map(|d| {
            let link = links.join(format!("l{d}"));
            let _ = fs::remove_file(&link); // of the pass before
            symlink(s.join("sentinel"), &link).unwrap();
            (attacked.join(format!("d{d}")), link)
        })
        .collect();
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&pairs, &stop, &swaps));
        while swaps.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut pass));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    for (dir, link) in &pairs {
        if dir.is_symlink() {
            renameat_with(CWD, dir, CWD, link, RenameFlags::EXCHANGE).unwrap();
        }
    }
    swaps.into_inner()
}

fn assert_no_secret(tree: &Path) {
    // Symlinks are not followed: the attacker's own lead there, and may.
    let found = run(std::process::Command::new("grep").args(["-rl", SECRET]).arg(tree));
    assert_eq!(found.stdout, "", "the sentinel was read into the target");
}

const PASSES: [&[&str]; 4] = [&["copy"], &["sync", "--delete"], &["delete"], &["dirtime"]];

#[test]
fn a_source_that_is_swapped_for_a_symlink_never_leaks_what_it_leads_to() {
    assert_root();
    let s = Scratch::new();
    sentinel(&s.join("sentinel"));
    fs::create_dir(s.join("attack")).unwrap();
    let source = s.join("attack/src");
    decoy(&source, 12);
    let outside = snapshot(&s.join("sentinel"));
    for round in 0..4 {
        for pass in PASSES {
            let target = s.join(format!("dst{round}"));
            fs::create_dir_all(&target).unwrap();
            let swaps = under_attack(&s, &source, 12, || {
                let ran = run(treehaul().args(pass).arg("-q").args([&source, &target]));
                assert!(matches!(ran.code, 0 | 3), "{pass:?}: {} {}", ran.code, ran.stderr);
            });
            println!("{pass:?}: {swaps} swaps");
            assert_no_secret(&target);
        }
    }
    assert_eq!(snapshot(&s.join("sentinel")), outside);
}

#[test]
fn a_target_that_is_swapped_for_a_symlink_never_writes_or_removes_what_it_leads_to() {
    assert_root();
    let s = Scratch::new();
    sentinel(&s.join("sentinel"));
    fs::create_dir(s.join("attack")).unwrap();
    let (source, target) = (s.join("src"), s.join("attack/dst"));
    decoy(&source, 12);
    let outside = snapshot(&s.join("sentinel"));
    for round in 0..4 {
        for pass in PASSES {
            decoy(&target, 12);
            // Something that only the target has, of the sentinel's names.
            for d in 0..12 {
                let gone = target.join(format!("d{d}/gone"));
                fs::create_dir_all(&gone).unwrap();
                for i in 0..20 {
                    fs::write(gone.join(format!("f{i}")), "too much").unwrap();
                }
            }
            let swaps = under_attack(&s, &target, 12, || {
                let ran = run(treehaul().args(pass).arg("-q").args([&source, &target]));
                assert!(matches!(ran.code, 0 | 3), "{pass:?}: {} {}", ran.code, ran.stderr);
            });
            println!("round {round}, {pass:?}: {swaps} swaps");
            assert_eq!(snapshot(&s.join("sentinel")), outside, "{pass:?} reached the sentinel");
            sh(&format!("rm -rf {}", q(&target)));
        }
    }
}
