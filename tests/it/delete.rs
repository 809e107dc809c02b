//! `delete`: what only the target has goes, and nothing else.

use crate::hosts::Host;
use crate::support::*;
use crate::trouble::Mounted;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `treehaul delete --json ARGS`.
fn delete<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    run(treehaul().args(["delete", "--json"]).args(args))
}

/// Runs under strace, which makes system calls fail, or wait, as told.
fn delete_with(inject: &str, args: &[&OsStr]) -> Command {
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}"), env!("CARGO_BIN_EXE_treehaul")]);
    c.args(["delete", "--json", "--file-actors", "1", "--dir-actors", "1"]).args(args).env_remove("TREEHAUL_BROKER");
    c
}

/// Paths of everything in a tree, relative to it.
fn paths(root: &Path) -> BTreeSet<PathBuf> {
    snapshot(root).into_iter().map(|(path, ..)| path.strip_prefix(root).unwrap().to_owned()).collect()
}

/// What a snapshot says of everything that is no directory: those change with what is in them.
fn files_of(root: &Path) -> Vec<(PathBuf, u64, i64, i64, i64)> {
    let mut all = snapshot(root);
    all.retain(|(path, ..)| !fs::symlink_metadata(path).unwrap().is_dir());
    all
}

fn write(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, path.as_os_str().as_bytes()).unwrap();
}

/// A source of a few shared entries, and a target that has them and others.
fn small() -> (Scratch, PathBuf, PathBuf) {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    for shared in ["f", "a/f", "a/b/f", "c/d/e/f"] {
        write(&source.join(shared));
        write(&target.join(shared));
    }
    for extra in ["x1", "a/x2", "a/b/x3", "c/x4/5/6", "c/x4/7", "x8/9"] {
        write(&target.join(extra));
    }
    fs::create_dir_all(target.join("a/x10/empty")).unwrap();
    (s, source, target)
}

/// Extras of [`small`], directories among them.
const SMALL_EXTRAS: u64 = 11;

/// `dst` becomes a copy of `src`, and gets another exotic tree into several of its directories.
fn exotic_pair(s: &Scratch, seed: u64) -> (PathBuf, PathBuf) {
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, seed, 900);
    sh(&format!("cp -a {} {}", q(&source), q(&target)));
    exotic_tree(&s.join("other"), seed + 1, 300);
    let dirs: Vec<PathBuf> = paths(&source).into_iter().filter(|p| source.join(p).is_dir()).collect();
    for (i, dir) in dirs.iter().step_by(9).enumerate() {
        sh(&format!(
            "cp -a {} \"$(printf %b '{}')\"",
            q(&s.join("other")),
            octal(&target.join(dir).join(format!("extra{i}")))
        ));
        write(&target.join(dir).join("extra file"));
        symlink(&source, target.join(dir).join("extra link")).unwrap();
    }
    (source, target)
}

/// A path of any bytes for `printf %b`.
fn octal(path: &Path) -> String {
    path.as_os_str().as_bytes().iter().map(|b| format!("\\0{b:03o}")).collect()
}

