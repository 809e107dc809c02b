//! Large files in chunks: whole, shared, resumed, and never mixed up.

use crate::hosts::Host;
use crate::support::*;
use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SMALL: [&str; 4] = ["--chunk-from", "4M", "--chunk-size", "1M"];
const MIB: u64 = 1 << 20;

fn fill(path: &Path, mib: u64, seed: u64) {
    let mut r = Random(seed);
    let mut file = fs::File::create(path).expect("create");
    let mut block = vec![0; MIB as usize];
    for _ in 0..mib {
        block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&r.next().to_le_bytes()));
        file.write_all(&block).expect("write");
    }
    // No chunk's end, so that the last one is short.
    file.write_all(&block[..12_345]).expect("write");
}

/// Every other of so many MiB is a hole, the first and the last among them.
fn fill_sparse(path: &Path, mib: u64) {
    let file = fs::File::create(path).expect("create");
    for at in (1..mib - 1).step_by(2) {
        file.write_all_at(&vec![at as u8 | 1; MIB as usize - 4096], at * MIB + 4096).expect("write");
    }
    file.set_len(mib * MIB).expect("truncate");
}

/// Large files with everything that files have, among others.
fn large_tree(root: &Path, seed: u64) {
    exotic_tree(root, seed, 60);
    for (i, dir) in ["a", "b", "b/c"].iter().enumerate() {
        let dir = root.join(dir);
        fs::create_dir(&dir).expect("mkdir");
        fill(&dir.join(format!("large {i}")), 9 + 7 * i as u64, seed + i as u64);
        fill_sparse(&dir.join("sparse"), 12);
    }
    // Names of one inode in three directories.
    fs::hard_link(root.join("b/large 1"), root.join("a/other name")).expect("link");
    fs::hard_link(root.join("b/large 1"), root.join("b/c/third name")).expect("link");
    fs::hard_link(root.join("b/large 1"), root.join("b/fourth name")).expect("link");
    let script = r#"
import os, struct, sys
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in
      [(1, 7, 0xffffffff), (2, 6, 1000), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff)])
a, b, c = (os.path.join(sys.argv[1], p) for p in ('a/large 0', 'b/large 1', 'b/c/large 2'))
os.chown(a, 1000, 1001); os.chmod(a, 0o6755)
os.setxattr(b, 'user.note', b'\0binary\xff'); os.setxattr(b, 'system.posix_acl_access', acl)
os.chown(c, 4000000000, 3999999999); os.setxattr(c, 'security.capability', struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0))
for p in (a, b, c): os.utime(p, ns=(-5 * 10**9 + 7, 2**31 * 10**9 + 123456789))
for d in ('b/c', 'b', 'a'): os.utime(os.path.join(sys.argv[1], d), ns=(1, 10**18 + 1))
"#;
    let ran = run(Command::new("python3").args(["-c", script]).arg(root));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

fn chunked<'a>(more: &[&'a str], source: &'a Path, target: &'a Path) -> Command {
    let mut c = treehaul();
    c.args(["copy", "--json"]).args(SMALL).args(more).args([source, target]);
    c
}

fn chunked_ok(source: &Path, target: &Path) -> Ran {
    let ran = run(&mut chunked(&[], source, target));
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    ran
}

/// A copy whose data calls take their time, in a process group of its own.
struct Slow(Child);

impl Slow {
    fn start(source: &Path, target: &Path, delay_us: u64) -> Self {
        let mut c = Command::new("strace");
        c.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=copy_file_range"]);
        c.arg("-e").arg(format!("inject=copy_file_range:delay_enter={delay_us}"));
        c.args([env!("CARGO_BIN_EXE_treehaul"), "copy", "-q"]).args(SMALL).args([source, target]);
        Slow(c.env_remove("TREEHAUL_BROKER").stdin(Stdio::null()).process_group(0).spawn().expect("strace starts"))
    }

    /// Kills it as soon as so many chunks are marked; how many are in the end.
    fn kill_at(mut self, target: &Path, marks: usize) -> usize {
        while marked(target).len() < marks {
            assert_eq!(self.0.try_wait().expect("wait"), None, "it ended before {marks} chunks were marked");
            std::thread::yield_now();
        }
        self.kill();
        marked(target).len()
    }

    fn kill(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.0.wait();
        // What was traced holds its locks until it is gone, too.
        while is_alive(group) {
            std::thread::yield_now();
        }
    }
}

/// Does any thread of a group of processes still run? The first of a process may be over before the others.
fn is_alive(group: rustix::process::Pid) -> bool {
    let group = group.as_raw_nonzero().to_string();
    let listed = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    listed("/proc".into()).flat_map(|process| listed(process.join("task"))).any(|thread| {
        let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
        // After the name, which may hold anything: state, parent, group.
        let mut words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let state = words.next();
        words.nth(1) == Some(&group) && !matches!(state, Some("Z" | "X"))
    })
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.kill();
    }
}

