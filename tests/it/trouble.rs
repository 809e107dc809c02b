//! Bad input, and entries that cannot be copied.

use crate::support::*;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// Runs under strace, which makes system calls fail as told.
fn copy_with_faults(inject: &str, source: &Path, target: &Path) -> Ran {
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={inject}"), env!("CARGO_BIN_EXE_treehaul")]);
    run(c.args(["copy", "--json", "--file-actors", "1"]).args([source, target]).env_remove("TREEHAUL_BROKER"))
}

fn files(source: &Path, n: usize) {
    fs::create_dir(source).unwrap();
    for i in 0..n {
        fs::write(source.join(format!("f{i}")), vec![i as u8; 2000]).unwrap();
    }
}

#[test]
fn bad_input_is_named_and_nothing_is_touched() {
    let s = Scratch::new();
    files(&s.join("src"), 3);
    fs::create_dir(s.join("src/sub")).unwrap();
    fs::create_dir(s.join("dst")).unwrap();
    fs::write(s.join("file"), "x").unwrap();
    std::os::unix::fs::symlink("src", s.join("alias")).unwrap();
    let before = snapshot(s.path());
    let cases: [(&[&str], &str); 17] = [
        (&["missing", "dst"], "missing: no such file or directory"),
        (&["src", "src"], "source and target are the same"),
        (&["src", "alias"], "source and target are the same"),
        (&["src", "src/new"], "the target lies inside the source"),
        (&["src", "alias/sub/new"], "the target lies inside the source"),
        (&["src/sub", "src"], "the source lies inside the target"),
        (&["src", "file"], "is a file, and a tree needs a directory"),
        (&["src", "no/such/parent"], "mkdir -p"),
        (&["file", "file"], "source and target are the same"),
        (&["", "dst"], "empty path"),
        (&["ftp://host/x", "dst"], "unknown scheme 'ftp://'"),
        (&["src", "synth://?entries=3"], "synth"),
        (&["null://", "dst"], "null"),
        (&["synth://?entries=many", "dst"], "many"),
        (&["synth://?entris=3", "dst"], "entries"),
        (&["--dir-actors", "0", "src", "dst"], "--dir-actors"),
        (&["--no-such-flag", "src", "dst"], "--no-such-flag"),
    ];
    for (args, says) in cases {
        let ran = run(treehaul().arg("copy").args(args).current_dir(s.path()));
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?} must say '{says}':\n{}", ran.stderr);
    }
    let now = snapshot(s.path());
    assert_eq!(before, now, "nothing may be touched");
}

#[test]
fn a_broker_that_is_not_there_or_refuses_is_exit_4_and_the_password_is_not_shown() {
    let s = Scratch::new();
    files(&s.join("src"), 1);
    let amqp = amqp_url();
    let wrong = amqp.replace("guest:guest@", "guest:topsecret@");
    for (url, says) in [("amqp://guest:topsecret@127.0.0.1:1/%2f", "127.0.0.1:1"), (&wrong, "guest")] {
        let ran = run(treehaul().env("TREEHAUL_BROKER", url).arg("copy").args([s.join("src"), s.join("dst")]));
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
        assert!(!ran.stderr.contains("topsecret"), "{}", ran.stderr);
        assert!(!s.join("dst").exists(), "nothing is touched");
    }
}

#[test]
fn a_file_beyond_the_limit_on_sizes_fails_and_the_others_are_copied() {
    let s = Scratch::new();
    files(&s.join("src"), 5);
    fs::write(s.join("src/large"), vec![7; 200_000]).unwrap();
    for direct in ["", "--direct"] {
        let target = s.join(format!("dst{direct}"));
        // `ulimit -f` counts in KiB.
        let line =
            format!("ulimit -f 64; exec {} copy --json {direct} src {}", env!("CARGO_BIN_EXE_treehaul"), q(&target));
        let ran = run(Command::new("bash").args(["-c", &line]).env_remove("TREEHAUL_BROKER").current_dir(s.path()));
        assert_eq!((ran.code, ran.total("failed"), ran.total("files")), (3, 1, 5), "{}{}", ran.stdout, ran.stderr);
        let failure = &ran.json()["failures"][0];
        assert_eq!((failure["path"].as_str(), failure["errno"].as_i64()), (Some("large"), Some(libc::EFBIG.into())));
        assert!(!target.join("large").exists(), "half a file is none");
    }
}

