//! What takes part in a copy.

use crate::support::*;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn pair() -> (Scratch, PathBuf, PathBuf) {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    (s, source, target)
}

/// Makes files of two bytes, with their directories; a name that ends with a slash is a directory.
fn make(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x\n").unwrap();
        }
    }
}

/// Every entry below a root, escaped; directories with a slash.
fn listed(root: &Path) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let is_dir = entry.file_type().unwrap().is_dir();
            let path = entry.path();
            let shown = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
            all.insert(if is_dir { shown + "/" } else { shown });
            pending.extend(is_dir.then_some(path));
        }
    }
    all
}

fn copy_with<S: AsRef<OsStr>>(source: &Path, target: &Path, options: &[S]) -> Ran {
    let roots = [source.as_os_str().to_owned(), target.as_os_str().to_owned()];
    let ran = copy(options.iter().map(|o| o.as_ref().to_owned()).chain(roots));
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert_no_leftovers(target);
    ran
}

/// Copies into a new target with these options, and insists on what arrives.
fn expect<S: AsRef<OsStr>>(source: &Path, options: &[S], expected: &[&str]) {
    let s = Scratch::new();
    let target = s.join("dst");
    copy_with(source, &target, options);
    let shown: Vec<_> = options.iter().map(|o| o.as_ref().as_bytes().escape_ascii().to_string()).collect();
    let expected: BTreeSet<String> = expected.iter().map(|e| (*e).to_owned()).collect();
    assert_eq!(listed(&target), expected, "{shown:?}");
}

#[test]
fn globs_and_regexes_leave_out_what_they_should() {
    let (_s, source, _) = pair();
    make(&source, &["a.o", "a.c", "b/a.o", "b/keep.o", "b/c/a.c", "cache/x", "b/cache/y", "b/cachet"]);
    fs::write(source.join(OsStr::from_bytes(b"\xff.o")), "x").unwrap();
    let all = [
        "\\xff.o",
        "a.c",
        "a.o",
        "b/",
        "b/a.o",
        "b/c/",
        "b/c/a.c",
        "b/cache/",
        "b/cache/y",
        "b/cachet",
        "b/keep.o",
        "cache/",
        "cache/x",
    ];
    let without = |gone: &[&str]| all.iter().copied().filter(|e| !gone.contains(e)).collect::<Vec<_>>();
    expect::<&str>(&source, &[], &all);
    expect(&source, &["--exclude=*.o"], &without(&["a.o", "b/a.o", "b/keep.o", "\\xff.o"]));
    expect(&source, &["--include=keep.o", "--exclude=*.o"], &without(&["a.o", "b/a.o", "\\xff.o"]));
    expect(&source, &["--exclude=/a.?"], &without(&["a.o", "a.c"]));
    expect(&source, &["--exclude=cache/"], &without(&["cache/", "cache/x", "b/cache/", "b/cache/y"]));
    expect(&source, &["--exclude=cache/**"], &without(&["cache/x", "b/cache/y"]));
    expect(&source, &["--exclude=/b/***"], &["\\xff.o", "a.c", "a.o", "cache/", "cache/x"]);
    expect(&source, &["--include=*.{c,h}"], &["a.c", "b/", "b/c/", "b/c/a.c", "b/cache/", "cache/"]);
    expect(&source, &["--exclude-regex=^b/.*[ey]/$"], &without(&["b/cache/", "b/cache/y"]));
    expect(&source, &["--exclude-regex=^.\\.o$"], &without(&["a.o", "\\xff.o"]));
    expect(
        &source,
        &["--include-regex=^b/c/", "--exclude=*.?"],
        &["b/", "b/c/", "b/c/a.c", "b/cache/", "b/cache/y", "b/cachet", "cache/", "cache/x"],
    );
    let raw = OsString::from(OsStr::from_bytes(b"--exclude=\xff*"));
    expect(&source, &[raw], &without(&["\\xff.o"]));
}

