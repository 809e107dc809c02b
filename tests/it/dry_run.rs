//! `--dry-run`: says what would be done, and does nothing.

use crate::support::*;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// The lines that say what would be done; each once.
fn would(source: &Path, target: &Path, args: &[&str]) -> BTreeSet<String> {
    let ran = run(treehaul().args(["copy", "--dry-run"]).args(args).args([source, target]));
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("dry run, nothing was changed"), "{}", ran.stdout);
    assert!(!ran.stderr.contains("not kept"), "{}", ran.stderr);
    let lines: Vec<String> = ran.stdout.lines().filter(|l| l.starts_with("would ")).map(str::to_owned).collect();
    let set: BTreeSet<String> = lines.iter().cloned().collect();
    assert_eq!(lines.len(), set.len(), "something is listed twice: {}", ran.stdout);
    set
}

fn lines(text: &[&str]) -> BTreeSet<String> {
    text.iter().map(|l| (*l).to_owned()).collect()
}

/// A tree with one of each kind.
fn small_tree(root: &Path) {
    fs::create_dir_all(root.join("d/deep")).unwrap();
    fs::write(root.join("f"), "contents").unwrap();
    fs::write(root.join("d/deep/g\n"), "more").unwrap();
    symlink("nowhere", root.join("l")).unwrap();
    fs::hard_link(root.join("f"), root.join("d/h")).unwrap();
    sh(&format!("mkfifo {}", q(&root.join("p"))));
}

#[test]
fn a_target_that_does_not_exist_is_not_made() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    small_tree(&source);
    let before = snapshot(s.path());
    let all = [
        "would make directory .",
        "would make directory d",
        "would make directory d/deep",
        "would copy f",
        "would copy d/deep/g\\n",
        "would copy l",
        "would copy d/h",
        "would copy p",
    ];
    assert_eq!(would(&source, &target, &[]), lines(&all));
    assert_eq!(would(&source, &target, &["--direct", "--checksum"]), lines(&all));
    assert!(snapshot(s.path()) == before, "something was touched");
}

#[test]
fn a_tree_that_is_right_is_said_to_be() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 5, 400);
    copy_ok(&source, &target);
    let before = (snapshot(&source), snapshot(&target));
    assert_eq!(would(&source, &target, &[]), lines(&[]));
    let ran = copy([Path::new("--dry-run"), &source, &target]);
    assert_eq!((ran.code, ran.total("copied"), ran.total("updated")), (0, 0, 0), "{}", ran.stdout);
    assert!(ran.total("unchanged") > 400, "{}", ran.stdout);
    assert!((snapshot(&source), snapshot(&target)) == before, "something was touched");
}

#[test]
fn what_differs_is_listed_and_left() {
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    small_tree(&source);
    copy_ok(&source, &target);
    fs::write(source.join("d/deep/g\n"), "changed").unwrap();
    fs::set_permissions(source.join("p"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(source.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_file(source.join("l")).unwrap();
    fs::create_dir(source.join("l")).unwrap();
    fs::write(source.join("l/inside"), "").unwrap();
    sh(&format!("touch -d 2001-01-01 {}", q(&source)));
    fs::create_dir(target.join("extra")).unwrap();
    let before = (snapshot(&source), snapshot(&target));
    let expected = [
        "would replace d/deep/g\\n",
        "would update p",
        "would update d",
        "would update .",
        "would make directory l",
        "would copy l/inside",
    ];
    assert_eq!(would(&source, &target, &[]), lines(&expected));
    assert!((snapshot(&source), snapshot(&target)) == before, "something was touched");
    copy_ok(&source, &target);
    fs::remove_dir(target.join("extra")).unwrap();
    copy_ok(&source, &target);
    assert_identical(&source, &target);
}

#[test]
fn what_is_announced_is_what_is_done() {
    assert_root();
    let s = Scratch::new();
    let (source, target) = (s.join("src"), s.join("dst"));
    exotic_tree(&source, 6, 400);
    let announced = would(&source, &target, &["--no-hard-links"]);
    let dry = copy([Path::new("-n"), Path::new("--no-hard-links"), &source, &target]);
    let ran = copy([Path::new("--no-hard-links"), &source, &target]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for total in ["found", "copied", "updated", "bytes_copied", "files", "directories", "specials", "symlinks"] {
        assert_eq!(dry.total(total), ran.total(total), "{total}");
    }
    assert_eq!(announced.len() as u64, ran.total("found"));
}

#[test]
fn a_single_file_is_announced() {
    let s = Scratch::new();
    fs::write(s.join("f"), "x").unwrap();
    fs::create_dir(s.join("dir")).unwrap();
    let before = snapshot(s.path());
    assert_eq!(would(&s.join("f"), &s.join("g"), &[]), lines(&["would copy g"]));
    assert_eq!(would(&s.join("f"), &s.join("dir"), &[]), lines(&["would copy f"]));
    assert!(snapshot(s.path()) == before, "something was touched");
}

#[test]
fn a_huge_directory_is_listed_while_it_is_found() {
    let s = Scratch::new();
    let found = would(Path::new("synth://?entries=30000&files=0-0&dirs=30000-30000&depth=1"), &s.join("dst"), &[]);
    assert!(found.len() >= 25_000, "{}", found.len());
    assert!(!s.join("dst").exists());
}

#[test]
fn the_report_takes_it_down_for_machines() {
    let s = Scratch::new();
    let (source, report) = (s.join("src"), s.join("report"));
    small_tree(&source);
    let mut c = treehaul();
    c.args(["copy", "-n", "--json", "--report"]).arg(&report).args([&source, &s.join("dst")]);
    let ran = run(&mut c);
    assert_eq!((ran.code, ran.total("copied")), (0, 7), "{}", ran.stdout);
    let report = fs::read_to_string(&report).unwrap();
    assert_eq!(report.lines().count(), 8, "{report}");
    let odd = report.lines().find(|l| l.contains("g\\\\n")).expect("the odd name");
    let odd: serde_json::Value = serde_json::from_str(odd).unwrap();
    assert_eq!((odd["what"].as_str(), odd["expected"].as_str()), (Some("would copy"), Some("file")));
    assert_eq!(odd["path_bytes"].as_array().map(Vec::len), Some("d/deep/g\n".len()));
}