#[test]
fn a_file_under_a_lease_is_copied_when_its_holder_lets_go_and_fails_if_they_do_not() {
    let s = Scratch::new();
    files(&s.join("src"), 3);
    // Says when it has the lease; gives it back when it is asked to, or does not.
    let holder = "import fcntl, os, signal, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
def asked(number, frame):
    if sys.argv[2] == 'polite':
        time.sleep(0.2)
        fcntl.fcntl(fd, 1024, fcntl.F_UNLCK)
signal.signal(signal.SIGIO, asked)
fcntl.fcntl(fd, 1024, fcntl.F_WRLCK)
print('held', flush=True)
while True: signal.pause()";
    for (manners, code) in [("polite", 0), ("stubborn", 3)] {
        let mut held = Command::new("python3");
        held.args(["-c", holder]).arg(s.join("src/f1")).arg(manners).stdout(std::process::Stdio::piped());
        let mut held = held.spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(held.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "held\n");
        let ran = copy([s.join("src"), s.join(manners)]);
        held.kill().unwrap();
        held.wait().unwrap();
        assert_eq!(
            (ran.code, ran.total("files")),
            (code, if code == 0 { 3 } else { 2 }),
            "{}{}",
            ran.stdout,
            ran.stderr
        );
    }
}

#[test]
fn one_bad_entry_does_not_cost_another() {
    assert_root();
    for (inject, operation) in [
        ("linkat:error=EIO:when=4", "link"),
        ("pwrite64:error=EIO:when=7", "write"),
        ("read:error=EIO:when=20", "read"),
        ("fchmod:error=EROFS:when=3", "set mode"),
        ("utimensat:error=EIO:when=5", "set times"),
    ] {
        let s = Scratch::new();
        let (source, target) = (s.join("src"), s.join("dst"));
        files(&source, 40);
        let ran = copy_with_faults(inject, &source, &target);
        assert_eq!((ran.code, ran.total("failed")), (3, 1), "{inject}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(ran.json()["failures"][0]["operation"], operation);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 39, "{inject}");
        assert_no_leftovers(&target);
        copy_ok(&source, &target);
        assert_identical(&source, &target);
    }
}

#[test]
fn an_unreadable_directory_fails_and_its_siblings_do_not() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    for dir in ["a", "b", "c"] {
        fs::create_dir_all(source.join(dir)).unwrap();
        fs::write(source.join(dir).join("f"), dir).unwrap();
    }
    let ran = copy_with_faults("getdents64:error=EIO:when=5", &source, &target);
    assert_eq!((ran.code, ran.total("failed")), (3, 1), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["failures"][0]["operation"], "list directory");
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn a_late_error_of_close_is_not_lost() {
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    files(&source, 6);
    // strace counts each thread's calls. The first few of the main thread are the loader's, which cannot do without
    // them; among a file actor's next ones is the close of a written file.
    let mut told = 0;
    for nth in 6..40 {
        let target = s.join(format!("dst{nth}"));
        let ran = copy_with_faults(&format!("close:error=EDQUOT:when={nth}"), &source, &target);
        if ran.code == 3 {
            let failure = &ran.json()["failures"][0];
            assert_eq!(failure["operation"], "close");
            let name = failure["path"].as_str().unwrap();
            assert!(!target.join(name).exists(), "what may be incomplete gets no name");
            told += 1;
        }
        copy_ok(&source, &target);
        assert_identical(&source, &target);
    }
    assert!(told > 0, "no close of a written file was checked");
}

/// A small filesystem of its own, unmounted at the end.
pub struct Mounted(pub std::path::PathBuf);

impl Mounted {
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        fs::create_dir(at).unwrap();
        sh(&format!("mount -t tmpfs -o {options} tmpfs {}", q(at)));
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_target_that_fills_up_keeps_what_fits_and_says_so() {
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    files(&source, 30);
    let small = Mounted::tmpfs(&s.join("small"), "size=96k");
    let ran = copy([&source, &small.0.join("dst")]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.total("copied") > 5 && ran.total("failed") > 5, "{}", ran.stdout);
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    assert_no_leftovers(&small.0);
}

#[test]
fn a_target_that_is_full_for_good_ends_the_job_early() {
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    files(&source, 3000);
    for options in ["size=1m", "size=100m,nr_inodes=200"] {
        let full = Mounted::tmpfs(&s.join(options.replace(['=', ','], "-")), options);
        let ran = copy([&source, &full.0.join("dst")]);
        assert_eq!(ran.code, 4, "{options}: {}", ran.stderr);
        assert!(ran.stderr.contains("the target is full"), "{}", ran.stderr);
        assert!(ran.total("failed") < 500, "not a failure for each of what is left: {}", ran.stdout);
    }
}

#[test]
fn a_read_only_target_is_reported_and_left_alone() {
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    files(&source, 5);
    let mounted = Mounted::tmpfs(&s.join("ro"), "size=1m");
    fs::create_dir(mounted.0.join("dst")).unwrap();
    sh(&format!("mount -o remount,ro {}", q(&mounted.0)));
    let ran = copy([&source, &mounted.0.join("dst")]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("Read-only file system"), "{}", ran.stderr);
}

#[test]
fn the_report_lists_every_failure_and_the_terminal_the_first_twenty() {
    assert_root();
    let s = Scratch::new();
    let (source, target, report) = (s.join("src"), s.join("dst"), s.join("report"));
    files(&source, 50);
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EIO", env!("CARGO_BIN_EXE_treehaul"), "copy"]);
    let ran = run(c.arg("--report").arg(&report).args([&source, &target]));
    assert_eq!(ran.code, 3);
    assert_eq!(ran.stderr.matches(": link: Input/output error").count(), 20, "{}", ran.stderr);
    assert!(ran.stderr.contains("and 30 more"), "{}", ran.stderr);
    assert_eq!(fs::read_to_string(&report).unwrap().lines().count(), 50);
}

#[test]
fn entries_that_vanish_are_counted_and_are_no_failures() {
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    files(&source, 20);
    // strace counts each thread's calls: among a file actor's next ones is the opening of a listed file.
    let mut vanished = 0;
    for nth in 12..24 {
        let target = s.join(format!("dst{nth}"));
        let ran = copy_with_faults(&format!("openat:error=ENOENT:when={nth}"), &source, &target);
        assert_eq!((ran.code, ran.total("failed")), (0, 0), "{nth}: {}{}", ran.stdout, ran.stderr);
        vanished += ran.total("vanished");
        copy_ok(&source, &target);
        assert_identical(&source, &target);
    }
    assert!(vanished > 0, "no file vanished");
}

#[test]
fn a_file_that_changes_while_it_is_copied_is_copied_again() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("log"), vec![1; 40 << 20]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let changed = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write as _;
            let mut f = fs::OpenOptions::new().append(true).open(source.join("log")).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                f.write_all(b"line\n").unwrap();
            }
        });
        // On a busy machine the writer may get no turn for as long as one try takes.
        let changed = (0..20).any(|_| {
            let ran = copy([&source, &target]);
            assert_eq!(ran.code, 0, "{}", ran.stdout);
            ran.total("changed_while_copying") == 1
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        changed
    });
    assert!(changed, "it held still");
    let (a, b) = (fs::metadata(source.join("log")).unwrap(), fs::metadata(target.join("log")).unwrap());
    assert_ne!((a.mtime(), a.mtime_nsec()), (b.mtime(), b.mtime_nsec()), "the next pass must see a difference");
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn a_target_that_is_bound_into_the_source_is_not_walked_into() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(source.join("a/bound")).unwrap();
    fs::write(source.join("a/f"), "x").unwrap();
    fs::create_dir(&target).unwrap();
    sh(&format!("mount --bind {} {}", q(&target), q(&source.join("a/bound"))));
    let _bound = Mounted(source.join("a/bound"));
    let ran = copy([&source, &target]);
    assert_eq!((ran.code, ran.total("failed")), (3, 1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("a/bound"), "{}", ran.stderr);
    assert!(!target.join("a/bound/a").exists());
    assert!(target.join("a/f").exists());
}