fn found(target: &Path, pattern: &str) -> Vec<PathBuf> {
    // Directories vanish while it looks.
    let output =
        Command::new("find").arg(target).args(["-name", pattern]).stderr(Stdio::null()).output().expect("find");
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
}

fn marked(target: &Path) -> Vec<PathBuf> {
    found(&target.join(".treehaul/parts"), "c*-*-*")
}

fn part_of(target: &Path) -> PathBuf {
    let parts = found(target, ".treehaul-part-*");
    assert_eq!(parts.len(), 1, "{parts:?}");
    parts[0].clone()
}

fn one_large(s: &Scratch, mib: u64) -> (PathBuf, PathBuf) {
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fill(&source.join("large"), mib, mib);
    (source, target)
}

#[test]
fn a_copy_in_chunks_is_identical_and_touches_nothing_the_second_time() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    large_tree(&source, 41);
    let ran = chunked_ok(&source, &target);
    assert_identical(&source, &target);
    assert_eq!(ran.total("found"), ran.total("copied") + ran.total("updated"), "{}", ran.stdout);
    // The root itself holds the hidden directory for a while.
    let before = snapshot(&target).split_off(1);
    let again = chunked_ok(&source, &target);
    assert_eq!((again.total("copied"), again.total("updated")), (0, 0), "{}", again.stdout);
    assert!(snapshot(&target).split_off(1) == before, "something was touched");
    let sparse = fs::metadata(target.join("b/c/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 7 * MIB, "holes stay holes: {} blocks", sparse.blocks());
}

#[test]
fn a_large_file_that_differs_is_replaced_and_directly_means_aside_for_it() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    large_tree(&source, 42);
    chunked_ok(&source, &target);
    fill(&source.join("a/large 0"), 11, 99);
    fs::remove_file(target.join("b/c/large 2")).unwrap();
    fs::create_dir(target.join("b/c/large 2")).unwrap();
    fs::write(target.join("b/c/large 2/in the way"), "x").unwrap();
    let ran = run(&mut chunked(&["--direct"], &source, &target));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_identical(&source, &target);
}

#[test]
fn names_of_an_inode_may_also_become_files_of_their_own() {
    let s = Scratch::new();
    let (source, target) = one_large(&s, 6);
    fs::hard_link(source.join("large"), source.join("again")).unwrap();
    fs::create_dir(source.join("d")).unwrap();
    fs::hard_link(source.join("large"), source.join("d/third")).unwrap();
    let want = fs::read(source.join("large")).unwrap();
    // Names wait for each other, and meet in another order each time.
    for round in 0..20 {
        let target = target.join(round.to_string());
        fs::create_dir_all(&target).unwrap();
        let ran = run(&mut chunked(&["--no-hard-links"], &source, &target));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(ran.total("copied") + ran.total("updated"), 5, "{}", ran.stdout);
        let mut inodes = HashSet::new();
        for name in ["large", "again", "d/third"] {
            assert!(fs::read(target.join(name)).unwrap() == want, "{name}");
            inodes.insert(fs::metadata(target.join(name)).unwrap().ino());
        }
        assert_eq!(inodes.len(), 3);
        assert_no_leftovers(&target);
    }
}

