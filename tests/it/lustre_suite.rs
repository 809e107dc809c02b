//! The suite for a real Lustre, as far as it can be tried without one.

use crate::support::*;
use std::fs;
use std::path::Path;
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn make_test_lustre(settings: &[(&str, &str)]) -> Ran {
    let mut make = Command::new("make");
    for name in ["LUSTRE_SRC", "LUSTRE_DST", "TESTS", "MAKEFLAGS", "MAKELEVEL"] {
        make.env_remove(name);
    }
    make.args(["-s", "test-lustre"]).envs(settings.iter().copied()).current_dir(ROOT);
    Ran::of(make.output().expect("starts"))
}

#[test]
fn the_suite_is_sound_as_far_as_shells_and_linters_tell() {
    sh(&format!("bash -n {ROOT}/tests/lustre/run.sh && shellcheck {ROOT}/tests/lustre/run.sh"));
    for program in ["layout.py", "tree.py"] {
        sh(&format!("python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' {ROOT}/tests/lustre/{program}"));
    }
    // It looks itself for tests that it would never run.
    let tests = sh(&format!("{ROOT}/tests/lustre/run.sh --list"));
    assert!(tests.lines().count() > 30, "{tests}");
}

#[test]
fn without_the_two_directories_it_says_so_and_fails() {
    let ran = make_test_lustre(&[]);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    assert!(ran.stderr.contains("LUSTRE_SRC is not set: LUSTRE_SRC=/mnt/a/dir"), "{}", ran.stderr);
    let half = make_test_lustre(&[("LUSTRE_SRC", "/tmp")]);
    assert_ne!(half.code, 0, "{}", half.stdout);
    assert!(half.stderr.contains("LUSTRE_DST is not set"), "{}", half.stderr);
}

#[test]
fn its_tree_is_strange_enough_and_can_be_copied() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    for name in ["one", "two"] {
        fs::create_dir_all(source.join(name)).unwrap();
    }
    sh(&format!("python3 {ROOT}/tests/lustre/tree.py {}", q(&source)));
    let kinds = sh(&format!("find {} -printf '%y\\n' | sort -u | tr -d '\\n'", q(&source)));
    assert_eq!(kinds, "bcdflps");
    let ran = copy([&source, &target]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_identical(&source, &target);
}

fn compared(options: &[&str], a: &Path, b: &Path) -> i32 {
    let program = format!("{ROOT}/tests/treecmp.py");
    Command::new("python3")
        .arg(program)
        .args(options)
        .args([a, b])
        .output()
        .expect("starts")
        .status
        .code()
        .unwrap_or(-1)
}

#[test]
fn the_comparator_can_do_with_whole_seconds_and_without_a_filesystems_own_attributes() {
    assert_root();
    let s = Scratch::new();
    let (a, b) = (s.join("a"), s.join("b"));
    for (dir, time) in [(&a, "@1000.25"), (&b, "@1000")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("f"), "x").unwrap();
        sh(&format!("touch -d {time} {0}/f {0}", q(dir)));
    }
    assert_eq!((compared(&[], &a, &b), compared(&["--granularity", "1"], &a, &b)), (1, 0));
    sh(&format!("setfattr -n trusted.lov -v 1 {}/f", q(&a)));
    assert_eq!(compared(&["--granularity", "1"], &a, &b), 1);
    let without = ["--granularity", "1", "--ignore-xattrs", "lustre.*,trusted.lov"];
    assert_eq!(compared(&without, &a, &b), 0);
    sh(&format!("touch -d @1002 {}/f", q(&b)));
    assert_eq!(compared(&without, &a, &b), 1, "another second");
}