#[test]
fn rsync_leaves_out_the_same() {
    let (_s, source, target) = pair();
    make(
        &source,
        &[
            "a.o",
            "a.c",
            "Z.txt",
            "b.txt",
            "d/a.o",
            "d/keep.o",
            "d/e/f/x.c",
            "e/d/x",
            "cache/x",
            "d/cache/y",
            "d/cachet",
            "xaz",
            "xa/bz",
            "tmp/1",
            "d/tmp/2",
            "build/o",
            "d/build/o",
            "empty/",
        ],
    );
    // rsync takes times of one second for equal.
    sh(&format!("find {} -exec touch -d 2020-01-01 {{}} +", q(&source)));
    let sets: [&[&str]; 14] = [
        &["--exclude=*.o"],
        &["--include=keep.o", "--exclude=*.o"],
        &["--exclude=/build"],
        &["--exclude=/build", "--include=build", "--exclude=d/*"],
        &["--exclude=cache/"],
        &["--exclude=e/f"],
        &["--exclude=d/**"],
        &["--exclude=d/***"],
        &["--include=*/", "--include=*.c", "--exclude=*"],
        &["--exclude=[a-c]*"],
        &["--exclude=[!a-c[:upper:]]*.txt", "--exclude=?.c"],
        &["--exclude=x**z"],
        &["--exclude=**/tmp"],
        &["--include=/d/", "--include=/d/e/***", "--exclude=*"],
    ];
    for (i, options) in sets.iter().enumerate() {
        let theirs = target.with_extension(format!("rsync{i}"));
        let ours = target.with_extension(format!("ours{i}"));
        let ran = run(Command::new("rsync").arg("-a").args(*options).arg(source.join("")).arg(&theirs));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        copy_with(&source, &ours, options);
        assert_eq!(listed(&ours), listed(&theirs), "{options:?}");
        assert_identical(&theirs, &ours);
    }
}

#[test]
fn rules_from_a_file_stand_where_the_file_is_named() {
    let (s, source, _) = pair();
    make(&source, &["a.o", "keep.o", "b.o", "c.tmp"]);
    let rules = s.join("rules");
    fs::write(&rules, "# objects\n+ keep.o\n; and\n\n- *.o\n").unwrap();
    let from = format!("--filter-from={}", rules.display());
    expect(&source, &[from.as_str(), "--exclude=*.tmp"], &["keep.o"]);
    expect(&source, &["--include=b.*", &from, "--exclude=*.tmp"], &["b.o", "keep.o"]);
    expect(&source, &["--exclude=keep.*", &from], &["c.tmp"]);
}

#[test]
fn what_is_filtered_stays_as_it_is_in_the_target() {
    let (_s, source, target) = pair();
    make(&source, &["a", "skip/x", "b.tmp"]);
    make(&target, &["skip/mine", "b.tmp"]);
    let (dir, file) = (target.join("skip"), target.join("b.tmp"));
    sh(&format!("touch -d 2001-01-01 {} {}", q(&dir), q(&file)));
    let before = [&dir, &file].map(|p| fs::metadata(p).map(|m| (m.ino(), m.ctime_nsec(), m.mtime())).unwrap());
    copy_with(&source, &target, &["--exclude=skip", "--exclude=*.tmp"]);
    let after = [&dir, &file].map(|p| fs::metadata(p).map(|m| (m.ino(), m.ctime_nsec(), m.mtime())).unwrap());
    assert_eq!(before, after);
    assert!(target.join("a").exists() && target.join("skip/mine").exists() && !target.join("skip/x").exists());
}

#[test]
fn sizes_are_of_regular_files() {
    let (_s, source, _) = pair();
    for (name, size) in [("none", 0), ("under", 1023), ("just", 1024), ("big", 2048), ("over", 2049)] {
        fs::write(source.join(name), vec![1; size]).unwrap();
    }
    std::os::unix::fs::symlink("x", source.join("link")).unwrap();
    make(&source, &["d/"]);
    expect(&source, &["--min-size=1K", "--max-size=2KiB"], &["big", "d/", "just", "link"]);
    expect(&source, &["--max-size=0"], &["d/", "link", "none"]);
}

#[test]
fn ages_are_of_the_time_that_was_chosen() {
    let (_s, source, _) = pair();
    make(&source, &["old", "new", "d/old", "edge"]);
    std::os::unix::fs::symlink("x", source.join("oldlink")).unwrap();
    sh(&format!(
        "cd {}; touch -h -m -d '2020-01-01T00:00:00Z' old d/old oldlink; touch -m -d '2021-06-01T00:00:00Z' edge; \
         touch -a -d '2019-01-01T00:00:00Z' new; touch -d '2019-01-01T00:00:00Z' d",
        q(&source)
    ));
    expect(&source, &["--older-than=2021-06-01T00:00:00Z"], &["d/", "d/old", "old", "oldlink"]);
    expect(&source, &["--newer-than=2021-06-01T00:00:00Z"], &["d/", "edge", "new"]);
    expect(&source, &["--older-than=1h"], &["d/", "d/old", "edge", "old", "oldlink"]);
    expect(&source, &["--newer-than=1h"], &["d/", "new"]);
    expect(&source, &["--older-than=2020-01-01", "--age-by=atime"], &["d/", "new"]);
    expect(&source, &["--older-than=1h", "--age-by=ctime"], &["d/"]);
}

