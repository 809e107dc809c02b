//! What a copy keeps.

use crate::support::*;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

#[test]
fn a_tree_of_everything_arrives_whole_and_a_second_copy_touches_nothing() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 1, 900);
    let first = copy_ok(&source, &target);
    assert_identical(&source, &target);
    assert_eq!(first.total("found"), first.total("copied") + first.total("updated"));

    let before = snapshot(&target);
    let second = copy_ok(&source, &target);
    let counts = ["copied", "updated", "failed", "bytes_copied"].map(|n| second.total(n));
    assert_eq!(counts, [0; 4], "{}", second.stdout);
    assert_eq!(second.total("unchanged"), second.total("found"));
    let changed: Vec<_> = before.iter().zip(snapshot(&target)).filter(|(a, b)| **a != *b && a.0 != target).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

#[test]
fn the_sources_access_times_are_left_alone() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d/f"), "x").unwrap();
    sh(&format!("touch -a -d 2001-01-01 {0}/d/f {0}/d {0}", q(&source)));
    copy_ok(&source, &target);
    for path in ["", "d", "d/f"] {
        assert_eq!(fs::metadata(source.join(path)).unwrap().atime(), fs::metadata(target.join(path)).unwrap().atime());
        assert!(fs::metadata(source.join(path)).unwrap().atime() < 1_000_000_000, "{path}");
    }
}

#[test]
fn paths_far_beyond_path_max_are_copied() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    let script = "import os,sys\nos.mkdir(sys.argv[1]); os.chdir(sys.argv[1])\n\
                  for i in range(1200):\n  n='level-%06d' % i; os.mkdir(n); os.chdir(n)\n  open('f%d' % i,'w').write(str(i))\n";
    assert_eq!(run(Command::new("python3").args(["-c", script]).arg(&source)).code, 0);
    let ran = copy_ok(&source, &target);
    assert_eq!(ran.total("found"), 2401);
    assert_identical(&source, &target);
}

#[test]
fn a_hole_costs_nothing_and_stays_a_hole() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    let make = |name: &str, size: u64, data: &[(u64, usize)]| {
        let f = fs::File::create(source.join(name)).unwrap();
        for (offset, bytes) in data {
            f.write_all_at(&vec![1; *bytes], *offset).unwrap();
        }
        f.set_len(size).unwrap();
    };
    make("all", 1 << 40, &[]);
    make("trailing", 1 << 30, &[(0, 4096)]);
    make("leading", (1 << 30) + 5, &[(1 << 30, 5)]);
    make("small", 100_000, &[(40_960, 10)]);
    let ran = copy_ok(&source, &target);
    assert!(ran.total("bytes_copied") < 100_000, "{}", ran.stdout);
    assert_identical(&source, &target);
    for name in ["all", "trailing", "leading", "small"] {
        let m = fs::metadata(target.join(name)).unwrap();
        assert!(m.blocks() * 512 <= 16_384, "{name} takes {} blocks", m.blocks());
    }
}

#[test]
fn each_part_can_be_switched_off() {
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    fs::create_dir(&source).unwrap();
    let file = source.join("f");
    fs::write(&file, vec![1; 10_000]).unwrap();
    sh(&format!(
        "cd {0}; chown 1000:1000 f; chmod 4711 f; setfattr -n user.a -v b f; setfacl -m u:33:r f; \
         ln f g; mkfifo p; touch -d 2001-02-03 f; truncate -s 1M hole",
        q(&source)
    ));
    type Check = fn(&std::path::Path) -> bool;
    let cases: [(&str, Check); 8] = [
        ("--no-owner", |t| fs::metadata(t.join("f")).unwrap().uid() == 0),
        ("--no-mode", |t| fs::metadata(t.join("f")).unwrap().mode() & 0o7111 == 0),
        ("--no-times", |t| fs::metadata(t.join("f")).unwrap().mtime() > 1_500_000_000),
        ("--no-xattrs", |t| sh(&format!("getfattr -d {}", q(&t.join("f")))).is_empty()),
        ("--no-acls", |t| !sh(&format!("getfacl -cEn {}", q(&t.join("f")))).contains("user:33")),
        ("--no-hard-links", |t| fs::metadata(t.join("f")).unwrap().nlink() == 1),
        ("--no-holes", |t| fs::metadata(t.join("hole")).unwrap().blocks() >= 2048),
        ("--no-specials", |t| !t.join("p").exists()),
    ];
    for (flag, is_off) in cases {
        let target = s.join(flag);
        let with = s.join(format!("with{flag}"));
        let ran = copy([flag.as_ref(), source.as_os_str(), target.as_os_str()]);
        assert_eq!(ran.code, 0, "{flag}: {}", ran.stderr);
        assert!(is_off(&target), "{flag} has no effect");
        copy_ok(&source, &with);
        assert!(!is_off(&with), "without {flag} it must be kept");
    }
}