#[test]
fn everything_that_only_the_target_has_goes_and_nothing_else() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = exotic_pair(&s, 51);
    // Deeper than any path that the system takes.
    sh(&format!(
        "cd {}; for i in $(seq 60); do d=$(printf %0200d $i); mkdir $d; touch $d.f; cd -P $d; done",
        q(&target)
    ));
    let only_target = paths_of_find(&target) - paths_of_find(&source);
    let before = (snapshot(&source), files_of(&source.clone()));
    let kept: Vec<_> = files_below(&target, &source);
    let ran = delete([&source, &target]);
    assert_eq!((ran.code, ran.total("failed")), (0, 0), "{}{}", ran.stdout, ran.stderr);
    assert_eq!((ran.total("deleted"), ran.total("extra")), (only_target, only_target));
    assert_eq!(ran.total("found"), ran.total("deleted") + ran.total("unchanged"));
    assert_eq!(ran.total("unchanged"), paths_of_find(&source));
    assert_eq!(before, (snapshot(&source), files_of(&source)), "the source is only read");
    assert_eq!(kept, files_below(&target, &source), "what the source has is not touched");
    let ran = run(treehaul().args(["dirtime", "--json"]).args([&source, &target]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_identical(&source, &target);
    let again = delete([&source, &target]);
    assert_eq!((again.code, again.total("deleted"), again.total("extra")), (0, 0, 0));
}

/// How many entries find(1) finds, the root among them.
fn paths_of_find(root: &Path) -> u64 {
    sh(&format!("find {} -printf . | wc -c", q(root))).trim().parse().unwrap()
}

/// Inode and times of the target's files that the source has, too.
fn files_below(target: &Path, source: &Path) -> Vec<(PathBuf, u64, i64, i64, i64)> {
    let of = |path: PathBuf| {
        let m = fs::symlink_metadata(target.join(&path)).unwrap();
        (!m.is_dir()).then(|| (path, m.ino(), m.ctime(), m.ctime_nsec(), m.mtime()))
    };
    paths(source).into_iter().filter_map(of).collect()
}

#[test]
fn what_is_of_another_kind_in_the_source_is_left_to_a_copy() {
    let (_s, source, target) = small();
    write(&source.join("file here"));
    write(&target.join("file here/dir there"));
    write(&source.join("dir here/f"));
    write(&target.join("dir here"));
    symlink("a", source.join("link here")).unwrap();
    write(&target.join("link here/f"));
    let ran = delete([&source, &target]);
    assert_eq!((ran.code, ran.total("deleted")), (0, SMALL_EXTRAS), "{}", ran.stdout);
    assert!(target.join("file here/dir there").exists() && target.join("link here/f").exists());
    assert!(target.join("dir here").is_file());
}

#[test]
fn a_dry_run_touches_nothing_and_says_what_would_go() {
    let (s, source, target) = small();
    write(&target.join("evil\u{1b}[31m\n"));
    let before = snapshot(&target);
    let report = s.join("report");
    let ran = run(treehaul().args(["delete", "-n", "--report"]).arg(&report).args([&source, &target]));
    assert_eq!((ran.code, &*ran.stderr), (0, ""));
    assert_eq!(before, snapshot(&target));
    let said: BTreeSet<&str> = ran.stdout.lines().filter_map(|l| l.strip_prefix("would delete ")).collect();
    assert!(said.contains("evil\\x1b[31m\\n") && said.contains("c/x4/5/6"), "{}", ran.stdout);
    assert!(ran.stdout.contains("12 would be deleted"), "{}", ran.stdout);
    let reported: Vec<serde_json::Value> =
        fs::read_to_string(&report).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(reported.iter().all(|f| f["what"] == "would delete"));
    assert_eq!(reported.iter().map(|f| f["path"].as_str().unwrap()).collect::<BTreeSet<_>>(), said);
    let json = delete(["-n".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert_eq!((json.total("extra"), json.total("deleted")), (SMALL_EXTRAS + 1, 0));
    assert_eq!(json.json()["findings"].as_array().unwrap().len(), 12);

    let had = paths(&target);
    assert_eq!(delete([&source, &target]).code, 0);
    let went: BTreeSet<String> = had
        .difference(&paths(&target))
        .map(|p| p.to_str().unwrap().replace('\u{1b}', "\\x1b").replace('\n', "\\n"))
        .collect();
    assert_eq!(went.iter().map(String::as_str).collect::<BTreeSet<_>>(), said, "what was said is what goes");
}

#[test]
fn whatever_the_source_answers_but_absence_keeps_what_it_may_have() {
    assert_root();
    let mut failed = 0;
    for (call, errors) in [
        ("getdents64", ["EIO", "ESTALE"]),
        ("openat", ["EIO", "EACCES"]),
        ("openat2", ["EIO", "EACCES"]),
        ("statx", ["EIO", "EACCES"]),
    ] {
        for error in errors {
            for nth in 1..14 {
                let (_s, source, target) = small();
                let shared = files_below(&target, &source);
                let args = [source.as_os_str(), target.as_os_str()];
                let ran = run(&mut delete_with(&format!("{call}:error={error}:when={nth}"), &args));
                assert_eq!(shared, files_below(&target, &source), "{call} {error} {nth}");
                let extras = paths(&target).difference(&paths(&source)).count();
                if extras > 0 {
                    assert_ne!(ran.code, 0, "{call} {error} {nth}: {extras} left: {}{}", ran.stdout, ran.stderr);
                }
                failed += usize::from(ran.code == 3);
                assert_eq!(delete([&source, &target]).code, 0);
                assert_eq!(paths(&target), paths(&source));
            }
        }
    }
    assert!(failed > 20, "hardly any fault hit the job: {failed}");
}

#[test]
fn a_source_directory_that_cannot_be_listed_keeps_everything_below_it() {
    assert_root();
    let (s, source, target) = small();
    fs::set_permissions(source.join("c"), fs::Permissions::from_mode(0o000)).unwrap();
    // A directory that its owner may not write into, shared and not.
    fs::set_permissions(target.join("a/b"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::set_permissions(target.join("x8"), fs::Permissions::from_mode(0o500)).unwrap();
    sh(&format!("chmod 755 {0}; chown -R 1000:1000 {0}/src {0}/dst", q(s.path())));
    let mut c = Command::new("setpriv");
    c.args(["--reuid=1000", "--regid=1000", "--clear-groups", env!("CARGO_BIN_EXE_treehaul"), "delete", "--json"]);
    let binary = Path::new(env!("CARGO_BIN_EXE_treehaul"));
    assert!(binary.ancestors().all(|dir| fs::metadata(dir).unwrap().mode() & 0o001 != 0), "everybody may run it");
    let ran = run(c.args([&source, &target]).env_remove("TREEHAUL_BROKER"));
    assert_eq!((ran.code, ran.total("failed")), (3, 1), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["failures"][0]["path"], "c");
    assert!(target.join("c/x4/5/6").exists() && target.join("c/x4/7").exists());
    assert_eq!(ran.total("deleted"), SMALL_EXTRAS - 4, "the rest goes");
    assert_eq!(fs::metadata(target.join("a/b")).unwrap().mode() & 0o7777, 0o500, "a mode that was in the way is kept");
}

#[test]
fn an_empty_source_is_refused_unless_it_may_be_empty() {
    let (s, source, target) = small();
    let empty = s.join("empty");
    fs::create_dir_all(empty.join(".treehaul")).unwrap();
    let before = snapshot(&target);
    for root in [empty.as_os_str(), "synth://?entries=0".as_ref()] {
        let ran = delete([root, target.as_os_str()]);
        assert_eq!(ran.code, 2);
        assert!(
            ran.stderr.contains("the source is empty") && ran.stderr.contains("--allow-empty-source"),
            "{}",
            ran.stderr
        );
    }
    let gone = delete([&s.join("no such"), &target]);
    assert_eq!(gone.code, 2);
    let other = delete([&source, &s.join("no such")]);
    assert_eq!(other.code, 2, "{}", other.stderr);
    assert!(!s.join("no such").exists());
    assert_eq!(before, snapshot(&target));
    let ran = delete(["--allow-empty-source".as_ref(), empty.as_os_str(), target.as_os_str()]);
    assert_eq!((ran.code, ran.total("failed")), (0, 0), "{}", ran.stderr);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn a_source_that_is_taken_away_ends_the_job() {
    assert_root();
    for emptied_only in [false, true] {
        let (_s, source, target) = small();
        for i in 0..200 {
            write(&target.join(format!("many{i}/extra")));
        }
        let args = [source.as_os_str(), target.as_os_str()];
        let job =
            delete_with("unlinkat:delay_enter=20000", &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let job = job.unwrap();
        let left =
            || fs::read_dir(&target).unwrap().filter(|e| e.as_ref().unwrap().path().join("extra").exists()).count();
        while left() == 200 {
            std::thread::yield_now();
        }
        sh(&format!("rm -rf {}{}", q(&source), if emptied_only { "/*" } else { "" }));
        let output = job.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains(if emptied_only { "became empty" } else { "replaced or removed" }), "{said}");
        assert!(target.join("c/d/e/f").exists() && left() > 50, "{} left", left());
    }
}

#[test]
fn more_than_may_go_is_nothing_that_goes() {
    let (_s, source, target) = small();
    let before = snapshot(&target);
    // 11 extras of 20 entries, the root not among them: 55 percent.
    for (limit, says) in [("10", "allows 10:"), ("54.9%", "allows 54.9%:"), ("1%", "allows 1%:")] {
        let ran = delete(["--max-delete".as_ref(), limit.as_ref(), source.as_os_str(), target.as_os_str()]);
        assert_eq!((ran.code, ran.total("deleted")), (4, 0), "{}", ran.stderr);
        assert!(ran.stderr.contains("11 of 20 entries") && ran.stderr.contains(says), "{}", ran.stderr);
        assert_eq!(before, snapshot(&target));
    }
    for bad in ["0", "0%", "101%", "many", "-3"] {
        let ran = delete([format!("--max-delete={bad}").as_ref(), source.as_os_str(), target.as_os_str()]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert_eq!(ran.stderr.contains("would never delete anything"), bad.starts_with('0'), "{}", ran.stderr);
    }
    assert_eq!(before, snapshot(&target));
    for limit in ["55%", "11"] {
        let ran = delete(["--max-delete".as_ref(), limit.as_ref(), source.as_os_str(), target.as_os_str()]);
        assert_eq!((ran.code, ran.total("deleted")), (0, SMALL_EXTRAS), "{}", ran.stderr);
        assert_eq!(paths(&source), paths(&target));
        let (_keep, _, fresh) = small();
        sh(&format!("rm -r {0}; cp -a {1} {0}", q(&target), q(&fresh)));
    }
}

#[test]
fn three_workers_remove_the_same_and_the_limit_is_the_fleets() {
    assert_root();
    let host = Host::new("delete");
    let s = Scratch::new();
    let (source, target) = exotic_pair(&s, 53);
    let extras = paths_of_find(&target) - paths_of_find(&source);
    let all = paths_of_find(&target) - 1;
    let _workers = ["a", "b", "c"].map(|n| host.worker(n));
    let run_with = |args: &[&str]| run(host.pass("delete", &source, &target).args(args));
    let before = files_of(&target);
    for limit in [(extras - 1).to_string(), format!("{:.3}%", extras as f64 * 100.0 / all as f64 - 0.01)] {
        let ran = run_with(&["--max-delete", &limit]);
        assert_eq!((ran.code, ran.total("deleted")), (4, 0), "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("{extras} of {all} entries")), "{}", ran.stderr);
        assert_eq!(before, files_of(&target));
        assert_no_leftovers(&target);
    }
    let dry = run_with(&["-n"]);
    assert_eq!((dry.code, dry.total("extra"), dry.total("deleted")), (0, extras, 0), "{}", dry.stderr);
    assert_eq!(before, files_of(&target));
    let root = fs::metadata(&target).unwrap().modified().unwrap();
    let ran = run_with(&["--max-delete", &extras.to_string()]);
    assert_eq!((ran.code, ran.total("deleted")), (0, extras), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.total("found"), ran.total("deleted") + ran.total("unchanged"));
    assert_eq!(paths(&source), paths(&target));
    let again = run_with(&[]);
    assert_eq!((again.code, again.total("deleted")), (0, 0));
    assert_ne!(root, fs::metadata(&target).unwrap().modified().unwrap(), "entries of the root went");
    let root = fs::metadata(&target).unwrap().modified().unwrap();
    assert_eq!(run_with(&[]).code, 0);
    assert_eq!(root, fs::metadata(&target).unwrap().modified().unwrap(), "the hidden directory does not show");
    let ran = run(&mut host.pass("dirtime", &source, &target));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_identical(&source, &target);
}

#[test]
fn killed_workers_cost_nothing_but_time() {
    assert_root();
    let host = Host::new("delete-killed");
    let s = Scratch::new();
    let (source, target) = exotic_pair(&s, 55);
    let trash = s.join("trash");
    fs::create_dir(&trash).unwrap();
    let had = paths(&target);
    let mut job = host
        .pass("delete", &source, &target)
        .arg("--trash")
        .arg(&trash)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Directories go while they are counted.
    let count =
        || sh(&format!("(find {} -printf . || true) 2>/dev/null | wc -c", q(&target))).trim().parse::<u64>().unwrap();
    let before = count();
    let mut worker = host.worker("k0");
    for round in 1..4 {
        while job.try_wait().unwrap().is_none() && count() > before - 150 * round {
            std::thread::yield_now();
        }
        assert!(round > 1 || job.try_wait().unwrap().is_none(), "the first is killed while it works");
        drop(worker);
        worker = host.worker(&format!("k{round}"));
    }
    let output = job.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(paths(&source), paths(&target));
    assert_eq!(paths(&source).union(&paths(&trash)).cloned().collect::<BTreeSet<_>>(), had, "nothing is lost");
    assert_no_leftovers(s.path());
    drop(worker);
}

fn with_trash(trash: &Path, source: &Path, target: &Path) -> Ran {
    delete(["--trash".as_ref(), trash.as_os_str(), source.as_os_str(), target.as_os_str()])
}

#[test]
fn the_trash_takes_everything_under_the_path_that_it_had() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = exotic_pair(&s, 57);
    let trash = s.join("trash");
    fs::create_dir(&trash).unwrap();
    let before = s.join("before");
    sh(&format!("cp -a {} {}", q(&target), q(&before)));
    let extras = paths_of_find(&target) - paths_of_find(&source);
    let ran = with_trash(&trash, &source, &target);
    assert_eq!((ran.code, ran.total("deleted")), (0, extras), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(paths(&source), paths(&target));
    // Source and trash together are what the target was. Directories above what went are of both.
    let merged: BTreeSet<PathBuf> = paths(&source).union(&paths(&trash)).cloned().collect();
    assert_eq!(merged, paths(&before));
    let went: Vec<PathBuf> = paths(&before).difference(&paths(&source)).cloned().collect();
    for path in
        went.iter().filter(|p| p.components().next_back().unwrap().as_os_str().to_string_lossy().starts_with("extra"))
    {
        let (was, is) = (before.join(path), trash.join(path));
        if was.is_dir() && !was.is_symlink() {
            assert_identical(&was, &is);
        } else {
            assert_eq!(fs::symlink_metadata(&was).unwrap().mode(), fs::symlink_metadata(&is).unwrap().mode());
        }
    }
    // Directories that were made only to hold what went have the attributes of the target's.
    for dir in paths(&trash).intersection(&paths(&source)).filter(|p| !p.as_os_str().is_empty()) {
        let (was, is) = (fs::metadata(target.join(dir)).unwrap(), fs::metadata(trash.join(dir)).unwrap());
        assert_eq!((was.mode(), was.uid(), was.gid()), (is.mode(), is.uid(), is.gid()), "{}", dir.display());
    }
}

#[test]
fn nothing_in_the_trash_is_ever_replaced() {
    assert_root();
    for inject in [None, Some("renameat2:error=EINVAL"), Some("renameat2:error=ENOSYS")] {
        let (s, source, target) = small();
        let trash = s.join("trash");
        fs::create_dir(&trash).unwrap();
        let long = "l".repeat(255);
        for round in 0..3 {
            for name in ["x", "d/x", &long] {
                write(&target.join(name));
                fs::write(target.join(name), format!("round {round}")).unwrap();
            }
            let args = ["--trash".as_ref(), trash.as_os_str(), source.as_os_str(), target.as_os_str()];
            let ran = match inject {
                None => delete(args),
                Some(inject) => run(&mut delete_with(inject, &args)),
            };
            assert_eq!((ran.code, ran.total("failed")), (0, 0), "{}{}", ran.stdout, ran.stderr);
            assert_eq!(paths(&source), paths(&target));
        }
        // A directory where a file lies, and a file where a directory lies.
        write(&target.join("x/below"));
        write(&target.join("d"));
        assert_eq!(with_trash(&trash, &source, &target).code, 0);
        let text = |name: &str| fs::read_to_string(trash.join(name)).unwrap();
        for (round, suffix) in [(0, ""), (1, ".~1~"), (2, ".~2~")] {
            assert_eq!(text(&format!("x{suffix}")), format!("round {round}"));
            assert_eq!(text(&format!("d/x{suffix}")), format!("round {round}"));
            assert_eq!(text(&format!("{}{suffix}", &long[suffix.len()..])), format!("round {round}"));
        }
        assert!(text("x.~3~/below").ends_with("x/below") && text("d.~1~").ends_with("/d"));
        assert_no_leftovers(&trash);
    }
}

#[test]
fn a_trash_inside_the_target_is_no_extra() {
    let (_s, source, target) = small();
    for trash in [target.join("trash"), target.join("hidden/deep/trash")] {
        fs::create_dir_all(&trash).unwrap();
        write(&trash.join("old"));
        write(&target.join("again/x"));
        let dry =
            delete(["-n".as_ref(), "--trash".as_ref(), trash.as_os_str(), source.as_os_str(), target.as_os_str()]);
        let ran = with_trash(&trash, &source, &target);
        assert_eq!((ran.code, ran.total("failed")), (0, 0), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.total("deleted"), dry.total("extra"));
        assert!(trash.join("old").exists() && trash.join("again/x").exists());
        assert!(!target.join("again").exists());
        assert_eq!(with_trash(&trash, &source, &target).total("deleted"), 0, "what is in it stays");
        sh(&format!("rm -rf {}", q(&trash)));
    }
}

#[test]
fn a_trash_that_cannot_be_used_is_refused_before_anything_is_touched() {
    assert_root();
    let (s, source, target) = small();
    let mounted = Mounted::tmpfs(&s.join("elsewhere"), "size=1m");
    let before = snapshot(&target);
    for (trash, says) in [
        (mounted.0.clone(), "not on the target's filesystem"),
        (s.join("missing"), "mkdir -p"),
        (source.join("f"), "is a file"),
        (source.join("a"), "lies inside the source"),
        (target.clone(), "is the target itself"),
    ] {
        let ran = with_trash(&trash, &source, &target);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("trash ") && ran.stderr.contains(says), "{}", ran.stderr);
    }
    assert_eq!(before, snapshot(&target));
}

#[test]
fn a_directory_as_wide_as_any_is_emptied_in_little_memory() {
    assert_root();
    let s = Scratch::new();
    let mounted = Mounted::tmpfs(&s.join("memory"), "size=1g");
    let (source, target) = (mounted.0.join("src"), mounted.0.join("dst"));
    write(&source.join("wide/f"));
    write(&target.join("wide/f"));
    sh(&format!("cd {}/wide; seq -f extra-%.0f 300000 | xargs touch", q(&target)));
    let mut c = Command::new("/usr/bin/time");
    c.args(["-f", "%M", env!("CARGO_BIN_EXE_treehaul"), "delete", "--json"]).args([&source, &target]);
    let ran = run(c.env_remove("TREEHAUL_BROKER"));
    assert_eq!((ran.code, ran.total("deleted")), (0, 300_000), "{}", ran.stderr);
    let kib: u64 = ran.stderr.lines().last().and_then(|l| l.trim().parse().ok()).expect("time's figure");
    assert!(kib <= 64 << 10, "{} MiB", kib >> 10);
    assert_eq!(paths(&source), paths(&target));
}

#[test]
fn a_source_directory_of_too_many_names_is_asked_for_each() {
    assert_root();
    let s = Scratch::new();
    let mounted = Mounted::tmpfs(&s.join("memory"), "size=1g");
    let (source, target) = (mounted.0.join("src"), mounted.0.join("dst"));
    write(&source.join("wide/f"));
    sh(&format!("cd {}/wide; seq 140000 | xargs touch; cp -a {0} {1}", q(&source), q(&target)));
    write(&target.join("wide/extra/below"));
    write(&target.join("wide/1x"));
    let ran = delete([&source, &target]);
    assert_eq!((ran.code, ran.total("deleted"), ran.total("unchanged")), (0, 3, 140_003), "{}", ran.stderr);
    assert_eq!(paths(&source), paths(&target));
}

#[test]
fn working_files_of_dead_runs_go_with_the_directory_and_those_of_living_ones_stay() {
    let (_s, source, target) = small();
    let (dead, alive) = ("0123456789abc", "0123456789abd");
    let left = |dir: &str, job: &str| target.join(dir).join(format!(".treehaul-{job}-0123456789abc-1f"));
    for dir in ["a", "x8"] {
        fs::write(left(dir, dead), "half a file").unwrap();
    }
    fs::write(left("c/x4", alive), "half a file").unwrap();
    fs::create_dir_all(target.join(format!(".treehaul/{alive}"))).unwrap();
    let lock = fs::File::open(target.join(format!(".treehaul/{alive}"))).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    let ran = delete([&source, &target]);
    assert_eq!((ran.code, ran.total("leftovers_removed")), (0, 2), "{}", ran.stdout);
    assert!(!left("a", dead).exists() && !target.join("x8").exists());
    assert!(left("c/x4", alive).exists() && !target.join("c/x4/5").exists());
    drop(lock);
    assert_eq!(delete([&source, &target]).code, 0);
    assert_eq!(paths(&source), paths(&target));
}

#[test]
fn a_source_that_is_mounted_into_the_target_is_not_emptied() {
    assert_root();
    let (_s, source, target) = small();
    let before = snapshot(&source);
    for at in ["bound", "x8/bound"] {
        fs::create_dir_all(target.join(at)).unwrap();
        sh(&format!("mount --bind {} {}", q(&source), q(&target.join(at))));
        let bound = Mounted(target.join(at));
        let ran = delete([&source, &target]);
        assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(at), "{}", ran.stderr);
        assert_eq!(before, snapshot(&source));
        drop(bound);
    }
}

#[test]
fn a_file_is_no_source_of_a_deletion() {
    let (_s, source, target) = small();
    let before = snapshot(&target);
    let ran = delete([&source.join("f"), &target]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(before, snapshot(&target));
}

#[test]
fn what_a_filter_leaves_out_is_protected_unless_it_is_to_go_too() {
    let (_s, source, target) = small();
    for shared in ["both.keep", "kept/f", "kept/sub/f"] {
        write(&source.join(shared));
        write(&target.join(shared));
    }
    for extra in ["x8/deep/only.keep", "x8/deep/other", "kept/sub/x"] {
        write(&target.join(extra));
    }
    let filter = ["--exclude=*.keep", "--exclude=kept"].map(OsStr::new);
    let roots = [source.as_os_str(), target.as_os_str()];
    let ran = delete(filter.into_iter().chain(roots));
    assert_eq!((ran.code, ran.total("failed")), (0, 0), "{}", ran.stderr);
    let left: Vec<PathBuf> = paths(&target).difference(&paths(&source)).cloned().collect();
    assert_eq!(left, ["kept/sub/x", "x8", "x8/deep", "x8/deep/only.keep"].map(PathBuf::from));
    assert_eq!(ran.total("filtered"), 3, "both.keep, kept, only.keep: {}", ran.stdout);

    let ran = delete(filter.into_iter().chain([OsStr::new("--delete-excluded")]).chain(roots));
    assert_eq!((ran.code, ran.total("failed"), ran.total("deleted")), (0, 0, 9), "{}", ran.stdout);
    let gone: Vec<PathBuf> = paths(&source).difference(&paths(&target)).cloned().collect();
    assert_eq!(gone, ["both.keep", "kept", "kept/f", "kept/sub", "kept/sub/f"].map(PathBuf::from));
    assert_eq!(paths(&target).difference(&paths(&source)).count(), 0);
}

#[test]
fn what_the_source_has_and_a_filter_takes_stays_whatever_the_targets_attributes_are() {
    let (_s, source, target) = small();
    fs::write(source.join("small"), "x").unwrap();
    // Of an older pass: too large for the filter, but it is the source's that counts.
    fs::write(target.join("small"), vec![0; 5000]).unwrap();
    fs::write(target.join("large"), vec![0; 5000]).unwrap();
    let before = target.join("small").metadata().unwrap().ino();
    let ran =
        delete([OsStr::new("--delete-excluded"), "--max-size=1000".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(target.join("small").metadata().unwrap().ino(), before);
    assert!(!target.join("large").exists());
}

#[test]
fn a_part_of_the_source_or_a_new_volume_mounted_in_the_target_is_never_emptied() {
    assert_root();
    let (_s, source, target) = small();
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/precious"), "x").unwrap();
    for pass in [&["delete"][..], &["sync", "--delete"]] {
        fs::create_dir_all(target.join("x9/bound")).unwrap();
        sh(&format!("mount --bind {} {}", q(&source.join("sub")), q(&target.join("x9/bound"))));
        let bound = Mounted(target.join("x9/bound"));
        let ran = run(treehaul().args(pass).args(["--json"]).args([&source, &target]));
        assert_eq!(ran.code, 3, "{pass:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("mounted here"), "{}", ran.stderr);
        assert!(source.join("sub/precious").exists(), "{pass:?}");
        drop(bound);
    }
}

#[test]
fn a_full_directory_is_not_replaced_where_something_in_it_may_be_protected_or_counted() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(target.join("x")).unwrap();
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("x"), "a file now").unwrap();
    fs::write(target.join("x/a.log"), "protected").unwrap();
    for args in [
        &["copy", "--exclude=*.log"][..],
        &["sync", "--delete", "--exclude=*.log"],
        &["sync", "--delete", "--max-delete=1"],
        &["sync"],
    ] {
        let ran = run(treehaul().args(args).args([&source, &target]));
        assert_eq!(ran.code, 3, "{args:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains("not empty"), "{args:?}: {}", ran.stderr);
        assert!(target.join("x/a.log").exists(), "{args:?}");
    }
    assert_eq!(run(treehaul().args(["sync", "--delete"]).args([&source, &target])).code, 0);
    assert_identical(&source, &target);
}

#[test]
fn a_directory_with_a_mount_in_it_is_not_replaced() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(target.join("x/m")).unwrap();
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("x"), "a file now").unwrap();
    sh(&format!("mount -t tmpfs none {0}; echo data > {0}/f", q(&target.join("x/m"))));
    let mounted = Mounted(target.join("x/m"));
    let ran = copy([&source, &target]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(target.join("x/m/f").exists());
    assert_no_leftovers(&target);
    drop(mounted);
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn a_dry_run_says_that_the_limit_would_stop_it() {
    let (_s, source, target) = small();
    let ran = delete([OsStr::new("-n"), "--max-delete=1".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert_eq!(ran.code, 4, "{}", ran.stdout);
    assert!(ran.stderr.contains("a real run would remove nothing"), "{}", ran.stderr);
}

#[test]
fn nothing_can_be_too_much_beside_a_single_file() {
    let (_s, source, target) = small();
    let before = snapshot(&target);
    let ran = run(treehaul().args(["sync", "--delete"]).args([&source.join("f"), &target]));
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert_eq!(snapshot(&target), before);
}