#[test]
fn nobody_listening_does_not_end_a_job() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    files(&source, 3);
    let mut c = Command::new("bash");
    let binary = env!("CARGO_BIN_EXE_treehaul");
    c.args([
        "-c",
        &format!("strace -f -qq -o /dev/null -e inject=linkat:error=EIO {binary} copy \"$@\" >/dev/full 2>/dev/full",),
        "sh",
    ]);
    assert_eq!(run(c.args([&source, &target])).code, 3, "failed entries cannot be told, but the exit code can");
}

#[test]
fn bad_arguments_reach_the_terminal_escaped() {
    let ran = run(treehaul().args(["copy", "--\u{1b}]0;evil\u{7}", "a", "b"]));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("unexpected argument"), "{:?}", ran.stderr);
    assert!(!ran.stderr.chars().any(|c| c.is_control() && c != '\n'), "{:?}", ran.stderr);
}

#[test]
fn two_jobs_on_one_target_do_not_take_each_others_working_files() {
    assert_root();
    let s = Scratch::new();
    exotic_tree(&s.join("a"), 31, 1500);
    exotic_tree(&s.join("b"), 32, 1500);
    let target = s.join("dst");
    fs::create_dir(&target).unwrap();
    let (one, two) = (target.join("one"), target.join("two"));
    for root in [&one, &two] {
        fs::create_dir(root).unwrap();
    }
    // The same source twice, at the same time, into the same place.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            for (source, root) in [("a", &one), ("b", &two)] {
                let source = s.join(source);
                scope.spawn(move || {
                    let ran = copy([&source, root]);
                    assert_eq!(ran.code, 0, "{}", ran.stderr);
                });
            }
        }
    });
    for (source, root) in [(s.join("a"), &one), (s.join("b"), &two)] {
        copy_ok(&source, root);
        assert_identical(&source, root);
    }
}