#[test]
fn symlinks_are_copied_and_never_followed() {
    let s = Scratch::new();
    let (source, target, outside) = (s.join("src"), s.join("dst"), s.join("outside"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&outside, source.join("to-dir")).unwrap();
    symlink("loop", source.join("loop")).unwrap();
    copy_ok(&source, &target);
    assert_eq!(fs::read_link(target.join("to-dir")).unwrap(), outside);
    assert_identical(&source, &target);

    // The target has a symlink where the source has a directory: nothing may be written through it.
    fs::remove_file(source.join("to-dir")).unwrap();
    fs::create_dir(source.join("to-dir")).unwrap();
    fs::write(source.join("to-dir/secret"), "overwritten").unwrap();
    copy_ok(&source, &target);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_identical(&source, &target);
}

#[test]
fn nothing_is_more_widely_readable_on_the_way() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    for i in 0..300 {
        let path = source.join(format!("f{i}"));
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    // Every mode that the program ever asks for, as the kernel sees it.
    let trace = s.join("trace");
    let ran = run(Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=openat,mkdirat,fchmod,mknodat", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_treehaul"))
        .args(["copy", "-q"])
        .args([&source, &target]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let trace = fs::read_to_string(trace).unwrap();
    let creating: Vec<&str> = trace.lines().filter(|l| l.contains("O_CREAT") || l.contains("O_TMPFILE")).collect();
    assert!(creating.len() >= 300, "the trace shows how files are made");
    assert!(creating.iter().all(|l| l.contains("0600")), "made with another mode than 0600");
    assert!(trace.lines().filter(|l| l.contains("mkdirat")).all(|l| l.contains("0700")));
}

#[test]
fn default_acls_of_the_target_do_not_leak_into_the_copy() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("f"), "x").unwrap();
    fs::write(source.join("sub/g"), "x").unwrap();
    fs::create_dir(&target).unwrap();
    sh(&format!("setfacl -d -m u:1000:rwx {}", q(&target)));
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn a_single_file_is_copied_as_a_file() {
    let s = Scratch::new();
    let file = s.join("a b");
    fs::write(&file, "contents").unwrap();
    sh(&format!("touch -d 2001-02-03T04:05:06.789 {}", q(&file)));
    fs::create_dir(s.join("dir")).unwrap();
    copy_ok(&file, &s.join("new name"));
    copy_ok(&file, &s.join("dir"));
    for copied in [s.join("new name"), s.join("dir/a b")] {
        assert_eq!(fs::read_to_string(&copied).unwrap(), "contents");
        assert_eq!(fs::metadata(&copied).unwrap().mtime_nsec(), 789_000_000);
    }
    assert_eq!(copy_ok(&file, &s.join("new name")).total("unchanged"), 1);
}

