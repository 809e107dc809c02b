//! Passes that trust the source's times since an earlier one.

use crate::support::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Now, as the option takes it, surely after everything that was done before and before everything that is done
/// after: the kernel stamps files with the time of its last tick.
fn now(dir: &Path) -> String {
    let stamp = |name: &str| {
        let path = dir.join(name);
        fs::write(&path, "").unwrap();
        let m = fs::metadata(&path).unwrap();
        fs::remove_file(&path).unwrap();
        (m.ctime(), m.ctime_nsec())
    };
    let first = stamp("tick");
    loop {
        let (sec, ns) = stamp("tick");
        if (sec, ns) > first {
            // Whatever comes has at least this time.
            return format!("@{sec}.{ns:09}");
        }
    }
}

fn copy_since(source: &Path, target: &Path, since: &str) -> Ran {
    let ran = copy([
        source.as_os_str(),
        target.as_os_str(),
        "--since".as_ref(),
        since.as_ref(),
        "--since-margin".as_ref(),
        "0".as_ref(),
    ]);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    ran
}

/// So that no name is made twice.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// Changes of every sort that people make between two passes, anywhere in the tree.
fn change(source: &Path, r: &mut Random) {
    let all = sh(&format!("cd {} && find . -mindepth 1 -print0 | sort -z | tr '\\0' '\\001'", q(source)));
    let names: Vec<&str> = all.split('\u{1}').filter(|n| !n.is_empty() && !n.contains('\u{fffd}')).collect();
    let mut pick = |what: &dyn Fn(&Path) -> bool| {
        (0..200)
            .map(|_| source.join(names[r.below(names.len() as u64) as usize]))
            .find(|p| fs::symlink_metadata(p).is_ok() && what(p))
    };
    let is_dir = |p: &Path| p.symlink_metadata().is_ok_and(|m| m.is_dir());
    let is_file = |p: &Path| p.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() < 1 << 20);
    for round in 0..6 {
        let unique = NAMES.fetch_add(1, Ordering::Relaxed);
        let (Some(file), Some(dir), Some(other)) = (pick(&is_file), pick(&is_dir), pick(&is_dir)) else { continue };
        let fresh = format!("new {round} {:x}", unique);
        match round {
            0 => fs::write(&file, "other contents").unwrap(),
            // With its times put back: only the change time tells.
            1 => drop(sh(&format!(
                "touch -r {0} {1}/.t; printf x >> {0}; touch -r {1}/.t {0}; rm {1}/.t",
                quoted(&file),
                q(source.parent().unwrap())
            ))),
            2 if !other.starts_with(&dir) => drop(fs::rename(&dir, other.join(&fresh))),
            3 => drop(fs::rename(&file, dir.join(&fresh))),
            4 => drop(fs::hard_link(&file, dir.join(&fresh))),
            _ => {
                symlink("/nowhere", dir.join(&fresh)).unwrap();
                sh(&format!("chmod 700 {0}; chown 12:13 {0}", quoted(&file)));
            }
        }
    }
}

/// Quotes a path of any printable characters for a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_str().expect("UTF-8").replace('\'', "'\\''"))
}

#[test]
fn nothing_that_changed_since_the_last_pass_is_missed() {
    assert_root();
    for seed in 40..52 {
        println!("seed {seed}");
        let s = Scratch::new();
        let (source, target) = (s.join("src"), s.join("dst"));
        exotic_tree(&source, seed, 400);
        let mut r = Random(seed);
        let start = now(s.path());
        copy_ok(&source, &target);
        change(&source, &mut r);
        let second = now(s.path());
        copy_since(&source, &target, &start);
        settle(&source, &target);
        assert_identical(&source, &target);
        change(&source, &mut r);
        copy_since(&source, &target, &second);
        settle(&source, &target);
        assert_identical(&source, &target);
    }
}

