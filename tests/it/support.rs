//! What the tests share: the real program, real trees, the independent comparator.

use rustix::fs::FileType;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A directory of its own that is removed however the test ends, deep trees and strange modes included.
pub struct Scratch(Option<TempDir>);

impl Scratch {
    pub fn new() -> Self {
        Scratch(Some(tempfile::Builder::new().prefix("treehaul-test-").tempdir().expect("a temporary directory")))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("not dropped").path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            // rm(1) removes trees deeper than PATH_MAX, which the standard library does not.
            let _ = Command::new("rm").arg("-rf").arg(dir.path()).status();
        }
    }
}

/// The program under test.
pub fn treehaul() -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_treehaul"));
    c.env_remove("TREEHAUL_BROKER")
        .env("TREEHAUL_CONFIG", "")
        .env("TREEHAUL_STATE_DIR", env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null());
    c
}

/// Result of one run.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {} {}", self.stdout, self.stderr))
    }

    /// One counter of the JSON summary.
    pub fn total(&self, name: &str) -> u64 {
        self.json()["totals"][name].as_u64().unwrap_or_else(|| panic!("no total {name}: {}", self.stdout))
    }
}

pub fn run(command: &mut Command) -> Ran {
    Ran::of(command.output().expect("the program starts"))
}

/// `treehaul copy --json ARGS`.
pub fn copy<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    run(treehaul().args(["copy", "--json"]).args(args))
}

/// Copies and insists on success.
pub fn copy_ok(source: &Path, target: &Path) -> Ran {
    let ran = copy([source, target]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    ran
}

/// Fails the test unless the comparator finds two trees identical.
pub fn assert_identical(source: &Path, target: &Path) {
    let comparator = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/treecmp.py");
    let ran = run(Command::new("python3").arg(comparator).args([source, target]));
    assert_eq!(ran.code, 0, "{} and {} differ:\n{}{}", source.display(), target.display(), ran.stdout, ran.stderr);
    assert_no_leftovers(target);
}

/// No working file and no hidden directory of ours is left.
pub fn assert_no_leftovers(target: &Path) {
    let ran = run(Command::new("find").arg(target).args(["-name", ".treehaul*"]));
    assert_eq!(ran.stdout, "", "working files are left");
}

/// Runs a shell line that must succeed.
pub fn sh(line: &str) -> String {
    let ran = run(Command::new("bash").args(["-euo", "pipefail", "-c", line]));
    assert_eq!(ran.code, 0, "{line}\n{}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// Quotes a path for [`sh`].
pub fn q(path: &Path) -> String {
    format!("'{}'", path.display())
}

/// Tests of owners, devices and mounts cannot do without.
pub fn assert_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, as `make test` has it");
}

/// Inode, ctime and mtime of everything: whatever was touched shows.
pub fn snapshot(root: &Path) -> Vec<(PathBuf, u64, i64, i64, i64)> {
    let mut all = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let m = fs::symlink_metadata(&path).expect("stat");
        if m.is_dir() {
            pending.extend(fs::read_dir(&path).expect("list").map(|e| e.expect("entry").path()));
        }
        all.push((path, m.ino(), m.ctime(), m.ctime_nsec(), m.mtime()));
    }
    all.sort();
    all
}

/// A small deterministic generator (SplitMix64), so that a seed in a failure can be run again.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A tree of everything that people have: contents, holes, names, modes, owners, times, links, special files,
/// extended attributes and ACLs.
pub fn exotic_tree(root: &Path, seed: u64, files: u64) {
    let mut r = Random(seed);
    fs::create_dir(root).expect("mkdir");
    let mut dirs = vec![root.to_owned()];
    for i in 0..files / 8 {
        let parent = dirs[r.below(dirs.len() as u64) as usize].clone();
        let name: OsString = match i % 7 {
            0 => OsStr::from_bytes(format!("dir\n{i}").as_bytes()).to_owned(),
            1 => OsStr::from_bytes(&[b"bad\xff\xfe", i.to_string().as_bytes()].concat()).to_owned(),
            _ => format!("dir {i}").into(),
        };
        let path = parent.join(name);
        if path.as_os_str().len() < 3000 {
            fs::create_dir(&path).expect("mkdir");
            dirs.push(path);
        }
    }
    for i in 0..files {
        let dir = dirs[r.below(dirs.len() as u64) as usize].clone();
        exotic_entry(&dir, i, &mut r);
    }
    // A file of 1 TiB that is one hole, and one with data in the middle.
    let f = fs::File::create(root.join("hole")).expect("create");
    f.set_len(1 << 40).expect("truncate");
    let f = fs::File::create(root.join("middle")).expect("create");
    std::os::unix::fs::FileExt::write_all_at(&f, &[7; 9000], 5 << 20).expect("write");
    f.set_len(20 << 20).expect("truncate");
    dress_dirs(root, &dirs);
}

fn exotic_entry(dir: &Path, i: u64, r: &mut Random) {
    let path = match i % 11 {
        0 => dir.join(OsStr::from_bytes(&[&[b'L'; 250][..], format!("{i:05}").as_bytes()].concat())),
        1 => dir.join(OsStr::from_bytes(format!("new\nline\x1b[31m{i}").as_bytes())),
        2 => dir.join(OsStr::from_bytes(&[b"\x80\xff", i.to_string().as_bytes()].concat())),
        3 => dir.join(format!("-dash {i}")),
        _ => dir.join(format!("f{i}")),
    };
    match i % 23 {
        0 => symlink(format!("../no/such/{i}"), &path).expect("symlink"),
        1 => make_node(&path, FileType::Fifo, 0),
        2 => make_node(&path, FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        3 => make_node(&path, FileType::Socket, 0),
        _ => {
            let size = if i % 97 == 5 { 700_000 } else { r.below(20_000) };
            let data: Vec<u8> = (0..size).map(|k| (k ^ i) as u8 ^ (r.0 as u8)).collect();
            fs::write(&path, data).expect("write");
            if i.is_multiple_of(5) {
                fs::hard_link(&path, dir.join(format!("link{i}"))).expect("link");
            }
        }
    }
}

fn make_node(path: &Path, kind: FileType, rdev: u64) {
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::from_raw_mode(0o640), rdev).expect("mknod");
}

/// Owners, modes, attributes, ACLs and times, by the tools that administrators use.
fn dress_dirs(root: &Path, dirs: &[PathBuf]) {
    let script = r#"
import os, random, struct, sys
r = random.Random(7)
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *e) for e in
      [(1, 7, 0xffffffff), (2, 6, 1000), (4, 5, 0xffffffff), (16, 7, 0xffffffff), (32, 0, 0xffffffff)])