#[test]
fn a_normal_user_keeps_what_they_may_and_hears_once_what_they_may_not() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("area/dst"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(s.join("area")).unwrap();
    for i in 0..50 {
        fs::write(source.join(format!("f{i}")), vec![3; 5000]).unwrap();
    }
    sh(&format!(
        "chmod 755 {0}; chown 65534:65534 {0}/area; cd {0}/src; chmod 4755 f1; chmod 000 f2; mkdir locked; \
         touch locked/x; chmod 700 locked; chmod 555 .",
        q(s.path())
    ));
    let as_nobody = |args: [&std::path::Path; 2]| {
        let mut c = Command::new("setpriv");
        c.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_treehaul"), "copy", "--json"]);
        run(c.args(args).env_remove("TREEHAUL_BROKER"))
    };
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_treehaul"));
    assert!(
        run(Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary).arg("-V"))
            .code
            == 0,
        "the program must lie where a normal user can reach it"
    );
    let ran = as_nobody([&source, &target]);
    assert_eq!(ran.code, 3, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.total("failed"), 2, "the unreadable file and directory:\n{}", ran.stderr);
    assert!(ran.total("lost_owner") >= 50);
    assert_eq!(ran.stderr.matches("owner or group").count(), 1, "said once:\n{}", ran.stderr);
    let m = fs::metadata(target.join("f1")).unwrap();
    assert_eq!((m.mode() & 0o7777, m.uid()), (0o755, 65534), "setuid for somebody else is not kept");

    sh(&format!("mkdir -m 700 {0}/private", q(s.path())));
    let ran_private = as_nobody([&s.join("private"), &s.join("area/other")]);
    assert_eq!(ran_private.code, 2, "{}", ran_private.stderr);
    assert!(ran_private.stderr.contains("private: open root: Permission denied"), "{}", ran_private.stderr);
    assert!(!s.join("area/other").exists(), "nothing is touched");

    // Again, with something new in a directory that its owner cannot write.
    fs::write(source.join("new"), "x").unwrap();
    let ran = as_nobody([&source, &target]);
    assert_eq!((ran.code, ran.total("copied"), ran.total("failed")), (3, 1, 2), "{}", ran.stderr);
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o555);
}

#[test]
fn hostile_names_reach_the_terminal_and_the_report_escaped() {
    assert_root();
    let s = Scratch::new();
    let (source, target, report) = (s.join("src"), s.join("dst"), s.join("report.jsonl"));
    fs::create_dir(&source).unwrap();
    let name = b"evil\x1b[31m\n\xe2\x80\xae\xff";
    fs::write(source.join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
    let mut c = Command::new("strace");
    c.args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=linkat:error=EIO", env!("CARGO_BIN_EXE_treehaul"), "copy"]);
    let ran = run(c.args([&source, &target]).arg("--report").arg(&report));
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains(r"evil\x1b[31m\n\u{202e}\xff: link: Input/output error"), "{}", ran.stderr);
    let line: serde_json::Value = serde_json::from_str(fs::read_to_string(&report).unwrap().trim()).unwrap();
    assert_eq!(line["path"], r"evil\x1b[31m\n\u{202e}\xff");
    assert_eq!(line["path_bytes"], serde_json::json!(name.to_vec()));
    assert_eq!((line["operation"].as_str(), line["errno"].as_i64()), (Some("link"), Some(5)));
    assert_no_leftovers(&target);
}

#[test]
fn without_the_owner_there_is_no_setuid_and_without_the_mode_nothing_is_wider() {
    assert_root();
    let s = Scratch::new();
    let source = s.join("src");
    fs::create_dir(&source).unwrap();
    for (name, mode) in [("tool", 0o4755), ("key", 0o600)] {
        fs::write(source.join(name), "x").unwrap();
        sh(&format!("chown 1000:1000 {0}; chmod {mode:o} {0}", q(&source.join(name))));
    }
    // stat shows the mask as the group's bits; the owning group itself may do nothing.
    fs::write(source.join("shared"), "x").unwrap();
    sh(&format!("chmod 600 {0}; setfacl -m u:33:rw {0}", q(&source.join("shared"))));
    let mode = |target: &str, name: &str| fs::metadata(s.join(target).join(name)).unwrap().mode() & 0o7777;
    for flag in ["--no-owner", "--no-mode", "--no-acls"] {
        assert_eq!(copy([flag.as_ref(), source.as_os_str(), s.join(flag).as_os_str()]).code, 0);
    }
    assert_eq!(mode("--no-owner", "tool"), 0o755, "root's file must not run setuid with a user's contents");
    assert_eq!(mode("--no-mode", "key"), 0o600);
    assert_eq!(mode("--no-acls", "shared"), 0o600);
}

#[test]
fn hard_links_are_kept_without_times_too() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a"), "x").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    sh(&format!("touch -d 2001-01-01 {}", q(&source.join("a"))));
    for _ in 0..2 {
        assert_eq!(copy(["--no-times".as_ref(), source.as_os_str(), target.as_os_str()]).code, 0);
        assert_eq!(fs::metadata(target.join("a")).unwrap().ino(), fs::metadata(target.join("b")).unwrap().ino());
    }
}