/// Takes away what only the target has; after that nothing is left to be copied.
fn settle(source: &Path, target: &Path) {
    let ran = run(treehaul().args(["delete", "-q"]).args([source, target]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let ran = copy_ok(source, target);
    assert_eq!(ran.total("copied"), 0, "the pass before missed something: {}", ran.stdout);
}

#[test]
fn a_directory_that_was_moved_with_everything_old_in_it_is_copied_whole() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(source.join("a/deep/er")).unwrap();
    fs::create_dir_all(source.join("b/deep/er")).unwrap();
    for dir in ["a", "b"] {
        // Of different sizes: they are made within one tick of the clock.
        fs::write(source.join(dir).join("deep/er/f"), dir.repeat(1 + usize::from(dir == "b"))).unwrap();
    }
    fs::hard_link(source.join("a/deep/er/f"), source.join("b/deep/link")).unwrap();
    copy_ok(&source, &target);
    let start = now(s.path());
    // Each takes the other's place: the target has directories of these names, with other things in them.
    fs::rename(source.join("a"), source.join("c")).unwrap();
    fs::rename(source.join("b"), source.join("a")).unwrap();
    fs::rename(source.join("c"), source.join("b")).unwrap();
    copy_since(&source, &target, &start);
    assert_eq!(fs::read_to_string(target.join("a/deep/er/f")).unwrap(), "bb");
    settle(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn what_did_not_change_is_not_looked_at_in_the_target() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(source.join("quiet")).unwrap();
    fs::create_dir_all(source.join("busy")).unwrap();
    fs::write(source.join("quiet/f"), "x").unwrap();
    fs::write(source.join("busy/f"), "x").unwrap();
    copy_ok(&source, &target);
    let start = now(s.path());
    fs::write(source.join("busy/g"), "x").unwrap();
    // Somebody else's work in the target: under the conditions of the option it would not be there.
    fs::remove_file(target.join("quiet/f")).unwrap();
    let ran = copy_since(&source, &target, &start);
    assert_eq!((ran.total("copied"), target.join("quiet/f").exists()), (1, false), "{}", ran.stdout);
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn a_time_in_the_future_or_a_job_that_nobody_knows_is_refused() {
    let s = Scratch::new();
    fs::create_dir(s.join("src")).unwrap();
    for (since, said) in
        [("2999-01-01T00:00:00Z", "future"), ("0000000000000", "job"), ("yesterdayish", "yesterdayish")]
    {
        let ran = copy([s.join("src").as_os_str(), s.join("dst").as_os_str(), "--since".as_ref(), since.as_ref()]);
        assert_eq!(ran.code, 2, "{since}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{since}: {}", ran.stderr);
        assert!(!s.join("dst").exists());
    }
}

#[test]
fn the_last_complete_job_may_be_named() {
    let s = Scratch::new();
    let (source, target, state) = (s.join("src"), s.join("dst"), s.join("state"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    let with_state = |args: &[&std::ffi::OsStr]| {
        run(treehaul().env("TREEHAUL_STATE_DIR", &state).args(["copy", "--json"]).args(args))
    };
    let first = with_state(&[source.as_os_str(), target.as_os_str()]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let job = first.json()["job"].as_str().unwrap().to_owned();
    fs::write(source.join("g"), "y").unwrap();
    let again = with_state(&[source.as_os_str(), target.as_os_str(), "--since".as_ref(), job.as_ref()]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert_identical(&source, &target);
    let elsewhere = with_state(&[source.as_os_str(), s.join("other").as_os_str(), "--since".as_ref(), job.as_ref()]);
    assert_eq!(elsewhere.code, 2, "{}", elsewhere.stderr);
    assert!(elsewhere.stderr.contains(&job), "{}", elsewhere.stderr);
    assert!(!s.join("other").exists());
}

#[test]
fn what_was_mounted_since_is_copied_whole() {
    assert_root();
    let s = Scratch::new();
    let (source, target, volume) = (s.join("src"), s.join("dst"), s.join("volume"));
    fs::create_dir_all(source.join("point")).unwrap();
    fs::create_dir_all(volume.join("deep")).unwrap();
    fs::write(volume.join("deep/f"), "x").unwrap();
    copy_ok(&source, &target);
    let start = now(s.path());
    sh(&format!("mount --bind {} {}", q(&volume), q(&source.join("point"))));
    let mounted = crate::trouble::Mounted(source.join("point"));
    copy_since(&source, &target, &start);
    assert_identical(&source, &target);
    drop(mounted);
}

#[test]
fn a_job_that_looked_at_some_paths_only_is_no_basis() {
    let s = Scratch::new();
    let (source, target, list) = (s.join("src"), s.join("dst"), s.join("list"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    fs::write(source.join("g"), "y").unwrap();
    fs::write(&list, "f\n").unwrap();
    let state = s.join("state");
    let with = |option: &str, value: &std::ffi::OsStr| {
        let mut c = treehaul();
        c.env("TREEHAUL_STATE_DIR", &state).args(["copy", "--json", option]).arg(value).args([&source, &target]);
        run(&mut c)
    };
    let job = with("--files-from", list.as_os_str()).json()["job"].as_str().unwrap().to_owned();
    assert_eq!(with("--since", job.as_ref()).code, 2);
}