#[test]
fn kinds_and_depth() {
    let (_s, source, _) = pair();
    make(&source, &["f", "d/f", "d/e/f", "d/e/g/f"]);
    std::os::unix::fs::symlink("x", source.join("d/l")).unwrap();
    sh(&format!("cd {}; mkfifo p d/p; mknod c c 1 3", q(&source)));
    let dirs = ["d/", "d/e/", "d/e/g/"];
    expect(&source, &["--type=d"], &dirs);
    expect(&source, &["--type=l,p"], &[&dirs[..], &["d/l", "d/p", "p"]].concat());
    expect(&source, &["--type=c"], &[&dirs[..], &["c"]].concat());
    expect(&source, &["--type=f"], &[&dirs[..], &["d/e/f", "d/e/g/f", "d/f", "f"]].concat());
    expect(&source, &["--max-depth=1"], &["c", "d/", "f", "p"]);
    expect(&source, &["--max-depth=2", "--type=f"], &["d/", "d/e/", "d/f", "f"]);
    expect(&source, &["--max-depth=0"], &[]);
}

/// Unmounted however the test ends.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn another_filesystem_is_not_entered() {
    assert_root();
    let (_s, source, _) = pair();
    make(&source, &["f", "d/m/", "d/g"]);
    sh(&format!("mount -t tmpfs treehaul-test {}", q(&source.join("d/m"))));
    let _mount = Mount(source.join("d/m"));
    make(&source, &["d/m/inside/x"]);
    expect(&source, &["-x"], &["d/", "d/g", "d/m/", "f"]);
    expect(&source, &["--one-file-system"], &["d/", "d/g", "d/m/", "f"]);
    expect::<&str>(&source, &[], &["d/", "d/g", "d/m/", "d/m/inside/", "d/m/inside/x", "f"]);
}

#[test]
fn what_cannot_be_understood_is_refused_before_anything_is_touched() {
    let (s, source, target) = pair();
    make(&source, &["f"]);
    fs::write(s.join("rules"), "- ok\n- x{y\n").unwrap();
    fs::write(s.join("list"), "f\na/../../etc\n").unwrap();
    let rules = format!("--filter-from={}", s.join("rules").display());
    let list = format!("--files-from={}", s.join("list").display());
    for (option, message) in [
        ("--exclude=a[b", "--exclude 'a[b': position 2: this '[' is never closed"),
        ("--include=\x1b}", "--include '\\x1b}': position 2: this '}' closes nothing"),
        ("--exclude-regex=a(b", "--exclude-regex 'a(b': position 2: "),
        (&rules, "line 2, position 4: this '{' is never closed"),
        (&list, "line 2: 'a/../../etc' is no path below the source"),
        ("--min-size=1KB", "--min-size: '1KB' is no size"),
        ("--older-than=tomorrow", "--older-than: 'tomorrow' is no time"),
        ("--type=x", "--type: 'x': position 1: "),
        ("--files-from=/no/such/list", "--files-from /no/such/list: No such file"),
        ("-0", "--files-from"),
    ] {
        let ran = copy([option.as_ref(), source.as_os_str(), target.as_os_str()]);
        assert_eq!(ran.code, 2, "{option}: {}", ran.stderr);
        assert!(ran.stderr.contains(message), "{option}: {}", ran.stderr);
        assert!(!ran.stderr.contains('\x1b') && !target.exists(), "{option}");
    }
}