#[test]
fn several_actors_share_one_file() {
    let s = Scratch::new();
    let (source, target) = one_large(&s, 96);
    let log = s.join("log");
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-e", "trace=copy_file_range", "-e", "inject=copy_file_range:delay_enter=5000", "-o"]);
    c.arg(&log).arg(env!("CARGO_BIN_EXE_treehaul")).args(["copy", "-q", "--file-actors", "4"]).args(SMALL);
    let ran = run(c.args([&source, &target]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let text = fs::read_to_string(&log).unwrap();
    let actors: HashSet<&str> =
        text.lines().filter(|l| l.contains("copy_file_range(")).filter_map(|l| l.split(' ').next()).collect();
    assert!(actors.len() >= 3, "threads that copied: {actors:?}");
    assert_identical(&source, &target);
}

#[test]
fn after_a_kill_only_the_missing_chunks_are_copied() {
    let s = Scratch::new();
    let (source, target) = one_large(&s, 32);
    let size = fs::metadata(source.join("large")).unwrap().len();
    let marks = Slow::start(&source, &target, 30_000).kill_at(&target, 9) as u64;
    assert!((9..32).contains(&marks), "{marks}");
    assert!(!target.join("large").exists());
    // The last chunk is short, and may be among them.
    let number = |mark: &Path| {
        let name = mark.file_name().unwrap().to_str().unwrap().to_owned();
        u64::from_str_radix(name[1..].split('-').next().unwrap(), 16).unwrap()
    };
    let done: u64 = marked(&target).iter().map(|mark| MIB.min(size - number(mark) * MIB)).sum();
    let ran = chunked_ok(&source, &target);
    assert_eq!(ran.total("bytes_copied"), size - done, "{marks} chunks were done: {}", ran.stdout);
    assert_identical(&source, &target);
}

#[test]
fn another_name_of_the_inode_goes_on_with_what_was_done_for_the_first() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    for dir in ["a", "b"] {
        fs::create_dir_all(source.join(dir)).unwrap();
    }
    fill(&source.join("a/one"), 24, 5);
    fs::hard_link(source.join("a/one"), source.join("b/two")).unwrap();
    let marks = Slow::start(&source, &target, 30_000).kill_at(&target, 8) as u64;
    let dir = part_of(&target).parent().unwrap().file_name().unwrap().to_owned();
    // The directory where it began cannot be listed this time: the other name must do.
    let out_of_the_way = s.join("away");
    fs::rename(source.join(&dir), &out_of_the_way).unwrap();
    let ran = chunked_ok(&source, &target);
    let size = fs::metadata(out_of_the_way.read_dir().unwrap().next().unwrap().unwrap().path()).unwrap().len();
    assert_eq!(ran.total("bytes_copied"), size - marks * MIB, "{}", ran.stdout);
    fs::rename(&out_of_the_way, source.join(&dir)).unwrap();
    chunked_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn what_a_killed_run_left_of_a_file_that_changed_or_went_is_removed() {
    for change in ["changed", "gone", "moved"] {
        let s = Scratch::new();
        let (source, target) = one_large(&s, 24);
        fs::create_dir(source.join("d")).unwrap();
        fs::rename(source.join("large"), source.join("d/large")).unwrap();
        Slow::start(&source, &target, 30_000).kill_at(&target, 5);
        match change {
            "changed" => fill(&source.join("d/large"), 24, 77),
            "gone" => fs::remove_file(source.join("d/large")).unwrap(),
            _ => fs::rename(source.join("d"), source.join("e")).unwrap(),
        }
        let ran = chunked_ok(&source, &target);
        if change == "moved" {
            fs::remove_dir(target.join("d")).unwrap();
            chunked_ok(&source, &target);
        } else {
            assert_eq!(ran.total("leftovers_removed"), 1, "{change}: {}", ran.stdout);
        }
        assert_identical(&source, &target);
    }
}

#[test]
fn a_part_file_that_somebody_replaced_is_not_written_through() {
    for how in ["symlink", "hard link", "another file", "a fifo", "nothing"] {
        let s = Scratch::new();
        let (source, target) = one_large(&s, 24);
        let victim = s.join("victim");
        fs::write(&victim, vec![b'v'; 24 * MIB as usize + 12_345]).unwrap();
        sh(&format!("chmod 600 {}", q(&victim)));
        Slow::start(&source, &target, 30_000).kill_at(&target, 5);
        let part = part_of(&target);
        let size = fs::metadata(&part).unwrap().len();
        assert_eq!(size, fs::metadata(&victim).unwrap().len());
        fs::rename(&part, s.join("taken")).unwrap();
        match how {
            "symlink" => symlink(&victim, &part).unwrap(),
            "hard link" => fs::hard_link(&victim, &part).unwrap(),
            "another file" => fs::rename(&victim, &part).unwrap(),
            "a fifo" => drop(sh(&format!("mkfifo -m 600 {}", q(&part)))),
            _ => {}
        }
        chunked_ok(&source, &target);
        assert_identical(&source, &target);
        if how != "another file" {
            assert!(fs::read(&victim).unwrap().iter().all(|b| *b == b'v'), "{how}: written through");
        }
    }
}

#[test]
fn a_chunk_that_cannot_be_read_fails_the_file_once_and_the_next_run_needs_only_that() {
    let s = Scratch::new();
    let (source, target) = one_large(&s, 24);
    fs::write(source.join("small"), "fine").unwrap();
    let large = source.join("large");
    let size = fs::metadata(&large).unwrap().len();
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=copy_file_range,pread64", "-P"]).arg(&large);
    c.args(["-e", "inject=copy_file_range:error=EIO:when=7+3", "-e", "inject=pread64:error=EIO"]);
    c.arg(env!("CARGO_BIN_EXE_treehaul")).args(["copy", "--json"]).args(SMALL).args([&source, &target]);
    let ran = run(&mut c);
    assert_eq!((ran.code, ran.total("failed")), (3, 1), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("large: read: Input/output error"), "{}", ran.stderr);
    assert_eq!(fs::read(target.join("small")).unwrap(), b"fine");
    assert!(!large.with_file_name("dst/large").exists());
    let marks = marked(&target).len() as u64;
    assert!(marks > 0);
    let again = chunked_ok(&source, &target);
    assert!(again.total("bytes_copied") <= size - (marks - 1) * MIB, "{marks} were done: {}", again.stdout);
    assert_identical(&source, &target);
}

#[test]
fn a_source_that_keeps_growing_is_copied_or_told_and_the_next_run_repairs() {
    let s = Scratch::new();
    let (source, target) = one_large(&s, 16);
    let (large, stop) = (source.join("large"), AtomicBool::new(false));
    let rounds: Vec<Ran> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&large).unwrap();
            while !stop.load(Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let rounds = (0..3).map(|_| run(&mut chunked(&[], &source, &target))).collect();
        stop.store(true, Ordering::Relaxed);
        rounds
    });
    for ran in &rounds {
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        let of_file = ran.total("copied") + ran.total("changed_while_copying");
        assert!((1..=2).contains(&of_file), "{}", ran.stdout);
    }
    assert!(rounds.iter().any(|ran| ran.total("changed_while_copying") == 1), "it never changed in time");
    assert_no_leftovers(&target);
    chunked_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn two_jobs_on_one_target_do_not_write_into_each_others_files() {
    let s = Scratch::new();
    let (source, target) = one_large(&s, 24);
    fill(&source.join("second"), 9, 3);
    for _ in 0..5 {
        let jobs = [(); 2].map(|()| chunked(&["-q"], &source, &target).stdout(Stdio::null()).spawn().unwrap());
        for mut job in jobs {
            assert_eq!(job.wait().unwrap().code(), Some(0));
        }
        assert_identical(&source, &target);
        fs::remove_dir_all(&target).unwrap();
    }
}

/// Kills copies at random moments, over and over into the same target, then lets one finish.
fn kill_and_finish(seed: u64, kills: u64) {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    large_tree(&source, seed);
    let started = Instant::now();
    chunked_ok(&source, &s.join("timing"));
    let whole = started.elapsed();
    let mut r = Random(seed);
    println!("seed {seed}, {kills} kills within {whole:?}");
    for _ in 0..kills {
        let mut child = chunked(&["-q"], &source, &target).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_nanos(r.below(whole.as_nanos() as u64));
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
        for name in ["a/large 0", "b/large 1", "b/c/third name", "b/c/sparse"] {
            let Ok(copy) = fs::read(target.join(name)) else { continue };
            assert!(copy == fs::read(source.join(name)).unwrap(), "seed {seed}: {name} is not whole");
        }
    }
    chunked_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn killed_anywhere_a_rerun_converges_and_leaves_no_part() {
    kill_and_finish(51, 15);
    kill_and_finish(52, 15);
}

#[test]
fn three_workers_share_large_files_and_may_be_killed() {
    let host = Host::new("chunks");
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    large_tree(&source, 61);
    let mut r = Random(62);
    println!("seed 62");
    let mut fleet: Vec<_> = ["c1", "c2", "c3"].map(|n| host.worker(n)).into();
    for round in 0..4 {
        let target = s.join(format!("dst{round}"));
        let mut job = host.copy(&source, &target);
        let mut job = job.args(SMALL).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for kill in 0..if round == 0 { 0 } else { 3 } {
            // Progress, not time: so many chunks, of those that are at work.
            let goal = 1 + r.below(12) as usize;
            let begun = Instant::now();
            while job.try_wait().unwrap().is_none()
                && marked(&target).len() < goal
                && begun.elapsed() < Duration::from_secs(5)
            {
                std::thread::yield_now();
            }
            fleet.remove(r.below(3) as usize).kill();
            fleet.push(host.worker(&format!("late-{round}-{kill}")));
        }
        let output = job.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "round {round}: {said}{}", String::from_utf8_lossy(&output.stdout));
        assert_identical(&source, &target);
    }
}

#[test]
fn sizes_that_are_none_are_usage_errors() {
    let s = Scratch::new();
    for bad in [["--chunk-size", "1500K"], ["--chunk-size", "0"], ["--chunk-from", "much"], ["--chunk-from", "-1"]] {
        let ran = run(treehaul().arg("copy").args(bad).args([s.path(), s.path()]));
        assert_eq!(ran.code, 2, "{bad:?}: {}", ran.stderr);
    }
    let (source, target) = one_large(&s, 5);
    let ran = copy(["--chunk-from".as_ref(), "none".as_ref(), source.as_os_str(), target.as_os_str()]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_identical(&source, &target);
}