cap = struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0)
paths = []
for d, ds, fs in os.walk(os.fsencode(sys.argv[1])):
    paths += [(d, True)] + [(os.path.join(d, f), False) for f in fs]
for i, (p, is_dir) in enumerate(reversed(paths)):
    link = os.path.islink(p)
    os.chown(p, *r.choice([(0, 0), (1000, 1000), (4000000000, 3999999999)]), follow_symlinks=False)
    if os.path.isfile(p) and not link:
        if i % 7 == 0: os.setxattr(p, 'user.note', b'\0binary\xff')
        if i % 7 == 1: os.setxattr(p, 'trusted.thing', b'')
        if i % 7 == 2: os.setxattr(p, 'system.posix_acl_access', acl)
    if is_dir and i % 4 == 0:
        os.setxattr(p, 'user.dir', b'x' * 300)
        os.setxattr(p, 'system.posix_acl_default', acl)
    if not link and i % 7 != 2:
        os.chmod(p, r.choice([0o755, 0o2775, 0o1777, 0o500]) if is_dir else r.choice([0o644, 0o4755, 0o2711, 0o000, 0o600, 0o1644]))
    if os.path.isfile(p) and not link and i % 7 == 3: os.setxattr(p, 'security.capability', cap)
    t = lambda: r.choice([-86400 * 365, 0, 2**31 + 5, r.randrange(10**9, 2 * 10**9)]) * 10**9 + r.randrange(10**9)
    os.utime(p, ns=(t(), t()), follow_symlinks=False)
"#;
    assert!(dirs.len() < 100_000);
    let ran = run(Command::new("python3").args(["-c", script]).arg(root));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// The broker that `make test` started.
pub fn amqp_url() -> String {
    std::env::var("TREEHAUL_TEST_AMQP").expect("TREEHAUL_TEST_AMQP: run `make test`, it starts RabbitMQ")
}