#[test]
fn a_list_is_copied_and_nothing_else() {
    let (s, source, target) = pair();
    make(&source, &["a", "b", "d/x", "d/y", "d/e/z", "d/e/w", "t/1", "t/u/2", "other/x"]);
    sh(&format!("cd {}; chmod 710 d; chmod 2750 d/e; touch -d 2001-01-01 d/e d", q(&source)));
    let list = s.join("list");
    fs::write(&list, "./d/e/z\nd/x\n\na\nt/\n").unwrap();
    let from = format!("--files-from={}", list.display());
    let expected = ["a", "d/", "d/e/", "d/e/z", "d/x", "t/", "t/1", "t/u/", "t/u/2"];
    expect(&source, &[from.as_str()], &expected);
    expect(&source, &[from.as_str(), "--exclude=u"], &["a", "d/", "d/e/", "d/e/z", "d/x", "t/", "t/1"]);
    expect(&source, &[from.as_str(), "--exclude=d/"], &["a", "t/", "t/1", "t/u/", "t/u/2"]);
    copy_with(&source, &target, &[&from]);
    for dir in ["d", "d/e"] {
        let attributes = |root: &Path| fs::metadata(root.join(dir)).map(|m| (m.mode(), m.mtime())).unwrap();
        assert_eq!(
            attributes(&target),
            attributes(&source),
            "directories above what is listed are finished too: {dir}"
        );
    }
    assert_eq!(copy_with(&source, &target, &[&from]).total("copied"), 0);
    fs::write(&list, "").unwrap();
    expect(&source, &[from.as_str()], &[]);
    fs::write(&list, ".\n").unwrap();
    expect(&source, &[from.as_str()], &listed(&source).iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_list_may_come_by_stdin_and_hold_any_name() {
    let (_s, source, target) = pair();
    fs::create_dir(source.join("d")).unwrap();
    for name in [&b"d/new\nline"[..], b"d/\xff", b" space", b"d/left"] {
        fs::write(source.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    let mut command = treehaul();
    command.args(["copy", "--json", "--files-from=-", "-0"]).args([&source, &target]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"d/new\nline\0d/\xff\0 space").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = [" space", "d/", "d/\\xff", "d/new\\nline"].map(str::to_owned);
    assert_eq!(listed(&target), BTreeSet::from(expected));
}

#[test]
fn a_list_of_several_tasks_is_copied_whole() {
    let (s, source, target) = pair();
    make(&source, &["d/"]);
    let names: Vec<String> = (0..5000).map(|i| format!("d/f{i}")).collect();
    for name in &names {
        fs::write(source.join(name), "").unwrap();
    }
    fs::write(s.join("list"), names.join("\n")).unwrap();
    copy_with(&source, &target, &[format!("--files-from={}", s.join("list").display())]);
    assert_identical(&source, &target);
}

#[test]
fn a_list_of_paths_says_what_every_pass_looks_at() {
    let s = Scratch::new();
    let (source, target, list) = (s.join("src"), s.join("dst"), s.join("list"));
    for dir in ["a/in", "b"] {
        fs::create_dir_all(source.join(dir)).unwrap();
        fs::write(source.join(dir).join("f"), "x").unwrap();
    }
    copy_ok(&source, &target);
    for extra in ["a/in/more", "a/more", "b/more"] {
        fs::write(target.join(extra), "too much").unwrap();
    }
    fs::create_dir_all(target.join("c/d")).unwrap();
    fs::write(target.join("c/d/more"), "too much").unwrap();
    fs::write(source.join("b/g"), "not named").unwrap();
    fs::write(&list, "a/in\nb/more\nc\nb/f\n").unwrap();
    let with_list = |pass: &[&str]| {
        let ran = run(treehaul().args(pass).args(["--json", "--files-from"]).arg(&list).args([&source, &target]));
        (ran.code, ran)
    };
    let (code, seen) = with_list(&["verify"]);
    assert_eq!((code, seen.total("different")), (1, 6), "{}", seen.stdout); // a/in too: its time
    let (code, gone) = with_list(&["delete"]);
    assert_eq!((code, gone.total("deleted")), (0, 5), "{}{}", gone.stdout, gone.stderr);
    let there = |path: &str| target.join(path).exists();
    let named = ["a/in/more", "b/more", "c"].map(there);
    assert_eq!((named, there("a/more"), there("a/in/f"), there("b/f")), ([false; 3], true, true, true));
    assert_eq!(with_list(&["dirtime"]).0, 0);
    let (code, same) = with_list(&["verify"]);
    assert_eq!((code, same.total("same")), (0, 3), "{}", same.stdout);
    fs::write(target.join("b/more"), "too much again").unwrap();
    let (code, synced) = with_list(&["sync", "--delete"]);
    assert_eq!(
        (code, synced.total("deleted"), there("b/more"), there("b/g")),
        (0, 1, false, false),
        "{}",
        synced.stdout
    );
}

#[test]
fn a_path_that_was_named_and_is_not_there_is_a_failure_wherever_it_is_missing() {
    let s = Scratch::new();
    let (source, target, list) = (s.join("src"), s.join("dst"), s.join("list"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    fs::write(&list, "f\nnope\nno/such/path\n").unwrap();
    let ran = copy([OsStr::new("--files-from"), list.as_os_str(), source.as_os_str(), target.as_os_str()]);
    assert_eq!((ran.code, ran.total("failed"), ran.total("copied")), (3, 2, 1), "{}{}", ran.stdout, ran.stderr);
    fs::write(target.join("nope"), "only here").unwrap();
    let mut sync = treehaul();
    let ran = run(sync.args(["sync", "--delete", "--json", "--files-from"]).arg(&list).args([&source, &target]));
    // What nobody has may have gone in a run before, so that the same command may be run again; it is counted.
    assert_eq!((ran.code, ran.total("vanished"), ran.total("deleted")), (0, 1, 1), "{}{}", ran.stdout, ran.stderr);
}
